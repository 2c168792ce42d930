//! The thread that has the store: it stays in charge, or tries to be, and writes maps. Its calls
//! may take seconds, and nobody else waits for them.

use super::Stop;
use super::deciding::Event;
use crate::cluster::store::{Lead, MapStore, StoreError, Stored, Swapped};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

/// How often being in charge is renewed, or tried.
const LEAD_EVERY: Duration = Duration::from_secs(1);
/// Where somebody waits for what is stored, it is asked so often.
const LOOK: Duration = Duration::from_millis(50);

/// A map to be written.
pub struct Write {
    /// Of the time of being in charge in which it was decided: in another one it is not written.
    pub generation: u64,
    /// What is to be there before; None: nothing.
    pub expected: Option<u64>,
    /// The map.
    pub bytes: Vec<u8>,
}

/// What has become of the store.
pub enum Kept {
    /// This locator is in charge, and this is there.
    InCharge {
        /// Of this time of being in charge.
        generation: u64,
        /// What is there.
        stored: Option<Stored>,
        /// It was in charge at this moment, for certain.
        at: Instant,
    },
    /// It was in charge with that generation at this moment too.
    StillInCharge {
        /// The same.
        generation: u64,
        /// The moment.
        at: Instant,
    },
    /// Another one is, or nobody that is known.
    NotInCharge(Option<String>),
    /// What was to be written is there.
    Written {
        /// Of the order.
        generation: u64,
        /// Of what is there.
        revision: u64,
    },
    /// Something else is there, or nothing.
    Conflict {
        /// Of the order.
        generation: u64,
        /// What is there.
        stored: Option<Stored>,
    },
}

/// See the module.
pub struct Keeping {
    store: Box<dyn MapStore>,
    name: String,
    events: SyncSender<Event>,
    orders: Receiver<Write>,
    stop: Stop,
    /// The generation that the thread which decides knows of.
    in_charge: Option<u64>,
    told: Option<String>,
}

impl Keeping {
    /// Of a locator of that name.
    pub fn new(
        store: Box<dyn MapStore>,
        name: String,
        events: SyncSender<Event>,
        orders: Receiver<Write>,
        stop: Stop,
    ) -> Keeping {
        Keeping { store, name, events, orders, stop, in_charge: None, told: None }
    }

    /// Until it is to stop.
    pub fn run(mut self) {
        let mut lead_at = Instant::now();
        while !self.stop.is_asked() {
            if Instant::now() >= lead_at {
                lead_at = Instant::now() + LEAD_EVERY;
                self.lead();
            }
            match self.orders.recv_timeout(LOOK) {
                Ok(write) => self.write(&write),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn lead(&mut self) {
        // Whoever is in charge is so for a while from the call on, however late the answer comes.
        let at = Instant::now();
        match self.store.lead(&self.name) {
            Ok(Lead::InCharge { generation }) if self.in_charge == Some(generation) => {
                self.say(Kept::StillInCharge { generation, at });
            }
            Ok(Lead::InCharge { generation }) => {
                // What was decided in the time before is not written in this one.
                self.in_charge = None;
                match self.store.load() {
                    Ok(stored) => {
                        self.in_charge = Some(generation);
                        self.say(Kept::InCharge { generation, stored, at });
                    }
                    Err(error) => self.tell(&error),
                }
            }
            Ok(Lead::Other { name }) => self.lose(Some(name)),
            // It may still be in charge. Whether it is, its next write finds out.
            Err(error) => self.tell(&error),
        }
    }

    fn write(&mut self, write: &Write) {
        let generation = write.generation;
        if self.in_charge != Some(generation) {
            return;
        }
        let mut swapped = self.store.swap(write.expected, &write.bytes);
        loop {
            match swapped {
                Ok(Swapped::Done { revision }) => {
                    return self.say(Kept::Written { generation, revision });
                }
                Err(StoreError::NotInCharge { other }) => return self.lose(other),
                Ok(Swapped::Conflict) => {}
                Err(ref error) => self.tell(error),
            }
            if self.stop.is_asked() {
                return;
            }
            // After an error it may be written all the same.
            match self.store.load() {
                Ok(Some(stored)) if stored.bytes == write.bytes => {
                    return self.say(Kept::Written { generation, revision: stored.revision });
                }
                Ok(stored) => return self.say(Kept::Conflict { generation, stored }),
                Err(error) => {
                    std::thread::sleep(LOOK);
                    swapped = Err(error);
                }
            }
        }
    }

    fn lose(&mut self, other: Option<String>) {
        self.in_charge = None;
        self.say(Kept::NotInCharge(other));
    }

    fn say(&mut self, kept: Kept) {
        self.told = None;
        // Nobody hears it where the locator ends.
        let _ = self.events.send(Event::Kept(kept));
    }

    /// Once for each reason.
    fn tell(&mut self, error: &StoreError) {
        let words = error.to_string();
        if self.told.as_ref() != Some(&words) {
            log::warn!("the store of the map: {words}");
            self.told = Some(words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::mpsc::{channel, sync_channel};
    use std::sync::{Arc, Mutex};

    /// What a store does next, and what it keeps.
    #[derive(Default)]
    struct Script {
        swaps: VecDeque<Result<(), StoreError>>,
        /// Writes that are answered with an error are done all the same.
        writes_all_the_same: bool,
        stored: Option<Stored>,
        leads: VecDeque<Lead>,
    }

    struct Scripted(Arc<Mutex<Script>>);

    impl MapStore for Scripted {
        fn lead(&mut self, _: &str) -> Result<Lead, StoreError> {
            let mut script = self.0.lock().unwrap();
            Ok(script.leads.pop_front().unwrap_or(Lead::InCharge { generation: 1 }))
        }
        fn load(&mut self) -> Result<Option<Stored>, StoreError> {
            Ok(self.0.lock().unwrap().stored.clone())
        }
        fn swap(&mut self, expected: Option<u64>, bytes: &[u8]) -> Result<Swapped, StoreError> {
            let mut script = self.0.lock().unwrap();
            let answer = script.swaps.pop_front().unwrap_or(Ok(()));
            if script.stored.as_ref().map(|stored| stored.revision) != expected {
                return Ok(Swapped::Conflict);
            }
            let revision = expected.unwrap_or(0) + 1;
            if answer.is_ok() || script.writes_all_the_same {
                script.stored = Some(Stored { revision, bytes: bytes.to_vec() });
            }
            answer.map(|()| Swapped::Done { revision })
        }
    }

    /// What is said after these writes, by a store that follows the script.
    fn said(script: Script, writes: Vec<Write>) -> Vec<String> {
        let (events, hears) = sync_channel(64);
        let (orders, ordered) = channel();
        let stop = Stop::default();
        writes.into_iter().for_each(|write| orders.send(write).unwrap());
        drop(orders);
        let store = Box::new(Scripted(Arc::new(Mutex::new(script))));
        Keeping::new(store, "me".into(), events, ordered, stop).run();
        let word = |event| match event {
            Event::Kept(Kept::InCharge { generation, stored, .. }) => {
                format!("in charge {generation} {}", stored.is_some())
            }
            Event::Kept(Kept::StillInCharge { generation, .. }) => format!("still in charge {generation}"),
            Event::Kept(Kept::NotInCharge(name)) => format!("not in charge: {name:?}"),
            Event::Kept(Kept::Written { revision, .. }) => format!("written {revision}"),
            Event::Kept(Kept::Conflict { stored, .. }) => {
                format!("conflict with {:?}", stored.map(|stored| stored.revision))
            }
            _ => panic!("it says nothing else"),
        };
        hears.try_iter().map(word).collect()
    }

    fn write(expected: Option<u64>, bytes: &[u8]) -> Write {
        Write { generation: 1, expected, bytes: bytes.to_vec() }
    }

    #[test]
    fn what_has_become_of_a_write_is_found_out_where_the_store_has_not_said() {
        let lost = || VecDeque::from([Err(StoreError::Unreachable("cut".into()))]);
        let script = Script { swaps: lost(), writes_all_the_same: true, ..Script::default() };
        assert_eq!(said(script, vec![write(None, b"a")]), ["in charge 1 false", "written 1"]);
        let script = Script { swaps: lost(), ..Script::default() };
        let writes = || vec![write(None, b"a"), write(None, b"a")];
        assert_eq!(said(script, writes()), ["in charge 1 false", "conflict with None", "written 1"]);
        let stored = Some(Stored { revision: 4, bytes: b"b".to_vec() });
        let script = Script { stored, ..Script::default() };
        assert_eq!(said(script, vec![write(Some(3), b"a")]), ["in charge 1 true", "conflict with Some(4)"]);
    }

    #[test]
    fn what_was_decided_in_another_time_of_being_in_charge_is_not_written() {
        let leads = || [Lead::InCharge { generation: 2 }].into();
        let script = Script { leads: leads(), ..Script::default() };
        assert_eq!(said(script, vec![write(None, b"a")]), ["in charge 2 false"]);
        let own = Write { generation: 2, ..write(None, b"a") };
        let script = Script { leads: leads(), ..Script::default() };
        assert_eq!(said(script, vec![write(None, b"b"), own]), ["in charge 2 false", "written 1"]);
    }

    #[test]
    fn who_is_not_in_charge_any_more_says_so_and_may_be_again() {
        let other = StoreError::NotInCharge { other: Some("you".into()) };
        let script = Script { swaps: [Err(other)].into(), ..Script::default() };
        assert_eq!(said(script, vec![write(None, b"a")]), ["in charge 1 false", "not in charge: Some(\"you\")"]);
        let leads = [Lead::Other { name: "you".into() }].into();
        assert_eq!(said(Script { leads, ..Script::default() }, vec![]), ["not in charge: Some(\"you\")"]);
    }
}
