//! Plays a transcript against a server: the same conversation in one write, byte by byte, or cut in
//! two at any place, since a server may not care how TCP cuts the stream. Takes an address, gives
//! back what went wrong, if anything.

use super::format::{Act, Dialect, Piece, Step, Transcript, known_bytes};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Once so many bytes of answers are due they are read before more is sent, so that neither side
/// waits for the other.
const UNREAD_BYTES_MAX: usize = 32 << 10;

/// Between two pieces, so that the server mostly sees them apart. Nothing depends on its doing so.
const PIECE_PAUSE: Duration = Duration::from_micros(40);

/// How the bytes are handed to the socket.
#[derive(Debug, Clone, Copy)]
pub enum Delivery {
    /// Each request waits for the answer to the one before.
    InTurn,
    /// As much at a time as can be said without having heard an answer.
    OneWrite,
    /// As OneWrite, in pieces of so many bytes.
    Pieces(usize),
    /// As OneWrite, cut once, at this byte of all that is sent.
    SplitAt(usize),
}

/// The server that is held to the transcript.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub address: SocketAddr,
    pub dialect: Dialect,
    /// Longest wait for one answer.
    pub wait_max: Duration,
}

struct Player<'a> {
    peer: Peer,
    delivery: Delivery,
    clients: [Option<BufReader<TcpStream>>; 2],
    numbers: HashMap<String, u64>,
    pending: Pending<'a>,
    /// Bytes sent so far, by all clients: what SplitAt counts.
    sent_bytes: usize,
    /// Lines that the last `<+` took.
    lines: Vec<Vec<u8>>,
}

/// What was gathered of one client's turn: bytes to send, then answers due.
#[derive(Default)]
struct Pending<'a> {
    client: usize,
    bytes: Vec<u8>,
    due: Vec<&'a Step>,
    due_bytes: usize,
}

/// Play all of `transcript`; the error says where it went wrong.
pub fn play(transcript: &Transcript, peer: &Peer, delivery: Delivery) -> Result<(), String> {
    let mut player = Player {
        peer: *peer,
        delivery,
        clients: [None, None],
        numbers: HashMap::new(),
        pending: Pending::default(),
        sent_bytes: 0,
        lines: Vec::new(),
    };
    player.run(transcript).map_err(|why| format!("{}:{why}\n  (sent {delivery:?})", transcript.name))
}

/// Take everything away that an earlier run left.
pub fn wipe(peer: &Peer) -> Result<(), String> {
    let mut client = connect(peer)?;
    client.get_mut().write_all(b"flush_all\r\n").map_err(|error| format!("flush_all: {error}"))?;
    match next_line(&mut client)?.as_slice() {
        b"OK\r\n" => Ok(()),
        other => Err(format!("flush_all was answered {}", shown(other))),
    }
}

/// The first line of the answer to `request`, for asking a server its version.
pub fn ask(peer: &Peer, request: &str) -> Result<String, String> {
    let mut client = connect(peer)?;
    client.get_mut().write_all(request.as_bytes()).map_err(|error| format!("{request}: {error}"))?;
    Ok(String::from_utf8_lossy(&next_line(&mut client)?).trim_end().to_string())
}

impl<'a> Player<'a> {
    fn run(&mut self, transcript: &'a Transcript) -> Result<(), String> {
        for step in &transcript.steps {
            if step.dialect.is_some_and(|dialect| dialect != self.peer.dialect) {
                continue;
            }
            match &step.act {
                Act::Send(pieces) => self.send(step, pieces)?,
                _ => self.expect(step),
            }
        }
        self.settle()?;
        self.nothing_more()
    }

    fn send(&mut self, step: &'a Step, pieces: &[Piece]) -> Result<(), String> {
        let mut bytes = self.fill_in(pieces);
        if bytes.is_none() || self.must_settle_before(step) {
            self.settle()?;
            bytes = self.fill_in(pieces);
        }
        let bytes = bytes.ok_or(format!("{}: a name that no answer has given", step.line_number))?;
        self.pending.client = step.client;
        self.pending.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    fn expect(&mut self, step: &'a Step) {
        if let Act::Expect(pieces) | Act::ExpectMany(pieces) = &step.act {
            self.pending.due_bytes += known_bytes(pieces);
        }
        self.pending.due.push(step);
    }

    fn must_settle_before(&self, step: &Step) -> bool {
        let answer_due = !self.pending.due.is_empty();
        self.pending.client != step.client
            || self.pending.due_bytes > UNREAD_BYTES_MAX
            || (answer_due && matches!(self.delivery, Delivery::InTurn))
    }

    /// The bytes of a request, or None while a number in it is still to be answered.
    fn fill_in(&self, pieces: &[Piece]) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Bytes(known) => bytes.extend_from_slice(known),
                Piece::Number { name, .. } => bytes.extend_from_slice(self.numbers.get(name)?.to_string().as_bytes()),
                Piece::Range(..) | Piece::Rest => panic!("only answers have wildcards"),
            }
        }
        Some(bytes)
    }

    /// Send what is gathered and check what is due.
    fn settle(&mut self) -> Result<(), String> {
        let pending = std::mem::take(&mut self.pending);
        self.write(pending.client, &pending.bytes)?;
        for step in pending.due {
            self.check(step).map_err(|why| format!("{}: {why}", step.line_number))?;
        }
        Ok(())
    }

    /// A failure to write is not told here: the server may have hung up, which the answers that are
    /// due will show.
    fn write(&mut self, client: usize, bytes: &[u8]) -> Result<(), String> {
        let piece_bytes = match self.delivery {
            Delivery::Pieces(bytes) => bytes,
            _ => usize::MAX,
        };
        let cut = match self.delivery {
            Delivery::SplitAt(at) => at.saturating_sub(self.sent_bytes).min(bytes.len()),
            _ => 0,
        };
        self.sent_bytes += bytes.len();
        let stream = self.client(client)?.get_mut();
        let (before, after) = bytes.split_at(cut);
        for piece in before.chunks(piece_bytes).chain(after.chunks(piece_bytes)) {
            if stream.write_all(piece).is_err() {
                break;
            }
            if piece.len() < bytes.len() {
                std::thread::sleep(PIECE_PAUSE);
            }
        }
        Ok(())
    }

    fn client(&mut self, client: usize) -> Result<&mut BufReader<TcpStream>, String> {
        if self.clients[client].is_none() {
            self.clients[client] = Some(connect(&self.peer)?);
        }
        Ok(self.clients[client].as_mut().expect("just connected"))
    }

    fn check(&mut self, step: &Step) -> Result<(), String> {
        match &step.act {
            Act::Send(_) => unreachable!("requests are not due"),
            Act::Expect(pieces) => {
                let line = next_line(self.client(step.client)?)?;
                self.compare(pieces, &line)
            }
            Act::ExpectMany(pieces) => self.check_many(step.client, pieces),
            Act::ExpectAmong(pieces) => {
                let lines = std::mem::take(&mut self.lines);
                let found = lines.iter().any(|line| self.compare(pieces, line).is_ok());
                self.lines = lines;
                if found { Ok(()) } else { Err("no line is like this".into()) }
            }
            Act::ExpectClosed => self.check_closed(step.client),
        }
    }

    /// Takes lines while they fit; the first that does not is left for the next expectation.
    fn check_many(&mut self, client: usize, pieces: &[Piece]) -> Result<(), String> {
        let mut taken: Vec<Vec<u8>> = Vec::new();
        let Some(Piece::Bytes(opening)) = pieces.first() else {
            return Err("lines of this kind open with something known".into());
        };
        loop {
            let stream = self.client(client)?;
            // A short answer may stop within the opening: wait for that many bytes by reading lines
            // only when they fit.
            let ahead = stream.fill_buf().map_err(|error| format!("no further line: {error}"))?;
            if !ahead.starts_with(&opening[..opening.len().min(ahead.len())]) || ahead.is_empty() {
                break;
            }
            let line = next_line(self.client(client)?)?;
            self.compare(pieces, &line)?;
            taken.push(line);
        }
        self.lines = taken;
        if self.lines.is_empty() { Err("not one line like this".into()) } else { Ok(()) }
    }

    fn check_closed(&mut self, client: usize) -> Result<(), String> {
        let stream = self.client(client)?;
        match stream.fill_buf() {
            Ok([]) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Ok(more) => return Err(format!("not closed, but {}", shown(more))),
            Err(error) => return Err(format!("not closed: {error}")),
        }
        self.clients[client] = None;
        Ok(())
    }

    /// Whoever is still connected gets an answer to a last, unmistakable request next, and nothing
    /// before it.
    fn nothing_more(&mut self) -> Result<(), String> {
        for stream in self.clients.iter_mut().flatten() {
            stream.get_mut().write_all(b"mg no-such-key Olast\r\n").map_err(|error| format!("end: {error}"))?;
            let line = next_line(stream).map_err(|why| format!("end: {why}"))?;
            if line != b"EN Olast\r\n" {
                return Err(format!("end: one answer too many: {}", shown(&line)));
            }
        }
        Ok(())
    }

    fn compare(&mut self, pieces: &[Piece], line: &[u8]) -> Result<(), String> {
        let mut rest = line;
        for piece in pieces {
            rest = self
                .take(piece, rest)
                .ok_or_else(|| format!("expected {}\n  but got {}", expected(pieces), shown(line)))?;
        }
        if rest.is_empty() { Ok(()) } else { Err(format!("expected {}\n  but got {}", expected(pieces), shown(line))) }
    }

    fn take<'l>(&mut self, piece: &Piece, line: &'l [u8]) -> Option<&'l [u8]> {
        match piece {
            Piece::Bytes(bytes) => line.strip_prefix(bytes.as_slice()),
            Piece::Rest => Some(&line[line.len().saturating_sub(2)..]),
            Piece::Range(low, high) => {
                let (number, rest) = leading_number(line)?;
                (*low..=*high).contains(&number).then_some(rest)
            }
            Piece::Number { name, unlike } => {
                let (number, rest) = leading_number(line)?;
                let differs = unlike.as_ref().is_none_or(|other| self.numbers.get(other) != Some(&number));
                let known = *self.numbers.entry(name.clone()).or_insert(number);
                (differs && known == number).then_some(rest)
            }
        }
    }
}

fn connect(peer: &Peer) -> Result<BufReader<TcpStream>, String> {
    let set_up = |stream: TcpStream| {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(peer.wait_max))?;
        stream.set_write_timeout(Some(peer.wait_max))?;
        Ok(BufReader::new(stream))
    };
    let connected = TcpStream::connect_timeout(&peer.address, peer.wait_max).and_then(set_up);
    connected.map_err(|error| format!("{}: {error}", peer.address))
}

fn next_line(stream: &mut BufReader<TcpStream>) -> Result<Vec<u8>, String> {
    let mut line = Vec::new();
    match stream.read_until(b'\n', &mut line) {
        Ok(0) => Err("the server hung up".into()),
        Ok(_) => Ok(line),
        Err(error) => Err(format!("no answer ({error}) behind {}", shown(&line))),
    }
}

fn leading_number(line: &[u8]) -> Option<(u64, &[u8])> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&line[..digits]).ok()?.parse().ok()?;
    Some((number, &line[digits..]))
}

/// Bytes for people; the middle of a long line left out.
fn shown(line: &[u8]) -> String {
    if line.len() <= 400 {
        return format!("\"{}\"", line.escape_ascii());
    }
    let (front, back) = (&line[..60], &line[line.len() - 60..]);
    format!("\"{}\" ... {} bytes ... \"{}\"", front.escape_ascii(), line.len(), back.escape_ascii())
}

fn expected(pieces: &[Piece]) -> String {
    let show = |piece: &Piece| match piece {
        Piece::Bytes(bytes) => shown(bytes),
        Piece::Rest => "<*>".into(),
        Piece::Range(low, high) => format!("<{low}..{high}>"),
        Piece::Number { name, unlike } => {
            format!("<{name}{}>", unlike.iter().map(|u| format!("!{u}")).collect::<String>())
        }
    };
    pieces.iter().map(show).collect::<Vec<_>>().join(" ")
}
