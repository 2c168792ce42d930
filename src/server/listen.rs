//! Binding: for each TCP address one socket per worker (SO_REUSEPORT: the kernel spreads connections over them), and one
//! unix socket that the workers share.
//!
//! SO_REUSEPORT would also let a second server of the same user take half of the connections of a first one, unnoticed.
//! So the first socket of each address is bound without it, and fails when anyone listens there.

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where to listen.
#[derive(Debug, Clone, Default)]
pub struct ListenConfig {
    /// TCP addresses; port 0 for one of the kernel's choice.
    pub tcp: Vec<SocketAddr>,
    /// Unix socket's path.
    pub unix: Option<PathBuf>,
    /// Permissions of the unix socket (-a).
    pub unix_mode: u32,
    /// -b: connections that wait to be accepted, per socket.
    pub backlog: i32,
}

/// Why a socket could not be had, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Someone listens there.
    #[error(
        "{0} is in use: another server listens there; end it (`ss -ltnp` shows it) or choose another port with -p or -l"
    )]
    PortInUse(SocketAddr),
    /// A port of the system's.
    #[error(
        "no permission to listen on {0}: ports below the system's limit (1024 as a rule) need root or CAP_NET_BIND_SERVICE; \
         choose a higher port with -p, or start as root with -u"
    )]
    PortForbidden(SocketAddr),
    /// Not this host's.
    #[error("{0} is not an address of this host; `ip address` lists them")]
    NotOurs(SocketAddr),
    /// Anything else about TCP.
    #[error("cannot listen on {address}: {cause}")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
    /// A live server has the socket.
    #[error("{} is in use: another server answers there; end it or choose another path with -s", .0.display())]
    UnixInUse(PathBuf),
    /// There is something else under the name.
    #[error("{} exists and is no socket; remove it or choose another path with -s", .0.display())]
    UnixNoSocket(PathBuf),
    /// Anything else about the unix socket.
    #[error("cannot listen on {}: {cause}; check that its directory exists and may be written to", path.display())]
    Unix {
        /// Where.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// One listening socket as a worker has it.
pub struct Listener {
    /// The socket; workers share a unix socket.
    pub socket: Arc<OwnedFd>,
    /// Its name in `stats conns`.
    pub name: Arc<str>,
    /// True where all workers wait on the same socket.
    pub shared: bool,
}

/// Bound, listening sockets, ready to be served.
pub struct Sockets {
    /// TCP addresses as bound.
    pub tcp: Vec<SocketAddr>,
    /// Unix socket's path.
    pub unix: Option<PathBuf>,
    /// Each worker's listeners.
    pub per_worker: Vec<Vec<Listener>>,
}

impl Sockets {
    /// Bind everything for `workers` workers.
    pub fn bind(config: &ListenConfig, workers: usize) -> Result<Sockets, ListenError> {
        let mut per_worker: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
        let mut tcp = Vec::new();
        for wanted in &config.tcp {
            let (address, sockets) = bind_tcp(*wanted, config.backlog, workers)?;
            let name: Arc<str> = format!("tcp:{address}").into();
            for (listeners, socket) in per_worker.iter_mut().zip(sockets) {
                listeners.push(Listener { socket: Arc::new(socket), name: name.clone(), shared: false });
            }
            tcp.push(address);
        }
        if let Some(path) = &config.unix {
            let socket = Arc::new(bind_unix(path, config.unix_mode, config.backlog)?);
            let name: Arc<str> = format!("unix:{}", path.display()).into();
            for listeners in &mut per_worker {
                listeners.push(Listener { socket: socket.clone(), name: name.clone(), shared: workers > 1 });
            }
        }
        Ok(Sockets { tcp, unix: config.unix.clone(), per_worker })
    }

    /// The listeners' descriptors and names, once each: the first worker's stand for all.
    pub(super) fn names(&self) -> Vec<(i32, Arc<str>)> {
        use std::os::fd::AsRawFd;
        self.per_worker.first().map_or(Vec::new(), |listeners| {
            listeners.iter().map(|listener| (listener.socket.as_raw_fd(), listener.name.clone())).collect()
        })
    }
}

fn bind_tcp(wanted: SocketAddr, backlog: i32, count: usize) -> Result<(SocketAddr, Vec<OwnedFd>), ListenError> {
    let failed = |cause: io::Error| match cause.kind() {
        io::ErrorKind::AddrInUse => ListenError::PortInUse(wanted),
        io::ErrorKind::PermissionDenied => ListenError::PortForbidden(wanted),
        io::ErrorKind::AddrNotAvailable => ListenError::NotOurs(wanted),
        _ => ListenError::Tcp { address: wanted, cause },
    };
    let first = tcp_socket(wanted, false).map_err(failed)?;
    let address = first.local_addr().map_err(failed)?.as_socket().unwrap_or(wanted);
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(tcp_socket(address, true).map_err(failed)?);
    }
    for socket in &sockets {
        socket.listen(backlog).map_err(failed)?;
    }
    Ok((address, sockets.into_iter().map(OwnedFd::from).collect()))
}

/// A bound socket. Without `share` binding fails if another socket has the port; after binding, the port may be shared with
/// the sockets of the other workers.
fn tcp_socket(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    // Accepted sockets inherit both of these, which saves two calls a connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    Ok(socket)
}

fn bind_unix(path: &Path, mode: u32, backlog: i32) -> Result<OwnedFd, ListenError> {
    let failed = |cause: io::Error| ListenError::Unix { path: path.to_path_buf(), cause };
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(failed)?;
    socket.bind(&SockAddr::unix(path).map_err(failed)?).map_err(failed)?;
    // Nobody can connect before listen(), so the permissions hold from the first connection on.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    socket.listen(backlog).map_err(failed)?;
    Ok(socket.into())
}

/// Remove what a server that was killed has left behind, and nothing else.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let failed = |cause: io::Error| ListenError::Unix { path: path.to_path_buf(), cause };
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::UnixNoSocket(path.to_path_buf()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ListenError::UnixInUse(path.to_path_buf())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    fn loopback(port: u16) -> ListenConfig {
        ListenConfig { tcp: vec![SocketAddr::from(([127, 0, 0, 1], port))], backlog: 128, ..ListenConfig::default() }
    }

    #[test]
    fn all_workers_share_the_port_that_the_kernel_chose_and_get_connections() {
        let sockets = Sockets::bind(&loopback(0), 3).unwrap();
        let address = sockets.tcp[0];
        let connections: Vec<_> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut accepted = 0;
        for listeners in &sockets.per_worker {
            let mut here = 0;
            while rustix::net::accept(&*listeners[0].socket).is_ok() {
                here += 1;
            }
            assert!(here > 0, "a worker of three got none of 100 connections");
            accepted += here;
        }
        assert_eq!(accepted, connections.len());
    }

    #[test]
    fn a_second_server_does_not_share_the_port_unnoticed() {
        let first = Sockets::bind(&loopback(0), 2).unwrap();
        let error = Sockets::bind(&loopback(first.tcp[0].port()), 2).map(|_| ()).unwrap_err();
        assert!(matches!(error, ListenError::PortInUse(address) if address == first.tcp[0]), "{error}");
    }

    #[test]
    fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let config = ListenConfig { unix: Some(path.clone()), unix_mode: 0o700, backlog: 8, ..ListenConfig::default() };
        let first = Sockets::bind(&config, 2).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(Sockets::bind(&config, 1).map(|_| ()).unwrap_err(), ListenError::UnixInUse(_)));
        drop(first);
        assert!(path.exists(), "nothing has removed it");
        drop(Sockets::bind(&config, 1).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Sockets::bind(&config, 1).map(|_| ()).unwrap_err(), ListenError::UnixNoSocket(_)));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn another_hosts_address_is_named() {
        let config = ListenConfig { tcp: vec!["192.0.2.1:0".parse().unwrap()], backlog: 8, ..ListenConfig::default() };
        assert!(matches!(Sockets::bind(&config, 1).map(|_| ()).unwrap_err(), ListenError::NotOurs(_)));
    }
}
