//! What a read demands, and what is told of positions: tokens ([`crate::protocol::text::demand`]),
//! and reads that a replica may answer.
//!
//! The position of a write is where its record ends, as for acknowledgements ([`super::acks`]); of
//! a read it is where the shard's log ended here once the item had been looked up. Whether a log
//! has what a token tells of, its history says ([`crate::store::history`]).
//!
//! A replica may lose what it has between two looks, when its log begins anew or goes back. An item
//! that is found was there. So only where nothing was found is it asked again whether the log is
//! what it was taken for.

use super::output::Mark;
use super::target::writes;
use super::{Call, Engine, Outcome};
use crate::base::limits::{PARK_MILLISECONDS_MAX, READ_LAG_MILLISECONDS_MAX};
use crate::base::time::boot_milliseconds;
use crate::protocol::read_from::ReadFrom;
use crate::protocol::reply::Fault;
use crate::protocol::text::demand::{Demand, Late, OwnFlags, Token};
use crate::protocol::text::encode::{self, MetaCode};
use crate::protocol::text::meta::MetaRequest;
use crate::protocol::{Reply, Request};
use crate::store::shard::Shard;
use crate::store::{Appended, Closed, Place, Standing};
use std::io::Write as _;

/// Why a read is not answered from what is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Its token is of another shard than its key.
    OtherShard,
    /// What its token tells of is not here yet.
    NotYet,
    /// Nor anywhere, for all that is known.
    Lost,
    /// Its token is of a later term than any here, where writes are taken.
    LaterTerm,
    /// What is here may be older than is allowed.
    TooOld,
}

impl Engine {
    /// A meta command with flags of positions or replicas.
    #[cold]
    #[inline(never)]
    pub(super) fn meta_on_demand(
        &self,
        call: &mut Call<'_, '_, '_>,
        request: &MetaRequest<'_>,
        resume: u32,
    ) -> Outcome {
        let (demand, begin) = (Demand::of(request), call.out.mark());
        let place = self.locate(call, request.key).place;
        // Before the item is looked up: then it is no older.
        let behind = self.behind(place);
        if let Some(trouble) = self.trouble(&demand, place, behind) {
            return self.tell_trouble(call, request, &demand, trouble, (place, behind, resume));
        }
        call.context.turn.forget_appended();
        let outcome = self.meta(call, request);
        if outcome != Outcome::Done {
            return outcome;
        }
        let depends = demand.token.is_some() || demand.read_from.replica;
        let has_missed = || matches!(call.out.bytes_since(begin), [] | [b'E', b'N', ..]);
        if depends && has_missed() && !self.store.takes_writes(place) && !self.shard(place).is_complete() {
            call.out.withdraw(begin);
            return self.tell_trouble(call, request, &demand, Trouble::NotYet, (place, behind, resume));
        }
        self.tell_position(call, &demand, (place, behind), begin, b"");
        outcome
    }

    fn shard(&self, place: Place) -> &Shard {
        &self.store.shards()[place.shard() as usize]
    }

    /// Milliseconds by which a shard may be behind here, at most; None where that is not known.
    fn behind(&self, place: Place) -> Option<u32> {
        if self.store.takes_writes(place) {
            Some(0)
        } else {
            self.shard(place).behind_milliseconds(boot_milliseconds())
        }
    }

    /// Whether what may be so far behind is young enough.
    fn is_young_enough(&self, read_from: ReadFrom, behind: Option<u32>) -> bool {
        let asked = read_from.lag_milliseconds;
        let most = if self.switches.forwards {
            Some(asked.map_or(READ_LAG_MILLISECONDS_MAX, |asked| asked.min(READ_LAG_MILLISECONDS_MAX)))
        } else {
            asked
        };
        most.is_none_or(|most| behind.is_some_and(|behind| behind <= most))
    }

    /// Whether a read that would be forwarded is answered here, from a replica that is allowed to.
    #[cold]
    pub(super) fn is_read_here(&self, call: &Call<'_, '_, '_>, read_from: ReadFrom, place: Place) -> bool {
        // In strong mode a replica shows nothing.
        if !read_from.replica || self.lease().strong_replicas() > 0 {
            return false;
        }
        // What its connection has asked of the primary before is not overtaken.
        if call.out.under_way(Some(place.shard())).is_some() {
            return false;
        }
        let shard = self.shard(place);
        shard.is_proven() && shard.is_whole() && self.is_young_enough(read_from, self.behind(place))
    }

    /// From where a request may be read: by its own words, or else by its connection's. Nothing
    /// that writes may be.
    #[cold]
    pub(super) fn read_from(&self, call: &Call<'_, '_, '_>, request: &Request<'_>) -> ReadFrom {
        let may_be = matches!(request, Request::Get(_) | Request::GetOne(_) | Request::Meta(_));
        match request {
            _ if !may_be || writes(request).is_some() => ReadFrom::default(),
            Request::Meta(request) if request.own.have(OwnFlags::REPLICA) => Demand::of(request).read_from,
            _ => call.context.client.read_from(),
        }
    }

    fn trouble(&self, demand: &Demand, place: Place, behind: Option<u32>) -> Option<Trouble> {
        let takes_writes = self.store.takes_writes(place);
        if demand.read_from.replica && !takes_writes && !self.is_young_enough(demand.read_from, behind) {
            return Some(Trouble::TooOld);
        }
        let (token, shard) = (demand.token?, self.shard(place));
        if token.shard != place.shard() {
            return Some(Trouble::OtherShard);
        }
        match shard.standing(token.term, token.position) {
            Standing::Here if takes_writes || shard.is_complete() => None,
            Standing::Lost => Some(Trouble::Lost),
            Standing::Unknown if takes_writes => Some(Trouble::Lost),
            Standing::NotYet if takes_writes => Some(Trouble::LaterTerm),
            Standing::Here | Standing::NotYet | Standing::Unknown => Some(Trouble::NotYet),
        }
    }

    fn tell_trouble(
        &self,
        call: &mut Call<'_, '_, '_>,
        request: &MetaRequest<'_>,
        demand: &Demand,
        trouble: Trouble,
        (place, behind, resume): (Place, Option<u32>, u32),
    ) -> Outcome {
        let why = match trouble {
            Trouble::OtherShard => {
                let why = format_args!("the token is not of shard {:x}, to which the key belongs", place.shard());
                Reply::Text.refused_because(call.out.bytes(), Fault::Client, why);
                return Outcome::Done;
            }
            Trouble::Lost => "lost: the log does not have what this token tells of, and never will",
            Trouble::LaterTerm => "another server is the primary: this token is of a later term than this one knows",
            Trouble::NotYet => match demand.late {
                Late::Primary => return self.ask_primary(call, place, "not here yet"),
                Late::Wait(milliseconds) if let Some(deadline) = self.deadline(call, milliseconds, resume) => {
                    return Outcome::Park(deadline);
                }
                Late::Wait(_) | Late::Miss => {
                    let begin = call.out.mark();
                    encode::meta_line(call.out.bytes(), MetaCode::Miss, request, None);
                    self.tell_position(call, demand, (place, behind), begin, b" y");
                    return Outcome::Done;
                }
            },
            Trouble::TooOld => return self.ask_primary(call, place, "what is here may be too old"),
        };
        Reply::Text.refused_because(call.out.bytes(), Fault::Server, why);
        Outcome::Done
    }

    /// Until when a request waits for a position, in milliseconds since this engine was made; None
    /// where it waits no longer.
    fn deadline(&self, call: &Call<'_, '_, '_>, milliseconds: u32, resume: u32) -> Option<u32> {
        let now = self.started.elapsed().as_millis() as u32;
        // 0 is a request that has not waited.
        let deadline = match resume {
            0 => now.wrapping_add(milliseconds.min(PARK_MILLISECONDS_MAX as u32)).max(1),
            deadline => deadline,
        };
        let is_over = milliseconds == 0
            || call.last_try
            || !call.context.client.stays()
            || now.wrapping_sub(deadline) as i32 >= 0;
        (!is_over).then_some(deadline)
    }

    /// A read is the primary's.
    fn ask_primary(&self, call: &mut Call<'_, '_, '_>, place: Place, why: &str) -> Outcome {
        let closed = Closed { shard: place.shard() };
        if call.context.client.is_forwarder() {
            return Outcome::Elsewhere(closed);
        }
        if self.forwards(call) {
            return Outcome::Forward(0);
        }
        match self.store.primary_of(closed) {
            Some(primary) => {
                let why = format_args!("{why}: ask the primary at {}", primary.clients);
                Reply::Text.refused_because(call.out.bytes(), Fault::Server, why);
            }
            None => {
                let why = format_args!("{why}, and this replica follows nobody: ask the primary");
                Reply::Text.refused_because(call.out.bytes(), Fault::Server, why);
            }
        }
        Outcome::Done
    }

    /// Add to the answer since `begin` these words and what the command is to be told, if it is an
    /// answer at all.
    fn tell_position(
        &self,
        call: &mut Call<'_, '_, '_>,
        demand: &Demand,
        (place, behind): (Place, Option<u32>),
        begin: Mark,
        words: &[u8],
    ) {
        let is_answer = matches!(call.out.bytes_since(begin), [b'A'..=b'Z', b'A'..=b'Z', b' ' | b'\r', ..]);
        if !is_answer {
            return;
        }
        let mut words = words.to_vec();
        if demand.tells_lag {
            match behind {
                Some(milliseconds) => write!(words, " d{milliseconds}"),
                None => write!(words, " d-1"),
            }
            .expect("writing to a Vec cannot fail");
        }
        if demand.tells_position {
            let (number, shard) = (place.shard(), self.shard(place));
            let (term, position) = match call.context.turn.appended() {
                Appended::Below { shard: written, position } if written == number => {
                    (shard.term_before(position), position)
                }
                _ => shard.end_now(),
            };
            Token { shard: number, term, position }.write(&mut words);
        }
        call.out.add_to_line(begin, &words);
    }
}

#[cfg(test)]
mod tests;
