//! What a locator decides: a map of 512 shards and 100 servers, at rest and where a server dies.
//! And how soon a map has come to those who watch it.

#[path = "cluster/observers.rs"]
mod observers;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use remora::cluster::assign::{Candidate, Placement, assign};
use remora::cluster::decide::{Command, Decisions, Proof};
use remora::cluster::map::{Map, Policy};
use remora::cluster::report::{Holding, Introduction, Report, Role};

const SHARDS: usize = 512;
const SERVERS: usize = 100;

fn intro(number: usize, shards: usize) -> Introduction {
    Introduction {
        name: format!("s{number:03}"),
        incarnation: format!("p{number:03}"),
        cluster: None,
        map_version: 0,
        generation: 0,
        clients: format!("s{number}:1"),
        replication: format!("s{number}:2"),
        host: format!("h{number}"),
        zone: format!("z{}", number % 3),
        memory_mib: 64,
        shards,
    }
}

/// What a server reports that has done what the map says.
fn report(map: &Map, number: usize) -> Report {
    let mut report = Report { map_version: map.version, ..Report::default() };
    let Some(server) = map.named(&format!("s{number:03}")) else { return report };
    for (at, shard) in map.shards.iter().enumerate() {
        let change = shard.change.filter(|change| change.heir == server.id);
        let (role, term) = match change {
            Some(change) => (Role::Primary, change.term),
            None if shard.primary == Some(server.id) => (Role::Primary, shard.term),
            None if shard.member(server.id).is_some() => (Role::Current, shard.term),
            None => continue,
        };
        report.holdings.push(Holding { shards: at.to_string(), role, term });
    }
    report
}

/// A cluster of so many at rest, and the time.
fn cluster(shards: usize, servers: usize, replicas: u8) -> (Decisions, u64) {
    let policy = Policy { replicas, lease_ms: 1000, copies_at_once: 64, ..Policy::default() };
    let mut decisions = Decisions::new(Map::born("c".into(), shards, policy), 1, 0);
    let mut now = 0;
    for round in 0..200 {
        now += 100;
        let map = decisions.map().clone();
        for server in 0..servers {
            let intro = intro(server, shards);
            decisions.introduced(intro.clone(), now).expect("it is taken");
            decisions.reported(&intro.incarnation, &report(&map, server), now).expect("it makes sense");
        }
        if round == 1 {
            decisions.command(Command::Add { server: None }, false, now).expect("they wait");
        }
        match decisions.next(now) {
            Some(next) => decisions.written(next.map),
            None if round > 20 => break,
            None => {}
        }
    }
    let status = decisions.status(now);
    assert_eq!((status.shards.moving, status.shards.without_primary), (0, 0), "{status:?}");
    (decisions, now)
}

fn deciding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cluster");
    let (mut decisions, now) = cluster(SHARDS, SERVERS, 2);
    group.bench_function("a step at rest", |bencher| bencher.iter(|| assert!(decisions.next(now).is_none())));
    let dies = || {
        let (mut decisions, now) = cluster(SHARDS, SERVERS, 2);
        decisions.gone("p007", Proof::Ended);
        (decisions, now)
    };
    group.sample_size(10).bench_function("a server dies", |bencher| {
        bencher.iter_batched(dies, |(mut decisions, now)| decisions.next(now).is_some(), BatchSize::PerIteration);
    });
    let candidate = |number: usize| {
        let Introduction { name, host, zone, memory_mib, .. } = intro(number, SHARDS);
        Candidate { name, host, zone, memory: memory_mib, leaves: false }
    };
    let (nobody, all): (Vec<_>, Vec<_>) = (vec![Placement::default(); SHARDS], (0..=SERVERS).map(candidate).collect());
    group.bench_function("all shards are assigned", |bencher| bencher.iter(|| assign(&nobody, &all[1..], 3)));
    let level = assign(&nobody, &all[..SERVERS], 3);
    group.bench_function("shards go to a new server", |bencher| bencher.iter(|| assign(&level, &all, 3)));
    group.finish();
}

fn telling(criterion: &mut Criterion) {
    let map = |shards, servers, replicas| cluster(shards, servers, replicas).0.map().clone();
    let maps =
        [("256 shards and 10 servers", map(256, 10, 1)), ("512 shards and 100 servers", map(SHARDS, SERVERS, 2))];
    observers::told(criterion, &maps);
}

criterion_group!(benches, deciding, telling);
criterion_main!(benches);
