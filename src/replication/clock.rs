//! How far apart the wall clocks of a replica and of its primary are. An item's expiry is a second
//! of the primary's clock, and each host judges it by its own: where the clocks are apart, a
//! replica serves what has expired, or misses what lives.
//!
//! Both sides put a [`Stamp`] into each heartbeat: the sender's wall clock, the sender's steady
//! clock, and the last steady stamp heard from the other side with how long ago that was. So
//! whoever hears a stamp knows the round trip without the time that its own stamp was held, as in
//! NTP:
//!
//! ```text
//! replica   sent ----\                     /---> now      round trip = now - sent - held
//! primary             \--> heard .. held ./               skew       = primary's wall clock + round trip / 2 - own wall clock
//! ```
//!
//! The skew is wrong by at most half the round trip, which is told with it. What decides here is
//! pure.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A warning is logged when the clocks are surely further apart than this, and again when the
/// distance has changed by as much.
const SKEW_MICROSECONDS_MAX: u64 = 1_000_000;

/// What a heartbeat tells of the sender's clocks. Microseconds, all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The sender's wall clock, since 1970.
    pub wall: u64,
    /// The sender's steady clock, from where it likes; never 0.
    pub sent: u64,
    /// The last `sent` that was heard from the other side, 0 for none.
    pub echo: u64,
    /// How long ago that was heard.
    pub held: u64,
}

/// The other side's wall clock less one's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skew {
    /// More than 0 where the other side's clock is ahead.
    pub microseconds: i64,
    /// It is wrong by at most so much.
    pub precision_microseconds: u64,
}

impl Skew {
    /// From a stamp that was heard when this side's steady clock showed `steady` and its wall clock
    /// `wall`. None where the stamp answers nothing that was sent, or its numbers are impossible.
    fn of(heard: &Stamp, steady: u64, wall: u64) -> Option<Skew> {
        let elapsed = steady.checked_sub(heard.echo).filter(|_| heard.echo != 0)?;
        let half = elapsed.checked_sub(heard.held)? / 2;
        let difference = i128::from(heard.wall) + i128::from(half) - i128::from(wall);
        let microseconds = i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX });
        Some(Skew { microseconds, precision_microseconds: half })
    }

    /// In whole milliseconds.
    pub fn milliseconds(self) -> i64 {
        self.microseconds / 1000
    }

    /// In whole milliseconds, rounded up.
    pub fn precision_milliseconds(self) -> u64 {
        self.precision_microseconds.div_ceil(1000)
    }
}

/// One end's clocks, over one connection.
pub struct Clocks {
    begun_at: Instant,
    heard: Option<(u64, Instant)>,
}

impl Clocks {
    /// At the start of a connection.
    pub fn start() -> Clocks {
        Clocks { begun_at: Instant::now(), heard: None }
    }

    /// What to tell now.
    pub fn stamp(&self) -> Stamp {
        let (echo, held) = self.heard.map_or((0, 0), |(sent, at)| (sent, at.elapsed().as_micros() as u64));
        Stamp { wall: wall(), sent: self.steady(), echo, held }
    }

    /// The other side has told this, just now.
    pub fn heard(&mut self, stamp: &Stamp) -> Option<Skew> {
        self.heard = Some((stamp.sent, Instant::now()));
        Skew::of(stamp, self.steady(), wall())
    }

    fn steady(&self) -> u64 {
        self.begun_at.elapsed().as_micros() as u64 + 1
    }
}

fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// Decides when the skew is worth a line in the log: once when it is large, again when it has
/// changed much, once when it is small again.
#[derive(Debug, Default)]
pub struct SkewWatch {
    warned: Option<i64>,
}

/// Worth a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The clocks are apart.
    Apart,
    /// They were, and are not any more.
    Together,
}

impl SkewWatch {
    /// What there is to say of `skew`.
    pub fn notice(&mut self, skew: Skew) -> Option<Notice> {
        let Skew { microseconds, precision_microseconds: precision } = skew;
        let is_apart = microseconds.unsigned_abs().saturating_sub(precision) > SKEW_MICROSECONDS_MAX;
        let is_together = microseconds.unsigned_abs().saturating_add(precision) < SKEW_MICROSECONDS_MAX;
        let has_moved = |warned: i64| microseconds.abs_diff(warned) > SKEW_MICROSECONDS_MAX.saturating_add(precision);
        if is_apart && self.warned.is_none_or(has_moved) {
            self.warned = Some(microseconds);
            return Some(Notice::Apart);
        }
        self.warned.filter(|_| is_together)?;
        self.warned = None;
        Some(Notice::Together)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    /// Two hosts whose clocks are `offset` apart, a message that takes `there`, one that takes
    /// `back`, and an answer after `held`.
    fn measured(offset: i64, there: u64, held: u64, back: u64) -> Skew {
        let (sent, wall) = (500, 1_700_000_000_000_000);
        let answered = there + held;
        let heard = Stamp { wall: (wall + answered as i64 + offset) as u64, sent: 7, echo: sent, held };
        Skew::of(&heard, sent + answered + back, wall as u64 + answered + back).unwrap()
    }

    #[test]
    fn the_skew_is_wrong_by_half_the_round_trip_at_most() {
        assert_eq!(measured(0, 50, 0, 50), Skew { microseconds: 0, precision_microseconds: 50 });
        let even = measured(100 * SECOND, 200, 900_000, 200);
        assert_eq!(even, Skew { microseconds: 100 * SECOND, precision_microseconds: 200 });
        assert_eq!((even.milliseconds(), even.precision_milliseconds()), (100_000, 1));
        for (there, back) in [(0, 1000), (1000, 0), (90_000, 10)] {
            for offset in [-3600 * SECOND, -5, 0, 1, 77 * SECOND] {
                let skew = measured(offset, there, 123_456, back);
                assert_eq!(skew.precision_microseconds, (there + back) / 2);
                assert!(skew.microseconds.abs_diff(offset) <= skew.precision_microseconds, "{offset} {there} {back}");
            }
        }
    }

    #[test]
    fn what_cannot_be_tells_nothing() {
        let stamp = Stamp { wall: 5, sent: 1, echo: 100, held: 10 };
        assert!(Skew::of(&stamp, 110, 5).is_some());
        assert_eq!(Skew::of(&Stamp { echo: 0, ..stamp }, 110, 5), None, "nothing was heard there yet");
        assert_eq!(Skew::of(&stamp, 99, 5), None, "it was never sent");
        assert_eq!(Skew::of(&stamp, 109, 5), None, "it was held longer than it has been under way");
        assert_eq!(Skew::of(&Stamp { wall: u64::MAX, ..stamp }, 110, 0).unwrap().microseconds, i64::MAX);
        assert_eq!(Skew::of(&Stamp { wall: 0, ..stamp }, 110, u64::MAX).unwrap().microseconds, i64::MIN);
    }

    #[test]
    fn two_ends_of_one_host_agree() {
        let (mut one, mut other) = (Clocks::start(), Clocks::start());
        assert_eq!(other.heard(&one.stamp()), None, "nothing was answered yet");
        let skew = one.heard(&other.stamp()).expect("an answer");
        assert!(skew.microseconds.unsigned_abs() <= skew.precision_microseconds + 1, "{skew:?}");
    }

    #[test]
    fn it_is_said_once_and_again_when_it_changes_much() {
        let mut watch = SkewWatch::default();
        let mut see =
            |microseconds, precision_microseconds| watch.notice(Skew { microseconds, precision_microseconds });
        assert_eq!(see(900_000, 10), None);
        assert_eq!(see(3 * SECOND, 4_000_000), None, "a host that stood still proves nothing");
        assert_eq!(see(-100 * SECOND, 50_000), Some(Notice::Apart));
        assert_eq!(see(-100 * SECOND + 40_000, 50_000), None);
        assert_eq!(
            see(-100 * SECOND - 900_000, 50_000),
            None,
            "clocks that drift are warned of once in a second's drift"
        );
        assert_eq!(see(-102 * SECOND, 50_000), Some(Notice::Apart));
        assert_eq!(see(-SECOND, 50_000), None, "about the bound: neither");
        assert_eq!(see(20_000, 50_000), Some(Notice::Together));
        assert_eq!(see(20_000, 50_000), None);
        assert_eq!(see(2 * SECOND, 0), Some(Notice::Apart));
        assert_eq!(see(i64::MIN, u64::MAX), None);
    }
}
