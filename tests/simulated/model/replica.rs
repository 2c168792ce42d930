//! What a replica's engine answers: reads as a primary's does, writes not at all.

use super::BEGIN;
use crate::link::Link;
use crate::support::harness::{self, Client};
use remora::engine::Engine;
use remora::store::Store;
use std::sync::atomic::Ordering::Relaxed;

const REFUSAL: &str = "SERVER_ERROR read-only replica: write to the primary at cache.example:11211\r\n";
const ITEM_BYTES_MAX: usize = 64 << 10;

fn replica_of(primary: &Engine) -> Engine {
    let store = Store::with_geometry(primary.store().geometry(), primary.store().memory().slabs, 1, false, None)
        .expect("a store like it");
    Link::new(primary.store(), &store).settle();
    let engine = harness::over(store, ITEM_BYTES_MAX, 1);
    engine.store().close_gates(0..1, Some("cache.example:11211"));
    engine
}

/// Every word of the logs.
fn memory(engine: &Engine) -> Vec<u64> {
    engine.store().pool().memory().words().iter().map(|word| word.load(Relaxed)).collect()
}

#[test]
fn every_write_is_refused_and_changes_nothing() {
    let primary = harness::engine(1 << 20, 1, ITEM_BYTES_MAX, true, 1);
    Client::new(&primary, 0, BEGIN).ask("set k 5 0 1\r\n7\r\n");
    let engine = replica_of(&primary);
    assert_eq!([&engine, &primary].map(|engine| engine.store().writable().count()), [0, 1]);
    let (mut client, before) = (Client::new(&engine, 0, BEGIN), memory(&engine));
    let loud = [
        "set k 0 0 1\r\na\r\n",
        "set k 0 0 0\r\n\r\n",
        "add n 0 0 1\r\na\r\n",
        "replace k 0 0 1\r\na\r\n",
        "append k 0 0 1\r\na\r\n",
        "prepend k 0 0 1\r\na\r\n",
        "cas k 0 0 1 64\r\na\r\n",
        "incr k 1\r\n",
        "decr n 1\r\n",
        "delete k\r\n",
        "delete n\r\n",
        "touch k 0\r\n",
        "gat 0 k\r\n",
        "gats 0 k n\r\n",
        "flush_all\r\n",
        "flush_all 10\r\n",
        "ms k 1\r\na\r\n",
        "ms k 1 q\r\na\r\n",
        "md k\r\n",
        "md k q I\r\n",
        "ma k\r\n",
        "ma n N0 q\r\n",
        "mg k v T30\r\n",
        "mg n v N30\r\n",
        "mg n q N30\r\n",
    ];
    for command in loud {
        assert_eq!(client.ask(command), REFUSAL, "{command:?}");
    }
    let silent = [
        "set k 0 0 1 noreply\r\na\r\n",
        "incr k 1 noreply\r\n",
        "delete k noreply\r\n",
        "touch k 0 noreply\r\n",
        "flush_all noreply\r\n",
    ];
    for command in silent {
        assert_eq!(client.ask(command), "", "{command:?}");
    }
    // Refused by the parser: what is there stays, where a primary takes it away.
    let large = format!("set k 0 0 {}\r\n{}\r\n", 2 * ITEM_BYTES_MAX, "x".repeat(2 * ITEM_BYTES_MAX));
    assert_eq!(client.ask(&large), "SERVER_ERROR object too large for cache\r\n");
    client.now.0 += 11;
    assert_eq!(client.ask("get k\r\n"), "VALUE k 5 1\r\n7\r\nEND\r\n");
    assert!(memory(&engine) == before, "not a word of the logs changed");
    let stats = client.ask("stats\r\n");
    let refused = loud.len() + silent.len();
    assert!(stats.contains(&format!("STAT read_only_refused {refused}\r\n")), "{stats}");
    assert!(stats.contains("STAT cmd_set 0\r\n") && stats.contains("STAT cmd_flush 0\r\n"));
}

#[test]
fn reads_are_answered_and_win_nothing() {
    let primary = harness::engine(1 << 20, 1, ITEM_BYTES_MAX, true, 1);
    let mut writer = Client::new(&primary, 0, BEGIN);
    writer.ask("set k 5 0 1\r\n7\r\nset due 0 20 1\r\nd\r\nset stale 0 0 1\r\ns\r\nmd stale I\r\nset won 0 0 1\r\nw\r\nmd won I\r\n");
    assert_eq!(writer.ask("mg won\r\n"), "HD W X\r\n".replace("W X", "X W"));
    let engine = replica_of(&primary);
    let (mut client, before) = (Client::new(&engine, 0, BEGIN), memory(&engine));
    for (command, answer) in [
        ("get k none stale\r\n", "VALUE k 5 1\r\n7\r\nVALUE stale 0 1\r\ns\r\nEND\r\n"),
        ("mg k f v\r\n", "VA 1 f5\r\n7\r\n"),
        ("mg none v\r\n", "EN\r\n"),
        ("mg k v N30\r\n", "VA 1\r\n7\r\n"),
        ("mg due t R30\r\n", "HD t20 Z\r\n"),
        ("mg due t R10\r\n", "HD t20\r\n"),
        ("mg stale v\r\n", "VA 1 Z X\r\ns\r\n"),
        ("mg won v\r\n", "VA 1 Z X\r\nw\r\n"),
        ("mg k h\r\n", "HD h0\r\n"),
        ("mn\r\n", "MN\r\n"),
    ] {
        for _ in 0..2 {
            assert_eq!(client.ask(command), answer, "{command:?}");
        }
    }
    let both = [client.ask("gets k\r\n"), client.ask("me k\r\n")];
    assert_eq!(both, [writer.ask("gets k\r\n"), writer.ask("me k\r\n").replace("fetch=yes", "fetch=no")]);
    assert!(memory(&engine) == before, "reading left the logs as they were");
    client.now.0 += 20;
    assert_eq!(client.ask("get due\r\n"), "END\r\n", "expiry is judged when read");
}

/// Once it is no replica any more, the same engine writes.
#[test]
fn an_engine_that_is_no_replica_any_more_writes() {
    let primary = harness::engine(1 << 20, 1, ITEM_BYTES_MAX, true, 1);
    Client::new(&primary, 0, BEGIN).ask("set k 0 0 1\r\n7\r\n");
    let engine = replica_of(&primary);
    let mut client = Client::new(&engine, 0, BEGIN);
    assert_eq!(client.ask("incr k 1\r\n"), REFUSAL);
    engine.store().open_gates(0..1);
    assert_eq!(client.ask("incr k 1\r\n"), "8\r\n");
}
