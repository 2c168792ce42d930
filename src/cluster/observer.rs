//! An observer's side: whoever watches the map without being a server. It hears every new version
//! from the locator in charge, and looks for that one among all locators when it is lost.

use super::client::AskError;
use super::map::Map;
use super::wire::Message;
use crate::replication::HANDSHAKE_WAIT_MAX;
use crate::replication::attach::meet;
use crate::replication::secret::Secret;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// `watch` is said so often; each is answered.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// A locator that has said nothing for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Pause before the next locator is tried.
const AGAIN: Duration = Duration::from_millis(100);

/// What an observer hears.
pub enum Heard<'a> {
    /// A map, of a higher version than all before it.
    Map(&'a Map),
    /// There was nothing new a moment ago.
    Current,
    /// No locator tells maps just now, and why. It goes on trying.
    Lost(&'a AskError),
}

/// Tell `hear` all that comes from these locators (HOST:PORT), until it breaks off.
pub fn watch(locators: &[String], secret: &Secret, hear: &mut dyn FnMut(Heard<'_>) -> ControlFlow<()>) {
    let mut version = 0;
    for locator in locators.iter().cycle() {
        match watch_one(locator, secret, &mut version, hear) {
            Ok(()) => return,
            Err(lost) if hear(Heard::Lost(&lost)).is_break() => return,
            Err(_) => std::thread::sleep(AGAIN),
        }
    }
}

/// Ok: it is enough.
fn watch_one(
    locator: &str,
    secret: &Secret,
    version: &mut u64,
    hear: &mut dyn FnMut(Heard<'_>) -> ControlFlow<()>,
) -> Result<(), AskError> {
    let wire = |error| AskError::Wire(locator.into(), error);
    let (mut link, _) = meet(locator, secret, Instant::now() + 2 * HANDSHAKE_WAIT_MAX)?;
    let (mut watch_at, mut heard_at) = (Instant::now(), Instant::now());
    loop {
        if Instant::now() >= watch_at {
            Message::Watch.send(&mut link, Instant::now() + HANDSHAKE_WAIT_MAX).map_err(wire)?;
            watch_at = Instant::now() + WATCH_EVERY;
        }
        let heard = match Message::receive(&mut link, watch_at) {
            Err(error) if error.is_silence() && heard_at.elapsed() < SILENCE_MAX => continue,
            heard => heard.map_err(wire)?,
        };
        heard_at = Instant::now();
        let enough = match heard {
            Message::Map(text) => match Map::of_text(text.as_bytes()) {
                Ok(map) if map.version > *version => {
                    *version = map.version;
                    hear(Heard::Map(&map))
                }
                Ok(_) => hear(Heard::Current),
                Err(error) => return Err(AskError::OutOfPlace(locator.into(), error.to_string())),
            },
            Message::Current(_) => hear(Heard::Current),
            Message::NotInCharge { .. } => return Err(AskError::NoneInCharge(format!("{locator} says so"))),
            Message::Refused(words) => return Err(AskError::Refused(words)),
            other => return Err(AskError::OutOfPlace(locator.into(), format!("{other:?}"))),
        };
        if enough.is_break() {
            return Ok(());
        }
    }
}
