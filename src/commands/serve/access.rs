//! Who may give commands: the users of `-Y`; and a word where everybody may who gets as far as to a
//! port.

use super::Args;
use crate::server::users::Users;
use anyhow::Context;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

/// Permissions of a file that others than its owner and its group may read.
const FOR_OTHERS: u32 = 0o004;

/// The users of -Y, if it is given.
pub fn users(args: &Args) -> anyhow::Result<Option<Arc<Users>>> {
    let Some(path) = &args.auth_file else { return Ok(None) };
    let users = Users::of_file(path).context("-Y (--auth-file)")?;
    if std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & FOR_OTHERS != 0) {
        log::warn!("-Y {}: everybody on this host may read the passwords; chmod o= takes that away", path.display());
    }
    Ok(Some(Arc::new(users)))
}

/// Tell it where other hosts reach a port and nobody is asked who they are. Once for all ports.
pub fn warn_of_openness(args: &Args, served: &[SocketAddr]) {
    let open = served.iter().find(|address| !address.ip().is_loopback());
    if let Some(address) = open.filter(|_| args.auth_file.is_none()) {
        log::warn!(
            "{address} is not for this host alone, and nobody is asked who they are: whoever reaches it may read, write and flush \
             everything; name users with -Y, or listen where only trusted clients are"
        );
    }
}
