//! Whether two servers' packets are the same: byte for byte, except for what they cannot agree on.
//!
//! | what | how it may differ |
//! | --- | --- |
//! | a CAS | each server's numbers are its own, as in the text protocol |
//! | a number with blanks behind it | memcached pads one that becomes shorter |
//! | the value of version | |
//! | rows of stat | each server has its own; that they end is the same |

use super::alike::{CasNumbers, shown, unpadded};
use super::binary::key_of;
use super::support::packets::{Answer, HEADER_BYTES, body_bytes, parts};

const REQUEST_MAGIC: u8 = 0x80;
const ANSWER_MAGIC: u8 = 0x81;
const VERSION: u8 = 0x0B;
const STAT: u8 = 0x10;

/// Nothing, or where the first difference is.
pub fn alike(memcached: &[u8], remora: &[u8], numbers: &mut CasNumbers) -> Result<(), String> {
    let [mut left, mut right] = [memcached, remora].map(|rest| Packets { rest });
    loop {
        match (left.next(), right.next()) {
            (None, None) => break,
            (Some(left), Some(right)) if same(&left, &right, numbers) => {}
            (left, right) => return Err(format!("memcached {}\n     Remora {}", told(left), told(right))),
        }
    }
    if left.rest != right.rest {
        return Err(format!("memcached {}\n     Remora {}", shown(left.rest), shown(right.rest)));
    }
    Ok(())
}

/// The packets that are whole, without the rows of a stat.
struct Packets<'a> {
    rest: &'a [u8],
}

impl Iterator for Packets<'_> {
    type Item = Answer;

    fn next(&mut self) -> Option<Answer> {
        loop {
            let answer = first(&mut self.rest, ANSWER_MAGIC)?;
            if answer.opcode != STAT || answer.status != 0 || answer.key.is_empty() {
                return Some(answer);
            }
        }
    }
}

/// Take the first packet off, if it is whole and its lengths make sense.
fn first(bytes: &mut &[u8], magic: u8) -> Option<Answer> {
    let is_raw = bytes.get(5) == Some(&0) || magic == REQUEST_MAGIC;
    let body = body_bytes(bytes.get(..HEADER_BYTES)?);
    let before_value = usize::from(bytes[4]) + usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    if !is_raw || bytes[0] != magic || bytes.len() - HEADER_BYTES < body || body < before_value {
        return None;
    }
    let (packet, rest) = parts(bytes);
    *bytes = rest;
    Some(packet)
}

/// Requests or answers, for people.
pub fn told_all(mut bytes: &[u8]) -> Vec<String> {
    let magic = if bytes.first() == Some(&ANSWER_MAGIC) { ANSWER_MAGIC } else { REQUEST_MAGIC };
    let mut all = Vec::new();
    while let Some(packet) = first(&mut bytes, magic) {
        all.push(told(Some(packet)));
    }
    if !bytes.is_empty() {
        all.push(shown(bytes));
    }
    all
}

fn same(left: &Answer, right: &Answer, numbers: &mut CasNumbers) -> bool {
    let head = |answer: &Answer| (answer.opcode, answer.status, answer.opaque, answer.extras.clone());
    if head(left) != head(right) || (left.cas == 0) != (right.cas == 0) {
        return false;
    }
    if left.cas != 0 {
        let pair = [left.cas, right.cas];
        if !numbers.same(pair) {
            return false;
        }
        numbers.told.insert(key_of(left.opaque), pair);
    }
    match left.opcode {
        VERSION if left.status == 0 => true,
        _ => left.key == right.key && (left.value == right.value || unpadded(&left.value) == right.value),
    }
}

fn told(answer: Option<Answer>) -> String {
    let Some(Answer { opcode, status, opaque, cas, extras, key, value }) = answer else {
        return "says nothing more".into();
    };
    let (extras, key, value) = (shown(&extras), shown(&key), shown(&value));
    format!("{opcode:#04x}, status {status:#x}, opaque {opaque:#x}, CAS {cas}, extras [{extras}], key [{key}]: {value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(opcode: u8, status: u16, cas: u64, key: &[u8], value: &[u8]) -> Vec<u8> {
        let body = (key.len() + value.len()) as u32;
        let mut bytes = vec![0x81, opcode, 0, key.len() as u8, 0, 0];
        bytes.extend(status.to_be_bytes());
        bytes.extend(body.to_be_bytes());
        bytes.extend(7u32.to_be_bytes());
        bytes.extend(cas.to_be_bytes());
        [&bytes, key, value].concat()
    }

    fn compared(pairs: &[[Vec<u8>; 2]]) -> Vec<bool> {
        let mut numbers = CasNumbers::default();
        pairs.iter().map(|[left, right]| alike(left, right, &mut numbers).is_ok()).collect()
    }

    #[test]
    fn a_cas_stands_for_one_other_and_none_for_none() {
        let pairs = [
            [answer(1, 0, 7, b"", b""), answer(1, 0, 900, b"", b"")],
            [answer(0, 0, 7, b"", b"x"), answer(0, 0, 900, b"", b"x")],
            [answer(1, 0, 7, b"", b""), answer(1, 0, 901, b"", b"")],
            [answer(1, 0, 0, b"", b""), answer(1, 0, 902, b"", b"")],
        ];
        assert_eq!(compared(&pairs), [true, true, false, false]);
    }

    #[test]
    fn everything_else_is_told_to_the_byte() {
        let ok = answer(4, 0, 0, b"", b"");
        let pairs = [
            [ok.clone(), ok.clone()],
            [ok.clone(), Vec::new()],
            [ok.clone(), ok[..20].to_vec()],
            [ok.clone(), [ok.clone(), ok.clone()].concat()],
            [ok.clone(), answer(4, 1, 0, b"", b"")],
            [ok.clone(), answer(5, 0, 0, b"", b"")],
            [answer(0, 0, 0, b"", b"9  "), answer(0, 0, 0, b"", b"9")],
            [answer(0, 0, 0, b"", b"9"), answer(0, 0, 0, b"", b"9  ")],
            [answer(0, 0, 0, b"", b"x "), answer(0, 0, 0, b"", b"x")],
            [answer(12, 1, 0, b"k", b""), answer(12, 1, 0, b"", b"k")],
            [answer(11, 0, 0, b"", b"1.6.45"), answer(11, 0, 0, b"", b"1.6.45-remora-1")],
        ];
        let expected = [true, false, false, false, false, false, true, false, false, false, true];
        assert_eq!(compared(&pairs), expected);
    }

    #[test]
    fn rows_of_stat_do_not_count_and_their_end_does() {
        let [row, other] = [answer(0x10, 0, 0, b"pid", b"1"), answer(0x10, 0, 0, b"uptime", b"2")];
        let end = answer(0x10, 0, 0, b"", b"");
        let pairs = [
            [[&row[..], &other, &end].concat(), [&other[..], &end].concat()],
            [[&row[..], &end].concat(), row.clone()],
            [[&row[..], &end].concat(), end.clone()],
            [[&row[..], &end].concat(), [&end[..], &end].concat()],
        ];
        assert_eq!(compared(&pairs), [true, false, true, false]);
    }
}
