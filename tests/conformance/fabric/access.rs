//! Who may do what: acks into their slot, nothing beyond a region, and no channel without a token.

use super::world::{Memory, Pair, World, read, token, until, until_grant_over, until_over, works};
use remora::fabric::{ACK_BYTES, Cause, Channel, FabricError, GrantState, Invitation, Token};
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

const LENGTHS: [usize; 2] = [8192, 4096];

/// Try until the channel takes it.
fn write_ack(pair: &mut Pair, offset: usize, words: &[u64]) {
    until("there is room for an ack", || {
        let is_taken = pair.channel.write_ack(offset, words).unwrap();
        is_taken || pair.channel.poll(&mut Vec::new(), Duration::ZERO).is_err()
    });
}

pub fn acks_arrive_in_order(world: &dyn World) {
    let exporter = world.exporter();
    let mut pair = Pair::new(world, exporter.as_ref(), Memory::new(&LENGTHS));
    let mut done = Vec::new();
    let in_order = |pair: &Pair| {
        let slot = pair.grant.ack().words();
        let second = slot[8].load(Acquire);
        assert!(slot[0].load(Acquire) >= second, "the second of two WRITEs before the first");
        second
    };
    for number in 1..=300 {
        write_ack(&mut pair, 0, &[number]);
        write_ack(&mut pair, 64, &[number]);
        pair.channel.poll(&mut done, Duration::ZERO).unwrap();
        assert!(in_order(&pair) <= number);
    }
    // Of any length, as many as a queue does not hold.
    for words in (1..=ACK_BYTES / 8).step_by(61) {
        let last: Vec<u64> = (1000..).take(words).collect();
        write_ack(&mut pair, ACK_BYTES - words * 8, &last);
        pair.channel.poll(&mut done, Duration::ZERO).unwrap();
    }
    let longest: Vec<u64> = (300..).take(ACK_BYTES / 8).collect();
    write_ack(&mut pair, 0, &longest);
    let is_there = |pair: &Pair| {
        let slot = pair.grant.ack().words();
        slot.iter().zip(&longest).all(|(word, sent)| word.load(Acquire) == *sent)
    };
    until("all have arrived", || {
        pair.channel.poll(&mut done, Duration::ZERO).unwrap();
        is_there(&pair)
    });
    works(&mut pair);
    assert!(is_there(&pair), "the longest was the last");
}

/// `misdeed` must end the channel with [`Cause::Access`], and leave the exporter fit for another.
fn ends_with_access(world: &dyn World, what: &str, misdeed: impl FnOnce(&mut dyn Channel) -> Result<(), FabricError>) {
    let exporter = world.exporter();
    let memory = Memory::new(&LENGTHS);
    let Pair { mut channel, mut grant } = Pair::new(world, exporter.as_ref(), memory.clone());
    let why = match misdeed(channel.as_mut()) {
        Err(error) => error,
        Ok(()) => {
            let (done, why) = until_over(channel.as_mut());
            for completion in done {
                let failed = completion.outcome.expect_err("a READ beyond a region has no bytes");
                assert_eq!(failed.cause, Cause::Access, "{what}: {failed}");
                assert!(
                    completion.landing.words(64).iter().all(|word| word.load(Relaxed) == 0),
                    "{what}: nothing was seen"
                );
            }
            why
        }
    };
    assert_eq!(why.cause, Cause::Access, "{what}: {why}");
    let next = read(channel.as_mut(), 0, 0, 8, 9);
    assert!(channel.submit(&mut vec![next]).is_err() && channel.write_ack(0, &[1]).is_err(), "{what}: it is over");
    drop(channel);
    until_grant_over(grant.as_mut());
    assert!(grant.ack().words().iter().all(|word| word.load(Relaxed) == 0), "{what}: nothing was changed");
    works(&mut Pair::new(world, exporter.as_ref(), memory));
}

pub fn a_read_beyond_ends_the_channel_and_harms_nobody(world: &dyn World) {
    for (region, offset, bytes) in
        [(0, 8184, 16), (0, 8192, 8), (1, 0, 4104), (2, 0, 8), (u32::MAX, 0, 8), (0, u64::MAX - 7, 16), (1, 1 << 40, 8)]
    {
        ends_with_access(world, &format!("{bytes} bytes at {offset} of region {region}"), |channel| {
            let read = read(channel, region, offset, bytes, 1);
            channel.submit(&mut vec![read])
        });
    }
}

pub fn a_write_beyond_ends_the_channel_and_harms_nobody(world: &dyn World) {
    for (offset, count) in [(ACK_BYTES - 8, 2), (ACK_BYTES, 1), (1 << 20, 8)] {
        ends_with_access(world, &format!("a WRITE of {count} words at {offset}"), |channel| {
            channel.write_ack(offset, &vec![7; count]).map(drop)
        });
    }
}

pub fn a_wrong_token_is_refused(world: &dyn World) {
    let exporter = world.exporter();
    let token = token();
    let mut grant = exporter.grant(token, Memory::new(&LENGTHS)).unwrap();
    let right = Invitation::new(exporter.as_ref(), token, grant.as_ref());
    let mut wrong = right.clone();
    wrong.token = Token(token.0.map(|byte| byte ^ 1));
    let why = world.connect(&wrong).err().expect("a wrong token admits nobody");
    assert_eq!(why.cause, Cause::UnknownToken, "{why}");
    assert_eq!(grant.state(), Ok(GrantState::Waiting));
    let channel = world.connect(&right).unwrap();
    works(&mut Pair { channel, grant });
}

pub fn a_token_is_good_once(world: &dyn World) {
    let exporter = world.exporter();
    let token = token();
    let grant = exporter.grant(token, Memory::new(&LENGTHS)).unwrap();
    let once = Invitation::new(exporter.as_ref(), token, grant.as_ref());
    let channel = world.connect(&once).unwrap();
    let mut pair = Pair { channel, grant };
    let why = world.connect(&once).err().expect("a token that was shown admits nobody else");
    assert_eq!(why.cause, Cause::UnknownToken, "{why}");
    works(&mut pair);
}

pub fn a_token_that_nobody_shows_expires(world: &dyn World) {
    let exporter = world.exporter();
    let token = token();
    let mut grant = exporter.grant(token, Memory::new(&LENGTHS)).unwrap();
    let late = Invitation::new(exporter.as_ref(), token, grant.as_ref());
    world.pass(remora::fabric::CONNECT_WAIT_MAX + Duration::from_millis(1));
    assert_eq!(until_grant_over(grant.as_mut()).cause, Cause::TimedOut);
    let why = world.connect(&late).err().expect("a token that expired admits nobody");
    assert_eq!(why.cause, Cause::UnknownToken, "{why}");
}

pub fn a_token_of_a_dropped_grant_is_refused(world: &dyn World) {
    let exporter = world.exporter();
    let token = token();
    let grant = exporter.grant(token, Memory::new(&LENGTHS)).unwrap();
    let late = Invitation::new(exporter.as_ref(), token, grant.as_ref());
    drop(grant);
    let why = world.connect(&late).err().expect("a token of nobody");
    assert_eq!(why.cause, Cause::UnknownToken, "{why}");
    works(&mut Pair::new(world, exporter.as_ref(), Memory::new(&LENGTHS)));
}
