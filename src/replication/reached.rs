//! The servers that this process has reached.
//!
//! A server may have several names, and it knows a replica by the replica's number alone: a replica
//! has one place there, and a newer connection takes it from an older one. So whoever has reached a
//! server takes the place here first, before it joins. Two that have reached the same server, by
//! whatever names, learn it here and not from one another's end.

use super::standing::ServerNumber;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whoever takes places: a following, or an order that is about to start one.
#[derive(Debug)]
pub struct Holder {
    name: String,
    has_left: AtomicBool,
}

impl Holder {
    /// Who reaches a server by this name (HOST:PORT).
    pub fn new(name: &str) -> Arc<Holder> {
        Arc::new(Holder { name: name.into(), has_left: AtomicBool::new(false) })
    }

    /// The name by which it reaches servers.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whoever wants its place may have it from now on. It may still be in a handshake; the server
    /// ends that for the newer connection.
    pub fn leave(&self) {
        self.has_left.store(true, Relaxed);
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Reached {
    places: Mutex<Vec<Place>>,
}

#[derive(Debug)]
struct Place {
    replica: ServerNumber,
    server: ServerNumber,
    holder: Arc<Holder>,
}

/// The place of a replica at a server; dropping it gives it back.
#[derive(Debug)]
pub struct Taken {
    reached: Arc<Reached>,
    replica: ServerNumber,
    server: ServerNumber,
    holder: Arc<Holder>,
}

impl Reached {
    /// Take the place of `replica` at `server`. Err: who has it.
    pub fn take(
        self: &Arc<Self>,
        replica: ServerNumber,
        server: ServerNumber,
        holder: &Arc<Holder>,
    ) -> Result<Taken, Arc<Holder>> {
        let mut places = self.places();
        let is_it = |place: &Place| (place.replica, place.server) == (replica, server);
        if let Some(place) = places.iter().find(|place| is_it(place) && !place.holder.has_left.load(Relaxed)) {
            return Err(place.holder.clone());
        }
        places.retain(|place| !is_it(place));
        places.push(Place { replica, server, holder: holder.clone() });
        Ok(Taken { reached: self.clone(), replica, server, holder: holder.clone() })
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Who has it.
    pub fn holder(&self) -> &Arc<Holder> {
        &self.holder
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let is_it = |place: &Place| {
            (place.replica, place.server) == (self.replica, self.server) && Arc::ptr_eq(&place.holder, &self.holder)
        };
        self.reached.places().retain(|place| !is_it(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_once_whatever_the_name() {
        let reached = Arc::<Reached>::default();
        let (one, other) = (Holder::new("a:1"), Holder::new("b:1"));
        let taken = reached.take([1; 16], [9; 16], &one).unwrap();
        assert_eq!(reached.take([1; 16], [9; 16], &other).unwrap_err().name(), "a:1");
        let others =
            [([2; 16], [9; 16]), ([1; 16], [8; 16])].map(|(replica, server)| reached.take(replica, server, &other));
        assert!(others.iter().all(Result::is_ok), "another replica's, and at another server");
        drop(taken);
        assert!(reached.take([1; 16], [9; 16], &other).is_ok());
    }

    /// Its thread may hang in a handshake, and ends at some time.
    #[test]
    fn who_has_left_holds_up_nobody_and_takes_nothing_with_it() {
        let reached = Arc::<Reached>::default();
        let (one, other) = (Holder::new("a:1"), Holder::new("a:1"));
        let old = reached.take([1; 16], [9; 16], &one).unwrap();
        one.leave();
        let _new = reached.take([1; 16], [9; 16], &other).unwrap();
        drop(old);
        assert!(Arc::ptr_eq(&reached.take([1; 16], [9; 16], &one).unwrap_err(), &other));
    }
}
