//! What a primary answers to subscriptions, one shard at a time, as a replica sees it on the wire.

use crate::node::{LONG, expect_eq, wait_until};
use crate::support::stores::small_store;
use remora::base::shards::ShardSet;
use remora::base::term::Term;
use remora::fabric::{ConnectOptions, Kind, listen};
use remora::replication::attach::{AttachError, Channels, Identity, Joined, attach, join, subscribe};
use remora::replication::board::Board;
use remora::replication::choice::Choice;
use remora::replication::offer::{Offer, OfferConfig, Running};
use remora::replication::penalties::SharedPenalties;
use remora::replication::reached::Holder;
use remora::replication::secret::Secret;
use remora::replication::standing::Chain;
use remora::replication::wire::{Message, Subscribed, Wanted};
use remora::store::{History, Store};
use std::sync::Arc;
use std::time::Instant;

/// An offer of this store, over TCP, by a process that stands where `chain` says.
pub fn offer(store: Store, chain: &Arc<Chain>) -> Running {
    offer_on(store, chain, &Arc::default())
}

/// The same, with this board.
pub fn offer_on(store: Store, chain: &Arc<Chain>, board: &Arc<Board>) -> Running {
    let listen_at = "127.0.0.1:0".parse().expect("an address");
    let config = OfferConfig {
        listen: listen_at,
        secret: Secret::none(),
        exporters: vec![listen(Kind::Tcp, listen_at, &ConnectOptions::default()).expect("TCP")],
        clients: None,
        silence_max: LONG,
        board: board.clone(),
        chain: chain.clone(),
    };
    Offer::start(Arc::new(store), config).expect("a port on loopback")
}

/// Join as `replica`, and connect a channel.
pub fn come(running: &Running, replica: u8) -> Result<(Joined, Channels), AttachError> {
    let identity = Identity::new([replica; 16], "test");
    let mut joined = join(&running.offer().address().to_string(), &Secret::none(), &identity, &Holder::new("test"))?;
    let penalties = SharedPenalties::default();
    let choice = Choice::new("test", &[Kind::Tcp], &penalties);
    let channels = attach(&mut joined, choice, &ConnectOptions::default(), 1)?;
    Ok((joined, channels))
}

fn say(joined: &mut Joined, message: &Message) {
    joined.link.send(message, Instant::now() + LONG).expect("the primary hears");
}

fn answer(joined: &mut Joined) -> Subscribed {
    loop {
        match joined.link.receive(Instant::now() + LONG).expect("the primary answers") {
            Message::Heartbeat(_) => {}
            Message::Subscribed(subscribed) => return subscribed,
            other => panic!("{}", other.name()),
        }
    }
}

fn wait_for_shards(running: &Running, shards: &str) {
    wait_until("the primary counts these shards", || {
        let shown: Vec<_> = running.offer().replicas().iter().map(|replica| replica.shards.to_string()).collect();
        expect_eq("shards", shown, vec![shards.to_string()])
    });
}

#[test]
fn shards_are_subscribed_to_one_by_one_and_left() {
    let running = offer(small_store(4, Some(Term::of(1, 9))), &Arc::new(Chain::new([7; 16])));
    let (mut joined, _channels) = come(&running, 8).expect("it is admitted");
    wait_for_shards(&running, "none");
    let histories = joined.welcome.histories.clone();
    let mut tags = Vec::new();
    for shards in [vec![2], vec![3, 2], vec![2]] {
        let wanted = shards.iter().map(|shard| Wanted::new(*shard, 0)).collect();
        say(&mut joined, &Message::Subscribe(wanted));
        let Subscribed { path, shards: told } = answer(&mut joined);
        assert_eq!(path, [[7; 16]]);
        assert!(told.iter().map(|told| told.shard).eq(shards), "{told:?}");
        assert!(told.iter().all(|told| told.history == histories[told.shard]), "{told:?}");
        tags.extend(told.iter().map(|told| (told.shard, told.tag.number())));
    }
    assert_eq!(tags, [(2, 1), (3, 1), (2, 2), (2, 3)], "each shard has tags of its own");
    wait_for_shards(&running, "2-3");
    say(&mut joined, &Message::Unsubscribe("1-2,1023".parse().expect("shards")));
    wait_for_shards(&running, "3");
    say(&mut joined, &Message::Unsubscribe("3".parse().expect("a shard")));
    wait_for_shards(&running, "none");
    assert_eq!(running.offer().replicas()[0].lag_bytes, 0, "it lacks nothing that it follows here");
    say(&mut joined, &Message::Subscribe(vec![Wanted::new(4, 0)]));
    let refused = joined.link.receive(Instant::now() + LONG).expect_err("there are four");
    assert!(refused.to_string().contains("what is not there"), "{refused}");
}

/// Who has begun nowhere is followed by nobody. Who has begun in one shard tells of that one.
#[test]
fn a_server_that_has_begun_in_some_shards_is_followed() {
    let of = small_store(2, Some(Term::of(1, 9)));
    let empty = || Store::with_geometry(of.geometry(), of.memory().slabs, 1, false, None).expect("a small store");
    let chain = Arc::new(Chain::new([7; 16]));
    let running = offer(empty(), &chain);
    let refused = come(&running, 8).err().expect("it has begun nowhere").to_string();
    assert!(refused.contains("has not begun in any shard"), "{refused}");
    let begun = empty();
    let history = of.histories()[1].clone();
    assert!(begun.follower(1).expect("it is alone").begin_at(64, &history));
    let running = offer(begun, &chain);
    let (mut joined, _channels) = come(&running, 8).expect("it has begun in one");
    let told = subscribe(&mut joined, ShardSet::all(2), 1, &Chain::new([8; 16])).expect("to both").shards;
    assert_eq!(told.into_iter().map(|told| told.history).collect::<Vec<_>>(), [History::NONE, history]);
    wait_for_shards(&running, "0-1");
}
