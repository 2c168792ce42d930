//! The connection to one locator. A thread of its own: a locator that is silent costs the others
//! nothing.

use super::known::{Known, Renewal};
use crate::base::time::boot_milliseconds;
use crate::cluster::map::Map;
use crate::cluster::report::Introduction;
use crate::cluster::wire::{Message, WireError};
use crate::replication::HANDSHAKE_WAIT_MAX;
use crate::replication::attach::{AttachError, meet};
use crate::replication::link::Link;
use crate::replication::secret::Secret;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Before the first lease a report is sent so often; afterwards four times in a lease, or in
/// [`SILENCE_MAX`] where that is shorter.
const REPORT_EVERY_MAX: Duration = Duration::from_millis(500);
/// How often a change of the report is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// A locator that has said nothing for so long is gone: each report is answered.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// The first pause after a connection has failed, and the longest.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);
/// See [`RETRY_PAUSE_MIN`].
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why a contact is over.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    Unmet(#[from] AttachError),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("it refuses this server: {0}")]
    Refused(String),
    #[error("it said what makes no sense from a locator")]
    OutOfPlace,
    #[error("it has said nothing for {SILENCE_MAX:?}")]
    Silent,
    #[error("the connection has no address: {0}")]
    Address(#[from] std::io::Error),
}

/// See the module.
pub struct Contact {
    locator: String,
    secret: Secret,
    introduction: Introduction,
    /// Where clients connect, and replicas.
    ports: [SocketAddr; 2],
    known: Arc<Known>,
    told: Option<String>,
}

impl Contact {
    /// With the locator at that address (HOST:PORT).
    pub fn new(
        locator: String,
        secret: Secret,
        introduction: Introduction,
        ports: [SocketAddr; 2],
        known: Arc<Known>,
    ) -> Contact {
        Contact { locator, secret, introduction, ports, known, told: None }
    }

    /// Until the process ends.
    pub fn run(mut self) {
        let mut pause = RETRY_PAUSE_MIN;
        while !self.known.is_ending() {
            let begun_at = Instant::now();
            let Err(lost) = self.connection() else { return };
            if begun_at.elapsed() > SILENCE_MAX {
                pause = RETRY_PAUSE_MIN;
            }
            self.tell(&lost);
            if let Lost::Refused(words) = lost {
                self.known.refuse(words);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// Once for each reason.
    fn tell(&mut self, lost: &Lost) {
        let words = lost.to_string();
        if self.told.as_ref() != Some(&words) && !self.known.is_ending() {
            log::warn!("locator {}: {words}; trying again", self.locator);
            self.told = Some(words);
        }
    }

    /// Until it fails, or this process ends.
    fn connection(&mut self) -> Result<(), Lost> {
        let (mut link, _) = meet(&self.locator, &self.secret, Instant::now() + 2 * HANDSHAKE_WAIT_MAX)?;
        let map = self.known.map();
        let [clients, replication] = self.ports.map(|port| reached(port, &link));
        let introduction = Introduction {
            cluster: map.as_ref().map(|map| map.cluster.clone()),
            map_version: map.as_ref().map_or(0, |map| map.version),
            generation: self.known.generation(),
            clients: clients?,
            replication: replication?,
            ..self.introduction.clone()
        };
        send(&mut link, &Message::Introduction(introduction))?;
        let (mut told, mut report_at, mut heard_at) = (None, Instant::now(), Instant::now());
        while !self.known.is_ending() {
            let now = Instant::now();
            if now >= report_at || told.is_none_or(|number| self.known.has_other_report(number)) {
                let (report, number) = self.known.report();
                send(&mut link, &Message::Report { sent: boot_milliseconds(), report: (*report).clone() })?;
                (told, report_at) = (Some(number), now + report_every(self.known.lease()));
            }
            match Message::receive(&mut link, now + LOOK) {
                Ok(Message::TellMap) => {
                    heard_at = Instant::now();
                    if let Some(map) = self.known.map() {
                        send(&mut link, &Message::Map(map.to_text()))?;
                    }
                }
                Ok(message) => {
                    heard_at = Instant::now();
                    self.heard(message)?;
                }
                Err(error) if error.is_silence() && heard_at.elapsed() < SILENCE_MAX => {}
                Err(error) if error.is_silence() => return Err(Lost::Silent),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn heard(&mut self, message: Message) -> Result<(), Lost> {
        let taken = match message {
            Message::Lease { sent, milliseconds, generation, map_version } => {
                self.told = None;
                self.known.take_lease(Renewal { sent, milliseconds, generation, map_version })
            }
            Message::Map(text) => match Map::of_text(text.as_bytes()) {
                Ok(map) => self.known.take_map(map),
                Err(error) => return Err(Lost::Refused(error.to_string())),
            },
            Message::NotInCharge { .. } => Ok(()),
            Message::Refused(words) => return Err(Lost::Refused(words)),
            _ => return Err(Lost::OutOfPlace),
        };
        taken.map_err(|why| Lost::Refused(why.to_string()))
    }
}

/// The pause between two reports. Each is answered, which tells that the locator is there.
fn report_every(lease: Option<Duration>) -> Duration {
    lease.map_or(REPORT_EVERY_MAX, |lease| lease.min(SILENCE_MAX) / 4)
}

fn send(link: &mut Link, message: &Message) -> Result<(), WireError> {
    message.send(link, Instant::now() + HANDSHAKE_WAIT_MAX)
}

/// Where a port of this host is reached: at its own address, or where that is any, at the one by
/// which the locator is reached.
fn reached(port: SocketAddr, link: &Link) -> std::io::Result<String> {
    let ip = if port.ip().is_unspecified() { link.local()?.ip() } else { port.ip() };
    Ok(SocketAddr::new(ip, port.port()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_come_more_often_than_a_locator_is_taken_for_gone() {
        for lease in [300, 2_000, 20_000, 60_000].map(Duration::from_millis) {
            let every = report_every(Some(lease));
            assert!(every <= lease / 4 && every <= SILENCE_MAX / 4, "{lease:?}: {every:?}");
        }
    }
}
