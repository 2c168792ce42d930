//! Peers that speak another version of the protocol: a later one of the same major, another major.
//! The test plays the other side, so that both are there whatever this tree speaks.

use super::impostor::{Impostor, Lie};
use crate::node::{LONG, Node, expect_eq, in_sync, wait_for_count, wait_for_row, wait_until};
use crate::support::refused;
use remora::fabric::{ConnectOptions, Kind, connect};
use remora::replication::clock::Clocks;
use remora::replication::link::{Link, LinkError};
use remora::replication::pull::Puller;
use remora::replication::secret::{Secret, Side};
use remora::replication::standing::Distance;
use remora::replication::wire::{
    Beat, Greeting, Join, LENGTH_BYTES, Message, PROGRAM_VERSION, Refusal, Told, VERSION, Version, Wanted, Welcome,
};
use remora::store::Store;
use remora::store::line::BIRTH;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const LATER: Version = Version { minor: 9, ..VERSION };

/// The bytes by which a side of `version` says this. One of a later version has added fields to
/// every message, and kinds of messages to what it says once there is a welcome.
pub fn said_by(version: Version, message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    if version <= VERSION {
        return bytes;
    }
    bytes.resize(bytes.len() + 50, 0xAB);
    let length = (bytes.len() - LENGTH_BYTES) as u32;
    bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    if !matches!(message, Message::Hello(_) | Message::Accept { .. } | Message::Join(_)) {
        bytes.extend_from_slice(&1000u32.to_le_bytes());
        bytes.resize(bytes.len() + 1000, 200);
    }
    bytes
}

/// What a later side tells of its program.
const LATER_PROGRAM: &str = "77.0";

/// A replica of the test's own.
struct Scripted {
    version: Version,
    link: Link,
    welcome: Welcome,
}

impl Scripted {
    /// Let in, and welcome.
    fn join(primary: SocketAddr, version: Version) -> Scripted {
        let stream = TcpStream::connect(primary).expect("the port takes connections");
        let mut link = Link::connected(stream, soon()).expect("TLS");
        let say =
            |link: &mut Link, message: &Message| link.send_bytes(&said_by(version, message), soon()).expect("sent");
        let proof = Secret::none().prove(Side::Replica, link.binding());
        say(&mut link, &Message::Hello(Greeting { version, proof }));
        let Ok(Message::Accept { greeting, .. }) = link.receive(soon()) else { panic!("not accepted") };
        assert_eq!(greeting.version, VERSION, "each side says the latest that it speaks");
        assert!(Secret::none().check(Side::Primary, link.binding(), &greeting.proof));
        link.trust();
        let (replica, name) = (fastrand::u128(..).to_le_bytes(), format!("of version {version}"));
        say(&mut link, &Message::Join(Join { replica, host: [2; 16], name, program_version: LATER_PROGRAM.into() }));
        let Ok(Message::Welcome(welcome)) = link.receive(soon()) else { panic!("no welcome") };
        Scripted { version, link, welcome }
    }

    fn say(&mut self, message: &Message) {
        self.link.send_bytes(&said_by(self.version, message), soon()).expect("sent");
    }

    /// Follow until the primary shows what is expected of it, and for three heartbeats at least.
    fn follow_until(&mut self, shows: impl Fn() -> Result<(), String>) {
        let Welcome { geometry, memory, .. } = self.welcome.clone();
        self.say(&Message::Choose { fabric: Kind::Tcp, channels: 1 });
        let Ok(Message::Grant { first, further }) = self.link.receive(soon()) else { panic!("no grant") };
        assert_eq!(further, []);
        let channel = connect(Kind::Tcp, &first, &ConnectOptions::default()).expect("a channel");
        self.say(&Message::Attached);
        self.say(&Message::Subscribe((0..geometry.shards as usize).map(|shard| Wanted::new(shard, 0)).collect()));
        let told = loop {
            match self.link.receive(soon()).expect("the primary goes on") {
                Message::Heartbeat(_) => {}
                Message::Subscribed(subscribed) => break subscribed.shards,
                other => panic!("{} is no answer", other.name()),
            }
        };
        let store = Store::with_geometry(geometry, memory.slabs, 1, false, None).expect("a small store");
        let mut puller = Puller::new(channel, geometry, 0..geometry.shards as usize, memory, LONG);
        for Told { shard, tag, history } in told {
            puller.add(shard, store.follower(shard).expect("nobody else follows"), history, tag);
        }
        let (mut clocks, mut beats) = (Clocks::start(), 0);
        wait_until("the primary shows a replica", || {
            puller.step(Duration::from_millis(10)).expect("it pulls on");
            assert!(puller.ended().is_empty(), "so does each lane: {:?}", puller.ended());
            puller.summarize().expect("it acknowledges");
            match self.link.try_receive().expect("the primary goes on") {
                Some(Message::Heartbeat(beat)) => {
                    let _ = clocks.heard(&beat.stamp);
                    beats += 1;
                    let stamp = clocks.stamp();
                    self.say(&Message::Heartbeat(Beat { distance: Distance::default(), stamp, path: Vec::new() }));
                }
                Some(other) => panic!("{} is of no use to a replica", other.name()),
                None => {}
            }
            if beats < 3 { Err(format!("{beats} heartbeats")) } else { shows() }
        });
        assert_eq!(puller.counts().bad_records, 0);
    }
}

fn soon() -> Instant {
    Instant::now() + LONG
}

fn filled_primary() -> Node {
    let primary = Node::primary(&["-m", "8", "-I", "64k"]);
    (0..100).for_each(|item| assert_eq!(primary.client().set(&format!("key-{item}"), b"value"), "STORED"));
    primary
}

/// What a primary shows of its one replica.
fn shown(primary: &Node) -> [String; 5] {
    let rows = primary.rows();
    ["state", "name", "version", "records", "lag_bytes"].map(|row| rows[&format!("replica_0_{row}")].clone())
}

/// All channels that were granted must stand once it says so: the shards of one that does not would
/// be followed by nobody.
#[test]
fn a_replica_that_connects_fewer_channels_than_it_took_is_refused() {
    let primary = Node::primary(&["-m", "8", "-I", "64k", "--shards", "4"]);
    let mut replica = Scripted::join(primary.port(), VERSION);
    replica.say(&Message::Choose { fabric: Kind::Tcp, channels: 3 });
    let Ok(Message::Grant { first, further }) = replica.link.receive(soon()) else { panic!("no grant") };
    assert_eq!(further.len(), 2);
    let connected = [&first, &further[1]]
        .map(|invitation| connect(Kind::Tcp, invitation, &ConnectOptions::default()).expect("a channel"));
    replica.say(&Message::Attached);
    let end = std::iter::repeat_with(|| replica.link.receive(soon())).find_map(Result::err).expect("a refusal");
    assert!(matches!(&end, LinkError::Refused(Refusal::Protocol, words) if words.contains("does not")), "{end}");
    drop(connected);
}

#[test]
fn a_replica_that_subscribes_to_what_is_not_there_is_refused() {
    let primary = Node::primary(&["-m", "8", "-I", "64k", "--shards", "4"]);
    for wrong in [Wanted::new(4, 0), Wanted::new(0, 1)] {
        let mut replica = Scripted::join(primary.port(), VERSION);
        replica.say(&Message::Choose { fabric: Kind::Tcp, channels: 1 });
        let Ok(Message::Grant { first, .. }) = replica.link.receive(soon()) else { panic!("no grant") };
        let channel = connect(Kind::Tcp, &first, &ConnectOptions::default()).expect("a channel");
        replica.say(&Message::Attached);
        replica.say(&Message::Subscribe(vec![Wanted::new(3, 0), wrong]));
        let end = std::iter::repeat_with(|| replica.link.receive(soon())).find_map(Result::err).expect("a refusal");
        assert!(matches!(&end, LinkError::Refused(Refusal::Protocol, words) if words.contains("not there")), "{end}");
        drop(channel);
    }
}

/// Fields and kinds of messages that are not known here change nothing.
#[test]
fn a_replica_of_a_later_version_follows() {
    let primary = filled_primary();
    let mut replica = Scripted::join(primary.port(), LATER);
    assert_eq!(replica.welcome.program_version, PROGRAM_VERSION);
    let expected = ["following", "of version 10.9", "77.0", "100", "0"].map(String::from);
    replica.follow_until(|| expect_eq("it", shown(&primary), expected.clone()));
}

/// The same the other way round: the primary is of a later version, or gives fewer data channels
/// than were asked for. The replica has as many pullers as there are channels.
#[test]
fn a_primary_of_a_later_version_is_followed_and_one_that_gives_fewer_channels() {
    for (version, channels_max, pullers) in [(LATER, 9, "2"), (VERSION, 1, "1")] {
        let mut lie = Lie { version, channels_max, ..Lie::none() };
        lie.welcome.program_version = LATER_PROGRAM.into();
        let memory = lie.memory.clone();
        let impostor = Impostor::start(lie);
        // There are two shards, so never more than two pullers.
        let replica = Node::replica(impostor.address, &["--fabric", "tcp", "--pullers", "3"]);
        for round in 1..=3 {
            memory.show(0, memory.line(BIRTH, memory.write_records(0, 10 * round, None)));
            wait_for_count(&replica, "records", 10 * round as u64);
        }
        wait_for_row(&replica, "state", |state| state == "following");
        // Measured by heartbeats, there and back.
        wait_for_row(&replica, "clock_skew_ms", |skew| skew != "unknown");
        let shown = ["primary_version", "pullers"].map(|row| replica.text(row));
        assert_eq!(shown, [LATER_PROGRAM, pullers], "of version {version}");
        assert_eq!(["sessions", "failed_tries", "bad_records"].map(|row| replica.number(row)), [1, 0, 0]);
    }
}

#[test]
fn two_of_this_version_tell_each_other_of_their_programs() {
    let primary = filled_primary();
    let replica = Node::replica(primary.port(), &["--fabric", "tcp"]);
    in_sync(&primary, &[&replica]);
    assert_eq!(primary.text("replica_0_version"), PROGRAM_VERSION);
    assert_eq!(replica.text("primary_version"), PROGRAM_VERSION);
}

/// A primary of another major version: the replica says which, and what to do.
#[test]
fn a_primary_of_another_major_version_is_not_followed() {
    let impostor = Impostor::start(Lie { version: Version { major: 11, minor: 0 }, ..Lie::none() });
    let (status, said) = refused(&["-l", "127.0.0.1:0", "--replica-of", &impostor.address.to_string()]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("speaks version 11 of the replication protocol") && said.contains("upgrade"), "{said}");
}
