//! One admitted replica, as its primary keeps it: who it is, its end of the data channel, and how
//! it stands by its ack slot.

use super::ack::{Summary, applied};
use super::push::Mode;
use super::report::ReplicaView;
use super::wire::Join;
use crate::fabric::{Grant, Kind};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// One admitted replica.
pub(super) struct Slot {
    /// Its number.
    pub session: u64,
    /// Who it is.
    pub join: Join,
    /// From where it has connected.
    pub address: SocketAddr,
    /// Of the session's control connection.
    pub link: TcpStream,
    /// When it was admitted.
    pub since: Instant,
    /// Its data channel, once there is one.
    pub held: Option<Held>,
    /// For the rate: the time of the last look, and the bytes that it had pulled by then.
    pub rate: (Instant, u64),
}

/// The data channel of an admitted replica.
pub(super) struct Held {
    /// Its fabric.
    pub kind: Kind,
    /// This end of the channel.
    pub grant: Box<dyn Grant>,
    /// If data is pushed: a live count of the bytes of log that were written.
    pub pushed_bytes: Option<Arc<AtomicU64>>,
}

impl Slot {
    /// How it stands; `spans` has tail and committed of each shard.
    pub fn view(&mut self, spans: &[(u64, u64)]) -> ReplicaView {
        let ack = self.held.as_ref().map(|held| held.grant.ack().words());
        let pushed = self.held.as_ref().and_then(|held| held.pushed_bytes.as_ref());
        let mode = if pushed.is_some() { Mode::Push } else { Mode::Pull };
        let summary = ack.map(Summary::read).unwrap_or_default();
        let following = summary.epoch != 0;
        let missing = |(shard, (tail, committed)): (usize, &(u64, u64))| {
            committed.saturating_sub(ack.map_or(0, |ack| applied(ack, shard)).max(*tail))
        };
        let lag_bytes = spans.iter().enumerate().map(missing).sum();
        let (looked_at, pulled_before) = self.rate;
        let elapsed = looked_at.elapsed();
        let pulled = summary.pulled_bytes.saturating_sub(pulled_before);
        let bytes_per_second = (u128::from(pulled) * 1_000_000_000 / elapsed.as_nanos().max(1)) as u64;
        self.rate = (Instant::now(), summary.pulled_bytes);
        ReplicaView {
            session: self.session,
            address: self.address,
            name: self.join.name.clone(),
            program_version: self.join.program_version.clone(),
            fabric: self.held.as_ref().map(|held| held.kind.name()),
            mode: mode.name(),
            state: if following { "following" } else { "joining" },
            lag_bytes,
            lag_microseconds: summary.lag_microseconds,
            pulled_bytes: summary.pulled_bytes,
            pushed_bytes: pushed.map_or(0, |bytes| bytes.load(Relaxed)),
            bytes_per_second,
            records: summary.records,
            resyncs: summary.begun_anew,
            bad_records: summary.bad_records,
            retain: "",
            seconds: self.since.elapsed().as_secs(),
        }
    }
}
