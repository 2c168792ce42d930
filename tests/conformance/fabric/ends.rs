//! How channels end, from either side.

use super::world::{Memory, NEW, Pair, World, read, token, until_grant_over, until_over, works};
use remora::fabric::{Cause, Channel, Invitation, Read};
use std::sync::atomic::Ordering::Relaxed;

const REGION_BYTES: usize = 1 << 20;

fn fill_the_depth(channel: &mut dyn Channel) -> usize {
    let depth = channel.depth_max();
    let mut reads: Vec<Read> = (0..depth).map(|tag| read(channel, 0, 0, REGION_BYTES, tag as u64)).collect();
    channel.submit(&mut reads).unwrap();
    depth
}

pub fn a_dropped_grant_ends_the_channel_and_later_bytes_never_arrive(world: &dyn World) {
    let exporter = world.exporter();
    let memory = Memory::new(&[REGION_BYTES]);
    for _ in 0..5 {
        memory.fill(0, |at| super::world::word(0, at));
        let Pair { mut channel, grant } = Pair::new(world, exporter.as_ref(), memory.clone());
        let depth = fill_the_depth(channel.as_mut());
        drop(grant);
        if world.revokes_at_once() {
            memory.fill(0, |_| NEW);
        }
        let (done, why) = until_over(channel.as_mut());
        memory.fill(0, |_| NEW);
        assert_eq!(why.cause, Cause::Closed, "{why}");
        assert!(done.len() <= depth);
        for completion in &done {
            let words = completion.landing.words(REGION_BYTES);
            assert!(words.iter().all(|word| word.load(Relaxed) != NEW), "bytes from after the end");
        }
        let late = read(channel.as_mut(), 0, 0, 8, 99);
        assert!(channel.submit(&mut vec![late]).is_err());
    }
}

pub fn a_dropped_channel_shows_and_makes_room_for_another(world: &dyn World) {
    let exporter = world.exporter();
    let memory = Memory::new(&[REGION_BYTES]);
    for _ in 0..5 {
        let Pair { mut channel, mut grant } = Pair::new(world, exporter.as_ref(), memory.clone());
        fill_the_depth(channel.as_mut());
        drop(channel);
        let why = until_grant_over(grant.as_mut());
        assert_eq!(why.cause, Cause::Closed, "{why}");
        assert_eq!(grant.state().unwrap_err(), why, "it stays over, for the same cause");
        works(&mut Pair::new(world, exporter.as_ref(), memory.clone()));
    }
}

pub fn an_exporter_ends_with_its_threads(world: &dyn World) {
    let exporter = world.exporter();
    let token = token();
    let grant = exporter.grant(token, Memory::new(&[REGION_BYTES])).unwrap();
    let late = Invitation::new(exporter.as_ref(), token, grant.as_ref());
    drop(grant);
    drop(exporter);
    let why = world.connect(&late).err().expect("nobody listens there");
    // The simulated fabric has no listener that could be missing.
    assert!(matches!(why.cause, Cause::Refused | Cause::UnknownToken), "{why}");
}
