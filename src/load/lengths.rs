//! How long values are: one length, a range, or several of these with weights, as in
//! `100:70,1000-2000:25,10000:5`. Pure.

use crate::base::limits::{LOAD_ANSWER_BYTES_MAX, LOAD_LENGTHS_MAX};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lengths {
    classes: Vec<Class>,
    weights: u32,
}

/// All lengths of a class are equally likely.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Class {
    bytes: RangeInclusive<u32>,
    weight: u32,
}

impl Lengths {
    /// One of them.
    pub fn pick(&self, rng: &mut fastrand::Rng) -> u32 {
        if let [only] = &self.classes[..] {
            return rng.u32(only.bytes.clone());
        }
        let mut at = rng.u32(..self.weights);
        for class in &self.classes {
            match at.checked_sub(class.weight) {
                Some(behind) => at = behind,
                None => return rng.u32(class.bytes.clone()),
            }
        }
        unreachable!("drawn below the sum of the weights")
    }

    /// The shortest.
    pub fn min(&self) -> u32 {
        self.classes.iter().map(|class| *class.bytes.start()).min().expect("a class at least")
    }

    /// The longest.
    pub fn max(&self) -> u32 {
        self.classes.iter().map(|class| *class.bytes.end()).max().expect("a class at least")
    }
}

impl From<RangeInclusive<u32>> for Lengths {
    fn from(bytes: RangeInclusive<u32>) -> Lengths {
        Lengths { classes: vec![Class { bytes, weight: 1 }], weights: 1 }
    }
}

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Lengths, String> {
        let classes: Option<Vec<Class>> = text.split(',').map(class).collect();
        let classes = classes.filter(|classes| classes.len() <= LOAD_LENGTHS_MAX);
        let weights = classes.iter().flatten().try_fold(0_u32, |sum, class| sum.checked_add(class.weight));
        let lengths = classes.zip(weights).map(|(classes, weights)| Lengths { classes, weights });
        lengths.ok_or_else(|| {
            format!(
                "\"{text}\" is no length up to {LOAD_ANSWER_BYTES_MAX}, nor up to {LOAD_LENGTHS_MAX} of them with weights; \
                 write 100, 16-1000 or 100:70,1000:30"
            )
        })
    }
}

/// `BYTES[:WEIGHT]`, BYTES being N or MIN-MAX.
fn class(text: &str) -> Option<Class> {
    let (bytes, weight) = text.split_once(':').unwrap_or((text, "1"));
    let (low, high) = bytes.split_once('-').unwrap_or((bytes, bytes));
    let bytes: RangeInclusive<u32> = low.parse().ok()?..=high.parse().ok()?;
    let weight = weight.parse().ok().filter(|weight| *weight > 0)?;
    (!bytes.is_empty() && *bytes.end() as usize <= LOAD_ANSWER_BYTES_MAX).then_some(Class { bytes, weight })
}

/// As it may be written on the command line.
impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Class { bytes, weight }) in self.classes.iter().enumerate() {
            f.write_str(if at > 0 { "," } else { "" })?;
            write!(f, "{}", bytes.start())?;
            if bytes.start() < bytes.end() {
                write!(f, "-{}", bytes.end())?;
            }
            if self.classes.len() > 1 {
                write!(f, ":{weight}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_come_as_often_as_their_weights_say() {
        let lengths: Lengths = "100:70,1000-1003:25,10000:5".parse().unwrap();
        assert_eq!((lengths.min(), lengths.max()), (100, 10_000));
        let sample = |seed| -> Vec<u32> {
            let mut rng = fastrand::Rng::with_seed(seed);
            (0..100_000).map(|_| lengths.pick(&mut rng)).collect()
        };
        let picked = sample(1);
        assert_eq!(picked, sample(1), "the same seed, the same lengths");
        assert_ne!(picked, sample(2));
        for (bytes, share) in [(100, 0.7), (1000, 0.0625), (1003, 0.0625), (10_000, 0.05)] {
            let expected = share * picked.len() as f64;
            let seen = picked.iter().filter(|picked| **picked == bytes).count() as f64;
            // Six standard deviations; the seed is fixed, so this passes always or never.
            assert!((seen - expected).abs() < 6.0 * expected.sqrt(), "{seen} times {bytes}, for {expected}");
        }
        assert!(picked.iter().all(|bytes| [100, 10_000].contains(bytes) || (1000..=1003).contains(bytes)));
    }

    #[test]
    fn lengths_are_read_as_they_are_written() {
        for text in ["0", "100", "16-1000", "100:70,1000:25,10000:5", "1-2:3,4:5"] {
            assert_eq!(text.parse::<Lengths>().unwrap().to_string(), text);
        }
        assert_eq!("7,9".parse::<Lengths>().unwrap().to_string(), "7:1,9:1");
        assert_eq!("7:9".parse::<Lengths>().unwrap().to_string(), "7");
        let many = vec!["1"; LOAD_LENGTHS_MAX + 1].join(",");
        for text in ["", "x", "-1", "9-3", "1:0", "1:-1", "1:x", "1,,2", "1:2:3", "99999999", "1:4294967295,2:1", &many]
        {
            let error = text.parse::<Lengths>().unwrap_err();
            assert!(error.contains("write 100, 16-1000 or 100:70,1000:30"), "{error}");
        }
    }
}
