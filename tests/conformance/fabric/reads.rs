//! READs: the right bytes, once each, in order.

use super::world::{Memory, Pair, World, completions, read, read_now, until, until_over, word, works};
use remora::fabric::{Channel, READ_BYTES_MAX, Read, Regions};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::{Duration, Instant};

const LENGTHS: [usize; 3] = [1 << 16, 4096, 1 << 20];

pub fn bytes_at_random_places_are_what_the_primary_wrote(world: &dyn World) {
    let exporter = world.exporter();
    let mut pair = Pair::new(world, exporter.as_ref(), Memory::new(&LENGTHS));
    let mut random = fastrand::Rng::with_seed(1);
    for round in 0..200 {
        let region = random.usize(..LENGTHS.len());
        let first = random.usize(..LENGTHS[region] / 8);
        // The last word of each region is among what is read.
        let count =
            if round % 5 == 0 { LENGTHS[region] / 8 - first } else { random.usize(1..=LENGTHS[region] / 8 - first) };
        let words = read_now(pair.channel.as_mut(), region as u32, first as u64 * 8, count * 8);
        assert!(
            words.iter().enumerate().all(|(at, seen)| *seen == word(region, first + at)),
            "region {region} at {first}"
        );
    }
}

pub fn every_read_at_full_depth_comes_back_once(world: &dyn World) {
    let exporter = world.exporter();
    let mut pair = Pair::new(world, exporter.as_ref(), Memory::new(&LENGTHS));
    let channel = pair.channel.as_mut();
    let depth = channel.depth_max();
    assert!((1..=remora::fabric::DEPTH_MAX).contains(&depth));
    let mut free: Vec<_> = (0..depth).map(|_| channel.landing(4096).unwrap()).collect();
    let mut random = fastrand::Rng::with_seed(2);
    let (mut next, mut back) = (0u64, vec![0u32; 2000]);
    let mut done = Vec::new();
    until("all are back", || {
        let count = (back.len() - next as usize).min(free.len());
        let mut batch: Vec<Read> = free
            .drain(..count)
            .map(|landing| {
                next += 1;
                Read { region: 2, offset: (next - 1) * 8, bytes: 8 * random.usize(1..=64), landing, tag: next - 1 }
            })
            .collect();
        if !batch.is_empty() {
            channel.submit(&mut batch).unwrap();
            assert!(batch.is_empty(), "all of a batch is taken");
        }
        channel.poll(&mut done, Duration::from_millis(20)).unwrap();
        for completion in done.drain(..) {
            assert_eq!(completion.outcome, Ok(()));
            assert_eq!(completion.landing.words(8)[0].load(Relaxed), word(2, completion.tag as usize));
            back[completion.tag as usize] += 1;
            free.push(completion.landing);
        }
        free.len() == depth && next as usize == back.len()
    });
    assert!(back.iter().all(|times| *times == 1));
}

/// The primary writes data, then a number that says how far; whoever reads the number first and the
/// data behind it, in one batch or in two, sees data that is no older than the number.
pub fn what_is_read_later_is_no_older(world: &dyn World) {
    const DATA_BYTES: usize = 4096;
    let exporter = world.exporter();
    let memory = Memory::new(&[DATA_BYTES, 4096]);
    memory.fill(0, |_| 0);
    memory.fill(1, |_| 0);
    let (stop, until_at) = (AtomicBool::new(false), Instant::now() + super::world::WAIT_MAX);
    std::thread::scope(|scope| {
        let mut pair = Pair::new(world, exporter.as_ref(), memory.clone());
        scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Relaxed) && Instant::now() < until_at {
                number += 1;
                memory.memory(0).words().iter().for_each(|word| word.store(number, Relaxed));
                memory.memory(1).words()[0].store(number, Release);
            }
        });
        let mut seen = 0;
        // Long enough, and until the writer has been seen to move.
        let (mut round, mut moves) = (0, 0);
        while round < 300 || moves == 0 {
            assert!(Instant::now() < until_at, "the writer was never seen to move");
            let flags = read(pair.channel.as_mut(), 1, 0, 8, 0);
            let data = read(pair.channel.as_mut(), 0, 0, DATA_BYTES, 1);
            let done = flag_then_data(pair.channel.as_mut(), flags, data, round % 2 == 0);
            let flag = done[0].landing.words(8)[0].load(Relaxed);
            let oldest = done[1].landing.words(DATA_BYTES).iter().map(|word| word.load(Relaxed)).min().unwrap();
            assert!(flag >= seen && oldest >= flag, "data of {oldest} behind a flag of {flag}, before it {seen}");
            moves += usize::from(flag > seen);
            seen = flag;
            round += 1;
        }
        stop.store(true, Relaxed);
    });
}

fn flag_then_data(
    channel: &mut dyn Channel,
    flag: Read,
    data: Read,
    in_one_batch: bool,
) -> Vec<remora::fabric::Completion> {
    if in_one_batch && channel.depth_max() > 1 {
        channel.submit(&mut vec![flag, data]).unwrap();
    } else {
        channel.submit(&mut vec![flag]).unwrap();
        channel.submit(&mut vec![data]).unwrap();
    }
    let mut done = completions(channel, 2);
    done.sort_by_key(|completion| completion.tag);
    done
}

pub fn the_longest_read_is_whole(world: &dyn World) {
    let exporter = world.exporter();
    let mut pair = Pair::new(world, exporter.as_ref(), Memory::new(&[READ_BYTES_MAX + 4096]));
    let words = read_now(pair.channel.as_mut(), 0, 24, READ_BYTES_MAX);
    assert!(words.iter().enumerate().all(|(at, seen)| *seen == word(0, 3 + at)));
}

pub fn a_landing_is_filled_again_and_no_further_than_asked(world: &dyn World) {
    let exporter = world.exporter();
    let mut pair = Pair::new(world, exporter.as_ref(), Memory::new(&LENGTHS));
    let mut landing = pair.channel.landing(8192).unwrap();
    for (bytes, region) in [(8192, 0), (64, 1), (4096, 2), (8, 0)] {
        let words = landing.words(8192);
        words.iter().for_each(|word| word.store(0xAAAA, Relaxed));
        pair.channel.submit(&mut vec![Read { region, offset: 0, bytes, landing, tag: 5 }]).unwrap();
        let done = completions(pair.channel.as_mut(), 1).remove(0);
        assert_eq!((done.tag, done.outcome), (5, Ok(())));
        landing = done.landing;
        for (at, seen) in landing.words(8192).iter().map(|word| word.load(Relaxed)).enumerate() {
            let expected = if at < bytes / 8 { word(region as usize, at) } else { 0xAAAA };
            assert_eq!(seen, expected, "word {at} of a READ of {bytes} bytes");
        }
    }
}

pub fn three_channels_of_one_exporter_do_not_mix(world: &dyn World) {
    let exporter = world.exporter();
    let memory = Memory::new(&LENGTHS);
    let mut pairs: Vec<Pair> = (0..3).map(|_| Pair::new(world, exporter.as_ref(), memory.clone())).collect();
    for round in 0..50u64 {
        for (number, pair) in pairs.iter_mut().enumerate() {
            let read = read(pair.channel.as_mut(), number as u32, round * 8, 64, round);
            pair.channel.submit(&mut vec![read]).unwrap();
            assert!(pair.channel.write_ack(0, &[round + number as u64]).unwrap(), "there is room for one ack");
        }
        for (number, pair) in pairs.iter_mut().enumerate() {
            let done = completions(pair.channel.as_mut(), 1).remove(0);
            assert_eq!((done.tag, done.outcome), (round, Ok(())));
            assert_eq!(done.landing.words(8)[0].load(Relaxed), word(number, round as usize));
        }
    }
    for (number, pair) in pairs.iter_mut().enumerate() {
        let mut done = Vec::new();
        until("its own ack is there", || {
            pair.channel.poll(&mut done, Duration::ZERO).unwrap();
            pair.grant.ack().words()[0].load(Relaxed) == 49 + number as u64
        });
    }
    // One channel ends, the others go on.
    let Pair { grant, mut channel } = pairs.remove(1);
    drop(grant);
    until_over(channel.as_mut());
    pairs.iter_mut().for_each(works);
}

pub fn a_poll_of_nothing_ends_when_it_was_told(world: &dyn World) {
    let exporter = world.exporter();
    let mut pair = Pair::new(world, exporter.as_ref(), Memory::new(&LENGTHS));
    for wait in [Duration::ZERO, Duration::from_millis(30)] {
        let start = Instant::now();
        assert_eq!(pair.channel.poll(&mut Vec::new(), wait), Ok(0));
        assert!(start.elapsed() < Duration::from_secs(10), "no longer than told, however busy the machine");
    }
}
