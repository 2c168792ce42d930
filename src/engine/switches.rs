//! What the command line allows clients of this server beyond the data: flush_all, shutdown, watch,
//! stats detail. Set before the first command, never changed.

use super::prefixes::DELIMITER_DEFAULT;
use crate::protocol::Refusal;

/// The switches, as memcached has them by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switches {
    /// False with -F: flush_all is refused.
    pub flush: bool,
    /// False with -X: what shows keys is refused (stats detail).
    pub dumps: bool,
    /// False with -W: watch is refused before its words are looked at.
    pub watch: bool,
    /// True with -A: a client may end this server (shutdown).
    pub shutdown: bool,
    /// Requests about shards that take no writes here go to their primaries.
    pub forwards: bool,
    /// What ends a key's prefix (-D).
    pub prefix_delimiter: u8,
    /// Whether uses of keys are counted by prefix from the start (-D).
    pub counts_prefixes: bool,
}

impl Default for Switches {
    fn default() -> Switches {
        Switches {
            flush: true,
            dumps: true,
            watch: true,
            shutdown: false,
            forwards: false,
            prefix_delimiter: DELIMITER_DEFAULT,
            counts_prefixes: false,
        }
    }
}

impl Switches {
    /// Why a line is refused that the parser has refused: what is switched off is refused for that
    /// alone, whatever else is wrong with the line.
    pub(super) fn refusal(&self, found: Refusal) -> Refusal {
        match found {
            Refusal::WatchUnknown if !self.watch => Refusal::WatchOff,
            Refusal::BadFlushDelay if !self.flush => Refusal::FlushOff,
            other => other,
        }
    }
}
