//! The classic text commands, as structures.

use super::Exptime;
use super::blank::bytes_to_blank;
use super::reply::BAD_FORMAT;
use crate::base::limits::KEY_BYTES_MAX;

/// get, gets, gat, gats: one or more keys, or a part of a line of them.
#[derive(Debug)]
pub struct Get<'a> {
    /// The keys, checked one by one as they are walked: a long multi-get is not parsed twice.
    pub keys: Keys<'a>,
    /// What is to be done with each.
    pub form: GetForm,
    /// The line has begun before these keys: those before them have been executed.
    pub continues: bool,
    /// The line ends behind these keys.
    pub ends: bool,
}

/// What a get does with each of its keys: all that must be remembered of its line between two parts
/// of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetForm {
    /// gets, gats: answer with the CAS value.
    pub with_cas: bool,
    /// gat, gats: the new expiry.
    pub touch: Option<Exptime>,
}

/// The key part of a get line. A cursor into it is a plain offset, so that a get whose answer does
/// not fit into the output can be left and resumed.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    pub(super) line: &'a [u8],
}

/// How to combine the new value with what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreVerb {
    /// Whatever is there.
    Set,
    /// Only if nothing is there.
    Add,
    /// Only if something is there.
    Replace,
    /// Behind what is there.
    Append,
    /// Before what is there.
    Prepend,
    /// Only if the item's CAS is this one.
    Cas(u64),
}

/// set, add, replace, append, prepend, cas.
#[derive(Debug)]
pub struct Store<'a> {
    /// Which.
    pub verb: StoreVerb,
    /// 1 to 250 bytes.
    pub key: &'a [u8],
    /// The client's own flags.
    pub client_flags: u32,
    /// When it expires.
    pub exptime: Exptime,
    /// The value.
    pub value: &'a [u8],
    /// No answer wanted.
    pub noreply: bool,
}

/// incr, decr.
#[derive(Debug)]
pub struct Arithmetic<'a> {
    /// True for incr.
    pub increment: bool,
    /// 1 to 250 bytes.
    pub key: &'a [u8],
    /// How much.
    pub delta: u64,
    /// No answer wanted.
    pub noreply: bool,
}

/// touch.
#[derive(Debug)]
pub struct Touch<'a> {
    /// 1 to 250 bytes.
    pub key: &'a [u8],
    /// The new expiry.
    pub exptime: Exptime,
    /// No answer wanted.
    pub noreply: bool,
}

/// delete.
#[derive(Debug)]
pub struct Delete<'a> {
    /// 1 to 250 bytes.
    pub key: &'a [u8],
    /// No answer wanted.
    pub noreply: bool,
}

/// What walking to the next key of a get line found.
#[derive(Debug, PartialEq, Eq)]
pub enum NextKey<'a> {
    /// A key, and the offset to go on from.
    Key(&'a [u8], u32),
    /// No more keys.
    End,
    /// A key longer than allowed: the whole command is answered with this error line instead.
    Bad(&'static [u8]),
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
            return NextKey::Bad(BAD_FORMAT);
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
        assert_eq!(walk(&line), [NextKey::Key(b"a", 1), NextKey::Key(&longest, longest_end), NextKey::Bad(BAD_FORMAT)]);
    }
}
