//! A primary that lies, made by the test: it knows the handshake, and then tells a replica's
//! process whatever the test likes. The replica says what is wrong, and neither dies of it nor
//! grows.

use super::orders::{ctl, ctl_fails};
use super::strangers::{HEARTBEAT, flood};
use super::versions::said_by;
use crate::node::{LONG, Node, expect_eq, side_by_side, wait_for_count, wait_for_row, wait_until};
use crate::proxy::{ALL, Fate, Proxy};
use crate::support::forged::{Forged, ForgedLine, GEOMETRY, TERM, capacity_bytes, histories, memory};
use crate::support::refused;
use fastrand::Rng;
use remora::base::term::Term;
use remora::fabric::{ConnectOptions, Descriptor, Exporter, Invitation, Kind, Token, listen};
use remora::replication::ack::Tag;
use remora::replication::clock::Clocks;
use remora::replication::link::{Link, LinkError};
use remora::replication::secret::{Secret, Side};
use remora::replication::shares::PULLERS_MAX;
use remora::replication::standing::Distance;
use remora::replication::tls::Listening;
use remora::replication::wire::{Beat, Greeting, Message, Subscribed, Told, VERSION, Version, Wanted, Welcome};
use remora::store::line::{BIRTH, POSITION_MAX};
use remora::store::{Geometry, History, Memory};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the impostor tells.
#[derive(Clone)]
pub struct Lie {
    /// What it speaks.
    pub version: Version,
    pub welcome: Welcome,
    pub memory: Arc<Forged>,
    pub invitation: Arc<dyn Fn(&mut Invitation) + Send + Sync>,
    /// So many data channels it gives at most, to a replica that asks for so many.
    pub channels_max: usize,
    /// And so many more than it was asked for.
    pub channels_more: usize,
    /// This message is sent instead of heartbeats.
    pub says: Option<Message>,
    /// Heartbeats are sent without an end.
    pub floods: bool,
    /// How many seconds its wall clock is ahead.
    pub ahead_seconds: i64,
}

impl Lie {
    /// The truth: empty logs.
    pub fn none() -> Lie {
        let histories = histories(GEOMETRY.shards);
        let welcome = Welcome {
            geometry: GEOMETRY,
            memory: memory(&GEOMETRY),
            histories,
            host: [0; 16],
            client_port: 1,
            fabrics: vec![Kind::Tcp],
            program_version: "1.2.3".into(),
        };
        Lie {
            version: VERSION,
            welcome,
            memory: Arc::new(Forged::new(GEOMETRY)),
            invitation: Arc::new(|_| ()),
            channels_max: PULLERS_MAX,
            channels_more: 0,
            says: None,
            floods: false,
            ahead_seconds: 0,
        }
    }

    fn line(line: ForgedLine) -> Lie {
        let lie = Lie::none();
        lie.memory.show(1, line);
        lie
    }
}

/// See the module; serves one replica at a time until it is dropped.
pub struct Impostor {
    pub address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Impostor {
    pub fn start(lie: Lie) -> Impostor {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (address, stopping) = (listener.local_addr().expect("an address"), Arc::new(AtomicBool::new(false)));
        let stopped = stopping.clone();
        let thread = std::thread::spawn(move || {
            let loopback = "127.0.0.1:0".parse().expect("an address");
            let exporter = listen(Kind::Tcp, loopback, &ConnectOptions::default()).expect("a port");
            let listening = Listening::new().expect("a key");
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Relaxed) {
                    return;
                }
                // However the session ended: the replica comes again.
                let _ = serve(stream, &listening, &*exporter, &lie, &stopped);
            }
        });
        Impostor { address, stopping, thread: Some(thread) }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.stopping.store(true, Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    stream: TcpStream,
    listening: &Listening,
    exporter: &dyn Exporter,
    lie: &Lie,
    stopped: &AtomicBool,
) -> Result<(), LinkError> {
    let soon = Instant::now() + LONG;
    let say = |link: &mut Link, message: &Message| link.send_bytes(&said_by(lie.version, message), soon);
    let mut link = Link::accepted(stream, listening, soon)?;
    let Message::Hello(_) = link.receive(soon)? else { panic!("a replica says Hello") };
    let greeting = Greeting { version: lie.version, proof: Secret::none().prove(Side::Primary, link.binding()) };
    say(&mut link, &Message::Accept { greeting, server: [9; 16] })?;
    link.trust();
    let Message::Join(_) = link.receive(soon)? else { panic!("a replica joins") };
    say(&mut link, &Message::Welcome(lie.welcome.clone()))?;
    let Message::Choose { fabric: Kind::Tcp, channels } = link.receive(soon)? else {
        panic!("a replica takes what there is")
    };
    let channels = usize::from(channels).min(lie.channels_max) + lie.channels_more;
    let (mut grants, mut further) = (Vec::new(), Vec::new());
    for _ in 0..channels {
        let token = Token(fastrand::u128(..).to_le_bytes());
        let grant = exporter.grant(token, lie.memory.clone()).expect("a grant");
        let mut invitation = Invitation::new(exporter, token, &*grant);
        (lie.invitation)(&mut invitation);
        further.push(invitation);
        grants.push(grant);
    }
    let first = further.remove(0);
    say(&mut link, &Message::Grant { first, further })?;
    let Message::Attached = link.receive(soon)? else { panic!("a replica attaches") };
    let Message::Subscribe(wanted) = link.receive(soon)? else { panic!("a replica subscribes") };
    assert_eq!(wanted.len(), lie.welcome.geometry.shards as usize, "to every shard");
    let told =
        |(one, history): (&Wanted, &History)| Told { shard: one.shard(), tag: Tag::FIRST, history: history.clone() };
    let shards = wanted.iter().zip(&lie.welcome.histories).map(told).collect();
    say(&mut link, &Message::Subscribed(Subscribed { path: vec![[9; 16]], shards }))?;
    let mut clocks = Clocks::start();
    while !stopped.load(Relaxed) {
        if lie.floods {
            link.send_bytes(&flood(&HEARTBEAT), Instant::now() + LONG)?;
            continue;
        }
        let mut stamp = clocks.stamp();
        stamp.wall = stamp.wall.wrapping_add_signed(lie.ahead_seconds * 1_000_000);
        let beat = Message::Heartbeat(Beat { distance: Distance::default(), stamp, path: Vec::new() });
        let message = lie.says.as_ref().unwrap_or(&beat);
        link.send_bytes(&said_by(lie.version, message), Instant::now() + LONG)?;
        match link.receive(Instant::now() + Duration::from_millis(200)) {
            Ok(Message::Heartbeat(beat)) => drop(clocks.heard(&beat.stamp)),
            Ok(_) | Err(LinkError::Silent(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// More than such a small replica needs.
const RESIDENT_BYTES_MAX: u64 = 256 << 20;

/// The replica serves, small as it is, and its trouble is told in these words.
fn assert_troubled(lie: Lie, words: &str) {
    let impostor = Impostor::start(lie);
    let replica = Node::replica(impostor.address, &["--fabric", "tcp", "--replication-timeout", "5"]);
    wait_for_row(&replica, "trouble", |trouble| trouble.contains(words));
    // Again and again, not only once.
    let tries = replica.number("failed_tries");
    wait_for_count(&replica, "failed_tries", tries + 2);
    assert!(replica.text("trouble").contains(words), "{}", replica.text("trouble"));
    assert_eq!(replica.client().get("key"), None);
    assert!(replica.server.resident_bytes() < RESIDENT_BYTES_MAX, "{}", replica.server.resident_bytes());
}

/// Nothing can be made of such a welcome: the replica does not start.
#[test]
fn a_welcome_that_lies_ends_a_replica_in_words() {
    let geometry = |geometry| {
        let welcome = Welcome { geometry, histories: histories(geometry.shards.min(300)), ..Lie::none().welcome };
        Lie { welcome, ..Lie::none() }
    };
    let slabs = |slabs| {
        let welcome = Welcome { memory: Memory { slabs, table_cells: 8 }, ..Lie::none().welcome };
        Lie { welcome, ..Lie::none() }
    };
    let cases = [
        (geometry(Geometry { shards: 0, ..GEOMETRY }), "malformed"),
        (geometry(Geometry { shards: 3000, ..GEOMETRY }), "malformed"),
        (geometry(Geometry { shards: 3, ..GEOMETRY }), "3 shards"),
        (slabs(u32::MAX), "4294967295 slabs"),
        (
            Lie {
                welcome: Welcome {
                    geometry: Geometry { shards: 256, slab_bytes: 256 << 10, ..GEOMETRY },
                    histories: histories(256),
                    ..slabs(1 << 26).welcome
                },
                ..Lie::none()
            },
            "MiB of memory in all",
        ),
        (geometry(Geometry { slab_bytes: 0, ..GEOMETRY }), "slabs of 0"),
        (geometry(Geometry { slab_bytes: 4100, ..GEOMETRY }), "slabs of 4100"),
        (geometry(Geometry { record_bytes_max: u64::MAX - 7, ..GEOMETRY }), "records"),
    ];
    let all: Vec<_> = cases.iter().enumerate().map(|(number, (_, words))| (number, *words)).collect();
    side_by_side(&all, |(number, words)| {
        let impostor = Impostor::start(cases[number].0.clone());
        let (status, said) = refused(&["-l", "127.0.0.1:0", "--replica-of", &impostor.address.to_string()]);
        assert_eq!(status.code(), Some(1), "{words}: {said}");
        assert!(said.contains(words) && !said.contains("panicked"), "{words} should be in: {said}");
    });
}

/// Tables of such lengths are no store's: a replica that believed them would divide by zero, or
/// read what is not there.
#[test]
fn tables_that_no_store_has_are_not_believed() {
    let lie = |table_cells| {
        let memory = Memory { table_cells, ..memory(&GEOMETRY) };
        Lie { welcome: Welcome { memory, ..Lie::none().welcome }, ..Lie::none() }
    };
    side_by_side(&[0, 1, 4, 7, 1 << 31], |table_cells| assert_troubled(lie(table_cells), "laid out in another way"));
}

#[test]
fn a_grant_that_lies_is_not_used() {
    fn one_less(invitation: &mut Invitation) {
        invitation.regions.pop();
    }
    fn many_more(invitation: &mut Invitation) {
        invitation.regions.resize(60, Descriptor { address: 0, key: 0, bytes: u64::MAX });
    }
    fn short_tables(invitation: &mut Invitation) {
        invitation.regions[1].bytes = 8;
    }
    fn short_pool(invitation: &mut Invitation) {
        invitation.regions[2].bytes -= 8;
    }
    fn no_lines(invitation: &mut Invitation) {
        invitation.regions[0].bytes = 0;
    }
    fn nowhere(invitation: &mut Invitation) {
        invitation.address = "somewhere else".into();
    }
    type Twist = fn(&mut Invitation);
    let cases: [(Twist, &str); 6] = [
        (one_less, "another number of regions"),
        (many_more, "another number of regions"),
        (short_tables, "shorter tables"),
        (short_pool, "fewer slabs"),
        (no_lines, "fewer control lines"),
        (nowhere, "somewhere else"),
    ];
    side_by_side(&cases, |(twist, words)| assert_troubled(Lie { invitation: Arc::new(twist), ..Lie::none() }, words));
    assert_troubled(Lie { channels_more: 1, ..Lie::none() }, "more channels than were asked for");
}

/// The same by what its memory says, once a replica reads it.
#[test]
fn memory_that_lies_is_not_believed() {
    let good = Forged::new(GEOMETRY).line(BIRTH, BIRTH);
    let scribbled = || {
        let lie = Lie::line(ForgedLine { committed: BIRTH + capacity_bytes(&GEOMETRY) / 2, ..good });
        lie.memory.scribble(&mut Rng::with_seed(3));
        lie
    };
    let damaged = || {
        let lie = Lie::none();
        let end = lie.memory.write_records(0, 100, Some(&mut Rng::with_seed(4)));
        lie.memory.show(0, lie.memory.line(BIRTH, end));
        lie
    };
    let no_term = || {
        let histories = vec![History::NONE; 2];
        let lie = Lie { welcome: Welcome { histories, ..Lie::none().welcome }, ..Lie::none() };
        let end = lie.memory.write_records(0, 10, None);
        lie.memory.show(0, ForgedLine { term: 0, ..lie.memory.line(BIRTH, end) });
        lie.memory.show(1, ForgedLine { term: 0, ..good });
        lie
    };
    let far = POSITION_MAX + 64;
    let cases = [
        (Lie::line(ForgedLine { tail: BIRTH + 64, ..good }), "makes no sense"),
        (Lie::line(ForgedLine { tail: 0, committed: 64, ..good }), "makes no sense"),
        (Lie::line(ForgedLine { tail: far, committed: far + 64, ..good }), "makes no sense"),
        (Lie::line(ForgedLine { term: TERM.0 + 1, ..good }), "term is now"),
        (scribbled(), "failed its check"),
        (damaged(), "failed its check"),
        (no_term(), "tells of no term"),
        (Lie { says: Some(Message::Attached), ..Lie::none() }, "the peer said Attached"),
    ];
    let all: Vec<usize> = (0..cases.len()).collect();
    side_by_side(&all, |number| assert_troubled(cases[number].0.clone(), cases[number].1));
}

/// An honest primary behind a bad network: its data channel is cut, and stalls, while the control
/// connection stands.
#[test]
fn a_data_channel_that_breaks_is_made_anew() {
    let proxy: Arc<OnceLock<Proxy>> = Arc::default();
    let between = proxy.clone();
    let invitation = move |invitation: &mut Invitation| {
        let exporter = invitation.address.parse().expect("an address");
        invitation.address = between.get_or_init(|| Proxy::to(exporter)).address.to_string();
    };
    let lie = Lie { invitation: Arc::new(invitation), ..Lie::none() };
    let memory = lie.memory.clone();
    let impostor = Impostor::start(lie);
    let replica = Node::replica(impostor.address, &["--fabric", "tcp", "--replication-timeout", "3"]);
    wait_for_row(&replica, "state", |state| state == "following");
    let proxy = proxy.get().expect("it follows");
    for (round, fate) in
        [Fate::Passes, Fate::Stalls { up: ALL, down: 300 }, Fate::Cut { up: 100, down: ALL }].into_iter().enumerate()
    {
        let records = 10 * (round + 1);
        memory.show(0, memory.line(BIRTH, memory.write_records(0, records, None)));
        wait_for_count(&replica, "records", records as u64);
        proxy.expect([fate]);
        proxy.cut();
        wait_until("the next channel meets its fate", || expect_eq("fates", proxy.expected(), 0));
    }
    memory.show(0, memory.line(BIRTH, memory.write_records(0, 40, None)));
    wait_for_count(&replica, "records", 40);
    wait_for_count(&replica, "shards_continued", 3);
    // Each record once: it went on from where it was. (The other shard has none, so each channel
    // begins it anew.)
    assert_eq!(["records", "bad_records"].map(|name| replica.number(name)), [40, 0]);
}

/// A replica that is told to discard gives a shard up once the new primary has shown a log of it,
/// and not before. If that primary is gone before, the replica is promoted with what it had. In the
/// others it has nothing, and says so.
#[test]
fn a_discard_that_is_interrupted_gives_up_what_was_shown_alone() {
    let all = [0, 1, 2].map(|shards_shown| ["1", "2"].map(|pullers| (shards_shown, pullers)));
    side_by_side(all.as_flattened(), |(shards_shown, pullers)| {
        let old = Lie::none();
        let shards = 0..GEOMETRY.shards as usize;
        shards.clone().for_each(|shard| {
            old.memory.show(shard, old.memory.line(BIRTH, old.memory.write_records(shard, 20, None)))
        });
        let old = Impostor::start(old);
        let replica = Node::replica(old.address, &["--fabric", "tcp", "--pullers", pullers]);
        wait_for_count(&replica, "records", 40);
        wait_for_row(&replica, "state", |state| state == "following");
        assert_eq!(replica.text("pullers"), pullers);

        let other = Term::of(1, 0xDEF);
        let histories = vec![History::born(other, BIRTH); shards.len()];
        let new = Lie { welcome: Welcome { histories, ..Lie::none().welcome }, ..Lie::none() };
        for shard in shards {
            let term = if shard < shards_shown { other } else { Term::NONE };
            // Its log is said to be longer than it is, so that no record is found in it.
            let committed = if shard < shards_shown { BIRTH + 640 } else { BIRTH };
            new.memory.show(shard, ForgedLine { term: term.0, ..new.memory.line(BIRTH, committed) });
        }
        let new = Impostor::start(new);
        ctl(&replica, &["replicate", "--discard", &new.address.to_string()]);
        let looks = replica.number("looks");
        wait_for_count(&replica, "looks", looks + 3);
        drop(new);
        for shard in 0..GEOMETRY.shards as usize {
            let only = ["promote", "--shards", &shard.to_string()];
            if shard < shards_shown {
                ctl_fails(&replica, &only, "has nothing yet");
                ctl(&replica, &["promote", "--incomplete", "--shards", &shard.to_string()]);
            } else {
                ctl(&replica, &only);
            }
        }
        if shards_shown != 1 {
            assert_eq!(replica.client().get("key-7").is_some(), shards_shown == 0);
        }
        assert_eq!(replica.client().set("mine", b"1"), "STORED");
        assert_eq!(replica.client().get("mine").as_deref(), Some(&b"1"[..]));
    });
}

/// Heartbeats without an end do not keep a replica from its work, nor make it grow.
#[test]
fn a_primary_that_never_stops_talking_is_followed_all_the_same() {
    let lie = Lie { floods: true, ..Lie::none() };
    let memory = lie.memory.clone();
    let impostor = Impostor::start(lie);
    let replica = Node::replica(impostor.address, &["--fabric", "tcp"]);
    for round in 1..=5 {
        memory.show(0, memory.line(BIRTH, memory.write_records(0, 10 * round, None)));
        wait_for_count(&replica, "records", 10 * round as u64);
        wait_for_row(&replica, "state", |state| state == "following");
    }
    assert_eq!(replica.number("sessions"), 1);
    assert!(replica.server.resident_bytes() < RESIDENT_BYTES_MAX, "{}", replica.server.resident_bytes());
}

/// Where the clocks are 100 s apart, replicas judge expiries wrongly: that is shown, with how sure
/// it is, and said once.
#[test]
fn clocks_that_are_apart_are_shown_and_warned_of() {
    side_by_side(&[(100, "ahead of"), (-100, "behind")], |(ahead_seconds, words)| {
        let impostor = Impostor::start(Lie { ahead_seconds, ..Lie::none() });
        let replica = Node::replica(impostor.address, &["--fabric", "tcp"]);
        let skew = wait_for_row(&replica, "clock_skew_ms", |skew| skew != "unknown");
        let (skew, precision) = (skew.parse::<i64>().expect("a number"), replica.number("clock_skew_precision_ms"));
        assert!(skew.abs_diff(ahead_seconds * 1000) <= precision + 1000, "{skew} ms, give or take {precision}");
        let said = std::iter::from_fn(|| replica.server.next_log_line()).find(|line| line.contains("the clock of"));
        let said = said.expect("it is in the log");
        assert!(said.contains(words) && said.contains("NTP"), "{said}");
    });
}

/// Two servers of one host have one clock: nothing to warn of.
#[test]
fn a_clock_that_is_right_is_shown_as_such() {
    let primary = Node::primary(&[]);
    let replica = Node::replica(primary.port(), &[]);
    wait_until("the skew is as small as its measurement is good", || {
        let [skew, precision] = ["clock_skew_ms", "clock_skew_precision_ms"].map(|name| replica.text(name));
        match (skew.parse::<i64>(), precision.parse::<u64>()) {
            (Ok(skew), Ok(precision)) if skew.unsigned_abs() <= precision => Ok(()),
            _ => Err(format!("{skew} give or take {precision}")),
        }
    });
    assert!(!primary.rows().contains_key("clock_skew_ms"));
}
