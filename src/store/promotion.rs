//! A store changes hands: a replica's begins a term of its own, so that its gates may be opened
//! ([`super::reign`]). And what a log loses when it turns out to have parted from the one that
//! counts.
//!
//! **Beginning a term**, in all shards or in some. One record in each log, seeded by the term
//! that it begins; what is padded before it is still the old term's. Where a shard begins is noted
//! first, then published, so that who sees the new term in a control line finds it in the shard's
//! history as well.
//!
//! All of this is for the one thread that decides who writes: while it calls, nobody follows with
//! this store and its gates are closed.

use super::Store;
use super::history::TermStart;
use super::record::{Draft, HEADER_BYTES, Kind, Record, Source, TERM_VALUE_BYTES};
use super::shard::Shard;
use super::writer::Writer;
use crate::base::shards::ShardSet;
use crate::base::term::Term;
use crate::base::time::UnixSeconds;

/// Bytes of a term record.
pub(super) const TERM_RECORD_BYTES: usize = HEADER_BYTES + TERM_VALUE_BYTES;
/// What a term record takes at most, and the record of a pending flush behind it, with what is
/// padded or skipped before each: what a record does not fit into is shorter than it.
const TERM_ROOM_BYTES: u64 = 2 * (TERM_RECORD_BYTES + HEADER_BYTES) as u64;

/// What a part of a log holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// Records.
    pub records: u64,
    /// Bytes, pads included.
    pub bytes: u64,
}

impl Store {
    /// See that each of these shards has room for [`Store::begin_term`]: what is oldest goes, as
    /// little as will do, and nothing that lives where nothing is evicted. Err is a shard that has
    /// none yet, because turns of now may still look at those bytes: try again later, from outside
    /// any turn.
    pub fn make_room_for_term(&self, shards: ShardSet, now: UnixSeconds) -> Result<(), usize> {
        let lacks_room = |shard: &Shard| !shard.make_room_for_term(&mut shard.lock(), now);
        shards.iter().find(|shard| lacks_room(&self.shards[*shard])).map_or(Ok(()), Err)
    }

    /// Begin `term`, later than any here, in these shards; from now on they are a primary's, and
    /// their gates may be opened. After [`Store::make_room_for_term`] has succeeded. A shard that
    /// has nothing begins empty, in the history that the others have.
    ///
    /// `then` is called for each shard once its term is published, with the shard's lock held: who
    /// reads the shard's history under that lock does so before the term began, or after `then`.
    pub fn begin_term(&self, shards: ShardSet, term: Term, then: &dyn Fn(usize)) {
        // Others of this lineage may have been promoted as well. If this log must go back, it has
        // to show what was touched since.
        self.log_touches();
        let origins = self.shards.iter().map(|shard| shard.history().origin());
        let origin = origins.max().filter(|origin| origin.is_valid()).unwrap_or(term);
        for number in shards.iter() {
            let shard = &self.shards[number];
            let mut writer = shard.lock();
            shard.begin_term(&mut writer, term, origin);
            then(number);
        }
    }
}

/// A term record that stands at `begins`.
pub(super) fn with_term_record<T>(term: Term, begins: u64, write: impl FnOnce(&Draft<'_>) -> T) -> T {
    let mut value = [0; TERM_VALUE_BYTES];
    value[..8].copy_from_slice(&term.0.to_le_bytes());
    value[8..].copy_from_slice(&begins.to_le_bytes());
    write(&Draft::new(Kind::Term, b"", Default::default(), 0, None, Source::Bytes(&value)))
}

impl Shard {
    fn make_room_for_term(&self, writer: &mut Writer, now: UnixSeconds) -> bool {
        let lacks = |writer: &Writer| self.usable_bytes(writer) < TERM_ROOM_BYTES;
        if lacks(writer) {
            self.release(writer);
        }
        // Of what is in reach, which is more than the log is to have while it shrinks.
        let free_bytes = |writer: &Writer| {
            let reach_bytes = u64::from(writer.mapped.in_reach()) * self.log.pool().slab_bytes();
            reach_bytes.saturating_sub(self.head() - self.tail())
        };
        while free_bytes(writer) < TERM_ROOM_BYTES && self.may_give_up_oldest(writer, now) {
            self.give_up(writer, self.head(), 1, now);
        }
        if lacks(writer) {
            // Where nobody is inside, what was asked for just now has passed already.
            self.release(writer);
        }
        !lacks(writer)
    }

    /// Without eviction, only what nobody can find any more.
    fn may_give_up_oldest(&self, _held: &Writer, now: UnixSeconds) -> bool {
        let position = self.log.settle(self.tail());
        if self.policy.evict || position >= self.head() {
            return position < self.head();
        }
        let record = self.record(position);
        let mut key = [0; crate::base::limits::KEY_BYTES_MAX];
        let key = &mut key[..record.shape.key_bytes()];
        record.key().copy_to_slice(key);
        let found = self.find_locked(key, self.hash_of(&record));
        !found.is_some_and(|item| item.position == position && self.is_alive(&item, now))
    }

    /// Where a term record that is appended now will stand. Right for as long as nobody writes.
    fn place_of_term(&self) -> u64 {
        let to_slab_end = self.log.bytes_to_slab_end(self.head());
        self.head() + if to_slab_end < TERM_RECORD_BYTES { to_slab_end as u64 } else { 0 }
    }

    fn begin_term(&self, writer: &mut Writer, term: Term, origin: Term) {
        let (control, begins) = (self.control(), self.place_of_term());
        let end = begins + TERM_RECORD_BYTES as u64;
        assert!(self.make_reach(writer, end), "room was made before a term begins");
        // Where the log before was left, a pad is the new one's.
        let before = Some(Term(control.term())).filter(|before| before.is_valid()).unwrap_or(term);
        self.pad(self.head(), begins, before);
        with_term_record(term, begins, |draft| draft.write(self.log.words_at(begins), self.seed(begins, term)));
        writer.counts.appended_bytes += end - self.head();
        self.advance_head(end);
        // What is missing is lost: this log is what others are to have.
        control.set_owes_until(0);
        self.prove(true);
        self.begin_history(TermStart { term, begins }, origin);
        control.begin_term(term.0, begins);
        // Its record may have gone with the oldest, here or at the primary.
        self.move_pending_flush(writer, self.tail()).expect("room was made before a term begins");
        self.publish();
    }

    /// What the log holds from `position` on, as far as it can be read: another process may have
    /// said the position, so it may be in the middle of a record, or nowhere.
    pub fn extent_from(&self, position: u64) -> Extent {
        let (tail, head) = (self.tail(), self.head());
        let from = position.clamp(tail, head) / 8 * 8;
        let mut extent = Extent { records: 0, bytes: head - from };
        let mut at = self.log.settle(from);
        while at < head
            && let Some(record) = Record::read(self.log.words_at(at))
        {
            extent.records += u64::from(record.shape.kind() != Kind::Pad);
            at = self.log.settle(at + record.shape.record_bytes() as u64);
        }
        extent
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::store::writer::Wanted;
    use crate::store::{Flushed, Geometry, History, NewItem, StoreConfig};
    use crate::sys::sync::AtomicU64;

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);
    const SLAB_BYTES: usize = 4096;
    const LOG_BYTES: usize = 4 * SLAB_BYTES;

    fn primary(evict: bool) -> Store {
        let config = StoreConfig {
            memory_bytes: LOG_BYTES,
            item_bytes_max: 256,
            evict,
            shards: Some(1),
            hash_seed: Some((1, 2)),
            term: Some(Term::of(1, 9)),
            ..StoreConfig::default()
        };
        Store::with_slabs(config, SLAB_BYTES).unwrap()
    }

    fn replica_of(store: &Store) -> Store {
        let Geometry { shards, .. } = store.geometry();
        assert_eq!(shards, 1);
        Store::with_geometry(store.geometry(), store.memory().slabs, 1, false, Some((3, 4))).unwrap()
    }

    fn set(store: &Store, key: &str, value: &[u8]) -> bool {
        // Tried a few times: room is made ahead, and becomes usable in a later turn.
        (0..8).any(|_| {
            let mut participant = store.join();
            let turn = participant.turn();
            let at = store.locate(key.as_bytes());
            let draft = store.draft(&at, NewItem { value, ..NewItem::default() }, NOW);
            let stored = store.lock(&at).is_ok_and(|locked| locked.entry(&turn, NOW).set(&draft).is_ok());
            store.maintain(&turn, 0, NOW);
            stored
        })
    }

    fn get(store: &Store, key: &str) -> Option<Vec<u8>> {
        let mut participant = store.join();
        let turn = participant.turn();
        let item = store.get(&turn, &store.locate(key.as_bytes()), NOW)?;
        let mut value = Vec::new();
        item.value().copy_to(&mut value);
        Some(value)
    }

    /// A copy of the log, as a replica would read it.
    fn words(store: &Store, from: u64) -> Vec<AtomicU64> {
        let shard = &store.shards[0];
        let positions = (from..shard.control().committed()).step_by(8);
        let word = |at| shard.log.words_at(at)[0].load(crate::sys::sync::Ordering::Relaxed);
        positions.map(|at| AtomicU64::new(word(at))).collect()
    }

    /// Bring `replica` up to `store`, from where it is.
    fn follow(store: &Store, replica: &Store) {
        let mut follower = replica.follower(0).expect("it is alone");
        if !follower.term().is_valid() {
            assert!(follower.begin_at(store.shards[0].control().tail(), &store.shards[0].history()));
        }
        follower.give_up_below(store.shards[0].control().tail(), u64::MAX);
        let applied = follower.apply(&words(store, follower.cursor()), follower.cursor());
        assert_eq!(follower.cursor(), store.shards[0].control().committed(), "{applied:?}");
    }

    fn promote(store: &Store) -> Term {
        let term = store.newest_term().succeed().unwrap();
        assert_eq!(store.make_room_for_term(ShardSet::all(1), NOW), Ok(()));
        store.begin_term(ShardSet::all(1), term, &|_| {});
        store.open_gates(0..1);
        term
    }

    #[test]
    fn a_promoted_store_takes_writes_and_others_follow_it_over_the_new_term() {
        let old = primary(true);
        let (new, other) = (replica_of(&old), replica_of(&old));
        (0..40).for_each(|number| assert!(set(&old, &format!("before-{number}"), b"old")));
        follow(&old, &new);
        follow(&old, &other);
        let term = promote(&new);
        assert_eq!((new.newest_term(), Term(new.shards[0].control().term())), (term, term));
        (0..40).for_each(|number| assert!(set(&new, &format!("after-{number}"), b"new")));
        follow(&new, &other);
        assert_eq!(other.histories(), new.histories(), "the follower has come by the term, at the same place");
        for (key, value) in [("before-7", b"old"), ("after-39", b"new")] {
            assert_eq!([get(&new, key), get(&other, key)], [Some(value.to_vec()), Some(value.to_vec())], "{key}");
        }
        assert!(get(&old, "after-39").is_none());
    }

    #[test]
    fn each_record_is_sealed_by_its_term_wherever_in_a_slab_it_begins() {
        // Keys of growing length move the end of the log by eight bytes from one round to the next.
        let mut padded = 0;
        for long in 0..TERM_RECORD_BYTES {
            let store = primary(true);
            let shard = &store.shards[0];
            let fill = |bytes: usize| assert!(set(&store, &format!("fill-{bytes}"), &vec![b'x'; bytes]));
            while shard.log.bytes_to_slab_end(shard.control().committed()) > 400 {
                fill(100);
            }
            let left = shard.log.bytes_to_slab_end(shard.control().committed());
            fill(left.saturating_sub(64 + 8 * (long % 8)).min(200));
            let left = shard.log.bytes_to_slab_end(shard.control().committed());
            fill(left.saturating_sub(32 + 8 * (long % 8)).min(200));
            let (before, first) = (shard.control().committed(), store.newest_term());
            let left = shard.log.bytes_to_slab_end(before);
            let second = promote(&store);
            assert!(set(&store, "later", b"1"));
            let begins = shard.history().starts()[1].begins;
            padded += usize::from(begins > before && left >= HEADER_BYTES);
            for (position, record) in shard.walk(shard.control().tail()) {
                let seeded_by = if position < begins { first } else { second };
                assert!(shard.proves(position, &record, seeded_by), "{position} of {begins}, {left} left");
                assert_eq!(record.shape.kind() == Kind::Term, position == begins);
            }
        }
        assert!(padded > 0, "no term record had to be padded before");
    }

    #[test]
    fn a_full_log_makes_room_once_nobody_looks_at_its_oldest_bytes() {
        let old = primary(true);
        let new = replica_of(&old);
        let full = |store: &Store| store.shards[0].usable_bytes(&store.shards[0].lock()) < TERM_ROOM_BYTES;
        let mut follower = new.follower(0).expect("it is alone");
        assert!(follower.begin_at(64, &old.shards[0].history()));
        // A replica that gives up nothing, until not even the smallest record finds room.
        for number in 0.. {
            assert!(set(&old, &format!("key-{number}"), &[b'x'; 20][..number % 20]));
            let (ends, room) = (old.shards[0].control().committed(), follower.room_until());
            if ends > room {
                break;
            }
            follower.apply(&words(&old, follower.cursor()), follower.cursor());
        }
        assert!(full(&new), "the test fills the log");
        let mut reader = new.join();
        let turn = reader.turn();
        assert_eq!(new.make_room_for_term(ShardSet::all(1), NOW), Err(0), "somebody may look");
        drop(turn);
        let term = promote(&new);
        assert_eq!(Term(new.shards[0].control().term()), term);
        (0..600).for_each(|number| assert!(set(&new, &format!("new-{number}"), b"value"), "{number}"));
        assert_eq!(get(&new, "new-599").as_deref(), Some(&b"value"[..]));
    }

    /// The primary had begun to give memory back, and the replica has not yet: it has room.
    #[test]
    fn a_log_that_shrinks_loses_nothing_to_a_promotion() {
        let old = primary(true);
        let new = replica_of(&old);
        (0..200).for_each(|number| assert!(set(&old, &format!("key-{number}"), b"value")));
        follow(&old, &new);
        let less_bytes = new.pool.slab_bytes();
        assert!(old.shards[0].control().committed() > less_bytes, "it holds more than it is to have");
        assert!(new.follower(0).expect("it is alone").follow_capacity(less_bytes));
        promote(&new);
        assert_eq!(new.stats().counts.evictions, 0);
        assert!((0..200).all(|number| get(&new, &format!("key-{number}")).is_some()));
    }

    /// What the new primary misses is lost: nobody below owes it any more.
    #[test]
    fn who_begins_a_term_owes_nothing() {
        let old = primary(true);
        let (new, below) = (replica_of(&old), replica_of(&old));
        assert!(set(&old, "key", b"value"));
        let is_whole = |store: &Store| store.shards[0].is_whole();
        let look = || {
            follow(&new, &below);
            let line = new.shards[0].control();
            below.follower(0).unwrap().note_owed(line.tail(), line.committed(), line.owes_until());
        };
        // No look has shown what it owes.
        follow(&old, &new);
        look();
        assert_eq!((is_whole(&old), is_whole(&new), is_whole(&below)), (true, false, false));
        promote(&new);
        assert_eq!((is_whole(&new), is_whole(&below)), (true, false));
        look();
        assert!(is_whole(&below));
    }

    #[test]
    fn a_shard_that_never_began_begins_empty() {
        let old = primary(true);
        let (new, other) = (replica_of(&old), replica_of(&old));
        assert!(set(&old, "lost", b"value"));
        follow(&old, &other);
        new.begin_term(ShardSet::all(1), old.newest_term().succeed().unwrap(), &|_| {});
        new.open_gates(0..1);
        assert!(set(&new, "key", b"value"));
        let history = new.shards[0].history();
        assert_eq!(
            history.start_at(64),
            Some(TermStart { term: new.newest_term(), begins: super::super::line::BIRTH })
        );
        let mut follower = other.follower(0).expect("it is alone");
        follower.forget();
        assert!(follower.begin_at(64, &history));
        drop(follower);
        follow(&new, &other);
        assert_eq!([get(&other, "key"), get(&other, "lost")], [Some(b"value".to_vec()), None]);
    }

    /// And what is done about a shard is done before anybody is told of its new history.
    #[test]
    fn a_term_begins_in_the_shards_that_are_named() {
        let config = StoreConfig {
            memory_bytes: 4 * LOG_BYTES,
            item_bytes_max: 256,
            shards: Some(4),
            hash_seed: Some((1, 2)),
            term: Some(Term::of(1, 9)),
            ..StoreConfig::default()
        };
        let store = Store::with_slabs(config, SLAB_BYTES).unwrap();
        let (first, term) = (store.newest_term(), store.newest_term().succeed().unwrap());
        let (some, done) = ("1,3".parse().unwrap(), std::cell::RefCell::new(Vec::new()));
        assert_eq!(store.make_room_for_term(some, NOW), Ok(()));
        store.begin_term(some, term, &|shard| {
            let other = &store.shards[shard];
            assert_eq!((Term(other.control().term()), other.history().newest()), (term, term));
            assert!(other.try_lock().is_none(), "whoever asks for its history waits");
            done.borrow_mut().push(shard);
        });
        assert_eq!(*done.borrow(), [1, 3]);
        let terms: Vec<Term> = store.shards.iter().map(|shard| Term(shard.control().term())).collect();
        assert_eq!(terms, [first, term, first, term]);
        let told = store.shards.iter().map(|shard| shard.with_history(|history| history.newest()));
        assert!(told.eq([first, term, first, term]));
    }

    /// The primary had told of a term beyond what the replica has of its log.
    #[test]
    fn a_term_that_was_told_of_and_never_came_is_followed_by_number_and_not_claimed() {
        let old = primary(true);
        let new = replica_of(&old);
        assert!(set(&old, "key", b"value"));
        follow(&old, &new);
        let first = old.shards[0].history().starts()[0];
        let second = TermStart { term: Term::of(2, 7), begins: 4000 };
        new.follower(0).unwrap().adopt(&History::new(first.term, [first, second]));
        assert_eq!(new.newest_term(), second.term);
        let begins = new.shards[0].control().committed();
        let term = promote(&new);
        assert_eq!(term.number(), 3);
        assert_eq!(new.shards[0].history(), History::new(first.term, [first, TermStart { term, begins }]));
    }

    #[test]
    fn without_eviction_room_is_made_of_nothing_that_lives() {
        let store = primary(false);
        let shard = &store.shards[0];
        let mut participant = store.join();
        assert!(set(&store, "flushed", b"0"));
        assert_eq!(store.flush(&participant.turn(), Flushed::All), Ok(()));
        assert!(set(&store, "lives", b"1"));
        // The flushed item and the record of the flush go, the item that lives does not.
        let mut writer = shard.lock();
        for _ in 0..2 {
            assert!(shard.may_give_up_oldest(&writer, NOW));
            shard.give_up(&mut writer, shard.control().committed(), 1, NOW);
        }
        assert!(!shard.may_give_up_oldest(&writer, NOW));
        drop(writer);
        assert!(set(&store, "lives", b"2"));
        assert!(shard.may_give_up_oldest(&shard.lock(), NOW), "its older record is dead");
    }

    #[test]
    fn who_takes_no_writes_wants_no_reclaim() {
        let store = primary(true);
        let mut participant = store.join();
        let turn = participant.turn();
        store.shards[0].lock().wanted = Wanted { bytes: 512, rounds: 100, since: u64::MAX };
        store.shards[0].want_attention(true);
        assert!(store.maintain(&turn, 0, NOW));
        store.close_gates(0..1, None);
        assert!(!store.maintain(&turn, 0, NOW));
    }

    #[test]
    fn an_extent_counts_what_stands_behind_a_position() {
        let store = primary(true);
        let shard = &store.shards[0];
        let begin = shard.control().committed();
        (0..5).for_each(|number| assert!(set(&store, &format!("key-{number}"), b"value")));
        let end = shard.control().committed();
        assert_eq!(shard.extent_from(begin), Extent { records: 5, bytes: end - begin });
        assert_eq!(shard.extent_from(0), Extent { records: 5, bytes: end - 64 });
        assert_eq!(shard.extent_from(end), Extent::default());
        assert_eq!(shard.extent_from(u64::MAX), Extent::default());
        let inside = shard.extent_from(begin + 9);
        assert!(inside.records <= 5 && inside.bytes == end - begin - 8, "no record begins there: {inside:?}");
    }
}
