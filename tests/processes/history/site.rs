//! What clients and the conductor of a run share: who is the primary, what replicas there are and
//! how they may be read, the clock, and the record.

use crate::support::history::event::{Event, Place, Reign};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Who takes writes, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    pub address: SocketAddr,
    pub reign: usize,
}

/// A replica, as it may be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub address: SocketAddr,
    pub place: Place,
    pub reign: usize,
}

/// See the module.
pub struct Site {
    begun: Instant,
    seat: Mutex<Option<Seat>>,
    views: Mutex<Vec<Option<View>>>,
    record: Mutex<Vec<(usize, Vec<Event>)>>,
    numbers: AtomicU32,
    values: AtomicU64,
    /// Writers in the middle of a batch.
    pub busy: AtomicUsize,
    /// Writes of which an answer said that they are done and acknowledged.
    pub acknowledged: AtomicU64,
    /// All that was recorded, and of that what was read at replicas.
    pub operations: AtomicU64,
    pub replica_reads: AtomicU64,
    pub stopping: AtomicBool,
}

/// A test that has failed elsewhere must not hide its reason behind this lock.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Site {
    /// A site with so many replicas, none of which is there yet.
    pub fn new(replicas: usize) -> Site {
        Site {
            begun: Instant::now(),
            seat: Mutex::default(),
            views: Mutex::new(vec![None; replicas]),
            record: Mutex::default(),
            numbers: AtomicU32::new(1),
            values: AtomicU64::new(1),
            busy: AtomicUsize::new(0),
            acknowledged: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            replica_reads: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        }
    }

    /// Nanoseconds, by one clock for all.
    pub fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// A number for a session, or for a time in which a replica does not begin anew.
    pub fn number(&self) -> u32 {
        self.numbers.fetch_add(1, SeqCst)
    }

    /// A value that nobody has written.
    pub fn value(&self) -> u64 {
        self.values.fetch_add(1, SeqCst)
    }

    pub fn seat(&self) -> Option<Seat> {
        *locked(&self.seat)
    }

    pub fn set_seat(&self, seat: Option<Seat>) {
        *locked(&self.seat) = seat;
    }

    pub fn view(&self, replica: usize) -> Option<View> {
        locked(&self.views)[replica]
    }

    pub fn set_view(&self, replica: usize, view: Option<View>) {
        locked(&self.views)[replica] = view;
    }

    /// A replica that holds all and follows: from now on it does not go back. Returns the number of
    /// this time.
    pub fn settled(&self, replica: usize, address: SocketAddr, reign: usize) -> u32 {
        let number = self.number();
        self.set_view(replica, Some(View { address, place: Place::Replica(number), reign }));
        number
    }

    /// From now on this replica may begin anew.
    pub fn unsettled(&self, replica: usize, address: SocketAddr, reign: usize) {
        self.set_view(replica, Some(View { address, place: Place::Between, reign }));
    }

    pub fn note(&self, reign: usize, events: Vec<Event>) {
        let count = |which: &dyn Fn(&Event) -> bool| events.iter().filter(|event| which(event)).count() as u64;
        self.acknowledged.fetch_add(count(&|event| event.acknowledged && event.has_changed()), SeqCst);
        self.operations.fetch_add(events.len() as u64, SeqCst);
        self.replica_reads.fetch_add(count(&|event| event.place != Place::Primary), SeqCst);
        locked(&self.record).push((reign, events));
    }

    /// All that was recorded since the last time, by reign.
    pub fn take(&self) -> Vec<(usize, Vec<Event>)> {
        std::mem::take(&mut *locked(&self.record))
    }

    /// The reigns of a run that is over, with their heirs.
    pub fn reigns(&self, heirs: &[Option<u32>]) -> Vec<Reign> {
        let mut reigns: Vec<Reign> = heirs.iter().map(|heir| Reign { events: Vec::new(), heir: *heir }).collect();
        self.take().into_iter().for_each(|(reign, events)| reigns[reign].events.extend(events));
        reigns
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    /// Wait for something, with a bound; false if it does not come.
    pub fn wait_for(&self, most: Duration, mut is_so: impl FnMut(&Site) -> bool) -> bool {
        let until = Instant::now() + most;
        while !is_so(self) {
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }
}
