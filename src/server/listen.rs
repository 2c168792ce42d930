//! Binding: for each address of TCP and UDP one socket per worker (SO_REUSEPORT: the kernel spreads
//! connections over them), and one unix socket that the workers share; and beside each of these a
//! control socket ([`super::control`]).
//!
//! SO_REUSEPORT would also let a second server of the same user take half of the connections of a
//! first one, unnoticed. So the first socket of each address is bound without it, and fails when
//! anyone listens there. It also begins to listen without it, for between binding and listening
//! time may pass, and a second server may have bound the same address.
//!
//! Binding takes the rights of the start; nobody can connect before [`Bound::listen`]. A server
//! listens once it can answer: until then a connection is refused at once, so that health checks
//! fail and clients try another server.

use super::control;
use super::tls::Security;
use crate::base::limits::UNIX_LOOK_MILLISECONDS_MAX;
use crate::sys::reach::connect_unix;
use rustix::fs::{Mode, OFlags};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::fs::{File, Metadata};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// See [`UNIX_LOOK_MILLISECONDS_MAX`].
const LOOK_WAIT_MAX: Duration = Duration::from_millis(UNIX_LOOK_MILLISECONDS_MAX);

/// Where to listen.
#[derive(Debug, Clone, Default)]
pub struct ListenConfig {
    /// TCP addresses; port 0 for one of the kernel's choice.
    pub tcp: Vec<SocketAddr>,
    /// What each of them does about TLS, in the same order; those that are left out are plain.
    pub security: Vec<Security>,
    /// UDP addresses, likewise.
    pub udp: Vec<SocketAddr>,
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
        "{0} is in use: another server listens there; end it (`ss -ltunp` shows it) or choose another port with -p or -l"
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
    /// Anything else about TCP or UDP.
    #[error("cannot listen on {address}: {cause}")]
    Network {
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
    /// A control socket cannot be made.
    #[error("cannot listen on the control socket @{name}, by which `remora ctl` gives orders: {cause}")]
    Control {
        /// Its abstract name.
        name: String,
        /// What the system said.
        cause: io::Error,
    },
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
    /// A control socket: for the server's own user and root alone.
    pub is_control: bool,
    /// What its connections begin with.
    pub security: Security,
}

/// What a worker has of the sockets at which clients come in.
#[derive(Default)]
pub struct Doors {
    /// They connect there.
    pub listeners: Vec<Listener>,
    /// They send datagrams there.
    pub datagrams: Vec<UdpSocket>,
}

/// Bound sockets, to which nobody can connect yet.
pub struct Bound {
    /// TCP addresses as bound.
    pub tcp: Vec<SocketAddr>,
    /// UDP addresses as bound. What is sent there waits until it is served.
    pub udp: Vec<SocketAddr>,
    /// The unix socket's file.
    pub unix: Option<SocketFile>,
    backlog: i32,
    security: Vec<Security>,
    /// For each address a socket for each worker.
    tcp_sockets: Vec<Vec<Socket>>,
    /// The same.
    udp_sockets: Vec<Vec<Socket>>,
    unix_socket: Option<Socket>,
    /// Control sockets that listen already, and their names.
    control: Vec<(String, OwnedFd)>,
    workers: usize,
}

/// The file of a unix socket that was bound. While this is held, no other file gets its number.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    file: File,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        Ok(SocketFile { path: path.to_path_buf(), file: file.into() })
    }

    /// Where it was bound.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still names this file. To another server a socket that does not listen, not
    /// yet or not any more, looks like one of a server that was killed; it may have replaced it.
    pub fn is_still(&self) -> bool {
        let numbers = |found: &Metadata| (found.dev(), found.ino());
        let found = std::fs::symlink_metadata(&self.path);
        found.is_ok_and(|found| self.file.metadata().is_ok_and(|own| numbers(&own) == numbers(&found)))
    }

    /// Remove it, unless the path names another server's by now.
    pub(super) fn remove(&self) {
        if self.is_still() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Bound, listening sockets, ready to be served.
pub struct Sockets {
    /// TCP addresses as bound.
    pub tcp: Vec<SocketAddr>,
    /// UDP addresses as bound.
    pub udp: Vec<SocketAddr>,
    /// The unix socket's file.
    pub unix: Option<SocketFile>,
    /// What each worker has.
    pub per_worker: Vec<Doors>,
}

impl Bound {
    /// Bind everything for `workers` workers.
    pub fn bind(config: &ListenConfig, workers: usize) -> Result<Bound, ListenError> {
        let bind = |wanted: &[SocketAddr], open: fn(SocketAddr, bool) -> io::Result<Socket>| {
            let bound = wanted.iter().map(|wanted| bind_all(*wanted, workers, open));
            Ok(bound.collect::<Result<Vec<_>, _>>()?.into_iter().unzip())
        };
        let (tcp, tcp_sockets): (Vec<_>, Vec<_>) = bind(&config.tcp, tcp_socket)?;
        let (udp, udp_sockets) = bind(&config.udp, udp_socket)?;
        let unix = config.unix.as_ref().map(|path| bind_unix(path, config.unix_mode)).transpose()?;
        let (unix_socket, unix) = unix.unzip();
        let (backlog, control, mut security) = (config.backlog, Vec::new(), config.security.clone());
        security.resize(tcp.len(), Security::Plain);
        Ok(Bound { tcp, udp, unix, backlog, security, tcp_sockets, udp_sockets, unix_socket, control, workers })
    }

    /// Let operators connect. Where somebody has a control socket's name, clients are served all
    /// the same, but no orders come over it: names are free for all, and whoever takes one must not
    /// be able to keep a cache from starting. Returns where that is so.
    pub fn listen_for_orders(&mut self) -> Result<Vec<String>, ListenError> {
        let beside_tcp = self.tcp.iter().map(|address| (address.to_string(), Ok(control::name_of(*address))));
        let beside_unix =
            self.unix.iter().map(|file| (file.path.display().to_string(), control::name_of_path(&file.path)));
        let mut without = Vec::new();
        for (served, name) in beside_tcp.chain(beside_unix).collect::<Vec<_>>() {
            let failed = |name: &str, cause| ListenError::Control { name: name.to_string(), cause };
            let name = name.map_err(|cause| failed(&served, cause))?;
            match control::listen(&name) {
                Ok(socket) => self.control.push((name, socket)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    log::warn!(
                        "another program has the name of the control socket beside {served}, @{name}: `remora ctl` can give this server no \
                         orders there; `ss -xlp` shows who it is: end it, and start this server again"
                    );
                    without.push(served);
                }
                Err(cause) => return Err(failed(&name, cause)),
            }
        }
        Ok(without)
    }

    /// Let clients connect. Fails where another server has come to listen at the same place since
    /// it was bound.
    pub fn listen(self) -> Result<Sockets, ListenError> {
        let shared = self.workers > 1;
        let mut per_worker: Vec<Doors> = (0..self.workers).map(|_| Doors::default()).collect();
        for sockets in self.udp_sockets {
            for (doors, socket) in per_worker.iter_mut().zip(sockets) {
                doors.datagrams.push(socket.into());
            }
        }
        for ((address, sockets), security) in self.tcp.iter().zip(self.tcp_sockets).zip(self.security) {
            listen_tcp(*address, &sockets, self.backlog)?;
            let name: Arc<str> = format!("tcp:{address}").into();
            for (doors, socket) in per_worker.iter_mut().zip(sockets) {
                let socket = Arc::new(OwnedFd::from(socket));
                let name = name.clone();
                doors.listeners.push(Listener { socket, name, shared: false, is_control: false, security });
            }
        }
        if let (Some(file), Some(socket)) = (&self.unix, self.unix_socket) {
            let path = file.path();
            if !file.is_still() {
                return Err(ListenError::UnixInUse(path.to_path_buf()));
            }
            socket.listen(self.backlog).map_err(|cause| ListenError::Unix { path: path.to_path_buf(), cause })?;
            let socket = Arc::new(OwnedFd::from(socket));
            let name: Arc<str> = format!("unix:{}", path.display()).into();
            for doors in &mut per_worker {
                let (socket, name) = (socket.clone(), name.clone());
                doors.listeners.push(Listener { socket, name, shared, is_control: false, security: Security::Plain });
            }
        }
        for (name, socket) in self.control {
            let (socket, name) = (Arc::new(socket), Arc::<str>::from(format!("unix:@{name}")));
            for doors in &mut per_worker {
                let (socket, name) = (socket.clone(), name.clone());
                doors.listeners.push(Listener { socket, name, shared, is_control: true, security: Security::Plain });
            }
        }
        Ok(Sockets { tcp: self.tcp, udp: self.udp, unix: self.unix, per_worker })
    }
}

impl Sockets {
    /// Bind everything for `workers` workers, and listen.
    pub fn bind(config: &ListenConfig, workers: usize) -> Result<Sockets, ListenError> {
        let mut bound = Bound::bind(config, workers)?;
        bound.listen_for_orders()?;
        bound.listen()
    }

    /// The listeners' descriptors and names, once each: the first worker's stand for all.
    pub(super) fn names(&self) -> Vec<(i32, Arc<str>)> {
        use std::os::fd::AsRawFd;
        self.per_worker.first().map_or(Vec::new(), |doors| {
            doors.listeners.iter().map(|listener| (listener.socket.as_raw_fd(), listener.name.clone())).collect()
        })
    }
}

/// Bind `count` sockets to one address, as `open` makes them: the first one shares it with nobody.
fn bind_all(
    wanted: SocketAddr,
    count: usize,
    open: fn(SocketAddr, bool) -> io::Result<Socket>,
) -> Result<(SocketAddr, Vec<Socket>), ListenError> {
    let failed = |cause| network_error(wanted, cause);
    let first = open(wanted, false).map_err(failed)?;
    let address = first.local_addr().map_err(failed)?.as_socket().unwrap_or(wanted);
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(open(address, true).map_err(failed)?);
    }
    Ok((address, sockets))
}

fn listen_tcp(address: SocketAddr, sockets: &[Socket], backlog: i32) -> Result<(), ListenError> {
    let listen = || {
        for (number, socket) in sockets.iter().enumerate() {
            // The first one shares with nobody while it begins: whoever listens there already is
            // another server.
            socket.set_reuse_port(number > 0)?;
            socket.listen(backlog)?;
            socket.set_reuse_port(true)?;
        }
        Ok(())
    };
    listen().map_err(|cause| network_error(address, cause))
}

fn network_error(address: SocketAddr, cause: io::Error) -> ListenError {
    match cause.kind() {
        io::ErrorKind::AddrInUse => ListenError::PortInUse(address),
        io::ErrorKind::PermissionDenied => ListenError::PortForbidden(address),
        io::ErrorKind::AddrNotAvailable => ListenError::NotOurs(address),
        _ => ListenError::Network { address, cause },
    }
}

/// A bound socket. Without `share` binding fails if another socket has the port; after binding, the
/// port may be shared with the sockets of the other workers.
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

/// The same for datagrams. A socket's buffer is as the system has it.
fn udp_socket(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(share)?;
    socket.bind(&address.into())?;
    socket.set_reuse_port(true)?;
    Ok(socket)
}

/// A bound socket, and its file.
fn bind_unix(path: &Path, mode: u32) -> Result<(Socket, SocketFile), ListenError> {
    let failed = |cause: io::Error| ListenError::Unix { path: path.to_path_buf(), cause };
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(failed)?;
    socket.bind(&SockAddr::unix(path).map_err(failed)?).map_err(failed)?;
    // Nobody can connect before listen(), so the permissions hold from the first connection on.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    let file = SocketFile::of(path).map_err(failed)?;
    Ok((socket, file))
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
    let address = SockAddr::unix(path).map_err(failed)?;
    match connect_unix(&address, Instant::now() + LOOK_WAIT_MAX) {
        Ok(_) => Err(ListenError::UnixInUse(path.to_path_buf())),
        // A server whose backlog is full keeps who connects waiting.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(ListenError::UnixInUse(path.to_path_buf())),
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
            while rustix::net::accept(&*listeners.listeners[0].socket).is_ok() {
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
    fn a_socket_that_another_server_has_replaced_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let config = ListenConfig { unix: Some(path.clone()), unix_mode: 0o700, backlog: 8, ..ListenConfig::default() };
        let Sockets { unix, per_worker, .. } = Sockets::bind(&config, 1).unwrap();
        let old = unix.unwrap();
        // It listens no more, but has not ended yet.
        drop(per_worker);
        let next = Sockets::bind(&config, 1).unwrap().unix.unwrap();
        assert!(!old.is_still() && next.is_still());
        old.remove();
        assert!(path.exists(), "the old server has removed its successor's socket");
        next.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_control_sockets_name_that_is_taken_stops_nothing() {
        let first = Bound::bind(&loopback(0), 1).unwrap();
        let address = first.tcp[0];
        let taken = control::listen(&control::name_of(address)).unwrap();
        let mut first = first;
        assert_eq!(first.listen_for_orders().unwrap(), [address.to_string()]);
        assert_eq!(first.listen().unwrap().per_worker[0].listeners.len(), 1, "clients are served, operators are not");
        drop(taken);
    }

    #[test]
    fn a_live_server_that_takes_nobody_is_in_use_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let full = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        full.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        full.listen(0).unwrap();
        let _waiting = connect_unix(&SockAddr::unix(&path).unwrap(), Instant::now() + LOOK_WAIT_MAX).unwrap();
        assert!(matches!(remove_stale(&path), Err(ListenError::UnixInUse(_))));
        assert!(path.exists());
    }

    #[test]
    fn another_hosts_address_is_named() {
        let config = ListenConfig { tcp: vec!["192.0.2.1:0".parse().unwrap()], backlog: 8, ..ListenConfig::default() };
        assert!(matches!(Sockets::bind(&config, 1).map(|_| ()).unwrap_err(), ListenError::NotOurs(_)));
    }
}
