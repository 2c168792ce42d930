//! Clusters as processes: servers that do what a map says.

mod any;
#[path = "../support/etcd.rs"]
#[allow(dead_code)] // a part of it is used here
mod etcd;
mod lease;
mod life;
mod linear;
mod locator;
mod member;
mod operators;
mod scripted;
mod strong;
mod survive;
mod told;

use crate::node::Node;
use crate::support::Server;

/// A server named `name`, at a host of that name, whose writes wait for a replica.
fn server(name: &str, locators: &str, shards: usize, arguments: &[&str]) -> Node {
    let shards = shards.to_string();
    let mut all = vec!["--replication", "127.0.0.1:0", "-t", "1", "-m", "64", "--shards", &shards];
    all.extend(["--locators", locators, "--replica-name", name, "--host", name]);
    all.extend(["--ack-replicas", "1", "--ack-timeout", "10000"]);
    all.extend(arguments);
    Node::of(Server::start(&all), "remora: replication on tcp ")
}
