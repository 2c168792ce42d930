//! Queue pairs. A [`QueuePair`] is one end of a connection; a [`ReadQueue`] is the end that READs
//! and WRITEs, and owns the landings of the READs that are under way, and the sources of WRITEs:
//! landings come out with their completions, or go once the device has let go of them.

use super::cm::{Connection, Id};
use super::completion::{COMPLETIONS_MAX, Completed, CompletionQueue};
use super::memory::{Domain, Region, Registration};
use super::{READS_MAX, Refusal, Transfer, answered, ffi};
use crate::fabric::{Landing, Read, WRITE_BYTES_MAX, WRITE_DEPTH_MAX, Write};
use crate::sys::sync::Ordering::Relaxed;
use std::sync::Arc;

/// WRITEs under way at a time: acks go out more often than they are completed, but each says all
/// that the last one said.
pub const WRITES_MAX: usize = 16;

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
    ) -> Result<QueuePair, (Id, Refusal)> {
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
    pub fn connect(&mut self, with: &Connection<'_>) -> Result<(), Refusal> {
        self.id.connect(with)
    }

    /// See [`Id`].
    pub fn accept(&mut self, with: &Connection<'_>) -> Result<(), Refusal> {
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
    fn end(&mut self) -> Result<(), Refusal> {
        self.stop();
        // SAFETY: the id stands, nobody else has the queue pair.
        let answer = unsafe { ffi::rv_qp_destroy(self.id.raw()) };
        self.id.disconnect();
        answered("destroy a queue pair", answer).map(drop)
    }

    fn post_reads(&mut self, reads: &[Transfer]) -> Result<(), Refusal> {
        // SAFETY: the queue pair stands until `end`. The memory that is named is that of landings,
        // which the one caller, ReadQueue, keeps until they have completed or the queue pair is
        // gone. At most READS_MAX, or refused.
        let answer = unsafe { ffi::rv_post_reads(self.id.raw(), reads.as_ptr(), reads.len() as u32) };
        answered("post READs", answer).map(drop)
    }

    fn post_writes(&mut self, writes: &[Transfer]) -> Result<(), Refusal> {
        // SAFETY: the queue pair stands until `end`. The memory that is named is that of sources,
        // which the one caller, ReadQueue, keeps until the queue pair is gone. At most READS_MAX,
        // or refused.
        let answer = unsafe { ffi::rv_post_writes(self.id.raw(), writes.as_ptr(), writes.len() as u32) };
        answered("post WRITEs", answer).map(drop)
    }

    fn post_write(&mut self, write: &Transfer, inline: bool) -> Result<(), Refusal> {
        // SAFETY: the queue pair stands until `end`. What is inline is copied before this returns;
        // else it lies in the buffer of the one caller, ReadQueue, as above.
        let answer = unsafe { ffi::rv_post_write(self.id.raw(), write, u32::from(inline)) };
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

/// Marks the completions of acks; those of READs carry their slot.
const WRITE_TAG: u64 = 1 << 63;
/// Marks the completions of WRITEs of data.
const DATA_TAG: u64 = 1 << 62;

const _: () = assert!(WRITE_DEPTH_MAX <= READS_MAX, "a batch is one chain of requests");

/// See the module.
pub struct ReadQueue {
    pair: QueuePair,
    completions: Arc<CompletionQueue>,
    under_way: [Option<(u64, Landing)>; READS_MAX],
    writes: u64,
    writes_done: u64,
    sources: Vec<Arc<Region>>,
    /// WRITEs of data under way.
    data_writes: usize,
    /// Where WRITEs start from if the queue pair takes none inline: a cell for each.
    buffer: Option<Landing>,
}

impl ReadQueue {
    /// Over `pair`, which completes to `completions`.
    /// `buffer`, a page, is needed unless [`ReadQueue::writes_inline`].
    pub fn new(pair: QueuePair, completions: Arc<CompletionQueue>, buffer: Option<Landing>) -> ReadQueue {
        ReadQueue {
            pair,
            completions,
            under_way: Default::default(),
            writes: 0,
            writes_done: 0,
            sources: Vec::new(),
            data_writes: 0,
            buffer,
        }
    }

    /// Whether `pair` takes WRITEs inline.
    pub fn writes_inline(pair: &QueuePair) -> bool {
        pair.inline_bytes >= WRITE_BYTES_MAX
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

    /// True if another WRITE can be taken.
    pub fn takes_write(&self) -> bool {
        self.writes - self.writes_done < WRITES_MAX as u64
    }

    /// Post `reads`, of which `place` gives address and key at the peer, with one doorbell. After
    /// an error some may be under way all the same; they are kept.
    pub fn post(&mut self, reads: &mut Vec<Read>, place: impl Fn(&Read) -> (u64, u32)) -> Result<(), Refusal> {
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

    /// Take these as sources; see [`ReadQueue::post_data`].
    pub fn lend(&mut self, sources: Vec<Arc<Region>>) {
        assert!(self.sources.is_empty(), "sources are lent once");
        self.sources = sources;
    }

    /// Post WRITEs of what lies in sources, of which `place` gives address and key at the peer,
    /// with one doorbell.
    pub fn post_data(&mut self, writes: &[Write], place: impl Fn(&Write) -> (u64, u32)) -> Result<(), Refusal> {
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

    /// Post a WRITE of `words` to `remote`. There must be room: [`ReadQueue::takes_write`].
    pub fn write(&mut self, remote: u64, rkey: u32, words: &[u64]) -> Result<(), Refusal> {
        assert!(self.takes_write() && size_of_val(words) <= WRITE_BYTES_MAX);
        let mut write =
            Transfer { tag: WRITE_TAG, remote, rkey, bytes: size_of_val(words) as u32, ..Default::default() };
        let inline = self.buffer.is_none();
        if let Some(buffer) = &self.buffer {
            // A cell is free again once the WRITE that had it is done; they are done in their
            // order.
            let cell = (self.writes % WRITES_MAX as u64) as usize * (WRITE_BYTES_MAX / 8);
            let room = &buffer.words(buffer.bytes())[cell..];
            room.iter().zip(words).for_each(|(to, word)| to.store(*word, Relaxed));
            let registration = buffer.registration::<Registration>().expect("made by this fabric");
            write.local = registration.address() + cell as u64 * 8;
            write.lkey = registration.local_key();
        } else {
            write.local = words.as_ptr() as u64;
        }
        self.pair.post_write(&write, inline)?;
        self.writes += 1;
        Ok(())
    }

    /// Take what has completed, up to [`COMPLETIONS_MAX`].
    pub fn reap(&mut self, mut finished: impl FnMut(Finished)) -> Result<Reaped, Refusal> {
        let mut found = [Completed::default(); COMPLETIONS_MAX];
        let mut reaped = Reaped { count: self.completions.poll(&mut found)?, failure: None };
        for completed in &found[..reaped.count] {
            if completed.status != super::completion::SUCCESS && reaped.failure.is_none() {
                reaped.failure = Some((completed.status, completed.vendor));
            }
            if completed.tag == WRITE_TAG {
                self.writes_done += 1;
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
