//! The rows of `stats items` and `stats slabs`, in memcached's order. There are no size classes
//! here: tools that walk them find one, with everything in it, and its chunks are as long as the
//! items are on average.

use super::stats_table::{Figures, Stat, idle, number};

pub(super) const SLABS_WHY: &str = "there are no slab classes: one pool serves all sizes";
pub(super) const LRU: &str = "there are no LRU lists: what is used again is kept when the log is reclaimed";
const CRAWLER: &str = "there is no crawler: memory of expired items comes back with the log";

/// Behind `items:1:`.
pub(super) const ITEMS: &[Stat] = &[
    number("number", |figures| figures.now.store.items),
    idle("number_hot", "0", LRU),
    idle("number_warm", "0", LRU),
    number("number_cold", |figures| figures.now.store.items).but("all of them: there are no LRU lists"),
    idle("age_hot", "0", LRU),
    idle("age_warm", "0", LRU),
    number("age", |figures| figures.engine.store.oldest_idle_seconds(figures.time).into())
        .but("of what stands at the tail of a log, which goes next"),
    number("mem_requested", |figures| figures.now.store.item_bytes),
    number("evicted", |figures| figures.now.store.counts.evictions),
    idle("evicted_nonzero", "0", "evictions are not told apart by expiry"),
    idle("evicted_time", "0", LRU),
    number("outofmemory", |figures| figures.now.workers.store_no_memory),
    idle("tailrepairs", "0", LRU),
    number("reclaimed", |figures| figures.now.store.counts.reclaimed),
    number("expired_unfetched", |figures| figures.now.store.counts.expired_unfetched),
    number("evicted_unfetched", |figures| figures.now.store.counts.evicted_unfetched),
    idle("evicted_active", "0", LRU),
    idle("crawler_reclaimed", "0", CRAWLER),
    idle("crawler_items_checked", "0", CRAWLER),
    idle("lrutail_reflocked", "0", LRU),
    idle("moves_to_cold", "0", LRU),
    idle("moves_to_warm", "0", LRU),
    number("moves_within_lru", |figures| figures.now.store.counts.reinserted_items)
        .but("items that were to go, and were kept because they had been used"),
    number("direct_reclaims", |figures| figures.now.store.counts.parked)
        .but("writes that had to wait for memory to be reclaimed"),
    idle("hits_to_hot", "0", LRU),
    idle("hits_to_warm", "0", LRU),
    number("hits_to_cold", |figures| figures.now.workers.get_hits).but("all of them: there are no LRU lists"),
    idle("hits_to_temp", "0", LRU),
];

/// Behind `1:`.
pub(super) const SLABS: &[Stat] = &[
    number("chunk_size", chunk_bytes).but("bytes that an item takes in its log, on average"),
    number("chunks_per_page", |figures| slab_bytes(figures) / chunk_bytes(figures))
        .but("items of that size to a slab of the pool"),
    number("total_pages", |figures| figures.now.store.owned_bytes / slab_bytes(figures))
        .but("slabs that the logs have"),
    number("total_chunks", total_chunks).but("items of that size to the slabs that the logs have"),
    number("used_chunks", |figures| figures.now.store.items).but("items"),
    number("free_chunks", |figures| total_chunks(figures) - figures.now.store.items)
        .but("`total_chunks` less `used_chunks`"),
    idle("free_chunks_end", "0", "memcached shows nothing else, either"),
    number("get_hits", |figures| figures.now.workers.get_hits),
    number("cmd_set", |figures| figures.now.workers.cmd_set),
    number("delete_hits", |figures| figures.now.workers.delete_hits),
    number("incr_hits", |figures| figures.now.workers.incr_hits),
    number("decr_hits", |figures| figures.now.workers.decr_hits),
    number("cas_hits", |figures| figures.now.workers.cas_hits),
    number("cas_badval", |figures| figures.now.workers.cas_badval),
    number("touch_hits", |figures| figures.now.workers.touch_hits),
];

/// Behind the rows of the class.
pub(super) const SLABS_TOTAL: &[Stat] = &[
    number("active_slabs", |_| 1),
    number("total_malloced", |figures| figures.now.store.owned_bytes).but("bytes of the slabs that the logs have"),
];

fn slab_bytes(figures: &Figures<'_>) -> u64 {
    figures.engine.store.pool().slab_bytes()
}

/// What memcached's smallest chunks have, where there is no item.
const CHUNK_BYTES_WITHOUT_ITEMS: u64 = 96;

fn chunk_bytes(figures: &Figures<'_>) -> u64 {
    let store = &figures.now.store;
    store.item_bytes.checked_div(store.items).unwrap_or(CHUNK_BYTES_WITHOUT_ITEMS).max(1)
}

fn total_chunks(figures: &Figures<'_>) -> u64 {
    (figures.now.store.owned_bytes / chunk_bytes(figures)).max(figures.now.store.items)
}
