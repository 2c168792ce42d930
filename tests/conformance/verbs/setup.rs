//! What the tests of the verbs fabric share: the device, memory with a pattern, a connected pair,
//! waits with a bound.

use crate::device;
use remora::fabric::verbs::{self, Exporter, VerbsOptions};
use remora::fabric::{
    Channel, Completion, Descriptor, Exporter as _, FabricError, Grant, Invitation, Landing, Read, Regions, Token,
};
use remora::sys::memory::Memfd;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Nothing may take longer, even under emulation.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// No word of the pattern.
pub const LATER: u64 = u64::MAX - 1;

/// Run `test`, alone; nothing may be left registered after it.
pub fn with_device(test: impl FnOnce(IpAddr)) {
    let _alone = device::alone();
    test(device::address());
    assert_eq!(verbs::registrations(), 0, "nothing is left registered");
}

/// Regions of 8-byte words, each of which says where it is.
pub struct Memory(Vec<Memfd>);

fn pattern(region: u32, word: u64) -> u64 {
    (u64::from(region) + 1) << 48 | word
}

impl Memory {
    pub fn new(bytes: &[usize]) -> Arc<Memory> {
        let memfds: Vec<Memfd> = bytes.iter().map(|bytes| Memfd::new("test", *bytes, false).unwrap()).collect();
        for (memfd, region) in memfds.iter().zip(0..) {
            memfd.words().iter().zip(0..).for_each(|(word, at)| word.store(pattern(region, at), Relaxed));
        }
        Arc::new(Memory(memfds))
    }

    pub fn words(&self, region: usize) -> &[AtomicU64] {
        self.0[region].words()
    }

    /// `words` are what was in `region` from byte `offset` on.
    pub fn check(&self, region: u32, offset: u64, words: &[AtomicU64]) {
        for (word, at) in words.iter().zip(offset / 8..) {
            assert_eq!(word.load(Relaxed), pattern(region, at), "region {region}, word {at}");
        }
    }
}

impl Regions for Memory {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn memory(&self, number: usize) -> &Memfd {
        &self.0[number]
    }
}

pub fn token(number: u8) -> Token {
    Token([number; 16])
}

pub fn exporter(address: IpAddr) -> Exporter {
    Exporter::listen(SocketAddr::new(address, 0), &VerbsOptions::default()).unwrap()
}

/// Two ends. Fields go in this order, which is also that of a replica that leaves before its
/// primary.
pub struct Pair {
    pub channel: Box<dyn Channel>,
    pub grant: Box<dyn Grant>,
    pub exporter: Exporter,
    pub memory: Arc<Memory>,
}

pub fn connected(address: IpAddr, region_bytes: &[usize]) -> Pair {
    let memory = Memory::new(region_bytes);
    let exporter = exporter(address);
    let grant = exporter.grant(token(9), memory.clone()).unwrap();
    let channel = verbs::connect(&Invitation::new(&exporter, token(9), &*grant), &VerbsOptions::default()).unwrap();
    Pair { channel, grant, exporter, memory }
}

pub fn read(region: u32, offset: u64, bytes: usize, landing: Landing, tag: u64) -> Read {
    Read { region, offset, bytes, landing, tag }
}

/// At least one completion, from a channel that stands.
pub fn poll_some(channel: &mut dyn Channel) -> Vec<Completion> {
    let mut done = Vec::new();
    let begun = Instant::now();
    while done.is_empty() {
        channel.poll(&mut done, Duration::from_secs(1)).unwrap();
        assert!(begun.elapsed() < WAIT_MAX, "no completion");
    }
    done
}

pub fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !happened() {
        assert!(begun.elapsed() < WAIT_MAX, "{what}: not within {WAIT_MAX:?}");
        std::thread::yield_now();
    }
}

pub fn wait_for_error(mut look: impl FnMut() -> Option<FabricError>) -> FabricError {
    let mut error = None;
    wait_for("an error", || {
        error = look();
        error.is_some()
    });
    error.unwrap()
}

/// An invitation with one region, as a line for another process.
pub fn spell(invited: &Invitation) -> String {
    let Descriptor { address, key, bytes } = invited.regions[0];
    let (ack, ack_key) = (invited.ack.address, invited.ack.key);
    format!("\ninvitation {} {address} {key} {bytes} {ack} {ack_key}", invited.address)
}

/// What the other process spelled, with token 1.
pub fn unspell(line: &str) -> Option<Invitation> {
    let (at, numbers) = line.strip_prefix("invitation ")?.split_once(' ')?;
    let numbers: Vec<u64> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
    let &[address, key, bytes, ack, ack_key] = &numbers[..] else { panic!("five numbers: {line}") };
    Some(Invitation {
        address: at.into(),
        token: token(1),
        regions: vec![Descriptor { address, key, bytes }],
        ack: Descriptor { address: ack, key: ack_key, bytes: 4096 },
    })
}
