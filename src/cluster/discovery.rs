//! What clients are told of a map: `config get cluster`, `config get map`, and who has a shard.
//!
//! By `config get cluster`, clients made for ElastiCache learn the servers:
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
//!
//! By `config get map`, who routes by shard gets the whole map, as one line of JSON:
//!
//! ```text
//! CONFIG map 0 LENGTH\r\n
//! MAP\n
//! \r\n
//! END\r\n
//! ```

use super::map::{Map, Server, Wanted};

/// Who takes the writes of a shard.
#[derive(Debug, PartialEq, Eq)]
pub struct Owner<'m> {
    /// The term of the shard.
    pub term: u32,
    /// Its primary.
    pub server: &'m Server,
}

/// The shard's primary, where that has a process and is another one than that of the incarnation
/// `own`. A server of which the map says that it is the primary does not send clients to itself:
/// it is about to be, or will hear soon that it is no more.
pub fn owner<'m>(map: &'m Map, shard: usize, own: &str) -> Option<Owner<'m>> {
    let shard = map.shards.get(shard)?;
    let server = map.server(map.living_primary(shard)?)?;
    (server.incarnation.as_deref() != Some(own)).then_some(Owner { term: shard.term, server })
}

/// The whole answer to `config get map`.
pub fn map_answer(map: &Map) -> String {
    framed("map", &format!("{}\n", map.to_text()))
}

fn framed(what: &str, body: &str) -> String {
    format!("CONFIG {what} 0 {}\r\n{body}\r\nEND\r\n", body.len())
}

/// The whole answer to `config get cluster`.
pub fn cluster_answer(map: &Map) -> String {
    let listed = map.servers.iter().filter(|server| is_listed(server));
    let nodes: Vec<String> = listed.filter_map(|server| node(&server.clients)).collect();
    framed("cluster", &format!("{}\n{}\n", map.version, nodes.join(" ")))
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
        assert_eq!(cluster_answer(&three), golden);
        assert_eq!(cluster_answer(&map(u64::MAX, &[])), "CONFIG cluster 0 22\r\n18446744073709551615\n\n\r\nEND\r\n");
    }

    #[test]
    fn who_leaves_or_is_dead_is_not_listed() {
        let some =
            map(3, &[("a:1", true, Draining), ("b:2", false, Serving), ("c:3", true, Serving), ("d:4", false, Paused)]);
        assert_eq!(cluster_answer(&some), "CONFIG cluster 0 8\r\n3\nc|c|3\n\r\nEND\r\n");
    }

    #[test]
    fn the_map_is_one_line_of_json() {
        let answer = map_answer(&map(7, &[("a:1", true, Serving)]));
        let (head, rest) = answer.split_once("\r\n").expect("a first line");
        let body = rest.strip_suffix("\r\nEND\r\n").expect("its end");
        assert_eq!(head, format!("CONFIG map 0 {}", body.len()));
        let (line, behind) = body.split_once('\n').expect("a line");
        assert_eq!((behind, Map::of_text(line.as_bytes()).expect("a map").version), ("", 7));
    }

    #[test]
    fn the_owner_is_a_living_primary_elsewhere() {
        let mut map = map(3, &[("a:1", true, Serving), ("b:2", true, Draining), ("c:3", false, Serving)]);
        map.servers[1].incarnation = Some("2".into());
        let name = |map: &Map, shard: usize, own: &str| owner(map, shard, own).map(|one| (one.term, one.server.id));
        assert_eq!(name(&map, 0, "9"), None, "nobody has begun");
        (map.shards[0].primary, map.shards[0].term) = (Some(2), 7);
        assert_eq!(name(&map, 0, "9"), Some((7, 2)), "one that drains has it still");
        assert_eq!(name(&map, 0, "2"), None, "it is the server itself");
        map.shards[0].ended = true;
        assert_eq!(name(&map, 0, "9"), None, "its process is another one");
        map.shards[1].primary = Some(3);
        assert_eq!(name(&map, 1, "9"), None, "it is dead");
        assert_eq!(name(&map, 4, "9"), None, "there is no such shard");
    }

    #[test]
    fn an_address_that_would_break_the_line_is_left_out() {
        for wrong in ["a", "a:x", ":1", "a|b:1", "a b:1", "a\nb:1", "a\r:1", "a:70000", "[]:1"] {
            assert_eq!(
                cluster_answer(&map(3, &[(wrong, true, Serving)])),
                "CONFIG cluster 0 3\r\n3\n\n\r\nEND\r\n",
                "{wrong:?}"
            );
        }
    }

    /// As pymemcache, dalli-elasticache and the clients for C# go about it.
    #[test]
    fn clients_read_it() {
        let text = cluster_answer(&map(7, &[("a:1", true, Serving), ("b:2", true, Serving)]));
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
