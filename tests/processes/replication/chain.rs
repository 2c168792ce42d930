//! Replicas of replicas: three in a row below a primary, under load; whoever is in the middle dies,
//! stands still, or is overrun.

use super::orders::ctl;
use super::subscriptions::{come, offer};
use super::writers::{Traffic, Writers, write_batches};
use crate::node::{
    LONG, Node, fixed_port, in_sync, numbered_keys, on_each_fabric, same_items, wait_for_count, wait_for_row,
    wait_until,
};
use crate::support::stores::small_store;
use remora::base::shards::ShardSet;
use remora::replication::attach::subscribe;
use remora::replication::offer::Running;
use remora::replication::standing::{Chain, Distance, Standing};
use remora::replication::wire::{Message, PATH_MAX};
use std::sync::Arc;
use std::time::Instant;

const KEYS: usize = 2000;
const TRAFFIC: Traffic = Traffic { keys: KEYS, value_bytes_max: 10_000 };

/// A primary and three replicas, each of the one before it.
fn chain(arguments: &[&str], fabric: &str) -> [Node; 4] {
    let primary = Node::primary(arguments);
    let follow =
        |upstream: &Node| Node::middle(upstream.port(), 0, &["--fabric", fabric, "--replication-timeout", "60"]);
    let first = follow(&primary);
    let second = follow(&first);
    let third = follow(&second);
    [primary, first, second, third]
}

/// Once nobody writes any more: from the top down, each is where the one above it is.
fn level(nodes: &[Node]) {
    nodes.windows(2).for_each(|pair| in_sync(&pair[0], &[&pair[1]]));
}

fn same(nodes: &[Node]) {
    level(nodes);
    let below: Vec<&Node> = nodes[1..].iter().collect();
    assert!(same_items(&nodes[0], &below, &numbered_keys(KEYS)) > 0);
}

#[test]
fn three_in_a_row_hold_the_same_and_know_how_far_they_are() {
    on_each_fabric(|fabric| {
        let nodes = chain(&["-m", "16", "-I", "64k"], fabric);
        let writers = Writers::start(&nodes[0], 1, TRAFFIC);
        for (depth, node) in nodes.iter().enumerate().skip(1) {
            wait_for_row(node, "depth", |shown| shown == depth.to_string());
            wait_for_row(node, "state", |state| state == "following");
        }
        // What a replica says of the whole way is no less than what it says of the last part.
        let rows = nodes[3].rows();
        let number = |name: &str| rows[name].parse::<u64>().expect("a number");
        assert!(number("lag_total_bytes") >= number("lag_bytes"), "{rows:?}");
        writers.stop();
        same(&nodes);
        for node in &nodes[1..] {
            assert_eq!((node.number("sessions"), node.number("bad_records")), (1, 0), "{:?}", node.rows());
            wait_for_row(node, "lag_total_bytes", |bytes| bytes == "0");
            wait_for_row(node, "lag_total_us", |time| time == "0");
        }
        assert!(!nodes[0].rows().contains_key("depth"));
    });
}

/// While the root's first replica stands still, those below it are where they were by their own
/// account, and say how long they have heard nothing of the root. Then it goes on at another place
/// of the log, and so do they.
#[test]
fn the_middle_stands_still_and_is_overrun() {
    on_each_fabric(|fabric| {
        let nodes = chain(&["-m", "4", "-I", "64k", "--replication-timeout", "60"], fabric);
        write_batches(nodes[0].server.tcp[0], 1, 20, TRAFFIC);
        same(&nodes);
        assert_eq!(nodes[2].number("shards_overrun"), 0);
        nodes[1].server.signal("STOP");
        let appended = || nodes[0].rows_of("stats")["log_appended_bytes"].parse::<u64>().expect("a number");
        let until = appended() + 4 * (4 << 20);
        for seed in 2.. {
            write_batches(nodes[0].server.tcp[0], seed, 50, TRAFFIC);
            if appended() > until {
                break;
            }
        }
        for node in &nodes[2..] {
            wait_for_row(node, "lag_total_us", |time| time.parse::<u64>().is_ok_and(|time| time > 3_000_000));
        }
        nodes[1].server.signal("CONT");
        wait_for_count(&nodes[1], "shards_overrun", 1);
        same(&nodes);
        let diverged = nodes[1..].iter().map(|node| node.number("shards_diverged") + node.number("bad_records"));
        assert_eq!(diverged.sum::<u64>(), 0);
    });
}

/// It comes back empty, at the same port. Who is below serves on, finds it again, and goes on where
/// it was.
#[test]
fn the_middle_dies_and_comes_back() {
    on_each_fabric(|fabric| {
        let port = fixed_port();
        let timeout = ["--fabric", fabric, "--replication-timeout", "3"];
        let primary = Node::primary(&["-m", "32", "-I", "64k"]);
        let mut middle = Node::middle(primary.port(), port, &timeout);
        let last = Node::middle(middle.port(), 0, &timeout);
        let (first_port, last_again) = (primary.port(), last.port());
        let below = Node::replica(last_again, &timeout);
        write_batches(primary.server.tcp[0], 1, 20, TRAFFIC);
        let mut nodes = [primary, middle, last, below];
        same(&nodes);
        let joined = nodes[2].number("shards_joined");
        let writers = Writers::start(&nodes[0], 1, Traffic { value_bytes_max: 300, ..TRAFFIC });
        nodes[1].server.signal("KILL");
        nodes[1].server.wait();
        wait_for_row(&nodes[2], "state", |state| state == "connecting");
        assert_eq!(nodes[3].text("state"), "following", "it does not notice");
        middle = Node::middle(first_port, port, &timeout);
        nodes[1] = middle;
        wait_for_count(&nodes[2], "sessions", 2);
        writers.stop();
        same(&nodes);
        assert_eq!(nodes[2].number("shards_diverged") + nodes[3].number("shards_diverged"), 0);
        assert_eq!(nodes[3].number("sessions"), 1);
        if nodes[2].number("shards_overrun") == 0 {
            assert_eq!(nodes[2].number("shards_joined"), joined, "it goes on where it was");
        }
    });
}

/// The primary dies, and comes back as a replica of what was its own: both follow, and nobody
/// leads. That is said.
#[test]
fn a_circle_ends_in_words() {
    let (client_port, port) = (fixed_port(), fixed_port());
    let mut one = Node::primary_at(client_port, port, &["-m", "8"]);
    assert_eq!(one.client().set("kept", b"value"), "STORED");
    let two = Node::middle(one.port(), 0, &["--replication-timeout", "3"]);
    in_sync(&one, &[&two]);
    one.server.signal("KILL");
    one.server.wait();
    let one = Node::middle(two.port(), port, &["--replication-timeout", "3"]);
    // Whoever is asked first is followed, and refuses to follow: so the circle is none any more.
    wait_until("one of them is refused", || {
        let said = [&one, &two].map(|node| (node.text("state"), node.text("trouble")));
        let in_words = |said: &(String, String)| said.0 == "refused" && said.1.contains("in a circle");
        if said.iter().any(in_words) { Ok(()) } else { Err(format!("{said:?}")) }
    });
    for node in [&one, &two] {
        assert_eq!(node.client().get("kept").as_deref(), Some(&b"value"[..]), "it serves what it has");
    }
}

/// A planned change: the primary is told to follow its replica first, so that no write is lost in
/// between, then the replica takes over.
#[test]
fn a_primary_follows_its_replica_before_that_is_promoted() {
    on_each_fabric(|fabric| {
        let before = Node::primary(&["-m", "16", "--fabric", fabric]);
        let next = Node::middle(before.port(), 0, &["--fabric", fabric]);
        assert_eq!(before.client().set("kept", b"value"), "STORED");
        in_sync(&before, &[&next]);
        ctl(&before, &["replicate", &next.port().to_string()]);
        wait_for_row(&before, "trouble", |trouble| trouble.contains("in a circle"));
        assert_eq!(next.text("state"), "following", "its own session goes on");
        ctl(&next, &["promote", "--gather", &before.port().to_string()]);
        assert_eq!(next.client().set("later", b"taken"), "STORED");
        wait_for_row(&before, "state", |state| state == "following");
        in_sync(&next, &[&before]);
        for (key, value) in [("kept", &b"value"[..]), ("later", b"taken")] {
            assert_eq!(before.client().get(key).as_deref(), Some(value), "{key}");
        }
        assert_eq!(before.text("depth"), "1");
    });
}

/// Join as `replica`, and subscribe to all shards; the path that is told.
fn follow_as(replica: u8, running: &Running) -> Result<Vec<u8>, String> {
    let (mut joined, _channels) = come(running, replica).map_err(|error| error.to_string())?;
    let own = Chain::new([replica; 16]);
    let subscribed = subscribe(&mut joined, ShardSet::all(2), 1, &own).map_err(|error| error.to_string())?;
    Ok(subscribed.path.iter().map(|server| server[0]).collect())
}

#[test]
fn who_would_follow_itself_is_refused_and_who_would_be_too_deep() {
    let chain = Arc::new(Chain::new([7; 16]));
    let running = offer(small_store(2, None), &chain);
    assert_eq!(follow_as(8, &running), Ok(vec![7]));
    let refused = follow_as(7, &running).expect_err("itself");
    assert!(refused.contains("cannot follow its own log"), "{refused}");
    let above = |count: usize| -> Vec<_> { (0..count).map(|number| [100 + number as u8; 16]).collect() };
    let standing = Arc::new(Standing::default());
    chain.set(vec![("1".parse::<ShardSet>().expect("a shard"), standing.clone())]);
    standing.heard(Distance::default(), above(PATH_MAX - 1));
    assert_eq!(follow_as(8, &running).map(|path| path.len()), Ok(PATH_MAX), "as deep as may be");
    standing.heard(Distance::default(), above(PATH_MAX));
    let refused = follow_as(8, &running).expect_err("too deep");
    assert!(refused.contains("comes through 17 servers"), "{refused}");
    standing.heard(Distance::default(), vec![[9; 16], [8; 16]]);
    let refused = follow_as(8, &running).expect_err("it follows what comes from itself");
    assert!(refused.contains("in a circle"), "{refused}");
    chain.set(vec![]);
    assert_eq!(follow_as(8, &running), Ok(vec![7]));
}

/// The path grows while a session goes on: the next heartbeat ends it.
#[test]
fn a_circle_that_closes_later_is_refused_by_a_heartbeat() {
    let chain = Arc::new(Chain::new([7; 16]));
    let running = offer(small_store(2, None), &chain);
    let (mut joined, _channels) = come(&running, 8).expect("it is admitted");
    subscribe(&mut joined, ShardSet::all(2), 1, &Chain::new([8; 16])).expect("it subscribes");
    let standing = Arc::new(Standing::default());
    standing.heard(Distance::default(), vec![[8; 16]]);
    let mut beats = Vec::new();
    chain.set(vec![(ShardSet::all(1), standing)]);
    let refused = loop {
        match joined.link.receive(Instant::now() + LONG) {
            Ok(Message::Heartbeat(beat)) => beats.push(beat.path),
            Ok(other) => panic!("{}", other.name()),
            Err(error) => break error.to_string(),
        }
    };
    assert!(refused.contains("in a circle"), "{refused}");
    assert!(beats.len() <= 2 && beats.iter().all(|path| *path == [[7; 16]]), "{beats:?}");
}
