//! Being in charge: what is stored, what is decided from it, what is being written, and who waits
//! for that.

use super::outbox::Outbox;
use crate::cluster::decide::{Decisions, Note};
use crate::cluster::map::Map;
use crate::cluster::wire::Message;
use std::time::Instant;

/// See the module.
pub struct Charge {
    /// Of this time of being in charge.
    pub generation: u64,
    /// Of what is stored; None: nothing.
    pub revision: Option<u64>,
    /// None before the cluster is born.
    pub decisions: Option<Decisions>,
    /// A map on its way to the store.
    pub writing: Option<Writing>,
    /// What was asked for and is in no map yet.
    pub waiting: Vec<Waiting>,
    /// It was in charge then, for certain.
    pub sure_at: Instant,
}

/// A map that is being written, and why it is as it is.
pub struct Writing {
    /// The map.
    pub map: Map,
    /// Why.
    pub notes: Vec<Note>,
    /// To be answered once it is stored.
    pub waiting: Vec<Waiting>,
}

/// Somebody who waits, and the answer where it is done.
pub type Waiting = (Outbox, String);

impl Charge {
    /// Nobody knows what becomes of what was asked for.
    pub fn let_down(&mut self, words: &str) {
        let written = self.writing.take().map(|writing| writing.waiting).unwrap_or_default();
        let answer = || Message::Answer { is_done: false, body: words.into() };
        written.into_iter().chain(self.waiting.drain(..)).for_each(|(outbox, _)| outbox.say(answer()));
    }
}
