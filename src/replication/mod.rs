//! Replication: how a replica is admitted, pulls the primary's log, applies it, and tells how far
//! it has come.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`wire`] | the control connection's messages, byte by byte |
//! | [`mod@regions`] | a store's memory as replicas READ it |
//! | [`secret`] | the shared secret and its proofs |
//! | [`tls`] | what control connections are encrypted by |
//! | [`link`] | one end of a control connection |
//! | [`reached`] | the servers that this process has reached, each by one connection |
//! | [`offer`] | the primary's side: the replication port, who is admitted, what is offered |
//! | `places` | how many connections the replication port takes, and who makes room |
//! | [`session`] | one replica at its primary |
//! | [`node`] | this process's role, and orders that change it |
//! | [`order`] | an order, as words and back |
//! | [`change`] | carrying one out: promote, detach, replicate |
//! | [`claim`], [`sealing`] | whoever is promoted has the others stop first: both sides of that |
//! | [`forwarding`] | links between servers, by which requests are forwarded: how one begins, on both sides |
//! | [`lineage`] | a primary of another lineage: refused, unless what is here may be discarded |
//! | [`follow`] | the replica's side: connect, attach, pull; and begin again after a failure |
//! | [`chores`] | its control connection while it pulls |
//! | [`clock`] | how far apart the clocks of both hosts are |
//! | [`admission`] | a replica that was admitted |
//! | [`unfit`] | can this store follow a primary, and in which shards? |
//! | [`attach`] | the replica's side of the handshake |
//! | [`choice`] | the choice of a fabric |
//! | [`penalties`] | fabrics that have failed, and when they are tried again |
//! | `blame` | a channel has failed: is it the fabric, or is the primary gone? |
//! | `preferred` | when a session ends for a fabric that is preferred to its own |
//! | [`pull`] | the pull loop |
//! | [`push`] | the same where the primary moves the data, by one-sided WRITE |
//! | [`resume`] | where a replica goes on |
//! | [`shares`] | which shards each of a replica's pullers has |
//! | [`ack`] | the ack slot |
//! | [`board`] | who has applied what: the ack slots of all replicas of now |
//! | [`standing`] | where this process stands in a chain |
//! | [`retain`] | the log that is kept for a slow replica, and when it is let go |
//! | `patience` | how long reclaim of a shard waits for replicas |
//! | [`pace`] | pauses between looks |
//! | [`copying`] | how fast shards are copied that are not whole here |
//! | [`report`] | the rows of `stats replication` |
//!
//! Unless a replica asks to be pushed to, no thread of the primary moves data: a replica's session
//! thread there wakes once a second for a heartbeat.

pub mod absence;
pub mod ack;
pub mod admission;
pub mod attach;
mod blame;
pub mod board;
mod change;
pub mod choice;
mod chores;
pub mod claim;
pub mod clock;
pub mod copying;
pub mod follow;
pub mod forwarding;
pub mod lineage;
pub mod link;
pub mod node;
pub mod offer;
pub mod order;
pub mod pace;
mod patience;
pub mod penalties;
pub(crate) mod places;
mod preferred;
pub mod pull;
pub mod push;
pub mod reached;
pub mod regions;
pub mod report;
pub mod resume;
pub mod retain;
pub mod sealing;
pub mod secret;
pub mod session;
pub mod shares;
pub mod standing;
pub mod tls;
pub mod unfit;
pub mod wire;

use std::time::Duration;

/// Replicas of one primary.
pub const REPLICAS_MAX: usize = 32;
/// How long a handshake may take, and each of its answers.
pub const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Each side says something at least so often.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Default of `--replication-timeout`: silence after which the other side counts as gone.
pub const SILENCE_SECONDS_DEFAULT: u64 = 10;
/// The least that it can be: a heartbeat that is late, and a second one that is lost, must not cost
/// a replica its place.
pub const SILENCE_SECONDS_MIN: u64 = 3;
/// The most that it can be.
pub const SILENCE_SECONDS_MAX: u64 = 3600;
const _: () = assert!(HEARTBEAT.as_secs() < SILENCE_SECONDS_MIN && SILENCE_SECONDS_MIN <= SILENCE_SECONDS_DEFAULT);

/// A number that only this host has, until it boots again: the kernel's boot id. Zeroes where the
/// kernel tells none.
fn host_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).map_or([0; 16], u128::to_be_bytes)
}
