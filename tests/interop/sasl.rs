//! memcached with SASL as a peer, and the same random packets to Remora and to it: before, between
//! and after attempts to say who one is, both give the same answers, and close the same
//! connections.

use super::memcached::{Memcached, REMEDY};
use super::support::packets::{Answer, HEADER_BYTES, Packet, body_bytes, read};
use super::support::{Server, WAIT_MAX, seeds};
use fastrand::Rng;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Whom both servers know.
pub const USERS: [(&str, &str); 2] = [("foo", "bar"), ("baaaz", "quux")];

const SEEDS: u64 = 3;
const CONNECTIONS: usize = 150;
const PACKETS_MAX: usize = 9;

/// Both servers, asking their clients who they are.
pub struct Pair {
    pub ours: Server,
    pub theirs: Memcached,
    _folder: TempDir,
}

impl Pair {
    /// None where memcached's SASL cannot be had; then that is told, or in CI a failure.
    pub fn start() -> Option<Pair> {
        let Some(plugins) = plugins() else {
            super::missing("PLAIN for memcached's SASL (libplain.so)", REMEDY);
            return None;
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name).to_str().expect("a path of text").to_string();
        answer_passwords(&path("mux"));
        let conf = format!("mech_list: plain\npwcheck_method: saslauthd\nsaslauthd_path: {}\n", path("mux"));
        std::fs::write(path("memcached.conf"), conf).expect("a written file");
        let variables = [("SASL_CONF_PATH", folder.path()), ("SASL_PATH", plugins.as_path())];
        let variables = variables.map(|(name, path)| (name, path.to_str().expect("a path of text")));
        let theirs = Memcached::start_with(&["-S", "-m", "64"], &variables);
        let users: String = USERS.iter().map(|(name, password)| format!("{name}:{password}\n")).collect();
        std::fs::write(path("users"), users).expect("a written file");
        let ours = Server::start(&["-S", "--sasl-pwdb", &path("users"), "-m", "64"]);
        Some(Pair { ours, theirs, _folder: folder })
    }

    pub fn addresses(&self) -> [SocketAddr; 2] {
        [self.ours.tcp[0], self.theirs.address]
    }
}

/// The folder with libsasl's plugins: of the memcached that was fetched, or of this machine.
fn plugins() -> Option<PathBuf> {
    let fetched = concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers/memcached/usr/lib/x86_64-linux-gnu/sasl2");
    let folders = [fetched, "/usr/lib/x86_64-linux-gnu/sasl2"].map(Path::new);
    folders.into_iter().find(|folder| folder.join("libplain.so").exists()).map(Path::to_path_buf)
}

/// Be what libsasl asks whether a password is right (saslauthd), until this process ends.
fn answer_passwords(path: &str) {
    let listener = UnixListener::bind(path).expect("a socket");
    std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(answer_one(stream))));
}

/// A user's name, the password, a service, a realm, each behind its length; OK or NO, in the same
/// form.
fn answer_one(mut stream: UnixStream) -> std::io::Result<()> {
    let mut fields = Vec::new();
    for _ in 0..4 {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut field = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut field)?;
        fields.push(field);
    }
    let is_right =
        USERS.iter().any(|(name, password)| fields[0] == name.as_bytes() && fields[1] == password.as_bytes());
    stream.write_all(if is_right { b"\0\x02OK" } else { b"\0\x02NO" })
}

/// One connection to one of the servers.
struct Peer(TcpStream);

impl Peer {
    fn to(address: SocketAddr) -> Peer {
        let stream = TcpStream::connect(address).expect("the server takes connections");
        stream.set_read_timeout(Some(WAIT_MAX)).expect("a TCP socket");
        Peer(stream)
    }

    /// The answer, of which there is one to each packet here; None where the server has hung up.
    fn ask(&mut self, packet: &Packet<'_>) -> Option<Answer> {
        self.0.write_all(&packet.bytes()).ok()?;
        self.next()
    }

    fn next(&mut self) -> Option<Answer> {
        let mut answer = vec![0; HEADER_BYTES];
        self.0.read_exact(&mut answer).ok()?;
        let header_bytes = answer.len();
        answer.resize(header_bytes + body_bytes(&answer), 0);
        self.0.read_exact(&mut answer[header_bytes..]).expect("a whole answer");
        let (mut answer, _) = read(&answer);
        if answer.opcode == 0x0B {
            // Each has a version of its own.
            answer.value.truncate(5);
        }
        answer.cas = 0;
        Some(answer)
    }
}

const MESSAGES: [&[u8]; 14] = [
    b"\0foo\0bar",
    b"\0foo\0bar",
    b"foo\0foo\0bar",
    b"\0baaaz\0quux",
    b"baaaz\0foo\0bar",
    b"\0foo\0ba",
    b"\0foo\0barr",
    b"\0foo\0",
    b"\0\0bar",
    b"\0foo\0bar\0",
    b"\0foo",
    b"foo",
    b"",
    b"",
];
const MECHANISMS: [&[u8]; 8] = [b"PLAIN", b"PLAIN", b"PLAIN", b"PLAIN", b"plain", b"LOGIN", b"PLAINER", &[b'x'; 33]];

fn packet(random: &mut Rng) -> Packet<'static> {
    let message = MESSAGES[random.usize(..MESSAGES.len())];
    let mechanism = MECHANISMS[random.usize(..MECHANISMS.len())];
    let plain = Packet { opaque: random.u32(..), ..Packet::default() };
    match random.u8(..20) {
        0..8 => Packet { opcode: 0x21, key: mechanism, value: message, ..plain },
        8..11 => Packet { opcode: 0x22, key: mechanism, value: message, ..plain },
        11 => Packet { opcode: 0x20, ..plain },
        12 | 13 => Packet { opcode: 0x0B, ..plain },
        14 => Packet { opcode: 0x0A, ..plain },
        15 => Packet { opcode: 0x01, extras: &[0; 8], key: b"key", value: b"value", ..plain },
        16 => Packet { opcode: 0x00, key: b"key", ..plain },
        17 => Packet { opcode: 0x21 + random.u8(..2), key: b"", value: message, ..plain },
        18 => Packet { opcode: 0x20, value: b"more", ..plain },
        _ => Packet { opcode: random.u8(..), ..plain },
    }
}

/// stats has many answers, a quiet flush none, and verbosity makes sense here alone.
const LEFT_OUT: [u8; 3] = [0x10, 0x18, 0x1B];

#[test]
fn interop_sasl_answers_are_memcacheds() {
    let Some(pair) = Pair::start() else { return };
    let (mut welcomed, mut closed) = (0, 0);
    for seed in seeds(SEEDS) {
        let mut random = Rng::with_seed(seed);
        for number in 0..CONNECTIONS {
            let mut peers = pair.addresses().map(Peer::to);
            let (mut asked, mut was_welcome) = (Vec::new(), false);
            for _ in 0..random.usize(1..=PACKETS_MAX) {
                let packet = packet(&mut random);
                if LEFT_OUT.contains(&packet.opcode) {
                    continue;
                }
                let [ours, theirs] = peers.each_mut().map(|peer| peer.ask(&packet));
                let tries_again = was_welcome && matches!(packet.opcode, 0x21 | 0x22);
                asked.push(packet);
                assert_eq!(ours, theirs, "seed {seed}, connection {number}: {asked:?}");
                was_welcome |= ours.as_ref().is_some_and(|answer| answer.value == b"Authenticated");
                closed += usize::from(ours.is_none());
                // What comes of a third attempt depends there on what libsasl has not forgotten.
                if ours.is_none() || tries_again {
                    break;
                }
            }
            welcomed += usize::from(was_welcome);
        }
    }
    assert!(welcomed > 20 && closed > 20, "{welcomed} were welcome, {closed} were hung up on");
    let [ours, theirs] = pair.addresses().map(|address| counted(&mut Peer::to(address)));
    assert_eq!(ours, theirs, "attempts, and wrong ones");
}

/// The two counters of authentication.
fn counted(peer: &mut Peer) -> Vec<(Vec<u8>, Vec<u8>)> {
    let known = Packet { opcode: 0x21, key: b"PLAIN", value: MESSAGES[0], ..Packet::default() };
    assert_eq!(peer.ask(&known).expect("an answer").status, 0);
    let mut rows = Vec::new();
    let mut row = peer.ask(&Packet { opcode: 0x10, ..Packet::default() });
    while let Some(one) = row.take().filter(|row| !row.key.is_empty()) {
        if one.key.starts_with(b"auth_") {
            rows.push((one.key, one.value));
        }
        row = peer.next();
    }
    rows
}
