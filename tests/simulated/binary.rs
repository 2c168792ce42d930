//! The same random history in the binary protocol and in text, each on a server of its own: both
//! come to the same, and leave the same in the cache.

use crate::support::harness::{Client, engine};
use crate::support::packets::{Answer, Packet, read_all};
use crate::support::seeds;
use fastrand::Rng;
use remora::protocol::Protocol;

const SEEDS: u64 = 20;
const STEPS: usize = 2_000;
const KEYS: u8 = 6;
const NOW: u32 = 1_800_000_000;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Gat,
    Touch,
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    Delete,
    Increment,
    Decrement,
    Flush,
}

const VERBS: [Verb; 11] = [
    Verb::Get,
    Verb::Gat,
    Verb::Touch,
    Verb::Set,
    Verb::Add,
    Verb::Replace,
    Verb::Append,
    Verb::Prepend,
    Verb::Delete,
    Verb::Increment,
    Verb::Decrement,
];

#[derive(Debug, Clone)]
struct Step {
    verb: Verb,
    key: String,
    value: Vec<u8>,
    flags: u32,
    /// Seconds from now; 0 for never.
    exptime: u32,
    /// Ask for the item's CAS, or for another one.
    cas: Option<bool>,
    delta: u64,
    /// incr, decr: what to create.
    initial: Option<u64>,
    quiet: bool,
}

fn step(random: &mut Rng) -> Step {
    let one_in = |random: &mut Rng, many| random.u32(..many) == 0;
    let verb = if one_in(random, 200) { Verb::Flush } else { VERBS[random.usize(..VERBS.len())] };
    let value = if random.bool() { random.u32(..2_000).to_string() } else { "x".repeat(random.usize(..50)) };
    Step {
        verb,
        key: format!("key{}", random.u8(..KEYS)),
        value: value.into_bytes(),
        flags: random.u32(..),
        exptime: if random.bool() { 0 } else { random.u32(1..100) },
        cas: one_in(random, 3).then(|| !one_in(random, 3)),
        delta: random.u64(..2_000),
        initial: random.bool().then(|| random.u64(..100)),
        quiet: one_in(random, 3),
    }
}

/// The CAS to ask for; 0 for none. Nothing has the CAS that is asked for where nothing is there.
fn asked(client: &mut Client<'_>, step: &Step) -> u64 {
    let there = client.look(step.key.as_bytes(), |item| item.cas()).unwrap_or(1);
    step.cas.map_or(0, |right| if right { there } else { there + 1 })
}

/// In text, by meta commands where the classic ones say too little. What came of it: a status of
/// the binary protocol and, of a hit, the value.
fn in_text(client: &mut Client<'_>, step: &Step) -> (u16, Option<Vec<u8>>) {
    let cas = asked(client, step);
    let Step { key, value, flags, exptime, delta, .. } = step;
    let compare = if cas == 0 { String::new() } else { format!(" C{cas}") };
    let stored = |mode: &str| {
        let line = format!("ms {key} {} M{mode} F{flags} T{exptime}{compare}\r\n", value.len());
        [line.as_bytes(), value, b"\r\n"].concat()
    };
    let counted = |mode: &str| {
        let create = step.initial.map_or(String::new(), |initial| format!(" N{exptime} J{initial}"));
        format!("ma {key} v M{mode} D{delta}{create}{compare}\r\n").into_bytes()
    };
    let request = match step.verb {
        Verb::Get => format!("mg {key} v\r\n").into_bytes(),
        Verb::Gat => format!("mg {key} v T{exptime}\r\n").into_bytes(),
        Verb::Touch => format!("mg {key} T{exptime}\r\n").into_bytes(),
        Verb::Set => stored("S"),
        // With a CAS it is a cas.
        Verb::Add => stored(if cas == 0 { "E" } else { "S" }),
        Verb::Replace => stored("R"),
        Verb::Append => stored("A"),
        Verb::Prepend => stored("P"),
        Verb::Delete => format!("md {key}{compare}\r\n").into_bytes(),
        Verb::Increment => counted("I"),
        Verb::Decrement => counted("D"),
        Verb::Flush => b"flush_all\r\n".to_vec(),
    };
    let answer = client.send(&request);
    let status = match &answer[..2] {
        b"HD" | b"VA" | b"OK" => 0,
        b"EN" | b"NF" => 1,
        b"EX" => 2,
        b"NS" if step.verb == Verb::Add => 2,
        b"NS" if step.verb == Verb::Replace => 1,
        b"NS" => 5,
        b"CL" => 6,
        _ => panic!("{:?}", answer.escape_ascii().to_string()),
    };
    let value = answer.starts_with(b"VA").then(|| {
        let begin = answer.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
        answer[begin..answer.len() - 2].to_vec()
    });
    (status, value)
}

/// Its answers, and the opaque that they must have.
fn in_binary(client: &mut Client<'_>, step: &Step, opaque: u32) -> Vec<Answer> {
    let seconds = step.exptime.to_be_bytes();
    let item = [step.flags.to_be_bytes(), seconds].concat();
    let expiry = if step.initial.is_some() { seconds } else { u32::MAX.to_be_bytes() };
    let count = [&step.delta.to_be_bytes()[..], &step.initial.unwrap_or(0).to_be_bytes(), &expiry].concat();
    let (key, value, none) = (step.key.as_bytes(), &step.value[..], &b""[..]);
    let (loud, quiet, extras, key, value) = match step.verb {
        Verb::Get => (0x00, 0x09, none, key, none),
        Verb::Gat => (0x1D, 0x1E, &seconds[..], key, none),
        Verb::Touch => (0x1C, 0x1C, &seconds[..], key, none),
        Verb::Set => (0x01, 0x11, &item[..], key, value),
        Verb::Add => (0x02, 0x12, &item[..], key, value),
        Verb::Replace => (0x03, 0x13, &item[..], key, value),
        Verb::Append => (0x0E, 0x19, none, key, value),
        Verb::Prepend => (0x0F, 0x1A, none, key, value),
        Verb::Delete => (0x04, 0x14, none, key, none),
        Verb::Increment => (0x05, 0x15, &count[..], key, none),
        Verb::Decrement => (0x06, 0x16, &count[..], key, none),
        Verb::Flush => (0x08, 0x18, none, none, none),
    };
    let opcode = if step.quiet { quiet } else { loud };
    let packet = Packet { opcode, opaque, cas: asked(client, step), extras, key, value, lengths: None };
    let answers = read_all(&client.send(&packet.bytes()));
    assert!(answers.len() < 2 && answers.iter().all(|answer| (answer.opcode, answer.opaque) == (opcode, opaque)));
    answers
}

/// Value, flags, seconds that are left, and CAS.
type Left = (Vec<u8>, u32, Option<u32>, u64);

/// What is under each key.
fn left(client: &mut Client<'_>) -> Vec<Option<Left>> {
    let now = client.now;
    let mut look = |number| {
        client.look(format!("key{number}").as_bytes(), |item| {
            let mut value = Vec::new();
            item.value().copy_to(&mut value);
            (value, item.client_flags(), item.expiry().remaining(now), item.cas())
        })
    };
    (0..KEYS).map(&mut look).collect()
}

fn run(seed: u64) {
    let mut random = Rng::with_seed(seed);
    let engines = [0, 1].map(|_| engine(1 << 20, 2, 1 << 14, true, 1));
    let (mut text, mut binary) = (Client::new(&engines[0], 0, NOW), Client::new(&engines[1], 0, NOW));
    binary.protocol = Protocol::Binary;
    for number in 0..STEPS {
        let step = step(&mut random);
        let (status, value) = in_text(&mut text, &step);
        let answers = in_binary(&mut binary, &step, number as u32);
        let gets = matches!(step.verb, Verb::Get | Verb::Gat);
        let is_silent = step.quiet && step.verb != Verb::Touch && if gets { status == 1 } else { status == 0 };
        assert_eq!(answers.is_empty(), is_silent, "seed {seed}, {step:?}: {answers:?}");
        if let Some(answer) = answers.first() {
            assert_eq!(answer.status, status, "seed {seed}, {step:?}: {answer:?}");
            if let Some(value) = value {
                let told = match step.verb {
                    Verb::Increment | Verb::Decrement => {
                        u64::from_be_bytes(answer.value[..].try_into().unwrap()).to_string().into_bytes()
                    }
                    _ => answer.value.clone(),
                };
                assert_eq!(told, value, "seed {seed}, {step:?}");
            }
            let tells_cas = status == 0 && !matches!(step.verb, Verb::Delete | Verb::Flush);
            let cas = binary.look(step.key.as_bytes(), |item| item.cas()).filter(|_| tells_cas);
            assert_eq!(answer.cas, cas.unwrap_or(0), "seed {seed}, {step:?}");
        }
        assert_eq!(left(&mut binary), left(&mut text), "seed {seed}, step {number}, {step:?}");
        if random.u32(..20) == 0 {
            let seconds = random.u32(1..40);
            (text.now.0, binary.now.0) = (text.now.0 + seconds, binary.now.0 + seconds);
        }
    }
}

#[test]
fn binary_and_text_come_to_the_same() {
    seeds(SEEDS).into_iter().for_each(run);
}
