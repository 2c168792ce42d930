//! One connection that speaks memcached's text protocol, pipelined: requests gather, go out
//! together, and the answers are taken one after the other, in order.
//!
//! Every wait has a bound, given when it is opened. The socket blocks, so what is sent at once must
//! fit into the buffers of the two sockets together ([`BATCH_BYTES_MAX`]): a larger batch could
//! wait for a server that waits for its answers to be taken.

use crate::base::limits::LOAD_ANSWER_BYTES_MAX;
use memchr::memchr;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Most bytes of requests, and of the answers to them, that may be under way: half of Linux's
/// default for one socket's receive buffer.
pub const BATCH_BYTES_MAX: usize = 64 << 10;

/// Bytes asked of the socket in one read.
const READ_BYTES: usize = 64 << 10;

/// What went wrong on a connection. After each of these only a new connection helps.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("cannot connect to {address}: {cause}; does the server run, and listen there?")]
    Connect {
        /// Where to: an address, or the path of a unix socket.
        address: String,
        /// What the system said.
        cause: io::Error,
    },
    /// No handshake.
    #[error("cannot begin TLS with {address}: {cause}; does it speak TLS, and is --tls-ca who signed its certificate?")]
    Handshake {
        /// As the operator named it.
        address: String,
        /// What is wrong.
        cause: io::Error,
    },
    /// The bound of a wait has passed.
    #[error("no progress while {doing} for {} s", waited_max.as_secs_f32())]
    Timeout {
        /// Reading or writing.
        doing: &'static str,
        /// The bound.
        waited_max: Duration,
    },
    /// The other side has closed.
    #[error("the server closed the connection")]
    Closed,
    /// The system refused.
    #[error("{doing}: {cause}")]
    Socket {
        /// Reading or writing.
        doing: &'static str,
        /// What it said.
        cause: io::Error,
    },
    /// Not an answer to what was asked.
    #[error("expected {expected}, the server said \"{said}\"")]
    Unexpected {
        /// What would have been right.
        expected: &'static str,
        /// The line, or its beginning.
        said: String,
    },
    /// An answer without an end.
    #[error("an answer of more than {LOAD_ANSWER_BYTES_MAX} bytes")]
    TooLong,
}

/// The answer to a meta command.
#[derive(Debug, PartialEq, Eq)]
pub struct MetaAnswer<'a> {
    /// HD, VA, EN, NS and so on.
    pub code: &'a [u8],
    /// What stands behind the code (and the size), blanks between.
    pub flags: &'a [u8],
    /// With VA.
    pub value: Option<&'a [u8]>,
}

impl MetaAnswer<'_> {
    /// Whether this flag, and nothing behind its letter, came back.
    pub fn has(&self, flag: u8) -> bool {
        self.flags.split(|byte| *byte == b' ').any(|token| token == [flag])
    }
}

/// See the module.
pub struct Connection {
    stream: Box<dyn Stream>,
    waited_max: Duration,
    requests: Vec<u8>,
    input: Vec<u8>,
    /// Of the input, read from the socket; behind it is room.
    filled: usize,
    /// Of what is filled, taken already.
    taken: usize,
}

/// What a connection goes over.
trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

impl Connection {
    /// Connect; no wait, now or later, is longer than `waited_max`.
    pub fn open(address: SocketAddr, waited_max: Duration) -> Result<Connection, ClientError> {
        let connect = || Connection::over_tcp(TcpStream::connect_timeout(&address, waited_max)?, waited_max);
        connect().map_err(|cause| ClientError::Connect { address: address.to_string(), cause })
    }

    /// Over a TCP connection; no wait is longer than `waited_max`.
    pub fn over_tcp(stream: TcpStream, waited_max: Duration) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(waited_max))?;
        stream.set_write_timeout(Some(waited_max))?;
        Ok(Connection::over(Box::new(stream), waited_max))
    }

    /// Over a unix socket; no wait is longer than `waited_max`.
    pub fn over_unix(stream: UnixStream, waited_max: Duration) -> io::Result<Connection> {
        stream.set_read_timeout(Some(waited_max))?;
        stream.set_write_timeout(Some(waited_max))?;
        Ok(Connection::over(Box::new(stream), waited_max))
    }

    fn over(stream: Box<dyn Stream>, waited_max: Duration) -> Connection {
        Connection { stream, waited_max, requests: Vec::new(), input: Vec::new(), filled: 0, taken: 0 }
    }

    /// Requests to go out with the next [`Self::send`]; append to it.
    pub fn requests(&mut self) -> &mut Vec<u8> {
        &mut self.requests
    }

    /// Send what has gathered.
    pub fn send(&mut self) -> Result<(), ClientError> {
        let sent = self.stream.write_all(&self.requests);
        self.requests.clear();
        sent.map_err(|cause| self.failure("writing", cause))
    }

    /// Send one line, take one line. A server that has turned the connection away may have said why
    /// before it was asked.
    pub fn ask(&mut self, line: &str) -> Result<&[u8], ClientError> {
        self.requests.extend_from_slice(line.as_bytes());
        self.requests.extend_from_slice(b"\r\n");
        match self.send() {
            Ok(()) | Err(ClientError::Closed) => self.line(),
            Err(error) => Err(error),
        }
    }

    /// Take an answer of one line; without its line end.
    pub fn line(&mut self) -> Result<&[u8], ClientError> {
        self.begin_answer();
        let line = self.take_line()?;
        Ok(&self.input[line])
    }

    /// Take an answer of one line that must be `expected`.
    pub fn expect(&mut self, expected: &'static str) -> Result<(), ClientError> {
        let line = self.line()?;
        if line == expected.as_bytes() { Ok(()) } else { Err(unexpected(expected, line)) }
    }

    /// Take the answer to a get of one key; None for a miss.
    pub fn get_answer(&mut self, key: &[u8]) -> Result<Option<&[u8]>, ClientError> {
        const EXPECTED: &str = "VALUE of the key that was asked for, or END";
        self.begin_answer();
        let line = self.take_line()?;
        let said = &self.input[line];
        if said == b"END" {
            return Ok(None);
        }
        let of_key = said.strip_prefix(b"VALUE ").and_then(|rest| rest.strip_prefix(key)?.strip_prefix(b" "));
        let Some(bytes) = of_key.and_then(|rest| number(rest.split(|byte| *byte == b' ').nth(1)?)) else {
            return Err(unexpected(EXPECTED, said));
        };
        let whole = self.take_bytes(bytes, b"\r\nEND\r\n")?;
        Ok(Some(&self.input[whole]))
    }

    /// Take the answer to one meta command.
    pub fn meta_answer(&mut self) -> Result<MetaAnswer<'_>, ClientError> {
        self.begin_answer();
        let line = self.take_line()?;
        let said = &self.input[line.clone()];
        let code_bytes = memchr(b' ', said).unwrap_or(said.len());
        if code_bytes != 2 {
            return Err(unexpected("the answer to a meta command", said));
        }
        let rest = line.start + (code_bytes + 1).min(said.len())..line.end;
        if &said[..2] != b"VA" {
            let (code, flags) = (&self.input[line.start..line.start + 2], &self.input[rest]);
            return Ok(MetaAnswer { code, flags, value: None });
        }
        let size_bytes = memchr(b' ', &self.input[rest.clone()]).unwrap_or(rest.len());
        let Some(bytes) = number(&self.input[rest.start..rest.start + size_bytes]) else {
            return Err(unexpected("VA and a size", said));
        };
        let flags = (rest.start + size_bytes + 1).min(rest.end)..rest.end;
        let value = self.take_bytes(bytes, b"\r\n")?;
        Ok(MetaAnswer { code: b"VA", flags: &self.input[flags], value: Some(&self.input[value]) })
    }

    /// Ask for `stats`, plain with an empty `subject`.
    pub fn stats(&mut self, subject: &str) -> Result<BTreeMap<String, String>, ClientError> {
        self.requests.extend_from_slice(format!("stats {subject}").trim_end().as_bytes());
        self.requests.extend_from_slice(b"\r\n");
        self.send()?;
        let mut rows = BTreeMap::new();
        let mut bytes = 0;
        loop {
            let line = self.line()?;
            bytes += line.len();
            if line == b"END" {
                return Ok(rows);
            }
            let text = String::from_utf8_lossy(line);
            match text.strip_prefix("STAT ").and_then(|row| row.split_once(' ')) {
                Some((name, value)) => rows.insert(name.to_string(), value.to_string()),
                None => return Err(unexpected("STAT or END", line)),
            };
            if bytes > LOAD_ANSWER_BYTES_MAX {
                return Err(ClientError::TooLong);
            }
        }
    }

    /// Forget what was taken. Only between answers: until then ranges into the input stay as they
    /// are.
    fn begin_answer(&mut self) {
        if self.taken == self.filled {
            (self.taken, self.filled) = (0, 0);
        } else if self.taken > READ_BYTES {
            self.input.copy_within(self.taken..self.filled, 0);
            (self.taken, self.filled) = (0, self.filled - self.taken);
        }
    }

    fn take_line(&mut self) -> Result<Range<usize>, ClientError> {
        let begin = self.taken;
        let mut searched = begin;
        loop {
            if let Some(at) = memchr(b'\n', &self.input[searched..self.filled]) {
                let end = searched + at;
                self.taken = end + 1;
                let bare = self.input[begin..end].strip_suffix(b"\r").map_or(end, |line| begin + line.len());
                return Ok(begin..bare);
            }
            searched = self.filled;
            self.fill(begin)?;
        }
    }

    /// So many bytes, and `behind` after them, which is checked and left out.
    fn take_bytes(&mut self, bytes: usize, behind: &'static [u8]) -> Result<Range<usize>, ClientError> {
        let begin = self.taken;
        if bytes > LOAD_ANSWER_BYTES_MAX {
            return Err(ClientError::TooLong);
        }
        let end = begin + bytes;
        while self.filled < end + behind.len() {
            self.fill(begin)?;
        }
        self.taken = end + behind.len();
        if &self.input[end..self.taken] != behind {
            return Err(unexpected("an end after the value's last byte", &self.input[end..self.taken]));
        }
        Ok(begin..end)
    }

    /// Read what is there, at least one byte, into the answer that began at `begin`.
    fn fill(&mut self, begin: usize) -> Result<(), ClientError> {
        if self.filled - begin > LOAD_ANSWER_BYTES_MAX + READ_BYTES {
            return Err(ClientError::TooLong);
        }
        if self.input.len() < self.filled + READ_BYTES {
            self.input.resize(self.filled + READ_BYTES, 0);
        }
        loop {
            match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(bytes) => {
                    self.filled += bytes;
                    return Ok(());
                }
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) => return Err(self.failure("reading", cause)),
            }
        }
    }

    fn failure(&self, doing: &'static str, cause: io::Error) -> ClientError {
        match cause.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => ClientError::Timeout { doing, waited_max: self.waited_max },
            _ => socket_failure(doing, cause),
        }
    }
}

/// What the system's refusal means for a connection.
pub(super) fn socket_failure(doing: &'static str, cause: io::Error) -> ClientError {
    match cause.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => ClientError::Closed,
        _ => ClientError::Socket { doing, cause },
    }
}

fn number(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Long lines are cut: an error is read by a person.
pub(super) fn unexpected(expected: &'static str, said: &[u8]) -> ClientError {
    let said = String::from_utf8_lossy(&said[..said.len().min(120)]).into_owned();
    ClientError::Unexpected { expected, said }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::scripted;

    const WAIT_MAX: Duration = Duration::from_secs(20);

    fn connection(answer: &[u8], piece_bytes: usize) -> Connection {
        Connection::open(scripted::answering(answer, piece_bytes), WAIT_MAX).unwrap()
    }

    #[test]
    fn answers_are_taken_in_order_however_they_are_cut() {
        let long = "v".repeat(200_000);
        let script = format!(
            "VALUE key 0 5\r\nva\r\ne\r\nEND\r\nEND\r\nSTORED\r\nVALUE key 7 200000 9\r\n{long}\r\nEND\r\n\
             VA 2 t5 W\r\nhi\r\nVA 0\r\n\r\nHD c1 Z\r\nEN\r\nSTAT pid 7\r\nSTAT a b c\r\nEND\r\n17\r\n"
        );
        for piece_bytes in [11, 4096, script.len()] {
            let mut connection = connection(script.as_bytes(), piece_bytes);
            assert_eq!(connection.get_answer(b"key").unwrap(), Some(&b"va\r\ne"[..]));
            assert_eq!(connection.get_answer(b"key").unwrap(), None);
            connection.expect("STORED").unwrap();
            assert_eq!(connection.get_answer(b"key").unwrap(), Some(long.as_bytes()));
            let won = connection.meta_answer().unwrap();
            assert_eq!((won.code, won.flags, won.value), (&b"VA"[..], &b"t5 W"[..], Some(&b"hi"[..])));
            assert!(won.has(b'W') && !won.has(b't'));
            let empty = MetaAnswer { code: b"VA", flags: b"", value: Some(b"") };
            assert_eq!(connection.meta_answer().unwrap(), empty);
            assert_eq!(connection.meta_answer().unwrap(), MetaAnswer { code: b"HD", flags: b"c1 Z", value: None });
            assert_eq!(connection.meta_answer().unwrap(), MetaAnswer { code: b"EN", flags: b"", value: None });
            let stats = connection.stats("").unwrap();
            assert_eq!((stats["pid"].as_str(), stats["a"].as_str(), stats.len()), ("7", "b c", 2));
            assert_eq!(connection.line().unwrap(), b"17");
            assert!(matches!(connection.line(), Err(ClientError::Closed)));
        }
    }

    #[test]
    fn what_is_no_answer_to_the_question_is_an_error_with_the_words() {
        for wrong in [
            "VALUE other 0 1\r\nx\r\nEND\r\n",
            "VALUE key 0\r\n",
            "VALUE key 0 1\r\nxy\r\nEND\r\n",
            "VALUE key 0 1\r\nx\r\nVALUE",
            "SERVER_ERROR out of memory\r\n",
        ] {
            let error = connection(wrong.as_bytes(), 1000).get_answer(b"key").unwrap_err();
            assert!(matches!(error, ClientError::Unexpected { .. }), "{wrong:?}: {error}");
        }
        let error = connection(b"NOT_STORED\r\n", 1000).expect("STORED").unwrap_err();
        assert_eq!(error.to_string(), "expected STORED, the server said \"NOT_STORED\"");
        let endless = vec![b'x'; LOAD_ANSWER_BYTES_MAX + 4 * READ_BYTES];
        assert!(matches!(connection(&endless, endless.len()).line(), Err(ClientError::TooLong)));
        let huge = b"VALUE key 0 99999999999\r\n";
        assert!(matches!(connection(huge, 1000).get_answer(b"key"), Err(ClientError::TooLong)));
    }

    #[test]
    fn a_server_that_is_silent_ends_in_a_timeout() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut connection = Connection::open(listener.local_addr().unwrap(), Duration::from_millis(20)).unwrap();
        let error = connection.ask("version").unwrap_err();
        assert_eq!(error.to_string(), "no progress while reading for 0.02 s");
    }

    #[test]
    fn a_server_that_is_not_there_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = Connection::open(address, WAIT_MAX).err().map(|error| error.to_string());
        assert!(error.is_some_and(|text| text.contains(&address.to_string())));
    }
}
