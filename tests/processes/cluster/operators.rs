//! What operators of a cluster do, by `remora ctl cluster`, with real servers under writes.

use super::life::{Locator, Site, folder, operator, under_writes};
use crate::node::wait_until;
use remora::cluster::decide::Command as Order;
use remora::cluster::map::Map;
use std::path::Path;

fn has_found_the_locator(site: &Site, name: &str) {
    wait_until("it has found the locator", || {
        site.status().servers.iter().any(|one| one.name == name).then_some(()).ok_or("not yet")
    });
}

/// What is printed, once it is done. A locator that could not run for a while, as on a busy
/// machine, has an operator ask again.
fn done(locator: &Locator, words: &[&str]) -> String {
    wait_until(&format!("{words:?}"), || {
        let said = operator(locator, words);
        assert!(said.as_ref().err().is_none_or(|why| why.contains("ask again")), "{words:?}: {said:?}");
        said
    })
}

/// The name of a shard's primary.
fn primary_of(site: &Site, shard: usize) -> String {
    let map = site.map();
    let primary = map.shards[shard].primary.expect("a primary");
    map.server(primary).expect("a server").name.clone()
}

#[test]
fn a_shard_moves_and_no_write_is_lost() {
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    let mut site = Site::born(&[&locator], &["a", "b", "c"]);
    under_writes(&mut site, |site, writers| {
        for shard in ["0", "5", "0"] {
            let before = primary_of(site, shard.parse().expect("a number"));
            let other = ["a", "b", "c"].into_iter().find(|name| *name != before).expect("there are three");
            let dry = done(&locator, &["move", shard, other, "--dry-run"]);
            assert!(dry.contains(&format!("{other} takes over shard {shard}")) && dry.contains("copied"), "{dry}");
            let said = done(&locator, &["move", shard, other]);
            assert!(said.ends_with("done\n"), "{said}");
            assert_eq!(primary_of(site, shard.parse().expect("a number")), other, "{said}");
            let again = operator(&locator, &["move", shard, other]).unwrap_err();
            assert!(again.contains("is the primary"), "{again}");
            writers.go_on();
        }
    });
}

#[test]
fn a_change_is_waited_for_and_tells_how_far_it_is() {
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    let mut site = Site::born(&[&locator], &["a", "b", "c"]);
    wait_until("sizes are told", || {
        let dry = done(&locator, &["drain", "c", "--dry-run"]);
        if dry.contains(" KiB, in ") { Ok(()) } else { Err(dry) }
    });
    let said = done(&locator, &["drain", "c", "--json"]);
    let lines: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    assert!(lines[0]["answer"].as_str().is_some_and(|words| words.contains("gives its shards")), "{said}");
    let last = lines.last().expect("lines");
    assert_eq!((last["done"].as_bool(), last["shards_left"].as_u64()), (Some(true), Some(0)), "{said}");
    let drained = site.server("c");
    assert_eq!((drained.primary, drained.replica), (0, 0), "it has waited");
    drop(site.nodes.remove("c"));
    done(&locator, &["remove", "c"]);
    assert!(!site.status().servers.iter().any(|one| one.name == "c"), "it has waited");
    let unwaited = done(&locator, &["rebalance", "--no-wait"]);
    assert!(!unwaited.contains("done"), "{unwaited}");
}

#[test]
fn a_policy_is_shown_and_changed() {
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    let mut site = Site::born(&[&locator], &["a", "b", "c"]);
    let shown = done(&locator, &["policy"]);
    assert!(shown.contains("replicas=1\n") && shown.contains("copy_mib_per_second=none\n"), "{shown}");
    let wrong = operator(&locator, &["policy", "ack=1"]).unwrap_err();
    assert!(wrong.contains("its keys are acks, "), "{wrong}");
    let wrong = operator(&locator, &["policy", "acks=2"]).unwrap_err();
    assert!(wrong.contains("no write can be acknowledged"), "{wrong}");
    let changes = ["policy", "replicas=2", "acks=2", "copy_mib_per_second=500"];
    let dry = done(&locator, &[&changes[..], &["--dry-run"]].concat());
    assert!(dry.contains("acks: 1 -> 2") && dry.contains("8 replicas are to be copied"), "{dry}");
    assert_eq!(site.map().policy.acks, 1);
    under_writes(&mut site, |site, writers| {
        done(&locator, &changes);
        writers.go_on();
        let map = site.map();
        assert_eq!((map.policy.acks, map.policy.copy_mib_per_second), (2, Some(500)));
        assert!(map.shards.iter().all(|shard| shard.members.len() == 2), "it has waited");
    });
}

fn write(path: &Path, names: &[&str]) {
    let tables: String = names.iter().map(|name| format!("[[server]]\nname = \"{name}\"\n")).collect();
    std::fs::write(path, tables).expect("a file");
}

#[test]
fn a_list_of_servers_is_pushed() {
    let (folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    let mut site = Site::born(&[&locator], &["a", "b"]);
    let list = folder.path().join("servers.toml");
    let path = list.to_str().expect("UTF-8").to_string();
    write(&list, &["b", "c"]);
    let early = operator(&locator, &["push", &path]).unwrap_err();
    assert!(early.contains("c has not introduced itself"), "{early}");
    under_writes(&mut site, |site, writers| {
        site.start("c");
        writers.know(site);
        has_found_the_locator(site, "c");
        let dry = done(&locator, &["push", &path, "--dry-run"]);
        assert!(dry.contains("c has its part; a gives its shards"), "{dry}");
        done(&locator, &["push", &path]);
        site.settle(2);
        let (drained, added) = (site.server("a"), site.server("c"));
        assert!(drained.primary + drained.replica == 0 && added.primary > 0, "{drained:?} {added:?}");
    });
    done(&locator, &["push", &path]);
    wait_until("who is not listed and has nothing is forgotten", || {
        let wanted = site.server("a").wanted;
        if wanted.is_none() { Ok(()) } else { Err(format!("{wanted:?}")) }
    });
    std::fs::write(&list, "[[server]]\nname = \"b\"\nrole = \"primary\"\n").expect("a file");
    let wrong = operator(&locator, &["push", &path]).unwrap_err();
    assert!(wrong.contains("line 3, column 1") && wrong.contains("role"), "{wrong}");
}

/// The locator looks by itself, and tells what it has found.
#[test]
fn a_server_that_somebody_cannot_reach_is_looked_for() {
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    let site = Site::born(&[&locator], &["a", "b", "c"]);
    let report = |name: &str| operator(&locator, &["report", name]);
    let said = report("b").expect("it was looked for");
    let words = ["it has reported", "replication port answers", "takes connections", "not taken for ended"];
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    assert!(site.server("b").alive, "what somebody says of it proves nothing");
    let refused: Vec<String> = (0..5).filter_map(|_| report("b").err()).collect();
    assert!(refused.iter().any(|words| words.contains("a moment ago")), "{refused:?}");
    assert!(report("nobody").unwrap_err().contains("no server nobody"));
    site.nodes["b"].server.signal("STOP");
    let silent = wait_until("it is looked for", || report("b"));
    assert!(silent.contains("does not answer") && silent.contains("not taken for ended"), "{silent}");
    site.nodes["b"].server.signal("CONT");
}

/// The folder of the locator is lost: servers know the map, and go on meanwhile.
#[test]
fn a_cluster_whose_store_is_lost_goes_on_from_what_its_servers_know() {
    let (folder, store) = folder();
    let mut locator = Locator::start("127.0.0.1:0", &store);
    let address = locator.address.clone();
    let mut site = Site::born(&[&locator], &["a", "b", "c"]);
    let old = folder.path().join("old.json").to_str().expect("UTF-8").to_string();
    done(&locator, &["export", &old]);
    // A shard has another primary since.
    let other = ["a", "b", "c"].into_iter().find(|name| *name != primary_of(&site, 0)).expect("there are three");
    done(&locator, &["move", "0", other]);
    let before = site.map();
    under_writes(&mut site, |site, writers| {
        locator.terminate();
        locator = Locator::start(&address, &format!("{store}-new"));
        let dry = wait_until("servers find the locator", || {
            let dry = operator(&locator, &["recover", "--dry-run", "--from", &old])?;
            if dry.contains("not there: none") { Ok(dry) } else { Err(dry) }
        });
        assert!(
            dry.contains(&format!("goes on from map {}, of ", before.version)) && !dry.contains("the file"),
            "{dry}"
        );
        let refused = operator(&locator, &["init", "--shards", "8"]).unwrap_err();
        assert!(refused.contains("belong to the cluster") && refused.contains("recover"), "{refused}");
        assert!(refused.contains(&before.cluster), "{refused}");
        done(&locator, &["recover", "--from", &old]);
        let stopped = wait_until("it waits for an operator", || {
            let status = site.status();
            status.stopped.clone().ok_or(format!("{status:?}"))
        });
        assert!(stopped.contains("says resume"), "{stopped}");
        writers.go_on();
        wait_until("all have reported", || operator(&locator, &["resume"]));
        site.settle(3);
        writers.go_on();
    });
    let after = site.map();
    assert_eq!(after.cluster, before.cluster);
    assert!(after.version > before.version && after.generation > before.generation);
    for (before, after) in before.shards.iter().zip(&after.shards) {
        assert!(after.term >= before.term && after.reserved > before.reserved, "{before:?} {after:?}");
    }
    assert!(operator(&locator, &["recover"]).unwrap_err().contains("there is a cluster already"));
}

/// Everything is lost but a file: its cluster begins empty, above all that may have been written.
#[test]
fn a_cluster_of_which_a_file_is_left_begins_anew() {
    let (folder, store) = folder();
    let file = folder.path().join("map.json");
    let path = file.to_str().expect("UTF-8").to_string();
    let exported: Map = {
        let locator = Locator::start("127.0.0.1:0", &store);
        let site = Site::born(&[&locator], &["a", "b"]);
        done(&locator, &["export", &path]);
        site.map()
    };
    let locator = Locator::start("127.0.0.1:0", &format!("{store}-new"));
    let text = std::fs::read_to_string(&file).expect("text");
    std::fs::write(&file, text.replacen("\"version\":", "\"version\":1", 1)).expect("a file");
    assert!(operator(&locator, &["recover", "--from", &path]).unwrap_err().contains("checksum"));
    std::fs::write(&file, text).expect("a file");
    assert!(operator(&locator, &["recover"]).unwrap_err().contains("--from"));
    done(&locator, &["recover", "--from", &path]);
    wait_until("an operator says that nobody is missing", || operator(&locator, &["resume"]));
    let mut site = Site::of(&[&locator]);
    ["a", "b"].iter().for_each(|name| site.start(name));
    wait_until("both are there", || {
        let status = site.status();
        let there = status.servers.iter().filter(|server| server.alive).count();
        if there == 2 {
            return Ok(());
        }
        // They died together, as far as the map knows.
        let _ = site.ask(&remora::cluster::client::Question::Change {
            command: Order::Resume { server: None },
            dry_run: false,
        });
        Err(format!("{status:?}"))
    });
    site.settle(2);
    let after = site.map();
    assert_eq!(after.cluster, exported.cluster);
    assert!(after.version > exported.version + 1000, "{} and {}", after.version, exported.version);
}
