//! Which protocol a side speaks. Two sides of one major version speak the lower of their minor
//! versions; of two major versions, one side refuses the other. docs/FORMATS.md says what a minor
//! version may add, and what each has added.

use std::fmt;

/// See the module. Of two of the same major version the lower is the one that both speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// It grows with each change that a side of before would misunderstand: of messages, or of
    /// memory that is read from afar.
    pub major: u16,
    /// It grows with each addition that a side of before can do without.
    pub minor: u16,
}

/// What is spoken here.
pub const VERSION: Version = Version { major: 10, minor: 1 };

/// The first that has [`super::Message::Forward`].
pub const FORWARDING: Version = Version { major: 10, minor: 1 };

/// Of this program.
pub const PROGRAM_VERSION: &str = env!("CARGO_PKG_VERSION");

impl Version {
    /// As it stands in messages.
    pub fn to_bytes(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.major.to_le_bytes(), self.minor.to_le_bytes());
        [a, b, c, d]
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
