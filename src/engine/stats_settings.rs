//! The rows of `stats settings` that memcached 1.6.45 has, in its order. What the server says of
//! its command line comes first; the tables say what is shown where it says nothing.

use super::stats_classes::{LRU, SLABS_WHY};
use super::stats_table::{Stat, given, idle, number, text};

const EXTSTORE: &str = "there is no storage on flash";
const PROXY: &str = "there is no proxy";
const CRAWLER: &str = "there is no crawler; `lru_crawler metadump` and `mgdump` need none";
const MEMORY: &str = "unfinished requests and unsent answers have limits of their own";

/// See the module.
pub(super) const SETTINGS: &[Stat] = &[
    number("maxbytes", |figures| figures.now.store.capacity_bytes),
    given("maxconns"),
    given("tcpport"),
    given("udpport"),
    given("inter"),
    number("verbosity", |_| verbosity()),
    idle("oldest", "0", "a flush stands in the log"),
    given("evictions"),
    given("domain_socket"),
    given("umask"),
    text("shutdown_command", |figures| yes(figures.engine.switches.shutdown)),
    idle("growth_factor", "1.25", SLABS_WHY),
    idle("chunk_size", "48", SLABS_WHY),
    number("num_threads", |figures| figures.workers()),
    number("num_threads_per_udp", |figures| figures.workers()),
    text("stat_key_prefix", |figures| char::from(figures.engine.prefixes.delimiter()).to_string()),
    text("detail_enabled", |figures| yes(figures.engine.prefixes.is_enabled())),
    given("reqs_per_event"),
    given("cas_enabled").but("always yes: every item has its number, -C or not"),
    given("tcp_backlog"),
    given("binding_protocol"),
    given("auth_enabled_sasl"),
    given("auth_enabled_ascii"),
    number("item_size_max", |figures| figures.engine.settings.item_bytes_max as u64),
    idle("maxconns_fast", "yes", "a connection beyond -c is always told so and closed"),
    idle("hashpower_init", "0", "the index grows with what is stored, a bucket at a time"),
    idle("slab_reassign", "no", SLABS_WHY),
    idle("slab_automove", "0", SLABS_WHY),
    idle("slab_automove_ratio", "0.80", SLABS_WHY),
    idle("slab_automove_window", "10", SLABS_WHY),
    number("slab_chunk_max", |figures| figures.engine.settings.item_bytes_max as u64)
        .but("`item_size_max`: no item is cut into chunks"),
    idle("lru_crawler", "no", CRAWLER),
    idle("lru_crawler_sleep", "100", CRAWLER),
    idle("lru_crawler_tocrawl", "0", CRAWLER),
    idle("tail_repair_time", "0", LRU),
    text("flush_enabled", |figures| yes(figures.engine.switches.flush)),
    text("dump_enabled", |figures| yes(figures.engine.switches.dumps)),
    idle("hash_algorithm", "siphash13", "against keys made to collide"),
    idle("lru_maintainer_thread", "no", LRU),
    idle("lru_segmented", "no", LRU),
    idle("hot_lru_pct", "20", LRU),
    idle("warm_lru_pct", "40", LRU),
    idle("hot_max_factor", "0.20", LRU),
    idle("warm_max_factor", "2.00", LRU),
    idle("temp_lru", "no", LRU),
    idle("temporary_ttl", "61", LRU),
    given("idle_timeout"),
    number("watcher_logbuf_size", |figures| figures.engine.watch.sizes().watcher_bytes as u64),
    number("worker_logbuf_size", |figures| figures.engine.watch.sizes().ring_bytes as u64),
    idle("read_buf_mem_limit", "0", MEMORY),
    idle("track_sizes", "no", "sizes are not tracked"),
    idle("inline_ascii_response", "no", "memcached ignores it, too"),
    idle("ext_item_size", "512", EXTSTORE),
    idle("ext_item_age", "4294967295", EXTSTORE),
    idle("ext_low_ttl", "0", EXTSTORE),
    idle("ext_recache_rate", "2000", EXTSTORE),
    idle("ext_wbuf_size", "4194304", EXTSTORE),
    idle("ext_compact_under", "0", EXTSTORE),
    idle("ext_drop_under", "0", EXTSTORE),
    idle("ext_max_sleep", "1000000", EXTSTORE),
    idle("ext_max_frag", "0.80", EXTSTORE),
    idle("slab_automove_freeratio", "0.010", EXTSTORE),
    idle("ext_drop_unread", "no", EXTSTORE),
    given("ssl_enabled"),
    given("ssl_chain_cert"),
    given("ssl_key"),
    given("ssl_verify_mode"),
    given("ssl_keyformat"),
    given("ssl_ciphers"),
    given("ssl_ca_cert"),
    idle("ssl_wbuf_size", "16384", "answers are sealed by up to 64 KiB at a time"),
    given("ssl_session_cache"),
    idle("ssl_kernel_tls", "no", "records are sealed in the process"),
    given("ssl_min_version"),
    idle("proxy_enabled", "no", PROXY),
    idle("proxy_uring_enabled", "no", PROXY),
    idle("num_napi_ids", "0", "the kernel spreads connections over the workers' own sockets"),
    idle("memory_file", "(null)", "the memory ends with the process"),
    number("client_flags_size", |_| size_of::<u32>() as u64),
];

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_string()
}

/// What -v or the command verbosity has set.
fn verbosity() -> u64 {
    match log::max_level() {
        log::LevelFilter::Off | log::LevelFilter::Error | log::LevelFilter::Warn => 0,
        log::LevelFilter::Info => 1,
        log::LevelFilter::Debug | log::LevelFilter::Trace => 2,
    }
}
