//! The choice of a fabric at one admission: in which order they are tried, what becomes of one that
//! fails, and in words why it was the one that was chosen.

use super::attach::AttachError;
use super::penalties::SharedPenalties;
use super::wire::Decline;
use crate::fabric::{Cause, FabricError, Kind};
use std::time::Instant;

/// See the module.
pub struct Choice<'a> {
    primary: &'a str,
    penalties: &'a SharedPenalties,
    order: Vec<Kind>,
    passed_over: Vec<String>,
    /// One is being made ready.
    is_not_yet: bool,
}

impl<'a> Choice<'a> {
    /// Choose a fabric for reaching `primary`. `wanted` are those to choose from, the preferred one
    /// first.
    pub fn new(primary: &'a str, wanted: &[Kind], penalties: &'a SharedPenalties) -> Choice<'a> {
        let now = Instant::now();
        let known = penalties.lock();
        let order = known.order(primary, wanted, now);
        let waits =
            |kind: Kind| known.view(primary, now).into_iter().find(|one| one.fabric == kind && !one.left.is_zero());
        let waiting = wanted.iter().filter_map(|kind| waits(*kind));
        let passed_over =
            waiting.map(|one| format!("{}, and is tried last for {} s", one.why, one.left.as_secs() + 1)).collect();
        drop(known);
        Choice { primary, penalties, order, passed_over, is_not_yet: false }
    }

    /// In the order in which they are to be tried.
    pub fn order(&self) -> Vec<Kind> {
        self.order.clone()
    }

    /// One cannot be used at all, and why: asking costs nothing, so it has no penalty.
    pub fn cannot(&mut self, why: String) {
        self.passed_over.push(why);
    }

    /// One was tried and has failed. Where the primary does not know the token (any more), the
    /// fabric works, and has no penalty.
    pub fn failed(&mut self, kind: Kind, error: &FabricError) {
        if error.cause == Cause::UnknownToken {
            self.passed_over.push(error.to_string());
        } else {
            self.penalize(kind, error.to_string());
        }
    }

    fn penalize(&mut self, kind: Kind, why: String) {
        self.penalties.lock().failed(self.primary, kind, &why, Instant::now());
        self.passed_over.push(why);
    }

    /// The primary has declined one.
    pub fn declined(&mut self, kind: Kind, why: Decline, words: String) {
        match why {
            Decline::Failed => self.penalize(kind, words),
            Decline::NotYet => {
                self.penalties.lock().not_yet(self.primary, kind, &words, Instant::now());
                self.is_not_yet = true;
                self.passed_over.push(words);
            }
        }
    }

    /// Why it is `kind`, in words.
    pub fn words(&self, kind: Kind) -> String {
        let why = if self.passed_over.is_empty() { "first choice".into() } else { self.passed_over.join("; ") };
        format!("{} ({why})", kind.name())
    }

    /// None could be used.
    pub fn none(self) -> AttachError {
        let why = self.passed_over.join("; ");
        if self.is_not_yet { AttachError::NotYet(why) } else { AttachError::NoFabric(why) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_that_has_forgotten_its_grant_is_not_the_fabrics_fault() {
        let penalties = SharedPenalties::default();
        let choice = || Choice::new("a:1", &[Kind::Shm, Kind::Tcp], &penalties);
        let failed = |kind, cause| FabricError::new(kind, cause, "words");
        let mut forgotten = choice();
        forgotten.failed(Kind::Shm, &failed(Kind::Shm, Cause::UnknownToken));
        assert_eq!(choice().order(), [Kind::Shm, Kind::Tcp], "no penalty");
        let none = forgotten.none();
        assert!(matches!(none, AttachError::NoFabric(_)), "{none}");
        let mut refused = choice();
        refused.failed(Kind::Shm, &failed(Kind::Shm, Cause::Refused));
        assert_eq!(choice().order(), [Kind::Tcp, Kind::Shm]);
        let none = refused.none();
        assert!(matches!(none, AttachError::NoFabric(_)), "{none}");
    }
}
