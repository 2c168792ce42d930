//! What clients met, second by second, as text: a bar for the share of reads that hit, and what
//! happened in that second. Pure.

use crate::load::report::grouped;

/// Characters of a whole bar.
const BAR: u64 = 20;

/// What clients counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Reads that found the key.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Requests that were answered with an error, or not at all.
    pub errors: u64,
    /// Reads that returned what was never written there, or what had been written over.
    pub wrong: u64,
}

impl Counted {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.hits + self.misses + self.writes + self.errors + self.wrong
    }

    /// Since it was `before`.
    #[must_use]
    pub fn since(&self, before: &Counted) -> Counted {
        Counted {
            hits: self.hits - before.hits,
            misses: self.misses - before.misses,
            writes: self.writes - before.writes,
            errors: self.errors - before.errors,
            wrong: self.wrong - before.wrong,
        }
    }

    /// Of a thousand reads so many hit, rounded down; None: nobody read.
    fn hits_per_thousand(&self) -> Option<u64> {
        let reads = self.hits + self.misses + self.wrong;
        (self.hits * 1000).checked_div(reads)
    }
}

/// A second's line, with what happened in it.
pub fn line(second: u64, counted: &Counted, marks: &[String]) -> String {
    let (bar, share) = match counted.hits_per_thousand() {
        None => (0, "no reads".to_string()),
        Some(hits) => (hits * BAR / 1000, format!("{}.{} %", hits / 10, hits % 10)),
    };
    let bar = "#".repeat(bar as usize);
    let happened = if marks.is_empty() { String::new() } else { format!("  <- {}", marks.join("; ")) };
    let (requests, errors) = (grouped(counted.requests()), grouped(counted.errors));
    format!("{second:>10} s [{bar:<20}] {share:>8} hit, {requests:>9} requests, {errors:>6} errors{happened}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_a_bar_with_what_happened() {
        let counted = Counted { hits: 1499, misses: 1, writes: 500, errors: 3, wrong: 0 };
        let text = line(7, &counted, &["\"two\" is killed".into(), "later".into()]);
        assert!(text.contains("7 s [###################") && text.contains("99.9 % hit,"), "{text}");
        assert!(!text.contains(&"#".repeat(20)), "one miss is seen: {text}");
        assert!(text.contains("2,003 requests") && text.ends_with("3 errors  <- \"two\" is killed; later"), "{text}");
        let whole = line(8, &Counted { hits: 5, ..Counted::default() }, &[]);
        assert!(whole.contains(&"#".repeat(20)) && whole.contains("100.0 % hit"), "{whole}");
        assert!(line(9, &Counted::default(), &[]).contains("no reads"));
    }

    #[test]
    fn what_was_counted_before_is_left_out() {
        let before = Counted { hits: 5, misses: 1, writes: 2, errors: 1, wrong: 0 };
        let now = Counted { hits: 9, misses: 1, writes: 4, errors: 1, wrong: 1 };
        let since = now.since(&before);
        assert_eq!(since, Counted { hits: 4, misses: 0, writes: 2, errors: 0, wrong: 1 });
        assert_eq!(since.requests(), 7);
    }
}
