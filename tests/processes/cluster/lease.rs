//! What servers do while no locator renews their leases: the locator stands still.

use super::life::{Locator, Site, folder};
use crate::node::wait_until;
use crate::support::Client;
use remora::cluster::map::{Consistency, Policy, WithoutLease};

const KEYS: usize = 20;

/// Wait until no server has a lease.
fn wait_for_the_end(site: &Site) {
    for (name, node) in &site.nodes {
        wait_until(&format!("{name} has no lease"), || {
            let left = node.number("cluster_lease_ms");
            if left == 0 { Ok(()) } else { Err(format!("{left} ms are left")) }
        });
    }
}

/// Wait until all keys are answered like this.
fn wait_for(client: &mut Client, what: &str, line: impl Fn(usize) -> String, answer: &str) {
    for key in 0..KEYS {
        wait_until(what, || {
            let told = client.ask(&line(key));
            if told.starts_with(answer) { Ok(()) } else { Err(told) }
        });
    }
}

fn unacknowledged(key: usize) -> String {
    format!("ms key-{key} 1 A0\r\nu")
}

fn acknowledged(key: usize) -> String {
    format!("set key-{key} 0 0 1\r\na")
}

#[test]
fn without_a_lease_only_acknowledged_writes_go_on_where_the_policy_refuses_others() {
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    let policy = Policy { without_lease: WithoutLease::Refuse, ..Policy::default() };
    let site = Site::born_with(&[&locator], &["a", "b"], policy);
    let mut client = site.nodes["a"].server.connect();
    wait_for(&mut client, "it is done", unacknowledged, "HD");
    locator.signal("STOP");
    wait_for_the_end(&site);
    wait_for(&mut client, "it is refused", unacknowledged, "SERVER_ERROR no lease: ");
    for key in 0..KEYS {
        assert_eq!(client.get(&format!("key-{key}")), Some(b"u".to_vec()), "reads go on");
        assert!(client.ask(&unacknowledged(key)).starts_with("SERVER_ERROR no lease"), "it stays so");
        assert_eq!(client.ask(&acknowledged(key)), "STORED", "the connection stays, and this is acknowledged");
        assert_eq!(client.get(&format!("key-{key}")), Some(b"a".to_vec()));
    }
    let refused =
        |name: &str| site.nodes[name].rows_of("stats")["no_lease_refused"].parse::<usize>().expect("a number");
    assert!(refused("a") + refused("b") >= 2 * KEYS);
    assert_eq!(site.nodes["a"].text("cluster_without_lease"), "refuse");
    locator.signal("CONT");
    wait_for(&mut client, "the lease is renewed", unacknowledged, "HD");
}

#[test]
fn without_a_lease_all_writes_go_on_where_the_policy_says_nothing() {
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    let site = Site::born(&[&locator], &["a", "b"]);
    let mut client = site.nodes["a"].server.connect();
    locator.signal("STOP");
    wait_for_the_end(&site);
    for key in 0..KEYS {
        assert_eq!(client.ask(&unacknowledged(key)), "HD");
        assert_eq!(client.ask(&acknowledged(key)), "STORED");
        assert_eq!(client.get(&format!("key-{key}")), Some(b"a".to_vec()));
    }
    locator.signal("CONT");
}

#[test]
fn without_a_lease_strong_mode_shows_nothing_and_takes_what_is_acknowledged() {
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    let policy = Policy { consistency: Consistency::Strong, ..Policy::default() };
    let site = Site::born_with(&[&locator], &["a", "b"], policy);
    let mut client = site.nodes["a"].server.connect();
    wait_for(&mut client, "it is done", acknowledged, "STORED");
    wait_for(&mut client, "it is shown", |key| format!("mg key-{key} s"), "HD s1");
    locator.signal("STOP");
    wait_for_the_end(&site);
    for key in 0..KEYS {
        for line in [format!("get key-{key}"), format!("get none-{key}"), format!("gat 0 key-{key}")] {
            let told = client.ask(&line);
            assert!(told.starts_with("SERVER_ERROR no lease: "), "{line}: {told}");
        }
        assert_eq!(client.ask(&format!("set key-{key} 0 0 1\r\nb")), "STORED");
    }
    let several: Vec<String> = (0..KEYS).map(|key| format!("key-{key}")).collect();
    let told = client.ask(&format!("get {}", several.join(" ")));
    assert!(told.starts_with("SERVER_ERROR no lease: "), "{told}");
    assert_eq!(site.nodes["b"].text("cluster_consistency"), "strong");
    locator.signal("CONT");
    wait_until("the lease is renewed", || {
        let told = client.ask("mg key-0 s");
        if told.starts_with("HD") { Ok(()) } else { Err(told) }
    });
    wait_for(&mut client, "the lease is renewed", |key| format!("mg key-{key} s"), "HD");
    let rows = client.rows(&format!("get {}", several.join(" ")));
    let expected: Vec<String> = several.iter().flat_map(|key| [format!("VALUE {key} 0 1"), "b".into()]).collect();
    assert_eq!(rows, expected, "several servers answer one get, and each waits for its replicas");
}
