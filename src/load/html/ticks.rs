//! Where an axis has its ticks, and what they say. Pure. All values are round: 1, 2 or 5 times a
//! power of ten, and for time what clocks show.

/// Multiples of a round step from 0 to the first that reaches `high`; at most `count_max` beside
/// the 0.
pub fn linear(high: f64, count_max: usize) -> Vec<f64> {
    let step = round(step_from(high.max(f64::MIN_POSITIVE) / count_max as f64));
    let count = (high / step - TINY).ceil().max(1.0) as usize;
    (0..=count).map(|number| number as f64 * step).collect()
}

/// Round values that enclose `low` to `high`, two at least: 1, 2, 5 and so on, or powers of ten
/// where these are more than `count_max`.
pub fn logarithmic(low: f64, high: f64, count_max: usize) -> Vec<f64> {
    let last = step_from(high);
    let first = step_up_to(low).min(last - 1);
    if (last - first) < count_max as i32 {
        return (first..=last).map(round).collect();
    }
    let decades = first.div_euclid(3)..=(last + 2).div_euclid(3);
    decades.map(|decade| round(decade * 3)).collect()
}

/// Seconds from 0 on up to `high`, at most `count_max` beside the 0.
pub fn seconds(high: f64, count_max: usize) -> Vec<f64> {
    const MINUTE: f64 = 60.0;
    const HOUR: f64 = 3600.0;
    let clock = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0].into_iter();
    let clock = clock.clone().chain(clock.map(|count| count * MINUTE));
    let mut clock = clock.chain([1.0, 2.0, 3.0, 6.0, 12.0, 24.0].map(|count| count * HOUR));
    let wanted = high / count_max as f64;
    let step =
        if wanted < 0.5 { round(step_from(wanted)) } else { clock.find(|step| *step >= wanted).unwrap_or(wanted) };
    (0..=(high / step + TINY) as usize).map(|number| number as f64 * step).collect()
}

const TINY: f64 = 1e-9;

/// The round value of this number: 0 is 1, 1 is 2, 2 is 5, 3 is 10, and so on.
fn round(step: i32) -> f64 {
    [1.0, 2.0, 5.0][step.rem_euclid(3) as usize] * 10_f64.powi(step.div_euclid(3))
}

/// The first round value that is not below this.
fn step_from(value: f64) -> i32 {
    let decade = value.log10().floor() as i32;
    let mut near = decade * 3..decade * 3 + 4;
    near.find(|step| round(*step) >= value * (1.0 - TINY)).expect("ten times its decade is above any value")
}

/// The last round value that is not above this.
fn step_up_to(value: f64) -> i32 {
    let from = step_from(value);
    if round(from) <= value * (1.0 + TINY) { from } else { from - 1 }
}

/// A count on an axis: 0, 500, 20k, 1.5M.
pub fn count_text(count: f64) -> String {
    let (unit, scale) =
        [("G", 1e9), ("M", 1e6), ("k", 1e3)].into_iter().find(|(_, scale)| count >= *scale).unwrap_or(("", 1.0));
    format!("{}{unit}", significant(count / scale))
}

/// A time on an axis or in a sentence, to three digits.
pub fn time_text(seconds: f64) -> String {
    let (unit, scale) = [("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)]
        .into_iter()
        .find(|(_, scale)| seconds >= *scale * 0.9995)
        .unwrap_or(("ns", 1e-9));
    format!("{} {unit}", significant(seconds / scale))
}

/// A time since the beginning, on an axis.
pub fn clock_text(seconds: f64) -> String {
    match seconds {
        _ if seconds < 60.0 || seconds % 1.0 != 0.0 => format!("{} s", significant(seconds)),
        _ if seconds % 3600.0 == 0.0 => format!("{} h", seconds / 3600.0),
        _ if seconds % 60.0 == 0.0 => format!("{} min", seconds / 60.0),
        _ => format!("{seconds} s"),
    }
}

/// Three digits, without zeros that say nothing.
fn significant(value: f64) -> String {
    let digits = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    if digits == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_axis_begins_at_0_and_reaches_the_highest() {
        assert_eq!(linear(153_000.0, 5), [0.0, 50e3, 100e3, 150e3, 200e3]);
        assert_eq!(linear(150_000.0, 5), [0.0, 50e3, 100e3, 150e3]);
        assert_eq!(linear(0.0, 5).len(), 2);
        for high in [1e-3, 0.9, 1.0, 1.01, 7.0, 99.0, 123_456.0, 9.99e8] {
            let ticks = linear(high, 5);
            assert!(ticks.len() <= 6 && *ticks.last().unwrap() >= high * 0.999, "{high}: {ticks:?}");
        }
    }

    #[test]
    fn a_logarithmic_axis_encloses_what_it_shows() {
        assert_eq!(logarithmic(23e-6, 4e-4, 8), [2e-5, 5e-5, 1e-4, 2e-4, 5e-4]);
        assert_eq!(logarithmic(1e-5, 1e-5, 8).len(), 2);
        assert_eq!(logarithmic(23e-6, 3.0, 8), [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0]);
        for (low, high) in [(1e-9, 60.0), (9.99e-6, 1.001e-3), (5e-5, 1e-3), (2e-5, 2.1e-5)] {
            let ticks = logarithmic(low, high, 8);
            let (first, last) = (ticks[0], ticks[ticks.len() - 1]);
            assert!(first <= low * 1.001 && last >= high * 0.999 && ticks.is_sorted(), "{low} {high}: {ticks:?}");
            assert!((2..=12).contains(&ticks.len()), "{ticks:?}");
        }
    }

    #[test]
    fn time_steps_are_those_of_clocks() {
        let text = |high| seconds(high, 6).into_iter().map(clock_text).collect::<Vec<_>>().join(" ");
        assert_eq!(text(10.0), "0 s 2 s 4 s 6 s 8 s 10 s");
        assert_eq!(text(3.02), "0 s 1 s 2 s 3 s");
        assert_eq!(text(0.4), "0 s 0.1 s 0.2 s 0.3 s 0.4 s");
        assert_eq!(text(61.0), "0 s 15 s 30 s 45 s 1 min");
        assert_eq!(text(600.0), "0 s 2 min 4 min 6 min 8 min 10 min");
        assert_eq!(text(7200.0), "0 s 30 min 1 h 90 min 2 h");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 500.0, 20e3, 1.5e6].map(count_text), ["0", "500", "20k", "1.5M"]);
        assert_eq!([5e-8, 2e-5, 1.234e-3, 0.5, 12.0].map(time_text), ["50 ns", "20 µs", "1.23 ms", "500 ms", "12 s"]);
        assert_eq!([0.999_96e-3, 99.96e-3].map(time_text), ["1 ms", "100 ms"]);
    }
}
