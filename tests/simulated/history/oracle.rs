//! The search held against a naive checker that tries every order of all operations: on small
//! random histories both must say the same.

use crate::support::history::event::{Event, NEVER, Operation, Outcome, Place};
use crate::support::history::search::{State, after, search};
use fastrand::Rng;
use std::collections::BTreeSet;

/// More would be too many orders: six are 720, times the cuts.
const OPERATIONS_MAX: usize = 6;
const HISTORIES: u64 = 4_000;

/// Every order, one operation after the other, with what was never answered in it or not, and every
/// cut of it.
fn naive(events: &[Event], heir: Option<u32>) -> BTreeSet<State> {
    let mut ends = BTreeSet::new();
    extend(events, heir, &mut Vec::new(), &mut ends);
    ends
}

fn extend(events: &[Event], heir: Option<u32>, order: &mut Vec<usize>, ends: &mut BTreeSet<State>) {
    let missing = |number: &usize| !order.contains(number);
    if (0..events.len()).filter(missing).all(|number| !events[number].is_known()) && is_order(events, order) {
        ends.extend(cuts(events, heir, order));
    }
    for number in (0..events.len()).filter(missing).collect::<Vec<_>>() {
        order.push(number);
        extend(events, heir, order, ends);
        order.pop();
    }
}

/// The rules as they are said, pair by pair.
fn is_order(events: &[Event], order: &[usize]) -> bool {
    for (at, later) in order.iter().enumerate() {
        for earlier in &order[..at] {
            let (first, second) = (&events[*earlier], &events[*later]);
            let ended_before = second.returned < first.invoked;
            let is_bound = first.place == Place::Primary || first.place == second.place;
            if ended_before && is_bound || first.session == second.session && earlier > later {
                return false;
            }
        }
        // No request of a session is done before the session's earlier ones.
        let before = (0..*later).filter(|number| events[*number].session == events[*later].session);
        if before.into_iter().any(|number| !order[..at].contains(&number)) {
            return false;
        }
    }
    states(events, order).is_some()
}

/// The item after each operation of the order.
fn states(events: &[Event], order: &[usize]) -> Option<Vec<State>> {
    let mut states = vec![None];
    for number in order {
        states.push(after(&events[*number], *states.last().expect("one"))?);
    }
    Some(states)
}

fn cuts(events: &[Event], heir: Option<u32>, order: &[usize]) -> Vec<State> {
    let lasts = |event: &Event| {
        event.acknowledged && event.has_changed() || heir.is_some_and(|heir| event.place == Place::Replica(heir))
    };
    let least = (0..order.len()).filter(|at| lasts(&events[order[*at]])).map(|at| at + 1).max().unwrap_or(0);
    states(events, order).expect("an order")[least..].to_vec()
}

/// Few values and short times, so that about as many are possible as are not.
fn random_history(random: &mut Rng) -> Vec<Event> {
    let count = random.usize(2..=OPERATIONS_MAX);
    let places = [Place::Primary, Place::Primary, Place::Primary, Place::Replica(1), Place::Replica(2)];
    let session_place: Vec<Place> = (0..4).map(|_| places[random.usize(0..places.len())]).collect();
    let (mut ends, mut values) = ([0; 4], 0);
    let mut events = Vec::new();
    for _ in 0..count {
        let session = random.usize(0..4);
        let place = session_place[session];
        let invoked = if ends[session] == NEVER { 0 } else { ends[session] } + random.u64(0..4);
        let (operation, outcome) = random_step(random, place, &mut values, count as u64);
        let ended = ends[session] == NEVER || place == Place::Primary && random.u8(0..8) == 0;
        let (returned, outcome) = if ended { (NEVER, Outcome::Unknown) } else { (invoked + random.u64(0..5), outcome) };
        if outcome == Outcome::Unknown && operation == Operation::Get {
            continue;
        }
        ends[session] = returned;
        let acknowledged = !ended && random.u8(0..3) == 0;
        events.push(Event {
            session: session as u32,
            place,
            key: 0,
            operation,
            invoked,
            returned,
            outcome,
            acknowledged,
        });
    }
    events
}

fn random_step(random: &mut Rng, place: Place, values: &mut u64, most: u64) -> (Operation, Outcome) {
    let seen = random.u64(1..=most.div_ceil(2));
    let mut new = || {
        *values += 1;
        *values
    };
    match random.u8(0..10) {
        0..5 if place == Place::Primary => (Operation::Set(new()), Outcome::Done),
        5 if place == Place::Primary => {
            let outcome = [Outcome::Done, Outcome::Exists, Outcome::Miss][random.usize(0..3)];
            (Operation::Cas { expected: seen, value: new() }, outcome)
        }
        6 if place == Place::Primary => (Operation::Delete, [Outcome::Done, Outcome::Miss][random.usize(0..2)]),
        7 => (Operation::Get, Outcome::Miss),
        _ => (Operation::Get, Outcome::Hit(seen)),
    }
}

#[test]
fn a_naive_checker_says_the_same() {
    let (mut possible, mut impossible) = (0, 0);
    for seed in 1..=HISTORIES {
        let mut random = Rng::with_seed(seed);
        let events = random_history(&mut random);
        let heir = [None, Some(1)][random.usize(0..2)];
        let expected = naive(&events, heir);
        let told: Vec<&Event> = events.iter().collect();
        let found = search(&told, heir, &[None].into()).unwrap_or_default();
        let text: Vec<String> = events.iter().map(Event::to_string).collect();
        assert_eq!(found, expected, "seed {seed}, heir {heir:?}:\n{}", text.join("\n"));
        if expected.is_empty() { impossible += 1 } else { possible += 1 }
    }
    assert!(possible > 400 && impossible > 400, "{possible} can be, {impossible} cannot: too few of one kind");
}
