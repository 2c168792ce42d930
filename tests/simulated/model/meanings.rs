//! Scripts: what is sent and what memcached 1.6.45 answers, one table for each meaning that needs
//! care. A script cannot know a position, so the word CAS in it stands for the CAS that `k` has
//! now, OLDER and NEWER for the numbers beside it.

use super::BEGIN;
use crate::support::harness::{self, Client};
use remora::engine::Engine;

/// A line to send ("+5" lets five seconds pass) and what comes back.
type Script<'s> = &'s [(&'s str, &'s str)];

fn engine() -> Engine {
    harness::engine(1 << 20, 1, 64 << 10, true, 1)
}

fn play(script: Script<'_>) {
    play_on(&engine(), script);
}

fn play_on(engine: &Engine, script: Script<'_>) {
    let mut client = Client::new(engine, 0, BEGIN);
    for (number, (send, expected)) in script.iter().enumerate() {
        if let Some(seconds) = send.strip_prefix('+') {
            client.now.0 += seconds.parse::<u32>().unwrap();
            continue;
        }
        let send = fill(&mut client, send) + "\r\n";
        let answer = client.ask(&send);
        let mut expected = fill(&mut client, expected);
        if !expected.is_empty() {
            expected += "\r\n";
        }
        assert_eq!(answer, expected, "step {number}: {send:?}");
    }
}

/// Put in the CAS of `k` as it is now, and the line ends.
fn fill(client: &mut Client<'_>, text: &str) -> String {
    let debug = client.ask("me k\r\n");
    let cas = debug.split("cas=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok()).unwrap_or(1000);
    let text = text.replace("OLDER", &(cas - 1).to_string()).replace("NEWER", &(cas + 1).to_string());
    text.replace("CAS", &cas.to_string()).replace('|', "\r\n")
}

#[test]
fn storing() {
    play(&[
        ("get k", "END"),
        ("replace k 1 0 1|a", "NOT_STORED"),
        ("append k 1 0 1|a", "NOT_STORED"),
        ("prepend k 1 0 1|a", "NOT_STORED"),
        ("cas k 1 0 1 5|a", "NOT_FOUND"),
        ("add k 1 0 1|a", "STORED"),
        ("add k 2 0 1|b", "NOT_STORED"),
        ("get k", "VALUE k 1 1|a|END"),
        ("append k 9 0 2|bc", "STORED"),
        ("prepend k 9 0 2|xy", "STORED"),
        ("gets k", "VALUE k 1 5 CAS|xyabc|END"),
        ("replace k 3 0 1|r", "STORED"),
        ("cas k 4 0 1 CAS|c", "STORED"),
        ("cas k 4 0 1 OLDER|d", "EXISTS"),
        ("cas k 4 0 1 0|d", "EXISTS"),
        ("get k other k", "VALUE k 4 1|c|VALUE k 4 1|c|END"),
        ("set k 0 0 0|", "STORED"),
        ("get k", "VALUE k 0 0||END"),
        ("set k 0 0 1 noreply|q", ""),
        ("delete k noreply", ""),
        ("delete k", "NOT_FOUND"),
        ("set k 0 0 1|q", "STORED"),
        ("delete k", "DELETED"),
        ("get k", "END"),
    ]);
}

#[test]
fn a_refused_store_takes_the_old_value_along() {
    let big = "x".repeat(70_000);
    let nearly = "x".repeat(64 << 10);
    let half = "x".repeat(40_000);
    let too_large = "SERVER_ERROR object too large for cache";
    let send = |command: &str, value: &str| format!("{command} {}|{value}", value.len());
    play(&[
        ("set k 0 0 1|a", "STORED"),
        (&send("set k 0 0", &big), too_large),
        ("get k", "END"),
        ("set k 0 0 1|a", "STORED"),
        // It fits the limit on values, but not with its key and header.
        (&send("set k 0 0", &nearly), too_large),
        ("get k", "END"),
        ("set k 0 0 1|a", "STORED"),
        (&send("replace k 0 0", &big), too_large),
        ("get k", "VALUE k 0 1|a|END"),
        (&send("ms k", &big), too_large),
        ("get k", "END"),
        (&send("set k 0 0", &half), "STORED"),
        (&send("append k 0 0", &half), "NOT_STORED"),
        ("mg k s", "HD s40000"),
    ]);
}

#[test]
fn expiry_and_touch() {
    play(&[
        ("set k 0 10 1|a", "STORED"),
        ("+9", ""),
        ("get k", "VALUE k 0 1|a|END"),
        ("+1", ""),
        ("get k", "END"),
        ("set k 0 -1 1|a", "STORED"),
        ("get k", "END"),
        ("set k 0 2592001 1|a", "STORED"),
        ("get k", "END"),
        ("set k 0 1700000100 1|a", "STORED"),
        ("mg k t", "HD t90"),
        ("touch k 0", "TOUCHED"),
        ("mg k t", "HD t-1"),
        ("touch nokey 0", "NOT_FOUND"),
        ("append k 7 50 1|b", "STORED"),
        ("mg k t", "HD t-1"),
        ("gat 30 k nokey", "VALUE k 0 2|ab|END"),
        ("gats 30 k", "VALUE k 0 2 CAS|ab|END"),
        ("append k 7 50 1|c", "STORED"),
        ("mg k t f", "HD t30 f0"),
        ("gat -1 k", "VALUE k 0 3|abc|END"),
        ("get k", "END"),
    ]);
}

#[test]
fn counting() {
    let not_a_number = "CLIENT_ERROR cannot increment or decrement non-numeric value";
    play(&[
        ("incr k 1", "NOT_FOUND"),
        ("set k 5 60 2|10", "STORED"),
        ("incr k 5", "15"),
        ("decr k 10", "5"),
        ("decr k 6", "0"),
        ("mg k v t f", "VA 1 t60 f5|0"),
        ("set k 0 0 20|18446744073709551615", "STORED"),
        ("incr k 2", "1"),
        ("set k 0 0 20|18446744073709551616", "STORED"),
        ("incr k 1", not_a_number),
        ("set k 0 0 1|a", "STORED"),
        ("incr k 1", not_a_number),
        ("set k 0 0 0|", "STORED"),
        ("incr k 1", not_a_number),
        ("ma k C5", not_a_number),
        ("set k 0 0 5|12 ab", "STORED"),
        ("incr k 1 noreply", ""),
        ("get k", "VALUE k 0 2|13|END"),
        ("ma k", "HD"),
        ("ma k v", "VA 2|15"),
        ("ma k v D5 MD", "VA 2|10"),
        ("ma k COLDER v", "EX"),
        ("ma k CCAS v E77", "VA 2|11"),
        ("mg k c", "HD c77"),
        ("ma k q", ""),
        ("ma k T30 t v", "VA 2 t30|13"),
        ("ma k t T60 v", "VA 2 t30|14"),
        ("ma none q", "NF"),
        ("ma none k Oq1", "NF knone Oq1"),
        ("ma new N30 J7 v t", "VA 1 t30|7"),
        ("ma new t N90 v", "VA 1 t30|8"),
        ("ma new2 t N30", "HD t-1"),
        ("mg new2 v t", "VA 1 t30|0"),
    ]);
}

#[test]
fn meta_set_modes_and_cas() {
    play(&[
        ("ms k 2 T0 c s k O1|hi", "HD cCAS s2 kk O1"),
        ("ms k 3 ME c s k t f O1|new", "NS c0 s3 kk O1"),
        ("ms k 1 CCAS E500|a", "HD"),
        ("mg k c v", "VA 1 c500|a"),
        ("ms k 1 C499|b", "EX"),
        ("ms k 1 C0|b", "EX"),
        ("ms none 1 C0|b", "NF"),
        ("ms none 1 MR|b", "NS"),
        ("ms none 1 MA|b", "NS"),
        ("ms none 1 MA C5|b", "NS"),
        ("ms k 1 MA C499|b", "EX"),
        ("ms k 1 MA C500 s|b", "HD s2"),
        ("ms k 1 MP s|z", "HD s3"),
        ("ms k 1 C0 MA|y", "HD"),
        ("mg k v", "VA 4|zaby"),
        ("ms v 2 MA N60 F3|vi", "HD"),
        ("mg v v t f", "VA 2 t60 f3|vi"),
        ("ms v 2 MP N90 F4|xx", "HD"),
        ("mg v v t f", "VA 4 t60 f3|xxvi"),
        ("ms k 1 q|a", ""),
        ("ms k 1 q ME|a", "NS"),
        ("ms k 1 q MR C1|a", "EX"),
    ]);
}

/// "s" given, so the size is answered; the classic commands see what ms stored.
#[test]
fn stale_items_and_the_one_winner() {
    play(&[
        ("ms k 1 T90|a", "HD"),
        ("mg k v", "VA 1|a"),
        ("md k I T30", "HD"),
        ("mg k v t", "VA 1 t30 X W|a"),
        ("mg k v", "VA 1 Z X|a"),
        ("get k", "VALUE k 0 1|a|END"),
        // An older CAS stores, but the item stays stale, and the token stays given.
        ("ms k 1 COLDER I T500|b", "HD"),
        ("mg k v t", "VA 1 t30 Z X|b"),
        ("ms k 1 CNEWER I|c", "EX"),
        ("ms k 1 CCAS I T60|d", "HD"),
        ("mg k v t", "VA 1 t60|d"),
        // Invalidated again, the token is to be won again; only with I does md keep anything.
        ("md k I", "HD"),
        ("mg k", "HD X W"),
        ("md k I", "HD"),
        ("mg k", "HD X W"),
        ("md k I COLDER", "EX"),
        ("md k I CCAS E900", "HD"),
        ("mg k c", "HD c900 X W"),
        ("incr k 1", "CLIENT_ERROR cannot increment or decrement non-numeric value"),
        ("append k 0 0 1|e", "STORED"),
        ("mg k v", "VA 2|de"),
    ]);
}

#[test]
fn recache_and_vivify() {
    play(&[
        ("mg k N30 t v", "VA 0 t30 W|"),
        ("mg k N30 t v", "VA 0 t30 Z|"),
        ("mg k2 t N30", "HD t-1 W"),
        ("mg k3 N30 T80 t", "HD t80 W"),
        ("mg k4 T80 N30 t", "HD t30 W"),
        ("mg k5 N-1 v", "VA 0 W|"),
        ("mg k5 v", "EN"),
        ("mg k6 N0 E42 c", "HD c42 W"),
        ("ms k 1 T100|a", "HD"),
        ("mg k R30 t", "HD t100"),
        ("+71", ""),
        ("mg k t R30", "HD t29 W"),
        ("mg k t R30", "HD t29 Z"),
        ("ms k 1 T0|a", "HD"),
        ("mg k R30 t", "HD t-1"),
        ("ms k 1 T20|a", "HD"),
        // R looks at what T has already set.
        ("mg k T100 R30 t", "HD t100"),
        ("mg k T20", "HD"),
        ("mg k R30 T100 t", "HD t100 W"),
        ("ms k 1 T20|a", "HD"),
        ("mg k R-1", "HD"),
        ("mg k R0", "HD"),
    ]);
}

#[test]
fn meta_get_reports_what_was_before() {
    play(&[
        ("ms k 3 F7|abc", "HD"),
        ("+4", ""),
        ("mg k h l s f u", "HD h0 l4 s3 f7"),
        ("mg k h l", "HD h0 l4"),
        ("+2", ""),
        ("mg k h l k Oabc", "HD h1 l2 kk Oabc"),
        ("mg k CCAS v c", "HD cCAS"),
        ("mg k COLDER v", "VA 3|abc"),
        ("mg none v k O1", "EN knone O1"),
        ("mg none q", ""),
        ("mg k q", "HD"),
        ("me none", "EN"),
        ("mn", "MN"),
        ("md k q", ""),
        ("md k q", "NF"),
        ("md k k O9", "NF kk O9"),
        ("ms k 3|abc", "HD"),
        ("md k COLDER q", "EX"),
    ]);
}

#[test]
fn an_emptied_item_keeps_its_cas() {
    play(&[
        ("ms k 3 F7 T90 E600|abc", "HD"),
        ("md k x", "HD"),
        ("mg k v c f t", "VA 0 c600 f0 t-1|"),
        ("ms k 3 F7 T90 E600|abc", "HD"),
        ("md k x F9 T30 E601", "HD"),
        ("mg k v c f t", "VA 0 c601 f9 t30|"),
        ("ms k 3 F7 T90 E600|abc", "HD"),
        ("md k x I E601", "HD"),
        ("mg k v c f t", "VA 0 c601 f0 t-1 X W|"),
    ]);
}

#[test]
fn flushing() {
    play(&[
        ("set k 0 0 1|a", "STORED"),
        ("flush_all", "OK"),
        ("get k", "END"),
        ("set k 0 0 1|a", "STORED"),
        ("flush_all 5", "OK"),
        ("+4", ""),
        ("get k", "VALUE k 0 1|a|END"),
        ("set k 0 0 1|b", "STORED"),
        ("+1", ""),
        ("add k 0 0 1|c", "STORED"),
        ("get k", "VALUE k 0 1|c|END"),
        ("+10", ""),
        ("get k", "VALUE k 0 1|c|END"),
        // A flush at once takes a pending one's place; a time long gone is now.
        ("flush_all 5", "OK"),
        ("flush_all 0", "OK"),
        ("set k 0 0 1|d", "STORED"),
        ("+6", ""),
        ("get k", "VALUE k 0 1|d|END"),
        ("flush_all 2592001", "OK"),
        ("get k", "END"),
        ("flush_all noreply", ""),
    ]);
}

#[test]
fn a_bad_key_takes_back_what_was_answered() {
    let long = "k".repeat(251);
    play(&[
        ("set k 0 0 1|a", "STORED"),
        (&format!("get k {long} k"), "CLIENT_ERROR bad command line format"),
        ("get k", "VALUE k 0 1|a|END"),
    ]);
}

#[test]
fn a_get_larger_than_the_output_is_resumed() {
    let engine = engine();
    let mut client = Client::new(&engine, 0, BEGIN);
    let (small, large) = ("s".repeat(1000), "L".repeat(50_000));
    client.ask(&format!("set s 0 0 1000\r\n{small}\r\nset l 0 0 50000\r\n{large}\r\n"));
    let answer = client.ask(&format!("get{}\r\n", " s l".repeat(40)));
    let pair = format!("VALUE s 0 1000\r\n{small}\r\nVALUE l 0 50000\r\n{large}\r\n");
    assert!(answer == pair.repeat(40) + "END\r\n", "{} bytes came back", answer.len());
    assert!(client.resumed > 3, "resumed {} times", client.resumed);
}

#[test]
fn server_wide_commands() {
    play_on(
        &harness::engine(8 << 20, 1, 1 << 20, true, 1),
        &[
            ("cache_memlimit 8", "OK"),
            ("cache_memlimit 2", "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m"),
            ("cache_memlimit 64", "MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust"),
            ("cache_memlimit 64 noreply", ""),
            ("verbosity 1", "OK"),
            ("verbosity 0 noreply", ""),
            ("version", &format!("VERSION {}", remora::protocol::VERSION)),
            ("stats nonsense", "ERROR"),
            ("stats sizes", "STAT sizes_status disabled|END"),
        ],
    );
}

#[test]
fn statistics() {
    let engine = engine();
    let mut client = Client::new(&engine, 0, BEGIN);
    let usage = "CLIENT_ERROR usage: stats detail on|off|dump\r\n";
    assert_eq!(client.ask("stats detail\r\n"), usage);
    assert_eq!(client.ask("stats detail on\r\n"), "OK\r\n");
    client.ask(
        "set a:1 0 0 1\r\n1\r\nget a:1 a:2 b\r\nincr a:1 1\r\ndelete a:1\r\ntouch a:1 0\r\ncas a:1 0 0 1 5\r\nx\r\n",
    );
    client.ask("mg a:1 v\r\nms b 1\r\nx\r\nmg b T0\r\ngat 0 b\r\nflush_all 100\r\nme b\r\n");
    assert_eq!(client.ask("stats detail dump\r\n"), "PREFIX a get 3 hit 1 set 2 del 1\r\nEND\r\n");
    let stats = client.ask("stats\r\n");
    for row in [
        "time 1700000000",
        "pointer_size 64",
        "max_connections 77",
        "cmd_get 4",
        "cmd_set 3",
        "cmd_flush 1",
        "cmd_touch 3",
        "cmd_meta 1",
        "get_hits 1",
        "get_misses 3",
        "delete_hits 1",
        "delete_misses 0",
        "incr_hits 1",
        "cas_misses 1",
        "touch_hits 2",
        "touch_misses 1",
        "limit_maxbytes 1048576",
        "threads 1",
        "curr_items 1",
        "total_items 3",
        "log_write_amplification 1.000",
        "log_reinserted_items 0",
    ] {
        assert!(stats.contains(&format!("STAT {row}\r\n")), "{row} in\n{stats}");
    }
    assert!(stats.ends_with("\r\nEND\r\n"));
    assert!(client.ask("stats items\r\n").contains("STAT items:1:number 1\r\n"));
    assert!(client.ask("stats slabs\r\n").contains("STAT 1:cmd_set 3\r\n"));
    assert!(client.ask("stats settings\r\n").contains("STAT item_size_max 65536\r\n"));
    assert_eq!(client.ask("stats conns\r\n"), "STAT 9:addr tcp:127.0.0.1:1\r\nSTAT 9:state conn_read\r\nEND\r\n");
    assert_eq!(client.ask("stats reset\r\n"), "RESET\r\n");
    let stats = client.ask("stats\r\n");
    for row in ["cmd_get 0", "get_misses 0", "total_items 0", "curr_items 1"] {
        assert!(stats.contains(&format!("STAT {row}\r\n")), "{row} after a reset in\n{stats}");
    }
    assert_eq!(client.ask("stats detail dump\r\nstats detail off\r\n"), "END\r\nOK\r\n");
}

/// Orders are taken from where the server was told to take them, and from nowhere that is less.
#[test]
fn orders_are_taken_from_the_control_socket_or_this_host() {
    use remora::engine::Origin::{ControlSocket, Elsewhere, ThisHost};
    play(&[("replication promote", "ERROR")]);
    for (from, refusal) in [(ControlSocket, "--orders-from-loopback"), (ThisHost, "from this host only")] {
        let engine = engine();
        engine.set_order_taker(from, Box::new(|_| Ok(())));
        for origin in [Elsewhere, ThisHost, ControlSocket] {
            let mut client = Client::new(&engine, 0, BEGIN).coming_from(origin);
            for order in ["replication promote\r\n", "replication\r\n"] {
                let answer = client.ask(order);
                let is_refused = answer.starts_with("CLIENT_ERROR ") && answer.contains(refusal);
                assert!(if origin >= from { answer == "OK\r\n" } else { is_refused }, "{origin:?}: {answer}");
            }
            assert_eq!(client.ask("mn\r\n"), "MN\r\n");
        }
    }
}
