//! The bare echo: the least that a server in user space can do over the kernel's TCP, for
//! tools/compare to hold the others against.
//!
//! One thread, one epoll set, one buffer. Of what a read brings, each line is answered
//! `END` and each `set` with its data `STORED`, and all answers go out in one write. It keeps no
//! items and understands nothing else, so what a real server costs beyond it is that server's own
//! doing. `cargo bench --bench echo -- --listen 127.0.0.1:0`; without `--listen` it ends at once.

use anyhow::{Context, ensure};
use memchr::{memchr, memrchr};
use remora::sys::poll::{Interest, Poller};
use remora::sys::receive::receive;
use rustix::net::{SendFlags, send};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

const BUFFER_BYTES: usize = 64 << 10;
const LISTENER: u64 = u64::MAX;
const NAP: Duration = Duration::from_secs(1);

fn main() -> anyhow::Result<()> {
    let Some(address) = std::env::args().skip_while(|word| word != "--listen").nth(1) else {
        println!("echo measures nothing by itself: tools/compare does; or start it with --listen ADDRESS:PORT");
        return Ok(());
    };
    let listener = TcpListener::bind(&address).with_context(|| format!("cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    println!("echo: listening on tcp {}", listener.local_addr()?);
    serve(&listener)
}

fn serve(listener: &TcpListener) -> anyhow::Result<()> {
    let mut poller = Poller::new()?;
    poller.add(listener, LISTENER, Interest::Read)?;
    let mut clients: Vec<Option<Client>> = Vec::new();
    let (mut input, mut answers) = (vec![0; BUFFER_BYTES], Vec::with_capacity(BUFFER_BYTES));
    loop {
        poller.wait(NAP)?;
        for event in 0..poller.ready() {
            let token = poller.token(event);
            if token == LISTENER {
                accept(listener, &poller, &mut clients)?;
                continue;
            }
            let client = &mut clients[token as usize];
            match client.as_mut().map(|client| client.turn(&mut input, &mut answers)) {
                None | Some(Ok(Next::Read)) => {}
                Some(Ok(Next::Close)) => *client = None,
                Some(Err(why)) => {
                    eprintln!("echo: let a client go: {why:#}");
                    *client = None;
                }
            }
        }
    }
}

/// Let one client in; its token is its place.
fn accept(listener: &TcpListener, poller: &Poller, clients: &mut Vec<Option<Client>>) -> anyhow::Result<()> {
    let Ok((socket, _)) = listener.accept() else { return Ok(()) };
    socket.set_nodelay(true)?;
    let place = clients.iter().position(Option::is_none).unwrap_or(clients.len());
    clients.resize_with(clients.len().max(place + 1), || None);
    poller.add(&socket, place as u64, Interest::Read)?;
    clients[place] = Some(Client { socket, rest: Vec::new(), data_bytes: 0 });
    Ok(())
}

enum Next {
    Read,
    Close,
}

struct Client {
    socket: TcpStream,
    /// A line that has not come to its end.
    rest: Vec<u8>,
    /// Of the data of a `set`, what is still to come.
    data_bytes: usize,
}

impl Client {
    /// One read, and one write of what is to be said to it.
    fn turn(&mut self, input: &mut [u8], answers: &mut Vec<u8>) -> anyhow::Result<Next> {
        let held = self.rest.len();
        ensure!(held < input.len(), "its line is too long");
        input[..held].copy_from_slice(&self.rest);
        let arrived = match receive(&self.socket, &mut input[held..])? {
            None => return Ok(Next::Read),
            Some(0) => return Ok(Next::Close),
            Some(bytes) => held + bytes,
        };
        answers.clear();
        let consumed = self.answer(&input[..arrived], answers)?;
        self.rest.clear();
        self.rest.extend_from_slice(&input[consumed..arrived]);
        if !answers.is_empty() {
            let sent = send(&self.socket, answers, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
            ensure!(sent == answers.len(), "it does not take its answers");
        }
        Ok(Next::Read)
    }

    /// Answers to all whole lines; how many bytes those were, data included.
    fn answer(&mut self, input: &[u8], answers: &mut Vec<u8>) -> anyhow::Result<usize> {
        let mut at = self.data_bytes.min(input.len());
        self.data_bytes -= at;
        while let Some(end) = memchr(b'\n', &input[at..]) {
            let line = &input[at..at + end];
            at += end + 1;
            if line.starts_with(b"set ") {
                let data_bytes = data_bytes(line)?;
                let here = data_bytes.min(input.len() - at);
                (at, self.data_bytes) = (at + here, data_bytes - here);
                answers.extend_from_slice(b"STORED\r\n");
            } else {
                answers.extend_from_slice(b"END\r\n");
            }
        }
        Ok(at)
    }
}

/// What follows the line of a `set`: as many bytes as its last word says, and a line end.
fn data_bytes(line: &[u8]) -> anyhow::Result<usize> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let word = memrchr(b' ', line).map_or(line, |blank| &line[blank + 1..]);
    let bytes: u32 = std::str::from_utf8(word)?.parse().context("a set must end in its length")?;
    Ok(bytes as usize + b"\r\n".len())
}
