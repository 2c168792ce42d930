//! Heirs that end before they have said whether their term has begun.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::cluster::map::{Id, Shard};

/// The primary of shard 0 stands still until another one is to succeed it: the cluster, the shard
/// as it was, the name and process of its primary, and the heir.
fn succeeded(mut cluster: Cluster) -> (Cluster, Shard, (String, Id), ServerId) {
    let shard = cluster.map().shards[0].clone();
    let was = name(&cluster, shard.primary.unwrap());
    let process = cluster.stop(&was);
    while cluster.map().shards[0].change.is_none() {
        cluster.step();
    }
    let heir = cluster.map().shards[0].change.unwrap().heir;
    (cluster, shard, (was, process), heir)
}

fn name(cluster: &Cluster, id: ServerId) -> String {
    cluster.map().server(id).unwrap().name.clone()
}

/// It may have begun. But nobody else was listed with it, so nothing was acknowledged by its term,
/// and the primary of before has all that was acknowledged by its own.
#[test]
fn the_primary_of_before_has_what_an_heir_that_has_ended_may_have_acknowledged() {
    let (mut cluster, shard, (was, process), heir) = succeeded(plain(3));
    cluster.kill(&name(&cluster, heir));
    cluster.start(&was, &process);
    cluster.pass(1000);
    // Two of three were gone together, so it may wait for an operator.
    cluster.command(Command::Resume { server: None }).unwrap_or_default();
    cluster.pass(1000);
    let is = &cluster.map().shards[0];
    assert_eq!((is.primary, is.change), (shard.primary, None), "{is:?}");
    assert!(is.term > shard.term + 1, "above the term that may have begun: {is:?}");
    assert_eq!(is.unclean_term, 0);
}

/// An heir has ended that may have begun, and another one is listed with it: that one may have
/// what was acknowledged by the heir's term.
#[test]
fn an_heir_whose_process_has_ended_may_have_begun() {
    for other_lives in [false, true] {
        let four = Cluster::new(4, policy(2, 1), |_| String::new());
        let (mut cluster, shard, (was, process), heir) = succeeded(four);
        let primary = shard.primary.unwrap();
        let other = shard.members.iter().map(|member| member.server).find(|member| *member != heir).unwrap();
        cluster.kill(&name(&cluster, heir));
        if !other_lives {
            cluster.kill(&name(&cluster, other));
        }
        cluster.start(&was, &process);
        for _ in 0..2 {
            cluster.pass(2000);
            // Two or three were gone together, so it may wait for an operator.
            cluster.command(Command::Resume { server: None }).unwrap_or_default();
        }
        cluster.pass(2000);
        let is = &cluster.map().shards[0];
        if other_lives {
            assert!(is.change.is_none() && is.term > shard.term + 1 && is.unclean_term == 0, "{is:?}");
            assert!(cluster.map().living_primary(is).is_some());
        } else {
            assert!(is.change.is_some_and(|change| change.gone > 0), "{is:?}");
            assert_eq!(duty(cluster.map(), primary, 0), Duty::Wait, "acknowledged writes may be elsewhere");
        }
    }
}
