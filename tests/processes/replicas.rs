//! A primary and its replicas over verbs, as whole processes: several at once, joining under load that evicts, killed, and their primary killed.
//!
//! Runs where REMORA_TEST_VERBS is the address of an RDMA device (tools/soft-roce: in a guest), and says that it was skipped elsewhere. All is
//! `--fabric verbs`, so no other fabric can take its place.

mod compare;
mod site;

use compare::same_contents;
use site::{Load, on_site, row, until};

/// Keys of the load: several times what fits.
const KEYS: u32 = 8_000;

#[test]
fn three_replicas_of_a_primary_that_evicts() {
    on_site(|site| {
        let primary = site.primary("0");
        let mut replicas = vec![site.replica(&primary, "first"), site.replica(&primary, "second")];
        let load = Load::start(&primary, KEYS);
        until("the primary evicts", || primary.server.stat("evictions").is_some_and(|count| count != "0"));
        // In the middle of it.
        replicas.push(site.replica(&primary, "third"));
        until("the third replica applies", || row(&replicas[2], "records") != "0");
        load.stop();
        let same = site.all_have_all(&primary, &replicas, KEYS);
        println!("three replicas: {same} of {KEYS} keys are there, the same on all");

        // kill -9: what it was given goes away, and another can have its place.
        drop(replicas.remove(1));
        until("the primary lets go of a killed replica", || row(&primary.server, "replicas") == "2");
        replicas.push(site.replica(&primary, "fourth"));
        let load = Load::start(&primary, KEYS);
        load.stop();
        site.all_have_all(&primary, &replicas, KEYS);
        assert_eq!(row(&primary.server, "replicas_admitted"), "4");
        assert_eq!(row(&primary.server, "replicas_refused"), "0");
    });
}

#[test]
fn a_killed_primary_that_comes_back_empty() {
    on_site(|site| {
        let primary = site.primary("0");
        let replicas = [site.replica(&primary, "first"), site.replica(&primary, "second")];
        assert_eq!(primary.server.connect().set("before", b"the kill"), "STORED");
        site.all_have_all(&primary, &replicas, 0);
        let port = primary.replication.rsplit(':').next().unwrap().to_string();
        drop(primary);
        for replica in &replicas {
            until("a replica notices", || row(replica, "state") == "connecting");
            assert_eq!(replica.connect().get("before").as_deref(), Some(&b"the kill"[..]), "served all the same");
        }

        let primary = site.primary(&port);
        assert_eq!(primary.server.connect().set("after", b"it"), "STORED");
        site.all_have_all(&primary, &replicas, 0);
        for replica in &replicas {
            assert_eq!(replica.connect().get("before"), None, "the new primary never had it");
            assert_eq!(replica.connect().get("after").as_deref(), Some(&b"it"[..]));
            assert_eq!((row(replica, "sessions"), row(replica, "bad_records")), ("2".into(), "0".into()));
        }
    });
}

/// Joining before and under load, one killed, its primary killed. Two, not three: each has a thread of the primary's as well, and guests are slow.
#[test]
fn replicas_that_are_pushed_to() {
    on_site(|site| {
        let primary = site.primary("0");
        let mut replicas = vec![site.pushed(&primary, "first")];
        let load = Load::start(&primary, KEYS);
        until("the primary evicts", || primary.server.stat("evictions").is_some_and(|count| count != "0"));
        replicas.push(site.pushed(&primary, "second"));
        until("the second replica applies", || row(&replicas[1], "records") != "0");
        load.stop();
        site.all_have_all(&primary, &replicas, KEYS);
        assert!(replicas.iter().all(|replica| row(replica, "mode") == "push"));
        assert!(replicas.iter().all(|replica| row(replica, "bad_records") == "0"));

        drop(replicas.remove(0));
        until("the primary lets go of a killed replica", || row(&primary.server, "replicas") == "1");
        assert_eq!(primary.server.connect().set("after-the-kill", b"it"), "STORED");
        site.all_have_all(&primary, &replicas, KEYS);
        let port = primary.replication.rsplit(':').next().unwrap().to_string();
        drop(primary);
        until("a replica notices", || row(&replicas[0], "state") == "connecting");
        let primary = site.primary(&port);
        assert_eq!(primary.server.connect().set("after", b"it"), "STORED");
        site.all_have_all(&primary, &replicas, 0);
        assert_eq!(replicas[0].connect().get("after").as_deref(), Some(&b"it"[..]));
    });
}

/// Not a test: for two hosts, where no test can start both servers. REMORA_TEST_COMPARE has their addresses and the number of keys.
#[test]
#[ignore = "run by the scenario hosts of tools/soft-roce"]
fn two_servers_have_the_same() {
    let words = std::env::var("REMORA_TEST_COMPARE").expect("REMORA_TEST_COMPARE is `PRIMARY REPLICA KEYS`");
    let words: Vec<&str> = words.split(' ').collect();
    let (primary, replica) = (words[0].parse().unwrap(), words[1].parse().unwrap());
    println!("{} keys are the same on both", same_contents(primary, replica, words[2].parse().unwrap()));
}
