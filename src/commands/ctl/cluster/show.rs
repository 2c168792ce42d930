//! What `remora ctl cluster` shows, as text. Pure.

use crate::cluster::client::Decided;
use crate::cluster::decide::{ServerStatus, Status};
use jiff::Timestamp;

/// A row of the table of servers.
fn row(cells: &[String]) -> String {
    cells.iter().map(|cell| format!("{cell:<22}")).collect::<String>().trim_end().to_string() + "\n"
}

/// How a cluster stands.
pub fn table(status: &Status) -> String {
    let Status { cluster, version, generation, servers, shards, copying, stopped, warnings } = status;
    let mut text = format!("cluster {cluster}, map {version}, locator generation {generation}\n");
    text += &format!(
        "shards: {}; without a primary {} (waiting {}), below K {}, moving {}, unclean {}\n",
        shards.all, shards.without_primary, shards.waiting, shards.below_acks, shards.moving, shards.unclean
    );
    text += &format!("{}\n\n", copying.told());
    text += &row(&["server", "clients", "zone", "state", "heard ms ago", "primary", "replica"].map(String::from));
    for server in servers {
        let ServerStatus { name, clients, zone, alive, lease_age_ms, primary, replica, wanted } = server;
        let wanted = wanted.map_or("waits to be added".into(), |wanted| format!("{wanted:?}").to_lowercase());
        let state = if *alive { wanted } else { format!("dead, {wanted}") };
        let heard = lease_age_ms.map_or("never".into(), |age| age.to_string());
        text += &row(&[
            name.clone(),
            clients.clone(),
            zone.clone(),
            state,
            heard,
            primary.to_string(),
            replica.to_string(),
        ]);
    }
    let warnings = stopped.iter().map(|why| format!("stopped: {why}")).chain(warnings.iter().cloned());
    warnings.for_each(|warning| text += &format!("\nwarning: {warning}\n"));
    text
}

/// A line for each decision.
pub fn lines(events: &[Decided]) -> String {
    let line = |one: &Decided| {
        let at = Timestamp::from_second(one.at.into()).map_or_else(|_| one.at.to_string(), |at| at.to_string());
        let shards = if one.shards == "none" { String::new() } else { format!("shards {}: ", one.shards) };
        format!("{at} map {}: {shards}{}\n", one.version, one.words)
    };
    events.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::decide::{Copying, ShardsStatus};
    use crate::cluster::map::Wanted;

    #[test]
    fn a_status_is_a_table() {
        let server = |name: &str, alive, wanted| ServerStatus {
            name: name.into(),
            clients: "10.0.0.1:11211".into(),
            zone: "z".into(),
            alive,
            lease_age_ms: alive.then_some(17),
            primary: 3,
            replica: 5,
            wanted,
        };
        let status = Status {
            cluster: "c".into(),
            version: 7,
            generation: 2,
            servers: vec![server("one", true, Some(Wanted::Serving)), server("two", false, None)],
            shards: ShardsStatus { all: 8, waiting: 1, ..ShardsStatus::default() },
            copying: Copying { replicas: 2, kib: Some(20_480), seconds: Some(3) },
            stopped: Some("two died".into()),
            warnings: vec!["one zone".into()],
        };
        let text = table(&status);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2], "2 replicas are to be copied (20 MiB, in 3 s)");
        assert!(lines[1].starts_with("shards: 8;") && lines[1].contains("waiting 1"), "{text}");
        assert_eq!(
            lines[5].split_whitespace().collect::<Vec<_>>(),
            ["one", "10.0.0.1:11211", "z", "serving", "17", "3", "5"]
        );
        assert!(lines[6].contains("dead, waits to be added") && lines[6].contains("never"), "{text}");
        assert!(text.contains("warning: stopped: two died\n") && text.ends_with("warning: one zone\n"), "{text}");
    }

    #[test]
    fn decisions_are_lines() {
        let decided = |shards: &str| Decided { at: 0, version: 7, shards: shards.into(), words: "why".into() };
        let text = lines(&[decided("none"), decided("0-3")]);
        assert_eq!(text, "1970-01-01T00:00:00Z map 7: why\n1970-01-01T00:00:00Z map 7: shards 0-3: why\n");
    }
}
