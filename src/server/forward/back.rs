//! Requests that have come back not done, by client and shard. While roles change hands there may
//! be many, and each answer and each new request asks for its own.

use crate::server::table::Token;
use std::collections::HashMap;

/// Whose, and about which shard.
pub type Group = (Token, Option<u32>);

/// Their tags. A request stays here until it is answered, even if it is sent again.
#[derive(Default)]
pub struct Back(HashMap<Group, Vec<u32>>);

impl Back {
    /// One has come back for the first time.
    pub fn add(&mut self, client: Token, shard: Option<u32>, tag: u32) {
        self.0.entry((client, shard)).or_default().push(tag);
    }

    /// One of those is answered.
    pub fn remove(&mut self, client: Token, shard: Option<u32>, tag: u32) {
        let Some(tags) = self.0.get_mut(&(client, shard)) else { return };
        tags.retain(|other| *other != tag);
        if tags.is_empty() {
            self.0.remove(&(client, shard));
        }
    }

    /// Those of a client about a shard, in no order.
    pub fn tags(&self, client: Token, shard: Option<u32>) -> &[u32] {
        if self.is_empty() { &[] } else { self.0.get(&(client, shard)).map_or(&[], Vec::as_slice) }
    }

    /// None has.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Of whom and about what some have.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.0.keys()
    }
}
