//! The commands of the binary protocol: their opcodes, and which form each has.

/// What an opcode asks for, whether in its quiet form or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// The value under a key.
    Get,
    /// The same, and the key.
    GetKey,
    /// Store a value.
    Set,
    /// Store it if nothing is there.
    Add,
    /// Store it if something is there.
    Replace,
    /// Store it behind what is there.
    Append,
    /// Store it before what is there.
    Prepend,
    /// Remove.
    Delete,
    /// Count up.
    Increment,
    /// Count down.
    Decrement,
    /// Close the connection.
    Quit,
    /// Remove everything.
    Flush,
    /// Nothing: its answer says that what was asked before is done.
    Noop,
    /// Which version this is.
    Version,
    /// Statistics.
    Stat,
    /// How much is logged.
    Verbosity,
    /// A new expiry.
    Touch,
    /// A new expiry, and the value.
    Gat,
    /// The same, and the key.
    GatKey,
    /// SASL: the mechanisms.
    SaslList,
    /// SASL: who the client is, or the beginning of that.
    SaslBegin,
    /// SASL: what is still to be said of it.
    SaslStep,
    /// Anything else.
    Unknown,
}

/// What an answer must know of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// As the client sent it; its answer gives it back.
    opaque: u32,
    opcode: u8,
    /// What that asks for.
    pub command: Command,
    /// The usual answer is left out: that of a success, and of a get or gat that of a miss.
    pub quiet: bool,
}

/// What a request of a command may bring.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// Bytes of its extras.
    extras: u8,
    /// These may be missing altogether.
    may_lack_extras: bool,
    key: Key,
    has_value: bool,
}

/// Whether a request has a key.
#[derive(Debug, Clone, Copy)]
enum Key {
    Must,
    May,
    MustNot,
}

impl Head {
    /// Of a request with this opcode and opaque.
    pub fn new(opcode: u8, opaque: u32) -> Head {
        let (command, quiet) = Command::of(opcode);
        Head { opaque, opcode, command, quiet }
    }

    /// The same, but its opcode asks for nothing.
    pub(super) fn of_no_command(self) -> Head {
        Head { command: Command::Unknown, quiet: false, ..self }
    }

    /// As the request has it.
    pub fn opcode(self) -> u8 {
        self.opcode
    }

    /// As the request has it.
    pub fn opaque(self) -> u32 {
        self.opaque
    }

    /// The answer to a get of any kind has the key.
    pub fn tells_key(self) -> bool {
        matches!(self.command, Command::GetKey | Command::GatKey)
    }

    /// The answer to a get of any kind has the value.
    pub fn tells_value(self) -> bool {
        self.command != Command::Touch
    }
}

impl Command {
    /// What an opcode asks for, and whether quietly.
    pub fn of(opcode: u8) -> (Command, bool) {
        match opcode {
            0x00 => (Command::Get, false),
            0x01 => (Command::Set, false),
            0x02 => (Command::Add, false),
            0x03 => (Command::Replace, false),
            0x04 => (Command::Delete, false),
            0x05 => (Command::Increment, false),
            0x06 => (Command::Decrement, false),
            0x07 => (Command::Quit, false),
            0x08 => (Command::Flush, false),
            0x09 => (Command::Get, true),
            0x0A => (Command::Noop, false),
            0x0B => (Command::Version, false),
            0x0C => (Command::GetKey, false),
            0x0D => (Command::GetKey, true),
            0x0E => (Command::Append, false),
            0x0F => (Command::Prepend, false),
            0x10 => (Command::Stat, false),
            0x11 => (Command::Set, true),
            0x12 => (Command::Add, true),
            0x13 => (Command::Replace, true),
            0x14 => (Command::Delete, true),
            0x15 => (Command::Increment, true),
            0x16 => (Command::Decrement, true),
            0x17 => (Command::Quit, true),
            0x18 => (Command::Flush, true),
            0x19 => (Command::Append, true),
            0x1A => (Command::Prepend, true),
            0x1B => (Command::Verbosity, false),
            0x1C => (Command::Touch, false),
            0x1D => (Command::Gat, false),
            0x1E => (Command::Gat, true),
            0x20 => (Command::SaslList, false),
            0x21 => (Command::SaslBegin, false),
            0x22 => (Command::SaslStep, false),
            0x23 => (Command::GatKey, false),
            0x24 => (Command::GatKey, true),
            _ => (Command::Unknown, false),
        }
    }

    /// By which a client says who it is (`-S`).
    pub fn is_sasl(self) -> bool {
        matches!(self, Command::SaslList | Command::SaslBegin | Command::SaslStep)
    }

    /// None where nothing is known of it: then any form will do.
    pub(super) fn form(self) -> Option<Form> {
        let form = |extras, key, has_value| Some(Form { extras, may_lack_extras: false, key, has_value });
        match self {
            Command::Get | Command::GetKey | Command::Delete => form(0, Key::Must, false),
            Command::Set | Command::Add | Command::Replace => form(8, Key::Must, true),
            Command::Append | Command::Prepend => form(0, Key::Must, true),
            Command::Increment | Command::Decrement => form(20, Key::Must, false),
            Command::Quit | Command::Noop | Command::Version | Command::SaslList => form(0, Key::MustNot, false),
            Command::Flush => form(4, Key::MustNot, false).map(|form| Form { may_lack_extras: true, ..form }),
            Command::Stat => form(0, Key::May, false),
            Command::Verbosity => form(4, Key::MustNot, false),
            Command::Touch | Command::Gat | Command::GatKey => form(4, Key::Must, false),
            Command::SaslBegin | Command::SaslStep => form(0, Key::Must, true),
            Command::Unknown => None,
        }
    }
}

impl Form {
    /// Whether a request with parts of these lengths has it.
    pub(super) fn fits(self, extras_bytes: usize, key_bytes: usize, value_bytes: usize) -> bool {
        let extras_fit = extras_bytes == usize::from(self.extras) || (self.may_lack_extras && extras_bytes == 0);
        let key_fits = match self.key {
            Key::Must => key_bytes > 0,
            Key::May => true,
            Key::MustNot => key_bytes == 0,
        };
        extras_fit && key_fits && (self.has_value || value_bytes == 0)
    }
}
