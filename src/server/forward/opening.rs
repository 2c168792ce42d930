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
    /// wait: enough others connect, or the system gives no thread.
    pub fn begin(&self, owner: u32, address: Arc<str>) -> bool {
        let Some(counted) = Connect::begin() else { return false };
        let (secret, sender, waker) = (self.secret.clone(), self.sender.clone(), self.waker.clone());
        let thread = std::thread::Builder::new().name("forward-connect".into()).spawn(move || {
            let opened = open(&address, &secret);
            drop(counted);
            // Where the worker has ended nobody wants it.
            if sender.send((owner, opened)).is_ok() {
                waker.wake();
            }
        });
        thread.is_ok()
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
