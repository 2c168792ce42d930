//! A replica's pullers on the simulated fabric, and the primary's ends of their channels: grants
//! whose memory is read, or a pusher that writes.

use crate::clock;
use crate::pullers::{End, Pullers};
use fastrand::Rng;
use remora::fabric::sim::{Faults, Sim};
use remora::fabric::{Channel, Exporter, Grant, Invitation, Regions, Token};
use remora::replication::ack::{AckSlots, Summary, Tag};
use remora::replication::copying::CopyBound;
use remora::replication::pull::{PullError, Puller, Step};
use remora::replication::push::inbox::Inbox;
use remora::replication::push::layout::Layout;
use remora::replication::push::pusher::Pusher;
use remora::replication::shares::Shares;
use remora::replication::wire::{TERMS_TOLD_MAX, Wanted};
use remora::store::{Geometry, History, Memory, Store};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Silence of a primary, in simulated time, before it counts as gone.
pub const SILENCE_MAX: Duration = Duration::from_millis(5);

/// What replicas see of a primary.
#[derive(Clone)]
pub struct Offered {
    pub regions: Arc<dyn Regions>,
    pub histories: Vec<History>,
    pub geometry: Geometry,
    pub memory: Memory,
}

impl Offered {
    pub fn of(primary: &Arc<Store>) -> Offered {
        let regions = remora::replication::regions::of(primary);
        let histories = primary.histories().iter().map(|history| history.within(TERMS_TOLD_MAX)).collect();
        Offered { regions, histories, geometry: primary.geometry(), memory: primary.memory() }
    }

    /// What is told of a shard's log, if anything is.
    fn history(&self, shard: usize) -> History {
        self.histories.get(shard).cloned().unwrap_or(History::NONE)
    }
}

/// Where sessions are made.
pub struct Network {
    sim: Sim,
    exporter: Box<dyn Exporter>,
    tokens: u128,
    /// Sessions are pushed to, from now on.
    pub push: bool,
    /// So many pull, or one for each shard.
    pub pullers: usize,
    /// The lanes of sessions come and go, from now on.
    pub lanes_come_and_go: bool,
    /// How fast sessions copy.
    pub copy_bound: Arc<CopyBound>,
}

/// The primary's end.
enum Far {
    Granted {
        _grants: Vec<Box<dyn Grant>>,
    },
    /// It takes steps in turn with the replica, some more, some less.
    Pushes(Box<Pusher>, Rng),
}

/// The channels are dropped before the grants.
pub struct Session<'s> {
    replica: &'s Store,
    pub puller: Pullers<'s>,
    far: Far,
    acks: AckSlots,
    histories: Vec<History>,
    /// What goes wrong on it.
    pub faults: Faults,
    /// By which its lanes come and go, if they do.
    pub comes_and_goes: Option<Rng>,
}

impl Network {
    pub fn new(seed: u64) -> Network {
        let sim = Sim::new(seed, Faults::default());
        Network {
            exporter: sim.exporter(),
            sim,
            tokens: 0,
            push: false,
            pullers: 1,
            lanes_come_and_go: false,
            copy_bound: Arc::default(),
        }
    }

    /// As replication does it after each admission.
    pub fn connect<'s>(&mut self, offered: &Offered, replica: &'s Store, faults: &Faults) -> Session<'s> {
        self.sim.set_faults(faults.clone());
        if self.push {
            return self.connect_pusher(offered, replica, faults);
        }
        let shards = replica.shards().len();
        let pullers = self.pullers.min(shards);
        let shares = Shares::new(shards, pullers);
        let (mut grants, mut channels) = (Vec::new(), Vec::new());
        for _ in 0..pullers {
            let token = self.token();
            let grant = self.exporter.grant(token, offered.regions.clone()).expect("few grants wait");
            let invitation = Invitation::new(&*self.exporter, token, &*grant);
            channels.push(self.sim.connect(&invitation).expect("the token is known"));
            grants.push(grant);
        }
        let acks = AckSlots::new(grants.iter().map(|grant| grant.ack().clone()), shards);
        let tag = subscribe(&acks, shares);
        let channels = channels.into_iter().enumerate();
        let pull = |(number, channel)| {
            let mut puller = puller(channel, offered, replica, shares.of(number), tag);
            puller.set_copy_bound(self.copy_bound.clone());
            puller
        };
        let pullers = channels.map(pull).collect();
        let puller = Pullers::new(pullers, shards, self.tokens as u64);
        self.session(replica, puller, Far::Granted { _grants: grants }, acks, offered, faults)
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens.to_le_bytes())
    }

    fn connect_pusher<'s>(&mut self, offered: &Offered, replica: &'s Store, faults: &Faults) -> Session<'s> {
        let (geometry, memory, token) = (offered.geometry, offered.memory, self.token());
        // Of all lengths, most of them far less than a shard: a few records, or not even one.
        let mut random = Rng::with_seed(self.tokens as u64);
        let window_bytes =
            [u64::from(memory.slabs / geometry.shards) * geometry.slab_bytes, 16 << 10, 4096, 1000][random.usize(0..4)];
        let layout = Layout::told(&geometry, &memory, window_bytes).expect("a layout that can be");
        let granted = Inbox::grant(self.sim.exporter(), token, geometry, memory, layout);
        let (inbox, invite) = granted.expect("few grants wait");
        assert_eq!(Layout::told(&geometry, &memory, invite.window_bytes), Some(layout));
        let (writer, regions) = (self.exporter.writer().expect("the simulation writes"), offered.regions.clone());
        let pusher = Pusher::connect(writer, &invite.invitation, regions, (geometry, memory), layout, SILENCE_MAX);
        let mut pusher = pusher.expect("the token is known");
        pusher.set_clock(clock::now);
        let shards = replica.shards().len();
        let acks = AckSlots::new([pusher.ack().clone()], shards);
        let tag = subscribe(&acks, Shares::new(shards, 1));
        let puller = puller(Box::new(inbox), offered, replica, 0..shards, tag);
        let puller = Pullers::new(vec![puller], shards, self.tokens as u64);
        self.session(replica, puller, Far::Pushes(Box::new(pusher), random), acks, offered, faults)
    }

    fn session<'s>(
        &self,
        replica: &'s Store,
        puller: Pullers<'s>,
        far: Far,
        acks: AckSlots,
        offered: &Offered,
        faults: &Faults,
    ) -> Session<'s> {
        let comes_and_goes = self.lanes_come_and_go.then(|| Rng::with_seed(self.tokens as u64));
        Session {
            replica,
            puller,
            far,
            acks,
            histories: offered.histories.clone(),
            faults: faults.clone(),
            comes_and_goes,
        }
    }
}

/// To all shards, for the first time. Returns the tag of each.
fn subscribe(acks: &AckSlots, shares: Shares) -> Tag {
    let tags = shares.wanted().into_iter().map(|one| acks.subscribe(one).expect("it is there"));
    assert!(tags.eq(vec![Tag::FIRST; shares.wanted().len()]));
    Tag::FIRST
}

fn puller<'s>(
    channel: Box<dyn Channel>,
    offered: &Offered,
    replica: &'s Store,
    share: Range<usize>,
    tag: Tag,
) -> Puller<'s> {
    let mut puller = Puller::new(channel, offered.geometry, share.clone(), offered.memory, SILENCE_MAX);
    puller.set_clock(clock::now);
    for shard in share {
        let follower = replica.follower(shard).expect("nobody else follows");
        puller.add(shard, follower, offered.history(shard), tag);
    }
    puller
}

impl Session<'_> {
    /// One step, and what the primary sees of it: nothing that is not so. A lane that ends ends it.
    pub fn step(&mut self) -> Result<Step, End> {
        let step = self.step_on()?;
        match self.puller.ended().next() {
            Some((_, why)) => Err(why.clone().into()),
            None => Ok(step),
        }
    }

    /// The same, but lanes that end leave the others going on.
    pub fn step_on(&mut self) -> Result<Step, PullError> {
        if let Some(random) = &mut self.comes_and_goes {
            let shard = random.usize(0..self.replica.shards().len());
            match (self.puller.dropped().contains(&shard), random.u8(0..20)) {
                (false, 0) => self.puller.drop_lane(shard),
                // Another one comes before its READs are back.
                (false, 1) => {
                    self.puller.drop_lane(shard);
                    self.add_again(shard);
                }
                (true, 0..6) => self.add_again(shard),
                _ => {}
            }
        }
        if let Far::Pushes(pusher, random) = &mut self.far {
            for _ in 0..random.u32(0..4) {
                pusher.step(Duration::ZERO)?;
            }
        }
        let stepped = self.puller.step(Duration::ZERO);
        for (shard, mine) in self.replica.shards().iter().enumerate() {
            let (told, cursor) = (self.acks.applied(shard), mine.control().committed());
            assert!(told <= cursor, "shard {shard}: {told} is told, {cursor} is applied");
        }
        stepped
    }

    /// A shard that was dropped has a lane again.
    pub fn add_again(&mut self, shard: usize) {
        let follower = self.replica.follower(shard).expect("its lane was dropped");
        let puller = self.puller.owner(shard);
        let tag = self.acks.subscribe(Wanted::new(shard, puller)).expect("it is there");
        self.puller.add_again(shard, follower, self.histories.get(shard).cloned().unwrap_or(History::NONE), tag);
    }

    /// From now on every shard has its lane.
    pub fn keep_lanes(&mut self) {
        self.comes_and_goes = None;
        self.puller.dropped().into_iter().for_each(|shard| self.add_again(shard));
    }

    pub fn acked(&self, shard: usize) -> u64 {
        self.acks.acknowledged(shard)
    }

    /// Where the replica says that it is, whole or not.
    pub fn told(&self, shard: usize) -> u64 {
        self.acks.applied(shard)
    }

    pub fn summary(&self) -> Summary {
        self.acks.summary()
    }
}
