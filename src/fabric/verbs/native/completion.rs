//! Completion queues, and waiting for them.

use super::device::Device;
use super::{FailedCall, answered, borrowed, ffi, static_text};
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{Ordering, fence};

pub use ffi::{COMPLETIONS_MAX, Completed};

/// Status of a completion: success.
pub const SUCCESS: u32 = 0;
/// Flushed, because the queue pair had failed or was stopped.
pub const FLUSHED: u32 = 5;
/// The peer has no such request.
pub const REMOTE_INVALID: u32 = 9;
/// The peer does not allow it.
pub const REMOTE_ACCESS: u32 = 10;
/// The peer failed.
pub const REMOTE_OPERATION: u32 = 11;
/// The peer did not answer.
pub const RETRIES_EXCEEDED: u32 = 12;
/// The peer was never ready.
pub const RNR_RETRIES_EXCEEDED: u32 = 13;

/// The name of a status.
pub fn status_name(status: u32) -> &'static str {
    // SAFETY: the library is there, as a completion came; any number is answered with a constant
    // text.
    let text = unsafe { ffi::rv_status_name(status) };
    // SAFETY: a constant of the library, or null.
    unsafe { static_text(text) }
}

/// A completion queue that can wake a sleeper.
pub struct CompletionQueue {
    cq: NonNull<ffi::Cq>,
    waker: Option<Waker>,
    _device: Device,
}

/// What makes a descriptor readable when a completion comes.
struct Waker {
    raw: NonNull<ffi::Waker>,
    fd: RawFd,
}

impl Waker {
    fn new(device: &Device) -> Result<Waker, FailedCall> {
        let doing = "create a completion channel";
        let (mut raw, mut fd) = (null_mut(), -1);
        // SAFETY: the device is open; `raw` and `fd` take the answer.
        answered(doing, unsafe { ffi::rv_waker_create(device.raw(), &mut raw, &mut fd) })?;
        Ok(Waker { raw: NonNull::new(raw).ok_or(FailedCall { doing, errno: libc::ENOMEM })?, fd })
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        // SAFETY: ours, its completion queue is gone; if not, this is refused.
        let closed = answered("close a completion channel", unsafe { ffi::rv_waker_destroy(self.raw.as_ptr()) });
        if let Err(refusal) = closed {
            log::error!("verbs: cannot {}: errno {}", refusal.doing, refusal.errno);
        }
    }
}

// SAFETY: verbs may be called by any thread.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// A queue with room for `entries`, on which a thread can sleep.
    pub fn new(device: &Device, entries: u32) -> Result<CompletionQueue, FailedCall> {
        let waker = Waker::new(device)?;
        CompletionQueue::create(device, entries, Some(waker))
    }

    /// A queue for a queue pair that posts nothing.
    pub fn unused(device: &Device) -> Result<CompletionQueue, FailedCall> {
        CompletionQueue::create(device, 1, None)
    }

    fn create(device: &Device, entries: u32, waker: Option<Waker>) -> Result<CompletionQueue, FailedCall> {
        let doing = "create a completion queue";
        let mut cq = null_mut();
        let raw = waker.as_ref().map_or(null_mut(), |waker| waker.raw.as_ptr());
        // SAFETY: the device is open, the waker is of it; `cq` takes the answer.
        answered(doing, unsafe { ffi::rv_cq_create(device.raw(), entries, raw, &mut cq) })?;
        let cq = NonNull::new(cq).ok_or(FailedCall { doing, errno: libc::ENOMEM })?;
        Ok(CompletionQueue { cq, waker, _device: device.clone() })
    }

    pub(super) fn raw(&self) -> *mut ffi::Cq {
        self.cq.as_ptr()
    }

    /// Take up to [`COMPLETIONS_MAX`] completions, and return how many there were. The bytes of a
    /// completed READ are visible from here on.
    pub fn poll(&self, out: &mut [Completed; COMPLETIONS_MAX]) -> Result<usize, FailedCall> {
        // SAFETY: the queue stands, `out` has room for as many.
        let answer = unsafe { ffi::rv_cq_poll(self.raw(), out.as_mut_ptr(), COMPLETIONS_MAX as u32) };
        fence(Ordering::Acquire);
        Ok(answered("poll for completions", answer)? as usize)
    }

    /// Have the descriptor become readable at the next completion. Earlier ones do not count, so
    /// poll once more after this, and then sleep.
    pub fn arm(&self) -> Result<(), FailedCall> {
        // SAFETY: the queue stands.
        answered("ask to be woken", unsafe { ffi::rv_cq_arm(self.raw()) }).map(drop)
    }

    /// A descriptor that is readable after a completion, if the queue was armed, until it is
    /// cleared. None if nobody can sleep on this queue.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.waker.as_ref().map(|waker| borrowed(waker, waker.fd))
    }

    /// Clear the descriptor.
    pub fn clear(&self) {
        if let Some(waker) = &self.waker {
            // SAFETY: both stand, and the waker is this queue's only.
            unsafe { ffi::rv_waker_clear(waker.raw.as_ptr(), self.raw()) };
        }
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        self.clear();
        // SAFETY: ours; queue pairs that complete here are gone, as each holds an Arc of this. The
        // waker goes after it.
        let destroyed = answered("destroy a completion queue", unsafe { ffi::rv_cq_destroy(self.raw()) });
        if let Err(refusal) = destroyed {
            log::error!("verbs: cannot {}: errno {}", refusal.doing, refusal.errno);
        }
    }
}
