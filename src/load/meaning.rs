//! What a line of an answer means for what was asked. Pure; strict: what the protocol does not
//! allow here is an error with the words.

use super::client::{ClientError, unexpected};
use super::plan::Asked;
use super::question::Protocol;
use super::workload::{KEY_BYTES, key_number};
use crate::base::limits::LOAD_ANSWER_BYTES_MAX;
use std::collections::VecDeque;

/// See the module. "First" is the first key whose answer is due.
pub(super) enum Meaning {
    /// The first is stored.
    Stored,
    /// A value of so many bytes follows, for the key that was asked for so many places behind the
    /// first.
    Value {
        /// The keys before that place were not found.
        place: usize,
        /// Of the value alone.
        bytes: usize,
    },
    /// The first was not found.
    Missed,
    /// None of the remaining keys of its command was found.
    AllMissed,
    /// Answers to the keys of one command follow, one for each.
    Array,
}

/// `line` is what came before the line feed. `in_array`: an array was begun, and the first belongs
/// to it.
pub(super) fn meaning(
    line: &[u8],
    protocol: Protocol,
    in_array: bool,
    asked: &VecDeque<Asked>,
) -> Result<Meaning, ClientError> {
    let Some(first) = asked.front() else {
        return Err(unexpected("silence, as nothing was asked", line));
    };
    match protocol {
        Protocol::Text => text(line.strip_suffix(b"\r").unwrap_or(line), first.is_set, asked),
        Protocol::Meta => meta(line.strip_suffix(b"\r").unwrap_or(line), first.is_set),
        Protocol::Resp => resp(line, first, in_array, asked),
    }
}

fn text(line: &[u8], is_set: bool, asked: &VecDeque<Asked>) -> Result<Meaning, ClientError> {
    if is_set {
        return if line == b"STORED" { Ok(Meaning::Stored) } else { Err(unexpected("STORED", line)) };
    }
    let value = text_value(line, asked).or_else(|| (line == b"END").then_some(Meaning::AllMissed));
    value.ok_or_else(|| unexpected("VALUE of a key that was asked for, or END", line))
}

/// VALUE key flags bytes.
fn text_value(line: &[u8], asked: &VecDeque<Asked>) -> Option<Meaning> {
    let (key, rest) = line.strip_prefix(b"VALUE ")?.split_at_checked(KEY_BYTES)?;
    let key = key_number(key)?;
    let rest = rest.strip_prefix(b" ")?;
    let flags_bytes = rest.iter().position(|byte| *byte == b' ')?;
    let bytes = size(&rest[flags_bytes + 1..])?;
    let mut place = 0;
    while asked[place].key != key {
        if asked[place].is_last {
            return None;
        }
        place += 1;
    }
    Some(Meaning::Value { place, bytes })
}

fn meta(line: &[u8], is_set: bool) -> Result<Meaning, ClientError> {
    if is_set {
        return if line == b"HD" { Ok(Meaning::Stored) } else { Err(unexpected("HD", line)) };
    }
    if line == b"EN" {
        return Ok(Meaning::Missed);
    }
    let bytes = line.strip_prefix(b"VA ").and_then(size);
    let bytes = bytes.ok_or_else(|| unexpected("VA and a size, or EN", line))?;
    Ok(Meaning::Value { place: 0, bytes })
}

fn resp(line: &[u8], first: &Asked, in_array: bool, asked: &VecDeque<Asked>) -> Result<Meaning, ClientError> {
    if first.is_set {
        return if line == b"+OK\r" { Ok(Meaning::Stored) } else { Err(unexpected("+OK", line)) };
    }
    if !in_array && !first.is_last {
        let keys = 1 + asked.iter().take_while(|asked| !asked.is_last).count();
        let count = line.strip_prefix(b"*").and_then(|rest| size(rest.strip_suffix(b"\r")?));
        let is_right = count == Some(keys);
        return is_right.then_some(Meaning::Array).ok_or_else(|| unexpected("an array of as many as were asked", line));
    }
    if line == b"$-1\r" {
        return Ok(Meaning::Missed);
    }
    let bytes = line.strip_prefix(b"$").and_then(|rest| size(rest.strip_suffix(b"\r")?));
    let bytes = bytes.ok_or_else(|| unexpected("a string of RESP, or $-1", line))?;
    Ok(Meaning::Value { place: 0, bytes })
}

fn size(text: &[u8]) -> Option<usize> {
    // Nine digits cannot overflow.
    if text.is_empty() || text.len() > 9 {
        return None;
    }
    let mut number = 0;
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number * 10 + usize::from(digit);
    }
    (number <= LOAD_ANSWER_BYTES_MAX).then_some(number)
}
