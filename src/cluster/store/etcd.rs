//! The map in etcd, for several locators.
//!
//! Three keys below a prefix: `map`; `leader`, the name of the locator in charge, which etcd
//! deletes when the lease behind it ends; `generation`, a number. Every write is one transaction
//! that asks whether `leader` is still the key that this locator has made (by its create revision,
//! which no later key has again). So no clock is trusted: a locator that was stopped while its
//! lease ended writes nothing, however late it comes. Reads are linearizable.
//!
//! etcd is spoken to by its JSON interface (`/v3/`, on the same port as gRPC; 3.4 or later), over
//! one connection ([`http`]). When an endpoint does not answer, the next one is asked, within the
//! deadline of the call. That what was asked before may yet come to pass is seen in the answer: a
//! write that is found to be there already is this one.

mod http;
mod wire;

use super::{CALL_MAX, Lead, MapStore, STORED_BYTES_MAX, StoreError, Stored, Swapped};
use http::Connection;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};
use wire::{KeyValue, Txn};

/// Prefix of the keys where none is given.
pub const PREFIX: &str = "/remora/";
/// Whoever ends gives up its charge at once, if etcd answers in this time.
const RESIGN_MAX: Duration = Duration::from_secs(1);
/// Tries to take charge within one call: each but the first because somebody else came between.
const TAKES_MAX: usize = 3;
/// The least version that has this interface.
const VERSION_MIN: (u32, u32) = (3, 4);
/// One below may answer a linearizable read with what was, for a moment after a member of it has
/// stood still. No write rests on a read: each is a transaction that compares.
const VERSION_OF_TRUE_READS: (u32, u32) = (3, 5);

/// See the module.
pub struct Etcd {
    endpoints: Vec<Endpoint>,
    /// Which one is asked.
    at: usize,
    connection: Option<Connection>,
    keys: Keys,
    lease_seconds: u64,
    charge: Option<Charge>,
}

struct Endpoint {
    name: String,
    is_known_version: bool,
}

/// In base64, as all keys and values are in JSON.
struct Keys {
    map: String,
    leader: String,
    generation: String,
}

/// Of being in charge.
struct Charge {
    lease: u64,
    /// Of the key `leader`.
    created: u64,
    generation: u64,
}

/// Why one endpoint did not do it.
enum Fault {
    /// It did not answer, or not this. It may have done it.
    Silent(io::Error),
    /// It has answered with an error of this gRPC code.
    Refused(u32, String),
}

/// gRPC's codes.
const RESOURCE_EXHAUSTED: u32 = 8;
const FAILED_PRECONDITION: u32 = 9;
/// Another member may do it, or this one later: canceled, deadline exceeded, unavailable.
const PASSING: [u32; 3] = [1, 4, 14];

/// An answer.
struct Asked<A> {
    answer: A,
    /// It was asked before, and what became of that is not known.
    is_again: bool,
}

impl Etcd {
    /// At these addresses, HOST:PORT. Who is in charge by it and does not say so again for
    /// `lease_seconds` is in charge no more. Nothing is connected yet.
    pub fn new(endpoints: Vec<String>, prefix: &str, lease_seconds: u64) -> Etcd {
        assert!(!endpoints.is_empty(), "checked where they are read");
        let key = |name| wire::base64(format!("{prefix}{name}").as_bytes());
        Etcd {
            endpoints: endpoints.into_iter().map(|name| Endpoint { name, is_known_version: false }).collect(),
            at: 0,
            connection: None,
            keys: Keys { map: key("map"), leader: key("leader"), generation: key("generation") },
            lease_seconds,
            charge: None,
        }
    }

    /// Ask one endpoint after the other until one answers. Each has its share of the time; a
    /// connection that has ended since is made anew first.
    fn call<A: DeserializeOwned>(&mut self, path: &str, body: &Value, until: Instant) -> Result<Asked<A>, StoreError> {
        let body = body.to_string();
        let (mut tries, mut is_again, mut faults) = (self.endpoints.len(), false, Vec::new());
        while tries > 0 {
            let was_connected = self.connection.is_some();
            let share = Instant::now() + crate::sys::reach::share(until, tries);
            let fault = match self.ask_one(path, &body, share) {
                Ok(answer) => return Ok(Asked { answer, is_again }),
                Err(Fault::Refused(code, words)) if !PASSING.contains(&code) => return Err(self.refused(code, words)),
                Err(Fault::Refused(_, words)) => io::Error::other(words),
                Err(Fault::Silent(error)) => error,
            };
            is_again = true;
            self.connection = None;
            if was_connected && has_ended(&fault) {
                continue;
            }
            faults.push(format!("{}: {fault}", self.endpoints[self.at].name));
            self.at = (self.at + 1) % self.endpoints.len();
            tries -= 1;
        }
        Err(StoreError::Unreachable(faults.join("; ")))
    }

    fn ask_one<A: DeserializeOwned>(&mut self, path: &str, body: &str, until: Instant) -> Result<A, Fault> {
        let connection = self.connected(until)?;
        let answer = connection.ask(path, Some(body), until).map_err(Fault::Silent)?;
        if answer.status != 200 {
            return Err(wire::refusal(answer.status, &answer.body));
        }
        serde_json::from_slice(&answer.body).map_err(|error| {
            Fault::Silent(io::Error::new(ErrorKind::InvalidData, format!("this is not etcd's JSON: {error}")))
        })
    }

    fn connected(&mut self, until: Instant) -> Result<&mut Connection, Fault> {
        if self.connection.is_none() {
            let endpoint = &mut self.endpoints[self.at];
            let mut connection = Connection::to(&endpoint.name, until).map_err(Fault::Silent)?;
            if !endpoint.is_known_version {
                let answer = connection.ask("/version", None, until).map_err(Fault::Silent)?;
                let version = wire::version(&answer.body);
                let told = || String::from_utf8_lossy(&answer.body[..answer.body.len().min(100)]).into_owned();
                if version.is_none_or(|version| version < VERSION_MIN) {
                    return Err(Fault::Refused(FAILED_PRECONDITION, format!("its version is {}", told())));
                }
                if version.is_some_and(|version| version < VERSION_OF_TRUE_READS) {
                    log::warn!(
                        "etcd at {} is older than 3.5 ({}): after a pause of one of its members it may tell a locator for a \
                         moment what was; no acknowledged write rests on that",
                        endpoint.name,
                        told()
                    );
                }
                endpoint.is_known_version = true;
            }
            self.connection = Some(connection);
        }
        Ok(self.connection.as_mut().expect("made just now"))
    }

    fn refused(&self, code: u32, words: String) -> StoreError {
        let remedy = match code {
            RESOURCE_EXHAUSTED => "Make room in it: etcdctl compact, defrag, then alarm disarm",
            FAILED_PRECONDITION => "Use etcd 3.4 or later",
            _ => "See that this is etcd, and that it lets this host read and write below the prefix without a password",
        };
        StoreError::Refused { endpoint: self.endpoints[self.at].name.clone(), words, remedy }
    }

    /// If all of `compare` holds, do `success`; and tell `leader` and `other` as they are if not.
    fn transact(
        &mut self,
        compare: Value,
        success: Value,
        other: &str,
        until: Instant,
    ) -> Result<Asked<Txn>, StoreError> {
        let look = json!([wire::range(&self.keys.leader), wire::range(other)]);
        let body = json!({ "compare": compare, "success": success, "failure": look });
        self.call("/v3/kv/txn", &body, until)
    }

    /// Renew the lease; false when it has ended, or the key behind it is gone.
    fn renew(&mut self, lease: u64, created: u64, until: Instant) -> Result<bool, StoreError> {
        let renewed: Asked<wire::Streamed<wire::Lease>> =
            self.call("/v3/lease/keepalive", &json!({ "ID": lease.to_string() }), until)?;
        if renewed.answer.result.ttl == 0 {
            return Ok(false);
        }
        let leader = self.get(&self.keys.leader.clone(), until)?;
        Ok(leader.is_some_and(|leader| leader.create_revision == created))
    }

    fn get(&mut self, key: &str, until: Instant) -> Result<Option<KeyValue>, StoreError> {
        let asked: Asked<wire::Range> = self.call("/v3/kv/range", &json!({ "key": key }), until)?;
        Ok(asked.answer.kvs.into_iter().next())
    }

    fn take_charge(&mut self, me: &str, until: Instant) -> Result<Lead, StoreError> {
        for _ in 0..TAKES_MAX {
            if let Some(leader) = self.get(&self.keys.leader.clone(), until)? {
                return Ok(Lead::Other { name: leader.text() });
            }
            let before = self.get(&self.keys.generation.clone(), until)?;
            let generation = before.as_ref().map_or(Ok(0), |one| self.number(one))? + 1;
            let grant = json!({ "TTL": self.lease_seconds.to_string() });
            let lease = self.call::<wire::Lease>("/v3/lease/grant", &grant, until)?.answer.id;
            let compare = json!([
                wire::created(&self.keys.leader, 0),
                wire::modified(&self.keys.generation, before.map_or(0, |one| one.mod_revision)),
            ]);
            let success = json!([
                wire::put(&self.keys.leader, me.as_bytes(), Some(lease)),
                wire::put(&self.keys.generation, generation.to_string().as_bytes(), None),
            ]);
            let asked = self.transact(compare, success, &self.keys.generation.clone(), until)?;
            if asked.answer.succeeded {
                self.charge = Some(Charge { lease, created: asked.answer.header.revision, generation });
                return Ok(Lead::InCharge { generation });
            }
            match asked.answer.looked() {
                // It was done when it was asked before.
                (Some(leader), Some(now)) if leader.lease == lease => {
                    let generation = self.number(&now)?;
                    self.charge = Some(Charge { lease, created: leader.create_revision, generation });
                    return Ok(Lead::InCharge { generation });
                }
                (Some(leader), _) => return Ok(Lead::Other { name: leader.text() }),
                (None, _) => {}
            }
        }
        Err(StoreError::Unreachable("others take charge and lose it again and again".into()))
    }

    fn number(&self, generation: &KeyValue) -> Result<u64, StoreError> {
        generation.text().parse().map_err(|_| {
            let words = format!("the key for generations has {:?}, which is no number", generation.text());
            self.refused(0, words)
        })
    }

    fn not_in_charge(&mut self, leader: Option<KeyValue>) -> StoreError {
        self.charge = None;
        StoreError::NotInCharge { other: leader.map(|leader| leader.text()) }
    }
}

/// Whether a connection had ended, perhaps long before it was used again.
fn has_ended(fault: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    [BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof].contains(&fault.kind())
}

impl MapStore for Etcd {
    fn lead(&mut self, me: &str) -> Result<Lead, StoreError> {
        let until = Instant::now() + CALL_MAX;
        if let Some(Charge { lease, created, generation }) = self.charge {
            if self.renew(lease, created, until)? {
                return Ok(Lead::InCharge { generation });
            }
            self.charge = None;
        }
        self.take_charge(me, until)
    }

    fn load(&mut self) -> Result<Option<Stored>, StoreError> {
        let map = self.get(&self.keys.map.clone(), Instant::now() + CALL_MAX)?;
        Ok(map.map(|map| Stored { revision: map.mod_revision, bytes: map.value }))
    }

    fn swap(&mut self, expected: Option<u64>, bytes: &[u8]) -> Result<Swapped, StoreError> {
        let until = Instant::now() + CALL_MAX;
        if bytes.len() > STORED_BYTES_MAX {
            return Err(StoreError::TooLong(bytes.len()));
        }
        let Some(Charge { created, .. }) = self.charge else {
            return Err(StoreError::NotInCharge { other: None });
        };
        let expected = expected.unwrap_or(0);
        let compare = json!([wire::created(&self.keys.leader, created), wire::modified(&self.keys.map, expected)]);
        let success = json!([wire::put(&self.keys.map, bytes, None)]);
        let asked = self.transact(compare, success, &self.keys.map.clone(), until)?;
        if asked.answer.succeeded {
            return Ok(Swapped::Done { revision: asked.answer.header.revision });
        }
        let (leader, map) = asked.answer.looked();
        match map {
            // It was done when it was asked before.
            Some(map) if asked.is_again && map.mod_revision != expected && map.value == bytes => {
                Ok(Swapped::Done { revision: map.mod_revision })
            }
            _ if leader.as_ref().is_none_or(|leader| leader.create_revision != created) => {
                Err(self.not_in_charge(leader))
            }
            _ => Ok(Swapped::Conflict),
        }
    }
}

impl Drop for Etcd {
    /// Whoever ends in order is followed at once.
    fn drop(&mut self) {
        let Some(Charge { lease, .. }) = self.charge else { return };
        let revoke = json!({ "ID": lease.to_string() });
        if let Err(error) = self.call::<Value>("/v3/lease/revoke", &revoke, Instant::now() + RESIGN_MAX) {
            log::info!("the next locator takes charge in {} s: {error}", self.lease_seconds);
        }
    }
}
