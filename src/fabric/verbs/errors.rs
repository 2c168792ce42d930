//! Refusals of the system and failed completions as errors of the fabric, in words and with what
//! helps.

use super::native::{self, FailedCall, completion};
use crate::fabric::{Cause, FabricError, Kind};
use std::io;

/// A failure of this fabric.
pub fn failed(cause: Cause, what: impl Into<String>) -> FabricError {
    FabricError::new(Kind::Verbs, cause, what)
}

impl From<FailedCall> for FabricError {
    fn from(call: FailedCall) -> FabricError {
        let FailedCall { doing, errno } = call;
        let error = io::Error::from_raw_os_error(errno);
        match errno {
            libc::ENOMEM | libc::EAGAIN if doing == "register memory" => failed(
                Cause::System,
                format!("cannot {doing}: {error}; raise `ulimit -l` (LimitMEMLOCK=infinity in a unit)"),
            ),
            libc::ENODEV | libc::ENOSYS | libc::EOPNOTSUPP => {
                failed(Cause::Unsupported, format!("cannot {doing}: {error}; `remora doctor` lists RDMA devices"))
            }
            libc::EACCES | libc::EPERM => failed(
                Cause::Unsupported,
                format!("cannot {doing}: {error}; the user needs access to /dev/infiniband (group rdma, as a rule)"),
            ),
            _ => FabricError::from_io(Kind::Verbs, &format!("cannot {doing}"), &error),
        }
    }
}

/// The library, or why there is none.
pub fn library() -> Result<native::Library, FabricError> {
    if !super::BUILT {
        return Err(failed(
            Cause::Unsupported,
            "this build has no RDMA: install libibverbs-dev and librdmacm-dev, and build again",
        ));
    }
    native::library().map_err(|why| {
        let remedy = "apt-get install libibverbs1 librdmacm1 ibverbs-providers";
        failed(Cause::Unsupported, format!("the RDMA libraries cannot be loaded ({why}): {remedy}"))
    })
}

/// Why there is no device: what the kernel has, and what is missing.
pub fn no_device(call: Option<FailedCall>) -> FabricError {
    let kernel_has = std::fs::read_dir("/sys/class/infiniband").is_ok_and(|mut names| names.next().is_some());
    if kernel_has {
        let why = call
            .map_or(String::new(), |call| format!(" ({}: {})", call.doing, io::Error::from_raw_os_error(call.errno)));
        let remedy = "modprobe ib_uverbs rdma_ucm, and see that /dev/infiniband can be opened";
        return failed(Cause::Unsupported, format!("the kernel's RDMA devices cannot be used{why}: {remedy}"));
    }
    let remedy = "a card, or soft-RoCE: modprobe rdma_rxe && rdma link add rxe0 type rxe netdev eth0";
    failed(Cause::Unsupported, format!("this host has no RDMA device; {remedy}"))
}

/// A completion that is no success.
pub fn completed(status: u32, vendor: u32) -> FabricError {
    let name = completion::status_name(status);
    let (cause, what) = match status {
        completion::REMOTE_ACCESS | completion::REMOTE_INVALID => {
            (Cause::Access, "the peer refused it: beyond a region, or the region is gone")
        }
        completion::RETRIES_EXCEEDED | completion::RNR_RETRIES_EXCEEDED => {
            (Cause::TimedOut, "the peer does not answer: its process or host is gone, or the network is cut")
        }
        completion::FLUSHED | completion::REMOTE_OPERATION => (Cause::Closed, "the channel has ended"),
        _ => (Cause::System, "this host's device failed"),
    };
    failed(cause, format!("{what} ({name}, status {status}, vendor {vendor:#x})"))
}
