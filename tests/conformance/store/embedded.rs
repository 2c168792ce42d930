//! The folder: who holds it, damage, a disk that is full, a process that is killed.

use super::world::{in_charge, kept, written};
use remora::cluster::store::{Embedded, MapStore, StoreError, Swapped};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// In the environment of a process that [`alone`] has started: the folder that it may use.
const FOLDER: &str = "REMORA_TEST_STORE";

#[test]
fn two_locators_never_share_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Embedded::open(folder.path()).expect("nobody has it");
    in_charge(&mut store, "a");
    let error = Embedded::open(folder.path()).err().expect("it is held");
    let words = error.to_string();
    assert!(matches!(error, StoreError::Held { .. }), "{words}");
    assert!(words.contains(&format!("process {}", std::process::id())), "{words}");
    written(&mut store, None, b"one");
    drop(store);
    let mut store = Embedded::open(folder.path()).expect("nobody has it any more");
    assert!(kept(&mut store).is_some_and(|(_, bytes)| bytes == b"one"));
}

#[test]
fn nobody_else_reads_or_writes_its_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("new/store");
    let mut store = Embedded::open(&place).expect("folders are made");
    in_charge(&mut store, "a");
    for name in ["log", "lock"] {
        let mode = fs::metadata(place.join(name)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn damage_is_told_and_a_torn_end_is_dropped() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let mut store = Embedded::open(folder.path()).expect("nobody has it");
    let generation = in_charge(&mut store, "a");
    let first = written(&mut store, None, b"one");
    let length = fs::metadata(&log).expect("it is there").len();
    written(&mut store, Some(first), b"two");
    drop(store);
    let whole = fs::read(&log).expect("it can be read");

    // Cut off within the last write: the map before it, and writes go on behind it.
    fs::write(&log, &whole[..whole.len() - 3]).expect("it can be written");
    let mut store = Embedded::open(folder.path()).expect("a torn end is no damage");
    assert_eq!(kept(&mut store), Some((first, b"one".to_vec())));
    assert_eq!(in_charge(&mut store, "a"), generation + 1);
    written(&mut store, Some(first), b"three");
    drop(store);
    assert!(kept(&mut Embedded::open(folder.path()).expect("it is whole")).is_some_and(|(_, bytes)| bytes == b"three"));

    // A byte of the last write has changed: that is no reason to go back.
    let mut damaged = whole.clone();
    damaged[length as usize + 32] ^= 1;
    fs::write(&log, &damaged).expect("it can be written");
    let error = Embedded::open(folder.path()).err().expect("it is damaged");
    assert!(matches!(error, StoreError::Damaged { at, .. } if at == length), "{error}");
    assert!(error.to_string().contains(&format!("truncate -s {length}")), "{error}");
    // As it says.
    fs::write(&log, &damaged[..length as usize]).expect("it can be written");
    let mut store = Embedded::open(folder.path()).expect("it ends where a record does");
    assert_eq!(kept(&mut store), Some((first, b"one".to_vec())));
}

/// Run this test of this binary in a process of its own, by `wrapper`; false where that cannot be.
fn alone(name: &str, folder: &Path, wrapper: &[&str]) -> bool {
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(std::env::current_exe().expect("this binary"));
    command.args(["--exact", name, "--nocapture", "--test-threads", "1"]).env(FOLDER, folder);
    let output = command.output().expect("it starts");
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success() || said.contains("unshare:") || said.contains("mount:"), "{said}");
    output.status.success()
}

fn folder_of_this_process() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Over a file system with 256 KiB, which only this test's own process sees.
#[test]
fn a_full_disk_loses_nothing_and_the_next_write_succeeds_once_there_is_room() {
    let Some(folder) = folder_of_this_process() else {
        let folder = tempfile::tempdir().expect("a folder");
        let mount = format!("mount -t tmpfs -o size=256k none '{}' && exec \"$@\"", folder.path().display());
        let wrapper = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &mount, "sh"];
        let name = "store::embedded::a_full_disk_loses_nothing_and_the_next_write_succeeds_once_there_is_room";
        if !alone(name, folder.path(), &wrapper) {
            println!("skipped: this host lets nobody mount a file system of their own (unshare --user --mount)");
        }
        return;
    };
    let store_folder = folder.join("store");
    let mut store = Embedded::open(&store_folder).expect("there is room");
    in_charge(&mut store, "a");
    let map = vec![7; 20 << 10];
    let mut last = written(&mut store, None, &map);
    // Fill what is left, but for some KiB.
    let filler = folder.join("filler");
    let mut file = fs::File::create(&filler).expect("there is room");
    while file.write_all(&[1; 4096]).is_ok() {}
    file.set_len(file.metadata().expect("it is there").len() - (64 << 10)).expect("less is possible");
    let error = loop {
        match store.swap(Some(last), &map) {
            Ok(Swapped::Done { revision }) => last = revision,
            Ok(Swapped::Conflict) => panic!("nobody else writes"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("Make room"), "{error}");
    assert_eq!(kept(&mut store), Some((last, map.clone())));
    assert!(store.swap(Some(last), &map).is_err(), "there still is no room");
    // Whoever starts now finds what was kept; without room nobody takes charge.
    drop(store);
    let mut store = Embedded::open(&store_folder).expect("reading needs no room");
    assert_eq!(kept(&mut store), Some((last, map.clone())));
    assert!(matches!(store.lead("b"), Err(StoreError::Disk { .. })));
    drop(file);
    fs::remove_file(&filler).expect("it is ours");
    in_charge(&mut store, "b");
    let next = written(&mut store, Some(last), b"next");
    drop(store);
    assert_eq!(kept(&mut Embedded::open(&store_folder).expect("there is room")), Some((next, b"next".to_vec())));
}
