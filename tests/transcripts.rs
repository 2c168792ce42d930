//! Byte transcripts (tests/transcripts/*.txt; the format is described in format.rs): every
//! transcript holds for Remora and, unless it says otherwise, for memcached itself, whichever way
//! the bytes are cut.
//!
//! `REMORA_TEST_SERVER=host:port` holds any server to them as well; `REMORA_TEST_TRANSCRIPT=name`
//! picks transcripts by a part of their name.

#[path = "transcripts/format.rs"]
mod format;
#[path = "interop/memcached.rs"]
mod memcached;
#[path = "transcripts/play.rs"]
mod play;
mod support;

use format::{Dialect, Release, Transcript};
use play::{Delivery, Peer};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// Transcripts that send more than this are not cut at every place, nor sent byte by byte.
const CUT_BYTES_MAX: usize = 2500;

fn transcripts() -> Vec<Transcript> {
    let wanted = std::env::var("REMORA_TEST_TRANSCRIPT").unwrap_or_default();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder of transcripts") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if path.extension().is_some_and(|extension| extension == "txt") && name.contains(&wanted) {
            let text = std::fs::read_to_string(&path).expect("a transcript is text");
            found.push(Transcript::parse(&name, &text).expect("a transcript"));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Every way of sending that suits the transcript's length, and the server.
fn deliveries(transcript: &Transcript, dialect: Dialect) -> Vec<Delivery> {
    if dialect == Dialect::Memcached && transcript.memcached_in_turn {
        return vec![Delivery::InTurn];
    }
    let mut deliveries = vec![Delivery::InTurn, Delivery::OneWrite];
    let sent_bytes = transcript.sent_bytes();
    if sent_bytes > CUT_BYTES_MAX {
        deliveries.extend([Delivery::Pieces(1447), Delivery::Pieces(16 << 10)]);
    } else {
        deliveries.extend([Delivery::Pieces(1), Delivery::Pieces(7)]);
        deliveries.extend((1..sent_bytes).map(Delivery::SplitAt));
    }
    deliveries
}

/// No answer takes longer; a server that says nothing fails the transcript.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// Hold a server to every transcript that is meant for it; a failure in one does not hide those in
/// others.
fn hold_to(transcripts: &[Transcript], address: SocketAddr, dialect: Dialect, release: Option<Release>) {
    let peer = Peer { address, dialect, wait_max: ANSWER_WAIT_MAX };
    let mut failures = Vec::new();
    let mut runs = 0;
    let mut left_out = 0;
    for transcript in transcripts {
        if dialect == Dialect::Memcached && transcript.remora_only {
            continue;
        }
        if release.is_some_and(|release| release < transcript.needs) {
            println!("{}: left out, this memcached is older than {:?}", transcript.name, transcript.needs);
            left_out += 1;
            continue;
        }
        for delivery in deliveries(transcript, dialect) {
            runs += 1;
            let played = play::wipe(&peer).and_then(|()| play::play(transcript, &peer, delivery));
            if let Err(why) = played {
                failures.push(why);
                break;
            }
        }
    }
    println!("{runs} runs, {} failed, {left_out} transcripts left out", failures.len());
    let in_ci = std::env::var_os("CI").is_some();
    assert!(!in_ci || left_out == 0, "in CI memcached must be new enough for every transcript: {}", memcached::REMEDY);
    assert!(failures.is_empty(), "{} transcripts failed:\n\n{}", failures.len(), failures.join("\n\n"));
    assert!(runs > 0, "no transcript was meant for this server");
}

#[test]
fn transcripts_hold_for_remora() {
    // What waits for replicas that do not come waits for a short time: a transcript is played
    // hundreds of times.
    let server = support::Server::start(&["-m", "64", "-t", "2", "--ack-timeout", "1"]);
    hold_to(&transcripts(), server.tcp[0], Dialect::Remora, None);
}

/// What these are about is the server that is asked, or they wait for its replicas.
const OF_ONE_SERVER: [&str; 5] = ["acks", "admin_", "server", "sizes", "meta_debug"];

/// A server that executes nothing of them itself: all shards are another one's.
#[test]
fn transcripts_hold_through_another_server() {
    let owner = support::Server::start(&["-m", "64", "-t", "2", "--replication", "127.0.0.1:0"]);
    let port = std::iter::from_fn(|| owner.next_log_line())
        .find_map(|line| line.strip_prefix("remora: replication on tcp ")?.split(' ').next().map(str::to_string));
    let port = port.expect("the owner says where it is followed");
    let server = support::Server::start(&["-t", "2", "--forward", "--fabric", "tcp", "--replica-of", &port]);
    let is_forwarded = |one: &Transcript| !OF_ONE_SERVER.iter().any(|name| one.name.starts_with(name));
    let forwarded: Vec<_> = transcripts().into_iter().filter(is_forwarded).collect();
    hold_to(&forwarded, server.tcp[0], Dialect::Remora, None);
}

#[test]
fn transcripts_hold_for_memcached() {
    let Some(version) = memcached::version() else {
        assert!(std::env::var_os("CI").is_none(), "in CI memcached must be there: {}", memcached::REMEDY);
        println!("skipped: there is no memcached ({})", memcached::REMEDY);
        return;
    };
    let release = format::release(&version).expect("memcached has a version");
    // memcached's flush_all passes over an item that another thread has locked at that moment, and
    // `play::wipe` relies on flush_all: so there is one worker, and no thread in the background.
    let server = memcached::Memcached::start(&["-m", "64", "-t", "1", "-o", "no_lru_maintainer,no_lru_crawler"]);
    hold_to(&transcripts(), server.address, Dialect::Memcached, Some(release));
}

#[test]
fn transcripts_hold_for_the_server_named_by_the_environment() {
    let Ok(name) = std::env::var("REMORA_TEST_SERVER") else {
        println!("skipped: REMORA_TEST_SERVER names no server");
        return;
    };
    let address = name.to_socket_addrs().expect("host:port").next().expect("an address");
    let version = play::ask(&Peer { address, dialect: Dialect::Memcached, wait_max: ANSWER_WAIT_MAX }, "version\r\n")
        .expect("an answer to version");
    if version.to_lowercase().contains("remora") {
        hold_to(&transcripts(), address, Dialect::Remora, None);
    } else {
        hold_to(&transcripts(), address, Dialect::Memcached, format::release(&version));
    }
}

#[test]
fn a_wrong_answer_fails_a_transcript() {
    let Some(_) = memcached::version() else {
        return;
    };
    let server = memcached::Memcached::start(&["-m", "64"]);
    let wait_max = Duration::from_millis(100); // what waits for an answer that never comes need not wait long
    let peer = Peer { address: server.address, dialect: Dialect::Memcached, wait_max };
    let wrong = [
        "> get a\n< ENDE",
        "> get a\n< END\n< END",
        "> mn\n> mn\n< MN",
        "> set a 0 0 1\n> x\n< STORED\n> mg a c\n< HD c<one>\n> mg a c\n< HD c<two!one>",
        "> set a 0 0 1\n> x\n< STORED\n> mg a c t\n< HD c<one> t<n:5..9>",
        "> version\n= closed",
        "> stats\n<+ STAT <*>\n<& STAT nothing <*>\n< END",
        "> quit\n= closed\n> get a\n<m nothing",
    ];
    for text in wrong {
        let transcript = Transcript::parse("wrong", text).expect("well formed");
        for delivery in [Delivery::InTurn, Delivery::OneWrite, Delivery::Pieces(1), Delivery::SplitAt(3)] {
            let played = play::play(&transcript, &peer, delivery);
            assert!(played.is_err(), "passed, but should not have: {text:?} {delivery:?}");
        }
    }
}

#[test]
fn a_malformed_transcript_is_refused() {
    for text in [
        "# A comment. needs 1.6.45",
        "# It waits. remora only: it is ours",
        "get a",
        "> {a",
        "> {a*b}",
        "> \\q",
        "< <a:1>",
        "> <open",
        "< \\xzz",
    ] {
        assert!(Transcript::parse("malformed", text).is_err(), "{text}");
    }
}
