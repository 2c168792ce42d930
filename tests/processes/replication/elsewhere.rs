//! Peers whose control connection comes from another address than this host's: shared memory is not
//! for them, whatever they say of themselves. In a network namespace, which can have any address.

use crate::node::{LONG, Node, in_sync};
use crate::support::Server;
use remora::fabric::{Descriptor, Invitation, Kind, Token};
use remora::replication::link::{Link, LinkError};
use remora::replication::push::Invite;
use remora::replication::push::layout::Layout;
use remora::replication::secret::{Secret, Side};
use remora::replication::wire::{Greeting, Join, Message, Refusal, VERSION, Welcome};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command};
use std::time::Instant;

const HERE: &str = "10.77.0.1";
const ELSEWHERE: &str = "10.77.0.2";
const SECRET: &[u8] = b"0123456789abcdef0123";
/// As a replica would name its inbox.
const INBOX: &str = "remora-shm-0123456789abcdef";

/// A process that keeps a network namespace.
struct Keeper(Child);

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Have this thread, and the processes that it starts, in a network namespace of their own, with
/// both addresses.
fn enter_namespace() -> Keeper {
    let keeper = Keeper(Command::new("unshare").args(["--net", "sleep", "600"]).spawn().expect("unshare(1) runs"));
    let link = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let until = Instant::now() + LONG;
    let of_keeper = keeper.0.id().to_string();
    while link(&of_keeper).is_none() || link(&of_keeper) == link("thread-self") {
        assert!(Instant::now() < until, "no network namespace");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let namespace = File::open(format!("/proc/{of_keeper}/ns/net")).expect("the keeper's namespace");
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter it");
    for words in [
        &["link", "set", "lo", "up"][..],
        &["address", "add", HERE, "dev", "lo"],
        &["address", "add", ELSEWHERE, "dev", "lo"],
    ] {
        assert!(Command::new("ip").args(words).status().expect("ip(8) runs").success(), "ip {words:?}");
    }
    keeper
}

/// Let in as a replica that says to be of this host, which whoever was let in before can say: it
/// was told the boot id.
fn come(primary: SocketAddr, from: &str) -> (Link, Welcome) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(from.parse().expect("an address"), 0).into()).expect("an address of this host");
    socket.connect(&primary.into()).expect("the port takes connections");
    let soon = Instant::now() + LONG;
    let mut link = Link::connected(TcpStream::from(socket), soon).expect("a connection");
    let secret = Secret::new(SECRET).expect("long enough");
    let greeting = Greeting { version: VERSION, proof: secret.prove(Side::Replica, link.binding()) };
    link.send(&Message::Hello(greeting), soon).expect("sent");
    assert!(matches!(link.receive(soon), Ok(Message::Accept { .. })));
    link.trust();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot id");
    let digits: String = boot_id.chars().filter(char::is_ascii_hexdigit).collect();
    let host = u128::from_str_radix(&digits, 16).expect("a number").to_be_bytes();
    let (replica, name) = (fastrand::u128(..).to_le_bytes(), "far".into());
    link.send(&Message::Join(Join { replica, host, name, program_version: "1.2.3".into() }), soon).expect("sent");
    let Ok(Message::Welcome(welcome)) = link.receive(soon) else { panic!("no welcome") };
    (link, welcome)
}

/// What the primary answers to a peer that asks for shared memory all the same.
fn answer(mut link: Link, request: &Message) -> Result<Message, LinkError> {
    link.send(request, Instant::now() + LONG).expect("sent");
    link.receive(Instant::now() + LONG)
}

/// The words of a refusal, which it must be.
fn words(answer: Result<Message, LinkError>) -> String {
    match answer {
        Err(LinkError::Refused(Refusal::Fabric, words)) => words,
        Err(other) => panic!("{other}"),
        Ok(other) => panic!("{}", other.name()),
    }
}

/// Needs root, for the namespace.
#[test]
fn a_peer_elsewhere_has_no_socket_of_this_host_connected_to() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: only root can have a network namespace");
        return;
    }
    // Threads of the test's harness are used again.
    let thread = std::thread::Builder::new().name("elsewhere".into()).spawn(elsewhere).expect("a thread");
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn elsewhere() {
    let _keeper = enter_namespace();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secret");
    std::fs::write(&file, SECRET).expect("a file");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("its mode");
    let secret_file = file.to_str().expect("text");
    let at = format!("{HERE}:0");
    let server =
        Server::start(&["--replication", &at, "-t", "1", "-m", "8", "-I", "64k", "--secret-file", secret_file]);
    let primary = Node::of(server, "remora: replication on tcp ");

    let name = std::os::unix::net::SocketAddr::from_abstract_name(INBOX).expect("a name");
    let inbox = UnixListener::bind_addr(&name).expect("a name of nobody's");
    inbox.set_nonblocking(true).expect("a socket");
    let (link, welcome) = come(primary.port(), ELSEWHERE);
    let layout = Layout::of(&welcome.geometry, &welcome.memory);
    let region = |bytes: usize| Descriptor { address: 0, key: 0, bytes: bytes as u64 };
    let invitation = Invitation {
        address: INBOX.into(),
        token: Token([9; 16]),
        regions: layout.region_bytes().map(region).to_vec(),
        ack: region(4096),
    };
    let (fabric, window_bytes, pause_microseconds) = (Kind::Shm, layout.window_bytes(), 1000);
    let said = answer(link, &Message::Invite(Invite { fabric, window_bytes, pause_microseconds, invitation }));
    let connected = inbox.accept().map(drop).map_err(|error| error.kind());
    assert_eq!(connected, Err(std::io::ErrorKind::WouldBlock), "nobody has connected");
    let said = words(said);
    assert!(said.contains("comes from this host"), "{said}");

    let (link, welcome) = come(primary.port(), ELSEWHERE);
    assert!(!welcome.fabrics.contains(&Kind::Shm), "{:?}", welcome.fabrics);
    let said = words(answer(link, &Message::Choose { fabric: Kind::Shm, channels: 1 }));
    assert!(said.contains("comes from this host"), "{said}");

    // A peer whose address is the primary's own is on the primary's host.
    let (link, welcome) = come(primary.port(), HERE);
    assert!(welcome.fabrics.contains(&Kind::Shm), "{:?}", welcome.fabrics);
    drop(link);
    let replica = Node::replica(primary.port(), &["--fabric", "shm", "--secret-file", secret_file]);
    assert_eq!(primary.client().set("key", b"1"), "STORED");
    in_sync(&primary, &[&replica]);
}
