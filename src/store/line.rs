//! The control line: what others, remote ones included, read of a shard.
//!
//! ```text
//! word  0      1          2     3         4               5           6     7
//!       term   committed  tail  capacity  term begins at  owes until  beat  reserved, zero
//! ```
//!
//! **Owes until.** A replica that has begun at the tail may miss what had been moved from before
//! its beginning, until its log is there up to this position; it is [`OWES_NOT_KNOWN`] before a
//! look has told it. Who follows it owes as much. 0: nothing.
//!
//! **Beat.** Bit 0: whoever takes the writes serves clients. Above it a count that this one moves
//! every 100 ms, and that whoever follows copies into a line of its own; bit 63 is set there, for
//! a copy says nothing of how old it is. A process that has stopped still shows its lines, over
//! shared memory or RDMA: only a beat that moves says that they are of now.
//!
//! Ordering: a record's bytes are stored relaxed, then `committed` is raised with release; who
//! loads `committed` with acquire sees every byte below it. `tail` is raised with release before
//! the era that must pass is asked for (sys/quiescence). Who raises them, and when:
//! [`super::publication`].

use crate::sys::sync::{AtomicU64, Ordering, fence};

/// Bytes of a control line, and of a cache line.
pub const CONTROL_LINE_BYTES: usize = 64;
/// The first position of every log. Not 0, so that 0 can say that there is none.
pub const BIRTH: u64 = 64;
/// Positions that another process says are held to this, so that no sum of them overflows, and a
/// CAS holds them. A log of 1 GiB/s takes a year to get there.
pub const POSITION_MAX: u64 = 1 << 55;

/// In place of the position until which a log owes.
pub const OWES_NOT_KNOWN: u64 = u64::MAX;

const TERM: usize = 0;
const COMMITTED: usize = 1;
const TAIL: usize = 2;
const CAPACITY: usize = 3;
const TERM_BEGIN: usize = 4;
const OWES: usize = 5;
/// The word of the beat. Nothing is to be done where it alone has changed.
pub const BEAT: usize = 6;
/// In a beat: whoever takes the writes serves clients.
pub const SERVES: u64 = 1;
/// In a beat: it is that of a line that is followed.
pub const COPIED: u64 = 1 << 63;

/// The published state of one shard: 8 words of the memory that holds all shards' control lines.
#[derive(Clone, Copy)]
pub struct ControlLine<'a>(&'a [AtomicU64]);

impl<'a> ControlLine<'a> {
    /// The line of shard `index` in `lines`.
    pub fn of(lines: &'a [AtomicU64], index: usize) -> Self {
        let words = CONTROL_LINE_BYTES / 8;
        ControlLine(&lines[index * words..][..words])
    }

    /// Fill it in before anybody else sees it.
    pub fn begin(&self, term: u64, capacity_bytes: u64) {
        self.0[TERM].store(term, Ordering::Relaxed);
        self.0[CAPACITY].store(capacity_bytes, Ordering::Relaxed);
        self.0[TERM_BEGIN].store(BIRTH, Ordering::Relaxed);
        self.0[TAIL].store(BIRTH, Ordering::Relaxed);
        self.0[COMMITTED].store(BIRTH, Ordering::Release);
    }

    /// The term; changes only under the shard's lock.
    pub fn term(&self) -> u64 {
        self.0[TERM].load(Ordering::Relaxed)
    }

    /// Where the term began.
    pub fn term_begin(&self) -> u64 {
        self.0[TERM_BEGIN].load(Ordering::Relaxed)
    }

    /// Most bytes of log between tail and head.
    pub fn capacity_bytes(&self) -> u64 {
        self.0[CAPACITY].load(Ordering::Relaxed)
    }

    /// From now on so much log may lie between tail and head. Under the shard's lock: before more
    /// is used, after less is.
    pub fn set_capacity(&self, capacity_bytes: u64) {
        self.0[CAPACITY].store(capacity_bytes, Ordering::Release);
    }

    /// Records from `position` on are of `term`. Under the shard's lock.
    pub fn begin_term(&self, term: u64, position: u64) {
        self.0[TERM_BEGIN].store(position, Ordering::Relaxed);
        self.0[TERM].store(term, Ordering::Relaxed);
    }

    /// What had been moved from before this log's beginning is here once the log is here up to this
    /// position.
    pub fn owes_until(&self) -> u64 {
        self.0[OWES].load(Ordering::Relaxed)
    }

    /// See [`ControlLine::owes_until`]. The one follower, or who begins a term, with the lock.
    pub fn set_owes_until(&self, position: u64) {
        self.0[OWES].store(position, Ordering::Release);
    }

    /// See the module.
    pub fn beat(&self) -> u64 {
        self.0[BEAT].load(Ordering::Acquire)
    }

    /// Show what the line that is followed shows. The one follower.
    pub fn set_beat(&self, beat: u64) {
        self.0[BEAT].store(beat, Ordering::Release);
    }

    /// Move the beat on, unless somebody else has changed it or `serves` is false by then.
    pub fn move_beat(&self, serves: impl Fn() -> bool) {
        // It is asked behind this load: who has stopped to serve takes the bit away afterwards, and
        // then the exchange fails.
        let beat = self.beat();
        if serves() {
            let next = (beat & !COPIED | SERVES).wrapping_add(2);
            let _ = self.0[BEAT].compare_exchange(beat, next, Ordering::Release, Ordering::Relaxed);
        }
    }

    /// Clients are not served any more. The word changes in any case, so that a beat which was
    /// about to be moved stays.
    pub fn end_serving(&self) {
        let ended = |beat: u64| Some((beat & !SERVES).wrapping_add(2));
        let _ = self.0[BEAT].fetch_update(Ordering::AcqRel, Ordering::Relaxed, ended);
    }

    /// An empty log at `position`, where a replica begins: what it owes is not known. The fence
    /// orders it before the bytes that are overwritten from now on: who reads such bytes and then
    /// this line again, from however far, sees that they are not what he looked for.
    pub fn restart(&self, position: u64) {
        self.0[OWES].store(OWES_NOT_KNOWN, Ordering::Release);
        self.0[TAIL].store(position, Ordering::Release);
        self.0[COMMITTED].store(position, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// The log goes back to `position`, above its tail, and owes up to `owed`. The fence is for
    /// what [`ControlLine::restart`] has one for.
    pub fn cut(&self, position: u64, owed: u64) {
        self.0[OWES].store(owed, Ordering::Release);
        self.0[COMMITTED].store(position, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Records below this position are complete.
    pub fn committed(&self) -> u64 {
        self.0[COMMITTED].load(Ordering::Acquire)
    }

    /// Publish everything below `position`. Never takes back what another thread has published.
    pub fn commit(&self, position: u64) {
        self.0[COMMITTED].fetch_max(position, Ordering::Release);
    }

    /// The oldest position still valid.
    pub fn tail(&self) -> u64 {
        self.0[TAIL].load(Ordering::Acquire)
    }

    /// Give up everything below `position`. As above.
    pub fn advance_tail(&self, position: u64) {
        self.0[TAIL].fetch_max(position, Ordering::Release);
    }
}
