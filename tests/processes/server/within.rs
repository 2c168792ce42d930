//! A server within the test's own process, where a test can set what no flag sets: clocks, and
//! small limits.

use crate::support::forwarder::Forwarder;
use crate::support::{Client, WAIT_MAX};
use remora::engine::{Engine, Settings};
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
        let item_bytes_max = 1 << 20;
        let store =
            Store::new(StoreConfig { memory_bytes, item_bytes_max, workers: config.workers, ..StoreConfig::default() });
        let settings = Settings { item_bytes_max, workers: config.workers, rows: Vec::new() };
        let store = Arc::new(store.expect("memory for a store"));
        let engine = Arc::new(Engine::new(store.clone(), settings));
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
