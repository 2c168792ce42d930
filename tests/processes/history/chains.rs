//! Chains of kills, one after the other, each from a seed of its own.
//!
//! `REMORA_HISTORY_KILLS` says how many kills instead of a few, `REMORA_HISTORY_SECONDS` after how
//! long no other chain begins. tools/history builds and runs that.

use crate::support::number;
use std::time::{Duration, Instant};

/// Run chains of at most `chain_kills_max` kills, until there were as many as are asked for, or
/// `kills_default`. `chain` is told its seed, how many kills, and by which command it is run again
/// alone, in this module of the tests.
pub fn run_chains(module: &str, kills_default: u64, chain_kills_max: u64, mut chain: impl FnMut(u64, u64, &str)) {
    let begun = Instant::now();
    let most = number("REMORA_HISTORY_SECONDS").map_or(Duration::MAX, Duration::from_secs);
    let (mut left, mut seed) =
        (number("REMORA_HISTORY_KILLS").unwrap_or(kills_default), number("REMORA_SEED").unwrap_or(1));
    while left > 0 && begun.elapsed() < most {
        let kills = left.min(chain_kills_max);
        let again = format!(
            "REMORA_SEED={seed} REMORA_HISTORY_KILLS={kills} cargo test --release --test processes -- {module} --nocapture"
        );
        println!("{again}");
        chain(seed, kills, &again);
        (left, seed) = (left - kills, seed + 1);
    }
}
