//! Orders that change a process's role while it runs: their text form, both ways, and the outcome
//! of the last one. [`Change::Follow`], [`Change::Close`] and [`Change::Empty`] are given by the
//! process itself, where a cluster's map asks for them; their text is for the log alone.

use super::REPLICAS_MAX;
use super::standing::ServerNumber;
use crate::base::shards::{BadShards, ShardSet};
use crate::base::term::CHOSEN_NUMBER_MAX;
use crate::store::reign::Primary;
use std::fmt;
use std::time::Duration;

/// A change of role, of some shards or of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What is asked for.
    pub change: Change,
    /// In which shards; None: in all.
    pub shards: Option<ShardSet>,
}

/// What an order asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Become the primary; first have other servers stop, and bring over what they have and this
    /// one lacks.
    Promote(Promotion),
    /// Follow nobody, and serve what this replica has.
    Detach,
    /// Follow the primary whose replication port this is.
    Replicate {
        /// HOST:PORT.
        primary: String,
        /// Even if the primary is of another lineage. The data of this server is then given up.
        discard: bool,
    },
    /// Take no writes, and follow that server from now on, whenever it can be followed: trouble is
    /// the following's to tell.
    Follow {
        /// Its replication port, HOST:PORT.
        primary: String,
        /// Its number.
        server: ServerNumber,
        /// Where clients are told to write, HOST:PORT.
        clients: String,
    },
    /// Take no writes, and otherwise go on as it is.
    Close,
    /// Take no writes, follow nobody, and give up all that is here.
    Empty {
        /// Whom the gates are to name, if there is a primary.
        primary: Option<Primary>,
    },
}

/// How a server is to become the primary.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Promotion {
    /// These, all of them.
    pub gather: Vec<Peer>,
    /// Those that are followed as well: whoever is the primary hands over.
    pub take_over: bool,
    /// Even if some shards have nothing here. What other replicas have in those shards is then
    /// lost.
    pub incomplete: bool,
    /// The number of the term, which whoever leads has reserved; None: the one after the latest
    /// that is known here.
    pub term: Option<u32>,
}

/// A server that stops for a promotion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its replication port, HOST:PORT.
    pub address: String,
    /// Its number. Another process that has come up at this address has nothing of what this one
    /// had, so its word is not taken. None: whoever answers there, as operators mean it.
    pub server: Option<ServerNumber>,
}

impl Peer {
    /// Whoever answers there.
    pub fn whoever(address: String) -> Peer {
        Peer { address, server: None }
    }
}

/// Before the shards, in the word behind an order's name. It cannot be taken for an address,
/// because what follows is no port.
const SHARDS: &str = "shards=";
/// The same before the number of a term.
const TERM: &str = "term=";
/// A word before the addresses. It cannot be taken for one, because it has no port.
const TAKE_OVER: &str = "takeover";
/// The same.
const INCOMPLETE: &str = "incomplete";
/// The same.
const DISCARD: &str = "discard";

/// Why an order makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadOrder {
    /// There is no such order.
    #[error(
        "usage: replication promote [shards=LIST] [term=NUMBER] [takeover] [incomplete] [HOST:PORT ...] | detach [shards=LIST] | \
         replicate [shards=LIST] [discard] HOST:PORT"
    )]
    Usage,
    /// No set of shards.
    #[error("{0}")]
    Shards(#[from] BadShards),
    /// No number of a term that could follow another.
    #[error("\"{0}\" is no number of a term: write 2 to {CHOSEN_NUMBER_MAX}")]
    Term(String),
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
        let shards = words.next_if(|word| word.starts_with(SHARDS)).map(|word| word[SHARDS.len()..].parse());
        let shards = shards.transpose()?;
        let is_promotion = name == Some("promote");
        let term =
            words.next_if(|word| is_promotion && word.starts_with(TERM)).map(|word| term_number(&word[TERM.len()..]));
        let term = term.transpose()?;
        let take_over = is_promotion && words.next_if_eq(&TAKE_OVER).is_some();
        let incomplete = is_promotion && words.next_if_eq(&INCOMPLETE).is_some();
        let discard = name == Some("replicate") && words.next_if_eq(&DISCARD).is_some();
        let addresses: Vec<String> = words.map(with_port).collect::<Result<_, _>>()?;
        let change = match (name, addresses.len()) {
            (Some("promote"), 0..=REPLICAS_MAX) => {
                let gather = addresses.into_iter().map(Peer::whoever).collect();
                Change::Promote(Promotion { gather, take_over, incomplete, term })
            }
            (Some("promote"), _) => return Err(BadOrder::TooMany),
            (Some("detach"), 0) => Change::Detach,
            (Some("replicate"), 1) => {
                let primary = addresses.into_iter().next().ok_or(BadOrder::Usage)?;
                Change::Replicate { primary, discard }
            }
            _ => return Err(BadOrder::Usage),
        };
        Ok(Order { change, shards })
    }

    /// Its name, one word.
    pub fn name(&self) -> &'static str {
        match self.change {
            Change::Promote(_) => "promote",
            Change::Detach => "detach",
            Change::Replicate { .. } => "replicate",
            Change::Follow { .. } => "follow",
            Change::Close => "close",
            Change::Empty { .. } => "empty",
        }
    }
}

impl From<Change> for Order {
    /// In all shards.
    fn from(change: Change) -> Order {
        Order { change, shards: None }
    }
}

impl fmt::Display for Order {
    /// As [`Order::parse`] reads it, if it does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        if let Some(shards) = &self.shards {
            write!(f, " {SHARDS}{shards}")?;
        }
        let addresses: Vec<&String> = match &self.change {
            Change::Promote(Promotion { gather, take_over, incomplete, term }) => {
                if let Some(term) = term {
                    write!(f, " {TERM}{term}")?;
                }
                if *take_over {
                    write!(f, " {TAKE_OVER}")?;
                }
                if *incomplete {
                    write!(f, " {INCOMPLETE}")?;
                }
                gather.iter().map(|peer| &peer.address).collect()
            }
            Change::Detach | Change::Close => vec![],
            Change::Follow { primary, .. } => vec![primary],
            Change::Empty { primary } => {
                if let Some(primary) = primary {
                    write!(f, " {}", primary.clients)?;
                }
                vec![]
            }
            Change::Replicate { primary, discard } => {
                if *discard {
                    write!(f, " {DISCARD}")?;
                }
                vec![primary]
            }
        };
        addresses.iter().try_for_each(|address| write!(f, " {address}"))
    }
}

/// The number of a term that follows another one.
fn term_number(text: &str) -> Result<u32, BadOrder> {
    let number = text.parse().ok().filter(|number| (2..=CHOSEN_NUMBER_MAX).contains(number));
    number.ok_or_else(|| BadOrder::Term(text.into()))
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
            "promote shards=0-3,9 incomplete a:1",
            "promote takeover",
            "promote shards=7 takeover incomplete a:1",
            "promote term=2",
            "promote shards=7 term=8388607 takeover a:1",
            "detach shards=7",
            "replicate shards=0-511 discard a:1",
        ] {
            assert_eq!(Order::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            Order::parse(" replicate   a:1 ").unwrap(),
            Change::Replicate { primary: "a:1".into(), discard: false }.into()
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
            ("promote term=1", BadOrder::Term("1".into())),
            ("promote term=8388608", BadOrder::Term("8388608".into())),
            ("promote term=-2", BadOrder::Term("-2".into())),
            ("promote term=", BadOrder::Term("".into())),
            ("promote takeover term=3", BadOrder::NoPort("term=3".into())),
            ("detach term=3", BadOrder::NoPort("term=3".into())),
            ("detach a:1 shards=0", BadOrder::NoPort("shards=0".into())),
            (&many, BadOrder::TooMany),
        ] {
            assert_eq!(Order::parse(text), Err(expected), "{text}");
        }
        for text in ["promote shards=", "detach shards=2-1", "replicate shards=1024 a:1"] {
            assert!(matches!(Order::parse(text), Err(BadOrder::Shards(_))), "{text}");
        }
    }
}
