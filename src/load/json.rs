//! What a run leaves behind for programs: one JSON object. Pure: settings and outcomes in, text
//! out.
//!
//! Field names end in their unit and are kept: scripts read them. What the system did not tell is
//! null; a phase that did not run is left out.

use super::drive::{Outcome, Point};
use super::summary::Named;
use serde::Serialize;
use std::time::Duration;

#[derive(Serialize)]
struct Document<'a, S> {
    tool: &'static str,
    version: &'static str,
    error: Option<&'a str>,
    settings: &'a S,
    #[serde(skip_serializing_if = "Option::is_none")]
    fill: Option<Phase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<Phase>,
}

/// Requests are keys asked for or written; a command is what was sent for them, several keys in one
/// with multi-get.
#[derive(Serialize)]
struct Phase {
    requests: u64,
    gets: u64,
    sets: u64,
    hits: u64,
    misses: u64,
    wrong: u64,
    commands: u64,
    unsent: u64,
    tls: Option<String>,
    seconds: f64,
    requests_per_second: f64,
    value_bytes_written: u64,
    cpu_ns_per_request: Option<u64>,
    load_cpu_ns_per_command: Option<u64>,
    latency_mean_us: f64,
    latency_p50_us: f64,
    latency_p90_us: f64,
    latency_p99_us: f64,
    latency_p99_9_us: f64,
    latency_p99_99_us: f64,
    latency_max_us: f64,
    intervals: Vec<Interval>,
}

#[derive(Serialize)]
struct Interval {
    at_seconds: f64,
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    wrong: u64,
}

/// All of it, a field to a line. Panics on `settings` that JSON cannot hold.
pub fn json(settings: &impl Serialize, phases: &[Named<'_>], error: Option<&str>) -> String {
    let phase = |wanted| phases.iter().find(|(name, _)| *name == wanted).map(|(_, outcome)| phase(outcome));
    let (tool, version) = ("remora load", env!("CARGO_PKG_VERSION"));
    let document = Document { tool, version, error, settings, fill: phase("fill"), run: phase("run") };
    serde_json::to_string_pretty(&document).expect("plain fields, and keys that are strings") + "\n"
}

fn phase(outcome: &Outcome) -> Phase {
    let tally = &outcome.tally;
    let hits = tally.hits + tally.wrong;
    let at = |share| microseconds(tally.latency_at(share));
    Phase {
        requests: tally.requests(),
        gets: hits + tally.misses,
        sets: tally.sets,
        hits,
        misses: tally.misses,
        wrong: tally.wrong,
        commands: tally.latencies().len(),
        unsent: outcome.unsent,
        tls: outcome.tls.clone(),
        seconds: tally.elapsed.as_secs_f64(),
        requests_per_second: tenths(tally.rate()),
        value_bytes_written: tally.value_bytes_written,
        cpu_ns_per_request: outcome.cpu_ns_per(tally.requests()),
        load_cpu_ns_per_command: outcome.cpu_ns_per(tally.latencies().len()),
        latency_mean_us: tenths(tally.latencies().mean() / 1e3),
        latency_p50_us: at(0.5),
        latency_p90_us: at(0.9),
        latency_p99_us: at(0.99),
        latency_p99_9_us: at(0.999),
        latency_p99_99_us: at(0.9999),
        latency_max_us: microseconds(tally.latency_max()),
        intervals: outcome.points.iter().map(interval).collect(),
    }
}

fn interval(point: &Point) -> Interval {
    let (at_seconds, requests_per_second) = (point.at.as_secs_f64(), tenths(point.rate));
    let (p50_us, p99_us) = (microseconds(point.p50), microseconds(point.p99));
    Interval { at_seconds, requests_per_second, p50_us, p99_us, wrong: point.wrong }
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e3
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::summary::tests::outcome;
    use serde_json::{Value, json};

    #[test]
    fn json_is_quoted_and_adds_up() {
        let mut outcome = outcome();
        outcome.tally.wrong(|| "x".into());
        outcome.points = vec![Point {
            at: Duration::from_millis(1005),
            rate: 50.04,
            p50: Duration::from_nanos(1001),
            p99: Duration::from_micros(9),
            wrong: 2,
        }];
        let text = super::json(&json!({"servers": ["a\"b\\c\n"]}), &[("run", &outcome)], Some("it \"broke\""));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["settings"]["servers"][0], "a\"b\\c\n");
        assert_eq!((&value["error"], value.get("fill")), (&json!("it \"broke\""), None));
        let run = &value["run"];
        for (name, expected) in [
            ("requests", json!(101)),
            ("gets", json!(99)),
            ("sets", json!(2)),
            ("hits", json!(91)),
            ("misses", json!(8)),
            ("wrong", json!(1)),
            ("unsent", json!(7)),
            ("tls", json!(null)),
            ("seconds", json!(2.0)),
            ("requests_per_second", json!(50.5)),
            ("cpu_ns_per_request", json!(2970)),
            ("load_cpu_ns_per_command", json!(3000)),
            (
                "intervals",
                json!([{"at_seconds": 1.005, "requests_per_second": 50.0, "p50_us": 1.001, "p99_us": 9.0, "wrong": 2}]),
            ),
        ] {
            assert_eq!(run[name], expected, "{name} in {text}");
        }
        let latencies: Vec<f64> = ["p50", "p90", "p99", "p99_9", "p99_99", "max"]
            .map(|at| run[format!("latency_{at}_us")].as_f64().unwrap())
            .into();
        assert!(latencies.is_sorted() && latencies[0] >= 50_000.0 && latencies[5] >= 100_000.0, "{latencies:?}");
    }

    #[test]
    fn what_is_not_known_is_null() {
        let value: Value =
            serde_json::from_str(&super::json(&json!({}), &[("fill", &Outcome::default())], None)).unwrap();
        assert!(value["error"].is_null() && value["fill"]["cpu_ns_per_request"].is_null(), "{value}");
    }
}
