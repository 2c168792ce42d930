//! The file with the process's number (-P), for start scripts.

use std::fs;
use std::io;
use std::path::PathBuf;

/// The file, as long as the process serves.
pub struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Write it under another name and rename it, so that nobody reads half of it. Whatever goes
    /// wrong is told of and hinders nothing, as in memcached.
    pub fn write(path: PathBuf) -> Option<PidFile> {
        if let Some(running) = number_in(&path).filter(|pid| is_another_alive(*pid)) {
            log::warn!(
                "-P {} names process {running}, which runs: is that a server? It is overwritten",
                path.display()
            );
        }
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(".tmp");
        let written = fs::write(&unfinished, format!("{}\n", std::process::id()));
        match written.and_then(|()| fs::rename(&unfinished, &path)) {
            Ok(()) => Some(PidFile { path }),
            Err(error) => {
                log::warn!(
                    "-P {} is not written: {error}; its folder must be there, and this user must be able to write to it",
                    path.display()
                );
                None
            }
        }
    }

    /// Remove it, unless it is another process's by now.
    pub fn remove(self) {
        if number_in(&self.path) == Some(std::process::id()) {
            let removed = fs::remove_file(&self.path);
            if let Err(error) =
                removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
            {
                log::warn!("-P {} cannot be removed: {error}", self.path.display());
            }
        }
    }
}

fn number_in(path: &PathBuf) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn is_another_alive(pid: u32) -> bool {
    pid != std::process::id() && PathBuf::from(format!("/proc/{pid}")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_removed_unless_it_is_anothers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let file = PidFile::write(path.clone()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left behind");
        file.remove();
        assert!(!path.exists());
        let file = PidFile::write(path.clone()).unwrap();
        fs::write(&path, "1\n").unwrap();
        file.remove();
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        assert!(PidFile::write(folder.path().join("none/pid")).is_none());
    }
}
