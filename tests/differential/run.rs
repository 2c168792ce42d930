//! Runs histories against both servers, and makes one that shows a difference as short as it gets.

use super::alike::{CasNumbers, alike, shown};
use super::alike_packets;
use super::author::CONNECTIONS;
use super::command::{Burst, History};
use super::server::{Connection, End, MEMCACHED, REMORA, bytes_for};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

/// Longest wait for the answers to a burst, where none may ever come because a server waits for the
/// rest of a value: then the connection ends.
const WAIT: Duration = Duration::from_millis(400);
/// The same once there is a difference: then it must not be one of how fast the two are.
const PATIENT_WAIT: Duration = Duration::from_secs(5);

/// Longest wait for a server that has nothing else to do.
const WIPE_WAIT: Duration = Duration::from_secs(30);

/// A CAS that no server has given.
const NO_CAS: u64 = 9_000_000_000_000_001;

pub struct Pair {
    /// memcached, Remora.
    pub addresses: [SocketAddr; 2],
}

/// What was sent in a burst, what came back, and what is wrong with it.
struct Exchange {
    sent: [Vec<u8>; 2],
    answers: [Vec<u8>; 2],
    ends: [End; 2],
    difference: Option<String>,
}

/// One connection of a history, to each server.
struct Session<'p> {
    pair: &'p Pair,
    connections: [Option<[Connection; 2]>; CONNECTIONS],
    numbers: CasNumbers,
    wait: Duration,
}

impl Session<'_> {
    /// Both servers with nothing in them, nor a flush to come.
    fn new(pair: &Pair, wait: Duration) -> Session<'_> {
        for address in pair.addresses {
            let (answer, end) = Connection::to(address, false).ask(b"flush_all\r\nverbosity 0\r\n", &[], WIPE_WAIT);
            assert_eq!((&answer[..], end), (&b"OK\r\nOK\r\n"[..], End::Answered), "{address} is wiped");
        }
        Session { pair, connections: [const { None }; CONNECTIONS], numbers: CasNumbers::default(), wait }
    }

    fn exchange(&mut self, burst: &Burst) -> Exchange {
        let addresses = self.pair.addresses;
        let connections = self.connections[burst.connection]
            .get_or_insert_with(|| addresses.map(|address| Connection::to(address, burst.binary)));
        let told = &self.numbers.told;
        let sent = [MEMCACHED, REMORA]
            .map(|which| bytes_for(burst, |key| told.get(key).map_or(NO_CAS, |numbers| numbers[which])));
        let [(left, left_end), (right, right_end)] =
            [MEMCACHED, REMORA].map(|which| connections[which].ask(&sent[which], &burst.cuts, self.wait));
        let (answers, ends) = ([left, right], [left_end, right_end]);
        if ends != [End::Answered; 2] {
            self.connections[burst.connection] = None;
        }
        let alike = if burst.binary { alike_packets::alike } else { alike };
        let difference = match alike(&answers[MEMCACHED], &answers[REMORA], &mut self.numbers) {
            Err(why) => Some(why),
            Ok(()) if ends[0] != ends[1] => Some(format!("memcached {:?}\n     Remora {:?}", ends[0], ends[1])),
            Ok(()) => None,
        };
        Exchange { sent, answers, ends, difference }
    }
}

impl Pair {
    /// The first difference that a history shows.
    pub fn difference(&self, history: &[Burst]) -> Option<String> {
        let mut session = Session::new(self, WAIT);
        history.iter().find_map(|burst| session.exchange(burst).difference)
    }

    /// A history up to its first difference, if it shows one.
    fn up_to_difference(&self, mut history: History) -> Option<History> {
        let mut session = Session::new(self, PATIENT_WAIT);
        let at = history.iter().position(|burst| session.exchange(burst).difference.is_some())?;
        history.truncate(at + 1);
        Some(history)
    }

    /// The shortest form of a history that still shows a difference, as a transcript; None if it
    /// shows none when it is run once more.
    pub fn shortest(&self, history: History) -> Option<String> {
        let history = self.up_to_difference(history)?;
        let history = self.without_parts(history);
        // One command after the other says more, if that is enough.
        let in_turn = self.up_to_difference(history.iter().flat_map(one_by_one).collect());
        Some(self.transcript(&in_turn.unwrap_or(history)))
    }

    /// Drop as many commands as can be: halves first, then smaller and smaller parts, and at last
    /// one by one until none can go.
    fn without_parts(&self, mut history: History) -> History {
        let mut part = commands(&history).div_ceil(2);
        loop {
            let mut dropped = false;
            let mut at = 0;
            while at < commands(&history) {
                match self.up_to_difference(without(&history, at, part)) {
                    Some(shorter) => {
                        history = shorter;
                        dropped = true;
                    }
                    None => at += part,
                }
            }
            match (part, dropped) {
                (1, false) => return history,
                (1, true) => {}
                _ => part = part.div_ceil(2),
            }
        }
    }

    /// What was sent and answered, up to the difference.
    fn transcript(&self, history: &[Burst]) -> String {
        let mut session = Session::new(self, PATIENT_WAIT);
        let mut text = String::new();
        for burst in history {
            let exchange = session.exchange(burst);
            let sent = exchange.sent.each_ref().map(|sent| lines(burst, sent, "\n> "));
            let _ = write!(text, "connection {}\n> {}", burst.connection, sent[MEMCACHED]);
            if !burst.cuts.is_empty() {
                let _ = write!(text, "\n(cut at {:?} thousandths)", burst.cuts);
            }
            if sent[MEMCACHED] != sent[REMORA] {
                let _ = write!(text, "\n(to Remora)\n> {}", sent[REMORA]);
            }
            let [left, right] = exchange.answers.each_ref().map(Vec::as_slice);
            if exchange.difference.is_none() {
                let _ = writeln!(text, "\n< {}", lines(burst, left, "\n< "));
                continue;
            }
            let _ = writeln!(text, "\n<m {} {:?}", lines(burst, left, "\n<m "), exchange.ends[MEMCACHED]);
            let _ = writeln!(text, "<r {} {:?}", lines(burst, right, "\n<r "), exchange.ends[REMORA]);
            break;
        }
        text
    }
}

fn commands(history: &[Burst]) -> usize {
    history.iter().map(|burst| burst.commands.len()).sum()
}

/// Without `count` commands from the one with number `from` on.
fn without(history: &[Burst], from: usize, count: usize) -> History {
    let mut number = 0;
    let mut kept = History::new();
    for burst in history {
        let mut burst = burst.clone();
        burst.commands.retain(|_| {
            number += 1;
            !(from..from + count).contains(&(number - 1))
        });
        if !burst.commands.is_empty() {
            kept.push(burst);
        }
    }
    kept
}

fn one_by_one(burst: &Burst) -> History {
    let alone = |command: &super::command::Command| Burst {
        commands: vec![command.clone()],
        cuts: Vec::new(),
        connection: burst.connection,
        binary: burst.binary,
    };
    burst.commands.iter().map(alone).collect()
}

/// Lines of text, or packets; what is no whole packet as it is.
fn lines(burst: &Burst, text: &[u8], between: &str) -> String {
    let lines: Vec<String> = if burst.binary {
        alike_packets::told_all(text)
    } else {
        text.split_inclusive(|byte| *byte == b'\n').map(shown).collect()
    };
    lines.join(between)
}
