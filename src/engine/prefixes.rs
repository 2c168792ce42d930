//! `stats detail`: what is done to keys that begin alike, up to the first colon.
//!
//! Off by default, and then one relaxed load per command, of a word that says as well whether
//! somebody watches ([`super::watched`]). While on, all workers count under one
//! mutex, as memcached does: it is a tool for a look, not for always. At most
//! [`STATS_PREFIXES_MAX`] prefixes are counted.

use crate::base::limits::STATS_PREFIXES_MAX;
use crate::protocol::answer::PrefixCounts;
use crate::protocol::reply::Rows;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

/// What ends a prefix unless -D says otherwise.
pub(super) const DELIMITER_DEFAULT: u8 = b':';

/// What was done to a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Use {
    Get { hit: bool },
    Set,
    Delete,
}

/// Who wants to know of uses of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Observer {
    /// `stats detail`.
    Counters = 1,
    /// Clients that watch.
    Watchers = 2,
}

/// The counters, by prefix.
pub(super) struct Prefixes {
    delimiter: u8,
    /// A bit for each observer.
    observed: AtomicU8,
    counts: Mutex<BTreeMap<Vec<u8>, PrefixCounts>>,
}

impl Default for Prefixes {
    fn default() -> Prefixes {
        Prefixes::new(DELIMITER_DEFAULT, false)
    }
}

impl Prefixes {
    /// Counters of prefixes that `delimiter` ends.
    pub(super) fn new(delimiter: u8, enabled: bool) -> Prefixes {
        let prefixes = Prefixes { delimiter, observed: AtomicU8::new(0), counts: Mutex::default() };
        prefixes.enable(enabled);
        prefixes
    }

    /// What ends a prefix.
    pub(super) fn delimiter(&self) -> u8 {
        self.delimiter
    }

    pub(super) fn enable(&self, enabled: bool) {
        self.observe(Observer::Counters, enabled);
    }

    /// Somebody wants to know of uses, or does no more.
    pub(super) fn observe(&self, observer: Observer, wants: bool) {
        if wants {
            self.observed.fetch_or(observer as u8, Relaxed);
        } else {
            self.observed.fetch_and(!(observer as u8), Relaxed);
        }
    }

    /// Whether anybody wants to know of uses.
    #[inline(always)]
    pub(super) fn are_observed(&self) -> bool {
        self.observed.load(Relaxed) != 0
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.observed.load(Relaxed) & Observer::Counters as u8 != 0
    }

    /// Count a use of `key`, if counting is on and the key has a prefix.
    #[inline]
    pub(super) fn record(&self, key: &[u8], what: Use) {
        if self.is_enabled() {
            self.count(key, what);
        }
    }

    #[cold]
    fn count(&self, key: &[u8], what: Use) {
        let Some(end) = key.iter().position(|byte| *byte == self.delimiter) else {
            return;
        };
        let prefix = &key[..end];
        let mut all = self.lock();
        if !all.contains_key(prefix) {
            if all.len() >= STATS_PREFIXES_MAX {
                return;
            }
            all.insert(prefix.to_vec(), PrefixCounts::default());
        }
        let counts = all.get_mut(prefix).expect("it was inserted above");
        match what {
            Use::Get { hit } => {
                counts.gets += 1;
                counts.hits += u64::from(hit);
            }
            Use::Set => counts.sets += 1,
            Use::Delete => counts.deletes += 1,
        }
    }

    /// A row for each.
    pub(super) fn dump(&self, out: &mut Rows<'_>) {
        self.lock().iter().for_each(|(prefix, counts)| out.prefix(prefix, counts));
    }

    /// Forget all counts.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, PrefixCounts>> {
        self.counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Reply;

    fn dump(prefixes: &Prefixes) -> String {
        let mut out = Vec::new();
        prefixes.dump(&mut Rows::new(Reply::Text, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn counts_by_what_stands_before_the_first_colon() {
        let prefixes = Prefixes::default();
        prefixes.record(b"a:b", Use::Set);
        assert_eq!(dump(&prefixes), "", "off by default");
        prefixes.enable(true);
        prefixes.record(b"a:b:c", Use::Get { hit: false });
        prefixes.record(b"a:x", Use::Get { hit: true });
        prefixes.record(b"a:x", Use::Set);
        prefixes.record(b"b:", Use::Delete);
        prefixes.record(b"none", Use::Set);
        assert_eq!(dump(&prefixes), "PREFIX a get 2 hit 1 set 1 del 0\r\nPREFIX b get 0 hit 0 set 0 del 1\r\n");
        prefixes.clear();
        assert_eq!(dump(&prefixes), "");
    }

    #[test]
    fn the_number_of_prefixes_is_bounded() {
        let prefixes = Prefixes::default();
        prefixes.enable(true);
        for number in 0..STATS_PREFIXES_MAX + 10 {
            prefixes.record(format!("{number}:").as_bytes(), Use::Set);
        }
        assert_eq!(dump(&prefixes).lines().count(), STATS_PREFIXES_MAX);
        prefixes.record(b"0:", Use::Set);
        assert!(dump(&prefixes).contains("PREFIX 0 get 0 hit 0 set 2 del 0\r\n"), "known ones go on counting");
    }
}
