//! Waiting for sockets: an epoll set, and an eventfd by which another thread ends the wait.
//!
//! Level-triggered throughout: what was not read or written is reported again, so a turn that stops
//! early for fairness loses no wake-up. Takes a token (u64) per descriptor and gives it back with
//! what it is ready for.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Most events taken by one wait; more are reported by the next.
pub const EVENTS_PER_POLL: usize = 256;

/// A wait of at least this is counted in whole milliseconds, and may end up to one late.
const WHOLE_MILLISECONDS: Duration = Duration::from_millis(1);

/// What to be told about a descriptor. Errors and hang-ups are always told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Only errors and hang-ups.
    Nothing,
    /// Input.
    Read,
    /// Room for output.
    Write,
    /// Both.
    ReadWrite,
    /// Input on a listener that several workers share: only some of them are woken
    /// (EPOLLEXCLUSIVE).
    SharedRead,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Interest::Nothing => epoll::EventFlags::empty(),
            Interest::Read => epoll::EventFlags::IN | epoll::EventFlags::RDHUP,
            Interest::Write => epoll::EventFlags::OUT,
            Interest::ReadWrite => epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::OUT,
            Interest::SharedRead => epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE,
        }
    }
}

/// An epoll set.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    /// An empty set.
    pub fn new() -> io::Result<Poller> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Poller { epoll, events: Vec::with_capacity(EVENTS_PER_POLL) })
    }

    /// Watch `source`; its events carry `token`.
    pub fn add(&self, source: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Watch for something else. Not for [`Interest::SharedRead`], which the kernel cannot change:
    /// remove and add.
    pub fn change(&self, source: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, source, epoll::EventData::new_u64(token), interest.flags())?)
    }

    /// Stop watching.
    pub fn remove(&self, source: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, source)?)
    }

    /// Wait for at most `timeout`; without one, until something happens, which a [`Ticker`] makes
    /// sure of. A signal's interruption counts as no event.
    pub fn wait(&mut self, timeout: impl Into<Option<Duration>>) -> io::Result<()> {
        self.events.clear();
        let mut timeout = timeout.into();
        if let Some(short) = timeout.filter(|timeout| (Duration::from_nanos(1)..WHOLE_MILLISECONDS).contains(timeout)) {
            if !self.is_ready_within(short)? {
                return Ok(());
            }
            timeout = Some(Duration::ZERO);
        }
        let timeout = timeout.map(timespec);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Before Linux 5.11 epoll counts in milliseconds. poll counts in nanoseconds, and can wait for
    /// an epoll set. True when there are events.
    fn is_ready_within(&self, timeout: Duration) -> io::Result<bool> {
        let mut set = [PollFd::new(&self.epoll, PollFlags::IN)];
        match poll(&mut set, Some(&timespec(timeout))) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// How many events the last wait found.
    pub fn ready(&self) -> usize {
        self.events.len()
    }

    /// The token of event `at` of the last wait.
    pub fn token(&self, at: usize) -> u64 {
        // Copied out first: the kernel's structure is packed, so its fields must not be borrowed.
        let event = self.events[at];
        let data = event.data;
        data.u64()
    }
}

/// From now on this thread's waits end in time, not up to 50 us late. By default the kernel lets
/// timers that are close together expire at once. False when it refuses.
pub fn end_waits_in_time() -> bool {
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).is_ok()
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

/// Ends a [`Poller`]'s wait at regular times. A timeout on each wait would do the same, but has the
/// kernel set up a timer and take it down again for each sleep.
pub struct Ticker {
    timer: OwnedFd,
}

impl Ticker {
    /// A ticker; add it to a poller with [`Interest::Read`].
    pub fn new(every: Duration) -> io::Result<Ticker> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let every = timespec(every);
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: every, it_value: every })?;
        Ok(Ticker { timer })
    }

    /// Take the tick, so that the next wait sleeps again.
    pub fn clear(&self) {
        let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
    }
}

impl AsFd for Ticker {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

/// Ends a [`Poller`]'s wait from another thread.
#[derive(Clone)]
pub struct Waker {
    eventfd: Arc<OwnedFd>,
}

impl Waker {
    /// A waker; add it to a poller with [`Interest::Read`].
    pub fn new() -> io::Result<Waker> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waker { eventfd: Arc::new(eventfd) })
    }

    /// Wake. A full counter means that the wake-up is already on its way.
    pub fn wake(&self) {
        let _ = rustix::io::write(&*self.eventfd, &1u64.to_ne_bytes());
    }

    /// Take the wake-up, so that the next wait sleeps again.
    pub fn clear(&self) {
        let _ = rustix::io::read(&*self.eventfd, &mut [0u8; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    #[test]
    fn a_waker_ends_a_wait_and_is_cleared() {
        let mut poller = Poller::new().unwrap();
        let waker = Waker::new().unwrap();
        poller.add(&waker, 7, Interest::Read).unwrap();
        poller.wait(Duration::ZERO).unwrap();
        assert_eq!(poller.ready(), 0);
        waker.clone().wake();
        poller.wait(Duration::from_secs(10)).unwrap();
        assert_eq!((poller.ready(), poller.token(0)), (1, 7));
        waker.clear();
        poller.wait(Duration::ZERO).unwrap();
        assert_eq!(poller.ready(), 0);
    }

    #[test]
    fn what_is_left_unread_is_reported_again() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut poller = Poller::new().unwrap();
        poller.add(&far, 1, Interest::Read).unwrap();
        near.write_all(b"x").unwrap();
        for _ in 0..2 {
            poller.wait(Duration::from_secs(10)).unwrap();
            assert_eq!(poller.ready(), 1);
        }
        poller.change(&far, 1, Interest::Nothing).unwrap();
        poller.wait(Duration::ZERO).unwrap();
        assert_eq!(poller.ready(), 0);
    }

    #[test]
    fn a_short_wait_is_short_and_still_finds_what_is_ready() {
        let mut poller = Poller::new().unwrap();
        let waker = Waker::new().unwrap();
        poller.add(&waker, 7, Interest::Read).unwrap();
        let begun = Instant::now();
        // Threads have timer slack and the machine may be busy, so the shortest of many waits is
        // judged.
        let shortest = (0..100).map(|_| {
            let before = begun.elapsed();
            poller.wait(Duration::from_micros(50)).unwrap();
            assert_eq!(poller.ready(), 0);
            begun.elapsed() - before
        });
        let shortest = shortest.min().unwrap();
        assert!((Duration::from_micros(50)..Duration::from_micros(900)).contains(&shortest), "{shortest:?}");
        waker.wake();
        poller.wait(Duration::from_micros(50)).unwrap();
        assert_eq!((poller.ready(), poller.token(0)), (1, 7));
    }

    #[test]
    fn a_ticker_ends_a_wait_without_timeout_again_and_again() {
        let mut poller = Poller::new().unwrap();
        let ticker = Ticker::new(Duration::from_millis(1)).unwrap();
        poller.add(&ticker, 3, Interest::Read).unwrap();
        for _ in 0..3 {
            poller.wait(None).unwrap();
            assert_eq!((poller.ready(), poller.token(0)), (1, 3));
            ticker.clear();
        }
    }
}
