//! Fabrics that fail: the next one is used, the one that failed is not asked again for ever, and it
//! is used again once it works. Within this process, where a fabric fails when it is told to.

use super::within::{follow_config, store};
use crate::node::LONG;
use remora::base::shards::ShardSet;
use remora::fabric::{
    Cause, ConnectOptions, Descriptor, Exporter, FabricError, Grant, GrantState, Kind, Regions, Token, listen,
};
use remora::replication::board::Board;
use remora::replication::follow::{FollowConfig, Following};
use remora::replication::offer::{Offer, OfferConfig, Running};
use remora::replication::penalties::SharedPenalties;
use remora::replication::report::Report;
use remora::replication::secret::Secret;
use remora::replication::standing::Chain;
use remora::sys::memory::Memfd;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How shared memory behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Works,
    /// No grant: what is needed for one is not to be had.
    Fails,
    /// No grant for now.
    NotYet,
    /// Grants are given, and the primary sees their channels fail.
    Breaks,
    /// The first so many grants are given.
    Scarce(u32),
}

#[derive(Default, Clone)]
struct Moody(Arc<Mutex<Told>>);

struct Told {
    mood: Mood,
    asked: u32,
}

impl Default for Told {
    fn default() -> Told {
        Told { mood: Mood::Works, asked: 0 }
    }
}

impl Moody {
    fn set(&self, mood: Mood) {
        self.0.lock().unwrap().mood = mood;
    }

    fn mood(&self) -> Mood {
        self.0.lock().unwrap().mood
    }

    fn asked(&self) -> u32 {
        self.0.lock().unwrap().asked
    }
}

/// Shared memory that obeys.
struct MoodyExporter(Box<dyn Exporter>, Moody);
struct MoodyGrant(Box<dyn Grant>, Moody);

fn failure(cause: Cause) -> FabricError {
    FabricError::new(Kind::Shm, cause, "as it was told")
}

impl Exporter for MoodyExporter {
    fn kind(&self) -> Kind {
        self.0.kind()
    }
    fn address(&self) -> String {
        self.0.address()
    }
    fn grant(&self, token: Token, regions: Arc<dyn Regions>) -> Result<Box<dyn Grant>, FabricError> {
        self.1.0.lock().unwrap().asked += 1;
        match self.1.mood() {
            Mood::Scarce(most) if self.1.asked() > most => Err(failure(Cause::System)),
            Mood::Fails => Err(failure(Cause::System)),
            Mood::NotYet => Err(failure(Cause::NotYet)),
            Mood::Works | Mood::Breaks | Mood::Scarce(_) => {
                Ok(Box::new(MoodyGrant(self.0.grant(token, regions)?, self.1.clone())))
            }
        }
    }
}

impl Grant for MoodyGrant {
    fn descriptors(&self) -> &[Descriptor] {
        self.0.descriptors()
    }
    fn ack(&self) -> &Arc<Memfd> {
        self.0.ack()
    }
    fn ack_descriptor(&self) -> Descriptor {
        self.0.ack_descriptor()
    }
    fn state(&mut self) -> Result<GrantState, FabricError> {
        if self.1.mood() == Mood::Breaks { Err(failure(Cause::Access)) } else { self.0.state() }
    }
}

fn offer(shm: &Moody) -> Running {
    let at: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let open = |kind| listen(kind, at, &ConnectOptions::default()).expect("shm and tcp are everywhere");
    let config = OfferConfig {
        listen: at,
        secret: Secret::none(),
        exporters: vec![Box::new(MoodyExporter(open(Kind::Shm), shm.clone())), open(Kind::Tcp)],
        clients: Some("127.0.0.1:7".parse().expect("an address")),
        silence_max: LONG,
        board: Arc::<Board>::default(),
        chain: Arc::new(Chain::new([1; 16])),
    };
    Offer::start(store(), config).expect("a port on loopback")
}

fn follow(primary: &Running, fabrics: &[Kind]) -> Following {
    follow_with(primary, fabrics, 1)
}

fn follow_with(primary: &Running, fabrics: &[Kind], pullers: usize) -> Following {
    let config = FollowConfig {
        pullers,
        fabrics: fabrics.to_vec(),
        penalties: SharedPenalties::default(),
        ..follow_config(primary.offer().address())
    };
    let store = store();
    Following::start(config, None, ShardSet::all(2), store).expect("a thread")
}

fn rows(following: &Following) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    following.follow().rows(&mut |name, value| drop(rows.insert(name.to_string(), value.to_string())));
    rows
}

/// Wait until `it` is so, and return the rows of then.
fn wait_until(following: &Following, it: impl Fn(&BTreeMap<String, String>) -> bool) -> BTreeMap<String, String> {
    let until = Instant::now() + LONG;
    loop {
        let rows = rows(following);
        if it(&rows) {
            return rows;
        }
        assert!(Instant::now() < until, "not within {LONG:?}: {rows:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn follows_over(fabric: &'static str) -> impl Fn(&BTreeMap<String, String>) -> bool {
    move |rows| rows["state"] == "following" && rows["fabric"].starts_with(fabric)
}

const BOTH: [Kind; 2] = [Kind::Shm, Kind::Tcp];

#[test]
fn a_grant_that_fails_leads_to_the_next_fabric_and_back_once_it_works() {
    let shm = Moody::default();
    shm.set(Mood::Fails);
    let primary = offer(&shm);
    let following = follow(&primary, &BOTH);
    let rows = wait_until(&following, follows_over("tcp "));
    assert_eq!((rows["penalty_shm_failures"].as_str(), shm.asked()), ("1", 1), "{rows:?}");
    assert!(rows["penalty_shm_reason"].contains("as it was told"), "{rows:?}");
    assert!(rows["fabric"].contains("as it was told") && rows["failed_tries"] == "0", "{rows:?}");
    // When its penalty has ended it is asked again, and has a longer one.
    let rows = wait_until(&following, |rows| rows["penalty_shm_failures"] == "2" && follows_over("tcp ")(rows));
    assert_eq!((shm.asked(), rows["sessions"].as_str()), (2, "2"), "not in between: {rows:?}");
    assert!(rows["penalty_shm_seconds"].parse::<u64>().unwrap() >= 6, "{rows:?}");
    shm.set(Mood::Works);
    let rows = wait_until(&following, follows_over("shm "));
    assert_eq!(rows["penalty_shm_failures"], "2", "it is not forgiven yet: {rows:?}");
    assert_eq!(rows["failed_tries"], "0", "no session has failed: {rows:?}");
}

#[test]
fn a_fabric_that_is_not_ready_is_used_once_it_is() {
    let shm = Moody::default();
    shm.set(Mood::NotYet);
    let primary = offer(&shm);
    let following = follow(&primary, &BOTH);
    let rows = wait_until(&following, follows_over("tcp "));
    assert_eq!(rows["penalty_shm_failures"], "0", "{rows:?}");
    shm.set(Mood::Works);
    wait_until(&following, follows_over("shm "));
    assert_eq!(shm.asked(), 2);
}

#[test]
fn who_wants_no_other_fabric_waits_until_it_is_ready() {
    let shm = Moody::default();
    shm.set(Mood::NotYet);
    let primary = offer(&shm);
    let following = follow(&primary, &[Kind::Shm]);
    let rows = wait_until(&following, |rows| rows["failed_tries"].parse::<u32>().unwrap() >= 3);
    assert!(rows["trouble"].contains("no fabric can be used yet") && rows["state"] == "connecting", "{rows:?}");
    shm.set(Mood::Works);
    wait_until(&following, follows_over("shm "));
}

#[test]
fn a_channel_that_fails_under_a_primary_that_goes_on_leads_to_the_next_fabric() {
    let shm = Moody::default();
    let primary = offer(&shm);
    let following = follow(&primary, &BOTH);
    wait_until(&following, follows_over("shm "));
    shm.set(Mood::Breaks);
    let rows = wait_until(&following, follows_over("tcp "));
    assert_eq!(rows["penalty_shm_failures"], "1", "{rows:?}");
    shm.set(Mood::Works);
    wait_until(&following, follows_over("shm "));
}

#[test]
fn a_primary_that_ends_is_not_held_against_its_fabric() {
    let shm = Moody::default();
    let primary = offer(&shm);
    let following = follow(&primary, &BOTH);
    wait_until(&following, follows_over("shm "));
    drop(primary);
    let rows = wait_until(&following, |rows| rows["failed_tries"].parse::<u32>().unwrap() >= 2);
    assert!(!rows.contains_key("penalty_shm_failures"), "{rows:?}");
}

/// A primary that can give fewer channels than were asked for gives those, and is followed by them.
#[test]
fn fewer_channels_than_were_asked_for_are_fewer_pullers() {
    for (mood, pullers) in [(Mood::Scarce(1), "1"), (Mood::Scarce(2), "2"), (Mood::Works, "2")] {
        let shm = Moody::default();
        shm.set(mood);
        let primary = offer(&shm);
        // There are two shards.
        let following = follow_with(&primary, &[Kind::Shm], 9);
        let rows = wait_until(&following, follows_over("shm "));
        assert_eq!((rows["pullers"].as_str(), shm.asked()), (pullers, 2), "{rows:?}");
        assert_eq!(primary.offer().replicas()[0].pullers.to_string(), pullers);
    }
}
