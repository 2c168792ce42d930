//! The control socket: where orders to change this server's role come from, and where a client's request comes from.
//!
//! Every address and path that clients are served at has a control socket beside it: a unix socket with an abstract name, made of that address
//! ([`name_of`]). `remora ctl` finds it by the address that it is given. It is for the server's own user and for root, by what the kernel says
//! of the peer (SO_PEERCRED); everybody else is told so and closed. On it the same commands are served as elsewhere, and orders besides.
//!
//! Loopback alone says too little: what a proxy or a sidecar on this host passes on comes from there, too.

use crate::engine::{Client, Origin};
use crate::sys::reach::{are_one_host, connect_unix, is_of_this_host};
use rustix::net::{SocketAddrUnix, getpeername, getsockname, sockopt::socket_peercred};
use rustix::process::geteuid;
use socket2::SockAddr;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Every control socket's name begins so.
const NAME_PREFIX: &str = "remora-control-";
/// Longest abstract name: a socket's address has room for 108 bytes, of which the first is zero.
const NAME_BYTES_MAX: usize = 107;
/// Connections of operators beyond `-c`: whoever is to help when all places are taken must get in.
pub(super) const OPERATORS_MAX: u64 = 16;
/// Longest wait for a name that is taken: a server that has just ended may not have let go of it yet.
const NAME_WAIT_MAX: Duration = Duration::from_secs(1);
/// Pause between two tries.
const NAME_PAUSE: Duration = Duration::from_millis(10);

/// What whoever is neither the server's user nor root is told.
pub(super) const NO_OPERATOR_ANSWER: &[u8] =
    b"CLIENT_ERROR the control socket is for the server's own user and root: run remora ctl as one of them\r\n";

/// The name of the control socket beside `served`, an address or the path of a unix socket. Of a path that is too long its end stands for it.
pub fn name_of(served: &str) -> String {
    let room = NAME_BYTES_MAX - NAME_PREFIX.len();
    let mut from = served.len().saturating_sub(room);
    while !served.is_char_boundary(from) {
        from += 1;
    }
    format!("{NAME_PREFIX}{}", &served[from..])
}

/// The same for a unix socket, however its path is written.
pub fn name_of_path(path: &Path) -> String {
    let full = path.canonicalize().or_else(|_| std::path::absolute(path));
    name_of(&full.as_deref().unwrap_or(path).to_string_lossy())
}

/// Listen under `name`.
pub(super) fn listen(name: &str) -> io::Result<OwnedFd> {
    let until = Instant::now() + NAME_WAIT_MAX;
    let address = UnixAddr::from_abstract_name(name)?;
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                return Ok(listener.into());
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(NAME_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Connect to the control socket of the server that serves `address`, if that is an address of this host and there is one.
pub fn connect(address: SocketAddr, until: Instant) -> io::Result<Option<UnixStream>> {
    if !is_of_this_host(address.ip()) {
        return Ok(None);
    }
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    for served in [address, SocketAddr::new(any, address.port())] {
        if let Some(stream) = connect_to(&name_of(&served.to_string()), until)? {
            return Ok(Some(stream));
        }
    }
    Ok(None)
}

/// Connect to the control socket of this name, if there is one.
pub fn connect_to(name: &str, until: Instant) -> io::Result<Option<UnixStream>> {
    match connect_unix(&SockAddr::unix(format!("\0{name}"))?, until) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the peer of a unix socket is this process's user, or root.
pub(super) fn is_operator(socket: &OwnedFd) -> bool {
    socket_peercred(socket).is_ok_and(|peer| peer.uid.is_root() || peer.uid == geteuid())
}

/// The client at the other end of a socket. Where it is is asked of the kernel when it matters, which is seldom.
pub struct PeerOf<'s>(pub &'s OwnedFd);

/// No client: the server itself.
pub struct Nobody;

impl Client for PeerOf<'_> {
    fn origin(&self) -> Origin {
        let Ok(own) = getsockname(self.0) else { return Origin::Elsewhere };
        if let Ok(own) = SocketAddrUnix::try_from(own.clone()) {
            let is_control = own.abstract_name().is_some_and(|name| name.starts_with(NAME_PREFIX.as_bytes()));
            return if is_control && is_operator(self.0) { Origin::ControlSocket } else { Origin::ThisHost };
        }
        let peer = getpeername(self.0).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok());
        match (SocketAddr::try_from(own), peer) {
            (Ok(own), Some(peer)) if are_one_host(own, peer) => Origin::ThisHost,
            _ => Origin::Elsewhere,
        }
    }
}

impl Client for Nobody {
    fn origin(&self) -> Origin {
        Origin::Elsewhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn accepted(listener: &OwnedFd) -> OwnedFd {
        let mut waited = [rustix::event::PollFd::new(listener, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut waited, None).unwrap();
        rustix::net::accept(listener).unwrap()
    }

    #[test]
    fn where_a_client_comes_from() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(PeerOf(&listener.accept().unwrap().0.into()).origin(), Origin::ThisHost);
        assert_eq!(PeerOf(&UnixStream::pair().unwrap().0.into()).origin(), Origin::ThisHost);
        assert_eq!(Nobody.origin(), Origin::Elsewhere);
        let name = name_of(&format!("test-{}", std::process::id()));
        let listener = listen(&name).unwrap();
        let _client = connect_to(&name, soon()).unwrap().expect("somebody listens");
        assert_eq!(PeerOf(&accepted(&listener)).origin(), Origin::ControlSocket);
    }

    #[test]
    fn the_control_socket_is_found_by_the_address() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        assert!(connect(address, soon()).unwrap().is_none());
        let any = SocketAddr::from(([0; 4], address.port()));
        let listener = listen(&name_of(&any.to_string())).unwrap();
        assert!(connect(address, soon()).unwrap().is_some(), "a server at all addresses is one at this");
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], address.port()));
        assert!(connect(elsewhere, soon()).unwrap().is_none(), "another host's server is not this host's");
        drop(listener);
        assert!(connect(address, soon()).unwrap().is_none());
    }

    #[test]
    fn a_name_fits_whatever_is_served() {
        assert_eq!(name_of("127.0.0.1:11211"), "remora-control-127.0.0.1:11211");
        let long = name_of(&format!("/tmp/{}/socket", "é".repeat(80)));
        assert!(
            long.len() <= NAME_BYTES_MAX && long.len() >= NAME_BYTES_MAX - 1 && long.ends_with("é/socket"),
            "{long}"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        std::fs::write(&path, "").unwrap();
        assert_eq!(name_of_path(&folder.path().join("./socket")), name_of_path(&path));
    }
}
