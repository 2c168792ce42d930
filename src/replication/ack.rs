//! The ack slot: what a replica's puller tells the primary, by one one-sided WRITE each time, into
//! memory of the primary that only this puller writes to. A replica has a slot for each of its
//! pullers ([`AckSlots`]).
//!
//! ```text
//! words 0..8    term | lag in bytes | lag in microseconds | bytes pulled | records applied | begun anew | bad records | beats
//! word 8 + n    applied position of the nth shard of the puller's share; 0: none yet
//! ```
//!
//! A WRITE is of all words from the first that has changed to the last. Its words may be placed in
//! any order, and a look may come in between. So the primary concludes nothing about one word from
//! another:
//! - A position is true by itself. A replica writes it only once it has applied everything below
//!   it, and 0 is no position. It is one of the history that the session has agreed upon: a
//!   primary whose history changes ends its sessions first, and a new session has a new slot.
//! - Who joins is told by the positions: there is a shard without one.
//! - The term is set once, for people to see that the replica follows. The rest is figures for
//!   people as well.

use super::shares::Shares;
use crate::base::term::Term;
use crate::fabric::{ACK_BYTES, Channel, FabricError};
use crate::store::sizing;
use crate::sys::memory::Memfd;
use crate::sys::sync::{AtomicU64, Ordering::Acquire};
use std::sync::Arc;

/// Words of the summary, ahead of the positions.
pub const SUMMARY_WORDS: usize = 8;
/// Shards that a slot has room for.
const SHARDS_MAX: usize = ACK_BYTES / 8 - SUMMARY_WORDS;
const _: () = assert!(SHARDS_MAX >= sizing::SHARDS_MAX);

/// The words ahead of the positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// What the replica follows; 0 as long as it has written nothing.
    pub term: u64,
    /// Bytes that were committed at its last look and that it had not applied.
    pub lag_bytes: u64,
    /// For how long there has been something it had not applied.
    pub lag_microseconds: u64,
    /// Log bytes that it has read, in all.
    pub pulled_bytes: u64,
    /// Records that it has applied, in all.
    pub records: u64,
    /// Times that a shard had to begin anew, beyond the first.
    pub begun_anew: u64,
    /// Records that failed their check.
    pub bad_records: u64,
    /// Grows with each summary.
    pub beats: u64,
}

impl Summary {
    fn words(self) -> [u64; SUMMARY_WORDS] {
        let Summary { term, lag_bytes, lag_microseconds, pulled_bytes, records, begun_anew, bad_records, beats } = self;
        [term, lag_bytes, lag_microseconds, pulled_bytes, records, begun_anew, bad_records, beats]
    }

    /// As it stands in a slot.
    pub fn read(slot: &[AtomicU64]) -> Summary {
        let word = |at: usize| slot[at].load(Acquire);
        Summary {
            term: word(0),
            lag_bytes: word(1),
            lag_microseconds: word(2),
            pulled_bytes: word(3),
            records: word(4),
            begun_anew: word(5),
            bad_records: word(6),
            beats: word(7),
        }
    }

    /// Of two pullers of one replica together. It has a term once both have.
    fn with(self, other: Summary) -> Summary {
        Summary {
            term: if self.term == 0 { 0 } else { other.term },
            lag_bytes: self.lag_bytes.saturating_add(other.lag_bytes),
            lag_microseconds: self.lag_microseconds.max(other.lag_microseconds),
            pulled_bytes: self.pulled_bytes.saturating_add(other.pulled_bytes),
            records: self.records.saturating_add(other.records),
            begun_anew: self.begun_anew.saturating_add(other.begun_anew),
            bad_records: self.bad_records.saturating_add(other.bad_records),
            beats: self.beats.saturating_add(other.beats),
        }
    }
}

/// The primary's side: the slots of one replica, one for each of its pullers.
pub struct AckSlots {
    slots: Box<[Arc<Memfd>]>,
    shares: Shares,
}

impl AckSlots {
    /// In the order of the pullers, which share `shards` shards.
    pub fn new(slots: impl IntoIterator<Item = Arc<Memfd>>, shards: usize) -> AckSlots {
        let slots: Box<[Arc<Memfd>]> = slots.into_iter().collect();
        AckSlots { shares: Shares::new(shards, slots.len()), slots }
    }

    /// How many pullers there are.
    pub fn pullers(&self) -> usize {
        self.shares.pullers()
    }

    /// The position that the replica has applied of a shard; 0 before it has said so. It stands in
    /// the slot of the puller that has this shard.
    pub fn applied(&self, shard: usize) -> u64 {
        let owner = self.shares.owner(shard);
        self.slots[owner].words()[SUMMARY_WORDS + shard - self.shares.of(owner).start].load(Acquire)
    }

    /// Of all pullers: sums, and the longest lag.
    pub fn summary(&self) -> Summary {
        self.slots.iter().map(|slot| Summary::read(slot.words())).reduce(Summary::with).unwrap_or_default()
    }
}

/// The replica's side: writes what has changed since it wrote last.
pub struct Acks {
    /// What the slot holds once all WRITEs have arrived.
    written: Vec<u64>,
    /// What it is to hold; kept for its memory.
    next: Vec<u64>,
    beats: u64,
    /// The channel had no room for the last one.
    is_owed: bool,
}

impl Acks {
    /// Of a puller that has so many shards.
    pub fn new(shards: usize) -> Acks {
        assert!(shards <= SHARDS_MAX, "more shards than a slot has room for");
        let words = SUMMARY_WORDS + shards;
        Acks { written: vec![0; words], next: Vec::with_capacity(words), beats: 0, is_owed: false }
    }

    /// The last ack had no room: another one is to be written soon. It tells all that this one had.
    pub fn is_owed(&self) -> bool {
        self.is_owed
    }

    /// Tell the primary, in one WRITE: the summary (its `term` and `beats` are filled in here) and
    /// the positions that have changed. Where the channel has no room, an ack is owed.
    pub fn write(
        &mut self,
        channel: &mut dyn Channel,
        term: Term,
        applied: impl Iterator<Item = u64>,
        summary: Summary,
    ) -> Result<(), FabricError> {
        self.beats += 1;
        let summary = Summary { term: term.0, beats: self.beats, ..summary };
        self.next.clear();
        self.next.extend(summary.words().into_iter().chain(applied));
        let differs = |at: &usize| self.next[*at] != self.written[*at];
        let first = (0..self.next.len()).find(differs).expect("the beats differ");
        let last = (first..self.next.len()).rfind(differs).expect("the first does");
        self.is_owed = !channel.write_ack(first * 8, &self.next[first..=last])?;
        if !self.is_owed {
            std::mem::swap(&mut self.written, &mut self.next);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::{Completion, Kind, Landing, Read};
    use std::sync::atomic::Ordering::Release;
    use std::time::Duration;

    /// Keeps what is written; takes it or not.
    struct Written {
        all: Vec<(usize, Vec<u64>)>,
        takes: bool,
    }

    impl Default for Written {
        fn default() -> Written {
            Written { all: Vec::new(), takes: true }
        }
    }

    impl Channel for Written {
        fn kind(&self) -> Kind {
            Kind::Sim
        }
        fn depth_max(&self) -> usize {
            1
        }
        fn landing(&mut self, _: usize) -> Result<Landing, FabricError> {
            unreachable!("an ack is no READ")
        }
        fn submit(&mut self, _: &mut Vec<Read>) -> Result<(), FabricError> {
            unreachable!("an ack is no READ")
        }
        fn poll(&mut self, _: &mut Vec<Completion>, _: Duration) -> Result<usize, FabricError> {
            unreachable!("nobody waits for an ack")
        }
        fn write_ack(&mut self, offset: usize, words: &[u64]) -> Result<bool, FabricError> {
            if self.takes {
                self.all.push((offset, words.to_vec()));
            }
            Ok(self.takes)
        }
    }

    #[test]
    fn each_ack_is_one_write_of_what_has_changed() {
        let (mut acks, mut written, mut slot) = (Acks::new(100), Written::default(), vec![0; ACK_BYTES / 8]);
        let mut positions = vec![64; 100];
        for (number, changed) in [(1, vec![]), (2, vec![3, 77]), (3, vec![]), (4, vec![0]), (5, vec![99])] {
            changed.iter().for_each(|shard| positions[*shard] += 8);
            let summary = Summary { records: number, ..Summary::default() };
            acks.write(&mut written, Term(9), positions.iter().copied(), summary).expect("it takes all");
            let [(offset, words)] = &std::mem::take(&mut written.all)[..] else { panic!("one WRITE") };
            slot[offset / 8..][..words.len()].copy_from_slice(words);
            assert_eq!(slot[SUMMARY_WORDS..][..100], positions, "ack {number}");
            assert_eq!((slot[0], slot[4], slot[7]), (9, number, number), "term, records, beats");
            let last = changed.last().map_or(7, |shard| SUMMARY_WORDS + shard);
            let span = if number == 1 { 0..=107 } else { 4..=last };
            assert_eq!((*offset, words.len()), (span.start() * 8, span.count()), "ack {number}: no more than changed");
        }
    }

    #[test]
    fn what_was_not_taken_is_told_by_the_next_ack() {
        let (mut acks, mut written) = (Acks::new(3), Written::default());
        let mut write = |acks: &mut Acks, positions: [u64; 3], takes| {
            written.takes = takes;
            acks.write(&mut written, Term(9), positions.into_iter(), Summary::default()).expect("it goes on");
            std::mem::take(&mut written.all)
        };
        write(&mut acks, [8, 8, 8], true);
        assert!(write(&mut acks, [16, 8, 8], false).is_empty() && acks.is_owed());
        let [(offset, words)] = &write(&mut acks, [16, 8, 24], true)[..] else { panic!("one WRITE") };
        assert_eq!((offset / 8 + words.len(), &words[words.len() - 3..]), (11, &[16, 8, 24][..]));
        assert!(!acks.is_owed());
    }

    /// The slots of three pullers that share eight shards, each as its puller writes it.
    #[test]
    fn each_position_is_read_from_the_slot_of_the_puller_that_has_its_shard() {
        let memory = || Arc::new(Memfd::new("test-ack", ACK_BYTES, false).expect("a page"));
        let (slots, shares): (Vec<_>, _) = ((0..3).map(|_| memory()).collect(), Shares::new(8, 3));
        let acks = AckSlots::new(slots.iter().cloned(), 8);
        assert_eq!((0..8).map(|shard| acks.applied(shard)).collect::<Vec<_>>(), [0; 8]);
        let position = |shard: usize| 1000 + 8 * shard as u64;
        for (puller, slot) in slots.iter().enumerate() {
            assert_eq!(acks.summary().term, 0, "a puller has told nothing yet");
            let (mut own, mut written) = (Acks::new(shares.of(puller).len()), Written::default());
            let number = puller as u64 + 1;
            let summary =
                Summary { lag_bytes: number, lag_microseconds: 10 * number, records: 100, ..Summary::default() };
            own.write(&mut written, Term(9), shares.of(puller).map(position), summary).expect("it takes all");
            for (offset, words) in written.all {
                let to = slot.words()[offset / 8..].iter();
                to.zip(words).for_each(|(to, word)| to.store(word, Release));
            }
        }
        assert_eq!(
            (0..8).map(|shard| acks.applied(shard)).collect::<Vec<_>>(),
            (0..8).map(position).collect::<Vec<_>>()
        );
        let told = acks.summary();
        assert_eq!((told.term, told.lag_bytes, told.lag_microseconds, told.records), (9, 6, 30, 300));
    }
}
