//! Clients that ask and do not read: what is kept for all of them together is bounded, and the
//! others are served.

use super::within::Within;
use crate::support::{Client, WAIT_MAX};
use remora::server::ServerConfig;
use std::time::Instant;

#[test]
fn unsent_answers_of_all_together_are_bounded() {
    const OUTPUT_BYTES_MAX: u64 = 2 << 20;
    for workers in [1, 2] {
        let output_bytes_total_max = OUTPUT_BYTES_MAX as usize;
        let config = ServerConfig { workers, output_bytes_total_max, ..ServerConfig::default() };
        let server = Within::start(config, 128 << 20);
        let value = vec![b'v'; 500_000];
        assert_eq!(server.connect().set("key", &value), "STORED");
        let ask = |key: &str, answers: usize| format!("get {key}\r\n").repeat(answers).into_bytes();
        // One client that reads all the time, slowly.
        let mut slow = Client::tcp_with_little_room(server.address);
        let mut hoarders: Vec<_> = (0..24).map(|_| Client::tcp_with_little_room(server.address)).collect();
        for (at, client) in hoarders.iter_mut().enumerate() {
            // Of many lengths: how much of one is left once the system takes no more is by chance.
            let key = format!("hoard{at}");
            assert_eq!(client.set(&key, &vec![b'h'; 1_000_000 - 30_000 * at]), "STORED");
            client.send(&ask(&key, 20));
        }
        // All of them stand before the slow one begins: those that stood still for longest are
        // closed first.
        let until = Instant::now() + WAIT_MAX;
        let (mut held, mut looks) = (0, 0);
        while looks < 50 || server.stat("cmd_get") < 24 {
            let now = server.stat("output_held_bytes");
            looks = if now == held { looks + 1 } else { 0 };
            held = now;
            assert!(Instant::now() < until, "the server still sends");
        }
        slow.send(&ask("key", 30));
        for read in 0.. {
            if read < 30 {
                assert_eq!(slow.line(), "VALUE key 0 500000");
                assert!(slow.exactly(value.len() + 2).starts_with(&value));
                assert_eq!(slow.line(), "END", "{workers} workers");
            }
            let held = server.stat("output_held_bytes");
            assert!(held <= OUTPUT_BYTES_MAX + workers as u64 * (5 << 18), "{held} bytes held");
            if read >= 30 && server.stat("hoard_kicks") > 5 {
                break;
            }
            assert!(Instant::now() < until, "{} kicked, {held} bytes held", server.stat("hoard_kicks"));
        }
        assert_eq!(slow.ask("mn"), "MN");
        drop(hoarders);
    }
}
