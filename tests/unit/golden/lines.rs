//! What stands in memory that others read: control lines, ack slots, and the two sides of an inbox.

use super::{assert_drawn, bytes_of, hex, used_words, words_of};
use crate::support::wait::go_on_until;
use remora::fabric::sim::{Faults, Sim};
use remora::fabric::{ACK_BYTES, Invitation, Regions, Token};
use remora::replication::ack::{AckSlots, Acks, Summary, Tag};
use remora::replication::push::layout::Layout;
use remora::replication::push::notes::{PushedLine, Want};
use remora::replication::wire::Wanted;
use remora::store::line::ControlLine;
use remora::store::log::Cell;
use remora::store::{Geometry, Memory};
use remora::sys::memory::Memfd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const TERM: u64 = 0x00C0_FFEE_1200_0003;

const LINE: &str = "
    03 00 00 12 ee ff c0 00   | term
    00 30 00 00  00 00 00 00  | committed
    00 10 00 00  00 00 00 00  | tail
    00 00 10 00  00 00 00 00  | capacity
    00 20 00 00  00 00 00 00  | where the term begins
    00 28 00 00  00 00 00 00  | owes until
    05 00 00 00  00 00 00 00  | beat
    00 00 00 00  00 00 00 00
";

fn zeroes(words: usize) -> Vec<AtomicU64> {
    words_of(&vec![0; words * 8])
}

/// The second of three: at byte 64.
#[test]
fn a_control_line() {
    let lines = zeroes(3 * 8);
    let line = ControlLine::of(&lines, 1);
    line.begin(7, 1 << 20);
    assert_eq!((line.tail(), line.committed(), line.term_begin()), (64, 64, 64));
    line.commit(0x3000);
    line.advance_tail(0x1000);
    line.begin_term(TERM, 0x2000);
    line.set_owes_until(0x2800);
    line.set_beat(3);
    line.move_beat(|| true);
    let expected = [vec![0; 64], hex(LINE), vec![0; 64]].concat();
    assert_drawn(&bytes_of(&lines), &expected, "the lines");

    let words = words_of(&hex(LINE));
    let line = ControlLine::of(&words, 0);
    let read = (line.term(), line.committed(), line.tail(), line.capacity_bytes(), line.term_begin());
    assert_eq!(read, (TERM, 0x3000, 0x1000, 1 << 20, 0x2000));
    assert_eq!((line.owes_until(), line.beat()), (0x2800, 5));
    // A replica that begins: where it owes until is not known.
    line.restart(0x4000);
    assert_eq!((line.tail(), line.committed(), words[5].load(Relaxed)), (0x4000, 0x4000, u64::MAX));
}

const PUSHED: &str = "
    03 00 00 12 ee ff c0 00   | as a control line
    00 10 00 00  00 00 00 00
    40 00 00 00  00 00 00 00
    00 00 10 00  00 00 00 00
    00 08 00 00  00 00 00 00  | pushed
    00 0c 00 00  00 00 00 00  | owes until
    05 00 00 00  00 00 00 00  | beat
    ac 8f 55 b7               | seal
    07 00 00 00               | run
";

#[test]
fn a_pushed_line() {
    let control = zeroes(8);
    let line = ControlLine::of(&control, 0);
    line.begin(TERM, 1 << 20);
    line.commit(0x1000);
    line.set_owes_until(0xC00);
    line.set_beat(5);
    let words = used_words(8);
    PushedLine::of(&line, 0x800, 7).store(&words);
    assert_drawn(&bytes_of(&words), &hex(PUSHED), "a pushed line");

    let read = PushedLine::load(&words_of(&hex(PUSHED))).expect("whole");
    assert_eq!((read.term_and_committed(), read.pushed(), read.run()), ((TERM, 0x1000), 0x800, 7));
    for word in 0..8 {
        let words = words_of(&hex(PUSHED));
        words[word].fetch_add(1, Relaxed);
        assert_eq!(PushedLine::load(&words), None, "word {word} is of another line");
    }
}

#[test]
fn a_want() {
    let drawing = hex("
        00 10 00 00  00 00 00 00  | position
        b8 d1 ea 08               | seal
        07 00 00 00               | run
    ");
    let (words, want) = (used_words(2), Want { position: 0x1000, run: 7 });
    want.store(&words);
    assert_drawn(&bytes_of(&words), &drawing, "a want");
    assert_eq!(Want::load(&words_of(&drawing)), Some(want));
}

#[test]
fn a_cell_of_a_table() {
    // Physical slab, bits 0..25, and virtual slab, bits 26..63.
    let cell = Cell { virtual_slab: 0x12_3456_789A, physical: 0xAB_CDEF };
    let bits = u64::from_le_bytes(hex("ef cd ab 68 e2 59 d1 48").try_into().expect("a word"));
    assert_eq!((cell.to_bits(), Cell::from_bits(bits)), (bits, cell));
}

/// Where all of it lies, with 5 shards: 80 bytes of wants take 128, 320 of lines take a page.
#[test]
fn an_inbox() {
    let geometry = Geometry { shards: 5, slab_bytes: 1 << 18, record_bytes_max: 4 << 10, evict: true };
    let memory = Memory { slabs: 20, table_cells: 8 };
    let layout = Layout::told(&geometry, &memory, 1000).expect("it can be");
    assert_eq!((layout.wants_bytes(), layout.lines_bytes()), (128, 320));
    assert_eq!(layout.region_bytes(), [16384, 4096 + 5 * 1000], "128 and an ack slot of 12,288, to whole pages");
    assert_eq!(layout.place(0, 0), (4096, 1000));
    assert_eq!(layout.place(4, 3064), (4096 + 4 * 1000 + 64, 936));
}

struct Nothing(Memfd);

impl Regions for Nothing {
    fn count(&self) -> usize {
        1
    }
    fn memory(&self, _: usize) -> &Memfd {
        &self.0
    }
}

#[test]
fn an_ack_slot() {
    let sim = Sim::new(1, Faults::default());
    let exporter = sim.exporter();
    let regions = Arc::new(Nothing(Memfd::new("test", 4096, false).expect("a page")));
    let grant = exporter.grant(Token([1; 16]), regions).expect("a grant");
    let invitation = Invitation::new(&*exporter, Token([1; 16]), &*grant);
    let mut channel = sim.connect(&invitation).expect("a channel");
    let slots = AckSlots::new([grant.ack().clone()], 13);
    let tags = (4..13).map(|shard| slots.subscribe(Wanted::new(shard, 0)).expect("it is there"));
    assert!(tags.eq([Tag::FIRST; 9]));
    let tag = Tag::FIRST;
    let mut acks = Acks::new(4..13);
    let summary = Summary {
        lag_bytes: 0x0102,
        lag_microseconds: 0x0304,
        pulled_bytes: 0x0506,
        records: 0x0708,
        begun_anew: 0x090A,
        bad_records: 0x0B0C,
        ..Summary::default()
    };
    acks.write(channel.as_mut(), (1..=9).map(|number| tag.word(number * 0x100 + 8, number != 2))).expect("written");
    acks.summarize(channel.as_mut(), summary).expect("written");
    let mut done = Vec::new();
    go_on_until("what was written arrives", || {
        channel.poll(&mut done, Duration::ZERO).expect("a channel that stands");
        Summary::read(grant.ack().words()).beats == 1
    });
    let mut drawing = hex("
        00 00 00 00  00 00 00 00  | zero
        02 01 00 00  00 00 00 00  | lag in bytes
        04 03 00 00  00 00 00 00  | lag in microseconds
        06 05 00 00  00 00 00 00  | bytes pulled
        08 07 00 00  00 00 00 00  | records applied
        0a 09 00 00  00 00 00 00  | begun anew
        0c 0b 00 00  00 00 00 00  | bad records
        01 00 00 00  00 00 00 00  | beats
        00 00 00 00  00 00 00 00  | shard 0: nothing
        00 00 00 00  00 00 00 00
        00 00 00 00  00 00 00 00
        00 00 00 00  00 00 00 00
        01 10 02 00  00 00 00 00 | shard 4: position 0x108, tag 1
        01 18 04 00  00 00 00 00 | not whole
        01 10 06 00  00 00 00 00
        01 10 08 00  00 00 00 00
        01 10 0a 00  00 00 00 00
        01 10 0c 00  00 00 00 00
        01 10 0e 00  00 00 00 00
        01 10 10 00  00 00 00 00
        01 10 12 00  00 00 00 00 | shard 12, a line further
    ");
    drawing.resize(ACK_BYTES, 0);
    assert_eq!(ACK_BYTES, 12_288);
    assert_drawn(&bytes_of(grant.ack().words()), &drawing, "an ack slot");
    let slot = words_of(&drawing);
    assert_eq!(Summary::read(&slot), Summary { beats: 1, ..summary });
    assert_eq!([3, 4, 5, 12].map(|shard| slots.applied(shard)), [0, 0x108, 0x208, 0x908]);
    assert_eq!([3, 4, 5, 12].map(|shard| slots.acknowledged(shard)), [0, 0x108, 0, 0x908], "one is not whole");
}
