//! Records: each kind, each optional field.

use super::{assert_drawn, bytes_of, hex, used_words, words_of};
use remora::base::term::Term;
use remora::base::time::{Expiry, UnixSeconds};
use remora::store::line::POSITION_MAX;
use remora::store::record::{Draft, Kind, Meta, Record, Shape, Source};
use remora::store::seed::{Seed, stamp};
use remora::store::shape::SHORT_VALUE_BYTES_MAX;
use remora::store::{Store, StoreConfig};

const TERM: u64 = 0x00C0_FFEE_1200_0003;
const NOW: UnixSeconds = UnixSeconds(1_799_999_000);

/// The log that the records stand in.
const SHARD: u32 = 5;

fn seed(position: u64) -> Seed {
    Seed::of(SHARD, position, Term(TERM))
}

fn meta() -> Meta {
    Meta::new(Expiry::at(UnixSeconds(1_800_000_000)), NOW)
}

/// CRC-32C bit by bit: the polynomial reflected, begun and ended with ones.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

/// The checksum as it is drawn: over the shape, the meta word of all but sets, what follows the
/// header, and where the record lies.
fn checksum(bytes: &[u8], checked_bytes: usize, position: u64) -> u32 {
    let meta = if bytes[12] & 15 == 1 { &[] } else { &bytes[..8] };
    let place = [(position << 7 | u64::from(SHARD)).to_le_bytes(), TERM.to_le_bytes()].concat();
    crc32c(&[&bytes[12..16], meta, &bytes[16..checked_bytes], &place].concat())
}

/// The draft writes these bytes, and they are read as what it was: `fields` are key, flags,
/// explicit CAS and value.
fn is_drawn(
    draft: &Draft<'_>,
    position: u64,
    checked_bytes: usize,
    fields: (&[u8], u32, Option<u64>, &[u8]),
    drawing: &str,
) {
    let bytes = hex(drawing);
    let crc = checksum(&bytes, checked_bytes, position);
    assert_eq!(bytes[8..12], crc.to_le_bytes(), "the checksum of this drawing is {crc:#010x}, from the lowest byte up");
    let written = used_words(bytes.len() / 8);
    assert_eq!(draft.record_bytes(), bytes.len());
    draft.write(&written, seed(position));
    assert_drawn(&bytes_of(&written), &bytes, "what is written");

    let words = words_of(&bytes);
    let record = Record::read(&words).expect("a record");
    let (mut key, mut value) = (Vec::new(), Vec::new());
    record.key().copy_to(&mut key);
    record.value().copy_to(&mut value);
    assert_eq!(record.shape, draft.shape());
    assert_eq!((&key[..], record.client_flags(), record.explicit_cas(), &value[..]), fields);
    assert!(record.proves_itself(seed(position)) && record.is_padded_with_zeroes());
    let others = [(SHARD, position + 8, TERM), (SHARD, position, TERM + 1), (SHARD + 1, position, TERM)];
    assert!(others.iter().all(|(shard, at, term)| !record.proves_itself(Seed::of(*shard, *at, Term(*term)))));
}

#[test]
fn the_checksum_is_crc_32c() {
    assert_eq!(crc32c(b"123456789"), 0xE306_9283);
}

#[test]
fn a_meta_word() {
    let is = |meta: Meta, drawing: &str| assert_drawn(&meta.to_bits().to_le_bytes(), &hex(drawing), "the meta word");
    is(meta(), "00 d2 49 6b 18 ce 49 0b");
    is(Meta::new(Expiry::NEVER, UnixSeconds(0)), "00 00 00 00 00 00 00 00");
    is(Meta::default().with_fetched(), "00 00 00 00 00 00 00 10");
    is(Meta::default().with_stale(true), "00 00 00 00 00 00 00 20");
    is(Meta::default().with_token_sent(true), "00 00 00 00 00 00 00 40");
    assert!(Meta::from_bits(1 << 63).dead() && !Meta::from_bits(u64::MAX >> 1).dead());
}

#[test]
fn a_set() {
    let draft = Draft::new(Kind::Set, b"key", meta(), 0, None, Source::Bytes(b"value!"));
    is_drawn(
        &draft,
        64,
        25,
        (b"key", 0, None, b"value!"),
        "
        00 d2 49 6b  18 ce 49 0b  | expiry 1,800,000,000; accessed 1,799,999,000 modulo 2^28
        2b 6e 0e 6e               | checksum
        81 01 03 00               | set, no flags, no CAS, short; 3 bytes of key << 7, 6 of value << 15
        6b 65 79                  | key
        76 61 6c 75 65 21         | value
        00 00 00 00 00 00 00      | to a multiple of 8
    ",
    );
}

/// Fetched, stale, token sent; flags and a CAS of its own.
#[test]
fn a_set_with_all_that_there_is() {
    let meta = meta().with_fetched().with_stale(true).with_token_sent(true);
    let cas = Some(0x1122_3344_5566_7788);
    let draft = Draft::new(Kind::Set, b"a-key", meta, 0x0102_0304, cas, Source::Bytes(b"v"));
    is_drawn(
        &draft,
        0x0123_4567_89A8,
        34,
        (b"a-key", 0x0102_0304, cas, b"v"),
        "
        00 d2 49 6b  18 ce 49 7b  | as above, with bits 60, 61 and 62
        fb 80 c0 8f               | checksum
        b1 82 00 00               | set, flags 16, CAS 32, short; 5 << 7, 1 << 15
        61 2d 6b 65 79            | key
        04 03 02 01               | flags
        88 77 66 55 44 33 22 11   | CAS
        76                        | value
        00 00 00 00 00 00
    ",
    );
}

/// A value whose length does not fit into 17 bits.
#[test]
fn a_long_set() {
    let value = vec![b'x'; 1 << 17];
    let mut drawing = String::from(
        "
        00 d2 49 6b  18 ce 49 0b
        19 52 40 a7               | checksum
        41 04 00 00               | set, long 64; 8 bytes of key << 7, and no length here
        6c 6f 6e 67 20 6b 65 79   | key
        00 00 02 00               | 131,072 bytes of value
    ",
    );
    drawing.push_str(&"78 ".repeat(1 << 17));
    drawing.push_str("\n00 00 00 00");
    let draft = Draft::new(Kind::Set, b"long key", meta(), 0, None, Source::Bytes(&value));
    is_drawn(&draft, 64, 28 + (1 << 17), (b"long key", 0, None, &value), &drawing);
}

#[test]
fn a_delete() {
    is_drawn(
        &Draft::of_key(Kind::Delete, b"gone", Meta::default()),
        128,
        20,
        (b"gone", 0, None, b""),
        "
        00 00 00 00  00 00 00 00
        ae 2f 0e eb               | checksum, the meta word among what it covers
        02 02 00 00               | delete; 4 << 7
        67 6f 6e 65               | key
        00 00 00 00
    ",
    );
}

#[test]
fn a_touch() {
    let draft = Draft::of_key(Kind::Touch, b"touched key", meta().with_stale(true));
    is_drawn(
        &draft,
        256,
        27,
        (b"touched key", 0, None, b""),
        "
        00 d2 49 6b  18 ce 49 2b  | the expiry, and stale
        83 54 26 3e               | checksum
        83 05 00 00               | touch; 11 << 7
        74 6f 75 63 68 65 64 20   | key
        6b 65 79
        00 00 00 00 00
    ",
    );
}

#[test]
fn a_flush() {
    let draft = Draft::new(Kind::Flush, b"", Meta::default(), 0, None, Source::Bytes(b""));
    is_drawn(
        &draft,
        512,
        16,
        (b"", 0, None, b""),
        "
        00 00 00 00  00 00 00 00
        78 2f ff b9               | checksum
        04 00 00 00               | flush
    ",
    );
}

/// Of flush_all with a delay.
#[test]
fn a_flush_that_is_pending() {
    let due = UnixSeconds(1_800_000_000);
    let draft = Draft::of_key(Kind::Flush, b"", Meta::default().with_expiry(Expiry::at(due)));
    let drawing = "
        00 d2 49 6b  00 00 00 00  | due at 1,800,000,000
        c4 b6 f3 4d               | checksum
        04 00 00 00               | flush
    ";
    is_drawn(&draft, 512, 16, (b"", 0, None, b""), drawing);
    let flush_due = |drawing: &str| Record::read(&words_of(&hex(drawing))).expect("a record").flush_due();
    assert_eq!(flush_due(drawing), Some(due));
    assert_eq!(flush_due(&drawing.replace("d2 49 6b", "00 00 00")), None);
}

const TERM_AT_BIRTH: &str = "
        00 00 00 00  00 00 00 00
        cd fa bd a3               | checksum
        05 00 08 00               | term; 16 << 15
        03 00 00 12 ee ff c0 00   | generation 3 of lineage c0ffee12
        40 00 00 00  00 00 00 00  | begins at 64, where this lies
";

#[test]
fn a_term() {
    assert_eq!(Term(TERM), Term::of(0xC0FF, 0xEE_1200_0003));
    let value = [TERM.to_le_bytes(), 64u64.to_le_bytes()].concat();
    let draft = Draft::new(Kind::Term, b"", Meta::default(), 0, None, Source::Bytes(&value));
    is_drawn(&draft, 64, 32, (b"", 0, None, &value), TERM_AT_BIRTH);
    let words = words_of(&hex(TERM_AT_BIRTH));
    assert_eq!(Record::read(&words).expect("a record").term_value(), (TERM, 64));
}

/// The header alone is written, and the length says how much is skipped.
#[test]
fn a_pad() {
    let words = used_words(64 / 8);
    Draft::pad(64).write(&words, seed(1024));
    let drawing = hex("
        00 00 00 00  00 00 00 00
        b0 4b 99 bd               | checksum, of the header alone
        06 00 18 00               | pad; 48 << 15
    ");
    let crc = checksum(&drawing, 16, 1024);
    assert_eq!(crc.to_le_bytes(), drawing[8..12], "the checksum of this drawing is {crc:#010x}");
    assert_drawn(&bytes_of(&words)[..16], &drawing, "a pad");
    let record = Record::read(&words).expect("a record");
    assert_eq!((record.shape.kind(), record.shape.record_bytes()), (Kind::Pad, 64));
    assert!(record.proves_itself(seed(1024)));
}

/// Log 0, so the two highest bits are zeroes; the last shard; the first position and the last.
#[test]
fn a_stamp() {
    assert_eq!(stamp(0x3FF, 64), 0x23FF);
    assert_eq!(stamp(5, 0x0123_4567_89A8), 0x0123_4567_89A8 << 7 | 5);
    assert_eq!(stamp(0x3FF, POSITION_MAX - 8), 0x3FFF_FFFF_FFFF_FFFF);
}

/// The longest value whose length the shape holds: all of its bits are ones.
#[test]
fn a_shape_whose_every_bit_counts() {
    let shape = Shape::new(Kind::Set, 250, SHORT_VALUE_BYTES_MAX, true, true);
    assert_eq!((shape.to_bits(), SHORT_VALUE_BYTES_MAX), (0xFFFF_FD31, 131_071), "ones, 250 << 7, 1 << 5, 1 << 4, 1");
}

/// Six kinds are taken; whatever else stands in the four bits is no record.
#[test]
fn kinds_that_are_none() {
    let reads = |kind: u8| Record::read(&words_of(&[&[0; 12][..], &[kind, 0, 0, 0]].concat())).is_some();
    assert_eq!((0..16).filter(|kind| reads(*kind)).collect::<Vec<u8>>(), [1, 2, 3, 4, 5, 6]);
}

/// What each log begins with: nothing, in its term. Positions begin at 64.
#[test]
fn a_log_that_was_just_born() {
    let config = StoreConfig {
        memory_bytes: 128 << 10,
        item_bytes_max: 4 << 10,
        shards: Some(2),
        hash_seed: Some((1, 2)),
        term: Some(Term(TERM)),
        ..StoreConfig::default()
    };
    let store = Store::new(config).expect("a small store");
    assert_eq!(store.stats().owned_bytes, 0, "an empty log has no slab");
    let lines = bytes_of(&store.control_lines().words()[..16]);
    let line = hex("
        03 00 00 12 ee ff c0 00   | term
        40 00 00 00  00 00 00 00  | committed: nothing is
        40 00 00 00  00 00 00 00  | tail
        00 00 01 00  00 00 00 00  | 65,536 bytes of capacity
        40 00 00 00  00 00 00 00  | the term begins at 64
        00 00 00 00  00 00 00 00
        00 00 00 00  00 00 00 00
        00 00 00 00  00 00 00 00
    ");
    assert_drawn(&lines, &[&line[..], &line].concat(), "the lines");
}
