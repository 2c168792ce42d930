//! What the process may do: its user, how many files it may hold open, core dumps, locked memory.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// True when the process runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Why the user was not changed.
#[derive(Debug, thiserror::Error)]
pub enum DropError {
    /// No such user on this host.
    #[error("there is no user \"{0}\" on this host; name one that `getent passwd` lists")]
    Unknown(String),
    /// The system refused.
    #[error("cannot become user \"{user}\": {cause}; start as root, or leave -u out")]
    Refused {
        /// Who.
        user: String,
        /// What the system said.
        cause: io::Error,
    },
}

/// Become `user` for good: groups, group and user of the whole process. Call after everything that
/// needs root's rights, and before any thread is started that asks the C library for users. The C
/// library changes all threads of the process.
pub fn drop_to(user: &str) -> Result<(), DropError> {
    let unknown = || DropError::Unknown(user.to_string());
    let name = CString::new(user).map_err(|_| unknown())?;
    // SAFETY: `name` is a terminated string that outlives the call. The entry that comes back lies
    // in static storage of the C library. Other threads may run (the log's writer does), but none
    // that asks for users; and the entry is read before the next such call.
    let entry = unsafe { libc::getpwnam(name.as_ptr()) };
    if entry.is_null() {
        return Err(unknown());
    }
    // SAFETY: not null, so it points to a filled entry, still untouched as said above.
    let libc::passwd { pw_uid: uid, pw_gid: gid, .. } = unsafe { *entry };
    if rustix::process::geteuid().as_raw() == uid && uid != 0 {
        return Ok(());
    }
    let refused = || DropError::Refused { user: user.to_string(), cause: io::Error::last_os_error() };
    // SAFETY: the three calls take numbers and a terminated string, and touch no memory of ours.
    #[allow(clippy::multiple_unsafe_ops_per_block)]
    let changed = unsafe {
        (uid == 0 || libc::initgroups(name.as_ptr(), gid) == 0) && libc::setgid(gid) == 0 && libc::setuid(uid) == 0
    };
    if changed { Ok(()) } else { Err(refused()) }
}

/// Make sure that `wanted` files may be open at once, raising the limits as far as the process may.
/// Err is the limit that stays.
pub fn raise_open_files(wanted: u64) -> Result<(), u64> {
    let limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(u64::MAX);
    if soft >= wanted {
        return Ok(());
    }
    let hard = limit.maximum.unwrap_or(u64::MAX);
    // Root may go past the hard limit; anyone may go up to it.
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum.map(|hard| hard.max(wanted)) };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        return Ok(());
    }
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(hard.min(wanted)), maximum: limit.maximum });
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if now >= wanted { Ok(()) } else { Err(now) }
}

/// Let a core dump be as large as it likes, or as large as this process may let it be. False where
/// there will be none.
pub fn raise_core_limit() -> bool {
    let hard = getrlimit(Resource::Core).maximum;
    if setrlimit(Resource::Core, Rlimit { current: None, maximum: None }).is_err() {
        let _ = setrlimit(Resource::Core, Rlimit { current: hard, maximum: hard });
    }
    getrlimit(Resource::Core).current != Some(0)
}

/// Have core dumps again: the system forbids them to a process that has changed its user.
pub fn allow_core_dumps() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::Dumpable)?)
}

/// Let the process lock as much memory as it likes, if it may say so: root may.
pub fn raise_locked_limit() {
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
}

/// Why memory is not locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// There is a limit. What is mapped later would fail at it, so nothing is locked.
    #[error(
        "this process may lock {0} bytes of memory; raise that (`ulimit -l unlimited`, LimitMEMLOCK=infinity in a unit)"
    )]
    Limited(u64),
    /// The system refused.
    #[error("the system refuses to lock memory: {0}")]
    Refused(io::Error),
}

/// Keep all memory of the process from being swapped out, now and later, from its first use on:
/// what is never used costs nothing.
pub fn lock_memory() -> Result<(), LockError> {
    match locked_bytes_max() {
        u64::MAX => mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
            .map_err(|error| LockError::Refused(error.into())),
        bytes => Err(LockError::Limited(bytes)),
    }
}

/// How many files may be open at once now.
pub fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The other end of a unix socket, by what the kernel says of it: who connected or, seen from the
/// one that connected, who listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherEnd {
    /// Its process; 0 where that is of another PID namespace, and cannot be seen from here.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

/// Who is at the other end of a unix socket. rustix has this call too, but takes a process that
/// cannot be seen, whose number is 0, for an error.
pub fn other_end_of(socket: BorrowedFd<'_>) -> io::Result<OtherEnd> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    let into: *mut libc::ucred = &raw mut found;
    // SAFETY: the descriptor is borrowed, so it is open. The kernel writes at most
    // `bytes` bytes, which is the length of what `into` points to; both outlive the call.
    let failed = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, into.cast(), &raw mut bytes) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(OtherEnd { pid: found.pid, uid: found.uid }) }
}

/// How many bytes of memory may be locked (RDMA registers that way); u64::MAX for no limit.
pub fn locked_bytes_max() -> u64 {
    getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX)
}

/// Whether io_uring_setup(2) is there and allowed. Asked with arguments that it must refuse, so
/// that nothing is made.
pub fn io_uring_works() -> bool {
    // SAFETY: the call is given no entries and no parameters: the kernel answers EFAULT or EINVAL
    // before it makes or touches anything, ENOSYS where it does not know the call, EPERM where it
    // is forbidden.
    let answer = unsafe { libc::syscall(libc::SYS_io_uring_setup, 0, std::ptr::null_mut::<libc::c_void>()) };
    let refusal = io::Error::last_os_error().raw_os_error();
    answer < 0 && matches!(refusal, Some(libc::EFAULT | libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_user_is_named() {
        let error = drop_to("nobody-of-that-name").unwrap_err().to_string();
        assert!(error.contains("nobody-of-that-name"), "{error}");
    }

    #[test]
    fn few_files_are_always_allowed_and_the_impossible_is_told() {
        assert_eq!(raise_open_files(16), Ok(()));
        assert!(raise_open_files(u64::MAX / 2).is_err());
    }
}
