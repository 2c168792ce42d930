//! Commands as each protocol writes them. Pure: appends bytes to a buffer.
//!
//! RESP is the protocol of Redis and Valkey (RESP2:
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>).

use super::workload::{KEY_BYTES, key_text};

/// Which protocol is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// memcached's get and set
    Text,
    /// memcached's mg and ms
    Meta,
    /// Redis' GET, MGET and SET
    Resp,
}

/// Before a key's text in RESP, whose strings say their length first; all keys are equally long.
const RESP_KEY: &[u8] = b"\r\n$15\r\n";
const _: () = assert!(KEY_BYTES == 15);

impl Protocol {
    /// As the operator writes it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Text => "text",
            Protocol::Meta => "meta",
            Protocol::Resp => "resp",
        }
    }

    /// Begin a get of so many keys.
    pub fn begin_get(self, keys: u32, out: &mut Vec<u8>) {
        match self {
            Protocol::Text => out.extend_from_slice(b"get"),
            Protocol::Meta => {}
            Protocol::Resp if keys == 1 => out.extend_from_slice(b"*2\r\n$3\r\nGET"),
            Protocol::Resp => {
                out.push(b'*');
                push_number(keys + 1, out);
                out.extend_from_slice(b"\r\n$4\r\nMGET");
            }
        }
    }

    /// The next key of the get that was begun.
    pub fn add_key(self, key: u32, out: &mut Vec<u8>) {
        let text = key_text(key);
        match self {
            Protocol::Text => {
                out.push(b' ');
                out.extend_from_slice(&text);
            }
            Protocol::Meta => {
                out.extend_from_slice(b"mg ");
                out.extend_from_slice(&text);
                out.extend_from_slice(b" v\r\n");
            }
            Protocol::Resp => {
                out.extend_from_slice(RESP_KEY);
                out.extend_from_slice(&text);
            }
        }
    }

    /// End the get that was begun.
    pub fn end_get(self, out: &mut Vec<u8>) {
        if self != Protocol::Meta {
            out.extend_from_slice(b"\r\n");
        }
    }

    /// A set. It expires after `ttl_seconds`, with 0 never.
    pub fn set(self, key: u32, value: &[u8], ttl_seconds: u32, out: &mut Vec<u8>) {
        let (key_text, length) = (key_text(key), value.len() as u32);
        match self {
            Protocol::Text => {
                out.extend_from_slice(b"set ");
                out.extend_from_slice(&key_text);
                out.extend_from_slice(b" 0 ");
                push_number(ttl_seconds, out);
                out.push(b' ');
                push_number(length, out);
            }
            Protocol::Meta => {
                out.extend_from_slice(b"ms ");
                out.extend_from_slice(&key_text);
                out.push(b' ');
                push_number(length, out);
                if ttl_seconds > 0 {
                    out.extend_from_slice(b" T");
                    push_number(ttl_seconds, out);
                }
            }
            Protocol::Resp => {
                out.extend_from_slice(if ttl_seconds > 0 { b"*5" } else { b"*3" });
                out.extend_from_slice(b"\r\n$3\r\nSET");
                out.extend_from_slice(RESP_KEY);
                out.extend_from_slice(&key_text);
                out.extend_from_slice(b"\r\n$");
                push_number(length, out);
            }
        }
        for part in [b"\r\n", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
        if self == Protocol::Resp && ttl_seconds > 0 {
            let mut digits = itoa::Buffer::new();
            let digits = digits.format(ttl_seconds);
            out.extend_from_slice(b"$2\r\nEX\r\n$");
            push_number(digits.len() as u32, out);
            for part in [b"\r\n", digits.as_bytes(), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
    }
}

fn push_number(number: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(protocol: Protocol, keys: u32) -> String {
        let mut out = Vec::new();
        protocol.begin_get(keys, &mut out);
        (0..keys).for_each(|key| protocol.add_key(key, &mut out));
        protocol.end_get(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn set(protocol: Protocol, ttl_seconds: u32) -> String {
        let mut out = Vec::new();
        protocol.set(7, b"abc", ttl_seconds, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn memcached_commands_are_written_as_the_protocol_says() {
        assert_eq!(get(Protocol::Text, 2), "get load:0000000000 load:0000000001\r\n");
        assert_eq!(set(Protocol::Text, 60), "set load:0000000007 0 60 3\r\nabc\r\n");
        assert_eq!(get(Protocol::Meta, 2), "mg load:0000000000 v\r\nmg load:0000000001 v\r\n");
        assert_eq!(set(Protocol::Meta, 60), "ms load:0000000007 3 T60\r\nabc\r\n");
        assert_eq!(set(Protocol::Meta, 0), "ms load:0000000007 3\r\nabc\r\n");
    }

    #[test]
    fn resp_commands_are_arrays_of_strings_with_their_lengths() {
        /// What an array of strings says, every length checked.
        fn words(text: &str) -> Vec<&str> {
            let mut lines = text.strip_suffix("\r\n").unwrap().split("\r\n");
            let count: usize = lines.next().unwrap().strip_prefix('*').unwrap().parse().unwrap();
            let lines: Vec<&str> = lines.collect();
            let words: Vec<&str> = lines.chunks(2).map(|pair| (pair[0], pair[1])).map(word).collect();
            assert_eq!(words.len(), count, "{text}");
            words
        }
        fn word<'a>((length, word): (&str, &'a str)) -> &'a str {
            assert_eq!(length, format!("${}", word.len()));
            word
        }
        assert_eq!(words(&get(Protocol::Resp, 1)), ["GET", "load:0000000000"]);
        assert_eq!(words(&get(Protocol::Resp, 2)), ["MGET", "load:0000000000", "load:0000000001"]);
        assert_eq!(words(&set(Protocol::Resp, 0)), ["SET", "load:0000000007", "abc"]);
        assert_eq!(words(&set(Protocol::Resp, 600)), ["SET", "load:0000000007", "abc", "EX", "600"]);
    }
}
