//! The rules of the tree that a compiler does not know, as a test: layers, sizes, openings, words
//! that mark unfinished work. Each rule is a function from a file to complaints, and each has a
//! test with a violation planted.

#[path = "tidy/comments.rs"]
mod comments;
#[path = "tidy/pages.rs"]
mod pages;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/tree.rs"]
mod tree;

use rules::Source;

/// Every rule over every file; all complaints at once.
#[test]
fn the_tree_is_tidy() {
    let sources = tree::sources();
    assert!(sources.iter().any(|source| source.path == "src/lib.rs"), "the test must see the tree");
    let mut complaints: Vec<String> = sources.iter().flat_map(rules::complaints).collect();
    complaints.extend(tree::tools_not_executable());
    complaints.extend(tree::readme_commands_missing());
    complaints.extend(tree::untidy_pages());
    for (path, lines) in rules::long_files(&sources) {
        println!("long: {path} has {lines} lines; over {} wants splitting", rules::FILE_LINES_MAX);
    }
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

fn planted(path: &str, text: &str) -> Vec<String> {
    rules::complaints(&Source { path: path.into(), text: text.into() })
}

/// The complaints must be exactly one, about `what`.
fn caught(path: &str, text: &str, what: &str) {
    let complaints = planted(path, text);
    assert_eq!(complaints.len(), 1, "{path}: {complaints:?}");
    assert!(complaints[0].contains(what), "{complaints:?}");
}

const OPENING: &str = "//! Owns nothing.\n";

#[test]
fn a_good_file_passes() {
    let text = format!("{OPENING}use crate::base::time;\nuse crate::{{base, sys}};\n\nfn short() {{\n}}\n");
    assert_eq!(planted("src/store/good.rs", &text), Vec::<String>::new());
}

#[test]
fn layers_are_kept() {
    for (path, import) in [
        ("src/base/a.rs", "use crate::sys::words;"),
        ("src/store/a.rs", "use crate::protocol::Request;"),
        ("src/protocol/a.rs", "use crate::store;"),
        ("src/engine/a.rs", "    let x = crate::server::Worker;"),
        ("src/server/a.rs", "use crate::{base::time, commands::serve};"),
        ("src/load/a.rs", "use crate::engine::Engine;"),
        ("src/sys/a.rs", "pub(in crate::store) use crate::fabric::sim;"),
    ] {
        caught(path, &format!("{OPENING}{import}\n"), "layer");
    }
    let allowed = format!("{OPENING}use crate::store::Item;\nuse crate::protocol::Request;\n");
    assert_eq!(planted("src/engine/a.rs", &allowed), Vec::<String>::new());
}

/// As rustfmt breaks them, and by whatever way.
#[test]
fn layers_are_kept_over_several_lines() {
    let list = "use crate::{\n    base::time,\n    sys::{\n        words,\n        checksum,\n    },\n    engine::{Engine, Host},\n};";
    for (path, import) in [
        ("src/store/a.rs", list),
        ("src/store/a.rs", "use crate::{\n    // for its bounds\n    protocol,\n};"),
        ("src/store/a.rs", "fn f() {\n    let x = crate::\n        engine::Engine::new();\n}"),
        ("src/store/a.rs", "use super::super::engine::Engine;"),
        ("src/store/mod.rs", "use super::{base::time, engine::Engine};"),
        ("src/store/b/a.rs", "use super::super::super::engine::Engine;"),
    ] {
        caught(path, &format!("{OPENING}{import}\n"), "layer store imports from layer");
    }
    let text = format!("{OPENING}{list}\n");
    assert!(planted("src/store/a.rs", &text)[0].starts_with("src/store/a.rs:8: "), "the line of the name");
    for import in
        [list, "use super::engine;", "pub(in crate::engine) use super::x;", "use mycrate::engine;\nlet x = 1;"]
    {
        assert_eq!(planted("src/server/a.rs", &format!("{OPENING}{import}\n")), Vec::<String>::new());
    }
    let own = "use super::super::engine; // of this layer: a module two further up\nuse crate::{store::engine, base};";
    assert_eq!(planted("src/store/b/a.rs", &format!("{OPENING}{own}\n")), Vec::<String>::new());
}

#[test]
fn prose_that_is_too_wide_is_caught() {
    let wide = "a word ".repeat(15);
    caught("docs/A.md", &format!("# A\n\n{wide}\n"), "docs/A.md:3: 105 columns");
    caught("docs/A.md", &format!("- {wide}\n\n```\n{wide}\n```\n"), "docs/A.md:1: 107 columns");
    let fine = format!("{}\n\n    {wide}\n\n| {wide} |\n\n```sh\n{wide}\n```\n", "ä".repeat(100));
    assert_eq!(planted("docs/A.md", &fine), Vec::<String>::new());
    let written = format!("<!-- compare:x -->\n{wide}\n<!-- compare:x end -->\n");
    caught("docs/A.md", &written, "docs/A.md:2: 105 columns");
}

#[test]
fn an_unknown_layer_is_named() {
    caught("src/misc/a.rs", OPENING, "layer");
}

#[test]
fn long_files_and_functions_are_caught() {
    caught("src/base/a.rs", &format!("{OPENING}{}", "// why\n".repeat(500)), "lines");
    let function = format!("{OPENING}impl A {{\n    fn long() {{\n{}    }}\n}}\n", "        a();\n".repeat(75));
    caught("src/base/a.rs", &function, "function");
    let short = format!("{OPENING}impl A {{\n    fn long() {{\n{}    }}\n}}\n", "        a();\n".repeat(60));
    assert_eq!(planted("src/base/a.rs", &short), Vec::<String>::new());
}

#[test]
fn a_file_opens_with_what_it_is() {
    caught("src/base/a.rs", "use std::fmt;\n", "//!");
}

#[test]
fn paths_of_a_machine_are_caught() {
    for folder in ["home", "root", "work"] {
        caught("tests/a.rs", &format!("{OPENING}// as in /{folder}/me/file\n"), "path");
    }
    caught("docs/A.md", &["see /tm", "p/h/x\n"].concat(), "path");
}

#[test]
fn what_tools_leave_behind_is_caught() {
    for path in ["src/store/a.rs.orig", "src/store/a.rs.rej", "docs/A.md~"] {
        caught(path, OPENING, "left behind");
    }
}

#[test]
fn unfinished_work_is_caught() {
    for word in [["to", "do!()"], ["unimple", "mented!()"], ["FIX", "ME"], ["XX", "X"]] {
        caught("src/base/a.rs", &format!("{OPENING}// {}\n", word.concat()), "unfinished");
    }
}

#[test]
fn unsafe_has_its_places() {
    let block = ["uns", "afe { f() }"].concat();
    caught("src/store/a.rs", &format!("{OPENING}let x = {block};\n"), "unsafe");
    assert_eq!(planted("src/sys/a.rs", &format!("{OPENING}let x = {block};\n")), Vec::<String>::new());
    assert_eq!(planted("src/fabric/shm.rs", &format!("{OPENING}let x = {block};\n")), Vec::<String>::new());
    assert_eq!(planted("src/fabric/verbs/a.rs", &format!("{OPENING}let x = {block};\n")), Vec::<String>::new());
    assert_eq!(planted("src/store/a.rs", &format!("{OPENING}// no unsafe here\n")), Vec::<String>::new());
}

#[test]
fn a_bound_says_why() {
    caught("src/base/limits.rs", &format!("{OPENING}pub const QUEUE_MAX: usize = 3;\n"), "bound");
    let with_reason = format!("{OPENING}/// Three, because.\npub const QUEUE_MAX: usize = 3;\n");
    assert_eq!(planted("src/base/limits.rs", &with_reason), Vec::<String>::new());
}

#[test]
fn names_that_say_nothing_are_caught() {
    for name in ["util", "helpers", "common", "manager"] {
        caught(&format!("src/base/{name}.rs"), OPENING, "name");
        caught(&format!("src/base/{name}/mod.rs"), OPENING, "name");
    }
}
