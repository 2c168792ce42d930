//! A memcached's command line: what each option does, seen from outside.

use crate::node::fixed_port;
use crate::support::wait::wait_until;
use crate::support::{Client, Server, command, refused};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What the binary prints on standard output and does not serve.
fn printed(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_remora")).args(arguments).output().expect("the binary runs");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// A row of `stats settings`.
fn setting(client: &mut Client, name: &str) -> String {
    let rows = client.rows("stats settings");
    let row = rows.iter().find_map(|row| row.strip_prefix(&format!("STAT {name} ")));
    row.unwrap_or_else(|| panic!("no {name} in {rows:?}")).to_string()
}

/// What stands behind `name` in a file of /proc about the server.
fn told(server: &Server, file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{}/{file}", server.pid())).expect("the server lives");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}: {text}"));
    line.trim().to_string()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The line that contains `words`, of those that it wrote before it listened.
fn said(server: &Server, words: &str) -> String {
    let line = server.said.lines().find(|line| line.contains(words));
    line.unwrap_or_else(|| panic!("no \"{words}\" in {}", server.said)).to_string()
}

#[test]
fn whoever_looks_for_memcacheds_number_finds_it() {
    for arguments in [["serve", "-h"], ["serve", "--help"], ["serve", "-V"]] {
        let text = printed(&arguments);
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with("remora 0.") && first.ends_with("(memcached 1.6.45 compatible)"), "{text}");
    }
    let licenses = printed(&["serve", "-i"]);
    assert!(licenses.contains("Permission is hereby granted") && licenses.contains("Apache License"), "{licenses}");
}

#[test]
fn the_help_and_an_error_have_the_same_words_for_extended_options() {
    let (status, said) = refused(&["-o", "slab_reasign"]);
    assert!(!status.success() && said.contains("nearest is slab_reassign"), "{said}");
    let (_, list) = said.split_once("memcached's extended options").expect("the list");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&printed(&["serve", "--help"])).contains(&words(list)), "{list}");
}

#[test]
fn units_and_scripts_of_memcacheds_start_it() {
    let user = if is_root() { "nobody" } else { "anybody" };
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid").display().to_string();
    let (port, port_of_old) = (fixed_port().to_string(), fixed_port().to_string());
    let old = format!("-m 64 -p {port_of_old} -u {user} -l 127.0.0.1 -P {pid} -c 100");
    for (line, port) in
        [(format!("-p {port} -u {user} -m 64 -c 1024 -l 127.0.0.1,::1"), port), (old, port_of_old.clone())]
    {
        let words: Vec<&str> = line.split(' ').collect();
        let server = Server::start_listening(&words, 1);
        assert_eq!(server.tcp[0].to_string(), format!("127.0.0.1:{port}"));
        assert_eq!(server.connect().set("key", b"value"), "STORED");
    }
    let server = Server::start_listening(&["-m 64", "-p -1", "-U 0", "-vv", "-t 2", "-o slab_reassign,modern"], 1);
    assert_eq!(setting(&mut server.connect(), "maxbytes"), (64 << 20).to_string());
}

#[test]
fn what_changes_nothing_is_told_in_one_line() {
    let server = Server::start(&["-f", "1.25", "-n", "48", "-C", "-L", "-o", "slab_reassign,lru_crawler,hashpower=20"]);
    let line = said(&server, "without effect");
    for word in ["-f, -n, -L, -C", "-o slab_reassign", "-o lru_crawler", "-o hashpower", "docs/COMPATIBILITY.md"] {
        assert!(line.contains(word), "{word} in {line}");
    }
    let mut client = server.connect();
    assert_eq!(client.set("key", b"value"), "STORED");
    client.send(b"gets key\r\n");
    let (head, value, end) = (client.line(), client.line(), client.line());
    let cas = head.strip_prefix("VALUE key 0 5 ").unwrap_or_else(|| panic!("{head}")).to_string();
    assert_eq!((value.as_str(), end.as_str()), ("value", "END"));
    client.send(format!("cas key 0 0 1 {cas}\r\nx\r\n").as_bytes());
    assert_eq!(client.line(), "STORED", "-C takes nothing away");
}

#[test]
fn what_is_not_here_is_refused_with_a_reason() {
    for (arguments, words) in [
        (&["-S"][..], "--sasl-pwdb or MEMCACHED_SASL_PWDB"),
        (&["-S", "--sasl-pwdb", "/nowhere/users"], "-S (--enable-sasl): cannot read /nowhere/users"),
        (&["-S", "-Y", "/nowhere/users"], "leave one of them out, or start two servers"),
        (&["-S", "-B", "ascii"], "-S (--enable-sasl): users say who they are in the binary protocol"),
        (&["-S", "-B", "auto"], "text is to be spoken as well"),
        (&["-S", "-l", "proto[negotiating]:127.0.0.1:0"], "text is to be spoken as well"),
        (&["-S", "-U", "-1"], "-U (--udp-port): nobody says who he is"),
        (&["--sasl-pwdb", "/nowhere/users"], "--sasl-pwdb without -S"),
        (&["-Y", "/nowhere/users"], "cannot read /nowhere/users"),
        (&["-Z"], "needs a certificate"),
        (&["-e", "/mnt/file"], "memory ends with the process"),
        (&["-B", "http"], "auto, ascii, binary"),
        (&["-l", "proto[binary]:127.0.0.1:0,127.0.0.1:0"], "all listeners of a server speak the same"),
        (&["-o", "ext_path=/mnt/flash:1G"], "no storage on flash"),
        (&["-o", "proxy_config=routelib"], "no proxy"),
        (&["--enable-shutdwn"], "--enable-shutdown"),
    ] {
        let (status, said) = refused(arguments);
        assert!(!status.success() && said.contains(words), "{arguments:?} should say {words:?}, said: {said}");
    }
}

#[test]
fn flush_all_can_be_forbidden() {
    let server = Server::start(&["-F"]);
    let mut client = server.connect();
    assert_eq!(client.set("key", b"value"), "STORED");
    assert_eq!(client.ask("flush_all"), "CLIENT_ERROR flush_all not allowed");
    assert_eq!(client.ask("flush_all 10"), "CLIENT_ERROR flush_all not allowed");
    assert_eq!(client.ask("flush_all soon"), "CLIENT_ERROR flush_all not allowed", "whatever is wrong with it");
    assert_eq!(client.ask("flush_all noreply\r\nmn"), "MN");
    assert_eq!(client.get("key").unwrap(), b"value");
    assert_eq!(setting(&mut client, "flush_enabled"), "no");
    assert_eq!(server.stat("cmd_flush").unwrap(), "4", "counted, as memcached does");
}

#[test]
fn watch_can_be_forbidden_whatever_its_words() {
    let off = "CLIENT_ERROR watch commands not allowed";
    for (arguments, known, unknown) in [(&[][..], "OK", "ERROR"), (&["-W"], off, off)] {
        let server = Server::start(arguments);
        let mut client = server.connect();
        assert_eq!(client.ask("watch fetchers"), known, "{arguments:?}");
        assert_eq!(client.ask("watch nonsense"), unknown, "{arguments:?}");
    }
}

#[test]
fn what_shows_keys_can_be_forbidden() {
    let server = Server::start(&["-X"]);
    let mut client = server.connect();
    for line in ["stats detail on", "stats detail dump", "stats detail"] {
        assert_eq!(client.ask(line), "CLIENT_ERROR stats detail not allowed", "{line}");
    }
    assert_eq!(client.set("key", b"value"), "STORED");
    for line in ["stats cachedump 1 1", "stats cachedump 1 0", "stats cachedump"] {
        assert_eq!(client.ask(line), "CLIENT_ERROR stats cachedump not allowed", "{line}");
    }
    for (line, words) in [("metadump", "metadump"), ("mgdump", "key dump")] {
        for classes in ["all", "hash", "1", "none"] {
            let answer = client.ask(&format!("lru_crawler {line} {classes}"));
            assert_eq!(answer, format!("ERROR {words} not allowed"), "{line} {classes}");
        }
    }
    assert_eq!(setting(&mut client, "dump_enabled"), "no");
}

#[test]
fn prefixes_end_where_it_is_said_and_are_counted_from_the_start() {
    let server = Server::start(&["-D", "/"]);
    let mut client = server.connect();
    assert_eq!(
        (setting(&mut client, "stat_key_prefix"), setting(&mut client, "detail_enabled")),
        ("/".into(), "yes".into())
    );
    assert_eq!(client.set("a:b/c", b""), "STORED");
    assert_eq!(client.rows("stats detail dump"), ["PREFIX a:b get 0 hit 0 set 1 del 0"]);
}

#[test]
fn a_client_may_end_it_where_that_is_allowed() {
    for line in ["shutdown", "shutdown graceful"] {
        let mut server = Server::start(&["-A"]);
        let mut client = server.connect();
        assert_eq!(client.ask("shutdown now"), "CLIENT_ERROR invalid shutdown mode");
        assert_eq!(setting(&mut client, "shutdown_command"), "yes");
        client.send(format!("{line}\r\n").as_bytes());
        assert_eq!(client.until_closed(), b"", "{line}");
        assert!(server.wait().success(), "{line}");
    }
    let server = Server::start(&[]);
    let mut client = server.connect();
    assert_eq!(client.ask("shutdown"), "SERVER_ERROR: shutdown not enabled");
    assert_eq!(client.ask("mn"), "MN");
}

/// While the server stands still, its backlog is all there is.
#[test]
fn so_many_connections_wait_as_the_backlog_has_room_for() {
    let waiting = |arguments: &[&str]| {
        let server = Server::start(arguments);
        server.signal("STOP");
        let one = |_| TcpStream::connect_timeout(&server.tcp[0], Duration::from_millis(300)).ok();
        let connected: Vec<TcpStream> = (0..8).filter_map(one).collect();
        connected.len()
    };
    assert_eq!(waiting(&["-t", "1"]), 8);
    assert!(waiting(&["-t", "1", "-b", "1"]) < 8);
}

#[test]
fn every_address_is_listened_to_where_that_is_asked() {
    let server = Server::start_listening(&["-l", "tag[all]:*:0"], 1);
    assert_eq!(server.tcp[0].ip().to_string(), "0.0.0.0");
    let address = SocketAddr::from(([127, 0, 0, 1], server.tcp[0].port()));
    assert_eq!(Client::tcp(address).ask("mn"), "MN");
    assert!(said(&server, "without effect").contains("tag[] in -l"));
}

#[test]
fn core_dumps_may_be_as_large_as_they_like() {
    // Within a shell: limits are inherited.
    let limited = |arguments: &[&str]| {
        let inner = command(&[&["-l", "127.0.0.1:0"], arguments].concat());
        let mut outer = Command::new("sh");
        outer.args(["-c", "ulimit -S -c 0 && exec \"$@\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
        outer.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        outer
    };
    let soft = |server: &Server| {
        let limits = told(server, "limits", "Max core file size");
        limits.split_whitespace().next().expect("a limit").to_string()
    };
    assert_eq!(soft(&Server::run(limited(&[]), 1)), "0");
    assert_ne!(soft(&Server::run(limited(&["-r"]), 1)), "0");
}

#[test]
fn memory_is_locked_or_it_is_said_why_not() {
    let server = Server::start(&["-k"]);
    assert_eq!(server.connect().set("key", &vec![b'x'; 1 << 19]), "STORED");
    if told(&server, "status", "VmLck:").starts_with("0 ") {
        assert!(said(&server, "-k").contains("memory is not locked"));
    }
}

#[test]
fn root_becomes_the_user_that_is_named() {
    if !is_root() {
        return;
    }
    let server = Server::start(&["-u", "nobody", "-r"]);
    let users = told(&server, "status", "Uid:");
    assert!(users.split_whitespace().all(|user| user == "65534"), "{users}");
    wait_until("it serves", || if server.connect().ask("mn") == "MN" { Ok(()) } else { Err("no") });
}
