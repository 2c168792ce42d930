//! Who may give orders: whoever comes over the control socket as the server's own user or root, and
//! with `--orders-from-loopback` any client on this host. Whatever a proxy on this host passes on
//! comes from loopback as well.

use super::orders::{ctl, ctl_fails};
use crate::node::{Node, fixed_port};
use crate::support::{Client, Server};
use std::io::Read;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::process::{Command, Output};

/// An order that changes nothing: whoever may give orders is told so in other words than who may
/// not.
const PROBE: &str = "replication abdicate";
const TAKEN: &str = "CLIENT_ERROR usage: replication promote";

/// nobody's number, on any Linux.
const NOBODY: &str = "65534";

#[test]
fn loopback_alone_gives_no_orders() {
    let primary = Node::primary(&["-m", "16"]);
    let refusal = primary.client().ask(PROBE);
    assert!(refusal.starts_with("CLIENT_ERROR replication orders"), "{refusal}");
    assert!(refusal.contains("remora ctl") && refusal.contains("--orders-from-loopback"), "{refusal}");
    assert!(primary.order("abdicate").starts_with(TAKEN));
    assert_eq!(primary.rows_of("stats settings")["orders_from"], "control_socket");
    // Over the control socket there is all the rest, too.
    assert_eq!(Client::control(primary.server.tcp[0]).set("key", b"1"), "STORED");
    assert_eq!(primary.client().get("key").as_deref(), Some(&b"1"[..]));
}

#[test]
fn loopback_gives_orders_where_the_operator_wants_it() {
    let primary = Node::primary(&["-m", "16", "--orders-from-loopback"]);
    let answer = primary.client().ask(PROBE);
    assert!(answer.starts_with(TAKEN), "{answer}");
    assert!(primary.order("abdicate").starts_with(TAKEN));
}

/// `remora ctl detach`, as nobody: a copy of the binary, for nobody may not look into every folder.
fn ctl_as_nobody(server: SocketAddr) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let binary = folder.path().join("remora");
    std::fs::copy(env!("CARGO_BIN_EXE_remora"), &binary).expect("a copy");
    for path in [folder.path(), &binary] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("its mode");
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]).arg(binary);
    command.args(["ctl", "-s", &server.to_string(), "detach"]).output().expect("setpriv(1) runs")
}

/// Needs root, to be somebody else.
#[test]
fn another_user_gives_no_orders_and_root_does() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: only root can become another user");
        return;
    }
    let primary = Node::primary(&["-m", "16"]);
    let refused = ctl_as_nobody(primary.server.tcp[0]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("for the server's own user and root"), "{said}");
    // A server that runs as nobody takes orders from nobody and from root.
    let primary = Node::primary(&["-m", "16", "-u", "nobody"]);
    let taken = ctl_as_nobody(primary.server.tcp[0]);
    let said = String::from_utf8_lossy(&taken.stderr);
    assert!(said.contains("this is the primary: it follows nobody"), "{said}");
    ctl_fails(&primary, &["detach"], "this is the primary: it follows nobody");
}

/// Listens under `name` as nobody does, whoever runs the tests.
fn impostor(name: &str) -> UnixListener {
    let address = UnixAddr::from_abstract_name(name).expect("a name");
    let become_nobody_and_listen = move || {
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may");
        UnixListener::bind_addr(&address).expect("the name is free")
    };
    // Rights are a thread's own for the kernel; this one ends with its.
    std::thread::spawn(become_nobody_and_listen).join().expect("it listens")
}

/// An abstract name is free for all. Whoever takes a server's keeps it from nothing but orders, and
/// gets none itself. Needs root, to be two users.
#[test]
fn whoever_takes_the_control_sockets_name_gets_no_orders() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: only root can become another user");
        return;
    }
    let port = fixed_port();
    let impostor = impostor(&format!("remora-control-127.0.0.1:{port}"));
    let server = Server::start(&["-l", &format!("127.0.0.1:{port}"), "-m", "16", "-t", "1"]);
    assert_eq!(server.connect().set("key", b"1"), "STORED");
    let mut line = String::new();
    let mut client = server.connect();
    client.send(b"stats settings\r\n");
    while line != "END" && !line.contains("orders_from") {
        line = client.line();
    }
    assert_eq!(line, format!("STAT orders_from control_socket but not at 127.0.0.1:{port}"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    let output = command.args(["ctl", "-s", &format!("127.0.0.1:{port}"), "detach"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("of user 65534") && said.contains("no order was given"),
        "{said}"
    );
    let mut heard = String::new();
    impostor.accept().expect("ctl came").0.read_to_string(&mut heard).expect("ctl has gone");
    assert_eq!(heard, "");
}

/// When clients have taken every place, the operator still gets in.
#[test]
fn a_full_server_takes_orders() {
    let primary = Node::primary(&["-m", "16", "-c", "3"]);
    let mut clients: Vec<Client> = (0..2).map(|_| primary.server.connect()).collect();
    clients.iter_mut().for_each(|client| assert!(client.ask("version").starts_with("VERSION")));
    assert_eq!(primary.server.connect().until_closed_or_line(), "ERROR Too many open connections");
    assert!(primary.order("abdicate").starts_with(TAKEN));
    ctl_fails(&primary, &["detach"], "this is the primary: it follows nobody");
}

/// The unix socket for clients is for clients; its control socket is found by its path.
#[test]
fn a_server_at_a_unix_socket_takes_orders_beside_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("clients");
    let text = path.to_str().expect("text");
    let _server = Server::start_listening(&["-s", text, "-m", "16", "-t", "1"], 1);
    let refusal = Client::unix(&path).ask(PROBE);
    assert!(refusal.starts_with("CLIENT_ERROR replication orders"), "{refusal}");
    let ctl = |what: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command.args(["ctl", "-s", text, what]).output().expect("it runs")
    };
    let refused = ctl("detach");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("this is the primary: it follows nobody"), "{said}");
    let asked = ctl("replication");
    assert!(asked.status.success() && String::from_utf8_lossy(&asked.stdout).contains("role"), "{asked:?}");
}

/// A server at all addresses is found by each of them, and one by its name.
#[test]
fn ctl_finds_the_control_socket_by_any_address() {
    let server = Server::start_listening(&["-l", "0.0.0.0:0", "-m", "16", "-t", "1"], 1);
    let port = server.tcp[0].port();
    for host in ["127.0.0.1", "127.0.0.9", "localhost"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        let output = command.args(["ctl", "-s", &format!("{host}:{port}"), "detach"]).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("this is the primary: it follows nobody"), "{host}: {said}");
    }
    let primary = Node::primary(&["-m", "16"]);
    assert!(ctl(&primary, &["replication"]).contains("primary"));
}
