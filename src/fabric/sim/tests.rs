//! The simulation does what it says: each fault happens, the same seed is the same run, and order
//! is kept under all of them.

use super::*;
use crate::fabric::{Completion, Grant, Read, Regions};
use crate::sys::memory::Memfd;
use std::sync::atomic::Ordering::Relaxed;

const WORDS: usize = 512;

struct Memory(Memfd, Memfd);

impl Regions for Memory {
    fn count(&self) -> usize {
        2
    }
    fn memory(&self, number: usize) -> &Memfd {
        [&self.0, &self.1][number]
    }
}

impl Memory {
    /// Every word, and behind it the number that says so.
    fn write(&self, number: u64) {
        self.0.words().iter().for_each(|word| word.store(number, Relaxed));
        self.1.words()[0].store(number, Relaxed);
    }
}

struct Run {
    memory: Arc<Memory>,
    grant: Box<dyn Grant>,
    channel: Box<dyn Channel>,
    writes: u64,
}

impl Run {
    fn new(seed: u64, faults: Faults) -> Run {
        let sim = Sim::new(seed, faults);
        let exporter = sim.exporter();
        let memory =
            Arc::new(Memory(Memfd::new("test", WORDS * 8, false).unwrap(), Memfd::new("test", 4096, false).unwrap()));
        let token = Token([1; 16]);
        let grant = exporter.grant(token, memory.clone()).unwrap();
        let channel = sim.connect(&Invitation::new(&*exporter, token, &*grant)).unwrap();
        Run { memory, grant, channel, writes: 0 }
    }

    fn submit(&mut self, wanted: &[(u32, usize)]) {
        let mut reads = Vec::new();
        for (tag, (region, bytes)) in wanted.iter().enumerate() {
            let landing = self.channel.landing(4096).unwrap();
            reads.push(Read { region: *region, offset: 0, bytes: *bytes, landing, tag: tag as u64 });
        }
        self.channel.submit(&mut reads).unwrap();
    }

    /// Poll, with the primary writing in between, until `count` are back or `polls` are over.
    fn poll(&mut self, count: usize, polls: usize) -> Vec<Completion> {
        let mut done = Vec::new();
        for _ in 0..polls {
            self.writes += 1;
            self.memory.write(self.writes);
            if self.channel.poll(&mut done, Duration::from_secs(1000)).is_err() || done.len() >= count {
                break;
            }
        }
        done
    }
}

fn words(completion: &Completion, bytes: usize) -> Vec<u64> {
    completion.landing.words(bytes).iter().map(|word| word.load(Relaxed)).collect()
}

/// What a whole run saw: tags in the order of their completion, and their words.
fn history(seed: u64, faults: Faults) -> Vec<(u64, Vec<u64>)> {
    let mut run = Run::new(seed, faults);
    let mut seen = Vec::new();
    for _ in 0..20 {
        run.submit(&[(0, 4096), (1, 8), (0, 64), (0, 4096)]);
        seen.extend(run.poll(4, 200).iter().map(|done| (done.tag, words(done, 8 * WORDS))));
    }
    seen
}

#[test]
fn one_seed_is_one_run() {
    assert_eq!(history(7, Faults::unkind()), history(7, Faults::unkind()));
    assert_ne!(history(7, Faults::unkind()), history(8, Faults::unkind()));
}

#[test]
fn order_is_kept_whatever_is_late() {
    for seed in 0..200 {
        let mut run = Run::new(seed, Faults::unkind());
        let mut seen = 0;
        for _ in 0..10 {
            run.submit(&[(1, 8), (0, 4096), (1, 8), (0, 4096)]);
            let mut done = run.poll(4, 500);
            assert_eq!(done.len(), 4, "seed {seed}: all come back");
            done.sort_by_key(|done| done.tag);
            for done in done {
                let bytes = if done.tag % 2 == 0 { 8 } else { 4096 };
                let words = words(&done, bytes);
                assert!(words.iter().all(|word| *word >= seen), "seed {seed}: older than what was seen before");
                seen = words.into_iter().max().unwrap();
            }
        }
    }
}

/// How many of many runs show `what`.
fn times(faults: &Faults, what: impl Fn(&mut Run) -> bool) -> usize {
    (0..100).filter(|seed| what(&mut Run::new(*seed, faults.clone()))).count()
}

#[test]
fn each_fault_happens() {
    let none = Faults::default();
    let torn = |run: &mut Run| {
        run.submit(&[(0, 4096)]);
        let words = words(&run.poll(1, 100)[0], 4096);
        words.iter().any(|word| *word != words[0])
    };
    assert!(times(&Faults { tear: 1.0, ..none.clone() }, torn) > 90);
    assert_eq!(times(&none, torn), 0);
    let stale = |run: &mut Run| {
        run.submit(&[(1, 8)]);
        words(&run.poll(1, 100)[0], 8)[0] + 5 < run.writes
    };
    assert!(times(&Faults { stale: 1.0, stale_polls_max: 20, ..none.clone() }, stale) > 50);
    assert_eq!(times(&none, stale), 0);
    let reordered = |run: &mut Run| {
        run.submit(&[(1, 8); 8]);
        !run.poll(8, 100).is_sorted_by_key(|done| done.tag)
    };
    assert!(times(&Faults { reorder: 0.5, ..none.clone() }, reordered) > 50);
    assert_eq!(times(&none, reordered), 0);
    let corrupt = |run: &mut Run| {
        run.submit(&[(0, 4096)]);
        let words = words(&run.poll(1, 100)[0], 4096);
        words.iter().map(|word| (word ^ run.writes).count_ones()).sum::<u32>() == 1
    };
    assert_eq!(times(&Faults { corrupt: 1.0, ..none.clone() }, corrupt), 100);
    assert_eq!(times(&none, corrupt), 0);
    // Of an ack, too: a later word is there before an earlier one.
    let torn_ack = |run: &mut Run| {
        run.channel.write_ack(0, &[7; 8]).unwrap();
        (0..100).any(|_| {
            run.poll(1, 1);
            let slot: Vec<u64> = run.grant.ack().words()[..8].iter().map(|word| word.load(Relaxed)).collect();
            !slot.is_sorted_by(|one, next| one >= next)
        })
    };
    assert!(times(&Faults { tear: 1.0, ..none.clone() }, torn_ack) > 30);
    assert_eq!(times(&none, torn_ack), 0);
    let late = |run: &mut Run| {
        run.submit(&[(1, 8)]);
        run.poll(1, 100).len() == 1 && run.writes > 1
    };
    assert!(times(&Faults { delay_polls_max: 5, ..none.clone() }, late) > 50);
    assert_eq!(times(&none, late), 0);
}

#[test]
fn a_lost_read_never_completes_and_others_do() {
    let mut run = Run::new(3, Faults { drop: 0.5, ..Faults::default() });
    run.submit(&[(1, 8); 16]);
    let back = run.poll(16, 1000).len();
    assert!((1..16).contains(&back), "{back}");
    assert!(run.grant.state().is_ok());
}

#[test]
fn what_is_lost_or_changed_can_be_named() {
    let mut run = Run::new(3, Faults { drop_at: Some(2), corrupt: 1.0, corrupt_from_region: 1, ..Faults::default() });
    run.submit(&[(0, 8), (0, 8), (1, 8)]);
    let mut done = run.poll(3, 100);
    done.sort_by_key(|done| done.tag);
    assert_eq!(done.iter().map(|done| done.tag).collect::<Vec<_>>(), [0, 2], "the second operation is lost");
    assert_eq!(
        [0, 1].map(|at| (words(&done[at], 8)[0] ^ 1).count_ones()),
        [0, 1],
        "region 1 is changed, region 0 is not"
    );
}

#[test]
fn a_cut_comes_where_it_is_wanted() {
    for after in 1..=5 {
        let mut run = Run::new(3, Faults { cut_after: Some(after), ..Faults::default() });
        run.channel.write_ack(0, &[7]).unwrap();
        run.submit(&[(1, 8); 4]);
        let done = run.poll(4, 100);
        assert_eq!(done.len(), 4, "all come back, one way or the other");
        // The WRITE was the first.
        assert_eq!(done.iter().filter(|done| done.outcome.is_ok()).count() as u64, after - 1);
        assert_eq!(run.grant.ack().words()[0].load(Relaxed), 7);
        assert_eq!(run.grant.state().unwrap_err().cause, Cause::Closed);
        assert_eq!(run.channel.poll(&mut Vec::new(), Duration::ZERO).unwrap_err().cause, Cause::Closed);
    }
    let mut run = Run::new(3, Faults { cut_after: Some(0), ..Faults::default() });
    assert!(run.channel.write_ack(0, &[7]).is_err());
}
