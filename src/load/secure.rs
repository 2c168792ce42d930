//! TLS of a connection of `remora load`: bytes are sealed on their way out, opened on their way in.
//!
//! The handshake is done before the run begins, so that no request waits for it.

use crate::base::crypto;
use crate::sys::receive::receive;
use crate::sys::send::{Part, send_parts};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::Socket;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most bytes that are sealed before the socket has taken those before them.
const SEAL_BYTES_MAX: usize = 64 << 10;
/// Most bytes that one read takes of the socket.
const SEALED_BYTES: usize = 64 << 10;

/// Whose certificates are trusted, and whom a server is to be.
#[derive(Debug, Clone)]
pub struct Trust {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Trust {
    /// The authorities in a file of PEM, for each of these servers by the name of its host.
    pub fn read(path: &Path, hosts: &[String]) -> Result<Vec<Trust>, String> {
        let of_file = |cause: String| format!("cannot read the authorities {}: {cause}", path.display());
        let mut roots = RootCertStore::empty();
        let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        for certificate in found.map_err(|error| of_file(error.to_string()))? {
            roots.add(certificate).map_err(|error| of_file(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(of_file("there is no certificate in it".into()));
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(crypto::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
        let of_host = |host: &String| {
            let name = ServerName::try_from(host.clone());
            let name = name.map_err(|_| format!("a certificate cannot have the name {host}"))?;
            Ok(Trust { config: Arc::clone(&config), name })
        };
        hosts.iter().map(of_host).collect()
    }
}

/// See the module.
pub struct Secure {
    tls: ClientConnection,
    /// Bytes that are sealed, and whose records the socket has not all taken.
    sealed_bytes: usize,
    /// What has arrived; of it, `opened..arrived` is still sealed.
    cipher: Box<[u8]>,
    opened: usize,
    arrived: usize,
    /// The last read filled its buffer, so there may be more.
    has_more: bool,
}

impl Secure {
    /// Shake hands over a socket that blocks, within `wait_max`, or twice that where the last step
    /// comes late.
    pub fn begin(trust: &Trust, socket: &Socket, wait_max: Duration) -> io::Result<Secure> {
        let tls = ClientConnection::new(Arc::clone(&trust.config), trust.name.clone());
        let mut tls = tls.map_err(invalid)?;
        tls.set_buffer_limit(None);
        socket.set_read_timeout(Some(wait_max))?;
        socket.set_write_timeout(Some(wait_max))?;
        let mut both_ways = socket;
        let until = Instant::now() + wait_max;
        while tls.is_handshaking() {
            tls.complete_io(&mut both_ways)?;
            if Instant::now() > until {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        let cipher = vec![0; SEALED_BYTES].into();
        Ok(Secure { tls, sealed_bytes: 0, cipher, opened: 0, arrived: 0, has_more: false })
    }

    /// The version and the suite, in rustls' words.
    pub fn terms(&self) -> Option<String> {
        Some(format!("{:?} {:?}", self.tls.protocol_version()?, self.tls.negotiated_cipher_suite()?.suite()))
    }

    /// Seal and send from the beginning of `bytes`: how many of them are gone for good. They must
    /// be there again, as the first, until they are.
    pub fn send(&mut self, socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
        if self.sealed_bytes == 0 {
            self.sealed_bytes = bytes.len().min(SEAL_BYTES_MAX);
            self.tls.writer().write_all(&bytes[..self.sealed_bytes])?;
        }
        while self.tls.wants_write() {
            self.tls.write_tls(&mut Taking(socket))?;
        }
        Ok(std::mem::take(&mut self.sealed_bytes))
    }

    /// What is there, opened; as [`receive`].
    pub fn receive(&mut self, socket: &Socket, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let (mut filled, mut has_read, mut is_over) = (0, false, false);
        loop {
            match self.tls.reader().read(&mut buffer[filled..]) {
                Ok(0) if filled < buffer.len() => is_over = true,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Closed without saying so.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => is_over = true,
                Err(error) => return Err(error),
            }
            self.has_more = filled == buffer.len();
            if self.has_more || is_over {
                break;
            }
            if self.opened == self.arrived {
                if has_read {
                    break;
                }
                has_read = true;
                let Some(bytes) = receive(socket, &mut self.cipher)? else { break };
                (self.opened, self.arrived) = (0, bytes);
            }
            let mut piece = &self.cipher[self.opened..self.arrived];
            self.opened += self.tls.read_tls(&mut piece)?;
            self.tls.process_new_packets().map_err(invalid)?;
        }
        Ok(if filled > 0 || is_over { Some(filled) } else { None })
    }

    /// Whether there may be more than the last read had room for. The socket does not tell.
    pub fn has_more(&self) -> bool {
        self.has_more
    }
}

/// A socket as rustls writes to it.
struct Taking<'s>(&'s Socket);

impl Write for Taking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        send_parts(self.0, &[Part::Bytes(bytes)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
