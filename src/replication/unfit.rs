//! Whether a store can follow a primary: at all, and in each of its shards. A shard that cannot is
//! refused by itself, and the others are followed. Nothing here changes anything.

use super::follow::FollowConfig;
use super::lineage::{has_nothing, holds_data};
use crate::base::shards::ShardSet;
use crate::base::term::Term;
use crate::store::{History, Store};
use std::fmt;

/// Why a primary cannot be followed with this store.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The primary has another number of shards or other slabs, or may have more memory.
    #[error(
        "the primary's logs are laid out in another way than this replica's, or may have more memory: restart the replica with --replica-of \
         and without -m and --shards; what it holds is then gone"
    )]
    Geometry,
    /// The peer names no term. A primary always has one, and so has a replica that has received
    /// anything.
    #[error("the primary at {0} tells of no term that a log can have: it is no primary")]
    NoTerm(String),
    /// It cannot be followed in any of the shards, or not in one that an order was given for.
    #[error("{0}")]
    Shards(Refusals),
}

/// Shards in which a primary cannot be followed, for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub shards: ShardSet,
    /// Where the primary is.
    pub at: String,
    /// Why.
    pub why: WhyRefused,
}

/// Why a shard cannot follow a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyRefused {
    /// The primary was restarted empty, or is another cluster's: following it would empty this
    /// shard.
    Lineage {
        /// In which term its log began.
        theirs: Term,
        /// In which the log here began.
        ours: Term,
    },
    /// A server that is to be gathered from has not come as far, or further, in the history.
    OtherTerm {
        /// Its latest term.
        theirs: Term,
        /// The latest that is known here.
        ours: Term,
    },
    /// A later term has begun elsewhere: another server was promoted since.
    Outdated {
        /// Its latest term.
        theirs: Term,
        /// The latest that is known here.
        ours: Term,
    },
}

/// What happened, and what to do.
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refused { shards, at, why } = self;
        match why {
            WhyRefused::Lineage { theirs, ours } => write!(
                f,
                "shards {shards}: the primary at {at} is of another lineage ({theirs}, here {ours}): it was restarted empty, or it never was \
                 this replica's primary; this replica keeps and serves what it has; to give that up: remora ctl replicate --discard \
                 --shards {shards} {at}"
            ),
            WhyRefused::OtherTerm { theirs, ours } => {
                write!(f, "shards {shards}: the log at {at} is of term {theirs}, here of {ours}")
            }
            WhyRefused::Outdated { theirs, ours } => write!(
                f,
                "shards {shards}: the primary at {at} is of term {theirs}, this replica knows {ours}: it was replaced; point this replica \
                 elsewhere (remora ctl replicate --shards {shards})"
            ),
        }
    }
}

/// Shards in which a primary cannot be followed, those of one reason together; no shard is in two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusals(Vec<Refused>);

impl Refusals {
    /// Which of these shards of a store cannot follow logs of these histories.
    pub fn of<'h>(
        config: &FollowConfig,
        store: &Store,
        told: impl IntoIterator<Item = (usize, &'h History)>,
    ) -> Refusals {
        let mut refusals = Refusals::default();
        for (shard, theirs) in told {
            if let Some(why) = check(config, store, shard, theirs) {
                refusals.add(&Refused { shards: ShardSet::one(shard), at: config.primary.clone(), why });
            }
        }
        refusals
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All the shards.
    pub fn shards(&self) -> ShardSet {
        self.0.iter().fold(ShardSet::default(), |all, one| all.with(one.shards))
    }

    /// Of these shards alone.
    #[must_use]
    pub fn within(&self, shards: ShardSet) -> Refusals {
        let mut some = self.clone();
        some.remove(some.shards().without(shards));
        some
    }

    /// All of both.
    #[must_use]
    pub fn with(mut self, other: &Refusals) -> Refusals {
        self.add_all(other);
        self
    }

    /// The same shards may have been refused for another reason before. Returns what is new.
    pub fn add_all(&mut self, other: &Refusals) -> Refusals {
        let added = other.0.iter().map(|one| Refused { shards: self.add(one), ..one.clone() });
        Refusals(added.filter(|one| !one.shards.is_empty()).collect())
    }

    /// Returns the shards that were not refused for this reason before.
    fn add(&mut self, refused: &Refused) -> ShardSet {
        let is_same = |one: &&mut Refused| (one.why, &one.at) == (refused.why, &refused.at);
        let known = self.0.iter_mut().find(is_same).map_or(ShardSet::default(), |one| one.shards);
        let added = refused.shards.without(known);
        if added.is_empty() {
            return added;
        }
        self.remove(added);
        match self.0.iter_mut().find(is_same) {
            Some(one) => one.shards = one.shards.with(added),
            None => self.0.push(Refused { shards: added, ..refused.clone() }),
        }
        added
    }

    /// These are not refused.
    pub fn remove(&mut self, shards: ShardSet) {
        self.0.iter_mut().for_each(|one| one.shards = one.shards.without(shards));
        self.0.retain(|one| !one.shards.is_empty());
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Refused> {
        self.0.iter()
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, one) in self.0.iter().enumerate() {
            write!(f, "{}{one}", if number == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// Why a shard may not follow a log of this history, at the primary that is configured.
fn check(config: &FollowConfig, store: &Store, shard: usize, theirs: &History) -> Option<WhyRefused> {
    let here = &store.shards()[shard];
    let ours = here.history();
    if theirs.is_foreign_to(&ours) {
        let may = !holds_data(here) || config.discard.allows(shard, theirs);
        return (!may).then(|| WhyRefused::Lineage { theirs: theirs.origin(), ours: ours.origin() });
    }
    let (theirs, newest) = (theirs.newest(), ours.newest());
    if config.gathers && theirs != newest && !has_nothing(here) {
        return Some(WhyRefused::OtherTerm { theirs, ours: newest });
    }
    is_outdated(theirs, &ours).then_some(WhyRefused::Outdated { theirs, ours: newest })
}

/// Whether a log's newest term has ended, as this history shows: a later term followed it, or it is
/// older than all that are remembered. A term that is not in the history belongs to another branch,
/// begun by a promotion that this server has not heard of. Only an operator can say which branch
/// counts, so it is not outdated.
fn is_outdated(theirs: Term, ours: &History) -> bool {
    let Some(first) = ours.starts().first() else { return false };
    let has_ended = theirs != ours.newest() && ours.starts().iter().any(|start| start.term == theirs);
    theirs.is_valid() && (has_ended || first.term.follows(theirs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::TermStart;

    #[test]
    fn who_was_replaced_is_told_from_who_replaces() {
        let term = |number| Term::of(number, 7);
        let starts = [(10, 64), (20, 500), (30, 900)].map(|(number, begins)| TermStart { term: term(number), begins });
        let ours = History::new(term(1), starts);
        for (theirs, outdated) in [
            (term(30), false),
            (term(31), false),
            (term(20), true),
            (term(10), true),
            (term(9), true),
            (term(25), false),
            (Term::of(20, 8), false),
            (Term::of(30, 8), false),
        ] {
            assert_eq!(is_outdated(theirs, &ours), outdated, "{theirs}");
        }
        assert!(!is_outdated(term(1), &History::NONE), "who knows nothing follows anybody");
    }

    #[test]
    fn a_shard_is_refused_for_one_reason_and_told_of_once() {
        let set = |text: &str| text.parse::<ShardSet>().unwrap();
        let lineage = WhyRefused::Lineage { theirs: Term::of(1, 7), ours: Term::of(1, 8) };
        let outdated = WhyRefused::Outdated { theirs: Term::of(2, 7), ours: Term::of(3, 7) };
        let of = |shards: &str, why| Refusals(vec![Refused { shards: set(shards), at: "there:1".into(), why }]);
        let mut all = Refusals::default();
        assert_eq!(all.add_all(&of("3", lineage)), of("3", lineage));
        assert_eq!(all.add_all(&of("3,5", lineage)), of("5", lineage), "that of 3 is known");
        assert!(all.add_all(&of("3,5", lineage)).is_empty());
        assert_eq!(all.add_all(&of("5-6", outdated)), of("5-6", outdated), "for another reason than before");
        assert_eq!((all.shards(), all.within(set("0-3"))), (set("3,5-6"), of("3", lineage)));
        let words = all.to_string();
        assert!(words.contains("--discard --shards 3 there:1; shards 5-6: the primary at there:1"), "{words}");
        all.remove(set("3,6"));
        assert_eq!(all, of("5", outdated));
    }
}
