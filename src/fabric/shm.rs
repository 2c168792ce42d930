//! One host: the primary's slabs are memfds, handed over a unix socket and mapped read-only; a READ is a copy, and the primary does
//! nothing.
//!
//! | file | what it is |
//! | --- | --- |
//! | `exporter` | the primary's end: an abstract socket, and what is handed to who shows a token |
//! | `channel` | the replica's end: maps what it was handed, and copies |
//! | `handover` | how descriptors pass over the socket |
//!
//! **Order.** A primary stores data, then a word that says so, with release. A READ loads words with relaxed ordering, each once, and
//! ends with an acquire fence: what the primary stored before it released any word that the READ saw is seen by whatever comes
//! behind the fence, and so by every later READ, of this batch or the next. Within one READ nothing is ordered, as on a network
//! card. An ack WRITE stores each word with release: who sees one, with acquire, sees those before it. A WRITE of data is a copy when it is
//! submitted, between two fences: it is seen after those before it and before those behind it, and within it nothing is ordered. (Through
//! the cache, not past it: the peer reads it at once.) That the two sides are
//! processes makes no difference: both map the same pages, and the accesses are the same instructions.
//!
//! **Trust.** The replica gets the regions' descriptors opened for reading, and the memfds are sealed against later writers (sys/memory),
//! so it cannot write to a region however it tries. The ack slot it can write to, and a region that is granted for writing, all of it, at any
//! time, as over a network card.
//! Both sides map only what is sealed against shrinking, so neither can have the other end by SIGBUS.
//!
//! **Revoking.** A mapping cannot be taken back from another process. Dropping the grant shuts the socket down; the replica notices at its
//! next look, at most a millisecond of work (`LOOK_EVERY`) later, unmaps everything when its channel is dropped, and until then could
//! go on reading. So a primary must not count on bytes that it stores after dropping a grant being unseen: on one host, a region
//! is to be reused for something else only once the replica is gone. Killing either process shows at the other's next look.

mod channel;
mod exporter;
mod handover;

pub use channel::connect;
pub use exporter::Exporter;

use super::{Cause, FabricError, Kind};

/// Every exporter's name begins so, and goes on with 16 hexadecimal digits.
const NAME_PREFIX: &str = "remora-shm-";
/// Digits behind it.
const NAME_DIGITS: usize = 16;

/// Whether an exporter could have this name. A peer may not have us connect to any other socket of this host.
fn is_name(name: &str) -> bool {
    let digits = name.strip_prefix(NAME_PREFIX).unwrap_or_default().as_bytes();
    digits.len() == NAME_DIGITS && digits.iter().all(u8::is_ascii_hexdigit)
}

fn error(cause: Cause, what: impl Into<String>) -> FabricError {
    FabricError::new(Kind::Shm, cause, what)
}
