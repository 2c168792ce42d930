//! Where a READ puts its bytes. A landing is moved into the fabric and comes back with the
//! completion. While the READ is under way the fabric owns it, so no other code can look at bytes
//! that still change.
//!
//! ```compile_fail,E0382
//! # use remora::fabric::{Channel, Landing, Read};
//! # fn look(channel: &mut dyn Channel, landing: Landing) {
//! let mut reads = vec![Read { region: 0, offset: 0, bytes: 64, landing, tag: 0 }];
//! channel.submit(&mut reads).unwrap();
//! println!("{:?}", landing.words(64)); // it is the fabric's now
//! # }
//! ```
//!
//! ```
//! # use remora::fabric::{Channel, Landing, Read};
//! # fn look(channel: &mut dyn Channel, landing: Landing) {
//! println!("{:?}", landing.words(64));
//! let mut reads = vec![Read { region: 0, offset: 0, bytes: 64, landing, tag: 0 }];
//! channel.submit(&mut reads).unwrap();
//! # }
//! ```

use crate::sys::memory::{PAGE_BYTES, Reservation};
use crate::sys::sync::AtomicU64;
use std::any::Any;
use std::io;

/// See the module.
pub struct Landing {
    /// The fabric's registration of the memory, if it needs one. It is dropped before the memory is
    /// freed.
    registration: Option<Box<dyn Any + Send>>,
    memory: Reservation,
}

impl Landing {
    /// Zeroed memory of `bytes` bytes, a multiple of 4096.
    pub(crate) fn new(bytes: usize) -> io::Result<Landing> {
        assert!(bytes > 0 && bytes.is_multiple_of(PAGE_BYTES), "a landing is made of whole pages");
        Ok(Landing { registration: None, memory: Reservation::new(bytes)? })
    }

    /// Register the memory, and keep the registration for as long as the landing lives.
    pub(super) fn register<T: Any + Send, E>(
        &mut self,
        register: impl FnOnce(&[AtomicU64]) -> Result<T, E>,
    ) -> Result<(), E> {
        self.registration = Some(Box::new(register(self.memory.words())?));
        Ok(())
    }

    /// What the fabric registered.
    pub(super) fn registration<T: Any>(&self) -> Option<&T> {
        self.registration.as_ref()?.downcast_ref()
    }

    /// Length.
    pub fn bytes(&self) -> usize {
        self.memory.words().len() * 8
    }

    /// The first `bytes` bytes, a multiple of 8.
    pub fn words(&self, bytes: usize) -> &[AtomicU64] {
        &self.memory.words()[..bytes / 8]
    }
}

impl std::fmt::Debug for Landing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Landing({} bytes)", self.bytes())
    }
}
