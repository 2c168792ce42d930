//! The control socket: where orders to change this server's role come from, and where a client's
//! request comes from.
//!
//! Every address and path that clients are served at has a control socket beside it: a unix socket
//! with an abstract name, made of that address ([`name_of`]). `remora ctl` finds it by the address
//! that it is given. It is for the server's own user and for root, by what the kernel says of the
//! peer (SO_PEERCRED); everybody else is told so and closed. On it the same commands are served as
//! elsewhere, and orders besides.
//!
//! An abstract name is free for whoever takes it first. So the client asks the kernel as well, who
//! listens there ([`trust`]), and gives its orders to nobody but the server.
//!
//! Loopback alone says too little: what a proxy or a sidecar on this host passes on comes from
//! there, too.

use crate::base::limits::{CONTROL_NAME_MILLISECONDS_MAX, CONTROL_NAME_PAUSE_MILLISECONDS};
use crate::engine::{Client, Origin};
use crate::protocol::read_from::ReadFrom;
use crate::sys::privilege::{OtherEnd, other_end_of};
use crate::sys::reach::{are_one_host, connect_unix, is_of_this_host};
use rustix::net::{SocketAddrUnix, getpeername, getsockname};
use rustix::process::geteuid;
use socket2::SockAddr;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Every control socket's name begins so.
const NAME_PREFIX: &str = "remora-control-";

/// What whoever is neither the server's user nor root is told.
pub(super) const NO_OPERATOR_ANSWER: &[u8] =
    b"CLIENT_ERROR the control socket is for the server's own user and root: run remora ctl as one of them\r\n";

/// The name of the control socket beside an address.
pub fn name_of(served: SocketAddr) -> String {
    format!("{NAME_PREFIX}{served}")
}

/// The same for a unix socket: its file's numbers stand in the name. Two containers that share a
/// network namespace may have sockets at the same path, and one socket may be seen at two.
pub fn name_of_path(path: &Path) -> io::Result<String> {
    let file = std::fs::metadata(path)?;
    Ok(format!("{NAME_PREFIX}file-{}-{}", file.dev(), file.ino()))
}

/// Listen under `name`.
pub(super) fn listen(name: &str) -> io::Result<OwnedFd> {
    let until = Instant::now() + Duration::from_millis(CONTROL_NAME_MILLISECONDS_MAX);
    let address = UnixAddr::from_abstract_name(name)?;
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                return Ok(listener.into());
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(CONTROL_NAME_PAUSE_MILLISECONDS));
            }
            Err(error) => return Err(error),
        }
    }
}

/// The names that the control socket of the server that serves `address` may have; none if that is
/// no address of this host.
pub fn names_of(address: SocketAddr) -> Vec<String> {
    if !is_of_this_host(address.ip()) {
        return Vec::new();
    }
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    [address, SocketAddr::new(any, address.port())].map(name_of).into()
}

/// Connect to the control socket of this name, if there is one.
pub fn connect_to(name: &str, until: Instant) -> io::Result<Option<UnixStream>> {
    match connect_unix(&SockAddr::unix(format!("\0{name}"))?, until) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the other end of a unix socket is this process's user, or root.
pub(super) fn is_operator(socket: &OwnedFd) -> bool {
    other_end_of(socket.as_fd()).is_ok_and(|other| trust(other, geteuid().as_raw()) == Trust::Full)
}

/// Whether whoever listens under a control socket's name is taken for the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It is this user or root: whoever runs programs as one of them needs no deceit.
    Full,
    /// It is another user, as a server after `-u` is; this is root. It is the server if the server
    /// says that this is its process's number.
    IfProcess(i32),
    /// It is another user, this one is not root: that server would take no orders from here in any
    /// case.
    None,
}

/// Who of user `own` may take `other`, by the kernel's word, for its server.
pub fn trust(other: OtherEnd, own: u32) -> Trust {
    match (other.uid, own) {
        (0, _) => Trust::Full,
        (theirs, own) if theirs == own => Trust::Full,
        // Its number is 0 where it cannot be seen from here.
        (_, 0) => Trust::IfProcess(other.pid),
        _ => Trust::None,
    }
}

/// The client at the other end of a socket. Where it is is asked of the kernel when it matters,
/// which is seldom. And who may answer its reads.
pub struct PeerOf<'s>(pub &'s OwnedFd, pub ReadFrom);

/// No client: the server itself.
pub struct Nobody;

impl Client for PeerOf<'_> {
    fn origin(&self) -> Origin {
        let Ok(own) = getsockname(self.0) else { return Origin::Elsewhere };
        if let Ok(own) = SocketAddrUnix::try_from(own.clone()) {
            let is_control = own.abstract_name().is_some_and(|name| name.starts_with(NAME_PREFIX.as_bytes()));
            return if is_control && is_operator(self.0) { Origin::ControlSocket } else { Origin::ThisHost };
        }
        let other = getpeername(self.0).ok().flatten().and_then(|other| SocketAddr::try_from(other).ok());
        match (SocketAddr::try_from(own), other) {
            (Ok(own), Some(other)) if are_one_host(own, other) => Origin::ThisHost,
            _ => Origin::Elsewhere,
        }
    }

    fn descriptor(&self) -> i32 {
        self.0.as_raw_fd()
    }

    fn read_from(&self) -> ReadFrom {
        self.1
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
        assert_eq!(PeerOf(&listener.accept().unwrap().0.into(), ReadFrom::default()).origin(), Origin::ThisHost);
        assert_eq!(PeerOf(&UnixStream::pair().unwrap().0.into(), ReadFrom::default()).origin(), Origin::ThisHost);
        assert_eq!(Nobody.origin(), Origin::Elsewhere);
        let name = format!("{NAME_PREFIX}test-{}", std::process::id());
        let listener = listen(&name).unwrap();
        let client = connect_to(&name, soon()).unwrap().expect("somebody listens");
        assert_eq!(PeerOf(&accepted(&listener), ReadFrom::default()).origin(), Origin::ControlSocket);
        let own = OtherEnd { pid: std::process::id() as i32, uid: geteuid().as_raw() };
        assert_eq!(other_end_of(client.as_fd()).unwrap(), own, "the one that connects is told who listens");
    }

    #[test]
    fn a_server_of_anothers_is_believed_only_if_it_is_the_process_at_the_port() {
        let of = |uid| OtherEnd { pid: 7, uid };
        assert_eq!((trust(of(5), 5), trust(of(0), 5), trust(of(0), 0)), (Trust::Full, Trust::Full, Trust::Full));
        assert_eq!((trust(of(5), 0), trust(of(5), 6)), (Trust::IfProcess(7), Trust::None));
    }

    #[test]
    fn the_control_socket_is_found_by_the_address() {
        let at = |text: &str| names_of(text.parse().unwrap());
        assert_eq!(at("127.0.0.1:7"), ["remora-control-127.0.0.1:7", "remora-control-0.0.0.0:7"]);
        assert_eq!(at("[::1]:7"), ["remora-control-[::1]:7", "remora-control-[::]:7"]);
        assert!(at("192.0.2.1:7").is_empty(), "another host's server is not this host's");
        let name = format!("{NAME_PREFIX}nobody-{}", std::process::id());
        assert!(connect_to(&name, soon()).unwrap().is_none());
    }

    #[test]
    fn a_path_stands_for_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other] = ["socket", "other"].map(|name| folder.path().join(name));
        assert!(name_of_path(&path).is_err());
        std::fs::write(&path, "").unwrap();
        std::fs::write(&other, "").unwrap();
        let name = name_of_path(&path).unwrap();
        assert_eq!(name_of_path(&folder.path().join("./socket")).unwrap(), name);
        assert!(name_of_path(&other).unwrap() != name && name.len() < 108, "{name}");
    }
}
