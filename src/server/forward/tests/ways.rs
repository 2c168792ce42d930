//! To whom requests go, while gates change.

use super::*;

/// Roles have gone on since: the one that was named may not know that it is the primary no more.
#[test]
fn who_was_named_is_forgotten_when_a_gate_changes() {
    let (first, second) = (FakeOwner::new(), FakeOwner::new());
    let (scene, _pipe) = redirected(&first, &second);
    for owner in [second.primary(2), first.primary(1)] {
        scene.engine.store().close_gates_for([SHARD as usize], &owner);
        let asked = scene.forwarder.primary_of(scene.engine.store(), SHARD).expect("known");
        assert_eq!(asked.clients, owner.clients, "whom the gate names");
    }
}

/// Looked up once for a shard, and again once a gate has changed or the owner's place is another's.
#[test]
fn a_way_is_known_no_longer_than_it_leads_there() {
    let numbered = |number: u8| Primary {
        clients: format!("10.0.0.{number}:11211").into(),
        replication: Some(format!("10.0.0.{number}:11212").into()),
    };
    let mut scene = Scene::new(&numbered(1));
    let asked = |scene: &mut Scene, shard: u32| {
        let (owner, has_room) = scene.forwarder.way(scene.engine.store(), shard, 10)?;
        has_room.then(|| scene.forwarder.name(owner as usize).to_string())
    };
    let named = |number: u8| Some(format!("10.0.0.{number}:11211"));
    for _ in 0..2 {
        assert_eq!([0, SHARD].map(|shard| asked(&mut scene, shard)), [named(1), named(1)]);
    }
    scene.engine.store().close_gates_for([SHARD as usize], &numbered(2));
    for _ in 0..2 {
        assert_eq!([0, SHARD].map(|shard| asked(&mut scene, shard)), [named(1), named(2)]);
    }
    scene.engine.store().open_gates([SHARD as usize]);
    assert_eq!(asked(&mut scene, SHARD), None, "it is done here");
    scene.engine.store().close_gates([SHARD as usize], Some("10.0.0.3:11211"));
    assert_eq!(asked(&mut scene, SHARD), None, "its replication port is not known");
    // All places are taken, and the first one is given to another server.
    assert_eq!(asked(&mut scene, 0), named(1));
    for number in 0..=FORWARD_OWNERS_MAX as u8 {
        scene.forwarder.owner(&Arc::new(numbered(100 + number)), 10);
    }
    assert_eq!(asked(&mut scene, 0), named(1));
}
