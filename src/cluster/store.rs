//! Where the map is kept: bytes with a revision, of which one locator at a time may write the next.
//!
//! Two keep it: a folder ([`Embedded`]), for one locator, and etcd ([`Etcd`]), for several. Both
//! are held to one list of demands (tests/conformance/store.rs). Calls block, each with a deadline,
//! so the locator has a thread of its own for them. A store knows nothing of what it keeps.
//!
//! A **generation** is the number of a time of being in charge. It rises with each locator that
//! takes charge, for ever, and is durable before anybody hears of it.

mod embedded;
mod etcd;

pub use embedded::Embedded;
pub use etcd::Etcd;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest map that is kept: etcd takes requests of 1.5 MiB, unless it is told otherwise, and a
/// message to a server takes a little less than 1 MiB. The map of 1,024 shards with three replicas
/// each, on 500 servers, fits while all of them change.
pub const STORED_BYTES_MAX: usize = (1 << 20) - 64;

/// A call has ended by then, whatever it takes.
pub const CALL_MAX: Duration = Duration::from_secs(3);

/// Where several locators share a store: who is in charge, and does not say so again for so long,
/// is in charge no more.
pub const LEASE_SECONDS: u64 = 5;

/// Who is in charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lead {
    /// Whoever asked.
    InCharge {
        /// Of this time of being in charge.
        generation: u64,
    },
    /// Another locator.
    Other {
        /// Its name.
        name: String,
    },
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Above 0; rises with each write.
    pub revision: u64,
    /// As they were written.
    pub bytes: Vec<u8>,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swapped {
    /// It is durable.
    Done {
        /// Of what is kept now.
        revision: u64,
    },
    /// Something else is kept than was expected. Nothing is written.
    Conflict,
}

/// See the module.
pub trait MapStore: Send {
    /// Take charge, or stay in charge. To be called again and again, by several locators every one
    /// or two seconds: whoever is in charge and does not call loses it after [`LEASE_SECONDS`].
    fn lead(&mut self, me: &str) -> Result<Lead, StoreError>;

    /// What is kept: whatever anybody was told to be written before this call, or later.
    fn load(&mut self) -> Result<Option<Stored>, StoreError>;

    /// Write, if what is kept has the revision `expected` (None: nothing is kept), and if this
    /// locator is in charge at that moment. After an error it may be written or not;
    /// [`MapStore::load`] tells.
    fn swap(&mut self, expected: Option<u64>, bytes: &[u8]) -> Result<Swapped, StoreError>;
}

/// Why a store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No endpoint has answered in time.
    #[error(
        "etcd does not answer: {0}. See that it runs, that most of its members reach each other, and that these are the addresses where it takes clients"
    )]
    Unreachable(String),
    /// etcd has answered with an error.
    #[error("etcd at {endpoint} refuses: {words}. {remedy}")]
    Refused {
        /// HOST:PORT.
        endpoint: String,
        /// As it said it.
        words: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Only who is in charge may write.
    #[error("this locator is not in charge{}: it does not write the map", by(.other.as_deref()))]
    NotInCharge {
        /// The locator that is in charge, where one is known.
        other: Option<String>,
    },
    /// More than [`STORED_BYTES_MAX`].
    #[error("a map of {0} bytes is too long: at most {STORED_BYTES_MAX} are kept. Have fewer servers or replicas")]
    TooLong(usize),
    /// Another process has the folder.
    #[error("{} belongs to {holder}, which runs: end it, or give this locator a folder of its own", .folder.display())]
    Held {
        /// The store.
        folder: PathBuf,
        /// As it has named itself.
        holder: String,
    },
    /// The disk, or the file system.
    #[error("{doing} {}: {error}. {}", .path.display(), disk_remedy(.error))]
    Disk {
        /// What was to be done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// What is there is not what was written.
    #[error(
        "{} is damaged at byte {at}: {why}. Put the folder back from a copy; or, if the host lost power during its very last \
         write, cut the file there (truncate -s {at}), which loses that write",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it stops making sense.
        at: u64,
        /// In words.
        why: String,
    },
    /// What was given is no place of a store.
    #[error("{text} is no store: {why}. Write a folder, or etcd://HOST:PORT,HOST:PORT/PREFIX/")]
    Place {
        /// As it was given.
        text: String,
        /// In words.
        why: &'static str,
    },
}

fn by(other: Option<&str>) -> String {
    other.map(|name| format!(" ({name} is)")).unwrap_or_default()
}

fn disk_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "Make room; nothing is lost, and the next write goes on"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "Let the user of this process write there, or name another folder"
        }
        _ => "Look into the kernel's log for what ails the disk",
    }
}

/// The store at `place`: `etcd://HOST:PORT,HOST:PORT/PREFIX/` (the prefix is /remora/ where none is
/// given), or a folder, which is made if it is not there.
pub fn open(place: &str) -> Result<Box<dyn MapStore>, StoreError> {
    let wrong = |why| StoreError::Place { text: place.into(), why };
    let Some((scheme, rest)) = place.split_once("://") else {
        return Ok(Box::new(Embedded::open(Path::new(place))?));
    };
    if scheme != "etcd" {
        return Err(wrong("etcd is spoken to without TLS, and nothing else is spoken to"));
    }
    let (hosts, prefix) = rest.find('/').map_or((rest, etcd::PREFIX), |at| rest.split_at(at));
    let endpoints: Vec<String> = hosts.split(',').map(str::to_owned).collect();
    let is_address =
        |one: &String| one.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !endpoints.iter().all(is_address) {
        return Err(wrong("an address is HOST:PORT"));
    }
    let prefix = if prefix == "/" { etcd::PREFIX } else { prefix };
    Ok(Box::new(Etcd::new(endpoints, prefix, LEASE_SECONDS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_folder_or_etcd() {
        for wrong in
            ["etcds://a:1", "http://a:1", "etcd://", "etcd://a", "etcd://a:1,,b:2", "etcd://a:70000", "etcd://:1"]
        {
            let error = open(wrong).err().unwrap_or_else(|| panic!("{wrong} was taken"));
            assert!(error.to_string().starts_with(wrong) && error.to_string().contains("HOST:PORT"), "{error}");
        }
        for right in ["etcd://a:1", "etcd://a:1,[::1]:2/", "etcd://a:1/cluster-b/"] {
            assert!(open(right).is_ok(), "{right}"); // nothing is connected before it is asked
        }
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("new/store");
        let mut store = open(place.to_str().expect("UTF-8")).expect("a folder that can be made");
        assert_eq!(store.load().expect("it can be read"), None);
    }

    #[test]
    fn a_large_map_fits() {
        use crate::cluster::map::{Change, Map, Member, Policy, Server, Shard, Stage, Wanted, Way};
        let mut map = Map::born("0123456789abcdef".into(), 1024, Policy::default());
        let server = |id: u16| Server {
            id,
            name: format!("cache-server-{id}.rack-17.example.org"),
            incarnation: Some("0123456789abcdef".into()),
            missing: Some("0123456789abcdef".into()),
            clients: format!("cache-server-{id}.rack-17.example.org:11211"),
            replication: format!("cache-server-{id}.rack-17.example.org:11212"),
            host: "0123456789abcdef0123456789abcdef".into(),
            zone: "zone-17".into(),
            memory_mib: 1 << 20,
            wanted: Wanted::Serving,
        };
        map.servers = (10_000..10_500).map(server).collect();
        let member = |server| Member { server, stage: Stage::Leaving(1 << 30) };
        let shard = Shard {
            primary: Some(10_000),
            term: 1 << 30,
            reserved: u32::MAX,
            ended: true,
            members: [10_001, 10_002, 10_003].map(member).to_vec(),
            change: Some(Change { heir: 10_001, term: u32::MAX, way: Way::HandOver, least: 255, gone: 1 << 30 }),
            target: vec![10_001, 10_002, 10_003, 10_004],
            unclean_term: 1 << 30,
        };
        map.shards.fill(shard);
        assert_eq!(map.check(), Ok(()));
        let bytes = map.to_text().len();
        assert!(bytes < STORED_BYTES_MAX, "{bytes} bytes");
    }

    #[test]
    fn errors_say_what_to_do() {
        let full = StoreError::Disk {
            doing: "writing",
            path: "/s/log".into(),
            error: io::Error::from(io::ErrorKind::StorageFull),
        };
        assert!(full.to_string().ends_with("Make room; nothing is lost, and the next write goes on"), "{full}");
        let other = StoreError::NotInCharge { other: Some("b".into()) };
        assert_eq!(other.to_string(), "this locator is not in charge (b is): it does not write the map");
        let damaged = StoreError::Damaged { path: "/s/log".into(), at: 48, why: "checksum".into() };
        assert!(damaged.to_string().contains("truncate -s 48"), "{damaged}");
    }
}
