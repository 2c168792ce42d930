//! One server is enough for a client of memcached's protocol: it answers every key, whoever has
//! it, while others die.

use super::life::{Locator, Site, folder};
use crate::node::wait_until;
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
