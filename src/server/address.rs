//! Where to listen, as operators write it: `host`, `host:port`, `[v6]:port`, several with commas
//! between. Pure but for the resolver.

use crate::sys::reach::{self, RESOLVE_WAIT_MAX};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// What is wrong with an address, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Not of the form.
    #[error(
        "cannot read the address \"{0}\"; write host, host:port or [ipv6]:port, for example 127.0.0.1:11211 or [::1]:11211"
    )]
    Form(String),
    /// The name has no address.
    #[error("cannot resolve \"{host}\": {cause}; use an address, or a name that `getent hosts {host}` knows")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        cause: String,
    },
}

/// Split one address. The port is `None` if none was written.
pub fn split(text: &str) -> Result<(String, Option<u16>), AddressError> {
    let form = || AddressError::Form(text.to_string());
    let text = text.trim();
    if text.is_empty() {
        return Err(form());
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(form)?;
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port.parse().map_err(|_| form())?),
            None if port.is_empty() => None,
            None => return Err(form()),
        };
        return host.parse::<IpAddr>().map(|_| (host.to_string(), port)).map_err(|_| form());
    }
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text.to_string(), None));
    }
    match text.split_once(':') {
        None => Ok((text.to_string(), None)),
        Some((host, port)) if !host.is_empty() => Ok((host.to_string(), Some(port.parse().map_err(|_| form())?))),
        Some(_) => Err(form()),
    }
}

/// The host of one address, without its port.
pub fn host(text: &str) -> Result<String, AddressError> {
    split(text).map(|(host, _)| host)
}

/// All addresses that `text` (with commas) stands for. An address without a port gets
/// `default_port`; where that is `None` (TCP switched off by `-p 0`) it is left out. All names
/// together take at most [`RESOLVE_WAIT_MAX`].
pub fn resolve(text: &str, default_port: Option<u16>) -> Result<Vec<SocketAddr>, AddressError> {
    let mut found = Vec::new();
    let until = Instant::now() + RESOLVE_WAIT_MAX;
    for one in text.split(',') {
        let (host, port) = split(one)?;
        let Some(port) = port.or(default_port) else {
            continue;
        };
        let failed = |cause: String| AddressError::Resolve { host: host.clone(), cause };
        let addresses = match host.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, port)],
            Err(_) => reach::resolve(&format!("{host}:{port}"), until).map_err(|error| failed(error.to_string()))?,
        };
        let before = found.len();
        for address in addresses {
            // Resolvers repeat themselves. Two equal addresses with port 0 that were both written
            // are both wanted.
            if !found[before..].contains(&address) {
                found.push(address);
            }
        }
        if found.len() == before {
            return Err(failed("no address".to_string()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        for (text, host, port) in [
            ("127.0.0.1", "127.0.0.1", None),
            ("127.0.0.1:0", "127.0.0.1", Some(0)),
            ("cache.example:11211", "cache.example", Some(11211)),
            ("cache.example", "cache.example", None),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
            ("[::1]:65535", "::1", Some(65535)),
            (" 0.0.0.0:1 ", "0.0.0.0", Some(1)),
        ] {
            assert_eq!(split(text).unwrap(), (host.to_string(), port), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_an_example() {
        for text in ["", " ", ":11211", "host:", "host:x", "host:65536", "[::1", "[::1]x", "[host]:1", "[::1]:"] {
            let error = split(text).unwrap_err().to_string();
            assert!(error.contains("127.0.0.1:11211"), "{text}: {error}");
        }
    }

    #[test]
    fn commas_defaults_and_no_tcp() {
        let both = resolve("127.0.0.1,[::1]:5", Some(11211)).unwrap();
        assert_eq!(both, ["127.0.0.1:11211".parse().unwrap(), "[::1]:5".parse().unwrap()]);
        assert_eq!(resolve("127.0.0.1,127.0.0.1:7", None).unwrap(), ["127.0.0.1:7".parse().unwrap()]);
        assert_eq!(resolve("127.0.0.1:0,127.0.0.1:0", None).unwrap().len(), 2);
    }
}
