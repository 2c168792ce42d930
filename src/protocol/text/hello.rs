//! hello: what a client asks for beyond memcached's protocol, for the rest of its connection, and
//! the lines that it gets for that.
//!
//! ```text
//! hello [notices] [moved] [read-from=primary|replica] [lag-ms=N]\r\n
//! HELLO remora 1 cluster=ID|none map=VERSION|0 server=NAME shards=NUMBER\r\n
//!
//! NOTICE map VERSION\r\n                                      before an answer
//! MOVED VERSION SHARD TERM SERVER HOST:PORT\r\n               instead of one
//! MOVED VERSION SHARD TERM SERVER HOST:PORT KEY\r\n           for a key of several of a get
//! MOVED VERSION SHARD TERM SERVER HOST:PORT Oopaque kKEY\r\n  of a meta command, as far as it has them
//! ```
//!
//! A hello takes the place of the one before it. One that is refused changes nothing.

use super::super::read_from::ReadFrom;
use super::super::{Parsed, Refusal, Request};
use super::encode;
use super::line::Line;
use super::tokens::{Tokens, u32_strict};
use std::fmt::Display;
use std::io::Write as _;

/// The version of what is agreed by hello.
const LEVEL: u32 = 1;

/// What a client has asked for. Nothing, before it says hello.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Preferences {
    /// To be told when there is a new map of the cluster.
    pub notices: bool,
    /// To be told who has a key that is another server's, instead of having its request forwarded.
    pub moved: bool,
    /// From where its reads may be answered.
    pub read_from: ReadFrom,
}

impl Preferences {
    /// Whether its requests are to be done otherwise than those of other clients.
    pub fn are_any(&self) -> bool {
        *self != Preferences::default()
    }
}

/// What a server says of itself to a client that says hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The cluster's id; None where there is none, or it is not known yet.
    pub cluster: Option<String>,
    /// The version of the map that the server has; 0: none.
    pub map_version: u64,
    /// Its name in the cluster.
    pub server: String,
    /// How many shards its store has.
    pub shards: usize,
}

/// Who has a shard, by the latest map that a server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The map's version.
    pub map_version: u64,
    /// Of the shard.
    pub term: u32,
    /// The name of its primary.
    pub server: String,
    /// Where clients connect to that, HOST:PORT.
    pub clients: String,
}

/// Read the words behind `hello`. There is no noreply: it is all about the answer.
pub(super) fn command<'a>(line: Line<'a>, mut tokens: Tokens<'a>) -> Parsed<'a> {
    match tokens.try_fold(Preferences::default(), with_word) {
        Some(preferences) => line.accept(Request::Hello(preferences)),
        None => line.refuse(Refusal::BadHello),
    }
}

fn with_word(before: Preferences, word: &[u8]) -> Option<Preferences> {
    let mut asked = before;
    match word {
        b"notices" => asked.notices = true,
        b"moved" => asked.moved = true,
        b"read-from=primary" => asked.read_from.replica = false,
        b"read-from=replica" => asked.read_from.replica = true,
        _ => {
            let number = word.strip_prefix(b"lag-ms=").filter(|number| !number.is_empty())?;
            asked.read_from.lag_milliseconds = Some(u32_strict(number)?);
        }
    }
    Some(asked)
}

/// The answer to hello.
pub fn greet(out: &mut Vec<u8>, standing: &Standing) {
    let Standing { cluster, map_version, server, shards } = standing;
    let (cluster, server) = (Word(cluster.as_deref().unwrap_or("none")), Word(server));
    push(out, format_args!("HELLO remora {LEVEL} cluster={cluster} map={map_version} server={server} shards={shards}"));
    encode::value_end(out);
}

/// There is a map of this version.
pub fn notice(out: &mut Vec<u8>, map_version: u64) {
    push(out, format_args!("NOTICE map {map_version}"));
    encode::value_end(out);
}

/// What a request is answered whose key is another server's.
pub fn moved(out: &mut Vec<u8>, shard: u32, owner: &Owner, request: &Request<'_>) {
    moved_to(out, shard, owner);
    if let Request::Meta(request) = request {
        encode::push_given_back(out, request, None);
    }
    encode::value_end(out);
}

/// The same of one of several keys of a get, in the place of its value.
pub fn moved_key(out: &mut Vec<u8>, shard: u32, owner: &Owner, key: &[u8]) {
    moved_to(out, shard, owner);
    out.push(b' ');
    out.extend_from_slice(key);
    encode::value_end(out);
}

fn moved_to(out: &mut Vec<u8>, shard: u32, owner: &Owner) {
    let Owner { map_version, term, server, clients } = owner;
    push(out, format_args!("MOVED {map_version} {shard} {term} {} {}", Word(server), Word(clients)));
}

fn push(out: &mut Vec<u8>, words: impl Display) {
    write!(out, "{words}").expect("writing to a Vec cannot fail");
}

/// A name in a line of words: what would break the line is shown as `_`. A map comes from whoever
/// may write it.
struct Word<'n>(&'n str);

impl Display for Word<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("_");
        }
        let shown = |letter: char| if letter.is_whitespace() || letter.is_control() { '_' } else { letter };
        self.0.chars().try_for_each(|letter| write!(f, "{}", shown(letter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{ParseLimits, parse};

    fn parsed(line: &str, check: impl FnOnce(&Request<'_>)) {
        let limits = ParseLimits { value_bytes_max: 100 };
        match parse(line.as_bytes(), limits, &mut [0; 250]) {
            Parsed::Request(request, taken) if taken == line.len() => check(&request),
            other => panic!("{line:?}: {other:?}"),
        }
    }

    fn lines(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn each_word_is_a_preference_and_the_last_of_a_kind_counts() {
        let asked = |notices, moved, replica, lag_milliseconds| Preferences {
            notices,
            moved,
            read_from: ReadFrom { replica, lag_milliseconds },
        };
        for (words, expected) in [
            ("", Preferences::default()),
            (" notices", asked(true, false, false, None)),
            (" moved  notices moved", asked(true, true, false, None)),
            (" read-from=replica lag-ms=0", asked(false, false, true, Some(0))),
            (" lag-ms=4294967295 read-from=replica read-from=primary", asked(false, false, false, Some(u32::MAX))),
        ] {
            parsed(&format!("hello{words}\r\n"), |request| {
                assert!(matches!(request, Request::Hello(is) if *is == expected), "{words:?}: {request:?}");
            });
            assert_eq!(expected.are_any(), !words.is_empty());
        }
    }

    #[test]
    fn another_word_or_a_bad_number_is_refused() {
        for words in
            ["noreply", "notice", "NOTICES", "read-from=", "read-from=any", "lag-ms=", "lag-ms=-1", "lag-ms=4294967296"]
        {
            let line = format!("hello notices {words}\r\n");
            let mut scratch = [0; 250];
            let parsed = parse(line.as_bytes(), ParseLimits { value_bytes_max: 100 }, &mut scratch);
            let Parsed::Rejected(rejection) = parsed else { panic!("{words}: {parsed:?}") };
            assert_eq!((rejection.refusal, rejection.skip_bytes), (Refusal::BadHello, line.len() as u64), "{words}");
            assert!(rejection.refusal.line().starts_with(b"CLIENT_ERROR hello: "));
        }
    }

    #[test]
    fn byte_for_byte() {
        let mut standing = Standing { cluster: None, map_version: 0, server: "a host:1".into(), shards: 4 };
        let none = "HELLO remora 1 cluster=none map=0 server=a_host:1 shards=4\r\n";
        assert_eq!(lines(|out| greet(out, &standing)), none);
        (standing.cluster, standing.map_version) = (Some("c0ffee".into()), 12);
        standing.server = String::new();
        let some = "HELLO remora 1 cluster=c0ffee map=12 server=_ shards=4\r\n";
        assert_eq!(lines(|out| greet(out, &standing)), some);
        assert_eq!(lines(|out| notice(out, 13)), "NOTICE map 13\r\n");
    }

    #[test]
    fn what_has_moved_is_told_with_what_tells_the_answer_from_others() {
        let owner = Owner { map_version: 12, term: 3, server: "b".into(), clients: "[::1]:11211".into() };
        for (line, behind) in [
            ("get a\r\n", ""),
            ("set a 0 0 1 noreply\r\nx\r\n", ""),
            ("mg a q v\r\n", ""),
            ("mg a v Oxy q k\r\n", " Oxy ka"),
            ("md YQ== b k q t\r\n", " kYQ== b"),
        ] {
            parsed(line, |request| {
                let expected = format!("MOVED 12 7 3 b [::1]:11211{behind}\r\n");
                assert_eq!(lines(|out| moved(out, 7, &owner, request)), expected, "{line:?}");
            });
        }
        assert_eq!(lines(|out| moved_key(out, 7, &owner, b"a")), "MOVED 12 7 3 b [::1]:11211 a\r\n");
    }
}
