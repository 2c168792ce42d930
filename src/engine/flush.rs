//! flush_all, now and delayed.
//!
//! A delayed flush is pending in the log of each shard ([`crate::store::Store::flush_at`]). It is
//! executed by the first command or tick at or after its second, before anything else, so that no
//! item written after it was due can be lost to it. One flush is pending at a time: a later
//! flush_all replaces it, as in memcached.

use super::target::Gate;
use super::{Call, Context, Engine, Outcome, expiry_of};
use crate::base::time::{Expiry, UnixSeconds};
use crate::protocol::answer::Done;
use crate::protocol::{Exptime, Refusal, Reply};
use crate::store::{Flushed, NoRoom};

impl Engine {
    /// flush_all. A delay of zero or below is now. One that is forwarded is about the shards that
    /// take writes here. Any other one is refused where not all shards are this server's to flush,
    /// unless the primaries of the others are asked as well. One that is parked keeps its second in
    /// `resume`, so that the shards that know of it already are left alone.
    pub(super) fn flush_all(&self, call: &mut Call<'_, '_, '_>, delay: Exptime, reply: Reply, resume: u32) -> Outcome {
        if !self.switches.flush {
            call.context.stats.cmd_flush.increment();
            return call.refused(reply, Refusal::FlushOff);
        }
        let (turn, now) = (call.context.turn, call.context.now);
        let is_forwarder = call.context.client.is_forwarder();
        let which = if is_forwarder || call.target.gate == Gate::OwnShards { Flushed::Own } else { Flushed::All };
        if let Some(closed) = self.store.first_closed() {
            if which == Flushed::All && self.forwards(call) {
                return Outcome::Forward(0);
            }
            if which == Flushed::All || is_forwarder && !self.store.takes_any() {
                return self.refuse_write(call, closed, reply);
            }
        }
        let due = match (delay.0 > 0, resume) {
            (true, 0) => expiry_of(delay, now),
            (true, second) => Expiry::at(UnixSeconds(second)),
            (false, _) => Expiry::PAST,
        };
        // An absolute time already gone is due at once, not at the next command.
        let flushed = if due.has_passed(now) {
            self.store.flush(turn, which)
        } else {
            self.store.flush_at(turn, UnixSeconds(due.to_bits()), which)
        };
        if let Err(unwritten) = flushed {
            let second = if delay.0 > 0 { due.to_bits() } else { 0 };
            return self.refuse(call, unwritten, second, reply);
        }
        call.context.stats.cmd_flush.increment();
        call.done(reply, Done::Ok)
    }

    /// Execute a delayed flush whose time has come.
    #[inline]
    pub(super) fn flush_if_due(&self, context: &Context<'_, '_>) -> Result<(), NoRoom> {
        if self.store.is_flush_due(context.now) {
            self.store.flush_what_is_due(context.turn, context.now)
        } else {
            Ok(())
        }
    }
}
