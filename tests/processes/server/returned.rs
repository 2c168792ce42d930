//! Requests that a server has forwarded, and executes itself in the end: their owner has not done
//! them, and their shards take writes here by then. And what it holds of those that are under way.
//! The server is within this process, and the owner is the test.

use super::within::Within;
use crate::support::Client;
use crate::support::forwarder::{Owner, OwnerPort};
use remora::engine::acks::AckPolicy;
use remora::engine::{Engine, Switches};
use remora::protocol::forward::Fate;
use remora::replication::secret::Secret;
use remora::replication::standing::Chain;
use remora::server::ServerConfig;
use remora::server::forward::Forwarding;
use remora::store::Primary;
use socket2::SockRef;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// A forwarder, and the owner of all of its shards.
struct Scene {
    server: Within,
    port: OwnerPort,
}

impl Scene {
    fn new(acks: AckPolicy) -> Scene {
        Scene::with(ServerConfig::default(), acks)
    }

    fn with(config: ServerConfig, acks: AckPolicy) -> Scene {
        let forwarding = Forwarding { secret: Secret::none(), chain: Arc::new(Chain::new([1; 16])) };
        let config = ServerConfig { forwarding: Some(forwarding), ..config };
        let switches = Switches { forwards: true, ..Switches::default() };
        let with = |engine: Engine| engine.with_acks(acks).with_switches(switches);
        let scene = Scene { server: Within::start_with(config, 16 << 20, with), port: OwnerPort::new() };
        scene.close();
        scene
    }

    fn close(&self) {
        let primary =
            Primary { clients: "10.0.0.1:11211".into(), replication: Some(self.port.address().to_string().into()) };
        self.server.store.close_gates_for(0..self.server.store.shards().len(), &primary);
    }

    fn open(&self) {
        self.server.store.open_gates(0..self.server.store.shards().len());
    }

    /// Send these requests, which go to the owner; once they are there the shards are open here,
    /// and the owner has done none of them.
    fn give_back(&self, client: &mut Client, requests: &[&str]) -> Owner {
        client.send(requests.concat().as_bytes());
        let mut owner = self.port.accept();
        let tags: Vec<u32> = requests
            .iter()
            .map(|request| {
                let (tag, arrived) = owner.request();
                assert_eq!(arrived, *request);
                tag
            })
            .collect();
        self.open();
        tags.iter().for_each(|tag| owner.answer(*tag, Fate::NotMine, b""));
        owner
    }
}

/// One that fills an output by itself.
#[test]
fn a_large_value_that_is_read_here_after_all_is_whole() {
    let scene = Scene::new(AckPolicy::default());
    scene.open();
    let (mut client, value) = (scene.server.connect(), vec![b'v'; 700 << 10]);
    assert_eq!(client.set("large", &value), "STORED");
    scene.close();
    let _owner = scene.give_back(&mut client, &["get large\r\n", "get none\r\n"]);
    assert_eq!(client.line(), format!("VALUE large 0 {}", value.len()));
    assert!(client.exactly(value.len() + 2) == [&value[..], b"\r\n"].concat());
    assert_eq!([client.line(), client.line()], ["END", "END"]);
}

/// Such a write waits for replicas as any other does, and what is behind it waits for it.
#[test]
fn a_write_that_is_done_here_after_all_is_held_for_replicas() {
    let scene = Scene::new(AckPolicy { replicas: 1, timeout: Duration::from_millis(300) });
    let mut client = scene.server.connect();
    let _owner = scene.give_back(&mut client, &["set a 0 0 1\r\nx\r\n", "incr a 1\r\n", "get a\r\n"]);
    let told = client.line();
    assert!(told.starts_with("SERVER_ERROR not acknowledged: 0 of 1 replicas have it after "), "{told}");
    assert_eq!(client.line(), "CLIENT_ERROR cannot increment or decrement non-numeric value");
    assert_eq!([client.line(), client.line(), client.line()], ["VALUE a 0 1", "x", "END"]);
}

/// A client that asks for no answer may go at once.
#[test]
fn what_a_client_left_behind_is_done_here() {
    let scene = Scene::new(AckPolicy::default());
    let mut client = TcpStream::connect(scene.server.address).expect("a connection");
    client.write_all(b"set a 0 0 1 noreply\r\nx\r\nset b 0 0 1 noreply\r\ny\r\n").expect("it is taken");
    let mut owner = scene.port.accept();
    let tags = [owner.request().0, owner.request().0];
    // Reset: one that has only said that nothing more comes stays until it is answered.
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(client);
    scene.server.wait_for(|| scene.server.stat("curr_connections") == 1);
    scene.open();
    tags.iter().for_each(|tag| owner.answer(*tag, Fate::NotMine, b""));
    scene.server.wait_for(|| scene.server.connect().get("b").is_some());
    assert_eq!(scene.server.connect().get("a").as_deref(), Some(&b"x"[..]));
}

/// It waits for room as any other request does, and what is behind it waits for it.
#[test]
fn what_finds_no_room_here_waits_for_it() {
    let scene = Scene::new(AckPolicy::default());
    let store = scene.server.store.clone();
    let mut seat = store.join();
    let turn = seat.turn();
    scene.open();
    let shard = store.locate(b"a").place.shard();
    scene.server.fill(shard, &mut scene.server.link(), 2000);
    scene.close();
    let (mut client, set) = (scene.server.connect(), format!("set a 0 0 2000\r\n{}\r\n", "x".repeat(2000)));
    let _owner = scene.give_back(&mut client, &[&set, "delete a\r\n"]);
    assert_eq!(scene.server.connect().ask("mn"), "MN", "others do not wait");
    drop(turn);
    assert_eq!([client.line(), client.line()], ["STORED", "DELETED"]);
}

/// Requests count as what clients have sent, answers as what they do not take.
#[test]
fn what_is_under_way_counts_as_its_clients() {
    const OUTPUT_BYTES_MAX: u64 = 8 << 20;
    const VALUE_BYTES: usize = 1_000_000;
    let config = ServerConfig { output_bytes_total_max: OUTPUT_BYTES_MAX as usize, ..ServerConfig::default() };
    let scene = Scene::with(config, AckPolicy::default());
    let (mut hoarder, request) = (scene.server.connect(), "get key\r\n");
    hoarder.send(request.repeat(32).as_bytes());
    let mut owner = scene.port.accept();
    let mut tags: Vec<u32> = (0..32).map(|_| owner.request().0).collect();
    assert_eq!(scene.server.stat("input_held_bytes"), 32 * request.len() as u64);
    let value = format!("VALUE key 0 {VALUE_BYTES}\r\n{}\r\nEND\r\n", "v".repeat(VALUE_BYTES));
    // All wait for the first one.
    while scene.server.stat("hoard_kicks") == 0 {
        let tag = tags.pop().filter(|_| !tags.is_empty()).expect("who holds too much is closed");
        owner.answer(tag, Fate::Done, value.as_bytes());
        let held = scene.server.stat("output_held_bytes");
        assert!(held <= OUTPUT_BYTES_MAX + 2 * VALUE_BYTES as u64, "{held} bytes held");
    }
    assert!(hoarder.until_closed().is_empty());
    scene.server.wait_for(|| scene.server.stat("output_held_bytes") < VALUE_BYTES as u64);
}
