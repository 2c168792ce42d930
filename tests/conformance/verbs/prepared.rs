//! Regions that are registered ahead, once for all replicas.

use super::setup::*;
use remora::fabric::verbs::{self, VerbsOptions};
use remora::fabric::{Cause, Channel, Exporter as _, Grant, Invitation, READ_BYTES_MAX, Readiness, Regions};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// An exporter at `address` that has `memory` ready.
fn prepared(address: IpAddr, memory: &Arc<Memory>) -> (verbs::Exporter, Arc<dyn Regions>) {
    let (mut exporter, regions) = (exporter(address), memory.clone() as Arc<dyn Regions>);
    exporter.prepare(&regions).unwrap();
    wait_for("ready", || match exporter.readiness() {
        Readiness::Ready => true,
        Readiness::Registering { done_bytes, bytes } => {
            assert!(done_bytes <= bytes);
            false
        }
        Readiness::Failed(error) => panic!("{error}"),
    });
    (exporter, regions)
}

/// One of several replicas of an exporter.
fn replica(exporter: &verbs::Exporter, regions: &Arc<dyn Regions>, number: u8) -> (Box<dyn Channel>, Box<dyn Grant>) {
    let grant = exporter.grant(token(number), regions.clone()).unwrap();
    let invited = Invitation::new(exporter, token(number), &*grant);
    (verbs::connect(&invited, &VerbsOptions::default()).unwrap(), grant)
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn replicas_share_one_registration() {
    with_device(|address| {
        let memory = Memory::new(&[4096, 1 << 20, 1 << 20]);
        let (exporter, regions) = prepared(address, &memory);
        assert_eq!(verbs::registrations(), 3, "the regions");
        let mut replicas: Vec<_> = (1..=3).map(|number| replica(&exporter, &regions, number)).collect();
        assert_eq!(verbs::registrations(), 3 + 3, "and an ack slot for each");
        for (channel, _) in &mut replicas {
            let landing = channel.landing(1 << 20).unwrap();
            channel.submit(&mut vec![read(2, 0, 1 << 20, landing, 0)]).unwrap();
            let done = poll_some(&mut **channel).pop().unwrap();
            done.outcome.unwrap();
            memory.check(2, 0, done.landing.words(1 << 20));
        }
        drop(replicas);
        assert_eq!(verbs::registrations(), 3, "the regions stay, for those who come later");
        drop(replica(&exporter, &regions, 4));
    });
}

/// Access ends with the queue pair, though the registration stays: no later byte comes through, and
/// the others go on.
#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn a_replica_that_is_dropped_reads_no_later_byte_and_others_read_on() {
    with_device(|address| {
        let memory = Memory::new(&[READ_BYTES_MAX]);
        let (exporter, regions) = prepared(address, &memory);
        let (mut dropped, grant) = replica(&exporter, &regions, 1);
        let (mut stays, _grant) = replica(&exporter, &regions, 2);
        let mut batch = Vec::new();
        for tag in 0..dropped.depth_max() as u64 {
            batch.push(read(0, 0, READ_BYTES_MAX, dropped.landing(READ_BYTES_MAX).unwrap(), tag));
        }
        dropped.submit(&mut batch).unwrap();
        drop(grant);
        memory.words(0).iter().for_each(|word| word.store(LATER, Relaxed));
        let mut done = Vec::new();
        let ended = wait_for_error(|| dropped.poll(&mut done, Duration::from_millis(100)).err());
        assert!(matches!(ended.cause, Cause::Closed | Cause::TimedOut | Cause::Access), "{ended}");
        for completion in &done {
            let words = completion.landing.words(READ_BYTES_MAX);
            assert!(words.iter().all(|word| word.load(Relaxed) != LATER), "a later byte came through");
        }
        let landing = stays.landing(4096).unwrap();
        stays.submit(&mut vec![read(0, 0, 4096, landing, 0)]).unwrap();
        let read_on = poll_some(&mut *stays).pop().unwrap();
        read_on.outcome.unwrap();
        assert!(read_on.landing.words(4096).iter().all(|word| word.load(Relaxed) == LATER));
    });
}

/// Who pushes sends from what is registered, and registers nothing again.
#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn a_writer_sends_from_what_is_registered_already() {
    with_device(|address| {
        let memory = Memory::new(&[4096, 8192]);
        let (primary, regions) = prepared(address, &memory);
        let inbox = exporter(address);
        let grant = inbox.grant(token(1), Memory::new(&[4096])).unwrap();
        let before = verbs::registrations();
        let writer = primary.writer().expect("verbs writes");
        let mut channel = writer.connect(&Invitation::new(&inbox, token(1), &*grant), regions).unwrap();
        assert_eq!(verbs::registrations(), before);
        let landing = channel.landing(4096).unwrap();
        channel.submit(&mut vec![read(0, 0, 4096, landing, 0)]).unwrap();
        poll_some(&mut *channel).pop().unwrap().outcome.unwrap();
    });
}

/// What was not prepared has a domain of its own: it is not reached by who was granted what was.
#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn what_was_granted_alone_is_not_reached_by_others() {
    with_device(|address| {
        let (exporter, regions) = prepared(address, &Memory::new(&[4096]));
        let alone = exporter.grant(token(1), Memory::new(&[4096])).unwrap();
        let grant = exporter.grant(token(2), regions.clone()).unwrap();
        let mut invited = Invitation::new(&exporter, token(2), &*grant);
        invited.regions = alone.descriptors().to_vec();
        let mut channel = verbs::connect(&invited, &VerbsOptions::default()).unwrap();
        let landing = channel.landing(4096).unwrap();
        channel.submit(&mut vec![read(0, 0, 4096, landing, 1)]).unwrap();
        let done = poll_some(&mut *channel).pop().unwrap();
        assert_eq!(done.outcome.unwrap_err().cause, Cause::Access);
        assert!(done.landing.words(4096).iter().all(|word| word.load(Relaxed) == 0));
    });
}
