//! The fabrics under test, and what the bodies share: regions with known words, a connected pair,
//! bounded waits.

use remora::fabric::sim::{Faults, Sim};
use remora::fabric::verbs::VerbsOptions;
use remora::fabric::{
    self, Access, Channel, Completion, ConnectOptions, Exporter, FabricError, Grant, Invitation, Kind, Read, Regions,
    Token, shm, tcp, verbs,
};
use remora::sys::memory::Memfd;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

/// No single wait is longer: a test that would hang fails instead.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// A fabric.
pub trait World {
    fn exporter(&self) -> Box<dyn Exporter>;
    fn connect(&self, invitation: &Invitation) -> Result<Box<dyn Channel>, FabricError>;
    /// Its name, if other processes can take part.
    fn name(&self) -> Option<&'static str>;
    /// Whether dropping a grant takes the memory away at once; shm says why it does not.
    fn revokes_at_once(&self) -> bool {
        true
    }
    /// Let so much time pass; where clocks are real it passes anyway.
    fn pass(&self, _time: Duration) {}
}

/// What a device must not share with other tests: what is registered with it is counted.
pub fn alone(fabric: &str) -> Option<MutexGuard<'static, ()>> {
    (fabric == "verbs").then(crate::device::alone)
}

/// A fabric with a device takes its address from the environment ([`crate::device::address`]).
pub fn by_name(name: &str) -> Box<dyn World> {
    let connect =
        |kind| Box::new(move |invitation: &Invitation| fabric::connect(kind, invitation, &ConnectOptions::default()));
    match name {
        "shm" => Box::new(Real {
            name: "shm",
            revokes_at_once: false,
            listen: Box::new(|| Box::new(shm::Exporter::listen().unwrap())),
            connect: connect(Kind::Shm),
        }),
        "tcp" => Box::new(Real {
            name: "tcp",
            revokes_at_once: true,
            listen: Box::new(|| Box::new(tcp::Exporter::listen("127.0.0.1:0".parse().unwrap()).unwrap())),
            connect: connect(Kind::Tcp),
        }),
        "verbs" => {
            let address = SocketAddr::new(crate::device::address(), 0);
            let options = VerbsOptions::default();
            Box::new(Real {
                name: "verbs",
                revokes_at_once: true,
                listen: Box::new(move || Box::new(verbs::Exporter::listen(address, &options).unwrap())),
                connect: connect(Kind::Verbs),
            })
        }
        "sim" => Box::new(Simulated(Sim::new(1, Faults::default()))),
        _ => panic!("no fabric {name}"),
    }
}

type Connect = dyn Fn(&Invitation) -> Result<Box<dyn Channel>, FabricError>;

/// A fabric between processes.
struct Real {
    name: &'static str,
    revokes_at_once: bool,
    listen: Box<dyn Fn() -> Box<dyn Exporter>>,
    connect: Box<Connect>,
}

impl World for Real {
    fn exporter(&self) -> Box<dyn Exporter> {
        (self.listen)()
    }
    fn connect(&self, invitation: &Invitation) -> Result<Box<dyn Channel>, FabricError> {
        (self.connect)(invitation)
    }
    fn name(&self) -> Option<&'static str> {
        Some(self.name)
    }
    fn revokes_at_once(&self) -> bool {
        self.revokes_at_once
    }
}

struct Simulated(Sim);

impl World for Simulated {
    fn exporter(&self) -> Box<dyn Exporter> {
        self.0.exporter()
    }
    fn connect(&self, invitation: &Invitation) -> Result<Box<dyn Channel>, FabricError> {
        self.0.connect(invitation)
    }
    fn name(&self) -> Option<&'static str> {
        None
    }
    fn pass(&self, time: Duration) {
        self.0.pass(time);
    }
}

/// Memory of a primary; regions from the number on may be written to.
pub struct Memory(Vec<Memfd>, usize);

impl Memory {
    /// Regions of these lengths in bytes, each word by [`word`].
    pub fn new(lengths: &[usize]) -> Arc<Memory> {
        Memory::open_from(lengths, lengths.len())
    }

    /// The same; regions from number `first` on may be written to by peers.
    pub fn open_from(lengths: &[usize], first: usize) -> Arc<Memory> {
        let memfd = |(number, bytes): (usize, &usize)| match number >= first {
            true => Memfd::for_writers("remora-test", *bytes).unwrap(),
            false => Memfd::new("remora-test", *bytes, false).unwrap(),
        };
        let memory = Memory(lengths.iter().enumerate().map(memfd).collect(), first);
        for region in 0..lengths.len() {
            memory.fill(region, |at| word(region, at));
        }
        Arc::new(memory)
    }

    pub fn fill(&self, region: usize, word: impl Fn(usize) -> u64) {
        self.0[region].words().iter().enumerate().for_each(|(at, to)| to.store(word(at), Relaxed));
    }
}

impl Regions for Memory {
    fn count(&self) -> usize {
        self.0.len()
    }
    fn memory(&self, number: usize) -> &Memfd {
        &self.0[number]
    }
    fn access(&self, number: usize) -> Access {
        if number >= self.1 { Access::Write } else { Access::Read }
    }
}

/// What stands at word `at` of region `region`; never [`NEW`].
pub fn word(region: usize, at: usize) -> u64 {
    (((region as u64) << 40) + at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) & !1
}

/// What a primary writes where it must not be seen.
pub const NEW: u64 = u64::MAX;

pub fn token() -> Token {
    Token(std::array::from_fn(|_| fastrand::u8(..)))
}

/// A primary's and a replica's end. The channel goes first, the exporter last.
pub struct Pair {
    pub channel: Box<dyn Channel>,
    pub grant: Box<dyn Grant>,
}

impl Pair {
    pub fn new(world: &dyn World, exporter: &dyn Exporter, memory: Arc<Memory>) -> Pair {
        let token = token();
        let mut grant = exporter.grant(token, memory).unwrap();
        let channel = world.connect(&Invitation::new(exporter, token, grant.as_ref())).unwrap();
        until("the primary knows of the channel", || grant.state().unwrap() == remora::fabric::GrantState::Connected);
        Pair { channel, grant }
    }
}

/// A READ with a landing of its own.
pub fn read(channel: &mut dyn Channel, region: u32, offset: u64, bytes: usize, tag: u64) -> Read {
    let landing = channel.landing(bytes.next_multiple_of(4096).max(4096)).unwrap();
    Read { region, offset, bytes, landing, tag }
}

/// Wait until `so`.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + WAIT_MAX;
    while !so() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// The next `count` completions, whatever their outcome.
pub fn completions(channel: &mut dyn Channel, count: usize) -> Vec<Completion> {
    let mut done = Vec::new();
    until("all READs are done", || {
        let before = done.len();
        let said = channel.poll(&mut done, Duration::from_millis(20)).unwrap();
        assert_eq!(done.len(), before + said);
        done.len() >= count
    });
    assert_eq!(done.len(), count);
    done
}

/// One READ that must succeed, and its words.
pub fn read_now(channel: &mut dyn Channel, region: u32, offset: u64, bytes: usize) -> Vec<u64> {
    let read = read(channel, region, offset, bytes, 77);
    channel.submit(&mut vec![read]).unwrap();
    let done = completions(channel, 1).remove(0);
    assert_eq!((done.tag, done.outcome), (77, Ok(())));
    done.landing.words(bytes).iter().map(|word| word.load(Relaxed)).collect()
}

/// Check that the pair works.
pub fn works(pair: &mut Pair) {
    assert_eq!(read_now(pair.channel.as_mut(), 0, 8, 16), [word(0, 1), word(0, 2)]);
}

/// Poll until the channel says that it is over; gives what came back before, and why.
pub fn until_over(channel: &mut dyn Channel) -> (Vec<Completion>, FabricError) {
    let mut done = Vec::new();
    let mut why = None;
    until("the channel is over", || {
        why = channel.poll(&mut done, Duration::from_millis(20)).err();
        why.is_some()
    });
    (done, why.unwrap())
}

/// Wait until the primary's side knows that the channel is over.
pub fn until_grant_over(grant: &mut dyn Grant) -> FabricError {
    let mut why = None;
    until("the grant is over", || {
        why = grant.state().err();
        why.is_some()
    });
    why.unwrap()
}
