//! Whether what clients saw of one key is linearizable: whether there is one order of all
//! operations, each at some moment between its begin and its end, in which each comes to what it
//! came to. The key is a register with compare-and-swap.
//!
//! An operation whose outcome is not known has a moment after its begin, or none. The search (after
//! Wing & Gong, and Lowe) takes one operation after the other that no other one must precede, and
//! remembers which sets of operations it has tried, with which value, in vain.

use std::collections::HashSet;

/// A value; each is written once.
pub type Value = u64;

/// What a client asked for, and what that has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// This was shown.
    Read(Option<Value>),
    /// This was stored.
    Write(Value),
    /// In the place of `expected`, `new` was stored; or not, since something else was there.
    Swap {
        /// What was expected.
        expected: Value,
        /// What was to be stored.
        new: Value,
        /// It was.
        swapped: bool,
    },
}

/// An operation. Times are of one clock, in whatever unit.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    pub begin: u64,
    /// None: what has become of it is not known.
    pub end: Option<u64>,
    pub action: Action,
}

impl Operation {
    /// The value afterwards, where it is possible with this one before.
    fn after(&self, value: Option<Value>) -> Option<Option<Value>> {
        match self.action {
            Action::Read(shown) => (shown == value).then_some(value),
            Action::Write(new) => Some(Some(new)),
            Action::Swap { expected, new, swapped: true } => (value == Some(expected)).then_some(Some(new)),
            Action::Swap { expected, .. } => (value.is_some() && value != Some(expected)).then_some(value),
        }
    }
}

/// Whether one order explains all of them, from a key on that has nothing.
pub fn is_linearizable(mut operations: Vec<Operation>) -> bool {
    operations.sort_by_key(|operation| operation.begin);
    Search { placed: vec![false; operations.len()], first: 0, operations, tried: HashSet::new() }.run()
}

/// The place behind the last that is placed, those before it that are not, and the value.
type Tried = (usize, Vec<usize>, Option<Value>);

struct Search {
    /// By their begins.
    operations: Vec<Operation>,
    placed: Vec<bool>,
    /// All before it are placed.
    first: usize,
    tried: HashSet<Tried>,
}

/// A step of the search: what stood before it, and what may still be tried in its place.
struct Step {
    value: Option<Value>,
    candidates: Vec<usize>,
    placed: Option<usize>,
}

impl Search {
    fn run(&mut self) -> bool {
        let mut steps = vec![Step { value: None, candidates: self.candidates(), placed: None }];
        while let Some(step) = steps.last_mut() {
            if let Some(placed) = step.placed.take() {
                self.placed[placed] = false;
                self.first = self.first.min(placed);
            }
            let Some(next) = step.candidates.pop() else {
                steps.pop();
                continue;
            };
            let Some(value) = self.operations[next].after(step.value) else { continue };
            step.placed = Some(next);
            self.placed[next] = true;
            while self.placed.get(self.first).is_some_and(|placed| *placed) {
                self.first += 1;
            }
            if self.is_done() {
                return true;
            }
            if self.tried.insert(self.key(value)) {
                let candidates = self.candidates();
                steps.push(Step { value, candidates, placed: None });
            }
        }
        self.operations.is_empty()
    }

    /// Those that no other one must precede; the last one is the best guess.
    fn candidates(&self) -> Vec<usize> {
        let mut ends = u64::MAX;
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for (at, operation) in self.operations.iter().enumerate().skip(self.first) {
            if operation.begin > ends {
                break;
            }
            if !self.placed[at] {
                ends = ends.min(operation.end.unwrap_or(u64::MAX));
                if operation.end.is_some() { &mut known } else { &mut unknown }.push(at);
            }
        }
        known.retain(|at| self.operations[*at].begin <= ends);
        unknown.retain(|at| self.operations[*at].begin <= ends);
        known.reverse();
        unknown.extend(known);
        unknown
    }

    fn key(&self, value: Option<Value>) -> Tried {
        let upto = self.placed.iter().rposition(|placed| *placed).map_or(0, |last| last + 1);
        (upto, (self.first..upto).filter(|at| !self.placed[*at]).collect(), value)
    }

    /// Whether all whose outcome is known are placed.
    fn is_done(&self) -> bool {
        let mut rest = self.operations.iter().zip(&self.placed).skip(self.first);
        rest.all(|(operation, placed)| *placed || operation.end.is_none())
    }
}

mod tests {
    use super::*;

    fn read(begin: u64, end: u64, shown: Option<Value>) -> Operation {
        Operation { begin, end: Some(end), action: Action::Read(shown) }
    }

    fn write(begin: u64, end: impl Into<Option<u64>>, value: Value) -> Operation {
        Operation { begin, end: end.into(), action: Action::Write(value) }
    }

    fn swap(begin: u64, end: u64, expected: Value, new: Value, swapped: bool) -> Operation {
        Operation { begin, end: Some(end), action: Action::Swap { expected, new, swapped } }
    }

    #[test]
    fn histories_that_one_order_explains() {
        for history in [
            vec![],
            vec![read(0, 1, None), write(2, 3, 1), read(4, 5, Some(1))],
            // Reads beside a write may show either.
            vec![write(0, 9, 1), read(1, 2, None), read(3, 4, Some(1)), read(5, 6, Some(1))],
            vec![write(0, 1, 1), write(2, 9, 2), write(2, 9, 3), read(3, 4, Some(3)), read(5, 6, Some(2))],
            // It was never answered, and shows later.
            vec![write(0, 1, 1), write(2, None, 2), read(3, 4, Some(1)), read(50, 51, Some(2))],
            vec![write(0, 1, 1), write(2, None, 2), read(3, 4, Some(1))],
            vec![write(0, 1, 1), swap(2, 9, 1, 2, true), swap(2, 9, 1, 3, false), read(10, 11, Some(2))],
        ] {
            assert!(is_linearizable(history.clone()), "{history:?}");
        }
    }

    #[test]
    fn histories_that_no_order_explains() {
        for history in [
            vec![write(0, 1, 1), read(2, 3, None)],
            vec![write(0, 1, 1), write(2, 3, 2), read(4, 5, Some(1))],
            vec![write(0, 9, 1), read(1, 2, Some(1)), read(3, 4, None)],
            vec![write(0, 1, 1), write(2, None, 2), read(3, 4, Some(2)), read(5, 6, Some(1))],
            vec![write(0, 1, 1), swap(2, 9, 1, 2, true), swap(2, 9, 1, 3, true)],
            vec![write(0, 1, 1), swap(2, 3, 1, 2, false)],
            vec![read(0, 1, Some(7)), write(2, 3, 7)],
        ] {
            assert!(!is_linearizable(history.clone()), "{history:?}");
        }
    }
}
