//! What test binaries share. Here, for whole processes: starting a server on ports of the kernel's
//! choice, talking to it with a bound on every wait, and ending it by its own pid. A server that is
//! dropped is killed, so no test leaves one behind.
#![allow(dead_code, missing_docs)] // each test binary uses its own part of this

pub mod certificates;
pub mod forged;
pub mod forwarder;
pub mod harness;
pub mod history;
pub mod packets;
pub mod peers;
pub mod stores;
pub mod wait;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// No single wait of a test is longer: a test that would hang fails instead.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// `REMORA_SEED`, and the like.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// The seeds of a run: `REMORA_SEED` alone; else `REMORA_SEEDS` of them, or as many as usual.
pub fn seeds(usual: u64) -> Vec<u64> {
    match number("REMORA_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("REMORA_SEEDS").unwrap_or(usual)).collect(),
    }
}

/// A running `remora serve`.
pub struct Server {
    child: Child,
    /// TCP addresses it said it listens on, in order.
    pub tcp: Vec<SocketAddr>,
    /// UDP addresses it said it listens on, in order.
    pub udp: Vec<SocketAddr>,
    /// Unix sockets it said it listens on.
    pub unix: Vec<PathBuf>,
    /// What it wrote on stderr until then.
    pub said: String,
    log: mpsc::Receiver<String>,
}

/// The binary under test, `serve` already said; small and unpinned, since several run side by side.
/// On plain pages, unless `REMORA_TEST_HUGEPAGES` is set: resident memory of tests that measure it
/// must not depend on the host.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.args(["serve", "--no-pin"]);
    if std::env::var_os("REMORA_TEST_HUGEPAGES").is_none() {
        command.arg("--no-hugepages");
    }
    command.args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

impl Server {
    /// Start with `arguments`, which should name the addresses (`-l 127.0.0.1:0`). `listeners` is
    /// how many listening lines to wait for. Panics with the server's own words if it does not come
    /// up.
    pub fn start_listening(arguments: &[&str], listeners: usize) -> Server {
        Server::start_with(arguments, listeners, &[])
    }

    /// The same, with variables in its environment.
    pub fn start_with(arguments: &[&str], listeners: usize, variables: &[(&str, &str)]) -> Server {
        let mut command = command(arguments);
        command.envs(variables.iter().copied());
        Server::run(command, listeners)
    }

    /// The same by a command line of the caller's, which must end in the binary's own.
    pub fn run(mut command: Command, listeners: usize) -> Server {
        let mut child = command.spawn().expect("the remora binary starts");
        let log = lines_of(child.stderr.take().expect("stderr is piped"));
        let mut server = Server { child, tcp: Vec::new(), udp: Vec::new(), unix: Vec::new(), said: String::new(), log };
        while server.tcp.len() + server.udp.len() + server.unix.len() < listeners {
            let Ok(line) = server.log.recv_timeout(WAIT_MAX) else {
                panic!("the server did not come up; it said:\n{}", server.said);
            };
            if let Some(address) = line.strip_prefix("remora: listening on tcp ") {
                server.tcp.push(address.trim().parse().expect("an address"));
            } else if let Some(address) = line.strip_prefix("remora: listening on udp ") {
                server.udp.push(address.trim().parse().expect("an address"));
            } else if let Some(path) = line.strip_prefix("remora: listening on unix ") {
                server.unix.push(PathBuf::from(path.trim()));
            }
            server.said.push_str(&line);
            server.said.push('\n');
        }
        server
    }

    /// Start on one loopback port of the kernel's choice, with further `arguments`.
    pub fn start(arguments: &[&str]) -> Server {
        let mut all = vec!["-l", "127.0.0.1:0"];
        all.extend(arguments);
        Server::start_listening(&all, 1)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A new connection to the first TCP address.
    pub fn connect(&self) -> Client {
        Client::tcp(self.tcp[0])
    }

    /// Send a signal by the shell's name for it ("TERM", "KILL"). After a STOP every thread stands
    /// still: it is not carried out at once.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.expect("kill(1) runs").success(), "pid {} takes SIG{name}", self.pid());
        let until = Instant::now() + WAIT_MAX;
        while name == "STOP" && !self.stands_still() {
            assert!(Instant::now() < until, "pid {} goes on after SIGSTOP", self.pid());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let mut states = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
        // The state stands behind the name, which is in brackets.
        states.all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
    }

    /// Wait for the process to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for(&mut self.child)
    }

    /// The next line that the server writes on stderr.
    pub fn next_log_line(&self) -> Option<String> {
        self.log.recv_timeout(WAIT_MAX).ok()
    }

    /// Resident bytes of the process, the logs included (VmRSS).
    pub fn resident_bytes(&self) -> u64 {
        self.bytes_of("VmRSS:")
    }

    /// Resident bytes that are its own: heaps and stacks, not the logs, which are shared memory
    /// (RssAnon).
    pub fn heap_bytes(&self) -> u64 {
        self.bytes_of("RssAnon:")
    }

    fn bytes_of(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the server lives");
        let line =
            status.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {status}"));
        let kibibytes: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
        kibibytes * 1024
    }

    /// One value of plain `stats`, asked over a connection of its own; None also when that is one
    /// connection too many.
    pub fn stat(&self, name: &str) -> Option<String> {
        let mut client = self.connect();
        client.send(b"stats\r\n");
        let mut found = None;
        loop {
            let line = client.line();
            let Some(entry) = line.strip_prefix("STAT ") else {
                return found.filter(|_| line == "END");
            };
            let mut words = entry.splitn(2, ' ');
            if words.next() == Some(name) {
                found = words.next().map(str::to_string);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Run a server that is expected to refuse to start; its exit status and what it wrote on stderr.
pub fn refused(arguments: &[&str]) -> (ExitStatus, String) {
    let mut child = command(arguments).spawn().expect("the remora binary starts");
    let log = lines_of(child.stderr.take().expect("stderr is piped"));
    let status = wait_for(&mut child);
    (status, log.iter().collect::<Vec<_>>().join("\n"))
}

/// The lines of a pipe, read by a thread of its own so that the writer never blocks; ends when the
/// pipe does.
fn lines_of(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let read = move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("server-log".into()).spawn(read).expect("a thread");
    receiver
}

fn wait_for(child: &mut Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            return status;
        }
        if started.elapsed() > WAIT_MAX {
            let _ = child.kill();
            panic!("the server did not end within {WAIT_MAX:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Either kind of stream.
pub trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

/// A connection that reads lines and exact lengths, each within [`WAIT_MAX`].
pub struct Client {
    stream: BufReader<Box<dyn Stream>>,
}

impl Client {
    pub fn tcp(address: SocketAddr) -> Client {
        let stream = TcpStream::connect_timeout(&address, WAIT_MAX).expect("the server takes connections");
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(WAIT_MAX)).expect("timeout");
        stream.set_write_timeout(Some(WAIT_MAX)).expect("timeout");
        Client { stream: BufReader::new(Box::new(stream)) }
    }

    /// Over a stream of the caller's.
    pub fn over(stream: impl Stream + 'static) -> Client {
        Client { stream: BufReader::new(Box::new(stream)) }
    }

    /// One whose system takes in no more than some 64 KiB that the client has not read.
    pub fn tcp_with_little_room(address: SocketAddr) -> Client {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.set_recv_buffer_size(64 << 10).expect("a receive buffer");
        socket.connect(&address.into()).expect("the server takes connections");
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(WAIT_MAX)).expect("timeout");
        stream.set_write_timeout(Some(WAIT_MAX)).expect("timeout");
        Client { stream: BufReader::new(Box::new(stream)) }
    }

    /// Send `bytes`, say that nothing more comes, and go on reading.
    pub fn tcp_half_closing(address: SocketAddr, bytes: &[u8]) -> Client {
        let mut stream = TcpStream::connect_timeout(&address, WAIT_MAX).expect("the server takes connections");
        stream.set_read_timeout(Some(WAIT_MAX)).expect("timeout");
        stream.write_all(bytes).expect("the server reads what is sent");
        stream.shutdown(std::net::Shutdown::Write).expect("half a close");
        Client { stream: BufReader::new(Box::new(stream)) }
    }

    pub fn unix(path: &Path) -> Client {
        let stream = UnixStream::connect(path).expect("the server takes connections");
        stream.set_read_timeout(Some(WAIT_MAX)).expect("timeout");
        stream.set_write_timeout(Some(WAIT_MAX)).expect("timeout");
        Client { stream: BufReader::new(Box::new(stream)) }
    }

    /// Over the control socket of the server that serves `address`.
    pub fn control(address: SocketAddr) -> Client {
        use std::os::linux::net::SocketAddrExt;
        let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("remora-control-{address}"));
        let stream = UnixStream::connect_addr(&name.expect("a name")).expect("the server has a control socket");
        stream.set_read_timeout(Some(WAIT_MAX)).expect("timeout");
        stream.set_write_timeout(Some(WAIT_MAX)).expect("timeout");
        Client { stream: BufReader::new(Box::new(stream)) }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the server reads what is sent");
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// The next line without its line end; "" when the server has closed the connection.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).expect("an answer in time");
        while line.last().is_some_and(|byte| b"\r\n".contains(byte)) {
            line.pop();
        }
        String::from_utf8_lossy(&line).into_owned()
    }

    pub fn exactly(&mut self, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.stream.read_exact(&mut read).expect("the whole answer in time");
        read
    }

    /// The next answer of the binary protocol.
    pub fn packet(&mut self) -> packets::Answer {
        let header = self.exactly(packets::HEADER_BYTES);
        let body = self.exactly(packets::body_bytes(&header));
        packets::read(&[header, body].concat()).0
    }

    /// Everything until the server closes; a reset counts as the end.
    pub fn until_closed(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return all,
                Ok(bytes) => all.extend_from_slice(&piece[..bytes]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return all,
                Err(error) => panic!("the server neither answered nor closed: {error}"),
            }
        }
    }

    /// The next line, or "" when the server has closed or reset the connection.
    pub fn until_closed_or_line(&mut self) -> String {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(_) => line.trim_end().to_string(),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => String::new(),
            Err(error) => panic!("the server neither answered nor closed: {error}"),
        }
    }

    /// Send one line and read the rows up to END.
    pub fn rows(&mut self, line: &str) -> Vec<String> {
        self.send(format!("{line}\r\n").as_bytes());
        let rows = std::iter::from_fn(|| Some(self.line()).filter(|row| row != "END"));
        rows.take(10_000).collect()
    }

    /// Send one line and read one line.
    pub fn ask(&mut self, line: &str) -> String {
        self.send(line.as_bytes());
        self.send(b"\r\n");
        self.line()
    }

    pub fn set(&mut self, key: &str, value: &[u8]) -> String {
        let mut request = format!("set {key} 0 0 {}\r\n", value.len()).into_bytes();
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
        self.send(&request);
        self.line()
    }

    pub fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        self.send(format!("get {key}\r\n").as_bytes());
        let header = self.line();
        if header == "END" {
            return None;
        }
        let bytes: usize = header.rsplit(' ').next().and_then(|word| word.parse().ok()).expect("VALUE line");
        let mut value = self.exactly(bytes + 2);
        value.truncate(bytes);
        assert_eq!(self.line(), "END");
        Some(value)
    }
}
