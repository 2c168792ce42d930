//! A server within the test's own process, where a test can set what no flag sets: clocks, and
//! small limits.

use crate::support::forwarder::Forwarder;
use crate::support::{Client, WAIT_MAX};
use remora::engine::{Engine, Settings};
use remora::protocol::Protocol;
use remora::replication::link::Link;
use remora::replication::tls::Listening;
use remora::server::listen::ListenConfig;
use remora::server::{Server, ServerConfig, Sockets, Stopper};
use remora::store::{Store, StoreConfig};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A running server; it ends when this is dropped.
pub struct Within {
    pub address: SocketAddr,
    pub store: Arc<Store>,
    stopper: Stopper,
    server: Option<Server>,
}

impl Within {
    pub fn start(config: ServerConfig, memory_bytes: usize) -> Within {
        Within::start_with(config, memory_bytes, |engine| engine)
    }

    /// One with more than an engine as such.
    pub fn start_with(config: ServerConfig, memory_bytes: usize, with: impl FnOnce(Engine) -> Engine) -> Within {
        let item_bytes_max = 1 << 20;
        let store =
            Store::new(StoreConfig { memory_bytes, item_bytes_max, workers: config.workers, ..StoreConfig::default() });
        let settings = Settings { item_bytes_max, workers: config.workers, rows: Vec::new() };
        let store = Arc::new(store.expect("memory for a store"));
        let engine = Arc::new(with(Engine::new(store.clone(), settings)));
        let any = "127.0.0.1:0".parse().expect("an address");
        let listen = ListenConfig { tcp: vec![any], backlog: 1024, ..ListenConfig::default() };
        let sockets = Sockets::bind(&listen, config.workers).expect("a port");
        let server = Server::start(config, sockets, engine, Arc::default()).expect("workers");
        Within { address: server.tcp_addresses()[0], store, stopper: server.stopper(), server: Some(server) }
    }

    pub fn connect(&self) -> Client {
        Client::tcp(self.address)
    }

    /// A link, as if its forwarder had proved itself.
    pub fn link(&self) -> Forwarder {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let until = Instant::now() + WAIT_MAX;
        let connecting = std::thread::spawn(move || Link::connected(stream, until).expect("TLS"));
        let accepted = listener.accept().expect("it has come").0;
        let taken = Link::accepted(accepted, &Listening::new().expect("a key"), until).expect("TLS");
        let server = self.server.as_ref().expect("it runs");
        let owner = server.owner().upgrade().expect("it runs");
        owner.take(taken.into_line(), owner.enter().expect("a place"));
        Forwarder::over(connecting.join().expect("it connects").into_line())
    }

    /// Store values of so many bytes in this shard until there is no room, while somebody is in a
    /// turn, who was so before: then nothing may be overwritten.
    pub fn fill(&self, shard: u32, forwarder: &mut Forwarder, value_bytes: usize) {
        let parked = self.stat("parked_requests");
        let is_its = |key: &String| self.store.locate(key.as_bytes()).place.shard() == shard;
        let mut keys = (0..).map(|number| format!("fill-{number}")).filter(is_its);
        let value = "f".repeat(value_bytes);
        while self.stat("parked_requests") == parked {
            let set = |key| format!("set {key} 0 0 {value_bytes}\r\n{value}\r\n");
            let batch: Vec<_> = keys.by_ref().take(20).map(set).collect();
            let batch: Vec<&[u8]> = batch.iter().map(|request| request.as_bytes()).collect();
            // Those that wait are refused at once: the forwarder waits for no more than that.
            forwarder.send(Protocol::Text, 1, &batch);
            batch.iter().for_each(|_| drop(forwarder.answer()));
        }
    }

    /// Wait until more than two seconds of the server's have passed: then it has looked once at
    /// least at what stands still.
    pub fn pass_two_seconds(&self) {
        let uptime = self.stat("uptime");
        self.wait_for(|| self.stat("uptime") > uptime + 2);
    }

    /// Wait until `is_so`.
    pub fn wait_for(&self, is_so: impl Fn() -> bool) {
        let until = Instant::now() + WAIT_MAX;
        while !is_so() {
            assert!(Instant::now() < until, "not within {WAIT_MAX:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// One number of plain `stats`.
    pub fn stat(&self, name: &str) -> u64 {
        let rows = self.connect().rows("stats");
        let of_name = |row: &String| row.strip_prefix(&format!("STAT {name} ")).and_then(|word| word.parse().ok());
        rows.iter().find_map(of_name).unwrap_or_else(|| panic!("{name} in {rows:?}"))
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(server) = self.server.take() {
            server.join();
        }
    }
}
