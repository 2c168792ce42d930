//! A request that finds no room in its middle goes on where it was, once there is room.

use super::BEGIN;
use crate::support::harness::{self, Client};
use crate::support::wait::LONG;
use std::sync::mpsc;
use std::time::Instant;

const KEYS: usize = 100;

/// Each touch of a gat is a record. Somebody who does not end his turn keeps all room from being
/// used again, until a request waits for it.
#[test]
fn what_was_answered_before_the_wait_is_not_answered_again() {
    let engine = harness::engine(64 << 10, 1, 8 << 10, true, 2);
    engine.store().log_touches();
    let mut client = Client::new(&engine, 0, BEGIN);
    let keys: Vec<String> = (0..KEYS).map(|number| format!("key-{number}")).collect();
    for key in &keys {
        assert_eq!(client.ask(&format!("set {key} 0 0 5\r\nvalue\r\n")), "STORED\r\n");
    }
    let expected: String =
        keys.iter().map(|key| format!("VALUE {key} 0 5\r\nvalue\r\n")).collect::<String>() + "END\r\n";
    let request = format!("gat 3600 {}\r\n", keys.join(" "));
    let store = engine.store();
    let waits = || store.stats().counts.parked;
    for _ in 0..5 {
        let before = waits();
        let (inside, ready) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (mut seat, until) = (store.join(), Instant::now() + LONG);
                let turn = seat.turn();
                inside.send(()).expect("somebody waits for it");
                while waits() == before && Instant::now() < until {
                    std::thread::yield_now();
                }
                drop(turn);
            });
            ready.recv().expect("it begins a turn");
            (0..1000).take_while(|_| waits() == before).for_each(|_| assert_eq!(client.ask(&request), expected));
            assert!(waits() > before, "no request had to wait");
        });
    }
    assert!(client.parked > 0);
}
