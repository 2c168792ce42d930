//! Whether two servers hold the same.

use super::site::WAIT_MAX;
use remora::load::client::Connection;
use remora::load::workload::key_text;
use std::net::SocketAddr;
use std::time::Instant;

/// Keys asked for at a time.
const KEYS_PER_BATCH: usize = 16;

/// How many of the load's keys below `keys` both hold, byte for byte the same. Panics where one holds what the other does not, or something
/// else: nothing may be written meanwhile, and the replica must have everything. Keys that differ are asked for again for a while, since the
/// primary may still be tidying up.
pub fn same_contents(primary: SocketAddr, replica: SocketAddr, keys: u32) -> u32 {
    let mut ends = [primary, replica].map(|address| Connection::open(address, WAIT_MAX).unwrap());
    let mut asked: Vec<u32> = (0..keys).collect();
    let mut same = 0;
    let end = Instant::now() + WAIT_MAX;
    while !asked.is_empty() {
        let mut differing = Vec::new();
        for batch in asked.chunks(KEYS_PER_BATCH) {
            let [ours, theirs] = ends.each_mut().map(|connection| values(connection, batch));
            for ((key, ours), theirs) in batch.iter().zip(ours).zip(theirs) {
                match ours == theirs {
                    true => same += u32::from(ours.is_some()),
                    false => differing.push(*key),
                }
            }
        }
        assert!(Instant::now() < end, "{} keys differ, the first: {:?}", differing.len(), differing.first());
        asked = differing;
    }
    same
}

fn values(connection: &mut Connection, keys: &[u32]) -> Vec<Option<Vec<u8>>> {
    for key in keys {
        let requests = connection.requests();
        requests.extend_from_slice(b"get ");
        requests.extend_from_slice(&key_text(*key));
        requests.extend_from_slice(b"\r\n");
    }
    connection.send().unwrap();
    keys.iter().map(|key| connection.get_answer(&key_text(*key)).unwrap().map(<[u8]>::to_vec)).collect()
}
