//! A bound of what is copied, in simulated time: a replica that is not whole takes as long as the
//! bound says, and one that is whole follows at once.

use super::Setup;
use crate::author::Author;
use crate::clock;
use crate::compare::assert_identical;
use crate::pair::{primary, replica_of};
use crate::session::{Network, Offered, Session};
use remora::fabric::sim::Faults;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SETUP: Setup =
    Setup { shard_bytes: 4 << 20, slab_bytes: 256 << 10, shards: 2, item_bytes_max: 2 << 10, evict: true };
/// What passes between two steps.
const TICK: Duration = Duration::from_micros(200);
const VALUE: [u8; 1000] = [7; 1000];

/// Steps until the replica has everything; how long that took, and how many steps said that
/// something moved.
fn catch_up(session: &mut Session<'_>) -> (Duration, usize) {
    let (begun_at, mut moved): (Instant, usize) = (clock::now(), 0);
    loop {
        moved += usize::from(session.step().expect("nothing goes wrong").moved);
        clock::pass(TICK);
        let took = clock::now() - begun_at;
        if session.puller.is_caught_up() {
            return (took, moved);
        }
        assert!(took < Duration::from_secs(60), "it does not catch up");
    }
}

#[test]
fn who_copies_keeps_to_the_bound_and_who_is_whole_does_not() {
    for pullers in [1, 2] {
        let store = Arc::new(primary(SETUP));
        let replica = replica_of(&store);
        let mut author = Author::new(&store);
        let mut write = |from: usize, count: usize| {
            let keys = from..from + count;
            keys.for_each(|key| assert!(author.set_value(format!("key-{key}").as_bytes(), &VALUE).is_some()));
        };
        write(0, 2000);
        let bytes: u64 = store.shards().iter().map(|shard| shard.control().committed() - shard.control().tail()).sum();
        let mut network = Network::new(1);
        network.pullers = pullers;
        network.copy_bound.set(Some(1));
        let mut session = network.connect(&Offered::of(&store), &replica, &Faults::default());
        let (took, moved) = catch_up(&mut session);
        let least = Duration::from_nanos(bytes * 1_000_000_000 / (1 << 20));
        // The last piece of each shard is not waited for.
        assert!(took > least * 3 / 4, "{bytes} bytes in {took:?}");
        assert!(took < least + least / 5, "{bytes} bytes in {took:?}");
        let steps = (took.as_nanos() / TICK.as_nanos()) as usize;
        assert!(moved < steps / 4, "of {steps} steps {moved} say that a puller need not pause");
        write(2000, 1000);
        let (took, _) = catch_up(&mut session);
        assert!(took < least / 20, "what follows is not bounded: {took:?}");
        assert_identical(&store, &replica);
        drop(session);
    }
}
