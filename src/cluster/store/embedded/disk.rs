//! The folder of the embedded store: what is done to its files. A trait, so that tests can have a
//! disk that fails.

use super::super::StoreError;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file with the map.
pub const LOG: &str = "log";
/// What is to become the log.
const FRESH: &str = "log.new";
/// The file that the process holds.
const LOCK: &str = "lock";
/// Of all files: a map tells where a cluster's servers are, and nobody else is to change it.
const MODE: u32 = 0o600;

/// What is done to the log. What is done is durable when it returns.
pub trait Disk: Send {
    /// All of it; None where there is none.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>>;
    /// Write at that place, which is its end.
    fn append(&mut self, place: u64, bytes: &[u8]) -> io::Result<()>;
    /// Nothing is behind that place any more.
    fn cut(&mut self, place: u64) -> io::Result<()>;
    /// These bytes instead, all or none of them.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// A folder, held by this process.
pub struct Folder {
    path: PathBuf,
    log: Option<File>,
    lock: File,
}

impl Drop for Folder {
    /// Closing the file would do, but for a child process that is being started at this moment and
    /// has it open as well until it becomes another program.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

impl Folder {
    /// Make it where it is not there, and hold it.
    pub fn open(path: &Path) -> Result<Folder, StoreError> {
        let failed = |doing: &'static str, path: &Path| {
            let path = path.to_path_buf();
            move |error| StoreError::Disk { doing, path, error }
        };
        make(path).map_err(failed("making", path))?;
        let lock_path = path.join(LOCK);
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false).mode(MODE).open(&lock_path);
        let mut lock = opened.map_err(failed("opening", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.take(100).read_to_string(&mut holder);
                let holder = if holder.is_empty() { "another process".into() } else { holder };
                return Err(StoreError::Held { folder: path.to_path_buf(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(failed("locking", &lock_path)(error)),
        }
        // For people; on a full disk they have to do without.
        let _ = lock.set_len(0).and_then(|()| write!(lock, "process {}", std::process::id()));
        let log_path = path.join(LOG);
        let log = match OpenOptions::new().read(true).write(true).open(&log_path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("opening", &log_path)(error)),
        };
        Ok(Folder { path: path.to_path_buf(), log, lock })
    }
}

/// A folder and those above it, each with its name on the disk.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    make(above)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(above)?.sync_all(),
    }
}

impl Disk for Folder {
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(log) = &mut self.log else { return Ok(None) };
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn append(&mut self, place: u64, bytes: &[u8]) -> io::Result<()> {
        let log = self.log.as_ref().expect("what is appended to was read or made");
        log.write_all_at(bytes, place)?;
        log.sync_data()
    }

    fn cut(&mut self, place: u64) -> io::Result<()> {
        let log = self.log.as_ref().expect("what is cut was appended to");
        log.set_len(place)?;
        log.sync_all()
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fresh_path = self.path.join(FRESH);
        let write = || {
            let mut options = OpenOptions::new();
            let mut fresh = options.read(true).write(true).create(true).truncate(true).mode(MODE).open(&fresh_path)?;
            fresh.write_all(bytes)?;
            fresh.sync_all()?;
            Ok(fresh)
        };
        // What there is no room for must not take room.
        let fresh = write().inspect_err(|_: &io::Error| drop(fs::remove_file(&fresh_path)))?;
        fs::rename(&fresh_path, self.path.join(LOG))?;
        self.log = Some(fresh);
        File::open(&self.path)?.sync_all()
    }
}
