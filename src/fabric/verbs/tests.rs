//! What tests from outside cannot see: a device that takes no WRITE inline, and refusals in words.
//! The first needs a device: see tests/conformance/verbs.rs.

use super::connecting::{Wish, establish};
use super::native::FailedCall;
use super::{AckTimeout, Exporter, VerbsOptions, registrations};
use crate::fabric::{
    ACK_BYTES, Cause, Channel, DEPTH_MAX, Exporter as _, FabricError, Invitation, Landing, Read, Regions, Token,
};
use crate::sys::memory::Memfd;
use crate::sys::sync::Ordering::Relaxed;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct One(Memfd);

impl Regions for One {
    fn count(&self) -> usize {
        1
    }
    fn memory(&self, _: usize) -> &Memfd {
        &self.0
    }
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn writes_that_are_not_taken_inline_go_by_a_buffer() {
    let address = std::env::var("REMORA_TEST_VERBS").expect("REMORA_TEST_VERBS is the address of an RDMA device");
    let address = std::net::SocketAddr::new(address.parse().unwrap(), 0);
    let exporter = Exporter::listen(address, &VerbsOptions::default()).unwrap();
    let regions = Arc::new(One(Memfd::new("test", 4096, false).unwrap()));
    let grant = exporter.grant(Token([1; 16]), regions).unwrap();
    let invited = Invitation::new(&exporter, Token([1; 16]), &*grant);
    let wish = Wish { inline_bytes: 0, ..Wish::default() };
    let mut channel = establish(&invited, &VerbsOptions::default(), wish, None).unwrap();
    assert_eq!(registrations(), 2, "a region, an ack slot");
    for n in 1..=100 {
        for (offset, words) in [(64, 8), (0, ACK_BYTES / 8)] {
            while !channel.write_ack(offset, &vec![n; words]).unwrap() {
                channel.poll(&mut Vec::new(), Duration::from_millis(1)).unwrap();
            }
        }
    }
    assert_eq!(registrations(), 3, "a region, an ack slot, one buffer");
    let begun = Instant::now();
    while !grant.ack().words().iter().all(|word| word.load(Relaxed) == 100) {
        channel.poll(&mut Vec::new(), Duration::from_millis(10)).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(60), "the last WRITE must arrive");
    }
    drop(channel);
    drop(grant);
    assert_eq!(registrations(), 0);
}

#[test]
fn a_timeout_is_the_shortest_that_is_long_enough() {
    let exponent = |milliseconds| AckTimeout::at_least(milliseconds).exponent();
    assert_eq!(AckTimeout::default().exponent(), 16, "268 ms");
    assert_eq!((exponent(0), exponent(1), exponent(2)), (8, 8, 9));
    assert_eq!((exponent(268), exponent(269)), (16, 17));
    assert_eq!((exponent(AckTimeout::MILLISECONDS_MAX), exponent(u32::MAX)), (23, 23));
}

/// A peer that takes one READ at a time is sent one at a time, and all come back, in their order;
/// those that were never sent come back as well.
#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn reads_beyond_what_the_peer_takes_wait() {
    let address = std::env::var("REMORA_TEST_VERBS").expect("REMORA_TEST_VERBS is the address of an RDMA device");
    let address = std::net::SocketAddr::new(address.parse().unwrap(), 0);
    let exporter = Exporter::listen(address, &VerbsOptions::default()).unwrap();
    let memfd = Memfd::new("test", 1 << 20, false).unwrap();
    memfd.words().iter().zip(0..).for_each(|(word, number)| word.store(number, Relaxed));
    let grant = exporter.grant(Token([2; 16]), Arc::new(One(memfd))).unwrap();
    let invited = Invitation::new(&exporter, Token([2; 16]), &*grant);
    let wish = Wish { reads: 1, ..Wish::default() };
    let mut channel = establish(&invited, &VerbsOptions::default(), wish, None).unwrap();
    assert_eq!(channel.depth_max(), DEPTH_MAX);
    let mut landings: Vec<_> = (0..DEPTH_MAX).map(|_| channel.landing(1 << 16).unwrap()).collect();
    let read = |landing: Landing, tag: u64| Read { region: 0, offset: tag * 8, bytes: 1 << 16, landing, tag };
    channel.submit(&mut landings.drain(..).zip(0..).map(|(landing, tag)| read(landing, tag)).collect()).unwrap();
    let (mut done, begun) = (Vec::new(), Instant::now());
    while done.len() < DEPTH_MAX {
        channel.poll(&mut done, Duration::from_millis(100)).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(60), "{} of {DEPTH_MAX} came back", done.len());
    }
    for (number, completion) in done.iter().enumerate() {
        assert_eq!((completion.tag, &completion.outcome), (number as u64, &Ok(())));
        assert_eq!(completion.landing.words(8)[0].load(Relaxed), number as u64);
    }
    let again = done.drain(..).map(|completion| read(completion.landing, completion.tag));
    channel.submit(&mut again.collect()).unwrap();
    drop(grant);
    while channel.poll(&mut done, Duration::from_millis(100)).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the channel is over");
    }
    assert_eq!(done.len(), DEPTH_MAX, "each READ comes back");
    drop((channel, done));
    assert_eq!(registrations(), 0);
}

#[test]
fn refusals_say_what_helps() {
    let error = |doing, errno| FabricError::from(FailedCall { doing, errno });
    let memory = error("register memory", libc::ENOMEM);
    assert_eq!(memory.cause, Cause::System);
    assert!(memory.what.contains("ulimit -l") && memory.what.contains("LimitMEMLOCK"), "{memory}");
    assert!(!error("create a queue pair", libc::ENOMEM).what.contains("ulimit"), "another kind of memory");
    let forbidden = error("open RDMA CM", libc::EACCES);
    assert_eq!(forbidden.cause, Cause::Unsupported);
    assert!(forbidden.what.contains("/dev/infiniband"), "{forbidden}");
    assert_eq!(error("connect", libc::ECONNREFUSED).cause, Cause::Refused);
}
