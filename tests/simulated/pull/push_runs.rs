//! An inbox by itself, with its primary's part played word by word: what it lets be read, and when
//! it gives a window's bytes up.

use super::SLABS;
use crate::pair::primary;
use remora::fabric::sim::{Faults, Sim};
use remora::fabric::{Channel, Read, Regions, Token, Write};
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
    primary: Box<dyn Channel>,
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
        let mut primary = sim.exporter().connect(&invite.invitation).expect("the token is known");
        let sources = Arc::new(Sources(Memfd::new("test", 1 << 16, false).expect("memory")));
        primary.lend(sources.clone()).expect("the simulation writes");
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

/// A look waits for the first lines; then it shows the control lines' words and nothing of push.
#[test]
fn a_look_is_answered_once_there_are_lines() {
    let mut ends = Ends::new(2000);
    let bytes = ends.layout.lines_bytes();
    assert_eq!(ends.read(0, 0, bytes), None);
    ends.publish(0, 0);
    let seen = ends.answer(bytes).expect("there are lines now");
    assert_eq!(seen[..8], [7, 2000, BIRTH, SLABS.shard_bytes as u64, BIRTH, 0, 0, 0]);
}

/// What was wanted further back is not read from what the window held for the want before: that may
/// be overwritten by now, unpublished.
#[test]
fn a_want_further_back_is_another_run() {
    let mut ends = Ends::new(3 * WINDOW_BYTES);
    let lines = ends.layout.lines_bytes();
    ends.publish(0, 0);
    ends.read(0, 0, lines);
    assert_eq!(ends.inbox.reach(0, 64), 0, "nothing is pushed yet");
    assert_eq!(ends.wants(), Some(Want { position: 64, run: 1 }));
    ends.push(64, 1064, 1);
    ends.publish(1064, 1);
    ends.read(0, 0, lines);
    assert_eq!(ends.inbox.reach(0, 64), 1064);
    let seen = ends.read(POOL, 64, 1000).expect("it is there");
    assert!(seen.iter().zip((64..).step_by(8)).all(|(word, position)| *word == position + 1));
    assert_eq!(ends.wants(), Some(Want { position: 1064, run: 1 }), "what is copied is given up");

    // A record at 200 was bad.
    assert!(ends.inbox.reach(0, 200) <= 200, "what the window holds is of another want");
    assert_eq!(ends.wants(), Some(Want { position: 200, run: 2 }));
    ends.publish(1064, 1);
    ends.read(0, 0, lines);
    assert!(ends.inbox.reach(0, 200) <= 200, "and so is what is told late");
    ends.push(200, 400, 2);
    ends.publish(400, 2);
    ends.read(0, 0, lines);
    assert_eq!(ends.inbox.reach(0, 200), 400);
    let seen = ends.read(POOL, 200, 200).expect("it is there");
    assert!(seen.iter().zip((200..).step_by(8)).all(|(word, position)| *word == position + 2));
}

/// What was planned is given up when it was copied, not before; what is skipped, with what is read
/// next.
#[test]
fn a_window_is_given_up_behind_the_copy() {
    let mut ends = Ends::new(3 * WINDOW_BYTES);
    let lines = ends.layout.lines_bytes();
    ends.publish(0, 0);
    ends.read(0, 0, lines);
    ends.inbox.reach(0, 64);
    ends.push(64, 1064, 1);
    ends.publish(u64::MAX / 8 * 8, 1);
    ends.read(0, 0, lines);
    assert_eq!(ends.inbox.reach(0, 64), 64 + WINDOW_BYTES, "never more than a window, whatever was told");
    assert_eq!(ends.inbox.reach(0, 568), 64 + WINDOW_BYTES, "a piece is planned");
    assert_eq!(ends.wants(), Some(Want { position: 64, run: 1 }), "and not copied");
    ends.read(POOL, 64, 504);
    assert_eq!(ends.wants(), Some(Want { position: 568, run: 1 }));
    ends.inbox.reach(0, 10_000);
    assert_eq!(ends.wants(), Some(Want { position: 568, run: 1 }));
    ends.read(0, 0, lines);
    assert_eq!(ends.wants(), Some(Want { position: 10_000, run: 1 }));
}
