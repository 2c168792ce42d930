//! A node within this process, with turns and handshakes that stand still when they are told to:
//! one writer at a time, whatever hangs.

use crate::node::LONG;
use crate::support::stores::small_store;
use remora::base::term::Term;
use remora::fabric::{ConnectOptions, Kind, listen};
use remora::replication::attach::Identity;
use remora::replication::board::Board;
use remora::replication::follow::{FollowConfig, Following};
use remora::replication::lineage::Discard;
use remora::replication::node::{Clients, Node, NodeConfig, NotTaken, RunningNode};
use remora::replication::offer::{Offer, OfferConfig, Running};
use remora::replication::order::Order;
use remora::replication::penalties::SharedPenalties;
use remora::replication::push::Mode;
use remora::replication::report::Report;
use remora::replication::secret::Secret;
use remora::replication::standing::Standing;
use remora::store::Store;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Clients that only note what they are told.
#[derive(Default, Clone)]
struct Noted(Arc<Mutex<Vec<String>>>);

impl Clients for Noted {
    fn take_writes(&self) {
        self.0.lock().unwrap().push("take".into());
    }

    fn refuse_writes(&self, primary: Option<&str>) {
        self.0.lock().unwrap().push(format!("refuse, {}", primary.unwrap_or("nowhere")));
    }
}

pub fn store() -> Arc<Store> {
    Arc::new(small_store(2, None))
}

fn offer() -> Running {
    let at: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = OfferConfig {
        listen: at,
        secret: Secret::none(),
        exporters: vec![listen(Kind::Tcp, at, &ConnectOptions::default()).expect("TCP")],
        client_port: 7,
        silence_max: LONG,
        board: Arc::<Board>::default(),
        standing: Arc::new(Standing::new([1; 16])),
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
        identity: Identity { replica: [2; 16], name: "within".into() },
        pause_max: Duration::from_millis(1),
        silence_max: LONG,
        standing: Arc::new(Standing::new([2; 16])),
        penalties: SharedPenalties::default(),
        discard: Discard::Never,
        pin: true,
        pullers: 1,
    }
}

fn node(store: &Arc<Store>, clients: &Noted) -> RunningNode {
    let follow = follow_config("127.0.0.1:1".parse().unwrap());
    let config = NodeConfig { follow, clients: Box::new(clients.clone()), offer: None };
    Node::start(config, None, store.clone()).expect("a thread")
}

/// Give an order, wait until it is over, and return its row.
fn carry_out(node: &Node, order: &str) -> String {
    node.take(Order::parse(order).unwrap()).unwrap();
    let until = Instant::now() + LONG;
    loop {
        let mut rows = BTreeMap::new();
        node.rows(&mut |name, value| drop(rows.insert(name.to_string(), value.to_string())));
        if !rows["order"].ends_with("running") {
            return rows["order"].clone();
        }
        assert!(Instant::now() < until, "{order} is not over: {rows:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A turn that began while writes were taken may write: until it has ended, no follower does.
#[test]
fn a_worker_that_holds_its_turn_keeps_the_primary_one() {
    let (store, clients, offer) = (store(), Noted::default(), offer());
    let running = node(&store, &clients);
    let order = format!("replicate {}", offer.offer().address());
    let mut worker = store.join();
    let turn = worker.turn();
    let before = store.histories();
    let outcome = carry_out(running.node(), &order);
    assert!(outcome.starts_with("replicate failed: a worker has not ended its turn"), "{outcome}");
    assert_eq!(store.histories(), before, "nobody followed");
    drop(turn);
    assert_eq!(carry_out(running.node(), &order), "replicate done");
    let there = store.newest_term();
    assert_ne!(there, before[0].newest());
    assert_eq!(carry_out(running.node(), "promote"), "promote done");
    assert!(store.newest_term().follows(there));
    let noted = clients.0.lock().unwrap().clone();
    let refuse = "refuse, 127.0.0.1:7".to_string();
    assert_eq!(noted, [refuse.clone(), "take".into(), refuse.clone(), refuse, "take".into()]);
}

/// A thread that hangs in a handshake is not waited for, and never has the store again.
#[test]
fn a_following_that_hangs_is_over_at_once() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let store = store();
    let known: Vec<Option<Term>> = store.terms_of_shards();
    let config = follow_config(silent.local_addr().unwrap());
    let mut following = Following::start(config, None, known.clone(), store.clone(), None).expect("a thread");
    let (stream, _) = silent.accept().expect("it has come");
    let begun_at = Instant::now();
    assert_eq!(following.stop().expect("at once"), known);
    assert!(begun_at.elapsed() < LONG / 4, "it waited for the handshake: {:?}", begun_at.elapsed());
    assert_eq!(following.stop().expect("again"), known);
    drop(stream);
}

/// While one is under way others are turned away, and a node that ends takes none.
#[test]
fn orders_come_one_at_a_time() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (store, clients) = (store(), Noted::default());
    let running = node(&store, &clients);
    let node = running.node().clone();
    let order = Order::Replicate { primary: silent.local_addr().unwrap().to_string(), discard: false };
    assert_eq!(node.take(order), Ok(()));
    assert_eq!(node.take(Order::Detach), Err(NotTaken::Busy("replicate")));
    drop(silent);
    let until = Instant::now() + LONG;
    while node.take(Order::Detach) == Err(NotTaken::Busy("replicate")) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(running);
    assert_eq!(node.take(Order::Detach), Err(NotTaken::Ending));
    assert!(clients.0.lock().unwrap().is_empty(), "nothing was changed");
}
