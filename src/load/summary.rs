//! What a run leaves behind: a table for people, JSON for programs, and a percentile log as HdrHistogram's plotters read it.
//! Pure: outcomes in, text out.

use super::drive::{Interval, Outcome};
use super::report::{TABLE_HEAD, Tally, grouped};
use std::fmt::Write;
use std::time::Duration;

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
        if let Some(cpu_ns) = cpu_ns_per_command(outcome) {
            let _ = writeln!(text, "{name}: {cpu_ns} ns of the load generator's own processor time per command");
        }
        if outcome.unsent > 0 {
            let due = grouped(commands + outcome.unsent);
            let _ =
                writeln!(text, "{name}: of {due} commands due {} were not begun: too slow", grouped(outcome.unsent));
        }
    }
    text
}

/// All of it as one JSON object. `settings` are names and values that are JSON already.
pub fn json(settings: &[(&str, String)], phases: &[Named<'_>], error: Option<&str>) -> String {
    let mut text = String::from("{\n  \"tool\": \"remora load\",\n");
    let _ = writeln!(text, "  \"version\": {},", string(env!("CARGO_PKG_VERSION")));
    let _ = writeln!(text, "  \"error\": {},", error.map_or("null".into(), string));
    let rows: Vec<String> = settings.iter().map(|(name, value)| format!("    \"{name}\": {value}")).collect();
    let _ = write!(text, "  \"settings\": {{\n{}\n  }}", rows.join(",\n"));
    for (name, outcome) in phases {
        let _ = write!(text, ",\n  \"{name}\": {{\n{}\n  }}", phase(outcome));
    }
    text + "\n}\n"
}

fn phase(outcome: &Outcome) -> String {
    let tally = &outcome.tally;
    let found = tally.hits + tally.wrong;
    let gets = found + tally.misses;
    let mut rows = vec![
        ("requests", (gets + tally.sets).to_string()),
        ("gets", gets.to_string()),
        ("sets", tally.sets.to_string()),
        ("hits", found.to_string()),
        ("misses", tally.misses.to_string()),
        ("wrong", tally.wrong.to_string()),
        ("commands", tally.latencies().len().to_string()),
        ("unsent", outcome.unsent.to_string()),
        ("seconds", format!("{:.6}", tally.elapsed.as_secs_f64())),
        ("requests_per_second", format!("{:.1}", tally.rate())),
        ("value_bytes_written", tally.value_bytes_written.to_string()),
        ("load_cpu_ns_per_command", cpu_ns_per_command(outcome).map_or("null".into(), |ns| ns.to_string())),
        ("latency_mean_us", format!("{:.3}", tally.latencies().mean() / 1e3)),
    ];
    for (name, share) in [
        ("latency_p50_us", 0.5),
        ("latency_p90_us", 0.9),
        ("latency_p99_us", 0.99),
        ("latency_p99_9_us", 0.999),
        ("latency_p99_99_us", 0.9999),
    ] {
        rows.push((name, microseconds(tally.latency_at(share))));
    }
    rows.push(("latency_max_us", microseconds(tally.latency_max())));
    let points = outcome.points.iter().map(|point| {
        let (at, rate) = (point.at.as_secs_f64(), point.rate);
        let (p50, p99) = (microseconds(point.p50), microseconds(point.p99));
        format!("      {{\"at_seconds\": {at:.3}, \"requests_per_second\": {rate:.1}, \"p50_us\": {p50}, \"p99_us\": {p99}}}")
    });
    rows.push(("intervals", format!("[\n{}\n    ]", points.collect::<Vec<_>>().join(",\n"))));
    let rows = rows.iter().map(|(name, value)| format!("    \"{name}\": {value}"));
    rows.collect::<Vec<_>>().join(",\n")
}

/// Latencies in milliseconds over percentiles, in the columns that HdrHistogram's own tools write and plot.
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

/// A string of JSON.
pub fn string(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '\0'..='\x1f' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(letter));
            }
            _ => quoted.push(letter),
        }
    }
    quoted + "\""
}

fn cpu_ns_per_command(outcome: &Outcome) -> Option<u64> {
    let commands = outcome.tally.latencies().len();
    outcome.cpu.filter(|_| commands > 0).map(|cpu| cpu.as_nanos() as u64 / commands)
}

fn microseconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64() * 1e6)
}

fn milliseconds(nanoseconds: f64) -> f64 {
    nanoseconds / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        let mut tally = Tally::default();
        (tally.hits, tally.misses, tally.sets, tally.elapsed) = (90, 8, 2, Duration::from_secs(2));
        for latency in 1..=100 {
            tally.answered_after(Duration::from_millis(latency));
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
    fn json_is_quoted_and_adds_up() {
        let mut outcome = outcome();
        outcome.tally.wrong(|| "x".into());
        let text = json(&[("servers", string("a\"b\\c\n"))], &[("run", &outcome)], Some("it \"broke\""));
        for part in [
            "\"servers\": \"a\\\"b\\\\c\\u000a\"",
            "\"error\": \"it \\\"broke\\\"\"",
            "\"requests\": 101,\n    \"gets\": 99,\n    \"sets\": 2,\n    \"hits\": 91,\n    \"misses\": 8,\n    \"wrong\": 1",
            "\"load_cpu_ns_per_command\": 3000",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert_eq!(text.matches(['{', '[']).count(), text.matches(['}', ']']).count());
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
