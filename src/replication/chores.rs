//! The control connection of a replica that pulls: hear the primary, say that this replica is
//! there, measure how far apart the clocks are.

use super::clock::{Clocks, Skew};
use super::link::{Link, LinkError};
use super::standing::{Distance, Standing};
use super::wire::{Beat, Message, Subscribed};
use super::{HANDSHAKE_WAIT_MAX, HEARTBEAT};
use std::time::{Duration, Instant};

/// How often the connection and the report are looked after while pulling.
const CHORES: Duration = Duration::from_millis(100);
/// Messages heard at a time: more than an honest primary sends in that time.
const MESSAGES_MAX: usize = 16;

/// See the module.
pub(super) struct Chores {
    silence_max: Duration,
    due_at: Instant,
    heard_at: Instant,
    beat_at: Instant,
    clocks: Clocks,
    skew: Option<Skew>,
}

impl Chores {
    /// Of a connection on which the other side counts as gone after a silence of `silence_max`.
    pub fn new(silence_max: Duration) -> Chores {
        let now = Instant::now();
        Chores { silence_max, due_at: now, heard_at: now, beat_at: now, clocks: Clocks::start(), skew: None }
    }

    /// Whether it is time again.
    pub fn are_due(&mut self) -> bool {
        let now = Instant::now();
        let due = now >= self.due_at;
        if due {
            self.due_at = now + CHORES;
        }
        due
    }

    /// Hear what the primary has said, and say that we are here once a second: then true. Answers
    /// to subscriptions are put into `answers`.
    pub fn attend(
        &mut self,
        link: &mut Link,
        standing: &Standing,
        answers: &mut Vec<Subscribed>,
    ) -> Result<bool, LinkError> {
        for _ in 0..MESSAGES_MAX {
            match link.try_receive()? {
                Some(Message::Heartbeat(Beat { distance, stamp, path })) => {
                    self.heard_at = Instant::now();
                    standing.heard(distance, path);
                    self.skew = self.clocks.heard(&stamp).or(self.skew);
                }
                Some(Message::Subscribed(subscribed)) => answers.push(subscribed),
                Some(Message::Unknown(_)) => {}
                Some(other) => return Err(LinkError::OutOfPlace(other.name())),
                None => break,
            }
        }
        let silence = self.heard_at.elapsed();
        if silence > self.silence_max {
            return Err(LinkError::Silent(silence));
        }
        let due = Instant::now() >= self.beat_at;
        if due {
            let beat = Beat { distance: Distance::default(), stamp: self.clocks.stamp(), path: Vec::new() };
            link.send(&Message::Heartbeat(beat), Instant::now() + HANDSHAKE_WAIT_MAX)?;
            self.beat_at = Instant::now() + HEARTBEAT;
        }
        Ok(due)
    }

    /// The primary's clock less this host's, as of the last heartbeat that told it; None before the
    /// first.
    pub fn skew(&self) -> Option<Skew> {
        self.skew
    }
}
