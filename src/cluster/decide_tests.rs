//! One rule after the other, with servers that do at once what a map says. Whole clusters, whose
//! servers do not, are in `decide/simulation.rs`.
#![allow(clippy::unwrap_used)]

#[path = "decide_tests/heirs.rs"]
mod heirs;
#[path = "decide_tests/mass.rs"]
mod mass;

use super::obedient::{Cluster, intro, policy};
use super::*;
use crate::cluster::duty::{Duty, duty};
use crate::cluster::map::{Consistency, Member, Policy, Stage, Wanted, Way};
use crate::cluster::report::{Failure, Holding};

fn plain(servers: usize) -> Cluster {
    Cluster::new(servers, policy(1, 1), |_| String::new())
}

#[test]
fn a_cluster_is_born_and_rests() {
    let mut cluster = plain(4);
    assert!(cluster.is_well());
    for server in ["s0", "s1", "s2", "s3"] {
        assert_eq!(cluster.led_by(server), 2, "{server}");
    }
    assert!(cluster.map().shards.iter().all(|shard| shard.members.len() == 1 && shard.unclean_term == 0));
    let version = cluster.map().version;
    cluster.pass(20_000);
    assert_eq!(cluster.map().version, version, "nothing moves: {:?}", cluster.notes);
}

#[test]
fn a_silent_server_is_dead_when_its_lease_has_ended_and_not_before() {
    let mut cluster = plain(4);
    cluster.stop("s0");
    cluster.pass(1000);
    assert_eq!(cluster.led_by("s0"), 2);
    assert!(cluster.map().is_alive(cluster.id("s0")));
    // One per cent for its clock.
    cluster.now += 9;
    cluster.decide();
    assert!(cluster.map().is_alive(cluster.id("s0")));
    cluster.pass(1000);
    assert_eq!(cluster.led_by("s0"), 0);
    assert!(cluster.is_well());
}

#[test]
fn who_is_being_taken_for_dead_gets_no_lease() {
    let mut cluster = plain(4);
    let process = cluster.stop("s0");
    cluster.pass(1000);
    cluster.now += 100;
    assert_eq!(cluster.decisions.lease(&process), Some(1000));
    let next = cluster.decisions.next(cluster.now).unwrap();
    // It is heard again while the map that buries it is being written.
    let report = cluster.report(&process);
    cluster.decisions.reported(&process, &report, cluster.now).unwrap();
    assert_eq!(cluster.decisions.lease(&process), None);
    cluster.decisions.conflict(cluster.map().clone());
    assert_eq!(cluster.decisions.lease(&process), Some(1000));
    assert!(!next.map.is_alive(cluster.id("s0")));
}

#[test]
fn who_has_ended_for_certain_is_not_waited_for() {
    let mut cluster = plain(4);
    cluster.kill("s0");
    cluster.pass(300);
    assert_eq!(cluster.led_by("s0"), 0);
}

/// It was seen to end by one observer, who may be deceived. Then it answers reads still.
#[test]
fn in_strong_mode_who_has_ended_is_succeeded_once_its_lease_has_ended_too() {
    let strong = Policy { consistency: Consistency::Strong, ..policy(1, 1) };
    let mut cluster = Cluster::new(4, strong, |_| String::new());
    cluster.kill("s0");
    cluster.pass(300);
    assert!(cluster.led_by("s0") > 0, "its lease is in force");
    cluster.pass(2000);
    assert_eq!(cluster.led_by("s0"), 0);
}

#[test]
fn who_takes_charge_waits_for_leases_and_goes_above_other_generations() {
    let mut cluster = plain(3);
    let map = cluster.map().clone();
    cluster.decisions = Decisions::new(map.clone(), 2, cluster.now);
    let gone = cluster.stop("s0");
    assert_eq!(cluster.decisions.lease("s1-0"), None, "no map is its own yet");
    let (began, mut later) = (cluster.now, intro("s1", "s1-0", ""));
    (later.map_version, later.generation) = (map.version, 7);
    cluster.decisions.introduced(later, cluster.now).unwrap();
    cluster.pass(300);
    assert!(cluster.map().version > map.version);
    assert_eq!(cluster.map().generation, 8);
    assert_eq!(cluster.decisions.lease("s1-0"), Some(1000));
    assert!(cluster.map().is_alive(cluster.id("s0")), "it may have a lease: {gone}");
    while cluster.now < began + 1000 {
        assert!(cluster.map().is_alive(cluster.id("s0")));
        cluster.step();
    }
    cluster.pass(500);
    assert!(!cluster.map().is_alive(cluster.id("s0")));
}

#[test]
fn a_new_process_has_no_part_in_what_the_old_one_had() {
    let mut cluster = Cluster::new(4, policy(2, 2), |_| String::new());
    let s0 = cluster.id("s0");
    cluster.kill("s0");
    cluster.start("s0", "s0-1");
    // The primaries confirm nothing yet.
    cluster.now += 100;
    cluster.decisions.introduced(intro("s0", "s0-1", ""), cluster.now).unwrap();
    cluster.decisions.reported("s0-1", &Report::default(), cluster.now).unwrap();
    cluster.decide();
    assert!(cluster.map().is_alive(s0), "its new process is there");
    for shard in &cluster.map().shards {
        assert!(shard.primary != Some(s0) || shard.ended);
        assert!(shard.member(s0).is_none_or(|member| matches!(member.stage, Stage::Gone(_))), "{shard:?}");
    }
    cluster.pass(3000);
    assert!(cluster.is_well());
}

#[test]
fn nobody_is_taken_out_before_the_primary_has_confirmed() {
    let mut cluster = plain(3);
    cluster.command(Command::Policy(policy(2, 1))).unwrap();
    cluster.pass(2000);
    cluster.command(Command::Policy(policy(1, 1))).unwrap();
    cluster.decide();
    let leaving = |map: &Map| {
        map.shards
            .iter()
            .position(|shard| shard.members.iter().any(|one| matches!(one.stage, Stage::Leaving(_))))
            .unwrap()
    };
    let shard = leaving(cluster.map());
    let primary = cluster.map().shards[shard].primary.unwrap();
    let process = cluster.map().server(primary).unwrap().incarnation.clone().unwrap();
    for map_version in [cluster.map().version - 1, cluster.map().version] {
        let unconfirmed = shard.to_string();
        let report = Report { map_version, unconfirmed, ..cluster.report(&process) };
        cluster.decisions.reported(&process, &report, cluster.now).unwrap();
        cluster.decide();
        assert_eq!(cluster.map().shards[shard].members.len(), 2, "{:?}", cluster.map().shards[shard]);
    }
    let report = cluster.report(&process);
    cluster.decisions.reported(&process, &report, cluster.now).unwrap();
    cluster.decide();
    assert_eq!(cluster.map().shards[shard].members.len(), 1);
}

#[test]
fn too_few_members_are_waited_for_and_an_operator_may_go_on_without() {
    // Two of three members must be there for a write that two others have acknowledged.
    let mut cluster = Cluster::new(5, policy(3, 2), |_| String::new());
    let shard = &cluster.map().shards[0];
    let name = |id: ServerId| cluster.map().server(id).unwrap().name.clone();
    let (primary, others) = (name(shard.primary.unwrap()), shard.members.clone());
    let others: Vec<String> = others.iter().map(|one| name(one.server)).collect();
    cluster.stop(&others[0]);
    cluster.stop(&others[1]);
    cluster.stop(&primary);
    cluster.pass(2000);
    assert!(cluster.decisions.status(cluster.now).stopped.is_some(), "three of five are gone");
    cluster.command(Command::Resume { server: None }).unwrap();
    cluster.pass(3000);
    assert!(cluster.map().shards[0].change.is_none());
    assert!(cluster.decisions.status(cluster.now).shards.waiting > 0);
    let words = cluster.command(Command::Failover { server: primary, force: true }).unwrap();
    assert!(words.contains("may be lost"), "{words}");
    cluster.step();
    let change = cluster.map().shards[0].change.unwrap();
    assert_eq!((change.way, change.term), (Way::Unclean, cluster.map().shards[0].term + 1));
    cluster.pass(500);
    assert_eq!(cluster.map().shards[0].unclean_term, change.term);
}

#[test]
fn an_heir_that_fails_is_replaced_with_a_higher_term() {
    let mut cluster = Cluster::new(4, policy(2, 1), |_| String::new());
    let shard = cluster.map().shards[0].clone();
    let primary = cluster.map().server(shard.primary.unwrap()).unwrap().name.clone();
    cluster.kill(&primary);
    cluster.decide();
    let first = cluster.map().shards[0].change.unwrap();
    let process = cluster.map().server(first.heir).unwrap().incarnation.clone().unwrap();
    let failure = Failure { shards: "0".into(), term: first.term, words: "it is a test".into() };
    let report = Report { failures: vec![failure], ..cluster.report(&process) };
    let report = Report { holdings: report.holdings.into_iter().filter(|one| one.shards != "0").collect(), ..report };
    cluster.decisions.reported(&process, &report, cluster.now).unwrap();
    cluster.decide();
    let second = cluster.map().shards[0].change.unwrap();
    assert!(second.heir != first.heir && second.term > first.term, "{first:?}, then {second:?}");
}

#[test]
fn who_was_the_primary_stays_listed_until_the_new_one_has_confirmed() {
    let mut cluster = Cluster::new(4, policy(2, 2), |_| String::new());
    let old = cluster.map().shards[0].primary.unwrap();
    let name = cluster.map().server(old).unwrap().name.clone();
    cluster.kill(&name);
    cluster.decide();
    let heir = cluster.map().shards[0].change.unwrap().heir;
    let process = cluster.map().server(heir).unwrap().incarnation.clone().unwrap();
    let report = Report { unconfirmed: "0-7".into(), ..cluster.report(&process) };
    cluster.decisions.reported(&process, &report, cluster.now).unwrap();
    cluster.decide();
    let shard = &cluster.map().shards[0];
    assert_eq!(shard.primary, Some(heir));
    let place = shard.member(old).expect("it may have what was acknowledged");
    assert!(matches!(place.stage, Stage::Gone(_)), "{shard:?}");
}

#[test]
fn who_cannot_follow_is_asked_after_ever_longer_pauses() {
    let mut cluster = plain(3);
    let member = cluster.map().shards[0].members[0].server;
    let process = cluster.map().server(member).unwrap().incarnation.clone().unwrap();
    cluster.cannot_follow = Some((process, 0));
    cluster.pass(120_000);
    let failures = |cluster: &Cluster| cluster.notes.iter().filter(|note| note.contains("could not follow")).count();
    let first = failures(&cluster);
    assert!((5..15).contains(&first), "{first} in two minutes: {:?}", cluster.notes);
    // After a time without failures the pauses are short again.
    let failing = cluster.cannot_follow.take();
    cluster.pass(120_000);
    assert!(cluster.is_well());
    cluster.cannot_follow = failing;
    cluster.pass(5_000);
    let then = failures(&cluster) - first;
    assert!((2..6).contains(&then), "{then}");
}

#[test]
fn a_server_that_flaps_is_held_out_for_longer_each_time() {
    let mut cluster = plain(4);
    let mut out = Vec::new();
    for process in 1..5 {
        cluster.pass(61_000);
        cluster.kill("s0");
        cluster.start("s0", &format!("s0-{process}"));
        cluster.step();
        let since = cluster.now;
        while !cluster.map().is_alive(cluster.id("s0")) {
            cluster.step();
        }
        out.push(cluster.now - since);
    }
    assert!(out[0] <= 200, "{out:?}");
    assert!(out[1] >= 9_000 && out[2] >= 19_000 && out[3] >= 39_000, "{out:?}");
}

#[test]
fn below_k_is_healed_at_once_and_the_rest_after_a_delay() {
    for (policy, at_once) in [(policy(1, 1), true), (policy(2, 1), false)] {
        let mut cluster = Cluster::new(5, policy, |_| String::new());
        cluster.kill("s0");
        cluster.pass(2000);
        let s0 = cluster.id("s0");
        let names = |map: &Map| map.shards.iter().any(|shard| shard.target.contains(&s0));
        assert_eq!(names(cluster.map()), !at_once);
        cluster.pass(11_000);
        assert!(!names(cluster.map()) && cluster.is_well());
    }
}

#[test]
fn a_server_that_is_drained_gives_all_and_is_forgotten() {
    let mut cluster = plain(3);
    let before = cluster.map().clone();
    let words = cluster.decisions.command(Command::Drain { server: "s0".into() }, true, cluster.now).unwrap();
    assert!(words.contains("5 replicas are to be copied") || words.contains("6 replicas are to be copied"), "{words}");
    cluster.step();
    assert_eq!(*cluster.map(), before, "that was a dry run");
    assert!(cluster.command(Command::Remove { server: "s0".into() }).unwrap_err().contains("drain it first"));
    cluster.command(Command::Drain { server: "s0".into() }).unwrap();
    cluster.pass(5000);
    assert_eq!(cluster.led_by("s0"), 0);
    assert!(cluster.is_well());
    let refused = cluster.command(Command::Drain { server: "s1".into() }).unwrap_err();
    assert!(refused.contains("add a server"), "{refused}");
    cluster.command(Command::Remove { server: "s0".into() }).unwrap();
    cluster.stop("s0");
    cluster.pass(300);
    assert_eq!(cluster.map().named("s0"), None);
    assert!(cluster.map().shards.iter().all(|shard| shard.unclean_term == 0));
}

#[test]
fn a_new_server_takes_the_place_of_an_old_one() {
    let mut cluster = plain(3);
    cluster.start("s3", "s3-0");
    cluster.step();
    let had = cluster.led_by("s1");
    cluster.command(Command::Swap { old: "s1".into(), new: "s3".into() }).unwrap();
    cluster.pass(5000);
    assert_eq!((cluster.led_by("s1"), cluster.led_by("s3")), (0, had));
    assert_eq!(cluster.map().named("s1").unwrap().wanted, Wanted::Draining);
    assert!(cluster.is_well() && cluster.was_noted("takes the place of"));
}

#[test]
fn a_paused_server_is_missed_by_nobody_until_its_process_has_ended() {
    let mut cluster = plain(3);
    cluster.command(Command::Pause { server: "s0".into() }).unwrap();
    cluster.step();
    let (led, process) = (cluster.led_by("s0"), cluster.stop("s0"));
    cluster.pass(30_000);
    assert_eq!(cluster.led_by("s0"), led);
    cluster.start("s0", &process);
    cluster.pass(1000);
    assert!(cluster.is_well());
    cluster.kill("s0");
    cluster.pass(1000);
    assert_eq!(cluster.led_by("s0"), 0);
}

#[test]
fn strangers_are_refused() {
    let mut cluster = plain(3);
    let mut other = intro("s9", "s9-0", "");
    other.cluster = Some("d".into());
    assert!(cluster.decisions.introduced(other, cluster.now).unwrap_err().contains("belongs to the cluster d"));
    let few = Introduction { shards: 4, ..intro("s9", "s9-0", "") };
    assert!(cluster.decisions.introduced(few, cluster.now).unwrap_err().contains("start it with --shards 8"));
    let twin = Introduction { replication: "s9:2".into(), ..intro("s1", "s1-9", "") };
    assert!(cluster.decisions.introduced(twin, cluster.now).unwrap_err().contains("is alive at s1:2"));
    let refused = cluster.command(Command::Policy(policy(1, 2))).unwrap_err();
    assert!(refused.contains("no write can be acknowledged"), "{refused}");
    assert_eq!(policy(1, 1).check(), Ok(()));
    let bad = [
        (Policy { replicas: 200, ..policy(1, 1) }, "at most 15"),
        (Policy { lease_ms: 1, ..policy(1, 1) }, "300 to 60000 ms"),
        (Policy { lease_ms: u64::MAX, ..policy(1, 1) }, "300 to 60000 ms"),
        (Policy { heal_delay_ms: u64::MAX, ..policy(1, 1) }, "a week"),
        (Policy { unclean_after_ms: Some(u64::MAX), ..policy(1, 1) }, "a week"),
        (Policy { copies_at_once: 0, ..policy(1, 1) }, "copies_at_once"),
        (Policy { consistency: Consistency::Strong, ..policy(1, 0) }, "acks is 1 or more"),
        (
            Policy { consistency: Consistency::Strong, unclean_after_ms: Some(1), ..policy(1, 1) },
            "leave unclean_after_ms out",
        ),
    ];
    for (bad, why) in bad {
        let refused = cluster.command(Command::Policy(bad)).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn one_member_joins_after_the_other() {
    let mut cluster = plain(5);
    cluster.command(Command::Policy(policy(4, 1))).unwrap();
    let is_joining = |one: &&Member| one.stage == Stage::Joining;
    for step in 0..40 {
        cluster.copies_slowly = step < 10;
        cluster.step();
        for shard in &cluster.map().shards {
            assert!(shard.members.iter().filter(is_joining).count() <= 1, "{shard:?}");
        }
    }
    assert!(cluster.is_well());
}

#[test]
fn who_was_forced_out_stays_out_though_its_process_lives() {
    let mut cluster = plain(4);
    cluster.command(Command::Failover { server: "s0".into(), force: true }).unwrap();
    for _ in 0..30 {
        // Its connection goes on as before.
        let report = cluster.report("s0-0");
        assert!(cluster.decisions.reported("s0-0", &report, cluster.now).is_err());
        cluster.step();
    }
    let deaths = cluster.notes.iter().filter(|note| note.starts_with("s0 is dead")).count();
    assert_eq!((deaths, cluster.map().is_alive(cluster.id("s0"))), (1, false), "{:?}", cluster.notes);
    assert_eq!(cluster.led_by("s0"), 0);
    let refused = cluster.decisions.introduced(intro("s0", "s0-0", ""), cluster.now).unwrap_err();
    assert!(refused.contains("start it anew"), "{refused}");
    cluster.pass(20_000);
    let version = cluster.map().version;
    cluster.pass(5000);
    assert_eq!(cluster.map().version, version, "nothing moves: {:?}", cluster.notes);
    cluster.stop("s0");
    cluster.start("s0", "s0-1");
    cluster.pass(5000);
    assert!(cluster.map().is_alive(cluster.id("s0")) && cluster.is_well());
}

#[test]
fn who_lives_is_not_removed_by_a_locator_that_has_just_taken_charge() {
    let mut cluster = plain(3);
    cluster.decisions = Decisions::new(cluster.map().clone(), 2, cluster.now);
    for force in [false, true] {
        let refused = cluster.command(Command::Failover { server: "s0".into(), force }).unwrap_err();
        assert!(refused.contains("does not know yet"), "{refused}");
    }
    let refused = cluster.command(Command::Remove { server: "s0".into() }).unwrap_err();
    assert!(refused.contains("does not know yet"), "{refused}");
    cluster.pass(2000);
    let refused = cluster.command(Command::Remove { server: "s0".into() }).unwrap_err();
    assert!(refused.contains("drain it first"), "{refused}");
}

#[test]
fn what_an_operator_wanted_is_not_done_later() {
    let mut cluster = plain(4);
    cluster.command(Command::Rebalance).unwrap();
    assert!(!cluster.decide(), "all have their part");
    assert!(cluster.decisions.orders.is_empty());
    cluster.decisions = Decisions::new(cluster.map().clone(), 2, cluster.now);
    assert!(cluster.command(Command::Rebalance).unwrap_err().contains("does not know yet"));
}

#[test]
fn numbers_that_nobody_can_have_come_to_are_refused() {
    let mut cluster = plain(3);
    for (map_version, generation) in [(u64::MAX, 0), (0, u64::MAX)] {
        let far = Introduction { map_version, generation, ..intro("s1", "s1-0", "") };
        assert!(cluster.decisions.introduced(far, cluster.now).unwrap_err().contains("makes no sense"));
    }
    let holding = |term| Holding { shards: "0".into(), role: Role::Current, term };
    let far = [
        Report { map_version: u64::MAX, ..Report::default() },
        Report { holdings: vec![holding(u32::MAX)], ..Report::default() },
    ];
    for report in far {
        assert!(cluster.decisions.reported("s1-0", &report, cluster.now).unwrap_err().contains("makes no sense"));
    }
    cluster.kill("s0");
    cluster.pass(2000);
    assert!(cluster.is_well());
}
