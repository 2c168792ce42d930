//! No tests of their own: what the other process does, and what is run on two hosts of which one
//! vanishes.

use super::setup::*;
use crate::device;
use remora::fabric::verbs::{self, VerbsOptions};
use remora::fabric::{Cause, Exporter as _, GrantState, Invitation, READ_BYTES_MAX};
use std::io::{BufRead, BufReader, Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The other process of a_primary_that_is_killed_is_noticed: exports one region, says where, and
/// waits to be killed.
#[test]
#[ignore = "run by a_primary_that_is_killed_is_noticed"]
fn exports_until_killed() {
    let address = device::address();
    let exporter = exporter(address);
    let grant = exporter.grant(token(1), Memory::new(&[READ_BYTES_MAX])).unwrap();
    println!("{}", spell(&Invitation::new(&exporter, token(1), &*grant)));
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// Where `exports_to_another_host` says what it offers.
const INVITATIONS_PORT: u16 = 7111;

/// On one of two hosts: offers a region to one replica, and says how that ended.
#[test]
#[ignore = "for two hosts: the other runs a_host_that_vanishes_is_noticed"]
fn exports_to_another_host() {
    let address = device::address();
    let inviting = TcpListener::bind((address, INVITATIONS_PORT)).unwrap();
    let exporter = exporter(address);
    println!("exporting");
    let (mut asking, _) = inviting.accept().unwrap();
    let mut grant = exporter.grant(token(1), Memory::new(&[READ_BYTES_MAX])).unwrap();
    writeln!(asking, "{}", spell(&Invitation::new(&exporter, token(1), &*grant))).unwrap();
    wait_for("connected", || grant.state().unwrap() == GrantState::Connected);
    // It only answers, so it cannot tell a replica that is silent from one that is gone: heartbeats
    // are for the layer above.
    let _ = asking.set_read_timeout(Some(WAIT_MAX));
    let _ = asking.read(&mut [0; 1]);
    println!("the replica's channel: {:?}", grant.state());
}

/// On the other, with REMORA_TEST_VERBS_PEER for the first one's address: READs until somebody cuts
/// the network or the power.
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
