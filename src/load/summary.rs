//! What a run leaves behind for people: a line a second, a table, and a percentile log as
//! HdrHistogram's plotters read it. Pure: outcomes in, text out.

use super::drive::{Interval, Outcome};
use super::report::{TABLE_HEAD, Tally, grouped};
use std::fmt::Write;

/// A phase and its name.
pub type Named<'a> = (&'a str, &'a Outcome);

/// One line for one second.
pub fn progress(phase: &str, interval: &Interval) -> String {
    let tally = &interval.tally;
    let found = 100.0 * tally.hits as f64 / (tally.hits + tally.misses).max(1) as f64;
    format!(
        "{phase:<5}{:>5.0} s{:>12}/s   p50 {:>8.3} ms   p99 {:>8.3} ms   hits {found:>5.1} %   wrong {}",
        interval.at.as_secs_f64(),
        grouped(tally.rate() as u64),
        tally.latency_at(0.5).as_secs_f64() * 1e3,
        tally.latency_at(0.99).as_secs_f64() * 1e3,
        tally.wrong,
    )
}

/// The table, and below it what has no column.
pub fn table(phases: &[Named<'_>]) -> String {
    let mut text = format!("{TABLE_HEAD}\n");
    for (name, outcome) in phases {
        text += &outcome.tally.row(name);
        text.push('\n');
    }
    for (name, outcome) in phases {
        let commands = outcome.tally.latencies().len();
        if let Some(cpu_ns) = outcome.cpu_ns_per(commands) {
            let _ = writeln!(text, "{name}: {cpu_ns} ns of the load generator's own processor time per command");
        }
        if let Some(terms) = &outcome.tls {
            let _ = writeln!(text, "{name}: by {terms}");
        }
        if outcome.unsent > 0 {
            let due = grouped(commands + outcome.unsent);
            let _ =
                writeln!(text, "{name}: of {due} commands due {} were not begun: too slow", grouped(outcome.unsent));
        }
    }
    text
}

/// Latencies in milliseconds over percentiles, in the columns that HdrHistogram's own tools write
/// and plot.
pub fn percentile_log(tally: &Tally) -> String {
    let latencies = tally.latencies();
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let mut count = 0;
    for step in latencies.iter_quantiles(5) {
        count += step.count_since_last_iteration();
        let (value, share) = (milliseconds(step.value_iterated_to() as f64), step.quantile_iterated_to());
        let _ = write!(text, "{value:>12.3} {share:>14.12} {count:>10}");
        let _ = if share < 1.0 { writeln!(text, " {:>14.2}", 1.0 / (1.0 - share)) } else { writeln!(text) };
    }
    let (mean, deviation) = (milliseconds(latencies.mean()), milliseconds(latencies.stdev()));
    let _ = writeln!(text, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
    let (max, total) = (milliseconds(latencies.max() as f64), latencies.len());
    let _ = writeln!(text, "#[Max     = {max:>12.3}, Total count    = {total:>12}]");
    let (buckets, sub_buckets) = (latencies.buckets(), latencies.distinct_values() / usize::from(latencies.buckets()));
    let _ = writeln!(text, "#[Buckets = {buckets:>12}, SubBuckets     = {sub_buckets:>12}]");
    text
}

fn milliseconds(nanoseconds: f64) -> f64 {
    nanoseconds / 1e6
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::time::Duration;

    pub(in crate::load) fn outcome() -> Outcome {
        let mut tally = Tally::default();
        (tally.hits, tally.misses, tally.sets, tally.elapsed) = (90, 8, 2, Duration::from_secs(2));
        for latency in 1..=100 {
            tally.answered_after(latency * 1_000_000);
        }
        Outcome { tally, cpu: Some(Duration::from_micros(300)), unsent: 7, ..Outcome::default() }
    }

    #[test]
    fn the_table_says_what_the_run_cost_and_what_it_did_not_do() {
        let text = table(&[("run", &outcome())]);
        assert!(text.contains("run              100          50   50.004   99.025  100.008"), "{text}");
        assert!(text.contains("run: 3000 ns of the load generator's own"), "{text}");
        assert!(text.contains("of 107 commands due 7 were not begun"), "{text}");
    }

    #[test]
    fn the_percentile_log_counts_to_the_end() {
        let text = percentile_log(&outcome().tally);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .skip(2)
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows.first().map(|row| row[1]), Some("0.000000000000"));
        let last = rows.last().unwrap();
        assert_eq!((last[0], last[1], last[2], last.len()), ("100.008", "1.000000000000", "100", 3), "{text}");
        assert!(rows[..rows.len() - 1].iter().all(|row| row.len() == 4), "{text}");
        assert!(text.contains("#[Max     =      100.008, Total count    =          100]"), "{text}");
    }
}
