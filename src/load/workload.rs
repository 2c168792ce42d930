//! What is written and read: keys, values, their sizes, and whether a value that came back is the
//! right one. Pure.
//!
//! A value is made from (seed, key, version) alone, so whoever knows these can check it, and nobody
//! has to keep it:
//!
//! ```text
//! 0        4         8        12       16
//! | key    | version | bytes  | crc32c | body: pseudo-random from (seed, key, version) |
//! ```
//!
//! All numbers are little-endian; `bytes` is the whole value's length; the checksum covers all but
//! itself, and the seed.

use super::lengths::Lengths;
use super::zipf::Zipf;
use crate::sys::checksum::BodyChecksum;
use std::ops::RangeInclusive;

/// Bytes before the body: the least length of a value.
pub const HEADER_BYTES: u32 = 16;

/// Length of every key's text.
pub const KEY_BYTES: usize = 15;

const KEY_PREFIX: &[u8] = b"load:";

/// How keys are chosen for reading and writing.
#[derive(Debug, Clone)]
pub enum KeyChoice {
    /// Each as often as any other.
    Uniform,
    /// Small numbers far more often.
    Zipf(Zipf),
}

/// The text of a key: `load:` and ten digits.
pub fn key_text(key: u32) -> [u8; KEY_BYTES] {
    let mut text = *b"load:0000000000";
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(key).as_bytes();
    text[KEY_BYTES - digits.len()..].copy_from_slice(digits);
    text
}

/// The number of the key that this is the text of.
pub fn key_number(text: &[u8]) -> Option<u32> {
    let digits: &[u8; KEY_BYTES - KEY_PREFIX.len()] = text.strip_prefix(KEY_PREFIX)?.try_into().ok()?;
    // Without a branch for each digit, because this is done for every value that arrives.
    let (mut number, mut are_digits) = (0_u64, true);
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        are_digits &= digit < 10;
        number = number * 10 + u64::from(digit);
    }
    u32::try_from(number).ok().filter(|_| are_digits)
}

/// A sequence of random numbers for each `place`, all from one seed.
pub(super) fn stream_of(seed: u64, place: u64) -> fastrand::Rng {
    // Spread over all bits: the numbers from neighbouring seeds are related.
    fastrand::Rng::with_seed((seed ^ place).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// A description of traffic; the same description makes the same keys and values.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Everything random follows from it.
    pub seed: u64,
    /// How many keys; they are numbered from 0.
    pub keys: u32,
    /// How they are chosen.
    pub choice: KeyChoice,
    /// Lengths of values; at least [`HEADER_BYTES`].
    pub value_bytes: Lengths,
    /// Gets for each set.
    pub gets_per_set: u32,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Read this key.
    Get(u32),
    /// Write this key.
    Set(u32),
}

/// What is wrong with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not even a header.
    #[error("only {0} bytes came")]
    Short(usize),
    /// Cut, or longer than it was.
    #[error("{came} bytes came, the value says it has {says}")]
    Length {
        /// Of the value that came.
        came: usize,
        /// By its header.
        says: u32,
    },
    /// At least one byte differs from what was written.
    #[error("its checksum is wrong: a byte is not what was written")]
    Checksum,
    /// Another key's value.
    #[error("it is the value of key number {0}")]
    OtherKey(u32),
    /// Older than what was acknowledged before the question, or newer than anything written.
    #[error("it is version {came}; possible were {low} to {high}")]
    Version {
        /// By its header.
        came: u32,
        /// The last acknowledged before the question was sent.
        low: u32,
        /// The last issued when the answer came.
        high: u32,
    },
    /// The first byte that differs from what was written.
    #[error("byte {0} is not what was written")]
    Byte(usize),
}

impl Workload {
    /// The next operation of a random sequence.
    pub fn next(&self, rng: &mut fastrand::Rng) -> Operation {
        let key = self.pick_key(rng);
        if rng.u32(..=self.gets_per_set) == 0 { Operation::Set(key) } else { Operation::Get(key) }
    }

    /// A key, as often as it is to be used.
    pub fn pick_key(&self, rng: &mut fastrand::Rng) -> u32 {
        match &self.choice {
            KeyChoice::Uniform => rng.u32(..self.keys),
            KeyChoice::Zipf(zipf) => zipf.pick(rng),
        }
    }

    /// Append the text of a key.
    pub fn push_key(&self, key: u32, to: &mut Vec<u8>) {
        to.extend_from_slice(&key_text(key));
    }

    /// The value of a key at a version; replaces what is in `to`.
    pub fn value(&self, key: u32, version: u32, to: &mut Vec<u8>) {
        let mut rng = self.rng_of(key, version);
        let bytes = self.value_bytes.pick(&mut rng).max(HEADER_BYTES);
        to.clear();
        for number in [key, version, bytes, 0] {
            to.extend_from_slice(&number.to_le_bytes());
        }
        to.resize(bytes as usize, 0);
        rng.fill(&mut to[HEADER_BYTES as usize..]);
        let checksum = self.checksum(to);
        to[12..16].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Check a value that came back for `key`; its version must be one of `versions`. Finds any one
    /// wrong byte.
    pub fn verify(&self, key: u32, versions: RangeInclusive<u32>, value: &[u8]) -> Result<u32, Fault> {
        let Some((header, _)) = value.split_first_chunk::<{ HEADER_BYTES as usize }>() else {
            return Err(Fault::Short(value.len()));
        };
        let [of_key, version, says, checksum] =
            [0, 4, 8, 12].map(|at| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
        if value.len() != says as usize {
            return Err(Fault::Length { came: value.len(), says });
        }
        if checksum != self.checksum(value) {
            return Err(Fault::Checksum);
        }
        if of_key != key {
            return Err(Fault::OtherKey(of_key));
        }
        if !versions.contains(&version) || version == 0 {
            return Err(Fault::Version { came: version, low: *versions.start(), high: *versions.end() });
        }
        Ok(version)
    }

    /// Compare a value with what was written, byte for byte. It costs more than [`Self::verify`]:
    /// the value is made again, in `scratch`.
    pub fn compare(&self, key: u32, version: u32, value: &[u8], scratch: &mut Vec<u8>) -> Result<(), Fault> {
        self.value(key, version, scratch);
        if scratch == value {
            return Ok(());
        }
        let same = scratch.iter().zip(value).take_while(|(written, came)| written == came).count();
        Err(Fault::Byte(same))
    }

    fn rng_of(&self, key: u32, version: u32) -> fastrand::Rng {
        stream_of(self.seed, u64::from(key) << 32 | u64::from(version))
    }

    fn checksum(&self, value: &[u8]) -> u32 {
        BodyChecksum::default().update(&value[..12]).update(&value[HEADER_BYTES as usize..]).at(self.seed, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Workload {
        let choice = KeyChoice::Zipf(Zipf::new(1000, 0.99));
        Workload { seed: 42, keys: 1000, choice, value_bytes: (16..=300).into(), gets_per_set: 9 }
    }

    fn value(key: u32, version: u32) -> Vec<u8> {
        let mut value = b"left from before".to_vec();
        workload().value(key, version, &mut value);
        value
    }

    #[test]
    fn a_value_proves_its_key_and_version() {
        for (key, version) in [(0, 1), (7, 3), (999, u32::MAX)] {
            let right = value(key, version);
            assert_eq!(workload().verify(key, version..=version, &right), Ok(version));
            assert_eq!(workload().compare(key, version, &right, &mut Vec::new()), Ok(()));
        }
    }

    #[test]
    fn a_key_is_known_by_its_text() {
        for (key, text) in [(0, "load:0000000000"), (1_234_567, "load:0001234567"), (u32::MAX, "load:4294967295")] {
            assert_eq!(key_text(key), text.as_bytes());
            assert_eq!(key_number(text.as_bytes()), Some(key));
        }
        for text in
            ["", "load:", "load:000000001", "load:00000000010", "load:4294967296", "load:000000001x", "lead:0000000001"]
        {
            assert_eq!(key_number(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn every_single_wrong_byte_is_found_wherever_it_is() {
        let right = value(7, 3);
        assert!(right.len() > 20, "some body, too");
        for at in 0..right.len() {
            for flip in [0x01, 0x80, 0xFF] {
                let mut wrong = right.clone();
                wrong[at] ^= flip;
                assert!(workload().verify(7, 1..=9, &wrong).is_err(), "byte {at} ^ {flip}");
                assert_eq!(workload().compare(7, 3, &wrong, &mut Vec::new()), Err(Fault::Byte(at)));
            }
        }
    }

    #[test]
    fn a_value_that_is_cut_or_too_long_is_found() {
        let right = value(7, 3);
        for bytes in 0..right.len() {
            assert!(workload().verify(7, 1..=9, &right[..bytes]).is_err(), "cut to {bytes}");
        }
        let longer = [&right[..], b"x"].concat();
        assert!(matches!(workload().verify(7, 1..=9, &longer), Err(Fault::Length { .. })));
        assert_eq!(workload().compare(7, 3, &longer, &mut Vec::new()), Err(Fault::Byte(right.len())));
    }

    #[test]
    fn a_whole_value_at_the_wrong_place_or_time_is_found() {
        assert_eq!(workload().verify(8, 1..=9, &value(7, 3)), Err(Fault::OtherKey(7)));
        assert_eq!(workload().verify(7, 4..=9, &value(7, 3)), Err(Fault::Version { came: 3, low: 4, high: 9 }));
        assert_eq!(workload().verify(7, 1..=2, &value(7, 3)), Err(Fault::Version { came: 3, low: 1, high: 2 }));
        assert_eq!(workload().verify(7, 0..=0, &value(7, 0)), Err(Fault::Version { came: 0, low: 0, high: 0 }));
        let other = Workload { seed: 43, ..workload() };
        assert_eq!(other.verify(7, 1..=9, &value(7, 3)), Err(Fault::Checksum), "another run's value");
    }

    #[test]
    fn the_same_seed_makes_the_same_traffic_in_the_given_ratio() {
        let sequence = |choice: KeyChoice| -> Vec<Operation> {
            let workload = Workload { choice, ..workload() };
            let mut rng = fastrand::Rng::with_seed(workload.seed);
            (0..20_000).map(|_| workload.next(&mut rng)).collect()
        };
        for choice in [KeyChoice::Uniform, workload().choice] {
            let first = sequence(choice.clone());
            assert_eq!(first, sequence(choice));
            let sets = first.iter().filter(|operation| matches!(operation, Operation::Set(_))).count();
            assert!((1800..2200).contains(&sets), "{sets} sets of 20000 at 9:1");
            let keys = first.iter().map(|(Operation::Get(key) | Operation::Set(key))| *key);
            assert!(keys.max().is_some_and(|key| key > 900 && key < 1000));
        }
    }

    #[test]
    fn values_have_all_lengths_asked_for() {
        let lengths: std::collections::BTreeSet<usize> = (1..20_000).map(|version| value(1, version).len()).collect();
        assert_eq!((lengths.len(), lengths.first(), lengths.last()), (285, Some(&16), Some(&300)));
    }
}
