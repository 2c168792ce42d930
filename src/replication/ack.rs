//! The ack slot: what a replica's puller tells the primary, by one one-sided WRITE each time, into
//! memory of the primary that only this puller writes to. A replica has a slot for each of its
//! pullers ([`AckSlots`]).
//!
//! ```text
//! words 0..8    zero | lag in bytes | lag in microseconds | bytes pulled | records applied | begun anew | bad records | beats
//! word 8 + n    of shard n:  applied position / 8, bits 12..63 | not whole, bit 11 | tag, bits 0..10;  0: nothing
//! ```
//!
//! A replica *subscribes* to shards over the control connection, and the primary gives the
//! subscription to each shard a *tag*. A position counts with the tag of the shard's latest
//! subscription alone. So one word tells whose history it speaks of. A primary whose history of a
//! shard changes takes the shard's tags back ([`AckSlots::take_back`]), and what was acknowledged
//! of the log before counts no more, while channels and sessions go on. Both happen under the
//! shard's lock, and so does a subscription, which is told the history: nobody who was told the new
//! one has its tag taken back after.
//!
//! A WRITE is of the words from the first position that has changed to the last, or of the summary,
//! which is told each 100 ms while something moves. Its words may be placed in any order, and a
//! look may come in between. So the primary concludes nothing about one word from another:
//! - A position is true by itself. A replica writes it only once it has applied everything below
//!   it, and no tag is 0.
//! - A replica that has begun in the middle of a log misses what had been moved from before its
//!   beginning, until it is *whole*. Until then it says where it is, and acknowledges nothing: it
//!   does not count where a write waits for replicas.
//! - Who joins is told by the positions: there is a shard that it subscribes to without one.
//! - The rest is figures for people. The beats tell that the replica follows.

use super::wire::Wanted;
use crate::base::shards::ShardSet;
use crate::fabric::{ACK_BYTES, Channel, FabricError};
use crate::store::line::POSITION_MAX;
use crate::store::sizing;
use crate::sys::memory::Memfd;
use crate::sys::sync::{AtomicU64, Ordering::Acquire, Ordering::Release};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Pause between two summaries while something moves.
pub const SUMMARY_PAUSE: Duration = Duration::from_millis(100);
/// Words of the summary, ahead of the positions.
pub const SUMMARY_WORDS: usize = 8;
/// Shards that a slot has room for.
const SHARDS_MAX: usize = ACK_BYTES / 8 - SUMMARY_WORDS;
const _: () = assert!(SHARDS_MAX >= sizing::SHARDS_MAX);

const TAG_BITS: u32 = 11;
/// In a word of [`AckSlots::subscribed`]: the replica subscribes.
const SUBSCRIBES: u64 = 1 << TAG_BITS;
/// In the same word: it did, and is to subscribe again.
const TAKEN_BACK: u64 = SUBSCRIBES << 1;
/// In the same word: where the puller's number begins.
const PULLER_SHIFT: u32 = TAG_BITS + 2;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;
const NOT_WHOLE: u64 = 1 << TAG_BITS;
const POSITION_SHIFT: u32 = TAG_BITS + 1;
const _: () = assert!((POSITION_MAX - 8) / 8 < 1 << (64 - POSITION_SHIFT));

/// Which subscription of a shard a position speaks for: 1 to 2,047. A session gives them in turn,
/// of each shard by itself, and a shard is subscribed to at most once in 50 ms; so a tag comes
/// again after 100 s, when no WRITE of the first time is under way any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(u16);

impl Tag {
    /// The first one that a session gives for a shard.
    pub const FIRST: Tag = Tag(1);

    /// From a message; None if there is no such tag.
    pub fn from_number(number: u16) -> Option<Tag> {
        (1..=TAG_MASK as u16).contains(&number).then_some(Tag(number))
    }

    /// As it stands in a message.
    pub fn number(self) -> u16 {
        self.0
    }

    /// The one after `last`, which is 0 where none was given yet.
    fn after(last: u16) -> Tag {
        Tag(last % TAG_MASK as u16 + 1)
    }

    /// The word of a replica that has applied everything below `position`, and is whole or not; 0
    /// for position 0, which says nothing.
    pub fn word(self, position: u64, is_whole: bool) -> u64 {
        let not_whole = if is_whole { 0 } else { NOT_WHOLE };
        if position == 0 { 0 } else { (position / 8) << POSITION_SHIFT | not_whole | u64::from(self.0) }
    }
}

/// The position in a word of [`Tag::word`].
fn position_of(word: u64) -> u64 {
    (word >> POSITION_SHIFT) * 8
}

/// The words ahead of the positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
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
        let Summary { lag_bytes, lag_microseconds, pulled_bytes, records, begun_anew, bad_records, beats } = self;
        [0, lag_bytes, lag_microseconds, pulled_bytes, records, begun_anew, bad_records, beats]
    }

    /// As it stands in a slot.
    pub fn read(slot: &[AtomicU64]) -> Summary {
        let word = |at: usize| slot[at].load(Acquire);
        Summary {
            lag_bytes: word(1),
            lag_microseconds: word(2),
            pulled_bytes: word(3),
            records: word(4),
            begun_anew: word(5),
            bad_records: word(6),
            beats: word(7),
        }
    }

    /// Of two pullers of one replica together. They have beats once both have.
    fn with(self, other: Summary) -> Summary {
        let all_beat = self.beats.min(other.beats) > 0;
        Summary {
            lag_bytes: self.lag_bytes.saturating_add(other.lag_bytes),
            lag_microseconds: self.lag_microseconds.max(other.lag_microseconds),
            pulled_bytes: self.pulled_bytes.saturating_add(other.pulled_bytes),
            records: self.records.saturating_add(other.records),
            begun_anew: self.begun_anew.saturating_add(other.begun_anew),
            bad_records: self.bad_records.saturating_add(other.bad_records),
            beats: if all_beat { self.beats.saturating_add(other.beats) } else { 0 },
        }
    }
}

/// The primary's side: the slots of one replica, one for each of its pullers, and what the replica
/// subscribes to.
pub struct AckSlots {
    slots: Box<[Arc<Memfd>]>,
    /// For each shard the puller that acknowledges it, whether the tag was taken back, whether the
    /// replica subscribes, and the tag of its latest subscription:
    /// `puller << 13 | taken back << 12 | subscribes << 11 | tag`; 0 where there was none.
    subscribed: Box<[AtomicU64]>,
}

impl AckSlots {
    /// In the order of the pullers, of a store with so many shards.
    pub fn new(slots: impl IntoIterator<Item = Arc<Memfd>>, shards: usize) -> AckSlots {
        assert!(shards <= SHARDS_MAX, "more shards than a slot has room for");
        AckSlots { slots: slots.into_iter().collect(), subscribed: (0..shards).map(|_| AtomicU64::new(0)).collect() }
    }

    /// How many pullers there are.
    pub fn pullers(&self) -> usize {
        self.slots.len()
    }

    /// The replica subscribes to a shard; what it has acknowledged of it before counts no more.
    /// Returns the tag. None, and nothing has changed, if there is no such shard or puller.
    ///
    /// With the shard's lock held, as for [`AckSlots::take_back`].
    pub fn subscribe(&self, wanted: Wanted) -> Option<Tag> {
        let subscribed = self.subscribed.get(wanted.shard())?;
        let slot = self.slots.get(wanted.puller())?;
        let tag = Tag::after((subscribed.load(Acquire) & TAG_MASK) as u16);
        slot.words()[SUMMARY_WORDS + wanted.shard()].store(0, Release);
        subscribed.store((wanted.puller() as u64) << PULLER_SHIFT | SUBSCRIBES | u64::from(tag.0), Release);
        Some(tag)
    }

    /// Nothing that was acknowledged of a shard counts any more: the replica has to subscribe
    /// again.
    pub fn take_back(&self, shard: usize) {
        let Some(subscribed) = self.subscribed.get(shard) else { return };
        let word = subscribed.load(Acquire);
        if word & SUBSCRIBES != 0 {
            subscribed.store(word & !SUBSCRIBES | TAKEN_BACK, Release);
        }
    }

    /// The replica follows a shard here no more. With the shard's lock held.
    pub fn unsubscribe(&self, shard: usize) {
        if let Some(subscribed) = self.subscribed.get(shard) {
            let word = subscribed.load(Acquire);
            subscribed.store(word & !(SUBSCRIBES | TAKEN_BACK), Release);
        }
    }

    /// Whether the replica subscribes to this shard.
    pub fn has(&self, shard: usize) -> bool {
        self.subscribed[shard].load(Acquire) & SUBSCRIBES != 0
    }

    /// The shards that the replica subscribes to.
    pub fn shards(&self) -> ShardSet {
        (0..self.subscribed.len()).filter(|shard| self.has(*shard)).collect()
    }

    /// The shards that the replica is to have here: those that it subscribes to, or has to
    /// subscribe to again. All before it has subscribed to any.
    pub fn wanted(&self) -> ShardSet {
        let words: Vec<u64> = self.subscribed.iter().map(|word| word.load(Acquire)).collect();
        let is_new = words.iter().all(|word| *word == 0);
        let is_wanted = |shard: &usize| is_new || words[*shard] & (SUBSCRIBES | TAKEN_BACK) != 0;
        (0..words.len()).filter(is_wanted).collect()
    }

    /// The position that the replica has applied of a shard; 0 before it has said so in its latest
    /// subscription.
    pub fn applied(&self, shard: usize) -> u64 {
        position_of(self.word(shard))
    }

    /// The position below which the replica has all of a shard: as [`AckSlots::applied`], but 0
    /// while it is not whole.
    pub fn acknowledged(&self, shard: usize) -> u64 {
        let word = self.word(shard);
        if word & NOT_WHOLE == 0 { position_of(word) } else { 0 }
    }

    /// What the replica says in its latest subscription to a shard; 0: nothing.
    fn word(&self, shard: usize) -> u64 {
        let subscribed = self.subscribed[shard].load(Acquire);
        let (puller, tag) = ((subscribed >> PULLER_SHIFT) as usize, subscribed & TAG_MASK);
        let word = self.slots[puller].words()[SUMMARY_WORDS + shard].load(Acquire);
        if subscribed & SUBSCRIBES != 0 && word & TAG_MASK == tag { word } else { 0 }
    }

    /// Of all pullers: sums, and the longest lag.
    pub fn summary(&self) -> Summary {
        self.slots.iter().map(|slot| Summary::read(slot.words())).reduce(Summary::with).unwrap_or_default()
    }
}

/// The replica's side: one puller's slot. It writes what has changed since it wrote last.
pub struct Acks {
    first: usize,
    /// What the slot holds of the shards from `first` on, once all WRITEs have arrived.
    written: Vec<u64>,
    /// What it is to hold; kept for its memory.
    next: Vec<u64>,
    beats: u64,
    /// The channel had no room for the last one.
    is_owed: bool,
}

impl Acks {
    /// Of a puller that may have these shards.
    pub fn new(shards: Range<usize>) -> Acks {
        assert!(shards.end <= SHARDS_MAX, "more shards than a slot has room for");
        let (next, written) = (Vec::with_capacity(shards.len()), vec![0; shards.len()]);
        Acks { first: shards.start, next, written, beats: 0, is_owed: false }
    }

    /// The channel had no room for the last ack: another one is to be written soon. It tells all
    /// that this one had.
    pub fn is_owed(&self) -> bool {
        self.is_owed
    }

    /// Another ack is to be written soon: a shard has no position any more.
    pub fn owe(&mut self) {
        self.is_owed = true;
    }

    /// Tell the primary the positions that have changed, in one WRITE. `words` has [`Tag::word`] of
    /// each shard. Where the channel has no room, an ack is owed.
    pub fn write(&mut self, channel: &mut dyn Channel, words: impl Iterator<Item = u64>) -> Result<(), FabricError> {
        self.next.clear();
        self.next.extend(words);
        let differs = |at: &usize| self.next[*at] != self.written[*at];
        let Some(first) = (0..self.next.len()).find(differs) else {
            self.is_owed = false;
            return Ok(());
        };
        let last = (first..self.next.len()).rfind(differs).expect("the first does");
        self.is_owed = !channel.write_ack((SUMMARY_WORDS + self.first + first) * 8, &self.next[first..=last])?;
        if !self.is_owed {
            std::mem::swap(&mut self.written, &mut self.next);
        }
        Ok(())
    }

    /// Tell the primary the figures; the beats are filled in here. False where the channel has no
    /// room.
    pub fn summarize(&mut self, channel: &mut dyn Channel, summary: Summary) -> Result<bool, FabricError> {
        self.beats += 1;
        channel.write_ack(0, &Summary { beats: self.beats, ..summary }.words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::{Completion, Kind, Landing, Read};
    use crate::replication::shares::Shares;
    use std::sync::atomic::Ordering::Release;

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

    fn slots(count: usize) -> Vec<Arc<Memfd>> {
        (0..count).map(|_| Arc::new(Memfd::new("test-ack", ACK_BYTES, false).expect("a page"))).collect()
    }

    fn place(slot: &Memfd, written: Written) {
        for (offset, words) in written.all {
            let to = slot.words()[offset / 8..].iter();
            to.zip(words).for_each(|(to, word)| to.store(word, Release));
        }
    }

    #[test]
    fn each_ack_is_one_write_of_what_has_changed() {
        let (mut acks, mut written, mut slot) = (Acks::new(50..150), Written::default(), vec![0; ACK_BYTES / 8]);
        let mut positions = vec![64; 100];
        for (number, changed) in [vec![], vec![3, 77], vec![], vec![0], vec![99]].into_iter().enumerate() {
            changed.iter().for_each(|shard| positions[*shard] += 8);
            let words = positions.iter().map(|position| Tag::FIRST.word(*position, true));
            acks.write(&mut written, words.clone()).expect("it takes all");
            let told = std::mem::take(&mut written.all);
            let span = match (number, changed.first(), changed.last()) {
                (0, ..) => 0..=99,
                (_, Some(first), Some(last)) => *first..=*last,
                _ => {
                    assert!(told.is_empty(), "nothing has changed");
                    continue;
                }
            };
            let [(offset, words_told)] = &told[..] else { panic!("one WRITE") };
            slot[offset / 8..][..words_told.len()].copy_from_slice(words_told);
            assert_eq!(slot[SUMMARY_WORDS + 50..][..100], words.collect::<Vec<_>>(), "ack {number}");
            let begin = (SUMMARY_WORDS + 50 + span.start()) * 8;
            assert_eq!((*offset, words_told.len()), (begin, span.count()), "ack {number}: no more than changed");
        }
    }

    #[test]
    fn what_was_not_taken_is_told_by_the_next_ack() {
        let (mut acks, mut written) = (Acks::new(0..3), Written::default());
        let mut write = |acks: &mut Acks, words: [u64; 3], takes| {
            written.takes = takes;
            acks.write(&mut written, words.into_iter()).expect("it goes on");
            std::mem::take(&mut written.all)
        };
        write(&mut acks, [8, 8, 8], true);
        assert!(write(&mut acks, [16, 8, 8], false).is_empty() && acks.is_owed());
        assert_eq!(write(&mut acks, [16, 8, 24], true), [(SUMMARY_WORDS * 8, vec![16, 8, 24])]);
        assert!(!acks.is_owed());
        acks.owe();
        assert!(acks.is_owed() && write(&mut acks, [16, 8, 24], true).is_empty() && !acks.is_owed());
    }

    /// The slots of three pullers that share eight shards, each as its puller writes it.
    #[test]
    fn each_position_is_read_from_the_slot_of_the_puller_that_has_its_shard() {
        let (slots, shares) = (slots(3), Shares::new(8, 3));
        let acks = AckSlots::new(slots.iter().cloned(), 8);
        let applied = || (0..8).map(|shard| acks.applied(shard)).collect::<Vec<_>>();
        assert_eq!(applied(), [0; 8]);
        let tags: Vec<_> = shares.wanted().into_iter().map(|one| acks.subscribe(one).expect("it is there")).collect();
        let position = |shard: usize| 1000 + 8 * shard as u64;
        for (puller, slot) in slots.iter().enumerate() {
            assert_eq!(acks.summary().beats, 0, "a puller has told nothing yet");
            let (mut own, mut written) = (Acks::new(shares.of(puller)), Written::default());
            let number = puller as u64 + 1;
            let summary =
                Summary { lag_bytes: number, lag_microseconds: 10 * number, records: 100, ..Summary::default() };
            own.write(&mut written, shares.of(puller).map(|shard| tags[shard].word(position(shard), true)))
                .expect("it takes all");
            own.summarize(&mut written, summary).expect("it takes all");
            place(slot, written);
        }
        assert_eq!(applied(), (0..8).map(position).collect::<Vec<_>>());
        let told = acks.summary();
        assert_eq!((told.beats, told.lag_bytes, told.lag_microseconds, told.records), (3, 6, 30, 300));
    }

    #[test]
    fn a_position_counts_with_the_tag_of_the_latest_subscription_alone() {
        let slots = slots(2);
        let acks = AckSlots::new(slots.iter().cloned(), 4);
        let tell =
            |puller: usize, shard: usize, word| slots[puller].words()[SUMMARY_WORDS + shard].store(word, Release);
        let subscribe = |shard, puller| acks.subscribe(Wanted::new(shard, puller)).expect("it is there");
        assert_eq!((acks.shards().count(), acks.wanted().count()), (0, 4), "before the first subscription");
        let (of_one, of_two) = (subscribe(1, 0), subscribe(2, 0));
        assert_eq!([0, 1, 2, 3].map(|shard| acks.has(shard)), [false, true, true, false]);
        (0..4).for_each(|shard| tell(0, shard, of_two.word(640, true)));
        assert_eq!([0, 1, 2, 3].map(|shard| acks.applied(shard)), [0, 640, 640, 0], "nobody subscribes to the others");
        // One of them anew, by the other puller. What was said before, or comes late, does not
        // count.
        let again = subscribe(2, 1);
        assert_ne!(of_two, again);
        tell(0, 2, again.word(800, true));
        tell(1, 2, of_two.word(640, true));
        assert_eq!([1, 2].map(|shard| acks.applied(shard)), [640, 0]);
        tell(1, 2, again.word(648, true));
        assert_eq!([1, 2].map(|shard| acks.applied(shard)), [640, 648]);
        // Taken back of one shard, and subscribed to again: the other one goes on.
        acks.take_back(2);
        assert_eq!([1, 2].map(|shard| (acks.has(shard), acks.applied(shard))), [(true, 640), (false, 0)]);
        assert_eq!([acks.shards(), acks.wanted()].map(|shards| shards.to_string()), ["1", "1-2"]);
        let third = subscribe(2, 1);
        assert!(![of_two, again].contains(&third), "tags go on where they were");
        tell(1, 2, again.word(656, true));
        assert_eq!([1, 2].map(|shard| acks.applied(shard)), [640, 0]);
        assert_eq!(subscribe(1, 0), Tag::after(of_one.0), "each shard has tags of its own");
        for wrong in [Wanted::new(4, 0), Wanted::new(0, 2)] {
            assert_eq!(acks.subscribe(wrong), None);
        }
        assert_eq!(acks.shards().to_string(), "1-2", "nothing has changed");
        acks.unsubscribe(2);
        assert_eq!([acks.shards(), acks.wanted()].map(|shards| shards.to_string()), ["1", "1"]);
        acks.take_back(2);
        assert_eq!(acks.wanted().to_string(), "1", "it is followed elsewhere");
        acks.unsubscribe(1);
        assert!(acks.wanted().is_empty());
    }

    #[test]
    fn who_is_not_whole_acknowledges_nothing_and_says_where_it_is() {
        let slots = slots(1);
        let acks = AckSlots::new(slots.iter().cloned(), 1);
        let tag = acks.subscribe(Wanted::new(0, 0)).expect("it is there");
        for (is_whole, acknowledged) in [(false, 0), (true, 640)] {
            slots[0].words()[SUMMARY_WORDS].store(tag.word(640, is_whole), Release);
            assert_eq!((acks.applied(0), acks.acknowledged(0)), (640, acknowledged));
        }
    }

    #[test]
    fn a_word_has_room_for_every_tag_and_position() {
        let mut tag = Tag::FIRST;
        for number in 1..=TAG_MASK as u16 {
            assert_eq!((tag.number(), Tag::from_number(number)), (number, Some(tag)));
            let word = tag.word(POSITION_MAX - 8, number % 2 == 0);
            assert_eq!((position_of(word), word & TAG_MASK), (POSITION_MAX - 8, number.into()));
            tag = Tag::after(tag.0);
        }
        assert_eq!((tag, tag.word(0, false)), (Tag::FIRST, 0));
        assert_eq!([0, TAG_MASK as u16 + 1].map(Tag::from_number), [None; 2]);
    }
}
