//! Where the next blank is: eight bytes at a time, since most tokens are keys, and too short for a
//! search that must get ready first.

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
}
