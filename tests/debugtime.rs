//! `debugtime`, of builds with the feature of that name: time passes as tests want it to.
//! `cargo test --features debugtime --test debugtime`.
#![allow(clippy::unwrap_used)]

mod support;

use support::Server;

#[test]
fn time_stands_goes_on_and_is_set() {
    let server = Server::start(&["-t", "2", "--shards", "2"]);
    let (mut client, mut other) = (server.connect(), server.connect());
    for wrong in ["debugtime", "debugtime soon"] {
        assert_eq!(client.ask(wrong), "ERROR");
    }
    assert_eq!(client.ask("debugtime p"), "OK");
    assert_eq!(client.ask("ms key 1 T100\r\nx"), "HD");
    assert_eq!(client.ask("mg key t"), "HD t100");
    // All of one write, so of one turn.
    client.send(b"debugtime 60\r\nmg key t\r\n");
    assert_eq!((client.line(), client.line()), ("OK".to_string(), "HD t40".to_string()));
    assert_eq!(other.ask("mg key t"), "HD t40", "for every client");
    assert_eq!(client.ask("debugtime -10"), "OK");
    assert_eq!(other.ask("mg key t"), "HD t50");
    assert_eq!(client.ask("flush_all 30"), "OK");
    assert_eq!(client.ask("debugtime 29"), "OK");
    assert_eq!(other.ask("mg key t"), "HD t21");
    assert_eq!(client.ask("debugtime 1"), "OK");
    assert_eq!(other.ask("mg key t"), "EN", "the flush is due, to the second");
    assert_eq!(client.ask("ms key 1 T100\r\nx"), "HD");
    assert_eq!(client.ask("debugtime 99"), "OK");
    assert_eq!(other.ask("mg key t"), "HD t1");
    assert_eq!(client.ask("debugtime 1"), "OK");
    assert_eq!(other.ask("mg key t"), "EN", "it has expired, to the second");
    assert_eq!(client.ask("ms key 1 T100\r\nx"), "HD");
    assert_eq!(client.ask("debugtime r"), "OK");
    let left = other.ask("mg key t");
    let seconds = left.strip_prefix("HD t").and_then(|left| left.parse::<u32>().ok());
    assert!(seconds.is_some_and(|seconds| seconds <= 100), "{left}");
}
