//! The orderly end of a primary: once it takes no more writes, it waits until its replicas have
//! what it has answered.
//!
//! Replicas that are attached are waited for. One whose connection has just ended is as a rule
//! about to come back, and has a moment for that; it may as well never come back, and the end must
//! not hang on that. It is told of instead. A replica takes no writes, so it ends at once.

use crate::base::limits::LINGER_SECONDS_MAX;
use crate::replication::report::ReplicaView;
use crate::server::Stopper;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Pause between two looks at how far the replicas are.
const LOOK_PAUSE: Duration = Duration::from_millis(2);

/// How long a replica whose connection has just ended is waited for: its first tries come after 50
/// and 100 ms.
const RETURN_WAIT_MAX: Duration = Duration::from_secs(1);

/// Known to the thread that waits for signals and to the one that ends the process.
#[derive(Clone)]
pub struct Ending {
    wait_max: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    begun_at: Option<Instant>,
    stopper: Option<Stopper>,
}

impl Ending {
    /// One that waits for replicas for so long at most, counted from its beginning.
    pub fn new(wait_max: Duration) -> Ending {
        Ending { wait_max, state: Arc::default() }
    }

    /// It begins; `signal` asked for it.
    pub fn begin(&self, signal: &str) {
        let mut state = self.state();
        state.begun_at.get_or_insert_with(Instant::now);
        if let Some(stopper) = &state.stopper {
            stopper.stop();
        }
        drop(state);
        log::info!(
            "{signal}: ending; no more connections are taken; those that there are end once what they have sent is answered, within \
             {LINGER_SECONDS_MAX} s"
        );
    }

    /// The server has started. A signal may have come before: from the first answer on none may end
    /// the process but in order, so they are watched before there is a server.
    pub fn started(&self, stopper: Stopper) {
        let mut state = self.state();
        if state.begun_at.is_some() {
            stopper.stop();
        }
        state.stopper = Some(stopper);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called when nothing more is written.
    /// `replicas` tells how those that are attached stand now, `absent` the names of those that
    /// were attached until a moment ago.
    pub fn wait_for_replicas(&self, replicas: impl Fn() -> Vec<ReplicaView>, absent: impl Fn() -> Vec<String>) {
        let until = *self.state().begun_at.get_or_insert_with(Instant::now) + self.wait_max;
        let return_until = until.min(Instant::now() + RETURN_WAIT_MAX);
        let mut before: Vec<ReplicaView> = Vec::new();
        loop {
            let attached = replicas();
            before.iter().filter(|one| !attached.iter().any(|now| now.session == one.session)).for_each(tell_gone);
            let lacking: Vec<_> = attached.into_iter().filter(|replica| replica.lag_bytes > 0).collect();
            let (absent, now) = (absent(), Instant::now());
            if now >= until || lacking.is_empty() && (absent.is_empty() || now >= return_until) {
                lacking.iter().for_each(|replica| self.tell_lacking(replica));
                return absent.iter().for_each(|name| tell_absent(name));
            }
            if before.is_empty() && !lacking.is_empty() {
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

fn tell_absent(name: &str) {
    log::warn!(
        "ending although replica {name} is not attached: its connection has ended a moment ago, and it has not come back; it may lack the last of \
         what was answered"
    );
}

fn tell_gone(replica: &ReplicaView) {
    let ReplicaView { name, address, lag_bytes, .. } = replica;
    log::warn!(
        "replica {name} ({address}) has gone while it lacked {lag_bytes} bytes of what was answered; it is not waited for"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::shards::ShardSet;
    use crate::replication::ack::Summary;
    use std::cell::Cell;

    fn replica(session: u64, lag_bytes: u64) -> ReplicaView {
        ReplicaView {
            session,
            address: ([127, 0, 0, 1], 1).into(),
            name: "one".into(),
            program_version: "1.0".into(),
            fabric: Some("shm"),
            mode: "pull",
            pullers: 1,
            shards: ShardSet::all(1),
            state: "following",
            lag_bytes,
            told: Summary::default(),
            pushed_bytes: 0,
            bytes_per_second: 0,
            retain: "",
            is_counted: false,
            seconds: 0,
        }
    }

    const AN_HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn it_waits_until_all_that_are_attached_have_everything() {
        let looks = Cell::new(0);
        Ending::new(AN_HOUR).wait_for_replicas(
            || {
                looks.set(looks.get() + 1);
                // The second leaves; a third comes late, and is waited for as well.
                match looks.get() {
                    1..3 => vec![replica(1, 10), replica(2, 10)],
                    3..5 => vec![replica(1, 0), replica(3, 5)],
                    _ => vec![replica(1, 0), replica(3, 0)],
                }
            },
            Vec::new,
        );
        assert_eq!(looks.get(), 5);
    }

    #[test]
    fn it_waits_no_longer_than_said_and_looks_once_at_least() {
        for wait_max in [Duration::ZERO, Duration::from_millis(20)] {
            let looks = Cell::new(0);
            let begun_at = Instant::now();
            Ending::new(wait_max).wait_for_replicas(
                || {
                    looks.set(looks.get() + 1);
                    vec![replica(1, 10)]
                },
                Vec::new,
            );
            assert!(looks.get() >= 1 && begun_at.elapsed() >= wait_max);
        }
        Ending::new(AN_HOUR).wait_for_replicas(Vec::new, Vec::new);
    }

    #[test]
    fn one_that_has_just_lost_its_connection_has_a_moment_to_come_back() {
        let (looks, absences) = (Cell::new(0), Cell::new(0));
        let attached = || {
            looks.set(looks.get() + 1);
            if looks.get() < 4 { Vec::new() } else { vec![replica(2, 10 * u64::from(looks.get() < 6))] }
        };
        let absent = || {
            absences.set(absences.get() + 1);
            if looks.get() < 4 { vec!["one".into()] } else { Vec::new() }
        };
        Ending::new(AN_HOUR).wait_for_replicas(attached, absent);
        assert_eq!((looks.get(), absences.get()), (6, 6), "it came back, and was waited for until it had everything");
        let begun_at = Instant::now();
        Ending::new(AN_HOUR).wait_for_replicas(Vec::new, || vec!["one".into()]);
        assert!(begun_at.elapsed() >= RETURN_WAIT_MAX, "it did not come back");
    }
}
