//! Is a client on this host? Asked of the kernel when it matters, which is seldom.

use crate::engine::Client;
use rustix::net::{getpeername, getsockname};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// The client at the other end of a socket.
pub struct PeerOf<'s>(pub &'s OwnedFd);

/// No client: the server itself.
pub struct Nobody;

impl Client for PeerOf<'_> {
    fn is_local(&self) -> bool {
        let Ok(own) = getsockname(self.0) else { return false };
        // A unix socket's peer has no such address, and is here.
        let Ok(own) = SocketAddr::try_from(own) else { return true };
        let peer = getpeername(self.0).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok());
        peer.is_some_and(|peer| are_one_host(own, peer))
    }
}

impl Client for Nobody {
    fn is_local(&self) -> bool {
        false
    }
}

/// By loopback, or by an address of this host's that was used at both ends: nobody else's connection can come from it.
fn are_one_host(own: SocketAddr, peer: SocketAddr) -> bool {
    let (own, peer) = (own.ip().to_canonical(), peer.ip().to_canonical());
    peer.is_loopback() || peer == own
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    #[test]
    fn loopback_and_unix_sockets_are_this_host() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(PeerOf(&listener.accept().unwrap().0.into()).is_local());
        assert!(PeerOf(&UnixStream::pair().unwrap().0.into()).is_local());
        assert!(!Nobody.is_local());
    }

    #[test]
    fn another_hosts_address_is_not() {
        let one_host = |own: &str, peer: &str| are_one_host(own.parse().unwrap(), peer.parse().unwrap());
        assert!(one_host("10.0.0.1:11211", "10.0.0.1:40000"));
        assert!(one_host("[::ffff:10.0.0.1]:11211", "10.0.0.1:40000"));
        assert!(one_host("[::ffff:127.0.0.1]:11211", "[::ffff:127.0.0.1]:40000") && one_host("[::1]:1", "[::1]:2"));
        assert!(!one_host("10.0.0.1:11211", "10.0.0.2:40000"));
        assert!(!one_host("[::ffff:10.0.0.1]:11211", "[::ffff:10.0.0.2]:40000") && !one_host("[::1]:1", "[fe80::1]:2"));
    }
}
