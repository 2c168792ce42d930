//! Control connections that are cut or stall, at every step of their life. The proxy stands before
//! the replication port; data channels do not pass through it, and end with the session.

use super::strangers::come;
use super::writers::{Traffic, write_batches};
use crate::node::{
    Node, in_sync, numbered_keys, on_each_fabric, same_items, side_by_side, wait_for_count, wait_for_row,
};
use crate::node::{expect_eq, wait_until};
use crate::proxy::{ALL, Fate, Proxy};
use fastrand::Rng;
use remora::fabric::{ConnectOptions, Kind};
use remora::replication::attach::{AttachError, Identity, attach, join};
use remora::replication::choice::Choice;
use remora::replication::penalties::SharedPenalties;
use remora::replication::reached::Holder;
use remora::replication::secret::Secret;

const KEYS: usize = 1000;
const TRAFFIC: Traffic = Traffic { keys: KEYS, value_bytes_max: 5000 };

/// A replica that was cut off goes on from where it was, and neither side keeps anything of the
/// session before.
#[test]
fn after_a_cut_it_goes_on_from_its_cursor() {
    on_each_fabric(|fabric| goes_on_after_cuts(&["--fabric", fabric]));
}

/// The same for a replica that is started with these arguments.
pub fn goes_on_after_cuts(arguments: &[&str]) {
    const CUTS: u64 = 4;
    let primary = Node::primary(&["-m", "16"]);
    let proxy = Proxy::to(primary.port());
    let replica = Node::replica(proxy.address, arguments);
    in_sync(&primary, &[&replica]);
    let joined = replica.number("shards_joined");
    let (held_there, held_here) = (primary.holds(), replica.holds());
    for cut in 1..=CUTS {
        proxy.cut();
        write_batches(primary.server.tcp[0], cut, 5, TRAFFIC);
        wait_for_count(&replica, "shards_continued", cut * joined);
        in_sync(&primary, &[&replica]);
    }
    assert!(same_items(&primary, &[&replica], &numbered_keys(KEYS)) > 0);
    let counts = ["shards_joined", "shards_continued", "shards_diverged", "shards_overrun"];
    assert_eq!(counts.map(|name| replica.number(name)), [joined, CUTS * joined, 0, 0]);
    assert_eq!(primary.number("replicas_ended"), CUTS);
    primary.comes_back_to(held_there);
    replica.comes_back_to(held_here);
}

/// Everything that a replica does to be let in, without a process around it. The channel is dropped
/// at once.
fn come_and_go(proxy: &Proxy, fabric: Kind) -> Result<(), AttachError> {
    let identity = Identity::new([fastrand::u8(..); 16], "come and go");
    let mut joined = join(&proxy.address.to_string(), &Secret::none(), &identity, &Holder::new("test"))?;
    let penalties = SharedPenalties::default();
    let choice = Choice::new("", &[fabric], &penalties);
    attach(&mut joined, choice, &ConnectOptions::default(), 1).map(drop)
}

/// The port has no place free: it ends connections without a word.
#[test]
fn a_replica_that_is_turned_away_at_its_start_tries_again() {
    let primary = Node::primary(&["-m", "8", "-I", "64k"]);
    let proxy = Proxy::to(primary.port());
    proxy.expect([Fate::Cut { up: 0, down: 0 }, Fate::Cut { up: ALL, down: 0 }]);
    let replica = Node::replica(proxy.address, &["--fabric", "tcp"]);
    assert_eq!(proxy.expected(), 0);
    in_sync(&primary, &[&replica]);
}

/// The handshake is cut after any number of bytes of either side: both sides end it, and the
/// primary keeps nothing.
#[test]
fn a_handshake_can_be_cut_anywhere() {
    const CUTS: usize = 60;
    /// More than the last message that either side says.
    const LAST_BYTES: usize = 256;
    let seed = 1;
    on_each_fabric(|name| {
        let fabric = if name == "shm" { Kind::Shm } else { Kind::Tcp };
        let primary = Node::primary(&["-m", "8", "-I", "64k", "--fabric", name]);
        let proxy = Proxy::to(primary.port());
        come_and_go(&proxy, fabric).expect("nothing is cut yet");
        wait_for_row(&primary, "replicas", |count| count == "0");
        let before = primary.holds();
        let said = proxy.passed();
        let mut random = Rng::with_seed(seed);
        let mut failed = 0;
        for _ in 0..CUTS {
            let way = random.usize(0..2);
            // Some cuts come too late to hurt.
            let bytes = random.usize(0..said[way] * 5 / 4);
            let fate = if way == 0 { Fate::Cut { up: bytes, down: ALL } } else { Fate::Cut { up: ALL, down: bytes } };
            proxy.expect([fate]);
            match come_and_go(&proxy, fabric) {
                Ok(()) => {
                    assert!(
                        bytes + LAST_BYTES > said[way],
                        "let in over a handshake that was cut: {fate:?} of {said:?}"
                    );
                }
                Err(AttachError::Link(..)) => failed += 1,
                Err(error) => panic!("{fate:?}: {error}"),
            }
        }
        assert!(failed > CUTS / 3, "{failed}");
        wait_for_row(&primary, "replicas", |count| count == "0");
        primary.comes_back_to(before);
        come_and_go(&proxy, fabric).expect("nothing is cut any more");
    });
}

/// A replica's process comes through cuts and stalls at each step as soon as nothing is in its way
/// any more; in between it serves.
#[test]
fn a_replica_recovers_when_the_way_is_free_again() {
    // What both sides have said when TLS stands, when the replica is let in, when it is welcome.
    let [tls, let_in, welcome] = [0, 1, 2].map(|steps| {
        let primary = Node::primary(&["-m", "8", "-I", "64k"]);
        let proxy = Proxy::to(primary.port());
        drop(come(proxy.address, "measured", steps));
        proxy.passed()
    });
    // In the middle of TLS, Hello, Accept, Join, Welcome and Grant.
    let of_replica = [20, tls[0] + 20, let_in[0] + 20].map(|up| (up, ALL));
    let of_primary = [0, 30, tls[1] + 20, let_in[1] + 20, welcome[1] + 20].map(|down| (ALL, down));
    let cuts: Vec<Fate> = of_replica.into_iter().chain(of_primary).map(|(up, down)| Fate::Cut { up, down }).collect();
    let stall = |up, down| vec![Fate::Stalls { up, down }];
    let stalls = [("shm", stall(0, 0)), ("tcp", stall(ALL, let_in[1] + 20)), ("tcp", stall(let_in[0] + 20, ALL))];
    let fates: Vec<_> = [("shm", cuts.clone()), ("tcp", cuts)].into_iter().chain(stalls).collect();
    let cases: Vec<_> = fates.iter().collect();
    side_by_side(&cases, |(fabric, fates)| {
        let primary = Node::primary(&["-m", "8", "-I", "64k"]);
        let proxy = Proxy::to(primary.port());
        assert_eq!(primary.client().set("key-0", b"before"), "STORED");
        let replica = Node::replica(proxy.address, &["--fabric", fabric]);
        in_sync(&primary, &[&replica]);
        let (held_there, held_here) = (primary.holds(), replica.holds());
        proxy.expect(fates.iter().copied());
        proxy.cut();
        assert_eq!(primary.client().set("key-1", b"meanwhile"), "STORED");
        wait_until("each fate is met", || {
            assert_eq!(replica.client().get("key-0").as_deref(), Some(&b"before"[..]));
            expect_eq("fates to meet", proxy.expected(), 0)
        });
        wait_for_row(&replica, "lag_bytes", |_| replica.client().get("key-1").is_some());
        in_sync(&primary, &[&replica]);
        assert!(replica.number("failed_tries") as usize > fates.len(), "{:?}", replica.rows());
        primary.comes_back_to(held_there);
        replica.comes_back_to(held_here);
    });
}
