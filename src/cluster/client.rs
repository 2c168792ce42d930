//! An operator's side: a question to whichever locator is in charge.

use super::decide::Command;
use super::map::{Map, Policy};
use super::wire::{Message, WireError};
use crate::replication::HANDSHAKE_WAIT_MAX;
use crate::replication::attach::{AttachError, meet};
use crate::replication::secret::Secret;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Pause before all locators are asked again, where none is in charge.
const AGAIN: Duration = Duration::from_millis(100);
/// A locator that is asked when little time is left has so long all the same.
const TRY_MIN: Duration = Duration::from_secs(2);

/// What operators ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Question {
    /// How the cluster stands: a [`Status`](super::decide::Status).
    Status,
    /// The map, as it is stored.
    Map,
    /// What was decided lately, and why: [`Decided`], oldest first.
    Events,
    /// Let a cluster be born, where there is none.
    Init {
        /// How many shards it has, for ever.
        shards: usize,
        /// What is wanted of it.
        policy: Policy,
    },
    /// Let the cluster go on whose store is lost, from the latest map that anybody knows.
    Recover {
        /// One that was exported, if there is one.
        map: Option<Box<Map>>,
        /// Only say what would come of it.
        dry_run: bool,
    },
    /// Somebody cannot reach this server: look for it.
    Report {
        /// Its name.
        server: String,
    },
    /// Change what is wanted.
    Change {
        /// What.
        command: Command,
        /// Only say what would come of it.
        dry_run: bool,
    },
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// Seconds since 1970.
    pub at: u32,
    /// Of the map in which it stands.
    pub version: u64,
    /// The shards that it is about; `none`: a server, or the cluster.
    pub shards: String,
    /// What was decided, and why.
    pub words: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// A locator could not be asked.
    #[error("{0}")]
    Attach(#[from] AttachError),
    /// It has answered with what makes no sense, or not at all.
    #[error("locator {0}: {1}")]
    Wire(String, WireError),
    /// It was asked for a change, and what became of that is not known.
    #[error("locator {0} was asked, and its answer is lost: {1}. Look at the status whether it was done")]
    Lost(String, WireError),
    /// It has said something else.
    #[error("locator {0} gives an answer that makes no sense: {1}")]
    OutOfPlace(String, String),
    /// None of them decides.
    #[error("no locator is in charge yet: {0}")]
    NoneInCharge(String),
    /// The locator in charge does not do it.
    #[error("{0}")]
    Refused(String),
}

/// Ask these locators (HOST:PORT), one after the other until one is in charge, and again until
/// `until`. The answer, as JSON.
pub fn ask(locators: &[String], secret: &Secret, question: &Question, until: Instant) -> Result<String, AskError> {
    let text = serde_json::to_string(question).expect("a question has no part that JSON cannot say");
    // A change that was done already is not asked for again.
    let is_change = matches!(
        question,
        Question::Init { .. } | Question::Change { dry_run: false, .. } | Question::Recover { dry_run: false, .. }
    );
    loop {
        let mut last = AskError::NoneInCharge("none was named".into());
        for locator in locators {
            match ask_one(locator, secret, &text, is_change, until) {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => last = AskError::NoneInCharge(format!("{locator} says so")),
                Err(last @ (AskError::Refused(_) | AskError::Lost(..))) => return Err(last),
                Err(error) => last = error,
            }
        }
        if Instant::now() + AGAIN >= until {
            return Err(last);
        }
        std::thread::sleep(AGAIN);
    }
}

/// None: it is not in charge.
fn ask_one(
    locator: &str,
    secret: &Secret,
    text: &str,
    is_change: bool,
    until: Instant,
) -> Result<Option<String>, AskError> {
    let until = until.max(Instant::now() + TRY_MIN);
    let (mut link, _) = meet(locator, secret, until.min(Instant::now() + 2 * HANDSHAKE_WAIT_MAX))?;
    let wire = |error| match is_change {
        true => AskError::Lost(locator.into(), error),
        false => AskError::Wire(locator.into(), error),
    };
    Message::Ask(text.into()).send(&mut link, until).map_err(wire)?;
    match Message::receive(&mut link, until).map_err(wire)? {
        Message::Answer { is_done: true, body } | Message::Map(body) => Ok(Some(body)),
        Message::Answer { is_done: false, body } | Message::Refused(body) => Err(AskError::Refused(body)),
        Message::NotInCharge { .. } => Ok(None),
        other => Err(AskError::OutOfPlace(locator.into(), format!("{other:?}"))),
    }
}
