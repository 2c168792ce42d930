//! Whom a primary counts where writes wait for replicas: the members that the map lists, but for
//! those that are leaving.
//!
//! **When that is so.** A shard is confirmed once none of its writes rests any more on somebody
//! whom the map does not count. Writes may do so where a member is not counted any more, where this
//! server has become the primary of what others had acknowledged, and where a write is to wait for
//! more replicas than before. Two things are waited for there. A worker may have counted a member
//! a moment ago: so the first look only notes what is committed, and those after it ask for that.
//! And all up to there must be on as many of the members that are counted now as a write waits for,
//! or on all of them.

use super::step::number_of;
use crate::base::shards::ShardSet;
use crate::cluster::map::{Map, Member, ServerId, Stage};
use crate::replication::board::{Board, BoardView, Members};
use crate::store::Store;
use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module.
pub struct Counting {
    board: Arc<Board>,
    view: BoardView,
    members: Members,
    /// Of the last map.
    version: u64,
    /// Where writes wait for nobody, whoever fails over reckons with one all the same.
    acks: usize,
    /// Of each shard, how many members are counted.
    listed: Vec<usize>,
    /// Where this server was the primary at the last look.
    own: ShardSet,
    /// Shards that are not confirmed, and up to where it must be on others; None: that is to be
    /// looked at.
    owed: BTreeMap<usize, Option<u64>>,
}

impl Counting {
    /// Before the first map: everybody is counted, and nobody writes.
    pub fn new(board: Arc<Board>) -> Counting {
        let (view, own) = (BoardView::new(board.clone()), ShardSet::default());
        let (members, listed, owed) = (Vec::new(), Vec::new(), BTreeMap::new());
        Counting { board, view, members, version: 0, acks: 0, listed, own, owed }
    }

    /// Count as this map says; `me` is this server, if it has roles there.
    pub fn take(&mut self, map: &Map, me: Option<ServerId>) {
        if map.version == self.version {
            return;
        }
        let (members, acks) = (members_of(map, me), usize::from(map.policy.acks.max(1)));
        self.version = map.version;
        for (number, before) in std::mem::take(&mut self.members) {
            self.owe(before.without(shards_of(&members, &number)));
        }
        if acks > self.acks {
            self.owe(self.own);
        }
        // Who is dead is one of them all the same.
        let stays = |member: &&Member| is_counted(member) && Some(member.server) != me;
        self.listed = map.shards.iter().map(|shard| shard.members.iter().filter(stays).count()).collect();
        self.board.set_members(members.clone());
        (self.members, self.acks) = (members, acks);
    }

    fn owe(&mut self, shards: ShardSet) {
        self.owed.extend(shards.iter().map(|shard| (shard, None)));
    }

    /// The version of the map that is heeded, and the shards that are not confirmed. `own`: where
    /// this server takes writes.
    pub fn confirm(&mut self, store: &Store, own: ShardSet) -> (u64, ShardSet) {
        self.owe(own.without(self.own));
        self.own = own;
        self.owed.retain(|shard, _| own.has(*shard));
        if !self.owed.is_empty() {
            self.view.refresh();
        }
        let (view, listed, acks) = (&self.view, &self.listed, self.acks);
        self.owed.retain(|shard, until| match *until {
            Some(until) => view.holders(*shard, until) < listed[*shard].min(acks),
            None => {
                *until = Some(store.shards()[*shard].control().committed());
                true
            }
        });
        (self.version, self.owed.keys().copied().collect())
    }
}

/// In which shards each process is counted.
fn members_of(map: &Map, me: Option<ServerId>) -> Members {
    let mut members = Members::new();
    for server in map.servers.iter().filter(|server| Some(server.id) != me) {
        let counts = |shard: &usize| map.shards[*shard].member(server.id).is_some_and(is_counted);
        if let Some(number) = server.incarnation.as_deref().and_then(number_of) {
            members.push((number, (0..map.shards.len()).filter(counts).collect()));
        }
    }
    members
}

/// It is not to go.
fn is_counted(member: &Member) -> bool {
    matches!(member.stage, Stage::Joining | Stage::Whole)
}

fn shards_of(members: &Members, number: &[u8; 16]) -> ShardSet {
    members.iter().find(|(known, _)| known == number).map_or(ShardSet::default(), |(_, shards)| *shards)
}
