//! A TCP proxy that passes a control connection on, cuts it after so many bytes, or lets it stall.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What is done to one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Everything passes.
    Passes,
    /// Cut once so many bytes have passed: of the replica, of the primary.
    Cut { up: usize, down: usize },
    /// The same, but instead of a cut nothing more passes, and the connection stays open.
    Stalls { up: usize, down: usize },
}

/// No limit in this direction.
pub const ALL: usize = usize::MAX;

struct Shared {
    target: Mutex<SocketAddr>,
    /// The fates of the next connections. Where there is none, everything passes.
    fates: Mutex<VecDeque<Fate>>,
    sockets: Mutex<Vec<TcpStream>>,
    /// Bytes that were passed on: of replicas, of the primary.
    passed: [AtomicUsize; 2],
    stopping: AtomicBool,
}

/// See the module. Dropping it cuts everything.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn to(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            fates: Mutex::default(),
            sockets: Mutex::default(),
            passed: Default::default(),
            stopping: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        let listener = std::thread::spawn(move || {
            for replica in listener.incoming() {
                if accepting.stopping.load(Relaxed) {
                    return;
                }
                // A primary that is not there ends the connection, as it would without a proxy.
                if let (Ok(replica), Ok(primary)) = (replica, TcpStream::connect(accepting.target())) {
                    accepting.join(replica, primary);
                }
            }
        });
        Proxy { address, shared, listener: Some(listener) }
    }

    /// What is to happen to the next connections, in this order.
    pub fn expect(&self, fates: impl IntoIterator<Item = Fate>) {
        self.shared.fates.lock().unwrap().extend(fates);
    }

    /// Fates that no connection has met yet.
    pub fn expected(&self) -> usize {
        self.shared.fates.lock().unwrap().len()
    }

    /// Bytes that were passed on so far: of replicas, of the primary.
    pub fn passed(&self) -> [usize; 2] {
        [0, 1].map(|way| self.shared.passed[way].load(Relaxed))
    }

    /// Nothing more is to happen to connections; those of now are cut.
    pub fn calm(&self) {
        self.shared.fates.lock().unwrap().clear();
        self.cut();
    }

    /// Where the next connections go, as when an address is taken over by another.
    pub fn redirect(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap() = target;
    }

    /// Cut all connections of now.
    pub fn cut(&self) {
        for socket in self.shared.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Relaxed);
        let _ = TcpStream::connect(self.address);
        self.cut();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Shared {
    fn target(&self) -> SocketAddr {
        *self.target.lock().unwrap()
    }

    fn join(self: &Arc<Self>, replica: TcpStream, primary: TcpStream) {
        let fate = self.fates.lock().unwrap().pop_front().unwrap_or(Fate::Passes);
        let (up, down, cuts) = match fate {
            Fate::Passes => (ALL, ALL, true),
            Fate::Cut { up, down } => (up, down, true),
            Fate::Stalls { up, down } => (up, down, false),
        };
        let twin = |socket: &TcpStream| socket.try_clone().expect("a descriptor");
        let _ = (replica.set_nodelay(true), primary.set_nodelay(true));
        self.sockets.lock().unwrap().extend([twin(&replica), twin(&primary)]);
        let (from_replica, from_primary) = (twin(&replica), twin(&primary));
        let (of_replica, of_primary) = (self.clone(), self.clone());
        std::thread::spawn(move || pass(from_replica, primary, up, cuts, &of_replica.passed[0]));
        std::thread::spawn(move || pass(from_primary, replica, down, cuts, &of_primary.passed[1]));
    }
}

/// Pass up to `limit` bytes on. Reading ends when either end is shut down.
fn pass(mut from: TcpStream, mut to: TcpStream, limit: usize, cuts: bool, passed: &AtomicUsize) {
    let mut left = limit;
    let mut piece = [0; 4096];
    while left > 0 {
        let wanted = left.min(piece.len());
        match from.read(&mut piece[..wanted]) {
            Ok(bytes @ 1..) => {
                // Before: whoever has received them finds them counted.
                passed.fetch_add(bytes, Relaxed);
                left -= bytes;
                if to.write_all(&piece[..bytes]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    if left == 0 && !cuts {
        // What still comes is lost, and nobody is told, until one side ends it.
        let _ = std::io::copy(&mut from, &mut std::io::sink());
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
