//! A command line cut into tokens, and tokens read as numbers.
//!
//! Takes the bytes between a line's start and its end, gives slices of them. Only blanks separate
//! tokens: a tab, a NUL or a carriage return inside a line belongs to its token, as in memcached.
//! What counts as a number differs from command to command there, so there are two readers of each
//! kind here: the strict one and the one like C's strtol.

use super::super::Reply;
use crate::base::limits::{ACK_REPLICAS_MAX, TOKENS_MAX};

const BLANKS: u64 = u64::from_le_bytes([b' '; 8]);
const LOW_BITS: u64 = u64::from_le_bytes([1; 8]);
const HIGH_BITS: u64 = u64::from_le_bytes([0x80; 8]);

/// Bytes of `text` before its first blank: all of them if there is none. Found eight bytes at a
/// time, since most tokens are keys, and too short for a search that must get ready first.
#[inline]
pub fn bytes_to_blank(text: &[u8]) -> usize {
    let (words, _) = text.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        if let Some(within) = first_blank(*word) {
            return at * 8 + within;
        }
    }
    match text.last_chunk::<8>() {
        // It overlaps with what was searched, where there is none.
        Some(word) => first_blank(*word).map_or(text.len(), |within| text.len() - 8 + within),
        None => text.iter().position(|byte| *byte == b' ').unwrap_or(text.len()),
    }
}

/// The lowest byte that is a blank. Of the bytes that a subtraction's borrow may mark wrongly, all
/// are above a true one.
#[inline]
fn first_blank(word: [u8; 8]) -> Option<usize> {
    let differs = u64::from_le_bytes(word) ^ BLANKS;
    let blanks = differs.wrapping_sub(LOW_BITS) & !differs & HIGH_BITS;
    (blanks != 0).then(|| blanks.trailing_zeros() as usize / 8)
}

/// A walk over the tokens of a line. None is empty.
#[derive(Clone)]
pub struct Tokens<'a> {
    rest: &'a [u8],
    last: &'a [u8],
    taken: u8,
}

/// A token that may be a number.
#[derive(Clone, Copy)]
pub enum Number<'a> {
    /// One to nine digits, as nearly always: every reading of a number takes these for the same.
    Plain(u32),
    /// Anything else: what it means depends on who reads it.
    Token(&'a [u8]),
}

impl<'a> Tokens<'a> {
    pub fn of(line: &'a [u8]) -> Self {
        Tokens { rest: line, last: b"", taken: 0 }
    }

    /// The tokens of a line behind its command, which is one of the tokens that memcached counts.
    pub fn behind_command(rest: &'a [u8]) -> Self {
        Tokens { rest, last: b"", taken: 1 }
    }

    /// The next token, read on the way if it is plain digits behind one blank.
    #[inline]
    pub fn next_number(&mut self) -> Option<Number<'a>> {
        if let [b' ', token @ ..] = self.rest
            && self.taken < TOKENS_MAX
            && let Some((number, digits)) = leading_number(token)
        {
            (self.last, self.rest) = token.split_at(digits);
            self.taken += 1;
            return Some(Number::Plain(number));
        }
        self.next().map(Number::Token)
    }

    /// What has not been walked yet, blanks around it trimmed.
    pub fn rest(&self) -> &'a [u8] {
        let start = self.rest.iter().position(|byte| *byte != b' ').unwrap_or(self.rest.len());
        let end = self.rest.iter().rposition(|byte| *byte != b' ').map_or(start, |last| last + 1);
        &self.rest[start..end]
    }

    /// No answer where the last token of the line is `noreply`: the only place where memcached
    /// heeds it, whatever else that token may stand for (`delete noreply` deletes a key of that
    /// name and keeps quiet).
    #[inline]
    pub fn reply(&self) -> Reply {
        let last = if self.rest.is_empty() { self.last } else { self.clone().last_token() };
        if last == b"noreply" { Reply::Silent } else { Reply::Text }
    }

    /// The last token of the line, also if it was walked over already.
    pub fn last_token(mut self) -> &'a [u8] {
        while self.next().is_some() {}
        self.last
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let start = match self.rest {
            // One blank, as nearly always.
            [b' ', first, ..] if *first != b' ' => 1,
            rest => rest.iter().position(|byte| *byte != b' ')?,
        };
        if self.taken == TOKENS_MAX {
            return None;
        }
        let from_start = &self.rest[start..];
        (self.last, self.rest) = from_start.split_at(bytes_to_blank(from_start));
        self.taken += 1;
        Some(self.last)
    }
}

/// The number that opens `text`, and how many digits it has: one to nine, with a blank or nothing
/// behind them.
#[inline]
fn leading_number(text: &[u8]) -> Option<(u32, usize)> {
    let mut number = 0;
    for at in 0..=9 {
        match text.get(at) {
            Some(digit @ b'0'..=b'9') if at < 9 => number = number * 10 + u32::from(digit - b'0'),
            Some(b' ') | None if at > 0 => return Some((number, at)),
            _ => return None,
        }
    }
    None
}

impl Number<'_> {
    /// As [`u64_strict`] reads it.
    pub fn u64_strict(self) -> Option<u64> {
        match self {
            Number::Plain(number) => Some(number.into()),
            Number::Token(token) => u64_strict(token),
        }
    }

    /// As [`i32_strict`] reads it.
    pub fn i32_strict(self) -> Option<i32> {
        match self {
            Number::Plain(number) => Some(number as i32),
            Number::Token(token) => i32_strict(token),
        }
    }

    /// The flags of a storage command: as strtoul reads them, cut to 32 bits. Negative numbers are
    /// refused, but for those that strtoul makes positive ones of: below -2^63.
    pub fn client_flags(self) -> Option<u32> {
        match self {
            Number::Plain(number) => Some(number),
            Number::Token(token) => client_flags(token),
        }
    }

    /// The expiry of a storage command: as strtol reads it, cut to 32 bits. The cut is memcached's
    /// and kept: clients that send -1 as 4294967295 mean "at once".
    pub fn storage_exptime(self) -> Option<i32> {
        match self {
            Number::Plain(number) => Some(number as i32),
            Number::Token(token) => storage_exptime(token),
        }
    }
}

/// Digits alone, at most 22 of them (leading zeros count), within u64.
pub fn u64_strict(token: &[u8]) -> Option<u64> {
    const DIGITS_MAX: usize = 22;
    if token.len() > DIGITS_MAX {
        return None;
    }
    digits(token)
}

/// Digits alone, at most 11 of them, within u32.
pub fn u32_strict(token: &[u8]) -> Option<u32> {
    const DIGITS_MAX: usize = 11;
    if token.len() > DIGITS_MAX {
        return None;
    }
    digits(token)?.try_into().ok()
}

/// Digits with an optional minus before them, at most 11 bytes, within i32. A minus alone is zero.
pub fn i32_strict(token: &[u8]) -> Option<i32> {
    const BYTES_MAX: usize = 11;
    if token.len() > BYTES_MAX {
        return None;
    }
    // Eleven digits fit an i64, so the sign can be applied after them.
    let value = match token {
        [b'-', magnitude @ ..] => -(digits(magnitude)? as i64),
        magnitude => digits(magnitude)? as i64,
    };
    value.try_into().ok()
}

/// A number of replicas to wait for: no server has more than [`ACK_REPLICAS_MAX`].
pub fn ack_replicas(token: &[u8]) -> Option<u8> {
    let number = u32_strict(token).filter(|_| !token.is_empty())?;
    u8::try_from(number).ok().filter(|number| *number <= ACK_REPLICAS_MAX)
}

fn client_flags(token: &[u8]) -> Option<u32> {
    let (negative, magnitude) = c_number(token)?;
    let value = if negative { magnitude.wrapping_neg() } else { magnitude };
    (!negative || value <= i64::MAX as u64).then_some(value as u32)
}

fn storage_exptime(token: &[u8]) -> Option<i32> {
    let (negative, magnitude) = c_number(token)?;
    let value = if negative { 0i64.checked_sub_unsigned(magnitude)? } else { i64::try_from(magnitude).ok()? };
    Some(value as i32)
}

fn digits(token: &[u8]) -> Option<u64> {
    plain_digits(token).or_else(|| any_digits(token))
}

/// The number that nearly every token is: one to nine digits, which need no check for overflow.
#[inline]
fn plain_digits(token: &[u8]) -> Option<u64> {
    if !matches!(token.len(), 1..=9) {
        return None;
    }
    token.iter().try_fold(0, |sum: u64, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit <= 9).then(|| sum * 10 + u64::from(digit))
    })
}

fn any_digits(token: &[u8]) -> Option<u64> {
    token.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum.checked_mul(10)?.checked_add(digit.into())
    })
}

/// A number as C reads it: digits, or white space before it, a sign, digits; anything may follow a
/// white space or a NUL.
#[inline]
fn c_number(token: &[u8]) -> Option<(bool, u64)> {
    plain_digits(token).map(|number| (false, number)).or_else(|| spaced_number(token))
}

fn spaced_number(token: &[u8]) -> Option<(bool, u64)> {
    let is_space = |byte: &u8| matches!(byte, b'\t'..=b'\r' | b' ');
    let start = token.iter().position(|byte| !is_space(byte))?;
    let (negative, unsigned) = match &token[start..] {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let end = unsigned.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(unsigned.len());
    let stops_well = unsigned.get(end).is_none_or(|byte| is_space(byte) || *byte == 0);
    if end == 0 || !stops_well {
        return None;
    }
    Some((negative, digits(&unsigned[..end])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_blank_is_found_wherever_it_is() {
        // 0x21 is what a borrow from a blank below would turn into a false blank; 0xA0 differs in
        // the high bit alone.
        for filler in [b'k', 0x21, 0xA0, 0x00, 0xFF] {
            for length in 0..40 {
                let mut text = vec![filler; length];
                assert_eq!(bytes_to_blank(&text), length);
                for second in (0..length).rev() {
                    text[second] = b' ';
                    assert_eq!(bytes_to_blank(&text), second, "{text:?}");
                }
            }
        }
    }

    #[test]
    fn tokens_are_parted_by_blanks_alone() {
        let walked: Vec<&[u8]> = Tokens::of(b"  set  a\tb\0 \r 1  ").collect();
        assert_eq!(walked, [&b"set"[..], b"a\tb\0", b"\r", b"1"]);
        assert_eq!(Tokens::of(b"    ").next(), None);
        assert_eq!(Tokens::of(b"  a b  ").rest(), b"a b");
        assert_eq!(Tokens::of(b"   ").rest(), b"");
    }

    #[test]
    fn noreply_counts_only_as_the_last_token() {
        assert_eq!(Tokens::of(b"touch k 0 noreply  ").reply(), Reply::Silent);
        assert_eq!(Tokens::of(b"touch noreply k").reply(), Reply::Text);
        assert_eq!(Tokens::of(b"touch k 0 noreply2").reply(), Reply::Text);
        let mut walked = Tokens::of(b"delete noreply");
        walked.by_ref().for_each(drop);
        assert_eq!(walked.reply(), Reply::Silent, "also after the walk");
        let behind_the_horizon = [b"a ".repeat(TOKENS_MAX.into()), b"noreply".to_vec()].concat();
        assert_eq!(Tokens::of(&behind_the_horizon).reply(), Reply::Text);
    }

    #[test]
    fn strict_numbers_end_at_their_type() {
        assert_eq!(u64_strict(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(u64_strict(b"18446744073709551616"), None);
        assert_eq!(u64_strict(b"00000000000000000000007"), None, "23 digits are too many");
        assert_eq!((u64_strict(b"-1"), u64_strict(b"+1"), u64_strict(b"1x")), (None, None, None));
        assert_eq!((u32_strict(b"4294967295"), u32_strict(b"4294967296")), (Some(u32::MAX), None));
        assert_eq!((i32_strict(b"2147483647"), i32_strict(b"2147483648")), (Some(i32::MAX), None));
        assert_eq!((i32_strict(b"-2147483648"), i32_strict(b"-2147483649")), (Some(i32::MIN), None));
        assert_eq!(
            [&b"0"[..], b"32", b"33", b"", b"-1", b"256"].map(ack_replicas),
            [Some(0), Some(32), None, None, None, None]
        );
        assert_eq!((i32_strict(b"-"), i32_strict(b"--1"), i32_strict(b"000000000001")), (Some(0), None, None));
    }

    /// All lines of up to four letters that matter, and numbers about where they stop being plain.
    #[test]
    fn a_number_read_on_the_way_is_what_its_token_says() {
        let mut lines = vec![Vec::new()];
        for length in 1..=4 {
            let longest: Vec<Vec<u8>> = lines.iter().filter(|line| line.len() + 1 == length).cloned().collect();
            lines.extend(longest.iter().flat_map(|line| b" 09-x\t".iter().map(|byte| [&line[..], &[*byte]].concat())));
        }
        for number in ["12345678", "999999999", "0999999999", "1000000000", "4294967295", "00000000000000000000001"] {
            lines.extend([format!(" {number}"), format!(" {number} 7"), format!(" {number}x")].map(String::into_bytes));
        }
        assert!(lines.len() > 1500);
        for line in &lines {
            let (mut by_token, mut by_number) = (Tokens::behind_command(line), Tokens::behind_command(line));
            let (token, number) = (by_token.next(), by_number.next_number());
            let shown = line.escape_ascii();
            assert_eq!(token.and_then(u64_strict), number.and_then(Number::u64_strict), "{shown}");
            assert_eq!(token.and_then(i32_strict), number.and_then(Number::i32_strict), "{shown}");
            assert_eq!(token.and_then(client_flags), number.and_then(Number::client_flags), "{shown}");
            assert_eq!(token.and_then(storage_exptime), number.and_then(Number::storage_exptime), "{shown}");
            assert_eq!(
                (by_token.rest, by_token.last, by_token.taken),
                (by_number.rest, by_number.last, by_number.taken)
            );
        }
    }

    #[test]
    fn storage_numbers_are_read_as_c_does() {
        assert_eq!(client_flags(b"+12"), Some(12));
        assert_eq!(client_flags(b"\t12\tx"), Some(12));
        assert_eq!(client_flags(b"12\0x"), Some(12));
        assert_eq!((client_flags(b"12x"), client_flags(b"-1"), client_flags(b"-")), (None, None, None));
        assert_eq!(client_flags(b"4294967297"), Some(1), "cut to 32 bits");
        assert_eq!(client_flags(b"18446744073709551616"), None);
        assert_eq!((client_flags(b"-0"), client_flags(b"-9223372036854775808")), (Some(0), None));
        assert_eq!(client_flags(b"-9223372036854775809"), Some(u32::MAX), "as strtoul: 2^64 minus it");
        assert_eq!(client_flags(b"-18446744073709551614"), Some(2));
        assert_eq!(storage_exptime(b"4294967295"), Some(-1));
        assert_eq!(storage_exptime(b"-9223372036854775808"), Some(0));
        assert_eq!((storage_exptime(b"9223372036854775808"), storage_exptime(b"")), (None, None));
    }
}
