//! What a locator decides: a map of 512 shards and 100 servers, at rest and where a server dies.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use remora::cluster::decide::{Command, Decisions, Proof};
use remora::cluster::map::{Map, Policy};
use remora::cluster::report::{Holding, Introduction, Report, Role};

const SHARDS: usize = 512;
const SERVERS: usize = 100;

fn intro(number: usize) -> Introduction {
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
        shards: SHARDS,
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

/// A cluster at rest, and the time.
fn cluster() -> (Decisions, u64) {
    let policy = Policy { replicas: 2, lease_ms: 1000, copies_at_once: 64, ..Policy::default() };
    let mut decisions = Decisions::new(Map::born("c".into(), SHARDS, policy), 1, 0);
    let mut now = 0;
    for round in 0..200 {
        now += 100;
        let map = decisions.map().clone();
        for server in 0..SERVERS {
            decisions.introduced(intro(server), now).expect("it is taken");
            decisions.reported(&intro(server).incarnation, &report(&map, server), now).expect("it makes sense");
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
    let (mut decisions, now) = cluster();
    group.bench_function("a step at rest", |bencher| bencher.iter(|| assert!(decisions.next(now).is_none())));
    let dies = || {
        let (mut decisions, now) = cluster();
        decisions.gone("p007", Proof::Ended);
        (decisions, now)
    };
    group.sample_size(10).bench_function("a server dies", |bencher| {
        bencher.iter_batched(dies, |(mut decisions, now)| decisions.next(now).is_some(), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, deciding);
criterion_main!(benches);
