//! Every lock-free protocol of the store, model-checked:
//! `RUSTFLAGS="--cfg loom" cargo test --release --test loom`. loom runs each test under all
//! interleavings (and all stale reads that the orderings allow) up to the bound set here.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;
use remora::base::term::Term;
use remora::store::Allowed;
use remora::store::index::{Index, Look};
use remora::store::line::{BIRTH, ControlLine, SERVES};
use remora::store::log::Log;
use remora::store::publication::Ends;
use remora::store::record::{Draft, Kind, Meta, Record, Source};
use remora::store::reign::{Gate, Reign};
use remora::store::seed::Seed;
use remora::sys::memory::Memfd;
use remora::sys::quiescence::Domain;
use remora::sys::words::copy_words;

/// Check all executions with at most so many preemptions. There must be several: a model that loom
/// finds nothing to vary in proves nothing.
fn model(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let executions = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = executions.clone();
    let check = move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        check();
    };
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(check);
    let executions = executions.load(std::sync::atomic::Ordering::Relaxed);
    assert!(executions > 4, "only {executions} executions");
    println!("{executions} executions");
}

/// Whose history all logs here are.
const TERM: Term = Term(1);

fn seed(position: u64) -> Seed {
    Seed::of(0, position, TERM)
}

/// Whoever sees `committed` sees every byte below it.
#[test]
fn a_committed_record_is_complete() {
    model(3, || {
        let log = Arc::new(Log::alone(0, 1, 512).unwrap());
        let lines = Arc::new(Memfd::new("loom", 64, false).unwrap());
        ControlLine::of(lines.words(), 0).begin(1, 512);
        let writer = {
            let (log, lines) = (log.clone(), lines.clone());
            thread::spawn(move || {
                let draft = Draft::new(Kind::Set, b"key", Meta::default(), 0, None, Source::Bytes(b"value"));
                draft.write(log.words_at(BIRTH), seed(BIRTH));
                ControlLine::of(lines.words(), 0).commit(BIRTH + draft.record_bytes() as u64);
            })
        };
        if ControlLine::of(lines.words(), 0).committed() > BIRTH {
            let record = Record::read(log.words_at(BIRTH)).expect("a whole record");
            assert!(record.proves_itself(seed(BIRTH)));
        }
        writer.join().unwrap();
    });
}

/// Whoever has a position, from `committed` or from a slot, finds the cell that says where it is,
/// though that cell served another virtual slab before.
#[test]
fn a_position_that_is_published_finds_its_cell() {
    const BEGIN: u64 = 2 * 512;
    model(3, || {
        let log = Arc::new(Log::alone(0, 2, 512).unwrap());
        let lines = Arc::new(Memfd::new("loom", 64, false).unwrap());
        let index = Arc::new(Index::new(512).unwrap());
        ControlLine::of(lines.words(), 0).begin(1, 1024);
        let reader = {
            let (log, lines, index) = (log.clone(), lines.clone(), index.clone());
            thread::spawn(move || {
                let proves = |position| {
                    let record = Record::read(log.words_at(position)).expect("a whole record");
                    assert!(record.proves_itself(seed(position)), "the slab is another one");
                };
                if ControlLine::of(lines.words(), 0).committed() > BEGIN {
                    proves(BEGIN);
                }
                let found = index.find(hash_of(1), |entry| Some(entry.position(BEGIN)));
                if let Look::Found((_, position)) = found {
                    proves(position);
                }
            })
        };
        // The first cell of two said that virtual slab 0 is on the first slab.
        log.map(2, 1);
        let draft = small_set(7);
        draft.write(log.words_at(BEGIN), seed(BEGIN));
        ControlLine::of(lines.words(), 0).commit(BEGIN + draft.record_bytes() as u64);
        index.insert(hash_of(1), BEGIN).unwrap();
        reader.join().unwrap();
    });
}

/// A slab that has gone from one shard to another is written to only after every reader that found
/// a record of the first shard in it has left.
#[test]
fn a_slab_changes_hands_only_after_every_reader_has_left() {
    const BEGIN: u64 = 2 * 512;
    model(3, || {
        let log = Arc::new(Log::alone(0, 2, 512).unwrap());
        let domain = Arc::new(Domain::new(1));
        let slot = Arc::new(AtomicU64::new(BIRTH));
        small_set(7).write(log.words_at(BIRTH), seed(BIRTH));
        let reader = {
            let (log, domain, slot) = (log.clone(), domain.clone(), slot.clone());
            thread::spawn(move || {
                let mut seat = domain.sit().unwrap();
                let _inside = seat.enter();
                if slot.load(Ordering::Acquire) == BIRTH {
                    let record = Record::read(log.words_at(BIRTH)).expect("a whole record");
                    assert!(record.proves_itself(seed(BIRTH)));
                    assert_eq!(record.meta().to_bits(), 7, "the other one's metadata");
                }
            })
        };
        slot.store(0, Ordering::Release);
        let era = domain.advance();
        for _ in 0..2 {
            if domain.all_passed(era) {
                log.map(2, 0);
                small_set(8).write(log.words_at(BEGIN + BIRTH), seed(BEGIN + BIRTH));
            }
        }
        reader.join().unwrap();
    });
}

/// A set record of three words, told apart by its metadata, which its checksum does not cover.
fn small_set(expiry: u64) -> Draft<'static> {
    Draft::new(Kind::Set, b"key", Meta::from_bits(expiry), 0, None, Source::Bytes(b""))
}

/// A remote reader copies the control line, then bytes below `committed`, then looks at the tail
/// again, as READs of one channel do: each in its turn, each word by itself. If the tail has not
/// come by, the record is whole, and so is its metadata, of which no checksum would tell.
#[test]
fn bytes_that_the_tail_has_not_passed_are_the_records() {
    const LAP_BYTES: u64 = 512;
    model(3, || {
        let log = Arc::new(Log::alone(0, 1, LAP_BYTES as usize).unwrap());
        let lines = Arc::new(Memfd::new("loom", 64, false).unwrap());
        let control = ControlLine::of(lines.words(), 0);
        control.begin(TERM.0, LAP_BYTES);
        let follower = {
            let (log, lines) = (log.clone(), lines.clone());
            thread::spawn(move || {
                let control = ControlLine::of(lines.words(), 0);
                let committed = lines.words()[1].load(Ordering::Relaxed);
                fence(Ordering::Acquire);
                let landed: Vec<AtomicU64> = (0..3).map(|_| AtomicU64::new(0)).collect();
                copy_words(&log.words_at(BIRTH)[..3], &landed);
                fence(Ordering::Acquire);
                if committed > BIRTH && control.tail() <= BIRTH {
                    let record = Record::read(&landed).expect("a whole record");
                    assert!(record.proves_itself(seed(BIRTH)));
                    assert_eq!(record.meta().to_bits(), 7, "another lap's metadata");
                }
            })
        };
        let (first, next_lap) = (small_set(7), small_set(8));
        let ends = Ends::new(BIRTH);
        first.write(log.words_at(BIRTH), seed(BIRTH));
        ends.advance_head(BIRTH + 24);
        ends.publish(control);
        ends.advance_tail(BIRTH + 24);
        ends.publish(control);
        let domain = Domain::new(1);
        if domain.all_passed(domain.advance()) {
            next_lap.write(log.words_at(BIRTH + LAP_BYTES), seed(BIRTH + LAP_BYTES));
            ends.advance_head(BIRTH + LAP_BYTES + 24);
            ends.publish(control);
        }
        follower.join().unwrap();
    });
}

/// Two workers append to one shard in overlapping turns, and publish without the lock, in any
/// order: what is published never goes back, everything below it is whole, and when both have ended
/// their turns, all is published.
#[test]
fn two_workers_publish_in_overlapping_turns() {
    const SECOND: u64 = BIRTH + 24;
    model(3, || {
        let log = Arc::new(Log::alone(0, 1, 512).unwrap());
        let lines = Arc::new(Memfd::new("loom", 64, false).unwrap());
        let shard = Arc::new((Ends::new(BIRTH), loom::sync::Mutex::new(())));
        ControlLine::of(lines.words(), 0).begin(TERM.0, 512);
        let work = {
            let (log, lines, shard) = (log.clone(), lines.clone(), shard.clone());
            move || {
                let (ends, lock) = &*shard;
                let held = lock.lock().unwrap();
                let begin = ends.head();
                small_set(7).write(log.words_at(begin), seed(begin));
                ends.advance_head(begin + 24);
                drop(held);
                ends.publish(ControlLine::of(lines.words(), 0));
            }
        };
        let other = thread::spawn(work.clone());
        let reader = {
            let (log, lines) = (log.clone(), lines.clone());
            thread::spawn(move || {
                let line = ControlLine::of(lines.words(), 0);
                let first = line.committed();
                for position in [BIRTH, SECOND].into_iter().filter(|position| *position < first) {
                    let record = Record::read(log.words_at(position)).expect("a whole record");
                    assert!(record.proves_itself(seed(position)));
                }
                assert!(line.committed() >= first, "it went back");
            })
        };
        work();
        other.join().unwrap();
        reader.join().unwrap();
        assert_eq!(ControlLine::of(lines.words(), 0).committed(), SECOND + 24);
    });
}

/// A shard is closed and followed while a worker is in a turn in which it writes, or tries to, and
/// publishes late. Where the head was when the gate was closed, and published, the follower's
/// record stands afterwards, and nothing else was written.
#[test]
fn nobody_writes_behind_a_gate_that_is_closed() {
    model(3, || {
        let log = Arc::new(Log::alone(0, 1, 512).unwrap());
        let lines = Arc::new(Memfd::new("loom", 64, false).unwrap());
        let shard = Arc::new((Ends::new(BIRTH), Gate::new(true), loom::sync::Mutex::new(())));
        ControlLine::of(lines.words(), 0).begin(TERM.0, 512);
        let worker = {
            let (log, lines, shard) = (log.clone(), lines.clone(), shard.clone());
            thread::spawn(move || {
                let (ends, gate, lock) = &*shard;
                if gate.is_open() {
                    let held = lock.lock().unwrap();
                    if gate.is_open() {
                        let begin = ends.head();
                        small_set(7).write(log.words_at(begin), seed(begin));
                        ends.advance_head(begin + 24);
                    }
                    drop(held);
                }
                ends.publish(ControlLine::of(lines.words(), 0));
            })
        };
        let (ends, gate, lock) = &*shard;
        let line = ControlLine::of(lines.words(), 0);
        let held = lock.lock().unwrap();
        gate.close(Reign::BIRTH.next(), 0);
        ends.publish(line);
        drop(held);
        let last = ends.head();
        assert_eq!(line.committed(), last, "it is final, and published");
        let held = lock.lock().unwrap();
        assert_eq!(ends.head(), last, "written behind the gate");
        small_set(8).write(log.words_at(last), seed(last));
        ends.advance_head(last + 24);
        ends.publish(line);
        drop(held);
        worker.join().unwrap();
        assert_eq!((ends.head(), line.committed(), gate.reign()), (last + 24, last + 24, Reign::BIRTH.next()));
        for (position, meta) in [(BIRTH, 7), (last, 8)].into_iter().skip(usize::from(last == BIRTH)) {
            let record = Record::read(log.words_at(position)).expect("a whole record");
            assert!(record.proves_itself(seed(position)));
            assert_eq!(record.meta().to_bits(), meta);
        }
    });
}

/// Reclaim moves a record to the head, then the tail behind it, while another worker publishes
/// without the lock: whoever sees the tail sees the copy.
#[test]
fn a_tail_is_seen_with_what_was_moved_from_below_it() {
    const END: u64 = BIRTH + 48;
    model(3, || {
        let log = Arc::new(Log::alone(0, 1, 512).unwrap());
        let lines = Arc::new(Memfd::new("loom", 64, false).unwrap());
        let ends = Arc::new(Ends::new(BIRTH));
        ControlLine::of(lines.words(), 0).begin(TERM.0, 512);
        small_set(7).write(log.words_at(BIRTH), seed(BIRTH));
        ends.advance_head(BIRTH + 24);
        let publisher = {
            let (lines, ends) = (lines.clone(), ends.clone());
            thread::spawn(move || ends.publish(ControlLine::of(lines.words(), 0)))
        };
        let reader = {
            let (log, lines) = (log.clone(), lines.clone());
            thread::spawn(move || {
                let line = ControlLine::of(lines.words(), 0);
                if line.tail() > BIRTH {
                    assert_eq!(line.committed(), END, "the copy is not there yet");
                    let record = Record::read(log.words_at(BIRTH + 24)).expect("a whole record");
                    assert!(record.proves_itself(seed(BIRTH + 24)));
                }
            })
        };
        small_set(7).write(log.words_at(BIRTH + 24), seed(BIRTH + 24));
        ends.advance_head(END);
        ends.advance_tail(BIRTH + 24);
        ends.publish(ControlLine::of(lines.words(), 0));
        publisher.join().unwrap();
        reader.join().unwrap();
    });
}

/// Words, then slots, for two records at once, as a replica applies them: whoever finds the
/// second's slot completes it to the right position and finds the record whole, though nothing was
/// published.
#[test]
fn a_slot_leads_to_a_whole_record() {
    const SECOND: u64 = BIRTH + 24;
    model(3, || {
        let log = Arc::new(Log::alone(0, 1, 512).unwrap());
        let index = Arc::new(Index::new(512).unwrap());
        let reader = {
            let (log, index) = (log.clone(), index.clone());
            thread::spawn(move || {
                let found = index.find(hash_of(1), |entry| {
                    let position = entry.position(BIRTH);
                    assert_eq!(position, SECOND);
                    Record::read(log.words_at(position)).filter(|record| record.key().equals(b"key"))
                });
                match found {
                    Look::Found((_, record)) => assert!(record.proves_itself(seed(SECOND))),
                    Look::Absent => {}
                    Look::Unsettled => panic!("nothing moves"),
                }
            })
        };
        let landed: Vec<AtomicU64> = (0..6).map(|_| AtomicU64::new(0)).collect();
        small_set(7).write(&landed[..3], seed(BIRTH));
        small_set(7).write(&landed[3..], seed(SECOND));
        copy_words(&landed, &log.words_at(BIRTH)[..6]);
        index.insert(hash_of(0), BIRTH).unwrap();
        index.insert(hash_of(1), SECOND).unwrap();
        reader.join().unwrap();
    });
}

/// A replica forgets its items and begins at a lower position, while a reader looks: a slot of the
/// old log is never completed by the new reference, which would name a place that nothing was ever
/// at.
#[test]
fn an_old_slot_is_never_completed_by_a_new_log() {
    const OLD: u64 = 1 << 20;
    const NEW: u64 = 1 << 10;
    model(3, || {
        let reference = Arc::new(AtomicU64::new(OLD));
        let (index, domain) = (Arc::new(Index::new(512).unwrap()), Arc::new(Domain::new(1)));
        index.insert(hash_of(1), OLD).unwrap();
        let reader = {
            let (reference, index, domain) = (reference.clone(), index.clone(), domain.clone());
            thread::spawn(move || {
                let mut seat = domain.sit().unwrap();
                let _inside = seat.enter();
                let looked = index.find(hash_of(1), |entry| {
                    let position = entry.position(reference.load(Ordering::Relaxed));
                    assert!(position == OLD || position == NEW, "{position}");
                    Some(())
                });
                assert!(!matches!(looked, Look::Unsettled));
            })
        };
        index.clear();
        if domain.all_passed(domain.advance()) {
            reference.store(NEW, Ordering::Relaxed);
            index.insert(hash_of(1), NEW).unwrap();
        }
        reader.join().unwrap();
    });
}

/// What a reader found within its turn is not overwritten before the turn ends.
#[test]
fn bytes_are_reused_only_after_every_reader_has_left() {
    const OLD: u64 = 7;
    const NEW: u64 = 8;
    model(4, || {
        let domain = Arc::new(Domain::new(1));
        let (slot, bytes) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(OLD)));
        let reader = {
            let (domain, slot, bytes) = (domain.clone(), slot.clone(), bytes.clone());
            thread::spawn(move || {
                let mut seat = domain.sit().unwrap();
                for _ in 0..2 {
                    let _inside = seat.enter();
                    if slot.load(Ordering::Acquire) == 1 {
                        assert_eq!(bytes.load(Ordering::Relaxed), OLD);
                        assert_eq!(bytes.load(Ordering::Relaxed), OLD);
                    }
                }
            })
        };
        slot.store(0, Ordering::Release);
        let era = domain.advance();
        for _ in 0..2 {
            if domain.all_passed(era) {
                bytes.store(NEW, Ordering::Relaxed);
            }
        }
        reader.join().unwrap();
    });
}

/// Keys of the growth test: the hash's low bit chooses the bucket after the split, bits 8 and up
/// are the tag.
fn hash_of(number: u64) -> u64 {
    number << 8 | number & 1
}

fn position_of(number: u64) -> u64 {
    (number + 8) * 8
}

const COMMITTED: u64 = 1 << 20;

fn find(index: &Index, number: u64) -> Look<()> {
    match index.find(hash_of(number), |entry| (entry.position(COMMITTED) == position_of(number)).then_some(())) {
        Look::Found(_) => Look::Found(()),
        Look::Absent => Look::Absent,
        Look::Unsettled => Look::Unsettled,
    }
}

/// A bucket, an overflow bucket, and one key in a second overflow bucket.
const KEYS: u64 = 11;

fn grow_while_looking_for(number: u64) {
    model(2, move || {
        let index = Arc::new(Index::new(512).unwrap());
        for number in 0..KEYS {
            index.insert(hash_of(number), position_of(number)).unwrap();
        }
        // The reader is the spawned thread, and so runs second in loom's first execution. The other
        // way round loom (0.7) explores next to nothing: it keeps only the last access to each
        // atomic, so a writer that looks before it stores hides from loom that its store depends on
        // what a reader had read before.
        let reader = {
            let index = index.clone();
            thread::spawn(move || {
                assert!(!matches!(find(&index, number), Look::Absent), "a key that is there is never missed");
            })
        };
        index.grow(|entry| hash_of(entry.position(COMMITTED) / 8 - 8));
        reader.join().unwrap();
        assert!((0..KEYS).all(|number| matches!(find(&index, number), Look::Found(()))));
        assert!(matches!(find(&index, KEYS), Look::Absent));
        assert_eq!(index.overflow_count(), 0, "the emptied overflow buckets were given back");
    });
}

/// An entry that a split moves to the new bucket.
#[test]
fn a_key_that_moves_is_never_missed() {
    grow_while_looking_for(3);
}

/// An entry that stays in its bucket, but moves from the overflow bucket into a slot that the split
/// emptied.
#[test]
fn a_key_that_is_pulled_forward_is_never_missed() {
    grow_while_looking_for(8);
}

/// The same, from the second overflow bucket.
#[test]
fn a_key_that_is_pulled_forward_over_a_bucket_is_never_missed() {
    grow_while_looking_for(10);
}

/// Counting a use never brings back an entry that was replaced meanwhile.
#[test]
fn a_use_noted_late_does_not_undo_a_replacement() {
    model(4, || {
        let index = Arc::new(Index::new(512).unwrap());
        index.insert(hash_of(1), position_of(1)).unwrap();
        let reader = {
            let index = index.clone();
            thread::spawn(move || {
                if let Look::Found((slot, ())) = index.find(hash_of(1), |_| Some(())) {
                    slot.note_use();
                }
            })
        };
        let (slot, ()) = index.find_locked(hash_of(1), |_| Some(())).unwrap();
        index.replace(&slot, hash_of(1), position_of(2), 0);
        reader.join().unwrap();
        let (after, ()) = index.find_locked(hash_of(1), |_| Some(())).unwrap();
        assert_eq!(after.seen.position(COMMITTED), position_of(2));
        assert!(after.seen.uses() <= 1);
    });
}

/// However far a thread has come with moving the beat on: once the serving has ended, the line does
/// not say that clients are served.
#[test]
fn no_beat_comes_after_the_end_of_serving() {
    model(4, || {
        let lines = Arc::new(Memfd::new("loom", 64, false).unwrap());
        let serves = Arc::new(AtomicU64::new(1));
        let beats = {
            let (lines, serves) = (lines.clone(), serves.clone());
            thread::spawn(move || {
                let line = ControlLine::of(lines.words(), 0);
                (0..2).for_each(|_| line.move_beat(|| serves.load(Ordering::Relaxed) == 1));
            })
        };
        serves.store(0, Ordering::Release);
        ControlLine::of(lines.words(), 0).end_serving();
        beats.join().unwrap();
        assert_eq!(ControlLine::of(lines.words(), 0).beat() & SERVES, 0);
    });
}

/// One thread has something to tell (`tell`), another counts, while reclaim is allowed to go up to
/// 16. How far the one that may be counted is, is told by `found`; what lies below 16 is not passed
/// if it was counted.
fn counted_and_passed(tell: impl Fn(&Told) + Send + Sync + Copy + 'static, begin: fn() -> Told) {
    model(3, move || {
        let (told, allowed) = (Arc::new(begin()), Arc::new(Allowed::nothing()));
        let telling = {
            let told = told.clone();
            thread::spawn(move || tell(&told))
        };
        let counting = {
            let (told, allowed) = (told.clone(), allowed.clone());
            thread::spawn(move || {
                let found = told.found();
                Allowed::order_loads();
                found.is_some_and(|position| position >= allowed.position())
            })
        };
        let floor = allowed.raise(16, |added| told.found().filter(|position| added.contains(position)));
        let is_counted = counting.join().unwrap();
        telling.join().unwrap();
        assert!(!is_counted || floor <= 8, "it was counted, and is passed without a word");
    });
}

/// How far a replica is, and whether it is let go.
struct Told {
    position: AtomicU64,
    is_let_go: AtomicU64,
}

impl Told {
    fn new(position: u64, is_let_go: u64) -> Told {
        Told { position: AtomicU64::new(position), is_let_go: AtomicU64::new(is_let_go) }
    }

    fn found(&self) -> Option<u64> {
        let position = self.position.load(Ordering::Acquire);
        (position > 0 && self.is_let_go.load(Ordering::Acquire) == 0).then_some(position)
    }
}

/// A replica that reclaim has not seen comes to be counted while the tail is allowed past it.
#[test]
fn who_is_counted_while_reclaim_goes_on_is_not_passed() {
    counted_and_passed(|told| told.position.store(8, Ordering::Release), || Told::new(0, 0));
}

/// The same of one that was let go, and is taken back.
#[test]
fn who_is_taken_back_while_reclaim_goes_on_is_not_passed() {
    counted_and_passed(|told| told.is_let_go.store(0, Ordering::Release), || Told::new(8, 1));
}
