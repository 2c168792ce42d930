//! The users of `-Y FILE` or of `-S`, and whether somebody is one of them.
//!
//! The file is memcached's, which is the same for both: a line `user:password` for each. Passwords
//! are not kept: each user is a MAC over name and password, under a key that this process makes for
//! itself. Whoever offers a name and a password is looked up by their MAC. Nobody outside can tell
//! what that is, so how long the lookup takes says nothing of any password, however alike; and it
//! takes as long for many users as for few.

use crate::sys::random::random;
use hmac::{Hmac, KeyInit, Mac};
use rustix::system::uname;
use sha2::Sha256;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Most users of tokens, as in memcached, which overlooks the others without a word.
const TOKEN_USERS_MAX: usize = 8;
/// Most users of SASL. memcached reads its file anew at each attempt, and has no bound.
const SASL_USERS_MAX: usize = 1024;
/// Longest line in bytes, its end left out: memcached's buffer. Longer ones confuse it.
const LINE_BYTES_MAX: usize = 254;
/// A file that is larger has too many users, or holds something else.
const FILE_BYTES_MAX: u64 = (SASL_USERS_MAX * (LINE_BYTES_MAX + 1)) as u64;

/// How users say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// By a token in the text protocol (-Y).
    Token,
    /// By SASL in the binary protocol (-S).
    Sasl,
}

impl Means {
    /// Most users that there may be.
    fn users_max(self) -> usize {
        match self {
            Means::Token => TOKEN_USERS_MAX,
            Means::Sasl => SASL_USERS_MAX,
        }
    }
}

/// Why a file does not say who the users are.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// It cannot be read.
    #[error("cannot read {}: {cause}; it must be readable for the user that the server runs as (-u)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    NoKey(io::Error),
    /// A line is none of a user's.
    #[error("{}:{line}: {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what would be right. Never what stands there: it may be a password.
        why: &'static str,
    },
    /// There are more than are taken.
    #[error("{}: more than {most} users, which are the most that are taken", path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
        /// So many are taken.
        most: usize,
    },
}

type Code = [u8; 32];
type Names = HashMap<Code, Arc<str>>;

/// See the module.
pub struct Users {
    path: PathBuf,
    means: Means,
    /// `@` and this host's name. A realm is what follows @ in a user's name. Where a client of SASL
    /// gives none, libsasl adds this host's name, so memcached's file has it there.
    realm: Vec<u8>,
    key: [u8; 32],
    known: RwLock<Names>,
}

impl fmt::Debug for Users {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Users({})", self.path.display())
    }
}

impl Users {
    /// Those of this file.
    pub fn of_file(path: &Path, means: Means) -> Result<Users, UsersError> {
        let key = random().map_err(UsersError::NoKey)?;
        let realm = [b"@", uname().nodename().to_bytes()].concat();
        let users = Users { path: path.to_path_buf(), means, realm, key, known: RwLock::default() };
        users.reload()?;
        Ok(users)
    }

    /// Read the file anew; returns how many users it has. Where it has a fault those of before
    /// stay. Connections that have said who they are stay as well.
    pub fn reload(&self) -> Result<usize, UsersError> {
        let unreadable = |cause| UsersError::Unreadable { path: self.path.clone(), cause };
        let mut bytes = Vec::new();
        File::open(&self.path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(unreadable)?;
        let found = self.read(&bytes)?;
        let count = found.len();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(count)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How they say who they are.
    #[inline]
    pub fn means(&self) -> Means {
        self.means
    }

    /// The name of the user of this name and password, if there is one.
    pub fn find(&self, name: &[u8], password: &[u8]) -> Option<Arc<str>> {
        if name.len() + 1 + password.len() > LINE_BYTES_MAX {
            return None;
        }
        let names_realm = self.means == Means::Token || name.contains(&b'@');
        let code = self.code(name, password);
        let in_realm = if names_realm { None } else { Some(self.code(&[name, &self.realm].concat(), password)) };
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&code).or_else(|| known.get(&in_realm?)).cloned()
    }

    fn code(&self, name: &[u8], password: &[u8]) -> Code {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.key).expect("a key may have any length");
        // With its length, so that no other pair runs together to the same bytes.
        mac.update(&(name.len() as u64).to_le_bytes());
        mac.update(name);
        mac.update(password);
        mac.finalize().into_bytes().into()
    }

    fn read(&self, bytes: &[u8]) -> Result<Names, UsersError> {
        let (mut users, mut count) = (Names::new(), 0);
        let too_many = || UsersError::TooMany { path: self.path.clone(), most: self.means.users_max() };
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(too_many());
        }
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let lines = bytes.split(|byte| *byte == b'\n').enumerate();
        for (at, line) in lines.filter(|_| !bytes.is_empty()) {
            let wrong = |why| UsersError::Line { path: self.path.clone(), line: at + 1, why };
            if line.len() > LINE_BYTES_MAX {
                return Err(wrong("the line is longer than 254 bytes, the most that memcached takes"));
            }
            if line.contains(&0) {
                return Err(wrong("there is a NUL in it; write user:password"));
            }
            let colon = line.iter().position(|byte| *byte == b':');
            let (name, password) = line.split_at(colon.ok_or_else(|| wrong("there is no colon; write user:password"))?);
            if self.means == Means::Token && name.contains(&b' ') {
                return Err(wrong(
                    "there is a blank in the user's name, which no client can send; write user:password",
                ));
            }
            // A carriage return ends a password, as in memcached.
            let password = password[1..].split(|byte| *byte == b'\r').next().unwrap_or_default();
            count += 1;
            if count > self.means.users_max() {
                return Err(too_many());
            }
            users.insert(self.code(name, password), String::from_utf8_lossy(name).into());
        }
        Ok(users)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The users of a file with this text, who come by `means`.
    fn users_by(means: Means, text: &str) -> Result<Users, UsersError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Users::of_file(file.path(), means)
    }

    fn users(text: &str) -> Result<Users, UsersError> {
        users_by(Means::Token, text)
    }

    #[test]
    fn who_is_in_the_file_is_known_by_the_whole_password() {
        let users = users("foo:bar\nbaaaz:quux\r\n:\nx:a:b c\nfoo:second").unwrap();
        let find = |name: &str, password: &str| users.find(name.as_bytes(), password.as_bytes());
        for (name, password) in [("foo", "bar"), ("baaaz", "quux"), ("", ""), ("x", "a:b c"), ("foo", "second")] {
            assert_eq!(find(name, password).as_deref(), Some(name), "{name}:{password}");
        }
        for (name, password) in [
            ("foo", "ba"),
            ("foo", "bar "),
            ("foo", "barr"),
            ("foo", ""),
            ("fo", "obar"),
            ("foob", "ar"),
            ("foo", "quux"),
            ("", "foobar"),
            ("baaaz", "quux\r"),
        ] {
            assert_eq!(find(name, password), None, "{name}:{password}");
        }
    }

    #[test]
    fn a_user_of_sasl_may_stand_in_the_file_with_this_hosts_name() {
        let host = uname().nodename().to_str().unwrap().to_string();
        let text = format!("plain:one\nhosted@{host}:two\nfar@example.org:three\nin two words:four\n");
        let users = users_by(Means::Sasl, &text).unwrap();
        let find = |name: &str, password: &str| users.find(name.as_bytes(), password.as_bytes()).is_some();
        for (name, password) in
            [("plain", "one"), ("hosted", "two"), ("far@example.org", "three"), ("in two words", "four")]
        {
            assert!(find(name, password), "{name}");
            for wrong in ["", "on", "tw", "two ", "threefour"] {
                assert!(!find(name, wrong), "{name}:{wrong}");
            }
        }
        assert!(find(&format!("hosted@{host}"), "two"));
        for (name, password) in [("far", "three"), ("hosted@example.org", "two"), (&format!("plain@{host}"), "one")] {
            assert!(!find(name, password), "{name}");
        }
        let of_tokens = users_by(Means::Token, &format!("hosted@{host}:two")).unwrap();
        assert!(of_tokens.find(b"hosted", b"two").is_none(), "only libsasl adds the host's name");
    }

    #[test]
    fn there_may_be_many_users_of_sasl() {
        let of = |count: usize| (0..count).map(|at| format!("u{at}:secret{at}\n")).collect::<String>();
        let users = users_by(Means::Sasl, &of(1024)).unwrap();
        assert!(users.find(b"u1023", b"secret1023").is_some() && users.find(b"u1023", b"secret1022").is_none());
        for text in [of(1025), "x".repeat(FILE_BYTES_MAX as usize + 1)] {
            let error = users_by(Means::Sasl, &text).unwrap_err().to_string();
            assert!(error.contains("more than 1024 users"), "{error}");
        }
    }

    #[test]
    fn a_file_without_users_knows_nobody() {
        let users = users("").unwrap();
        assert_eq!(users.find(b"", b""), None);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line_and_never_shown() {
        let long = format!("a:b\nc:{}\n", "secret".repeat(50));
        let nine: String = (0..9).map(|at| format!("u{at}:secret\n")).collect();
        for (text, words) in [
            ("a:b\nsecret\n", ":2: there is no colon"),
            ("a:b\n\n", ":2: there is no colon"),
            ("a secret:b", ":1: there is a blank"),
            ("a:secret\0", ":1: there is a NUL"),
            (&long, ":2: the line is longer"),
            (&nine, "more than 8 users"),
        ] {
            let error = users(text).expect_err(text).to_string();
            assert!(error.contains(words) && !error.contains("secret"), "{text:?}: {error}");
        }
        let error = Users::of_file(Path::new("/nowhere/users"), Means::Token).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /nowhere/users: "), "{error}");
    }

    #[test]
    fn a_file_with_a_fault_changes_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "foo:bar\n").unwrap();
        let users = Users::of_file(file.path(), Means::Token).unwrap();
        std::fs::write(file.path(), "foo:new\nnonsense\n").unwrap();
        assert!(users.reload().is_err());
        assert!(users.find(b"foo", b"bar").is_some() && users.find(b"foo", b"new").is_none());
        std::fs::write(file.path(), "foo:new\nme:too").unwrap();
        assert_eq!(users.reload().unwrap(), 2);
        assert!(users.find(b"foo", b"bar").is_none() && users.find(b"foo", b"new").is_some());
    }

    #[test]
    fn nothing_of_a_user_is_printed() {
        let users = users("somebody:secret").unwrap();
        let printed = format!("{users:?}");
        assert!(!printed.contains("secret") && !printed.contains("somebody"), "{printed}");
    }
}
