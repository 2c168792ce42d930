//! How far behind its primary a replica knows to be at most.

use super::SHARDS;
use crate::pair::{primary, replica_of};
use crate::session::{Network, Offered, Session};
use remora::base::time::boot_milliseconds;
use remora::fabric::sim::Faults;
use remora::store::Store;
use std::sync::Arc;

const STEPS_MAX: usize = 1000;
/// So long nobody looks, in milliseconds.
const PAUSE: u64 = 200;

/// Take steps until that holds.
fn step_until(session: &mut Session<'_>, what: &str, holds: impl Fn() -> bool) {
    let stepped = (0..STEPS_MAX).any(|_| {
        assert!(session.step().is_ok(), "nothing goes wrong");
        holds()
    });
    assert!(stepped, "{what}");
}

/// Of a shard whose time changes whenever that is told.
fn behind(store: &Store) -> Option<u64> {
    store.shards()[0].behind_milliseconds(boot_milliseconds()).map(u64::from)
}

/// A look that shows another beat shows that the primary has lived since the look before, and no
/// more: it may have stood still since, and another server may have taken its place.
#[test]
fn a_beat_that_has_moved_says_that_the_primary_lived_after_the_look_before() {
    let giver = Arc::new(primary(SHARDS));
    let replica = replica_of(&giver);
    let mut session = Network::new(1).connect(&Offered::of(&giver), &replica, &Faults::default());
    giver.serve(true);
    step_until(&mut session, "it follows", || replica.shards()[0].control().beat() > 0);
    assert_eq!(behind(&replica), None, "the first beat that is seen may have stood still for long");
    giver.beat();
    step_until(&mut session, "it is known", || behind(&replica).is_some());
    // Nobody looks, and the primary lives at some time in between.
    let begin = boot_milliseconds();
    while boot_milliseconds() < begin + PAUSE {
        std::thread::yield_now();
    }
    let beat = replica.shards()[0].control().beat();
    giver.beat();
    step_until(&mut session, "its beat is seen", || replica.shards()[0].control().beat() != beat);
    let told = behind(&replica).expect("it was known before");
    assert!(told >= PAUSE, "{told} ms, though nobody has looked for {PAUSE} ms before");
    giver.beat();
    step_until(&mut session, "looks follow one another", || behind(&replica).is_some_and(|told| told < PAUSE));
    giver.serve(false);
    let since = boot_milliseconds();
    while boot_milliseconds() < since + PAUSE {
        assert!(session.step().is_ok(), "nothing goes wrong");
    }
    assert!(behind(&replica).is_some_and(|told| told >= PAUSE), "nobody is served there any more");
}
