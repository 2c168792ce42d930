//! Stores of which some shards take writes and others take none.

use super::{BEGIN, follower_of, seeds};
use crate::compare::assert_same;
use crate::link::Link;
use crate::support::harness::{self, Client};
use remora::engine::Engine;
use remora::store::Store;
use std::collections::HashMap;

const SHARDS: usize = 4;
const ITEM_BYTES_MAX: usize = 8 << 10;
const KEYS: usize = 40;
const STEPS: usize = 3000;
/// Pulls after which a shard must have come up with one that nobody writes to.
const PULLS_MAX: usize = 1000;
const NAMES: [&str; 2] = ["a.example:1", "b.example:1"];

fn refusal(primary: &str) -> String {
    format!("SERVER_ERROR read-only replica: write to the primary at {primary}\r\n")
}

/// A key of this shard.
fn key_in(store: &Store, shard: usize) -> String {
    let mut keys = (0..).map(|number| format!("in-{number}"));
    keys.find(|key| store.locate(key.as_bytes()).place.shard() as usize == shard).expect("every shard has keys")
}

/// Two servers, each the primary of some shards and a replica of the others, and what there is.
struct Two<'e> {
    clients: [Client<'e>; 2],
    /// To each from the other.
    links: [Link<'e>; 2],
    /// Who takes the writes of each shard.
    owner: [usize; SHARDS],
    items: HashMap<String, String>,
}

impl<'e> Two<'e> {
    fn store(&self, server: usize) -> &'e Store {
        self.clients[server].engine.store()
    }

    fn shard_of(&self, key: &str) -> usize {
        self.store(0).locate(key.as_bytes()).place.shard() as usize
    }

    /// The server that follows with this shard comes up.
    fn pull(&mut self, shard: usize) {
        let link = &mut self.links[1 - self.owner[shard]];
        assert!((0..PULLS_MAX).any(|_| link.pull(shard, 4096)), "shard {shard} never comes up");
    }

    /// The other server takes this shard's writes from now on, in the same term: nobody else does.
    fn move_shard(&mut self, shard: usize) {
        let (old, new) = (self.owner[shard], 1 - self.owner[shard]);
        self.store(old).close_gates([shard], Some(NAMES[new]));
        self.pull(shard);
        self.store(new).open_gates([shard]);
        self.owner[shard] = new;
    }

    /// A write of `key` at a server: taken by one, refused by the other with the address of that
    /// one.
    fn write(&mut self, server: usize, key: &str, command: &str, answer: &str) -> bool {
        let shard = self.shard_of(key);
        let owner = self.owner[shard];
        let expected = if server == owner { answer.to_string() } else { refusal(NAMES[owner]) };
        assert_eq!(self.clients[server].ask(command), expected, "{command:?} at {}", NAMES[server]);
        self.pull(shard);
        server == owner
    }

    /// A get of these keys, or a gat, which writes.
    fn read(&mut self, server: usize, keys: &[String], is_gat: bool) {
        let mut answer = String::new();
        for key in keys {
            let Some(value) = self.items.get(key) else { continue };
            answer += &format!("VALUE {key} 0 {}\r\n{value}\r\n", value.len());
        }
        answer += "END\r\n";
        let elsewhere = keys.iter().map(|key| self.owner[self.shard_of(key)]).find(|owner| *owner != server);
        if let (true, Some(owner)) = (is_gat, elsewhere) {
            answer = refusal(NAMES[owner]);
        }
        let command = format!("{} {}\r\n", if is_gat { "gat 0" } else { "get" }, keys.join(" "));
        assert_eq!(self.clients[server].ask(&command), answer, "{command:?} at {}", NAMES[server]);
        keys.iter().for_each(|key| self.pull(self.shard_of(key)));
    }
}

#[test]
fn shards_wander_between_two_servers_and_each_has_one_that_writes() {
    for seed in seeds() {
        println!("REMORA_SEED={seed}");
        let first = harness::engine(64 << 10, SHARDS, ITEM_BYTES_MAX, true, 1);
        let second = harness::over(follower_of(first.store()), ITEM_BYTES_MAX, 1);
        let mut two = Two {
            clients: [&first, &second].map(|engine| Client::new(engine, 0, BEGIN)),
            links: [Link::new(second.store(), first.store()), Link::new(first.store(), second.store())],
            owner: [0; SHARDS],
            items: HashMap::new(),
        };
        second.store().close_gates(0..SHARDS, Some(NAMES[0]));
        (0..SHARDS).for_each(|shard| two.pull(shard));
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut taken, mut refused) = (0, 0);
        for number in 0..STEPS {
            let server = random.usize(0..2);
            let keys: Vec<String> = (0..random.usize(1..5)).map(|_| format!("key-{}", random.usize(0..KEYS))).collect();
            let key = keys[0].clone();
            match random.u8(0..20) {
                0 => two.move_shard(random.usize(0..SHARDS)),
                1..10 => {
                    let value = format!("{number}{}", "x".repeat(random.usize(0..300)));
                    let command = format!("set {key} 0 0 {}\r\n{value}\r\n", value.len());
                    let is_taken = two.write(server, &key, &command, "STORED\r\n");
                    (taken, refused) = if is_taken { (taken + 1, refused) } else { (taken, refused + 1) };
                    is_taken.then(|| two.items.insert(key, value));
                }
                10..12 => {
                    let answer = if two.items.contains_key(&key) { "DELETED\r\n" } else { "NOT_FOUND\r\n" };
                    if two.write(server, &key, &format!("delete {key}\r\n"), answer) {
                        two.items.remove(&key);
                    }
                }
                12..14 => two.read(server, &keys, true),
                _ => two.read(server, &keys, false),
            }
        }
        let now = two.clients[0].now;
        assert_same(first.store(), second.store(), now);
        assert!(seeds().len() == 1 || taken > STEPS / 10 && refused > STEPS / 10, "{taken} taken, {refused} refused");
    }
}

/// Two shards that take writes, and two that take none and name nobody.
fn mixed() -> Engine {
    let engine = harness::engine(64 << 10, SHARDS, ITEM_BYTES_MAX, true, 1);
    engine.store().close_gates([1, 3], Some(NAMES[1]));
    engine
}

#[test]
fn what_concerns_all_shards_is_refused_by_a_server_that_has_not_all() {
    let engine = mixed();
    let mut client = Client::new(&engine, 0, BEGIN);
    let own = key_in(engine.store(), 0);
    assert_eq!(client.ask(&format!("set {own} 0 0 1\r\na\r\n")), "STORED\r\n");
    for command in ["flush_all\r\n", "flush_all 10\r\n", "cache_memlimit 8\r\n"] {
        assert_eq!(client.ask(command), refusal(NAMES[1]), "{command:?}");
    }
    assert_eq!(client.ask("flush_all noreply\r\n"), "");
    assert_eq!(client.ask(&format!("get {own}\r\n")), format!("VALUE {own} 0 1\r\na\r\nEND\r\n"), "nothing is flushed");
    assert!(client.ask("stats replication\r\n").contains("STAT role mixed\r\n"));
    engine.store().open_gates([1, 3]);
    assert_eq!(client.ask("flush_all\r\n"), "OK\r\n");
}

/// Its log may have come further elsewhere: who takes the writes says when it is flushed.
#[test]
fn a_delayed_flush_waits_where_its_shard_takes_no_writes() {
    let engine = harness::engine(64 << 10, SHARDS, ITEM_BYTES_MAX, true, 1);
    let mut client = Client::new(&engine, 0, BEGIN);
    let keys: Vec<String> = (0..3).map(|shard| key_in(engine.store(), shard)).collect();
    keys.iter().for_each(|key| assert_eq!(client.ask(&format!("set {key} 0 0 1\r\na\r\n")), "STORED\r\n"));
    assert_eq!(client.ask("flush_all 10\r\n"), "OK\r\n");
    engine.store().close_gates([1, 2], None);
    engine.store().open_gates([1]);
    client.now.0 += 10;
    let get = format!("get {}\r\n", keys.join(" "));
    assert_eq!(client.ask(&get), format!("VALUE {} 0 1\r\na\r\nEND\r\n", keys[2]));
    engine.store().open_gates([2]);
    assert_eq!(client.ask(&get), "END\r\n");
}

/// A flush that waited for a gate goes before what is written behind it, also by a request that was
/// planned while the gate was closed.
#[test]
fn a_delayed_flush_takes_nothing_that_was_written_after_the_gate_was_opened() {
    let engine = harness::engine(64 << 10, 1, ITEM_BYTES_MAX, true, 1);
    let mut client = Client::new(&engine, 0, BEGIN);
    assert_eq!(client.ask("set before 0 0 1\r\na\r\nflush_all 10\r\n"), "STORED\r\nOK\r\n");
    let store = engine.store();
    store.close_gates([0], None);
    client.now.0 += 10;
    client.planned = Some(Box::new(|| store.open_gates([0])));
    assert_eq!(client.ask("set after 0 0 1\r\nb\r\n"), "STORED\r\n");
    assert_eq!(client.ask("get before after\r\n"), "VALUE after 0 1\r\nb\r\nEND\r\n");
}

/// The look when a request is planned proves nothing.
#[test]
fn a_gate_that_is_closed_after_a_request_was_planned_refuses_it() {
    let commands =
        ["set k 0 0 1\r\na\r\n", "incr n 1\r\n", "delete n\r\n", "touch n 0\r\n", "gat 0 n\r\n", "mg none N30\r\n"];
    for command in commands {
        let engine = harness::engine(64 << 10, 1, ITEM_BYTES_MAX, true, 1);
        let mut client = Client::new(&engine, 0, BEGIN);
        assert_eq!(client.ask("set n 0 0 1\r\n1\r\n"), "STORED\r\n");
        let (store, reign) = (engine.store(), engine.store().reign());
        let heads = store.heads(reign);
        client.planned = Some(Box::new(|| store.close_gates([0], Some(NAMES[0]))));
        assert_eq!(client.ask(command), refusal(NAMES[0]), "{command:?}");
        assert_eq!(store.heads(reign), heads, "{command:?} has written nothing");
        assert_eq!(client.ask("get n\r\n"), "VALUE n 0 1\r\n1\r\nEND\r\n");
    }
}
