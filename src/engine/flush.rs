//! flush_all, now and delayed, and the other commands that touch the server as a whole:
//! cache_memlimit, verbosity, debugtime, shutdown.
//!
//! A delayed flush is pending in the log of each shard ([`crate::store::Store::flush_at`]). It is
//! executed by the first command or tick at or after its second, before anything else, so that no
//! item written after it was due can be lost to it. One flush is pending at a time: a later
//! flush_all replaces it, as in memcached.

use super::{Call, Context, Engine, Outcome, expiry_of};
use crate::base::time::{ClockChange, Expiry, UnixSeconds};
use crate::protocol::answer::Done;
use crate::protocol::{Exptime, Refusal, Reply, Shutdown};
use crate::store::{CannotResize, NoRoom};
use crate::sys::signals;

impl Engine {
    /// flush_all. A delay of zero or below is now. Refused where not all shards are this server's
    /// to flush. One that is parked keeps its second in `resume`, so that the shards that know of
    /// it already are left alone.
    pub(super) fn flush_all(&self, call: &mut Call<'_, '_, '_>, delay: Exptime, reply: Reply, resume: u32) -> Outcome {
        if !self.switches.flush {
            call.context.stats.cmd_flush.increment();
            return call.refused(reply, Refusal::FlushOff);
        }
        let (turn, now) = (call.context.turn, call.context.now);
        if let Some(closed) = self.store.first_closed() {
            return self.refuse_write(call, closed, reply);
        }
        let due = match (delay.0 > 0, resume) {
            (true, 0) => expiry_of(delay, now),
            (true, second) => Expiry::at(UnixSeconds(second)),
            (false, _) => Expiry::PAST,
        };
        // An absolute time already gone is due at once, not at the next command.
        let flushed = if due.has_passed(now) {
            self.store.flush(turn)
        } else {
            self.store.flush_at(turn, UnixSeconds(due.to_bits()))
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

    /// shutdown: what the signal does, SIGINT or SIGUSR1. The client is not answered.
    pub(super) fn shutdown(&self, call: &mut Call<'_, '_, '_>, mode: Shutdown, reply: Reply) -> Outcome {
        if !self.switches.shutdown {
            return call.refused(reply, Refusal::ShutdownOff);
        }
        let raised = match mode {
            Shutdown::Plain => signals::raise(signals::Ending::Int),
            Shutdown::Graceful => signals::raise(signals::Ending::Usr1),
            Shutdown::Unknown => return call.refused(reply, Refusal::ShutdownUnknown),
        };
        if let Err(error) = raised {
            log::warn!("a client's shutdown is not carried out: {error}; send the process SIGTERM");
        }
        Outcome::Close
    }

    /// cache_memlimit. More memory is reserved at once, up to --memory-max; less is had as reclaim
    /// comes by it. Refused where a shard has as much as its primary elsewhere says.
    pub(super) fn cache_memlimit(&self, call: &mut Call<'_, '_, '_>, mebibytes: u64, reply: Reply) -> Outcome {
        if let Some(closed) = self.store.first_closed() {
            return self.refuse_write(call, closed, reply);
        }
        let adjusted = mebibytes.checked_mul(1 << 20).ok_or(CannotResize::TooMuch);
        let adjusted = adjusted.and_then(|memory_bytes| self.store.set_memory(memory_bytes));
        if let Err(CannotResize::Closed(closed)) = adjusted {
            return self.refuse_write(call, closed, reply);
        }
        if let Err(why) = adjusted {
            log::info!("cache_memlimit {mebibytes} is refused: {why}");
            return call.refused(reply, Refusal::CannotAdjustMemory);
        }
        call.done(reply, Done::Ok)
    }
}

/// debugtime: the same client's further commands see the new time at once, others from their
/// workers' next turns on.
pub(super) fn debugtime(call: &mut Call<'_, '_, '_>, change: ClockChange, reply: Reply) -> Outcome {
    match call.context.host.change_clock(change) {
        Some(now) => {
            call.context.now = now;
            call.done(reply, Done::Ok)
        }
        None => call.refused(reply, Refusal::UnknownCommand),
    }
}

/// verbosity: 0 warnings and errors, 1 information, 2 and more debugging.
pub(super) fn verbosity(call: &mut Call<'_, '_, '_>, level: u32, reply: Reply) -> Outcome {
    log::set_max_level(match level {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    });
    log::info!("a client has set verbosity to {level}");
    call.done(reply, Done::Ok)
}
