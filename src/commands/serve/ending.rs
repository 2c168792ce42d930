//! The orderly end of a primary: once it takes no more writes, it waits until its replicas have what it has answered.
//!
//! Only replicas that are attached are waited for: one whose connection has ended may never come back, and the end must
//! not hang on that. It is told of instead, with what it lacks. A replica takes no writes, so it ends at once.

use crate::replication::report::ReplicaView;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Pause between two looks at how far the replicas are.
const LOOK_PAUSE: Duration = Duration::from_millis(2);

/// When the end began, known to the thread that waits for signals and to the one that ends the process.
#[derive(Clone)]
pub struct Ending {
    wait_max: Duration,
    begun_at: Arc<OnceLock<Instant>>,
}

impl Ending {
    /// One that waits for replicas for so long at most, counted from its beginning.
    pub fn new(wait_max: Duration) -> Ending {
        Ending { wait_max, begun_at: Arc::default() }
    }

    /// It begins; `signal` asked for it.
    pub fn begin(&self, signal: &str) {
        let _ = self.begun_at.set(Instant::now());
        log::info!("{signal}: ending; no more connections and writes are taken");
    }

    /// To be called when nothing more is written. `replicas` tells how they stand now.
    pub fn wait_for_replicas(&self, replicas: impl Fn() -> Vec<ReplicaView>) {
        let until = *self.begun_at.get_or_init(Instant::now) + self.wait_max;
        let mut before: Vec<ReplicaView> = Vec::new();
        loop {
            let attached = replicas();
            before.iter().filter(|one| !attached.iter().any(|now| now.session == one.session)).for_each(tell_gone);
            let lacking: Vec<_> = attached.into_iter().filter(|replica| replica.lag_bytes > 0).collect();
            if lacking.is_empty() {
                return;
            }
            if Instant::now() >= until {
                return lacking.iter().for_each(|replica| self.tell_lacking(replica));
            }
            if before.is_empty() {
                let bytes: u64 = lacking.iter().map(|replica| replica.lag_bytes).sum();
                log::info!("waiting until {} replicas have the last {bytes} bytes", lacking.len());
            }
            before = lacking;
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    fn tell_lacking(&self, replica: &ReplicaView) {
        let ReplicaView { name, address, lag_bytes, .. } = replica;
        let waited = self.wait_max.as_secs();
        log::warn!(
            "ending after {waited} s although replica {name} ({address}) lacks {lag_bytes} bytes of what was answered; \
             a longer --shutdown-timeout waits longer"
        );
    }
}

fn tell_gone(replica: &ReplicaView) {
    let ReplicaView { name, address, lag_bytes, .. } = replica;
    log::warn!(
        "replica {name} ({address}) has gone while it lacked {lag_bytes} bytes of what was answered; it is not waited for"
    );
}
