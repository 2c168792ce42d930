//! One server is enough for a client of memcached's protocol: it answers every key, whoever has
//! it, while others die.

use super::life::{Locator, Site, folder};
use crate::node::wait_until;
use crate::replication::reads::token;
use crate::replication::through::answers;
use crate::support::Client;

const KEYS: usize = 100;

/// The map's version and the servers, as clients made for ElastiCache are told them.
fn discovered(client: &mut Client) -> (u64, Vec<String>) {
    let lines = client.rows("config get cluster");
    let [head, version, nodes, empty] = &lines[..] else { panic!("{lines:?}") };
    let bytes = version.len() + 1 + nodes.len() + 1;
    assert_eq!((head.as_str(), empty.as_str()), (format!("CONFIG cluster 0 {bytes}").as_str(), ""));
    (version.parse().expect("a number"), nodes.split(' ').map(str::to_string).collect())
}

/// Store the same under all keys, whatever it takes: a refusal is an error that says so.
fn store_everywhere(client: &mut Client, value: &str) {
    for key in 0..KEYS {
        wait_until("it is stored", || match client.set(&format!("key-{key}"), value.as_bytes()).trim_end() {
            "STORED" => Ok(()),
            error => {
                assert!(error.starts_with("SERVER_ERROR "), "{error}");
                Err(error.to_string())
            }
        });
    }
}

#[test]
fn a_client_of_one_server_reaches_every_key_and_another_one_may_die() {
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    let mut site = Site::born(&[&locator], &["a", "b", "c"]);
    let mut client = site.nodes["a"].server.connect();
    let (version, nodes) = discovered(&mut client);
    assert_eq!(nodes.len(), 3, "{nodes:?}");
    store_everywhere(&mut client, "one");
    let keys: Vec<String> = (0..KEYS).map(|key| format!("key-{key}")).collect();
    let rows = client.rows(&format!("get {}", keys.join(" ")));
    let expected: Vec<String> = keys.iter().flat_map(|key| [format!("VALUE {key} 0 3"), "one".into()]).collect();
    assert_eq!(rows, expected, "a get of keys of all servers is answered whole, and in its order");
    let forwarded: usize = site.nodes["a"].rows_of("stats")["forwarded"].parse().expect("a number");
    assert!(forwarded > KEYS / 2, "two of three keys are another server's");
    drop(site.nodes.remove("b"));
    store_everywhere(&mut client, "two");
    for key in &keys {
        assert_eq!(client.get(key), Some(b"two".to_vec()), "{key}");
    }
    wait_until("the dead server is not listed", || {
        let (now, nodes) = discovered(&mut client);
        assert!(now >= version, "versions rise");
        if nodes.len() == 2 && now > version { Ok(()) } else { Err(format!("{now}: {nodes:?}")) }
    });
    assert_eq!(client.ask("flush_all"), "OK");
    assert!(client.rows(&format!("get {}", keys.join(" "))).is_empty(), "it reached every primary");
}

/// Whoever is asked: a primary, a replica, or a server that has nothing of that shard.
#[test]
fn a_client_reads_its_own_writes_at_every_server() {
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    let site = Site::born(&[&locator], &["a", "b", "c"]);
    let mut clients: Vec<Client> = site.nodes.values().map(|node| node.server.connect()).collect();
    store_everywhere(&mut clients[0], "one");
    let mut told = [0; 2];
    for (number, key) in (0..KEYS).map(|key| (key, format!("key-{key}"))) {
        let (value, at) = (number.to_string(), number % clients.len());
        let written = answers(&mut clients[at], format!("ms {key} {} p\r\n{value}\r\n", value.len()).as_bytes());
        let token = token(&written);
        for client in &mut clients {
            let answer = answers(client, format!("mg {key} v r d y{token} Yw5000\r\n").as_bytes());
            let (line, read) = answer.split_once("\r\n").unwrap_or_default();
            assert_eq!(read.trim_end(), value, "{key}: {answer:?}");
            told[usize::from(!line.ends_with(" d0"))] += 1;
        }
    }
    println!("read from primaries and replicas: {told:?}");
    assert!(told.iter().all(|count| *count > 0), "{told:?}: of primaries, of replicas");
}

/// Without a lease a primary does not know whether it still is one: so nobody takes it for that.
#[test]
fn replicas_of_a_primary_without_a_lease_say_that_they_may_be_behind() {
    let (_folder, store) = folder();
    let locator = Locator::start("127.0.0.1:0", &store);
    let site = Site::born(&[&locator], &["a", "b"]);
    let mut client = site.nodes["a"].server.connect();
    assert_eq!(client.set("key", b"value"), "STORED");
    let behind = |at: &str| {
        let answer = answers(&mut site.nodes[at].server.connect(), b"mg key r d\r\n");
        answer.trim_end().strip_prefix("HD d").and_then(|told| told.parse::<u64>().ok()).ok_or(answer)
    };
    let replica = wait_until("the replica answers", || {
        let told = ["a", "b"].map(&behind);
        match told {
            [Ok(1..), _] => Ok("a"),
            [_, Ok(1..)] => Ok("b"),
            _ => Err(format!("{told:?}")),
        }
    });
    drop(locator);
    wait_until("its bound grows, though its primary lives", || match behind(replica) {
        Ok(told @ 2500..) => Ok(told),
        told => Err(format!("{told:?}")),
    });
}
