//! A store that is put back, step by step.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::cluster::decide::obedient::{Cluster, intro, policy};
use crate::cluster::map::{Map, Shard, Way};
use crate::cluster::report::{Holding, Report};

/// What this process held by the map that is lost.
fn held(lost: &Map, process: &str) -> Report {
    let mut report = Report { map_version: lost.version, ..Report::default() };
    let Some(server) = lost.servers.iter().find(|one| one.incarnation.as_deref() == Some(process)) else {
        return report;
    };
    for (number, shard) in lost.shards.iter().enumerate() {
        let role = match () {
            () if shard.primary == Some(server.id) => Role::Primary,
            () if shard.member(server.id).is_some() => Role::Current,
            () => continue,
        };
        report.holdings.push(Holding { shards: number.to_string(), role, term: shard.term });
    }
    report
}

/// A cluster whose store was put back from a copy that it wrote before s0 died and s4 was added;
/// and the map that is lost.
fn put_back(but: &str) -> (Cluster, Map) {
    let mut cluster = Cluster::new(4, policy(1, 1), |_| String::new());
    let old = cluster.map().clone();
    cluster.kill("s0");
    cluster.pass(3000);
    cluster.start("s4", "s4-0");
    cluster.step();
    cluster.command(Command::Add { server: Some("s4".into()) }).unwrap();
    cluster.pass(30_000);
    assert!(cluster.led_by("s4") > 0);
    let lost = cluster.map().clone();
    cluster.decisions = Decisions::new(old, lost.generation + 1, cluster.now);
    for (name, process, zone) in cluster.running.clone().into_iter().filter(|one| one.0 != but) {
        let known = crate::cluster::report::Introduction { map_version: lost.version, ..intro(&name, &process, &zone) };
        cluster.decisions.introduced(known, cluster.now).unwrap();
    }
    report_all(&mut cluster, &lost, but);
    (cluster, lost)
}

fn report_all(cluster: &mut Cluster, lost: &Map, but: &str) {
    for (_, process, _) in cluster.running.clone().into_iter().filter(|one| one.0 != but) {
        cluster.decisions.reported(&process, &held(lost, &process), cluster.now).unwrap();
    }
}

fn name(map: &Map, id: Option<ServerId>) -> Option<&str> {
    id.and_then(|id| map.server(id)).map(|server| &*server.name)
}

fn names(map: &Map, shard: &Shard) -> Vec<String> {
    let ids = shard.members.iter().map(|member| member.server).chain(shard.primary);
    ids.filter_map(|id| name(map, Some(id)).map(String::from)).collect()
}

#[test]
fn nothing_is_written_before_an_operator_says_that_nobody_is_missing() {
    let (mut cluster, lost) = put_back("");
    let resume = || Command::Resume { server: None };
    assert!(!cluster.decide(), "it has just taken charge");
    assert!(cluster.command(resume()).unwrap_err().contains("not all servers"));
    assert!(cluster.command(Command::Rebalance).unwrap_err().contains("put back"));
    for _ in 0..50 {
        cluster.now += 100;
        report_all(&mut cluster, &lost, "");
        assert!(!cluster.decide(), "no operator has said so");
        assert_eq!(cluster.decisions.lease("s1-0"), None);
    }
    assert!(cluster.decisions.status(cluster.now).stopped.unwrap().contains("put back"));
    cluster.command(resume()).unwrap();
    assert!(cluster.decide());
    assert!(cluster.map().version > lost.version);
    assert_eq!(cluster.decisions.status(cluster.now).stopped, None);
}

#[test]
fn whoever_holds_anything_is_listed_and_no_term_is_given_twice() {
    let (mut cluster, lost) = put_back("");
    cluster.now += 2000;
    report_all(&mut cluster, &lost, "");
    assert!(!cluster.decide());
    cluster.command(Command::Resume { server: None }).unwrap();
    assert!(cluster.decide());
    let map = cluster.map();
    for (is, was) in map.shards.iter().zip(&lost.shards) {
        assert_eq!((name(map, is.primary), is.term), (name(&lost, was.primary), was.term));
        assert!(is.reserved > was.reserved, "a lost map may have reserved one");
        let listed = names(map, is);
        assert!(names(&lost, was).iter().all(|one| listed.contains(one)), "{is:?}, and it was {was:?}");
    }
    cluster.pass(60_000);
    assert!(cluster.is_well(), "{:#?}", cluster.map());
    assert!(cluster.map().shards.iter().all(|shard| shard.unclean_term == 0));
}

#[test]
fn a_primary_that_is_missing_is_succeeded_by_those_of_its_term() {
    let (mut cluster, lost) = put_back("s4");
    cluster.stop("s4");
    cluster.now += 2000;
    report_all(&mut cluster, &lost, "s4");
    assert!(!cluster.decide());
    cluster.command(Command::Resume { server: None }).unwrap();
    assert!(cluster.decide());
    let s4 = lost.named("s4").unwrap().id;
    let led = lost.shards.iter().enumerate().filter(|(_, shard)| shard.primary == Some(s4));
    for (number, was) in led {
        let is = &cluster.map().shards[number];
        let had = name(&lost, Some(was.members[0].server));
        assert_eq!((name(cluster.map(), is.primary), is.term), (had, was.term), "{is:?}, and it was {was:?}");
        // Some wait for s0, of which the old map knows no end.
        match is.change {
            Some(change) => assert_eq!((Some(change.heir), change.way), (is.primary, Way::Gather), "{is:?}"),
            None => assert!(cluster.decisions.memory.waiting.contains_key(&number), "{is:?}"),
        }
        assert!(is.reserved > was.reserved);
    }
}

/// The store is lost: what the servers know is stored, and is behind them until an operator says
/// that all are there.
#[test]
fn a_recovered_map_waits_for_an_operator_and_goes_above_what_servers_know() {
    let (cluster, lost) = put_back("");
    let mut cluster =
        Cluster { decisions: Decisions::new(recovered(lost.clone(), lost.version), 1, cluster.now), ..cluster };
    for (name, process, zone) in cluster.running.clone() {
        let known = crate::cluster::report::Introduction { map_version: lost.version, ..intro(&name, &process, &zone) };
        cluster.decisions.introduced(known, cluster.now).unwrap();
    }
    report_all(&mut cluster, &lost, "");
    for _ in 0..30 {
        cluster.now += 100;
        report_all(&mut cluster, &lost, "");
        assert!(!cluster.decide(), "nobody has said that all are there");
    }
    assert!(cluster.decisions.status(cluster.now).stopped.is_some_and(|why| why.contains("says resume")));
    cluster.command(Command::Resume { server: None }).unwrap();
    assert!(cluster.decide());
    assert!(cluster.map().version > lost.version && cluster.map().generation > lost.generation);
    for (lost, now) in lost.shards.iter().zip(&cluster.map().shards) {
        assert!(now.reserved >= lost.reserved + LOST_TERMS, "{lost:?} {now:?}");
    }
}

/// A locator that is started anew before an operator has said so knows nobody yet.
#[test]
fn a_recovered_map_waits_where_no_server_is_there_yet() {
    let (cluster, lost) = put_back("");
    let recovered = recovered(lost.clone(), lost.version);
    let mut cluster = Cluster { decisions: Decisions::new(recovered, 1, cluster.now), ..cluster };
    for _ in 0..30 {
        cluster.now += 1000;
        assert!(!cluster.decide(), "a version that servers know would be given again");
    }
}

#[test]
fn a_recovered_map_of_a_file_goes_above_what_may_have_been_written_since() {
    let (_, lost) = put_back("");
    for highest in [0, lost.version - 1] {
        let map = recovered(lost.clone(), highest);
        assert!(map.version >= lost.version + LOST_VERSIONS);
        assert_eq!(map.acks_before, Some((1, map.version)), "K may have been lower");
        assert!(map.shards.iter().zip(&lost.shards).all(|(now, lost)| now.reserved >= lost.term + LOST_TERMS));
        assert!(map.restored, "nobody takes it before an operator says so");
        assert_eq!(map.check(), Ok(()));
    }
}
