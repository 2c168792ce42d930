//! What was measured: counts and times of one phase, and how they read.

use hdrhistogram::Histogram;
use std::time::Duration;

/// Latencies from a nanosecond to this are kept to three digits; longer ones count as this.
const LATENCY_MAX: Duration = Duration::from_secs(60);

/// Counts and latencies of one session, or of many together.
#[derive(Debug)]
pub struct Tally {
    /// Stores acknowledged.
    pub sets: u64,
    /// Reads that found the key.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Reads that returned a value that was never written under that key, or not at that time.
    pub wrong: u64,
    /// What was wrong the first time.
    pub first_wrong: Option<String>,
    /// Bytes of values written.
    pub value_bytes_written: u64,
    /// How long it took in all.
    pub elapsed: Duration,
    latencies: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX.as_nanos() as u64, 3);
        Tally {
            sets: 0,
            hits: 0,
            misses: 0,
            wrong: 0,
            first_wrong: None,
            value_bytes_written: 0,
            elapsed: Duration::ZERO,
            latencies: latencies.expect("constant bounds that make sense"),
        }
    }
}

impl Tally {
    /// One answer came so long after its request was sent.
    pub fn answered_after(&mut self, latency_ns: u64) {
        self.latencies.saturating_record(latency_ns.max(1));
    }

    /// A wrong answer; the first one's description is kept.
    pub fn wrong(&mut self, what: impl FnOnce() -> String) {
        self.wrong += 1;
        self.first_wrong.get_or_insert_with(what);
    }

    /// Add another session's. They ran side by side: the longest time counts.
    pub fn add(&mut self, other: &Tally) {
        self.sets += other.sets;
        self.hits += other.hits;
        self.misses += other.misses;
        self.wrong += other.wrong;
        self.value_bytes_written += other.value_bytes_written;
        self.elapsed = self.elapsed.max(other.elapsed);
        if self.first_wrong.is_none() {
            self.first_wrong.clone_from(&other.first_wrong);
        }
        self.latencies.add(&other.latencies).expect("the same bounds");
    }

    /// Requests answered.
    pub fn requests(&self) -> u64 {
        self.sets + self.hits + self.misses + self.wrong
    }

    /// Requests a second.
    pub fn rate(&self) -> f64 {
        self.requests() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The latency that this share of the requests did not exceed (0.99: p99).
    pub fn latency_at(&self, share: f64) -> Duration {
        Duration::from_nanos(self.latencies.value_at_quantile(share))
    }

    /// The longest latency.
    pub fn latency_max(&self) -> Duration {
        Duration::from_nanos(self.latencies.max())
    }

    /// All latencies, in nanoseconds.
    pub fn latencies(&self) -> &Histogram<u64> {
        &self.latencies
    }

    /// Back to the beginning; keeps its memory.
    pub fn clear(&mut self) {
        self.latencies.reset();
        (self.sets, self.hits, self.misses, self.wrong, self.value_bytes_written) = (0, 0, 0, 0, 0);
        (self.first_wrong, self.elapsed) = (None, Duration::ZERO);
    }

    /// A row of [`TABLE_HEAD`].
    pub fn row(&self, name: &str) -> String {
        format!(
            "{name:<8}{:>12}{:>12}{:>9}{:>9}{:>9}{:>9}{:>12}{:>12}{:>7}",
            grouped(self.requests()),
            grouped(self.rate() as u64),
            milliseconds(self.latency_at(0.5)),
            milliseconds(self.latency_at(0.99)),
            milliseconds(self.latency_at(0.999)),
            milliseconds(self.latency_max()),
            grouped(self.hits),
            grouped(self.misses),
            self.wrong,
        )
    }
}

/// What stands above the rows. Latencies are in milliseconds, from the sending of a batch to each
/// of its answers.
pub const TABLE_HEAD: &str =
    "phase       requests  requests/s   p50 ms   p99 ms p99.9 ms   max ms        hits      misses  wrong";

/// A number as people read it: 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(latencies_ms: &[u64], seconds: u64) -> Tally {
        let mut tally = Tally { elapsed: Duration::from_secs(seconds), ..Tally::default() };
        for latency in latencies_ms {
            tally.answered_after(latency * 1_000_000);
            tally.hits += 1;
        }
        tally
    }

    #[test]
    fn sessions_add_up() {
        let mut all = tally(&[1; 998], 2);
        let mut other = tally(&[50, 100], 4);
        other.wrong(|| "first".into());
        other.wrong(|| unreachable!("only the first is described"));
        all.add(&other);
        assert_eq!((all.requests(), all.rate() as u64, all.wrong), (1002, 250, 2));
        assert_eq!(all.first_wrong.as_deref(), Some("first"));
        let at = |share| all.latency_at(share).as_millis();
        assert_eq!((at(0.5), at(0.99), at(0.999), all.latency_max().as_millis()), (1, 1, 50, 100));
    }

    #[test]
    fn rows_stand_under_their_heads() {
        let row = tally(&[2; 1234], 1).row("mixed");
        assert_eq!(row.len(), TABLE_HEAD.len(), "{row}");
        assert!(row.starts_with("mixed          1,234       1,234    2.001"), "{row}");
        assert_eq!((grouped(0), grouped(999), grouped(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
    }

    #[test]
    fn a_latency_beyond_the_bounds_counts_as_the_longest() {
        let mut tally = Tally::default();
        tally.answered_after(3600 * 1_000_000_000);
        tally.answered_after(0);
        assert!(tally.latency_max() >= LATENCY_MAX);
    }
}
