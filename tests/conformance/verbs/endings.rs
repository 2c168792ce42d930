//! How channels end: by either side, with READs under way or at once, by a process that is killed, by a host that vanishes.

use super::setup::*;
use remora::fabric::verbs::{self, VerbsOptions};
use remora::fabric::{Cause, Exporter as _, GrantState, READ_BYTES_MAX};
use std::io::{BufRead, BufReader, Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

#[test]
fn a_grant_dropped_under_reads_lets_no_later_byte_through() {
    with_device(|address| {
        for round in 0..3 {
            let Pair { mut channel, grant, memory, exporter } = connected(address, &[READ_BYTES_MAX]);
            let mut batch = Vec::new();
            for tag in 0..channel.depth_max() as u64 {
                batch.push(read(0, 0, READ_BYTES_MAX, channel.landing(READ_BYTES_MAX).unwrap(), tag));
            }
            channel.submit(&mut batch).unwrap();
            let mut done = if round == 1 { poll_some(&mut *channel) } else { Vec::new() };
            drop(grant);
            // From here on nobody may see what is written.
            memory.words(0).iter().for_each(|word| word.store(LATER, Relaxed));
            let begun = Instant::now();
            let ended = wait_for_error(|| channel.poll(&mut done, Duration::from_millis(100)).err());
            println!("over after {:?}: {ended}; {} READs came back", begun.elapsed(), done.len());
            assert!(matches!(ended.cause, Cause::Closed | Cause::TimedOut | Cause::Access), "{ended}");
            assert_eq!(done.len(), channel.depth_max(), "each READ comes back");
            assert!(done.iter().any(|completion| completion.outcome.is_err()), "READs were under way");
            for completion in &done {
                let words = completion.landing.words(READ_BYTES_MAX);
                assert!(words.iter().all(|word| word.load(Relaxed) != LATER), "a later byte came through");
            }
            drop((channel, done, exporter));
        }
    });
}

#[test]
fn a_primary_that_leaves_at_once_is_noticed() {
    with_device(|address| {
        for round in 0..10 {
            let Pair { mut channel, grant, exporter, .. } = connected(address, &[4096]);
            let landing = channel.landing(4096).unwrap();
            drop(grant);
            if round % 2 == 0 {
                drop(exporter);
            }
            let mut done = Vec::new();
            let ended = match channel.submit(&mut vec![read(0, 0, 4096, landing, 0)]) {
                Ok(()) => wait_for_error(|| channel.poll(&mut done, Duration::from_millis(100)).err()),
                Err(ended) => ended,
            };
            assert_eq!(ended.cause, Cause::Closed, "{ended}");
            assert!(ended.what.contains("the primary has ended"), "told by the connection manager: {ended}");
        }
    });
}

#[test]
fn a_channel_dropped_under_reads_leaves_nothing() {
    with_device(|address| {
        let Pair { mut channel, mut grant, exporter: _exporter, .. } = connected(address, &[READ_BYTES_MAX]);
        let mut batch = Vec::new();
        for tag in 0..channel.depth_max() as u64 {
            batch.push(read(0, 0, READ_BYTES_MAX, channel.landing(READ_BYTES_MAX).unwrap(), tag));
        }
        channel.submit(&mut batch).unwrap();
        drop(channel);
        assert_eq!(verbs::registrations(), 2, "the grant's own: a region and the ack slot");
        assert_eq!(wait_for_error(|| grant.state().err()).cause, Cause::Closed);
    });
}

#[test]
fn a_sleeper_learns_that_the_channel_is_over() {
    with_device(|address| {
        let Pair { mut channel, grant, exporter: _exporter, .. } = connected(address, &[4096]);
        assert_eq!(channel.poll(&mut Vec::new(), Duration::from_millis(50)), Ok(0));
        let sleeper = std::thread::spawn(move || {
            let begun = Instant::now();
            let ended = channel.poll(&mut Vec::new(), WAIT_MAX);
            (ended, begun.elapsed())
        });
        drop(grant);
        let (ended, after) = sleeper.join().unwrap();
        assert_eq!(ended.unwrap_err().cause, Cause::Closed);
        assert!(after < WAIT_MAX, "told, rather than tired of waiting");
    });
}

/// The other process of the test below: exports one region, says where, and waits to be killed.
#[test]
#[ignore = "run by a_primary_that_is_killed_is_noticed"]
fn exports_until_killed() {
    let address = device_address().expect("run by a test that has one");
    let exporter = exporter(address);
    let grant = exporter.grant(token(1), Memory::new(&[READ_BYTES_MAX])).unwrap();
    println!("{}", spell(&invitation(&exporter, token(1), &*grant)));
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn a_primary_that_is_killed_is_noticed() {
    with_device(|_| {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "verbs::endings::exports_until_killed", "--nocapture", "--test-threads=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let invited = lines.find_map(|line| unspell(&line)).expect("the child says where it is");
        let mut channel = verbs::connect(&invited, &VerbsOptions::default()).unwrap();
        let landing = channel.landing(4096).unwrap();
        channel.submit(&mut vec![read(0, 0, 4096, landing, 0)]).unwrap();
        let mut done = poll_some(&mut *channel);
        done.pop().unwrap().outcome.unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let begun = Instant::now();
        let landing = channel.landing(4096).unwrap();
        let ended = match channel.submit(&mut vec![read(0, 0, 4096, landing, 1)]) {
            Ok(()) => wait_for_error(|| channel.poll(&mut done, Duration::from_millis(100)).err()),
            Err(ended) => ended,
        };
        println!("noticed after {:?}: {ended}", begun.elapsed());
        assert!(matches!(ended.cause, Cause::Closed | Cause::TimedOut), "{ended}");
    });
}

/// Where `exports_to_another_host` says what it offers.
const INVITATIONS_PORT: u16 = 7111;

/// On one of two hosts: offers a region to one replica, and says how that ended.
#[test]
#[ignore = "for two hosts: the other runs a_host_that_vanishes_is_noticed"]
fn exports_to_another_host() {
    let address = device_address().expect("REMORA_TEST_VERBS is the device's address");
    let inviting = TcpListener::bind((address, INVITATIONS_PORT)).unwrap();
    let exporter = exporter(address);
    println!("exporting");
    let (mut asking, _) = inviting.accept().unwrap();
    let mut grant = exporter.grant(token(1), Memory::new(&[READ_BYTES_MAX])).unwrap();
    writeln!(asking, "{}", spell(&invitation(&exporter, token(1), &*grant))).unwrap();
    wait_for("connected", || grant.state().unwrap() == GrantState::Connected);
    // It only answers, so it cannot tell a replica that is silent from one that is gone: heartbeats are for the layer above.
    let _ = asking.set_read_timeout(Some(WAIT_MAX));
    let _ = asking.read(&mut [0; 1]);
    println!("the replica's channel: {:?}", grant.state());
}

/// On the other, with REMORA_TEST_VERBS_PEER for the first one's address: READs until somebody cuts the network or the power.
#[test]
#[ignore = "for two hosts: the other runs exports_to_another_host, and then vanishes"]
fn a_host_that_vanishes_is_noticed() {
    let peer = std::env::var("REMORA_TEST_VERBS_PEER").expect("REMORA_TEST_VERBS_PEER is the other host's address");
    let peer: std::net::IpAddr = peer.parse().unwrap();
    let asked = TcpStream::connect((peer, INVITATIONS_PORT)).unwrap();
    let mut lines = BufReader::new(asked).lines().map_while(Result::ok);
    let invited = lines.find_map(|line| unspell(&line)).expect("an invitation");
    let mut channel = verbs::connect(&invited, &VerbsOptions::default()).unwrap();
    let mut landing = Some(channel.landing(4096).unwrap());
    let (mut last, mut count) = (Instant::now(), 0u64);
    let mut done = Vec::new();
    let ended = wait_for_error(|| {
        if let Some(landing) = landing.take()
            && let Err(ended) = channel.submit(&mut vec![read(0, 0, 4096, landing, count)])
        {
            return Some(ended);
        }
        let polled = channel.poll(&mut done, Duration::from_secs(1));
        for completion in done.drain(..) {
            if completion.outcome.is_ok() {
                (last, count) = (Instant::now(), count + 1);
                if count == 100 {
                    println!("reading");
                }
                landing = Some(completion.landing);
            }
        }
        polled.err()
    });
    println!("noticed {:?} after the last of {count} READs: {ended}", last.elapsed());
    assert_eq!(ended.cause, Cause::TimedOut, "{ended}");
    assert!(count >= 100, "it was there before");
}
