//! Connecting links. It takes looking a name up, a handshake, and patience, so a thread of its own
//! does it for each (`forward-connect`), and wakes the worker that wants it.

use crate::base::limits::FORWARD_CONNECTS_MAX;
use crate::replication::forwarding;
use crate::replication::secret::Secret;
use crate::server::pipe::Pipe;
use crate::sys::poll::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Threads of this process that connect links now.
static CONNECTS: AtomicUsize = AtomicUsize::new(0);

/// One of them. It is counted no more once this is dropped.
struct Connect;

impl Connect {
    fn begin() -> Option<Connect> {
        if CONNECTS.fetch_add(1, Relaxed) < FORWARD_CONNECTS_MAX {
            return Some(Connect);
        }
        CONNECTS.fetch_sub(1, Relaxed);
        None
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        CONNECTS.fetch_sub(1, Relaxed);
    }
}

/// A link for the owner of this number, or why there is none.
pub type Outcome = (u32, Result<Pipe, String>);

/// What its worker is told when this is dropped: whatever becomes of the thread, it is told.
struct End {
    owner: u32,
    opened: Result<Pipe, String>,
    sender: Sender<Outcome>,
    waker: Waker,
}

impl Drop for End {
    fn drop(&mut self) {
        let opened = std::mem::replace(&mut self.opened, Err(String::new()));
        // Where the worker has ended nobody wants it.
        if self.sender.send((self.owner, opened)).is_ok() {
            self.waker.wake();
        }
    }
}

/// See the module. One for each worker.
pub struct Opening {
    secret: Secret,
    waker: Waker,
    sender: Sender<Outcome>,
    receiver: Receiver<Outcome>,
}

impl Opening {
    /// For links that are proved by `secret`, wanted by the worker that `waker` wakes.
    pub fn new(secret: Secret, waker: Waker) -> Opening {
        let (sender, receiver) = channel();
        Opening { secret, waker, sender, receiver }
    }

    /// Begin to connect to this address, for the owner of that number. False where that has to
    /// wait: enough others connect.
    pub fn begin(&self, owner: u32, address: Arc<str>) -> bool {
        let Some(counted) = Connect::begin() else { return false };
        let (secret, end) = (self.secret.clone(), self.end(owner));
        // A thread that there is not comes to its end at once.
        let _ = std::thread::Builder::new().name("forward-connect".into()).spawn(move || {
            let mut end = end;
            end.opened = open(&address, &secret);
            drop(counted);
        });
        true
    }

    fn end(&self, owner: u32) -> End {
        let opened = Err("no thread has connected it".into());
        End { owner, opened, sender: self.sender.clone(), waker: self.waker.clone() }
    }

    /// One that has come to its end.
    pub fn take(&self) -> Option<Outcome> {
        self.receiver.try_recv().ok()
    }
}

fn open(address: &str, secret: &Secret) -> Result<Pipe, String> {
    let (line, _) = forwarding::connect(address, secret).map_err(|error| error.to_string())?;
    Pipe::new(line).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_has_come_to_its_end() {
        let opening = Opening::new(Secret::none(), Waker::new().unwrap());
        let end = opening.end(7);
        let thread = std::thread::spawn(move || {
            let _end = end;
            panic!("a bug");
        });
        assert!(thread.join().is_err());
        let (owner, opened) = opening.take().expect("its worker is told");
        assert_eq!((owner, opened.err().as_deref()), (7, Some("no thread has connected it")));
    }
}
