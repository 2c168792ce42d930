//! One key in one reign: is there an order of all its operations that explains what everybody saw?
//! A search in the way of Wing & Gong with the memory of Lowe, over how far each connection has
//! come: pure, and bounded.
//!
//! The order of a reign is the primary's. An operation of the primary's clients has its place
//! between its begin and its end. A read of a replica may have it *earlier* than its begin, for a
//! replica is behind; but not before what was read there earlier: it never goes back. It cannot
//! have it later than its end: so what it shows, the primary had. What was never answered has a
//! place from its begin on, or none.
//!
//! At the end of a reign the order is cut: what stands before the cut is what the heir has.
//! Everything acknowledged stands before it, and everything that the heir itself has shown. The
//! result is every state that the next reign can begin with.

use super::event::{Event, Operation, Outcome, Place, Value};
use std::collections::{BTreeSet, HashMap, HashSet};

/// The item, if there is one.
pub type State = Option<Value>;

/// Situations that are looked at for one key of one reign. A hundred times what the runs here come
/// to, and still only seconds.
pub const SITUATIONS_MAX: usize = 2_000_000;

/// Why a key's history is impossible.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// No order explains it. How far the search came.
    NoOrder(String),
    /// More situations than [`SITUATIONS_MAX`]: the run has too many clients at one key.
    TooMany,
}

/// The operations of one connection on this key, in their order.
struct Lane<'e> {
    place: Place,
    events: Vec<&'e Event>,
    /// So many of them must stand before the cut.
    lasting: usize,
    /// So many of them were answered: they must stand somewhere.
    known: usize,
}

/// How far an order has come.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Situation {
    /// Operations of each lane that have their place.
    done: Box<[u16]>,
    state: State,
    /// The state at the cut, once it was made.
    kept: Option<State>,
}

/// See the module.
pub struct Search<'e> {
    lanes: Vec<Lane<'e>>,
    /// Of each value that is written at most once: who must see it, lane and number. None may be
    /// left when it is overwritten.
    needed: HashMap<Value, Vec<(usize, usize)>>,
    /// The operations that have their place in the furthest situation, and that situation.
    furthest: (usize, Option<Situation>),
}

/// All states that the next reign can begin with, given those that this one can have begun with.
pub fn search(events: &[&Event], heir: Option<u32>, begin: &BTreeSet<State>) -> Result<BTreeSet<State>, Wrong> {
    let mut search = Search::new(events, heir);
    let none = vec![0; search.lanes.len()].into_boxed_slice();
    let mut open: Vec<Situation> =
        begin.iter().map(|state| Situation { done: none.clone(), state: *state, kept: None }).collect();
    let (mut seen, mut ends) = (HashSet::new(), BTreeSet::new());
    while let Some(mut situation) = open.pop() {
        search.place_what_changes_nothing(&mut situation);
        if !seen.insert(situation.clone()) {
            continue;
        }
        if seen.len() > SITUATIONS_MAX {
            return Err(Wrong::TooMany);
        }
        search.note(&situation);
        if let Some(kept) = situation.kept.filter(|_| search.is_complete(&situation)) {
            ends.insert(kept);
            continue;
        }
        search.branch(&situation, &mut open);
    }
    if ends.is_empty() { Err(Wrong::NoOrder(search.describe())) } else { Ok(ends) }
}

impl<'e> Search<'e> {
    fn new(events: &[&'e Event], heir: Option<u32>) -> Self {
        let mut by_session: HashMap<(u32, Place), Vec<&'e Event>> = HashMap::new();
        // Nobody knows what a read saw that was not answered.
        let told = events.iter().filter(|event| event.is_known() || event.operation != Operation::Get);
        told.for_each(|event| by_session.entry((event.session, event.place)).or_default().push(event));
        let mut sorted: Vec<_> = by_session.into_iter().collect();
        sorted.sort_by_key(|(session, _)| *session);
        let lane = |((_, place), events): ((u32, Place), Vec<&'e Event>)| {
            let is_heir = heir.is_some_and(|heir| place == Place::Replica(heir));
            let lasts = |event: &&&Event| is_heir || (event.acknowledged && event.has_changed());
            let last = events.iter().rev().find(lasts);
            let lasting = last.map_or(0, |last| {
                1 + events.iter().position(|event| std::ptr::eq(*event, *last)).expect("it is there")
            });
            let known = events.iter().take_while(|event| event.is_known()).count();
            assert!(events[known..].iter().all(|event| !event.is_known()), "an answer behind one that never came");
            assert!(events.len() <= usize::from(u16::MAX), "a lane's numbers have sixteen bits");
            Lane { place, events, lasting, known }
        };
        let lanes: Vec<Lane<'e>> = sorted.into_iter().map(lane).collect();
        Search { needed: needed(&lanes), lanes, furthest: (0, None) }
    }

    fn next(&self, situation: &Situation, lane: usize) -> Option<&'e Event> {
        self.lanes[lane].events.get(usize::from(situation.done[lane])).copied()
    }

    /// Nothing that had ended before this began is still without a place.
    fn may_be_next(&self, situation: &Situation, lane: usize, event: &Event) -> bool {
        let place = self.lanes[lane].place;
        (0..self.lanes.len()).filter(|other| *other != lane).all(|other| {
            let binds = place == Place::Primary || self.lanes[other].place == place;
            !binds || self.next(situation, other).is_none_or(|waiting| waiting.returned >= event.invoked)
        })
    }

    /// An operation that was answered, may be next and changes nothing never has a better place
    /// than this: whatever order there is without it, there is with it here.
    fn place_what_changes_nothing(&self, situation: &mut Situation) {
        loop {
            let before = situation.done.clone();
            for lane in 0..self.lanes.len() {
                while let Some(event) = self.next(situation, lane)
                    && event.is_known()
                    && !event.has_changed()
                    && after(event, situation.state).is_some()
                    && self.may_be_next(situation, lane, event)
                {
                    situation.done[lane] += 1;
                }
            }
            if before == situation.done {
                return;
            }
        }
    }

    fn is_complete(&self, situation: &Situation) -> bool {
        self.lanes.iter().zip(&situation.done).all(|(lane, done)| usize::from(*done) >= lane.known)
    }

    /// Everything that can come next: the cut, or an operation that changes the item.
    fn branch(&self, situation: &Situation, open: &mut Vec<Situation>) {
        let may_cut = self.lanes.iter().zip(&situation.done).all(|(lane, done)| usize::from(*done) >= lane.lasting);
        if situation.kept.is_none() && may_cut {
            open.push(Situation { kept: Some(situation.state), ..situation.clone() });
        }
        for lane in 0..self.lanes.len() {
            let Some(event) = self.next(situation, lane) else { continue };
            let Some(state) = after(event, situation.state) else { continue };
            if !self.may_be_next(situation, lane, event) {
                continue;
            }
            let mut further = Situation { state, ..situation.clone() };
            further.done[lane] += 1;
            if state == situation.state || !self.is_still_needed(situation.state, &further) {
                open.push(further);
            }
        }
    }

    fn is_still_needed(&self, state: State, further: &Situation) -> bool {
        let seen_by = state.and_then(|value| self.needed.get(&value));
        seen_by.is_some_and(|by| by.iter().any(|(lane, number)| usize::from(further.done[*lane]) <= *number))
    }

    fn note(&mut self, situation: &Situation) {
        let placed = situation.done.iter().map(|done| usize::from(*done)).sum();
        if self.furthest.1.is_none() || placed > self.furthest.0 {
            self.furthest = (placed, Some(situation.clone()));
        }
    }

    fn describe(&self) -> String {
        let (placed, Some(situation)) = &self.furthest else { return "there is nothing to begin with".into() };
        let all: usize = self.lanes.iter().map(|lane| lane.events.len()).sum();
        let mut text =
            format!("{placed} of {all} operations have a place, the item is {:?} then; next would be", situation.state);
        for lane in 0..self.lanes.len() {
            if let Some(event) = self.next(situation, lane) {
                let lasting = self.lanes[lane].lasting.saturating_sub(usize::from(situation.done[lane]));
                text.push_str(&format!("\n    {event} ({lasting} more of its session must last)"));
            }
        }
        text
    }
}

/// The item afterwards; None if this cannot be what happened.
pub fn after(event: &Event, state: State) -> Option<State> {
    use Operation::{Cas, Delete, Get, Incr, Set};
    use Outcome::{Done, Exists, Hit, Miss, Unknown};
    match (event.operation, event.outcome) {
        (Set(value), Done | Unknown) => Some(Some(value)),
        (Cas { expected, value }, Done) => (state == Some(expected)).then_some(Some(value)),
        (Cas { expected, .. }, Exists) => state.is_some_and(|is| is != expected).then_some(state),
        (Cas { expected, value }, Unknown) => Some(if state == Some(expected) { Some(value) } else { state }),
        (Incr(by), Hit(sum)) => (state.map(|is| is.wrapping_add(by)) == Some(sum)).then_some(Some(sum)),
        // It was done, but the client was not told the sum.
        (Incr(by), Done) => state.map(|is| Some(is.wrapping_add(by))),
        (Incr(by), Unknown) => Some(state.map(|is| is.wrapping_add(by))),
        (Delete, Done) => state.is_some().then_some(None),
        (Delete, Unknown) => Some(None),
        (Get, Hit(value)) => (state == Some(value)).then_some(state),
        (Get | Delete | Incr(_) | Cas { .. }, Miss) => state.is_none().then_some(None),
        _ => None,
    }
}

/// See [`Search::needed`]. A counter comes by the same number more than once.
fn needed(lanes: &[Lane<'_>]) -> HashMap<Value, Vec<(usize, usize)>> {
    let events = || lanes.iter().flat_map(|lane| &lane.events);
    let mut needed: HashMap<Value, Vec<(usize, usize)>> = HashMap::new();
    if events().any(|event| matches!(event.operation, Operation::Incr(_))) {
        return needed;
    }
    for (lane, number, event) in lanes
        .iter()
        .enumerate()
        .flat_map(|(lane, all)| all.events.iter().enumerate().map(move |(at, one)| (lane, at, one)))
    {
        let saw = match (event.operation, event.outcome) {
            (Operation::Get, Outcome::Hit(value)) => value,
            (Operation::Cas { expected, .. }, Outcome::Done) => expected,
            _ => continue,
        };
        needed.entry(saw).or_default().push((lane, number));
    }
    let mut writes: HashMap<Value, usize> = HashMap::new();
    events().filter_map(|event| event.operation.writes()).for_each(|value| *writes.entry(value).or_default() += 1);
    needed.retain(|value, _| writes.get(value).is_none_or(|times| *times == 1));
    needed
}
