//! What a history is made of: what clients asked, when, and what they were told; divided into
//! reigns, one for each primary. Pure data.

use std::fmt;

/// A value of a key. Of a register every write has one of its own; a counter's is its number.
pub type Value = u64;

/// In place of the time of an answer that never came.
pub const NEVER: u64 = u64::MAX;

/// What a client asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Set(Value),
    /// By the CAS that came with `expected`. Each value is written once, so that it is the same as
    /// to compare values.
    Cas {
        expected: Value,
        value: Value,
    },
    Incr(u64),
    Delete,
    Get,
}

/// What it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// STORED, DELETED.
    Done,
    /// The value; of an increment the new one.
    Hit(Value),
    /// There is no such item.
    Miss,
    /// Of a CAS: the item is another by now.
    Exists,
    /// The connection ended before the answer: it was done, or not, or will be.
    Unknown,
}

/// Who was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    Primary,
    /// A replica, in a time in which it never began anew: the number is of this time, not of the
    /// process.
    Replica(u32),
    /// A replica while it may begin anew, or change sides: older values may show again, lost ones
    /// still.
    Between,
}

/// One request of one client, with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The connection. Its requests are executed in their order, even if several are sent at a
    /// time.
    pub session: u32,
    pub place: Place,
    pub key: u32,
    pub operation: Operation,
    /// Before the request was sent, by one clock for all.
    pub invoked: u64,
    /// After the answer was read; [`NEVER`] if it was not.
    pub returned: u64,
    pub outcome: Outcome,
    /// The answer says that as many replicas have it as were asked for: it must outlive the
    /// primary.
    pub acknowledged: bool,
}

/// The events while one server was the primary.
#[derive(Debug, Clone, Default)]
pub struct Reign {
    /// The events of each session stand in the order in which they were sent.
    pub events: Vec<Event>,
    /// Of the replica that was promoted at its end, the last time: what it has shown, it has.
    pub heir: Option<u32>,
}

impl Operation {
    /// What it would write.
    pub fn writes(self) -> Option<Value> {
        match self {
            Operation::Set(value) | Operation::Cas { value, .. } => Some(value),
            _ => None,
        }
    }
}

impl Event {
    pub fn is_known(&self) -> bool {
        self.outcome != Outcome::Unknown
    }

    /// What its answer shows is what it has written.
    pub fn has_changed_if_answered(&self) -> bool {
        matches!(self.operation, Operation::Incr(_))
    }

    /// It is known to have changed the item.
    pub fn has_changed(&self) -> bool {
        match self.outcome {
            Outcome::Done => true,
            Outcome::Hit(_) => matches!(self.operation, Operation::Incr(_)),
            _ => false,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event { session, place, key, operation, invoked, returned, outcome, acknowledged } = self;
        let until = if *returned == NEVER { "?".into() } else { returned.to_string() };
        let acknowledged = if *acknowledged { ", acknowledged" } else { "" };
        write!(
            f,
            "{invoked}-{until} session {session} at {place:?}: key {key} {operation:?}: {outcome:?}{acknowledged}"
        )
    }
}
