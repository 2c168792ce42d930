//! `-Z`: what clients get by TLS is what they get without; who breaks its rules, or takes too long,
//! is closed and holds up nobody; certificates are read anew while it runs.

use crate::support::certificates::{Authority, client, connect};
use crate::support::wait::{Ends, expect_eq, wait_until};
use crate::support::{Client, Server, WAIT_MAX, refused};
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// A server with a certificate of this authority's, and further `arguments`.
fn server_of(authority: &Authority, arguments: &[&str]) -> Server {
    authority.sign("server");
    let options = authority.options("server");
    Server::start(&[&["-Z", "-o", &options, "-t", "1"], arguments].concat())
}

/// One number of plain `stats`, by an operator.
fn stat(server: &Server, name: &str) -> u64 {
    let rows = Client::control(server.tcp[0]).rows("stats");
    let of_name = |row: &String| row.strip_prefix(&format!("STAT {name} ")).and_then(|word| word.parse().ok());
    rows.iter().find_map(of_name).unwrap_or_else(|| panic!("{name} in {rows:?}"))
}

/// Bytes that tell places apart.
fn value(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[test]
fn values_of_every_length_go_both_ways_by_both_versions() {
    let authority = Authority::new();
    let server = server_of(&authority, &["-m", "128", "-I", "8m"]);
    for version in [&TLS12, &TLS13] {
        let mut client = client(&authority.client(None, &[version]), server.tcp[0]);
        for bytes in [0, 1, 100, 16_383, 16_384, 16_385, 65_536, 100_001, 1 << 20, (4 << 20) + 70_001] {
            assert_eq!(client.set("large", &value(bytes)), "STORED", "{bytes} bytes by {version:?}");
            assert!(client.get("large").expect("it is there") == value(bytes), "{bytes} bytes by {version:?}");
        }
        assert_eq!(client.set("small", b"after"), "STORED");
    }
    assert_eq!((stat(&server, "ssl_handshake_errors"), stat(&server, "ssl_proto_errors")), (0, 0));
}

#[test]
fn pipelined_requests_are_answered_in_order_however_they_are_cut() {
    let authority = Authority::new();
    let server = server_of(&authority, &["-R", "3"]);
    let (mut request, mut expected) = (Vec::new(), Vec::new());
    for number in 0..1000 {
        let value = "v".repeat(number % 197);
        request
            .extend_from_slice(format!("set k{number} 0 0 {}\r\n{value}\r\nget k{number}\r\n", value.len()).as_bytes());
        expected
            .extend_from_slice(format!("STORED\r\nVALUE k{number} 0 {}\r\n{value}\r\nEND\r\n", value.len()).as_bytes());
    }
    let config = authority.client(None, BOTH);
    for piece_bytes in [7, 1000, 65_536, request.len()] {
        let mut client = client(&config, server.tcp[0]);
        request.chunks(piece_bytes).for_each(|piece| client.send(piece));
        assert!(client.exactly(expected.len()) == expected, "cut into pieces of {piece_bytes}");
    }
}

/// Sockets that take little at a time: what is sealed and not taken goes out first, and once.
#[test]
fn a_client_that_reads_late_gets_every_byte_once() {
    let authority = Authority::new();
    let server = server_of(&authority, &["-m", "128"]);
    let config = authority.client(None, BOTH);
    let mut reader = client(&config, server.tcp[0]);
    let value = value(300_000);
    assert_eq!(reader.set("large", &value), "STORED");
    reader.send("get large\r\n".repeat(40).as_bytes());
    let mut other = client(&config, server.tcp[0]);
    wait_until("the server has an answer that it cannot send", || {
        let held = stat(&server, "output_held_bytes");
        if held > 0 { Ok(()) } else { Err("nothing is held") }
    });
    assert_eq!(other.ask("mn"), "MN", "others are served meanwhile");
    for round in 0..40 {
        assert_eq!(reader.line(), "VALUE large 0 300000", "round {round}");
        assert!(reader.exactly(value.len() + 2).starts_with(&value), "round {round}");
        assert_eq!(reader.line(), "END");
    }
    assert_eq!(reader.ask("mn"), "MN");
    wait_until("nothing is held any more", || expect_eq("bytes", stat(&server, "output_held_bytes"), 0));
}

#[test]
fn no_handshake_holds_up_others_and_what_is_none_is_closed_and_counted() {
    let authority = Authority::new();
    let server = server_of(&authority, &[]);
    let mut slow = TcpStream::connect(server.tcp[0]).expect("it listens");
    // The head of a record that never comes.
    slow.write_all(&[22, 3, 1, 1, 0, 1]).expect("it is open");
    let mut garbage = Client::tcp(server.tcp[0]);
    garbage.send(b"version\r\nget key\r\n");
    let said = garbage.until_closed();
    assert!(said.first().is_none_or(|byte| *byte == 21), "an alert, or nothing: {said:?}");
    wait_until("it is counted", || expect_eq("errors", stat(&server, "ssl_handshake_errors"), 1));
    let mut client = client(&authority.client(None, BOTH), server.tcp[0]);
    assert_eq!(client.ask("mn"), "MN");
    slow.set_read_timeout(Some(WAIT_MAX)).expect("a timeout");
    Client::over(slow).until_closed();
    wait_until("it is counted", || expect_eq("errors", stat(&server, "ssl_handshake_errors"), 2));
    assert_eq!(client.ask("mn"), "MN", "who has done it stays");
}

#[test]
fn what_breaks_a_connection_later_is_counted_apart() {
    let authority = Authority::new();
    let server = server_of(&authority, &[]);
    let mut stream = connect(&authority.client(None, BOTH), server.tcp[0]).expect("a handshake");
    stream.write_all(b"mn\r\n").expect("it is open");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("an answer");
    // A record that nobody has sealed.
    stream.sock.write_all(&[&[23, 3, 3, 0, 32][..], &[7; 32]].concat()).expect("it is open");
    wait_until("it is counted", || expect_eq("errors", stat(&server, "ssl_proto_errors"), 1));
    assert_eq!(stat(&server, "ssl_handshake_errors"), 0);
}

#[test]
fn who_must_have_a_certificate_is_let_in_with_one_alone() {
    let (authority, other) = (Authority::new(), Authority::new());
    ["server", "somebody"].iter().for_each(|name| authority.sign(name));
    other.sign("stranger");
    std::fs::copy(other.path("stranger.pem"), authority.path("stranger.pem")).expect("a copy");
    std::fs::copy(other.path("stranger.key"), authority.path("stranger.key")).expect("a copy");
    let options = format!("{},ssl_ca_cert={}", authority.options("server"), authority.path("ca.pem").display());
    let serves = |server: &Server, at: usize, name: Option<&str>| {
        // A refusal may come behind what TLS 1.3 takes for the end of the handshake.
        let answers = |mut stream: rustls::StreamOwned<rustls::ClientConnection, TcpStream>| {
            let mut answer = [0; 4];
            stream.write_all(b"mn\r\n").and_then(|()| stream.read_exact(&mut answer)).is_ok()
        };
        connect(&authority.client(name, BOTH), server.tcp[at]).is_ok_and(answers)
    };
    let listeners = "127.0.0.1:0,btls:127.0.0.1:0,mtls:127.0.0.1:0,notls:127.0.0.1:0";
    for (mode, without, with_wrong) in [("0", true, true), ("1", true, false), ("2", false, false), ("3", false, false)]
    {
        let options = format!("{options},ssl_verify_mode={mode}");
        let server = Server::start_listening(&["-l", listeners, "-Z", "-o", &options, "-t", "1"], 4);
        let judged = [None, Some("stranger"), Some("somebody")].map(|name| serves(&server, 0, name));
        assert_eq!(judged, [without, with_wrong, true], "mode {mode}");
        let judged = [None, Some("stranger"), Some("somebody")].map(|name| serves(&server, 1, name));
        assert_eq!(judged, [true, true, true], "btls asks nobody");
        let judged = [None, Some("stranger"), Some("somebody")].map(|name| serves(&server, 2, name));
        assert_eq!(judged, [false, false, true], "mtls asks everybody");
        assert_eq!(Client::tcp(server.tcp[3]).ask("mn"), "MN", "notls is plain");
        assert!(stat(&server, "ssl_handshake_errors") > 1);
    }
}

#[test]
fn an_older_version_than_the_least_is_refused() {
    let authority = Authority::new();
    let server = server_of(&authority, &["-o", "ssl_min_version=3"]);
    assert!(connect(&authority.client(None, &[&TLS12]), server.tcp[0]).is_err());
    assert_eq!(client(&authority.client(None, &[&TLS13]), server.tcp[0]).ask("mn"), "MN");
    let server = server_of(&authority, &["-o", "ssl_min_version=2,ssl_ciphers=ECDHE-ECDSA-AES128-GCM-SHA256"]);
    let stream = connect(&authority.client(None, &[&TLS12]), server.tcp[0]).expect("a handshake");
    let suite = stream.conn.negotiated_cipher_suite().expect("it is done").suite();
    assert_eq!(format!("{suite:?}"), "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256");
}

#[test]
fn a_session_is_resumed_where_that_is_asked_for() {
    let authority = Authority::new();
    for (options, expected) in [("ssl_session_cache", HandshakeKind::Resumed), ("maxconns_fast", HandshakeKind::Full)] {
        let server = server_of(&authority, &["-o", options]);
        for version in [&TLS12, &TLS13] {
            let config = authority.client(None, &[version]);
            let mut kinds = Vec::new();
            for _ in 0..2 {
                let mut stream = connect(&config, server.tcp[0]).expect("a handshake");
                // A ticket of TLS 1.3 comes before the answer.
                stream.write_all(b"mn\r\n").expect("it is open");
                stream.read_exact(&mut [0; 4]).expect("an answer");
                kinds.push(stream.conn.handshake_kind().expect("it is done"));
            }
            assert_eq!(kinds, [HandshakeKind::Full, expected], "{options} by {version:?}");
        }
    }
}

/// The name in the certificate that a new connection is shown.
fn shown(authority: &Authority, server: &Server) -> Vec<u8> {
    let stream = connect(&authority.client(None, BOTH), server.tcp[0]).expect("a handshake");
    stream.conn.peer_certificates().expect("it has one")[0].to_vec()
}

#[test]
fn certificates_are_read_anew_while_clients_go_on() {
    let authority = Authority::new();
    let server = server_of(&authority, &[]);
    let mut old = client(&authority.client(None, BOTH), server.tcp[0]);
    let (first, settled) = (shown(&authority, &server), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _ends = Ends(&settled);
        for writer in 0..2 {
            let (config, address, settled) = (authority.client(None, BOTH), server.tcp[0], &settled);
            scope.spawn(move || {
                let mut number = 0;
                while !settled.load(Relaxed) {
                    let mut client = client(&config, address);
                    for _ in 0..20 {
                        number += 1;
                        let value = format!("{writer}-{number}");
                        assert_eq!(client.set(&format!("w{writer}"), value.as_bytes()), "STORED");
                        assert_eq!(client.get(&format!("w{writer}")).expect("it is there"), value.as_bytes());
                    }
                }
            });
        }
        authority.sign("server");
        server.signal("HUP");
        wait_until("new connections are shown the new one", || {
            if shown(&authority, &server) == first { Err("the old one") } else { Ok(()) }
        });
        let second = shown(&authority, &server);
        authority.sign("server");
        let mut operator = Client::control(server.tcp[0]);
        assert_eq!(operator.ask("refresh_certs"), "OK");
        let third = shown(&authority, &server);
        assert!(third != second && stat(&server, "time_since_server_cert_refresh") < 60);
        assert!(stat(&server, "time_until_server_cert_expiry") > 365 * 24 * 3600, "rcgen gives it a long time");
        std::fs::write(authority.path("server.key"), "no key").expect("the file is written");
        server.signal("HUP");
        let mut said = String::new();
        while !said.contains("cannot read the private key") {
            said = server.next_log_line().expect("it says what is wrong");
        }
        let answer = operator.ask("refresh_certs");
        assert!(answer.starts_with("SERVER_ERROR cannot read the private key"), "{answer}");
        assert_eq!(shown(&authority, &server), third, "with a fault all stays");
    });
    assert_eq!(old.ask("mn"), "MN", "what is open stays");
}

/// The file of the certificate is a pipe, so that whoever reads it waits for its writer.
#[test]
fn clients_are_served_while_certificates_are_read() {
    let authority = Authority::new();
    let server = server_of(&authority, &[]);
    let path = authority.path("server.pem");
    let certificate = std::fs::read(&path).expect("it was signed");
    std::fs::remove_file(&path).expect("it is there");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).expect("a pipe");
    let mut operator = Client::control(server.tcp[0]);
    operator.send(b"refresh_certs\r\nmn\r\n");
    let mut other = Client::control(server.tcp[0]);
    assert_eq!(other.ask("mn"), "MN", "one worker serves both, and waits for nobody");
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
    let pipe = wait_until("it is being read", || rustix::fs::open(&path, flags, rustix::fs::Mode::empty()));
    // It is read more than once: from now on it is a file.
    let file = authority.path("server.new");
    std::fs::write(&file, &certificate).expect("the file is written");
    std::fs::rename(&file, &path).expect("in place of the pipe");
    let mut pipe = std::fs::File::from(pipe);
    pipe.write_all(&certificate).expect("a pipe takes so much");
    drop(pipe);
    assert_eq!((operator.line(), operator.line()), ("OK".into(), "MN".into()), "in order");
}

#[test]
fn the_end_is_said_in_either_direction() {
    let authority = Authority::new();
    let server = server_of(&authority, &[]);
    let config = authority.client(None, BOTH);
    // The client's: what it has asked is answered, then the server says the same.
    let mut stream = connect(&config, server.tcp[0]).expect("a handshake");
    stream.conn.writer().write_all(b"set key 0 0 1\r\nx\r\nget key\r\nget").expect("it is open");
    stream.conn.send_close_notify();
    // In one piece, so that the server reads the end together with what is asked.
    let mut sealed = Vec::new();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut sealed).expect("a vector takes all");
    }
    stream.sock.write_all(&sealed).expect("it is open");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an end that was said");
    assert_eq!(answer, b"STORED\r\nVALUE key 0 1\r\nx\r\nEND\r\n");
    // The server's.
    let mut stream = connect(&config, server.tcp[0]).expect("a handshake");
    stream.write_all(b"mn\r\nquit\r\n").expect("it is open");
    answer.clear();
    stream.read_to_end(&mut answer).expect("an end that was said");
    assert_eq!(answer, b"MN\r\n");
    // A client that closes without a word.
    let mut stream = connect(&config, server.tcp[0]).expect("a handshake");
    stream.write_all(b"mn\r\n").expect("it is open");
    stream.sock.shutdown(Shutdown::Write).expect("it is open");
    answer.clear();
    stream.read_to_end(&mut answer).expect("an end that was said");
    assert_eq!(answer, b"MN\r\n");
}

#[test]
fn what_cannot_be_is_told_of_at_the_start() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.sign("server");
    other.sign("server");
    let path = |authority: &Authority, name: &str| authority.path(name).display().to_string();
    let (chain, key) = (path(&authority, "server.pem"), path(&other, "server.key"));
    let good = authority.options("server");
    for (arguments, words) in [
        (vec!["-Z"], "needs a certificate".to_string()),
        (vec!["-o", &good], "without -Z".to_string()),
        (vec!["-Z", "-o", &format!("ssl_chain_cert={key}")], "there is no certificate in it".to_string()),
        (vec!["-Z", "-o", &format!("ssl_chain_cert={chain}")], "cannot read the private key".to_string()),
        (vec!["-Z", "-o", &format!("ssl_chain_cert={chain},ssl_key={key}")], "do not go together".to_string()),
        (vec!["-Z", "-o", &format!("{good},ssl_verify_mode=2")], "ssl_ca_cert=FILE".to_string()),
        (vec!["-Z", "-o", &good, "-l", "mtls:127.0.0.1:0"], "ssl_ca_cert=FILE".to_string()),
        (vec!["-Z", "-o", &format!("{good},ssl_ciphers=HIGH")], "there is no HIGH; there are ECDHE-".to_string()),
        (vec!["-Z", "-o", &format!("{good},ssl_min_version=1")], "ssl_min_version=2 to 3".to_string()),
        (vec!["-l", "notls:127.0.0.1:0"], "add -Z".to_string()),
    ] {
        let (status, said) = refused(&[&["-l", "127.0.0.1:0"], &arguments[..]].concat());
        assert!(!status.success() && said.contains(&words), "{arguments:?} should say {words:?}, said: {said}");
    }
}

/// Somebody else's implementation, both versions, and a value over many records.
#[test]
fn openssl_is_a_client() {
    if Command::new("openssl").arg("version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "in CI there must be openssl");
        return println!("skipped: there is no openssl (apt-get install openssl)");
    }
    let authority = Authority::new();
    let server = server_of(&authority, &[]);
    for version in ["-tls1_2", "-tls1_3"] {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-verify_return_error", version, "-CAfile"]).arg(authority.path("ca.pem"));
        command.args(["-connect", &server.tcp[0].to_string()]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
        let value = "v".repeat(100_000);
        let request = format!("set key 0 0 {}\r\n{value}\r\nget key\r\nquit\r\n", value.len());
        child.stdin.take().expect("a pipe").write_all(request.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends when the server does");
        let expected = format!("STORED\r\nVALUE key 0 {}\r\n{value}\r\nEND\r\n", value.len());
        assert!(output.stdout == expected.as_bytes(), "{version}: {} bytes", output.stdout.len());
    }
}
