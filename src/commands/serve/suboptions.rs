//! What memcached 1.6.45 takes behind `-o`, and what becomes of it here. Pure.

use super::options::{SLABS, State};
use crate::engine::LogSizes;
use crate::server::tls::{Asks, TlsOptions};
use anyhow::{Context, bail, ensure};
use std::ops::RangeInclusive;

/// What stands behind the name.
#[derive(Debug)]
pub enum Value {
    /// Nothing. memcached overlooks what stands there; so it is here.
    None,
    /// A whole number.
    Whole(RangeInclusive<u64>),
    /// The same, or nothing.
    WholeOrNone(RangeInclusive<u64>),
    /// A number above 0.
    Number,
    /// One of these.
    Word(&'static [&'static str]),
    /// Any text.
    Text,
    /// Nothing that matters: memcached does not look at it, or it is refused in any case.
    Any,
}

/// One of memcached's extended options.
#[derive(Debug)]
pub struct Suboption {
    /// Its name.
    pub name: &'static str,
    value: Value,
    /// What becomes of it.
    pub state: State,
}

/// What the names that work say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Extended {
    /// idle_timeout.
    pub idle_timeout_seconds: Option<u32>,
    /// watcher_logbuf_size and worker_logbuf_size.
    pub log_sizes: LogSizes,
    /// ssl_*; None where none of them that works is given.
    pub tls: Option<TlsOptions>,
    /// Names that were given and change nothing.
    pub idle: Vec<&'static str>,
}

const LRU: &str = "there are no LRU lists: what is used again is kept when the log is reclaimed";
const CRAWLER: &str = "there is no crawler: memory of expired items comes back with the log";
const HASH: &str = "the index uses SipHash, against keys made to collide, and grows by itself";
const INDEX: &str = "the index grows with what is stored, a bucket at a time";
const BUFFERS: &str = "unfinished requests and unsent answers have limits of their own";
const PROXY: &str = "there is no proxy; leave it out, and run memcached's own before this server";
const EXTSTORE: &str = "there is no storage on flash; leave it out, and give -m what the items need";
const EXTSTORE_TUNING: &str = "it tunes ext_path, which is refused";
const NEITHER: &str = "memcached ignores it, too";

const U32: RangeInclusive<u64> = 0..=u32::MAX as u64;
/// Up to a GiB.
const LOG_KIBIBYTES: RangeInclusive<u64> = 1..=1 << 20;

/// All of them: of every build of memcached for Linux, and the two that are of other builds.
pub const SUBOPTIONS: [Suboption; 69] = [
    sub("maxconns_fast", Value::None, State::Same),
    sub("no_maxconns_fast", Value::None, State::Idle("a connection beyond -c is always told so and closed")),
    sub("hashpower", Value::Whole(12..=32), State::Idle(INDEX)),
    sub("no_hashexpand", Value::None, State::Idle(INDEX)),
    sub("slab_reassign", Value::None, State::Idle(SLABS)),
    sub("no_slab_reassign", Value::None, State::Idle(SLABS)),
    sub("slab_automove", Value::WholeOrNone(0..=2), State::Idle(SLABS)),
    sub("no_slab_automove", Value::None, State::Idle(SLABS)),
    sub("slab_automove_ratio", Value::Number, State::Idle(SLABS)),
    sub("slab_automove_window", Value::Whole(3..=1800), State::Idle(SLABS)),
    sub("slab_automove_freeratio", Value::Number, State::Idle(SLABS)),
    sub("slab_sizes", Value::Text, State::Idle(SLABS)),
    sub("slab_chunk_max", Value::Whole(1..=1024), State::Idle(SLABS)),
    sub("no_chunked_items", Value::None, State::Idle(SLABS)),
    sub("tail_repair_time", Value::Whole(10..=i32::MAX as u64), State::Idle(LRU)),
    sub("hash_algorithm", Value::Word(&["jenkins", "murmur3", "xxh3"]), State::Idle(HASH)),
    sub("lru_crawler", Value::None, State::Idle(CRAWLER)),
    sub("no_lru_crawler", Value::None, State::Idle(CRAWLER)),
    sub("lru_crawler_sleep", Value::Whole(0..=1_000_000), State::Idle(CRAWLER)),
    sub("lru_crawler_tocrawl", Value::Whole(U32), State::Idle(CRAWLER)),
    sub("lru_maintainer", Value::None, State::Idle(LRU)),
    sub("no_lru_maintainer", Value::None, State::Idle(LRU)),
    sub("hot_lru_pct", Value::Whole(1..=79), State::Idle(LRU)),
    sub("warm_lru_pct", Value::Whole(1..=79), State::Idle(LRU)),
    sub("hot_max_factor", Value::Number, State::Idle(LRU)),
    sub("warm_max_factor", Value::Number, State::Idle(LRU)),
    sub("temporary_ttl", Value::Whole(U32), State::Idle(LRU)),
    sub("idle_timeout", Value::Whole(U32), State::Same),
    sub("watcher_logbuf_size", Value::Whole(LOG_KIBIBYTES), State::Same),
    sub(
        "worker_logbuf_size",
        Value::Whole(LOG_KIBIBYTES),
        State::Differs("for whole entries, each as large as the largest"),
    ),
    sub("track_sizes", Value::None, State::Idle("sizes are not tracked: `stats sizes` says that it is disabled")),
    sub("inline_ascii_resp", Value::None, State::Idle(NEITHER)),
    sub("no_inline_ascii_resp", Value::None, State::Idle(NEITHER)),
    sub("modern", Value::None, State::Idle(NEITHER)),
    sub("no_modern", Value::None, State::Idle("what it switches off is not here")),
    sub("resp_obj_mem_limit", Value::Any, State::Idle(NEITHER)),
    sub("read_buf_mem_limit", Value::Whole(U32), State::Idle(BUFFERS)),
    sub(
        "drop_privileges",
        Value::None,
        State::Refused("no filter of system calls is set up; leave it out, and use SystemCallFilter= of the unit"),
    ),
    sub("no_drop_privileges", Value::None, State::Same),
    sub("relaxed_privileges", Value::None, State::Idle("only memcached's debugging builds know it")),
    sub("sock_cookie_id", Value::Any, State::Refused("Linux has no such numbers; leave it out")),
    sub("ssl_chain_cert", Value::Text, State::Same),
    sub(
        "ssl_key",
        Value::Text,
        State::Differs("better: it is looked for in the file of ssl_chain_cert where it is not given"),
    ),
    sub("ssl_verify_mode", Value::Whole(0..=3), State::Same),
    sub("ssl_keyformat", Value::Whole(1..=2), State::Differs("1 is PEM, 2 is DER; there are no engines")),
    sub(
        "ssl_ciphers",
        Value::Text,
        State::Differs(
            "names of suites of TLS 1.2 with colons between, as OpenSSL has them; no groups like HIGH or !MD5",
        ),
    ),
    sub("ssl_ca_cert", Value::Text, State::Same),
    sub("ssl_wbuf_size", Value::Whole(U32), State::Idle("answers are sealed by up to 64 KiB at a time")),
    sub("ssl_session_cache", Value::None, State::Same),
    sub("ssl_kernel_tls", Value::None, State::Idle("records are sealed in the process")),
    sub("ssl_min_version", Value::Whole(2..=3), State::Differs("TLS 1.0 and 1.1 (0 and 1) are broken, and not served")),
    sub("proxy_config", Value::Any, State::Refused(PROXY)),
    sub("proxy_arg", Value::Any, State::Refused(PROXY)),
    sub("proxy_uring", Value::Any, State::Refused(PROXY)),
    sub("proxy_memprofile", Value::Any, State::Refused(PROXY)),
    sub("ext_path", Value::Any, State::Refused(EXTSTORE)),
    sub("ext_page_size", Value::Whole(U32), State::Idle(EXTSTORE_TUNING)),
    sub("ext_wbuf_size", Value::Whole(U32), State::Idle(EXTSTORE_TUNING)),
    sub("ext_threads", Value::Whole(U32), State::Idle(EXTSTORE_TUNING)),
    sub("ext_io_depth", Value::Whole(U32), State::Idle(EXTSTORE_TUNING)),
    sub("ext_item_size", Value::Whole(U32), State::Idle(EXTSTORE_TUNING)),
    sub("ext_item_age", Value::Whole(U32), State::Idle(EXTSTORE_TUNING)),
    sub("ext_low_ttl", Value::Whole(U32), State::Idle(EXTSTORE_TUNING)),
    sub("ext_recache_rate", Value::Whole(U32), State::Idle(EXTSTORE_TUNING)),
    sub("ext_compact_under", Value::Whole(U32), State::Idle(EXTSTORE_TUNING)),
    sub("ext_drop_under", Value::Whole(U32), State::Idle(EXTSTORE_TUNING)),
    sub("ext_max_sleep", Value::Whole(U32), State::Idle(EXTSTORE_TUNING)),
    sub("ext_max_frag", Value::Number, State::Idle(EXTSTORE_TUNING)),
    sub("ext_drop_unread", Value::None, State::Idle(EXTSTORE_TUNING)),
];

const fn sub(name: &'static str, value: Value, state: State) -> Suboption {
    Suboption { name, value, state }
}

impl Suboption {
    /// How it is written.
    pub fn form(&self) -> String {
        let behind = match &self.value {
            Value::None | Value::Any => String::new(),
            Value::Whole(range) => format!("={}", shown(range)),
            Value::WholeOrNone(range) => format!("[={}]", shown(range)),
            Value::Number => "=NUMBER".to_string(),
            Value::Word(words) => format!("={}", words.join(" or ")),
            Value::Text => "=TEXT".to_string(),
        };
        format!("{}{behind}", self.name)
    }

    /// Whether memcached would take this value.
    fn takes(&self, value: Option<&str>) -> bool {
        let whole = |range: &RangeInclusive<u64>, text: &str| text.parse().is_ok_and(|number| range.contains(&number));
        match (&self.value, value) {
            (Value::None | Value::Any, _) | (Value::Text, Some(_)) | (Value::WholeOrNone(_), None) => true,
            (Value::Whole(range) | Value::WholeOrNone(range), Some(text)) => whole(range, text),
            (Value::Number, Some(text)) => text.parse().is_ok_and(|number: f64| number > 0.0 && number.is_finite()),
            (Value::Word(words), Some(text)) => words.contains(&text),
            (_, None) => false,
        }
    }
}

fn shown(range: &RangeInclusive<u64>) -> String {
    if *range == U32 { "N".to_string() } else { format!("{} to {}", range.start(), range.end()) }
}

/// What `-o` takes, for the help and for errors.
pub fn text() -> String {
    let of = |wanted: fn(&State) -> bool| {
        let names = SUBOPTIONS.iter().filter(|suboption| wanted(&suboption.state));
        names.map(Suboption::form).collect::<Vec<_>>().join(", ")
    };
    format!(
        "memcached's extended options, with commas between. Of use here: {}. Taken without effect: {}. Refused: {}",
        of(|state| matches!(state, State::Same | State::Differs(_))),
        of(|state| matches!(state, State::Idle(_))),
        of(|state| matches!(state, State::Refused(_))),
    )
}

/// Read what stands behind every `-o`. Later ones win.
pub fn read(lists: &[String]) -> anyhow::Result<Extended> {
    let mut extended = Extended::default();
    for one in lists.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|one| !one.is_empty()) {
        let (name, value) = one.split_once('=').map_or((one, None), |(name, value)| (name, Some(value)));
        let known = SUBOPTIONS.iter().find(|suboption| suboption.name == name);
        let suboption =
            known.with_context(|| format!("-o {one} is not known; the nearest is {}. {}", nearest(name), text()))?;
        if let State::Refused(why) = suboption.state {
            bail!("-o {name} is refused: {why}");
        }
        ensure!(suboption.takes(value), "-o {one} cannot be read; write {}", suboption.form());
        match suboption.name {
            "idle_timeout" => extended.idle_timeout_seconds = value.and_then(|seconds| seconds.parse().ok()),
            "watcher_logbuf_size" => extended.log_sizes.watcher_bytes = kibibytes(value),
            "worker_logbuf_size" => extended.log_sizes.ring_bytes = kibibytes(value),
            name if name.starts_with("ssl_") && !matches!(suboption.state, State::Idle(_)) => {
                set_tls(extended.tls.get_or_insert_default(), name, value.unwrap_or_default());
            }
            name if matches!(suboption.state, State::Idle(_)) && !extended.idle.contains(&name) => {
                extended.idle.push(name);
            }
            _ => {}
        }
    }
    Ok(extended)
}

/// In bytes.
fn kibibytes(value: Option<&str>) -> usize {
    value.and_then(|number| number.parse::<usize>().ok()).expect("it was found to be in its range") << 10
}

/// One of those that say how TLS is to be.
fn set_tls(tls: &mut TlsOptions, name: &str, value: &str) {
    match name {
        "ssl_chain_cert" => tls.chain = value.into(),
        "ssl_key" => tls.key = Some(value.into()),
        "ssl_keyformat" => tls.key_is_der = value == "2",
        "ssl_ca_cert" => tls.authorities = Some(value.into()),
        "ssl_ciphers" => tls.suites = Some(value.split(':').map(str::to_string).collect()),
        "ssl_session_cache" => tls.resumes = true,
        "ssl_min_version" => tls.only_13 = value == "3",
        "ssl_verify_mode" => {
            tls.asks = match value {
                "0" => Asks::Never,
                "1" => Asks::IfGiven,
                // 3 is for renegotiation, of which there is none.
                _ => Asks::Always,
            }
        }
        _ => unreachable!("the names of the table that begin like these"),
    }
}

fn nearest(name: &str) -> &'static str {
    let distance = |other: &&str| strsim::damerau_levenshtein(name, other);
    SUBOPTIONS.iter().map(|suboption| suboption.name).min_by_key(distance).expect("there are some")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> anyhow::Result<Extended> {
        read(&[text.to_string()])
    }

    #[test]
    fn what_works_is_read_and_the_rest_is_named() {
        let extended = one("slab_reassign,idle_timeout=7,lru_crawler_sleep=100,slab_reassign,maxconns_fast,").unwrap();
        assert_eq!(extended.idle_timeout_seconds, Some(7));
        assert_eq!(extended.idle, ["slab_reassign", "lru_crawler_sleep"]);
        let twice = read(&["idle_timeout=7".to_string(), "idle_timeout=8".to_string()]).unwrap();
        assert_eq!(twice.idle_timeout_seconds, Some(8));
        assert_eq!(one("").unwrap(), Extended::default());
        let sizes = one("watcher_logbuf_size=8,worker_logbuf_size=16").unwrap().log_sizes;
        assert_eq!(sizes, LogSizes { watcher_bytes: 8 << 10, ring_bytes: 16 << 10 });
    }

    #[test]
    fn values_have_memcacheds_bounds() {
        for good in ["hashpower=12", "slab_automove", "slab_automove=2", "hot_lru_pct=79", "warm_max_factor=0.5"] {
            assert!(one(good).is_ok(), "{good}");
        }
        for wrong in
            ["hashpower=11", "hashpower=33", "hashpower", "slab_automove=3", "hot_lru_pct=80", "warm_max_factor=0"]
        {
            let error = one(wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("-o {wrong} cannot be read; write ")), "{error}");
        }
        assert!(one("hash_algorithm=md5").unwrap_err().to_string().contains("jenkins or murmur3 or xxh3"));
    }

    #[test]
    fn what_is_refused_says_why_and_what_is_unknown_names_the_nearest() {
        for refused in ["ext_path=/x:1G", "proxy_config=routelib", "drop_privileges"] {
            let error = one(refused).unwrap_err().to_string();
            assert!(error.contains("is refused") && error.contains("leave it out"), "{error}");
        }
        let error = one("slab_reasign").unwrap_err().to_string();
        assert!(error.contains("the nearest is slab_reassign.") && error.ends_with(&text()), "{error}");
    }

    #[test]
    fn names_are_there_once() {
        for (at, suboption) in SUBOPTIONS.iter().enumerate() {
            assert!(SUBOPTIONS[..at].iter().all(|other| other.name != suboption.name), "{}", suboption.name);
        }
    }

    proptest! {
        /// Whatever is given is read, or refused with its own words in the error.
        #[test]
        fn no_text_confuses_it(given in "[a-z_=,0-9. -]{0,40}") {
            match one(&given) {
                Ok(extended) => prop_assert!(extended.idle.iter().all(|name| given.contains(name))),
                Err(error) => prop_assert!(error.to_string().starts_with("-o ")),
            }
        }

        /// A list says what its parts say.
        #[test]
        fn a_list_is_its_parts(parts in proptest::collection::vec(0..SUBOPTIONS.len(), 0..6)) {
            let names: Vec<String> = parts.iter().map(|at| SUBOPTIONS[*at].name.to_string()).collect();
            let (together, apart) = (one(&names.join(",")), read(&names));
            prop_assert_eq!(together.map_err(|error| error.to_string()), apart.map_err(|error| error.to_string()));
        }
    }
}
