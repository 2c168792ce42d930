//! The file of `--config`, as TOML: each key is an option's long name. Pure.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A line of the file: what an option is to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// The option's long name.
    pub name: String,
    /// Its values as on the command line; of a list all of them.
    pub values: Vec<String>,
    /// Where it stands, counted from 1.
    pub line: usize,
}

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Counted from 1.
    pub line: usize,
    /// What.
    pub why: String,
}

/// Read the file. Whether there are such options is not looked at.
pub fn read(text: &str) -> Result<Vec<Entry>, Wrong> {
    let line_of = |at: usize| 1 + text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count();
    let table = DeTable::parse(text).map_err(|error| Wrong {
        line: line_of(error.span().map_or(0, |span| span.start)),
        why: format!("this is no TOML: {}", error.message()),
    })?;
    let entry = |(name, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let name: &std::borrow::Cow<'_, str> = name.get_ref();
        let line = line_of(value.span().start);
        let values = match value.get_ref() {
            DeValue::Array(list) => list.iter().map(|value| plain(value.get_ref())).collect(),
            one => plain(one).map(|value| vec![value]),
        };
        let why =
            || Wrong { line, why: format!("{name} is neither a text, a number, true or false, nor a list of these") };
        Ok(Entry { name: name.to_string(), values: values.ok_or_else(why)?, line })
    };
    table.get_ref().iter().map(entry).collect()
}

/// What it is on the command line.
fn plain(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        // An octal number keeps its digits: it can only be a permission.
        DeValue::Integer(number) if [8, 10].contains(&number.radix()) => Some(number.as_str().to_string()),
        DeValue::Float(number) => Some(number.as_str().to_string()),
        DeValue::Boolean(yes) => Some(yes.to_string()),
        _ => None,
    }
}

/// A text as TOML writes it: a number where it is one and stays the same, else in quotes.
pub fn written(text: &str) -> String {
    if text.parse::<i64>().is_ok_and(|number| number.to_string() == text) {
        return text.to_string();
    }
    // What JSON escapes, TOML takes; it wants one more character escaped.
    let quoted = serde_json::to_string(text).expect("a text is JSON");
    quoted.replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(name: &str, values: &[&str], line: usize) -> Entry {
        Entry { name: name.into(), values: values.iter().map(|value| value.to_string()).collect(), line }
    }

    #[test]
    fn each_kind_of_value_is_read_with_its_line() {
        let text = "# why\nport = 11_211\nlisten = [\"a\", \"b:1\"]\n\nunix-mask = 0o770\ndaemon = true\nf = 1.25\n";
        let mut entries = read(text).unwrap();
        entries.sort_by_key(|entry| entry.line);
        let expected = [
            entry("port", &["11211"], 2),
            entry("listen", &["a", "b:1"], 3),
            entry("unix-mask", &["770"], 5),
            entry("daemon", &["true"], 6),
            entry("f", &["1.25"], 7),
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, why) in [
            ("port = 1\nport = 2\n", 2, "no TOML"),
            ("a = 1\n\nport 2\n", 3, "no TOML"),
            ("a = 1\n[table]\nb = 2\n", 2, "table is neither"),
            ("a = 1\nb = 0x10\n", 2, "b is neither"),
            ("b = [[1]]\n", 1, "b is neither"),
        ] {
            let wrong = read(text).unwrap_err();
            assert!(wrong.line == line && wrong.why.contains(why), "{text}: {wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_confuses_it(text in ".{0,60}") {
            let lines = 1 + text.matches('\n').count();
            match read(&text) {
                Ok(entries) => prop_assert!(entries.iter().all(|entry| (1..=lines).contains(&entry.line))),
                Err(wrong) => prop_assert!((1..=lines).contains(&wrong.line)),
            }
        }

        #[test]
        fn what_is_written_is_read_again(text in "(?s).{0,30}|-?[0-9]{1,20}") {
            let read = read(&format!("a = {}", written(&text))).unwrap();
            prop_assert_eq!(read, vec![entry("a", &[&text], 1)]);
        }
    }
}
