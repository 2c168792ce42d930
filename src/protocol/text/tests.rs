//! The parser against memcached 1.6.45: what each line is answered, how far it is skipped, and the
//! holes others fell into.

use super::super::{Exptime, Parsed, Rejection, Request};
use super::meta::{MetaRequest, SetMode};
use super::*;
use crate::protocol::request::{Discovery, NextKey};

const LIMITS: ParseLimits = ParseLimits { value_bytes_max: 1000 };
const BAD: &str = "CLIENT_ERROR bad command line format";

/// Parse, and hand the request to `check`. The whole input must have been taken.
fn accepted(input: &[u8], check: impl FnOnce(Request<'_>)) {
    match parse(input, LIMITS, &mut [0; 250]) {
        Parsed::Request(request, taken) => {
            assert_eq!(taken, input.len(), "{}", input.escape_ascii());
            check(request);
        }
        other => panic!("{}: {other:?}", input.escape_ascii()),
    }
}

fn meta(input: &[u8], check: impl FnOnce(MetaRequest<'_>)) {
    accepted(input, |request| match request {
        Request::Meta(request) => check(request),
        other => panic!("{other:?}"),
    });
}

/// Parse; must be refused with `answer` (a line end is added unless it is empty), and skip so much.
fn refused(input: &[u8], answer: &str, skip_bytes: usize) -> Option<Vec<u8>> {
    match parse(input, LIMITS, &mut [0; 250]) {
        Parsed::Rejected(Rejection { refusal, reply, skip_bytes: skipped, unlink, close: false }) => {
            let given = told(reply, refusal);
            let expected = if answer.is_empty() { String::new() } else { format!("{answer}\r\n") };
            assert_eq!(given.escape_ascii().to_string(), expected.as_bytes().escape_ascii().to_string(), "{input:?}");
            assert_eq!(skipped, skip_bytes as u64, "{}", input.escape_ascii());
            unlink.map(<[u8]>::to_vec)
        }
        other => panic!("{}: {other:?}", input.escape_ascii()),
    }
}

/// Refused, and nothing but the line (which ends with the input's first newline) is skipped.
fn line_refused(input: &str, answer: &str) {
    let line_bytes = input.find('\n').unwrap() + 1;
    assert_eq!(refused(input.as_bytes(), answer, line_bytes), None);
}

fn incomplete(input: &[u8], wanted: usize) {
    match parse(input, LIMITS, &mut [0; 250]) {
        Parsed::Incomplete { wanted_bytes } => assert_eq!(wanted_bytes, wanted, "{}", input.escape_ascii()),
        other => panic!("{}: {other:?}", input.escape_ascii()),
    }
}

fn closed(input: &[u8], answer: &[u8]) {
    let mut scratch = [0; 250];
    let parsed = parse(input, LIMITS, &mut scratch);
    let Parsed::Rejected(Rejection { refusal, reply, close: true, .. }) = parsed else { panic!("{parsed:?}") };
    assert_eq!(told(reply, refusal), answer);
}

fn told(reply: Reply, refusal: Refusal) -> &'static [u8] {
    if reply == Reply::Text { refusal.line() } else { b"" }
}

#[test]
fn gets_of_all_kinds() {
    for (line, with_cas, touch) in [
        (&b"get a  bb \r\n"[..], false, None),
        (b"gets a bb\n", true, None),
        (b"gat 10 a bb\r\n", false, Some(Exptime(10))),
        (b"gats -1 a bb noreply\r\n", true, Some(Exptime(-1))),
    ] {
        accepted(line, |request| {
            let Request::Get(get) = request else { panic!("{request:?}") };
            assert_eq!(get.form, GetForm { with_cas, touch });
            assert!(get.ends && !get.continues);
            let NextKey::Key(b"a", next) = get.keys.next(0) else { panic!() };
            assert!(matches!(get.keys.next(next), NextKey::Key(b"bb", _)));
        });
    }
    for line in ["get\r\n", "get  \r\n", "gets\r\n", "gat\r\n", "gat 10\r\n", "gat 10 \r\n"] {
        line_refused(line, BAD);
    }
    line_refused("gat x key\r\n", "CLIENT_ERROR invalid exptime argument");
    line_refused("gat 2147483648 key\r\n", "CLIENT_ERROR invalid exptime argument");
}

#[test]
fn stores_of_all_kinds() {
    for (line, verb) in [
        (&b"set k 7 -1 2\r\nab\r\n"[..], StoreVerb::Set),
        (b"add k 7 -1 2\nab\r\n", StoreVerb::Add),
        (b"replace k 7 -1 2 ignored \r\nab\r\n", StoreVerb::Replace),
        (b"append  k  7  -1  2\r\nab\r\n", StoreVerb::Append),
        (b"prepend k 7 4294967295 2\r\nab\r\n", StoreVerb::Prepend),
        (b"cas k 7 -1 2 18446744073709551615\r\nab\r\n", StoreVerb::Cas(u64::MAX)),
    ] {
        accepted(line, |request| {
            let Request::Store(store) = request else { panic!("{request:?}") };
            assert_eq!((store.verb, store.key, store.value), (verb, &b"k"[..], &b"ab"[..]));
            assert_eq!((store.client_flags, store.exptime, store.reply), (7, Exptime(-1), Reply::Text));
        });
    }
    accepted(b"set k 0 0 0 noreply\r\n\r\n", |request| {
        assert!(matches!(request, Request::Store(store) if store.reply == Reply::Silent && store.value.is_empty()));
    });
}

#[test]
fn refused_stores_skip_their_block_where_memcached_does() {
    // The length cannot be read: what follows is the next command.
    line_refused("set k 0 0\r\nab\r\n", BAD);
    line_refused("set k 0 0 x\r\nab\r\n", BAD);
    line_refused("set k 0 0 x noreply\r\nab\r\n", BAD);
    // It can: the block goes, arrived or not.
    refused(b"set k x 0 2\r\n", BAD, 17);
    refused(b"set k 0 y 2\r\n", BAD, 17);
    refused(b"set k 0 y 2 noreply\r\n", "", 25);
    refused(b"cas k 0 0 2\r\nab\r\n", BAD, 17);
    refused(b"cas k 0 0 2 noreply\r\nab\r\n", "", 25);
    let long_key = format!("set {} 0 0 2\r\nab\r\n", "k".repeat(251));
    refused(long_key.as_bytes(), BAD, long_key.len());
}

#[test]
fn too_large_values_are_skipped_and_a_set_drops_the_old_one() {
    let answer = "SERVER_ERROR object too large for cache";
    assert_eq!(refused(b"set k 0 0 1001\r\n", answer, 16 + 1003), Some(b"k".to_vec()));
    assert_eq!(refused(b"set k 0 0 1001 noreply\r\n", "", 24 + 1003), Some(b"k".to_vec()));
    assert_eq!(refused(b"add k 0 0 1001\r\n", answer, 16 + 1003), None);
    assert_eq!(refused(b"append k 0 0 1001\r\n", answer, 19 + 1003), None);
    assert_eq!(refused(b"ms k 1001 MA\r\n", answer, 14 + 1003), Some(b"k".to_vec()));
    assert_eq!(refused(b"ms Zm9v 1001 b\r\n", answer, 16 + 1003), Some(b"foo".to_vec()));
    incomplete(b"set k 0 0 1000\r\n", 16 + 1002);
}

#[test]
fn a_bad_data_chunk_takes_the_announced_bytes_and_no_more() {
    let answer = "CLIENT_ERROR bad data chunk";
    refused(b"set k 0 0 2\r\nabcd\r\nget a\r\n", answer, 17);
    refused(b"set k 0 0 2\r\nab\n\nget a\r\n", answer, 17);
    refused(b"set k 0 0 2 noreply\r\nabcd\r\n", "", 25);
    refused(b"ms k 2 q\r\nabcd\r\n", answer, 14);
}

#[test]
fn arithmetic_touch_and_delete() {
    accepted(b"incr k 18446744073709551615 noreply\r\n", |request| {
        let Request::Arithmetic(incr) = request else { panic!() };
        assert_eq!((incr.increment, incr.key, incr.delta, incr.reply), (true, &b"k"[..], u64::MAX, Reply::Silent));
    });
    line_refused("decr k -1\r\n", "CLIENT_ERROR invalid numeric delta argument");
    line_refused("decr k 18446744073709551616\r\n", "CLIENT_ERROR invalid numeric delta argument");
    line_refused("incr k noreply\r\n", "");
    line_refused("incr k\r\n", BAD);
    accepted(b"touch k -1\r\n", |request| {
        assert!(matches!(request, Request::Touch(touch) if touch.exptime == Exptime(-1) && touch.reply == Reply::Text));
    });
    line_refused("touch k\r\n", BAD);
    line_refused("touch k x\r\n", "CLIENT_ERROR invalid exptime argument");
    for (line, reply) in [
        (&b"delete k\r\n"[..], Reply::Text),
        (b"delete k 0\r\n", Reply::Text),
        (b"delete k 10\r\n", Reply::Text),
        (b"delete k 0 noreply\r\n", Reply::Silent),
        (b"delete k 10 noreply\r\n", Reply::Silent),
        (b"delete k b c d noreply\r\n", Reply::Silent),
        (b"delete noreply\r\n", Reply::Silent),
    ] {
        accepted(line, |request| assert!(matches!(request, Request::Delete(delete) if delete.reply == reply)));
    }
    line_refused("delete\r\n", BAD);
    for behind in ["0 0", "b c d e", "noreply 0"] {
        let usage = "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]";
        line_refused(&format!("delete k {behind}\r\n"), usage);
    }
    for command in ["delete", "touch", "incr"] {
        line_refused(&format!("{command} {} 1\r\n", "k".repeat(251)), BAD);
        line_refused(&format!("{command} {} 1 noreply\r\n", "k".repeat(251)), "");
    }
}

#[test]
fn commands_without_a_key() {
    accepted(b"mn\r\n", |request| assert!(matches!(request, Request::Noop(Reply::Text))));
    accepted(b"version \r\n", |request| assert!(matches!(request, Request::Version(Reply::Text))));
    accepted(b"quit\r\n", |request| assert!(matches!(request, Request::Quit(Reply::Silent))));
    accepted(b"version noreply\r\n", |request| assert!(matches!(request, Request::Version(Reply::Text))));
    accepted(b"quit foo bar\r\n", |request| assert!(matches!(request, Request::Quit(Reply::Silent))));
    accepted(b"stats\r\n", |request| assert!(matches!(request, Request::Stats { subject: b"", .. })));
    accepted(b"stats  detail  on \r\n", |request| {
        assert!(matches!(request, Request::Stats { subject: b"detail  on", .. }))
    });
    for (line, seconds, quiet) in [
        (&b"flush_all\r\n"[..], 0, Reply::Text),
        (b"flush_all noreply\r\n", 0, Reply::Silent),
        (b"flush_all 10\r\n", 10, Reply::Text),
        (b"flush_all 10 noreply\r\n", 10, Reply::Silent),
        (b" flush_all -5\r\n", 0, Reply::Text),
    ] {
        accepted(line, |request| {
            assert!(matches!(request, Request::FlushAll { delay: Exptime(delay), reply }
                if delay == seconds && reply == quiet));
        });
    }
    line_refused("flush_all x\r\n", "CLIENT_ERROR invalid exptime argument");
    accepted(b"wait 0 0\r\n", |request| assert!(matches!(request, Request::Wait { replicas: 0, milliseconds: 0 })));
    let most = |request: Request<'_>| assert!(matches!(request, Request::Wait { replicas: 32, milliseconds: 60_000 }));
    accepted(b" wait  32 60000 \n", most);
    for rest in ["", " 1", " 33 1", " 1 60001", " -1 1", " 1 x", " 1 1 noreply"] {
        line_refused(&format!("wait{rest}\r\n"), BAD);
    }
    accepted(b"verbosity 1\r\n", |request| assert!(matches!(request, Request::Verbosity { level: 1, .. })));
    accepted(b"replication promote  a:1 \r\n", |request| {
        assert!(matches!(request, Request::Replication(b"promote  a:1")));
    });
    let map = |request: Request<'_>| assert!(matches!(request, Request::Discover { what: Discovery::Map, .. }));
    accepted(b"config get map\r\n", map);
    for rest in ["", " get", " set cluster", " get clusters", " get cluster 1", " get maps", " get map 1"] {
        line_refused(&format!("config{rest}\r\n"), "ERROR");
    }
    accepted(b"replication\r\n", |request| assert!(matches!(request, Request::Replication(b""))));
    line_refused("verbosity\r\n", BAD);
    line_refused("verbosity noreply\r\n", "");
    accepted(b"cache_memlimit 8 noreply\r\n", |request| {
        assert!(matches!(request, Request::CacheMemlimit { mebibytes: 8, reply: Reply::Silent }));
    });
    line_refused("cache_memlimit 7\r\n", "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m");
    line_refused("cache_memlimit 1000000001\r\n", "MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes");
    line_refused("cache_memlimit\r\n", "ERROR");
}

#[test]
fn what_is_not_here_is_answered_as_memcached_without_it() {
    line_refused("lru_crawler crawl all\r\n", "CLIENT_ERROR lru crawler disabled");
    line_refused("slabs reassign 1 2\r\n", "CLIENT_ERROR slab reassignment disabled");
    for line in ["lru mode flat", "lru_crawler disable", "slabs automove 1", "extstore max_frag 1", "debugitem lock k"]
    {
        line_refused(&format!("{line}\r\n"), "ERROR");
    }
    line_refused("misbehave\r\n", "ERROR");
    line_refused("GET k\r\n", "ERROR");
    line_refused("mz k\r\n", "ERROR");
    line_refused("nonsense noreply\r\n", "");
    closed(b"GET / HTTP/1.1\r\n", b"");
}

#[test]
fn meta_flags_are_digested() {
    meta(b"mg key s v q t Oopaque k T30 N-1 R5 u\r\n", |mg| {
        assert_eq!(
            (mg.verb, mg.key, mg.quiet, mg.want_value, mg.no_bump),
            (MetaVerb::Get, &b"key"[..], true, true, true)
        );
        assert_eq!((mg.ttl, mg.vivify, mg.recache_seconds), (Some(Exptime(30)), Some(Exptime(-1)), Some(5)));
        assert_eq!(mg.flag_tokens, b"s v q t Oopaque k T30 N-1 R5 u");
    });
    meta(b"ms Zm9v 2 b T0 F5 C9 E10 I MA N3\r\nab\r\n", |ms| {
        assert_eq!((ms.key, ms.key_token, ms.value, ms.base64_key), (&b"foo"[..], &b"Zm9v"[..], &b"ab"[..], true));
        assert_eq!((ms.client_flags, ms.compare_cas, ms.new_cas, ms.invalidate), (5, Some(9), Some(10), true));
        assert_eq!((ms.set_mode, ms.vivify, ms.ttl), (SetMode::Append, Some(Exptime(3)), Some(Exptime(0))));
    });
    meta(b"ma n MD D20 J7 P L v\r\n", |ma| {
        assert_eq!((ma.decrement, ma.delta, ma.initial, ma.want_value), (true, 20, 7, true));
    });
    meta(b"ma n M+\r\n", |ma| assert!(!ma.decrement && ma.delta == 1));
    meta(b"md k q I x MZ\r\n", |md| assert!(md.quiet && md.invalidate && md.remove_value));
    for (flag, replicas) in [("A0", Some(0)), ("A32", Some(32)), ("q", None)] {
        meta(format!("md k {flag}\r\n").as_bytes(), |md| assert_eq!(md.ack_replicas, replicas));
    }
    meta(b"me Zm9v b\r\n", |me| assert_eq!((me.verb, me.key), (MetaVerb::Debug, &b"foo"[..])));
    meta(b"me key anything goes goes\r\n", |me| assert_eq!(me.key, b"key"));
}

#[test]
fn meta_refusals_have_memcacheds_words() {
    for (flags, answer) in [
        ("v v", "CLIENT_ERROR duplicate flag"),
        ("!", BAD),
        ("v {", BAD),
        ("1", "CLIENT_ERROR invalid flag"),
        ("S100", "CLIENT_ERROR invalid flag"),
        ("T", "CLIENT_ERROR bad token in command line format"),
        ("Tx v", "CLIENT_ERROR bad token in command line format"),
        ("Tx v Z", "CLIENT_ERROR invalid flag"),
        ("C-1", "CLIENT_ERROR bad token in command line format"),
        ("A", "CLIENT_ERROR bad token in command line format"),
        ("A33", "CLIENT_ERROR bad token in command line format"),
        ("A1 A1", "CLIENT_ERROR duplicate flag"),
        ("D", "CLIENT_ERROR invalid numeric delta value"),
        ("Jx", "CLIENT_ERROR invalid numeric initial value"),
        ("F-1", BAD),
        ("b", "CLIENT_ERROR error decoding key"),
        ("q O12345678901234567890123456789012", "CLIENT_ERROR opaque token too long"),
    ] {
        line_refused(&format!("mg k* {flags}\r\n"), answer);
        let ms = format!("ms k* 2 {flags}\r\n");
        // Only a line that is none at all does not take its block along.
        let block_bytes = if ["!", "v {"].contains(&flags) { 0 } else { 4 };
        refused(ms.as_bytes(), answer, ms.len() + block_bytes);
    }
    line_refused("ma k v v\r\n", "CLIENT_ERROR invalid or duplicate flag");
    line_refused("ma k Nx\r\n", "CLIENT_ERROR invalid or duplicate flag");
    line_refused("ma k MX\r\n", "CLIENT_ERROR invalid mode for ma M token");
    refused(b"ms k 2 MX\r\n", "CLIENT_ERROR invalid mode for ms M token", 15);
    refused(b"ms k 2 M\r\n", "CLIENT_ERROR invalid mode for ms M token", 14);
    line_refused("me k* b\r\n", BAD);
    for line in ["mg\r\n", "ms k\r\n", "ms k S2\r\n", "ms k -1\r\n", "md \r\n", "me\r\n", "mn\n"] {
        line_refused(line, BAD);
    }
    meta(b"mg k O1234567890123456789012345678901\r\n", |mg| assert_eq!(mg.flag_tokens.len(), 32));
}

#[test]
fn a_line_may_end_in_a_bare_newline() {
    accepted(b"get k\n", |request| {
        let Request::Get(get) = request else { panic!() };
        assert!(matches!(get.keys.next(0), NextKey::Key(b"k", _)));
    });
    for (line, bytes) in [(&b"\n"[..], 1), (b"\r\n", 2), (b"a\r\n", 3)] {
        refused(line, BAD, bytes);
    }
    line_refused("abc\n", "ERROR");
}

#[test]
fn lines_have_limits_that_do_not_depend_on_how_they_arrive() {
    incomplete(b"", 1);
    incomplete(b"get k", 6);
    incomplete(&[b'x'; LINE_BYTES_MAX - 1], LINE_BYTES_MAX);
    closed(&[b'x'; LINE_BYTES_MAX], b"");
    let mut whole = vec![b'x'; LINE_BYTES_MAX + 1];
    whole[LINE_BYTES_MAX] = b'\n';
    closed(&whole, b"");
    whole[LINE_BYTES_MAX - 1] = b'\n';
    refused(&whole, "ERROR", LINE_BYTES_MAX);

    let mut get = b"get k".to_vec();
    get.resize(LINE_BYTES_MAX, b' ');
    incomplete(&get, LINE_BYTES_MAX + 1);
}

/// The keys of what must be a get, with its form, and whether its line ends with them; how many
/// bytes it took.
fn keys_of(parsed: Parsed<'_>) -> (Vec<Vec<u8>>, GetForm, bool, usize) {
    let Parsed::Request(Request::Get(get), taken) = parsed else { panic!("{parsed:?}") };
    let (mut keys, mut offset) = (Vec::new(), 0);
    while let NextKey::Key(key, next) = get.keys.next(offset) {
        keys.push(key.to_vec());
        offset = next;
    }
    (keys, get.form, get.ends, taken)
}

#[test]
fn a_long_get_comes_in_parts_and_no_key_is_cut() {
    for (word, form) in [
        ("get", GetForm { with_cas: false, touch: None }),
        ("gets", GetForm { with_cas: true, touch: None }),
        ("gat 9", GetForm { with_cas: false, touch: Some(Exptime(9)) }),
    ] {
        let wanted: Vec<Vec<u8>> = (0..8000).map(|number| format!("key{number}").into_bytes()).collect();
        let line = [word.as_bytes(), b" ", &wanted.join(&b' ')[..], b"\r\n"].concat();
        for arrived in [GET_PART_BYTES, GET_PART_BYTES + 1, 20_000, line.len() - 2, line.len() - 1] {
            let (mut found, form_found, ends, mut taken) = keys_of(parse(&line[..arrived], LIMITS, &mut [0; 250]));
            assert_eq!((form_found, ends), (form, false), "{word} {arrived}");
            assert!(arrived - taken <= "key7999\r".len());
            while taken < line.len() {
                let upto = (taken + 3000).min(line.len());
                let (more, form_found, ends, more_taken) = keys_of(parse_more_of_get(&line[taken..upto], form));
                found.extend(more);
                taken += more_taken;
                assert_eq!((form_found, ends), (form, taken == line.len()));
            }
            assert!(found == wanted, "{word} {arrived}");
        }
        let whole = keys_of(parse(&line, LIMITS, &mut [0; 250]));
        assert_eq!((whole.0.len(), whole.2, whole.3), (8000, true, line.len()), "what has arrived as a whole is whole");
    }
}

#[test]
fn a_part_of_a_get_waits_for_a_key_and_never_for_more() {
    let form = GetForm { with_cas: false, touch: None };
    for waiting in [1, KEY_BYTES_MAX, KEY_BYTES_MAX + 1] {
        let parsed = parse_more_of_get(&[b'k'; KEY_BYTES_MAX + 1][..waiting], form);
        assert!(matches!(parsed, Parsed::Incomplete { wanted_bytes } if wanted_bytes == waiting + 1), "{parsed:?}");
    }
    let too_long = [b'k'; KEY_BYTES_MAX + 2];
    let Parsed::Request(Request::Get(get), taken) = parse_more_of_get(&too_long, form) else { panic!() };
    assert_eq!((get.keys.next(0), taken, get.ends), (NextKey::Bad, too_long.len(), false));
    assert_eq!(keys_of(parse_more_of_get(b" \r\nget a", form)), (vec![], form, true, 3));
    // Of its first part as well; where there is not one key, the connection is closed.
    let mut first = b"get ".to_vec();
    first.resize(GET_PART_BYTES, b'k');
    let mut scratch = [0; 250];
    let Parsed::Request(Request::Get(get), taken) = parse(&first, LIMITS, &mut scratch) else { panic!() };
    assert_eq!((get.keys.next(0), taken, get.ends), (NextKey::Bad, first.len(), false));
    first[4..].fill(b' ');
    closed(&first, b"");
    closed(&[b"gat 1 ", &first[4..]].concat(), b"");
    closed(&[b"gat x k ", &first[4..]].concat(), b"CLIENT_ERROR invalid exptime argument\r\n");
}

#[test]
fn cve_2011_4971_negative_length() {
    line_refused("set k 0 0 -1\r\nab\r\n", BAD);
    line_refused("set k 0 0 -2147483648\r\n", BAD);
    line_refused("ms k -5\r\n", BAD);
}

#[test]
fn cve_2016_8706_overflowing_length() {
    // The last one that is a length is far beyond any limit; its skip is counted in 64 bits.
    refused(b"add k 0 0 2147483645\r\n", "SERVER_ERROR object too large for cache", 22 + 2_147_483_647);
    for length in
        ["2147483646", "2147483647", "4294967295", "4294967297", "18446744073709551615", "99999999999999999999999"]
    {
        line_refused(&format!("set k 0 0 {length}\r\nab\r\n"), BAD);
        line_refused(&format!("ms k {length}\r\nab\r\n"), BAD);
    }
    let huge = ParseLimits { value_bytes_max: usize::MAX };
    let mut scratch = [0; 250];
    let parsed = parse(b"set k 0 0 2147483645\r\n", huge, &mut scratch);
    assert!(matches!(parsed, Parsed::Incomplete { wanted_bytes: 2_147_483_669 }), "{parsed:?}");
}

#[test]
fn cve_2017_9951_bare_newlines() {
    // A length checked as one type and used as another. Here: lines of nothing, and blocks that end
    // in nothing.
    for input in [&b"\n\n\n"[..], b"\n", b"\r\n\r\n"] {
        assert!(matches!(parse(input, LIMITS, &mut [0; 250]), Parsed::Rejected(_)));
    }
    refused(b"set k 0 0 1\n\n\n\n", "CLIENT_ERROR bad data chunk", 15);
    incomplete(b"set k 0 0 0\n\n", 14);
}

#[test]
fn cve_2020_10931_tokens_longer_than_their_room() {
    let letters = |count: usize| (0..count).map(|index| (b'A' + index as u8) as char).map(|c| format!(" {c}1"));
    for tokens in [19, 20, 30, 57] {
        line_refused(
            &format!("mg k{}\r\n", letters(tokens).collect::<String>()),
            "CLIENT_ERROR options flags are too long",
        );
    }
    line_refused(&format!("mg {} v\r\n", "k".repeat(251)), BAD);
    line_refused(&format!("mg {} b\r\n", "AAAA".repeat(63)), BAD);
    line_refused(&format!("me {} b\r\n", "AAAA".repeat(63)), BAD);
    meta(format!("mg {} b\r\n", "AAAA".repeat(62)).as_bytes(), |mg| assert_eq!(mg.key, [0; 186]));
    line_refused(&format!("mg k T{}\r\n", "1".repeat(300)), "CLIENT_ERROR bad token in command line format");
    line_refused(&format!("mg k O{}\r\n", "o".repeat(1000)), "CLIENT_ERROR opaque token too long");
}

#[test]
fn cve_2020_22570_space_only_line() {
    for blanks in [4, 5, 100, 2000] {
        line_refused(&format!("{}\r\n", " ".repeat(blanks)), "ERROR");
        line_refused(&format!("mg{}\r\n", " ".repeat(blanks)), BAD);
        line_refused(&format!("set{}\r\n", " ".repeat(blanks)), BAD);
    }
    line_refused("   \n", "ERROR");
}

#[test]
fn cve_2023_46853_line_end_beside_the_buffer() {
    // An off-by-one where a line ended in \n rather than \r\n.
    meta(b"mg k v\n", |mg| assert_eq!(mg.flag_tokens, b"v"));
    meta(b"mg k  v  \n", |mg| assert_eq!(mg.flag_tokens, b"v"));
    meta(b"mg k\n", |mg| assert_eq!((mg.key, mg.flag_tokens), (&b"k"[..], &b""[..])));
    accepted(b"gets a\n", |request| {
        let Request::Get(get) = request else { panic!() };
        assert_eq!(get.keys.next(2), NextKey::End);
    });
}

#[test]
fn nul_bytes_belong_to_their_token() {
    accepted(b"get a\0b\r\n", |request| {
        let Request::Get(get) = request else { panic!() };
        assert!(matches!(get.keys.next(0), NextKey::Key(b"a\0b", 4)));
    });
    accepted(b"set \0 0 0 1\r\n\0\r\n", |request| {
        assert!(matches!(request, Request::Store(store) if store.key == b"\0" && store.value == b"\0"));
    });
    line_refused("set k 0 0 1\0\r\n", BAD);
    line_refused("get\0k\r\n", "ERROR");
}

#[test]
fn leading_blanks_are_not_for_every_command() {
    line_refused(" get k\r\n", "ERROR");
    line_refused("  mg k\r\n", "ERROR");
    line_refused(" set k 0 0 2\r\nab\r\n", "ERROR");
    accepted(b"  verbosity 0\r\n", |request| assert!(matches!(request, Request::Verbosity { level: 0, .. })));
}
