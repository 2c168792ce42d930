//! The replica's end of a channel: READs and their completions, acks, and how it notices that it is
//! over.
//!
//! How many READs a queue pair may have under way was agreed upon when it was connected. More than
//! those are not posted: not every device is trusted to hold them back itself. They wait here, in
//! their order, with the WRITEs of data behind them.

use super::devices::numa_node;
use super::errors::{completed, failed};
use super::native::cm::EventKind;
use super::native::completion::{FLUSHED, SUCCESS};
use super::native::memory::{self, LandingError};
use super::native::queue::{ACK_BUFFER_BYTES, Finished, QueuePair, ReadQueue};
use super::watch::Watch;
use crate::fabric::{self, Cause, Completion, DEPTH_MAX, FabricError, Invitation, Kind, Landing, Read, Write};
use crate::fabric::{ACK_BYTES, READ_BYTES_MAX, WRITE_DEPTH_MAX};
use arrayvec::ArrayVec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a poll looks for completions before it sleeps. A READ over a good network takes less,
/// and a sleep costs about as much.
const BUSY_POLL: Duration = Duration::from_micros(20);

/// How often a channel that does not sleep looks for events. A look is a system call.
const EVENTS_EVERY: Duration = Duration::from_millis(1);

/// Where there is no room for an ack for so long, those under way are overdue.
const ACK_ROOM_WAIT_MAX: Duration = Duration::from_secs(1);

/// Submitted, and not posted yet.
enum Waiting {
    Read(Read),
    Write(Write),
}

/// See the module. The watch goes before the queue pair.
pub(super) struct Channel {
    watch: Watch,
    queue: ReadQueue,
    regions: Vec<fabric::Descriptor>,
    ack: fabric::Descriptor,
    numa_node: Option<u32>,
    /// READs that the peer takes at a time.
    depth: usize,
    waiting: VecDeque<Waiting>,
    batch: Vec<Read>,
    /// READs that are done and that `poll` has not handed over yet.
    finished: VecDeque<Finished>,
    events_looked: Instant,
    /// Since when there has been no room for an ack, as far as anybody has asked.
    no_room_since: Option<Instant>,
    over: Option<FabricError>,
}

impl Channel {
    /// Over a queue pair that is connected.
    pub(super) fn new(mut queue: ReadQueue, invitation: &Invitation, depth: usize) -> Result<Channel, FabricError> {
        let pair = queue.pair();
        let device = pair.domain().device();
        let watch = Watch::new(device, pair.number())?;
        let numa_node = numa_node(&device.attributes()?.name);
        Ok(Channel {
            watch,
            queue,
            regions: invitation.regions.clone(),
            ack: invitation.ack,
            numa_node,
            depth,
            waiting: VecDeque::with_capacity(DEPTH_MAX + WRITE_DEPTH_MAX),
            batch: Vec::with_capacity(DEPTH_MAX),
            finished: VecDeque::with_capacity(DEPTH_MAX),
            events_looked: Instant::now(),
            no_room_since: None,
            over: None,
        })
    }

    /// End the channel. The first reason stays.
    fn end(&mut self, why: FabricError) -> FabricError {
        if self.over.is_none() {
            self.queue.pair().stop();
        }
        self.over.get_or_insert(why).clone()
    }

    fn standing(&self) -> Result<(), FabricError> {
        self.over.clone().map_or(Ok(()), Err)
    }

    /// READs that were submitted and not handed over yet.
    fn reads_taken(&self) -> usize {
        let waiting = self.waiting.iter().filter(|one| matches!(one, Waiting::Read(_))).count();
        self.queue.reads_under_way() + self.finished.len() + waiting
    }

    /// Post what waits, as far as the peer takes it.
    fn post_waiting(&mut self) -> Result<(), FabricError> {
        while self.over.is_none() && !self.waiting.is_empty() {
            let room = self.depth.saturating_sub(self.queue.reads_under_way());
            let mut writes = ArrayVec::<Write, WRITE_DEPTH_MAX>::new();
            loop {
                match self.waiting.pop_front() {
                    Some(Waiting::Read(read)) if writes.is_empty() && self.batch.len() < room => self.batch.push(read),
                    Some(Waiting::Write(write)) if self.batch.is_empty() && !writes.is_full() => writes.push(write),
                    Some(later) => break self.waiting.push_front(later),
                    None => break,
                }
            }
            if self.batch.is_empty() && writes.is_empty() {
                return Ok(());
            }
            let regions = &self.regions;
            let read_at = |read: &Read| place(regions, read.region, read.offset);
            let write_at = |write: &Write| place(regions, write.region, write.offset);
            let posted = self.queue.post(&mut self.batch, read_at);
            posted
                .and_then(|()| self.queue.post_data(&writes, write_at))
                .map_err(|refusal| self.end(refusal.into()))?;
        }
        Ok(())
    }

    /// Take completions; return how many READs and WRITEs they were of.
    fn reap(&mut self) -> Result<usize, FabricError> {
        let finished = &mut self.finished;
        let reaped = match self.queue.reap(|read| finished.push_back(read)) {
            Ok(reaped) => reaped,
            Err(refusal) => return Err(self.end(refusal.into())),
        };
        match reaped.failure {
            Some((FLUSHED, _)) if self.over.is_some() => {}
            Some((FLUSHED, vendor)) => {
                // The device or the connection manager has stopped the queue pair; their events say
                // why.
                self.look()?;
                self.end(completed(FLUSHED, vendor));
            }
            Some((status, vendor)) => {
                self.end(completed(status, vendor));
            }
            None => {}
        }
        self.post_waiting()?;
        Ok(reaped.count)
    }

    /// Look at what the connection manager and the device say.
    fn look(&mut self) -> Result<(), FabricError> {
        self.events_looked = Instant::now();
        loop {
            let event = match self.queue.pair().id().events().next() {
                Ok(None) => break,
                Ok(Some(event)) => event,
                Err(refusal) => return Err(self.end(refusal.into())),
            };
            let why = match event.kind {
                // A primary that ends before it has learned that the connection is established
                // rejects it instead.
                EventKind::Disconnected | EventKind::Rejected | EventKind::ConnectError => {
                    failed(Cause::Closed, "the primary has ended the channel, or is gone")
                }
                EventKind::DeviceRemoval => failed(Cause::System, "the device was removed"),
                _ => continue,
            };
            self.end(why);
        }
        if let Some(why) = self.watch.look() {
            self.end(why);
        }
        Ok(())
    }

    /// Hand over what is done.
    fn deliver(&mut self, done: &mut Vec<Completion>) -> usize {
        let (before, count) = (done.len(), self.finished.len());
        for Finished { tag, landing, status } in self.finished.drain(..) {
            let outcome = match (status, &self.over) {
                (SUCCESS, _) => Ok(()),
                (FLUSHED, Some(over)) => Err(over.clone()),
                _ => Err(completed(status, 0)),
            };
            done.push(Completion { tag, landing, outcome });
        }
        let Some(over) = &self.over else { return count };
        let never_posted = self.waiting.drain(..).filter_map(|one| match one {
            Waiting::Read(read) => {
                Some(Completion { tag: read.tag, landing: read.landing, outcome: Err(over.clone()) })
            }
            Waiting::Write(_) => None,
        });
        done.extend(never_posted);
        done.len() - before
    }

    /// Sleep until something happens, at most until `deadline`.
    fn sleep(&mut self, deadline: Instant) -> Result<(), FabricError> {
        let armed = self.queue.completions().arm();
        armed.map_err(|refusal| self.end(refusal.into()))?;
        // Completions from before the queue was armed cause no event.
        if self.reap()? > 0 {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let events = self.queue.pair().id().events().clone();
        let (events_fd, watch_fd) = (events.fd(), self.watch.fd());
        let completions_fd = self.queue.completions().fd();
        let sources = [Some(&events_fd), Some(&watch_fd), completions_fd.as_ref()];
        let mut sources: ArrayVec<_, 3> =
            sources.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let slept = poll(&mut sources, Some(&timeout));
        drop(sources);
        self.queue.completions().clear();
        match slept {
            Ok(_) | Err(rustix::io::Errno::INTR) => self.look(),
            Err(error) => Err(self.end(FabricError::from_io(Kind::Verbs, "cannot wait for READs", &error.into()))),
        }
    }

    /// Refuse a place that has no address at all. The device checks where a region ends.
    fn check_place(&mut self, what: &str, region: u32, offset: u64, bytes: usize) -> Result<(), FabricError> {
        let known = self.regions.get(region as usize);
        let end = known.and_then(|known| known.address.checked_add(offset)?.checked_add(bytes as u64));
        if end.is_some() && known.is_some_and(|known| u32::try_from(known.key).is_ok()) {
            return Ok(());
        }
        Err(self.end(failed(Cause::Access, format!("a {what} of region {region} at {offset}: there is none"))))
    }

    /// Whether an ack can be taken now. A peer that makes no room for long has gone.
    fn has_room_for_ack(&mut self) -> Result<bool, FabricError> {
        if !self.queue.takes_ack() {
            self.reap()?;
            self.standing()?;
        }
        if self.queue.takes_ack() {
            self.no_room_since = None;
            return Ok(true);
        }
        if self.no_room_since.get_or_insert_with(Instant::now).elapsed() >= ACK_ROOM_WAIT_MAX {
            return Err(self.end(failed(Cause::TimedOut, "the primary takes no more acks")));
        }
        Ok(false)
    }
}

/// Address and key, at the peer, of a place that [`Channel::check_place`] has checked.
fn place(regions: &[fabric::Descriptor], region: u32, offset: u64) -> (u64, u32) {
    let region = regions[region as usize];
    (region.address + offset, region.key as u32)
}

fn new_landing(pair: &QueuePair, bytes: usize) -> Result<Landing, FabricError> {
    memory::landing(pair.domain(), bytes).map_err(|error| match error {
        LandingError::Memory(error) => FabricError::from_io(Kind::Verbs, "cannot make a landing", &error),
        LandingError::Refused(refusal) => refusal.into(),
    })
}

impl fabric::Channel for Channel {
    fn kind(&self) -> Kind {
        Kind::Verbs
    }

    fn numa_node(&self) -> Option<u32> {
        self.numa_node
    }

    fn depth_max(&self) -> usize {
        DEPTH_MAX
    }

    fn landing(&mut self, bytes: usize) -> Result<Landing, FabricError> {
        new_landing(self.queue.pair(), bytes)
    }

    fn submit(&mut self, reads: &mut Vec<Read>) -> Result<(), FabricError> {
        self.standing()?;
        assert!(self.reads_taken() + reads.len() <= DEPTH_MAX, "more READs under way than {DEPTH_MAX}");
        for read in reads.iter() {
            assert!(read.bytes <= READ_BYTES_MAX && read.bytes <= read.landing.bytes(), "a READ too long");
            self.check_place("READ", read.region, read.offset, read.bytes)?;
        }
        self.waiting.extend(reads.drain(..).map(Waiting::Read));
        self.post_waiting()
    }

    fn poll(&mut self, done: &mut Vec<Completion>, wait: Duration) -> Result<usize, FabricError> {
        let begun = Instant::now();
        let deadline = begun + wait;
        loop {
            self.reap()?;
            let count = self.deliver(done);
            if count > 0 {
                return Ok(count);
            }
            if self.queue.reads_under_way() == 0 {
                self.standing()?;
            }
            let now = Instant::now();
            if now.duration_since(self.events_looked) >= EVENTS_EVERY {
                self.look()?;
                continue;
            }
            if now >= deadline {
                return self.standing().map(|()| 0);
            }
            if now.duration_since(begun) < BUSY_POLL {
                std::hint::spin_loop();
            } else {
                self.sleep(deadline)?;
            }
        }
    }

    fn write_ack(&mut self, offset: usize, words: &[u64]) -> Result<bool, FabricError> {
        assert!(
            size_of_val(words) <= ACK_BYTES && offset.is_multiple_of(8),
            "a WRITE is whole words, no more than a slot"
        );
        self.standing()?;
        if !self.has_room_for_ack()? {
            return Ok(false);
        }
        if self.queue.lacks_buffer(size_of_val(words)) {
            let buffer = new_landing(self.queue.pair(), ACK_BUFFER_BYTES).map_err(|why| self.end(why))?;
            self.queue.take_buffer(buffer);
        }
        let remote = self.ack.address.checked_add(offset as u64);
        let (Some(remote), Ok(key)) = (remote, u32::try_from(self.ack.key)) else {
            return Err(self.end(failed(Cause::Access, format!("a WRITE at {offset} of the ack slot: there is none"))));
        };
        self.queue.post_ack(remote, key, words).map_err(|refusal| self.end(refusal.into()))?;
        Ok(true)
    }
}

impl fabric::WriteChannel for Channel {
    fn write(&mut self, writes: &[Write]) -> Result<(), FabricError> {
        self.standing()?;
        for write in writes {
            assert!(
                write.bytes <= READ_BYTES_MAX && write.bytes.is_multiple_of(8),
                "a WRITE is whole words, not too many"
            );
            self.check_place("WRITE", write.region, write.offset, write.bytes)?;
        }
        self.waiting.extend(writes.iter().copied().map(Waiting::Write));
        self.post_waiting()
    }
}
