//! memcached's rows of `stats` and its subjects: for each its name, what it shows here, and how far
//! that is what it shows in memcached. The answers are made of these tables, in memcached's order,
//! and docs/COMPATIBILITY.md has them too, held to them by a test.

use super::stats_report::{Snapshot, cpu_seconds};
use super::{Call, Engine};
use crate::base::time::UnixSeconds;
use crate::protocol::reply::Rows;

/// How far a row shows what it shows in memcached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The same.
    Same,
    /// Nearly: how.
    Differs(&'static str),
    /// Always what memcached shows where the thing is off, or was never used: why.
    Idle(&'static str),
}

/// What a row shows.
pub(super) enum Shown {
    /// A number.
    Number(fn(&Figures<'_>) -> u64),
    /// Anything.
    Text(fn(&Figures<'_>) -> String),
    /// What the server says under the same name in its rows of `stats settings`.
    Given,
    /// Always the same.
    Fixed(&'static str),
}

/// A row.
pub(super) struct Stat {
    pub(super) name: &'static str,
    pub(super) shown: Shown,
    /// For the page.
    #[cfg_attr(not(test), expect(dead_code))]
    pub(super) meaning: Meaning,
}

/// What rows are made of.
pub(super) struct Figures<'e> {
    pub(super) engine: &'e Engine,
    /// Counters since the last reset, and what is true now.
    pub(super) now: Snapshot,
    pub(super) time: UnixSeconds,
    /// User and system time of this process in seconds.
    pub(super) cpu_seconds: (f64, f64),
}

/// A number that is what it is in memcached.
pub(super) const fn number(name: &'static str, value: fn(&Figures<'_>) -> u64) -> Stat {
    Stat { name, shown: Shown::Number(value), meaning: Meaning::Same }
}

/// A text that is what it is in memcached.
pub(super) const fn text(name: &'static str, value: fn(&Figures<'_>) -> String) -> Stat {
    Stat { name, shown: Shown::Text(value), meaning: Meaning::Same }
}

/// What the server says of its command line.
pub(super) const fn given(name: &'static str) -> Stat {
    Stat { name, shown: Shown::Given, meaning: Meaning::Same }
}

/// Of something that is not here, or cannot be changed.
pub(super) const fn idle(name: &'static str, value: &'static str, why: &'static str) -> Stat {
    Stat { name, shown: Shown::Fixed(value), meaning: Meaning::Idle(why) }
}

impl Stat {
    /// The row, where it is not quite what it is in memcached.
    pub(super) const fn but(self, how: &'static str) -> Stat {
        Stat { meaning: Meaning::Differs(how), ..self }
    }
}

impl Engine {
    /// What is counted and true now.
    pub(super) fn figures(&self, call: &Call<'_, '_, '_>) -> Figures<'_> {
        Figures {
            engine: self,
            now: self.snapshot(call),
            time: call.context.now,
            cpu_seconds: cpu_seconds().unwrap_or_default(),
        }
    }

    /// A row that the server gave.
    pub(super) fn setting(&self, name: &str) -> Option<&str> {
        self.settings.rows.iter().find(|row| row.0 == name).map(|row| row.1.as_str())
    }
}

impl Figures<'_> {
    /// -t.
    pub(super) fn workers(&self) -> u64 {
        self.engine.settings.workers as u64
    }
}

/// Answer with all rows of a table; `before` stands before each name.
pub(super) fn report(out: &mut Rows<'_>, before: &str, table: &[Stat], figures: &Figures<'_>) {
    for Stat { name: plain, shown, .. } in table {
        let name = format_args!("{before}{plain}");
        match shown {
            Shown::Number(value) => out.row(name, value(figures)),
            Shown::Text(value) => out.row(name, value(figures)),
            Shown::Given => out.row(name, figures.engine.setting(plain).unwrap_or_default()),
            Shown::Fixed(value) => out.row(name, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{stats_classes, stats_general, stats_settings};
    use super::*;

    /// `| name | what becomes of it | why |` for each row.
    fn page_of(table: &[Stat]) -> String {
        let mut page = String::from("| name | here | how, or why |\n| --- | --- | --- |\n");
        for Stat { name, shown, meaning } in table {
            let (word, why) = match (meaning, shown) {
                (Meaning::Same, _) => ("same", String::new()),
                (Meaning::Differs(how), _) => ("differs", format!(" {how}")),
                (Meaning::Idle(why), Shown::Fixed(value)) => ("without effect", format!(" always `{value}`: {why}")),
                (Meaning::Idle(_), _) => panic!("{name} is without effect, so it is always the same"),
            };
            page += &format!("| `{name}` | {word} |{why} |\n");
        }
        page
    }

    #[test]
    fn the_page_shows_the_tables() {
        let page = include_str!("../../docs/COMPATIBILITY.md");
        let tables = [
            stats_general::GENERAL,
            stats_settings::SETTINGS,
            stats_classes::ITEMS,
            stats_classes::SLABS,
            stats_classes::SLABS_TOTAL,
        ];
        let missing: Vec<String> = tables.map(page_of).into_iter().filter(|table| !page.contains(table)).collect();
        assert!(missing.is_empty(), "docs/COMPATIBILITY.md should have:\n{}", missing.join("\n"));
    }
}
