//! Commands as the model test knows them: made by a seeded generator, written out as protocol
//! bytes.

use fastrand::Rng;
use std::io::Write;

#[derive(Debug, Clone)]
pub enum Command {
    Get { keys: Vec<Vec<u8>>, cas: bool, touch: Option<i64> },
    Store { verb: &'static str, key: Vec<u8>, flags: u32, exptime: i64, value: Vec<u8>, cas: u64, noreply: bool },
    Count { up: bool, key: Vec<u8>, delta: u64, noreply: bool },
    Touch { key: Vec<u8>, exptime: i64, noreply: bool },
    Delete { key: Vec<u8>, noreply: bool },
    Flush { delay: i64 },
    Meta { verb: &'static str, key: Vec<u8>, flags: Vec<String>, value: Option<Vec<u8>> },
}

impl Command {
    /// The keys it may touch.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        match self {
            Command::Get { keys, .. } => keys.clone(),
            Command::Flush { .. } => Vec::new(),
            Command::Store { key, .. }
            | Command::Count { key, .. }
            | Command::Touch { key, .. }
            | Command::Delete { key, .. }
            | Command::Meta { key, .. } => vec![key.clone()],
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out).expect("writing to a Vec cannot fail");
        out
    }

    fn write(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let quiet = |noreply: &bool| if *noreply { " noreply" } else { "" };
        match self {
            Command::Get { keys, cas, touch } => {
                let suffix = if *cas { "s" } else { "" };
                match touch {
                    None => write!(out, "get{suffix}")?,
                    Some(exptime) => write!(out, "gat{suffix} {exptime}")?,
                }
                for key in keys {
                    out.push(b' ');
                    out.extend_from_slice(key);
                }
            }
            Command::Store { verb, key, flags, exptime, value, cas, noreply } => {
                write!(out, "{verb} {} {flags} {exptime} {}", text(key), value.len())?;
                if *verb == "cas" {
                    write!(out, " {cas}")?;
                }
                write!(out, "{}\r\n", quiet(noreply))?;
                out.extend_from_slice(value);
            }
            Command::Count { up, key, delta, noreply } => {
                let verb = if *up { "incr" } else { "decr" };
                write!(out, "{verb} {} {delta}{}", text(key), quiet(noreply))?;
            }
            Command::Touch { key, exptime, noreply } => write!(out, "touch {} {exptime}{}", text(key), quiet(noreply))?,
            Command::Delete { key, noreply } => write!(out, "delete {}{}", text(key), quiet(noreply))?,
            Command::Flush { delay } => write!(out, "flush_all {delay}")?,
            Command::Meta { verb, key, flags, value } => {
                write!(out, "{verb} {}", text(key))?;
                if let Some(value) = value {
                    write!(out, " {}", value.len())?;
                }
                for flag in flags {
                    write!(out, " {flag}")?;
                }
                if let Some(value) = value {
                    out.extend_from_slice(b"\r\n");
                    out.extend_from_slice(value);
                }
            }
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

/// With the last the tail passes what is pending before it is due.
const FLUSH_DELAYS: [i64; 6] = [0, 0, -1, 3, 10, 2000];

fn text(key: &[u8]) -> &str {
    std::str::from_utf8(key).expect("the generator makes plain keys")
}

/// Makes commands. `keys` keys, values of up to `value_bytes_max` bytes.
pub struct Generator {
    pub rng: Rng,
    pub keys: usize,
    pub value_bytes_max: usize,
    /// -I: now and then something larger than this is stored.
    pub item_bytes_max: usize,
    /// CAS values seen, to aim with.
    pub known_cas: Vec<u64>,
}

impl Generator {
    pub fn command(&mut self) -> Command {
        match self.rng.u32(0..100) {
            0..20 => self.get(),
            20..50 => self.store(),
            50..57 => {
                Command::Count { up: self.rng.bool(), key: self.key(), delta: self.delta(), noreply: self.one_in(8) }
            }
            57..61 => Command::Touch { key: self.key(), exptime: self.exptime(), noreply: self.one_in(8) },
            61..66 => Command::Delete { key: self.key(), noreply: self.one_in(8) },
            66..80 => self.meta_get(),
            80..90 => self.meta_set(),
            90..95 => self.meta_delete(),
            95..99 => self.meta_count(),
            _ if self.one_in(30) => Command::Flush { delay: FLUSH_DELAYS[self.rng.usize(0..FLUSH_DELAYS.len())] },
            _ => self.get(),
        }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.u32(0..n) == 0
    }

    fn key(&mut self) -> Vec<u8> {
        // A few keys are hot, so that there are second chances.
        let number = if self.one_in(3) { self.rng.usize(0..self.keys.min(4)) } else { self.rng.usize(0..self.keys) };
        format!("key:{number}").into_bytes()
    }

    fn exptime(&mut self) -> i64 {
        match self.rng.u32(0..10) {
            0..6 => 0,
            6 => -1,
            7 => 2_592_001,
            _ => self.rng.i64(1..20),
        }
    }

    fn delta(&mut self) -> u64 {
        if self.one_in(6) { self.rng.u64(..) } else { self.rng.u64(0..20) }
    }

    fn cas(&mut self) -> u64 {
        match self.rng.u32(0..10) {
            0 => 0,
            1 => self.rng.u64(1..1 << 40),
            _ if self.known_cas.is_empty() => 1,
            _ => self.known_cas[self.rng.usize(0..self.known_cas.len())],
        }
    }

    fn value(&mut self) -> Vec<u8> {
        match self.rng.u32(0..40) {
            0..12 => self.rng.u64(0..200).to_string().into_bytes(),
            12 => self.rng.u64(..).to_string().into_bytes(),
            13 => b" 12 and more".to_vec(),
            14 => Vec::new(),
            15 => vec![b'L'; self.item_bytes_max + 1],
            number => {
                let most = if number < 24 { 64 } else { self.value_bytes_max };
                let mut value = vec![0; self.rng.usize(0..=most)];
                self.rng.fill(&mut value);
                value
            }
        }
    }

    fn get(&mut self) -> Command {
        let keys = (0..self.rng.usize(1..=4)).map(|_| self.key()).collect();
        let touch = self.one_in(4).then(|| self.exptime());
        Command::Get { keys, cas: self.rng.bool(), touch }
    }

    fn store(&mut self) -> Command {
        let verbs = ["set", "set", "set", "set", "add", "replace", "append", "prepend", "cas"];
        Command::Store {
            verb: verbs[self.rng.usize(0..verbs.len())],
            key: self.key(),
            flags: if self.rng.bool() { 0 } else { self.rng.u32(..) },
            exptime: self.exptime(),
            value: self.value(),
            cas: self.cas(),
            noreply: self.one_in(8),
        }
    }

    /// Some of `flags`, in any order.
    fn some(&mut self, mut flags: Vec<String>) -> Vec<String> {
        flags.push("q".into());
        flags.push("Oab1".into());
        flags.push("k".into());
        self.rng.shuffle(&mut flags);
        let count = self.rng.usize(0..=flags.len().min(7));
        flags.truncate(count);
        flags
    }

    fn meta_get(&mut self) -> Command {
        let mut flags: Vec<String> = ["v", "c", "f", "h", "l", "s", "t", "u"].map(String::from).to_vec();
        if self.one_in(3) {
            flags.extend([format!("T{}", self.exptime()), format!("N{}", self.exptime())]);
        }
        if self.rng.bool() {
            flags.push(format!("R{}", self.rng.i32(-1..40)));
        }
        if self.one_in(4) {
            flags.extend([format!("C{}", self.cas()), format!("E{}", self.rng.u64(1..1 << 40))]);
        }
        Command::Meta { verb: "mg", key: self.key(), flags: self.some(flags), value: None }
    }

    fn meta_set(&mut self) -> Command {
        let mut flags = vec!["c".to_string(), "s".into(), "I".into(), format!("T{}", self.exptime())];
        flags.push(format!("F{}", self.rng.u32(..)));
        flags.push(format!("M{}", ["S", "E", "A", "P", "R"][self.rng.usize(0..5)]));
        if self.rng.bool() {
            flags.push(format!("C{}", self.cas()));
        }
        if self.one_in(4) {
            flags.extend([format!("N{}", self.exptime()), format!("E{}", self.rng.u64(1..1 << 40))]);
        }
        Command::Meta { verb: "ms", key: self.key(), flags: self.some(flags), value: Some(self.value()) }
    }

    fn meta_delete(&mut self) -> Command {
        let mut flags = vec!["I".to_string(), "x".into(), format!("T{}", self.exptime())];
        if self.one_in(3) {
            flags.extend([format!("C{}", self.cas()), format!("E{}", self.rng.u64(1..1 << 40))]);
        }
        Command::Meta { verb: "md", key: self.key(), flags: self.some(flags), value: None }
    }

    fn meta_count(&mut self) -> Command {
        let mut flags = vec!["v".to_string(), "c".into(), "t".into(), format!("D{}", self.delta())];
        flags.push(format!("M{}", ["I", "D", "+", "-"][self.rng.usize(0..4)]));
        flags.extend([format!("J{}", self.rng.u64(0..1000)), format!("N{}", self.exptime())]);
        if self.one_in(3) {
            flags.extend([format!("C{}", self.cas()), format!("E{}", self.rng.u64(1..1 << 40))]);
            flags.push(format!("T{}", self.exptime()));
        }
        Command::Meta { verb: "ma", key: self.key(), flags: self.some(flags), value: None }
    }
}
