//! Who is let in: the secret, on both sides.

use crate::node::{Node, in_sync, wait_for_count};
use crate::support::refused;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn secret(folder: &Path, name: &str, text: &str, mode: u32) -> String {
    let path: PathBuf = folder.join(name);
    std::fs::write(&path, text).expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its mode");
    path.to_str().expect("text").to_string()
}

/// It ends with status 1, and says what is wrong.
fn assert_refused(arguments: &[&str], words: &[&str]) {
    let mut all = vec!["-l", "127.0.0.1:0", "-m", "16"];
    all.extend(arguments);
    let (status, said) = refused(&all);
    assert_eq!(status.code(), Some(1), "{arguments:?}: {said}");
    assert!(words.iter().all(|word| said.contains(word)), "{arguments:?}: {words:?} should be in: {said}");
}

#[test]
fn only_who_has_the_secret_is_let_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let right = secret(folder.path(), "right", "0123456789abcdef0123", 0o600);
    let same = secret(folder.path(), "same", "  0123456789abcdef0123\n", 0o400);
    let wrong = secret(folder.path(), "wrong", "0123456789abcdef0124", 0o600);
    let primary = Node::primary(&["-m", "16", "--secret-file", &right]);
    let port = primary.port().to_string();
    assert_refused(&["--replica-of", &port, "--secret-file", &wrong], &["refused", "secret"]);
    assert_refused(&["--replica-of", &port], &["refused", "secret"]);
    wait_for_count(&primary, "replicas_refused_secret", 2);
    assert_eq!((primary.number("replicas_refused"), primary.number("replicas_admitted")), (2, 0));
    let replica = Node::replica(primary.port(), &["--secret-file", &same]);
    assert_eq!(primary.client().set("a", b"secretly"), "STORED");
    in_sync(&primary, &[&replica]);
    assert_eq!(replica.client().get("a").as_deref(), Some(&b"secretly"[..]));
    // A secret where none is wanted is as wrong: who gave it means to meet somebody who has it.
    let open = Node::primary(&["-m", "16"]);
    assert_refused(&["--replica-of", &open.port().to_string(), "--secret-file", &right], &["refused", "secret"]);
}

#[test]
fn what_would_let_everybody_in_does_not_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let exposed = secret(folder.path(), "exposed", "0123456789abcdef0123", 0o644);
    let short = secret(folder.path(), "short", "0123456789abcde\n", 0o600);
    let offer = ["--replication", "127.0.0.1:0", "--secret-file"];
    assert_refused(&[&offer[..], &[&exposed]].concat(), &["--secret-file", "644", "chmod 600"]);
    assert_refused(&[&offer[..], &[&short]].concat(), &["15 bytes", "/dev/urandom"]);
    assert_refused(&[&offer[..], &["no-such-file"]].concat(), &["no-such-file", "cannot read"]);
    assert_refused(&["--replication", "0.0.0.0:0"], &["0.0.0.0:0", "secret", "--secret-file"]);
    assert_refused(&["--replication", "[::]:0"], &["secret", "--secret-file"]);
    assert_refused(&["--replica-of", "127.0.0.1:1", "--secret-file", &exposed], &["644", "chmod 600"]);
}
