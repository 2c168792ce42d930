//! The lines of dumps: items as memcached's `lru_crawler metadump` and `mgdump` and its `stats
//! cachedump` show them.

use super::encode::push_number;
use crate::base::limits::KEY_BYTES_MAX;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What a dump shows of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpForm {
    /// metadump: everything but the value.
    Meta,
    /// mgdump: a request of each.
    Requests,
    /// cachedump: the key, the value's length, and when it expires.
    Cache {
        /// Of so many items at most; 0: of all.
        items_max: u32,
    },
}

/// An item of a dump.
#[derive(Debug, Clone, Copy)]
pub struct DumpedItem<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// When it expires, in seconds since the Unix epoch; 0 for never.
    pub expires_at: u32,
    /// When it was last used; the same.
    pub used_at: u32,
    /// Its CAS.
    pub cas: u64,
    /// Whether it was ever read.
    pub fetched: bool,
    /// Bytes of the whole record.
    pub record_bytes: usize,
    /// Bytes of the value.
    pub value_bytes: usize,
    /// The client's own flags.
    pub client_flags: u32,
}

impl DumpForm {
    /// What stands before the first item.
    pub fn begin(self, out: &mut Vec<u8>) {
        match self {
            DumpForm::Meta | DumpForm::Requests => out.extend_from_slice(b"OK\r\n"),
            DumpForm::Cache { .. } => {}
        }
    }

    /// The line of an item. False where it has none: cachedump leaves out keys that would not be
    /// one word of its line.
    pub fn item(self, out: &mut Vec<u8>, item: &DumpedItem<'_>) -> bool {
        match self {
            DumpForm::Meta => meta_line(out, item),
            DumpForm::Requests => request_line(out, item.key),
            DumpForm::Cache { .. } if is_binary(item.key) => return false,
            DumpForm::Cache { .. } => cache_line(out, item),
        }
        true
    }

    /// What stands behind the last item.
    pub fn end(self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            DumpForm::Meta | DumpForm::Cache { .. } => b"END\r\n",
            DumpForm::Requests => b"EN\r\n",
        });
    }
}

/// `key=<key> exp=<second or -1> la=.. cas=.. fetch=yes|no cls=1 size=.. flags=.. \n`, with a blank
/// and without a carriage return, as in memcached. The key is encoded as in a URL.
fn meta_line(out: &mut Vec<u8>, item: &DumpedItem<'_>) {
    out.extend_from_slice(b"key=");
    push_url_encoded(out, item.key);
    out.extend_from_slice(b" exp=");
    match item.expires_at {
        0 => out.extend_from_slice(b"-1"),
        second => push_number(out, second.into()),
    }
    out.extend_from_slice(b" la=");
    push_number(out, item.used_at.into());
    out.extend_from_slice(b" cas=");
    push_number(out, item.cas);
    out.extend_from_slice(if item.fetched { b" fetch=yes cls=1 size=" } else { b" fetch=no cls=1 size=" });
    push_number(out, item.record_bytes as u64);
    out.extend_from_slice(b" flags=");
    push_number(out, item.client_flags.into());
    out.extend_from_slice(b" \n");
}

/// `mg <key>\r\n`, or `mg <base64> b\r\n`.
fn request_line(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(b"mg ");
    if is_binary(key) {
        let mut encoded = [0; KEY_BYTES_MAX.div_ceil(3) * 4];
        let length = STANDARD.encode_slice(key, &mut encoded).expect("sized for the longest key");
        out.extend_from_slice(&encoded[..length]);
        out.extend_from_slice(b" b\r\n");
    } else {
        out.extend_from_slice(key);
        out.extend_from_slice(b"\r\n");
    }
}

/// `ITEM <key> [<bytes> b; <second, or 0> s]\r\n`.
fn cache_line(out: &mut Vec<u8>, item: &DumpedItem<'_>) {
    out.extend_from_slice(b"ITEM ");
    out.extend_from_slice(item.key);
    out.extend_from_slice(b" [");
    push_number(out, item.value_bytes as u64);
    out.extend_from_slice(b" b; ");
    push_number(out, item.expires_at.into());
    out.extend_from_slice(b" s]\r\n");
}

/// Whether a key can only have come as base64, or would be hard to read in a line.
fn is_binary(key: &[u8]) -> bool {
    key.iter().any(|byte| *byte <= b' ' || *byte == 0x7F)
}

/// A key as in a URL, as memcached shows keys in lines of words.
pub(super) fn push_url_encoded(out: &mut Vec<u8>, key: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in key {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_memcacheds() {
        let item = DumpedItem {
            key: b"a b/%C\x80z",
            expires_at: 0,
            used_at: 1_700_000_000,
            cas: 7,
            fetched: false,
            record_bytes: 64,
            value_bytes: 3,
            client_flags: 5,
        };
        let plain = DumpedItem { key: b"key:1", expires_at: 1_700_000_100, fetched: true, ..item };
        let told = |form: DumpForm| {
            let mut out = Vec::new();
            form.begin(&mut out);
            let shown = [form.item(&mut out, &item), form.item(&mut out, &plain)];
            form.end(&mut out);
            (String::from_utf8(out).unwrap(), shown)
        };
        let meta = "OK\r\nkey=a%20b%2F%25C%80z exp=-1 la=1700000000 cas=7 fetch=no cls=1 size=64 flags=5 \n\
                    key=key%3A1 exp=1700000100 la=1700000000 cas=7 fetch=yes cls=1 size=64 flags=5 \nEND\r\n";
        assert_eq!(told(DumpForm::Meta), (meta.into(), [true, true]));
        let requests = "OK\r\nmg YSBiLyVDgHo= b\r\nmg key:1\r\nEN\r\n";
        assert_eq!(told(DumpForm::Requests), (requests.into(), [true, true]));
        let cache = "ITEM key:1 [3 b; 1700000100 s]\r\nEND\r\n";
        assert_eq!(told(DumpForm::Cache { items_max: 0 }), (cache.into(), [false, true]));
    }
}
