//! A replica that a primary has admitted, before anything is pulled: whether this store can follow
//! that primary at all, and the data channels. Nothing here changes the store. So if it fails, the
//! store still has what it had.

use super::attach::{Channels, Joined, attach, attach_pushed, join, subscribe};
use super::choice::Choice;
use super::follow::{FollowConfig, SessionEnd};
use super::lineage::holds_data;
use super::link::Link;
use super::push::Mode;
use super::wire::{Message, Refusal, Subscribed, Told, Welcome};
use crate::base::shards::ShardSet;
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
    /// A replica that is to be gathered from has not come as far, or further, in the history.
    #[error("shard {shard} is of term {theirs} at {at}, here of {ours}")]
    OtherTerm {
        /// Which.
        shard: usize,
        /// Where it is.
        at: String,
        /// Its latest term.
        theirs: Term,
        /// The latest that is known here.
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
    /// What the primary has told of the shards that are subscribed to.
    pub subscribed: Subscribed,
}

impl From<Joined> for Admitted {
    fn from(joined: Joined) -> Admitted {
        Admitted { joined, channels: None }
    }
}

impl Admitted {
    /// Be admitted by a primary that this store can follow in these shards, and connect the data
    /// channels.
    pub fn at(config: &FollowConfig, shards: ShardSet, store: &Store) -> Result<Admitted, SessionEnd> {
        let mut admitted = Admitted::from(join(&config.primary, &config.secret, &config.identity)?);
        admitted.connect(config, shards, store)?;
        Ok(admitted)
    }

    /// What the primary has said.
    pub fn welcome(&self) -> &Welcome {
        &self.joined.welcome
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

    /// Connect the data channels, unless there are some already, and subscribe to these shards.
    pub fn attach(mut self, config: &FollowConfig, shards: ShardSet, store: &Store) -> Result<Attached, SessionEnd> {
        self.connect(config, shards, store)?;
        let channels = self.channels.take().expect("connected above");
        let subscribed = subscribe(&mut self.joined, shards, channels.channels.len(), &config.chain)?;
        // What is followed are the histories that were told with the subscription.
        let fits = |told: &Told| check_shard(config, store, told.shard, &told.history);
        if let Err(unfit) = subscribed.shards.iter().try_for_each(fits) {
            return Err(self.decline(unfit));
        }
        let Joined { link, welcome, .. } = self.joined;
        Ok(Attached { link, welcome, channels, subscribed })
    }

    fn connect(&mut self, config: &FollowConfig, shards: ShardSet, store: &Store) -> Result<(), SessionEnd> {
        if let Err(unfit) = self.check(config, shards, store) {
            return Err(self.decline(unfit));
        }
        if self.channels.is_none() {
            let choice = Choice::new(&config.primary, &config.fabrics, &config.penalties);
            self.channels = Some(match config.mode {
                Mode::Pull => attach(&mut self.joined, choice, &config.options, config.pullers)?,
                Mode::Push => attach_pushed(&mut self.joined, choice, &config.options, config.pause_max)?,
            });
        }
        Ok(())
    }

    /// Tell the primary that it cannot be followed, so that its log can say why the connection
    /// ends. A new socket takes so few bytes at once.
    fn decline(&mut self, unfit: Unfit) -> SessionEnd {
        let refusal = Message::Refuse { why: Refusal::Unfit, words: unfit.to_string() };
        let _ = self.joined.link.send(&refusal, Instant::now());
        unfit.into()
    }

    /// Whether this store can follow that primary in these shards, and may.
    pub(super) fn check(&self, config: &FollowConfig, shards: ShardSet, store: &Store) -> Result<(), Unfit> {
        let welcome = &self.joined.welcome;
        let fits = welcome.memory.is_possible(&welcome.geometry) && welcome.memory.slabs <= store.memory().slabs;
        if welcome.geometry != store.geometry() || !fits {
            return Err(Unfit::Geometry);
        }
        if !shards.iter().any(|shard| welcome.histories[shard].newest().is_valid()) {
            return Err(Unfit::NoTerm(config.primary.clone()));
        }
        shards.iter().try_for_each(|shard| check_shard(config, store, shard, &welcome.histories[shard]))
    }
}

/// Whether a shard may follow a log of this history, at the primary that is configured.
pub(super) fn check_shard(config: &FollowConfig, store: &Store, shard: usize, theirs: &History) -> Result<(), Unfit> {
    let (at, ours) = (&config.primary, store.shards()[shard].history());
    if theirs.is_foreign_to(&ours) {
        let may = !holds_data(&store.shards()[shard]) || config.discard.allows(theirs);
        let refusal = Unfit::Lineage { at: at.into(), theirs: theirs.origin(), ours: ours.origin() };
        return if may { Ok(()) } else { Err(refusal) };
    }
    if config.gathers && theirs.newest() != ours.newest() {
        return Err(Unfit::OtherTerm { shard, at: at.into(), theirs: theirs.newest(), ours: ours.newest() });
    }
    if is_outdated(theirs.newest(), &ours) {
        return Err(Unfit::Outdated { at: at.into(), theirs: theirs.newest(), ours: ours.newest() });
    }
    Ok(())
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
}
