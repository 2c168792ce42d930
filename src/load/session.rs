//! One connection with its share of the keys: requests go out in batches, each answer is judged.
//!
//! Of `of` sessions, session `number` alone writes the keys whose number is `number` modulo `of`;
//! it reads any. So the last acknowledged version of each key is known, and a reader on another
//! connection can be held to it.

use super::client::{BATCH_BYTES_MAX, ClientError, Connection};
use super::ledger::Ledger;
use super::report::Tally;
use super::workload::Workload;
use crate::base::limits::LOAD_PIPELINE_MAX;
use std::time::Instant;

/// How far answers are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrutiny {
    /// Key, version and checksum.
    Checksum,
    /// Each byte against what was written; for when nothing is being written.
    EveryByte,
}

enum Pending {
    Get { key: u32, acknowledged_before: u32 },
    Set { key: u32, version: u32, value_bytes: u32 },
}

/// See the module.
pub struct Session<'a> {
    connection: Connection,
    workload: &'a Workload,
    ledger: &'a Ledger,
    number: u32,
    of: u32,
    /// Where a script that walks the keys has got to.
    pub cursor: u32,
    /// The session's own random numbers.
    pub rng: fastrand::Rng,
    /// How far answers are checked.
    pub scrutiny: Scrutiny,
    pending: Vec<Pending>,
    /// Own keys that were read and not found, to be written again; at most a batch of them.
    missed: Vec<u32>,
    sent_at: Instant,
    value: Vec<u8>,
    key_text: Vec<u8>,
}

impl<'a> Session<'a> {
    /// Session `number` of `of`.
    pub fn new(connection: Connection, workload: &'a Workload, ledger: &'a Ledger, number: u32, of: u32) -> Self {
        assert!(number < of && workload.keys == ledger.keys(), "session {number} of {of}");
        let batch_bytes = LOAD_PIPELINE_MAX * (workload.value_bytes.max() as usize + OVERHEAD_BYTES_MAX);
        assert!(batch_bytes <= BATCH_BYTES_MAX, "values too large for so many in one batch");
        Session {
            connection,
            workload,
            ledger,
            number,
            of,
            cursor: 0,
            rng: fastrand::Rng::with_seed(workload.seed.wrapping_add(u64::from(number))),
            scrutiny: Scrutiny::Checksum,
            pending: Vec::with_capacity(LOAD_PIPELINE_MAX),
            missed: Vec::with_capacity(LOAD_PIPELINE_MAX),
            sent_at: Instant::now(),
            value: Vec::new(),
            key_text: Vec::new(),
        }
    }

    /// Which session this is.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The connection, for what is no get or set. Between batches only.
    pub fn connection(&mut self) -> &mut Connection {
        assert!(self.pending.is_empty(), "answers are due");
        &mut self.connection
    }

    /// What it reads and writes.
    pub fn workload(&self) -> &'a Workload {
        self.workload
    }

    /// Whether another request may join the batch.
    pub fn has_room(&self) -> bool {
        self.pending.len() < LOAD_PIPELINE_MAX
    }

    /// Whether the batch is empty.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// The key of this session nearest below or at `key`, or its first.
    pub fn own_key(&self, key: u32) -> u32 {
        let own = key - key % self.of + self.number;
        if own < self.workload.keys { own } else { self.number }
    }

    /// The next of this session's keys for a script that walks them all once.
    pub fn next_own_key(&mut self) -> Option<u32> {
        let key = self.cursor.checked_mul(self.of)?.checked_add(self.number)?;
        self.cursor += 1;
        (key < self.workload.keys).then_some(key)
    }

    /// An own key that was read, not found, and not written since.
    pub fn take_missed(&mut self) -> Option<u32> {
        self.missed.pop()
    }

    /// Join a get to the batch.
    pub fn get(&mut self, key: u32) {
        let acknowledged_before = self.ledger.acknowledged(key);
        let requests = self.connection.requests();
        requests.extend_from_slice(b"get ");
        self.workload.push_key(key, requests);
        requests.extend_from_slice(b"\r\n");
        self.pending.push(Pending::Get { key, acknowledged_before });
    }

    /// Join a set of the key's next version to the batch. Of an own key.
    pub fn set(&mut self, key: u32) {
        assert_eq!(key % self.of, self.number, "another session's key");
        let version = self.ledger.issue(key);
        self.workload.value(key, version, &mut self.value);
        let requests = self.connection.requests();
        requests.extend_from_slice(b"set ");
        self.workload.push_key(key, requests);
        requests.extend_from_slice(b" 0 0 ");
        requests.extend_from_slice(itoa::Buffer::new().format(self.value.len()).as_bytes());
        requests.extend_from_slice(b"\r\n");
        requests.extend_from_slice(&self.value);
        requests.extend_from_slice(b"\r\n");
        self.pending.push(Pending::Set { key, version, value_bytes: self.value.len() as u32 });
    }

    /// Send the batch.
    pub fn send(&mut self) -> Result<(), ClientError> {
        self.sent_at = Instant::now();
        self.connection.send()
    }

    /// Take and judge the answers to the batch.
    pub fn receive(&mut self, tally: &mut Tally) -> Result<(), ClientError> {
        let mut pending = std::mem::take(&mut self.pending);
        for request in pending.drain(..) {
            match request {
                Pending::Set { key, version, value_bytes } => {
                    self.connection.expect("STORED")?;
                    self.ledger.acknowledge(key, version);
                    tally.sets += 1;
                    tally.value_bytes_written += u64::from(value_bytes);
                }
                Pending::Get { key, acknowledged_before } => self.judge(key, acknowledged_before, tally)?,
            }
            tally.answered_after(self.sent_at.elapsed().as_nanos() as u64);
        }
        self.pending = pending;
        Ok(())
    }

    fn judge(&mut self, key: u32, acknowledged_before: u32, tally: &mut Tally) -> Result<(), ClientError> {
        self.key_text.clear();
        self.workload.push_key(key, &mut self.key_text);
        let Some(value) = self.connection.get_answer(&self.key_text)? else {
            tally.misses += 1;
            let is_own = key % self.of == self.number;
            if is_own && self.missed.len() < LOAD_PIPELINE_MAX && !self.missed.contains(&key) {
                self.missed.push(key);
            }
            return Ok(());
        };
        let possible = acknowledged_before..=self.ledger.issued(key);
        let mut verdict = self.workload.verify(key, possible, value);
        if let (Ok(version), Scrutiny::EveryByte) = (verdict, self.scrutiny) {
            verdict = self.workload.compare(key, version, value, &mut self.value).map(|()| version);
        }
        match verdict {
            Ok(_) => tally.hits += 1,
            Err(fault) => {
                let (number, text) = (self.number, &self.key_text);
                tally.wrong(|| format!("get {} on connection {number}: {fault}", String::from_utf8_lossy(text)));
            }
        }
        Ok(())
    }
}

/// More than a request or an answer has beside its value.
const OVERHEAD_BYTES_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::scripted;
    use crate::load::workload::KeyChoice;
    use std::time::Duration;

    fn workload() -> Workload {
        Workload { seed: 5, keys: 10, choice: KeyChoice::Uniform, value_bytes: (100..=100).into(), gets_per_set: 1 }
    }

    /// What a session finds when it has written key 4 twice and then reads it, and the server says
    /// `second` to that.
    fn verdict(answer: &[u8]) -> Tally {
        let (workload, ledger) = (workload(), Ledger::new(10));
        let script = [b"STORED\r\nSTORED\r\n", answer].concat();
        let connection = Connection::open(scripted::answering(&script, 1000), Duration::from_secs(20)).unwrap();
        let mut session = Session::new(connection, &workload, &ledger, 1, 3);
        session.scrutiny = Scrutiny::EveryByte;
        let mut tally = Tally::default();
        session.set(4);
        session.set(4);
        session.send().unwrap();
        session.receive(&mut tally).unwrap();
        session.get(4);
        session.send().unwrap();
        session.receive(&mut tally).unwrap();
        assert_eq!((tally.sets, ledger.acknowledged(4), session.take_missed().is_some()), (2, 2, tally.misses == 1));
        tally
    }

    fn value_answer(version: u32, corrupt: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut value = Vec::new();
        workload().value(4, version, &mut value);
        corrupt(&mut value);
        let head = format!("VALUE load:0000000004 0 {}\r\n", value.len());
        [head.as_bytes(), &value, b"\r\nEND\r\n"].concat()
    }

    #[test]
    fn a_right_answer_is_a_hit_and_a_miss_is_remembered() {
        let hit = verdict(&value_answer(2, |_| {}));
        assert_eq!((hit.hits, hit.misses, hit.wrong, hit.value_bytes_written), (1, 0, 0, 200));
        let miss = verdict(b"END\r\n");
        assert_eq!((miss.hits, miss.misses, miss.wrong), (0, 1, 0));
    }

    #[test]
    fn wrong_answers_are_counted_and_the_first_is_named() {
        let flipped = verdict(&value_answer(2, |value| value[60] ^= 4));
        assert_eq!((flipped.hits, flipped.wrong), (0, 1));
        let text = flipped.first_wrong.unwrap();
        assert!(text.contains("load:0000000004 on connection 1") && text.contains("checksum"), "{text}");
        let old = verdict(&value_answer(1, |_| {}));
        assert_eq!(old.wrong, 1, "a version that was overwritten, and that acknowledged, must not come back");
        let text = old.first_wrong.unwrap();
        assert!(text.contains("it is version 1; possible were 2 to 2"), "{text}");
        assert_eq!(verdict(&value_answer(3, |_| {})).wrong, 1, "nobody has written version 3");
        assert_eq!(verdict(&value_answer(2, |value| value.truncate(40))).wrong, 1);
    }

    #[test]
    fn each_session_walks_its_own_keys_once() {
        let (workload, ledger) = (workload(), Ledger::new(10));
        let mut seen = Vec::new();
        for number in 0..3 {
            let connection = Connection::open(scripted::answering(b"", 1), Duration::from_secs(20)).unwrap();
            let mut session = Session::new(connection, &workload, &ledger, number, 3);
            assert!((0..10).all(|key| session.own_key(key) % 3 == number && session.own_key(key) < 10));
            while let Some(key) = session.next_own_key() {
                assert_eq!(session.own_key(key), key);
                seen.push(key);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }
}
