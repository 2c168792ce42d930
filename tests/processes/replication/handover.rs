//! Shards that are handed over under load, and what is left where an heir comes too late, gives up,
//! or is gone: the test takes its place ([`Claim`]).

use super::orders::{ctl, ctl_fails, let_in};
use crate::node::{Node, in_sync, on_each_fabric, wait_for_row};
use crate::proxy::Proxy;
use crate::support::wait::{Ends, go_on_until};
use crate::support::{Client, Server};
use remora::base::shards::ShardSet;
use remora::base::term::Term;
use remora::replication::claim::{Claim, ClaimError};
use remora::replication::order::Peer;
use remora::replication::secret::Secret;
use remora::replication::wire::Seal;
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const SHARDS: [&str; 4] = ["-m", "64", "--shards", "8"];

fn standby(primary: &Node, fabric: &str) -> Node {
    Node::standby(primary.port(), &["--fabric", fabric])
}

/// Whom a refusal names.
fn named(refusal: &str) -> Option<SocketAddr> {
    refusal.strip_prefix("SERVER_ERROR read-only replica: write to the primary at ")?.parse().ok()
}

/// Writes numbers under its own keys, one after the other, each to whoever takes it, until it is
/// told to end. What it returns was acknowledged: the last number of each key.
fn write_on(writer: usize, first: SocketAddr, ends: &AtomicBool) -> HashMap<String, u64> {
    let (mut clients, mut acknowledged) = (HashMap::new(), HashMap::new());
    let mut at = HashMap::new();
    for number in 1.. {
        if ends.load(Relaxed) {
            break;
        }
        let key = format!("writer-{writer}-{}", number % 50);
        go_on_until("somebody takes it", || {
            let to = *at.entry(key.clone()).or_insert(first);
            let client = clients.entry(to).or_insert_with(|| Client::tcp(to));
            let said = client.set(&key, number.to_string().as_bytes());
            match named(&said) {
                Some(other) => at.insert(key.clone(), other),
                None => {
                    assert!(said == "STORED" || said.starts_with("SERVER_ERROR read-only"), "{said}");
                    None
                }
            };
            said == "STORED"
        });
        acknowledged.insert(key, number);
    }
    acknowledged
}

/// Back and forth, all shards or some, while clients write to whoever takes it: each write that was
/// taken is there in the end, at the server that takes the next.
#[test]
fn a_take_over_loses_no_write() {
    on_each_fabric(|fabric| {
        let one = Node::primary(&[&SHARDS[..], &["--fabric", fabric]].concat());
        let two = standby(&one, fabric);
        in_sync(&one, &[&two]);
        let ends = AtomicBool::new(false);
        let written = std::thread::scope(|scope| {
            let (first, ends) = (one.server.tcp[0], &ends);
            let _ends = Ends(ends);
            let writers: Vec<_> = (0..2).map(|writer| scope.spawn(move || write_on(writer, first, ends))).collect();
            for (heir, shards) in [(&two, "0-3"), (&two, "4-7"), (&one, "0-7"), (&two, "2,5"), (&one, "5")] {
                let said = ctl(heir, &["promote", "--take-over", "--shards", shards]);
                assert!(said.contains("the primary of term"), "{said}");
            }
            ends.store(true, Relaxed);
            writers.into_iter().map(|writer| writer.join().expect("it writes on")).collect::<Vec<_>>()
        });
        assert_eq!((one.text("shards_primary"), two.text("shards_primary")), ("0-1,3-7".into(), "2".into()));
        for node in [&one, &two] {
            wait_for_row(node, "state", |state| state == "following");
        }
        let mut asked = 0;
        for (key, number) in written.into_iter().flatten() {
            let value = number.to_string();
            // Whoever takes the key's writes has it, and the other comes by it.
            for node in [&one, &two] {
                go_on_until("the last write is there", || {
                    node.client().get(&key).is_some_and(|found| found == value.as_bytes())
                });
            }
            asked += 1;
        }
        assert!(asked > 50, "{asked}");
        for node in [&one, &two] {
            assert_eq!((node.number("diverged_records"), node.number("bad_records")), (0, 0));
        }
    });
}

/// An heir that is this test: it offers nothing at these ports.
fn seal(shards: &str, term: Term) -> Seal {
    let nobody = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).ok();
    let shards: ShardSet = shards.parse().expect("shards");
    Seal { shards, term, heir: [9; 16], clients: nobody(), replication: nobody() }
}

fn claim(node: &Node, seal: &Seal) -> Result<Claim, String> {
    Claim::ask(&Peer::whoever(node.port().to_string()), &Secret::none(), seal).map_err(|error| error.to_string())
}

/// Numbers of a node's terms are small: this is later.
fn later(number: u32) -> Term {
    Term::of(number, 7)
}

/// A key of each shard group: one that is refused once these shards are sealed, and one that is
/// not.
fn keys_by_refusal(node: &Node) -> (Vec<String>, Vec<String>) {
    let keys = (0..200).map(|number| format!("key-{number}"));
    keys.partition(|key| node.client().set(key, b"before").starts_with("SERVER_ERROR read-only"))
}

#[test]
fn a_sealed_primary_takes_no_writes_until_it_is_given_up() {
    let primary = Node::primary(&SHARDS);
    assert_eq!(keys_by_refusal(&primary).0.len(), 0);
    let term = primary.text("term");
    let seal = seal("0-3", later(5));
    let claim = claim(&primary, &seal).expect("it stops");
    let head = claim.sealed(2).expect("it was asked").position;
    assert!(head > 64 && claim.sealed(2).expect("it was asked").is_whole && claim.sealed(4).is_none());
    let (refused, taken) = keys_by_refusal(&primary);
    assert!(refused.len() > 50 && taken.len() > 50, "{} {}", refused.len(), taken.len());
    let said = primary.client().set(&refused[0], b"1");
    assert_eq!(named(&said), seal.clients, "{said}");
    assert_eq!(primary.text("shards_primary"), "4-7");
    claim.settle(None);
    wait_for_row(&primary, "shards_primary", |shards| shards == "0-7");
    assert_eq!(keys_by_refusal(&primary).0.len(), 0);
    assert!(primary.text("term").starts_with("6-"), "above {term}, and above what it had stopped for");
}

/// What becomes of an answer that is held for a replica when its primary stops for an heir. The
/// test is the heir: it knows what it has.
#[test]
fn a_held_answer_goes_out_once_the_heir_has_what_was_written() {
    let flags = [&SHARDS[..], &["--ack-replicas", "1", "--ack-timeout", "30000"]].concat();
    for (goes_on, answer) in [(true, "STORED"), (false, "SERVER_ERROR not acknowledged: this server became a replica")]
    {
        let primary = Node::primary(&flags);
        let mut client = Client::tcp(primary.server.tcp[0]);
        client.send(b"set key 0 0 4\r\nheld\r\n");
        go_on_until("it is written", || primary.client().get("key").is_some());
        let claim = claim(&primary, &seal("0-7", later(5))).expect("it stops");
        // Nothing is said before the heir has told: a request of another connection is refused
        // meanwhile.
        assert!(primary.client().set("key", b"late").starts_with("SERVER_ERROR read-only"));
        claim.settle(Some(if goes_on { ShardSet::all(8) } else { ShardSet::default() }));
        let said = client.line();
        assert!(said.starts_with(answer), "goes on {goes_on}: {said}");
    }
}

/// The same where the heir gives up: the primary is that again, and a replica that comes has it.
#[test]
fn a_held_answer_waits_on_where_the_heir_gives_up() {
    let primary = Node::primary(&[&SHARDS[..], &["--ack-replicas", "1", "--ack-timeout", "30000"]].concat());
    let mut client = Client::tcp(primary.server.tcp[0]);
    client.send(b"set key 0 0 4\r\nheld\r\n");
    go_on_until("it is written", || primary.client().get("key").is_some());
    claim(&primary, &seal("0-7", later(5))).expect("it stops").settle(None);
    wait_for_row(&primary, "shards_primary", |shards| shards == "0-7");
    let _replica = standby(&primary, "shm");
    assert_eq!(client.line(), "STORED");
}

#[test]
fn who_was_sealed_and_lost_its_heir_goes_on_above_its_term() {
    let primary = Node::primary(&SHARDS);
    assert_eq!(keys_by_refusal(&primary).0.len(), 0);
    let seal = seal("0-3", later(5));
    drop(claim(&primary, &seal).expect("it stops"));
    // Nobody knows whether the heir has begun. So it is followed, for as long as nobody decides.
    go_on_until("it tries to follow", || {
        primary.rows().get("trouble").is_some_and(|trouble| trouble.contains("cannot connect"))
    });
    assert_eq!((primary.text("shards").as_str(), primary.text("shards_primary").as_str()), ("0-3", "4-7"));
    let refused = keys_by_refusal(&primary).0;
    assert!(primary.client().get(&refused[0]).is_some(), "it serves what it has");
    ctl(&primary, &["promote"]);
    assert_eq!(keys_by_refusal(&primary).0.len(), 0);
    assert!(primary.text("term").starts_with("6-"), "{}", primary.text("term"));
}

#[test]
fn a_lower_term_seals_nobody() {
    let primary = Node::primary(&SHARDS);
    let refused = |seal: &Seal| claim(&primary, seal).map(drop).expect_err("it goes on");
    assert!(refused(&seal("0-7", later(1))).contains("comes too late"));
    let first = claim(&primary, &seal("0-3", later(5))).expect("it stops");
    for term in [4, 5] {
        let why = refused(&seal("3-7", later(term)));
        assert!(why.contains("shard 3 knows of term 5-"), "{why}");
    }
    assert_eq!(primary.text("shards_primary"), "4-7", "none of those that were asked for in vain");
    // Nor a later one, before the first is settled.
    assert!(refused(&seal("0-7", later(6))).contains("have stopped for term 5-"));
    first.settle(None);
    wait_for_row(&primary, "shards_primary", |shards| shards == "0-7");
    claim(&primary, &seal("0-7", later(9))).expect("it stops").settle(None);
    wait_for_row(&primary, "shards_primary", |shards| shards == "0-7");
    let why = refused(&seal("8", later(19)));
    assert!(why.contains("this server has 8 shards"), "{why}");
    ctl_fails(&primary, &["promote", "--gather", &primary.port().to_string(), "--shards", "8"], "has 8 shards");
}

/// A replica that has stopped for an heir counts nowhere: its primary may be the old one.
#[test]
fn a_sealed_replica_acknowledges_nothing() {
    let primary = Node::primary(&[&SHARDS[..], &["--ack-replicas", "1", "--ack-timeout", "300"]].concat());
    let replica = standby(&primary, "shm");
    in_sync(&primary, &[&replica]);
    assert_eq!(primary.client().set("key", b"held"), "STORED");
    let claim = claim(&replica, &seal("0-7", later(5))).expect("it stops");
    let said = primary.client().set("key", b"not held");
    assert!(said.starts_with("SERVER_ERROR") && said.contains("replica"), "{said}");
    claim.settle(None);
    wait_for_row(&replica, "state", |state| state == "following");
    go_on_until("it is held again", || primary.client().set("key", b"held again") == "STORED");
}

/// Who has been gathered from follows the new primary by itself.
#[test]
fn who_was_gathered_from_follows_the_new_primary() {
    let primary = Node::primary(&SHARDS);
    let (next, other) = (standby(&primary, "tcp"), standby(&primary, "tcp"));
    assert_eq!(primary.client().set("key", b"1"), "STORED");
    in_sync(&primary, &[&next, &other]);
    let port = next.port().to_string();
    primary.server.signal("KILL");
    ctl_fails(&next, &["promote", "--gather", &next.port().to_string()], "this is the replica itself");
    ctl_fails(&next, &["promote", "--take-over"], "leave that replica out");
    ctl(&next, &["promote", "--gather", &other.port().to_string()]);
    assert_eq!(next.client().set("key", b"2"), "STORED");
    wait_for_row(&other, "primary", |primary| primary == port);
    wait_for_row(&other, "state", |state| state == "following");
    in_sync(&next, &[&other]);
    assert_eq!(other.client().get("key").as_deref(), Some(&b"2"[..]));
}

/// Wait until it tries to follow whoever is at this address.
fn follows(node: &Node, address: &str) {
    go_on_until("it follows", || node.rows().get("primary").is_some_and(|primary| primary == address));
}

/// The connection of an heir comes from another address than the one that it is reached at.
#[test]
fn an_heir_is_followed_where_it_says_it_is() {
    let primary = Node::primary(&SHARDS);
    let at = |address: &str| {
        let listener = TcpListener::bind((address, 0)).expect("every address of the loopback is this host's");
        listener.local_addr().ok()
    };
    let told = Seal { clients: at("127.0.0.3"), replication: at("127.0.0.2"), ..seal("0-3", later(5)) };
    let lost = claim(&primary, &told).expect("it stops");
    let (refused, _) = keys_by_refusal(&primary);
    let said = primary.client().set(&refused[0], b"1");
    assert_eq!(named(&said), told.clients, "{said}");
    drop(lost);
    let address = told.replication.expect("an address").to_string();
    follows(&primary, &address);
    ctl(&primary, &["promote"]);

    let (listen, of) = ("127.0.0.2:0", primary.port().to_string());
    let heir = ["-l", listen, "--replication", listen, "--replica-of", &of, "-t", "1"];
    let heir = Node::of(Server::start_listening(&heir, 1), "remora: replication on tcp ");
    in_sync(&primary, &[&heir]);
    ctl(&heir, &["promote", "--take-over"]);
    let port = heir.port().to_string();
    assert!(port.starts_with("127.0.0.2:"), "{port}");
    follows(&primary, &port);
    let said = primary.client().set("key", b"1");
    assert_eq!(named(&said), Some(heir.server.tcp[0]), "{said}");
    in_sync(&heir, &[&primary]);
}

/// A replica has stopped for an heir that gave up. Another heir begins above that one's term, and
/// need not guess it.
#[test]
fn who_has_stopped_for_a_later_term_says_for_which() {
    let primary = Node::primary(&SHARDS);
    let (next, other) = (standby(&primary, "tcp"), standby(&primary, "tcp"));
    assert_eq!(primary.client().set("key", b"1"), "STORED");
    in_sync(&primary, &[&next, &other]);
    claim(&other, &seal("3-5", later(7))).expect("it stops").settle(None);
    wait_for_row(&other, "state", |state| state == "following");
    let early = Claim::ask(&Peer::whoever(other.port().to_string()), &Secret::none(), &seal("0-4", later(6))).map(drop);
    let Err(ClaimError::NotSealed { known, .. }) = early else { panic!("{early:?}") };
    assert_eq!(known, later(7));
    primary.server.signal("KILL");
    ctl(&next, &["promote", "--gather", &other.port().to_string()]);
    assert!(next.text("term").starts_with("8-"), "{}", next.text("term"));
    in_sync(&next, &[&other]);
}

/// A leader reserves terms before it uses them: an order that comes late does not undo the one of a
/// later term, where both ask a server in common.
#[test]
fn an_order_with_a_reserved_term_begins_that_one_or_none() {
    let primary = Node::primary(&SHARDS);
    let (next, other) = (standby(&primary, "tcp"), standby(&primary, "tcp"));
    assert_eq!(primary.client().set("key", b"1"), "STORED");
    in_sync(&primary, &[&next, &other]);
    let words = ctl(&next, &["promote", "--term", "9", "--take-over", "--shards", "0-3"]);
    assert!(words.contains("the primary of term 9-"), "{words}");
    let gather = next.port().to_string();
    for (late, shards) in [("8", "0-3"), ("9", "2"), ("2", "1-7")] {
        let order = ["promote", "--term", late, "--shards", shards, "--gather", &gather];
        ctl_fails(&other, &order, "reserve a later");
    }
    assert_eq!((next.text("shards_primary"), other.text("shards_primary")), ("0-3".into(), "none".into()));
    assert_eq!(primary.text("shards_primary"), "4-7");
    let words = ctl(&other, &["promote", "--term", "12", "--shards", "2", "--gather", &gather]);
    assert!(words.contains("the primary of term 12-"), "{words}");
    assert_eq!((next.text("shards_primary"), other.text("shards_primary")), ("0-1,3".into(), "2".into()));
    // By itself, too: it has stopped for that term.
    ctl_fails(&next, &["promote", "--term", "12", "--shards", "2"], "reserve a later");
}

/// A cluster grows: the new server takes over what it has nothing of.
#[test]
fn an_heir_that_has_nothing_gathers_everything() {
    let primary = Node::primary(&SHARDS);
    let keys: Vec<String> = (0..200).map(|number| format!("key-{number}")).collect();
    keys.iter().for_each(|key| assert_eq!(primary.client().set(key, key.as_bytes()), "STORED"));
    let (_way, heir) = let_in(&primary, 4);
    assert_eq!((heir.text("terms_known").as_str(), heir.client().get("key-7")), ("0", None));
    let words = ctl(&heir, &["promote", "--shards", "0-3", "--gather", &primary.port().to_string()]);
    assert!(words.contains("the primary of term 2-") && !words.contains("empty"), "{words}");
    assert_eq!((heir.text("shards_primary"), primary.text("shards_primary")), ("0-3".into(), "4-7".into()));
    let own = keys.iter().filter(|key| heir.client().set(key, b"mine") == "STORED").count();
    assert!((50..150).contains(&own), "{own}");
    let held = |key: &&String| heir.client().get(key).is_some();
    assert_eq!(keys.iter().filter(held).count(), own, "it has all of those shards, and of no others");
    wait_for_row(&primary, "state", |state| state == "following");
    in_sync(&heir, &[&primary]);
    for key in &keys {
        assert!(primary.client().get(key).is_some(), "{key}");
    }
}

/// Who has nothing cannot tell beforehand whose logs are of one history.
#[test]
fn an_heir_that_has_nothing_does_not_mix_two_histories() {
    let (one, other) = (Node::primary(&SHARDS), Node::primary(&SHARDS));
    for node in [&one, &other] {
        assert_eq!(keys_by_refusal(node).0.len(), 0);
    }
    let (_way, heir) = let_in(&one, 4);
    let [first, second] = [&one, &other].map(|node| node.port().to_string());
    ctl_fails(&heir, &["promote", "--gather", &first, "--gather", &second], "leave that replica out");
    assert!(heir.text("order_outcome").contains("shard 0 is of term "), "{}", heir.text("order_outcome"));
    for node in [&one, &other] {
        wait_for_row(node, "shards_primary", |shards| shards == "0-7");
        assert_eq!(keys_by_refusal(node).0.len(), 0, "it goes on");
    }
}

/// Who was sealed and has lost its heir follows at an address that nobody may be at yet. An order
/// names the same server otherwise meanwhile: two sessions with it, for which it has one place.
#[test]
fn two_names_of_one_server_end_in_one_session() {
    let primary = Node::primary(&SHARDS);
    assert_eq!(keys_by_refusal(&primary).0.len(), 0);
    let replica = standby(&primary, "tcp");
    in_sync(&primary, &[&replica]);
    let nobody = seal("0-3", later(5));
    let proxy = Proxy::to(nobody.replication.expect("an address"));
    drop(claim(&replica, &Seal { replication: Some(proxy.address), ..nobody }).expect("it stops"));
    wait_for_row(&replica, "shards", |shards| shards == "0-7");
    let address = format!("127.0.0.1:{}", primary.port().port());
    ctl(&replica, &["detach", "--shards", "4-7"]);
    let detached = wait_for_row(&replica, "primary", |primary| primary == proxy.address.to_string());
    assert_eq!(replica.text("shards"), "0-3", "{detached}");
    ctl(&replica, &["replicate", "--shards", "4-7", &address]);
    assert_eq!(replica.number("primary_1_lag_bytes"), 0);
    proxy.redirect(primary.port());
    wait_for_row(&replica, "primary", |primary| primary == address);
    in_sync(&primary, &[&replica]);
    assert_eq!((primary.text("replica_0_shards").as_str(), replica.text("shards").as_str()), ("0-7", "0-7"));
}
