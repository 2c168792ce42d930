//! The map in a folder, for one locator.
//!
//! The folder has a file `log` ([`log`]), to which each write appends all that there is to know,
//! and a file `lock`, which the process holds. When the log has become long, and after anything
//! that went wrong with it, the next write puts a new file in its place, which begins with what is
//! to be known then: the snapshot. A write is durable before it is reported: file and folder are
//! synced.
//!
//! What a failed write has left in the file is cut off, at once or with the next write; until then
//! the process goes on with what it knows.

mod disk;
mod log;

use super::{Lead, MapStore, STORED_BYTES_MAX, StoreError, Stored, Swapped};
use disk::{Disk, Folder};
use log::State;
use std::path::{Path, PathBuf};

/// A log that would be longer is begun anew.
const LOG_BYTES_MAX: u64 = 8 << 20;

const _: () = assert!(log::record_bytes(STORED_BYTES_MAX) + log::HEADER_BYTES <= LOG_BYTES_MAX as usize);

/// See the module.
pub struct Embedded {
    path: PathBuf,
    disk: Box<dyn Disk>,
    state: State,
    /// Of the file, as far as it is known to be whole.
    length: u64,
    /// The file may have more than that, or none is there: the next write begins a new one.
    begins_anew: bool,
    is_in_charge: bool,
}

impl Embedded {
    /// The store in `folder`, which is made if it is not there. A last write that was cut off is
    /// dropped, and told of: nobody was told that it is durable.
    pub fn open(folder: &Path) -> Result<Embedded, StoreError> {
        Embedded::over(folder.join(disk::LOG), Box::new(Folder::open(folder)?))
    }

    fn over(path: PathBuf, mut disk: Box<dyn Disk>) -> Result<Embedded, StoreError> {
        let read = disk.read().map_err(|error| StoreError::Disk { doing: "reading", path: path.clone(), error })?;
        let (state, length, begins_anew) = match &read {
            None => (State::default(), 0, true),
            Some(bytes) => {
                let found = log::scan(bytes).map_err(|bad| StoreError::Damaged {
                    path: path.clone(),
                    at: bad.at,
                    why: bad.why.into(),
                })?;
                let over = bytes.len() as u64 - found.length;
                if over > 0 {
                    ::log::warn!(
                        "{}: the last write was cut off; its {over} bytes at {} are dropped, and the map is the one before",
                        path.display(),
                        found.length
                    );
                }
                (found.state, found.length, over > 0)
            }
        };
        Ok(Embedded { path, disk, state, length, begins_anew, is_in_charge: false })
    }

    /// Make `next` durable, and go on with it.
    fn write(&mut self, mut next: State) -> Result<(), StoreError> {
        next.number = self.state.number + 1;
        let failed = |doing, error| StoreError::Disk { doing, path: self.path.clone(), error };
        let record = next.record(self.length);
        if self.begins_anew || self.length + record.len() as u64 > LOG_BYTES_MAX {
            // Of the file that is there nothing is known for certain until this has gone well.
            self.begins_anew = true;
            let fresh = log::begun_with(&next);
            self.disk.replace(&fresh).map_err(|error| failed("beginning anew", error))?;
            self.length = fresh.len() as u64;
            self.begins_anew = false;
        } else if let Err(error) = self.disk.append(self.length, &record) {
            // What a failed sync has left on the disk is unknown, so this file is not written to
            // again; cut, it is what it was should the process end now.
            self.begins_anew = true;
            let _ = self.disk.cut(self.length);
            return Err(failed("writing", error));
        } else {
            self.length += record.len() as u64;
        }
        self.state = next;
        Ok(())
    }
}

impl MapStore for Embedded {
    fn lead(&mut self, _me: &str) -> Result<Lead, StoreError> {
        if !self.is_in_charge {
            self.write(State { generation: self.state.generation + 1, ..self.state.clone() })?;
            self.is_in_charge = true;
        }
        Ok(Lead::InCharge { generation: self.state.generation })
    }

    fn load(&mut self) -> Result<Option<Stored>, StoreError> {
        let State { revision, bytes, .. } = &self.state;
        Ok((*revision > 0).then(|| Stored { revision: *revision, bytes: bytes.clone() }))
    }

    fn swap(&mut self, expected: Option<u64>, bytes: &[u8]) -> Result<Swapped, StoreError> {
        if bytes.len() > STORED_BYTES_MAX {
            return Err(StoreError::TooLong(bytes.len()));
        }
        if !self.is_in_charge {
            return Err(StoreError::NotInCharge { other: None });
        }
        if expected.unwrap_or(0) != self.state.revision {
            return Ok(Swapped::Conflict);
        }
        let revision = self.state.revision + 1;
        self.write(State { revision, bytes: bytes.to_vec(), ..self.state })?;
        Ok(Swapped::Done { revision })
    }
}

#[cfg(test)]
#[path = "embedded/tests.rs"]
mod tests;
