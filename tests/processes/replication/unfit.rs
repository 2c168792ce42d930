//! Single shards that cannot follow, or whose lane breaks again and again: the others go on.

use super::orders::{ctl, ctl_fails};
use super::roles_by_shard::{SHARDS, port, shows, write};
use super::shards::keys_by_shard;
use super::subscriptions::offer_on;
use super::within::follow_config;
use crate::node::{Node, expect_eq, in_sync, wait_for_count, wait_for_row, wait_until};
use crate::proxy::Proxy;
use crate::support::stores::small_store;
use crate::support::wait::go_on_until;
use remora::base::shards::ShardSet;
use remora::base::term::Term;
use remora::replication::board::{Board, BoardView};
use remora::replication::follow::Following;
use remora::replication::standing::Chain;
use remora::store::Store;
use std::sync::Arc;

/// The server at an address is another one than before, and in one shard it was replaced.
#[test]
fn a_shard_that_cannot_follow_is_refused_alone() {
    let old = Node::primary(&["-m", "32", "--shards", "8"]);
    let new = Node::standby(old.port(), &["--fabric", "tcp"]);
    in_sync(&old, &[&new]);
    ctl(&new, &["promote", "--shards", "7"]);
    let way = Proxy::to(new.port());
    let replica = Node::replica(way.address, &["--fabric", "tcp"]);
    let keys = keys_by_shard(SHARDS, 2);
    write(&new, &[], &keys[7][0], "of the new one");
    in_sync(&new, &[&replica]);

    way.redirect(old.port());
    way.cut();
    wait_for_row(&replica, "shards_refused", |shards| shards == "7");
    wait_for_row(&replica, "state", |state| state == "refused");
    let trouble = replica.text("trouble");
    assert!(trouble.contains("shards 7: the primary at") && trouble.contains("it was replaced"), "{trouble}");
    assert!(trouble.contains("remora ctl replicate --shards 7"), "what to do: {trouble}");
    keys.iter().for_each(|keys| write(&old, &[], &keys[1], "of the old one"));
    for (shard, keys) in keys.iter().enumerate().take(SHARDS - 1) {
        go_on_until("the others are followed", || {
            replica.client().get(&keys[1]).is_some_and(|found| found == b"of the old one")
        });
        assert_eq!(old.text("replica_0_shards"), "0-6", "{shard}");
    }
    assert_eq!(replica.client().get(&keys[7][1]), None);
    assert_eq!(replica.client().get(&keys[7][0]).as_deref(), Some(&b"of the new one"[..]), "what it has it serves");
    wait_for_row(&old, "replica_0_counted", |counted| counted == "yes");
    let address = way.address.to_string();
    ctl_fails(&replica, &["replicate", "--shards", "7", &address], "it was replaced");
    // Once there is a log that it can follow, it is followed.
    ctl(&old, &["replicate", "--shards", "7", &port(&new)]);
    wait_for_row(&replica, "state", |state| state == "following");
    shows(&replica, &[("shards_refused", "none"), ("trouble", "none"), ("shards", "0-7")]);
    in_sync(&old, &[&replica, &new]);
    replica.server.signal("TERM");
    let said: Vec<String> = std::iter::from_fn(|| replica.server.next_log_line()).collect();
    let told = said.iter().filter(|line| line.contains("the other shards are followed")).count();
    assert!((1..=2).contains(&told), "once in each following, not for each try: {said:?}");
}

/// A server that was restarted empty is refused in the shards that hold something. An order to
/// follow in one of them names it, and says what was given up.
#[test]
fn a_shard_of_another_lineage_is_refused_alone() {
    let one = Node::primary(&["-m", "32", "--shards", "8"]);
    let way = Proxy::to(one.port());
    let replica = Node::replica(way.address, &["--fabric", "tcp"]);
    let keys = keys_by_shard(SHARDS, 1).concat();
    write(&one, &[], &keys[3], "kept");
    in_sync(&one, &[&replica]);
    let other = Node::primary(&["-m", "32", "--shards", "8"]);
    way.redirect(other.port());
    way.cut();
    wait_for_row(&replica, "shards_refused", |shards| shards == "3");
    keys.iter().for_each(|key| write(&other, &[], key, "of the other"));
    go_on_until("an empty shard follows", || replica.client().get(&keys[2]).is_some());
    wait_for_count(&replica, "sessions", 2);
    // Before it has caught up, it tells why the session before this one has ended.
    wait_for_row(&replica, "state", |state| state == "refused");
    assert_eq!(replica.client().get(&keys[3]).as_deref(), Some(&b"kept"[..]));
    let trouble = replica.text("trouble");
    let remedy = format!("remora ctl replicate --discard --shards 3 {}", way.address);
    assert!(trouble.contains("another lineage") && trouble.ends_with(&remedy), "{trouble}");
    let words = ctl(&replica, &remedy.split(' ').skip(2).collect::<Vec<_>>());
    assert!(words.contains("; dropped, because that primary never had it: 1 records, "), "{words}");
    assert!(words.contains("; discarded, of another lineage: what 1 shards had"), "{words}");
    in_sync(&other, &[&replica]);
    assert_eq!(replica.client().get(&keys[3]).as_deref(), Some(&b"of the other"[..]));
}

/// What is published of a shard is no record. Its lane ends again and again; the replica counts in
/// the others.
#[test]
fn who_cannot_follow_one_shard_is_counted_in_the_others() {
    let store = small_store(4, Some(Term::of(1, 9)));
    let empty = Store::with_geometry(store.geometry(), store.memory().slabs, 1, false, None).expect("a small store");
    let line = store.shards()[1].control();
    line.commit(line.committed() + 64);
    let head = store.shards()[0].control().committed();
    let board = Arc::<Board>::default();
    let running = offer_on(store, &Arc::new(Chain::new([7; 16])), &board);
    let config = follow_config(running.offer().address());
    let following = Following::start(config, None, ShardSet::all(4), Arc::new(empty)).expect("a thread");
    wait_until("it is counted in the shards that it can follow", || {
        let replicas = running.offer().replicas();
        let stands = replicas.first().map(|replica| (replica.shards.to_string(), replica.is_counted));
        expect_eq("shards", stands, Some(("0,2-3".into(), true)))
    });
    let mut view = BoardView::new(board);
    view.refresh();
    assert_eq!([0, 1, 2].map(|shard| view.holders(shard, head)), [1, 0, 1]);
    let trouble = following.follow().snapshot().trouble;
    assert!(trouble.contains("shard 1") && trouble.contains("failed its check"), "{trouble}");
}
