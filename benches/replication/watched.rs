//! A channel that notes for how long none of its READs was under way.

use remora::fabric::{Channel, Completion, FabricError, Kind, Landing, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// See the module. Until it was asked for them READs count as under way, though they may have
/// arrived.
pub struct Watched {
    channel: Box<dyn Channel>,
    under_way: usize,
    /// Since when none is.
    idle_since: Instant,
    idle_ns: Arc<AtomicU64>,
}

impl Watched {
    /// A channel, and the nanoseconds so far in which none of its READs was under way, from now on.
    pub fn new(channel: Box<dyn Channel>) -> (Watched, Arc<AtomicU64>) {
        let idle_ns = Arc::new(AtomicU64::new(0));
        (Watched { channel, under_way: 0, idle_since: Instant::now(), idle_ns: idle_ns.clone() }, idle_ns)
    }
}

impl Channel for Watched {
    fn kind(&self) -> Kind {
        self.channel.kind()
    }

    fn numa_node(&self) -> Option<u32> {
        self.channel.numa_node()
    }

    fn depth_max(&self) -> usize {
        self.channel.depth_max()
    }

    fn landing(&mut self, bytes: usize) -> Result<Landing, FabricError> {
        self.channel.landing(bytes)
    }

    fn submit(&mut self, reads: &mut Vec<Read>) -> Result<(), FabricError> {
        if self.under_way == 0 && !reads.is_empty() {
            self.idle_ns.fetch_add(self.idle_since.elapsed().as_nanos() as u64, Relaxed);
        }
        self.under_way += reads.len();
        self.channel.submit(reads)
    }

    fn poll(&mut self, done: &mut Vec<Completion>, wait: Duration) -> Result<usize, FabricError> {
        let count = self.channel.poll(done, wait)?;
        self.under_way -= count;
        if count > 0 && self.under_way == 0 {
            self.idle_since = Instant::now();
        }
        Ok(count)
    }

    fn write_ack(&mut self, offset: usize, words: &[u64]) -> Result<bool, FabricError> {
        self.channel.write_ack(offset, words)
    }
}
