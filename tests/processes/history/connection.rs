//! One connection of a client: meta commands sent many at a time, their answers read one by one,
//! what was asked and told recorded with the time of each. A server that ends it leaves what was
//! not answered unknown.

use crate::support::history::event::{Event, NEVER, Operation, Outcome, Place, Value};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A server that stands still is waited for no longer: then it is as if it had died.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);
/// A longer value was never written.
const VALUE_BYTES_MAX: usize = 64 << 10;
/// Values of registers are longer by up to so much, so that records differ in length.
const FILLING_BYTES_MAX: u64 = 120;

/// How a write is to be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Not at all.
    None,
    /// The server holds every answer (`--ack-replicas`).
    Server,
    /// By a flag of each request.
    Flag(u32),
    /// By a `wait` behind each batch.
    Wait(u32),
}

/// How a batch has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// All was answered.
    Answered,
    /// The server has ended it, or does not answer.
    Broken,
}

/// See the module.
pub struct Connection {
    stream: BufReader<TcpStream>,
    acks: Acks,
    /// Of each key the value that was seen last, and its CAS.
    pub seen: HashMap<u32, (Value, u64)>,
    /// The keys whose writes were refused, and who takes them by what the server says.
    pub redirected: Vec<(u32, Option<SocketAddr>)>,
}

/// An answer, as far as it matters.
enum Answer {
    Line(String),
    Value { line: String, value: Vec<u8> },
}

impl Connection {
    pub fn open(address: SocketAddr, acks: Acks) -> std::io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, ANSWER_WAIT_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WAIT_MAX))?;
        stream.set_write_timeout(Some(ANSWER_WAIT_MAX))?;
        let stream = BufReader::with_capacity(64 << 10, stream);
        Ok(Connection { stream, acks, seen: HashMap::new(), redirected: Vec::new() })
    }

    /// Ask all of it at once, and record the answers. What a server refuses, it has not done: such
    /// requests are left out.
    pub fn ask(
        &mut self,
        session: u32,
        place: Place,
        asked: &[(u32, Operation)],
        now: impl Fn() -> u64,
    ) -> (Vec<Event>, End) {
        let mut request = Vec::new();
        asked.iter().for_each(|(key, operation)| self.write_request(&mut request, *key, *operation));
        if let Acks::Wait(count) = self.acks {
            request.extend_from_slice(format!("wait {count} 5000\r\n").as_bytes());
        }
        let invoked = now();
        let event = |(key, operation): &(u32, Operation)| Event {
            session,
            place,
            key: *key,
            operation: *operation,
            invoked,
            returned: NEVER,
            outcome: Outcome::Unknown,
            acknowledged: false,
        };
        let mut events: Vec<Event> = asked.iter().map(event).collect();
        let mut end = if self.stream.get_mut().write_all(&request).is_ok() { End::Answered } else { End::Broken };
        let (mut answered, mut refused) = (0, Vec::new());
        while answered < events.len() {
            // Even if not all could be sent, what was sent may have been answered.
            let Some(answer) = self.answer() else {
                end = End::Broken;
                break;
            };
            let event = &mut events[answered];
            event.returned = now();
            match self.told(event, &answer) {
                Some((outcome, acknowledged)) => (event.outcome, event.acknowledged) = (outcome, acknowledged),
                None => refused.push(answered),
            }
            answered += 1;
        }
        if let (Acks::Wait(count), End::Answered) = (self.acks, &end) {
            end = self.wait(count, &mut events);
        }
        for number in refused.into_iter().rev() {
            events.remove(number);
        }
        (events, end)
    }

    /// The answer to `wait`: if it names enough replicas, they have all of this.
    fn wait(&mut self, count: u32, events: &mut [Event]) -> End {
        let Some(Answer::Line(line)) = self.answer() else { return End::Broken };
        // A server that has changed its role meanwhile cannot say who has this.
        let is_in_doubt = ["SERVER_ERROR not acknowledged", "SERVER_ERROR read-only replica"];
        let has: u32 = match line.strip_prefix("REPLICAS ").and_then(|count| count.parse().ok()) {
            Some(has) => has,
            None if is_in_doubt.iter().any(|words| line.starts_with(words)) => 0,
            None => panic!("wait: {line}"),
        };
        let changed = events.iter_mut().filter(|event| event.has_changed());
        changed.for_each(|event| event.acknowledged = has >= count);
        End::Answered
    }

    fn write_request(&self, request: &mut Vec<u8>, key: u32, operation: Operation) {
        let acks = if let Acks::Flag(count) = self.acks { format!(" A{count}") } else { String::new() };
        let mut store = |value: Value, flags: String| {
            let text = text_of(key, value);
            request.extend_from_slice(format!("ms key-{key} {}{flags}\r\n{text}\r\n", text.len()).as_bytes());
        };
        match operation {
            Operation::Set(value) => store(value, acks),
            Operation::Cas { expected, value } => {
                let (seen, unique) = self.seen[&key];
                assert_eq!(seen, expected, "the CAS is that of the value");
                store(value, format!(" C{unique}{acks}"));
            }
            Operation::Incr(by) => request.extend_from_slice(format!("ma key-{key} D{by} v{acks}\r\n").as_bytes()),
            Operation::Delete => request.extend_from_slice(format!("md key-{key}{acks}\r\n").as_bytes()),
            Operation::Get => request.extend_from_slice(format!("mg key-{key} v c\r\n").as_bytes()),
        }
    }

    /// The next answer; None once the server is gone.
    fn answer(&mut self) -> Option<Answer> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).ok()?;
        let line = String::from_utf8_lossy(line.strip_suffix(b"\r\n")?).into_owned();
        let Some(head) = line.strip_prefix("VA ") else { return Some(Answer::Line(line)) };
        let bytes: usize =
            head.split(' ').next().and_then(|bytes| bytes.parse().ok()).unwrap_or_else(|| panic!("{line}"));
        assert!(bytes <= VALUE_BYTES_MAX, "{line}");
        let mut value = vec![0; bytes + 2];
        self.stream.read_exact(&mut value).ok()?;
        value.truncate(bytes);
        Some(Answer::Value { line, value })
    }

    /// What it means, and whether it was acknowledged; None if it was refused.
    fn told(&mut self, event: &Event, answer: &Answer) -> Option<(Outcome, bool)> {
        let line = match answer {
            Answer::Value { line, value } => {
                let number = value_of(event.key, value);
                let unique = line.split(' ').find_map(|word| word.strip_prefix('c')?.parse().ok());
                if let Some(unique) = unique {
                    self.seen.insert(event.key, (number, unique));
                }
                return Some((Outcome::Hit(number), event.has_changed_if_answered() && self.is_held()));
            }
            Answer::Line(line) => line.as_str(),
        };
        match line {
            "HD" => Some((Outcome::Done, self.is_held())),
            "EX" => Some((Outcome::Exists, false)),
            "NF" | "EN" => Some((Outcome::Miss, false)),
            line if line.starts_with("SERVER_ERROR not acknowledged") => Some((Outcome::Done, false)),
            line if line.starts_with("SERVER_ERROR read-only replica") => {
                let named = line.rsplit(' ').next().and_then(|address| address.parse().ok());
                self.redirected.push((event.key, named));
                None
            }
            line => panic!("{event}: the server says: {line}"),
        }
    }

    /// An answer to a write says that replicas have it.
    fn is_held(&self) -> bool {
        matches!(self.acks, Acks::Server | Acks::Flag(1..))
    }
}

/// A counter's value is its number. A register's has filling behind it, by which bytes of another
/// value are found out.
pub const COUNTERS_FROM: u32 = 1 << 20;

fn text_of(key: u32, value: Value) -> String {
    if key >= COUNTERS_FROM {
        return value.to_string();
    }
    let mut text = format!("{value}:{key}:");
    let filling = value.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let letter = |at: u64| char::from(b'a' + ((filling >> 32) + at) as u8 % 26);
    text.extend((0..filling % FILLING_BYTES_MAX).map(letter));
    text
}

/// The value, whole and of this key.
fn value_of(key: u32, text: &[u8]) -> Value {
    let shown = String::from_utf8_lossy(text);
    let number = shown.split(':').next().and_then(|number| number.trim_end().parse().ok());
    let value = number.unwrap_or_else(|| panic!("key {key}: no value that anybody writes: {shown}"));
    assert!(
        key >= COUNTERS_FROM || shown == text_of(key, value),
        "key {key}: a value that is torn or another's: {shown}"
    );
    value
}
