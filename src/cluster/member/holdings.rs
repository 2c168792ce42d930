//! What this server has of each shard, by what its store and its followings say at one moment.

use super::group;
use crate::base::shards::ShardSet;
use crate::base::term::Term;
use crate::cluster::report::{Holding, Role};
use crate::replication::follow::Follow;
use crate::replication::lineage::has_nothing;
use crate::replication::node::Node;
use crate::replication::standing::ServerNumber;
use crate::replication::unfit::WhyRefused;
use crate::store::Store;
use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Holdings {
    primary: ShardSet,
    followed: Vec<Followed>,
    /// It has nothing there, and follows nobody.
    empty: ShardSet,
    /// Where it is neither, what it has.
    roles: Vec<Option<Role>>,
    terms: Vec<u32>,
}

/// A server that is followed.
#[derive(Debug, Clone, Default)]
pub struct Followed {
    /// Its replication port, as it was given.
    pub primary: String,
    /// Its number, once it was reached.
    pub server: Option<ServerNumber>,
    /// In which shards.
    pub shards: ShardSet,
    /// Of these, those in which it is refused, for what is here is of another lineage.
    pub foreign: ShardSet,
    /// Nothing was missing at the last look, or next to nothing.
    pub is_near: bool,
}

impl Holdings {
    /// Of now.
    pub fn of(store: &Store, node: &Node) -> Holdings {
        let has_data = |shard: &usize| !has_nothing(&store.shards()[*shard]);
        let followed = |follow: &Arc<Follow>| {
            let view = follow.snapshot();
            let is_foreign = |why: &WhyRefused| matches!(why, WhyRefused::Lineage { .. });
            let foreign = view.refused.iter().filter(|refused| is_foreign(&refused.why));
            Followed {
                primary: view.primary.clone(),
                server: follow.server(),
                shards: if view.state == "detached" { ShardSet::default() } else { view.shards },
                // What was refused before it was emptied still stands there for a while.
                foreign: foreign.flat_map(|refused| refused.shards.iter()).filter(has_data).collect(),
                is_near: view.state == "following" && view.is_near,
            }
        };
        let followed = node.follows().iter().map(followed).collect();
        let primary = store.writable();
        let mut here = Holdings { primary, followed, ..Holdings::default() };
        for (number, shard) in store.shards().iter().enumerate() {
            let by = here.followed.iter().find(|one| one.shards.has(number));
            let (is_whole, is_proven) = (shard.is_whole(), shard.is_proven());
            let has_nothing = has_nothing(shard);
            if by.is_none() && has_nothing && !here.primary.has(number) {
                here.empty.insert(number);
            }
            here.terms.push(Term(shard.control().term()).number());
            here.roles.push(if here.primary.has(number) {
                Some(Role::Primary)
            } else if is_proven && is_whole {
                Some(if by.is_some_and(|by| by.is_near) { Role::Current } else { Role::Whole })
            } else if by.is_some() || !has_nothing {
                Some(Role::Joining)
            } else {
                None
            });
        }
        here
    }

    /// Where it takes writes.
    pub fn primary(&self) -> ShardSet {
        self.primary
    }

    /// The number of the term to which a shard's log has come here.
    pub fn term(&self, shard: usize) -> u32 {
        self.terms[shard]
    }

    /// Whether it has nothing of a shard, and follows nobody there.
    pub fn is_empty(&self, shard: usize) -> bool {
        self.empty.has(shard)
    }

    /// Whether it follows that server in a shard, by its replication port or by its number.
    pub fn follows(&self, shard: usize, primary: &str, server: ServerNumber) -> bool {
        self.followed_at(primary, server).any(|one| one.shards.has(shard))
    }

    /// Whether that server refuses it in a shard, for what is here is of another lineage. What
    /// another one says proves nothing: the shard's primary is whom the map names.
    pub fn is_foreign(&self, shard: usize, primary: &str, server: ServerNumber) -> bool {
        self.followed_at(primary, server).any(|one| one.foreign.has(shard))
    }

    /// The followings of a server, by its replication port or by its number.
    fn followed_at<'h>(&'h self, primary: &'h str, server: ServerNumber) -> impl Iterator<Item = &'h Followed> {
        self.followed.iter().filter(move |one| one.primary == primary || one.server == Some(server))
    }

    /// As it is reported.
    pub fn told(&self) -> Vec<Holding> {
        let mut groups = Vec::new();
        for (shard, role) in self.roles.iter().enumerate() {
            if let Some(role) = role {
                group(&mut groups, (*role, self.terms[shard]), shard);
            }
        }
        let holding =
            |((role, term), shards): ((Role, u32), ShardSet)| Holding { shards: shards.to_string(), role, term };
        groups.into_iter().map(holding).collect()
    }

    /// How long the log of each shard is of which it has anything, in KiB.
    pub fn kib(&self, store: &Store) -> BTreeMap<usize, u64> {
        let length = |shard: usize| {
            let control = store.shards()[shard].control();
            // The tail first: it never passes what is committed later.
            let tail = control.tail();
            control.committed().saturating_sub(tail) >> 10
        };
        let has = |(shard, role): (usize, &Option<Role>)| role.is_some().then(|| (shard, length(shard)));
        self.roles.iter().enumerate().filter_map(has).collect()
    }

    /// Of a server that has this.
    #[cfg(test)]
    pub fn made(shards: usize, primary: ShardSet, followed: Vec<Followed>) -> Holdings {
        let all = followed.iter().fold(primary, |all, one| all.with(one.shards));
        Holdings {
            primary,
            followed,
            empty: ShardSet::all(shards).without(all),
            roles: vec![None; shards],
            terms: vec![2; shards],
        }
    }
}
