//! Assignments of random clusters that grow, shrink and lose servers: each is held against what is
//! wanted, and the moves are counted.
#![allow(clippy::unwrap_used)]

use super::*;
use fastrand::Rng;

fn server(name: &str, host: &str, zone: &str, memory: u64) -> Candidate {
    Candidate { name: name.into(), host: host.into(), zone: zone.into(), memory, leaves: false }
}

/// Servers of equal memory, each a host of its own.
fn equal(count: usize) -> Vec<Candidate> {
    (0..count).map(|number| server(&format!("s{number:03}"), &format!("h{number}"), "", 64)).collect()
}

fn born(shards: usize) -> Vec<Placement> {
    vec![Placement::default(); shards]
}

fn counts(after: &[Placement], servers: usize) -> Vec<(usize, usize)> {
    let copies = |server| after.iter().filter(|one| one.holders.contains(&server)).count();
    let primaries = |server| after.iter().filter(|one| one.primary() == Some(server)).count();
    (0..servers).map(|server| (copies(server), primaries(server))).collect()
}

fn moved(before: &[Placement], after: &[Placement]) -> usize {
    changes(before, after).iter().map(|change| change.added.len()).sum()
}

/// What holds of every assignment.
fn check(after: &[Placement], servers: &[Candidate], copies: usize) {
    let mut hosts: Vec<&str> = servers.iter().filter(|one| !one.leaves).map(|one| &*one.host).collect();
    hosts.sort_unstable();
    hosts.dedup();
    for (shard, placement) in after.iter().enumerate() {
        assert_eq!(placement.holders.len(), copies.min(hosts.len()), "copies of shard {shard}: {servers:?}");
        assert!(placement.holders.iter().all(|holder| !servers[*holder].leaves), "shard {shard} has left");
        let mut at: Vec<&str> = placement.holders.iter().map(|holder| &*servers[*holder].host).collect();
        at.sort_unstable();
        at.dedup();
        assert_eq!(at.len(), placement.holders.len(), "two copies of shard {shard} at one host");
    }
}

#[test]
fn a_cluster_that_is_born_is_level() {
    for (servers, shards, copies) in [(1, 256, 2), (2, 256, 2), (3, 256, 2), (5, 256, 3), (7, 512, 2), (100, 512, 3)] {
        let all = equal(servers);
        let after = assign(&born(shards), &all, copies);
        check(&after, &all, copies);
        let counts = counts(&after, servers);
        let (of_copies, of_primaries): (Vec<_>, Vec<_>) = counts.into_iter().unzip();
        for (what, counts) in [("copies", of_copies), ("primaries", of_primaries)] {
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1, "{servers} servers: {what} {counts:?}");
        }
    }
}

#[test]
fn each_has_its_part_by_its_memory() {
    let all =
        vec![server("a", "1", "", 100), server("b", "2", "", 100), server("c", "3", "", 200), server("d", "4", "", 0)];
    let all: Vec<_> = all.into_iter().filter(|one| one.memory > 0).collect();
    let after = assign(&born(256), &all, 2);
    check(&after, &all, 2);
    // A copy of every shard is at the large one: that is its half.
    assert_eq!(counts(&after, 3), [(128, 64), (128, 64), (256, 128)]);
}

#[test]
fn a_server_that_is_added_takes_its_part_and_nobody_else_moves_anything() {
    for (servers, shards, copies) in [(3, 256, 2), (4, 512, 3), (9, 256, 2), (10, 1024, 2)] {
        let before = assign(&born(shards), &equal(servers), copies);
        let all = equal(servers + 1);
        let after = assign(&before, &all, copies);
        check(&after, &all, copies);
        let part = counts(&after, servers + 1)[servers];
        assert_eq!(part.0, shards * copies / (servers + 1), "{servers} servers: its part");
        assert_eq!(moved(&before, &after), part.0, "{servers} servers: only what it takes");
        assert!(changes(&before, &after).iter().all(|change| change.added.iter().all(|to| *to == servers)));
    }
}

#[test]
fn what_a_server_leaves_goes_to_all_others_and_nothing_else_moves() {
    for (servers, shards, copies) in [(4, 256, 2), (5, 512, 3), (10, 256, 2)] {
        let before = assign(&born(shards), &equal(servers), copies);
        let mut all = equal(servers);
        all[1].leaves = true;
        let after = assign(&before, &all, copies);
        check(&after, &all, copies);
        assert_eq!(moved(&before, &after), counts(&before, servers)[1].0);
        let gets = |server| changes(&before, &after).iter().filter(|change| change.added.contains(&server)).count();
        let got: Vec<usize> = (0..servers).filter(|server| *server != 1).map(gets).collect();
        assert!(got.iter().max().unwrap() - got.iter().min().unwrap() <= 1, "{got:?}");
        let led = |server: usize| counts(&after, servers)[server].1;
        assert!(
            (0..servers).filter(|server| *server != 1).all(|server| led(server).abs_diff(shards / (servers - 1)) <= 1)
        );
    }
}

#[test]
fn what_is_level_stays_as_it_is() {
    let all = equal(5);
    let after = assign(&born(256), &all, 2);
    assert_eq!(assign(&after, &all, 2), after);
}

#[test]
fn copies_are_in_different_zones_where_that_is_level() {
    let zoned: Vec<Candidate> = (0..6)
        .map(|number| server(&format!("s{number}"), &format!("h{number}"), &format!("z{}", number % 3), 64))
        .collect();
    for copies in [2, 3] {
        let after = assign(&born(256), &zoned, copies);
        check(&after, &zoned, copies);
        let apart = |one: &&Placement| {
            let mut zones: Vec<&str> = one.holders.iter().map(|holder| &*zoned[*holder].zone).collect();
            zones.sort_unstable();
            zones.dedup();
            zones.len() == copies
        };
        assert_eq!(after.iter().filter(apart).count(), 256, "of {copies} copies");
    }
}

#[test]
fn in_a_large_cluster_a_server_shares_shards_with_few() {
    let all = equal(60);
    let mut before = assign(&born(1024), &all, 3);
    let sharers = |after: &[Placement], server: usize| {
        let mut others: Vec<usize> =
            after.iter().filter(|one| one.holders.contains(&server)).flat_map(|one| one.holders.clone()).collect();
        others.sort_unstable();
        others.dedup();
        others.len() - 1
    };
    for count in [60, 61, 62] {
        let all = equal(count);
        before = assign(&before, &all, 3);
        check(&before, &all, 3);
        let most = (0..count).map(|server| sharers(&before, server)).max().unwrap();
        assert!(most <= NEIGHBOURS_MAX, "{most}");
    }
}

/// Clusters that change at random, by seed.
#[test]
fn whatever_changes_every_assignment_is_one() {
    for seed in 0..300 {
        let mut random = Rng::with_seed(seed);
        let shards = 1 << random.usize(3..9);
        let copies = random.usize(1..4);
        let mut all: Vec<Candidate> = Vec::new();
        let mut placements = born(shards);
        for step in 0..random.usize(1..8) {
            for _ in 0..random.usize(0..3) {
                let number = all.len();
                let (host, zone) = (random.usize(0..number + 2), random.usize(0..3));
                all.push(server(
                    &format!("s{number:02}"),
                    &format!("h{host}"),
                    &format!("z{zone}"),
                    random.u64(1..9) * 16,
                ));
            }
            for one in &mut all {
                one.leaves ^= random.u8(0..8) == 0;
            }
            let after = assign(&placements, &all, copies);
            check(&after, &all, copies);
            assert_eq!(assign(&placements, &all, copies), after, "seed {seed}, step {step}: the same again");
            placements = after;
        }
    }
}
