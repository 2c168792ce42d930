//! A replica that a primary has admitted, before anything is pulled: whether this store can follow
//! that primary at all, and the data channels. Nothing here changes the store. So if it fails, the
//! store still has what it had.

use super::attach::{Channels, Joined, Subscription, attach, attach_pushed, join, subscribe};
use super::choice::Choice;
use super::follow::{FollowConfig, SessionEnd};
use super::lineage::{foreign, holds_data};
use super::link::Link;
use super::push::Mode;
use super::wire::{Message, Refusal, Welcome};
use crate::base::term::Term;
use crate::store::{History, Store};
use std::net::SocketAddr;
use std::time::Instant;

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
    /// It was restarted empty, or is another cluster's: following it would empty this store.
    #[error(
        "the primary at {at} is of another lineage ({theirs}, here {ours}): it was restarted empty, or it never was this \
         replica's primary; this replica keeps and serves what it has; to give that up: remora ctl replicate --discard {at}"
    )]
    Lineage {
        /// Where it is.
        at: String,
        /// In which term its log began.
        theirs: Term,
        /// In which the log here began.
        ours: Term,
    },
    /// A later term has begun elsewhere: another server was promoted since.
    #[error(
        "the primary at {at} is of term {theirs}, this replica knows {ours}: it was replaced; point this replica \
         elsewhere (remora ctl replicate)"
    )]
    Outdated {
        /// Where it is.
        at: String,
        /// Its latest term.
        theirs: Term,
        /// The latest that is known here.
        ours: Term,
    },
}

/// A replica that was admitted.
pub struct Admitted {
    joined: Joined,
    /// Once there are some.
    channels: Option<Channels>,
}

/// An admitted replica with its data channels, which has subscribed.
pub struct Attached {
    /// The control connection.
    pub link: Link,
    /// What the primary has said.
    pub welcome: Welcome,
    /// The data channels.
    pub channels: Channels,
    /// To all shards, by these channels.
    pub subscription: Subscription,
}

impl From<Joined> for Admitted {
    fn from(joined: Joined) -> Admitted {
        Admitted { joined, channels: None }
    }
}

impl Admitted {
    /// Be admitted by a primary that this store can follow, and connect the data channels.
    pub fn at(config: &FollowConfig, store: &Store) -> Result<Admitted, SessionEnd> {
        let mut admitted = Admitted::from(join(&config.primary, &config.secret, &config.identity)?);
        admitted.connect(config, store)?;
        Ok(admitted)
    }

    /// What the primary has said.
    pub fn welcome(&self) -> &Welcome {
        &self.joined.welcome
    }

    /// The latest term of any of the primary's shards.
    pub fn term(&self) -> Term {
        self.joined.welcome.histories.iter().map(History::newest).max().unwrap_or_default()
    }

    /// The fabric, and why that one; empty before there is one.
    pub fn fabric(&self) -> &str {
        self.channels.as_ref().map_or("", |channels| &channels.fabric)
    }

    /// Where clients of this primary's replicas should write: its host, and the port that it has
    /// told.
    pub fn client_address(&self) -> String {
        let host = self.joined.link.peer();
        match self.joined.welcome.client_port {
            0 => format!("the host {}", host.ip()),
            port => SocketAddr::new(host.ip(), port).to_string(),
        }
    }

    /// Connect the data channels, unless there are some already, and subscribe.
    pub fn attach(mut self, config: &FollowConfig, store: &Store) -> Result<Attached, SessionEnd> {
        self.connect(config, store)?;
        let channels = self.channels.take().expect("connected above");
        let subscription = subscribe(&mut self.joined, channels.channels.len())?;
        // What is followed are the histories that were told with the subscription.
        self.check_and_say(config, store)?;
        let Joined { link, welcome, .. } = self.joined;
        Ok(Attached { link, welcome, channels, subscription })
    }

    fn connect(&mut self, config: &FollowConfig, store: &Store) -> Result<(), SessionEnd> {
        self.check_and_say(config, store)?;
        if self.channels.is_none() {
            let choice = Choice::new(&config.primary, &config.fabrics, &config.penalties);
            self.channels = Some(match config.mode {
                Mode::Pull => attach(&mut self.joined, choice, &config.options, config.pullers)?,
                Mode::Push => attach_pushed(&mut self.joined, choice, &config.options, config.pause_max)?,
            });
        }
        Ok(())
    }

    fn check_and_say(&mut self, config: &FollowConfig, store: &Store) -> Result<(), SessionEnd> {
        let Err(unfit) = self.check(config, store) else { return Ok(()) };
        // So the primary's log can say why the connection ends. A new socket takes so few bytes at
        // once.
        let refusal = Message::Refuse { why: Refusal::Unfit, words: unfit.to_string() };
        let _ = self.joined.link.send(&refusal, Instant::now());
        Err(unfit.into())
    }

    /// Whether this store can follow that primary, and may.
    pub(super) fn check(&self, config: &FollowConfig, store: &Store) -> Result<(), Unfit> {
        let at = &config.primary;
        let welcome = &self.joined.welcome;
        let fits = welcome.memory.is_possible(&welcome.geometry) && welcome.memory.slabs <= store.memory().slabs;
        if welcome.geometry != store.geometry() || !fits {
            return Err(Unfit::Geometry);
        }
        let theirs = self.term();
        if !theirs.is_valid() {
            return Err(Unfit::NoTerm(at.into()));
        }
        match foreign(&welcome.histories, store) {
            Some((theirs, ours)) if holds_data(store) && !config.discard.allows(&welcome.histories) => {
                Err(Unfit::Lineage { at: at.into(), theirs, ours })
            }
            None if is_outdated(theirs, &store.terms_known()) => {
                Err(Unfit::Outdated { at: at.into(), theirs, ours: store.newest_term() })
            }
            _ => Ok(()),
        }
    }
}

/// Whether the terms in `known` show that `theirs` has ended: a later term followed it, or it is
/// older than all that are remembered. A term that is not among them belongs to another branch of
/// the history, begun by a promotion that this server has not heard of. Only an operator can say
/// which branch counts, so it is not outdated.
fn is_outdated(theirs: Term, known: &[Term]) -> bool {
    let (Some(first), Some(last)) = (known.first(), known.last()) else { return false };
    let has_ended = theirs != *last && known.contains(&theirs);
    has_ended || first.follows(theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_replaced_is_told_from_who_replaces() {
        let term = |number| Term::of(number, 7);
        let known = [term(10), term(20), term(30)];
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
            assert_eq!(is_outdated(theirs, &known), outdated, "{theirs}");
        }
        assert!(!is_outdated(term(1), &[]), "who knows nothing follows anybody");
    }
}
