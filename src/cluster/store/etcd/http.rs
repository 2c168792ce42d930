//! As much of HTTP/1.1 as etcd's JSON interface needs: a connection over which one question at a
//! time is asked, each with a deadline. An answer comes with its length, or in chunks.
//!
//! Whoever is at the other end: no answer is kept beyond [`ANSWER_BYTES_MAX`], and no wait lasts
//! beyond the deadline.

use crate::sys::reach;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

/// Of one answer. The longest map takes 4/3 of its bytes
/// in base64, and may be told twice.
const ANSWER_BYTES_MAX: usize = 4 << 20;
const HEAD_BYTES_MAX: usize = 16 << 10;
const READ_BYTES: usize = 16 << 10;

const _: () = assert!(ANSWER_BYTES_MAX >= 2 * (super::super::STORED_BYTES_MAX / 3 + 1) * 4 + (64 << 10));

/// A connection to one endpoint.
pub struct Connection {
    stream: TcpStream,
    endpoint: String,
    /// What was read and is not looked at yet.
    buffer: Vec<u8>,
}

/// An answer, whole.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

struct Head {
    status: u16,
    length: Option<usize>,
    is_chunked: bool,
}

impl Connection {
    /// To HOST:PORT.
    pub fn to(endpoint: &str, until: Instant) -> io::Result<Connection> {
        let addresses = reach::resolve(endpoint, until)?;
        let stream = reach::connect(&addresses, until).map_err(|(_, error)| error)?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, endpoint: endpoint.to_owned(), buffer: Vec::new() })
    }

    /// Ask, and have the whole answer. After an error the connection is good for nothing.
    pub fn ask(&mut self, path: &str, body: Option<&str>, until: Instant) -> io::Result<Answer> {
        // So that etcd does not work on it for longer either.
        let milliseconds = reach::share(until, 1).as_millis().max(1);
        self.send(path, body, milliseconds, until)?;
        let head = self.head(until)?;
        let mut answer = Vec::new();
        if let Some(length) = head.length {
            answer = self.exactly(length, until)?;
        } else if head.is_chunked {
            while let Some(chunk) = self.chunk(until)? {
                answer.extend_from_slice(&chunk);
                bounded(answer.len())?;
            }
        } else {
            return Err(nonsense("an answer has neither a length nor chunks"));
        }
        Ok(Answer { status: head.status, body: answer })
    }

    fn send(&mut self, path: &str, body: Option<&str>, milliseconds: u128, until: Instant) -> io::Result<()> {
        let method = if body.is_some() { "POST" } else { "GET" };
        let body = body.unwrap_or("");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Grpc-Timeout: {milliseconds}m\r\n\r\n{body}",
            self.endpoint,
            body.len()
        );
        if !self.buffer.is_empty() {
            return Err(nonsense("it has answered more than it was asked"));
        }
        let mut rest = request.as_bytes();
        while !rest.is_empty() {
            self.stream.set_write_timeout(Some(left(until)?))?;
            match self.stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => rest = &rest[bytes..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(timed(error)),
            }
        }
        Ok(())
    }

    fn head(&mut self, until: Instant) -> io::Result<Head> {
        let status = self.text_line(until)?;
        let status = status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| nonsense("this is no answer of HTTP/1.1"))?;
        let mut head = Head { status, length: None, is_chunked: false };
        let mut bytes = 0;
        loop {
            let line = self.text_line(until)?;
            let Some((name, value)) = line.split_once(':') else {
                return if line.is_empty() { Ok(head) } else { Err(nonsense("a header has no name")) };
            };
            bytes += line.len();
            if bytes > HEAD_BYTES_MAX {
                return Err(nonsense("the headers of an answer are too long"));
            }
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                let length = value.parse().map_err(|_| nonsense("a length is no number"))?;
                head.length = Some(bounded(length)?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.is_chunked = value.eq_ignore_ascii_case("chunked");
            }
        }
    }

    /// None at the end of all.
    fn chunk(&mut self, until: Instant) -> io::Result<Option<Vec<u8>>> {
        let line = self.text_line(until)?;
        let length = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16);
        let length = bounded(length.map_err(|_| nonsense("a chunk's length is no number"))?)?;
        if length == 0 {
            // Headers may follow, as before an answer.
            while !self.text_line(until)?.is_empty() {}
            return Ok(None);
        }
        let chunk = self.exactly(length, until)?;
        if self.text_line(until)?.is_empty() {
            Ok(Some(chunk))
        } else {
            Err(nonsense("a chunk does not end where it said"))
        }
    }

    /// Without its end.
    fn text_line(&mut self, until: Instant) -> io::Result<String> {
        let mut looked = 0;
        loop {
            if let Some(end) = self.buffer[looked..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=looked + end).collect();
                let line = String::from_utf8(line).map_err(|_| nonsense("a header is no text"))?;
                return Ok(line.trim_end().to_owned());
            }
            looked = self.buffer.len();
            if looked > HEAD_BYTES_MAX {
                return Err(nonsense("a header is too long"));
            }
            self.fill(until)?;
        }
    }

    fn exactly(&mut self, bytes: usize, until: Instant) -> io::Result<Vec<u8>> {
        while self.buffer.len() < bytes {
            self.fill(until)?;
        }
        let rest = self.buffer.split_off(bytes);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn fill(&mut self, until: Instant) -> io::Result<()> {
        let mut piece = [0; READ_BYTES];
        loop {
            self.stream.set_read_timeout(Some(left(until)?))?;
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "it has closed the connection")),
                Ok(bytes) => {
                    self.buffer.extend_from_slice(&piece[..bytes]);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(timed(error)),
            }
        }
    }
}

fn bounded(bytes: usize) -> io::Result<usize> {
    if bytes <= ANSWER_BYTES_MAX { Ok(bytes) } else { Err(nonsense("an answer is too long")) }
}

/// The time until then; an error where it is over.
fn left(until: Instant) -> io::Result<std::time::Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(silent()) } else { Ok(left.max(std::time::Duration::from_millis(1))) }
}

/// A socket's timeout has another kind than a connection's.
fn timed(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { silent() } else { error }
}

fn silent() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "it has not answered in time")
}

fn nonsense(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
