//! How a fabric fails: a cause that a program can tell apart, and words that tell people what
//! happened where.

/// What went wrong, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// This host cannot do it: no device, no library, no permission.
    Unsupported,
    /// The peer, or its host, does not take connections there.
    Refused,
    /// The peer does not know the token: it was used, its time is over, or the grant is gone.
    UnknownToken,
    /// It is being made ready, and can be had in a while.
    NotYet,
    /// The peer ended the channel, or its process or host is gone.
    Closed,
    /// What is moved over it is another log now: this end has ended it, and has not failed.
    Elsewhere,
    /// Nothing happened for as long as was allowed.
    TimedOut,
    /// A READ or WRITE was refused by the other side: a region that is not there, or no longer.
    Access,
    /// The peer said something that makes no sense.
    Protocol,
    /// The system refused something: memory, descriptors, registrations.
    System,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fabric}: {what}")]
pub struct FabricError {
    /// What kind of failure.
    pub cause: Cause,
    /// Which fabric.
    pub fabric: &'static str,
    /// What was tried, what happened, and what may help.
    pub what: String,
}

impl FabricError {
    /// A failure of `fabric`.
    pub fn new(fabric: super::Kind, cause: Cause, what: impl Into<String>) -> Self {
        FabricError { cause, fabric: fabric.name(), what: what.into() }
    }

    /// A failure that the system reported while `doing` something; the cause follows from the
    /// error's kind.
    pub fn from_io(fabric: super::Kind, doing: &str, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let cause = match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound | ErrorKind::AddrNotAvailable => Cause::Refused,
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
            | ErrorKind::NotConnected => Cause::Closed,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Cause::TimedOut,
            ErrorKind::Unsupported => Cause::Unsupported,
            _ => Cause::System,
        };
        FabricError::new(fabric, cause, format!("{doing}: {error}"))
    }
}
