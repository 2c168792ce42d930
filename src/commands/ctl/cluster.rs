//! `remora ctl cluster` asks the locator in charge, and tells it what operators want.

use super::super::locator::secret;
use super::super::output::{print, say};
use crate::cluster::client::{Decided, Question, ask};
use crate::cluster::decide::{Command, ServerStatus, Status};
use crate::cluster::map::Policy;
use crate::replication::secret::Secret;
use anyhow::{Context, ensure};
use jiff::Timestamp;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A cluster.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The locators; whichever is in charge answers
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', default_value = "127.0.0.1:7946", global = true)]
    pub locators: Vec<String>,
    /// File with the secret of the cluster
    #[arg(long, value_name = "FILE", global = true)]
    pub secret_file: Option<PathBuf>,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, global = true, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub wait: u64,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What.
    #[command(subcommand)]
    pub what: What,
}

/// What is asked.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum What {
    /// Let a cluster be born, of all servers that have found the locator
    Init {
        /// How many shards it has, for ever: a power of two. Each server has as many
        #[arg(long, default_value_t = super::super::serve::cluster::SHARDS_DEFAULT)]
        shards: usize,
        /// Replicas of each shard
        #[arg(long, default_value_t = Policy::default().replicas)]
        replicas: u8,
        /// The least number of replicas that an acknowledged write may wait for
        #[arg(long, default_value_t = Policy::default().acks)]
        acks: u8,
        /// Milliseconds without a word after which a server counts as dead
        #[arg(long, value_name = "MILLISECONDS", default_value_t = Policy::default().lease_ms)]
        lease: u64,
        /// Give shards to no server yet
        #[arg(long)]
        empty: bool,
    },
    /// Show how it stands
    Status,
    /// Show the map
    Map,
    /// Show what was decided lately, and why
    Events,
    /// Print each new version of the map as it comes, a line each
    Watch {
        /// End after so many
        #[arg(long, value_name = "VERSIONS", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// Give this server its part of the shards
    Add {
        /// Its name; without it all that have found the locator
        #[arg(value_name = "SERVER")]
        name: Option<String>,
        /// Only say what would come of it.
        #[command(flatten)]
        dry: Dry,
    },
    /// Have others take this server's shards, all of them; then it can go
    Drain {
        /// Its name
        #[arg(value_name = "SERVER")]
        name: String,
        /// Only say what would come of it.
        #[command(flatten)]
        dry: Dry,
    },
    /// Forget this server
    Remove {
        /// Its name
        #[arg(value_name = "SERVER")]
        name: String,
        /// Only say what would come of it.
        #[command(flatten)]
        dry: Dry,
    },
    /// Have another server take this one's place
    Swap {
        /// Whose
        old: String,
        /// Who takes it
        new: String,
        /// Only say what would come of it.
        #[command(flatten)]
        dry: Dry,
    },
    /// Give each server its part of the primaries and of the replicas
    Rebalance {
        /// Only say what would come of it.
        #[command(flatten)]
        dry: Dry,
    },
    /// Have others be the primary where this server is
    Failover {
        /// Its name
        #[arg(value_name = "SERVER")]
        name: String,
        /// It is gone for good: go on with who is there, though acknowledged writes may be lost
        #[arg(long)]
        force: bool,
        /// Only say what would come of it.
        #[command(flatten)]
        dry: Dry,
    },
    /// Do not fail this server over while it is away for maintenance
    Pause {
        /// Its name
        #[arg(value_name = "SERVER")]
        name: String,
        /// Only say what would come of it.
        #[command(flatten)]
        dry: Dry,
    },
    /// The maintenance is over; without a server: go on after so many died together
    Resume {
        /// Its name
        #[arg(value_name = "SERVER")]
        name: Option<String>,
        /// Only say what would come of it.
        #[command(flatten)]
        dry: Dry,
    },
}

/// Whether to do it.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Dry {
    /// Only say what would come of it
    #[arg(long)]
    pub dry_run: bool,
}

/// Ask, and print the answer.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let asking = Asking {
        locators: &args.locators,
        secret: secret(args.secret_file.as_deref())?,
        until: Instant::now() + Duration::from_secs(args.wait),
    };
    let text = match args.what.clone() {
        What::Init { shards, replicas, acks, lease, empty } => {
            ensure!(shards.is_power_of_two(), "--shards {shards}: their number is a power of two");
            let policy = Policy { replicas, acks, lease_ms: lease, ..Policy::default() };
            let id = asking.ask(&Question::Init { shards, policy })?;
            let born = format!("cluster {id} is born, of {shards} shards");
            match empty {
                true => born,
                false => {
                    let added = asking.change(Command::Add { server: None }, false);
                    let added = added.with_context(|| format!("{born}, and no server has a part of them yet"))?;
                    format!("{born}; {added}")
                }
            }
        }
        What::Status => {
            let status: Status = serde_json::from_str(&asking.ask(&Question::Status)?)?;
            let text = if args.json { serde_json::to_string_pretty(&status)? + "\n" } else { table(&status) };
            return Ok(print(format_args!("{text}"))?);
        }
        What::Watch { count } => {
            let patience = Duration::from_secs(args.wait);
            return super::watch::run(&args.locators, &asking.secret, args.json, count, patience);
        }
        What::Map => asking.ask(&Question::Map)?,
        What::Events => {
            let events: Vec<Decided> = serde_json::from_str(&asking.ask(&Question::Events)?)?;
            let text = if args.json { serde_json::to_string_pretty(&events)? + "\n" } else { lines(&events) };
            return Ok(print(format_args!("{text}"))?);
        }
        other => {
            let (command, dry) = command_of(other);
            asking.change(command, dry.dry_run)?
        }
    };
    Ok(say!("{text}")?)
}

/// What is asked for that changes the cluster.
fn command_of(what: What) -> (Command, Dry) {
    match what {
        What::Add { name, dry } => (Command::Add { server: name }, dry),
        What::Drain { name, dry } => (Command::Drain { server: name }, dry),
        What::Remove { name, dry } => (Command::Remove { server: name }, dry),
        What::Swap { old, new, dry } => (Command::Swap { old, new }, dry),
        What::Rebalance { dry } => (Command::Rebalance, dry),
        What::Failover { name, force, dry } => (Command::Failover { server: name, force }, dry),
        What::Pause { name, dry } => (Command::Pause { server: name }, dry),
        What::Resume { name, dry } => (Command::Resume { server: name }, dry),
        What::Init { .. } | What::Status | What::Map | What::Events | What::Watch { .. } => {
            unreachable!("these are asked otherwise")
        }
    }
}

/// Whom to ask, and until when.
struct Asking<'a> {
    locators: &'a [String],
    secret: Secret,
    until: Instant,
}

impl Asking<'_> {
    fn ask(&self, question: &Question) -> anyhow::Result<String> {
        Ok(ask(self.locators, &self.secret, question, self.until)?)
    }

    fn change(&self, command: Command, dry_run: bool) -> anyhow::Result<String> {
        self.ask(&Question::Change { command, dry_run })
    }
}

/// A row of the table of servers.
fn row(cells: &[String]) -> String {
    cells.iter().map(|cell| format!("{cell:<22}")).collect::<String>().trim_end().to_string() + "\n"
}

fn table(status: &Status) -> String {
    let Status { cluster, version, generation, servers, shards, stopped, warnings } = status;
    let mut text = format!("cluster {cluster}, map {version}, locator generation {generation}\n");
    text += &format!(
        "shards: {}; without a primary {} (waiting {}), below K {}, moving {}, unclean {}\n\n",
        shards.all, shards.without_primary, shards.waiting, shards.below_acks, shards.moving, shards.unclean
    );
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

fn lines(events: &[Decided]) -> String {
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
    use crate::cluster::decide::ShardsStatus;
    use crate::cluster::map::Wanted;
    use clap::Parser;

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
            stopped: Some("two died".into()),
            warnings: vec!["one zone".into()],
        };
        let text = table(&status);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("shards: 8;") && lines[1].contains("waiting 1"), "{text}");
        assert_eq!(
            lines[4].split_whitespace().collect::<Vec<_>>(),
            ["one", "10.0.0.1:11211", "z", "serving", "17", "3", "5"]
        );
        assert!(lines[5].contains("dead, waits to be added") && lines[5].contains("never"), "{text}");
        assert!(text.contains("warning: stopped: two died\n") && text.ends_with("warning: one zone\n"), "{text}");
    }

    /// `-s` says which server other orders are for, and has a default: no server of a cluster.
    #[test]
    fn without_a_server_none_is_meant() {
        #[derive(clap::Parser)]
        struct Ctl {
            #[command(flatten)]
            args: super::super::Args,
        }
        let named = |words: &[&str]| {
            let ctl = Ctl::try_parse_from([&["ctl", "cluster"], words].concat()).unwrap();
            let super::super::What::Cluster(Args { what, .. }) = ctl.args.what else { panic!("{words:?}") };
            match what {
                What::Add { name, .. } | What::Resume { name, .. } => name,
                What::Drain { name, .. } => Some(name),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((named(&["resume"]), named(&["add"])), (None, None));
        assert_eq!(named(&["resume", "a"]).as_deref(), Some("a"));
        assert_eq!(named(&["drain", "b"]).as_deref(), Some("b"));
    }

    #[test]
    fn decisions_are_lines() {
        let decided = |shards: &str| Decided { at: 0, version: 7, shards: shards.into(), words: "why".into() };
        let text = lines(&[decided("none"), decided("0-3")]);
        assert_eq!(text, "1970-01-01T00:00:00Z map 7: why\n1970-01-01T00:00:00Z map 7: shards 0-3: why\n");
    }
}
