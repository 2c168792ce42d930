//! flush_all, now and delayed, and the two other commands that touch the server as a whole:
//! cache_memlimit, verbosity.
//!
//! A delayed flush is a due second kept here. It is executed by the first command or tick at or
//! after that second, before anything else, so that no item written after it was due can be lost to
//! it. One flush is pending at a time: a later flush_all replaces it, as in memcached. It concerns
//! the shards that take writes here from the command until it is due: what others have written
//! there meanwhile was not meant.

use super::{Call, Context, Engine, Outcome, expiry_of};
use crate::base::time::UnixSeconds;
use crate::protocol::{Exptime, reply};
use crate::store::{CannotResize, NoRoom, Reign};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

const CANNOT_ADJUST: &[u8] = b"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n";

/// When the next flush is due.
pub(super) struct FlushTimer {
    /// Unix second; 0 for none. Read by every command, so it lies outside the lock.
    due: AtomicU32,
    /// The store's reign when it was asked for. Held while a flush is executed or scheduled, so
    /// that a due flush happens once.
    asked_in: Mutex<Reign>,
}

impl FlushTimer {
    /// For none.
    pub(super) fn new() -> FlushTimer {
        FlushTimer { due: AtomicU32::new(0), asked_in: Mutex::new(Reign::BIRTH) }
    }

    #[inline]
    fn is_due(&self, now: UnixSeconds) -> bool {
        let due = self.due.load(Relaxed);
        due != 0 && due <= now.0
    }

    fn lock(&self) -> MutexGuard<'_, Reign> {
        self.asked_in.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Engine {
    /// flush_all. A delay of zero or below is now. Refused where not all shards are this server's
    /// to flush.
    pub(super) fn flush_all(&self, call: &mut Call<'_, '_, '_>, delay: Exptime, noreply: bool) -> Outcome {
        let now = call.context.now;
        let due = if delay.0 > 0 { expiry_of(delay, now).to_bits() } else { 0 };
        let reign = self.store.reign();
        if let Some(closed) = self.store.first_closed() {
            return self.refuse_write(call, closed, noreply);
        }
        {
            let mut asked_in = self.flush_timer.lock();
            // An absolute time already gone is due at once, not at the next command.
            let is_due = due <= now.0;
            if is_due && let Err(unwritten) = self.store.flush(call.context.turn) {
                return self.refuse(call, unwritten, 0, noreply);
            }
            *asked_in = reign;
            self.flush_timer.due.store(if is_due { 0 } else { due }, Relaxed);
        }
        call.context.stats.cmd_flush.increment();
        call.answer_unless(noreply, reply::OK)
    }

    /// Execute a delayed flush whose time has come.
    #[inline]
    pub(super) fn flush_if_due(&self, context: &Context<'_, '_>) -> Result<(), NoRoom> {
        if self.flush_timer.is_due(context.now) { self.flush_now_due(context) } else { Ok(()) }
    }

    #[cold]
    fn flush_now_due(&self, context: &Context<'_, '_>) -> Result<(), NoRoom> {
        let asked_in = self.flush_timer.lock();
        if self.flush_timer.is_due(context.now) {
            self.store.flush_as_asked(context.turn, *asked_in)?;
            self.flush_timer.due.store(0, Relaxed);
        }
        Ok(())
    }

    /// cache_memlimit. More memory is reserved at once, up to --memory-max; less is had as reclaim
    /// comes by it. Refused where a shard has as much as its primary elsewhere says.
    pub(super) fn cache_memlimit(&self, call: &mut Call<'_, '_, '_>, mebibytes: u64, noreply: bool) -> Outcome {
        if let Some(closed) = self.store.first_closed() {
            return self.refuse_write(call, closed, noreply);
        }
        let adjusted = mebibytes.checked_mul(1 << 20).ok_or(CannotResize::TooMuch);
        let adjusted = adjusted.and_then(|memory_bytes| self.store.set_memory(memory_bytes));
        if let Err(CannotResize::Closed(closed)) = adjusted {
            return self.refuse_write(call, closed, noreply);
        }
        if let Err(why) = adjusted {
            log::info!("cache_memlimit {mebibytes} is refused: {why}");
        }
        let line = if adjusted.is_ok() { reply::OK } else { CANNOT_ADJUST };
        call.answer_unless(noreply, line)
    }
}

/// verbosity: 0 warnings and errors, 1 information, 2 and more debugging.
pub(super) fn verbosity(call: &mut Call<'_, '_, '_>, level: u32, noreply: bool) -> Outcome {
    log::set_max_level(match level {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    });
    log::info!("a client has set verbosity to {level}");
    call.answer_unless(noreply, reply::OK)
}
