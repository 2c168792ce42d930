//! The servers that this process has reached, each by one connection at a time.
//!
//! A server may have several names, and it knows a replica by the replica's number alone: all
//! connections of one replica have one place there, and a newer one takes it from an older one. So
//! whoever has reached a server takes the place here first, before it joins. Two that have reached
//! the same server, by whatever names, learn it here and not from one another's end.

use super::standing::ServerNumber;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Debug, Default)]
pub struct Reached {
    places: Mutex<Vec<Place>>,
}

#[derive(Debug)]
struct Place {
    replica: ServerNumber,
    server: ServerNumber,
    name: String,
}

/// The place of a replica at a server; dropping it gives it back.
#[derive(Debug)]
pub struct Taken {
    reached: Arc<Reached>,
    replica: ServerNumber,
    server: ServerNumber,
}

impl Reached {
    /// Take the place of `replica` at `server`, which was reached by `name` (HOST:PORT). Err: by
    /// which name it was taken before.
    pub fn take(self: &Arc<Self>, replica: ServerNumber, server: ServerNumber, name: &str) -> Result<Taken, String> {
        let mut places = self.places();
        if let Some(place) = places.iter().find(|place| (place.replica, place.server) == (replica, server)) {
            return Err(place.name.clone());
        }
        places.push(Place { replica, server, name: name.into() });
        Ok(Taken { reached: self.clone(), replica, server })
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.reached.places().retain(|place| (place.replica, place.server) != (self.replica, self.server));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_once_whatever_the_name() {
        let reached = Arc::<Reached>::default();
        let taken = reached.take([1; 16], [9; 16], "a:1").unwrap();
        assert_eq!(reached.take([1; 16], [9; 16], "b:1").err().as_deref(), Some("a:1"));
        let others =
            [([2; 16], [9; 16]), ([1; 16], [8; 16])].map(|(replica, server)| reached.take(replica, server, "b:1"));
        assert!(others.iter().all(Result::is_ok), "another replica's, and at another server");
        drop(taken);
        assert!(reached.take([1; 16], [9; 16], "b:1").is_ok());
    }
}
