//! Who may write to a shard: the clients of this server, or nobody but a follower.
//!
//! Each shard has a **gate**, which is open while the shard takes writes from clients. It is one
//! word: open or closed, the change that made it so, and whom a closed one names as the primary to
//! write to. A request is refused early where its shard's gate was closed before it was executed.
//! That look proves nothing, so whoever writes looks again with the shard's lock held
//! ([`Shard::lock_open`]), before anything is prepared. A gate changes only with that lock held. So
//! once a gate is closed, the head is final and published, and nobody has to wait for the turns of
//! workers: what a turn tries to write later is refused.
//!
//! **Reigns.** Changes of gates are counted, for the whole store. The reign of a shard is the
//! number of the change that opened or closed its gate. So a reign never comes again, and one
//! number remembers all gates of a moment ([`Store::reign`]): a gate has changed since then if its
//! reign is a later one.
//!
//! **What was written before a gate was closed** may still wait for replicas. Mostly its [`Fate`]
//! cannot be known: the shard is another server's, and its log may part from the one here. It can
//! where the gate was closed for an heir ([`Store::close_gates_for_heir`]). Until that one has said
//! what has become of its term, nothing is followed, and what replicas tell is of the log here.
//! Then it is settled ([`Store::settle_gates`]) whether the heir's log goes on from this one.
//!
//! One thread changes gates, the one that carries out orders.

use super::shard::Shard;
use super::sizing::SHARDS_MAX;
use super::writer::{Wanted, Writer};
use super::{NoRoom, Place, Store};
use crate::base::shards::ShardSet;
use crate::sys::sync::{AtomicU64, Mutex, MutexGuard, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::Arc;

/// The number of a change of gates: see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reign(u64);

impl Reign {
    /// Of all gates, before any has changed.
    pub const BIRTH: Reign = Reign(0);

    /// The one that the next change begins.
    #[must_use]
    pub fn next(self) -> Reign {
        Reign(self.0 + 1)
    }
}

/// The shard takes no writes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("shard {shard} takes no writes here")]
pub struct Closed {
    /// Which.
    pub shard: u32,
}

/// Who takes the writes of a shard that takes none here, as its gate names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Primary {
    /// Where clients write to it: HOST:PORT, or words where its port is not known.
    pub clients: Box<str>,
    /// Its replication port, HOST:PORT, where that is known: it takes forwarded requests there.
    pub replication: Option<Box<str>>,
}

/// Why a command has written nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// Nothing could be appended.
    NoRoom(NoRoom),
    /// It is written elsewhere.
    Closed(Closed),
}

impl From<NoRoom> for Unwritten {
    fn from(no_room: NoRoom) -> Unwritten {
        Unwritten::NoRoom(no_room)
    }
}

impl From<Closed> for Unwritten {
    fn from(closed: Closed) -> Unwritten {
        Unwritten::Closed(closed)
    }
}

/// A shard's gate. Bit 0: closed. Bits 1 to 15: whom it names, 0 for nobody. The others: the reign.
pub struct Gate(AtomicU64);

const CLOSED: u64 = 1;
const PRIMARY_SHIFT: u32 = 1;
const PRIMARY_MAX: u64 = (1 << 15) - 1;
const REIGN_SHIFT: u32 = 16;
const _: () = assert!((SHARDS_MAX as u64) < PRIMARY_MAX);

impl Gate {
    /// As it is before any change.
    pub fn new(is_open: bool) -> Gate {
        Gate(AtomicU64::new(if is_open { 0 } else { CLOSED }))
    }

    /// Whether the shard takes writes. Final with the shard's lock held, a little old without. Who
    /// finds it open sees what was stored before it was opened.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.0.load(Acquire) & CLOSED == 0
    }

    /// Since which change.
    pub fn reign(&self) -> Reign {
        Reign(self.0.load(Relaxed) >> REIGN_SHIFT)
    }

    fn primary(&self) -> usize {
        (self.0.load(Relaxed) >> PRIMARY_SHIFT & PRIMARY_MAX) as usize
    }

    /// Take no writes from now on; `reign` begins, if it took some. With the shard's lock held.
    pub fn close(&self, reign: Reign, primary: usize) {
        let reign = if self.is_open() { reign } else { self.reign() };
        self.0.store(reign.0 << REIGN_SHIFT | (primary as u64) << PRIMARY_SHIFT | CLOSED, Release);
    }

    /// Take writes from now on; `reign` begins, if it took none. With the shard's lock held.
    pub fn open(&self, reign: Reign) {
        if !self.is_open() {
            self.0.store(reign.0 << REIGN_SHIFT, Release);
        }
    }
}

/// What has become of what was written in an earlier reign of a shard. In the order in which they
/// outweigh each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It is in the log here, which replicas copy.
    Here,
    /// The same. An heir has had this server stop, and has not said what became of its term.
    Undecided,
    /// Another server is the primary, and its log goes on from all that was written here.
    GoesOn,
    /// Nobody knows here.
    Lost,
}

/// What is known of the fate of what was written in a shard. Bit 0: it is undecided. Bit 1: an
/// heir's log goes on from it. The others: the reign before which it is lost.
#[derive(Default)]
pub struct Known(AtomicU64);

const UNDECIDED: u64 = 1;
const GOES_ON: u64 = 2;
const LOST_SHIFT: u32 = 2;

impl Known {
    /// Whatever was written before this reign is lost.
    fn lose(&self, reign: Reign) {
        self.0.store(reign.0 << LOST_SHIFT, Release);
    }

    /// What was not lost before is undecided, goes on elsewhere, or, with neither bit, is here.
    fn set(&self, bits: u64) {
        let lost = self.0.load(Relaxed) & !(UNDECIDED | GOES_ON);
        self.0.store(lost | bits, Release);
    }
}

/// What the gates of a store have in common.
pub(super) struct Gates {
    /// How many changes there have been.
    changes: AtomicU64,
    /// Whom gates name. Number n is the one before place n.
    primaries: Mutex<Vec<Arc<Primary>>>,
}

impl Gates {
    pub(super) fn new() -> Gates {
        Gates { changes: AtomicU64::new(0), primaries: Mutex::new(Vec::new()) }
    }

    fn primaries(&self) -> MutexGuard<'_, Vec<Arc<Primary>>> {
        self.primaries.lock().expect("no thread panics while it holds the primaries")
    }
}

impl Store {
    /// These shards take no writes from now on; clients are told to write to `primary` (HOST:PORT),
    /// if there is one. When this returns their heads are final, and published.
    pub fn close_gates(&self, shards: impl IntoIterator<Item = usize>, primary: Option<&str>) {
        let primary = primary.map(|clients| Primary { clients: clients.into(), replication: None });
        self.close(shards, primary.as_ref(), false);
    }

    /// The same for a primary whose replication port is known, too.
    pub fn close_gates_for(&self, shards: impl IntoIterator<Item = usize>, primary: &Primary) {
        self.close(shards, Some(primary), false);
    }

    /// The same for whoever is about to become the primary. What becomes of what was written here
    /// is settled later ([`Store::settle_gates`]), before anybody is followed.
    pub fn close_gates_for_heir(&self, shards: impl IntoIterator<Item = usize>, heir: &Primary) {
        self.close(shards, Some(heir), true);
    }

    /// The gates of these shards were closed for an heir. Its log `goes_on` from all that was
    /// written here, or this is not known.
    pub fn settle_gates(&self, shards: impl IntoIterator<Item = usize>, goes_on: bool) {
        for shard in shards {
            let shard = &self.shards[shard];
            let _writer = shard.lock();
            if goes_on { shard.known.set(GOES_ON) } else { shard.known.lose(shard.reign()) }
        }
    }

    fn close(&self, shards: impl IntoIterator<Item = usize>, primary: Option<&Primary>, is_for_heir: bool) {
        let primary = primary.map_or(0, |primary| self.number_of(primary));
        let reign = self.reign().next();
        shards.into_iter().for_each(|shard| self.shards[shard].close(reign, primary, is_for_heir));
        // Last: what is written in a shard that is still open is not of the reign to come.
        self.gates.changes.store(reign.0, Release);
    }

    /// These shards take writes from now on. Nobody may follow with them. What was written in an
    /// earlier reign is lost to whoever waits for it.
    pub fn open_gates(&self, shards: impl IntoIterator<Item = usize>) {
        self.open(shards, false);
    }

    /// The same for gates that were closed for an heir that has given up: the log here goes on.
    pub fn open_gates_again(&self, shards: impl IntoIterator<Item = usize>) {
        self.open(shards, true);
    }

    fn open(&self, shards: impl IntoIterator<Item = usize>, goes_on: bool) {
        let reign = self.reign().next();
        // First: what is written in a shard that is open already is of the reign to come.
        self.gates.changes.store(reign.0, Release);
        let changing = self.flushes.change();
        for shard in shards {
            let shard = &self.shards[shard];
            let mut writer = shard.lock();
            // Before it is open: who finds it so finds what is due there.
            self.flushes.count(writer.pending_flush, &changing);
            shard.open(&mut writer, reign, goes_on);
        }
    }

    /// How many changes there have been. A shard's reign that is later shows that its gate has
    /// changed since this was asked.
    pub fn reign(&self) -> Reign {
        Reign(self.gates.changes.load(Acquire))
    }

    /// Whether the shard there takes writes, or did a moment ago.
    #[inline]
    pub fn takes_writes(&self, place: Place) -> bool {
        self.shard(place).gate.is_open()
    }

    /// The same of the shard with this number.
    pub fn is_open(&self, shard: u32) -> bool {
        self.shards[shard as usize].gate.is_open()
    }

    /// The shards that take writes.
    pub fn writable(&self) -> ShardSet {
        (0..self.shards.len()).filter(|shard| self.shards[*shard].gate.is_open()).collect()
    }

    /// Whether any does.
    pub fn takes_any(&self) -> bool {
        self.shards.iter().any(|shard| shard.gate.is_open())
    }

    /// The first shard that takes none, if there is one.
    pub fn first_closed(&self) -> Option<Closed> {
        let shard = self.shards.iter().find(|shard| !shard.gate.is_open())?;
        Some(Closed { shard: shard.number })
    }

    /// Who takes the writes of a shard that takes none here, if that is known.
    pub fn primary_of(&self, closed: Closed) -> Option<Arc<Primary>> {
        let primaries = self.gates.primaries();
        let number = self.shards[closed.shard as usize].gate.primary();
        Some(primaries[number.checked_sub(1)?].clone())
    }

    /// The primary that clients reach at this address, if a gate names it or did of late.
    pub fn primary_at(&self, clients: &str) -> Option<Arc<Primary>> {
        self.gates.primaries().iter().find(|primary| &*primary.clients == clients).cloned()
    }

    /// Of a primary: each is kept once, for as long as a gate names it. So there are never more of
    /// them than shards, and one.
    fn number_of(&self, primary: &Primary) -> usize {
        let mut primaries = self.gates.primaries();
        if let Some(known) = primaries.iter().position(|known| **known == *primary) {
            return known + 1;
        }
        let is_named = |number: usize| self.shards.iter().any(|shard| shard.gate.primary() == number);
        match (0..primaries.len()).find(|at| !is_named(at + 1)) {
            Some(free) => {
                primaries[free] = Arc::new(primary.clone());
                free + 1
            }
            None => {
                primaries.push(Arc::new(primary.clone()));
                primaries.len()
            }
        }
    }
}

impl Shard {
    /// Since when it takes writes, or takes none.
    pub fn reign(&self) -> Reign {
        self.gate.reign()
    }

    /// What has become of what was written since `reign` was the store's.
    pub fn fate(&self, reign: Reign) -> Fate {
        let (gate, known) = (self.gate.0.load(Acquire), self.known.0.load(Acquire));
        if reign.0 < known >> LOST_SHIFT {
            Fate::Lost
        } else if known & UNDECIDED != 0 {
            Fate::Undecided
        } else if known & GOES_ON != 0 && gate & CLOSED != 0 && gate >> REIGN_SHIFT > reign.0 {
            Fate::GoesOn
        } else {
            Fate::Here
        }
    }

    /// Take the lock, to write what clients want.
    #[inline]
    pub(super) fn lock_open(&self) -> Result<MutexGuard<'_, Writer>, Closed> {
        let writer = self.lock();
        if self.gate.is_open() { Ok(writer) } else { Err(Closed { shard: self.number }) }
    }

    fn close(&self, reign: Reign, primary: usize, is_for_heir: bool) {
        let mut writer = self.lock();
        let was_open = self.gate.is_open();
        // First: who sees the gate closed sees this.
        if was_open {
            if is_for_heir { self.known.set(UNDECIDED) } else { self.known.lose(reign) }
        }
        self.gate.close(reign, primary);
        if was_open {
            self.control().end_serving();
        }
        // Nobody's append waits for room any more: reclaim, which workers do for those who wait,
        // ends.
        writer.wanted = Wanted::default();
        writer.crawl = None;
        self.want_attention(false);
        self.publish();
    }

    fn open(&self, writer: &mut Writer, reign: Reign, goes_on: bool) {
        if goes_on {
            self.known.set(0);
        } else if !self.gate.is_open() {
            self.known.lose(reign);
        }
        self.gate.open(reign);
        // What a guard has allowed before was asked of other replicas.
        writer.floor = 0;
        // What its primary had begun to give back, it gives back by itself now.
        if self.is_resizing(writer) {
            self.want_attention(true);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::store::StoreConfig;

    /// The fate of what was written at the beginning of a shard, whatever becomes of its gate.
    #[test]
    fn what_was_written_has_a_fate_when_gates_change() {
        let heir = Primary { clients: "127.0.0.1:1".into(), replication: None };
        let open = || {
            let config =
                StoreConfig { memory_bytes: 64 << 10, item_bytes_max: 512, shards: Some(1), ..StoreConfig::default() };
            let store = Store::new(config).unwrap();
            let written = store.reign();
            (store, written)
        };
        let sealed = || {
            let (store, written) = open();
            store.close_gates_for_heir([0], &heir);
            assert_eq!(store.shards[0].fate(written), Fate::Undecided);
            (store, written)
        };
        let (store, written) = sealed();
        store.settle_gates([0], true);
        assert_eq!(store.shards[0].fate(written), Fate::GoesOn);
        store.open_gates([0]);
        assert_eq!(store.shards[0].fate(written), Fate::Lost, "the log has gone on elsewhere");
        assert_eq!(store.shards[0].fate(store.reign()), Fate::Here);

        let (store, written) = sealed();
        store.settle_gates([0], false);
        assert_eq!(store.shards[0].fate(written), Fate::Lost);

        let (store, written) = sealed();
        // Between the two steps of opening: nobody else has become the primary.
        store.shards[0].known.set(0);
        assert_eq!(store.shards[0].fate(written), Fate::Here);
        store.open_gates_again([0]);
        assert_eq!(store.shards[0].fate(written), Fate::Here);
        store.close_gates([0], None);
        assert_eq!(store.shards[0].fate(written), Fate::Lost);
    }
}
