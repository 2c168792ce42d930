//! What each command means: the only place. Takes a request, a worker's turn and the clock; changes
//! the store; finds out what the command came to, and has an encoder append that to the output:
//! that of the request, or that of the only protocol that has the command (get, meta commands, wait
//! in text; a get of one key in binary).
//!
//! Each meaning exists once: `set` and `ms` end in one function, and so do `incr` and `ma`,
//! `delete` and `md`, `touch` and `gat`. The reference is memcached 1.6.45; where Remora differs,
//! the place says so.
//!
//! Invariant: a command that finds no room has changed nothing and appended nothing, so it may
//! simply be tried again.
//!
//! | files | what they have |
//! | --- | --- |
//! | `target` | where a request's key belongs, and whether writes to it are taken here |
//! | `retrieve`, `storage`, `arithmetic`, `removal` | what is done to items |
//! | `meta`, `meta_get` | the meta commands, in those terms |
//! | `demands` | reads that demand a state or may be answered by a replica, and tokens of positions |
//! | `flush`, `dump` | all items |
//! | `admin`, `certificates`, `switches` | what is said to the server as a whole, and what clients may do |
//! | [`cluster`](Cluster) | what clients are told of the cluster |
//! | [`watch`], `watched` | what watchers are told of |
//! | [`host`](Host) | what only the server can tell |
//! | [`acks`], [`forwarded`], [`output`] | answers: held for replicas, given by other servers, on their way out |
//! | `lease`, `strong` | how sure this server is of its roles; what strong mode asks of reads |
//! | [`stats`] and its files, `prefixes` | what is counted, and shown |

pub mod acks;
mod admin;
mod arithmetic;
mod certificates;
mod cluster;
mod demands;
mod dump;
mod flush;
pub mod forwarded;
mod host;
mod lease;
mod meta;
mod meta_get;
pub mod output;
mod prefixes;
mod removal;
mod retrieve;
pub mod stats;
mod stats_classes;
mod stats_general;
mod stats_report;
mod stats_settings;
mod stats_subjects;
mod stats_table;
mod storage;
mod strong;
mod switches;
mod target;
pub mod watch;
mod watched;

use crate::base::lease::Lease;
use crate::base::time::{Expiry, UnixSeconds};
use crate::protocol::answer::Done;
use crate::protocol::reply::Rows;
use crate::protocol::text::demand::OwnFlags;
use crate::protocol::text::watch::StoreStatus;
use crate::protocol::{Exptime, ParseLimits, Refusal, Rejection, Reply, Request};
use crate::store::{Closed, NoRoom, RECORD_OVERHEAD_BYTES_MIN, Store, Turn, Unwritten};
pub use acks::AckPolicy;
use admin::Orders;
pub use admin::{OrderTaker, Refused};
pub use certificates::{CertificateTimes, Refresh};
pub use cluster::Cluster;
use cluster::Place;
use dump::Dumps;
pub use host::{Client, Host, Origin};
pub use output::Output;
use prefixes::Prefixes;
use stats::Baseline;
pub use stats::{GlobalStats, WorkerStats, WorkerTotals};
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;
pub use switches::Switches;
pub use target::Target;
use watch::Watch;
pub use watch::{LogSizes, Watcher};

/// The engine: one per process, shared by all workers.
pub struct Engine {
    store: Arc<Store>,
    settings: Settings,
    acks: AckPolicy,
    lease: Arc<Lease>,
    switches: Switches,
    global: GlobalStats,
    prefixes: Prefixes,
    dumps: Dumps,
    watch: Arc<Watch>,
    /// Not 0 where requests need more than to be done ([`watched`] has the bits).
    special: AtomicU8,
    /// What the counters stood at when they were last reset.
    baseline: Mutex<Baseline>,
    started: Instant,
    /// Rows of `stats replication`.
    replication: OnceLock<RowSource>,
    /// Who takes orders to change this server's role.
    orders: OnceLock<Orders>,
    /// This server among others.
    place: OnceLock<Place>,
}

/// Calls what it is given for each of its rows: name and value.
pub type RowSource = Box<dyn Fn(&mut dyn FnMut(&str, &str)) + Send + Sync>;

/// What commands and stats need to know of the configuration. The server fills it; nothing in it
/// changes later.
#[derive(Debug, Clone)]
pub struct Settings {
    /// -I in bytes.
    pub item_bytes_max: usize,
    /// -t.
    pub workers: usize,
    /// Further `stats settings` rows, name and value, that only the server knows (maxconns,
    /// tcpport, ...).
    pub rows: Vec<(&'static str, String)>,
}

/// What a worker lends the engine for one request.
pub struct Context<'w, 't> {
    /// The worker's pass to the store for this turn.
    pub turn: &'w Turn<'t>,
    /// The clock, read once per turn.
    pub now: UnixSeconds,
    /// This worker's counters.
    pub stats: &'w WorkerStats,
    /// A buffer reused by append and prepend.
    pub scratch: &'w mut Vec<u8>,
    /// Keys that gets may still look up in this turn.
    pub keys_left: u32,
    /// What the server knows and the engine does not.
    pub host: &'w dyn Host,
    /// Whose request it is.
    pub client: &'w dyn Client,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Executed; its answer, if any, is in the output. Go on with the next.
    Done,
    /// Executed in part: the output is full, or no more keys may be looked up in this turn. Call
    /// again in the next turn, with this offset.
    Resume(u32),
    /// The same of a dump: it is under way under this number, until it is done or
    /// [`Engine::end_dump`] is called.
    Dump(u32),
    /// A part of a get, executed as a whole. Its line goes on.
    Part,
    /// A part of a get, answered with an error line that stands for the whole get: drop the rest of
    /// its line.
    DropLine,
    /// There is no room until memory is reclaimed: call again in the next turn, with this offset.
    /// What came before the offset (keys of a gat) is done and its answer is in the output. For a
    /// flush_all with a delay the offset is its second; for any other command nothing is done. Also
    /// while certificates are read: the offset is the ticket; and while a read waits for a state:
    /// the offset is until when.
    Park(u32),
    /// The key at this offset (0, but for a further key of a get) is another server's: forward it,
    /// and go on behind it. Nothing is done for it. Only where requests are forwarded.
    Forward(u32),
    /// The connection is to be closed once its output is flushed (quit).
    Close,
    /// Executed: the client watches from now on, under this number ([`Engine::watcher`]). Go on
    /// with the next once it is known whose it is.
    Watch(u32),
    /// The client has said hello. It is not answered yet: that is for who keeps what it asks for.
    Hello,
    /// Of a forwarded request: it belongs elsewhere. Nothing is done, and nothing appended.
    Elsewhere(Closed),
}

/// Which attempt at a request this is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attempt {
    /// 0, or the offset of an earlier [`Outcome::Resume`] or [`Outcome::Park`] of the same request.
    pub resume: u32,
    /// The request has found no room before: look for room before anything is made ready for it.
    pub retried: bool,
    /// Answer with an error where the request would be parked: it has waited long enough.
    pub last_try: bool,
}

/// One request on its way through the engine.
struct Call<'c, 'w, 't> {
    context: &'c mut Context<'w, 't>,
    out: &'c mut Output,
    target: Target<'c>,
    /// It has been parked before.
    retried: bool,
    /// Answer with an error instead of parking.
    last_try: bool,
}

impl Engine {
    /// An engine over `store`.
    pub fn new(store: impl Into<Arc<Store>>, settings: Settings) -> Self {
        Engine {
            store: store.into(),
            watch: Arc::new(Watch::new(settings.workers, LogSizes::default())),
            special: AtomicU8::new(0),
            settings,
            acks: AckPolicy::default(),
            lease: Arc::default(),
            switches: Switches::default(),
            global: GlobalStats::default(),
            prefixes: Prefixes::default(),
            dumps: Dumps::default(),
            baseline: Mutex::default(),
            started: Instant::now(),
            replication: OnceLock::new(),
            orders: OnceLock::new(),
            place: OnceLock::new(),
        }
    }

    /// The same, with what clients may do.
    pub fn with_switches(mut self, switches: Switches) -> Self {
        self.prefixes = Prefixes::new(switches.prefix_delimiter, switches.counts_prefixes);
        self.switches = switches;
        self
    }

    /// The store below, for maintenance by the workers.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What `stats replication` is to show; once.
    pub fn set_replication_rows(&self, rows: RowSource) {
        assert!(self.replication.set(rows).is_ok(), "the rows of replication are set once");
    }

    /// Counters that belong to the process, not to a worker.
    pub fn global(&self) -> &GlobalStats {
        &self.global
    }

    /// What the parser must know.
    pub fn parse_limits(&self) -> ParseLimits {
        ParseLimits { value_bytes_max: self.settings.item_bytes_max - RECORD_OVERHEAD_BYTES_MIN }
    }

    /// Execute `request`, whose `target` was found before.
    pub fn execute(
        &self,
        context: &mut Context<'_, '_>,
        request: &Request<'_>,
        target: Target<'_>,
        attempt: Attempt,
        out: &mut Output,
    ) -> Outcome {
        let Attempt { resume, retried, last_try } = attempt;
        let mut call = Call { context, out, target, retried, last_try };
        let call = &mut call;
        if target.is_closed()
            && let Some(outcome) = self.answer_elsewhere(call, request, resume)
        {
            return outcome;
        }
        // After the look at the gate: one that was opened just now may have brought a flush.
        if let Err(no_room) = self.flush_if_due(call.context) {
            return failed(request, self.refuse(call, no_room.into(), resume, request.reply()));
        }
        if self.is_special(request) {
            return self.perform_specially(call, request, resume);
        }
        self.perform(call, request, resume)
    }

    /// The same as [`Engine::perform`], for what is seldom.
    #[inline(never)]
    fn perform_aside<'c>(&self, call: &mut Call<'c, '_, '_>, request: &Request<'c>, resume: u32) -> Outcome {
        match request {
            Request::Meta(meta) if meta.own.have(OwnFlags::READS) => self.meta_on_demand(call, meta, resume),
            _ => self.perform(call, request, resume),
        }
    }

    /// Do it, and hold the answer until so many `replicas` have what was written.
    #[cold]
    fn perform_held<'c>(
        &self,
        call: &mut Call<'c, '_, '_>,
        request: &Request<'c>,
        resume: u32,
        replicas: u8,
    ) -> Outcome {
        // A touch that is left out of the log would be answered as if replicas had it.
        self.store.log_touches();
        let begin = self.begin_held(call, request, resume);
        let outcome = self.perform_aside(call, request, resume);
        match outcome {
            Outcome::Done => self.hold_answer(call, request.reply(), replicas, begin),
            unfinished => self.note_unfinished(call, unfinished),
        }
        outcome
    }

    /// Do what is asked, and answer. Inlined, so that where nothing is held nothing is kept for it.
    #[inline(always)]
    fn perform<'c>(&self, call: &mut Call<'c, '_, '_>, request: &Request<'c>, resume: u32) -> Outcome {
        match request {
            Request::Get(request) => self.get(call, request, resume),
            Request::GetOne(request) => self.get_single(call, request),
            Request::Store(request) => self.store_classic(call, request),
            Request::Arithmetic(request) => self.arithmetic(call, request),
            Request::Touch(request) => self.touch(call, request),
            Request::Delete(request) => self.delete(call, request),
            Request::Meta(request) => self.meta(call, request),
            Request::Noop(reply) => call.done(*reply, Done::Noop),
            Request::FlushAll { delay, reply } => self.flush_all(call, *delay, *reply, resume),
            Request::CacheMemlimit { mebibytes, reply } => self.cache_memlimit(call, *mebibytes, *reply),
            Request::Verbosity { level, reply } => admin::verbosity(call, *level, *reply),
            Request::Stats { subject, reply } => self.stats(call, subject, *reply, resume),
            Request::Dump(dump) => self.dump(call, *dump, resume),
            Request::DebugTime { change, reply } => admin::debugtime(call, *change, *reply),
            Request::Watch(streams) => self.begin_watching(call, *streams),
            Request::Replication(order) => self.order(call, order),
            Request::Hello(_) => Self::hello(call),
            Request::Discover { what, reply } => self.discover(call, *what, *reply),
            Request::Shutdown { mode, reply } => self.shutdown(call, *mode, *reply),
            Request::Version(reply) => {
                reply.version(call.out.bytes());
                Outcome::Done
            }
            Request::RefreshCertificates(reply) => certificates::refresh(call, *reply, resume),
            Request::Wait { replicas, milliseconds } => self.wait(call, *replicas, *milliseconds),
            Request::Quit(reply) => {
                call.done(*reply, Done::Ok);
                Outcome::Close
            }
        }
    }

    /// Answer a refusal: delete the key that must not stay, then append the answer. Parks when
    /// there is no room to delete, unless it is the `last_try`. What is written elsewhere stays.
    pub fn reject(
        &self,
        context: &mut Context<'_, '_>,
        rejection: &Rejection<'_>,
        last_try: bool,
        out: &mut Output,
    ) -> Outcome {
        if self.unlink_refused(context, rejection) == Err(NoRoom::Now.into()) && !last_try {
            return Outcome::Park(0);
        }
        match rejection.refusal {
            Refusal::TooLarge => {
                context.stats.store_too_large.increment();
                self.note_rejection(context, rejection, StoreStatus::TooLarge);
            }
            Refusal::BadFlushDelay => context.stats.cmd_flush.increment(),
            _ => {}
        }
        rejection.reply.refused(out.bytes(), self.switches.refusal(rejection.refusal));
        Outcome::Done
    }

    /// Answer a store whose body is given up before all of it has arrived, for want of memory.
    /// `rejection` says what else is known of it. It is not tried again: where there is no room to
    /// delete the key, its old value stays.
    pub fn give_up(&self, context: &mut Context<'_, '_>, rejection: &Rejection<'_>, out: &mut Output) {
        let _ = self.unlink_refused(context, rejection);
        context.stats.store_no_memory.increment();
        self.note_rejection(context, rejection, StoreStatus::NoMemory);
        rejection.reply.refused(out.bytes(), Refusal::OutOfMemory);
    }

    /// Delete the key that must not stay.
    fn unlink_refused(&self, context: &mut Context<'_, '_>, rejection: &Rejection<'_>) -> Result<(), Unwritten> {
        let key = rejection.unlink.filter(|_| !self.refuses_without_lease());
        key.map_or(Ok(()), |key| self.unlink(context, key))
    }

    /// What becomes of a command that has written nothing at `at` (0, or the offset of a key).
    fn refuse(&self, call: &mut Call<'_, '_, '_>, unwritten: Unwritten, at: u32, reply: Reply) -> Outcome {
        if call.would_park(unwritten) {
            return Outcome::Park(at);
        }
        let no_room = match unwritten {
            Unwritten::NoRoom(no_room) => no_room,
            Unwritten::Closed(_) if self.forwards(call) => return Outcome::Forward(at),
            Unwritten::Closed(closed) => return self.refuse_write(call, closed, reply),
        };
        // An error is not held for what was written before it came to that.
        call.context.turn.forget_appended();
        let stats = call.context.stats;
        if no_room == NoRoom::TooLarge {
            stats.store_too_large.increment();
            return call.refused(reply, Refusal::TooLarge);
        }
        stats.store_no_memory.increment();
        call.refused(reply, Refusal::OutOfMemory)
    }

    /// Once a turn: what is due by the clock (a delayed flush_all).
    pub fn tick(&self, context: &mut Context<'_, '_>) {
        // Without room now, the next turn or the next command tries again.
        let _ = self.flush_if_due(context);
    }
}

impl Call<'_, '_, '_> {
    /// Answer that it is done, and nothing else.
    fn done(&mut self, reply: Reply, done: Done) -> Outcome {
        reply.done(self.out.bytes(), done);
        Outcome::Done
    }

    /// Answer with rows of stats, to which the caller adds.
    fn rows(&mut self, reply: Reply) -> Rows<'_> {
        Rows::new(reply, self.out.bytes())
    }

    /// That was the last row.
    fn end_of_rows(&mut self, reply: Reply) -> Outcome {
        self.rows(reply).end();
        Outcome::Done
    }

    /// Answer why it is refused.
    fn refused(&mut self, reply: Reply, refusal: Refusal) -> Outcome {
        reply.refused(self.out.bytes(), refusal);
        Outcome::Done
    }

    /// Whether a command that has written nothing is to be tried again.
    fn would_park(&self, unwritten: Unwritten) -> bool {
        unwritten == Unwritten::NoRoom(NoRoom::Now) && !self.last_try
    }

    /// Whether to look for room before anything is made ready. Not for the last try: what is there
    /// may decide that none is needed (an add of a key that is there).
    fn looks_for_room(&self) -> bool {
        self.retried && !self.last_try
    }
}

/// The outcome of a request that has been answered with an error, where `answered` is what it would
/// be of a whole one.
fn failed(request: &Request<'_>, answered: Outcome) -> Outcome {
    match request {
        Request::Get(get) if !get.ends && answered == Outcome::Done => Outcome::DropLine,
        _ => answered,
    }
}

/// Seconds up to which an expiry counts from now; beyond, it is Unix time (30 days, as in
/// memcached).
const RELATIVE_SECONDS_MAX: i64 = 60 * 60 * 24 * 30;

/// The absolute expiry that a client's number means.
fn expiry_of(exptime: Exptime, now: UnixSeconds) -> Expiry {
    let seconds = exptime.0;
    let absolute = match seconds {
        0 => return Expiry::NEVER,
        i64::MIN..0 => return Expiry::PAST,
        1..=RELATIVE_SECONDS_MAX => i64::from(now.0) + seconds,
        _ => seconds,
    };
    Expiry::at(UnixSeconds(u32::try_from(absolute).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

    #[test]
    fn an_expiry_is_never_past_relative_or_absolute() {
        let at = |seconds| Expiry::at(UnixSeconds(seconds));
        for (exptime, expected) in [
            (0, Expiry::NEVER),
            (-1, Expiry::PAST),
            (i64::MIN, Expiry::PAST),
            (1, at(NOW.0 + 1)),
            (RELATIVE_SECONDS_MAX, at(NOW.0 + 2_592_000)),
            (RELATIVE_SECONDS_MAX + 1, at(2_592_001)),
            (1_700_000_100, at(1_700_000_100)),
            (i64::MAX, at(u32::MAX)),
        ] {
            assert_eq!(expiry_of(Exptime(exptime), NOW), expected, "exptime {exptime}");
        }
        assert!(expiry_of(Exptime(RELATIVE_SECONDS_MAX + 1), NOW).has_passed(NOW), "absolute and long ago");
        assert!(!expiry_of(Exptime(1), NOW).has_passed(NOW));
    }
}
