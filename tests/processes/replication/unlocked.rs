//! Nothing that holds a lock writes to the log: a log whose reader stands still must hold up
//! nobody. Within this process, with a log that stands still when it is told to.

use super::within::follow_config;
use crate::node::LONG;
use crate::support::stores::small_store;
use remora::base::shards::ShardSet;
use remora::base::time::UnixSeconds;
use remora::fabric::ACK_BYTES;
use remora::replication::ack::AckSlots;
use remora::replication::board::Board;
use remora::replication::follow::Following;
use remora::replication::retain::Retain;
use remora::replication::wire::Wanted;
use remora::store::NewItem;
use remora::sys::memory::Memfd;
use std::net::TcpListener;
use std::sync::atomic::Ordering::Release;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Once};

/// A line that is being written, until this is dropped.
struct Line(String, #[expect(dead_code, reason = "to be dropped")] Sender<()>);

/// Where lines with these words go.
static WATCHED: Mutex<Vec<(String, Sender<Line>)>> = Mutex::new(Vec::new());

struct Held;

impl log::Log for Held {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = record.args().to_string();
        let watcher = WATCHED.lock().unwrap().iter().find(|(words, _)| text.contains(words)).map(|(_, to)| to.clone());
        let Some(watcher) = watcher else { return };
        let (go_on, gate) = channel();
        if watcher.send(Line(text, go_on)).is_ok() {
            let _ = gate.recv_timeout(LONG / 4);
        }
    }

    fn flush(&self) {}
}

/// All lines with `words` from now on; each stands still for a while, or until it is dropped.
fn watch(words: &str) -> Receiver<Line> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| log::set_logger(&Held).expect("nobody else sets one"));
    log::set_max_level(log::LevelFilter::Info);
    let (to, lines) = channel();
    WATCHED.lock().unwrap().push((words.into(), to));
    lines
}

/// A primary is gone, the log stands still: stats are answered all the same.
#[test]
fn a_replica_tells_its_state_while_its_log_stands_still() {
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let lines = watch(&format!("replication from {nobody}"));
    let store = Arc::new(small_store(1, None));
    let shards = ShardSet::all(store.shards().len());
    let following = Following::start(follow_config(nobody), None, shards, store.clone()).expect("a thread");
    let line = lines.recv_timeout(LONG).expect("it says that its primary is not there");
    assert!(line.0.contains("cannot connect"), "{}", line.0);
    let (follow, (told, telling)) = (following.follow().clone(), channel());
    std::thread::spawn(move || drop(told.send(Box::new(follow.snapshot()))));
    let view = telling.recv_timeout(LONG / 6).expect("it is told while the line is being written");
    assert_eq!(view.primary, nobody.to_string());
    drop(line);
}

/// Reclaim lets a replica go with a shard's lock held: it says nothing there.
#[test]
fn reclaim_lets_a_replica_go_without_a_word() {
    let lines = watch("is let go");
    let (store, board) = (Arc::new(small_store(1, None)), Arc::new(Board::default()));
    Retain::install(&store, &board, Some(4096));
    let ack = Memfd::new("test-ack", ACK_BYTES, false).expect("a page");
    // The replica follows, stands at the beginning of the log, and stays there.
    let ack = Arc::new(ack);
    let slots = AckSlots::new([ack.clone()], 1);
    let tag = slots.subscribe(Wanted::new(0, 0)).expect("it is there");
    ack.words()[8].store(tag.word(64, true), Release);
    board.put_up(1, [1; 16], Arc::new(slots));
    let mut worker = store.join();
    for number in 0..10_000u32 {
        let (turn, now) = (worker.turn(), UnixSeconds::now());
        let key = number.to_le_bytes();
        let at = store.locate(&key);
        let draft = store.draft(&at, NewItem { value: &[7; 200], ..NewItem::default() }, now);
        let _ = store.lock(&at).unwrap().entry(&turn, now).set(&draft);
        store.maintain(&turn, 0, now);
    }
    assert_eq!((board.let_go_count(), board.is_let_go(1)), (1, Some(true)));
    assert!(lines.try_recv().is_err(), "a writer has written to the log");
}
