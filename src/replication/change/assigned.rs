//! What a cluster's map asks of a server that is not a shard's primary. Unlike an operator's orders
//! these do not wait for any other server: the map is asked again and again until all is as it
//! says, and meanwhile this thread has other servers' seals to answer.

use super::{LOOK, Roles, Words};
use crate::base::shards::ShardSet;
use crate::replication::follow::Following;
use crate::replication::standing::ServerNumber;
use crate::store::History;
use std::time::{Duration, Instant};

/// Longest wait until all that read a shard's items have ended their turns.
const EMPTY_WAIT_MAX: Duration = Duration::from_secs(1);

impl Roles {
    /// Take no writes there, and follow `primary` from now on.
    pub(super) fn follow_from_now(
        &mut self,
        shards: ShardSet,
        primary: &str,
        server: ServerNumber,
        clients: &str,
    ) -> Words {
        self.node.store.close_gates(shards.iter(), Some(clients));
        let is_it = |one: &&Following| {
            !one.is_stopping() && (one.follow().primary() == primary || one.follow().is_of_server(&server))
        };
        let there = self.followings.iter().find(is_it).map_or(ShardSet::default(), |one| one.follow().shards());
        let missing = shards.without(there);
        self.release(missing)?;
        self.follow_anew(self.node.config.follow.of(primary), Some(server), missing);
        Ok(format!("follows {primary}{}", self.in_shards(shards)))
    }

    /// Take no writes there.
    pub(super) fn close(&mut self, shards: ShardSet) -> String {
        self.node.store.close_gates(shards.iter(), None);
        format!("takes no writes{}", self.in_shards(shards))
    }

    /// Take no writes there, follow nobody, and have nothing.
    pub(super) fn empty(&mut self, shards: ShardSet, clients: Option<&str>) -> Words {
        let store = self.node.store.clone();
        store.close_gates(shards.iter(), clients);
        self.release(shards)?;
        let until = Instant::now() + EMPTY_WAIT_MAX;
        for shard in shards.iter() {
            let none = || format!("a thread still writes to shard {shard}; it will end, so try again");
            let mut follower = store.follower(shard).ok_or_else(none)?;
            // First: replicas of this one keep what they have.
            follower.leave_history();
            follower.forget();
            while !follower.begin_at(follower.cursor(), &History::NONE) {
                if Instant::now() >= until {
                    return Err(format!("a worker still reads items of shard {shard}; try again"));
                }
                std::thread::sleep(LOOK);
            }
            follower.release_given_up();
        }
        Ok(format!("has nothing{}", self.in_shards(shards)))
    }
}
