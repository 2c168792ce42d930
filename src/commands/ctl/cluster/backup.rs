//! The map in a file: its text in one line, and behind that the checksum of the line, so that a
//! copy that was cut or changed is not taken for the map.

use crate::cluster::map::Map;
use crate::sys::checksum::BodyChecksum;
use anyhow::{Context, anyhow, ensure};
use std::io::Write;
use std::path::Path;

/// What the second line begins with.
const CHECKSUM: &str = "crc32c ";

/// Write the map there, whole or not at all.
pub fn write(path: &Path, map: &Map) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    let written = std::fs::File::create(&new).and_then(|mut file| {
        file.write_all(text_of(map).as_bytes())?;
        file.sync_all()
    });
    written.with_context(|| format!("cannot write {}", new.display()))?;
    std::fs::rename(&new, path).with_context(|| format!("cannot put {} in its place", path.display()))
}

/// The map that was written there.
pub fn read(path: &Path) -> anyhow::Result<Map> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    map_of(&text).with_context(|| path.display().to_string())
}

fn text_of(map: &Map) -> String {
    let line = map.to_text();
    format!("{line}\n{CHECKSUM}{:08x}\n", checksum(&line))
}

fn map_of(text: &str) -> anyhow::Result<Map> {
    let (line, rest) = text.split_once('\n').ok_or_else(|| anyhow!("it is no exported map, or it was cut"))?;
    let found = rest.strip_prefix(CHECKSUM).and_then(|digits| u32::from_str_radix(digits.trim_end(), 16).ok());
    let found = found.ok_or_else(|| anyhow!("it ends without a checksum: it was cut, or is no exported map"))?;
    ensure!(found == checksum(line), "its checksum is wrong: it is not what was exported");
    Ok(Map::of_text(line.as_bytes())?)
}

fn checksum(line: &str) -> u32 {
    BodyChecksum::default().update(line.as_bytes()).at(0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::map::Policy;

    fn map() -> Map {
        Map::born("c0ffee".into(), 4, Policy::default())
    }

    #[test]
    fn what_was_written_is_read_and_takes_the_place_of_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.json");
        write(&path, &map()).unwrap();
        let later = Map { version: 9, ..map() };
        write(&path, &later).unwrap();
        assert_eq!(read(&path).unwrap(), later);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_copy_that_was_cut_or_changed_is_refused() {
        let text = text_of(&map());
        for cut in 0..text.len() - 1 {
            assert!(map_of(&text[..cut]).is_err(), "{cut} bytes");
        }
        let changed = text.replacen("\"version\":1", "\"version\":2", 1);
        assert!(map_of(&changed).unwrap_err().to_string().contains("checksum is wrong"));
    }
}
