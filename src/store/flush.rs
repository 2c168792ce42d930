//! flush_all, now and at a second to come.
//!
//! Each log has a record of it ([`super::record::Kind::Flush`]). One without a due second takes
//! every item before it. One with a due second says that the flush is **pending**. A shard has one
//! pending flush at a time: a later flush, now or at another second, takes its place. So what is
//! pending follows from the log, as the items do, and a replica that is promoted goes on with it.
//!
//! **When it is due**, who takes the shard's writes appends a record that takes what is before it,
//! ahead of anything else that is read or written there. A shard whose gate is closed waits for
//! that record, whatever its own clock says.
//!
//! **Reclaim** appends the record of a pending flush again, as it does with items, before the tail
//! passes it. A replica may have passed it and not have seen the next one yet: it keeps in mind
//! what is pending, and appends the record itself when it begins a term.
//!
//! Every command asks whether a flush is due. So the earliest second of all shards that take writes
//! here stands in one word.

use super::line::BIRTH;
use super::record::{Draft, Kind, Meta, Record};
use super::shard::Shard;
use super::writer::Writer;
use super::{Appended, NoRoom, Store, Turn, Unwritten};
use crate::base::time::{Expiry, UnixSeconds};
use crate::sys::sync::{AtomicU64, Mutex, MutexGuard, Ordering::Relaxed};

/// A flush that is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PendingFlush {
    /// From this second on.
    pub due: UnixSeconds,
    /// Where its record stands, or stood: the tail may have passed it.
    pub position: u64,
}

/// Which shards a flush_all is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// All: one that takes no writes here is an error.
    All,
    /// Those that take writes here.
    Own,
}

/// Later than every second, which has 32 bits.
const NEVER: u64 = u64::MAX;

/// What the pending flushes of a store have in common.
pub(super) struct Flushes {
    /// No later than the earliest due second of a shard that takes writes; [`NEVER`] for none. It
    /// may be that of a shard which takes none any more: whoever finds it due sets it right.
    soonest: AtomicU64,
    /// Held by who changes it, from before a shard's pending flush or gate changes, or while it is
    /// open.
    changing: Mutex<()>,
}

impl Flushes {
    pub(super) fn new() -> Flushes {
        Flushes { soonest: AtomicU64::new(NEVER), changing: Mutex::new(()) }
    }

    pub(super) fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().expect("no thread panics while it changes what is pending")
    }

    /// A shard that takes writes, or is about to, has this pending.
    pub(super) fn count(&self, pending: Option<PendingFlush>, _changing: &MutexGuard<'_, ()>) {
        let Some(PendingFlush { due, .. }) = pending else { return };
        if u64::from(due.0) < self.soonest.load(Relaxed) {
            self.soonest.store(due.0.into(), Relaxed);
        }
    }
}

impl Flushes {
    /// This is the earliest of all. In one store: nobody finds none in between.
    fn set_soonest(&self, due: Option<UnixSeconds>, _changing: &MutexGuard<'_, ()>) {
        self.soonest.store(due.map_or(NEVER, |due| due.0.into()), Relaxed);
    }
}

impl Store {
    /// flush_all, now: every item written before this is gone. After an error some shards are
    /// flushed; where there was no room, try again in the next turn.
    pub fn flush(&self, turn: &Turn<'_>, which: Flushed) -> Result<(), Unwritten> {
        self.flush_each(turn, which, |shard, writer| shard.flush(writer))
    }

    /// flush_all at a second to come, in place of what is pending. In an empty log as well: what is
    /// written there until then is to go. Errors are as for [`Store::flush`]. A shard in which a
    /// flush at this second is pending is left as it is: so it may be tried again until all have
    /// room.
    pub fn flush_at(&self, turn: &Turn<'_>, due: UnixSeconds, which: Flushed) -> Result<(), Unwritten> {
        self.flush_each(turn, which, |shard, writer| {
            if writer.pending_flush.is_some_and(|pending| pending.due == due) {
                return Ok(());
            }
            let reserve_bytes = shard.reserve_bytes(writer);
            shard.append_pending_flush(writer, due, reserve_bytes)
        })
    }

    fn flush_each(
        &self,
        turn: &Turn<'_>,
        which: Flushed,
        write: impl Fn(&Shard, &mut Writer) -> Result<(), NoRoom>,
    ) -> Result<(), Unwritten> {
        let changing = self.flushes.change();
        turn.note.set(Appended::Widely);
        let written = self.shards.iter().try_for_each(|shard| {
            let mut writer = match shard.lock_open() {
                Err(_) if which == Flushed::Own => return Ok(()),
                locked => locked?,
            };
            turn.note.touched.add(shard.number);
            Ok(write(shard, &mut writer)?)
        });
        self.count_pending_flushes(&changing);
        written
    }

    /// Whether a pending flush may be due.
    #[inline]
    pub fn is_flush_due(&self, now: UnixSeconds) -> bool {
        self.flushes.soonest.load(Relaxed) <= u64::from(now.0)
    }

    /// Flush each shard that takes writes here and whose pending flush is due. Before anything else
    /// is done there. Where one shard has no room, the others are flushed all the same.
    #[cold]
    pub fn flush_what_is_due(&self, turn: &Turn<'_>, now: UnixSeconds) -> Result<(), NoRoom> {
        let changing = self.flushes.change();
        let mut flushed = Ok(());
        for shard in &*self.shards {
            let Ok(mut writer) = shard.lock_open() else { continue };
            if writer.pending_flush.is_some_and(|pending| pending.due <= now) {
                turn.note.touched.add(shard.number);
                flushed = flushed.and(shard.flush(&mut writer));
            }
        }
        self.count_pending_flushes(&changing);
        flushed
    }

    fn count_pending_flushes(&self, changing: &MutexGuard<'_, ()>) {
        let pending = |shard: &Shard| shard.lock_open().ok().and_then(|writer| writer.pending_flush);
        let soonest = self.shards.iter().filter_map(pending).map(|pending| pending.due).min();
        self.flushes.set_soonest(soonest, changing);
    }
}

impl Shard {
    /// Everything written so far is gone.
    fn flush(&self, writer: &mut Writer) -> Result<(), NoRoom> {
        if self.head() == BIRTH {
            return Ok(()); // nothing was, and a record would take a slab
        }
        let draft = Draft::of_key(Kind::Flush, b"", Default::default());
        // One that is tried again, because another shard had no room, finds its own record.
        let was_flushed = writer.flushed_below + draft.record_bytes() as u64 == self.head();
        if was_flushed && writer.pending_flush.is_none() {
            return Ok(());
        }
        let (position, _) = self.append(writer, &draft, 0)?;
        self.note_flush(writer, position);
        Ok(())
    }

    fn append_pending_flush(&self, writer: &mut Writer, due: UnixSeconds, reserve_bytes: u64) -> Result<(), NoRoom> {
        let meta = Meta::default().with_expiry(Expiry::at(due));
        let (position, _) = self.append(writer, &Draft::of_key(Kind::Flush, b"", meta), reserve_bytes)?;
        writer.pending_flush = Some(PendingFlush { due, position });
        Ok(())
    }

    /// What a flush record at `position` means.
    pub(super) fn replay_flush(&self, writer: &mut Writer, record: &Record<'_>, position: u64) {
        match record.flush_due() {
            None => self.note_flush(writer, position),
            Some(due) => writer.pending_flush = Some(PendingFlush { due, position }),
        }
    }

    /// What stands below `position` is no item.
    pub(super) fn set_flushed_below(&self, writer: &mut Writer, position: u64) {
        writer.flushed_below = position;
        self.flushed_below.store(position, Relaxed);
    }

    fn note_flush(&self, writer: &mut Writer, position: u64) {
        writer.flushed_below = position;
        // While nothing is to be seen, that stays so.
        self.flushed_below.fetch_max(position, Relaxed);
        writer.pending_flush = None;
        writer.live.clear();
    }

    /// Everything below `tail` is given up: a pending flush whose record stands there is appended
    /// again. Err where there is no room.
    #[inline]
    pub(super) fn move_pending_flush(&self, writer: &mut Writer, tail: u64) -> Result<(), NoRoom> {
        match writer.pending_flush {
            Some(PendingFlush { due, position }) if position < tail => self.append_pending_flush_again(writer, due),
            _ => Ok(()),
        }
    }

    #[cold]
    fn append_pending_flush_again(&self, writer: &mut Writer, due: UnixSeconds) -> Result<(), NoRoom> {
        let (wanted, parked, before) = (writer.wanted, writer.counts.parked, self.head());
        let appended = self.append_pending_flush(writer, due, 0);
        // Nobody waits for this append, nor does it end a wait.
        writer.wanted = wanted;
        writer.counts.parked = parked;
        writer.counts.reinserted_bytes += self.head() - before;
        appended
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::store::StoreConfig;
    use crate::store::record::HEADER_BYTES;
    use crate::store::writer::Wanted;

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);
    const LATER: UnixSeconds = UnixSeconds(NOW.0 + 100);

    /// A store of small shards.
    fn small_store(shards: usize) -> Store {
        let memory_bytes = shards * (16 << 10);
        let config = StoreConfig { memory_bytes, item_bytes_max: 256, shards: Some(shards), ..StoreConfig::default() };
        Store::with_slabs(config, 4096).expect("a small store")
    }

    /// Leave no room at all. Reclaim keeps room for what it moves, so this takes somebody who
    /// leaves none.
    fn fill(shard: &Shard) {
        let mut writer = shard.lock();
        for (kind, key) in [(Kind::Delete, &b"key"[..]), (Kind::Flush, b"")] {
            while shard.append(&mut writer, &Draft::of_key(kind, key, Meta::default()), 0).is_ok() {}
        }
        assert!(shard.usable_bytes(&writer) < HEADER_BYTES as u64);
    }

    fn pending(shard: &Shard) -> Option<UnixSeconds> {
        shard.lock().pending_flush.map(|pending| pending.due)
    }

    #[test]
    fn what_is_due_is_flushed_where_there_is_room_though_another_shard_has_none() {
        let store = small_store(4);
        let mut seat = store.join();
        assert_eq!(store.flush_at(&seat.turn(), LATER, Flushed::All), Ok(()));
        fill(&store.shards[1]);
        let heads = || [0, 2, 3].map(|shard: usize| store.shards[shard].head());
        assert_eq!(store.flush_what_is_due(&seat.turn(), LATER), Err(NoRoom::Now));
        assert_eq!([0, 1, 2, 3].map(|shard| pending(&store.shards[shard])), [None, Some(LATER), None, None]);
        let before = heads();
        assert!(store.is_flush_due(LATER), "of one shard");
        assert_eq!((store.flush_what_is_due(&seat.turn(), LATER), heads()), (Err(NoRoom::Now), before));
    }

    #[test]
    fn a_flush_that_is_tried_again_writes_nothing_where_it_has_been() {
        let (store, later_still) = (small_store(2), UnixSeconds(LATER.0 + 1));
        let (mut seat, head) = (store.join(), || store.shards[0].head());
        assert_eq!(store.flush_at(&seat.turn(), LATER, Flushed::All), Ok(()));
        fill(&store.shards[1]);
        let begin = head();
        assert_eq!((store.flush_at(&seat.turn(), LATER, Flushed::All), head()), (Ok(()), begin), "both know of it");
        let no_room = Err(Unwritten::NoRoom(NoRoom::Now));
        assert_eq!(store.flush_at(&seat.turn(), later_still, Flushed::All), no_room);
        let told = head();
        assert!(told > begin);
        assert_eq!((store.flush_at(&seat.turn(), later_still, Flushed::All), head()), (no_room, told));
        assert_eq!(store.flush(&seat.turn(), Flushed::All), no_room);
        let flushed = head();
        assert!(flushed > told && pending(&store.shards[0]).is_none());
        assert_eq!((store.flush(&seat.turn(), Flushed::All), head()), (no_room, flushed));
        // What stands behind it is to go as well.
        let _ = store.shards[0].append(
            &mut store.shards[0].lock(),
            &Draft::of_key(Kind::Delete, b"key", Meta::default()),
            0,
        );
        let behind = head();
        assert_eq!(store.flush(&seat.turn(), Flushed::All), no_room);
        assert!(flushed < behind && behind < head());
    }

    #[test]
    fn a_log_without_any_room_goes_on_and_has_it_again() {
        let store = small_store(1);
        let (shard, mut seat) = (&store.shards[0], store.join());
        assert_eq!(store.flush_at(&seat.turn(), LATER, Flushed::All), Ok(()));
        fill(shard);
        {
            let mut writer = shard.lock();
            assert_eq!(writer.pending_flush, Some(PendingFlush { due: LATER, position: BIRTH }));
            writer.wanted = Wanted::default();
        }
        let is_moved = |writer: &Writer| writer.pending_flush.is_some_and(|pending| pending.position > BIRTH);
        assert!((0..10).any(|_| {
            let (_turn, mut writer) = (seat.turn(), shard.lock());
            shard.prepare(&mut writer, NOW);
            let _ = shard.append(&mut writer, &Draft::of_key(Kind::Delete, b"key", Meta::default()), 0);
            is_moved(&writer)
        }));
        let pending = shard.lock().pending_flush.expect("it is not lost");
        assert_eq!((shard.record(pending.position).flush_due(), pending.due), (Some(LATER), LATER));
    }
}
