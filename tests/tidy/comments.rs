//! Comments are prose, and no wider than a page: in Rust, C, shell and Python, its docstrings
//! included. Pure.

use super::rules::{COLUMNS_MAX, Source};

/// What a comment line begins with, by the language of a file.
fn markers(source: &Source) -> &'static [&'static str] {
    let ends_with = |endings: &[&str]| endings.iter().any(|ending| source.path.ends_with(ending));
    let is_script = source.text.starts_with("#!") && !source.text.starts_with("#![");
    match () {
        () if ends_with(&[".rs"]) => &["//!", "///", "//"],
        () if ends_with(&[".c", ".h"]) => &["/*", "* ", "//"],
        () if is_script || ends_with(&[".py", ".sh"]) || source.path.starts_with("tests/transcripts/") => &["#"],
        () => &[],
    }
}

/// Lines of comments that are too wide. Rows of tables, code, and single words cannot be broken.
pub fn too_wide(source: &Source) -> Vec<String> {
    let markers = markers(source);
    let docstrings = if markers == ["#"] { docstring_lines(&source.text) } else { Vec::new() };
    let mut in_fence = false;
    let mut complaints = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let own = line.trim_start();
        let prose = match markers.iter().find_map(|marker| own.strip_prefix(marker)) {
            Some(rest) if !line.starts_with("#!") => Some(rest.strip_prefix(' ').unwrap_or(rest)),
            _ => docstrings.get(index).copied().flatten(),
        };
        let fence = prose.is_some_and(|prose| prose.trim_start().starts_with("```"));
        // What stands open where a comment ends is another comment's.
        in_fence = prose.is_some() && in_fence ^ fence;
        let Some(prose) = prose.filter(|_| !in_fence && !fence) else { continue };
        let columns = line.chars().count();
        let can_break = prose.trim().contains(' ') && !prose.starts_with("    ") && !prose.starts_with('|');
        if can_break && columns > COLUMNS_MAX {
            complaints.push(format!("{}:{}: a comment of {columns} columns", source.path, index + 1));
        }
    }
    complaints
}

/// For each line the part that belongs to a docstring of Python's, without the docstring's
/// indentation: a string of three quotes that a line begins with.
fn docstring_lines(text: &str) -> Vec<Option<&str>> {
    const QUOTES: &str = "\"\"\"";
    // While within such a string: the docstring's indentation, or None where it is another string.
    let mut within: Option<Option<usize>> = None;
    text.lines()
        .map(|line| {
            let own = line.trim_start();
            let opens = (within.is_none() && own.starts_with(QUOTES)).then_some(line.len() - own.len());
            let indentation = within.unwrap_or(opens);
            if !line.matches(QUOTES).count().is_multiple_of(2) {
                within = if within.is_none() { Some(opens) } else { None };
            }
            indentation.map(|columns| line.get(columns..).unwrap_or("").trim_start_matches(QUOTES))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> Vec<String> {
        too_wide(&Source { path: path.into(), text: text.into() })
    }

    #[test]
    fn wide_comments_are_caught_in_every_language() {
        let wide = "a word ".repeat(15);
        for (path, text) in [
            ("src/a.rs", format!("//! {wide}\n")),
            ("tests/a.rs", format!("fn f() {{\n    /// {wide}\n}}\n")),
            ("benches/a.rs", format!("    // {wide}\n")),
            ("src/a.rs", format!("/// ```\n/// {wide}\n/// ```\n\n// {wide}\n")),
            ("native/a.c", format!("/* {wide}\n */\n")),
            ("native/a.h", format!("/*\n * {wide}\n */\n")),
            ("tools/a", format!("#!/bin/sh\n# {wide}\n")),
            ("tools/a.py", format!("x = 1\n# {wide}\n")),
            ("tools/a.py", format!("def f():\n    \"\"\"{wide}\"\"\"\n")),
            ("tools/a", format!("#!/usr/bin/env python3\n\"\"\"Is.\n\n{wide}\n\"\"\"\n")),
            ("tests/transcripts/a.txt", format!("# {wide}\n")),
        ] {
            assert_eq!(complaints(path, &text).len(), 1, "{path}: {text}");
        }
    }

    #[test]
    fn what_cannot_be_broken_may_be_wide() {
        let wide = "a word ".repeat(15);
        for (path, text) in [
            ("src/a.rs", format!("//! | {wide} |\n//!\n//!     {wide}\n//!\n//! ```text\n//! {wide}\n//! ```\n")),
            ("src/a.rs", format!("/// <https://{}>\n", "x".repeat(100))),
            ("src/a.rs", format!("let a = \"{wide}\"; // b\n")),
            ("tools/a.py", format!("X = f\"\"\"\n{wide}\n\"\"\"\n")),
            ("tools/a.py", format!("\"\"\"Is.\n\n    {wide}\n\"\"\"\nX = \"{wide}\"\n")),
            ("tools/a", format!("#!/bin/sh -{wide}\n")),
            ("docs/a.txt", format!("# {wide}\n")),
        ] {
            assert_eq!(complaints(path, &text), Vec::<String>::new(), "{path}: {text}");
        }
    }
}
