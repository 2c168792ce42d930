//! Histories as text, one operation a line, for the tests of the checker:
//!
//!     a 0-5 set 1 !          session a at the primary, acknowledged
//!     b 3-? set 2            never answered
//!     b 4-6 get 1            a hit; "get -" is a miss
//!     c 7-8 cas 1>3 ok       or "exists", "-"
//!     c 9-10 incr 2 =5       or "-"
//!     c 11-12 del ok         or "-"
//!     r1.x 3-4 get 1         session x at replica 1
//!     between.y 3-4 get 1    at one that changes sides
//!     promote r1             ends a reign
//!
//! All of it is about key 0.

use crate::support::history::event::{Event, NEVER, Operation, Outcome, Place, Reign};

pub fn read(text: &str) -> Vec<Reign> {
    let mut reigns = vec![Reign::default()];
    let mut names: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let reign = reigns.last_mut().expect("one at least");
        if let Some(heir) = line.strip_prefix("promote") {
            reign.heir = heir.trim().strip_prefix('r').map(number);
            reigns.push(Reign::default());
            continue;
        }
        reign.events.push(event(line, &mut names));
    }
    reigns
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

fn event(line: &str, names: &mut Vec<String>) -> Event {
    let (line, acknowledged) = line.strip_suffix(" !").map_or((line, false), |line| (line, true));
    let words: Vec<&str> = line.split_whitespace().collect();
    let (name, span, verb, rest) = (words[0], words[1], words[2], &words[3..]);
    let session = names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_string());
        names.len() - 1
    });
    let place = match name.split_once('.') {
        None => Place::Primary,
        Some(("between", _)) => Place::Between,
        Some((replica, _)) => Place::Replica(number(&replica[1..])),
    };
    let (from, to) = span.split_once('-').expect("from-to");
    let last = rest.last().copied().unwrap_or("");
    let outcome = match last {
        _ if to == "?" => Outcome::Unknown,
        "-" => Outcome::Miss,
        "exists" => Outcome::Exists,
        _ if verb == "get" => Outcome::Hit(number(last)),
        sum if sum.starts_with('=') => Outcome::Hit(number(&sum[1..])),
        _ => Outcome::Done,
    };
    let operation = match verb {
        "set" => Operation::Set(number(rest[0])),
        "cas" => {
            let (expected, value) = rest[0].split_once('>').expect("expected>value");
            Operation::Cas { expected: number(expected), value: number(value) }
        }
        "incr" => Operation::Incr(number(rest[0])),
        "del" => Operation::Delete,
        "get" => Operation::Get,
        other => panic!("{other} is no operation"),
    };
    let returned = if to == "?" { NEVER } else { number(to) };
    Event { session: session as u32, place, key: 0, operation, invoked: number(from), returned, outcome, acknowledged }
}
