//! What operators ask for beside adding and draining, with servers that do at once what a map says.
#![allow(clippy::unwrap_used)]

use super::obedient::{Cluster, policy};
use super::*;
use crate::cluster::map::{Policy, Wanted};

fn plain(servers: usize) -> Cluster {
    Cluster::new(servers, policy(1, 1), |_| String::new())
}

fn listed(servers: &[(&str, Wanted)]) -> Command {
    let one = |(name, wanted): &(&str, Wanted)| Listed { name: (*name).into(), zone: None, wanted: *wanted };
    Command::Push { servers: servers.iter().map(one).collect() }
}

fn moved(shard: usize, server: &str) -> Command {
    Command::Move { shard, server: server.into() }
}

/// The shard's primary and its one replica.
fn holders(cluster: &Cluster, shard: usize) -> (String, String) {
    let place = &cluster.map().shards[shard];
    let name = |id| cluster.map().server(id).unwrap().name.clone();
    (name(place.primary.unwrap()), name(place.members[0].server))
}

#[test]
fn a_shard_moves_to_the_server_that_is_named_by_a_hand_over() {
    let mut cluster = plain(4);
    let (primary, replica) = holders(&cluster, 3);
    let before = cluster.map().shards.clone();
    assert!(cluster.command(moved(3, &primary)).unwrap_err().contains("is the primary"));
    let words = cluster.command(moved(3, &replica)).unwrap();
    assert!(words.contains("no replicas are to be copied, and 1 shards"), "{words}");
    cluster.pass(2000);
    assert_eq!(holders(&cluster, 3), (replica.clone(), primary.clone()), "they have changed places");
    let other = ["s0", "s1", "s2", "s3"].into_iter().find(|name| ![&primary, &replica].contains(&&(*name).into()));
    let words = cluster.command(moved(3, other.unwrap())).unwrap();
    assert!(words.contains("1 replicas are to be copied"), "{words}");
    cluster.pass(5000);
    assert_eq!(holders(&cluster, 3), (other.unwrap().into(), primary));
    assert!(cluster.is_well());
    let term = |shards: &[crate::cluster::map::Shard]| shards[3].term;
    assert_eq!(term(&cluster.map().shards), term(&before) + 2, "each has begun a term of its own");
    for (shard, place) in cluster.map().shards.iter().enumerate().filter(|(shard, _)| *shard != 3) {
        assert_eq!(place, &before[shard], "no other shard moves");
    }
    cluster.pass(60_000);
    assert_eq!(cluster.map().shards[3].primary, Some(cluster.id(other.unwrap())), "it stays there");
}

#[test]
fn a_move_that_cannot_be_is_refused() {
    let mut cluster = plain(3);
    let (_, replica) = holders(&cluster, 0);
    assert!(cluster.command(moved(8, "s0")).unwrap_err().contains("0 to 7"));
    assert!(cluster.command(moved(0, "s9")).unwrap_err().contains("no server s9"));
    let dry = cluster.decisions.command(moved(0, &replica), true, cluster.now).unwrap();
    assert!(dry.contains("takes over shard 0"), "{dry}");
    let version = cluster.map().version;
    cluster.pass(1000);
    assert_eq!(cluster.map().version, version, "a dry run changes nothing");
    cluster.command(Command::Drain { server: "s2".into() }).unwrap();
    assert!(cluster.command(moved(0, "s2")).unwrap_err().contains("cannot take shard 0"));
}

/// No two copies at one host, whatever an operator says.
#[test]
fn a_move_puts_no_two_copies_at_one_host() {
    let mut cluster = plain(3);
    let (primary, replica) = holders(&cluster, 5);
    let third = ["s0", "s1", "s2"].into_iter().find(|name| ![&primary, &replica].contains(&&(*name).into())).unwrap();
    let mut map = cluster.map().clone();
    let host = map.named(&replica).unwrap().host.clone();
    let at = map.servers.iter().position(|server| server.name == third).unwrap();
    map.servers[at].host = host;
    cluster.decisions.conflict(map);
    let refused = cluster.command(moved(5, third)).unwrap_err();
    assert!(refused.contains("same host") && refused.contains(&replica), "{refused}");
}

#[test]
fn a_list_of_servers_is_brought_about_at_once_and_by_itself_again() {
    let mut cluster = plain(3);
    cluster.start("s3", "s3-0");
    cluster.start("s4", "s4-0");
    cluster.step();
    let all = [("s1", Wanted::Serving), ("s2", Wanted::Draining), ("s3", Wanted::Serving), ("s4", Wanted::Serving)];
    let dry = cluster.decisions.command(listed(&all), true, cluster.now).unwrap();
    assert!(dry.contains("s3 has its part; s4 has its part; s2 gives") && dry.contains("s0 gives"), "{dry}");
    assert!(cluster.map().named("s3").is_none(), "a dry run does nothing");
    cluster.command(listed(&all)).unwrap();
    cluster.pass(30_000);
    assert!(cluster.is_well());
    assert_eq!((cluster.led_by("s0"), cluster.led_by("s2")), (0, 0));
    assert!(cluster.led_by("s3") > 0 && cluster.led_by("s4") > 0);
    cluster.command(listed(&all)).unwrap();
    cluster.pass(1000);
    assert!(cluster.map().named("s0").is_none(), "who is not listed and has nothing is taken out");
    assert!(cluster.map().named("s2").is_some(), "who is listed stays");
    let again = cluster.command(listed(&all)).unwrap();
    assert!(again.starts_with("the servers are as they are listed"), "{again}");
}

#[test]
fn a_list_that_cannot_be_is_refused_whole() {
    let mut cluster = plain(3);
    let refused = |cluster: &mut Cluster, servers: &[(&str, Wanted)]| cluster.command(listed(servers)).unwrap_err();
    assert!(refused(&mut cluster, &[]).contains("no server"));
    let twice = [("s0", Wanted::Serving), ("s0", Wanted::Draining)];
    assert!(refused(&mut cluster, &twice).contains("twice"));
    assert!(refused(&mut cluster, &[("s0", Wanted::Serving), ("s9", Wanted::Serving)]).contains("s9"));
    let few = refused(&mut cluster, &[("s0", Wanted::Serving)]);
    assert!(few.contains("are needed for a write to be acknowledged"), "{few}");
    let zoned = Listed { name: "s0".into(), zone: Some("north".into()), wanted: Wanted::Serving };
    let zone = cluster.command(Command::Push { servers: vec![zoned] }).unwrap_err();
    assert!(zone.contains("--zone north"), "{zone}");
    let version = cluster.map().version;
    cluster.pass(1000);
    assert_eq!(cluster.map().version, version, "nothing of it is done");
}

/// What a server tells of its sizes is what a dry run says.
#[test]
fn a_dry_run_says_how_much_is_copied_and_for_how_long() {
    let mut cluster = plain(3);
    let drain = || Command::Drain { server: "s0".into() };
    let dry = |cluster: &mut Cluster| cluster.decisions.command(drain(), true, cluster.now).unwrap();
    assert!(dry(&mut cluster).contains("a size that is unknown"));
    let tell = |cluster: &mut Cluster, kib: u64, joining: bool| {
        for (_, process, _) in cluster.running.clone() {
            let mut report = cluster.report(&process);
            report.kib = (0..8).map(|shard| (shard, kib)).collect();
            if joining {
                report.holdings.iter_mut().for_each(|holding| holding.role = Role::Joining);
            }
            cluster.decisions.reported(&process, &report, cluster.now).unwrap();
        }
    };
    tell(&mut cluster, 20_480, false);
    let words = dry(&mut cluster);
    assert!(words.contains(" MiB, in an unknown time"), "{words}");
    cluster.command(Command::Policy(Policy { copy_mib_per_second: Some(10), ..policy(1, 1) })).unwrap();
    cluster.decide();
    let bounded = dry(&mut cluster);
    let replicas = cluster.decisions.copying(cluster.map(), cluster.now).replicas;
    assert_eq!(replicas, 0, "nothing is copied now");
    assert!(bounded.contains("MiB, in ") && bounded.ends_with("another primary") && !bounded.contains("unknown"));
    // A server that copies 2 MiB in a second is slower than the bound.
    tell(&mut cluster, 20_480, true);
    cluster.now += 1000;
    tell(&mut cluster, 20_480 + 256, true);
    let rate = cluster.decisions.memory.copied_kib_per_second.unwrap();
    assert!((5 * 256..=6 * 256).contains(&rate), "five or six shards each: {rate} KiB in a second");
    assert_ne!(dry(&mut cluster), bounded, "it takes longer");
}

#[test]
fn a_policy_says_what_changes() {
    let mut cluster = plain(3);
    let words = cluster.command(Command::Policy(Policy { heal_delay_ms: 7, ..policy(1, 1) })).unwrap();
    assert!(words.contains("heal_delay_ms: 10000 -> 7"), "{words}");
    let zero = Policy { copy_mib_per_second: Some(0), ..policy(1, 1) };
    assert!(cluster.command(Command::Policy(zero)).unwrap_err().contains("at least 1"));
}
