//! An inbox by itself, with its primary's part played word by word: what it lets be read, and when
//! it gives a window's bytes up.

use super::SLABS;
use crate::pair::primary;
use remora::fabric::sim::{Faults, Sim};
use remora::fabric::{Channel, Read, Regions, Token, Write, WriteChannel};
use remora::replication::push::inbox::Inbox;
use remora::replication::push::layout::{INBOX, Layout, NOTES};
use remora::replication::push::notes::{LINE_WORDS, PushedLine, Want};
use remora::replication::regions::POOL;
use remora::store::Geometry;
use remora::store::line::{BIRTH, ControlLine};
use remora::sys::memory::Memfd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const WINDOW_BYTES: u64 = 4096;

/// What the primary's part is written from: lines, then a window's bytes.
struct Sources(Memfd);

impl Regions for Sources {
    fn count(&self) -> usize {
        1
    }
    fn memory(&self, _number: usize) -> &Memfd {
        &self.0
    }
}

/// The two ends, and the primary's control lines.
struct Ends {
    inbox: Inbox,
    primary: Box<dyn WriteChannel>,
    sources: Arc<Sources>,
    control: Vec<AtomicU64>,
    geometry: Geometry,
    layout: Layout,
}

impl Ends {
    /// The primary has committed `committed` bytes of every shard, and pushed none.
    fn new(committed: u64) -> Ends {
        let store = primary(SLABS);
        let (geometry, memory) = (store.geometry(), store.memory());
        let layout = Layout::told(&geometry, &memory, WINDOW_BYTES).expect("it can be");
        let sim = Sim::new(1, Faults::default());
        let (inbox, invite) = Inbox::grant(sim.exporter(), Token([1; 16]), geometry, memory, layout).expect("it waits");
        let sources = Arc::new(Sources(Memfd::new("test", 1 << 16, false).expect("memory")));
        let exporter = sim.exporter();
        let writer = exporter.writer().expect("the simulation writes");
        let primary = writer.connect(&invite.invitation, sources.clone()).expect("the token is known");
        let control: Vec<AtomicU64> = (0..geometry.shards as usize * LINE_WORDS).map(|_| AtomicU64::new(0)).collect();
        for shard in 0..geometry.shards as usize {
            let line = ControlLine::of(&control, shard);
            line.begin(7, SLABS.shard_bytes as u64);
            line.commit(committed);
        }
        Ends { inbox, primary, sources, control, geometry, layout }
    }

    fn write(&mut self, write: Write) {
        self.primary.write(&[write]).expect("within the inbox");
        self.wants();
    }

    /// What shard 0 wants, as the primary READs it.
    fn wants(&mut self) -> Option<Want> {
        let landing = self.primary.landing(4096).expect("memory");
        let read = Read { region: NOTES, offset: 0, bytes: 16, landing, tag: 0 };
        self.primary.submit(&mut vec![read]).expect("it stands");
        let mut done = Vec::new();
        while self.primary.poll(&mut done, Duration::ZERO).expect("it stands") == 0 {}
        Want::load(done[0].landing.words(16))
    }

    /// Publish the lines of all shards.
    fn publish(&mut self, pushed: u64, run: u32) {
        let words = self.sources.0.words();
        for shard in 0..self.geometry.shards as usize {
            let line = PushedLine::of(&ControlLine::of(&self.control, shard), pushed, run);
            line.store(&words[shard * LINE_WORDS..][..LINE_WORDS]);
        }
        let bytes = self.layout.lines_bytes();
        self.write(Write { source: 0, from: 0, region: INBOX, offset: 0, bytes });
    }

    /// Write shard 0's bytes of positions [begin, end), each word its position plus `salt`.
    fn push(&mut self, begin: u64, end: u64, salt: u64) {
        for position in (begin..end).step_by(8) {
            self.sources.0.words()[512].store(position + salt, Relaxed);
            let (at, _) = self.layout.place(0, position);
            self.write(Write { source: 0, from: 4096, region: INBOX, offset: at as u64, bytes: 8 });
        }
    }

    /// READ from the replica's side; None while it is not answered.
    fn read(&mut self, region: u32, offset: u64, bytes: usize) -> Option<Vec<u64>> {
        let landing = self.inbox.landing(8192).expect("memory");
        self.inbox.submit(&mut vec![Read { region, offset, bytes, landing, tag: 0 }]).expect("it stands");
        self.answer(bytes)
    }

    fn answer(&mut self, bytes: usize) -> Option<Vec<u64>> {
        let mut done = Vec::new();
        self.inbox.poll(&mut done, Duration::ZERO).expect("it stands");
        let done = done.pop()?;
        done.outcome.expect("it is within the window");
        Some(done.landing.words(bytes).iter().map(|word| word.load(Relaxed)).collect())
    }
}

/// A look waits for the first lines; then it shows the control lines, and nothing of push (nor
/// where the term begins).
#[test]
fn a_look_is_answered_once_there_are_lines() {
    let mut ends = Ends::new(2000);
    let bytes = ends.layout.lines_bytes();
    assert_eq!(ends.read(0, 0, bytes), None);
    ends.publish(0, 0);
    let seen = ends.answer(bytes).expect("there are lines now");
    assert_eq!(seen[..8], [7, 2000, BIRTH, SLABS.shard_bytes as u64, 0, 0, 0, 0]);
}

/// What was wanted further back is not read from what the window held for the want before: that may
/// be overwritten by now, unpublished.
#[test]
fn a_want_further_back_is_another_run() {
    let mut ends = Ends::new(3 * WINDOW_BYTES);
    let lines = ends.layout.lines_bytes();
    ends.publish(0, 0);
    ends.read(0, 0, lines);
    assert_eq!(ends.read(POOL, 64, 1000), None, "nothing is pushed yet");
    assert_eq!(ends.wants(), Some(Want { position: 64, run: 1 }));
    ends.push(64, 1064, 1);
    ends.publish(1064, 1);
    let seen = ends.answer(1000).expect("it is there");
    assert!(seen.iter().zip((64..).step_by(8)).all(|(word, position)| *word == position + 1));
    assert_eq!(ends.wants(), Some(Want { position: 1064, run: 1 }), "what is copied is given up");

    // A record at 200 was bad.
    assert_eq!(ends.read(POOL, 200, 200), None, "what the window holds is of another want");
    assert_eq!(ends.wants(), Some(Want { position: 200, run: 2 }));
    ends.publish(1064, 1);
    assert_eq!(ends.answer(200), None, "and so is what is told late");
    ends.push(200, 400, 2);
    ends.publish(400, 2);
    let seen = ends.answer(200).expect("it is there");
    assert!(seen.iter().zip((200..).step_by(8)).all(|(word, position)| *word == position + 2));
}

/// What is wanted is given up when it was copied, not before; what is skipped, with what is read
/// next. No more than a window is believed to be there, whatever was told.
#[test]
fn a_window_is_given_up_behind_the_copy() {
    let mut ends = Ends::new(3 * WINDOW_BYTES);
    let lines = ends.layout.lines_bytes();
    ends.publish(0, 0);
    ends.read(0, 0, lines);
    let bytes = WINDOW_BYTES as usize + 1000;
    assert_eq!(ends.read(POOL, 64, bytes), None);
    ends.push(64, 1064, 1);
    assert_eq!(ends.answer(bytes), None);
    assert_eq!(ends.wants(), Some(Want { position: 64, run: 1 }), "it is there, and not published");
    ends.publish(1064, 1);
    assert_eq!(ends.answer(bytes), None);
    assert_eq!(ends.wants(), Some(Want { position: 1064, run: 1 }), "a part of the piece is copied");
    ends.publish(u64::MAX / 8 * 8, 1);
    let seen = ends.answer(bytes).expect("the rest lies within a window");
    assert!(seen[..125].iter().zip((64..).step_by(8)).all(|(word, position)| *word == position + 1));
    let end = 64 + bytes as u64;
    assert_eq!(ends.wants(), Some(Want { position: end, run: 1 }));
    let landing = ends.inbox.landing(8192).expect("memory");
    let beyond = Read { region: POOL, offset: end, bytes: WINDOW_BYTES as usize + 8, landing, tag: 0 };
    ends.inbox.submit(&mut vec![beyond]).expect("it stands");
    let wants = ends.wants();
    assert_eq!(wants, Some(Want { position: end + WINDOW_BYTES, run: 1 }), "no more than a window at a time");
}

/// READs are answered in their order, so a look that was submitted behind a piece is no older than
/// the piece's bytes. What is wanted of several shards is told at once.
#[test]
fn a_look_waits_for_the_pieces_in_front_of_it() {
    let mut ends = Ends::new(3 * WINDOW_BYTES);
    let lines = ends.layout.lines_bytes();
    ends.publish(0, 0);
    ends.read(0, 0, lines);
    assert_eq!(ends.read(POOL, 64, 8), None);
    assert_eq!(ends.read(0, 0, lines), None, "though there are lines");
    ControlLine::of(&ends.control, 0).advance_tail(128);
    ends.push(64, 72, 0);
    ends.publish(72, 1);
    let mut done = Vec::new();
    assert_eq!(ends.inbox.poll(&mut done, Duration::ZERO).expect("it stands"), 2);
    assert_eq!(done[0].landing.words(8)[0].load(Relaxed), 64);
    assert_eq!(done[1].landing.words(64)[2].load(Relaxed), 128, "the tail behind the piece");
}
