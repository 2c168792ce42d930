//! The rows of `stats replication`: the same names in `stats` and in `remora ctl`.

use super::ack::Summary;
use super::clock::Skew;
use super::penalties::PenaltyView;
use super::pull::{Counts, Lag, Sign};
use super::standing::Distance;
use super::unfit::Refusals;
use crate::base::shards::ShardSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One replica, as its primary sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaView {
    /// Number of the session; grows with each.
    pub session: u64,
    /// Where its control connection comes from.
    pub address: SocketAddr,
    /// What it calls itself.
    pub name: String,
    /// Of its program.
    pub program_version: String,
    /// The fabric, once there is one.
    pub fabric: Option<&'static str>,
    /// `pull` or `push`.
    pub mode: &'static str,
    /// Data channels that it has: it pulls with as many threads.
    pub pullers: usize,
    /// The shards that it subscribes to.
    pub shards: ShardSet,
    /// `joining` or `following`.
    pub state: &'static str,
    /// Bytes that are committed at the primary and not yet applied at the replica: of these shards,
    /// and of those that it has to subscribe to again.
    pub lag_bytes: u64,
    /// What it says of itself.
    pub told: Summary,
    /// Log bytes that were written to it, where data is pushed.
    pub pushed_bytes: u64,
    /// Bytes a second since the last time that these numbers were asked for.
    pub bytes_per_second: u64,
    /// Where log is kept: `held` while it is for this replica, `let_go` while not; else empty.
    pub retain: &'static str,
    /// Whether it is counted where writes wait for replicas, in each shard that it follows.
    pub is_counted: bool,
    /// Seconds since it was admitted.
    pub seconds: u64,
}

/// Counters of a primary's replication port.
#[derive(Debug, Default)]
pub struct OfferCounters {
    /// Replicas admitted.
    pub admitted: AtomicU64,
    /// Peers refused: wrong secret, wrong version, too many, nonsense.
    pub refused: AtomicU64,
    /// Of those, for the secret.
    pub refused_secret: AtomicU64,
    /// Of those that were refused: connections ended for newer ones before they had proved
    /// themselves.
    pub strangers_ended: AtomicU64,
    /// Sessions that ended.
    pub ended: AtomicU64,
}

/// A replica's own view: the numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FollowView {
    /// The primary's replication port, as it was given.
    pub primary: String,
    /// Of the primary's program, as of the last session, if it tells it.
    pub primary_version: Option<String>,
    /// In which shards it is followed.
    pub shards: ShardSet,
    /// Of these, those in which that primary cannot be followed, and why. The others are followed.
    pub refused: Refusals,
    /// `connecting`, `joining`, `following`, `refused` (in some of the shards, or in all), or
    /// `detached`.
    pub state: &'static str,
    /// It follows in all of these that are not refused, and little is missing. Under writes without
    /// a pause a replica is near, though it never has all that it was shown.
    pub is_near: bool,
    /// The fabric, and why that one.
    pub fabric: String,
    /// `pull` or `push`.
    pub mode: &'static str,
    /// Threads that pull, each over a data channel of its own; 0 before the first session.
    pub pullers: usize,
    /// Why it is not following, if it is not.
    pub trouble: String,
    /// Behind, in bytes.
    pub lag_bytes: u64,
    /// Behind, in time.
    pub lag_microseconds: u64,
    /// When the server that takes writes was last seen to live, and what it showed. It stays from
    /// one session to the next.
    pub sign: Sign,
    /// Distance from the root of the chain: the sum of what each link has measured.
    pub distance: Distance,
    /// The primary's clock less this host's, once it was measured.
    pub skew: Option<Skew>,
    /// Fabrics that have failed, or were not ready.
    pub penalties: Vec<PenaltyView>,
    /// Counted over all channels.
    pub counts: Counts,
    /// Times that it was admitted.
    pub sessions: u64,
    /// Tries that failed.
    pub failed_tries: u64,
}

/// Rows for `stats replication`: names and values, in memcached's way.
pub trait Report: Send + Sync {
    /// All rows.
    fn rows(&self, emit: &mut dyn FnMut(&str, &str));
}

impl ReplicaView {
    /// Its rows, each name after `replica_N_`.
    pub fn rows(&self, number: usize, emit: &mut dyn FnMut(&str, &str)) {
        let mut row = |name: &str, value: &dyn ToString| emit(&format!("replica_{number}_{name}"), &value.to_string());
        row("address", &self.address);
        row("name", &self.name);
        row("version", &self.program_version);
        row("state", &self.state);
        row("shards", &self.shards);
        row("fabric", &self.fabric.unwrap_or("none"));
        row("mode", &self.mode);
        row("pullers", &self.pullers);
        row("lag_bytes", &self.lag_bytes);
        row("lag_us", &self.told.lag_microseconds);
        row("pulled_bytes", &self.told.pulled_bytes);
        row("pushed_bytes", &self.pushed_bytes);
        row("bytes_per_second", &self.bytes_per_second);
        row("records", &self.told.records);
        row("resyncs", &self.told.begun_anew);
        row("bad_records", &self.told.bad_records);
        if !self.retain.is_empty() {
            row("retain", &self.retain);
        }
        row("counted", &if self.is_counted { "yes" } else { "no" });
        row("seconds", &self.seconds);
    }
}

impl FollowView {
    /// Its rows.
    pub fn rows(&self, emit: &mut dyn FnMut(&str, &str)) {
        let counts = &self.counts;
        let mut row = |name: &str, value: &dyn ToString| emit(name, &value.to_string());
        row("primary", &self.primary);
        row("primary_version", &self.primary_version.as_deref().unwrap_or("unknown"));
        row("shards", &self.shards);
        row("shards_refused", &self.refused.shards());
        row("state", &self.state);
        row("fabric", &self.fabric);
        row("mode", &self.mode);
        row("pullers", &self.pullers);
        row("trouble", &self.trouble_words());
        row("lag_bytes", &self.lag_bytes);
        row("lag_us", &self.lag_microseconds);
        row("lag_total_bytes", &self.distance.lag_bytes);
        row("lag_total_us", &self.distance.lag_microseconds);
        row("depth", &self.distance.depth);
        let staleness = self.sign.moved_at.map(|moved_at| moved_at.elapsed().as_millis().to_string());
        row("staleness_ms", &staleness.unwrap_or("unknown".into()));
        row("primary_serves", &self.sign.serves.map_or("unknown", |serves| if serves { "yes" } else { "no" }));
        let of_skew = |text: fn(Skew) -> String| self.skew.map_or("unknown".into(), text);
        row("clock_skew_ms", &of_skew(|skew| skew.milliseconds().to_string()));
        row("clock_skew_precision_ms", &of_skew(|skew| skew.precision_milliseconds().to_string()));
        row("sessions", &self.sessions);
        row("failed_tries", &self.failed_tries);
        row("looks", &counts.looks);
        row("pieces", &counts.pieces);
        row("pulled_bytes", &counts.pulled_bytes);
        row("records", &counts.records);
        row("shards_continued", &counts.continued);
        row("shards_joined", &counts.joined);
        row("shards_overrun", &counts.overrun);
        row("shards_diverged", &counts.diverged);
        row("shards_truncated", &counts.truncated);
        row("diverged_records", &counts.diverged_records);
        row("diverged_bytes", &counts.diverged_bytes);
        row("shards_discarded", &counts.discarded);
        row("bad_records", &counts.bad_records);
        for penalty in &self.penalties {
            let mut row = |name: &str, value: &dyn ToString| {
                emit(&format!("penalty_{}_{name}", penalty.fabric.name()), &value.to_string());
            };
            row("failures", &penalty.failures);
            row("seconds", &penalty.left.as_secs());
            row("reason", &penalty.why);
        }
    }

    /// The rows of all followings of a process. Of one its own. Of several what they are together,
    /// and after `primary_N_` what each is.
    pub fn rows_of(views: &[FollowView], emit: &mut dyn FnMut(&str, &str)) {
        let Some(all) = views.iter().cloned().reduce(FollowView::with) else { return };
        all.rows(emit);
        if views.len() < 2 {
            return;
        }
        for (number, view) in views.iter().enumerate() {
            let mut row =
                |name: &str, value: &dyn ToString| emit(&format!("primary_{number}_{name}"), &value.to_string());
            row("address", &view.primary);
            row("shards", &view.shards);
            row("shards_refused", &view.refused.shards());
            row("state", &view.state);
            row("fabric", &view.fabric);
            row("trouble", &view.trouble_words());
            row("lag_bytes", &view.lag_bytes);
            row("lag_us", &view.lag_microseconds);
        }
    }

    fn trouble_words(&self) -> String {
        match (self.trouble.is_empty(), self.refused.is_empty()) {
            (false, _) => self.trouble.clone(),
            (true, false) => self.refused.to_string(),
            (true, true) => "none".into(),
        }
    }

    /// Of two followings together: sums, the longest lag, and the state of the one that is further
    /// from following.
    fn with(self, other: FollowView) -> FollowView {
        let rank = |state: &str| {
            ["following", "joining", "connecting", "refused", "detached"].iter().position(|one| *one == state)
        };
        let (behind, ahead) = if rank(self.state) >= rank(other.state) { (&self, &other) } else { (&other, &self) };
        let both = |one: &str, other: &str| if one == other { one.into() } else { format!("{one}, {other}") };
        let far = if self.distance.depth >= other.distance.depth { self.distance } else { other.distance };
        FollowView {
            primary: both(&self.primary, &other.primary),
            primary_version: behind.primary_version.clone().or(ahead.primary_version.clone()),
            shards: self.shards.with(other.shards),
            refused: self.refused.clone().with(&other.refused),
            state: behind.state,
            is_near: self.is_near && other.is_near,
            fabric: both(&self.fabric, &other.fabric),
            mode: behind.mode,
            pullers: self.pullers + other.pullers,
            trouble: if behind.trouble.is_empty() { ahead.trouble.clone() } else { behind.trouble.clone() },
            lag_bytes: self.lag_bytes + other.lag_bytes,
            lag_microseconds: self.lag_microseconds.max(other.lag_microseconds),
            sign: self.sign.with(other.sign),
            distance: far,
            skew: behind.skew.or(ahead.skew),
            penalties: [self.penalties.clone(), other.penalties.clone()].concat(),
            counts: self.counts.plus(&other.counts),
            sessions: self.sessions + other.sessions,
            failed_tries: self.failed_tries + other.failed_tries,
        }
    }

    /// Take over what a puller has counted. `before` is what earlier sessions counted.
    pub fn set(&mut self, before: &Counts, now: &Counts, lag: Lag, sign: Sign) {
        self.counts = before.plus(now);
        self.lag_bytes = lag.bytes;
        self.lag_microseconds = lag.time.as_micros() as u64;
        // A session that has seen nothing yet makes nothing of before younger.
        self.sign.moved_at = sign.moved_at.or(self.sign.moved_at);
        self.sign.serves = sign.serves.or(self.sign.serves);
    }
}

impl OfferCounters {
    /// Its rows.
    pub fn rows(&self, emit: &mut dyn FnMut(&str, &str)) {
        for (name, counter) in [
            ("replicas_admitted", &self.admitted),
            ("replicas_refused", &self.refused),
            ("replicas_refused_secret", &self.refused_secret),
            ("replicas_ended", &self.ended),
            ("strangers_ended", &self.strangers_ended),
        ] {
            emit(name, &counter.load(Relaxed).to_string());
        }
    }
}
