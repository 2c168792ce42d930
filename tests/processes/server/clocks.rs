//! Somebody sets the wall clock: connections do not notice, expiry does.

use super::within::Within;
use crate::support::Client;
use remora::base::time::Clock;
use remora::server::ServerConfig;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

struct Stepped {
    server: Within,
    wall_step_seconds: Arc<AtomicI64>,
}

impl Stepped {
    fn start(config: ServerConfig) -> Stepped {
        let wall_step_seconds = Arc::new(AtomicI64::new(0));
        let clock = Clock::with_wall_steps(wall_step_seconds.clone());
        Stepped { server: Within::start(ServerConfig { clock, ..config }, 128 << 20), wall_step_seconds }
    }

    /// Set the clock while nothing moves, and wait until the worker has looked for connections to
    /// close: it does so once a second.
    fn step(&self, seconds: i64) {
        self.server.pass_two_seconds();
        self.wall_step_seconds.fetch_add(seconds, Relaxed);
        self.server.pass_two_seconds();
    }
}

#[test]
fn a_step_of_the_clock_cuts_no_client_that_reads_slowly() {
    let stepped = Stepped::start(ServerConfig::default());
    let mut client = Client::tcp_with_little_room(stepped.server.address);
    let value = vec![b'v'; 1_000_000];
    assert_eq!(client.set("key", &value), "STORED");
    client.send(format!("get{}\r\nmn\r\n", " key".repeat(30)).as_bytes());
    let mut read = |values: usize| {
        for _ in 0..values {
            assert_eq!(client.line(), "VALUE key 0 1000000");
            assert!(client.exactly(value.len() + 2).starts_with(&value));
        }
    };
    read(3);
    stepped.step(120);
    read(3);
    stepped.step(-3600);
    read(24);
    assert_eq!((client.line(), client.line()), ("END".to_string(), "MN".to_string()));
    assert_eq!(stepped.server.stat("stall_kicks"), 0);
}

#[test]
fn a_step_of_the_clock_makes_nobody_idle_and_keeps_nobody_who_is() {
    let stepped = Stepped::start(ServerConfig { idle_timeout_seconds: 20, ..ServerConfig::default() });
    let mut client = stepped.server.connect();
    assert_eq!(client.ask("mn"), "MN");
    stepped.step(3600);
    assert_eq!(client.ask("mn"), "MN");
    assert_eq!(stepped.server.stat("idle_kicks"), 0);
    let idle: Vec<_> = client.rows("stats conns").into_iter().filter(|row| row.contains("secs_since_last")).collect();
    assert!(idle.iter().all(|row| row.rsplit(' ').next().is_some_and(|word| word.len() < 3)), "{idle:?}");

    let stepped = Stepped::start(ServerConfig { idle_timeout_seconds: 1, ..ServerConfig::default() });
    let mut client = stepped.server.connect();
    assert_eq!(client.ask("mn"), "MN");
    stepped.wall_step_seconds.store(-3600, Relaxed);
    assert_eq!(client.until_closed(), b"", "idle by the steady clock, though the wall clock has gone back");
}

#[test]
fn expiry_goes_by_the_wall_clock() {
    let stepped = Stepped::start(ServerConfig::default());
    let mut client = stepped.server.connect();
    assert_eq!(client.ask("set hour 0 3600 1\r\nx"), "STORED");
    assert_eq!(client.ask("set day 0 86400 1\r\ny"), "STORED");
    stepped.wall_step_seconds.store(3700, Relaxed);
    assert_eq!(client.ask("mn"), "MN", "the clock is read in each turn");
    assert_eq!((client.get("hour"), client.get("day")), (None, Some(b"y".to_vec())));
}
