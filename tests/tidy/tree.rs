//! The tree as the rules see it: the files that belong to it, and the rules that need more than one
//! file's text.

use super::pages;
use super::rules::Source;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Where the files are that people write; everything else is built or fetched.
const FOLDERS: [&str; 9] = ["src", "tests", "benches", "examples", "tools", "docs", "native", "dist", ".ci"];

/// Not ours to keep tidy: what fuzzing leaves behind.
const LEFT_OUT: [&str; 4] = ["tests/fuzz/target", "tests/fuzz/corpus", "tests/fuzz/artifacts", "tests/fuzz/seeds"];

/// Every file of the tree that is text.
pub fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for folder in FOLDERS {
        gather(folder, &mut sources);
    }
    let names = std::fs::read_dir(root()).expect("a readable folder").flatten().map(|entry| entry.file_name());
    let pages = names.filter_map(|name| name.into_string().ok()).filter(|name| name.ends_with(".md"));
    sources.extend(pages.chain(["Cargo.toml".into(), "build.rs".into()]).filter_map(|file| source(&file)));
    sources
}

/// A script that is not executable cannot be run as the documentation says.
pub fn tools_not_executable() -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources() {
        let script = source.text.starts_with("#!") && !source.text.starts_with("#![");
        let mode = std::fs::metadata(root().join(&source.path)).map_or(0, |metadata| metadata.permissions().mode());
        if script && mode & 0o111 == 0 {
            complaints.push(format!("{}: a script that is not executable", source.path));
        }
    }
    complaints
}

/// Every `tools/...`, `docs/...` and the like that README.md names must exist.
pub fn readme_commands_missing() -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap_or_default();
    missing_paths(&readme, |path| root().join(path).exists())
}

/// Dead links of the pages, and a unit that is shown otherwise than it is.
pub fn untidy_pages() -> Vec<String> {
    let pages: Vec<Source> = sources().into_iter().filter(|source| source.path.ends_with(".md")).collect();
    let links = pages.iter().flat_map(|page| pages::dead_links(page, &pages, |path| root().join(path).exists()));
    let mut complaints: Vec<String> = links.collect();
    let unit = source("dist/remora.service").expect("the unit file");
    let operations = pages.iter().find(|page| page.path == "docs/OPERATIONS.md").expect("the page for operators");
    complaints.extend(pages::shown_otherwise(operations, &unit));
    complaints
}

fn missing_paths(text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let in_path = |c: char| c.is_alphanumeric() || "./_-".contains(c);
    let words =
        text.split(|c: char| !in_path(c)).map(|word| word.trim_start_matches("./").trim_end_matches(['.', '/']));
    let opens =
        |word: &&str| ["tools/", "docs/", "tests/", "src/", "benches/"].iter().any(|open| word.starts_with(open));
    let mut missing: Vec<&str> = words.filter(opens).filter(|word| !exists(word)).collect();
    missing.sort_unstable();
    missing.dedup();
    missing.iter().map(|path| format!("README.md: names {path}, which is not there")).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn gather(folder: &str, sources: &mut Vec<Source>) {
    let Ok(entries) = std::fs::read_dir(root().join(folder)) else { return };
    for entry in entries {
        let entry = entry.expect("a readable folder");
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if LEFT_OUT.contains(&path.as_str()) || path.ends_with("__pycache__") {
            continue;
        }
        if entry.file_type().expect("a file type").is_dir() {
            gather(&path, sources);
        } else {
            sources.extend(source(&path));
        }
    }
}

fn source(path: &str) -> Option<Source> {
    let text = String::from_utf8(std::fs::read(root().join(path)).ok()?).ok()?;
    Some(Source { path: path.into(), text })
}

#[test]
fn a_missing_command_of_the_readme_is_caught() {
    let text = "Run `./tools/test`, or tools/gone --now. See docs/A.md.";
    let complaints = missing_paths(text, |path| path != "tools/gone");
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(complaints[0].contains("tools/gone"));
}
