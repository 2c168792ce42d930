//! Whether two answers are the same: byte for byte, except for what two servers cannot agree on.
//!
//! | what | how it may differ |
//! | --- | --- |
//! | a CAS (gets, gats, `c` of the meta commands, `cas=` of me) | each server's numbers are its own: one of memcached's stands for one of Remora's, always the same |
//! | seconds (`t`, `l`, `exp=`, `la=`) | by [`SECONDS`]: their clocks tick at different moments |
//! | `t` of an item that expires with this command | memcached counts below zero, and past it |
//! | `size=` and `cls=` of me | they are the size in memory and its slab class |
//! | a number with blanks behind it | memcached pads one that becomes shorter |
//! | the refusal of a get for its key | memcached ends the line twice |
//! | the text behind VERSION | |

use std::collections::HashMap;

/// What memcached tells of a time that has passed is more.
const PASSED: u64 = 1 << 31;

const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format\r\n";

/// By how much times may differ.
const SECONDS: i64 = 3;

/// Which CAS of Remora's is which of memcached's.
#[derive(Default)]
pub struct CasNumbers {
    remora: HashMap<u64, u64>,
    memcached: HashMap<u64, u64>,
    /// What was told last of each key: memcached's and Remora's.
    pub told: HashMap<Vec<u8>, [u64; 2]>,
}

impl CasNumbers {
    /// Whether memcached's may stand for Remora's.
    pub fn same(&mut self, [memcached, remora]: [u64; 2]) -> bool {
        let known = *self.remora.entry(memcached).or_insert(remora) == remora;
        let back = *self.memcached.entry(remora).or_insert(memcached) == memcached;
        known && back
    }

    /// The same of what is written in decimal.
    fn same_text(&mut self, memcached: &[u8], remora: &[u8]) -> Option<[u64; 2]> {
        let pair = [number(memcached)?, number(remora)?];
        self.same(pair).then_some(pair)
    }
}

/// Nothing, or where the first difference is.
pub fn alike(memcached: &[u8], remora: &[u8], numbers: &mut CasNumbers) -> Result<(), String> {
    let (mut left, mut right) = (memcached, remora);
    while !left.is_empty() || !right.is_empty() {
        let (left_line, left_rest) = line(left);
        let (right_line, right_rest) = line(right);
        (left, right) = (left_rest, right_rest);
        if left_line == BAD_FORMAT && !right.starts_with(b"\r\n") {
            left = left.strip_prefix(b"\r\n").unwrap_or(left);
        }
        let both = || format!("memcached {}\n     Remora {}", shown(left_line), shown(right_line));
        let Some(sizes) = same_line(left_line, right_line, numbers) else {
            return Err(both());
        };
        let Some([left_bytes, right_bytes]) = sizes else {
            continue;
        };
        let (left_value, right_value) = (value(&mut left, left_bytes), value(&mut right, right_bytes));
        if left_value != right_value && unpadded(left_value) != right_value {
            return Err(format!("{}\n  memcached {}\n     Remora {}", both(), shown(left_value), shown(right_value)));
        }
        if left_value == right_value && left_bytes != right_bytes {
            return Err(both());
        }
    }
    Ok(())
}

/// Bytes for people, the middle of a long text left out.
pub fn shown(text: &[u8]) -> String {
    if text.len() <= 600 {
        return text.escape_ascii().to_string();
    }
    let (front, back) = (&text[..100], &text[text.len() - 100..]);
    format!("{} ... {} bytes ... {}", front.escape_ascii(), text.len(), back.escape_ascii())
}

/// The first line, its end included, and the rest.
fn line(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
    text.split_at(end)
}

fn value<'a>(text: &mut &'a [u8], bytes: usize) -> &'a [u8] {
    let (value, rest) = text.split_at(bytes.min(text.len()));
    *text = rest;
    value
}

/// A number without the blanks that it was padded with; anything else is as it is.
pub fn unpadded(value: &[u8]) -> Vec<u8> {
    let (text, end) = value.strip_suffix(b"\r\n").map_or((value, &b""[..]), |text| (text, b"\r\n"));
    let digits = text.trim_ascii_end();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return value.to_vec();
    }
    [digits, end].concat()
}

/// None: they differ. Otherwise what follows, where it is a value: its bytes with its line end.
fn same_line(left: &[u8], right: &[u8], numbers: &mut CasNumbers) -> Option<Option<[usize; 2]>> {
    let words = |line: &'_ [u8]| -> Vec<Vec<u8>> {
        let text = line.strip_suffix(b"\r\n").unwrap_or(line);
        text.split(|byte| *byte == b' ').map(<[u8]>::to_vec).collect()
    };
    let (left_words, right_words) = (words(left), words(right));
    if left.ends_with(b"\r\n") != right.ends_with(b"\r\n") || left_words[0] != right_words[0] {
        return None;
    }
    if left_words[0] == b"VERSION" {
        return Some(None);
    }
    if left_words.len() != right_words.len() {
        return None;
    }
    let size_at = match &left_words[0][..] {
        b"VALUE" if matches!(left_words.len(), 4 | 5) => 3,
        b"VA" if left_words.len() > 1 => 1,
        b"HD" | b"EN" | b"NS" | b"EX" | b"NF" | b"ME" => 0,
        _ => return (left == right).then_some(None),
    };
    let pairs = left_words.iter().zip(&right_words).enumerate();
    for (at, (left_word, right_word)) in pairs {
        let same = match &left_words[0][..] {
            _ if at == 0 || (size_at > 0 && at == size_at) => true,
            b"VALUE" if at == 4 => {
                let pair = numbers.same_text(left_word, right_word)?;
                numbers.told.insert(left_words[1].clone(), pair);
                true
            }
            b"VALUE" => left_word == right_word,
            b"ME" if at == 1 => left_word == right_word,
            b"ME" if at > 1 => same_field(left_word, right_word, numbers),
            _ => same_flag(left_word, right_word, numbers),
        };
        if !same {
            return None;
        }
    }
    if size_at == 0 {
        return Some(None);
    }
    let size = |words: &[Vec<u8>]| Some(number(&words[size_at])? as usize + 2);
    Some(Some([size(&left_words)?, size(&right_words)?]))
}

/// A flag that a meta command gives back.
fn same_flag(left: &[u8], right: &[u8], numbers: &mut CasNumbers) -> bool {
    match (left, right) {
        ([b't', left_time @ ..], b"t0") if number(left_time).is_some_and(|time| time > PASSED) => true,
        ([b'c', left @ ..], [b'c', right @ ..]) => numbers.same_text(left, right).is_some(),
        ([b't' | b'l', left_time @ ..], [_, right_time @ ..]) if left[0] == right[0] => near(left_time, right_time),
        _ => left == right,
    }
}

/// What me tells.
fn same_field(left: &[u8], right: &[u8], numbers: &mut CasNumbers) -> bool {
    let named = |name: &[u8]| Some((left.strip_prefix(name)?, right.strip_prefix(name)?));
    if let Some((left, right)) = named(b"cas=") {
        return numbers.same_text(left, right).is_some();
    }
    if let Some((left, right)) = named(b"exp=").or_else(|| named(b"la=")) {
        return near(left, right);
    }
    named(b"size=").or_else(|| named(b"cls=")).is_some() || left == right
}

fn near(left: &[u8], right: &[u8]) -> bool {
    let seconds = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<i64>().ok();
    match (seconds(left), seconds(right)) {
        (Some(left), Some(right)) if left >= 0 && right >= 0 => (left - right).abs() <= SECONDS,
        _ => left == right,
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(answers: &[(&str, &str)]) -> Vec<bool> {
        let mut numbers = CasNumbers::default();
        answers.iter().map(|(left, right)| alike(left.as_bytes(), right.as_bytes(), &mut numbers).is_ok()).collect()
    }

    #[test]
    fn a_cas_stands_for_one_other_always() {
        let answers = [
            ("VALUE a 0 1 7\r\nx\r\nEND\r\n", "VALUE a 0 1 900\r\nx\r\nEND\r\n"),
            ("HD c7 kx\r\n", "HD c900 kx\r\n"),
            ("HD c7\r\n", "HD c901\r\n"),
            ("ME a exp=-1 cas=8 size=3\r\n", "ME a exp=-1 cas=900 size=4\r\n"),
        ];
        assert_eq!(compared(&answers), [true, true, false, false]);
    }

    #[test]
    fn everything_else_is_told_to_the_byte() {
        let answers = [
            ("STORED\r\n", "STORED\r\n"),
            ("STORED\r\n", "STORED\n"),
            ("STORED\r\n", "NOT_STORED\r\n"),
            ("END\r\n", "END\r\nEND\r\n"),
            ("HD t100 s5\r\n", "HD t99 s5\r\n"),
            ("HD t100 s5\r\n", "HD t90 s5\r\n"),
            ("HD t-1\r\n", "HD t1\r\n"),
            ("HD s5\r\n", "HD s6\r\n"),
            ("HD kc5\r\n", "HD kc6\r\n"),
            ("VA 1\r\nx\r\n", "VA 1\r\ny\r\n"),
            ("VALUE a 1 1\r\nx\r\n", "VALUE a 0 1\r\nx\r\n"),
        ];
        let expected = [true, false, false, false, true, false, false, false, false, false, false];
        assert_eq!(compared(&answers), expected);
    }

    #[test]
    fn a_number_may_be_padded_by_memcached_alone() {
        let answers = [
            ("VALUE n 0 2\r\n9 \r\nEND\r\n", "VALUE n 0 1\r\n9\r\nEND\r\n"),
            ("VA 3 c5\r\n9  \r\n", "VA 1 c5\r\n9\r\n"),
            ("VALUE n 0 1\r\n9\r\nEND\r\n", "VALUE n 0 2\r\n9 \r\nEND\r\n"),
            ("VALUE n 0 2\r\nx \r\nEND\r\n", "VALUE n 0 1\r\nx\r\nEND\r\n"),
            ("VALUE n 0 2\r\n9 \r\nEND\r\n", "VALUE n 0 1\r\n8\r\nEND\r\n"),
        ];
        assert_eq!(compared(&answers), [true, true, false, false, false]);
    }
}
