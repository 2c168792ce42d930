//! The keys of a get line, walked one by one; and where the next blank is, which parts all tokens
//! of a line: found eight bytes at a time, since most tokens are keys, and too short for a search
//! that must get ready first.

use crate::base::limits::KEY_BYTES_MAX;

const BLANKS: u64 = u64::from_le_bytes([b' '; 8]);
const LOW_BITS: u64 = u64::from_le_bytes([1; 8]);
const HIGH_BITS: u64 = u64::from_le_bytes([0x80; 8]);

/// Bytes of `text` before its first blank: all of them if there is none.
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

/// The key part of a get line. A cursor into it is a plain offset, so that a get whose answer does
/// not fit into the output can be left and resumed.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    pub(super) line: &'a [u8],
}

/// What walking to the next key of a get line found.
#[derive(Debug, PartialEq, Eq)]
pub enum NextKey<'a> {
    /// A key, and the offset to go on from.
    Key(&'a [u8], u32),
    /// No more keys.
    End,
    /// A key longer than allowed: the whole command is refused.
    Bad,
}

impl<'a> Keys<'a> {
    /// The key at or after `offset` (0 for the first).
    pub fn next(&self, offset: u32) -> NextKey<'a> {
        let rest = self.line.get(offset as usize..).unwrap_or_default();
        let start = match rest {
            [] => return NextKey::End,
            // One blank, as nearly always.
            [b' ', first, ..] if *first != b' ' => 1,
            _ => match rest.iter().position(|byte| *byte != b' ') {
                Some(start) => start,
                None => return NextKey::End,
            },
        };
        let from_start = &rest[start..];
        let key_bytes = bytes_to_blank(from_start);
        if key_bytes > KEY_BYTES_MAX {
            return NextKey::Bad;
        }
        NextKey::Key(&from_start[..key_bytes], offset + (start + key_bytes) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(line: &[u8]) -> Vec<NextKey<'_>> {
        let (keys, mut offset, mut found) = (Keys { line }, 0, Vec::new());
        loop {
            found.push(keys.next(offset));
            match found.last() {
                Some(NextKey::Key(_, next)) => offset = *next,
                _ => return found,
            }
        }
    }

    #[test]
    fn keys_are_parted_by_any_number_of_blanks() {
        assert_eq!(walk(b"  a  b\tc "), [NextKey::Key(b"a", 3), NextKey::Key(b"b\tc", 8), NextKey::End]);
        assert_eq!(walk(b"   "), [NextKey::End]);
        assert_eq!(Keys { line: b"a" }.next(u32::MAX), NextKey::End);
    }

    #[test]
    fn a_key_of_251_bytes_is_bad_where_it_stands() {
        let longest = [b'k'; KEY_BYTES_MAX];
        let line = [b"a ", &longest[..], b" ", &[b'k'; KEY_BYTES_MAX + 1][..]].concat();
        let longest_end = 2 + KEY_BYTES_MAX as u32;
        assert_eq!(walk(&line), [NextKey::Key(b"a", 1), NextKey::Key(&longest, longest_end), NextKey::Bad]);
    }

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
}
