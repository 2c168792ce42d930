//! How much is to be copied until every shard is where it is to be, and how long that takes.

use super::liveness::Session;
use super::{Decisions, Millis};
use crate::cluster::map::{Map, ServerId, Shard, Stage};
use crate::cluster::report::{Report, Role};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is to be copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copying {
    /// Replicas that are to be whole, and are not.
    pub replicas: usize,
    /// What they lack, in KiB; None: of some it is not known.
    pub kib: Option<u64>,
    /// Until it is done, by the bound of the policy or the rate that was measured last, whichever
    /// is lower; None: not known.
    pub seconds: Option<u64>,
}

/// What a process has told of its shards' sizes.
#[derive(Default)]
pub struct Sizes {
    kib: BTreeMap<usize, u64>,
    told_at: Option<Millis>,
}

impl Sizes {
    /// What it has of a shard.
    pub fn of(&self, shard: usize) -> Option<u64> {
        self.kib.get(&shard).copied()
    }

    /// It tells anew; before, it had `held`. The KiB that it copies in a second, if that can be
    /// said.
    pub fn note(&mut self, report: &Report, held: impl Fn(usize) -> Option<Role>, now: Millis) -> Option<u64> {
        if report.kib == self.kib && self.told_at.is_some() {
            return None;
        }
        let copies = |shard: &usize| matches!(held(*shard), Some(Role::Joining));
        let grown = |(shard, kib): (&usize, &u64)| kib.saturating_sub(self.of(*shard).unwrap_or(0));
        let copied: u64 = report.kib.iter().filter(|(shard, _)| copies(shard)).map(grown).sum();
        let passed = self.told_at.map(|at| now.saturating_sub(at));
        (self.kib, self.told_at) = (report.kib.clone(), Some(now));
        passed.filter(|passed| *passed > 0 && copied > 0).map(|passed| copied * 1000 / passed)
    }
}

impl Decisions {
    /// What is to be copied until everybody has what this map has them have.
    pub(super) fn copying(&self, map: &Map, now: Millis) -> Copying {
        let alive = Decisions::with_roles(&self.sessions, map, now);
        let session = |id: ServerId| alive.get(usize::from(id)).copied().flatten();
        let mut lacks: BTreeMap<ServerId, u64> = BTreeMap::new();
        let (mut replicas, mut is_known) = (0, true);
        for (number, shard) in map.shards.iter().enumerate() {
            let Some(primary) = map.living_primary(shard) else { continue };
            for id in shard.target.iter().filter(|id| is_to_copy(shard, **id)) {
                replicas += 1;
                let size = |session: Option<&Session>| session.and_then(|one| one.sizes.of(number));
                let has = session(*id).filter(|_| shard.member(*id).is_some());
                match size(session(primary)) {
                    Some(all) => *lacks.entry(*id).or_default() += all.saturating_sub(size(has).unwrap_or(0)),
                    None => is_known = false,
                }
            }
        }
        let bound = map.policy.copy_mib_per_second.map(|mib| u64::from(mib) << 10);
        let rate = self.memory.copied_kib_per_second.into_iter().chain(bound).min();
        let most = lacks.values().copied().max().unwrap_or(0);
        let seconds = if most == 0 { Some(0) } else { rate.map(|rate| most.div_ceil(rate.max(1))) };
        let kib = is_known.then(|| lacks.values().sum());
        Copying { replicas, kib, seconds: seconds.filter(|_| is_known) }
    }
}

/// It is to have the shard, and has it not whole.
fn is_to_copy(shard: &Shard, id: ServerId) -> bool {
    let is_whole = |stage| matches!(stage, Stage::Whole | Stage::Leaving(_));
    shard.primary != Some(id) && !shard.member(id).is_some_and(|member| is_whole(member.stage))
}

/// A number of KiB, for people.
pub fn in_words(kib: u64) -> String {
    match kib {
        0..10_240 => format!("{kib} KiB"),
        10_240..10_485_760 => format!("{} MiB", kib >> 10),
        _ => format!("{} GiB", kib >> 20),
    }
}

impl Copying {
    /// What it comes to, for people.
    pub fn told(&self) -> String {
        let Copying { replicas, kib, seconds } = self;
        let size = kib.map_or("a size that is unknown".into(), in_words);
        let time = seconds.map_or("an unknown time: nothing was copied yet".into(), |seconds| format!("{seconds} s"));
        match replicas {
            0 => "no replicas are to be copied".into(),
            _ => format!("{replicas} replicas are to be copied ({size}, in {time})"),
        }
    }
}
