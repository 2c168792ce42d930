//! One entry for all text: finds the line, tells one command from another, hands on.
//!
//! Takes the bytes that have arrived, gives the first request in them. Keeps no state between calls, so an answer depends
//! on the bytes alone and not on how they were cut on their way. Each call searches for the line end anew: for a
//! line of [`LINE_BYTES_MAX`] that is nothing; a multi-get of [`GET_LINE_BYTES_MAX`] that arrives in n pieces is searched
//! through n times, by memchr at tens of gigabytes a second, which a read costs more than.
//!
//! The reference is memcached 1.6.45. Its quirks are kept where a client can meet them; each is named where it is.

mod admin;
mod classic;
mod line;
mod meta;
mod tokens;

use super::blank::bytes_to_blank;
use super::classic::StoreVerb;
use super::meta::MetaVerb;
use super::reply::BAD_FORMAT;
use super::{KeyScratch, ParseLimits, Parsed, Rejection, Request};
use crate::base::limits::{GET_LINE_BYTES_MAX, LINE_BYTES_MAX};
use line::Line;
use memchr::memchr;

/// memcached calls anything shorter a bad line, whatever it says; the line end counts.
const LINE_BYTES_MIN: usize = 4;

/// Parse the first request in `input`.
pub fn parse<'a>(input: &'a [u8], limits: ParseLimits, scratch: &'a mut KeyScratch) -> Parsed<'a> {
    let line = match find_line(input) {
        Ok(line) => line,
        Err(NoLine::Unfinished) => return Parsed::Incomplete { wanted_bytes: input.len() + 1 },
        Err(NoLine::TooLong) => return too_long(input),
    };
    if line.bytes < LINE_BYTES_MIN {
        return line.refuse(BAD_FORMAT);
    }
    // Most of the traffic, told by its first bytes alone.
    match line.text {
        [b'g', b'e', b't', b' ', ..] => classic::get(line, &line.text[3..], false),
        [b's', b'e', b't', b' ', ..] => classic::store(line, StoreVerb::Set, limits),
        [b'm', b'g', b' ', ..] => meta::command(line, MetaVerb::Get, limits, scratch),
        [b'm', b's', b' ', ..] => meta::command(line, MetaVerb::Set, limits, scratch),
        _ => by_word(line, limits, scratch),
    }
}

fn by_word<'a>(line: Line<'a>, limits: ParseLimits, scratch: &'a mut KeyScratch) -> Parsed<'a> {
    let (word, rest) = line.text.split_at(bytes_to_blank(line.text));
    match word {
        b"get" => classic::get(line, rest, false),
        b"mg" => meta::command(line, MetaVerb::Get, limits, scratch),
        b"set" => classic::store(line, StoreVerb::Set, limits),
        b"ms" => meta::command(line, MetaVerb::Set, limits, scratch),
        b"gets" => classic::get(line, rest, true),
        b"mn" => line.accept(Request::MetaNoop),
        b"md" => meta::command(line, MetaVerb::Delete, limits, scratch),
        b"ma" => meta::command(line, MetaVerb::Arithmetic, limits, scratch),
        b"me" => meta::command(line, MetaVerb::Debug, limits, scratch),
        b"add" => classic::store(line, StoreVerb::Add, limits),
        b"cas" => classic::store(line, StoreVerb::Cas(0), limits),
        b"gat" => classic::get_and_touch(line, false),
        b"gats" => classic::get_and_touch(line, true),
        b"incr" => classic::arithmetic(line, true),
        b"decr" => classic::arithmetic(line, false),
        b"touch" => classic::touch(line),
        b"delete" => classic::delete(line),
        b"append" => classic::store(line, StoreVerb::Append, limits),
        b"prepend" => classic::store(line, StoreVerb::Prepend, limits),
        b"replace" => classic::store(line, StoreVerb::Replace, limits),
        // Every memcached takes these two with any words behind them, noreply included.
        b"quit" => line.accept(Request::Quit),
        b"version" => line.accept(Request::Version),
        b"stats" => line.accept(Request::Stats(rest.trim_ascii())),
        b"watch" => admin::watch(line),
        // A line that opens with a blank ends here too: an empty word. memcached finds the commands above only at the
        // start of a line, those below behind blanks as well.
        _ => admin::command(line),
    }
}

/// Why the input does not open with a line.
enum NoLine {
    Unfinished,
    TooLong,
}

/// The line that opens `input`.
///
/// memcached lets a longer line pass if it happens to arrive in one piece; here the same bytes get the same answer always.
fn find_line(input: &[u8]) -> Result<Line<'_>, NoLine> {
    let head = &input[..input.len().min(LINE_BYTES_MAX)];
    if let Some(newline) = memchr(b'\n', head) {
        return Ok(Line::ending_at(input, newline));
    }
    let may_be_long = [&b"get "[..], b"gets ", b"gat ", b"gats "].iter().any(|word| head.starts_with(word));
    let line_bytes_max = if may_be_long { GET_LINE_BYTES_MAX } else { LINE_BYTES_MAX };
    let tail = &input[head.len()..input.len().min(line_bytes_max)];
    if let Some(newline) = memchr(b'\n', tail) {
        return Ok(Line::ending_at(input, head.len() + newline));
    }
    Err(if input.len() < line_bytes_max { NoLine::Unfinished } else { NoLine::TooLong })
}

/// Where the next command begins cannot be known, so the connection ends here: without a word, as in memcached.
fn too_long(input: &[u8]) -> Parsed<'_> {
    let skip_bytes = input.len() as u64;
    Parsed::Rejected(Rejection { answer: b"", skip_bytes, unlink: None, close: true })
}

#[cfg(test)]
mod tests;
