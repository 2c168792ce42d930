//! A process that detaches from whoever started it (-d).
//!
//! The parent stays until the child says that it serves, so that whoever started it sees what the
//! child says before that, and learns by the exit status whether it came up. memcached's parent
//! ends at once; then nobody learns that a port was taken.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use std::fs::File;
use std::io::{self, Read, Write};

/// In the child: what tells the parent that it may end.
#[derive(Debug)]
pub struct Detached {
    parent: io::PipeWriter,
}

/// Which process this is after [`detach`].
#[derive(Debug)]
pub enum Side {
    /// The one that was started; true once its child serves, false if the child ended instead.
    Parent(bool),
    /// The one that goes on.
    Child(Detached),
}

/// Go on in a child, in a session of its own, with the root as its folder unless
/// `keeps_folder`. To be called while the process has one thread. In the parent it returns once
/// the child serves or has ended.
pub fn detach(keeps_folder: bool) -> io::Result<Side> {
    let (mut ready, parent) = io::pipe()?;
    // SAFETY: this process has one thread, which its caller sees to: no lock is held by a thread
    // that the child lacks. The call takes nothing and touches no memory of ours.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(ready);
            rustix::process::setsid()?;
            if !keeps_folder {
                rustix::process::chdir("/")?;
            }
            Ok(Side::Child(Detached { parent }))
        }
        _ => {
            drop(parent);
            let mut said = [0];
            Ok(Side::Parent(ready.read(&mut said)? == 1))
        }
    }
}

impl Detached {
    /// Let the parent end; if it is gone, there is nobody to tell. The three standard streams lead
    /// to nowhere from then on, unless `keeps_streams`.
    pub fn serves(mut self, keeps_streams: bool) -> io::Result<()> {
        if !keeps_streams {
            let nowhere = nowhere()?;
            dup2_stdin(&nowhere)?;
            dup2_stdout(&nowhere)?;
            dup2_stderr(&nowhere)?;
        }
        match self.parent.write_all(b"1") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            told => told,
        }
    }
}

fn nowhere() -> Result<File, Errno> {
    Ok(open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?.into())
}
