//! When a connection is closed for doing nothing. Pure: takes what the connection holds and how
//! long it has not moved.

use crate::base::limits::WRITE_STALL_SECONDS_MAX;

/// What counts for the decision.
#[derive(Debug, Clone, Copy)]
pub struct Stillness {
    /// Seconds since a byte went either way.
    pub seconds: u32,
    /// It has answers that it does not take.
    pub holds_output: bool,
    /// It has sent part of a request.
    pub holds_input: bool,
    /// It has answers that wait for replicas, or a request that waits for memory, and these waits
    /// have bounds of their own; or it watches, for as long as it likes. The client waits for the
    /// server, not the other way round.
    pub waits_for_us: bool,
}

/// Why to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// -o idle_timeout.
    Idle,
    /// It holds memory that others need, and does not go on.
    Stalled,
}

/// Whether to close. `idle_timeout_seconds` is 0 for never. A connection whose client takes no
/// answers is closed after [`WRITE_STALL_SECONDS_MAX`] at the latest. One whose client does not
/// finish a request is closed after as long, but only while memory for unfinished requests is
/// tight.
pub fn verdict(still: Stillness, idle_timeout_seconds: u32, input_is_tight: bool) -> Option<Reason> {
    if still.waits_for_us && !still.holds_output {
        return None;
    }
    let holds = still.holds_output || still.holds_input && input_is_tight;
    if idle_timeout_seconds > 0 && still.seconds > idle_timeout_seconds {
        Some(if holds { Reason::Stalled } else { Reason::Idle })
    } else if holds && still.seconds > WRITE_STALL_SECONDS_MAX {
        Some(Reason::Stalled)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn still(seconds: u32, holds_output: bool, holds_input: bool) -> Stillness {
        Stillness { seconds, holds_output, holds_input, waits_for_us: false }
    }

    #[test]
    fn an_idle_connection_stays_unless_a_timeout_is_set() {
        assert_eq!(verdict(still(u32::MAX, false, false), 0, true), None);
        assert_eq!(verdict(still(10, false, false), 10, true), None);
        assert_eq!(verdict(still(11, false, false), 10, true), Some(Reason::Idle));
    }

    #[test]
    fn who_holds_memory_is_closed_after_a_bound() {
        let past = WRITE_STALL_SECONDS_MAX + 1;
        assert_eq!(verdict(still(past - 1, true, false), 0, false), None);
        assert_eq!(verdict(still(past, true, false), 0, false), Some(Reason::Stalled));
        assert_eq!(verdict(still(past, false, true), 0, false), None);
        assert_eq!(verdict(still(past, false, true), 0, true), Some(Reason::Stalled));
        assert_eq!(verdict(still(6, true, false), 5, false), Some(Reason::Stalled));
    }

    #[test]
    fn who_waits_for_us_is_not_still_unless_answers_are_not_taken() {
        let waiting = |holds_output| Stillness { waits_for_us: true, ..still(u32::MAX, holds_output, true) };
        assert_eq!(verdict(waiting(false), 5, true), None);
        assert_eq!(verdict(waiting(true), 5, true), Some(Reason::Stalled));
    }
}
