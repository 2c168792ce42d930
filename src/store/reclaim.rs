//! Reclaim at the tail, in bounded steps, ahead of need.
//!
//! The oldest record is looked at. What is dead, has expired or was flushed goes. What is alive is
//! kept, by appending it again:
//!
//! - **While what is alive for certain fits into three quarters of the log, all of it is kept.**
//!   The other quarter and more is dead or free, so the log comes round. One write then costs at
//!   most some `C / (C - alive)` writes to the log: four, and a tenth more since a part of the rest
//!   is kept free.
//! - **Above that, an item is kept if it was used since it was written** (a second chance, as in
//!   CLOCK: its counter is lowered), and while the budget lasts: half of the bytes that the tail
//!   has passed. Every other item is evicted.
//! - Where a whole lap has gained no room for an append that waits, items are evicted as well.
//! - What is alive for certain ([`super::live`]) leaves out what may have expired, unless a lap of
//!   the log has found it alive.
//! - With `-M` nothing alive is evicted, and the limit on live bytes guarantees that there are gaps
//!   to gain.
//!
//! A step holds the shard's lock and waits for no thread: the freed bytes are released in a later
//! turn (see
//! [`super::shard`]). How much a write looks at grows as free space shrinks ([`Shard::pace`]), so
//! that no write pays for a whole lap.

use super::index::SlotRef;
use super::item::Item;
use super::record::{Draft, Kind, Record, Source};
use super::shard::Shard;
use super::shared::Evicted;
use super::sizing::Budget;
use super::writer::{CREDIT_SHARE_MAX, Goal, Victim, Wanted, Writer};
use crate::base::limits::KEY_BYTES_MAX;
use crate::base::time::UnixSeconds;
use crate::sys::prefetch::prefetch;

/// Bytes looked at in one step, and at least one record: about 500 small records, some 50 us under
/// the lock.
const STEP_BYTES: u64 = 64 << 10;
/// Above three quarters of live bytes, reclaim may append all but this share of what it passes
/// again: one half. With more of it, a write into a cache of used items costs more writes to the
/// log, and hardly more requests are hits (docs/DECISIONS.md has the figures).
const EVICTED_SHARE: u64 = 2;
/// While no live item may be evicted, this share of what is not alive is kept free ahead of the
/// head, and what moving will add to the log.
const FREE_SHARE: u64 = 8;
/// After so many bytes appended the goal is computed anew: some 30 small records.
const GOAL_STRIDE_BYTES: u64 = 4 << 10;
/// Buckets split in one go, so that growth keeps up with any rate of inserts.
const SPLITS_MAX: usize = 4;

impl Shard {
    /// Before a write: keep the free space ahead and the index grown, a bounded amount. True if an
    /// end of the log may have moved.
    pub(super) fn prepare(&self, writer: &mut Writer, now: UnixSeconds) -> bool {
        self.grow_index(writer);
        writer.live.advance(now);
        if self.head() >= writer.goal.until || writer.wanted.bytes > 0 {
            writer.goal = Goal { bytes: self.goal_bytes(writer), until: self.head() + GOAL_STRIDE_BYTES };
        }
        let (free, goal) = (self.free_bytes(writer), writer.goal.bytes);
        let reclaims = free < goal && !self.has_room_for_wanted(writer);
        if reclaims {
            let budget_bytes = self.pace(writer, free);
            self.reclaim_step(writer, now, goal, budget_bytes);
        }
        if self.usable_bytes(writer) < goal {
            self.release(writer);
        }
        writer.paced_head = self.head();
        reclaims
    }

    /// Split buckets while there are too few, a bounded number.
    #[inline]
    pub(super) fn grow_index(&self, held: &Writer) {
        if self.index.wants_growth() {
            self.split_buckets(held);
        }
    }

    /// Out of line: most writes find buckets enough.
    #[inline(never)]
    fn split_buckets(&self, _held: &Writer) {
        for _ in 0..SPLITS_MAX {
            let grows = || self.index.grow(|slot| self.hash_of(&self.record(slot.position(self.head()))));
            if !grows() || !self.index.wants_growth() {
                break;
            }
        }
    }

    /// Once a turn, for a shard that asked for it. True while there is something left to do.
    pub(super) fn maintain(&self, now: UnixSeconds) -> bool {
        if !self.wants_attention() {
            return false;
        }
        let Some(mut writer) = self.try_lock() else {
            return true;
        };
        // Whoever ends the writing takes the wish back, with the lock held.
        if !self.wants_attention() {
            return false;
        }
        let owned_before = writer.mapped.owned();
        writer.live.advance(now);
        self.crawl(&mut writer, now);
        let steps_max = (self.goal_bytes(&writer) / STEP_BYTES + 1).min(8);
        for _ in 0..steps_max {
            let goal_bytes = self.goal_bytes(&writer);
            if self.free_bytes(&writer) < goal_bytes && !self.has_room_for_wanted(&mut writer) {
                self.reclaim_step(&mut writer, now, goal_bytes, STEP_BYTES);
            }
        }
        let moves = self.is_resizing(&writer) && self.move_tail(&mut writer, now);
        self.publish();
        self.release(&mut writer);
        let resizes = self.is_resizing(&writer) && (moves || writer.mapped.owned() != owned_before);
        writer.wanted.rounds = writer.wanted.rounds.saturating_sub(1);
        if writer.wanted.rounds == 0 {
            writer.wanted = Wanted::default();
        }
        let busy = writer.wanted.bytes != 0 || writer.crawl.is_some() || resizes;
        if !busy && !self.is_resizing(&writer) {
            self.want_attention(false);
        }
        busy
    }

    /// The log has not what it is to have, and will once its tail has moved. (One that grows and
    /// may evict waits for the next writes: nothing is evicted for it.)
    pub(super) fn is_resizing(&self, writer: &Writer) -> bool {
        writer.mapped.shrinks() || !self.policy.evict && writer.mapped.is_held_up()
    }

    /// Move the tail on, a step, so that slabs are given back, or more are taken. False where that
    /// brings nothing: all was given up, and nobody looks at it; or what lives would not fit into
    /// what the log is to have, and is not evicted.
    fn move_tail(&self, writer: &mut Writer, now: UnixSeconds) -> bool {
        let is_too_full = writer.live.bytes() > writer.budget.live_bytes_max;
        if writer.mapped.shrinks() && !self.policy.evict && is_too_full {
            return false;
        }
        // What is moved needs room until what it leaves behind is released.
        let budget_bytes = STEP_BYTES.min(self.usable_bytes(writer) / 2);
        self.reclaim_step(writer, now, u64::MAX, budget_bytes);
        writer.released < self.head()
    }

    /// Whether an append waits, and has its room now. Then reclaim must not use that room up for
    /// what it moves. The wait's lap without gain begins anew: if others take the room first,
    /// reclaim goes on.
    #[inline]
    fn has_room_for_wanted(&self, writer: &mut Writer) -> bool {
        if writer.wanted.bytes == 0 {
            return false;
        }
        self.release(writer);
        let has_room = self.usable_bytes(writer) >= writer.wanted.bytes;
        if has_room {
            writer.wanted.since = self.head();
        }
        has_room
    }

    /// Bytes between head and tail: free, or soon to be.
    pub(super) fn free_bytes(&self, writer: &Writer) -> u64 {
        writer.budget.capacity_bytes.saturating_sub(self.head() - self.tail())
    }

    /// How much of that there should be, and twice what an append is waiting for (others append
    /// meanwhile).
    fn goal_bytes(&self, writer: &Writer) -> u64 {
        let Budget { capacity_bytes, ahead_bytes, .. } = writer.budget;
        let ahead_bytes = if self.policy.evict && !self.may_evict(writer) {
            let live = &writer.live;
            let dead_bytes = capacity_bytes.saturating_sub(live.certain_bytes());
            dead_bytes / FREE_SHARE + live.growth_bytes() + self.reserve_bytes(writer)
        } else {
            ahead_bytes
        };
        // Live items that are kept move from the tail to the head, so no more can ever be free than
        // they leave: a goal beyond that would have them circle for ever, each lap using up the
        // room that the one before had freed.
        let live = &writer.live;
        let attainable_bytes = match (self.policy.evict, self.may_evict(writer)) {
            (true, true) => capacity_bytes,
            (true, false) => capacity_bytes.saturating_sub(live.bytes() - live.growth_bytes()),
            (false, _) => capacity_bytes.saturating_sub(live.bytes()),
        };
        (ahead_bytes + 2 * writer.wanted.bytes).min(attainable_bytes / 2).max(writer.wanted.bytes)
    }

    /// Whether live items may be evicted now: there are too many, or a lap has gained no room for
    /// an append that waits. (Where items are large, there may be no room to move them.)
    #[inline]
    pub(super) fn may_evict(&self, writer: &Writer) -> bool {
        let wanted = &writer.wanted;
        self.policy.evict
            && (writer.live.certain_bytes() > writer.budget.kept_bytes_max
                || wanted.bytes > 0 && self.tail() >= wanted.since)
    }

    /// How many bytes of log this write looks at: what the last write appended, times the length of
    /// the log over what is free. So reclaim speeds up as free space shrinks. Wherever in the log
    /// the dead records stand, the tail has come to them before free space ends.
    fn pace(&self, writer: &Writer, free_bytes: u64) -> u64 {
        if free_bytes <= writer.budget.ahead_bytes || writer.wanted.bytes > 0 || self.may_evict(writer) {
            return STEP_BYTES;
        }
        let owed_bytes = (self.head() - writer.paced_head).min(STEP_BYTES);
        (owed_bytes * (writer.budget.capacity_bytes - free_bytes) / free_bytes).min(STEP_BYTES)
    }

    /// Look at the oldest records until so many bytes have been seen, at least one record, or so
    /// many are free.
    fn reclaim_step(&self, writer: &mut Writer, now: UnixSeconds, goal_bytes: u64, budget_bytes: u64) {
        let begin = self.tail();
        let _ = self.move_pending_flush(writer, begin);
        let mut tail = begin;
        while tail < self.head() && tail - begin < budget_bytes.max(1) && self.free_bytes(writer) < goal_bytes {
            let (position, record) = self.settled_record(tail);
            let end = position + record.shape.record_bytes() as u64;
            if !self.may_give_up(writer, end) {
                break;
            }
            let goes = match record.shape.kind() {
                Kind::Set => self.retire(writer, &record, position, now),
                Kind::Flush => self.retire_flush(writer, end),
                Kind::Delete | Kind::Touch | Kind::Term | Kind::Pad => true,
            };
            if !goes {
                break;
            }
            writer.credit += (end - tail) - (end - tail) / EVICTED_SHARE;
            tail = end;
            self.advance_tail(tail);
            writer.live.pass(tail, self.head());
        }
        self.look_ahead(writer, tail);
        let credit_max = (writer.budget.capacity_bytes / CREDIT_SHARE_MAX).max(writer.live.longest_bytes());
        writer.credit = writer.credit.min(credit_max);
    }

    /// Hash the key of the record at `tail`, which the next step will look up, and have its bucket
    /// and the record behind it fetched: a step frees about as much as one append takes, so every
    /// set would wait for both. What is dead is not looked up.
    fn look_ahead(&self, writer: &mut Writer, tail: u64) {
        if tail >= self.head() {
            return;
        }
        let (position, record) = self.settled_record(tail);
        if writer.victim.is_some_and(|victim| victim.position == position) {
            return;
        }
        prefetch(self.log.words_at(position + record.shape.record_bytes() as u64), 1);
        if record.shape.kind() != Kind::Set || record.meta().dead() {
            return;
        }
        let hash = self.hash_of(&record);
        self.index.prefetch(hash);
        writer.victim = Some(Victim { position, hash });
    }

    /// A flush record before `end` goes, once what is pending by it stands in the log again. False
    /// when it must stay where it is, because there is no room for that yet.
    fn retire_flush(&self, writer: &mut Writer, end: u64) -> bool {
        let moved = self.move_pending_flush(writer, end).is_ok();
        // Where no room is due, room must be made: then the shard keeps it in mind, and the next
        // step tries again.
        moved || self.policy.evict && self.tail() <= writer.released
    }

    /// Decide about the item record at the tail. False when it must stay where it is, because there
    /// is no room to move it yet.
    fn retire(&self, writer: &mut Writer, record: &Record<'_>, position: u64, now: UnixSeconds) -> bool {
        let (hash, Some(slot)) = self.slot_of(writer, record, position) else {
            return true;
        };
        let item = self.item((slot, (position, *record)));
        let alive = self.is_alive(&item, now);
        if alive && self.deserves_another_lap(writer, &slot, record.shape.record_bytes() as u64) {
            let reinserted = self.reinsert(writer, &item, hash);
            // What was given up becomes room in a later turn: better to go on then than to lose an
            // item that is to be kept.
            let room_is_due = self.tail() > writer.released;
            if reinserted || !self.policy.evict || room_is_due {
                return reinserted;
            }
        }
        if alive {
            writer.live.found_alive(record.shape, item.expiry());
            if self.evictions.is_wanted() {
                self.tell_of_eviction(&item, now);
            }
        }
        self.unlink(writer, &item, hash, alive);
        true
    }

    #[cold]
    fn tell_of_eviction(&self, item: &Item<'_>, now: UnixSeconds) {
        self.evictions.tell(&Evicted {
            key: item.copy_key(&mut [0; KEY_BYTES_MAX]),
            fetched: item.hit_before(),
            ttl_seconds: item.expiry().remaining(now),
            idle_seconds: item.idle_seconds(now),
            value_bytes: item.value_bytes(),
        });
    }

    /// Take the item out of the index, and count it as evicted or, if it was not alive any more, as
    /// reclaimed.
    pub(super) fn unlink(&self, writer: &mut Writer, item: &Item<'_>, hash: u64, alive: bool) {
        self.index.remove(&item.slot, hash);
        self.bury(writer, item);
        let counts = &mut writer.counts;
        let unfetched = u64::from(!item.hit_before());
        if alive {
            counts.evictions += 1;
            counts.evicted_unfetched += unfetched;
        } else {
            counts.reclaimed += 1;
            counts.expired_unfetched += unfetched;
        }
    }

    /// On a replica: the primary gave up everything below `goal` (at most the head). Unlink its
    /// items, looking at `budget_bytes` of log or a little more, and let go of their bytes. True
    /// when nothing is left to do. No second chance: what the primary gave one stands in the log
    /// again.
    pub(super) fn give_up(&self, writer: &mut Writer, goal: u64, budget_bytes: u64, now: UnixSeconds) -> bool {
        let begin = self.tail();
        let mut tail = begin;
        let done = loop {
            let position = self.log.settle(tail);
            if tail >= goal || position >= goal {
                break true;
            }
            let record = self.record(position);
            let end = position + record.shape.record_bytes() as u64;
            if end > goal {
                break true; // no tail of a log that has this record
            }
            if tail - begin >= budget_bytes.max(1) {
                break false;
            }
            if record.shape.kind() == Kind::Set {
                self.retire_given_up(writer, &record, position, now);
            }
            tail = end;
            self.advance_tail(tail);
            self.look_ahead(writer, tail);
        };
        self.publish();
        self.release(writer);
        done
    }

    fn retire_given_up(&self, writer: &mut Writer, record: &Record<'_>, position: u64, now: UnixSeconds) {
        let (hash, found) = self.slot_of(writer, record, position);
        if let Some(slot) = found {
            let item = self.item((slot, (position, *record)));
            self.unlink(writer, &item, hash, self.is_alive(&item, now));
        }
    }

    /// The hash of the record's key, and the slot that points to this very record, if one does.
    /// What is marked dead has none, and is not hashed.
    #[inline]
    pub(super) fn slot_of(&self, writer: &Writer, record: &Record<'_>, position: u64) -> (u64, Option<SlotRef<'_>>) {
        if record.meta().dead() {
            return (0, None);
        }
        let hash = match writer.victim {
            Some(victim) if victim.position == position => victim.hash,
            _ => self.hash_of(record),
        };
        let is_this = |slot: super::index::Slot| (slot.position(self.head()) == position).then_some(());
        (hash, self.index.find_locked(hash, is_this).map(|(slot, ())| slot))
    }

    fn deserves_another_lap(&self, writer: &Writer, slot: &SlotRef<'_>, record_bytes: u64) -> bool {
        !self.may_evict(writer) || slot.seen.uses() > 0 && writer.credit >= record_bytes
    }

    /// Append the item again, as it is; its CAS, so far made of its old position, becomes explicit.
    /// False if there is no room now. The old record is not marked: the tail passes it before the
    /// lock is let go.
    fn reinsert(&self, writer: &mut Writer, item: &Item<'_>, hash: u64) -> bool {
        let mut key = [0; KEY_BYTES_MAX];
        let key = &mut key[..item.record.shape.key_bytes()];
        item.record.key().copy_to_slice(key);
        let meta = item.record.meta();
        let value = item.value();
        let value = value.in_one_run().map_or(Source::Value(value), Source::Span);
        let draft = Draft::new(Kind::Set, key, meta, item.client_flags(), Some(item.cas()), value);
        let (wanted, parked) = (writer.wanted, writer.counts.parked);
        let appended = self.append(writer, &draft, 0);
        // Reclaim itself is not an append that somebody waits for, nor does it end a wait.
        writer.wanted = wanted;
        writer.counts.parked = parked;
        let Ok((position, _)) = appended else {
            return false;
        };
        let uses = item.slot.seen.uses().saturating_sub(1);
        self.index.replace(&item.slot, hash, position, uses);
        let new_bytes = draft.record_bytes() as u64;
        writer.credit = writer.credit.saturating_sub(new_bytes);
        writer.live.found_alive(item.record.shape, meta.expiry());
        writer.live.add(draft.shape(), meta.expiry());
        writer.live.remove(item.record.shape, meta.expiry());
        writer.counts.reinserted_bytes += new_bytes;
        writer.counts.reinserted_items += 1;
        true
    }
}
