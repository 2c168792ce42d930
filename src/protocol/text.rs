//! One entry for all text: finds the line, tells one command from another, hands on.
//!
//! Takes the bytes that have arrived, gives the first request in them. Keeps no state between
//! calls, so an answer depends on the bytes alone and not on how they were cut on their way. Each
//! call searches for the line end anew, in no more than [`GET_PART_BYTES`] of an unfinished line.
//!
//! A get may have more keys than that. Then [`parse`] gives a part of it, and [`parse_more_of_get`]
//! the next ones.
//!
//! The reference is memcached 1.6.45. Its quirks are kept where a client can meet them; each is
//! named where it is.

mod admin;
mod classic;
#[cfg(test)]
mod commands;
pub mod credentials;
pub mod demand;
pub mod dump;
pub mod encode;
pub mod hello;
mod line;
pub mod meta;
mod tokens;
pub mod watch;

use super::request::{Get, GetForm, Keys, StoreVerb};
use super::{KeyScratch, ParseLimits, Parsed, Refusal, Rejection, Reply, Request};
use crate::base::limits::{GET_PART_BYTES, KEY_BYTES_MAX, LINE_BYTES_MAX};
pub use admin::{CLASS, CLASSES_MAX};
use line::Line;
use memchr::{memchr, memrchr};
use meta::MetaVerb;
pub(super) use tokens::bytes_to_blank;
pub use tokens::u32_strict;

/// memcached calls anything shorter a bad line, whatever it says; the line end counts.
const LINE_BYTES_MIN: usize = 4;

/// Parse the first request in `input`.
pub fn parse<'a>(input: &'a [u8], limits: ParseLimits, scratch: &'a mut KeyScratch) -> Parsed<'a> {
    // memcached lets a longer line pass if it happens to arrive in one piece; here the same bytes
    // get the same answer always.
    let line = match memchr(b'\n', &input[..input.len().min(LINE_BYTES_MAX)]) {
        Some(newline) => Line::ending_at(input, newline),
        None => match find_long_line(input) {
            Ok(line) => line,
            Err(NoLine::Unfinished) => return Parsed::Incomplete { wanted_bytes: input.len() + 1 },
            Err(NoLine::TooLong) => return too_long(input),
        },
    };
    if line.bytes < LINE_BYTES_MIN {
        return line.refuse(Refusal::BadFormat);
    }
    // Most of the traffic, told by its first bytes alone.
    match line.text.first_chunk::<4>() {
        Some(b"get ") => classic::get(line, &line.text[3..], false),
        Some(b"set ") => classic::store(line, &line.text[3..], StoreVerb::Set, limits),
        Some([b'm', b'g', b' ', _]) => meta::command(line, &line.text[2..], MetaVerb::Get, limits, scratch),
        Some([b'm', b's', b' ', _]) => meta::command(line, &line.text[2..], MetaVerb::Set, limits, scratch),
        _ => by_word(line, limits, scratch),
    }
}

fn by_word<'a>(line: Line<'a>, limits: ParseLimits, scratch: &'a mut KeyScratch) -> Parsed<'a> {
    let (word, rest) = line.text.split_at(bytes_to_blank(line.text));
    match word {
        b"get" => classic::get(line, rest, false),
        b"mg" => meta::command(line, rest, MetaVerb::Get, limits, scratch),
        b"set" => classic::store(line, rest, StoreVerb::Set, limits),
        b"ms" => meta::command(line, rest, MetaVerb::Set, limits, scratch),
        b"gets" => classic::get(line, rest, true),
        b"mn" => line.accept(Request::Noop(Reply::Text)),
        b"md" => meta::command(line, rest, MetaVerb::Delete, limits, scratch),
        b"ma" => meta::command(line, rest, MetaVerb::Arithmetic, limits, scratch),
        b"me" => meta::command(line, rest, MetaVerb::Debug, limits, scratch),
        b"add" => classic::store(line, rest, StoreVerb::Add, limits),
        b"cas" => classic::store(line, rest, StoreVerb::Cas(0), limits),
        b"gat" => classic::get_and_touch(line, rest, false),
        b"gats" => classic::get_and_touch(line, rest, true),
        b"incr" => classic::arithmetic(line, rest, true),
        b"decr" => classic::arithmetic(line, rest, false),
        b"touch" => classic::touch(line, rest),
        b"delete" => classic::delete(line, rest),
        b"append" => classic::store(line, rest, StoreVerb::Append, limits),
        b"prepend" => classic::store(line, rest, StoreVerb::Prepend, limits),
        b"replace" => classic::store(line, rest, StoreVerb::Replace, limits),
        // Every memcached takes these two with any words behind them, noreply included.
        b"quit" => line.accept(Request::Quit(Reply::Silent)),
        b"version" => line.accept(Request::Version(Reply::Text)),
        b"stats" => line.accept(Request::Stats { subject: rest.trim_ascii(), reply: Reply::Text }),
        b"watch" => watch::command(line),
        // A line that opens with a blank ends here too: an empty word. memcached finds the commands
        // above only at the start of a line, those below behind blanks as well.
        _ => admin::command(line),
    }
}

/// Why the input does not open with a line, nor with a part of a get that can be executed.
enum NoLine {
    Unfinished,
    TooLong,
}

/// What opens `input`, whose first [`LINE_BYTES_MAX`] bytes have no line end: a long line of a get,
/// or the first part of one.
#[cold]
fn find_long_line(input: &[u8]) -> Result<Line<'_>, NoLine> {
    let searched = input.len().min(LINE_BYTES_MAX);
    let is_get = [&b"get "[..], b"gets ", b"gat ", b"gats "].iter().any(|word| input.starts_with(word));
    if !is_get {
        return Err(if input.len() < LINE_BYTES_MAX { NoLine::Unfinished } else { NoLine::TooLong });
    }
    if let Some(newline) = memchr(b'\n', &input[searched..]) {
        return Ok(Line::ending_at(input, searched + newline));
    }
    if input.len() < GET_PART_BYTES {
        return Err(NoLine::Unfinished);
    }
    // A key is never cut, unless it is longer than a key may be: then the walk over the keys
    // refuses it.
    let is_gat = input.starts_with(b"gat");
    let part_bytes = memrchr(b' ', input).map_or(0, |blank| blank + 1);
    let part_bytes = if input.len() - part_bytes > KEY_BYTES_MAX + 1 && !is_gat { input.len() } else { part_bytes };
    let words = input[..part_bytes].split(|byte| *byte == b' ').filter(|word| !word.is_empty()).take(3).count();
    // Where there is no key yet there are blanks, for which no memory is to be had.
    let words_min = if is_gat { 3 } else { 2 };
    if words < words_min { Err(NoLine::TooLong) } else { Ok(Line::part(input, part_bytes)) }
}

/// Parse the next keys of a get of which [`parse`] has given the first part.
#[cold]
pub fn parse_more_of_get(input: &[u8], form: GetForm) -> Parsed<'_> {
    let line = match memchr(b'\n', input) {
        Some(newline) => Line::ending_at(input, newline),
        None => match memrchr(b' ', input) {
            Some(blank) => Line::part(input, blank + 1),
            // The longest key and a carriage return.
            None if input.len() <= KEY_BYTES_MAX + 1 => return Parsed::Incomplete { wanted_bytes: input.len() + 1 },
            // No key may be so long: the walk over the keys refuses it.
            None => Line::part(input, input.len()),
        },
    };
    line.accept(Request::Get(Get { keys: Keys { line: line.text }, form, continues: true, ends: line.ends }))
}

/// Where the next command begins cannot be known, so the connection ends here: without a word, as
/// in memcached.
fn too_long(input: &[u8]) -> Parsed<'_> {
    let skip_bytes = input.len() as u64;
    let (refusal, reply) = (Refusal::BadFormat, Reply::Silent);
    Parsed::Rejected(Rejection { refusal, reply, skip_bytes, unlink: None, close: true })
}

#[cfg(test)]
mod tests;
