//! `-Y`: nothing is executed for a client that has not said who it is, it says so as to memcached,
//! and what it can have this server hold is bounded.

use super::within::Within;
use crate::support::wait::{expect_eq, wait_until};
use crate::support::{Client, Server, refused};
use remora::server::ServerConfig;
use remora::server::users::{Means, Users};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tempfile::NamedTempFile;

const STRANGER: &str = "CLIENT_ERROR unauthenticated";
const WRONG: &str = "CLIENT_ERROR authentication failure";

/// A file with memcached's own two users.
fn two_users() -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file");
    write(file.path(), "foo:bar\nbaaaz:quux");
    file
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("the file is written");
}

/// A server that asks for users, with further `arguments`.
fn server_of(file: &NamedTempFile, arguments: &[&str]) -> Server {
    let path = file.path().to_str().expect("a path of letters");
    Server::start(&[&["-Y", path, "-t", "1"], arguments].concat())
}

/// A client that has said that it is foo.
fn foo(address: SocketAddr) -> Client {
    let mut client = Client::tcp(address);
    assert_eq!(client.set("anything", b"foo bar"), "STORED");
    client
}

/// One number of plain `stats`, by an operator.
fn stat(address: SocketAddr, name: &str) -> u64 {
    let rows = Client::control(address).rows("stats");
    let of_name = |row: &String| row.strip_prefix(&format!("STAT {name} ")).and_then(|word| word.parse().ok());
    rows.iter().find_map(of_name).unwrap_or_else(|| panic!("{name} in {rows:?}"))
}

#[test]
fn nobody_is_served_before_it_has_said_who_it_is() {
    let (file, folder) = (two_users(), tempfile::tempdir().expect("a folder"));
    let path = file.path().to_str().expect("a path of letters");
    let socket = folder.path().join("socket");
    let socket = socket.to_str().expect("a path of letters");
    let server = Server::start_listening(&["-Y", path, "-t", "1", "-l", "127.0.0.1:0", "-s", socket], 2);
    let mut known = foo(server.tcp[0]);
    assert_eq!(known.set("key", b"value"), "STORED");
    for mut client in [server.connect(), Client::unix(&server.unix[0])] {
        for command in
            ["get key", "delete key", "flush_all", "stats", "touch key 1", "ms key S0", "replication promote"]
        {
            assert_eq!(client.ask(command), STRANGER, "{command}");
        }
        assert_eq!(client.set("key", b"hi"), "CLIENT_ERROR bad authentication token format");
        assert_eq!(client.set("key", b"foo bab"), WRONG);
        assert_eq!(client.set("key", b"foo quux"), WRONG);
        client.send(b"set foo 0 0 2147483646\r\n");
        assert_eq!(client.line(), "CLIENT_ERROR auth token too long");
        assert_eq!(client.ask("get key"), STRANGER);
    }
    assert_eq!(known.get("key").expect("nobody has changed it"), b"value");
    for mut client in [server.connect(), Client::unix(&server.unix[0])] {
        assert_eq!(client.set("key", b"baaaz quux"), "STORED");
        assert_eq!(client.get("key").expect("it said who it is"), b"value");
    }
    assert_eq!((stat(server.tcp[0], "auth_cmds"), stat(server.tcp[0], "auth_errors")), (7, 4));
    let rows = known.rows("stats settings");
    assert!(rows.contains(&format!("STAT auth_enabled_ascii {path}")), "{rows:?}");
    let rows = known.rows("stats conns");
    assert_eq!(rows.iter().filter(|row| row.ends_with(":user foo")).count(), 1, "{rows:?}");
}

/// By memcached 1.6.45, that is, with this file. Where more is sent behind an attempt it forgets
/// some answers; here none is forgotten.
#[test]
fn every_answer_is_memcacheds() {
    let file = two_users();
    let server = server_of(&file, &[]);
    for (sent, answered) in [
        ("set foo 0 0 2\r\nhi\r\nquit\r\n", "CLIENT_ERROR bad authentication token format\r\n"),
        ("set foo 0 0 7\r\nfoo bab\r\nquit\r\n", "CLIENT_ERROR authentication failure\r\n"),
        ("set a 0 0 7\nfoo bar\nquit\r\n", "CLIENT_ERROR unauthenticated\r\nCLIENT_ERROR unauthenticated\r\n"),
        ("set a b c 7 noreply\r\nfoo bar\r\nmn\r\nquit\r\n", "STORED\r\nMN\r\n"),
        ("settle a 0 0 7\r\nfoo bar\r\nget a\r\nquit\r\n", "STORED\r\nEND\r\n"),
        ("version\r\nset a 0 0 10\r\nbaaaz quux\r\nmn\r\nquit\r\n", "CLIENT_ERROR unauthenticated\r\nSTORED\r\nMN\r\n"),
        ("set a 0 0 3\r\nfoo bar\r\nquit\r\n", "CLIENT_ERROR bad command line termination\r\n"),
        ("set a 0 0 20000\r\nmn\r\n", "CLIENT_ERROR auth token too long\r\n"),
        ("mn\r\n", ""),
        ("get\r\n", ""),
    ] {
        let mut client = server.connect();
        client.send(sent.as_bytes());
        assert_eq!(String::from_utf8_lossy(&client.until_closed()), answered, "{sent:?}");
    }
    let mut client = server.connect();
    client.send(&vec![b'x'; 2049]);
    assert_eq!(client.until_closed(), b"", "no line is so long");
}

#[test]
fn however_it_is_cut_the_rest_is_executed() {
    let file = two_users();
    let server = server_of(&file, &[]);
    let sent =
        b"get key\r\nset a 0 0 7\r\nfoo no\r\r\nset a 0 0 7\r\nfoo bar\r\nset key 0 0 3\r\nabc\r\nget key\r\nmn\r\n";
    let answers = "CLIENT_ERROR unauthenticated\r\nCLIENT_ERROR authentication failure\r\nSTORED\r\nSTORED\r\n\
                   VALUE key 0 3\r\nabc\r\nEND\r\nMN\r\n";
    for piece_bytes in [1, 5, 17, sent.len()] {
        let mut client = server.connect();
        for piece in sent.chunks(piece_bytes) {
            client.send(piece);
            if piece_bytes < sent.len() {
                // So that the server is likely to read each piece by itself.
                std::thread::yield_now();
            }
        }
        assert_eq!(String::from_utf8_lossy(&client.exactly(answers.len())), answers, "{piece_bytes}");
    }
}

#[test]
fn operators_and_a_binary_client_are_not_asked() {
    let file = two_users();
    let server = server_of(&file, &[]);
    assert_eq!(Client::control(server.tcp[0]).ask("mn"), "MN");
    let mut client = server.connect();
    client.send(&[&[0x80, 0x0a][..], &[0; 22]].concat());
    assert_eq!(client.until_closed(), b"", "it would wait for its own time limit");
}

/// So many strangers, each with the most that it can have held, are more than the limit by far.
#[test]
fn what_strangers_hold_is_bounded_and_none_of_their_keys_is_touched() {
    const INPUT_BYTES_MAX: u64 = 1 << 20;
    let file = two_users();
    let users = Some(Arc::new(Users::of_file(file.path(), Means::Token).expect("two users")));
    let input_bytes_total_max = INPUT_BYTES_MAX as usize;
    let server = Within::start(ServerConfig { users, input_bytes_total_max, ..ServerConfig::default() }, 128 << 20);
    let mut known = foo(server.address);
    assert_eq!(known.set("victim", b"value"), "STORED");
    let mut strangers: Vec<_> = (0..300).map(|_| server.connect()).collect();
    for client in &mut strangers {
        // One that was closed meanwhile cannot be written to.
        let _ = client.try_send(&[b"set victim 0 0 16384\r\n", &vec![b'x'; 16_000][..]].concat());
        let _ = client.try_send(b"y");
    }
    server.wait_for(|| stat(server.address, "hoard_kicks") > 100);
    let held = stat(server.address, "input_held_bytes");
    assert!(held <= INPUT_BYTES_MAX + (64 << 10), "{held} bytes held");
    assert_eq!(stat(server.address, "input_refused"), 0, "they are closed, not told that there is no memory");
    assert_eq!(known.get("victim").expect("no stranger can take it away"), b"value");
    assert_eq!(known.set("another", b"one"), "STORED", "others are served");
}

#[test]
fn sighup_reads_the_users_anew_and_a_fault_changes_nothing() {
    let file = two_users();
    let server = server_of(&file, &[]);
    let mut old = foo(server.tcp[0]);
    write(file.path(), "foo:new");
    server.signal("HUP");
    wait_until("the new password is taken", || {
        expect_eq("the answer", server.connect().set("a", b"foo new").as_str(), "STORED")
    });
    assert_eq!(server.connect().set("a", b"foo bar"), WRONG);
    assert_eq!(server.connect().set("a", b"baaaz quux"), WRONG);
    assert_eq!(old.ask("mn"), "MN", "who has said who it is stays");
    write(file.path(), "foo:newer\nnonsense secret\n");
    server.signal("HUP");
    let mut said = String::new();
    while !said.contains(":2: there is no colon") {
        said = server.next_log_line().expect("it says what is wrong");
        assert!(!said.contains("secret"), "{said}");
    }
    assert_eq!(server.connect().set("a", b"foo new"), "STORED");
}

#[test]
fn a_wrong_file_is_told_of_at_the_start() {
    let file = NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("a path of letters");
    for (text, words) in [("a:b\nnonsense\n", ":2: there is no colon"), (&"a:b\n".repeat(9), "more than 8 users")] {
        write(file.path(), text);
        let (status, said) = refused(&["-l", "127.0.0.1:0", "-Y", path]);
        assert!(!status.success() && said.contains("-Y (--auth-file)") && said.contains(words), "{text:?}: {said}");
    }
}

#[test]
fn a_port_that_others_reach_without_a_password_is_told_of_once() {
    let file = two_users();
    let path = file.path().to_str().expect("a path of letters");
    let told = |arguments: &[&str]| {
        let server = Server::start_listening(arguments, 2);
        server.said.matches("nobody is asked who they are").count()
    };
    assert_eq!(told(&["-l", "0.0.0.0:0,0.0.0.0:0"]), 1);
    assert_eq!(told(&["-l", "127.0.0.1:0,127.0.0.1:0"]), 0);
    assert_eq!(told(&["-l", "0.0.0.0:0,0.0.0.0:0", "-Y", path]), 0);
}
