//! The file that lists the servers of a cluster, as TOML:
//!
//! ```toml
//! [[server]]
//! name = "a"
//! zone = "rack-1"       # it is checked: a server says by itself where it is
//! state = "serving"     # or paused, draining, removed
//! ```

use crate::cluster::decide::Listed;
use crate::cluster::map::Wanted;
use anyhow::{Context, ensure};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    server: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    zone: Option<String>,
    #[serde(default = "serving")]
    state: Wanted,
}

fn serving() -> Wanted {
    Wanted::Serving
}

/// The servers that a file lists.
pub fn read(path: &Path) -> anyhow::Result<Vec<Listed>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    servers(&text).with_context(|| path.display().to_string())
}

/// Err: what is wrong, with its line and column.
fn servers(text: &str) -> anyhow::Result<Vec<Listed>> {
    let file: File = toml::from_str(text)?;
    ensure!(!file.server.is_empty(), "it has no [[server]]");
    let listed = |Entry { name, zone, state }| Listed { name, zone, wanted: state };
    Ok(file.server.into_iter().map(listed).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_has_a_name_and_is_served_unless_it_says_otherwise() {
        let text = "[[server]]\nname = \"a\"\n\n[[server]]\nname = \"b\"\nzone = \"z\"\nstate = \"draining\"\n";
        let one =
            |name: &str, zone: Option<&str>, wanted| Listed { name: name.into(), zone: zone.map(Into::into), wanted };
        assert_eq!(servers(text).unwrap(), [one("a", None, Wanted::Serving), one("b", Some("z"), Wanted::Draining)]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_column() {
        for (text, place, why) in [
            ("[[server]]\nname = \"a\"\nzones = \"z\"\n", "line 3, column 1", "zones"),
            ("[[server]]\nname = \"a\"\nstate = \"gone\"\n", "line 3, column 9", "gone"),
            ("[[servers]]\nname = \"a\"\n", "line 1, column 3", "servers"),
            ("[[server]]\nzone = \"z\"\n", "line 1", "name"),
            ("[[server]\n", "line 1", "TOML"),
            ("", "no [[server]]", ""),
        ] {
            let error = format!("{:#}", servers(text).unwrap_err());
            assert!(error.contains(place) && error.contains(why), "{text}: {error}");
        }
    }
}
