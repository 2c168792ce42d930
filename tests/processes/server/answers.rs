//! Answers that a transcript cannot show: settings that take effect, counters that never go below
//! zero, flags refused.

use crate::support::wait::Ends;
use crate::support::{Client, Server, refused};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

fn setting(client: &mut Client, name: &str) -> Vec<String> {
    let rows = client.rows("stats settings");
    let of_name = |row: &String| row.strip_prefix(&format!("STAT {name} ")).map(str::to_string);
    rows.iter().filter_map(of_name).collect()
}

#[test]
fn verbosity_changes_what_is_logged_and_is_shown() {
    let server = Server::start(&["-t", "1"]);
    let mut client = server.connect();
    assert_eq!(setting(&mut client, "verbosity"), ["0"]);
    assert_eq!(client.ask("verbosity 0"), "OK");
    for (level, shown) in [("1", "1"), ("2", "2"), ("7", "2")] {
        assert_eq!(client.ask(&format!("verbosity {level}")), "OK");
        assert_eq!(setting(&mut client, "verbosity"), [shown]);
        // At level 0 nothing was said, so the first line is about this.
        let line = server.next_log_line().expect("a line of the log");
        assert!(line.contains(&format!("set verbosity to {level}")), "{line}");
    }
    client.send(b"verbosity 0 noreply\r\n");
    assert_eq!(setting(&mut client, "verbosity"), ["0"]);
    let started_verbose = Server::start(&["-t", "1", "-vv"]);
    assert_eq!(setting(&mut started_verbose.connect(), "verbosity"), ["2"]);
}

#[test]
fn an_item_size_beyond_memcacheds_bounds_is_refused() {
    for (size, words) in [
        ("8", "Item max size cannot be less than 1024 bytes"),
        ("1023", "Item max size cannot be less than 1024 bytes"),
        ("1500m", "Cannot set item size limit higher than a gigabyte"),
    ] {
        let (status, said) = refused(&["-l", "127.0.0.1:0", "-m", "64", "-I", size]);
        assert!(!status.success() && said.contains("-I") && said.contains(words), "-I {size}: {said}");
    }
    let least = Server::start(&["-t", "1", "-I", "1k"]);
    let mut client = least.connect();
    assert_eq!(client.set("key", &[b'v'; 900]), "STORED");
    assert_eq!(client.set("key", &[b'v'; 1100]), "SERVER_ERROR object too large for cache");
}

#[test]
fn counters_never_go_below_zero_while_others_reset_them() {
    let server = Server::start(&["-t", "4"]);
    let (over, address) = (AtomicBool::new(false), server.tcp[0]);
    std::thread::scope(|scope| {
        let _ends = Ends(&over);
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = Client::tcp(address);
                while !over.load(Relaxed) {
                    assert_eq!(client.ask("stats reset"), "RESET");
                }
            });
        }
        let mut client = server.connect();
        for _ in 0..2000 {
            for row in client.rows("stats") {
                let number = row.rsplit(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
                assert!(number <= u64::MAX / 2, "{row}");
            }
        }
    });
}
