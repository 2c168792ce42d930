//! One host: the primary's regions are memfds, handed over a unix socket and mapped read-only; a
//! READ is a copy, and the primary does nothing.
//!
//! | file | what it is |
//! | --- | --- |
//! | `exporter` | the primary's end: an abstract socket, and what is handed to who shows a token |
//! | `channel` | the replica's end: maps what it was handed, and copies |
//! | `handover` | how descriptors pass over the socket |
//!
//! **Order.** A primary stores data, and then, with release ordering, a word that says so. A READ
//! loads each word once, with relaxed ordering, and ends with an acquire fence. So if a READ saw a
//! released word, then every later READ, of this batch or the next, sees what the primary had
//! stored before that word. Within one READ nothing is ordered, as on a network card. An ack WRITE
//! stores each word with release ordering: a thread that sees one word, with acquire ordering, sees
//! the words before it. A WRITE of data is a copy, made when it is submitted, between two fences:
//! the peer sees it after earlier WRITEs and before later ones. Within one WRITE nothing is
//! ordered. (It goes through the cache, not past it, because the peer reads it at once.) That the
//! two sides are processes makes no difference: both map the same pages, and use the same
//! instructions as threads would.
//!
//! **Trust.** The replica gets the regions' descriptors opened for reading only, and only their
//! owner may open the memfds again (sys/memory). So a replica of another user can never write to a
//! region; one of the same user could in any case. It can write to the ack slot, and to a region
//! that is granted for writing: to all of it, at any time, as over a network card. Both sides map
//! only memory that is sealed against shrinking, so neither can end the other by a SIGBUS. Neither
//! side connects to a name that is no exporter's, so a peer cannot choose some other socket of this
//! host; and the layer above offers shared memory only to peers whose control connection is of this
//! host.
//!
//! **Revoking.** A mapping cannot be taken back from another process. Dropping the grant shuts the
//! socket down. The replica notices this at its next look, after a millisecond of work at most
//! (`LOOK_EVERY`), and unmaps everything when its channel is dropped. Until then it could go on
//! reading, so a primary must not assume that bytes which it stores after dropping a grant are
//! unseen: on one host, a region may be used for something else only once the replica is gone. If
//! either process is killed, the other notices at its next look.

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

/// Whether an exporter could have this name. A peer may not have us connect to any other socket of
/// this host.
fn is_name(name: &str) -> bool {
    let digits = name.strip_prefix(NAME_PREFIX).unwrap_or_default().as_bytes();
    digits.len() == NAME_DIGITS && digits.iter().all(u8::is_ascii_hexdigit)
}

fn error(cause: Cause, what: impl Into<String>) -> FabricError {
    FabricError::new(Kind::Shm, cause, what)
}
