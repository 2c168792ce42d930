//! WRITEs of data: whole, in order, where they were meant and nowhere else.

use super::world::{
    self, Memory, WAIT_MAX, World, by_name, completions, read, read_now, token, until_grant_over, until_over, word,
    works,
};
use remora::fabric::{
    Cause, Channel, Exporter, FabricError, Grant, Invitation, Regions, WRITE_DEPTH_MAX, Write, WriteChannel,
};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

/// The first region is for reading alone.
const LENGTHS: [usize; 3] = [8192, 1 << 16, 1 << 20];
/// What the writer has.
const SOURCES: [usize; 2] = [1 << 20, 4096];

/// The two ends of a channel that writes.
struct Pair {
    channel: Box<dyn WriteChannel>,
    grant: Box<dyn Grant>,
}

/// A pair whose channel may write from the second memory to regions 1 and 2 of the first.
fn writing(exporter: &dyn Exporter) -> (Pair, Arc<Memory>, Arc<Memory>) {
    let (memory, sources) = (Memory::open_from(&LENGTHS, 1), Memory::new(&SOURCES));
    let token = token();
    let grant = exporter.grant(token, memory.clone()).unwrap();
    let invitation = Invitation::new(exporter, token, grant.as_ref());
    let channel = exporter.writer().expect("it writes").connect(&invitation, sources.clone()).unwrap();
    (Pair { channel, grant }, memory, sources)
}

/// Until all that was written has arrived.
fn flush(channel: &mut dyn Channel) {
    read_now(channel, 0, 0, 8);
}

pub fn what_is_written_stands_where_it_was_meant_and_nowhere_else(world: &dyn World) {
    let exporter = world.exporter();
    let (mut pair, memory, _sources) = writing(exporter.as_ref());
    let mut random = fastrand::Rng::with_seed(3);
    let mut expected: Vec<Vec<u64>> =
        LENGTHS.iter().enumerate().map(|(region, bytes)| (0..bytes / 8).map(|at| word(region, at)).collect()).collect();
    for round in 0..100 {
        let writes: Vec<Write> = (0..random.usize(1..=WRITE_DEPTH_MAX))
            .map(|_| {
                let (source, region) = (random.usize(0..2), random.usize(1..3));
                let most =
                    (SOURCES[source].min(LENGTHS[region]) / 8).min(if round % 9 == 0 { usize::MAX } else { 900 });
                let count = random.usize(1..=most);
                // The last word of each is among what is written.
                let place = |random: &mut fastrand::Rng, words: usize| match random.u8(0..4) {
                    0 => words - count,
                    _ => random.usize(0..=words - count),
                };
                let from = place(&mut random, SOURCES[source] / 8);
                let at = place(&mut random, LENGTHS[region] / 8);
                (0..count).for_each(|step| expected[region][at + step] = word(source, from + step));
                Write { source, from: from * 8, region: region as u32, offset: at as u64 * 8, bytes: count * 8 }
            })
            .collect();
        pair.channel.write(&writes).unwrap();
        flush(pair.channel.as_mut());
    }
    for (region, expected) in expected.iter().enumerate() {
        let words = memory.memory(region).words();
        assert!(words.iter().zip(expected).all(|(word, expected)| word.load(Relaxed) == *expected), "region {region}");
    }
    assert_eq!(read_now(pair.channel.as_mut(), 0, 8, 16), [word(0, 1), word(0, 2)], "and it still READs");
}

/// The owner of the memory looks at what arrives: data first, then the number that says how far.
pub fn what_is_written_later_is_seen_later(world: &dyn World) {
    let exporter = world.exporter();
    let (mut pair, memory, sources) = writing(exporter.as_ref());
    memory.fill(1, |_| 0);
    memory.fill(2, |_| 0);
    // Of numbers that had changed since the look before: so many must have been seen, or nothing
    // was looked at.
    let (stop, moves) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut seen, mut seen_at) = (0, Instant::now());
            // The bound ends this thread where the other one has failed.
            while !stop.load(Relaxed) && seen_at.elapsed() < WAIT_MAX {
                let number = memory.memory(1).words()[0].load(Acquire);
                let data = memory.memory(2).words()[..512].iter().map(|word| word.load(Relaxed)).min().unwrap();
                assert!(data >= number, "number {number} before its data, of which some is {data}");
                if number > seen {
                    moves.fetch_add(1, Relaxed);
                    (seen, seen_at) = (number, Instant::now());
                }
                // A device in software needs the processor too.
                std::thread::yield_now();
            }
        });
        let data = Write { source: 0, from: 0, region: 2, offset: 0, bytes: 4096 };
        let number = Write { source: 1, from: 8, region: 1, offset: 0, bytes: 8 };
        let (mut round, mut looked_for_since) = (0, Instant::now());
        while round < 100 || moves.load(Relaxed) == 0 {
            // `flush` bounds each of the rounds.
            if round < 100 {
                looked_for_since = Instant::now();
            }
            assert!(looked_for_since.elapsed() < WAIT_MAX, "the owner was never seen to look");
            round += 1;
            sources.fill(0, |_| round);
            sources.fill(1, |_| round);
            pair.channel.write(&[data, number]).unwrap();
            flush(pair.channel.as_mut());
            assert_eq!(
                memory.memory(1).words()[0].load(Acquire),
                round,
                "a READ that came back has all before it arrive"
            );
        }
        stop.store(true, Relaxed);
    });
}

/// And it has left its source: what is stored there afterwards does not arrive.
pub fn a_source_may_change_once_a_read_behind_has_come(world: &dyn World) {
    let exporter = world.exporter();
    let (mut pair, memory, sources) = writing(exporter.as_ref());
    for round in 1..=50 {
        sources.fill(0, |_| round);
        pair.channel.write(&[Write { source: 0, from: 0, region: 2, offset: 0, bytes: LENGTHS[2] }]).unwrap();
        flush(pair.channel.as_mut());
        sources.fill(0, |_| u64::MAX);
        assert!(memory.memory(2).words().iter().all(|word| word.load(Relaxed) == round), "round {round}");
    }
}

/// `misdeed` must end the channel, change nothing, and leave the exporter fit for another.
fn ends_with_access(
    world: &dyn World,
    what: &str,
    misdeed: impl FnOnce(&mut dyn WriteChannel) -> Result<(), FabricError>,
) {
    let exporter = world.exporter();
    let (Pair { mut channel, mut grant }, memory, _sources) = writing(exporter.as_ref());
    let why = match misdeed(channel.as_mut()) {
        Err(error) => error,
        Ok(()) => {
            let next = read(channel.as_mut(), 0, 0, 8, 1);
            channel.submit(&mut vec![next]).err().unwrap_or_else(|| until_over(channel.as_mut()).1)
        }
    };
    assert_eq!(why.cause, Cause::Access, "{what}: {why}");
    let next = Write { source: 0, from: 0, region: 1, offset: 0, bytes: 8 };
    assert!(channel.write(&[next]).is_err(), "{what}: it is over");
    drop(channel);
    until_grant_over(grant.as_mut());
    for region in 0..LENGTHS.len() {
        let mut words = memory.memory(region).words().iter().enumerate();
        assert!(words.all(|(at, seen)| seen.load(Relaxed) == word(region, at)), "{what}: region {region} has changed");
    }
    works(&mut world::Pair::new(world, exporter.as_ref(), memory));
}

pub fn a_write_beyond_a_region_changes_nothing(world: &dyn World) {
    for (region, offset, bytes) in [
        (1, LENGTHS[1] as u64 - 8, 16),
        (1, LENGTHS[1] as u64, 8),
        (1, 0, LENGTHS[1] + 8),
        (3, 0, 8),
        (u32::MAX, 0, 8),
        (2, u64::MAX - 7, 16),
        (1, 1 << 40, 8),
    ] {
        ends_with_access(world, &format!("{bytes} bytes at {offset} of region {region}"), |channel| {
            channel.write(&[Write { source: 0, from: 0, region, offset, bytes }])
        });
    }
}

pub fn a_write_to_a_region_for_reading_changes_nothing(world: &dyn World) {
    for bytes in [8, 8192] {
        ends_with_access(world, &format!("{bytes} bytes to a region for reading"), |channel| {
            channel.write(&[Write { source: 0, from: 0, region: 0, offset: 0, bytes }])
        });
    }
}

pub fn a_writer_whose_peer_goes_learns_it(world: &dyn World) {
    let exporter = world.exporter();
    for _ in 0..5 {
        let (Pair { mut channel, grant }, memory, sources) = writing(exporter.as_ref());
        let all = Write { source: 0, from: 0, region: 2, offset: 0, bytes: LENGTHS[2] };
        channel.write(&[all; WRITE_DEPTH_MAX]).unwrap();
        let behind = read(channel.as_mut(), 0, 0, 8, 1);
        channel.submit(&mut vec![behind]).unwrap();
        drop(grant);
        sources.fill(0, |_| u64::MAX);
        let (_, why) = until_over(channel.as_mut());
        assert_eq!(why.cause, Cause::Closed, "{why}");
        assert!(channel.write(&[all]).is_err());
        if world.revokes_at_once() {
            // The grant is gone: nothing of what its owner stores now is overwritten.
            memory.fill(2, |_| 5);
            drop(channel);
            assert!(memory.memory(2).words().iter().all(|word| word.load(Relaxed) == 5));
        }
    }
}

pub fn an_owner_whose_writer_goes_learns_it(world: &dyn World) {
    let exporter = world.exporter();
    for _ in 0..5 {
        let (Pair { mut channel, mut grant }, memory, _sources) = writing(exporter.as_ref());
        let all = Write { source: 0, from: 0, region: 2, offset: 0, bytes: LENGTHS[2] };
        channel.write(&[all; WRITE_DEPTH_MAX]).unwrap();
        drop(channel);
        assert_eq!(until_grant_over(grant.as_mut()).cause, Cause::Closed);
        works(&mut world::Pair::new(world, exporter.as_ref(), memory));
    }
}

pub fn full_depth_again_and_again(world: &dyn World) {
    let exporter = world.exporter();
    let (mut pair, memory, _sources) = writing(exporter.as_ref());
    for round in 0..200usize {
        let write = |at: usize| Write {
            source: 0,
            from: (round * WRITE_DEPTH_MAX + at) * 8,
            region: 2,
            offset: (round * WRITE_DEPTH_MAX + at) as u64 * 16,
            bytes: 8,
        };
        let writes: Vec<Write> = (0..WRITE_DEPTH_MAX).map(write).collect();
        let (some, others) = writes.split_at(round % WRITE_DEPTH_MAX);
        pair.channel.write(some).unwrap();
        pair.channel.write(others).unwrap();
        let behind = read(pair.channel.as_mut(), 1, 0, 64, round as u64);
        pair.channel.submit(&mut vec![behind]).unwrap();
        assert_eq!(completions(pair.channel.as_mut(), 1)[0].tag, round as u64);
    }
    let words = memory.memory(2).words();
    assert!((0..200 * WRITE_DEPTH_MAX).all(|at| words[at * 2].load(Relaxed) == word(0, at)));
    pair.channel.poll(&mut Vec::new(), Duration::ZERO).unwrap();
}

/// What a configuration is checked by, and what an exporter does.
#[test]
fn all_but_tcp_write() {
    for name in ["shm", "tcp", "sim"] {
        let exporter = by_name(name).exporter();
        assert_eq!((exporter.writer().is_some(), exporter.kind().writes()), (name != "tcp", name != "tcp"));
    }
}

#[test]
#[should_panic(expected = "more WRITEs under way")]
fn more_writes_than_were_allowed_are_our_bug() {
    let world = by_name("shm");
    let exporter = world.exporter();
    let (mut pair, ..) = writing(exporter.as_ref());
    let one = Write { source: 0, from: 0, region: 1, offset: 0, bytes: 8 };
    let _ = pair.channel.write(&[one; WRITE_DEPTH_MAX + 1]);
}
