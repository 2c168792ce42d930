//! Requests that wait for memory: tried again with pauses, by who can do no better, and answered
//! once there is room.

use super::within::Within;
use remora::server::ServerConfig;
use std::time::{Duration, Instant};

#[test]
fn a_request_that_waits_for_memory_does_not_keep_the_worker_busy() {
    let server = Within::start(ServerConfig::default(), 16 << 20);
    let mut client = server.connect();
    let value = vec![b'v'; 2000];
    for number in 0..10_000 {
        assert_eq!(client.set(&format!("key{number}"), &value), "STORED");
    }
    // While somebody is within a turn, nothing that was read before may be overwritten: no room
    // comes.
    let mut reader = server.store.join();
    let turn = reader.turn();
    let mut waiting = server.connect();
    let (mut sent, parked) = (0, server.stat("parked_requests"));
    while server.stat("parked_requests") == parked {
        waiting.send(format!("set wait{sent} 0 0 {}\r\n", value.len()).as_bytes());
        waiting.send(&value);
        waiting.send(b"\r\n");
        sent += 1;
        assert!(sent < 2000, "the log never gets full");
        // Time for the request to be answered, or to begin to wait.
        std::thread::sleep(Duration::from_millis(2));
    }
    let (began, polls, tries) = (Instant::now(), server.stat("polls"), server.stat("park_waits"));
    while began.elapsed() < Duration::from_millis(500) {
        assert_eq!(client.ask("mn"), "MN", "others are served");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (polls, tries) = (server.stat("polls") - polls, server.stat("park_waits") - tries);
    let milliseconds = began.elapsed().as_millis() as u64;
    assert!(tries > 5, "it is tried again: {tries}");
    assert!(tries < 2 * milliseconds && polls < 4 * milliseconds, "{polls} polls, {tries} tries in {milliseconds} ms");
    drop(turn);
    for _ in 0..sent {
        assert_eq!(waiting.line(), "STORED");
    }
    assert_eq!(waiting.ask("mn"), "MN");
}
