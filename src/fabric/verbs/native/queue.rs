//! Queue pairs. A [`QueuePair`] is one end of a connection; a [`ReadQueue`] is the end that READs
//! and WRITEs, and owns the landings of the READs that are under way, and the sources of WRITEs:
//! landings come out with their completions, or go once the device has let go of them.

use super::cm::{Connection, Id};
use super::completion::{COMPLETIONS_MAX, Completed, CompletionQueue};
use super::memory::{Domain, Region, Registration};
use super::{FailedCall, READS_MAX, Transfer, answered, ffi};
use crate::fabric::{ACK_BYTES, Landing, Read, WRITE_DEPTH_MAX, Write};
use crate::sys::sync::Ordering::Relaxed;
use std::sync::Arc;

/// Acks under way at a time: more go out than are waited for.
pub const ACKS_MAX: usize = 16;
/// Every so many acks one is signalled.
const SIGNALLED_EVERY: u64 = ACKS_MAX as u64 / 2;
/// Bytes of the buffer for acks that are not taken inline: a cell for each.
pub const ACK_BUFFER_BYTES: usize = ACKS_MAX * ACK_BYTES;

const _: () = assert!(SIGNALLED_EVERY <= ACKS_MAX as u64, "of a full queue one is signalled");

/// Which acks are under way. What a queue pair sends completes in its order, so the completion of a
/// signalled ack is also that of those before it. Only then are their places in the send queue, and
/// their cells of the buffer, free again.
#[derive(Debug, Default)]
struct AckCount {
    /// The number of the last one that was posted, from 1.
    posted: u64,
    /// All up to this number are done.
    done: u64,
}

impl AckCount {
    fn has_room(&self) -> bool {
        self.posted - self.done < ACKS_MAX as u64
    }

    /// The next one's number, and whether it is signalled.
    fn next(&self) -> (u64, bool) {
        let number = self.posted + 1;
        (number, number.is_multiple_of(SIGNALLED_EVERY))
    }

    /// Where the cell of ack `number` begins.
    fn cell(number: u64) -> usize {
        (number % ACKS_MAX as u64) as usize * ACK_BYTES
    }

    /// The completion of ack `number` has come: it was signalled, or has failed.
    fn completed(&mut self, number: u64) {
        self.done = self.done.max(number);
    }
}

/// One end of a reliable connection.
pub struct QueuePair {
    id: Id,
    number: u32,
    inline_bytes: usize,
    _completions: Arc<CompletionQueue>,
    domain: Arc<Domain>,
}

impl QueuePair {
    /// One for `id`, that can have `sends` requests of its own under way. An id that was refused
    /// one comes back.
    pub fn new(
        id: Id,
        domain: &Arc<Domain>,
        completions: &Arc<CompletionQueue>,
        sends: usize,
        inline_bytes: usize,
    ) -> Result<QueuePair, (Id, FailedCall)> {
        let (mut given, mut number) = (inline_bytes as u32, 0);
        // SAFETY: all three stand, and are of one device or refused; what is told goes to locals.
        let answer = unsafe {
            ffi::rv_qp_create(id.raw(), domain.raw(), completions.raw(), sends as u32, &mut given, &mut number)
        };
        match answered("create a queue pair", answer) {
            Err(refusal) => Err((id, refusal)),
            Ok(_) => Ok(QueuePair {
                id,
                number,
                inline_bytes: given as usize,
                _completions: completions.clone(),
                domain: domain.clone(),
            }),
        }
    }

    /// Its number, by which its device names it.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its end of the connection.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// The memory that it reaches.
    pub fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// See [`Id`].
    pub fn connect(&mut self, with: &Connection<'_>) -> Result<(), FailedCall> {
        self.id.connect(with)
    }

    /// See [`Id`].
    pub fn accept(&mut self, with: &Connection<'_>) -> Result<(), FailedCall> {
        self.id.accept(with)
    }

    /// Carry out nothing more, for neither side; what is under way is flushed.
    pub fn stop(&mut self) {
        // SAFETY: the id stands; without a queue pair nothing is done.
        let stopped = answered("stop a queue pair", unsafe { ffi::rv_qp_stop(self.id.raw()) });
        if let Err(refusal) = stopped {
            log::debug!("verbs: cannot {}: errno {}", refusal.doing, refusal.errno);
        }
    }

    /// Destroy it, then tell the peer. After Ok the device touches no memory through it any more.
    fn end(&mut self) -> Result<(), FailedCall> {
        self.stop();
        // SAFETY: the id stands, nobody else has the queue pair.
        let answer = unsafe { ffi::rv_qp_destroy(self.id.raw()) };
        self.id.disconnect();
        answered("destroy a queue pair", answer).map(drop)
    }

    fn post_reads(&mut self, reads: &[Transfer]) -> Result<(), FailedCall> {
        // SAFETY: the queue pair stands until `end`. The memory that is named is that of landings,
        // which the one caller, ReadQueue, keeps until they have completed or the queue pair is
        // gone. At most READS_MAX, or refused.
        let answer = unsafe { ffi::rv_post_reads(self.id.raw(), reads.as_ptr(), reads.len() as u32) };
        answered("post READs", answer).map(drop)
    }

    fn post_writes(&mut self, writes: &[Transfer]) -> Result<(), FailedCall> {
        // SAFETY: the queue pair stands until `end`. The memory that is named is that of sources,
        // which the one caller, ReadQueue, keeps until the queue pair is gone. At most READS_MAX,
        // or refused.
        let answer = unsafe { ffi::rv_post_writes(self.id.raw(), writes.as_ptr(), writes.len() as u32) };
        answered("post WRITEs", answer).map(drop)
    }

    fn post_write(&mut self, write: &Transfer, inline: bool, signalled: bool) -> Result<(), FailedCall> {
        // SAFETY: the queue pair stands until `end`. What is inline is copied before this returns;
        // else it lies in the buffer of the one caller, ReadQueue, as above.
        let answer = unsafe { ffi::rv_post_write(self.id.raw(), write, inline.into(), signalled.into()) };
        answered("post a WRITE", answer).map(drop)
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        if let Err(refusal) = self.end() {
            log::error!("verbs: cannot {}: errno {}", refusal.doing, refusal.errno);
        }
    }
}

/// A READ that is done, with its completion's status.
pub struct Finished {
    /// The READ's.
    pub tag: u64,
    /// The caller's again.
    pub landing: Landing,
    /// [`super::completion::SUCCESS`] or what happened.
    pub status: u32,
}

/// What a poll found.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reaped {
    /// Completions.
    pub count: usize,
    /// The first status that was not success, with the vendor's word for it.
    pub failure: Option<(u32, u32)>,
}

/// Marks the completions of acks, which carry their number; those of READs carry their slot.
const ACK_TAG: u64 = 1 << 63;
/// Marks the completions of WRITEs of data.
const DATA_TAG: u64 = 1 << 62;

const _: () = assert!(WRITE_DEPTH_MAX <= READS_MAX, "a batch is one chain of requests");

/// See the module.
pub struct ReadQueue {
    pair: QueuePair,
    completions: Arc<CompletionQueue>,
    under_way: [Option<(u64, Landing)>; READS_MAX],
    acks: AckCount,
    sources: Vec<Arc<Region>>,
    /// WRITEs of data under way.
    data_writes: usize,
    /// Where acks start from that are too long for the queue pair to take them inline.
    buffer: Option<Landing>,
}

impl ReadQueue {
    /// Over `pair`, which completes to `completions`, for WRITEs of data from `sources`.
    pub fn new(pair: QueuePair, completions: Arc<CompletionQueue>, sources: Vec<Arc<Region>>) -> ReadQueue {
        ReadQueue {
            pair,
            completions,
            under_way: Default::default(),
            acks: AckCount::default(),
            sources,
            data_writes: 0,
            buffer: None,
        }
    }

    /// The queue pair.
    pub fn pair(&mut self) -> &mut QueuePair {
        &mut self.pair
    }

    /// What it completes to.
    pub fn completions(&self) -> &CompletionQueue {
        &self.completions
    }

    /// READs under way.
    pub fn reads_under_way(&self) -> usize {
        self.under_way.iter().flatten().count()
    }

    /// True if another ack can be taken.
    pub fn takes_ack(&self) -> bool {
        self.acks.has_room()
    }

    /// Whether an ack of so many bytes needs a buffer that is not there yet.
    pub fn lacks_buffer(&self, bytes: usize) -> bool {
        bytes > self.pair.inline_bytes && self.buffer.is_none()
    }

    /// Take this as the buffer, [`ACK_BUFFER_BYTES`] long.
    pub fn take_buffer(&mut self, buffer: Landing) {
        assert!(self.buffer.is_none() && buffer.bytes() >= ACK_BUFFER_BYTES, "one buffer, with room for all");
        self.buffer = Some(buffer);
    }

    /// Post `reads`, of which `place` gives address and key at the peer, with one doorbell. After
    /// an error some may be under way all the same; they are kept.
    pub fn post(&mut self, reads: &mut Vec<Read>, place: impl Fn(&Read) -> (u64, u32)) -> Result<(), FailedCall> {
        assert!(self.reads_under_way() + reads.len() <= READS_MAX, "more READs under way than a queue takes");
        let mut transfers = [Transfer::default(); READS_MAX];
        let count = reads.len();
        let mut slots = 0..READS_MAX;
        for (transfer, read) in transfers.iter_mut().zip(reads.drain(..)) {
            let slot = slots.find(|slot| self.under_way[*slot].is_none()).expect("as many as there are READs");
            let (remote, rkey) = place(&read);
            let registration = read.landing.registration::<Registration>().expect("a landing of this fabric's");
            assert!(read.bytes <= read.landing.bytes(), "a READ longer than its landing");
            *transfer = Transfer {
                tag: slot as u64,
                remote,
                local: registration.address(),
                rkey,
                lkey: registration.local_key(),
                bytes: read.bytes as u32,
                reserved: 0,
            };
            self.under_way[slot] = Some((read.tag, read.landing));
        }
        if count == 0 { Ok(()) } else { self.pair.post_reads(&transfers[..count]) }
    }

    /// Post WRITEs of what lies in its sources, of which `place` gives address and key at the peer,
    /// with one doorbell.
    pub fn post_data(&mut self, writes: &[Write], place: impl Fn(&Write) -> (u64, u32)) -> Result<(), FailedCall> {
        assert!(self.data_writes + writes.len() <= WRITE_DEPTH_MAX, "more WRITEs under way than a queue takes");
        let mut transfers = [Transfer::default(); WRITE_DEPTH_MAX];
        for (transfer, write) in transfers.iter_mut().zip(writes) {
            let source = &self.sources[write.source];
            let end = write.from.checked_add(write.bytes);
            assert!(end.is_some_and(|end| end <= source.bytes()), "a WRITE from beyond its source");
            let (remote, rkey) = place(write);
            *transfer = Transfer {
                tag: DATA_TAG,
                remote,
                local: source.registration().address() + write.from as u64,
                rkey,
                lkey: source.registration().local_key(),
                bytes: write.bytes as u32,
                reserved: 0,
            };
        }
        if writes.is_empty() {
            return Ok(());
        }
        self.data_writes += writes.len();
        self.pair.post_writes(&transfers[..writes.len()])
    }

    /// Post an ack: a WRITE of `words` to `remote`. There must be room ([`ReadQueue::takes_ack`]),
    /// and a buffer if it [needs](ReadQueue::lacks_buffer) one.
    pub fn post_ack(&mut self, remote: u64, rkey: u32, words: &[u64]) -> Result<(), FailedCall> {
        let ((number, signalled), bytes) = (self.acks.next(), size_of_val(words));
        assert!(self.takes_ack() && bytes <= ACK_BYTES);
        let inline = bytes <= self.pair.inline_bytes;
        let (local, lkey) = if inline { (words.as_ptr() as u64, 0) } else { self.buffered(number, words) };
        let tag = ACK_TAG | number;
        let write = Transfer { tag, remote, local, rkey, lkey, bytes: bytes as u32, reserved: 0 };
        self.pair.post_write(&write, inline, signalled)?;
        self.acks.posted = number;
        Ok(())
    }

    /// Copy `words` to the cell of ack `number`; its address and local key. The ack that had the
    /// cell before is done: there was room for this one.
    fn buffered(&self, number: u64, words: &[u64]) -> (u64, u32) {
        let buffer = self.buffer.as_ref().expect("a buffer for acks that are not taken inline");
        let cell = AckCount::cell(number);
        let room = &buffer.words(buffer.bytes())[cell / 8..];
        room.iter().zip(words).for_each(|(to, word)| to.store(*word, Relaxed));
        let registration = buffer.registration::<Registration>().expect("made by this fabric");
        (registration.address() + cell as u64, registration.local_key())
    }

    /// Take what has completed, up to [`COMPLETIONS_MAX`].
    pub fn reap(&mut self, mut finished: impl FnMut(Finished)) -> Result<Reaped, FailedCall> {
        let mut found = [Completed::default(); COMPLETIONS_MAX];
        let mut reaped = Reaped { count: self.completions.poll(&mut found)?, failure: None };
        for completed in &found[..reaped.count] {
            if completed.status != super::completion::SUCCESS && reaped.failure.is_none() {
                reaped.failure = Some((completed.status, completed.vendor));
            }
            if completed.tag & ACK_TAG != 0 {
                self.acks.completed(completed.tag & !ACK_TAG);
            } else if completed.tag == DATA_TAG {
                self.data_writes -= 1;
            } else if let Some((tag, landing)) = self.under_way.get_mut(completed.tag as usize).and_then(Option::take) {
                finished(Finished { tag, landing, status: completed.status });
            }
        }
        Ok(reaped)
    }
}

impl Drop for ReadQueue {
    fn drop(&mut self) {
        // The queue pair goes before the landings. One that the device would not give up may still
        // be written through: its landings are never freed then.
        if let Err(refusal) = self.pair.end() {
            log::error!("verbs: cannot {}: errno {}; its memory is kept", refusal.doing, refusal.errno);
            self.under_way.iter_mut().for_each(|slot| std::mem::forget(slot.take()));
            std::mem::forget(self.buffer.take());
            std::mem::forget(std::mem::take(&mut self.sources));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A device that completes what is signalled, in order and as late as it can.
    #[test]
    fn acks_flow_with_few_completions_and_no_cell_is_taken_twice() {
        let mut acks = AckCount::default();
        let (mut cells, mut signalled) = (VecDeque::new(), VecDeque::new());
        let mut completions = 0;
        for _ in 0..1000 {
            if !acks.has_room() {
                let number = signalled.pop_front().expect("of a full queue one is signalled");
                completions += 1;
                acks.completed(number);
                cells.retain(|(taken, _)| *taken > number);
            }
            assert!(acks.has_room() && cells.len() < ACKS_MAX, "the send queue has a place");
            let (number, is_signalled) = acks.next();
            let cell = AckCount::cell(number);
            assert!(cells.iter().all(|(_, taken)| *taken != cell), "ack {number} overwrites one under way");
            assert!(cell + ACK_BYTES <= ACK_BUFFER_BYTES);
            cells.push_back((number, cell));
            signalled.extend(is_signalled.then_some(number));
            acks.posted = number;
        }
        assert!(completions <= 1000 / SIGNALLED_EVERY as usize, "{completions} completions of 1000 acks");
    }

    #[test]
    fn one_that_fails_completes_by_itself_and_those_before_it_are_done() {
        let mut acks = AckCount { posted: 7, done: 0 };
        acks.completed(3);
        assert_eq!(acks.done, 3);
        acks.completed(2);
        assert_eq!(acks.done, 3, "nothing comes back to life");
    }
}
