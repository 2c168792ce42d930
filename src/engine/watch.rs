//! `watch`: clients that are told of what happens here.
//!
//! Whoever has something to tell puts it into a ring ([`Watch::note`]): each thread has one of its
//! own, of a bounded number of entries. Where it is full the entry is dropped and counted; a thread
//! that serves clients waits for nothing here. One more thread empties the rings
//! ([`Watch::collect`]), makes lines of the entries, and appends them to what each watcher that
//! wants them is to be sent. That has a limit, too: of what goes beyond it a watcher is told how
//! much it was. The worker that has the watcher's connection takes the lines from there
//! ([`Watcher::take`]), when the client takes them.
//!
//! While nobody watches, nothing is noted: [`super::watched`] says how commands know.

use crate::base::limits::{KEY_BYTES_MAX, WATCHERS_MAX};
use crate::protocol::text::watch::{Event, Streams, skipped_line};
use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use std::cell::Cell;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};
use std::thread::Thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How much memory the rings, and what watchers are to be sent, may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSizes {
    /// -o worker_logbuf_size: bytes of a thread's ring.
    pub ring_bytes: usize,
    /// -o watcher_logbuf_size: bytes of lines that a watcher has not taken.
    pub watcher_bytes: usize,
}

impl Default for LogSizes {
    /// memcached's.
    fn default() -> LogSizes {
        LogSizes { ring_bytes: 64 << 10, watcher_bytes: 256 << 10 }
    }
}

/// What a watcher must still have room for beside a line, to be told how many it was not told.
const SKIPPED_LINE_BYTES: usize = 128;

/// No worker.
const NOBODY: usize = usize::MAX;

/// Something that has happened, as it waits in a ring.
struct Entry {
    number: u64,
    at: Duration,
    event: Event,
    key: ArrayVec<u8, KEY_BYTES_MAX>,
}

/// A thread's entries.
struct Ring {
    /// One place more than are used. Whoever puts an entry in has to wait where the last place is
    /// being emptied at that moment, so that one stays empty.
    entries: ArrayQueue<Entry>,
    written: AtomicU64,
    dropped: AtomicU64,
}

/// See the module.
pub struct Watch {
    sizes: LogSizes,
    /// What somebody wants to be told of.
    streams: AtomicU8,
    last_number: AtomicU64,
    /// One for each worker; made for the first watcher.
    rings: OnceLock<Box<[CachePadded<Ring>]>>,
    workers: usize,
    watchers: Mutex<Vec<Arc<Watcher>>>,
    sent: AtomicU64,
    skipped: AtomicU64,
    /// The thread that collects.
    collector: OnceLock<Thread>,
}

/// A client that watches.
pub struct Watcher {
    number: u32,
    streams: Streams,
    /// What happened before is not for this one.
    since: u64,
    bytes_max: usize,
    lines: Mutex<Lines>,
    /// The worker that has its connection; [`NOBODY`] before that is known.
    worker: AtomicUsize,
}

/// What a watcher is to be sent.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// Lines since those for which there was no room.
    skipped: u64,
}

/// What is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WatchCounts {
    pub(super) dropped: u64,
    pub(super) written: u64,
    pub(super) skipped: u64,
    pub(super) sent: u64,
    pub(super) watchers: u64,
}

thread_local! {
    /// Which ring is this thread's, of as many as there may be; counted through the whole process.
    static RING: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The next thread's.
static NEXT_RING: AtomicUsize = AtomicUsize::new(0);

impl Ring {
    fn new(entries_max: usize) -> Ring {
        Ring { entries: ArrayQueue::new(entries_max + 1), written: 0.into(), dropped: 0.into() }
    }

    fn entries_max(&self) -> usize {
        self.entries.capacity() - 1
    }
}

impl Watch {
    pub(super) fn new(workers: usize, sizes: LogSizes) -> Watch {
        Watch {
            sizes,
            streams: AtomicU8::new(Streams::NONE.to_bits()),
            last_number: AtomicU64::new(0),
            rings: OnceLock::new(),
            workers: workers.max(1),
            watchers: Mutex::default(),
            sent: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            collector: OnceLock::new(),
        }
    }

    pub(super) fn sizes(&self) -> LogSizes {
        self.sizes
    }

    /// What somebody wants to be told of.
    pub(super) fn streams(&self) -> Streams {
        Streams::from_bits(self.streams.load(Relaxed))
    }

    /// Something has happened. Dropped and counted where this thread's ring is full.
    #[cold]
    pub fn note(&self, key: &[u8], event: Event) {
        let Some(rings) = self.rings.get().filter(|_| self.streams().meets(event.stream())) else { return };
        let ring = &rings[own_ring() % rings.len()];
        let number = self.last_number.fetch_add(1, Relaxed) + 1;
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut entry = Entry { number, at, event, key: ArrayVec::new() };
        entry.key.extend(key.iter().take(KEY_BYTES_MAX).copied());
        if ring.entries.len() >= ring.entries_max() || ring.entries.push(entry).is_err() {
            ring.dropped.fetch_add(1, Relaxed);
            return;
        }
        ring.written.fetch_add(1, Relaxed);
        if ring.entries.len() == ring.entries_max().div_ceil(2) {
            // It may sleep for longer than the other half lasts.
            self.wake_collector();
        }
    }

    /// A client watches from now on; None where enough do. Returns its number. `heed` is told what
    /// all watchers want, as by [`Watch::end`], one change after the other.
    pub(super) fn begin(&self, streams: Streams, heed: impl FnOnce(Streams)) -> Option<u32> {
        self.rings.get_or_init(|| {
            let entries_max = (self.sizes.ring_bytes / size_of::<Entry>()).max(1);
            (0..self.workers).map(|_| CachePadded::new(Ring::new(entries_max))).collect()
        });
        let mut watchers = self.lock();
        if watchers.len() >= WATCHERS_MAX {
            return None;
        }
        let number = watchers.iter().map(|watcher| watcher.number).max().unwrap_or(0) + 1;
        let since = self.last_number.fetch_add(1, Relaxed) + 1;
        let (lines, worker, bytes_max) = (Mutex::default(), AtomicUsize::new(NOBODY), self.sizes.watcher_bytes);
        watchers.push(Arc::new(Watcher { number, streams, since, bytes_max, lines, worker }));
        self.note_streams(&watchers, heed);
        self.wake_collector();
        Some(number)
    }

    /// The watcher of this number.
    pub(super) fn watcher(&self, number: u32) -> Option<Arc<Watcher>> {
        self.lock().iter().find(|watcher| watcher.number == number).cloned()
    }

    /// It watches no more.
    pub(super) fn end(&self, watcher: &Watcher, heed: impl FnOnce(Streams)) {
        let mut watchers = self.lock();
        watchers.retain(|one| one.number != watcher.number);
        self.note_streams(&watchers, heed);
    }

    fn note_streams(&self, watchers: &[Arc<Watcher>], heed: impl FnOnce(Streams)) {
        let all = watchers.iter().fold(Streams::NONE, |all, watcher| all.and(watcher.streams));
        self.streams.store(all.to_bits(), Relaxed);
        heed(all);
    }

    /// This thread collects from now on: it is woken when there is something to do.
    pub fn be_collected_here(&self) {
        assert!(self.collector.set(std::thread::current()).is_ok(), "one thread collects");
    }

    /// Have the thread that collects look.
    pub fn wake_collector(&self) {
        if let Some(thread) = self.collector.get() {
            thread.unpark();
        }
    }

    /// Whether somebody watches.
    pub fn is_watched(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Empty the rings once, and `wake` the workers that have watchers with lines. Returns how many
    /// entries there were.
    pub fn collect(&self, wake: impl Fn(usize)) -> usize {
        let watchers = self.lock().clone();
        let (mut line, mut collected) = (Vec::new(), 0);
        for ring in self.rings.get().iter().flat_map(|rings| rings.iter()) {
            // What comes meanwhile is for the next time: one busy thread holds up no line of
            // others.
            for _ in 0..ring.entries.capacity() {
                let Some(entry) = ring.entries.pop() else { break };
                collected += 1;
                line.clear();
                entry.event.line(&mut line, entry.at, entry.number, &entry.key);
                let wants = |one: &&Arc<Watcher>| one.since < entry.number && one.streams.meets(entry.event.stream());
                for watcher in watchers.iter().filter(wants) {
                    let told = if watcher.offer(&line) { &self.sent } else { &self.skipped };
                    told.fetch_add(1, Relaxed);
                }
            }
        }
        watchers.iter().filter_map(|watcher| watcher.worker_in_demand()).for_each(wake);
        collected
    }

    pub(super) fn counts(&self) -> WatchCounts {
        let rings = self.rings.get().map_or(&[][..], |rings| &rings[..]);
        let sum = |of: fn(&Ring) -> &AtomicU64| rings.iter().map(|ring| of(ring).load(Relaxed)).sum();
        WatchCounts {
            dropped: sum(|ring| &ring.dropped),
            written: sum(|ring| &ring.written),
            skipped: self.skipped.load(Relaxed),
            sent: self.sent.load(Relaxed),
            watchers: self.lock().len() as u64,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Watcher>>> {
        self.watchers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl WatchCounts {
    /// What was counted since `base`; how many watch is no matter of time.
    pub(super) fn since(&self, base: &WatchCounts) -> WatchCounts {
        WatchCounts {
            dropped: self.dropped.saturating_sub(base.dropped),
            written: self.written.saturating_sub(base.written),
            skipped: self.skipped.saturating_sub(base.skipped),
            sent: self.sent.saturating_sub(base.sent),
            watchers: self.watchers,
        }
    }
}

impl Watcher {
    /// The worker with this number has its connection.
    pub fn be_served_by(&self, worker: usize) {
        self.worker.store(worker, Relaxed);
    }

    /// One more line; false where there is no room.
    fn offer(&self, line: &[u8]) -> bool {
        let mut lines = self.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if lines.bytes.len() + line.len() + SKIPPED_LINE_BYTES > self.bytes_max {
            lines.skipped += 1;
            return false;
        }
        if lines.skipped > 0 {
            let skipped = std::mem::take(&mut lines.skipped);
            skipped_line(&mut lines.bytes, skipped);
        }
        lines.bytes.extend_from_slice(line);
        true
    }

    /// The worker that is to look, if there are lines.
    fn worker_in_demand(&self) -> Option<usize> {
        let waits = !self.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).bytes.is_empty();
        Some(self.worker.load(Relaxed)).filter(|worker| waits && *worker != NOBODY)
    }

    /// Move whole lines to `out`, some `bytes_max` of them. Never waits: while the thread that
    /// collects is at it there is nothing, and it wakes this one again.
    pub fn take(&self, out: &mut Vec<u8>, bytes_max: usize) {
        let mut lines = match self.lines.try_lock() {
            Ok(lines) => lines,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let all = lines.bytes.len();
        let end = if all <= bytes_max {
            all
        } else {
            memchr::memrchr(b'\n', &lines.bytes[..bytes_max]).map_or(all, |at| at + 1)
        };
        out.extend(lines.bytes.drain(..end));
    }
}

fn own_ring() -> usize {
    let own = RING.get();
    if own != usize::MAX {
        return own;
    }
    RING.set(NEXT_RING.fetch_add(1, Relaxed));
    RING.get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::text::watch::FetchStatus;

    const FETCHED: Event = Event::Fetched { status: FetchStatus::Found, value_bytes: 1, descriptor: 9 };

    fn taken(watcher: &Watcher, bytes_max: usize) -> Vec<String> {
        let mut out = Vec::new();
        watcher.take(&mut out, bytes_max);
        String::from_utf8(out).unwrap().lines().map(str::to_string).collect()
    }

    fn begin(watch: &Watch, streams: Streams) -> Arc<Watcher> {
        let number = watch.begin(streams, |_| ()).expect("there is a place");
        watch.watcher(number).expect("it has begun")
    }

    #[test]
    fn watchers_are_told_what_they_asked_for_since_they_asked() {
        let watch = Watch::new(1, LogSizes::default());
        watch.note(b"nobody", FETCHED);
        let fetchers = begin(&watch, Streams::FETCHERS);
        watch.note(b"one", FETCHED);
        watch.note(b"no", Event::Deleted { by_meta: false, value_bytes: 1 });
        let both = begin(&watch, Streams::FETCHERS.and(Streams::DELETIONS));
        watch.note(b"two", FETCHED);
        watch.note(b"three", Event::Deleted { by_meta: false, value_bytes: 1 });
        assert_eq!(watch.collect(|_| ()), 3);
        let keys = |lines: Vec<String>| -> Vec<String> {
            lines.iter().map(|line| line.split(' ').nth(3).unwrap().to_string()).collect()
        };
        assert_eq!(keys(taken(&fetchers, 1 << 20)), ["key=one", "key=two"]);
        assert_eq!(keys(taken(&both, 1 << 20)), ["key=two", "key=three"]);
        let counts = WatchCounts { dropped: 0, written: 3, skipped: 0, sent: 4, watchers: 2 };
        assert_eq!(watch.counts(), counts);
        watch.end(&fetchers, |_| ());
        watch.end(&both, |_| ());
        watch.note(b"nobody", FETCHED);
        assert_eq!((watch.collect(|_| ()), watch.is_watched(), watch.counts().watchers), (0, false, 0));
    }

    #[test]
    fn a_full_ring_drops_and_a_full_watcher_skips_and_is_told() {
        let line_bytes = {
            let mut line = Vec::new();
            FETCHED.line(&mut line, Duration::from_secs(1_700_000_000), 10, b"key");
            line.len()
        };
        let sizes =
            LogSizes { ring_bytes: 10 * size_of::<Entry>(), watcher_bytes: SKIPPED_LINE_BYTES + 5 * line_bytes };
        let watch = Watch::new(1, sizes);
        let watcher = begin(&watch, Streams::FETCHERS);
        (0..12).for_each(|_| watch.note(b"key", FETCHED));
        assert_eq!(watch.collect(|_| ()), 10);
        let counts = watch.counts();
        assert_eq!((counts.written, counts.dropped, counts.sent, counts.skipped), (10, 2, 5, 5));
        assert_eq!(taken(&watcher, line_bytes * 2 + 3).len(), 2, "whole lines alone");
        assert_eq!(taken(&watcher, 1 << 20).len(), 3);
        watch.note(b"key", FETCHED);
        assert_eq!(watch.collect(|_| ()), 1);
        let lines = taken(&watcher, 1 << 20);
        assert!(lines.len() == 2 && lines[0] == "skipped=5" && lines[1].contains("type=item_get"), "{lines:?}");
    }

    #[test]
    fn only_so_many_watch() {
        let watch = Watch::new(1, LogSizes::default());
        let all: Vec<_> = (0..WATCHERS_MAX).map(|_| begin(&watch, Streams::FETCHERS)).collect();
        assert_eq!(watch.begin(Streams::FETCHERS, |_| ()), None);
        watch.end(&all[3], |_| ());
        assert!(watch.begin(Streams::FETCHERS, |_| ()).is_some());
    }
}
