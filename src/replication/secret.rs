//! The shared secret, and how two sides prove to each other that both have it. A proof is the
//! HMAC-SHA-256, keyed with the secret, of a label and of the connection's [`Binding`]: what the
//! two ends of this one TLS session can compute and nobody else. So a proof is worth something at
//! the other end of this connection alone: whoever stands in between has two sessions, and cannot
//! pass it on. The label names the side that makes the proof, so a proof that is sent back to its
//! maker proves nothing. The secret itself is never sent.

use super::tls::Binding;
use super::wire::Proof;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::io::Read;
use std::path::Path;

/// Shortest secret in bytes: a server to which a replica was led astray has the replica's proof,
/// and can try guesses offline, as many as it likes.
pub const SECRET_BYTES_MIN: usize = 16;
/// Longest secret in bytes; a larger file is most likely not a secret.
pub const SECRET_BYTES_MAX: usize = 1024;

/// See the module.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Which side makes a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The primary.
    Primary,
    /// The replica.
    Replica,
}

/// Why a file holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("cannot read it")]
    Unreadable(#[from] std::io::Error),
    /// It is too short or too long.
    #[error(
        "it holds {0} bytes; a secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX}. Make one with: head -c 32 /dev/urandom | base64"
    )]
    Length(usize),
    /// Others can read it.
    #[error("others than its owner may read it (mode {0:o}): chmod 600")]
    Exposed(u32),
}

impl Secret {
    /// No secret: for loopback, where everybody is trusted. Each side still proves that it has
    /// none.
    pub fn none() -> Secret {
        Secret(Vec::new())
    }

    /// Read it from a file that only its owner may read. Blanks and line ends around it are left
    /// out.
    pub fn from_file(path: &Path) -> Result<Secret, SecretError> {
        use std::os::unix::fs::PermissionsExt;
        let file = std::fs::File::open(path)?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretError::Exposed(mode));
        }
        let mut bytes = Vec::new();
        file.take(SECRET_BYTES_MAX as u64 + 2).read_to_end(&mut bytes)?;
        Secret::new(bytes.trim_ascii())
    }

    /// From bytes.
    pub fn new(bytes: &[u8]) -> Result<Secret, SecretError> {
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) {
            return Err(SecretError::Length(bytes.len()));
        }
        Ok(Secret(bytes.to_vec()))
    }

    /// Is there one?
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    fn mac(&self, side: Side, binding: &Binding) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of every length");
        mac.update(match side {
            Side::Primary => b"remora replication: primary",
            Side::Replica => b"remora replication: replica",
        });
        mac.update(binding);
        mac
    }

    /// The proof that `side` makes on the connection with this binding.
    pub fn prove(&self, side: Side, binding: &Binding) -> Proof {
        self.mac(side, binding).finalize().into_bytes().into()
    }

    /// Whether `proof` is the one that `side` makes if it has the secret. Takes the same time for
    /// every wrong proof.
    pub fn check(&self, side: Side, binding: &Binding, proof: &Proof) -> bool {
        self.mac(side, binding).verify_slice(proof).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_who_has_the_secret_proves_it_and_only_for_its_side_and_connection() {
        let secret = Secret::new(b"a secret of some length").unwrap();
        let (one, two) = ([1; 32], [2; 32]);
        let proof = secret.prove(Side::Replica, &one);
        assert!(secret.check(Side::Replica, &one, &proof));
        assert!(!secret.check(Side::Primary, &one, &proof), "a proof sent back proves nothing");
        assert!(!secret.check(Side::Replica, &two, &proof), "of another connection");
        let other = Secret::new(b"another secret, as long").unwrap();
        assert!(!other.check(Side::Replica, &one, &proof));
        assert!(!Secret::none().check(Side::Replica, &one, &proof));
    }

    #[test]
    fn a_file_is_taken_only_if_it_is_long_enough_and_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "  0123456789abcdef\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(matches!(Secret::from_file(&path), Err(SecretError::Exposed(0o640))));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(Secret::from_file(&path).unwrap().0, b"0123456789abcdef");
        std::fs::write(&path, "short\n").unwrap();
        assert!(matches!(Secret::from_file(&path), Err(SecretError::Length(5))));
        std::fs::write(&path, vec![b'x'; 5000]).unwrap();
        assert!(matches!(Secret::from_file(&path), Err(SecretError::Length(_))));
        assert!(matches!(Secret::from_file(&folder.path().join("none")), Err(SecretError::Unreadable(_))));
    }
}
