//! A replica that a primary has admitted, before anything is pulled: whether this store can follow
//! that primary at all, and the data channels. Nothing here changes the store. So if it fails, the
//! store still has what it had.

use super::attach::{Channels, Joined, attach, attach_pushed, subscribe};
use super::choice::Choice;
use super::follow::{FollowConfig, SessionEnd};
use super::link::Link;
use super::push::Mode;
use super::reached::{Holder, Taken};
use super::standing::ServerNumber;
use super::unfit::{Refusals, Unfit};
use super::wire::{Message, Refusal, Subscribed, Welcome};
use crate::base::shards::ShardSet;
use crate::store::{Primary, Store};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// In which shards a primary is to be followed.
#[derive(Debug, Clone, Copy)]
pub struct Sought {
    /// In these, as far as that can be, and in one of them at least.
    pub shards: ShardSet,
    /// In each of these.
    pub each: ShardSet,
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
    /// The place there.
    pub taken: Taken,
}

impl From<Joined> for Admitted {
    fn from(joined: Joined) -> Admitted {
        Admitted { joined, channels: None }
    }
}

impl Admitted {
    /// Be admitted by a primary that this store can follow in the shards of `sought`, and connect
    /// the data channels.
    pub fn of(joined: Joined, config: &FollowConfig, sought: Sought, store: &Store) -> Result<Admitted, SessionEnd> {
        let mut admitted = Admitted::from(joined);
        admitted.connect(config, sought, store)?;
        Ok(admitted)
    }

    /// What the primary has said.
    pub fn welcome(&self) -> &Welcome {
        &self.joined.welcome
    }

    /// The primary's number.
    pub fn server(&self) -> ServerNumber {
        self.joined.server
    }

    /// Who has the place there.
    pub fn holder(&self) -> &Arc<Holder> {
        self.joined.taken.holder()
    }

    /// The fabric, and why that one; empty before there is one.
    pub fn fabric(&self) -> &str {
        self.channels.as_ref().map_or("", |channels| &channels.fabric)
    }

    /// As gates name this primary, whose replication port is at `replication`. Clients of its
    /// replicas should write at its host, to the port that it has told.
    pub fn primary(&self, replication: &str) -> Primary {
        let host = self.joined.link.peer();
        let clients = match self.joined.welcome.client_port {
            0 => format!("the host {}", host.ip()),
            port => SocketAddr::new(host.ip(), port).to_string(),
        };
        Primary { clients: clients.into(), replication: Some(replication.into()) }
    }

    /// Connect the data channels, unless there are some already, and subscribe to these shards, of
    /// which some may be unfit: see what was told with the subscription.
    pub fn attach(mut self, config: &FollowConfig, shards: ShardSet, store: &Store) -> Result<Attached, SessionEnd> {
        self.connect(config, Sought { shards, each: ShardSet::default() }, store)?;
        let channels = self.channels.take().expect("connected above");
        let subscribed = subscribe(&mut self.joined, shards, channels.channels.len(), &config.chain)?;
        let Joined { link, welcome, taken, .. } = self.joined;
        Ok(Attached { link, welcome, channels, subscribed, taken })
    }

    fn connect(&mut self, config: &FollowConfig, sought: Sought, store: &Store) -> Result<(), SessionEnd> {
        if let Err(unfit) = self.check(config, sought, store) {
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

    /// Whether this store can follow that primary as it is sought, and may.
    pub(super) fn check(&self, config: &FollowConfig, sought: Sought, store: &Store) -> Result<(), Unfit> {
        let welcome = &self.joined.welcome;
        let fits = welcome.memory.is_possible(&welcome.geometry) && welcome.memory.slabs <= store.memory().slabs;
        if welcome.geometry != store.geometry() || !fits {
            return Err(Unfit::Geometry);
        }
        let told = || sought.shards.iter().map(|shard| (shard, &welcome.histories[shard]));
        if !told().any(|(_, history)| history.newest().is_valid()) {
            return Err(Unfit::NoTerm(config.primary.clone()));
        }
        let refused = Refusals::of(config, store, told());
        let is_any = sought.shards != refused.shards();
        let has_each = refused.shards().within(sought.each).is_empty();
        if is_any && has_each { Ok(()) } else { Err(Unfit::Shards(refused)) }
    }
}
