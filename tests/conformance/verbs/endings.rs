//! How channels end: by either side, with READs under way or at once, by a process that is killed.
//! (By a host that vanishes: parts.rs.)

use super::setup::*;
use remora::fabric::verbs::{self, VerbsOptions};
use remora::fabric::{Cause, READ_BYTES_MAX};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
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
#[ignore = "needs an RDMA device: tools/soft-roce"]
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
#[ignore = "needs an RDMA device: tools/soft-roce"]
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
#[ignore = "needs an RDMA device: tools/soft-roce"]
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

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn a_primary_that_is_killed_is_noticed() {
    with_device(|_| {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "verbs::parts::exports_until_killed", "--nocapture", "--test-threads=1"])
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
