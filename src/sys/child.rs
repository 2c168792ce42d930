//! Children that do not outlive their parent: the kernel sends them SIGTERM when it ends, however
//! that happens.

use rustix::process::{Pid, Signal};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Have the child of `command` told by SIGTERM when the thread that starts it ends. Start it from a
/// thread that lives as long as the child is wanted.
pub fn end_with_parent(command: &mut Command) -> &mut Command {
    let parent = rustix::process::getpid();
    let ask = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        // The parent may have ended before the kernel was asked.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from(rustix::io::Errno::SRCH));
        }
        Ok(())
    };
    // SAFETY: runs in the child between fork and exec, where only async-signal-safe calls are
    // allowed: these are two bare system calls, and an error made from a number; nothing is
    // allocated and no lock is taken.
    unsafe { command.pre_exec(ask) }
}

/// Ask a child to end (SIGTERM). It is ours and not yet waited for, so its pid is no other
/// process's.
pub fn terminate(child: &Child) -> io::Result<()> {
    Ok(rustix::process::kill_process(Pid::from_child(child), Signal::TERM)?)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_child_ends_when_asked() {
        let mut child = end_with_parent(Command::new("sleep").arg("30")).spawn().unwrap();
        terminate(&child).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
    }

    #[test]
    fn a_child_ends_with_the_thread_that_started_it() {
        let start = || end_with_parent(Command::new("sleep").arg("30")).spawn().unwrap();
        let mut child = std::thread::spawn(start).join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
    }
}
