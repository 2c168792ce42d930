//! Acknowledged writes: which answers are held for replicas, and until when. And `wait`.
//!
//! A request is held by what it wrote, whichever command it was: the turn has a note of it ([`Appended`]). What wrote nothing (NOT_STORED, EXISTS, a
//! miss, an error) is not held, and neither is what wants no answer. A quiet meta command is: it says nothing, or that it was not acknowledged.

use super::held::{AckPolicy, Goal, Held, Kind};
use super::{Call, Engine, Outcome, read_only};
use crate::protocol::Request;
use crate::store::Appended;
use std::time::{Duration, Instant};

impl Engine {
    /// The same engine, with writes acknowledged like this.
    #[must_use]
    pub fn with_acks(self, acks: AckPolicy) -> Engine {
        Engine { acks, ..self }
    }

    /// How many replicas the answer to `request` is to wait for, if it turns out to have written something.
    #[inline]
    pub(super) fn ack_replicas(&self, request: &Request<'_>) -> u8 {
        match request {
            Request::Meta(request) => request.ack_replicas.unwrap_or(self.acks.replicas),
            _ if self.acks.replicas == 0 => 0,
            // Who wants no answer cannot be told anything.
            _ if read_only::writes(request) == Some(true) => 0,
            _ => self.acks.replicas,
        }
    }

    /// Hold the answer that begins at `begin`, if this command has written something.
    pub(super) fn hold_answer(&self, call: &mut Call<'_, '_, '_>, replicas: u8, begin: u64) {
        let goal = match call.context.turn.appended() {
            Appended::Nothing => return,
            Appended::Below { shard, position } => Goal::Shard { shard, position },
            Appended::Widely => Goal::All(self.store.committed()),
        };
        call.context.stats.acks_waited.increment();
        let within = self.acks.timeout;
        call.out.hold(begin, Held { kind: Kind::Write, goal, replicas, since: Instant::now(), within });
    }

    /// wait: what is committed now is all that this connection, or any other, has written so far.
    pub(super) fn wait(&self, call: &mut Call<'_, '_, '_>, replicas: u8, milliseconds: u32) -> Outcome {
        call.context.stats.waits.increment();
        let goal = Goal::All(self.store.committed());
        let within = Duration::from_millis(milliseconds.into());
        let begin = call.out.end();
        call.out.hold(begin, Held { kind: Kind::Count, goal, replicas, since: Instant::now(), within });
        Outcome::Done
    }
}
