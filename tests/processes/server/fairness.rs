//! No client's work keeps others waiting for longer than a share of it: counted in keys and turns,
//! not in time.

use crate::support::wait::Ends;
use crate::support::{Client, Server};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Keys of one connection in one turn: the limit, and those that were fetched together with the
/// last of them.
const KEYS_PER_TURN: u64 = 256 + 16;

fn stats(client: &mut Client, names: [&str; 2]) -> [u64; 2] {
    let rows = client.rows("stats");
    names.map(|name| {
        let of_name = |row: &String| row.strip_prefix(&format!("STAT {name} ")).and_then(|word| word.parse().ok());
        rows.iter().find_map(of_name).unwrap_or_else(|| panic!("{name} in {rows:?}"))
    })
}

fn line_of(verb: &str, keys: usize) -> Vec<u8> {
    let keys: Vec<String> = (0..keys).map(|number| format!("missing{number}")).collect();
    format!("{verb} {}\r\n", keys.join(" ")).into_bytes()
}

#[test]
fn a_turn_looks_up_a_bounded_number_of_keys_whoever_asks_for_them() {
    let server = Server::start(&["-t", "1"]);
    let (address, over) = (server.tcp[0], AtomicBool::new(false));
    const HOGS: u64 = 6;
    std::thread::scope(|scope| {
        let _ends = Ends(&over);
        for hog in 0..HOGS {
            let over = &over;
            scope.spawn(move || {
                let line = line_of(["get", "gats 0"][hog as usize % 2], 50_000);
                let mut client = Client::tcp(address);
                while !over.load(Relaxed) {
                    client.send(&line);
                    assert_eq!(client.line(), "END");
                }
            });
        }
        let mut client = Client::tcp(address);
        let names = ["polls", "cmd_get"];
        let mut before = stats(&mut client, names);
        let until = before[1] + 1_000_000;
        while before[1] < until {
            assert_eq!(client.set("key", b"value"), "STORED");
            let now = stats(&mut client, names);
            // The turn in which the first row was written, and this one, count in part.
            let (turns, keys) = (now[0] - before[0] + 1, now[1] - before[1]);
            assert!(keys <= turns * HOGS * KEYS_PER_TURN, "{keys} keys in {turns} turns");
            before = now;
        }
    });
    assert!(server.stat("conn_yields").is_some_and(|count| count.parse::<u64>().expect("a number") > 1000));
}

#[test]
fn a_get_may_have_as_many_keys_as_it_likes() {
    let server = Server::start(&["-t", "1", "-m", "64"]);
    let mut client = server.connect();
    let present = [0, 1, 77_777, 150_000, 199_999];
    for number in present {
        assert_eq!(client.set(&format!("missing{number}"), format!("value{number}").as_bytes()), "STORED");
    }
    let before = server.resident_bytes();
    for verb in ["get", "gats 100"] {
        let mut line = line_of(verb, 200_000);
        assert!(line.len() > 2 << 20);
        line.extend_from_slice(b"mn\r\n");
        client.send(&line);
        for number in present {
            let value = format!("value{number}");
            let header = client.line();
            assert!(header.starts_with(&format!("VALUE missing{number} 0 {}", value.len())), "{header}");
            assert_eq!(client.line(), value);
        }
        assert_eq!((client.line(), client.line()), ("END".to_string(), "MN".to_string()), "{verb}");
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "grown by {grown} bytes");
    let yields: u64 = server.stat("conn_yields").and_then(|count| count.parse().ok()).expect("a number");
    assert!(yields >= 2 * 200_000 / KEYS_PER_TURN - 2, "{yields} yields");
}

#[test]
fn a_long_get_that_fails_is_answered_by_one_error_line_and_the_next_command_is_found() {
    let server = Server::start(&["-t", "1"]);
    let mut client = server.connect();
    for at in [0, 5, 4000, 30_000] {
        let mut line = line_of("get", 60_000);
        let bad = line_of("get", at).len();
        line.splice(bad - 2..bad - 2, format!(" {} ", "k".repeat(300)).into_bytes());
        line.extend_from_slice(b"mn\r\n");
        for piece_bytes in [1447, 60_000, line.len()] {
            line.chunks(piece_bytes).for_each(|piece| client.send(piece));
            let answers = (client.line(), client.line());
            assert_eq!(answers, ("CLIENT_ERROR bad command line format".to_string(), "MN".to_string()), "key {at}");
        }
    }
}
