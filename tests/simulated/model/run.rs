//! One run of the model test: random commands to the engine and to the oracle, compared after each.
//!
//! Where memory decides (eviction), the oracle is told: before and after each command every key
//! involved is looked up in the store, which changes nothing. A key that is gone is accepted only
//! if the store may evict, and enough was appended since the key was written for the tail to have
//! come by. A key that is there must be exactly what the oracle knows.

use super::command::{Command, Generator};
use super::oracle::{self, Known, World};
use crate::support::harness::Client;
use remora::base::time::UnixSeconds;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub shard_bytes: usize,
    pub shards: usize,
    pub item_bytes_max: usize,
    pub value_bytes_max: usize,
    pub keys: usize,
    pub evict: bool,
    /// -M, and more than fits: stores are refused.
    pub overfull: bool,
    pub commands: usize,
}

const OUT_OF_MEMORY: &[u8] = b"SERVER_ERROR out of memory storing object\r\n";

/// Two values together nearer to -I than this may or may not fit: header, key and options take
/// their part.
const ITEM_OVERHEAD_BYTES_MAX: usize = 400;

/// Stands for the CAS of an item that expired as it was written, and was not told: nothing that a
/// client sends equals it.
const CAS_UNKNOWN: u64 = 1 << 62;

/// Commands between two dumps of all items.
const DUMPED_EVERY: usize = 150;

/// Commands shown when something is wrong.
const HISTORY_MAX: usize = 12;
/// Characters shown of each.
const HISTORY_CHARS_MAX: usize = 100;

pub struct Run<'e> {
    setup: Setup,
    client: Client<'e>,
    known: HashMap<Vec<u8>, Known>,
    /// When each key was last written, in bytes appended to all logs.
    written_at: HashMap<Vec<u8>, u64>,
    flush_due: Option<u32>,
    /// Delayed flushes that were executed.
    pub flushes: u64,
    /// Keys that went because memory was needed.
    pub evicted: u64,
    /// Commands on keys that were there.
    pub hits: u64,
    /// Stores refused because live items fill the memory.
    pub refused: u64,
    steps: usize,
    /// The last commands, and when.
    history: VecDeque<String>,
}

impl<'e> Run<'e> {
    pub fn new(setup: Setup, client: Client<'e>) -> Self {
        Run {
            setup,
            client,
            known: HashMap::new(),
            written_at: HashMap::new(),
            flush_due: None,
            flushes: 0,
            evicted: 0,
            hits: 0,
            refused: 0,
            steps: 0,
            history: VecDeque::new(),
        }
    }

    /// These commands of the run; `between` is called after each, with its number and the clock.
    pub fn some(
        &mut self,
        commands: Range<usize>,
        generator: &mut Generator,
        mut between: impl FnMut(usize, UnixSeconds),
    ) {
        for number in commands {
            self.client.now.0 += [0, 0, 0, 0, 1, 1, 2, 15][generator.rng.usize(0..8)];
            let command = generator.command();
            self.step(&command);
            if generator.known_cas.len() > 64 {
                generator.known_cas.clear();
            }
            let cas = command.keys().iter().filter_map(|key| self.known.get(key)).map(|item| item.cas).next();
            generator.known_cas.extend(cas);
            if number % DUMPED_EVERY == 0 {
                self.check_dump();
            }
            between(number, self.client.now);
        }
    }

    /// The server of `client`, which followed and holds all that this one's does, is the primary
    /// from now on.
    pub fn go_over_to(&mut self, client: Client<'e>) {
        let keys: Vec<Vec<u8>> = self.known.keys().cloned().collect();
        keys.iter().for_each(|key| self.reconcile(key));
        let (now, appended_before) = (self.client.now, self.appended_bytes());
        self.client = client;
        self.client.now = now;
        let more = self.appended_bytes().wrapping_sub(appended_before);
        self.written_at.values_mut().for_each(|at| *at = at.wrapping_add(more));
        for key in keys {
            // Last access and fetched are each server's own.
            if let (Some(item), Some(probe)) = (self.known.get(&key).cloned(), self.probe(&key)) {
                let Known { fetched, accessed, .. } = probe;
                self.known.insert(key.clone(), Known { fetched, accessed, ..item });
            }
            self.reconcile(&key);
        }
        self.history.push_back("a promotion".into());
    }

    /// A flush_all, `delay` seconds from now.
    pub fn flush(&mut self, delay: i64) {
        self.step(&Command::Flush { delay });
    }

    fn step(&mut self, command: &Command) {
        let now = self.client.now.0;
        self.steps += 1;
        let sent = String::from_utf8_lossy(&command.to_bytes()).chars().take(HISTORY_CHARS_MAX).collect::<String>();
        self.history.push_back(format!("{now}: {sent}"));
        if self.history.len() > HISTORY_MAX {
            self.history.pop_front();
        }
        if self.flush_due.is_some_and(|due| due <= now) {
            self.known.clear();
            self.flush_due = None;
            self.flushes += 1;
            // It is carried out by whatever comes first: not by the test's own look into the store.
            self.client.send(b"mn\r\n");
        }
        self.known.retain(|_, item| !item.is_over(now));
        let keys = command.keys();
        keys.iter().for_each(|key| self.reconcile(key));
        let actual = self.client.send(&command.to_bytes());
        let answer = String::from_utf8_lossy(&actual).chars().take(HISTORY_CHARS_MAX).collect::<String>();
        self.history.push_back(format!("answered {answer}"));
        match command {
            Command::Get { keys, cas, touch } => self.check_get(keys, *cas, *touch, &actual),
            Command::Flush { delay } => self.check_flush(*delay, &actual),
            _ => self.check_one(&keys[0], command, &actual),
        }
        self.known.retain(|_, item| !item.is_over(now));
        keys.iter().for_each(|key| self.reconcile(key));
    }

    /// A dump shows what is known, and nothing else.
    fn check_dump(&mut self) {
        let now = self.client.now.0;
        self.known.retain(|_, item| !item.is_over(now));
        let keys: Vec<Vec<u8>> = self.known.keys().cloned().collect();
        keys.iter().for_each(|key| self.reconcile(key));
        let mut expected: Vec<String> = self.known.iter().map(|(key, item)| dumped(key, item)).collect();
        expected.sort();
        let actual = self.client.send(b"lru_crawler metadump all\r\n");
        let text = String::from_utf8_lossy(&actual);
        let lines = text.strip_prefix("OK\r\n").and_then(|text| text.strip_suffix("END\r\n"));
        let lines = lines.unwrap_or_else(|| panic!("{text}")).lines();
        // A test may have a client of its own beside the run.
        let own = lines.filter(|line| !line.starts_with("key=beside%3A"));
        let mut lines: Vec<String> = own.map(without_size).collect();
        lines.sort();
        if let Some(wrong) = lines.iter().zip(&expected).find(|(line, expected)| line != expected) {
            self.fail(&format!("a dump shows {:?} where {:?} was expected", wrong.0, wrong.1));
        }
        if lines.len() != expected.len() {
            self.fail(&format!("a dump shows {} items, not {}", lines.len(), expected.len()));
        }
    }

    fn check_flush(&mut self, delay: i64, actual: &[u8]) {
        self.expect(actual == b"OK\r\n", actual);
        if delay > 0 {
            self.flush_due = Some(self.client.now.0 + delay as u32);
        } else {
            self.known.clear();
            self.flush_due = None;
        }
    }

    fn check_get(&mut self, keys: &[Vec<u8>], cas: bool, touch: Option<i64>, actual: &[u8]) {
        let now = self.client.now.0;
        let mut rest = actual;
        for key in keys {
            let mut item = self.known.get(key).cloned().filter(|item| !item.is_over(now));
            let block = oracle::get(&mut item, key, cas, touch, now);
            if let (Some(item), Some(after)) = (item, rest.strip_prefix(&block[..])) {
                rest = after;
                self.hits += 1;
                self.known.insert(key.clone(), item);
            } else if self.known.get(key).is_some_and(|item| !item.is_over(now)) {
                self.forget(key);
            }
        }
        self.expect(rest == b"END\r\n", actual);
    }

    /// A command on one key: the answer must be the one for the item as it is known, or, where it
    /// may have been evicted under the command's own lock, the one for a miss.
    fn check_one(&mut self, key: &[u8], command: &Command, actual: &[u8]) {
        let probe = self.probe(key);
        let cas_in_answer = String::from_utf8_lossy(actual)
            .split([' ', '\r'])
            .find_map(|word| word.strip_prefix('c')?.parse::<u64>().ok());
        let next_cas = probe.as_ref().map(|probe| probe.cas).or(cas_in_answer).unwrap_or(CAS_UNKNOWN);
        let before = self.known.get(key).cloned();
        // Only the classic commands hide an error.
        let is_meta = matches!(command, Command::Meta { .. });
        let refused = actual == OUT_OF_MEMORY || (actual.is_empty() && !is_meta);
        if self.setup.overfull && refused && self.matches(before.as_ref(), probe.as_ref()) {
            self.refused += 1;
            return;
        }
        let mut expected = Vec::new();
        for (item, join_too_large) in [(&before, false), (&before, true), (&None, false)] {
            if item.is_none() && before.is_some() && !self.may_be_evicted(key) {
                continue;
            }
            let world =
                World { now: self.client.now.0, next_cas, join_too_large, item_bytes_max: self.setup.item_bytes_max };
            let result = oracle::perform(item.clone(), command, world);
            if join_too_large && !self.is_near_limit(item.as_ref(), command) {
                continue;
            }
            if result.answer == actual && self.matches(result.item.as_ref(), probe.as_ref()) {
                self.hits += u64::from(item.is_some());
                self.accept(key, before.is_some() && item.is_none(), result);
                return;
            }
            expected.push((String::from_utf8_lossy(&result.answer).into_owned(), result.item));
        }
        self.fail(&format!(
            "answered {:?}, the store has {probe:?}; known before: {before:?}; expected one of: {expected:?}",
            String::from_utf8_lossy(actual)
        ));
    }

    fn accept(&mut self, key: &[u8], evicted: bool, result: oracle::Result) {
        self.evicted += u64::from(evicted);
        if result.wrote {
            self.written_at.insert(key.to_vec(), self.appended_bytes());
        }
        match result.item {
            Some(item) => self.known.insert(key.to_vec(), item),
            None => self.known.remove(key),
        };
    }

    fn is_near_limit(&self, item: Option<&Known>, command: &Command) -> bool {
        let (Command::Store { value, .. } | Command::Meta { value: Some(value), .. }) = command else { return false };
        let joined_bytes = value.len() + item.map_or(0, |item| item.value.len());
        joined_bytes + ITEM_OVERHEAD_BYTES_MAX > self.setup.item_bytes_max
    }

    /// Compare what is known of a key with what is there.
    fn reconcile(&mut self, key: &[u8]) {
        let probe = self.probe(key);
        match (self.known.get(key), &probe) {
            (Some(_), None) => self.forget(key),
            (known, _) if self.matches(known, probe.as_ref()) => {}
            (known, _) => self
                .fail(&format!("{} is known as {known:?}, but the store has {probe:?}", String::from_utf8_lossy(key))),
        }
    }

    fn matches(&self, known: Option<&Known>, found: Option<&Known>) -> bool {
        known.filter(|item| !item.is_over(self.client.now.0)) == found
    }

    fn forget(&mut self, key: &[u8]) {
        if !self.may_be_evicted(key) {
            self.fail(&format!("{:?} is gone, but nothing can have evicted it", String::from_utf8_lossy(key)));
        }
        self.evicted += 1;
        self.known.remove(key);
    }

    /// A record goes only when the tail reaches it: at the earliest when a good part of a log was
    /// appended since.
    fn may_be_evicted(&self, key: &[u8]) -> bool {
        let written_at = self.written_at.get(key).copied().unwrap_or(0);
        self.setup.evict && self.appended_bytes().wrapping_sub(written_at) >= self.setup.shard_bytes as u64 / 4
    }

    fn appended_bytes(&self) -> u64 {
        self.client.engine.store().stats().counts.appended_bytes
    }

    fn probe(&mut self, key: &[u8]) -> Option<Known> {
        let now = self.client.now;
        self.client.look(key, |item| {
            let mut value = Vec::new();
            item.value().copy_to(&mut value);
            Known {
                value,
                flags: item.client_flags(),
                expires: item.expiry().to_bits().into(),
                cas: item.cas(),
                stale: item.stale(),
                token: item.token_sent(),
                fetched: item.hit_before(),
                accessed: now.0 - item.idle_seconds(now),
            }
        })
    }

    fn expect(&self, holds: bool, actual: &[u8]) {
        if !holds {
            self.fail(&format!("answered {:?}", String::from_utf8_lossy(actual)));
        }
    }

    fn fail(&self, what: &str) -> ! {
        panic!("step {}: {what}\nthe last commands: {:#?}", self.steps, self.history);
    }
}

/// The line of an item in a dump, but for its size.
fn dumped(key: &[u8], item: &Known) -> String {
    let encoded = |byte: &u8| match *byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => char::from(*byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    let key: String = key.iter().map(encoded).collect();
    let expires = if item.expires == 0 { -1 } else { item.expires.cast_signed() };
    let fetched = if item.fetched { "yes" } else { "no" };
    let Known { accessed, cas, flags, .. } = item;
    format!("key={key} exp={expires} la={accessed} cas={cas} fetch={fetched} cls=1 flags={flags} ")
}

/// The oracle knows no records.
fn without_size(line: &str) -> String {
    let words = line.split_inclusive(' ').filter(|word| !word.starts_with("size="));
    words.collect()
}
