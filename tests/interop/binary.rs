//! The same random history of binary packets to Remora and to memcached: what both answer is the
//! same, but for the numbers that each gives its items.

use super::memcached::{Memcached, REMEDY, version};
use super::support::packets::{Answer, Packet};
use super::support::{Client, Server, seeds};
use fastrand::Rng;

const SEEDS: u64 = 5;
const STEPS: usize = 1_500;
const KEYS: u8 = 4;
/// Opcode and bytes of extras; those that count have keys of their own, since memcached pads a
/// number that became shorter with blanks.
const STORES: [(u8, usize); 14] = [
    (0x00, 0),
    (0x09, 0),
    (0x0C, 0),
    (0x0D, 0),
    (0x01, 8),
    (0x11, 8),
    (0x02, 8),
    (0x12, 8),
    (0x03, 8),
    (0x13, 8),
    (0x0E, 0),
    (0x19, 0),
    (0x0F, 0),
    (0x1A, 0),
];
const COUNTS: [(u8, usize); 6] = [(0x05, 20), (0x15, 20), (0x06, 20), (0x16, 20), (0x01, 8), (0x00, 0)];
const OTHERS: [(u8, usize); 7] = [(0x04, 0), (0x14, 0), (0x1C, 4), (0x1D, 4), (0x1E, 4), (0x23, 4), (0x24, 4)];
const NOOP: Packet<'_> = Packet { opcode: 0x0A, opaque: 0, cas: 0, extras: b"", key: b"", value: b"", lengths: None };

/// A server, and the CAS that it last told of each key.
struct Peer {
    client: Client,
    cas: std::collections::BTreeMap<Vec<u8>, u64>,
}

impl Peer {
    /// Send it with the last CAS, or another, and a noop; the answers before that, without CAS.
    fn ask(&mut self, packet: &Packet<'_>, cas: Option<u64>) -> Vec<Answer> {
        let last = self.cas.get(packet.key).copied().unwrap_or(1);
        let packet = Packet { cas: cas.map_or(0, |beside| last + beside), ..packet.clone() };
        self.client.send(&[packet.bytes(), NOOP.bytes()].concat());
        let mut answers = Vec::new();
        loop {
            let mut answer = self.client.packet();
            if answer.opaque == NOOP.opaque {
                return answers;
            }
            if answer.cas != 0 {
                self.cas.insert(packet.key.to_vec(), answer.cas);
                answer.cas = 1;
            }
            if packet.key.starts_with(b"n") && !answer.extras.is_empty() {
                answer.value.truncate(answer.value.trim_ascii_end().len());
            }
            answers.push(answer);
        }
    }
}

fn run(seed: u64, peers: &mut [Peer; 2]) {
    let mut random = Rng::with_seed(seed);
    for number in 0..STEPS {
        let counts = random.bool();
        let table = if random.u8(..4) == 0 {
            &OTHERS[..]
        } else if counts {
            &COUNTS[..]
        } else {
            &STORES[..]
        };
        let (opcode, extras_bytes) = table[random.usize(..table.len())];
        let key = format!("{}{}", if counts { "n" } else { "s" }, random.u8(..KEYS)).into_bytes();
        let mut extras: Vec<u8> = (0..extras_bytes).map(|_| random.u8(..)).collect();
        match extras_bytes {
            // An hour, or for ever; from the second on nothing would expire in time.
            4 => extras = [0u32, 3600][random.usize(..2)].to_be_bytes().to_vec(),
            8 => extras[4..].copy_from_slice(&[0u32, 3600][random.usize(..2)].to_be_bytes()),
            20 => {
                extras[..7].fill(0);
                extras[16..].copy_from_slice(&[0, 3600, u32::MAX][random.usize(..3)].to_be_bytes());
            }
            _ => {}
        }
        let stores = matches!(opcode, 0x01..=0x03 | 0x0E | 0x0F | 0x11..=0x13 | 0x19 | 0x1A);
        let number_text = random.u64(..2_000).to_string();
        let value = match (stores, counts) {
            (false, _) => String::new(),
            (true, true) => number_text,
            (true, false) => "v".repeat(random.usize(..40)),
        };
        let opaque = number as u32 + 1;
        let packet =
            Packet { opcode, opaque, cas: 0, extras: &extras, key: &key, value: value.as_bytes(), lengths: None };
        // Touches and gets ignore it.
        let cas = (random.u8(..3) == 0).then(|| [0, 1 << 40][random.usize(..2)]);
        let [ours, theirs] = peers.each_mut().map(|peer| peer.ask(&packet, cas));
        assert_eq!(ours, theirs, "seed {seed}, step {number}: {packet:?}, CAS {cas:?}");
    }
}

#[test]
fn interop_binary_answers_are_memcacheds() {
    if version().is_none_or(|version| !version.starts_with("memcached 1.6")) {
        super::missing("memcached 1.6", REMEDY);
        return;
    }
    let (ours, theirs) = (Server::start(&["-m", "64"]), Memcached::start(&["-m", "64"]));
    for seed in seeds(SEEDS) {
        let peers = [ours.tcp[0], theirs.address].map(|address| {
            let mut client = Client::tcp(address);
            client.send(&[Packet { opcode: 0x18, ..Packet::default() }.bytes(), NOOP.bytes()].concat());
            assert_eq!(client.packet().status, 0);
            Peer { client, cas: Default::default() }
        });
        run(seed, &mut { peers });
    }
}
