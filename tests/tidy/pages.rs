//! The pages: links lead somewhere, and what is shown of a file is that file.

use super::rules::Source;

/// Links to files and headings of this tree that are not there.
pub fn dead_links(page: &Source, pages: &[Source], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut complaints = Vec::new();
    for (at, _) in page.text.match_indices("](") {
        let Some((target, _)) = page.text[at + 2..].split_once(')') else { continue };
        if target.contains("://") || target.contains(char::is_whitespace) {
            continue;
        }
        let (file, heading) = target.split_once('#').unwrap_or((target, ""));
        let path = if file.is_empty() { page.path.clone() } else { beside(&page.path, file) };
        let has_heading = |other: &Source| other.text.lines().any(|line| anchor_of(line).as_deref() == Some(heading));
        if !exists(&path) {
            complaints.push(format!("{}: a link to {path}, which is not there", page.path));
        } else if !heading.is_empty() && !pages.iter().any(|other| other.path == path && has_heading(other)) {
            complaints.push(format!("{}: a link to {path}#{heading}, which has no such heading", page.path));
        }
    }
    complaints
}

/// A page that shows `file` must show it whole, indented as code.
pub fn shown_otherwise(page: &Source, file: &Source) -> Option<String> {
    let indented = |line: &str| if line.is_empty() { String::new() } else { format!("    {line}") };
    let block = file.text.lines().map(indented).collect::<Vec<_>>().join("\n");
    (!page.text.contains(&block)).then(|| format!("{}: does not show {} as it is", page.path, file.path))
}

/// `file` as written on the page at `path`, from the root of the tree.
fn beside(path: &str, file: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in file.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The anchor of a heading, as code hosts make it.
fn anchor_of(line: &str) -> Option<String> {
    let title = line.trim_start_matches('#');
    (title.len() < line.len() && title.starts_with(' ')).then(|| {
        let kept = title.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    #[test]
    fn a_link_to_nowhere_is_caught() {
        let pages = [
            page("README.md", "# Read `me`, please\n"),
            page("docs/A.md", "[r](../README.md#read-me-please) [b](B.md) [x](#x)"),
        ];
        let complaints = dead_links(&pages[1], &pages, |path| path != "docs/B.md");
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].contains("docs/B.md") && complaints[1].contains("docs/A.md#x"));
    }

    #[test]
    fn a_file_that_is_shown_otherwise_is_caught() {
        let unit = page("dist/a", "one\n\ntwo\n");
        assert_eq!(shown_otherwise(&page("A.md", "text\n\n    one\n\n    two\n"), &unit), None);
        assert!(shown_otherwise(&page("A.md", "    one\n\n    three\n"), &unit).is_some());
    }
}
