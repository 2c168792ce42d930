//! Writing a record whose value goes on in the following slabs. Rare where slabs are large and
//! records small; the common case is [`Draft::write`].

use super::log::Log;
use super::record::{Draft, Record};
use super::seed::Seed;
use crate::sys::sync::AtomicU64;
use crate::sys::words::{WordWriter, copy_words};

/// Bytes one after another, from a position on, slab after slab.
pub(super) struct Spread<'r> {
    log: &'r Log,
    writer: WordWriter<'r>,
    /// Bytes to the end of the slab that is being written.
    left_bytes: usize,
    /// The position at which the following slab begins.
    next: u64,
}

impl<'r> Spread<'r> {
    /// From `position` on, a multiple of 8, leaving out the first `skipped_words`.
    fn new(log: &'r Log, position: u64, skipped_words: usize) -> Self {
        let words = log.words_at(position);
        let writer = WordWriter::new(&words[skipped_words..]);
        let left_bytes = (words.len() - skipped_words) * 8;
        Spread { log, writer, left_bytes, next: position + words.len() as u64 * 8 }
    }

    /// Append `bytes`.
    pub(super) fn put(&mut self, mut bytes: &[u8]) {
        loop {
            let (here, behind) = bytes.split_at(bytes.len().min(self.left_bytes));
            self.writer.put(here);
            self.left_bytes -= here.len();
            bytes = behind;
            if bytes.is_empty() {
                return;
            }
            // A slab ends at a word's end, so nothing of a word is left over.
            let words = self.log.words_at(self.next);
            std::mem::replace(&mut self.writer, WordWriter::new(words)).finish();
            self.left_bytes = words.len() * 8;
            self.next += self.left_bytes as u64;
        }
    }

    fn finish(self) {
        self.writer.finish();
    }
}

impl Draft<'_> {
    /// Write it at `position`, in whose slab its head has room, and on into the following slabs.
    /// Nobody else reads or writes there yet.
    #[inline(never)]
    pub(super) fn write_spread<'r>(&self, log: &'r Log, position: u64, seed: Seed) -> Record<'r> {
        let words = log.words_at(position);
        let body_at = self.write_header(words, seed);
        let mut spread = Spread::new(log, position, body_at);
        self.for_each_part(|bytes| spread.put(bytes));
        spread.finish();
        Record::of(words, self.shape())
    }
}

/// Copy the words of a record to `position` and on, slab after slab.
pub(super) fn copy_spread(log: &Log, position: u64, mut words: &[AtomicU64]) {
    let mut at = position;
    while !words.is_empty() {
        let to = log.words_at(at);
        let (here, behind) = words.split_at(words.len().min(to.len()));
        copy_words(here, &to[..here.len()]);
        at += here.len() as u64 * 8;
        words = behind;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::term::Term;
    use crate::store::record::{Kind, Meta, Source};
    use crate::store::value::Value;

    const SLAB_BYTES: usize = 512;
    const TERM: Term = Term::of(1, 9);

    fn value(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at * 7 + at / 256) as u8).collect()
    }

    fn draft<'a>(value: Source<'a>, cas: Option<u64>) -> Draft<'a> {
        Draft::new(Kind::Set, b"a-key", Meta::default(), 7, cas, value)
    }

    /// The words of a record, one after another.
    fn copy(log: &Log, position: u64, record: &Record<'_>) -> Vec<AtomicU64> {
        let words: Vec<AtomicU64> = (0..record.shape.record_bytes() / 8).map(|_| AtomicU64::new(0)).collect();
        log.copy_to(position, &words);
        words
    }

    /// At every place where the head fits, of every length: it is what would have been written in
    /// one run, and its value comes back, whole and in parts.
    #[test]
    fn a_record_in_several_slabs_is_the_record() {
        let log = Log::alone(1, 4, SLAB_BYTES).unwrap();
        for begin in (0..SLAB_BYTES as u64).step_by(8) {
            let position = 64 * SLAB_BYTES as u64 + begin;
            for bytes in [1, 7, 8, 100, SLAB_BYTES - 41, SLAB_BYTES, SLAB_BYTES + 3, 3 * SLAB_BYTES - 64] {
                let (value, seed) = (value(bytes), Seed::of(1, position, TERM));
                let draft = draft(Source::Bytes(&value), Some(3));
                if log.bytes_to_slab_end(position) < draft.shape().head_bytes() {
                    continue;
                }
                let record = draft.write_spread(&log, position, seed);
                let words = copy(&log, position, &record);
                let alone = Record::read(&words).expect("a record");
                assert!(alone.proves_itself(seed) && alone.value().equals(&value), "{bytes} at {begin}");
                let found = Value::of(&log, position, &record);
                let mut copied = b"x".to_vec();
                found.copy_to(&mut copied);
                assert_eq!((found.len(), &copied[1..]), (bytes, &value[..]));
                assert!(found.equals(&value) && !found.equals(&value[1..]));
                for from in [0, 1, bytes / 2, SLAB_BYTES - 40, bytes, bytes + 9] {
                    let (mut part, most) = (Vec::new(), 300);
                    found.part(from, most).for_each(|run| run.copy_to(&mut part));
                    assert_eq!(part, value[from.min(bytes)..(from + most).min(bytes)], "{most} from {from}");
                }
                assert!(found.runs().all(|run| !run.is_empty()));
            }
        }
    }

    /// Appended again, by reclaim, or copied, by a follower: from slabs to slabs, whatever ends
    /// where.
    #[test]
    fn it_is_moved_and_copied_whole() {
        let log = Log::alone(2, 16, SLAB_BYTES).unwrap();
        let follower = Log::alone(2, 16, SLAB_BYTES).unwrap();
        let (value, from) = (value(3 * SLAB_BYTES + 5), 1024 + 400);
        let first = draft(Source::Bytes(&value), None).write_spread(&log, from, Seed::of(2, from, TERM));
        for begin in (0..SLAB_BYTES as u64 - 40).step_by(8) {
            let to = 4096 + begin;
            let again = draft(Source::Value(Value::of(&log, from, &first)), Some(5));
            let record = again.write_spread(&log, to, Seed::of(2, to, TERM));
            let words = copy(&log, to, &record);
            copy_spread(&follower, to, &words);
            let copied = Record::read(follower.words_at(to)).expect("a record");
            assert!(Value::of(&follower, to, &copied).equals(&value), "to {begin}");
            let same = copy(&follower, to, &copied);
            assert!(Record::read(&same).expect("a record").proves_itself(Seed::of(2, to, TERM)));
        }
    }
}
