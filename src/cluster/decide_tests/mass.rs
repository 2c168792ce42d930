//! Servers that die together.
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn a_zone_that_goes_is_one_event_and_other_mass_failures_are_for_people() {
    let mut cluster = Cluster::new(6, policy(1, 1), |server| format!("z{}", server % 3));
    // s0 and s3 are of one zone.
    cluster.stop("s0");
    cluster.stop("s3");
    cluster.stop("s1");
    cluster.pass(2000);
    assert!(cluster.map().is_alive(cluster.id("s0")), "three of six are gone, of two zones");
    assert!(cluster.decisions.status(cluster.now).stopped.is_some());
    let version = cluster.map().version;
    cluster.pass(5000);
    assert_eq!(cluster.map().version, version, "nothing is decided");
    cluster.running.push(("s1".into(), "s1-0".into(), "z1".into()));
    cluster.running.push(("s0".into(), "s0-0".into(), "z0".into()));
    cluster.running.push(("s3".into(), "s3-0".into(), "z0".into()));
    cluster.pass(1000);
    assert_eq!(cluster.decisions.status(cluster.now).stopped, None, "they are back, as they were");
    cluster.stop("s0");
    cluster.stop("s3");
    cluster.pass(3000);
    assert_eq!(cluster.decisions.status(cluster.now).stopped, None);
    assert!(!cluster.map().is_alive(cluster.id("s0")) && cluster.is_well());
}

#[test]
fn who_died_and_is_whole_again_counts_no_more() {
    for is_whole in [false, true] {
        let mut cluster = plain(3);
        cluster.kill("s0");
        cluster.pass(1000);
        cluster.copies_slowly = !is_whole;
        cluster.start("s0", "s0-1");
        cluster.pass(3000);
        assert_eq!(cluster.is_well(), is_whole);
        cluster.kill("s1");
        cluster.pass(1000);
        let stopped = cluster.decisions.status(cluster.now).stopped;
        assert_eq!(stopped.is_none(), is_whole, "{stopped:?}");
        assert_eq!(cluster.led_by("s1") == 0 && cluster.is_well(), is_whole);
    }
}

#[test]
fn what_is_left_of_a_mass_failure_may_be_the_failure_of_one() {
    let mut cluster = plain(3);
    let process = cluster.stop("s0");
    cluster.stop("s1");
    cluster.pass(3000);
    assert!(cluster.decisions.status(cluster.now).stopped.is_some(), "two of three are gone");
    cluster.start("s0", &process);
    cluster.pass(2000);
    assert_eq!(cluster.decisions.status(cluster.now).stopped, None);
    assert_eq!(cluster.led_by("s1"), 0);
    assert!(cluster.is_well());
}
