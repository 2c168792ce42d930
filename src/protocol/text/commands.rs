//! Every command of memcached 1.6.45, and what becomes of it here. The parser is held to this list,
//! and so is docs/COMPATIBILITY.md.

use super::*;
use crate::protocol::ParseLimits;

/// What becomes of a command.
enum State {
    /// It does what it does in memcached.
    Same,
    /// It does, and how it is better.
    Better(&'static str),
    /// It works, but not quite as in memcached: how.
    Differs(&'static str),
    /// It is answered with this error: why.
    Refused(&'static str, &'static str),
}

use State::{Better, Differs, Refused, Same};

const SLABS: &str = "there are no slab classes: one pool serves all sizes";
const LRU: &str = "there are no LRU lists: what is used again is kept when the log is reclaimed";
const CRAWLER: &str = "there is no crawler: memory of expired items comes back with the log";
const DUMP: &str = "needs no crawler, may stand behind other requests, up to 16 at a time; all items are of class 1, `size` is that of the record";
const WATCH: &str = "may stand behind other requests, and others behind it; microseconds have six digits; all items are of class 1; deletions by packets are among `deletions`, and a fetch is one line; of `sysevents`, `rawcmds` and `proxy*` nothing comes";

/// Known to builds with the feature alone; the page is about those without.
const DEBUGTIME: State = match cfg!(feature = "debugtime") {
    true => Same,
    false => Refused("ERROR", "only memcached's debugging builds know it; here those with the cargo feature debugtime"),
};

/// A request, how the page calls it, and what becomes of it.
const COMMANDS: [(&str, &str, State); 60] = [
    ("get k", "get", Same),
    ("gets k", "gets", Same),
    ("gat 0 k", "gat", Same),
    ("gats 0 k", "gats", Same),
    ("set k 0 0 1\r\nx", "set", Same),
    ("add k 0 0 1\r\nx", "add", Same),
    ("replace k 0 0 1\r\nx", "replace", Same),
    ("append k 0 0 1\r\nx", "append", Same),
    ("prepend k 0 0 1\r\nx", "prepend", Same),
    ("cas k 0 0 1 9\r\nx", "cas", Same),
    ("incr k 1", "incr", Same),
    ("decr k 1", "decr", Same),
    ("touch k 0", "touch", Same),
    ("delete k", "delete", Same),
    ("mg k v", "mg", Same),
    ("ms k 1\r\nx", "ms", Same),
    ("md k", "md", Same),
    ("ma k", "ma", Same),
    ("mn", "mn", Same),
    ("me k", "me", Differs("`cls` is always 1, `size` is that of the record")),
    ("flush_all", "flush_all", Same),
    ("flush_all 10", "flush_all DELAY", Same),
    ("version", "version", Differs("memcached's number, and Remora's behind it")),
    ("verbosity 1", "verbosity LEVEL", Differs("1 logs information, 2 and more debugging; requests are never logged")),
    ("quit", "quit", Same),
    ("stats", "stats", Differs("the rows are in the tables below")),
    ("stats settings", "stats settings", Differs("the rows are in the tables below")),
    ("stats items", "stats items", Differs("one class, with all items in it")),
    ("stats slabs", "stats slabs", Differs("one class, with all items in it")),
    ("stats sizes", "stats sizes", Differs("sizes are not tracked: `sizes_status` is always `disabled`")),
    ("stats conns", "stats conns", Same),
    ("stats reset", "stats reset", Same),
    ("stats extstore", "stats extstore", Same),
    ("stats proxy", "stats proxy", Same),
    ("stats detail on", "stats detail on", Same),
    ("stats detail off", "stats detail off", Same),
    ("stats detail dump", "stats detail dump", Differs("a bounded number of prefixes is counted")),
    ("stats cachedump 1 0", "stats cachedump CLASS N", Better("all items, not the first 2 MiB; all are of class 1")),
    ("lru_crawler metadump all", "lru_crawler metadump all, hash, CLASSES", Better(DUMP)),
    ("lru_crawler mgdump all", "lru_crawler mgdump all, hash, CLASSES", Better(DUMP)),
    ("lru_crawler crawl 1", "lru_crawler crawl CLASSES", Refused("CLIENT_ERROR lru crawler disabled", CRAWLER)),
    ("lru_crawler enable", "lru_crawler enable", Refused("ERROR failed to start lru crawler thread", CRAWLER)),
    ("lru_crawler disable", "lru_crawler disable", Refused("ERROR", CRAWLER)),
    ("lru_crawler tocrawl 9", "lru_crawler tocrawl N", Refused("ERROR", CRAWLER)),
    ("lru_crawler sleep 9", "lru_crawler sleep MICROSECONDS", Refused("ERROR", CRAWLER)),
    ("slabs reassign 1 2", "slabs reassign", Refused("CLIENT_ERROR slab reassignment disabled", SLABS)),
    ("slabs automove 1", "slabs automove", Refused("ERROR", SLABS)),
    ("lru tune 10 20 0.1 2", "lru tune", Refused("ERROR", LRU)),
    ("lru mode flat", "lru mode", Refused("ERROR", LRU)),
    ("lru temp_ttl 9", "lru temp_ttl", Refused("ERROR", LRU)),
    (
        "cache_memlimit 64",
        "cache_memlimit MEGABYTES",
        Differs("up to --memory-max, which is -m where it is not given; not below what items of -I need in each shard"),
    ),
    ("shutdown", "shutdown", Same),
    ("shutdown graceful", "shutdown graceful", Same),
    ("watch fetchers", "watch EVENTS", Differs(WATCH)),
    ("extstore max_frag 1", "extstore", Refused("ERROR", "there is no storage on flash")),
    ("refresh_certs", "refresh_certs", Same),
    ("debugtime p", "debugtime", DEBUGTIME),
    ("debugitem lock k", "debugitem", Refused("ERROR", "only memcached's debugging builds know it")),
    ("misbehave", "misbehave", Refused("ERROR", "only memcached's debugging builds know it")),
    ("nonsense", "anything else", Refused("ERROR", "as in memcached")),
];

#[test]
fn the_parser_takes_what_the_list_says() {
    for (line, _, state) in &COMMANDS {
        let (input, mut scratch) = (format!("{line}\r\n"), [0; KEY_BYTES_MAX]);
        match (parse(input.as_bytes(), ParseLimits { value_bytes_max: 100 }, &mut scratch), state) {
            (Parsed::Request(..), Same | Better(_) | Differs(_)) => {}
            (Parsed::Rejected(rejection), Refused(answer, _)) => {
                assert_eq!(rejection.refusal.line(), format!("{answer}\r\n").as_bytes(), "{line}");
            }
            (parsed, _) => panic!("{line}: {parsed:?}"),
        }
    }
}

#[test]
#[cfg(not(feature = "debugtime"))]
fn the_page_shows_the_list() {
    let mut expected = String::from("| command | here | how, or why |\n| --- | --- | --- |\n");
    for (_, name, state) in &COMMANDS {
        let (word, why) = match state {
            Same => ("same", String::new()),
            Better(how) => ("better", format!(" {how}")),
            Differs(how) => ("differs", format!(" {how}")),
            Refused(answer, why) => ("refused", format!(" `{answer}`: {why}")),
        };
        expected += &format!("| `{name}` | {word} |{why} |\n");
    }
    let page = include_str!("../../../docs/COMPATIBILITY.md");
    assert!(page.contains(&expected), "docs/COMPATIBILITY.md should have:\n{expected}");
}
