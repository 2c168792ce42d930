//! The figures that other people's tools take from memcached: they must find them here, under the
//! same names and in the same form.

use crate::memcached;
use crate::support::{Client, Server};
use std::collections::BTreeMap;

/// Names and values of the rows that `line` is answered with.
fn rows(client: &mut Client, line: &str) -> Vec<(String, String)> {
    let rows = client.rows(line);
    let parted = rows.iter().map(|row| {
        let row = row.strip_prefix("STAT ").unwrap_or_else(|| panic!("{line} is answered with {row:?}"));
        let (name, value) = row.split_once(' ').unwrap_or_else(|| panic!("{row:?} has no value"));
        (name.to_string(), value.to_string())
    });
    parted.collect()
}

/// Something of everything, so that no row is left out for want of it.
fn use_it(client: &mut Client) {
    for key in ["a", "b", "c"] {
        assert_eq!(client.set(key, b"5"), "STORED");
    }
    assert_eq!(client.get("a").as_deref(), Some(&b"5"[..]));
    assert_eq!(client.ask("incr a 1"), "6");
    assert_eq!(client.ask("touch a 0"), "TOUCHED");
    assert_eq!(client.ask("delete b"), "DELETED");
}

/// What a tool makes of a row.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Seconds with a fraction, as getrusage tells them.
    Seconds,
    /// yes or no.
    Flag,
    /// Any word.
    Word,
}

use Kind::{Counter, Flag, Gauge, Seconds, Word};

impl Kind {
    fn fits(self, value: &str) -> bool {
        match self {
            Counter | Gauge => value.parse::<f64>().is_ok_and(|number| number.is_finite() && number >= 0.0),
            Seconds => {
                let parts = value.split_once('.');
                parts.is_some_and(|(whole, part)| [whole, part].iter().all(|digits| digits.parse::<u64>().is_ok()))
            }
            Flag => matches!(value, "yes" | "no"),
            Word => !value.is_empty(),
        }
    }
}

/// Every row that prometheus/memcached_exporter reads from plain `stats` (pkg/exporter). It reads
/// those of extstore and of the proxy only where there is one: `extstore_limit_maxbytes` or
/// `proxy_backend_total` would say so, and neither is here.
const EXPORTER_GENERAL: [(&str, Kind); 45] = [
    ("version", Word),
    ("get_hits", Counter),
    ("get_misses", Counter),
    ("delete_hits", Counter),
    ("delete_misses", Counter),
    ("incr_hits", Counter),
    ("incr_misses", Counter),
    ("decr_hits", Counter),
    ("decr_misses", Counter),
    ("cas_hits", Counter),
    ("cas_misses", Counter),
    ("cas_badval", Counter),
    ("touch_hits", Counter),
    ("touch_misses", Counter),
    ("uptime", Counter),
    ("time", Gauge),
    ("cmd_flush", Counter),
    ("cmd_set", Counter),
    ("rusage_user", Seconds),
    ("rusage_system", Seconds),
    ("bytes", Gauge),
    ("limit_maxbytes", Gauge),
    ("curr_items", Gauge),
    ("total_items", Counter),
    ("bytes_read", Counter),
    ("bytes_written", Counter),
    ("curr_connections", Gauge),
    ("total_connections", Counter),
    ("rejected_connections", Counter),
    ("conn_yields", Counter),
    ("listen_disabled_num", Counter),
    ("evictions", Counter),
    ("reclaimed", Counter),
    ("store_too_large", Counter),
    ("store_no_memory", Counter),
    ("lru_crawler_starts", Counter),
    ("direct_reclaims", Counter),
    ("crawler_items_checked", Counter),
    ("crawler_reclaimed", Counter),
    ("moves_to_cold", Counter),
    ("moves_to_warm", Counter),
    ("moves_within_lru", Counter),
    ("accepting_conns", Gauge),
    ("unexpected_napi_ids", Counter),
    ("round_robin_fallback", Counter),
];

/// The same of `stats settings`.
const EXPORTER_SETTINGS: [(&str, Kind); 9] = [
    ("maxconns", Gauge),
    ("lru_crawler", Flag),
    ("lru_crawler_sleep", Gauge),
    ("lru_crawler_tocrawl", Gauge),
    ("lru_maintainer_thread", Flag),
    ("hot_lru_pct", Gauge),
    ("warm_lru_pct", Gauge),
    ("hot_max_factor", Gauge),
    ("warm_max_factor", Gauge),
];

/// The same of each class in `stats items`. Not `number_temp`, which memcached has only with a
/// temporary LRU, nor `store_too_large` and `store_no_memory`, which it has in plain `stats` alone.
const EXPORTER_ITEMS: [(&str, Kind); 24] = [
    ("number", Gauge),
    ("age", Gauge),
    ("hits_to_hot", Counter),
    ("hits_to_warm", Counter),
    ("hits_to_cold", Counter),
    ("hits_to_temp", Counter),
    ("crawler_reclaimed", Counter),
    ("evicted", Counter),
    ("evicted_nonzero", Counter),
    ("evicted_time", Counter),
    ("evicted_unfetched", Counter),
    ("expired_unfetched", Counter),
    ("outofmemory", Counter),
    ("reclaimed", Counter),
    ("tailrepairs", Counter),
    ("mem_requested", Gauge),
    ("moves_to_cold", Counter),
    ("moves_to_warm", Counter),
    ("moves_within_lru", Counter),
    ("number_hot", Gauge),
    ("number_warm", Gauge),
    ("number_cold", Gauge),
    ("age_hot", Gauge),
    ("age_warm", Gauge),
];

/// The same of each class in `stats slabs`. Not `mem_requested`, which memcached 1.6.45 has in
/// `stats items` alone.
const EXPORTER_SLABS: [(&str, Kind); 15] = [
    ("get_hits", Counter),
    ("delete_hits", Counter),
    ("incr_hits", Counter),
    ("decr_hits", Counter),
    ("cas_hits", Counter),
    ("touch_hits", Counter),
    ("cas_badval", Counter),
    ("cmd_set", Counter),
    ("chunk_size", Gauge),
    ("chunks_per_page", Gauge),
    ("total_pages", Gauge),
    ("total_chunks", Gauge),
    ("used_chunks", Gauge),
    ("free_chunks", Gauge),
    ("free_chunks_end", Gauge),
];

#[test]
fn whatever_the_exporter_of_prometheus_reads_is_there() {
    let server = Server::start(&["-t", "2"]);
    let mut client = server.connect();
    use_it(&mut client);
    for (line, before, table) in [
        ("stats", "", &EXPORTER_GENERAL[..]),
        ("stats settings", "", &EXPORTER_SETTINGS),
        ("stats items", "items:1:", &EXPORTER_ITEMS),
        ("stats slabs", "1:", &EXPORTER_SLABS),
        ("stats slabs", "", &[("active_slabs", Gauge), ("total_malloced", Gauge)]),
    ] {
        let rows: BTreeMap<_, _> = rows(&mut client, line).into_iter().collect();
        for (name, kind) in table {
            let value = rows.get(&format!("{before}{name}")).unwrap_or_else(|| panic!("no {before}{name} in {line}"));
            assert!(kind.fits(value), "{line}: {before}{name} is {value:?}, which is no {kind:?}");
        }
    }
}

#[test]
fn memcacheds_rows_are_all_there_in_its_order() {
    let Some(version) = memcached::version() else {
        assert!(std::env::var_os("CI").is_none(), "in CI memcached must be there: {}", memcached::REMEDY);
        println!("skipped: there is no memcached ({})", memcached::REMEDY);
        return;
    };
    assert!(version.ends_with(" 1.6.45"), "the rows are compared with those of 1.6.45, not {version}");
    // With an idle timeout it has idle_kicks, too.
    let arguments = ["-m", "64", "-o", "idle_timeout=60"];
    let (theirs, ours) = (memcached::Memcached::start(&arguments), Server::start(&arguments));
    let (mut theirs, mut ours) = (Client::tcp(theirs.address), ours.connect());
    use_it(&mut theirs);
    use_it(&mut ours);
    for line in ["stats", "stats settings", "stats items", "stats slabs"] {
        let names = |client: &mut Client| -> Vec<String> { rows(client, line).into_iter().map(|row| row.0).collect() };
        let (theirs, mut ours) = (names(&mut theirs), names(&mut ours));
        assert!(theirs.len() >= 17, "{line}: {theirs:?}");
        let missing: Vec<&String> = theirs.iter().filter(|name| !ours.contains(name)).collect();
        assert!(missing.is_empty(), "{line} lacks {missing:?}");
        ours.retain(|name| theirs.contains(name));
        assert_eq!(ours, theirs, "{line}: the order");
    }
    for state in ["conn_listening", "conn_parse_cmd"] {
        assert_eq!(fields(&mut ours, state), fields(&mut theirs, state), "{state}");
    }
}

/// What `stats conns` tells of a connection in this state.
fn fields(client: &mut Client, state: &str) -> Vec<String> {
    let rows = rows(client, "stats conns");
    let is_it = |row: &&(String, String)| row.0.ends_with(":state") && row.1 == state;
    let (name, _) = rows.iter().find(is_it).unwrap_or_else(|| panic!("no {state} in {rows:?}"));
    let before = name.strip_suffix("state").expect("so it was found");
    rows.iter().filter_map(|row| row.0.strip_prefix(before)).map(str::to_string).collect()
}

/// Both count them; here an item that has gone counts until the log has given it up.
#[test]
fn misses_are_told_apart() {
    let server = Server::start(&["-t", "1"]);
    let mut client = server.connect();
    assert_eq!(client.set("flushed", b"value"), "STORED");
    assert_eq!(client.ask("flush_all"), "OK");
    client.send(b"set expired 0 -1 5\r\nvalue\r\n");
    assert_eq!(client.line(), "STORED");
    for key in ["flushed", "expired", "never"] {
        assert_eq!(client.get(key), None);
        assert_eq!(client.ask(&format!("mg {key} v")), "EN");
    }
    for (name, count) in [("get_misses", 6), ("get_expired", 2), ("get_flushed", 2), ("get_hits", 0)] {
        assert_eq!(server.stat(name).expect(name), count.to_string(), "{name}");
    }
}

/// memcached takes the start of these words for the whole.
#[test]
fn subjects_may_be_cut_short_as_in_memcached() {
    let server = Server::start(&["-t", "1"]);
    let mut client = server.connect();
    let settings = client.rows("stats settings");
    assert_eq!(client.rows("stats se"), settings);
    assert!(client.rows("stats co").iter().any(|row| row.ends_with("conn_listening")));
    assert_eq!(client.ask("stats r"), "RESET");
    assert_eq!(client.ask("stats de"), "CLIENT_ERROR usage: stats detail on|off|dump");
    for line in ["stats item", "stats slab", "stats size", "stats resets"] {
        assert_eq!(client.ask(line), "ERROR", "{line}");
    }
}
