//! A replica shows what its primary holds, whatever command made it, and refuses every write.

use crate::node::{Node, in_sync, on_each_fabric, same_items};
use crate::support::Client;
use std::collections::BTreeMap;
use std::process::Command;

/// A request and the first line of its answer.
type Exchange<'a> = (&'a str, &'a str);

/// Send each and hold its answer's first line, and everything up to the next, against what is
/// expected.
fn exchange(client: &mut Client, exchanges: &[Exchange<'_>]) {
    for (request, expected) in exchanges {
        client.send(format!("{request}\r\n").as_bytes());
        for line in expected.lines() {
            assert_eq!(client.line(), line, "{request}");
        }
    }
}

const WRITES: [Exchange<'_>; 30] = [
    ("set a 7 0 5\r\nvalue", "STORED"),
    ("set b 0 1000 3\r\nabc", "STORED"),
    ("append b 0 0 2\r\nde", "STORED"),
    ("prepend b 0 0 1\r\n_", "STORED"),
    ("add c 1 0 1\r\n5", "STORED"),
    ("incr c 995", "1000"),
    ("decr c 1", "999"),
    ("replace a 8 0 4\r\nmore", "STORED"),
    ("set gone 0 0 1\r\nx", "STORED"),
    ("delete gone", "DELETED"),
    ("set touched 0 0 1\r\nx", "STORED"),
    ("touch touched 500", "TOUCHED"),
    ("set fetched 0 0 1\r\nx", "STORED"),
    ("gat 600 fetched", "VALUE fetched 0 1\nx\nEND"),
    ("set expired 0 0 1\r\nx", "STORED"),
    ("touch expired -1", "TOUCHED"),
    ("set empty 0 0 0\r\n", "STORED"),
    ("ms chosen 2 E77 F9 T800\r\nhi", "HD"),
    ("cas chosen 9 800 5 77\r\nagain", "STORED"),
    ("cas chosen 9 800 5 77\r\nnever", "EXISTS"),
    ("ms stale 2 T900\r\nhi", "HD"),
    ("md stale I T300", "HD"),
    ("ms wiped 2\r\nhi", "HD"),
    ("md wiped x", "HD"),
    ("ma counted N0 J13", "HD"),
    ("ma counted D2", "HD"),
    ("ms grown 2\r\nab", "HD"),
    ("ms grown 2 MA\r\ncd", "HD"),
    ("ms YmluYXJ5IQBrZXk= 2 b\r\nhi", "HD"),
    ("mg vivid N60 v", "VA 0 W\n"),
];

fn keys() -> Vec<String> {
    let named =
        ["a", "b", "c", "gone", "touched", "fetched", "expired", "empty", "chosen", "stale", "wiped", "counted"];
    let more = ["grown", "vivid", "never", "after"].into_iter().map(String::from);
    let large = LARGE.iter().map(|bytes| format!("large-{bytes}"));
    named.iter().map(|name| name.to_string()).chain(more).chain(large).collect()
}

/// Around the pieces that a log is read in, up to the largest item.
const LARGE: [usize; 6] = [16_300, 65_500, 131_000, 262_144, 700_001, (1 << 20) - 400];

/// Nothing of what a client sees differs: values, flags, CAS, times to live, staleness; whether an
/// item was written before the replica joined or after.
#[test]
fn a_replica_shows_what_its_primary_holds() {
    on_each_fabric(|fabric| {
        let primary = Node::primary(&["-m", "16"]);
        let early = Node::replica(primary.port(), &["--fabric", fabric]);
        exchange(&mut primary.server.connect(), &WRITES);
        for bytes in LARGE {
            let value: Vec<u8> = (0..bytes).map(|at| (at * 31 / 7) as u8).collect();
            assert_eq!(primary.server.connect().set(&format!("large-{bytes}"), &value), "STORED");
        }
        let late = Node::replica(primary.port(), &["--fabric", fabric]);
        let both = [&early, &late];
        in_sync(&primary, &both);
        let items = primary.items(&keys());
        assert_eq!(items["chosen"].value, b"again");
        assert!(items["stale"].words.ends_with('X'), "{:?}", items["stale"]);
        assert_eq!(same_items(&primary, &both, &keys()), 12 + LARGE.len());
        let binary = |node: &Node| node.client().ask("mg YmluYXJ5IQBrZXk= b c t");
        assert!(both.iter().all(|replica| binary(replica) == binary(&primary)) && binary(&primary).starts_with("HD c"));
        // The replicas have read the item: only the log can tell them.
        exchange(&mut primary.server.connect(), &[("touch touched 5000", "TOUCHED"), ("md fetched I T4000", "HD")]);
        in_sync(&primary, &both);
        assert_eq!(same_items(&primary, &both, &keys()), 12 + LARGE.len());

        exchange(&mut primary.server.connect(), &[("flush_all", "OK"), ("set after 3 0 2\r\nok", "STORED")]);
        in_sync(&primary, &both);
        assert_eq!(same_items(&primary, &both, &keys()), 1);
        assert_eq!(late.number("bad_records") + early.number("bad_records"), 0);
    });
}

/// Reading a replica is free of consequences: the primary's items are as unread as before, and a
/// lease is still the primary's to give.
#[test]
fn reading_a_replica_changes_nothing() {
    on_each_fabric(|fabric| {
        let primary = Node::primary(&["-m", "16"]);
        let replica = Node::replica(primary.port(), &["--fabric", fabric]);
        let mut client = primary.server.connect();
        exchange(&mut client, &[("set a 0 0 1\r\nx", "STORED"), ("ms s 1 T500\r\nx", "HD"), ("md s I", "HD")]);
        in_sync(&primary, &[&replica]);
        let written = primary.rows_of("stats")["log_appended_bytes"].clone();
        for _ in 0..20 {
            let mut reader = replica.client();
            assert_eq!(reader.get("a").as_deref(), Some(&b"x"[..]));
            let stale = reader.ask("mg s s");
            assert!(stale.contains(" X") && !stale.contains('W'), "{stale}");
            let vivified = reader.ask("mg missing N30 s");
            assert!(!vivified.contains('W'), "{vivified}");
        }
        assert_eq!(primary.rows_of("stats")["log_appended_bytes"], written);
        let looked_at = client.ask("me a");
        assert!(looked_at.contains("fetch=no"), "{looked_at}");
        assert_eq!(client.ask("mg missing s"), "EN");
        let won = client.ask("mg s s");
        assert!(won.contains(" W"), "the primary's first reader wins the lease: {won}");
        let writes = replica.rows_of("stats");
        assert_eq!((writes["curr_items"].as_str(), writes["cmd_set"].as_str()), ("2", "0"));
    });
}

/// With where writes belong; and as silent as a primary's success where the client wants no answer.
#[test]
fn every_write_to_a_replica_is_refused() {
    let primary = Node::primary(&["-m", "16"]);
    let replica = Node::replica(primary.port(), &["--fabric", "shm"]);
    assert_eq!(primary.client().set("c", b"5"), "STORED");
    in_sync(&primary, &[&replica]);
    let there = || same_items(&primary, &[&replica], &["c".into(), "k".into()]);
    assert_eq!(there(), 1);
    let refusal = format!("SERVER_ERROR read-only replica: write to the primary at {}", primary.server.tcp[0]);
    let mut client = replica.server.connect();
    let refused = [
        "set k 0 0 1\r\nx",
        "add k 0 0 1\r\nx",
        "replace c 0 0 1\r\nx",
        "append c 0 0 1\r\nx",
        "prepend c 0 0 1\r\nx",
        "cas c 0 0 1 1\r\nx",
        "delete c",
        "incr c 1",
        "decr c 1",
        "touch c 0",
        "gat 10 c",
        "gats 10 c",
        "flush_all",
        "flush_all 10",
        "ms k 1\r\nx",
        "ms c 1 MA\r\nx",
        "md c",
        "md c I",
        "md c x",
        "ma c",
        "mg c T30 v",
        "ms k 1 q\r\nx",
        "md c q",
        "ma c q",
    ];
    for request in refused {
        exchange(&mut client, &[(request, &refusal)]);
    }
    for request in [
        "set k 0 0 1 noreply\r\nx",
        "add k 0 0 1 noreply\r\nx",
        "replace c 0 0 1 noreply\r\nx",
        "append c 0 0 1 noreply\r\nx",
        "prepend c 0 0 1 noreply\r\nx",
        "cas c 0 0 1 1 noreply\r\nx",
        "delete c noreply",
        "incr c 1 noreply",
        "decr c 1 noreply",
        "touch c 0 noreply",
        "flush_all noreply",
    ] {
        exchange(&mut client, &[(request, ""), ("mn", "MN")]);
    }
    assert_eq!(there(), 1);
    assert_eq!(primary.client().get("c").as_deref(), Some(&b"5"[..]));
    // Neither a refused write nor its body is taken for something else later.
    exchange(&mut client, &[("get c", "VALUE c 0 1\n5\nEND"), ("get k", "END")]);
}

/// What an operator asks of either side by hand.
#[test]
fn ctl_shows_both_sides() {
    let primary = Node::primary(&["-m", "16"]);
    let replica = Node::replica(primary.port(), &["--fabric", "shm", "--replica-name", "the second"]);
    in_sync(&primary, &[&replica]);
    let ask = |node: &Node, more: &[&str]| {
        let address = node.server.tcp[0].to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        let output = command.args(["ctl", "-s", &address, "replication"]).args(more).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let table = ask(&primary, &[]);
    let row = table.lines().find(|line| line.starts_with("the second")).unwrap_or_else(|| panic!("{table}"));
    assert!(row.contains("shm") && row.contains("following"), "{table}");
    assert!(ask(&replica, &[]).contains(&primary.port().to_string()));
    let rows: BTreeMap<String, String> = serde_json::from_str(&ask(&replica, &["--json"])).expect("JSON");
    assert_eq!((rows["state"].as_str(), rows["trouble"].as_str()), ("following", "none"));
}
