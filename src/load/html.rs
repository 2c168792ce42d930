//! What a run leaves behind for a browser: one page that refers to nothing outside itself. Pure:
//! outcomes in, HTML out.
//!
//! The page forbids itself every request (Content-Security-Policy), has no script, and follows the
//! reader's choice of light or dark. Charts: rate and latency over time, and latency over
//! percentiles on the axis of HdrHistogram's plots, log 1/(1-p).

mod chart;
mod charts;
mod ticks;

use super::drive::Outcome;
use super::report::grouped;
use super::summary::Named;
use std::fmt::Write;
use std::time::Duration;

/// What there is to tell.
pub struct Report<'a> {
    /// The command line.
    pub command: &'a str,
    /// When it began, for people.
    pub began: &'a str,
    /// What was set, by name.
    pub setup: &'a [(&'a str, String)],
    /// In the order in which they ran; charts show the last.
    pub phases: &'a [Named<'a>],
    /// Open loop: commands a second that were asked for.
    pub asked_rate: Option<f64>,
    /// What went wrong, if anything.
    pub error: Option<&'a str>,
    /// What may be said if nothing went wrong.
    pub praise: &'a str,
}

const STYLE: &str = include_str!("html/style.css");

/// The whole page.
pub fn page(report: &Report<'_>) -> String {
    let Some((_, last)) = report.phases.last() else { return String::new() };
    let rate = grouped(last.tally.rate() as u64);
    let (verdict, says) = report.error.map_or(("good", report.praise), |error| ("bad", error));
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>remora load: {rate} requests/s</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header><h1>remora load</h1><p>{} · version {}</p><code>{}</code></header>\n\
         <p class=\"verdict {verdict}\">{}</p>\n",
        escaped(report.began),
        env!("CARGO_PKG_VERSION"),
        escaped(report.command),
        escaped(says),
    );
    text += &tiles(last);
    if last.tally.requests() > 0 && !last.points.is_empty() {
        for chart in charts::all(last, report.asked_rate) {
            text += &chart.html();
        }
    }
    text += &table(report.phases);
    text += "<section><h2>Setup</h2><dl class=\"setup\">\n";
    for (name, value) in report.setup {
        let _ = writeln!(text, "<div><dt>{}</dt><dd>{}</dd></div>", escaped(name), escaped(value));
    }
    text + "</dl></section>\n</main>\n</body>\n</html>\n"
}

/// Text as it stands between tags and in quoted attributes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            _ => escaped.push(letter),
        }
    }
    escaped
}

fn tiles(outcome: &Outcome) -> String {
    let tally = &outcome.tally;
    let at = |share| time(tally.latency_at(share));
    let tiles = [
        ("requests per second", grouped(tally.rate() as u64)),
        ("latency p50", at(0.5)),
        ("latency p99", at(0.99)),
        ("latency p99.9", at(0.999)),
        ("longest latency", time(tally.latency_max())),
    ];
    let tile = |(name, value): (&str, String)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>");
    format!("<dl class=\"tiles\">{}</dl>\n", tiles.into_iter().map(tile).collect::<String>())
}

/// A row for each figure, a column for each phase.
fn table(phases: &[Named<'_>]) -> String {
    let heads = cells("th", phases.iter().map(|(name, _)| (*name).to_string()));
    let mut text = format!("<section><h2>All figures</h2><table><thead><tr><td></td>{heads}</tr></thead><tbody>\n");
    let columns: Vec<_> = phases.iter().map(|(_, outcome)| figures(outcome)).collect();
    for row in 0..columns.first().map_or(0, |column| column.len()) {
        let name = columns[0][row].0;
        let values = cells("td", columns.iter().map(|column| column[row].1.clone()));
        let _ = writeln!(text, "<tr><th scope=\"row\">{name}</th>{values}</tr>");
    }
    text + "</tbody></table></section>\n"
}

fn cells(tag: &str, values: impl Iterator<Item = String>) -> String {
    values.map(|value| format!("<{tag}>{}</{tag}>", escaped(&value))).collect()
}

fn figures(outcome: &Outcome) -> Vec<(&'static str, String)> {
    let tally = &outcome.tally;
    let (found, commands) = (tally.hits + tally.wrong, tally.latencies().len());
    let gets = found + tally.misses;
    let found_share = 100.0 * found as f64 / gets.max(1) as f64;
    let cpu = outcome.cpu_ns_per(commands).map_or("not told".into(), |ns| time(Duration::from_nanos(ns)));
    let at = |share| time(tally.latency_at(share));
    vec![
        ("duration", format!("{:.2} s", tally.elapsed.as_secs_f64())),
        ("keys read and written", grouped(tally.requests())),
        ("per second", grouped(tally.rate() as u64)),
        ("commands", grouped(commands)),
        ("commands not begun in time", grouped(outcome.unsent)),
        ("keys read", grouped(gets)),
        ("found", grouped(found)),
        ("found, share", format!("{found_share:.1}%")),
        ("wrong", grouped(tally.wrong)),
        ("keys written", grouped(tally.sets)),
        ("bytes of values written", grouped(tally.value_bytes_written)),
        ("latency mean", time(Duration::from_nanos(tally.latencies().mean() as u64))),
        ("latency p50", at(0.5)),
        ("latency p90", at(0.9)),
        ("latency p99", at(0.99)),
        ("latency p99.9", at(0.999)),
        ("latency p99.99", at(0.9999)),
        ("longest latency", time(tally.latency_max())),
        ("this tool's CPU per command", cpu),
    ]
}

fn time(duration: Duration) -> String {
    ticks::time_text(duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::drive::Point;
    use crate::load::summary::tests::outcome;

    fn report<'a>(phases: &'a [Named<'a>], error: Option<&'a str>) -> String {
        let setup = [("servers", "<script>alert(1)</script>".to_string())];
        let (command, began, praise) = ("remora load '<b>&\"'", "today", "all is well");
        page(&Report { command, began, setup: &setup, phases, asked_rate: None, error, praise })
    }

    #[test]
    fn the_page_says_what_ran_what_came_of_it_and_refers_to_nothing() {
        let point = Point {
            at: Duration::from_secs(2),
            rate: 50.0,
            p50: Duration::from_millis(50),
            p99: Duration::from_millis(99),
            wrong: 0,
        };
        let (fill, run) = (Outcome::default(), Outcome { points: vec![point], ..outcome() });
        let html = report(&[("fill", &fill), ("run", &run)], None);
        for part in [
            "<code>remora load &#39;&lt;b&gt;&amp;&quot;&#39;</code>",
            "<dd>&lt;script&gt;alert(1)&lt;/script&gt;</dd>",
            "<p class=\"verdict good\">all is well</p>",
            "<dt>latency p50</dt><dd>50 ms</dd>",
            "<th>fill</th><th>run</th>",
            "<th scope=\"row\">per second</th><td>0</td><td>50</td>",
            "<td>0.0%</td><td>91.8%</td>",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
        for reference in ["://", "src=", "href=", "url(", "@import", "<script", "<link"] {
            assert!(!html.contains(reference), "{reference} in {html}");
        }
        for tag in ["div", "span", "figure", "section", "table", "tr", "td", "th", "dl", "svg", "title", "p"] {
            let opened = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn what_went_wrong_comes_first_and_no_answer_needs_no_chart() {
        let html = report(&[("fill", &Outcome::default())], Some("connection 3 <broke>"));
        assert!(html.contains("<p class=\"verdict bad\">connection 3 &lt;broke&gt;</p>"), "{html}");
        assert!(!html.contains("<svg") && html.contains("<td>not told</td>"), "{html}");
    }
}
