//! What all connections together may hold of one kind: unfinished requests, or unsent answers. Pure
//! but for the counter.
//!
//! Memory is charged and never refused: bytes that have arrived, and answers that have been made,
//! must be kept somewhere. When too much is held, connections that make no progress lose what they
//! hold: see [`super::hoards`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// See the module.
pub struct Budget {
    /// Shown in `stats`.
    held_bytes: Arc<AtomicU64>,
    bytes_max: u64,
    /// What is left once too much was held: less, so that not each further byte costs another
    /// search.
    aim_bytes: u64,
    share_bytes: u64,
}

impl Budget {
    /// `held_bytes` is where it is counted. A worker's share is what it may always hold.
    pub fn new(held_bytes: Arc<AtomicU64>, bytes_max: usize, workers: usize) -> Budget {
        let aim_bytes = (bytes_max - bytes_max / 8) as u64;
        Budget { held_bytes, bytes_max: bytes_max as u64, aim_bytes, share_bytes: aim_bytes / workers.max(1) as u64 }
    }

    /// More is held.
    pub fn take(&self, bytes: usize) {
        self.held_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Less is held.
    pub fn give(&self, bytes: usize) {
        self.held_bytes.fetch_sub(bytes as u64, Relaxed);
    }

    /// Bytes held now.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Relaxed)
    }

    /// True past half: then little is read at a time, and connections that hold memory and make no
    /// progress are closed sooner.
    pub fn is_tight(&self) -> bool {
        self.held_bytes() > self.bytes_max / 2
    }

    /// True when too much is held.
    pub fn is_over(&self) -> bool {
        self.held_bytes() > self.bytes_max
    }

    /// Bytes that a worker's connections, which hold `own_bytes`, must give up once too much is
    /// held: never below its share. As long as too much is held, some worker has more than its
    /// share.
    pub fn excess_bytes(&self, own_bytes: u64) -> u64 {
        let over = self.held_bytes().saturating_sub(self.aim_bytes);
        if self.is_over() { over.min(own_bytes.saturating_sub(self.share_bytes)) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_is_given_up_by_those_beyond_their_share() {
        let budget = Budget::new(Arc::default(), 8000, 2);
        budget.take(4000);
        assert!(!budget.is_tight());
        budget.take(4000);
        assert!(budget.is_tight() && !budget.is_over());
        assert_eq!(budget.excess_bytes(8000), 0);
        budget.take(1000);
        assert_eq!([9000, 5000, 3500, 0].map(|own| budget.excess_bytes(own)), [2000, 1500, 0, 0]);
        budget.give(1000);
        assert!(!budget.is_over());
    }
}
