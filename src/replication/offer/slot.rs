//! One admitted replica, as its primary keeps it: who it is, this end of its data channels, and how
//! it stands by its ack slots.

use super::super::ack::AckSlots;
use super::super::push::Mode;
use super::super::report::ReplicaView;
use super::super::wire::Join;
use crate::base::shards::ShardSet;
use crate::fabric::{FabricError, Grant, GrantState, Kind};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// One admitted replica.
pub(in crate::replication) struct Slot {
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
    /// Its data channels, once there are some.
    pub held: Option<Held>,
    /// For the rate: the time of the last look, and the bytes that it had pulled by then.
    pub rate: (Instant, u64),
}

/// The data channels of an admitted replica: one for each of its pullers.
pub(in crate::replication) struct Held {
    /// Their fabric.
    pub kind: Kind,
    /// This end of each, in the order of the pullers.
    grants: Vec<Box<dyn Grant>>,
    /// What the replica acknowledges over them.
    pub acks: Arc<AckSlots>,
    /// If data is pushed: a live count of the bytes of log that were written.
    pub pushed_bytes: Option<Arc<AtomicU64>>,
}

impl Held {
    /// Of a store with so many shards, which the pullers share.
    pub fn new(kind: Kind, grants: Vec<Box<dyn Grant>>, shards: usize) -> Held {
        let acks = Arc::new(AckSlots::new(grants.iter().map(|grant| grant.ack().clone()), shards));
        Held { kind, grants, acks, pushed_bytes: None }
    }

    /// Whether all are connected; an error once one has ended.
    pub fn state(&mut self) -> Result<GrantState, FabricError> {
        for grant in &mut self.grants {
            if grant.state()? == GrantState::Waiting {
                return Ok(GrantState::Waiting);
            }
        }
        Ok(GrantState::Connected)
    }
}

impl Slot {
    /// How it stands; `spans` has tail and committed of each shard.
    pub fn view(&mut self, spans: &[(u64, u64)]) -> ReplicaView {
        let acks = self.held.as_ref().map(|held| &*held.acks);
        let pushed = self.held.as_ref().and_then(|held| held.pushed_bytes.as_ref());
        let mode = if pushed.is_some() { Mode::Push } else { Mode::Pull };
        let told = acks.map(AckSlots::summary).unwrap_or_default();
        let shards = acks.map(AckSlots::shards).unwrap_or_default();
        let wanted = acks.map_or(ShardSet::all(spans.len()), AckSlots::wanted);
        let following = told.beats != 0 && !shards.is_empty() && shards == wanted;
        let missing = |shard: usize| {
            let (tail, committed) = spans[shard];
            committed.saturating_sub(acks.map_or(0, |acks| acks.applied(shard)).max(tail))
        };
        let lag_bytes = wanted.iter().map(missing).sum();
        let (looked_at, pulled_before) = self.rate;
        let elapsed = looked_at.elapsed();
        let pulled = told.pulled_bytes.saturating_sub(pulled_before);
        let bytes_per_second = (u128::from(pulled) * 1_000_000_000 / elapsed.as_nanos().max(1)) as u64;
        self.rate = (Instant::now(), told.pulled_bytes);
        ReplicaView {
            session: self.session,
            address: self.address,
            name: self.join.name.clone(),
            program_version: self.join.program_version.clone(),
            fabric: self.held.as_ref().map(|held| held.kind.name()),
            mode: mode.name(),
            pullers: acks.map_or(0, AckSlots::pullers),
            shards,
            state: if following { "following" } else { "joining" },
            lag_bytes,
            told,
            pushed_bytes: pushed.map_or(0, |bytes| bytes.load(Relaxed)),
            bytes_per_second,
            retain: "",
            is_counted: false,
            seconds: self.since.elapsed().as_secs(),
        }
    }
}
