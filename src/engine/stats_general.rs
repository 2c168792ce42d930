//! The rows of plain `stats` that memcached 1.6.45 has, in its order.

use super::stats_classes::{LRU, SLABS_WHY};
use super::stats_table::{Figures, Stat, idle, number, text};
use crate::base::limits::{OTHER_FILES_MAX, OTHER_FILES_PER_WORKER, READ_BUFFER_BYTES, READS_AHEAD_MAX};
use crate::protocol::VERSION;
use std::sync::atomic::Ordering::Relaxed;

const CRAWLER: &str = "there is no crawler: memory of expired items comes back with the log";
const LISTEN: &str = "a connection beyond -c is told so and closed; listening never stops";
const SPREAD: &str = "the kernel spreads connections over the workers' own sockets";

/// See the module.
pub(super) const GENERAL: &[Stat] = &[
    number("pid", |_| std::process::id().into()),
    number("uptime", |figures| figures.engine.started.elapsed().as_secs()),
    number("time", |figures| figures.time.0.into()),
    text("version", |_| VERSION.to_string()).but("memcached's number, and Remora's behind it"),
    idle("libevent", "none", "the event loop is Remora's own"),
    number("pointer_size", |_| usize::BITS.into()),
    text("rusage_user", |figures| format!("{:.6}", figures.cpu_seconds.0)),
    text("rusage_system", |figures| format!("{:.6}", figures.cpu_seconds.1)),
    text("max_connections", |figures| figures.engine.setting("maxconns").unwrap_or_default().to_string()),
    number("curr_connections", connections),
    number("total_connections", |figures| figures.now.total_connections),
    number("rejected_connections", |figures| figures.now.rejected_connections),
    number("connection_structures", connections).but("as many as are open: what has gone leaves nothing behind"),
    idle("response_obj_oom", "0", "answers are bytes of their connection, not objects"),
    idle("response_obj_count", "0", "answers are bytes of their connection, not objects"),
    number("response_obj_bytes", |figures| figures.engine.global.output_held_bytes.load(Relaxed))
        .but("bytes that unsent answers hold, as `output_held_bytes`"),
    number("read_buf_count", read_buffers).but("the workers' own; a connection that waits has none"),
    number("read_buf_bytes", |figures| read_buffers(figures) * READ_BUFFER_BYTES as u64)
        .but("of the workers' own; `input_held_bytes` is what unfinished requests hold"),
    number("read_buf_bytes_free", |figures| read_buffers(figures) * READ_BUFFER_BYTES as u64)
        .but("all of `read_buf_bytes`: none is in use between two turns"),
    number("read_buf_oom", |figures| figures.now.workers.input_refused)
        .but("requests refused because unfinished ones held too much memory, as `input_refused`"),
    number("reserved_fds", |figures| OTHER_FILES_MAX + OTHER_FILES_PER_WORKER * figures.workers()),
    number("cmd_get", |figures| figures.now.workers.cmd_get),
    number("cmd_set", |figures| figures.now.workers.cmd_set),
    number("cmd_flush", |figures| figures.now.workers.cmd_flush),
    number("cmd_touch", |figures| figures.now.workers.cmd_touch),
    number("cmd_meta", |figures| figures.now.workers.cmd_meta).but("me alone: the others count as what they do"),
    number("get_hits", |figures| figures.now.workers.get_hits),
    number("get_misses", |figures| figures.now.workers.get_misses),
    number("get_expired", |figures| figures.now.workers.get_expired)
        .but("each get that misses for it, until the log has given the item up"),
    number("get_flushed", |figures| figures.now.workers.get_flushed)
        .but("each get that misses for it, until the log has given the item up"),
    number("delete_misses", |figures| figures.now.workers.delete_misses),
    number("delete_hits", |figures| figures.now.workers.delete_hits),
    number("incr_misses", |figures| figures.now.workers.incr_misses),
    number("incr_hits", |figures| figures.now.workers.incr_hits),
    number("decr_misses", |figures| figures.now.workers.decr_misses),
    number("decr_hits", |figures| figures.now.workers.decr_hits),
    number("cas_misses", |figures| figures.now.workers.cas_misses),
    number("cas_hits", |figures| figures.now.workers.cas_hits),
    number("cas_badval", |figures| figures.now.workers.cas_badval),
    number("touch_hits", |figures| figures.now.workers.touch_hits),
    number("touch_misses", |figures| figures.now.workers.touch_misses),
    number("store_too_large", |figures| figures.now.workers.store_too_large),
    number("store_no_memory", |figures| figures.now.workers.store_no_memory),
    number("auth_cmds", |figures| figures.now.workers.auth_cmds),
    number("auth_errors", |figures| figures.now.workers.auth_errors),
    number("idle_kicks", |figures| figures.now.workers.idle_kicks).but("there without -o idle_timeout, too"),
    number("bytes_read", |figures| figures.now.workers.bytes_read),
    number("bytes_written", |figures| figures.now.workers.bytes_written),
    number("limit_maxbytes", |figures| figures.now.store.capacity_bytes),
    idle("accepting_conns", "1", LISTEN),
    idle("listen_disabled_num", "0", LISTEN),
    idle("time_in_listen_disabled_us", "0", LISTEN),
    number("threads", |figures| figures.workers()),
    number("conn_yields", |figures| figures.now.workers.conn_yields),
    number("hash_power_level", |figures| figures.now.store.index_buckets.max(1).ilog2().into())
        .but("of the buckets of all shards together"),
    number("hash_bytes", |figures| figures.now.store.index_bytes),
    idle("hash_is_expanding", "0", "the index grows with what is stored, a bucket at a time"),
    idle("slab_reassign_rescues", "0", SLABS_WHY),
    idle("slab_reassign_chunk_rescues", "0", SLABS_WHY),
    idle("slab_reassign_inline_reclaim", "0", SLABS_WHY),
    idle("slab_reassign_busy_items", "0", SLABS_WHY),
    idle("slab_reassign_busy_deletes", "0", SLABS_WHY),
    idle("slab_reassign_busy_nomem", "0", SLABS_WHY),
    idle("slab_reassign_last_busy_status", "none", SLABS_WHY),
    idle("slab_reassign_running", "0", SLABS_WHY),
    idle("slabs_moved", "0", SLABS_WHY),
    number("lru_crawler_running", |figures| figures.engine.dumps.are_under_way(figures.time).into())
        .but("1 while a dump is under way: there is no crawler"),
    number("lru_crawler_starts", |figures| figures.now.workers.dumps).but("dumps begun: there is no crawler"),
    idle("lru_maintainer_juggles", "0", LRU),
    idle(
        "malloc_fails",
        "0",
        "memory for items is had at the start; where none is left for anything else, the process ends",
    ),
    number("log_worker_dropped", |figures| figures.now.watch.dropped),
    number("log_worker_written", |figures| figures.now.watch.written),
    number("log_watcher_skipped", |figures| figures.now.watch.skipped),
    number("log_watcher_sent", |figures| figures.now.watch.sent),
    number("log_watchers", |figures| figures.now.watch.watchers),
    idle("unexpected_napi_ids", "0", SPREAD),
    idle("round_robin_fallback", "0", SPREAD),
    number("bytes", |figures| figures.now.store.item_bytes),
    number("curr_items", |figures| figures.now.store.items),
    number("total_items", |figures| figures.now.store.counts.total_items),
    number("slab_global_page_pool", free_slabs).but("slabs of the pool that no log has"),
    number("expired_unfetched", |figures| figures.now.store.counts.expired_unfetched),
    number("evicted_unfetched", |figures| figures.now.store.counts.evicted_unfetched),
    idle("evicted_active", "0", LRU),
    number("evictions", |figures| figures.now.store.counts.evictions),
    number("reclaimed", |figures| figures.now.store.counts.reclaimed),
    idle("crawler_reclaimed", "0", CRAWLER),
    idle("crawler_items_checked", "0", CRAWLER),
    idle("lrutail_reflocked", "0", LRU),
    idle("moves_to_cold", "0", LRU),
    idle("moves_to_warm", "0", LRU),
    number("moves_within_lru", |figures| figures.now.store.counts.reinserted_items)
        .but("items that were to go, and were kept because they had been used"),
    number("direct_reclaims", |figures| figures.now.store.counts.parked)
        .but("writes that had to wait for memory to be reclaimed, as `park_waits`"),
    idle("lru_bumps_dropped", "0", LRU),
];

fn connections(figures: &Figures<'_>) -> u64 {
    let global = &figures.engine.global;
    global.client_connections.load(Relaxed) + global.operator_connections.load(Relaxed)
}

fn read_buffers(figures: &Figures<'_>) -> u64 {
    (READS_AHEAD_MAX as u64 + 1) * figures.workers()
}

fn free_slabs(figures: &Figures<'_>) -> u64 {
    let store = &figures.now.store;
    store.pool_bytes.saturating_sub(store.owned_bytes) / figures.engine.store.pool().slab_bytes()
}
