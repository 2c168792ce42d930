//! What every connection of a locator tells: the map that is stored, and who is in charge. Each
//! connection has a waker here, and sleeps until there is something to tell.

use super::peer::PeerId;
use crate::cluster::wire::{Message, WireError};
use crate::sys::poll::Waker;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A map as it is told.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// Of the map.
    pub version: u64,
    /// The frame that tells it, made once for all.
    pub frame: Vec<u8>,
}

/// See the module.
#[derive(Default)]
pub struct Published {
    state: Mutex<State>,
    sleeping: Mutex<HashMap<PeerId, Waker>>,
}

#[derive(Default)]
struct State {
    is_in_charge: bool,
    /// None: this locator is not in charge, or there is no map.
    map: Option<Arc<Told>>,
    in_charge: Option<String>,
}

/// A connection that is woken when there is something to tell, for as long as this is there.
pub struct Woken {
    published: Arc<Published>,
    peer: PeerId,
}

impl Drop for Woken {
    fn drop(&mut self) {
        locked(&self.published.sleeping).remove(&self.peer);
    }
}

impl Published {
    /// This map is stored, by this locator.
    pub fn publish(&self, version: u64, text: String) -> Result<(), WireError> {
        let frame = Message::Map(text).to_frame()?;
        locked(&self.state).map = Some(Arc::new(Told { version, frame }));
        self.wake_all();
        Ok(())
    }

    /// This locator is in charge, and has stored no map so far.
    pub fn take_charge(&self) {
        *locked(&self.state) = State { is_in_charge: true, ..State::default() };
        self.wake_all();
    }

    /// Another locator is in charge, or none.
    pub fn other_in_charge(&self, name: Option<String>) {
        *locked(&self.state) = State { in_charge: name, ..State::default() };
        self.wake_all();
    }

    /// The map, unless it is of the version that was told last.
    pub fn map_after(&self, told: u64) -> Option<Arc<Told>> {
        locked(&self.state).map.clone().filter(|map| map.version != told)
    }

    /// Who is in charge, if it is another one, and known.
    pub fn in_charge(&self) -> Option<String> {
        locked(&self.state).in_charge.clone()
    }

    /// What an observer is told that asks, and to whom the map of version `told` was told last.
    pub fn answer(&self, told: u64) -> Message {
        let state = locked(&self.state);
        match state.is_in_charge {
            true => Message::Current(told),
            false => Message::NotInCharge { in_charge: state.in_charge.clone() },
        }
    }

    /// From now on that connection is woken when there is something to tell.
    pub fn wake(self: &Arc<Self>, peer: PeerId, waker: Waker) -> Woken {
        locked(&self.sleeping).insert(peer, waker);
        Woken { published: self.clone(), peer }
    }

    /// All connections look what there is.
    pub fn wake_all(&self) {
        locked(&self.sleeping).values().for_each(Waker::wake);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
