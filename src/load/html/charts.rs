//! The charts of the report: rate and latency over time, latency over percentiles. Pure.

use super::chart::{Axis, Chart, Column, Line};
use super::{ticks, time};
use crate::base::limits::LOAD_REPORT_INTERVALS_MAX;
use crate::load::drive::{Outcome, Point};
use crate::load::report::grouped;
use std::time::Duration;

/// More points than this are not marked: they would touch.
const DOTS_MAX: usize = 60;

/// One interval, or several next to each other.
struct Span {
    from: f64,
    to: f64,
    rate: f64,
    p50: Duration,
    p99: Duration,
    wrong: u64,
}

impl Span {
    fn middle(&self) -> f64 {
        (self.from + self.to) / 2.0
    }
}

/// Where there are more intervals than a chart can show, several become one: mean rate, longest
/// latencies.
fn spans(points: &[Point]) -> Vec<Span> {
    let mut from = 0.0;
    let together = points.len().div_ceil(LOAD_REPORT_INTERVALS_MAX).max(1);
    let span = |points: &[Point]| {
        let (begin, mut requests) = (from, 0.0);
        for point in points {
            requests += point.rate * (point.at.as_secs_f64() - from);
            from = point.at.as_secs_f64();
        }
        let longest = |latency: fn(&Point) -> Duration| points.iter().map(latency).max().unwrap_or_default();
        Span {
            from: begin,
            to: from,
            rate: requests / (from - begin).max(1e-9),
            p50: longest(|point| point.p50),
            p99: longest(|point| point.p99),
            wrong: points.iter().map(|point| point.wrong).sum(),
        }
    };
    points.chunks(together).map(span).collect()
}

/// The charts of a run that had answers: rate, latency over time, latency over percentiles.
pub fn all(outcome: &Outcome, asked_rate: Option<f64>) -> [Chart<'static>; 3] {
    let spans = spans(&outcome.points);
    [rate_chart(outcome, &spans, asked_rate), latency_chart(&spans, asked_rate.is_some()), percentile_chart(outcome)]
}

fn rate_chart(outcome: &Outcome, spans: &[Span], asked_rate: Option<f64>) -> Chart<'static> {
    let mut lines = vec![line("rate", "answered", spans.iter().map(|span| (span.middle(), span.rate)).collect())];
    let end = spans.last().map_or(1.0, |span| span.to);
    if let Some(asked) = asked_rate {
        // The rate is asked for in commands. A multi-get is one command, and several requests.
        let requests_per_command = outcome.tally.requests() as f64 / outcome.tally.latencies().len().max(1) as f64;
        let asked = asked * requests_per_command;
        lines.insert(0, Line { dots: Vec::new(), ..line("asked", "asked for", vec![(0.0, asked), (end, asked)]) });
    }
    let highest = lines.iter().flat_map(|line| &line.points).map(|(_, rate)| *rate).fold(1.0, f64::max);
    let ticks = ticks::linear(highest, 6);
    let y = Axis::linear(ticks[ticks.len() - 1], ticks, ticks::count_text);
    let wrong = spans.iter().filter(|span| span.wrong > 0).map(Span::middle).collect();
    Chart {
        title: "Rate",
        about: "requests per second, over time",
        x: time_axis(end),
        y,
        lines,
        wrong,
        columns: columns(spans),
    }
}

fn latency_chart(spans: &[Span], is_open_loop: bool) -> Chart<'static> {
    // An interval without an answer has no latency.
    let answered: Vec<&Span> = spans.iter().filter(|span| span.p50 > Duration::ZERO).collect();
    let points = |latency: fn(&Span) -> Duration| -> Vec<(f64, f64)> {
        answered.iter().map(|span| (span.middle(), latency(span).as_secs_f64())).collect()
    };
    let lines = vec![line("p99", "p99", points(|span| span.p99)), line("p50", "p50 (median)", points(|span| span.p50))];
    let y = latency_axis(lines.iter().flat_map(|line| &line.points).map(|(_, latency)| *latency));
    let end = spans.last().map_or(1.0, |span| span.to);
    let about = match is_open_loop {
        true => "from when a command was due to its answer, over time",
        false => "from when a command was sent to its answer, over time",
    };
    Chart { title: "Latency", about, x: time_axis(end), y, lines, wrong: Vec::new(), columns: columns(spans) }
}

fn percentile_chart(outcome: &Outcome) -> Chart<'static> {
    let latencies = outcome.tally.latencies();
    // The axis ends at one answer of all: nothing rarer was measured.
    let end = (latencies.len().max(10) as f64).log10();
    let across = |share: f64| if share < 1.0 { (-(1.0 - share).log10()).min(end) } else { end };
    let point = |share, nanoseconds: u64| (across(share), nanoseconds as f64 / 1e9);
    let steps = latencies.iter_quantiles(10).map(|step| (step.quantile_iterated_to(), step.value_iterated_to()));
    let steps: Vec<(f64, u64)> = steps.collect();
    let points: Vec<(f64, f64)> = steps.iter().map(|(share, latency)| point(*share, *latency)).collect();
    // More than seven nines do not fit beside each other on a narrow page.
    let shares: Vec<f64> = (1..=(end as i32).min(7)).map(|nines| 1.0 - 10_f64.powi(-nines)).collect();
    let marked = |share: &f64| point(*share, latencies.value_at_quantile(*share));
    let dots = [0.5].iter().chain(&shares).map(marked).chain([point(1.0, latencies.max())]).collect();
    let y = latency_axis(points.iter().map(|(_, latency)| *latency));
    let ticks = [0.0, across(0.5)].into_iter().chain(shares.iter().map(|share| across(*share))).collect();
    let x = Axis::linear(end, ticks, |across| percent_text(1.0 - 10_f64.powf(-across)));
    let column = |pair: &[(f64, u64)]| {
        let [(from, _), (share, latency)] = pair else { unreachable!("windows of two") };
        let title = format!("{} within {}", percent_text(*share), time(Duration::from_nanos(*latency)));
        Column { from: across(*from), to: across(*share), title }
    };
    let columns = steps.windows(2).map(column).filter(|column| column.to > column.from).collect();
    let lines = vec![Line { class: "curve", name: "latency", points, dots }];
    let about = "latency that this share of commands did not exceed; the scale is log 1/(1-p)";
    Chart { title: "Latency by percentile", about, x, y, lines, wrong: Vec::new(), columns }
}

/// With as many digits as its distance from 1 calls for: 90%, 99%, 99.9%.
fn percent_text(share: f64) -> String {
    let nines = if share < 1.0 { -(1.0 - share).log10() } else { 0.0 };
    let digits = (nines - 2.01).ceil().clamp(0.0, 12.0) as usize;
    format!("{:.digits$}%", share * 100.0)
}

fn line(class: &'static str, name: &'static str, points: Vec<(f64, f64)>) -> Line {
    let dots = if points.len() <= DOTS_MAX { points.clone() } else { Vec::new() };
    Line { class, name, points, dots }
}

fn time_axis(end: f64) -> Axis {
    Axis::linear(end, ticks::seconds(end, 10), ticks::clock_text)
}

fn latency_axis(latencies: impl Iterator<Item = f64> + Clone) -> Axis {
    let high = latencies.clone().fold(1e-9, f64::max);
    let low = latencies.fold(high, f64::min);
    Axis::logarithmic(ticks::logarithmic(low, high, 8), ticks::time_text)
}

fn columns(spans: &[Span]) -> Vec<Column> {
    let title = |span: &Span| {
        let wrong = if span.wrong > 0 { format!(", {} wrong", span.wrong) } else { String::new() };
        let (rate, to) = (grouped(span.rate as u64), span.to);
        format!("until {to:.1} s: {rate} requests/s, p50 {}, p99 {}{wrong}", time(span.p50), time(span.p99))
    };
    spans.iter().map(|span| Column { from: span.from, to: span.to, title: title(span) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::summary::tests::outcome;

    fn points(count: u64) -> Vec<Point> {
        let point = |at: u64| Point {
            at: Duration::from_secs(at),
            rate: 100.0 * at as f64,
            p50: Duration::from_micros(at),
            p99: Duration::from_micros(2000 - at),
            wrong: u64::from(at == 3),
        };
        (1..=count).map(point).collect()
    }

    #[test]
    fn each_interval_is_a_point_until_there_are_too_many() {
        let few = spans(&points(4));
        assert_eq!(
            few.iter().map(|span| (span.middle(), span.rate)).collect::<Vec<_>>(),
            [(0.5, 100.0), (1.5, 200.0), (2.5, 300.0), (3.5, 400.0)]
        );
        let many = spans(&points(2 * LOAD_REPORT_INTERVALS_MAX as u64 + 1));
        assert!(many.len() <= LOAD_REPORT_INTERVALS_MAX && many.len() > LOAD_REPORT_INTERVALS_MAX / 2);
        let second = &many[1];
        assert_eq!((second.from, second.to, second.rate, second.wrong), (3.0, 6.0, 500.0, 0));
        assert_eq!((second.p50.as_micros(), second.p99.as_micros()), (6, 1996));
        assert_eq!(many[0].wrong, 1);
        assert!(spans(&[]).is_empty());
    }

    #[test]
    fn the_percentile_axis_goes_as_far_as_there_are_commands() {
        let chart = percentile_chart(&outcome());
        let curve = &chart.lines[0];
        assert_eq!((curve.points[0].0, curve.points.last().unwrap().0), (0.0, 2.0), "a hundred commands: up to 99 %");
        assert!(curve.points.is_sorted_by(|one, next| one.0 <= next.0 && one.1 <= next.1), "{:?}", curve.points);
        let marks: Vec<(f64, u64)> = curve.dots.iter().map(|(at, latency)| (*at, (latency * 1e3) as u64)).collect();
        assert_eq!(marks.iter().map(|(_, ms)| *ms).collect::<Vec<_>>(), [50, 90, 99, 100], "{marks:?}");
        let texts = [0.0, 0.5, 0.9, 0.99, 0.999, 0.999_99, 1.0].map(percent_text);
        assert_eq!(texts, ["0%", "50%", "90%", "99%", "99.9%", "99.999%", "100%"]);
    }

    #[test]
    fn wrong_answers_and_the_rate_asked_for_are_shown() {
        let outcome = Outcome { points: points(4), ..outcome() };
        let html = rate_chart(&outcome, &spans(&outcome.points), Some(500.0)).html();
        assert!(html.contains("wrong answers") && html.contains("asked for") && html.contains("1 wrong"), "{html}");
        assert_eq!(html.matches("<rect").count(), 4);
        assert!(!latency_chart(&spans(&outcome.points), true).html().contains("asked for"));
    }
}
