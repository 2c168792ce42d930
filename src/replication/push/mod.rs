//! Push: the primary WRITEs its log to the replica, where with pull the replica READs it. The
//! replica chooses (`--replication-mode`).
//!
//! | file | what it is |
//! | --- | --- |
//! | [`layout`] | an inbox's memory, and what is where in it |
//! | [`notes`] | what each side tells the other there: lines, and wants |
//! | [`inbox`] | the replica's side: its own memory, as the channel that the pull loop reads |
//! | [`pusher`] | the primary's side: one step after another |
//! | [`pushing`] | the primary's thread for one replica |
//!
//! The replica grants its inbox to the primary, which connects to it. In the inbox are the control
//! lines as the primary pushes them, and for each shard a window, which goes round over the log's
//! positions and is a part of it long. Beside it, for the primary to READ, stand the wants: from
//! where on the replica wants each shard's bytes; and its acks. Everything above the channel is
//! pull's own: the puller's look is a copy of the lines, its READ a copy from the window, its ack a
//! store.
//!
//! One round of the primary's: WRITE what was committed to the windows; READ the wants, behind it;
//! when that has come, everything that was written has left this log: load the tail, and WRITE the
//! lines, which publish it. So the tail that comes with bytes is younger than the reading of them,
//! as the look behind a piece is with pull, and what it has passed is not believed.
//!
//! **Credit.** Bytes are written at positions in [wanted, wanted + window) only. The replica moves
//! its want on to where its READs have copied to.
//!
//! **Runs.** A replica may want bytes a second time (a record failed its check), or begin anew
//! further back. The window may not hold these bytes any more. So the replica gives the want a new
//! number, the run. The primary starts there, and each line says of which run it is. Nothing is
//! read by a line of another run.

pub mod inbox;
pub mod layout;
pub mod notes;
pub mod pusher;
pub mod pushing;

use crate::fabric::{Invitation, Kind};

/// Which side moves the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The replica READs.
    #[default]
    Pull,
    /// The primary WRITEs.
    Push,
}

impl Mode {
    /// As in `--replication-mode` and in stats.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Pull => "pull",
            Mode::Push => "push",
        }
    }
}

/// What a replica asks its primary to push to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// By which fabric.
    pub fabric: Kind,
    /// Length of each shard's window.
    pub window_bytes: u64,
    /// Longest pause of the primary between two looks where nothing moves, in microseconds.
    pub pause_microseconds: u32,
    /// Where the inbox is.
    pub invitation: Invitation,
}
