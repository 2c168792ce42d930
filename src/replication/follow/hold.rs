//! Which shards a following may write to: those that its owner wants it to follow. And which it
//! *holds*: a puller has a lane there, or is about to have one. A shard that is held belongs to the
//! following alone, so its owner waits until the shard is let go before somebody else writes to it.

use crate::base::shards::ShardSet;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// See the module.
pub(super) struct Hold {
    state: Mutex<State>,
    let_go: Condvar,
    /// How often `wanted` has changed.
    changes: AtomicU64,
}

struct State {
    wanted: ShardSet,
    held: ShardSet,
}

impl Hold {
    /// These are wanted; none is held.
    pub fn new(wanted: ShardSet) -> Hold {
        let state = State { wanted, held: ShardSet::default() };
        Hold { state: Mutex::new(state), let_go: Condvar::new(), changes: AtomicU64::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be followed.
    pub fn wanted(&self) -> ShardSet {
        self.state().wanted
    }

    /// How often that has changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Acquire)
    }

    /// These are to be followed as well.
    pub fn want(&self, shards: ShardSet) {
        let mut state = self.state();
        state.wanted = state.wanted.with(shards);
        self.changes.fetch_add(1, Release);
    }

    /// These are not to be followed any more, and none of them is taken again.
    pub fn bar(&self, shards: ShardSet) {
        let mut state = self.state();
        state.wanted = state.wanted.without(shards);
        self.changes.fetch_add(1, Release);
    }

    /// Wait until none of these is held. False if that takes too long.
    pub fn wait_for(&self, shards: ShardSet, wait_max: Duration) -> bool {
        let is_held = |state: &mut State| !state.held.within(shards).is_empty();
        let waited = self.let_go.wait_timeout_while(self.state(), wait_max, is_held);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !is_held(&mut state)
    }

    /// Take this shard. False if it is not to be followed any more.
    pub fn take(&self, shard: usize) -> bool {
        let mut state = self.state();
        let is_wanted = state.wanted.has(shard);
        if is_wanted {
            state.held.insert(shard);
        }
        is_wanted
    }

    /// Nobody of this following writes to these any more.
    pub fn let_go(&self, shards: ShardSet) {
        let mut state = self.state();
        state.held = state.held.without(shards);
        self.let_go.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn set(text: &str) -> ShardSet {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_barred_is_not_taken_again() {
        let hold = Hold::new(set("0-3"));
        assert!(hold.take(0) && hold.take(3) && !hold.take(4));
        hold.bar(set("2-3"));
        assert!(!hold.take(2));
        assert_eq!(hold.wanted(), set("0-1"));
        assert!(!hold.wait_for(set("3"), Duration::from_millis(1)), "it is held");
        assert!(hold.wait_for(set("2"), Duration::ZERO), "nobody had it");
        hold.want(set("2"));
        assert!(hold.take(2));
    }

    #[test]
    fn whoever_waits_is_told_that_a_shard_was_let_go() {
        let hold = Arc::new(Hold::new(set("0-1")));
        assert!(hold.take(0) && hold.take(1));
        let other = hold.clone();
        let letting_go = std::thread::spawn(move || {
            other.let_go(set("1"));
            other.let_go(set("0"));
        });
        assert!(hold.wait_for(set("0-1"), Duration::from_secs(30)));
        letting_go.join().unwrap();
    }
}
