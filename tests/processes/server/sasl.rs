//! `-S`: nothing is executed for a client of the binary protocol that has not said who it is, by
//! whatever packets it tries, and however they are cut; it says so by SASL, as to memcached.

use crate::support::certificates::{Authority, client};
use crate::support::packets::{Answer, Packet, read_all};
use crate::support::wait::{expect_eq, wait_until};
use crate::support::{Client, Server};
use rustls::version::TLS13;
use tempfile::NamedTempFile;

const VERSION: Packet<'_> =
    Packet { opcode: 0x0B, opaque: 0, cas: 0, extras: b"", key: b"", value: b"", lengths: None };
const LIST: Packet<'_> = Packet { opcode: 0x20, ..VERSION };
const NOOP: Packet<'_> = Packet { opcode: 0x0A, ..VERSION };
const QUIT: Packet<'_> = Packet { opcode: 0x07, ..VERSION };
const FOO: &[u8] = b"\0foo\0bar";
const BAZ: &[u8] = b"\0baaaz\0quux";

/// Opcode, status, and words or value.
type Told = (u8, u16, &'static str);
const GOES: (u8, u16, &str) = (0x21, 0, "Authenticated");
const WRONG: Told = (0x21, 0x20, "Auth failure.");

fn begin(message: &[u8]) -> Packet<'_> {
    Packet { opcode: 0x21, key: b"PLAIN", value: message, ..VERSION }
}

fn step(message: &[u8]) -> Packet<'_> {
    Packet { opcode: 0x22, ..begin(message) }
}

fn get(key: &'static str) -> Packet<'static> {
    Packet { opcode: 0x00, key: key.as_bytes(), ..VERSION }
}

fn set(key: &'static str, value: &'static str) -> Packet<'static> {
    Packet { opcode: 0x01, extras: &[0; 8], key: key.as_bytes(), value: value.as_bytes(), ..VERSION }
}

fn told(answer: &Answer) -> (u8, u16, String) {
    (answer.opcode, answer.status, String::from_utf8_lossy(&answer.value).into_owned())
}

fn ask(client: &mut Client, packet: &Packet<'_>) -> (u8, u16, String) {
    client.send(&packet.bytes());
    told(&client.packet())
}

/// All that is answered to `packets`, which end the connection.
fn all(client: &mut Client, packets: &[Packet<'_>]) -> Vec<(u8, u16, String)> {
    client.send(&packets.iter().map(Packet::bytes).collect::<Vec<_>>().concat());
    read_all(&client.until_closed()).iter().map(told).collect()
}

fn owned(told: &[Told]) -> Vec<(u8, u16, String)> {
    told.iter().map(|(opcode, status, words)| (*opcode, *status, words.to_string())).collect()
}

/// A file with memcached's own two users.
fn two_users() -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "foo:bar\nbaaaz:quux\n").expect("the file is written");
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().expect("a path of letters")
}

/// A server that asks for users, with further `arguments`.
fn server_of(file: &NamedTempFile, arguments: &[&str]) -> Server {
    Server::start(&[&["-S", "--sasl-pwdb", path(file), "-t", "1"], arguments].concat())
}

/// A client that has said that it is foo.
fn foo(server: &Server) -> Client {
    let mut client = server.connect();
    assert_eq!(ask(&mut client, &begin(FOO)), (0x21, 0, "Authenticated".to_string()));
    client
}

/// One number of plain `stats`, by an operator.
fn stat(server: &Server, name: &str) -> u64 {
    let rows = Client::control(server.tcp[0]).rows("stats");
    let of_name = |row: &String| row.strip_prefix(&format!("STAT {name} ")).and_then(|word| word.parse().ok());
    rows.iter().find_map(of_name).unwrap_or_else(|| panic!("{name} in {rows:?}"))
}

/// All opcodes there are, quiet ones among them, each in its form, and what may not be said.
#[test]
fn a_stranger_may_ask_for_four_things_and_nothing_else() {
    let file = two_users();
    let server = server_of(&file, &[]);
    let mut known = foo(&server);
    assert_eq!(ask(&mut known, &set("key", "value")).1, 0);
    for opcode in 0..=255 {
        let mut stranger = server.connect();
        let (extras, key, value): (&[u8], &[u8], &[u8]) = match opcode {
            0x01..=0x03 | 0x11..=0x13 => (&[0; 8], b"key", b"theirs"),
            0x05 | 0x06 | 0x15 | 0x16 => (&[0; 20], b"key", b""),
            0x07 | 0x08 | 0x0A | 0x0B | 0x10 | 0x17 | 0x18 | 0x20 => (b"", b"", b""),
            0x1B => (&[0; 4], b"", b""),
            0x1C..=0x1E | 0x23 | 0x24 => (&[0; 4], b"key", b""),
            0x0E | 0x0F | 0x19 | 0x1A => (b"", b"key", b"theirs"),
            0x21 | 0x22 => (b"", b"PLAIN", b"\0foo\0ba"),
            _ => (b"", b"key", b""),
        };
        let packet = Packet { opcode, extras, key, value, ..VERSION };
        match opcode {
            0x0B | 0x20 => assert_eq!(ask(&mut stranger, &packet).1, 0, "{opcode:#x}"),
            0x21 | 0x22 => assert_eq!(ask(&mut stranger, &packet).1, 0x20, "{opcode:#x}"),
            _ => {
                let answers = all(&mut stranger, &[packet, get("key")]);
                assert_eq!(answers, [(opcode, 0x20, "Auth failure.".to_string())], "{opcode:#x}");
            }
        }
    }
    assert_eq!(ask(&mut known, &get("key")), (0, 0, "value".to_string()), "nobody has changed it");
    assert_eq!((stat(&server, "auth_cmds"), stat(&server, "auth_errors")), (3, 2));
    assert_eq!((stat(&server, "cmd_set"), stat(&server, "cmd_flush"), stat(&server, "cmd_touch")), (1, 0, 0));
}

/// By memcached 1.6.45 with PLAIN.
#[test]
fn every_answer_is_memcacheds() {
    let file = two_users();
    let server = server_of(&file, &[]);
    const STEPPED: Told = (0x22, 0, "Authenticated");
    const MISSTEPPED: Told = (0x22, 0x20, "Auth failure.");
    const REFUSED: Told = (0x00, 0x20, "Auth failure.");
    const MISSED: Told = (0x00, 1, "Not found");
    const LISTED: Told = (0x20, 0, "PLAIN");
    const MORE: Told = (0x21, 0x21, "");
    const BYE: Told = (0x07, 0, "");
    let named = |name: &'static [u8]| Packet { key: name, ..begin(FOO) };
    let table: Vec<(Vec<Packet<'_>>, Vec<Told>)> = vec![
        (vec![LIST, begin(FOO), get("k"), QUIT], vec![LISTED, GOES, MISSED, BYE]),
        (vec![begin(b"\0foo\0ba"), get("k"), get("k")], vec![WRONG, REFUSED]),
        (vec![begin(b"\0foo\0ba"), begin(BAZ), get("k"), QUIT], vec![WRONG, GOES, MISSED, BYE]),
        (
            vec![begin(b"\0foo\0barr"), begin(b"\0foo\0"), begin(b"\0foo\0quux"), get("k")],
            vec![WRONG, WRONG, WRONG, REFUSED],
        ),
        (
            vec![begin(b"\0foo"), begin(b"\0foo\0bar\0"), begin(b"baaaz\0foo\0bar"), get("k")],
            vec![WRONG, WRONG, WRONG, REFUSED],
        ),
        (vec![begin(b"foo\0foo\0bar"), get("k"), QUIT], vec![GOES, MISSED, BYE]),
        (vec![named(b"plain"), get("k"), QUIT], vec![GOES, MISSED, BYE]),
        (vec![named(b"CRAM-MD5"), get("k")], vec![WRONG, REFUSED]),
        (vec![named(&[b'x'; 33]), begin(FOO), get("k"), QUIT], vec![(0x21, 4, "Invalid arguments"), GOES, MISSED, BYE]),
        // The message may come behind an empty one, and after wrong ones.
        (vec![begin(b""), step(FOO), get("k"), QUIT], vec![MORE, STEPPED, MISSED, BYE]),
        (
            vec![begin(b""), LIST, step(b"\0foo\0ba"), step(b""), step(FOO), get("k"), QUIT],
            vec![MORE, LISTED, MISSTEPPED, MISSTEPPED, STEPPED, MISSED, BYE],
        ),
        (vec![begin(b""), get("k")], vec![MORE, REFUSED]),
        (vec![step(FOO), get("k")], vec![MISSTEPPED, REFUSED]),
        (vec![begin(b"\0foo\0ba"), step(FOO), get("k")], vec![WRONG, MISSTEPPED, REFUSED]),
        // Who is known, and asks again, is known no more.
        (vec![begin(FOO), LIST, get("k")], vec![GOES, LISTED, REFUSED]),
        (vec![begin(FOO), get("k"), begin(b"\0baaaz\0"), get("k")], vec![GOES, MISSED, WRONG, REFUSED]),
        (vec![begin(FOO), begin(BAZ), begin(FOO), get("k")], vec![GOES, WRONG, WRONG, REFUSED]),
        (vec![begin(FOO), step(FOO), get("k")], vec![GOES, MISSTEPPED, REFUSED]),
        (vec![begin(FOO), named(&[b'x'; 33]), get("k"), QUIT], vec![GOES, (0x21, 4, "Invalid arguments"), MISSED, BYE]),
        // What makes no sense.
        (vec![Packet { lengths: Some((9, 0, 3)), ..get("k") }], vec![(0x00, 0x81, "Unknown command")]),
        (vec![Packet { key: b"", ..begin(FOO) }, get("k")], vec![(0x21, 4, "Invalid arguments")]),
        (vec![Packet { extras: b"1234", ..begin(FOO) }, get("k")], vec![(0x21, 4, "Invalid arguments")]),
        (vec![begin(FOO), Packet { value: b"x", ..LIST }, get("k")], vec![GOES, (0x20, 4, "Invalid arguments")]),
    ];
    for (packets, answers) in table {
        assert_eq!(all(&mut server.connect(), &packets), owned(&answers), "{packets:?}");
    }
    let mut text = server.connect();
    text.send(b"version\r\n");
    assert_eq!(text.until_closed(), b"", "text is not spoken");
    let mut much = server.connect();
    much.send(&[begin(&[b'x'; 16_385]).bytes(), begin(FOO).bytes()].concat());
    assert_eq!(
        read_all(&much.until_closed()).iter().map(told).collect::<Vec<_>>(),
        owned(&[(0x21, 0x82, "Out of memory")])
    );
}

#[test]
fn however_it_is_cut_the_rest_is_executed() {
    let file = two_users();
    let server = server_of(&file, &[]);
    let packets = [
        VERSION,
        begin(b"\0foo\0no"),
        LIST,
        begin(b""),
        VERSION,
        step(FOO),
        set("key", "abc"),
        get("key"),
        LIST,
        get("key"),
    ];
    let sent = packets.iter().map(Packet::bytes).collect::<Vec<_>>().concat();
    let statuses = [0, 0x20, 0, 0x21, 0, 0, 0, 0, 0, 0x20];
    for piece_bytes in [1, 5, 23, 24, 31, sent.len()] {
        let mut client = server.connect();
        for piece in sent.chunks(piece_bytes) {
            client.send(piece);
            if piece_bytes < sent.len() {
                // So that the server is likely to read each piece by itself.
                std::thread::yield_now();
            }
        }
        let answers = read_all(&client.until_closed());
        assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), statuses, "{piece_bytes}");
        assert_eq!(answers[7].value, b"abc");
    }
}

#[test]
fn the_users_are_found_where_memcached_looks_and_read_anew() {
    let file = two_users();
    let variables = [("MEMCACHED_SASL_PWDB", path(&file))];
    let server = Server::start_with(&["-S", "-B", "binary", "-l", "0.0.0.0:0", "-t", "1"], 1, &variables);
    assert_eq!(server.said.matches("nobody is asked who they are").count(), 0, "{}", server.said);
    let mut old = foo(&server);
    let rows = Client::control(server.tcp[0]).rows("stats settings");
    for row in ["auth_enabled_sasl yes", "auth_enabled_ascii no", "binding_protocol binary"] {
        assert!(rows.contains(&format!("STAT {row}")), "{row} in {rows:?}");
    }
    let rows = Client::control(server.tcp[0]).rows("stats conns");
    assert_eq!(rows.iter().filter(|row| row.ends_with(":user foo")).count(), 1, "{rows:?}");
    std::fs::write(file.path(), "foo:new").expect("the file is written");
    server.signal("HUP");
    wait_until("the new password is taken", || {
        expect_eq("status", ask(&mut server.connect(), &begin(b"\0foo\0new")).1, 0)
    });
    assert_eq!(ask(&mut server.connect(), &begin(FOO)).1, 0x20);
    assert_eq!(ask(&mut old, &NOOP).1, 0, "who has said who it is stays");
    // Without -S nobody looks at the variable, and SASL is unknown.
    let plain = Server::start_with(&["-l", "127.0.0.1:0"], 1, &[("MEMCACHED_SASL_PWDB", "/nowhere/users")]);
    assert_eq!(ask(&mut plain.connect(), &begin(FOO)).1, 0x81);
}

#[test]
fn operators_are_not_asked() {
    let file = two_users();
    let server = server_of(&file, &[]);
    assert_eq!(Client::control(server.tcp[0]).ask("mn"), "MN");
    let mut operator = Client::control(server.tcp[0]);
    for (packet, status) in
        [(NOOP, 0), (LIST, 0), (NOOP, 0), (begin(b"\0foo\0no"), 0x20), (NOOP, 0), (begin(FOO), 0), (NOOP, 0)]
    {
        assert_eq!(ask(&mut operator, &packet).1, status, "{packet:?}");
    }
}

#[test]
fn it_is_the_same_by_tls() {
    let (file, authority) = (two_users(), Authority::new());
    authority.sign("server");
    let server = server_of(&file, &["-Z", "-o", &authority.options("server")]);
    let connect = || client(&authority.client(None, &[&TLS13]), server.tcp[0]);
    let packets = [begin(FOO), set("key", "value"), get("key"), QUIT];
    let statuses: Vec<u16> = all(&mut connect(), &packets).iter().map(|(_, status, _)| *status).collect();
    assert_eq!(statuses, [0; 4]);
    assert_eq!(all(&mut connect(), &[get("key"), QUIT]), owned(&[(0x00, 0x20, "Auth failure.")]));
}
