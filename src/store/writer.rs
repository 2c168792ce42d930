//! What a shard's lock guards: what a writer must know that no reader does.

use super::crawl::Crawl;
use super::flush::PendingFlush;
use super::line::BIRTH;
use super::live::Live;
use super::log::Log;
use super::mapped::Mapped;
use super::sizing::Budget;
use super::stats::Counts;
use crate::sys::quiescence::Era;

/// What the shard's lock guards.
pub struct Writer {
    /// Which of the log has memory.
    pub(super) mapped: Mapped,
    /// What follows from the log's capacity.
    pub(super) budget: Budget,
    /// Bytes below may be overwritten.
    pub(super) released: u64,
    /// A tail that was given up, and when its bytes may be reused.
    pub(super) awaited: Option<(u64, Era)>,
    /// The largest append that found no room.
    pub(super) wanted: Wanted,
    /// `-M`: an item was refused; expired ones are looked for.
    pub(super) crawl: Option<Crawl>,
    /// The record that reclaim will look at next, if it knows.
    pub(super) victim: Option<Victim>,
    /// Bytes that reclaim may still append again, where it may evict.
    pub(super) credit: u64,
    /// What of the log is alive.
    pub(super) live: Live,
    /// Items below this position were flushed.
    pub(super) flushed_below: u64,
    /// What is to be flushed later.
    pub(super) pending_flush: Option<PendingFlush>,
    /// What reclaim keeps free.
    pub(super) goal: Goal,
    /// The head when reclaim last looked: what was appended since, it owes.
    pub(super) paced_head: u64,
    pub(super) counts: Counts,
    /// The guard lets everything below go; see [`super::retain`].
    pub(super) floor: u64,
    /// What the tail has passed is counted from here: where the log was born, or (modulo 2^64) as
    /// if it had been when a replica jumps.
    pub(super) counted_from: u64,
}

/// So much is to be free ahead of the head.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Goal {
    pub bytes: u64,
    /// Computed anew when the head has come here.
    pub until: u64,
}

/// An append that waits for room.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    /// 0: none waits.
    pub bytes: u64,
    /// For how many more rounds of maintenance it counts.
    pub rounds: u32,
    /// The head when there was no room for it any more: once the tail has come to it, a lap has
    /// gained nothing.
    pub since: u64,
}

/// A record at the tail, and its key's hash, computed ahead.
#[derive(Clone, Copy)]
pub struct Victim {
    pub(super) position: u64,
    pub(super) hash: u64,
}

impl Writer {
    /// Of a log that nothing was appended to, and that may have `capacity` slabs.
    pub(super) fn new(log: &Log, capacity: u32, budget: Budget) -> Writer {
        Writer {
            mapped: Mapped::new(log, BIRTH, capacity),
            budget,
            released: BIRTH,
            awaited: None,
            wanted: Wanted::default(),
            crawl: None,
            victim: None,
            credit: budget.capacity_bytes / CREDIT_SHARE_MAX,
            live: Live::new(),
            flushed_below: 0,
            pending_flush: None,
            goal: Goal::default(),
            paced_head: BIRTH,
            counts: Counts::default(),
            floor: 0,
            counted_from: BIRTH,
        }
    }
}

/// The credit for second chances that can be saved up: one part in so many of the capacity.
pub(super) const CREDIT_SHARE_MAX: u64 = 16;
