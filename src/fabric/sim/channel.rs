//! The replica's end of a simulation. A READ goes through three queues: READs to be carried out,
//! strictly in order; READs that were carried out and are held back; and READs that are done. A
//! WRITE of data goes through the first queue, and can be torn and late as READs can. An ack waits
//! for its turn; one that is torn then arrives in parts, in any order, and those behind it wait.

use super::exporter::Granted;
use super::{Faults, error};
use crate::fabric::waiting::Step;
use crate::fabric::{
    ACK_BYTES, Access, Cause, Channel, Completion, DEPTH_MAX, FabricError, Kind, Landing, READ_BYTES_MAX, Read,
    Regions, WRITE_DEPTH_MAX, Write, WriteChannel,
};
use crate::sys::sync::AtomicU64;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

/// Most acks under way; one more is not taken.
const WRITES_MAX: usize = 4;
/// Parts of a torn READ.
const PARTS: std::ops::RangeInclusive<usize> = 2..=4;

/// An operation that is to be carried out.
enum Work {
    Read(Read),
    Write(Write),
}

/// A READ, or a WRITE of data, that has not been carried out, or only in part.
struct Pending {
    work: Work,
    /// Polls until its next part.
    delay: u32,
    /// Words that are still to be copied, the next ones last.
    parts: Vec<Range<usize>>,
    /// Polls that it is held back once it is carried out.
    hold: u32,
    corrupt: bool,
    lost: bool,
    /// The channel ends after it.
    cut: bool,
}

/// A READ that is carried out.
struct Carried {
    completion: Completion,
    hold: u32,
    /// Whether later ones may come first.
    overtaken: bool,
}

struct AckWrite {
    first: usize,
    words: Vec<u64>,
    /// Polls until its next part.
    delay: u32,
    /// Words that are still to be stored, the next ones last.
    parts: Vec<Range<usize>>,
    cut: bool,
}

/// `sources` are those of a channel that WRITEs.
pub(super) fn open(
    granted: Arc<Granted>,
    faults: Faults,
    random: fastrand::Rng,
    sources: Option<Arc<dyn Regions>>,
) -> Box<SimChannel> {
    *granted.stage.lock() = Step::Connected(());
    if faults.cut_after == Some(0) {
        granted.end(cut());
    }
    Box::new(SimChannel {
        granted,
        faults,
        random,
        operations: 0,
        pending: VecDeque::new(),
        carried: VecDeque::new(),
        lost: Vec::new(),
        writes: VecDeque::new(),
        sources,
        written: 0,
    })
}

fn cut() -> FabricError {
    error(Cause::Closed, "the simulation cut the channel")
}

pub(super) struct SimChannel {
    granted: Arc<Granted>,
    faults: Faults,
    random: fastrand::Rng,
    operations: u64,
    pending: VecDeque<Pending>,
    carried: VecDeque<Carried>,
    lost: Vec<Read>,
    writes: VecDeque<AckWrite>,
    sources: Option<Arc<dyn Regions>>,
    /// WRITEs of data that were submitted after the last READ.
    written: usize,
}

impl Channel for SimChannel {
    fn kind(&self) -> Kind {
        Kind::Sim
    }

    fn depth_max(&self) -> usize {
        DEPTH_MAX
    }

    fn landing(&mut self, bytes: usize) -> Result<Landing, FabricError> {
        Landing::new(bytes).map_err(|error| FabricError::from_io(Kind::Sim, "memory for a landing", &error))
    }

    fn submit(&mut self, reads: &mut Vec<Read>) -> Result<(), FabricError> {
        self.check()?;
        let reads_pending = self.pending.iter().filter(|pending| matches!(pending.work, Work::Read(_))).count();
        let under_way = reads_pending + self.carried.len() + self.lost.len();
        assert!(under_way + reads.len() <= DEPTH_MAX, "more READs under way than were allowed");
        for read in reads.drain(..) {
            assert!(
                read.bytes.is_multiple_of(8) && read.bytes <= READ_BYTES_MAX,
                "a READ is whole words, not too many"
            );
            assert!(read.bytes <= read.landing.bytes(), "a READ longer than its landing");
            self.written = 0;
            self.take(Work::Read(read));
        }
        Ok(())
    }

    /// Never sleeps, whatever `wait` says: the next poll is the passing of time.
    fn poll(&mut self, done: &mut Vec<Completion>, _wait: Duration) -> Result<usize, FabricError> {
        let before = done.len();
        self.write_some();
        self.carry_some();
        self.complete_some(done);
        if let Some(why) = self.granted.over() {
            self.fail_all(&why, done);
            if done.len() == before {
                return Err(why);
            }
        }
        Ok(done.len() - before)
    }

    fn write_ack(&mut self, offset: usize, words: &[u64]) -> Result<bool, FabricError> {
        self.check()?;
        assert!(
            words.len() * 8 <= ACK_BYTES && offset.is_multiple_of(8),
            "a WRITE is whole words, no more than a slot"
        );
        if self.writes.len() == WRITES_MAX {
            return Ok(false);
        }
        let delay = self.random.u32(0..=self.faults.delay_polls_max);
        let parts = self.parts(words.len());
        let cut = self.count_operation();
        self.writes.push_back(AckWrite { first: offset / 8, words: words.to_vec(), delay, parts, cut });
        Ok(true)
    }
}

impl WriteChannel for SimChannel {
    fn write(&mut self, writes: &[Write]) -> Result<(), FabricError> {
        self.check()?;
        self.written += writes.len();
        assert!(self.written <= WRITE_DEPTH_MAX, "more WRITEs under way than were allowed");
        for write in writes {
            let sources = self.sources.as_ref().expect("a channel that WRITEs has sources");
            let whole = write.bytes.is_multiple_of(8) && write.from.is_multiple_of(8) && write.bytes <= READ_BYTES_MAX;
            assert!(
                whole && write.from + write.bytes <= sources.memory(write.source).words().len() * 8,
                "no such words"
            );
            self.take(Work::Write(*write));
        }
        Ok(())
    }
}

impl SimChannel {
    fn check(&self) -> Result<(), FabricError> {
        self.granted.over().map_or(Ok(()), Err)
    }

    fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.f64() < share
    }

    /// Whether the channel ends after this operation.
    fn count_operation(&mut self) -> bool {
        self.operations += 1;
        self.faults.cut_after == Some(self.operations)
    }

    fn take(&mut self, work: Work) {
        let (count, changeable) = match &work {
            Work::Read(read) => (read.bytes / 8, read.region >= self.faults.corrupt_from_region),
            Work::Write(write) => (write.bytes / 8, write.source >= self.faults.corrupt_from_region as usize),
        };
        let is_read = matches!(work, Work::Read(_));
        let parts = self.parts(count);
        let stale = self.chance(self.faults.stale);
        let early = is_read && self.chance(self.faults.early);
        let mut pending = Pending {
            work,
            delay: self.random.u32(0..=self.faults.delay_polls_max),
            parts,
            hold: if stale { self.random.u32(0..=self.faults.stale_polls_max) } else { 0 },
            corrupt: self.chance(self.faults.corrupt) && changeable,
            lost: self.chance(self.faults.drop) && is_read,
            cut: self.chance(self.faults.cut) | self.count_operation(),
        };
        if early {
            self.copy_parts(&mut pending, usize::MAX);
            pending.parts = std::iter::once(0..0).collect();
        }
        let lost = pending.lost || is_read && self.faults.drop_at == Some(self.operations);
        self.pending.push_back(Pending { lost, ..pending });
        if stale {
            // What was submitted earlier must be carried out earlier.
            while let Some(mut pending) = self.pending.pop_front() {
                self.copy_parts(&mut pending, usize::MAX);
                self.carried_out(pending);
            }
        }
    }

    /// All in one, or torn.
    fn parts(&mut self, count: usize) -> Vec<Range<usize>> {
        let torn = self.chance(self.faults.tear);
        if torn { self.tear(count) } else { std::iter::once(0..count).collect() }
    }

    /// Two to four parts in any order; some may be empty.
    fn tear(&mut self, count: usize) -> Vec<Range<usize>> {
        let mut ends: Vec<usize> = (1..self.random.usize(PARTS)).map(|_| self.random.usize(0..=count)).collect();
        ends.push(count);
        ends.sort_unstable();
        let mut start = 0;
        let mut parts: Vec<Range<usize>> =
            ends.into_iter().map(|end| std::mem::replace(&mut start, end)..end).collect();
        self.random.shuffle(&mut parts);
        parts
    }

    /// Some READs are carried out, in order; a torn or late one is the last of this poll.
    fn carry_some(&mut self) {
        while let Some(mut pending) = self.pending.pop_front() {
            if pending.delay > 0 {
                pending.delay -= 1;
                return self.pending.push_front(pending);
            }
            self.copy_parts(&mut pending, 1);
            if !pending.parts.is_empty() {
                pending.delay = self.random.u32(0..=self.faults.delay_polls_max);
                return self.pending.push_front(pending);
            }
            self.carried_out(pending);
        }
    }

    fn copy_parts(&mut self, pending: &mut Pending, count: usize) {
        for _ in 0..count {
            let Some(part) = pending.parts.pop() else { return };
            if self.granted.over().is_some() || !self.carry(&pending.work, part) {
                return pending.parts.clear();
            }
        }
    }

    /// Carry out one part; false if it reaches beyond its region, which ends the channel.
    fn carry(&self, work: &Work, part: Range<usize>) -> bool {
        match work {
            Work::Read(read) => self.copy(read, part),
            Work::Write(write) => self.store(write, part),
        }
    }

    fn words(&self, region: u32, offset: u64, bytes: usize, access: Access) -> Option<&[AtomicU64]> {
        let (number, regions) = (region as usize, &self.granted.regions);
        let allowed = number < regions.count() && (access == Access::Read || regions.access(number) == Access::Write);
        let first = usize::try_from(offset / 8).unwrap_or(usize::MAX);
        let words = allowed.then(|| regions.memory(number).words()).filter(|_| offset.is_multiple_of(8))?;
        words.get(first..first.saturating_add(bytes / 8))
    }

    fn store(&self, write: &Write, part: Range<usize>) -> bool {
        let Some(to) = self.words(write.region, write.offset, write.bytes, Access::Write) else {
            let what = format!("a WRITE of {} bytes at {} of region {}", write.bytes, write.offset, write.region);
            self.granted.end(error(Cause::Access, format!("{what}, which is beyond it or for reading alone")));
            return false;
        };
        let sources = self.sources.as_ref().expect("looked at when it was taken");
        let from = &sources.memory(write.source).words()[write.from / 8..][..write.bytes / 8];
        fence(Ordering::SeqCst); // seen after what was stored before
        let copy = |(to, from): (&AtomicU64, &AtomicU64)| to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        to[part.clone()].iter().zip(&from[part]).for_each(copy);
        fence(Ordering::SeqCst); // and before what comes behind
        true
    }

    fn copy(&self, read: &Read, part: Range<usize>) -> bool {
        let Some(from) = self.words(read.region, read.offset, read.bytes, Access::Read) else {
            let what = format!("a READ of {} bytes at {} of region {}", read.bytes, read.offset, read.region);
            self.granted.end(error(Cause::Access, format!("{what}, which is beyond it")));
            return false;
        };
        let to = &read.landing.words(read.bytes)[part.clone()];
        let copy = |(to, from): (&AtomicU64, &AtomicU64)| {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        };
        to.iter().zip(&from[part]).for_each(copy);
        fence(Ordering::Acquire); // the next READ sees nothing older
        true
    }

    fn carried_out(&mut self, pending: Pending) {
        let Pending { work, hold, corrupt, lost, cut: last, .. } = pending;
        let read = match work {
            Work::Read(read) => read,
            Work::Write(write) => return self.stored(&write, corrupt, last),
        };
        let outcome = self.check();
        if corrupt && outcome.is_ok() && read.bytes > 0 {
            let words = read.landing.words(read.bytes);
            let bit = 1 << self.random.u32(..64);
            words[self.random.usize(..words.len())].fetch_xor(bit, Ordering::Relaxed);
        }
        if lost && outcome.is_ok() {
            self.lost.push(read);
        } else {
            let overtaken = self.chance(self.faults.reorder);
            let completion = Completion { tag: read.tag, landing: read.landing, outcome };
            self.carried.push_back(Carried { completion, hold, overtaken });
        }
        if last {
            self.granted.end(cut());
        }
    }

    /// A WRITE of data has arrived.
    fn stored(&mut self, write: &Write, corrupt: bool, last: bool) {
        let (bit, at) = (1 << self.random.u32(..64), self.random.usize(..(write.bytes / 8).max(1)));
        let to = self.words(write.region, write.offset, write.bytes, Access::Write).filter(|_| corrupt);
        if let Some(word) = to.and_then(|to| to.get(at)) {
            word.fetch_xor(bit, Ordering::Relaxed);
        }
        if last {
            self.granted.end(cut());
        }
    }

    /// READs that are no longer held back. Those behind one that may not be overtaken wait for it.
    fn complete_some(&mut self, done: &mut Vec<Completion>) {
        self.carried.iter_mut().for_each(|carried| carried.hold = carried.hold.saturating_sub(1));
        let mut at = 0;
        while let Some(carried) = self.carried.get(at) {
            let late = carried.hold > 0 || (carried.overtaken && self.random.bool());
            if late && !carried.overtaken {
                return;
            }
            if late {
                at += 1;
            } else {
                done.extend(self.carried.remove(at).map(|carried| carried.completion));
            }
        }
    }

    /// Some acks arrive, in order; one that is torn or late is the last of this poll.
    fn write_some(&mut self) {
        while let Some(write) = self.writes.front_mut() {
            if write.delay > 0 {
                write.delay -= 1;
                return;
            }
            let delay = self.random.u32(0..=self.faults.delay_polls_max);
            if self.write_part() {
                self.writes.front_mut().expect("a part of it is left").delay = delay;
                return;
            }
        }
    }

    /// The next part of the oldest ack arrives; true if there is another part.
    fn write_part(&mut self) -> bool {
        let Some(AckWrite { first, words, parts, cut: last, .. }) = self.writes.front_mut() else { return false };
        let (slot, part, last) = (self.granted.ack.words(), parts.pop().unwrap_or_default(), *last);
        match slot.get(*first..).and_then(|slot| slot.get(..words.len())) {
            _ if self.granted.over().is_some() => parts.clear(),
            Some(slot) => {
                let store = |(to, word): (&AtomicU64, &u64)| to.store(*word, Ordering::Release);
                slot[part.clone()].iter().zip(&words[part]).for_each(store);
            }
            None => {
                parts.clear();
                self.granted.end(error(Cause::Access, "a WRITE reaches beyond the ack slot"));
            }
        }
        if !parts.is_empty() {
            return true;
        }
        self.writes.pop_front();
        if last {
            self.granted.end(cut());
        }
        false
    }

    fn fail_all(&mut self, why: &FabricError, done: &mut Vec<Completion>) {
        done.extend(self.carried.drain(..).map(|carried| carried.completion));
        let pending = self.pending.drain(..).filter_map(|pending| match pending.work {
            Work::Read(read) => Some(read),
            Work::Write(_) => None,
        });
        let failed = |read: Read| Completion { tag: read.tag, landing: read.landing, outcome: Err(why.clone()) };
        done.extend(pending.chain(self.lost.drain(..)).map(failed));
    }
}

impl Drop for SimChannel {
    fn drop(&mut self) {
        self.granted.end(error(Cause::Closed, "the replica ended its channel"));
    }
}
