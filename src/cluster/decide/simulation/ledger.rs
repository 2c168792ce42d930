//! What must hold at every moment, by number. Who breaks one, panics.
//!
//! | | guarantee |
//! | --- | --- |
//! | 1 | An acknowledged write is in every later term, unless more than K of its holders have failed, or an operator or the policy had the shard go on without them |
//! | 2 | No two servers acknowledge writes of one shard: what is acknowledged in a term is in all later terms that have begun |
//! | 3 | Versions, generations, terms and reserved terms never go back; a term has one primary |
//! | 4 | While a server is sure of its roles, no later term of its shard begins without having stopped it: so nothing old is served |
//! | 5 | Every shard gets a primary again once enough servers live |
//! | 6 | One server at a time joins a shard, and only who was listed as going is taken out |
//! | 7 | All that is wanted is reached, and then nothing moves |

use super::server::Record;
use crate::cluster::map::{Id, Map, Member, Stage, Way};
use std::collections::HashMap;

/// A term that has begun.
struct Begun {
    term: u32,
    log: Vec<Record>,
    by: Id,
    /// It owes nothing of what was before.
    owes_nothing: bool,
}

/// A write that was acknowledged.
struct Acknowledged {
    record: Record,
    acks: usize,
}

/// See the module.
#[derive(Default)]
pub struct Ledger {
    shards: HashMap<usize, (Vec<Begun>, Vec<Acknowledged>)>,
    pub acknowledged: u64,
    pub begun: u64,
}

/// What has become of the holders of a record.
pub struct Holders {
    /// Members that are alive by the map and whole, and have it.
    pub alive: usize,
    /// Those that had it, and have failed.
    pub failed: usize,
    /// The lowest K that an operator has wanted.
    pub acks: usize,
}

impl Ledger {
    /// A term begins. `may_lose`: an operator or the policy has said so.
    pub fn begin(
        &mut self,
        (shard, term, way): (usize, u32, Way),
        log: &[Record],
        by: &Id,
        may_lose: bool,
        holders: impl Fn(Record) -> Holders,
    ) {
        let (begun, acknowledged) = self.shards.entry(shard).or_default();
        if let Some(other) = begun.iter().find(|other| other.term == term) {
            panic!("3: term {term} of shard {shard} begins at {by}, and began at {}", other.by);
        }
        self.begun += 1;
        let mut owes_nothing = false;
        acknowledged.retain(|one| {
            if one.record.0 >= term || log.contains(&one.record) {
                return true;
            }
            let Holders { alive, failed, acks } = holders(one.record);
            let is_excused = may_lose || (way == Way::Empty && alive == 0 && failed > acks.min(one.acks));
            assert!(
                is_excused,
                "1: {:?} of shard {shard} was acknowledged by {}, and is lost in term {term} ({way:?}): {alive} have it, \
                 {failed} had it",
                one.record, one.acks
            );
            owes_nothing = true;
            false
        });
        owes_nothing |= may_lose || way == Way::Empty;
        begun.push(Begun { term, log: log.to_vec(), by: by.clone(), owes_nothing });
    }

    pub fn acknowledge(&mut self, shard: usize, record: Record, term: u32, acks: usize, by: &Id) {
        let (begun, acknowledged) = self.shards.entry(shard).or_default();
        for later in begun.iter().filter(|later| later.term > term) {
            assert!(
                later.owes_nothing || later.log.contains(&record),
                "2: {by} acknowledges {record:?} of shard {shard} in term {term}, and {} has begun term {} without it",
                later.by,
                later.term
            );
            // What was given up stays so.
            if later.owes_nothing && !later.log.contains(&record) {
                return;
            }
        }
        self.acknowledged += 1;
        acknowledged.push(Acknowledged { record, acks });
    }

    /// One server says that it is the primary, and is sure of it.
    pub fn sure(&self, shard: usize, term: u32, by: &Id) {
        let Some((begun, _)) = self.shards.get(&shard) else { return };
        if let Some(later) = begun.iter().find(|later| later.term > term && later.by != *by) {
            panic!("4: {by} is sure of shard {shard} in term {term}, and {} has begun term {}", later.by, later.term)
        }
    }
}

/// A map takes another one's place.
pub fn check_step(before: &Map, after: &Map) {
    assert!(after.version > before.version, "3: version {} after {}", after.version, before.version);
    assert!(after.generation >= before.generation, "3: generation {} after {}", after.generation, before.generation);
    for (shard, (was, is)) in before.shards.iter().zip(&after.shards).enumerate() {
        assert!(is.term >= was.term && is.reserved >= was.reserved, "3: shard {shard}: {was:?}, then {is:?}");
        let is_crowned = is.term > was.term;
        let new = |member: &&Member| was.member(member.server).is_none() && was.primary != Some(member.server);
        assert!(is.members.iter().filter(new).count() <= 1, "6: shard {shard}: {was:?}, then {is:?}");
        let goes = |member: &Member| matches!(member.stage, Stage::Leaving(_) | Stage::Gone(_));
        for gone in was.members.iter().filter(|member| is.member(member.server).is_none()) {
            assert!(is_crowned || goes(gone), "6: shard {shard}: {gone:?} is taken out: {was:?}, then {is:?}");
        }
    }
}
