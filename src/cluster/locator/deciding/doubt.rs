//! Somebody cannot reach a server, and says so. The locator looks by itself: what others say of a
//! server proves nothing.

use super::{Deciding, failed};
use crate::cluster::locator::outbox::Outbox;
use crate::cluster::locator::verify;
use std::time::{Duration, Instant};

/// One server is looked for so often at most, whoever asks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Deciding {
    /// Look for this server, and answer what was found. A process that has ended for certain is
    /// dead from then on.
    pub(super) fn look_for(&mut self, name: &str, outbox: Outbox) {
        if let Err(words) = self.try_to_look_for(name, &outbox) {
            outbox.say(failed(&words));
        }
    }

    fn try_to_look_for(&mut self, name: &str, outbox: &Outbox) -> Result<(), String> {
        let now = self.now();
        let decisions = self.decisions().ok_or("there is no cluster yet")?;
        let status = decisions.status(now).servers.into_iter().find(|server| server.name == name);
        let status = status.ok_or_else(|| format!("there is no server {name}"))?;
        let place = decisions.map().named(name);
        let place = place.ok_or_else(|| format!("{name} waits to be added, and has nothing that could be missed"))?;
        let process = place.incarnation.as_ref().or(place.missing.as_ref());
        let process = process.ok_or_else(|| format!("{name} is dead: its process has ended"))?;
        let sought = verify::Sought {
            incarnation: process.clone(),
            clients: place.clients.clone(),
            replication: place.replication.clone(),
        };
        self.looked_for.retain(|_, at| at.elapsed() < LOOK_EVERY);
        if self.looked_for.contains_key(name) {
            return Err(format!("{name} was looked for a moment ago: ask again"));
        }
        self.looked_for.insert(name.into(), Instant::now());
        let lease = match (status.alive, status.lease_age_ms) {
            (true, Some(age)) => format!("it has reported {age} ms ago"),
            _ => "its lease has ended".into(),
        };
        let looks = self.verifying.look(sought, Some((outbox.clone(), format!("{name}: {lease}"))));
        if looks { Ok(()) } else { Err("too many servers are being looked for: ask again".into()) }
    }
}
