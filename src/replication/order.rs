//! Orders that change a process's role while it runs: their text form, both ways, and the outcome
//! of the last one.

use super::REPLICAS_MAX;
use std::fmt;
use std::time::Duration;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Become the primary; first bring over what these replicas have and this one lacks.
    Promote {
        /// Their replication ports, HOST:PORT.
        gather: Vec<String>,
        /// Even if some shards have nothing here. What other replicas have in those shards is then
        /// lost.
        incomplete: bool,
    },
    /// Follow nobody, and serve what this replica has.
    Detach,
    /// Follow the primary whose replication port this is.
    Replicate {
        /// HOST:PORT.
        primary: String,
        /// Even if the primary is of another lineage. All data of this server is then given up.
        discard: bool,
    },
}

/// A word before the addresses. It cannot be taken for one, because it has no port.
const INCOMPLETE: &str = "incomplete";
/// The same.
const DISCARD: &str = "discard";

/// Why an order makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadOrder {
    /// There is no such order.
    #[error("usage: replication promote [incomplete] [HOST:PORT ...] | detach | replicate [discard] HOST:PORT")]
    Usage,
    /// An address without a port.
    #[error("\"{0}\" has no port: write HOST:PORT, a --replication port")]
    NoPort(String),
    /// More than there can be.
    #[error("more than {REPLICAS_MAX} replicas to gather from")]
    TooMany,
}

impl Order {
    /// Read an order from words with blanks between them.
    pub fn parse(words: &str) -> Result<Order, BadOrder> {
        let mut words = words.split_ascii_whitespace().peekable();
        let name = words.next();
        let incomplete = name == Some("promote") && words.next_if_eq(&INCOMPLETE).is_some();
        let discard = name == Some("replicate") && words.next_if_eq(&DISCARD).is_some();
        let addresses: Vec<String> = words.map(with_port).collect::<Result<_, _>>()?;
        match (name, addresses.len()) {
            (Some("promote"), 0..=REPLICAS_MAX) => Ok(Order::Promote { gather: addresses, incomplete }),
            (Some("promote"), _) => Err(BadOrder::TooMany),
            (Some("detach"), 0) => Ok(Order::Detach),
            (Some("replicate"), 1) => {
                let primary = addresses.into_iter().next();
                primary.map(|primary| Order::Replicate { primary, discard }).ok_or(BadOrder::Usage)
            }
            _ => Err(BadOrder::Usage),
        }
    }

    /// Its name, one word.
    pub fn name(&self) -> &'static str {
        match self {
            Order::Promote { .. } => "promote",
            Order::Detach => "detach",
            Order::Replicate { .. } => "replicate",
        }
    }
}

impl fmt::Display for Order {
    /// As [`Order::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let addresses = match self {
            Order::Promote { gather, incomplete } => {
                if *incomplete {
                    write!(f, " {INCOMPLETE}")?;
                }
                &gather[..]
            }
            Order::Detach => &[],
            Order::Replicate { primary, discard } => {
                if *discard {
                    write!(f, " {DISCARD}")?;
                }
                std::slice::from_ref(primary)
            }
        };
        addresses.iter().try_for_each(|address| write!(f, " {address}"))
    }
}

/// Check that `text` is HOST:PORT. The host is not resolved here: its name may come to exist later.
pub fn with_port(text: &str) -> Result<String, BadOrder> {
    let port = text.rsplit_once(':').and_then(|(host, port)| port.parse::<u16>().ok().filter(|_| !host.is_empty()));
    match port {
        Some(1..) => Ok(text.to_string()),
        _ => Err(BadOrder::NoPort(text.to_string())),
    }
}

/// The outcome of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is under way.
    Running,
    /// It was carried out; what was done, in words.
    Done(String),
    /// It failed, and why. Either nothing has changed, or the words say what has.
    Failed(String),
}

/// The last order.
#[derive(Debug, Clone)]
pub struct Ordered {
    /// Which.
    pub name: &'static str,
    /// Its outcome.
    pub outcome: Outcome,
    /// How long it took, once it is over.
    pub took: Duration,
}

impl Ordered {
    /// Its rows. Without an order they say `none`.
    pub fn rows(ordered: Option<&Ordered>, emit: &mut dyn FnMut(&str, &str)) {
        let Some(Ordered { name, outcome, took }) = ordered else {
            emit("order", "none");
            return emit("order_outcome", "none");
        };
        let (state, words) = match outcome {
            Outcome::Running => ("running".into(), "none"),
            Outcome::Done(words) => ("done".into(), words.as_str()),
            Outcome::Failed(why) => (format!("failed: {why}"), why.as_str()),
        };
        emit("order", &format!("{name} {state}"));
        emit("order_outcome", words);
        emit("order_us", &took.as_micros().to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_they_are_written() {
        for text in [
            "promote",
            "promote a:1 b:2",
            "promote incomplete",
            "promote incomplete a:1",
            "detach",
            "replicate [::1]:65535",
            "replicate discard a:1",
        ] {
            assert_eq!(Order::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            Order::parse(" replicate   a:1 ").unwrap(),
            Order::Replicate { primary: "a:1".into(), discard: false }
        );
    }

    #[test]
    fn nonsense_is_told_apart() {
        let many = "promote".to_string() + &" a:1".repeat(REPLICAS_MAX + 1);
        for (text, expected) in [
            ("", BadOrder::Usage),
            ("abdicate", BadOrder::Usage),
            ("detach a:1", BadOrder::Usage),
            ("replicate", BadOrder::Usage),
            ("replicate a:1 b:2", BadOrder::Usage),
            ("replicate discard", BadOrder::Usage),
            ("replicate a:1 discard", BadOrder::NoPort("discard".into())),
            ("detach discard", BadOrder::NoPort("discard".into())),
            ("promote a:1 incomplete", BadOrder::NoPort("incomplete".into())),
            ("replicate a", BadOrder::NoPort("a".into())),
            ("replicate a:0", BadOrder::NoPort("a:0".into())),
            ("promote :7", BadOrder::NoPort(":7".into())),
            (&many, BadOrder::TooMany),
        ] {
            assert_eq!(Order::parse(text), Err(expected), "{text}");
        }
    }
}
