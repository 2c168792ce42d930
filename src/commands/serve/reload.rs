//! SIGHUP: the file of `--config` is read anew, that of `-Y`, and certificates. What can change
//! while the server runs does: how much is logged, the memory for items, who the users are, and
//! what TLS shows. What cannot is told of, and is so at the next start.

use super::config::{Config, Values};
use super::{Given, MEMORY_MEBIBYTES_DEFAULT, logger};
use crate::server::tls::Tls;
use crate::server::users::Users;
use crate::store::Store;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// What the server runs with, and how to learn what it is to run with.
pub struct Reload {
    words: Vec<OsString>,
    path: Option<PathBuf>,
    running: Values,
    store: Arc<Store>,
    users: Option<Arc<Users>>,
    tls: Option<Arc<Tls>>,
}

impl Reload {
    /// `words` are those behind `serve`, `config` is what they led to.
    pub fn new(
        words: &[OsString],
        config: &Config,
        store: Arc<Store>,
        users: Option<Arc<Users>>,
        tls: Option<Arc<Tls>>,
    ) -> Reload {
        Reload { words: words.to_vec(), path: config.path.clone(), running: config.values(), store, users, tls }
    }

    /// Read them anew.
    pub fn reload(&mut self) {
        if let Some(users) = &self.users {
            reload_users(users);
        }
        if let Some(tls) = &self.tls {
            match tls.refresh() {
                Ok(()) => log::warn!("SIGHUP: certificates have been read; new connections have them"),
                Err(error) => log::warn!("SIGHUP: {error}; the certificates stay"),
            }
        }
        let Some(path) = &self.path else {
            log::info!("SIGHUP: there is no --config FILE to read anew; all options stay as they are");
            return;
        };
        let wanted = match Given::read(&self.words, Some(path)) {
            Ok(given) => given.config.values(),
            Err(error) => {
                log::warn!("SIGHUP: {error:#}; all stays as it is");
                return;
            }
        };
        for (name, was, is) in changes(&self.running, &wanted) {
            let done = match name.as_str() {
                "verbose" => {
                    logger::set_level(is.first().and_then(|level| level.parse().ok()).unwrap_or(0));
                    Ok(())
                }
                "memory-limit" => self.set_memory(&is),
                _ => Err("it cannot change while the server runs".to_string()),
            };
            let (from, to) = (shown(&was), shown(&is));
            match done {
                Ok(()) => {
                    log::warn!("SIGHUP: {name} was {from}, and is {to} from now on");
                    self.running.insert(name, is);
                }
                Err(why) => log::warn!("SIGHUP: {name} stays {from} until the next start, not {to}: {why}"),
            }
        }
        log::info!("SIGHUP: {} has been read", path.display());
    }

    fn set_memory(&self, values: &[String]) -> Result<(), String> {
        if self.store.first_closed().is_some() {
            return Err("how much memory a replica has, its primary says".to_string());
        }
        let mebibytes = values.first().map_or(Ok(MEMORY_MEBIBYTES_DEFAULT), |text| text.parse::<u64>());
        let mebibytes = mebibytes.map_err(|error| error.to_string())?;
        self.store.set_memory(mebibytes << 20).map_err(|why| why.to_string())
    }
}

fn reload_users(users: &Users) {
    match users.reload() {
        Ok(count) => log::warn!("SIGHUP: {} has been read; users from now on: {count}", users.path().display()),
        Err(error) => log::warn!("SIGHUP: {error}; the users stay who they were"),
    }
}

/// Name, old values, new values of each option that differs.
fn changes(running: &Values, wanted: &Values) -> Vec<(String, Vec<String>, Vec<String>)> {
    let of = |values: &Values, name: &str| values.get(name).cloned().unwrap_or_default();
    let mut names: Vec<&String> = running.keys().chain(wanted.keys()).collect();
    names.sort();
    names.dedup();
    let both = names.into_iter().map(|name| (name.clone(), of(running, name), of(wanted, name)));
    both.filter(|(_, was, is)| was != is).collect()
}

fn shown(values: &[String]) -> String {
    if values.is_empty() { "not set".to_string() } else { values.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_found_on_both_sides() {
        let values = |of: &[(&str, &str)]| -> Values {
            of.iter().map(|(name, value)| (name.to_string(), vec![value.to_string()])).collect()
        };
        let found =
            changes(&values(&[("a", "1"), ("b", "2"), ("c", "3")]), &values(&[("b", "2"), ("c", "4"), ("d", "5")]));
        let found: Vec<_> = found.iter().map(|(name, was, is)| (name.as_str(), shown(was), shown(is))).collect();
        let expected = [("a", "1", "not set"), ("c", "3", "4"), ("d", "not set", "5")];
        assert_eq!(found, expected.map(|(name, was, is)| (name, was.to_string(), is.to_string())));
    }
}
