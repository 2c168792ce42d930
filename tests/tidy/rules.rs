//! The rules that can be judged by one file alone. Pure: a file's path and text in, complaints out.

use super::comments;

/// A file of the tree.
pub struct Source {
    /// From the root of the repository.
    pub path: String,
    pub text: String,
}

/// Over this a file must be split.
pub const FILE_LINES_MAX: usize = 500;

/// Over this it is worth a thought.
const FILE_LINES_MANY: usize = 300;

/// Over this a function must be split.
const FUNCTION_LINES_MAX: usize = 70;

/// Columns of prose: of pages, and of comments. Tables and code may be wider.
pub const COLUMNS_MAX: usize = 100;

/// Which layers a layer may import from, besides itself.
const LAYERS: [(&str, &[&str]); 12] = [
    ("base", &[]),
    ("sys", &["base"]),
    ("protocol", &["base", "sys"]),
    ("store", &["base", "sys"]),
    ("fabric", &["base", "sys"]),
    ("engine", &["base", "sys", "protocol", "store", "fabric"]),
    ("replication", &["base", "sys", "protocol", "store", "fabric"]),
    ("cluster", &["base", "sys", "store", "fabric", "replication"]),
    ("server", &["base", "sys", "protocol", "store", "fabric", "engine", "replication"]),
    ("admin", &["base", "sys", "protocol", "store", "fabric", "engine", "replication", "server"]),
    ("load", &["base", "sys", "protocol"]),
    (
        "commands",
        &["base", "sys", "protocol", "store", "fabric", "engine", "replication", "cluster", "server", "admin", "load"],
    ),
];

/// Everything that is wrong with one file.
pub fn complaints(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    if source.path.ends_with(".rs") {
        complaints.extend(opening(source));
        complaints.extend(empty_name(source));
    }
    if source.path.starts_with("src/") {
        complaints.extend(layer(source));
        complaints.extend(file_length(source));
        complaints.extend(function_lengths(source));
        complaints.extend(unsafe_outside_its_places(source));
    }
    if source.path == "src/base/limits.rs" {
        complaints.extend(bounds_without_reason(source));
    }
    if source.path.ends_with(".md") {
        complaints.extend(lines_too_wide(source));
    }
    complaints.extend(comments::too_wide(source));
    complaints.extend(machine_paths(source));
    complaints.extend(unfinished(source));
    complaints.extend(left_behind(source));
    complaints
}

/// Files that are allowed, but many lines; longest first.
pub fn long_files(sources: &[Source]) -> Vec<(&str, usize)> {
    let lengths = sources.iter().map(|source| (source.path.as_str(), source.text.lines().count()));
    let mut long: Vec<_> =
        lengths.filter(|(path, lines)| path.starts_with("src/") && *lines > FILE_LINES_MANY).collect();
    long.sort_by_key(|(_, lines)| std::cmp::Reverse(*lines));
    long
}

fn opening(source: &Source) -> Option<String> {
    let opens = source.text.starts_with("//!") || source.text.starts_with("#![no_main]\n//!");
    (!opens).then(|| format!("{}: does not open with //! and what it is", source.path))
}

fn empty_name(source: &Source) -> Option<String> {
    let empty = ["util", "utils", "helper", "helpers", "common", "manager"];
    let named = source.path.trim_end_matches(".rs").split('/').find(|part| empty.contains(part))?;
    Some(format!("{}: {named} is a name that says nothing", source.path))
}

fn layer(source: &Source) -> Vec<String> {
    let parts: Vec<&str> = source.path.split('/').collect();
    let [_, own, _, ..] = parts.as_slice() else {
        return Vec::new(); // lib.rs and main.rs stand above the layers
    };
    let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| layer == own) else {
        return vec![format!("{}: {own} is no layer; tests/tidy/rules.rs lists them", source.path)];
    };
    // How deep the file's own module lies: so many `super::` lead to the root.
    let depth = parts.len() - 1 - usize::from(source.path.ends_with("/mod.rs"));
    let code = without_comments(&source.text);
    let mut complaints = Vec::new();
    for (at, import) in imports(&code, depth) {
        let known = LAYERS.iter().any(|(layer, _)| *layer == import);
        if known && import != *own && !allowed.contains(&import) {
            let line = 1 + code[..at].matches('\n').count();
            complaints.push(format!("{}:{line}: layer {own} imports from layer {import}", source.path));
        }
    }
    complaints
}

/// The names right below the root that code names, and where: behind `crate::`, and behind
/// `super::` often enough to get there; one name, or those of a braced list, which may go on over
/// many lines.
fn imports(code: &str, depth: usize) -> Vec<(usize, &str)> {
    let roots = ["crate::".to_string(), "super::".repeat(depth)];
    let mut found = Vec::new();
    for root in &roots {
        for (at, _) in code.match_indices(root.as_str()) {
            let before = code[..at].trim_end();
            let is_visibility = before.ends_with("(in");
            let goes_on_before =
                before.ends_with("super::") || code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if !is_visibility && !goes_on_before {
                let rest = at + root.len();
                found.extend(names(&code[rest..]).into_iter().map(|(behind, name)| (rest + behind, name)));
            }
        }
    }
    found
}

/// The name that `code` begins with; where it begins with a brace, the first of each path in it.
/// Each with its place.
fn names(code: &str) -> Vec<(usize, &str)> {
    let name_at = |at: usize| {
        let begin = at + code[at..].len() - code[at..].trim_start().len();
        let length = code[begin..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len() - begin);
        (begin, &code[begin..begin + length])
    };
    if !code.starts_with('{') {
        return vec![name_at(0)];
    }
    let (mut found, mut depth) = (Vec::new(), 0);
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 1 && (c == ',' || at == 0) {
            found.push(name_at(at + 1));
        } else if depth == 0 {
            break;
        }
    }
    found
}

/// The same text, with as many lines, but nothing behind `//`.
fn without_comments(text: &str) -> String {
    text.lines().flat_map(|line| [line.split("//").next().unwrap_or(""), "\n"]).collect()
}

/// Lines with their numbers from 1, comments left out.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    numbered.filter_map(|(number, line)| {
        let code = line.split("//").next().unwrap_or("");
        (!code.trim().is_empty()).then_some((number, code))
    })
}

fn file_length(source: &Source) -> Option<String> {
    let lines = source.text.lines().count();
    (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines, over {FILE_LINES_MAX}", source.path))
}

/// rustfmt closes a function at the indentation at which it opened it, so no braces need counting.
fn function_lengths(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut open: Vec<(usize, usize, &str)> = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let code = line.trim_start();
        let indentation = line.len() - code.len();
        if let Some(name) = function_name(code).filter(|_| !code.ends_with(';') && !code.ends_with('}')) {
            open.push((indentation, index, name));
        } else if code == "}" && open.last().is_some_and(|(opened, ..)| *opened == indentation) {
            let (_, start, name) = open.pop().expect("just seen");
            let lines = index - start + 1;
            if lines > FUNCTION_LINES_MAX {
                let place = format!("{}:{}", source.path, start + 1);
                complaints.push(format!("{place}: function {name} has {lines} lines, over {FUNCTION_LINES_MAX}"));
            }
        } else if code.ends_with(';') {
            // A declaration without a body, its signature over several lines.
            open.retain(|(opened, ..)| !(*opened == indentation && code.starts_with(')')));
        }
    }
    complaints
}

fn function_name(code: &str) -> Option<&str> {
    let before = ["pub ", "pub(crate) ", "pub(super) ", "const ", "async ", "extern \"C\" "];
    let mut rest = code;
    while let Some(shorter) = before.iter().find_map(|word| rest.strip_prefix(word)) {
        rest = shorter;
    }
    let rest = rest.strip_prefix(["uns", "afe "].concat().as_str()).unwrap_or(rest);
    let name = rest.strip_prefix("fn ")?;
    Some(&name[..name.find(['(', '<']).unwrap_or(name.len())])
}

fn unsafe_outside_its_places(source: &Source) -> Vec<String> {
    let places = ["src/sys/", "src/fabric/verbs", "src/fabric/shm"];
    if places.iter().any(|place| source.path.starts_with(place)) {
        return Vec::new();
    }
    let word = ["uns", "afe"].concat();
    let forms = [format!("{word} {{"), format!("{word} fn"), format!("{word} impl"), format!("{word} extern")];
    let lines = code_lines(&source.text).filter(|(_, line)| forms.iter().any(|form| line.contains(form.as_str())));
    lines.map(|(number, _)| format!("{}:{number}: {word} outside {places:?}", source.path)).collect()
}

fn bounds_without_reason(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().collect();
    let bare = |index: &usize| lines[*index].starts_with("pub const ") && !lines[*index - 1].starts_with("///");
    let found = (1..lines.len()).filter(bare);
    found.map(|index| format!("{}:{}: a bound without its reason", source.path, index + 1)).collect()
}

/// Prose is read in a terminal as well. Rows of tables and code cannot be broken.
fn lines_too_wide(source: &Source) -> Vec<String> {
    let mut in_fence = false;
    let mut complaints = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let fence = line.trim_start().starts_with("```");
        in_fence ^= fence;
        let is_prose = !in_fence && !fence && !line.starts_with("    ") && !line.trim_start().starts_with('|');
        let columns = line.chars().count();
        if is_prose && columns > COLUMNS_MAX {
            complaints.push(format!("{}:{}: {columns} columns, over {COLUMNS_MAX}", source.path, index + 1));
        }
    }
    complaints
}

/// Folders that exist on a developer's machine and nowhere else. Put together here, so that this
/// file passes.
fn machine_paths(source: &Source) -> Vec<String> {
    let folders = ["home", "root", "work"].map(|folder| format!("/{folder}/"));
    let needles = [&folders[..], &[["/tm", "p/h/"].concat()]].concat();
    let mut complaints = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for needle in needles.iter().filter(|needle| is_path(line, needle)) {
            complaints.push(format!("{}:{}: a path of one machine: {needle}", source.path, index + 1));
        }
    }
    complaints
}

/// True when `needle` begins a path in `line`, rather than standing within a longer one or an
/// address.
fn is_path(line: &str, needle: &str) -> bool {
    let begins = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}".contains(c));
    line.match_indices(needle).any(|(at, _)| begins(at))
}

/// What editors and `patch` leave beside a file.
fn left_behind(source: &Source) -> Vec<String> {
    let is_left = [".orig", ".rej", ".bak", ".swp", "~"].iter().any(|end| source.path.ends_with(end));
    is_left.then(|| format!("{}: left behind by a tool, not part of the tree", source.path)).into_iter().collect()
}

fn unfinished(source: &Source) -> Vec<String> {
    let words = [["to", "do!"], ["unimple", "mented!"], ["FIX", "ME"], ["XX", "X"]].map(|halves| halves.concat());
    let mut complaints = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for word in words.iter().filter(|word| line.contains(word.as_str())) {
            complaints.push(format!("{}:{}: unfinished: {word}", source.path, index + 1));
        }
    }
    complaints
}
