//! The places at a port where control connections are taken, a server's or a locator's: how many
//! there may be, and who makes room when they are taken.
//!
//! A connection is a *stranger* until its peer has proved that it has the secret, and *known* from
//! then on. Strangers have places of their own: when those are taken, one of them is ended for the
//! newcomer. So connections that say nothing cannot keep out who has the secret, and no known
//! connection is ever ended for a stranger.
//!
//! Which stranger is ended: the oldest of the host that has most of them. A crowd from one host
//! costs that host's own connections.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Connections that were ended, and whose threads still notice it.
const ENDING_MAX: usize = 16;
/// Longest wait for the thread of a stranger that was ended. It has nothing more to do than to
/// notice.
const END_WAIT_MAX: Duration = Duration::from_millis(100);

/// See the module.
pub(crate) struct Places {
    strangers_max: usize,
    known_max: usize,
    taken: Mutex<Taken>,
    given_back: Condvar,
}

#[derive(Default)]
struct Taken {
    numbers: u64,
    /// Oldest first.
    strangers: VecDeque<Stranger>,
    known: usize,
    /// Places that were not given back, those of ended strangers included.
    threads: usize,
}

struct Stranger {
    number: u64,
    host: IpAddr,
    /// The same connection, by a descriptor of its own.
    stream: TcpStream,
}

/// One connection's place; dropping it gives it back.
pub(crate) struct Place {
    places: Arc<Places>,
    number: u64,
    standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Stranger,
    Known,
}

/// Why there is no place for a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoPlace {
    /// More than there can be, and none that could be ended.
    #[error("there are {0} connections to this port already; try again in some seconds")]
    Full(usize),
    /// It was a stranger, and was ended for a newer one.
    #[error("this connection had not proved itself when newer ones needed its place; try again")]
    Ended,
    /// No descriptor is left.
    #[error("no descriptor for a connection: {0}; raise `ulimit -n`")]
    System(#[from] io::Error),
}

impl Places {
    /// Places for so many whose peers have not proved themselves, and for so many whose peers have.
    pub(crate) fn new(strangers_max: usize, known_max: usize) -> Places {
        Places { strangers_max, known_max, taken: Mutex::default(), given_back: Condvar::new() }
    }

    /// Connections that may have a thread.
    fn threads_max(&self) -> usize {
        self.strangers_max + self.known_max + ENDING_MAX
    }

    /// A place for a new connection from `host`, and the stranger that had to make room for it: the
    /// caller tells it why and shuts it down.
    pub(crate) fn enter(
        self: &Arc<Places>,
        stream: &TcpStream,
        host: IpAddr,
    ) -> Result<(Place, Option<TcpStream>), NoPlace> {
        let stream = stream.try_clone()?;
        let taken = self.taken();
        let waited =
            self.given_back.wait_timeout_while(taken, END_WAIT_MAX, |taken| taken.threads >= self.threads_max());
        let (mut taken, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(NoPlace::Full(self.threads_max()));
        }
        let ended = if taken.strangers.len() < self.strangers_max { None } else { taken.take_out_stranger() };
        taken.threads += 1;
        taken.numbers += 1;
        let number = taken.numbers;
        taken.strangers.push_back(Stranger { number, host, stream });
        Ok((Place { places: self.clone(), number, standing: Standing::Stranger }, ended))
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// The oldest stranger of the host that has most of them.
    fn take_out_stranger(&mut self) -> Option<TcpStream> {
        let mut of_host: HashMap<IpAddr, usize> = HashMap::new();
        self.strangers.iter().for_each(|stranger| *of_host.entry(stranger.host).or_default() += 1);
        // Of equal ones `max_by_key` takes the last, so this goes from the newest to the oldest.
        let at = (0..self.strangers.len()).rev().max_by_key(|at| of_host[&self.strangers[*at].host])?;
        self.strangers.remove(at).map(|stranger| stranger.stream)
    }

    fn remove_stranger(&mut self, number: u64) -> bool {
        let at = self.strangers.iter().position(|stranger| stranger.number == number);
        at.and_then(|at| self.strangers.remove(at)).is_some()
    }
}

impl Place {
    /// The peer has proved itself: from now on its place is not taken away.
    pub(crate) fn make_known(&mut self) -> Result<(), NoPlace> {
        let mut taken = self.places.taken();
        if self.standing == Standing::Known {
            return Ok(());
        }
        if taken.known >= self.places.known_max {
            return Err(NoPlace::Full(self.places.known_max));
        }
        if !taken.remove_stranger(self.number) {
            return Err(NoPlace::Ended);
        }
        taken.known += 1;
        self.standing = Standing::Known;
        Ok(())
    }

    /// Whether it was taken away for another connection.
    pub(crate) fn is_ended(&self) -> bool {
        let is_there = |stranger: &Stranger| stranger.number == self.number;
        self.standing == Standing::Stranger && !self.places.taken().strangers.iter().any(is_there)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        match self.standing {
            Standing::Stranger => drop(taken.remove_stranger(self.number)),
            Standing::Known => taken.known -= 1,
        }
        taken.threads -= 1;
        drop(taken);
        self.places.given_back.notify_one();
    }
}

/// Nothing more comes or goes over a connection: whoever waits for it learns that at once.
pub(crate) fn shut_down(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    const STRANGERS_MAX: usize = 4;
    const KNOWN_MAX: usize = 6;
    const THREADS_MAX: usize = STRANGERS_MAX + KNOWN_MAX + ENDING_MAX;

    fn places() -> Arc<Places> {
        Arc::new(Places::new(STRANGERS_MAX, KNOWN_MAX))
    }

    /// Connections to nobody in particular.
    fn streams(count: usize) -> Vec<TcpStream> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (0..count).map(|_| TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect()
    }

    fn host(number: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, number).into()
    }

    #[test]
    fn the_oldest_stranger_makes_room_and_nobody_who_is_known() {
        let (places, streams) = (places(), streams(1));
        let enter = || places.enter(&streams[0], host(1)).unwrap();
        let mut known = enter().0;
        known.make_known().unwrap();
        let mut strangers: Vec<Place> = (0..STRANGERS_MAX).map(|_| enter()).map(|(place, _)| place).collect();
        assert!(strangers.iter().all(|place| !place.is_ended()));
        let (_newest, ended) = enter();
        assert!(ended.is_some() && strangers[0].is_ended() && !strangers[1].is_ended() && !known.is_ended());
        assert!(matches!(strangers[0].make_known(), Err(NoPlace::Ended)));
        strangers[1].make_known().unwrap();
        assert!(enter().1.is_none(), "the one that is known now has left a place");
    }

    #[test]
    fn a_crowd_from_one_host_costs_that_host_alone() {
        let (places, streams) = (places(), streams(1));
        let (lonely, _) = places.enter(&streams[0], host(1)).unwrap();
        let crowd = (0..2 * STRANGERS_MAX).map(|_| places.enter(&streams[0], host(2)).unwrap().0);
        let mut crowd = crowd.collect::<VecDeque<_>>();
        assert!(!lonely.is_ended());
        assert_eq!(crowd.iter().filter(|place| !place.is_ended()).count(), STRANGERS_MAX - 1);
        assert!(!crowd.pop_back().unwrap().is_ended());
    }

    #[test]
    fn threads_and_known_peers_have_a_bound() {
        let (places, streams) = (places(), streams(1));
        let enter = || places.enter(&streams[0], host(1));
        let mut known: Vec<Place> = (0..KNOWN_MAX)
            .map(|_| {
                let mut place = enter().unwrap().0;
                place.make_known().unwrap();
                place
            })
            .collect();
        assert!(matches!(enter().unwrap().0.make_known(), Err(NoPlace::Full(_))));
        known.pop();
        enter().unwrap().0.make_known().unwrap();
        // Ended strangers whose threads do not end.
        let rest: Vec<Place> = (known.len()..THREADS_MAX).map(|_| enter().unwrap().0).collect();
        assert!(matches!(enter(), Err(NoPlace::Full(THREADS_MAX))));
        drop(rest);
        assert!(enter().is_ok());
    }
}
