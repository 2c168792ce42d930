//! The parser as a function of bytes: how they were cut on their way makes no difference, and no
//! bytes stall it.

use proptest::prelude::*;
use remora::protocol::{KeyScratch, ParseLimits, Parsed, Request, parse};

const LIMITS: ParseLimits = ParseLimits { value_bytes_max: 4096 };
const SCRATCH: KeyScratch = [0; 250];

/// A key of any bytes that may stand in one.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>().prop_filter("separates", |byte| !b" \n\r".contains(byte)), 1..=250)
}

fn noreply() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", " noreply"])
}

fn line_end() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["\r\n", "\n"])
}

/// `head key tail`, with a line end of either kind.
fn line(head: String, key: &[u8], tail: String, end: &str) -> Vec<u8> {
    [head.as_bytes(), b" ", key, tail.as_bytes(), end.as_bytes()].concat()
}

fn store() -> impl Strategy<Value = Vec<u8>> {
    let verb = prop::sample::select(vec!["set", "add", "replace", "append", "prepend", "cas"]);
    let numbers = (any::<u32>(), any::<i32>(), any::<u64>());
    (verb, key(), numbers, prop::collection::vec(any::<u8>(), 0..300), noreply(), line_end()).prop_map(
        |(verb, key, (flags, exptime, unique), value, noreply, end)| {
            let unique = if verb == "cas" { format!(" {unique}") } else { String::new() };
            let tail = format!(" {flags} {exptime} {}{unique}{noreply}", value.len());
            [line(verb.into(), &key, tail, end), value, b"\r\n".to_vec()].concat()
        },
    )
}

/// Any subset of the flags that take a number or nothing, in any order.
fn meta_flags() -> impl Strategy<Value = String> {
    let flags = "v q k s t c f h l u x I T1 N2 R3 C4 E5 F6 J7 D8 Oabc P L".split(' ').collect::<Vec<_>>();
    prop::sample::subsequence(flags, 0..=17)
        .prop_shuffle()
        .prop_map(|flags| flags.iter().map(|flag| format!(" {flag}")).collect())
}

fn meta() -> impl Strategy<Value = Vec<u8>> {
    let verb = prop::sample::select(vec!["mg", "md", "ma", "me"]);
    (verb, key(), meta_flags(), line_end()).prop_map(|(verb, key, flags, end)| line(verb.into(), &key, flags, end))
}

fn meta_set() -> impl Strategy<Value = Vec<u8>> {
    (key(), meta_flags(), prop::collection::vec(any::<u8>(), 0..300), line_end()).prop_map(
        |(key, flags, value, end)| {
            [line("ms".into(), &key, format!(" {}{flags}", value.len()), end), value, b"\r\n".to_vec()].concat()
        },
    )
}

fn get() -> impl Strategy<Value = Vec<u8>> {
    let verb = prop::sample::select(vec!["get", "gets", "gat 0", "gats -1"]);
    (verb, prop::collection::vec(key(), 1..20), line_end())
        .prop_map(|(verb, keys, end)| line(verb.into(), &keys.join(&b' '), String::new(), end))
}

fn keyed() -> impl Strategy<Value = Vec<u8>> {
    let verb = prop::sample::select(vec!["incr", "decr", "touch", "delete"]);
    (verb, key(), 0u32..1000, noreply(), line_end()).prop_map(|(verb, key, number, noreply, end)| {
        // The one number that delete takes.
        let number = if verb == "delete" { 0 } else { number };
        line(verb.into(), &key, format!(" {number}{noreply}"), end)
    })
}

fn plain() -> impl Strategy<Value = Vec<u8>> {
    let lines = [
        "mn",
        "quit",
        "version",
        "stats",
        "stats detail dump",
        "flush_all 10 noreply",
        "verbosity 1",
        "cache_memlimit 64",
    ];
    (prop::sample::select(lines.to_vec()), line_end())
        .prop_map(|(line, end)| [line, end].concat().into_bytes())
        .prop_filter("long enough", |line| line.len() >= 4)
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![store(), meta(), meta_set(), get(), keyed(), plain()]
}

/// What the parser made of the input, in full, as something that can be compared.
fn seen(input: &[u8]) -> String {
    format!("{:?}", parse(input, LIMITS, &mut SCRATCH.clone()))
}

/// Bytes that look enough like a request to get past the first test.
fn nearly_requests() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(vec![
        "get",
        "gat",
        "set",
        "cas",
        "ms",
        "mg",
        "ma",
        "me",
        "delete",
        "k",
        " ",
        "  ",
        "0",
        "2",
        "-1",
        "4294967295",
        "\r\n",
        "\n",
        "\r",
        "\0",
        "b",
        "v",
        "T1",
        "noreply",
        "Zm9v",
        "Zg==",
        "flush_all",
        "ab",
    ]);
    prop::collection::vec(word, 0..40).prop_map(|words| words.join(" ").into_bytes())
}

/// Parse as a connection would until the input is used up; every step must make progress.
fn walk(input: &[u8]) {
    let mut rest = input;
    loop {
        match parse(rest, LIMITS, &mut SCRATCH.clone()) {
            Parsed::Request(request, taken) => {
                assert!((1..=rest.len()).contains(&taken));
                if let Request::Meta(meta) = &request {
                    assert!((1..=250).contains(&meta.key.len()));
                }
                rest = &rest[taken..];
            }
            Parsed::Incomplete { wanted_bytes } => {
                assert!(wanted_bytes > rest.len());
                return;
            }
            Parsed::Rejected(rejection) => {
                assert!(rejection.skip_bytes >= 1);
                assert!(rejection.refusal.line().ends_with(b"\r\n"));
                if rejection.close || rejection.skip_bytes >= rest.len() as u64 {
                    return;
                }
                rest = &rest[rejection.skip_bytes as usize..];
            }
        }
    }
}

proptest! {
    #[test]
    fn every_strict_prefix_is_incomplete(bytes in request(), behind in prop::collection::vec(any::<u8>(), 0..50)) {
        let whole = seen(&bytes);
        prop_assert!(whole.starts_with("Request("), "{}: {whole}", bytes.escape_ascii());
        for cut in 0..bytes.len() {
            match parse(&bytes[..cut], LIMITS, &mut SCRATCH.clone()) {
                Parsed::Incomplete { wanted_bytes } => {
                    prop_assert!(wanted_bytes > cut && wanted_bytes <= bytes.len());
                }
                other => prop_assert!(false, "cut at {cut}: {other:?}"),
            }
        }
        prop_assert_eq!(whole, seen(&[bytes, behind].concat()), "what follows makes no difference");
    }

    #[test]
    fn random_bytes_neither_panic_nor_stall(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        walk(&bytes);
    }

    #[test]
    fn near_requests_neither_panic_nor_stall(bytes in nearly_requests()) {
        walk(&bytes);
    }
}
