//! The log's way to standard error. No thread waits for whoever reads it: a line goes into a queue
//! with a bound, and a thread of its own, "log-writer", writes it. A line that finds the queue full
//! is dropped, counted ([`dropped_lines`]) and, once there is room again, told of in the log
//! itself.
//!
//! A write to standard error may block for good: it may be a pipe that nobody reads, or a terminal
//! that is stopped. Only the writer stands still then. What ends the process waits for it, but not
//! for long ([`flush`]).

use crossbeam::channel::{Receiver, Sender, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Lines that may wait to be written. Many more than are logged at once in an orderly life; with
/// [`LINE_BYTES_MAX`], no more than 8 MiB.
const LINES_MAX: usize = 1024;

/// A line is cut to so many bytes.
const LINE_BYTES_MAX: usize = 8 << 10;

/// How long a process that ends waits for the log to be written. A line that says why it ends waits
/// as long for room in the queue.
pub const FLUSH_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long the writer waits for a standard error that takes nothing but does not block, before it
/// tries again.
const PAUSE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The one log of this process.
static LOG: OnceLock<Log> = OnceLock::new();

/// Lines that were dropped, in all.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// What goes through the queue.
enum Entry {
    Line {
        /// Lines that were dropped between the one before and this one.
        lost_before: u64,
        bytes: Vec<u8>,
    },
    /// Whoever holds the other end wants to know that all that came before is written.
    Flush(Sender<()>),
}

/// The queue, and what did not go into it.
struct Log {
    entries: Sender<Entry>,
    /// Lines that were dropped, and not told of yet.
    lost: Arc<AtomicU64>,
}

/// Start the writer. From then on [`line()`] and [`Pipe`] queue what they are given. A second start
/// in one process (an embedding, a test) keeps the first one's writer.
pub fn start() -> io::Result<()> {
    let (log, queue) = Log::new(LINES_MAX);
    let writer = Writer { lost: log.lost.clone(), queue, to: io::stderr() };
    if LOG.set(log).is_ok() {
        std::thread::Builder::new().name("log-writer".into()).spawn(move || writer.run())?;
    }
    Ok(())
}

/// Lines that were dropped since the start: the queue was full, or standard error refused them.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Relaxed)
}

/// Say something on standard error: through the queue where the log has been started, else at once.
/// If it cannot be written, that is ignored: there is nobody else to tell.
pub fn line(text: &str) {
    write(format!("{text}\n").into_bytes());
}

/// As [`line()`], but no line end is added: it may be a part of a line, or several lines.
pub fn write(bytes: Vec<u8>) {
    match LOG.get() {
        Some(log) => log.offer(bytes),
        None => drop(io::stderr().lock().write_all(&bytes)),
    }
}

/// The last words of the process: they wait for room in the queue and for being written,
/// [`FLUSH_WAIT_MAX`] at most.
pub fn last_line(text: &str) {
    match LOG.get() {
        Some(log) => {
            log.insist(format!("{text}\n").into_bytes(), FLUSH_WAIT_MAX);
            log.flush(FLUSH_WAIT_MAX);
        }
        None => line(text),
    }
}

/// Wait until everything that is queued now is written; at most so long. False if it is not.
pub fn flush(wait_max: Duration) -> bool {
    LOG.get().is_none_or(|log| log.flush(wait_max))
}

/// Where a logger writes its lines, each with one call.
pub struct Pipe;

impl Write for Pipe {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        write(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Have a panic end the process, with its message and its place as the log's last words. A thread
/// that has panicked leaves what it held half done, so none goes on without it: a supervisor starts
/// the process anew.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        let mut words = format!("remora: thread \"{}\": {panic}", thread.name().unwrap_or("without a name"));
        match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => words += &format!("\n{backtrace}"),
            _ => words += "\nremora: this is a bug; with RUST_BACKTRACE=1 it says how it came to that",
        }
        last_line(&words);
        std::process::abort();
    }));
}

impl Log {
    fn new(lines_max: usize) -> (Log, Receiver<Entry>) {
        let (entries, queue) = bounded(lines_max);
        (Log { entries, lost: Arc::default() }, queue)
    }

    /// Queue a line, or count it as lost.
    fn offer(&self, mut bytes: Vec<u8>) {
        if bytes.len() > LINE_BYTES_MAX {
            bytes.truncate(LINE_BYTES_MAX);
            bytes.extend_from_slice(b"...\n");
        }
        let entry = self.entry(bytes);
        if let Err(refused) = self.entries.try_send(entry) {
            self.lose(&refused.into_inner());
        }
    }

    /// Queue a line, whole, once there is room; or count it as lost.
    fn insist(&self, bytes: Vec<u8>, wait_max: Duration) {
        let entry = self.entry(bytes);
        if let Err(refused) = self.entries.send_timeout(entry, wait_max) {
            self.lose(&refused.into_inner());
        }
    }

    fn entry(&self, bytes: Vec<u8>) -> Entry {
        Entry::Line { lost_before: self.lost.swap(0, Relaxed), bytes }
    }

    /// Count it as lost, together with the lost lines that it was to tell of.
    fn lose(&self, entry: &Entry) {
        if let Entry::Line { lost_before, .. } = entry {
            DROPPED.fetch_add(1, Relaxed);
            self.lost.fetch_add(lost_before + 1, Relaxed);
        }
    }

    fn flush(&self, wait_max: Duration) -> bool {
        let until = Instant::now() + wait_max;
        let (written, is_written) = bounded(1);
        self.entries.send_deadline(Entry::Flush(written), until).is_ok() && is_written.recv_deadline(until).is_ok()
    }
}

/// The thread "log-writer".
struct Writer<T> {
    lost: Arc<AtomicU64>,
    queue: Receiver<Entry>,
    to: T,
}

impl<T: AsFd> Writer<T> {
    /// Write until the log is dropped; the process's own log never is.
    fn run(&self) {
        loop {
            let entry = match self.queue.try_recv() {
                Ok(entry) => entry,
                Err(_) => {
                    self.tell_lost(self.lost.swap(0, Relaxed), "until now");
                    match self.queue.recv() {
                        Ok(entry) => entry,
                        Err(_) => return,
                    }
                }
            };
            match entry {
                Entry::Line { lost_before, bytes } => {
                    self.tell_lost(lost_before, "before this one");
                    if self.write(&bytes).is_err() {
                        DROPPED.fetch_add(1, Relaxed);
                        self.lost.fetch_add(1, Relaxed);
                    }
                }
                // Whoever asked may have given up waiting.
                Entry::Flush(written) => drop(written.try_send(())),
            }
        }
    }

    /// They are counted already. If this cannot be written either, they are told of later.
    fn tell_lost(&self, lost: u64, when: &str) {
        if lost > 0 {
            let words = format!(
                "remora: log lines lost {when}: {lost} (whoever reads them is too slow, or the disk is full)\n"
            );
            if self.write(words.as_bytes()).is_err() {
                self.lost.fetch_add(lost, Relaxed);
            }
        }
    }

    /// Write all of it, however long that takes. The standard library's handle is not used, because
    /// other threads may want its lock meanwhile.
    fn write(&self, mut bytes: &[u8]) -> Result<(), Errno> {
        let to: BorrowedFd<'_> = self.to.as_fd();
        while !bytes.is_empty() {
            match rustix::io::write(to, bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => drop(poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], Some(&PAUSE))),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::io::Read;

    const LOST: &str = "(whoever reads them is too slow, or the disk is full)";

    fn offer(log: &Log, lines: &[&str]) {
        lines.iter().for_each(|line| log.offer(line.as_bytes().to_vec()));
    }

    /// What a writer makes of what is queued.
    fn written(log: Log, queue: Receiver<Entry>) -> String {
        let (mut reader, to) = io::pipe().unwrap();
        let writer = Writer { lost: log.lost.clone(), queue, to };
        drop(log);
        writer.run();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn lines_come_out_as_they_went_in() {
        let (log, queue) = Log::new(4);
        offer(&log, &["one\n", "two\n"]);
        assert_eq!(written(log, queue), "one\ntwo\n");
    }

    #[test]
    fn what_is_lost_is_told_where_it_is_missing() {
        let (log, queue) = Log::new(2);
        offer(&log, &["one\n", "two\n", "three\n", "four\n"]);
        assert!(matches!(queue.recv(), Ok(Entry::Line { lost_before: 0, .. })), "one");
        offer(&log, &["five\n", "six\n"]);
        let before = format!("remora: log lines lost before this one: 2 {LOST}\n");
        let after = format!("remora: log lines lost until now: 1 {LOST}\n");
        assert_eq!(written(log, queue), format!("two\n{before}five\n{after}"));
    }

    #[test]
    fn a_long_line_is_cut() {
        let (log, queue) = Log::new(1);
        log.offer(vec![b'x'; 10 * LINE_BYTES_MAX]);
        let text = written(log, queue);
        assert_eq!(text.len(), LINE_BYTES_MAX + 4);
        assert!(text.ends_with("x...\n"));
    }

    #[test]
    fn what_cannot_be_written_is_lost() {
        let (log, queue) = Log::new(2);
        offer(&log, &["one\n", "two\n"]);
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (lost, before) = (log.lost.clone(), dropped_lines());
        let writer = Writer { lost: lost.clone(), queue, to: full };
        drop(log);
        writer.run();
        assert_eq!(lost.load(Relaxed), 2, "and what cannot be told of stays to be told");
        assert!(dropped_lines() >= before + 2);
    }

    #[test]
    fn a_writer_that_stands_still_is_not_waited_for_longer_than_said() {
        let (log, queue) = Log::new(1);
        assert!(!log.flush(Duration::from_millis(10)), "nobody writes");
        log.insist(b"line\n".to_vec(), Duration::from_millis(10));
        assert_eq!((queue.len(), log.lost.load(Relaxed)), (1, 1));
    }

    #[test]
    fn a_flush_waits_for_what_was_queued_before() {
        let (log, queue) = Log::new(4);
        let (mut reader, to) = io::pipe().unwrap();
        let writer = Writer { lost: log.lost.clone(), queue, to };
        let thread = std::thread::spawn(move || writer.run());
        offer(&log, &["one\n"]);
        assert!(log.flush(Duration::from_secs(60)));
        let mut line = [0; 4];
        reader.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"one\n");
        drop(log);
        thread.join().unwrap();
    }
}
