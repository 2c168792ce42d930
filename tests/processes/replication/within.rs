//! A node within this process, with turns and handshakes that stand still when they are told to:
//! one writer at a time, whatever hangs.

use crate::node::LONG;
use crate::support::stores::small_store;
use remora::base::shards::ShardSet;
use remora::base::time::UnixSeconds;
use remora::fabric::{ConnectOptions, Kind, listen};
use remora::replication::attach::Identity;
use remora::replication::board::Board;
use remora::replication::follow::{FollowConfig, Following};
use remora::replication::lineage::Discard;
use remora::replication::node::{Node, NodeConfig, NotTaken, RunningNode};
use remora::replication::offer::{Offer, OfferConfig, Running};
use remora::replication::order::{Change, Order};
use remora::replication::penalties::SharedPenalties;
use remora::replication::push::Mode;
use remora::replication::report::Report;
use remora::replication::secret::Secret;
use remora::replication::standing::Chain;
use remora::store::{NewItem, Reign, Store};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub fn store() -> Arc<Store> {
    Arc::new(small_store(2, None))
}

fn offer() -> Running {
    let at: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = OfferConfig {
        listen: at,
        secret: Secret::none(),
        exporters: vec![listen(Kind::Tcp, at, &ConnectOptions::default()).expect("TCP")],
        clients: Some("127.0.0.1:7".parse().expect("an address")),
        silence_max: LONG,
        board: Arc::<Board>::default(),
        chain: Arc::new(Chain::new([1; 16])),
    };
    Offer::start(store(), config).expect("a port on loopback")
}

pub fn follow_config(primary: SocketAddr) -> FollowConfig {
    FollowConfig {
        primary: primary.to_string(),
        secret: Secret::none(),
        fabrics: vec![Kind::Tcp],
        mode: Mode::Pull,
        options: ConnectOptions::default(),
        identity: Identity::new([2; 16], "within"),
        pause_max: Duration::from_millis(1),
        silence_max: LONG,
        chain: Arc::new(Chain::new([2; 16])),
        penalties: SharedPenalties::default(),
        discard: Discard::Never,
        gathers: false,
        copy_bound: Arc::default(),
        pin: true,
        pullers: 1,
    }
}

fn node(store: &Arc<Store>) -> RunningNode {
    let follow = follow_config("127.0.0.1:1".parse().unwrap());
    let config = NodeConfig { follow, offer: None };
    Node::start(config, None, store.clone()).expect("a thread")
}

type Rows = BTreeMap<String, String>;

/// Wait until the rows of the node are so.
fn wait_until(node: &Node, is_so: impl Fn(&Rows) -> bool) -> Rows {
    let until = Instant::now() + LONG;
    loop {
        let mut rows = Rows::new();
        node.rows(&mut |name, value| drop(rows.insert(name.to_string(), value.to_string())));
        if is_so(&rows) {
            return rows;
        }
        assert!(Instant::now() < until, "it never comes: {rows:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Give an order, wait until it is over, and return its row.
fn carry_out(node: &Node, order: &str) -> String {
    node.take(Order::parse(order).unwrap()).unwrap();
    wait_until(node, |rows| !rows["order"].ends_with("running"))["order"].clone()
}

/// Nobody waits for a turn that began while writes were taken, however long it lasts: what is
/// written in it from now on is refused. It may still look at the old log, so that goes only when
/// it has ended.
#[test]
fn a_worker_that_holds_its_turn_writes_nothing_more() {
    let (store, offer, now) = (store(), offer(), UnixSeconds::now());
    let running = node(&store);
    let mut worker = store.join();
    let turn = worker.turn();
    let at = store.locate(b"key");
    let draft = store.draft(&at, NewItem { value: b"late", ..NewItem::default() }, now);
    let (reign, head) = (store.reign(), store.heads(store.reign()));
    assert!(store.takes_writes(at.place), "as it was when the request was planned");
    assert_eq!(carry_out(running.node(), &format!("replicate {}", offer.offer().address())), "replicate done");
    let closed = store.lock(&at).map(|locked| locked.entry(&turn, now).set(&draft)).expect_err("the gate is closed");
    assert_eq!(store.primary_of(closed).map(|primary| primary.clients.to_string()).as_deref(), Some("127.0.0.1:7"));
    assert_eq!((store.writable().count(), store.heads(reign)), (0, head), "neither it nor a follower has written");
    drop(turn);
    wait_until(running.node(), |rows| rows["state"] == "following");
    let there = store.newest_term();
    assert_eq!(carry_out(running.node(), "promote"), "promote done");
    assert!(store.newest_term().follows(there));
    let turn = worker.turn();
    assert!(store.lock(&at).is_ok_and(|locked| locked.entry(&turn, now).set(&draft).is_ok()), "it takes writes again");
}

/// A thread that hangs in a handshake is not waited for, and never has the store again.
#[test]
fn a_following_that_hangs_is_over_at_once() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let store = store();
    let config = follow_config(silent.local_addr().unwrap());
    let mut following =
        Following::start(config, None, ShardSet::all(store.shards().len()), store.clone()).expect("a thread");
    let (stream, _) = silent.accept().expect("it has come");
    let begun_at = Instant::now();
    following.stop().expect("at once");
    assert!(begun_at.elapsed() < LONG / 4, "it waited for the handshake: {:?}", begun_at.elapsed());
    following.stop().expect("again");
    drop(stream);
}

/// While one is under way others are turned away, and a node that ends takes none.
#[test]
fn orders_come_one_at_a_time() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let store = store();
    let running = node(&store);
    let node = running.node().clone();
    let order = Change::Replicate { primary: silent.local_addr().unwrap().to_string(), discard: false }.into();
    assert_eq!(node.take(order), Ok(()));
    assert_eq!(node.take(Change::Detach.into()), Err(NotTaken::Busy("replicate")));
    drop(silent);
    let until = Instant::now() + LONG;
    while node.take(Change::Detach.into()) == Err(NotTaken::Busy("replicate")) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(running);
    assert_eq!(node.take(Change::Detach.into()), Err(NotTaken::Ending));
    assert_eq!(store.reign(), Reign::BIRTH, "no gate was changed");
}
