//! What servers, locators and operators say to one another, as JSON in
//! [`Cluster`](crate::replication::wire::Message::Cluster) messages of a control connection, on
//! which both sides have proved that they have the secret. What a peer says first tells what it is.
//!
//! | who connects | says first | hears |
//! | --- | --- | --- |
//! | a server | `introduction`, then `report` again and again; `map` where it is asked to tell it | `lease` for each report, `map` whenever there is a new one; `tell-map` |
//! | an operator | `ask`, again and again | one `answer` each |
//! | an observer | `watch`, again and again | `map` whenever there is a new one; `current` for each `watch` besides |
//!
//! A locator that is not in charge answers each of these with `not-in-charge`, and the connection
//! stays: it may be in charge one day. `refused` is the last word on a connection.
//!
//! The map stands in its message as it is stored, not as a text within a text. So a map that can be
//! stored fits into a message.

use super::report::{Introduction, Report};
use super::store::STORED_BYTES_MAX;
use crate::replication::link::{Link, LinkError};
use crate::replication::wire as frames;
use crate::replication::wire::CLUSTER_BYTES_MAX;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Where locators listen, if nobody says otherwise.
pub const PORT_DEFAULT: u16 = 7946;

/// What a message has around a map.
const AROUND_A_MAP: usize = r#"{"map":}"#.len();

const _: () = assert!(STORED_BYTES_MAX + AROUND_A_MAP <= CLUSTER_BYTES_MAX);

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// Server: who I am.
    Introduction(Introduction),
    /// Server: what I have come to. Renews the lease.
    Report {
        /// When it was sent, by a clock of the server's that goes on while its host sleeps, in
        /// milliseconds. The lease counts from then.
        sent: u64,
        /// What.
        report: Report,
    },
    /// Locator in charge: you are sure of your roles.
    Lease {
        /// From this moment on, which the server has told.
        sent: u64,
        /// For so long.
        milliseconds: u64,
        /// The locator's generation.
        generation: u64,
        /// Of the locator's map. The lease is for the roles of that map: it counts once those have
        /// ended that the map takes away.
        map_version: u64,
    },
    /// Locator in charge: the map; or a server: the one that was asked for. As
    /// [`Map::of_text`](super::map::Map::of_text) reads it. To an operator it is the answer.
    Map(#[serde(with = "raw")] String),
    /// Locator in charge that has no map: tell the one that you know, with `map`.
    TellMap,
    /// Another locator is in charge, or none.
    NotInCharge {
        /// Its name, if it is known.
        in_charge: Option<String>,
    },
    /// Locator: no, and why. The connection ends.
    Refused(String),
    /// Operator: this, please, as JSON that the locator reads.
    Ask(String),
    /// Locator in charge: what has become of it.
    Answer {
        /// It was done.
        is_done: bool,
        /// What was asked for; where it was not done, in words why.
        body: String,
    },
    /// Observer: tell me every map.
    Watch,
    /// Locator in charge, to an observer: there is no later map than the one of this version; 0: it
    /// has told none yet.
    Current(u64),
}

/// A text that is JSON itself.
mod raw {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::Error};
    use serde_json::value::RawValue;

    pub fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(text).map_err(S::Error::custom)?.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|raw| String::from(Box::<str>::from(raw)))
    }
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// They are no JSON of this form.
    #[error("what the peer said is no message of a cluster: {0}")]
    Json(#[from] serde_json::Error),
    /// It has more bytes than a message may have.
    #[error("a message of {0} bytes; {CLUSTER_BYTES_MAX} is the most")]
    TooLong(usize),
    /// Something else than a message of a cluster came.
    #[error("the peer said {0} where it made no sense")]
    OutOfPlace(&'static str),
    /// The connection.
    #[error("{0}")]
    Link(#[from] LinkError),
}

impl WireError {
    /// Nothing has come yet.
    pub fn is_silence(&self) -> bool {
        matches!(self, WireError::Link(LinkError::Silent(_)))
    }
}

impl Message {
    /// As bytes. Err where there are too many of them.
    pub fn to_bytes(&self) -> Result<Vec<u8>, WireError> {
        let bytes = serde_json::to_vec(self)?;
        if bytes.len() > CLUSTER_BYTES_MAX { Err(WireError::TooLong(bytes.len())) } else { Ok(bytes) }
    }

    /// From bytes that anybody may have sent.
    pub fn of_bytes(bytes: &[u8]) -> Result<Message, WireError> {
        if bytes.len() > CLUSTER_BYTES_MAX {
            return Err(WireError::TooLong(bytes.len()));
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Send it, whole, by `deadline`.
    pub fn send(&self, link: &mut Link, deadline: Instant) -> Result<(), WireError> {
        Ok(link.send(&frames::Message::Cluster(self.to_bytes()?), deadline)?)
    }

    /// The frame that carries it, for many peers.
    pub fn to_frame(&self) -> Result<Vec<u8>, WireError> {
        let mut frame = Vec::new();
        frames::Message::Cluster(self.to_bytes()?).encode(&mut frame);
        Ok(frame)
    }

    /// The next one, by `deadline`.
    pub fn receive(link: &mut Link, deadline: Instant) -> Result<Message, WireError> {
        loop {
            if let Some(message) = Message::of_frame(link.receive(deadline)?)? {
                return Ok(message);
            }
        }
    }

    /// The next one, if it has arrived.
    pub fn try_receive(link: &mut Link) -> Result<Option<Message>, WireError> {
        while let Some(frame) = link.try_receive()? {
            if let Some(message) = Message::of_frame(frame)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// None: it is of a version to come.
    fn of_frame(frame: frames::Message) -> Result<Option<Message>, WireError> {
        match frame {
            frames::Message::Cluster(bytes) => Message::of_bytes(&bytes).map(Some),
            frames::Message::Unknown(_) => Ok(None),
            other => Err(WireError::OutOfPlace(other.name())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::report::{Failure, Holding, Role};

    fn introduction() -> Introduction {
        Introduction {
            name: "one".into(),
            incarnation: "0f".repeat(16),
            cluster: None,
            map_version: 7,
            generation: 2,
            clients: "10.0.0.1:11211".into(),
            replication: "10.0.0.1:11311".into(),
            host: "a host".into(),
            zone: String::new(),
            memory_mib: 64,
            shards: 256,
        }
    }

    #[test]
    fn every_message_comes_back() {
        let holding = Holding { shards: "0-3".into(), role: Role::Current, term: 4 };
        let failure = Failure { shards: "9".into(), term: 0, words: "no".into() };
        let report = Report {
            map_version: 3,
            unconfirmed: "4".into(),
            holdings: vec![holding],
            failures: vec![failure],
            kib: [(0, 17), (3, 0)].into(),
        };
        for message in [
            Message::Introduction(introduction()),
            Message::Report { sent: u64::MAX, report },
            Message::Lease { sent: 1, milliseconds: 2, generation: 3, map_version: 4 },
            Message::Map("{}".into()),
            Message::NotInCharge { in_charge: Some("two".into()) },
            Message::NotInCharge { in_charge: None },
            Message::Refused("another cluster".into()),
            Message::Ask("{\"drain\":\"one\"}".into()),
            Message::Answer { is_done: false, body: "no".into() },
            Message::Watch,
            Message::TellMap,
            Message::Current(7),
        ] {
            assert_eq!(Message::of_bytes(&message.to_bytes().unwrap()).unwrap(), message);
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for text in ["", "{", "null", "\"watching\"", "{\"lease\":{\"sent\":-1}}", "[1]"] {
            assert!(matches!(Message::of_bytes(text.as_bytes()), Err(WireError::Json(_))), "{text}");
        }
        let long = vec![b' '; CLUSTER_BYTES_MAX + 1];
        assert!(matches!(Message::of_bytes(&long), Err(WireError::TooLong(_))));
        let map = Message::Map(format!("\"{}\"", "x".repeat(CLUSTER_BYTES_MAX)));
        assert!(matches!(map.to_bytes(), Err(WireError::TooLong(_))));
        assert!(matches!(Message::Map("{} {}".into()).to_bytes(), Err(WireError::Json(_))), "a map is JSON");
    }

    /// Whatever it has to escape: it is not a text within a text.
    #[test]
    fn the_longest_map_that_is_kept_fits() {
        let text = format!("[{}1]", "\"\\\"\",".repeat((STORED_BYTES_MAX - 3) / 5));
        assert!((STORED_BYTES_MAX - 5..=STORED_BYTES_MAX).contains(&text.len()));
        let message = Message::Map(text);
        assert_eq!(Message::of_bytes(&message.to_bytes().unwrap()).unwrap(), message);
    }
}
