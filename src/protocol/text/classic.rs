//! The classic commands that name a key: get, gets, gat, gats, set and its kin, incr, decr, touch,
//! delete.
//!
//! Takes a line whose command is known, and what stands behind the command; gives the request. What
//! memcached ignores is ignored here: further tokens behind those that a command needs (so
//! `delete k 10` deletes, whatever the number), and noreply on a get.

use super::super::request::{Arithmetic, Delete, Get, GetForm, Keys, Store, StoreVerb, Touch};
use super::super::{Exptime, ParseLimits, Parsed, Refusal, Reply, Request};
use super::line::{Line, block_bytes};
use super::tokens::{Number, Tokens};
use crate::base::limits::KEY_BYTES_MAX;

/// get, gets: `rest` is the line behind the command. The keys are checked when they are walked.
pub fn get<'a>(line: Line<'a>, rest: &'a [u8], with_cas: bool) -> Parsed<'a> {
    if rest.iter().all(|byte| *byte == b' ') {
        return line.refuse(Refusal::BadFormat);
    }
    accept_get(line, rest, GetForm { with_cas, touch: None })
}

/// gat, gats.
pub fn get_and_touch<'a>(line: Line<'a>, rest: &'a [u8], with_cas: bool) -> Parsed<'a> {
    let mut tokens = Tokens::behind_command(rest);
    let Some(exptime) = tokens.next_number() else {
        return line.refuse(Refusal::BadFormat);
    };
    let keys = tokens.rest();
    if keys.is_empty() {
        return line.refuse(Refusal::BadFormat);
    }
    let Some(exptime) = exptime.i32_strict() else {
        return line.refuse(Refusal::BadExptime);
    };
    accept_get(line, keys, GetForm { with_cas, touch: Some(Exptime(exptime.into())) })
}

fn accept_get<'a>(line: Line<'a>, keys: &'a [u8], form: GetForm) -> Parsed<'a> {
    line.accept(Request::Get(Get { keys: Keys { line: keys }, form, continues: false, ends: line.ends }))
}

/// set, add, replace, append, prepend, cas (whose number is read here).
pub fn store<'a>(line: Line<'a>, rest: &'a [u8], verb: StoreVerb, limits: ParseLimits) -> Parsed<'a> {
    let mut tokens = Tokens::behind_command(rest);
    let (Some(key), Some(flags), Some(exptime), Some(length)) =
        (tokens.next(), tokens.next_number(), tokens.next_number(), tokens.next_number())
    else {
        return line.refuse(Refusal::BadFormat);
    };
    let Some(value_bytes) = block_bytes(length) else {
        return line.refuse(Refusal::BadFormat);
    };
    let reply = tokens.reply();
    // From here on the block's length is known, and a refusal swallows the block.
    let refuse = |refusal, unlink| line.refuse_with_block(refusal, reply, value_bytes, unlink);
    if key.len() > KEY_BYTES_MAX {
        return refuse(Refusal::BadFormat, None);
    }
    let (Some(client_flags), Some(exptime)) = (flags.client_flags(), exptime.storage_exptime()) else {
        return refuse(Refusal::BadFormat, None);
    };
    let verb = match verb {
        StoreVerb::Cas(_) => match tokens.next_number().and_then(Number::u64_strict) {
            Some(unique) => StoreVerb::Cas(unique),
            None => return refuse(Refusal::BadFormat, None),
        },
        other => other,
    };
    if value_bytes as usize > limits.value_bytes_max {
        return refuse(Refusal::TooLarge, (verb == StoreVerb::Set).then_some(key));
    }
    let exptime = Exptime(exptime.into());
    line.with_block(value_bytes, reply, |value| {
        Request::Store(Store { verb, key, client_flags, exptime, value, onto_cas: 0, reply })
    })
}

/// incr, decr.
pub fn arithmetic<'a>(line: Line<'a>, rest: &'a [u8], increment: bool) -> Parsed<'a> {
    let mut tokens = Tokens::behind_command(rest);
    let (Some(key), Some(delta)) = (tokens.next(), tokens.next_number()) else {
        return line.refuse(Refusal::BadFormat);
    };
    let reply = tokens.reply();
    if key.len() > KEY_BYTES_MAX {
        return line.refuse_to(reply, Refusal::BadFormat);
    }
    match delta.u64_strict() {
        Some(delta) => {
            let request = Arithmetic { increment, key, delta, compare_cas: 0, create: None, reply };
            line.accept(Request::Arithmetic(request))
        }
        None => line.refuse_to(reply, Refusal::BadDelta),
    }
}

/// touch.
pub fn touch<'a>(line: Line<'a>, rest: &'a [u8]) -> Parsed<'a> {
    let mut tokens = Tokens::behind_command(rest);
    let (Some(key), Some(exptime)) = (tokens.next(), tokens.next_number()) else {
        return line.refuse(Refusal::BadFormat);
    };
    let reply = tokens.reply();
    if key.len() > KEY_BYTES_MAX {
        return line.refuse_to(reply, Refusal::BadFormat);
    }
    match exptime.i32_strict() {
        Some(exptime) => line.accept(Request::Touch(Touch { key, exptime: Exptime(exptime.into()), reply })),
        None => line.refuse_to(reply, Refusal::BadExptime),
    }
}

/// delete.
pub fn delete<'a>(line: Line<'a>, rest: &'a [u8]) -> Parsed<'a> {
    let mut tokens = Tokens::behind_command(rest);
    let Some(key) = tokens.next() else {
        return line.refuse(Refusal::BadFormat);
    };
    let reply = tokens.reply();
    if key.len() > KEY_BYTES_MAX {
        return line.refuse_to(reply, Refusal::BadFormat);
    }
    // memcached 1.6.45 takes any words behind the key. Here two or more that do not end in noreply
    // are refused: memccapable, which clients test servers with, demands it, and no client sends
    // them. A time behind the key is a relic that old clients still send.
    let words = tokens.count();
    if words > 1 && reply == Reply::Text {
        return line.refuse(Refusal::BadDelete);
    }
    line.accept(Request::Delete(Delete { key, compare_cas: None, reply }))
}
