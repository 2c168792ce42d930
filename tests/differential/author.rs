//! Makes up histories: whatever a seed says, always the same.
//!
//! Few keys, so that commands meet. Times are so chosen that no item expires while a history runs:
//! the two servers count seconds from different moments.
//!
//! Keys of two kinds keep intended differences apart. Values of [`KEYS`] open with letters and are
//! no numbers: of blanks alone memcached makes a number of what happens to lie behind them. What
//! [`COUNTERS`] have is never appended to, and its size is told with its value only: memcached pads
//! a number that becomes shorter.

use super::binary;
use super::classic;
use super::command::{Burst, Command, History};
use super::malformed;
use super::meta;
use fastrand::Rng;

/// Which commands a history has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Text,
    Meta,
    Mixed,
    /// Packets; on the first connection there is classic text.
    Binary,
}

/// Connections of a history.
pub const CONNECTIONS: usize = 3;

const COMMANDS_PER_BURST_MAX: usize = 30;

/// Keys of anything but numbers.
pub const KEYS: [&str; 6] = ["a", "b", "c", "key:d", "longer_than_a_few_words/e", "f\t\u{1}\u{7f}"];
/// Keys of numbers.
pub const COUNTERS: [&str; 3] = ["n1", "n2", "n3"];

pub struct Author {
    pub random: Rng,
}

/// The history of a seed, of about so many commands.
pub fn history(protocol: Protocol, seed: u64, commands: usize) -> History {
    let mut author = Author { random: Rng::with_seed(seed) };
    let mut history = History::new();
    let mut left = commands;
    while left > 0 {
        let most = author.random.usize(1..=COMMANDS_PER_BURST_MAX.min(left));
        let burst = author.burst(protocol, most);
        left -= burst.iter().map(|part| part.commands.len()).sum::<usize>();
        history.extend(burst);
    }
    history
}

impl Author {
    /// Up to `most` commands. One that is to be sent alone has a burst of its own; and no command
    /// counts behind one that reads: memcached changes a number in place, but not while an answer
    /// that is still to be sent holds the item.
    fn burst(&mut self, protocol: Protocol, most: usize) -> Vec<Burst> {
        let connection = self.random.usize(..CONNECTIONS);
        let binary = protocol == Protocol::Binary && connection != 0;
        let mut bursts: Vec<Vec<Command>> = vec![Vec::new()];
        let mut reads = false;
        for _ in 0..most {
            let command = if binary { binary::command(self) } else { self.command(protocol) };
            let last_alone = bursts.last().is_some_and(|burst| burst.iter().any(|command| command.alone));
            if command.alone || last_alone || (reads && command.counts()) {
                bursts.push(Vec::new());
                reads = false;
            }
            reads |= command.reads();
            bursts.last_mut().expect("one at least").push(command);
        }
        bursts.retain(|commands| !commands.is_empty());
        bursts.into_iter().map(|commands| Burst { connection, binary, commands, cuts: self.cuts() }).collect()
    }

    fn command(&mut self, protocol: Protocol) -> Command {
        let meta = match protocol {
            Protocol::Text | Protocol::Binary => false,
            Protocol::Meta => !self.one_in(8),
            Protocol::Mixed => self.random.bool(),
        };
        match (meta, self.one_in(6)) {
            (true, false) => meta::command(self),
            (true, true) => malformed::meta(self),
            (false, false) => classic::command(self),
            (false, true) => malformed::classic(self),
        }
    }

    /// Mostly the burst is sent whole.
    fn cuts(&mut self) -> Vec<usize> {
        let cuts = match self.random.u32(..10) {
            0..6 => 0,
            6..9 => self.random.usize(1..=4),
            _ => self.random.usize(5..=40),
        };
        let mut cuts: Vec<usize> = (0..cuts).map(|_| self.random.usize(1..1000)).collect();
        cuts.sort_unstable();
        cuts
    }

    pub fn one_in(&mut self, times: u32) -> bool {
        self.random.u32(..times) == 0
    }

    pub fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.random.usize(..words.len())]
    }

    /// A key of the first kind; now and then the longest one, or one that nothing is stored under.
    pub fn key(&mut self) -> String {
        match self.random.u32(..40) {
            0 => "L".repeat(250),
            1 => "nothing".into(),
            _ => self.pick(&KEYS).into(),
        }
    }

    pub fn counter(&mut self) -> String {
        self.pick(&COUNTERS).into()
    }

    pub fn any_key(&mut self) -> String {
        if self.one_in(3) { self.counter() } else { self.key() }
    }

    pub fn line_end(&mut self) -> &'static str {
        if self.one_in(20) { "\n" } else { "\r\n" }
    }

    /// A value for keys of the first kind.
    pub fn value(&mut self) -> Vec<u8> {
        let bytes = match self.random.u32(..2000) {
            0 => self.random.usize(1_060_000..1_300_000),
            1 | 2 => self.random.usize(100_000..1_000_000),
            3..40 => self.random.usize(4_000..40_000),
            40..300 => self.random.usize(100..4_000),
            300..400 => 0,
            _ => self.random.usize(1..60),
        };
        let letter = self.random.u8(b'p'..=b'z');
        let mut value = vec![letter; bytes];
        if bytes > 4 && self.one_in(4) {
            let at = self.random.usize(2..bytes - 1);
            value[at] = *b"\r\n\0 \xff9".get(self.random.usize(..6)).expect("one of six");
        }
        value
    }

    /// What lies under the key of a number: mostly one.
    pub fn number_value(&mut self) -> Vec<u8> {
        const ODD: [&str; 12] = [
            "",
            "x",
            "5 ",
            " 5",
            "5 x",
            "5x",
            "-5",
            "007",
            "18446744073709551615",
            "18446744073709551616",
            "00000000000000000000005",
            "99999999999999999999",
        ];
        if self.one_in(5) {
            self.pick(&ODD).into()
        } else {
            let digits = self.random.u32(1..=18);
            self.random.u64(..10u64.pow(digits)).to_string().into()
        }
    }

    pub fn exptime(&mut self) -> &'static str {
        const USUAL: [&str; 4] = ["0", "400", "5000", "2592000"];
        const ODD: [&str; 5] = ["-1", "-400", "2592001", "2100000000", "-2147483648"];
        if self.one_in(8) { self.pick(&ODD) } else { self.pick(&USUAL) }
    }

    pub fn flags(&mut self) -> &'static str {
        self.pick(&["0", "0", "0", "1", "42", "4294967295"])
    }

    /// What one adds to a number.
    pub fn delta(&mut self) -> String {
        match self.random.u32(..8) {
            0 => "18446744073709551615".into(),
            1 => "0".into(),
            2 => self.random.u64(..).to_string(),
            _ => self.random.u32(1..200).to_string(),
        }
    }

    /// A word where a number should be.
    pub fn odd_number(&mut self) -> &'static str {
        self.pick(&[
            "-1",
            "x",
            "1x",
            "+7",
            "-",
            "--7",
            "0x7",
            "7.5",
            "007",
            "2147483647",
            "2147483648",
            "-2147483648",
            "-2147483649",
            "4294967295",
            "4294967296",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "-9223372036854775809",
            "18446744073709551615",
            "18446744073709551616",
            "99999999999999999999999",
            "00000000000000000000000000700",
            "\t700",
            "700\t",
            "700\0",
            "noreply",
        ])
    }
}
