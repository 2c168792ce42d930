//! What stands behind `-l`, as memcached takes it: lists with commas or semicolons, each of
//! `[notls:|btls:|mtls:][proto[NAME]:][tag[NAME]:]ADDRESS[:PORT]`, where `*` is every address of
//! this host.

use crate::server::address;
use crate::server::tls::Security;
use anyhow::{Context, bail, ensure};
use std::net::{SocketAddr, UdpSocket};

/// Where to listen.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listeners {
    /// Each address once, but for those whose port the kernel chooses.
    pub tcp: Vec<SocketAddr>,
    /// What each of them does about TLS.
    pub security: Vec<Security>,
    /// Some have tags, which change nothing.
    pub tagged: bool,
}

/// One of them, without its words.
#[derive(Debug, PartialEq, Eq)]
struct Listed<'t> {
    address: &'t str,
    security: Security,
    /// What -B would call it, where it is named.
    protocol: Option<&'static str>,
    tagged: bool,
}

/// What -B calls the text protocols.
pub const ASCII: &str = "ascii";
/// What it calls the binary one.
pub const BINARY: &str = "binary";
/// What it calls whichever a client begins with.
pub const AUTO: &str = "auto";

/// Longest tag, as in memcached.
const TAG_BYTES_MAX: usize = 8;

/// Read all of them. What names no port gets `default_port`; where that is `None` it is left out.
/// `with_tls`: -Z is given.
pub fn read(lists: &[String], default_port: Option<u16>, with_tls: bool) -> anyhow::Result<Listeners> {
    let mut found = Listeners::default();
    for one in lists.iter().flat_map(|list| list.split([',', ';'])) {
        let listed = listed(one.trim(), with_tls).with_context(|| format!("-l {one}"))?;
        found.tagged |= listed.tagged;
        for address in written(listed.address) {
            for address in address::resolve(&address, default_port).context("-l")? {
                if address.port() == 0 || !found.tcp.contains(&address) {
                    found.tcp.push(address);
                    found.security.push(listed.security);
                }
            }
        }
    }
    Ok(found)
}

/// What all of them speak, as -B would call it: what each names, else what `usual` is. There is a
/// unix socket as well where `with_unix`, and it speaks what is usual.
pub fn protocol<'t>(lists: &[String], usual: &'t str, with_unix: bool) -> anyhow::Result<&'t str> {
    let mut spoken = Vec::new();
    if with_unix || lists.is_empty() {
        spoken.push(usual);
    }
    for one in lists.iter().flat_map(|list| list.split([',', ';'])) {
        spoken.push(listed(one.trim(), true).with_context(|| format!("-l {one}"))?.protocol.unwrap_or(usual));
    }
    match spoken.iter().find(|other| **other != spoken[0]) {
        None => Ok(spoken[0]),
        Some(other) => bail!(
            "all listeners of a server speak the same here, not one {} and another {other}; write proto[NAME]: for all or none, \
             or start two servers",
            spoken[0]
        ),
    }
}

/// What `address` stands for: `*` is two addresses where there is IPv6.
fn written(address: &str) -> Vec<String> {
    let Some(port) = address.strip_prefix('*').filter(|rest| rest.is_empty() || rest.starts_with(':')) else {
        return vec![address.to_string()];
    };
    let mut any = vec![format!("0.0.0.0{port}")];
    if UdpSocket::bind("[::]:0").is_ok() {
        any.push(format!("[::]{port}"));
    }
    any
}

fn listed(text: &str, with_tls: bool) -> anyhow::Result<Listed<'_>> {
    let usual = if with_tls { Security::Usual } else { Security::Plain };
    let known = [("notls:", Security::Plain), ("btls:", Security::Unasked), ("mtls:", Security::Asked)];
    let (security, text) = known
        .into_iter()
        .find_map(|(word, security)| Some((security, text.strip_prefix(word)?)))
        .map_or(Ok((usual, text)), |found| {
            ensure!(with_tls, "notls:, btls: and mtls: are for a server with TLS; add -Z, or leave them out");
            Ok(found)
        })?;
    let (protocol, rest) = bracketed(text, "proto", false)?;
    let protocol = match protocol {
        None => None,
        Some("ascii") => Some(ASCII),
        Some("binary") => Some(BINARY),
        Some("negotiating") => Some(AUTO),
        Some("proxy") => bail!("there is no proxy; leave proto[proxy] out"),
        Some(other) => bail!("\"{other}\" is no protocol; there are ascii, binary and negotiating"),
    };
    let (tag, address) = bracketed(rest, "tag", true)?;
    if let Some(tag) = tag {
        ensure!((1..=TAG_BYTES_MAX).contains(&tag.len()), "the tag \"{tag}\" has not 1 to {TAG_BYTES_MAX} characters");
    }
    Ok(Listed { address, security, protocol, tagged: tag.is_some() })
}

/// What stands in the brackets behind `word` at the beginning of `text`, and what follows its
/// colon. `underscores`: these may stand for the brackets (`tag_x_`).
fn bracketed<'t>(text: &'t str, word: &str, underscores: bool) -> anyhow::Result<(Option<&'t str>, &'t str)> {
    let Some(behind) = text.strip_prefix(word) else { return Ok((None, text)) };
    let (inside, end) = match behind.strip_prefix('[') {
        Some(inside) => (inside, "]:"),
        None => match behind.strip_prefix('_').filter(|_| underscores) {
            Some(inside) => (inside, "_:"),
            // The name of a host that begins like it.
            None => return Ok((None, text)),
        },
    };
    let (name, rest) =
        inside.split_once(end).with_context(|| format!("\"{text}\" does not end its {word}; write {word}[NAME]:"))?;
    Ok((Some(name), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp(text: &str) -> Vec<String> {
        let listeners = read(&[text.to_string()], Some(11211), false).unwrap();
        listeners.tcp.iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn memcacheds_forms_are_read() {
        assert_eq!(tcp("127.0.0.1,[::1]:5;127.0.0.2:6"), ["127.0.0.1:11211", "[::1]:5", "127.0.0.2:6"]);
        assert_eq!(tcp("proto[ascii]:127.0.0.1:5"), ["127.0.0.1:5"]);
        assert_eq!(tcp("proto[negotiating]:tag[services]:[::1]:5"), ["[::1]:5"]);
        assert_eq!(tcp("tag_tools_:127.0.0.1"), ["127.0.0.1:11211"]);
        assert!(read(&["tag[a]:127.0.0.1".into()], Some(1), false).unwrap().tagged);
        assert!(!read(&["127.0.0.1".into()], Some(1), false).unwrap().tagged);
    }

    #[test]
    fn all_listeners_speak_the_same() {
        let spoken = |lists: &str, usual, with_unix| {
            let lists: Vec<String> = lists.split_whitespace().map(str::to_string).collect();
            protocol(&lists, usual, with_unix).map_err(|error| error.to_string())
        };
        assert_eq!(spoken("", BINARY, false), Ok(BINARY));
        assert_eq!(spoken("127.0.0.1,[::1]", ASCII, true), Ok(ASCII));
        assert_eq!(spoken("proto[binary]:127.0.0.1 proto[binary]:[::1]", AUTO, false), Ok(BINARY));
        assert_eq!(spoken("proto[negotiating]:127.0.0.1", ASCII, false), Ok(AUTO));
        assert_eq!(spoken("proto[ascii]:tag[a]:127.0.0.1,127.0.0.1:2", ASCII, true), Ok(ASCII));
        for (lists, with_unix) in [
            ("proto[binary]:127.0.0.1,127.0.0.1:2", false),
            ("proto[binary]:127.0.0.1 proto[ascii]:127.0.0.1:2", false),
            ("proto[binary]:127.0.0.1", true),
        ] {
            let error = spoken(lists, AUTO, with_unix).unwrap_err();
            assert!(
                error.contains("all listeners of a server speak the same here") && error.contains("binary"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_address_is_listened_to_once() {
        assert_eq!(tcp("127.0.0.1,127.0.0.1:11211"), ["127.0.0.1:11211"]);
        assert_eq!(tcp("127.0.0.1:0,127.0.0.1:0").len(), 2, "two ports of the kernel's choice");
    }

    #[test]
    fn each_may_say_what_it_does_about_tls() {
        let list = "127.0.0.1,notls:127.0.0.2,btls:proto[ascii]:tag[a]:127.0.0.3,mtls:[::1]:5".to_string();
        let found = read(&[list], Some(11211), true).unwrap();
        assert_eq!(found.security, [Security::Usual, Security::Plain, Security::Unasked, Security::Asked]);
        assert_eq!(found.tcp[3], "[::1]:5".parse().unwrap());
        assert_eq!(read(&["127.0.0.1".into()], Some(1), false).unwrap().security, [Security::Plain]);
    }

    #[test]
    fn a_star_is_every_address() {
        assert_eq!(tcp("*")[0], "0.0.0.0:11211");
        let addresses = tcp("tag[a]:*:7");
        assert!(addresses == ["0.0.0.0:7", "[::]:7"] || addresses == ["0.0.0.0:7"], "{addresses:?}");
    }

    #[test]
    fn what_is_not_served_is_refused() {
        for (text, word) in [
            ("proto[proxy]:127.0.0.1", "proxy"),
            ("proto[http]:127.0.0.1", "\"http\" is no protocol"),
            ("proto[ascii:127.0.0.1", "proto[NAME]:"),
            ("tag[123456789]:127.0.0.1", "1 to 8"),
            ("tag[]:127.0.0.1", "1 to 8"),
            ("mtls:127.0.0.1", "add -Z"),
            ("127.0.0.1:port", "host:port"),
        ] {
            let error = format!("{:#}", read(&[text.to_string()], Some(1), false).unwrap_err());
            assert!(error.contains(word) && error.starts_with("-l"), "{text}: {error}");
        }
    }

    proptest! {
        /// Whatever is given is read, or refused; what is read is an end of it.
        #[test]
        fn no_text_confuses_it(text in "(notls:|mtls|)(proto|)[\\[\\]_:]?(ascii)?(\\]:|)(tag)?.{0,20}") {
            if let Ok(listed) = listed(&text, true) {
                prop_assert!(text.ends_with(listed.address));
            }
        }

        #[test]
        fn the_words_before_an_address_change_no_address(
            host in "127\\.[1-9][0-9]?\\.0\\.1", port in 1u16.., protocol in prop::bool::ANY, tag in "[a-z]{1,8}",
        ) {
            let address = format!("{host}:{port}");
            let words = if protocol { "proto[ascii]:" } else { "" };
            prop_assert_eq!(tcp(&format!("{words}tag[{tag}]:{address}")), vec![address]);
        }
    }
}
