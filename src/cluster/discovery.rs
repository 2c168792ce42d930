//! The answer to `config get cluster`, by which clients made for ElastiCache learn the servers.
//!
//! ```text
//! CONFIG cluster 0 LENGTH\r\n
//! VERSION\n
//! NAME|ADDRESS|PORT NAME|ADDRESS|PORT\n
//! \r\n
//! END\r\n
//! ```
//!
//! LENGTH counts the two lines with their `\n`. Clients rely on more than the documentation says:
//! pymemcache, django-elastipymemcache and others read until `\n\r\nEND\r\n`, take the third line,
//! split it at single spaces and those at `|`, and take VERSION for a decimal number. Some connect
//! to NAME (pymemcache where it is told to, dalli-elasticache, those for Node), others to ADDRESS
//! (pymemcache else, those for Python and C#), so both lead to the server: the name of a server in
//! the map does not, and is not shown. An ADDRESS may be a name, which those clients look up.
//! <https://docs.aws.amazon.com/AmazonElastiCache/latest/dg/AutoDiscovery.AddingToYourClientLibrary.html>
//!
//! A server that is listed gets a share of the keys, whoever has their shards. So only those are
//! listed that stay: they are alive, and not draining.

use super::map::{Map, Server, Wanted};
use std::fmt::Write;

/// All of the answer.
pub fn answer(map: &Map) -> String {
    let listed = map.servers.iter().filter(|server| is_listed(server));
    let nodes: Vec<String> = listed.filter_map(|server| node(&server.clients)).collect();
    let body = format!("{}\n{}\n", map.version, nodes.join(" "));
    let mut answer = String::new();
    write!(answer, "CONFIG cluster 0 {}\r\n{body}\r\nEND\r\n", body.len()).expect("to a String");
    answer
}

fn is_listed(server: &Server) -> bool {
    server.incarnation.is_some() && !matches!(server.wanted, Wanted::Draining | Wanted::Removed)
}

/// Of HOST:PORT. None where that would break the line: a map comes from whoever may write it.
fn node(clients: &str) -> Option<String> {
    let (host, port) = clients.rsplit_once(':')?;
    // Clients split at `|`, so an IPv6 address needs no brackets, and gets on with none.
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let breaks = |letter: char| letter == '|' || letter.is_whitespace() || letter.is_control();
    let port: u16 = port.parse().ok()?;
    (!host.is_empty() && !host.contains(breaks)).then(|| format!("{host}|{host}|{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::map::Policy;

    fn map(version: u64, servers: &[(&str, bool, Wanted)]) -> Map {
        let mut map = Map { version, ..Map::born("c".into(), 4, Policy::default()) };
        let server = |(at, (clients, is_alive, wanted)): (usize, &(&str, bool, Wanted))| Server {
            id: at as u16 + 1,
            name: format!("server-{at}"),
            incarnation: is_alive.then(|| "1".into()),
            missing: None,
            clients: (*clients).into(),
            replication: "h:1".into(),
            host: format!("h{at}"),
            zone: String::new(),
            memory_mib: 64,
            wanted: *wanted,
        };
        map.servers = servers.iter().enumerate().map(server).collect();
        map
    }

    use Wanted::{Draining, Paused, Serving};

    #[test]
    fn byte_for_byte() {
        let three = map(
            12,
            &[
                ("cache-a.example:11211", true, Serving),
                ("10.0.0.2:11212", true, Serving),
                ("[2001:db8::1]:11211", true, Paused),
            ],
        );
        let golden = "CONFIG cluster 0 95\r\n12\n\
                      cache-a.example|cache-a.example|11211 10.0.0.2|10.0.0.2|11212 2001:db8::1|2001:db8::1|11211\n\r\nEND\r\n";
        assert_eq!(answer(&three), golden);
        assert_eq!(answer(&map(u64::MAX, &[])), "CONFIG cluster 0 22\r\n18446744073709551615\n\n\r\nEND\r\n");
    }

    #[test]
    fn who_leaves_or_is_dead_is_not_listed() {
        let some =
            map(3, &[("a:1", true, Draining), ("b:2", false, Serving), ("c:3", true, Serving), ("d:4", false, Paused)]);
        assert_eq!(answer(&some), "CONFIG cluster 0 8\r\n3\nc|c|3\n\r\nEND\r\n");
    }

    #[test]
    fn an_address_that_would_break_the_line_is_left_out() {
        for wrong in ["a", "a:x", ":1", "a|b:1", "a b:1", "a\nb:1", "a\r:1", "a:70000", "[]:1"] {
            assert_eq!(
                answer(&map(3, &[(wrong, true, Serving)])),
                "CONFIG cluster 0 3\r\n3\n\n\r\nEND\r\n",
                "{wrong:?}"
            );
        }
    }

    /// As pymemcache, dalli-elasticache and the clients for C# go about it.
    #[test]
    fn clients_read_it() {
        let text = answer(&map(7, &[("a:1", true, Serving), ("b:2", true, Serving)]));
        let (before_end, rest) = text.split_once("\n\r\nEND\r\n").expect("they read up to this");
        assert_eq!(rest, "");
        let lines: Vec<&str> = before_end.split('\n').collect();
        assert_eq!((lines.len(), lines[1].parse::<i64>()), (3, Ok(7)));
        let nodes: Vec<Vec<&str>> = lines[2].split(' ').map(|node| node.split('|').collect()).collect();
        assert_eq!(nodes, [["a", "a", "1"], ["b", "b", "2"]]);
        let (head, body) = text.split_once("\r\n").expect("a first line");
        let length: usize = head.strip_prefix("CONFIG cluster 0 ").expect("its words").parse().expect("a number");
        assert_eq!(&body[length..], "\r\nEND\r\n");
    }
}
