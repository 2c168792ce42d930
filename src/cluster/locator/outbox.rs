//! What is to be said to a peer: a queue that wakes the connection's thread.

use crate::cluster::wire::Message;
use crate::sys::poll::Waker;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Messages that wait for a peer. What a peer that does not read is told beyond that is lost: it
/// asks again.
const WAITING_MAX: usize = 64;

/// Where answers to a peer are put.
#[derive(Clone)]
pub struct Outbox {
    messages: SyncSender<Message>,
    waker: Waker,
}

impl Outbox {
    /// Of a connection that sleeps until `waker` wakes it, and the queue's other end.
    pub fn new(waker: Waker) -> (Outbox, Receiver<Message>) {
        let (messages, waiting) = sync_channel(WAITING_MAX);
        (Outbox { messages, waker }, waiting)
    }

    /// A peer that does not read what it is told is not waited for.
    pub fn say(&self, message: Message) {
        if self.messages.try_send(message).is_ok() {
            self.waker.wake();
        }
    }
}
