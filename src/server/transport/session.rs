//! One sealed connection: the handshake, records that arrive, records that go out.
//!
//! Pure but for the socket that it is given. It never blocks: what is missing is waited for by the
//! worker's poll. What it holds between two calls is bounded: of what has arrived, a part of a
//! record, an opened record that found no room, and what has come behind it
//! ([`SEALED_BYTES`] in all); of what is to go out, the records of one call.

use super::Sealing;
use crate::base::limits::HANDSHAKE_SECONDS_MAX;
use crate::base::time::SteadySeconds;
use crate::engine::WorkerStats;
use crate::server::state::State;
use crate::sys::receive::receive;
use crate::sys::send::{Part, send_parts};
use arrayvec::ArrayVec;
use rustls::{HandshakeKind, IoState, ProtocolVersion, ServerConnection};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::OwnedFd;

/// Most bytes that are read of a socket at a time.
pub const SEALED_BYTES: usize = 64 << 10;
/// Most bytes of answers that are sealed before the socket has taken those before them.
const SEAL_BYTES_MAX: usize = 64 << 10;
/// rustls reads so many bytes at a time, behind a part of a record, and keeps room for as many.
const READ_BYTES: usize = 4 << 10;
/// Records of TLS 1.2 that go out over one connection. rustls seals 2^24 by one key, and then drops
/// what it is given; version 1.3 takes another key before that.
const RECORDS_MAX: u64 = (1 << 24) - 4096;
/// Most plaintext bytes in a record.
const RECORD_BYTES_MAX: usize = 16 << 10;
/// What the records around some plaintext may take beyond it, where there are few.
const RECORDS_EXTRA_BYTES: usize = 1 << 10;

/// See the module.
pub struct Session {
    tls: ServerConnection,
    /// What has arrived and is still sealed, for want of room for what is in it.
    sealed: Vec<u8>,
    /// Of what has arrived, which is not whole.
    unfinished: Unfinished,
    /// What is opened, and had no room where it is to go.
    opened_bytes: usize,
    /// Bytes of answers whose records the socket has not all taken.
    outgoing_bytes: usize,
    /// Records that have gone out with answers, and how many may, where the version has a limit.
    records: u64,
    records_max: u64,
    /// Until then the handshake must be done; None once it is.
    until: Option<SteadySeconds>,
    /// A byte has gone either way since somebody asked.
    has_moved: bool,
    /// The client has said that nothing more comes.
    is_ending: bool,
    /// All that came before that has been handed on.
    is_over: bool,
}

/// Bytes of a record before its body: type, version, length.
const RECORD_HEAD_BYTES: usize = 5;

/// How far the record has arrived that has not arrived whole. rustls does not tell what it holds.
#[derive(Default)]
struct Unfinished {
    head: ArrayVec<u8, RECORD_HEAD_BYTES>,
    /// Of the body: how long it is, and how much of it is missing.
    body_bytes: usize,
    missing_bytes: usize,
    /// All that has ever arrived.
    total_bytes: usize,
    /// Of the longest record of which a part was held since rustls gave memory back.
    longest_bytes: usize,
}

impl Unfinished {
    /// These have arrived.
    fn follow(&mut self, mut bytes: &[u8]) {
        self.total_bytes = self.total_bytes.saturating_add(bytes.len());
        while let [first, rest @ ..] = bytes {
            if self.missing_bytes > 0 {
                let of_body = self.missing_bytes.min(bytes.len());
                self.missing_bytes -= of_body;
                bytes = &bytes[of_body..];
                let arrived_bytes = RECORD_HEAD_BYTES + self.body_bytes - self.missing_bytes;
                self.longest_bytes = self.longest_bytes.max(arrived_bytes);
                continue;
            }
            self.head.push(*first);
            bytes = rest;
            if let [.., high, low] = self.head[..]
                && self.head.is_full()
            {
                self.body_bytes = usize::from(u16::from_be_bytes([high, low]));
                self.missing_bytes = self.body_bytes;
                self.head.clear();
            }
        }
    }

    /// Room that rustls has made to hold it, beyond what it keeps anyway: of what it holds and a
    /// read behind it, doubled as vectors are.
    fn room_bytes(&self) -> usize {
        let beyond = self.longest_bytes.checked_sub(READ_BYTES);
        beyond.map_or(0, |_| (self.longest_bytes + READ_BYTES).next_power_of_two())
    }

    fn held_bytes(&self) -> usize {
        let of_body = if self.missing_bytes > 0 { RECORD_HEAD_BYTES + self.body_bytes - self.missing_bytes } else { 0 };
        self.head.len() + of_body
    }
}

/// Nothing to read, now. rustls gives back memory when it is about to read.
struct Nothing;

impl Read for Nothing {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// A socket as rustls writes to it.
struct Socket<'s>(&'s OwnedFd);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        send_parts(self.0, &[Part::Bytes(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let parts: Vec<Part<'_>> = pieces.iter().map(|piece| Part::Bytes(piece)).collect();
        send_parts(self.0, &parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Session {
    /// It begins, with the client's turn.
    pub fn new(mut tls: ServerConnection, now: SteadySeconds) -> Session {
        // What may be held is bounded here, by what is sealed at a time.
        tls.set_buffer_limit(None);
        Session {
            tls,
            sealed: Vec::new(),
            unfinished: Unfinished::default(),
            opened_bytes: 0,
            outgoing_bytes: 0,
            records: 0,
            records_max: RECORDS_MAX,
            has_moved: false,
            until: Some(SteadySeconds(now.0 + HANDSHAKE_SECONDS_MAX)),
            is_ending: false,
            is_over: false,
        }
    }

    /// Read and open. None when there is nothing to be had now, Some(0) when the client sends no
    /// more. An error is told to the client first, if the socket takes it. Once enough handshakes
    /// have gone on in this turn, nothing is to be had from others, whose sockets stay ready.
    pub fn receive(
        &mut self,
        socket: &OwnedFd,
        buffer: &mut [u8],
        sealing: &mut Sealing,
        stats: &WorkerStats,
    ) -> io::Result<Option<usize>> {
        if self.until.is_some() {
            let Some(left) = sealing.handshakes_left.checked_sub(1) else { return Ok(None) };
            sealing.handshakes_left = left;
        }
        let received = self.receive_sealed(socket, buffer, &mut sealing.cipher).inspect_err(|error| {
            if error.kind() == io::ErrorKind::InvalidData {
                let counter = if self.until.is_some() { &stats.ssl_handshake_errors } else { &stats.ssl_proto_errors };
                counter.increment();
                log::debug!("a client's TLS: {error}");
            }
        });
        if self.until.is_some() && !self.tls.is_handshaking() {
            self.until = None;
            if self.tls.handshake_kind() != Some(HandshakeKind::Resumed) {
                stats.ssl_new_sessions.increment();
            }
        }
        let flushed = self.flush(socket);
        let received = received?;
        flushed.map(|()| received)
    }

    fn receive_sealed(&mut self, socket: &OwnedFd, buffer: &mut [u8], cipher: &mut [u8]) -> io::Result<Option<usize>> {
        let before = std::mem::take(&mut self.sealed);
        let mut filled = self.open(&before, buffer)?;
        if filled == 0 && self.has_used_up_its_key() {
            // What was asked before is answered. Nothing more could be.
            return Ok(Some(0));
        }
        if filled == 0 && !self.is_over {
            let most = cipher.len().min(buffer.len() + RECORDS_EXTRA_BYTES);
            match receive(socket, &mut cipher[..most])? {
                None => return Ok(None),
                // Many clients close without saying so first; so does OpenSSL's, and memcached
                // takes it as it is.
                Some(0) => return Ok(Some(0)),
                Some(bytes) => {
                    self.has_moved = true;
                    self.unfinished.follow(&cipher[..bytes]);
                    filled = self.open(&cipher[..bytes], buffer)?;
                    if self.unfinished.room_bytes() > 0 && self.unfinished.held_bytes() == 0 {
                        // A connection at rest holds no more than it began with.
                        let _ = self.tls.read_tls(&mut Nothing);
                        self.unfinished.longest_bytes = 0;
                    }
                }
            }
        }
        self.opened_bytes = if filled == buffer.len() { self.process()?.plaintext_bytes_to_read() } else { 0 };
        Ok(if filled > 0 || self.is_over { Some(filled) } else { None })
    }

    fn process(&mut self) -> io::Result<IoState> {
        let state = self.tls.process_new_packets();
        let state = state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.is_ending |= state.peer_has_closed();
        Ok(state)
    }

    /// Open as much of `sealed` as there is room for what is in it, and keep the rest.
    fn open(&mut self, mut sealed: &[u8], buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            filled += self.take_opened(&mut buffer[filled..])?;
            if sealed.is_empty() || self.is_over {
                return Ok(filled);
            }
            if filled == buffer.len() {
                self.sealed.extend_from_slice(sealed);
                return Ok(filled);
            }
            if self.tls.read_tls(&mut sealed)? == 0 {
                self.is_over = true;
            }
            self.process()?;
        }
    }

    /// What is opened already, as much as there is room for.
    fn take_opened(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        match self.tls.reader().read(buffer) {
            Ok(bytes) => {
                self.is_over |= bytes == 0;
                Ok(bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Seal and send. What is sealed is counted as sent once all of its records are gone.
    pub fn send(&mut self, socket: &OwnedFd, parts: &[Part<'_>], plain: &mut Vec<u8>) -> io::Result<usize> {
        if self.outgoing_bytes == 0 {
            // In one piece: each call of the writer makes records of its own.
            plain.clear();
            for part in parts {
                let room = SEAL_BYTES_MAX - plain.len();
                match part {
                    Part::Bytes(bytes) => plain.extend_from_slice(&bytes[..bytes.len().min(room)]),
                    Part::Words(span) => span.slice(0, room).copy_to(plain),
                }
            }
            self.tls.writer().write_all(plain)?;
            if !plain.is_empty() && !self.tls.wants_write() {
                return Err(io::Error::other("the key of this TLS connection seals nothing more"));
            }
            self.records += plain.len().div_ceil(RECORD_BYTES_MAX) as u64;
            self.outgoing_bytes = plain.len();
        }
        self.flush(socket)?;
        if self.tls.wants_write() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(std::mem::take(&mut self.outgoing_bytes))
    }

    /// Have the socket take what it takes.
    fn flush(&mut self, socket: &OwnedFd) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Socket(socket)) {
                Ok(_) => self.has_moved = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What it waits for, where no answer is left to be sent.
    pub fn next(&self) -> State {
        if self.tls.wants_write() {
            return State::Writing;
        }
        // What has been read makes no socket ready, and neither does the end that was said with it.
        if self.is_ending || self.opened_bytes > 0 || !self.sealed.is_empty() { State::Yielded } else { State::Reading }
    }

    fn has_used_up_its_key(&self) -> bool {
        self.records >= self.records_max && self.tls.protocol_version() == Some(ProtocolVersion::TLSv1_2)
    }

    /// Whether a byte has gone either way since this was asked.
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.has_moved)
    }

    /// See [`super::Transport::held_bytes`].
    pub fn held_bytes(&self) -> usize {
        let unfinished = &self.unfinished;
        // A message of the handshake may go over many records.
        let handshake_bytes = if self.until.is_some() { unfinished.total_bytes } else { 0 };
        let arrived = handshake_bytes.max(unfinished.held_bytes()).max(unfinished.room_bytes());
        self.sealed.capacity() + arrived + self.opened_bytes + self.outgoing_bytes
    }

    /// Whether the handshake should be done by now.
    pub fn is_late(&self, now: SteadySeconds) -> bool {
        self.until.is_some_and(|until| now > until)
    }

    /// Say that nothing more comes.
    pub fn close(&mut self, socket: &OwnedFd) {
        self.tls.send_close_notify();
        // A client that takes nothing learns it by the end of the connection.
        let _ = self.flush(socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll::{Interest, Poller};
    use rcgen::CertifiedKey;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    #[test]
    fn what_a_record_lacks_is_known_however_it_is_cut() {
        let record = |bytes: usize| [&[23, 3, 3][..], &(bytes as u16).to_be_bytes(), &vec![7; bytes]].concat();
        let stream = [record(1), record(0), record(16_640), record(300)].concat();
        // Where a record ends nothing is held.
        let ends = [6, 11, 11 + 16_645, stream.len()];
        for piece_bytes in [1, 2, 3, 7, 64, 5000, stream.len()] {
            let (mut unfinished, mut arrived) = (Unfinished::default(), 0);
            for piece in stream.chunks(piece_bytes) {
                unfinished.follow(piece);
                arrived += piece.len();
                let before = ends.iter().rev().find(|end| **end <= arrived).unwrap_or(&0);
                assert_eq!(unfinished.held_bytes(), arrived - before, "{arrived} in pieces of {piece_bytes}");
            }
            assert_eq!(unfinished.total_bytes, stream.len());
        }
    }

    #[test]
    fn room_for_a_long_record_is_charged_until_it_is_given_back() {
        let head = |bytes: usize| [&[23, 3, 3][..], &(bytes as u16).to_be_bytes()].concat();
        for (bytes, arrived, room) in
            [(300, 200, 0), (16_640, 3000, 0), (16_640, 5000, 16 << 10), (16_640, 16_000, 32 << 10)]
        {
            let mut unfinished = Unfinished::default();
            unfinished.follow(&head(bytes));
            unfinished.follow(&vec![0; arrived]);
            assert_eq!(unfinished.room_bytes(), room, "{arrived} of {bytes}");
            // As long as nothing was given back, though the record is whole.
            unfinished.follow(&vec![0; bytes - arrived]);
            assert!(unfinished.held_bytes() == 0 && unfinished.room_bytes() >= room);
        }
    }

    /// A client and a server of version 1.2.
    fn of_version_12() -> (ClientConnection, ServerConnection) {
        let provider = Arc::new(crate::base::crypto::default_provider());
        let versions: [_; 1] = [&rustls::version::TLS12];
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["server".into()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let server = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&versions).unwrap();
        let server = server.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
        let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions).unwrap();
        let client = client.with_root_certificates(roots).with_no_client_auth();
        let client = ClientConnection::new(Arc::new(client), "server".try_into().unwrap()).unwrap();
        (client, ServerConnection::new(Arc::new(server)).unwrap())
    }

    #[test]
    fn a_connection_ends_in_order_before_its_key_is_used_up() {
        let (client, server) = of_version_12();
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let asking = std::thread::spawn(move || {
            let (mut stream, mut answered) = (StreamOwned::new(client, theirs), 0);
            // Each is asked for once that before it is answered.
            while stream.write_all(b"?").is_ok() && stream.read_exact(&mut [0]).is_ok() {
                answered += 1;
            }
            answered
        });
        ours.set_nonblocking(true).unwrap();
        let socket = OwnedFd::from(ours);
        let mut session = Session { records_max: 3, ..Session::new(server, SteadySeconds(0)) };
        let (stats, mut buffer, mut sealing) = (WorkerStats::default(), [0; 64], Sealing::new());
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            sealing.begin_turn();
            match session.receive(&socket, &mut buffer, &mut sealing, &stats).unwrap() {
                Some(0) => break,
                Some(1) => assert_eq!(session.send(&socket, &[Part::Bytes(b"!")], &mut Vec::new()).unwrap(), 1),
                other => assert_eq!(other, None),
            }
            assert!(Instant::now() < until, "it goes on for ever");
        }
        session.close(&socket);
        drop(socket);
        assert_eq!(asking.join().unwrap(), 3);
    }
    #[test]
    fn what_a_socket_takes_in_parts_is_sealed_once() {
        let (client, server) = of_version_12();
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        // Less than a record, so none goes out in one piece.
        socket2::SockRef::from(&ours).set_send_buffer_size(1).unwrap();
        let value: Vec<u8> = (0..2 * SEAL_BYTES_MAX + 77).map(|at| (at % 251) as u8).collect();
        let mut came = vec![0; value.len()];
        let (refuse, is_refused) = std::sync::mpsc::channel();
        let asking = std::thread::spawn(move || {
            let mut stream = StreamOwned::new(client, theirs);
            stream.write_all(b"?").unwrap();
            // Nothing is taken until the socket is full.
            is_refused.recv_timeout(Duration::from_secs(30)).unwrap();
            stream.read_exact(&mut came).unwrap();
            (came, stream.read(&mut [0]).is_ok_and(|bytes| bytes > 0))
        });
        ours.set_nonblocking(true).unwrap();
        let socket = OwnedFd::from(ours);
        let mut session = Session::new(server, SteadySeconds(0));
        let (stats, mut buffer, mut sealing) = (WorkerStats::default(), [0; 64], Sealing::new());
        let until = Instant::now() + Duration::from_secs(30);
        while session.receive(&socket, &mut buffer, &mut sealing, &stats).unwrap().is_none() {
            sealing.begin_turn();
            assert!(Instant::now() < until, "no request comes");
        }
        let mut poller = Poller::new().unwrap();
        poller.add(&socket, 0, Interest::Write).unwrap();
        let mut sent = 0;
        while sent < value.len() {
            match session.send(&socket, &[Part::Bytes(&value[sent..])], &mut sealing.plain) {
                Ok(bytes) => sent += bytes,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    let _ = refuse.send(());
                    poller.wait(Duration::from_secs(30)).unwrap();
                }
            }
            assert!(Instant::now() < until, "{sent} bytes have gone");
        }
        drop(socket);
        let (came, is_more) = asking.join().unwrap();
        assert!(came == value && !is_more);
    }
}
