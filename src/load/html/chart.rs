//! A line chart. Geometry is inline SVG that is stretched to the width there is; text is HTML
//! beside it and keeps its size. Pure.

use super::escaped;
use std::fmt::Write;

/// See the module.
pub struct Chart<'a> {
    /// What it shows.
    pub title: &'a str,
    /// What stands on the axes, with units.
    pub about: &'a str,
    /// From left to right.
    pub x: Axis,
    /// From below to above.
    pub y: Axis,
    /// Drawn in this order.
    pub lines: Vec<Line>,
    /// Where answers were wrong, on the x axis.
    pub wrong: Vec<f64>,
    /// What is shown under the pointer.
    pub columns: Vec<Column>,
}

/// Values along an edge.
pub struct Axis {
    low: f64,
    high: f64,
    is_logarithmic: bool,
    /// Where there is a grid line, and what it says.
    ticks: Vec<(f64, String)>,
}

/// A line, its colour given by its class in the style sheet.
pub struct Line {
    /// In the style sheet.
    pub class: &'static str,
    /// In the legend.
    pub name: &'static str,
    /// In the values of the axes.
    pub points: Vec<(f64, f64)>,
    /// Points that are marked.
    pub dots: Vec<(f64, f64)>,
}

/// A part of the x axis.
pub struct Column {
    /// It begins there.
    pub from: f64,
    /// It ends there.
    pub to: f64,
    /// What it says.
    pub title: String,
}

/// The SVG's own units along each edge.
const EDGE: f64 = 1000.0;

/// Letters that fit on an x axis side by side where the page is narrow.
const NARROW_LETTERS: f64 = 40.0;
/// Points that can be marked there.
const NARROW_DOTS_MAX: usize = 25;

impl Axis {
    /// From 0, or from the first tick, to `high`.
    pub fn linear(high: f64, ticks: Vec<f64>, text: impl Fn(f64) -> String) -> Axis {
        let ticks = ticks.into_iter().map(|tick| (tick, text(tick))).collect();
        Axis { low: 0.0, high, is_logarithmic: false, ticks }
    }

    /// From the first tick to the last, each power of ten as long as the next.
    pub fn logarithmic(ticks: Vec<f64>, text: impl Fn(f64) -> String) -> Axis {
        let (low, high) = (ticks[0], ticks[ticks.len() - 1]);
        let ticks = ticks.into_iter().map(|tick| (tick, text(tick))).collect();
        Axis { low, high, is_logarithmic: true, ticks }
    }

    /// From 0 at its beginning to 1 at its end; values beyond it lie at its ends.
    fn place(&self, value: f64) -> f64 {
        let place = match self.is_logarithmic {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        place.clamp(0.0, 1.0)
    }
}

impl Chart<'_> {
    /// A figure of HTML.
    pub fn html(&self) -> String {
        let (title, about) = (escaped(self.title), escaped(self.about));
        let mut text = format!("<figure><figcaption><h2>{title}</h2><p>{about}</p>{}</figcaption>\n", self.legend());
        let _ = write!(text, "<div class=\"plot\">\n{}", self.svg());
        for (value, says) in &self.y.ticks {
            let top = (1.0 - self.y.place(*value)) * 100.0;
            let _ = write!(text, "<span class=\"y\" style=\"top:{top:.2}%\">{}</span>", escaped(says));
        }
        // The end of the last label that is shown where the page is narrow.
        let mut taken = f64::NEG_INFINITY;
        for (value, says) in &self.x.ticks {
            let place = self.x.place(*value);
            let letters = says.chars().count() as f64 + 1.0;
            let begin = place * NARROW_LETTERS - letters / 2.0;
            let class = if begin < taken { "x wide" } else { "x" };
            if begin >= taken {
                taken = begin + letters;
            }
            let _ =
                write!(text, "<span class=\"{class}\" style=\"left:{:.2}%\">{}</span>", place * 100.0, escaped(says));
        }
        text + "\n</div></figure>\n"
    }

    fn legend(&self) -> String {
        let mut entries: Vec<(&str, &str)> = self.lines.iter().map(|line| (line.class, line.name)).collect();
        if !self.wrong.is_empty() {
            entries.push(("wrong", "wrong answers"));
        }
        if entries.len() < 2 {
            return String::new();
        }
        let entry = |(class, name): (&str, &str)| format!("<span class=\"{class}\">{}</span>", escaped(name));
        format!("<p class=\"legend\">{}</p>", entries.into_iter().map(entry).collect::<String>())
    }

    fn svg(&self) -> String {
        let label = escaped(&format!("{}: {}", self.title, self.about));
        let mut text = format!(
            "<svg viewBox=\"0 0 {EDGE} {EDGE}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{label}\">\n"
        );
        let rows = self.y.ticks.iter().map(|(value, _)| format!("M0 {:.1}H{EDGE}", self.down(*value)));
        let _ = writeln!(text, "<path class=\"grid\" d=\"{}\"/>", rows.collect::<String>());
        let columns = self.x.ticks.iter().map(|(value, _)| format!("M{:.1} 0V{EDGE}", self.across(*value)));
        let _ = writeln!(text, "<path class=\"grid\" d=\"{}\"/>", columns.collect::<String>());
        if !self.wrong.is_empty() {
            let marks = self.wrong.iter().map(|at| format!("M{:.1} 0V{EDGE}", self.across(*at)));
            let _ = writeln!(text, "<path class=\"mark wrong\" d=\"{}\"/>", marks.collect::<String>());
        }
        for line in &self.lines {
            let points = line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", self.across(*x), self.down(*y)));
            let points = points.collect::<Vec<_>>().join(" ");
            let _ = writeln!(text, "<polyline class=\"{}\" points=\"{points}\"/>", line.class);
            // A line of no length with round ends: a dot that is round however the picture is
            // stretched.
            let dots = line.dots.iter().map(|(x, y)| format!("M{:.1} {:.1}h.01", self.across(*x), self.down(*y)));
            let wide = if line.dots.len() > NARROW_DOTS_MAX { " wide" } else { "" };
            let _ = writeln!(text, "<path class=\"dots {}{wide}\" d=\"{}\"/>", line.class, dots.collect::<String>());
        }
        for Column { from, to, title } in &self.columns {
            let (from, to) = (self.across(*from), self.across(*to));
            let (width, title) = (to - from, escaped(title));
            let _ = writeln!(
                text,
                "<rect x=\"{from:.1}\" y=\"0\" width=\"{width:.1}\" height=\"{EDGE}\"><title>{title}</title></rect>"
            );
        }
        text + "</svg>\n"
    }

    fn across(&self, value: f64) -> f64 {
        self.x.place(value) * EDGE
    }

    fn down(&self, value: f64) -> f64 {
        (1.0 - self.y.place(value)) * EDGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(wrong: Vec<f64>) -> String {
        let line =
            Line { class: "rate", name: "a<b", points: vec![(0.0, 1.0), (10.0, 100.0)], dots: vec![(5.0, 10.0)] };
        let column = Column { from: 0.0, to: 5.0, title: "\"5\" & more".into() };
        let x =
            Axis::linear(10.0, (0..=20).map(|half| f64::from(half) / 2.0).collect(), |second| format!("{second} s"));
        let y = Axis::logarithmic(vec![1.0, 10.0, 100.0], |value| value.to_string());
        Chart { title: "T", about: "about", x, y, lines: vec![line], wrong, columns: vec![column] }.html()
    }

    #[test]
    fn values_lie_where_the_axes_say() {
        let html = chart(Vec::new());
        assert!(html.contains("points=\"0.0,1000.0 1000.0,0.0\""), "{html}");
        assert!(html.contains("class=\"dots rate\" d=\"M500.0 500.0h.01\""), "the middle of both axes: {html}");
        assert!(html.contains("style=\"top:50.00%\">10<"), "{html}");
        assert!(html.contains("x=\"0.0\" y=\"0\" width=\"500.0\""), "{html}");
    }

    #[test]
    fn labels_that_would_touch_on_a_narrow_page_are_for_wide_ones() {
        let html = chart(Vec::new());
        let (all, wide) = (html.matches("class=\"x").count(), html.matches("class=\"x wide\"").count());
        assert_eq!((all, wide), (21, 11), "{html}");
        assert!(html.contains("class=\"x\" style=\"left:0.00%\">0 s<"));
    }

    #[test]
    fn text_is_escaped_and_wrong_answers_are_in_the_legend() {
        assert!(chart(Vec::new()).contains("<title>&quot;5&quot; &amp; more</title>"));
        assert!(!chart(Vec::new()).contains("class=\"legend\""), "one line needs none");
        let html = chart(vec![2.0]);
        assert!(
            html.contains("<span class=\"rate\">a&lt;b</span><span class=\"wrong\">wrong answers</span>"),
            "{html}"
        );
        assert!(html.contains("class=\"mark wrong\" d=\"M200.0 0V1000\""), "{html}");
    }
}
