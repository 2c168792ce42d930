//! Clients that write to a primary as fast as they can: sets of all lengths, deletes, touches,
//! counters, invalidations, over a fixed set of keys.

use crate::node::Node;
use crate::support::Client;
use fastrand::Rng;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

/// Commands sent at a time.
const BATCH: usize = 64;

/// See the module. They end with [`Writers::stop`].
pub struct Writers {
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

/// What they write.
#[derive(Clone, Copy)]
pub struct Traffic {
    /// Keys, `key-0` and on.
    pub keys: usize,
    /// Longest value.
    pub value_bytes_max: usize,
}

impl Writers {
    pub fn start(primary: &Node, count: usize, traffic: Traffic) -> Writers {
        let stopping = Arc::new(AtomicBool::new(false));
        let address = primary.server.tcp[0];
        let thread = |seed: usize| {
            let stopping = stopping.clone();
            std::thread::spawn(move || {
                let (mut client, mut random) = (Client::tcp(address), Rng::with_seed(seed as u64));
                let mut batches = 0;
                while !stopping.load(Relaxed) {
                    write_batch(&mut client, &mut random, traffic);
                    batches += 1;
                }
                batches
            })
        };
        Writers { threads: (0..count).map(thread).collect(), stopping }
    }

    /// End them; returns how many commands they wrote.
    pub fn stop(self) -> u64 {
        self.stopping.store(true, Relaxed);
        let batches: u64 = self.threads.into_iter().map(|thread| thread.join().expect("a writer")).sum();
        batches * BATCH as u64
    }
}

/// Write so many batches, in this thread.
pub fn write_batches(address: SocketAddr, seed: u64, batches: usize, traffic: Traffic) {
    let (mut client, mut random) = (Client::tcp(address), Rng::with_seed(seed));
    (0..batches).for_each(|_| write_batch(&mut client, &mut random, traffic));
}

fn write_batch(client: &mut Client, random: &mut Rng, traffic: Traffic) {
    let mut request = Vec::new();
    for _ in 0..BATCH {
        write_one(&mut request, random, traffic);
    }
    request.extend_from_slice(b"mn\r\n");
    client.send(&request);
    loop {
        match client.line().as_str() {
            "MN" => return,
            "EN" | "NF" | "NS" => {}
            hit if hit.starts_with("HD") => {}
            other => panic!("a writer was told: {other}"),
        }
    }
}

fn write_one(request: &mut Vec<u8>, random: &mut Rng, traffic: Traffic) {
    let key = format!("key-{}", random.usize(0..traffic.keys));
    let line = match random.u8(0..100) {
        0..8 => format!("md {key} q"),
        8..12 => format!("md {key} I T500 q"),
        12..18 => format!("mg {key} T{} q", random.u32(400..900)),
        // Numbers only, else they are errors: counters have keys of their own.
        18..20 => format!("ma count-{} N0 q", random.usize(0..20)),
        _ => {
            let most = if random.u8(0..20) == 0 { traffic.value_bytes_max } else { traffic.value_bytes_max.min(300) };
            let value = vec![random.u8(b'a'..=b'z'); random.usize(0..=most)];
            let ttl = if random.bool() { 0 } else { random.u32(300..1000) };
            request.extend_from_slice(format!("ms {key} {} q T{ttl} F{}\r\n", value.len(), random.u16(..)).as_bytes());
            request.extend_from_slice(&value);
            String::new()
        }
    };
    request.extend_from_slice(line.as_bytes());
    request.extend_from_slice(b"\r\n");
}
