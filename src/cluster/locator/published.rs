//! What every connection of a locator tells: the map that is stored, and who is in charge.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A map as it is told.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// Of the map.
    pub version: u64,
    /// The map.
    pub text: String,
}

/// See the module.
#[derive(Default)]
pub struct Published {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// None: this locator is not in charge, or there is no map.
    map: Option<Arc<Told>>,
    in_charge: Option<String>,
}

impl Published {
    /// This map is stored, by this locator.
    pub fn publish(&self, version: u64, text: String) {
        self.state().map = Some(Arc::new(Told { version, text }));
    }

    /// Another locator is in charge, or none.
    pub fn other_in_charge(&self, name: Option<String>) {
        *self.state() = State { map: None, in_charge: name };
    }

    /// The map, unless it is of the version that was told last.
    pub fn map_after(&self, told: u64) -> Option<Arc<Told>> {
        self.state().map.clone().filter(|map| map.version != told)
    }

    /// Who is in charge, if it is another one, and known.
    pub fn in_charge(&self) -> Option<String> {
        self.state().in_charge.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
