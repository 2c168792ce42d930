//! Landings of one length that no READ has. They are made when they are first needed, by the thread
//! that pulls, so that a puller without anything to read has none for pieces.

use crate::fabric::{Channel, FabricError, Landing};

/// See the module.
pub struct Landings {
    bytes: usize,
    /// How many may still be made.
    left: usize,
    /// Those that are here. Whoever is done with one puts it here.
    pub free: Vec<Landing>,
}

impl Landings {
    /// Of so many bytes, at most so many.
    pub fn new(bytes: usize, count_max: usize) -> Landings {
        Landings { bytes, left: count_max, free: Vec::with_capacity(count_max) }
    }

    /// Whether there is one to be had.
    pub fn is_one_left(&self) -> bool {
        self.left > 0 || !self.free.is_empty()
    }

    /// One; None if all are in use.
    pub fn take(&mut self, channel: &mut dyn Channel) -> Result<Option<Landing>, FabricError> {
        if self.free.is_empty() && self.left > 0 {
            self.free.push(channel.landing(self.bytes)?);
            self.left -= 1;
        }
        Ok(self.free.pop())
    }
}
