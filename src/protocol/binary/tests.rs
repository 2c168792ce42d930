//! The parser and the encoder, by tables.

use super::super::answer::{Counted, PrefixCounts, Removed, Stored};
use super::super::reply::{Fault, Rows};
use super::super::{Protocol, VERSION};
use super::*;
use crate::base::time::Expiry;
use proptest::prelude::*;

const LIMITS: ParseLimits = ParseLimits { value_bytes_max: 1000 };
const OPAQUE: u32 = 0x0102_0304;

/// A request whose header says of its body what is true.
fn packet(opcode: u8, extras: &[u8], key: &[u8], value: &[u8], cas: u64) -> Vec<u8> {
    let body = [extras, key, value].concat();
    let mut packet = lengths(opcode, key.len() as u16, extras.len() as u8, body.len() as u32);
    packet[16..24].copy_from_slice(&cas.to_be_bytes());
    packet.extend(body);
    packet
}

/// A header that says whatever it is told of its body.
fn lengths(opcode: u8, key: u16, extras: u8, body: u32) -> Vec<u8> {
    let mut header = vec![0; HEADER_BYTES];
    (header[0], header[1], header[4]) = (MAGIC, opcode, extras);
    header[2..4].copy_from_slice(&key.to_be_bytes());
    header[8..12].copy_from_slice(&body.to_be_bytes());
    header[12..16].copy_from_slice(&OPAQUE.to_be_bytes());
    header
}

/// The packet is a whole request, and nothing less of it is.
#[track_caller]
fn accepted(packet: &[u8], check: impl FnOnce(Request<'_>)) {
    for bytes in 0..packet.len() {
        match parse(&packet[..bytes], LIMITS) {
            Parsed::Incomplete { wanted_bytes } => assert!((bytes + 1..=packet.len()).contains(&wanted_bytes)),
            other => panic!("{other:?} of {bytes} bytes"),
        }
    }
    let followed = [packet, b"\x80and so on"].concat();
    match parse(&followed, LIMITS) {
        Parsed::Request(request, bytes) => {
            assert_eq!(bytes, packet.len());
            check(request);
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn rejected(input: &[u8]) -> Rejection<'_> {
    match parse(input, LIMITS) {
        Parsed::Rejected(rejection) => rejection,
        other => panic!("{other:?}"),
    }
}

fn head(opcode: u8) -> Head {
    Head::new(opcode, OPAQUE)
}

/// An answer: opcode, status, extras, key, value, CAS.
type Answer<'a> = (u8, u16, &'a [u8], &'a [u8], &'a [u8], u64);

#[track_caller]
fn answer(packet: &[u8]) -> Answer<'_> {
    let key = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let extras = usize::from(packet[4]);
    assert_eq!((packet[0], packet[5], number(packet, 12)), (ANSWER_MAGIC, 0, OPAQUE));
    let body = &packet[HEADER_BYTES..];
    assert_eq!(body.len(), number(packet, 8) as usize, "the length of the body");
    let status = u16::from_be_bytes([packet[6], packet[7]]);
    let cas = long_number(packet, 16);
    (packet[1], status, &body[..extras], &body[extras..extras + key], &body[extras + key..], cas)
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

#[test]
fn a_connection_speaks_what_it_begins_with() {
    assert_eq!(
        (Protocol::of(0x80), Protocol::of(b'g'), Protocol::of(0x81)),
        (Protocol::Binary, Protocol::Text, Protocol::Text)
    );
}

#[test]
fn gets_and_touches_name_one_key() {
    for (opcode, quiet, tells_key, tells_value, touches) in [
        (0x00, false, false, true, false),
        (0x09, true, false, true, false),
        (0x0C, false, true, true, false),
        (0x0D, true, true, true, false),
        (0x1C, false, false, false, true),
        (0x1D, false, false, true, true),
        (0x1E, true, false, true, true),
        (0x23, false, true, true, true),
        (0x24, true, true, true, true),
    ] {
        let extras: &[u8] = if touches { &[0xFF, 0, 0, 7] } else { &[] };
        accepted(&packet(opcode, extras, b"a key\n", b"", 9), |request| {
            let Request::GetOne(GetOne { key, touch, head }) = request else { panic!("{request:?}") };
            assert_eq!((key, touch), (&b"a key\n"[..], touches.then_some(Exptime(0xFF00_0007))), "{opcode:#x}");
            assert_eq!(
                (head.quiet, head.tells_key(), head.tells_value()),
                (quiet, tells_key, tells_value),
                "{opcode:#x}"
            );
            assert_eq!((head.opcode(), head.opaque()), (opcode, OPAQUE));
        });
    }
}

#[test]
fn stores_bring_flags_expiry_and_cas() {
    use StoreVerb::{Add, Append, Cas, Prepend, Replace, Set};
    for (opcode, cas, verb, onto_cas) in [
        (0x01, 0, Set, 0),
        (0x11, 0, Set, 0),
        (0x02, 0, Add, 0),
        (0x12, 0, Add, 0),
        (0x03, 0, Replace, 0),
        (0x13, 0, Replace, 0),
        (0x01, 7, Cas(7), 0),
        (0x12, 7, Cas(7), 0),
        (0x03, u64::MAX, Cas(u64::MAX), 0),
        (0x0E, 0, Append, 0),
        (0x19, 7, Append, 7),
        (0x0F, 7, Prepend, 7),
        (0x1A, 0, Prepend, 0),
    ] {
        let joins = matches!(verb, Append | Prepend);
        let extras: &[u8] = if joins { &[] } else { &[1, 2, 3, 4, 0, 0, 0, 5] };
        let (flags, seconds) = if joins { (0, 0) } else { (0x0102_0304, 5) };
        for value in [&b""[..], b"value"] {
            accepted(&packet(opcode, extras, b"k", value, cas), |request| {
                let Request::Store(store) = request else { panic!("{request:?}") };
                assert_eq!((store.verb, store.onto_cas, store.key, store.value), (verb, onto_cas, &b"k"[..], value));
                assert_eq!((store.client_flags, store.exptime), (flags, Exptime(seconds)), "{opcode:#x}");
                assert_eq!(store.reply, Reply::Binary(head(opcode)));
            });
        }
    }
}

#[test]
fn counting_may_create() {
    for (opcode, increment) in [(0x05, true), (0x15, true), (0x06, false), (0x16, false)] {
        for (expiry, create) in
            [(60, Some((u64::MAX, Exptime(60)))), (u32::MAX, None), (0, Some((u64::MAX, Exptime(0))))]
        {
            let extras = [&3u64.to_be_bytes()[..], &u64::MAX.to_be_bytes(), &expiry.to_be_bytes()].concat();
            accepted(&packet(opcode, &extras, b"n", b"", 8), |request| {
                let Request::Arithmetic(count) = request else { panic!("{request:?}") };
                assert_eq!((count.increment, count.key, count.delta), (increment, &b"n"[..], 3));
                assert_eq!((count.compare_cas, count.create), (8, create));
            });
        }
    }
}

#[test]
fn what_has_no_value_is_read() {
    for (opcode, cas, compare_cas) in [(0x04, 0, None), (0x14, 3, Some(3))] {
        accepted(&packet(opcode, b"", b"k", b"", cas), |request| {
            assert!(
                matches!(request, Request::Delete(delete) if delete.key == b"k" && delete.compare_cas == compare_cas)
            );
        });
    }
    for (opcode, extras, seconds) in [(0x08, &[][..], 0), (0x18, &[0, 0, 1, 0][..], 256)] {
        accepted(&packet(opcode, extras, b"", b"", 0), |request| {
            assert!(matches!(request, Request::FlushAll { delay: Exptime(delay), .. } if delay == seconds));
        });
    }
    let plain = |opcode, check: fn(&Request<'_>) -> bool| {
        accepted(&packet(opcode, b"", b"", b"", 0), |request| {
            assert!(check(&request) && request.reply() == Reply::Binary(head(opcode)), "{request:?}");
        });
    };
    plain(0x07, |request| matches!(request, Request::Quit(_)));
    plain(0x17, |request| matches!(request, Request::Quit(_)));
    plain(0x0A, |request| matches!(request, Request::Noop(_)));
    plain(0x0B, |request| matches!(request, Request::Version(_)));
    plain(0x10, |request| matches!(request, Request::Stats { subject: b"", .. }));
    accepted(&packet(0x10, b"", b" detail on ", b"", 0), |request| {
        assert!(matches!(request, Request::Stats { subject: b"detail on", .. }));
    });
    accepted(&packet(0x1B, &[0, 0, 0, 2], b"", b"", 0), |request| {
        assert!(matches!(request, Request::Verbosity { level: 2, .. }));
    });
}

#[test]
fn what_is_unknown_is_swallowed() {
    // Of SASL, the list of mechanisms has no body, and the rest has a mechanism.
    let unknown = (0x25..=0xFF).chain([0x1F]).map(|opcode| packet(opcode, b"ex", b"key", b"value", 0));
    let sasl = [
        packet(0x20, b"", b"", b"", 0),
        packet(0x21, b"", b"PLAIN", b"\0a\0b", 0),
        packet(0x22, b"", b"PLAIN", b"", 0),
    ];
    for packet in unknown.chain(sasl) {
        let rejection = rejected(&packet[..HEADER_BYTES]);
        assert_eq!((rejection.refusal, rejection.close), (Refusal::UnknownCommand, false));
        assert_eq!((rejection.skip_bytes, rejection.reply), (packet.len() as u64, Reply::Binary(head(packet[1]))));
    }
}

/// The published causes of errors in servers of this protocol: lengths that reach beyond the body,
/// and sums that overflow.
#[test]
fn lengths_that_make_no_sense_end_the_connection() {
    for (opcode, key, extras, body, refusal) in [
        // Key or extras beyond the body.
        (0x00, 5, 0, 4, Refusal::UnknownCommand),
        (0x01, 5, 8, 12, Refusal::UnknownCommand),
        (0x01, u16::MAX, u8::MAX, 0, Refusal::UnknownCommand),
        (0x0E, 1, 0, 0, Refusal::UnknownCommand),
        (0x08, 0, 4, 0, Refusal::UnknownCommand),
        (0x10, 5, 0, 4, Refusal::UnknownCommand),
        (0xFE, 1, 0, 0, Refusal::UnknownCommand),
        // Lengths that overflow where they are kept as int, or two more are added to them.
        (0x01, 1, 8, u32::MAX, Refusal::BadFormat),
        (0x0E, 1, 0, u32::MAX, Refusal::BadFormat),
        (0x1A, 250, 0, u32::MAX - 1, Refusal::BadFormat),
        (0x0F, 1, 0, 1 << 31, Refusal::BadFormat),
        (0x01, 1, 8, (1 << 30) + 1, Refusal::BadFormat),
        (0x30, 0, 0, (1 << 30) + 1, Refusal::BadFormat),
        // A key that is too long.
        (0x00, 251, 0, 251, Refusal::BadFormat),
        (0x30, 251, 0, 251, Refusal::BadFormat),
        // Not the form of the command.
        (0x00, 0, 0, 0, Refusal::BadFormat),
        (0x00, 1, 0, 2, Refusal::BadFormat),
        (0x00, 1, 4, 5, Refusal::BadFormat),
        (0x01, 0, 8, 8, Refusal::BadFormat),
        (0x01, 1, 4, 5, Refusal::BadFormat),
        (0x01, 1, 9, 10, Refusal::BadFormat),
        (0x0E, 1, 8, 10, Refusal::BadFormat),
        (0x04, 1, 0, 2, Refusal::BadFormat),
        (0x05, 1, 8, 9, Refusal::BadFormat),
        (0x05, 1, 20, 22, Refusal::BadFormat),
        (0x07, 1, 0, 1, Refusal::BadFormat),
        (0x08, 0, 3, 3, Refusal::BadFormat),
        (0x08, 0, 4, 5, Refusal::BadFormat),
        (0x0A, 0, 0, 1, Refusal::BadFormat),
        (0x0B, 0, 1, 1, Refusal::BadFormat),
        (0x10, 1, 1, 2, Refusal::BadFormat),
        (0x10, 1, 0, 2, Refusal::BadFormat),
        (0x1B, 0, 0, 0, Refusal::BadFormat),
        (0x1C, 1, 0, 1, Refusal::BadFormat),
        (0x1D, 1, 4, 6, Refusal::BadFormat),
        (0x20, 1, 0, 1, Refusal::BadFormat),
        (0x21, 0, 0, 1, Refusal::BadFormat),
    ] {
        let header = lengths(opcode, key, extras, body);
        let rejection = rejected(&header);
        assert_eq!((rejection.refusal, rejection.close), (refusal, true), "{opcode:#x} {key} {extras} {body}");
        // What does not lie within the body is an unknown command, whatever the opcode asks for.
        let status = if refusal == Refusal::UnknownCommand { 0x81 } else { 4 };
        let out = encoded(|out| rejection.reply.refused(out, rejection.refusal));
        assert_eq!((answer(&out).0, answer(&out).1), (opcode, status), "{opcode:#x} {key} {extras} {body}");
    }
}

#[test]
fn another_first_byte_ends_the_connection_without_a_word() {
    for first in (0..=0xFF).filter(|first| *first != MAGIC) {
        let input = [first];
        let rejection = rejected(&input);
        assert_eq!((rejection.reply, rejection.close), (Reply::Silent, true));
    }
}

#[test]
fn a_value_that_is_too_large_is_swallowed_and_a_set_takes_the_old_one_away() {
    let value = [b'v'; 1001];
    for (opcode, extras, unlink) in [
        (0x01, 8, Some(&b"key"[..])),
        (0x11, 8, Some(b"key")),
        (0x02, 8, None),
        (0x13, 8, None),
        (0x0E, 0, None),
        (0x1A, 0, None),
    ] {
        let long = packet(opcode, &vec![0; extras], b"key", &value, 0);
        let before_value = HEADER_BYTES + extras + 3;
        for bytes in HEADER_BYTES..before_value {
            let wanted = match parse(&long[..bytes], LIMITS) {
                Parsed::Incomplete { wanted_bytes } => wanted_bytes,
                other => panic!("{other:?}"),
            };
            assert_eq!(wanted, before_value, "the key is waited for, not the value");
        }
        let rejection = rejected(&long[..before_value]);
        assert_eq!((rejection.refusal, rejection.unlink, rejection.close), (Refusal::TooLarge, unlink, false));
        assert_eq!(rejection.skip_bytes, long.len() as u64);
        accepted(&packet(opcode, &vec![0; extras], b"key", &value[1..], 0), |_| {});
    }
}

#[test]
fn errors_are_told_though_the_request_is_quiet() {
    let (not_found, exists): (&[u8], &[u8]) = (b"Not found", b"Data exists for key.");
    for (opcode, stored, status, words) in [
        (0x01, Stored::Exists, 2, exists),
        (0x11, Stored::NotFound, 1, not_found),
        (0x02, Stored::NotStored, 2, exists),
        (0x12, Stored::NotStored, 2, exists),
        (0x03, Stored::NotStored, 1, not_found),
        (0x13, Stored::NotStored, 1, not_found),
        (0x0E, Stored::NotStored, 5, b"Not stored."),
        (0x1A, Stored::NotStored, 5, b"Not stored."),
        (0x19, Stored::Exists, 2, exists),
    ] {
        let out = encoded(|out| Reply::Binary(head(opcode)).stored(out, stored));
        assert_eq!(answer(&out), (opcode, status, &b""[..], &b""[..], words, 0), "{stored:?}");
    }
    for (counted, status, words) in [
        (Counted::NotFound, 1, not_found),
        (Counted::Exists, 2, exists),
        (Counted::NonNumeric, 6, b"Non-numeric server-side value for incr or decr"),
    ] {
        let out = encoded(|out| Reply::Binary(head(0x15)).counted(out, counted));
        assert_eq!(answer(&out), (0x15, status, &b""[..], &b""[..], words, 0));
    }
    for (removed, status, words) in [(Removed::NotFound, 1, not_found), (Removed::Exists, 2, exists)] {
        let out = encoded(|out| Reply::Binary(head(0x14)).removed(out, removed));
        assert_eq!(answer(&out), (0x14, status, &b""[..], &b""[..], words, 0));
    }
}

#[test]
fn success_is_told_unless_the_request_is_quiet() {
    let written = Stored::Written { cas: 77, value_bytes: 5 };
    let number = Counted::Number { number: 0x0102, cas: 78, created: false, expiry_before: Expiry::NEVER };
    let done = |out: &mut Vec<u8>, head| Reply::Binary(head).done(out, super::super::answer::Done::Ok);
    for (loud, quiet) in [(0x01, 0x11), (0x02, 0x12), (0x03, 0x13), (0x0E, 0x19), (0x0F, 0x1A)] {
        let out = encoded(|out| Reply::Binary(head(loud)).stored(out, written));
        assert_eq!(answer(&out), (loud, 0, &b""[..], &b""[..], &b""[..], 77));
        assert_eq!(encoded(|out| Reply::Binary(head(quiet)).stored(out, written)), b"");
    }
    for (loud, quiet) in [(0x05, 0x15), (0x06, 0x16)] {
        let out = encoded(|out| Reply::Binary(head(loud)).counted(out, number));
        assert_eq!(answer(&out), (loud, 0, &b""[..], &b""[..], &[0, 0, 0, 0, 0, 0, 1, 2][..], 78));
        assert_eq!(encoded(|out| Reply::Binary(head(quiet)).counted(out, number)), b"");
    }
    let out = encoded(|out| Reply::Binary(head(0x04)).removed(out, Removed::Done));
    assert_eq!(answer(&out), (0x04, 0, &b""[..], &b""[..], &b""[..], 0));
    assert_eq!(encoded(|out| Reply::Binary(head(0x14)).removed(out, Removed::Done)), b"");
    for opcode in [0x07, 0x08, 0x0A, 0x1B] {
        assert_eq!(answer(&encoded(|out| done(out, head(opcode)))), (opcode, 0, &b""[..], &b""[..], &b""[..], 0));
    }
    assert!([0x17, 0x18].iter().all(|opcode| encoded(|out| done(out, head(*opcode))).is_empty()));
    let out = encoded(|out| Reply::Binary(head(0x0B)).version(out));
    assert_eq!(answer(&out), (0x0B, 0, &b""[..], &b""[..], VERSION.as_bytes(), 0));
}

#[test]
fn what_is_found_brings_what_was_asked_for() {
    let flags: &[u8] = &[0, 0, 0, 9];
    for (opcode, key, value) in [
        (0x00, &b""[..], &b"value"[..]),
        (0x0D, b"k", b"value"),
        (0x1C, b"", b""),
        (0x1E, b"", b"value"),
        (0x23, b"k", b"value"),
    ] {
        let mut out = encoded(|out| encode::found(out, head(opcode), b"k", 9, 5, 77));
        out.extend_from_slice(value);
        assert_eq!(answer(&out), (opcode, 0, flags, key, value, 77));
    }
    for (opcode, key, words) in [
        (0x00, &b""[..], &b"Not found"[..]),
        (0x0C, b"k", b""),
        (0x1C, b"", b"Not found"),
        (0x1D, b"", b"Not found"),
        (0x23, b"k", b""),
    ] {
        let out = encoded(|out| encode::missed(out, head(opcode), b"k"));
        assert_eq!(answer(&out), (opcode, 1, &b""[..], key, words, 0));
    }
    assert!(
        [0x09, 0x0D, 0x1E, 0x24]
            .iter()
            .all(|opcode| encoded(|out| encode::missed(out, head(*opcode), b"k")).is_empty())
    );
}

#[test]
fn refusals_have_a_status_and_words() {
    for (opcode, refusal, status, words) in [
        (0x01, Refusal::TooLarge, 3, &b"Too large."[..]),
        (0x01, Refusal::BadFormat, 4, b"Invalid arguments"),
        (0x05, Refusal::NonNumeric, 6, b"Non-numeric server-side value for incr or decr"),
        (0x08, Refusal::FlushOff, 0x20, b"Auth failure."),
        (0x30, Refusal::UnknownCommand, 0x81, b"Unknown command"),
        (0x10, Refusal::UnknownCommand, 1, b"Not found"),
        (0x10, Refusal::DetailOff, 1, b"Not found"),
        (0x11, Refusal::OutOfMemory, 0x82, b"Out of memory"),
        (0x01, Refusal::CannotAdjustMemory, 4, b"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust"),
    ] {
        let out = encoded(|out| Reply::Binary(head(opcode)).refused(out, refusal));
        assert_eq!(answer(&out), (opcode, status, &b""[..], &b""[..], words, 0), "{refusal:?}");
    }
    let out = encoded(|out| Reply::Binary(head(0x11)).refused(out, Refusal::Demoted));
    let (_, status, _, _, words, _) = answer(&out);
    assert!(status == 0x86 && words.starts_with(b"not acknowledged: ") && !words.ends_with(b"\n"), "{words:?}");
    for (fault, status) in [(Fault::Client, 4), (Fault::Server, 0x86)] {
        let out =
            encoded(|out| Reply::Binary(head(0x01)).refused_because(out, fault, format_args!("for {} reasons", 2)));
        assert_eq!(answer(&out), (0x01, status, &b""[..], &b""[..], &b"for 2 reasons"[..], 0));
    }
}

#[test]
fn rows_of_stats_end_with_an_empty_one() {
    let reply = Reply::Binary(head(0x10));
    let out = encoded(|out| Rows::new(reply, out).row("curr_items", 12));
    assert_eq!(answer(&out), (0x10, 0, &b""[..], &b"curr_items"[..], &b"12"[..], 0));
    let counts = PrefixCounts { gets: 1, hits: 2, sets: 3, deletes: 4 };
    let out = encoded(|out| Rows::new(reply, out).prefix(b"a", &counts));
    let line = b"PREFIX a get 1 hit 2 set 3 del 4\r\n";
    assert_eq!(answer(&out), (0x10, 0, &b""[..], &b"detailed"[..], &line[..], 0));
    let out = encoded(|out| Rows::new(reply, out).end());
    assert_eq!(answer(&out), (0x10, 0, &b""[..], &b""[..], &b""[..], 0));
}

proptest! {
    /// Whatever arrives: what is wanted grows, what is taken is there, and how the bytes were cut
    /// makes no difference.
    #[test]
    fn no_bytes_confuse_it(
        mut input in prop::collection::vec(any::<u8>(), 0..600),
        opcode in 0u8..0x28, key in prop_oneof![0u16..9, any::<u16>()], extras in prop_oneof![0u8..21, any::<u8>()],
        body in prop_oneof![0u32..60, any::<u32>()], has_header: bool,
    ) {
        if has_header {
            input.splice(0..0, lengths(opcode, key, extras, body));
        }
        let mut last = 0;
        for bytes in 0..=input.len() {
            match parse(&input[..bytes], LIMITS) {
                Parsed::Incomplete { wanted_bytes } => {
                    prop_assert!(wanted_bytes > bytes && wanted_bytes >= last);
                    last = wanted_bytes;
                }
                Parsed::Request(_, taken) => {
                    prop_assert_eq!(taken, bytes, "as soon as it is whole");
                    break;
                }
                Parsed::Rejected(rejection) => {
                    prop_assert!(rejection.skip_bytes >= bytes as u64 && bytes <= HEADER_BYTES + 255 + KEY_BYTES_MAX);
                    break;
                }
            }
        }
    }
}
