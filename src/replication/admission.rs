//! A replica that a primary has admitted, before anything is pulled: whether this store can follow
//! that primary at all, and the data channels. Nothing here changes the store. So if it fails, the
//! store still has what it had.

use super::attach::{Channels, Joined, attach, attach_pushed, join};
use super::choice::Choice;
use super::follow::{FollowConfig, SessionEnd};
use super::lineage::{holds_data, is_foreign};
use super::link::Link;
use super::push::Mode;
use super::wire::{Message, Refusal, Welcome};
use crate::base::epoch::Epoch;
use crate::fabric::Channel;
use crate::store::{EpochStart, Store};
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
    /// The peer names no epoch. A primary always has one, and so has a replica that has received
    /// anything.
    #[error("the primary at {0} tells of no epoch that a log can have: it is no primary")]
    NoEpoch(String),
    /// It was restarted empty, or is another cluster's: following it would empty this store.
    #[error(
        "the primary at {at} is of another lineage ({theirs}, here {ours}): it was restarted empty, or it never was this \
         replica's primary; this replica keeps and serves what it has; to give that up: remora ctl replicate --discard {at}"
    )]
    Lineage {
        /// Where it is.
        at: String,
        /// Its latest epoch.
        theirs: Epoch,
        /// The latest that is known here.
        ours: Epoch,
    },
    /// A later epoch has begun elsewhere: another server was promoted since.
    #[error(
        "the primary at {at} is of epoch {theirs}, this replica knows {ours}: it was replaced; point this replica \
         elsewhere (remora ctl replicate)"
    )]
    Outdated {
        /// Where it is.
        at: String,
        /// Its latest epoch.
        theirs: Epoch,
        /// The latest that is known here.
        ours: Epoch,
    },
}

/// A replica that was admitted.
pub struct Admitted {
    joined: Joined,
    /// Once there are some.
    channels: Option<Channels>,
}

/// An admitted replica with its data channels.
pub struct Attached {
    /// The control connection.
    pub link: Link,
    /// What the primary has said.
    pub welcome: Welcome,
    /// The data channels, one for each puller; the primary knows their order.
    pub channels: Vec<Box<dyn Channel>>,
    /// Their fabric, and why that one.
    pub fabric: String,
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

    /// The primary's latest epoch.
    pub fn epoch(&self) -> Epoch {
        self.joined.welcome.epochs.last().map_or(Epoch::NONE, |last| last.epoch)
    }

    /// The fabric, and why that one; empty before there is one.
    pub fn fabric(&self) -> &str {
        self.channels.as_ref().map_or("", |(_, fabric)| fabric)
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

    /// Connect the data channels, unless there are some already.
    pub fn attach(mut self, config: &FollowConfig, store: &Store) -> Result<Attached, SessionEnd> {
        self.connect(config, store)?;
        let (channels, fabric) = self.channels.expect("connected above");
        let Joined { link, welcome, .. } = self.joined;
        Ok(Attached { link, welcome, channels, fabric })
    }

    fn connect(&mut self, config: &FollowConfig, store: &Store) -> Result<(), SessionEnd> {
        if let Err(unfit) = self.check(config, store) {
            // So the primary's log can say why the connection ends. A new socket takes so few bytes
            // at once.
            let refusal = Message::Refuse { why: Refusal::Unfit, words: unfit.to_string() };
            let _ = self.joined.link.send(&refusal, Instant::now());
            return Err(unfit.into());
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

    /// Whether this store can follow that primary, and may.
    pub(super) fn check(&self, config: &FollowConfig, store: &Store) -> Result<(), Unfit> {
        let at = &config.primary;
        let welcome = &self.joined.welcome;
        let fits = welcome.memory.is_possible(&welcome.geometry) && welcome.memory.slabs <= store.memory().slabs;
        if welcome.geometry != store.geometry() || !fits {
            return Err(Unfit::Geometry);
        }
        let (theirs, known) = (self.epoch(), store.epochs());
        if !theirs.is_valid() {
            return Err(Unfit::NoEpoch(at.into()));
        }
        if is_foreign(theirs, store) && holds_data(store) && !config.discard.allows(theirs) {
            return Err(Unfit::Lineage { at: at.into(), theirs, ours: store.newest_epoch() });
        }
        if is_outdated(theirs, &known) {
            return Err(Unfit::Outdated { at: at.into(), theirs, ours: store.newest_epoch() });
        }
        Ok(())
    }
}

/// Whether the epochs in `known` show that `theirs` has ended: a later epoch followed it, or it is
/// older than all that are remembered. An epoch that is not among them belongs to another branch of
/// the lineage, begun by a promotion that this server has not heard of. Only an operator can say
/// which branch counts, so it is not outdated.
fn is_outdated(theirs: Epoch, known: &[EpochStart]) -> bool {
    let (Some(first), Some(last)) = (known.first(), known.last()) else { return false };
    let has_ended = theirs != last.epoch && known.iter().any(|start| start.epoch == theirs);
    has_ended || first.epoch.follows(theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(epochs: &[Epoch]) -> Vec<EpochStart> {
        epochs.iter().map(|epoch| EpochStart { epoch: *epoch, begins: vec![64] }).collect()
    }

    #[test]
    fn who_was_replaced_is_told_from_who_replaces() {
        let epoch = |generation| Epoch::of(7, generation);
        let known = history(&[epoch(10), epoch(20), epoch(30)]);
        for (theirs, outdated) in [
            (epoch(30), false),
            (epoch(31), false),
            (epoch(20), true),
            (epoch(10), true),
            (epoch(9), true),
            (epoch(25), false),
            (Epoch::of(8, 1), false),
        ] {
            assert_eq!(is_outdated(theirs, &known), outdated, "{theirs}");
        }
        assert!(!is_outdated(epoch(1), &[]), "who knows nothing follows anybody");
    }
}
