//! The leader over a model of servers, in made-up time: orders succeed, fail, or are left under
//! way; servers stand still, die and come back empty, and the leader is replaced by one that knows
//! nothing.

use super::*;

const SHARDS: usize = 4;
const SEEDS: u64 = 2_000;
const EVENTS: u32 = 60;
/// Steps of the leader, after the last fault.
const STEPS_MAX: u32 = 400;

/// One server of the model.
#[derive(Debug, Clone, Default)]
struct Server {
    is_gone: bool,
    is_silent: bool,
    own: ShardSet,
    follows: [Option<usize>; SHARDS],
    /// How far its logs have come. Positions grow with each write, so more is newer.
    positions: [u64; SHARDS],
    order: Option<Action>,
    has_failed: bool,
}

struct Model {
    random: Rng,
    servers: Vec<Server>,
    /// What one replica has besides the primary.
    acknowledged: [u64; SHARDS],
    /// Who was killed, and has not got everything since.
    lost: Option<usize>,
    writes: u64,
}

fn all() -> ShardSet {
    ShardSet::all(SHARDS)
}

impl Model {
    fn new(seed: u64) -> Model {
        let random = Rng::with_seed(seed);
        let count = if seed.is_multiple_of(2) { 3 } else { 5 };
        let mut servers = vec![Server::default(); count];
        servers[0].own = all();
        servers[1..].iter_mut().for_each(|server| server.follows = [Some(0); SHARDS]);
        Model { random, servers, acknowledged: [0; SHARDS], lost: None, writes: 0 }
    }

    fn sights(&self) -> Vec<Sight> {
        let sight = |server: &Server| {
            if server.is_gone || server.is_silent {
                return if server.is_gone { Sight::Gone } else { Sight::Silent };
            }
            let order = match (&server.order, server.has_failed) {
                (Some(_), _) => Order::Running,
                (None, true) => Order::Failed,
                (None, false) => Order::Done,
            };
            let follows = server.follows.iter().enumerate().filter(|(_, whom)| whom.is_some());
            let follows = follows.map(|(shard, whom)| (*whom, ShardSet::one(shard))).collect();
            Sight::Seen(View { own: server.own, follows, order })
        };
        self.servers.iter().map(sight).collect()
    }

    fn answers(&self, server: usize) -> bool {
        !self.servers[server].is_gone && !self.servers[server].is_silent
    }

    fn write(&mut self) {
        for primary in 0..self.servers.len() {
            if !self.answers(primary) {
                continue;
            }
            for shard in self.servers[primary].own.iter() {
                self.writes += 1;
                self.servers[primary].positions[shard] = self.writes;
                for replica in 0..self.servers.len() {
                    let follows = self.answers(replica) && self.servers[replica].follows[shard] == Some(primary);
                    if follows && self.random.bool() {
                        self.servers[replica].positions[shard] = self.writes;
                        // Who has come back counts once it has everything.
                        if self.lost != Some(replica) {
                            self.acknowledged[shard] = self.writes;
                        }
                    }
                }
            }
        }
    }

    /// What it has been told to do is done, or fails. A promotion stops whom it gathers from, and
    /// fails where one of them does not answer.
    fn carry_out(&mut self, server: usize) {
        let Some(action) = self.servers[server].order.take() else { return };
        self.servers[server].has_failed = match action {
            Action::Promote { heir, shards, gathers, takes_over } => !self.promote(heir, shards, &gathers, takes_over),
            Action::Replicate { server, primary, shards } => {
                let is_possible = self.answers(primary) && self.servers[server].own.within(shards).is_empty();
                if is_possible {
                    shards.iter().for_each(|shard| self.servers[server].follows[shard] = Some(primary));
                }
                !is_possible
            }
            Action::Wait | Action::Rest => false,
        };
    }

    fn promote(&mut self, heir: usize, shards: ShardSet, gathers: &[usize], takes_over: bool) -> bool {
        for shard in shards.iter() {
            let from = self.servers[heir].follows[shard].filter(|_| takes_over);
            let peers: Vec<usize> = gathers.iter().copied().chain(from).collect();
            let primary = (0..self.servers.len()).find(|server| self.servers[*server].own.has(shard));
            // One shard after the other: so an order may have been carried out by half.
            if !peers.iter().all(|peer| self.answers(*peer)) || takes_over && from != primary {
                return false;
            }
            let most = peers.iter().map(|peer| self.servers[*peer].positions[shard]).max().unwrap_or(0);
            for peer in peers {
                self.servers[peer].own.remove(shard);
                self.servers[peer].follows[shard] = Some(heir);
            }
            let Server { own, follows, positions, .. } = &mut self.servers[heir];
            own.insert(shard);
            (follows[shard], positions[shard]) = (None, most.max(positions[shard]));
            self.check(shard);
        }
        true
    }

    fn check(&self, shard: usize) {
        let primaries: Vec<&Server> = self.servers.iter().filter(|one| one.own.has(shard)).collect();
        assert_eq!(primaries.len(), 1, "shard {shard} has one primary: {:?}", self.servers);
        assert!(primaries[0].positions[shard] >= self.acknowledged[shard], "shard {shard} has lost something");
    }

    fn fault(&mut self) {
        let one = self.random.usize(0..self.servers.len());
        let is_lost = self.lost.is_some();
        match self.random.u8(0..5) {
            0 => self.servers[one].is_silent = true,
            1 => self.servers.iter_mut().for_each(|server| server.is_silent = false),
            2 | 3 if !is_lost => {
                self.lost = Some(one);
                self.servers[one] = Server { is_gone: true, ..Server::default() };
            }
            _ => self.come_back(),
        }
    }

    /// At the same address there is an empty process, that follows somebody.
    fn come_back(&mut self) {
        let Some(one) = self.lost.filter(|one| self.servers[*one].is_gone) else { return };
        let upstream = (one + self.random.usize(1..self.servers.len())) % self.servers.len();
        self.servers[one] = Server { follows: [Some(upstream); SHARDS], ..Server::default() };
    }
}

/// A leader, its steps, and what it is not to do at any of them.
fn step(model: &mut Model, leader: &mut Leader, now: Duration) -> Action {
    let sights = model.sights();
    let action = leader.step(now, all(), &sights);
    match &action {
        Action::Promote { heir, shards, gathers, takes_over } => {
            assert_ne!(sights[*heir], Sight::Gone);
            let seen = seen(&sights).count();
            if !takes_over {
                assert!(!sights.contains(&Sight::Silent), "a silent server may be the primary");
                assert_eq!(gathers.len() + 1, seen, "nobody who lives is left out");
                assert!(taken(&sights).within(*shards).is_empty(), "a primary that lives is not passed over");
            }
            model.servers[*heir].order = Some(action.clone());
        }
        Action::Replicate { server, .. } => model.servers[*server].order = Some(action.clone()),
        Action::Wait | Action::Rest => {}
    }
    action
}

#[test]
fn whatever_happens_each_shard_gets_a_primary_and_nothing_acknowledged_is_lost() {
    let (mut promoted, mut handed_over) = (0, 0);
    for seed in 0..SEEDS {
        let mut model = Model::new(seed);
        let mut leader = Leader::new(seed);
        let mut now = Duration::ZERO;
        for event in 0..EVENTS + STEPS_MAX {
            let is_over = event >= EVENTS;
            now += Duration::from_millis(model.random.u64(0..80));
            match model.random.u8(0..8) {
                0 if !is_over => model.fault(),
                1 if !is_over => leader = Leader::new(model.random.u64(..)),
                2 if !is_over => {
                    let shards = (0..SHARDS).filter(|_| model.random.bool()).collect();
                    leader.wish(model.random.usize(0..model.servers.len()), shards);
                }
                3..6 => {
                    let server = model.random.usize(0..model.servers.len());
                    if model.answers(server) {
                        model.carry_out(server);
                    }
                }
                _ => model.write(),
            }
            if is_over {
                model.servers.iter_mut().for_each(|server| server.is_silent = false);
                model.come_back();
            }
            match step(&mut model, &mut leader, now) {
                Action::Promote { takes_over: true, .. } => handed_over += 1,
                Action::Promote { .. } => promoted += 1,
                Action::Rest if is_over => break,
                _ => assert!(event + 1 < EVENTS + STEPS_MAX, "seed {seed}: no end: {:?}", model.servers),
            }
        }
        (0..SHARDS).for_each(|shard| model.check(shard));
    }
    assert!(promoted > 1000 && handed_over > 1000, "{promoted} promotions, {handed_over} hand-overs");
}

fn seen_as(own: &str, follows: &[(usize, &str)], order: Order) -> Sight {
    let shards = |text: &str| if text.is_empty() { ShardSet::default() } else { text.parse().expect("shards") };
    let follows = follows.iter().map(|(whom, theirs)| (Some(*whom), shards(theirs))).collect();
    Sight::Seen(View { own: shards(own), follows, order })
}

const NOW: Duration = Duration::from_secs(1);

#[test]
fn an_order_of_a_leader_before_is_waited_for() {
    let mut sights = [seen_as("", &[], Order::Running), seen_as("", &[(0, "0-3")], Order::Done)];
    let mut leader = Leader::new(1);
    (0..3).for_each(|_| assert_eq!(leader.step(NOW, all(), &sights), Action::Wait));
    sights[0] = seen_as("0-3", &[], Order::Done);
    assert_eq!(leader.step(NOW, all(), &sights), Action::Rest);
}

#[test]
fn a_role_that_changes_hands_while_it_is_looked_for_is_looked_for_again() {
    let mut leader = Leader::new(1);
    let sights = [seen_as("", &[], Order::Done), seen_as("", &[], Order::Done)];
    assert_eq!(leader.step(NOW, all(), &sights), Action::Wait);
    assert!(matches!(leader.step(NOW, all(), &sights), Action::Promote { takes_over: false, .. }));
}

#[test]
fn an_heir_that_cannot_is_not_asked_for_ever() {
    let mut leader = Leader::new(1);
    let mut asked = std::collections::BTreeSet::new();
    let mut now = NOW;
    for _ in 0..60 {
        let sights = vec![seen_as("", &[], Order::Failed); 3];
        now += PAUSE;
        if let Action::Promote { heir, shards, .. } = leader.step(now, all(), &sights) {
            asked.insert((heir, shards.to_string()));
        }
    }
    for heir in 0..3 {
        for shard in ["0", "1", "2", "3"] {
            assert!(asked.contains(&(heir, shard.into())), "server {heir} for shard {shard}: {asked:?}");
        }
    }
}

#[test]
fn a_hand_over_begins_once_the_heir_follows_the_primary() {
    let mut leader = Leader::new(1);
    let mut sights = [seen_as("0-3", &[], Order::Done), seen_as("", &[(0, "0")], Order::Done)];
    let wished: ShardSet = "0-1".parse().expect("shards");
    leader.wish(1, wished);
    let told = leader.step(NOW, all(), &sights);
    assert_eq!(told, Action::Replicate { server: 1, primary: 0, shards: "1-3".parse().expect("shards") });
    sights[1] = seen_as("", &[(0, "0-3")], Order::Done);
    let told = leader.step(NOW, all(), &sights);
    assert_eq!(told, Action::Promote { heir: 1, shards: wished, gathers: vec![], takes_over: true });
    sights = [seen_as("2-3", &[(1, "0-1")], Order::Done), seen_as("0-1", &[(0, "2-3")], Order::Done)];
    assert_eq!(leader.step(NOW, all(), &sights), Action::Rest);
    assert!(!leader.has_wish());
}
