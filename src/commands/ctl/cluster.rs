//! `remora ctl cluster` asks the locator in charge, and tells it what operators want.
//!
//! | file | what it is |
//! | --- | --- |
//! | `show` | status and decisions as text |
//! | `waiting` | how far a change has come |
//! | `policy` | KEY=VALUE, to a policy and back |
//! | `backup` | the map in a file |
//! | `listed` | the file that lists the servers |

mod backup;
mod listed;
mod policy;
mod show;
mod waiting;

use super::super::locator::secret;
use super::super::output::{print, say};
use crate::cluster::client::{Decided, Question, ask};
use crate::cluster::decide::{Command, Status};
use crate::cluster::map::{Consistency, Map, Policy, WithoutLease};
use crate::replication::secret::Secret;
use anyhow::{Context, ensure};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use waiting::Awaited;

/// A cluster.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The locators; whichever is in charge answers
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', default_value = "127.0.0.1:7946", global = true)]
    pub locators: Vec<String>,
    /// File with the secret of the cluster
    #[arg(long, value_name = "FILE", global = true)]
    pub secret_file: Option<PathBuf>,
    /// Give up where no locator answers for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, global = true, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub wait: u64,
    /// Print JSON; of a change a line for each step
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
        /// What a read shows: what its server has, or, strong, what so many replicas as --acks says
        /// have acknowledged, from a server that is sure to be the primary
        #[arg(long, value_enum, value_name = "HOW", default_value_t)]
        consistency: Consistency,
        /// What becomes of writes that no replica acknowledges, at a server that no locator has
        /// heard of late
        #[arg(long, value_enum, value_name = "HOW", default_value_t)]
        without_lease: WithoutLease,
        /// Give shards to no server yet
        #[arg(long)]
        empty: bool,
        /// Do not wait until the servers have their shards
        #[arg(long)]
        no_wait: bool,
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
        /// Whether to do it, and to wait.
        #[command(flatten)]
        doing: Doing,
    },
    /// Have others take this server's shards, all of them; then it can go
    Drain {
        /// Its name
        #[arg(value_name = "SERVER")]
        name: String,
        /// Whether to do it, and to wait.
        #[command(flatten)]
        doing: Doing,
    },
    /// Forget this server
    Remove {
        /// Its name
        #[arg(value_name = "SERVER")]
        name: String,
        /// Whether to do it, and to wait.
        #[command(flatten)]
        doing: Doing,
    },
    /// Have another server take this one's place
    Swap {
        /// Whose
        old: String,
        /// Who takes it
        new: String,
        /// Whether to do it, and to wait.
        #[command(flatten)]
        doing: Doing,
    },
    /// Give each server its part of the primaries and of the replicas
    Rebalance {
        /// Whether to do it, and to wait.
        #[command(flatten)]
        doing: Doing,
    },
    /// Have a server take over one shard, by a hand-over: no write is lost
    Move {
        /// The shard's number
        shard: usize,
        /// Who becomes its primary; who is it now gets that one's place, or has it no more
        #[arg(value_name = "SERVER")]
        name: String,
        /// Whether to do it, and to wait.
        #[command(flatten)]
        doing: Doing,
    },
    /// Have the servers be as a file lists them: they are added, and others drained, and removed
    /// once they have nothing
    Push {
        /// Tables `server`, each with a name, and maybe a zone, and a state: serving, paused,
        /// draining or removed
        file: PathBuf,
        /// Whether to do it, and to wait.
        #[command(flatten)]
        doing: Doing,
    },
    /// Show what is wanted of the whole cluster, or change it
    Policy {
        /// What to change; `none` takes a bound or a delay away
        #[arg(value_name = "KEY=VALUE")]
        changes: Vec<String>,
        /// Whether to do it, and to wait.
        #[command(flatten)]
        doing: Doing,
    },
    /// Have the locator look for a server that somebody cannot reach, and say what it has found
    Report {
        /// Its name
        #[arg(value_name = "SERVER")]
        name: String,
    },
    /// Write the map to a file, with a checksum: for recover
    Export {
        /// Which takes the place of one that is there
        file: PathBuf,
    },
    /// The store is lost, and this locator has an empty one: go on from the latest map that any
    /// server knows
    Recover {
        /// Or from the one that was exported to this file, if it is later
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
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

/// Whether to do it, and to wait until it is done.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Doing {
    /// Only say what would come of it, and how much is copied
    #[arg(long)]
    pub dry_run: bool,
    /// Do not wait until all shards are where they are to be. Whoever waits may be interrupted: the
    /// change goes on
    #[arg(long)]
    pub no_wait: bool,
}

/// Ask, and print the answer.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let secret = secret(args.secret_file.as_deref())?;
    let asking = Asking { locators: &args.locators, secret, wait: Duration::from_secs(args.wait), json: args.json };
    match args.what.clone() {
        What::Init { shards, replicas, acks, lease, consistency, without_lease, empty, no_wait } => {
            ensure!(shards.is_power_of_two(), "--shards {shards}: their number is a power of two");
            let lease_ms = lease;
            let policy = Policy { replicas, acks, lease_ms, consistency, without_lease, ..Policy::default() };
            policy.check().map_err(anyhow::Error::msg)?;
            init(&asking, shards, policy, empty)?;
            if empty || no_wait { Ok(()) } else { waiting::wait(&asking, &Awaited::default()) }
        }
        What::Status => {
            let status = asking.status()?;
            let text = if args.json { serde_json::to_string_pretty(&status)? + "\n" } else { show::table(&status) };
            Ok(print(format_args!("{text}"))?)
        }
        What::Map => Ok(say!("{}", asking.ask(&Question::Map)?)?),
        What::Events => {
            let events: Vec<Decided> = serde_json::from_str(&asking.ask(&Question::Events)?)?;
            let text = if args.json { serde_json::to_string_pretty(&events)? + "\n" } else { show::lines(&events) };
            Ok(print(format_args!("{text}"))?)
        }
        What::Watch { count } => {
            let patience = Duration::from_secs(args.wait);
            super::watch::run(&args.locators, &asking.secret, args.json, count, patience)
        }
        What::Report { name } => asking.tell(&asking.ask(&Question::Report { server: name })?),
        What::Export { file } => {
            let map = asking.map()?;
            backup::write(&file, &map)?;
            asking.tell(&format!("map {} of cluster {} is in {}", map.version, map.cluster, file.display()))
        }
        What::Recover { from, dry } => {
            let map = from.map(|file| backup::read(&file)).transpose()?.map(Box::new);
            asking.tell(&asking.ask(&Question::Recover { map, dry_run: dry.dry_run })?)
        }
        What::Policy { changes, .. } if changes.is_empty() => {
            let shown = policy::shown(&asking.map()?.policy, args.json)?;
            Ok(print(format_args!("{shown}"))?)
        }
        other => change(&asking, other),
    }
}

fn init(asking: &Asking<'_>, shards: usize, policy: Policy, empty: bool) -> anyhow::Result<()> {
    let id = asking.ask(&Question::Init { shards, policy })?;
    let born = format!("cluster {id} is born, of {shards} shards");
    if empty {
        return asking.tell(&born);
    }
    let added = asking.change(Command::Add { server: None }, false);
    let added = added.with_context(|| format!("{born}, and no server has a part of them yet"))?;
    asking.tell(&format!("{born}; {added}"))
}

/// What changes the cluster.
fn change(asking: &Asking<'_>, what: What) -> anyhow::Result<()> {
    let (command, is_dry_run, waits) = match what {
        What::Failover { name, force, dry } => (Command::Failover { server: name, force }, dry.dry_run, false),
        What::Pause { name, dry } => (Command::Pause { server: name }, dry.dry_run, false),
        What::Resume { name, dry } => (Command::Resume { server: name }, dry.dry_run, false),
        moving => {
            let (command, doing) = moving_command(asking, moving)?;
            (command, doing.dry_run, !doing.no_wait && !doing.dry_run)
        }
    };
    let awaited = Awaited::of(&command);
    asking.tell(&asking.change(command, is_dry_run)?)?;
    if waits { waiting::wait(asking, &awaited) } else { Ok(()) }
}

/// What has shards moved, as a rule.
fn moving_command(asking: &Asking<'_>, what: What) -> anyhow::Result<(Command, Doing)> {
    Ok(match what {
        What::Add { name, doing } => (Command::Add { server: name }, doing),
        What::Drain { name, doing } => (Command::Drain { server: name }, doing),
        What::Remove { name, doing } => (Command::Remove { server: name }, doing),
        What::Swap { old, new, doing } => (Command::Swap { old, new }, doing),
        What::Rebalance { doing } => (Command::Rebalance, doing),
        What::Move { shard, name, doing } => (Command::Move { shard, server: name }, doing),
        What::Push { file, doing } => (Command::Push { servers: listed::read(&file)? }, doing),
        What::Policy { changes, doing } => (Command::Policy(policy::changed(&asking.map()?.policy, &changes)?), doing),
        other => unreachable!("{other:?} is asked otherwise"),
    })
}

/// Whom to ask, for how long, and how answers are printed.
struct Asking<'a> {
    locators: &'a [String],
    secret: Secret,
    wait: Duration,
    json: bool,
}

impl Asking<'_> {
    fn ask(&self, question: &Question) -> anyhow::Result<String> {
        Ok(ask(self.locators, &self.secret, question, Instant::now() + self.wait)?)
    }

    fn change(&self, command: Command, dry_run: bool) -> anyhow::Result<String> {
        self.ask(&Question::Change { command, dry_run })
    }

    fn status(&self) -> anyhow::Result<Status> {
        Ok(serde_json::from_str(&self.ask(&Question::Status)?)?)
    }

    fn map(&self) -> anyhow::Result<Map> {
        Ok(Map::of_text(self.ask(&Question::Map)?.as_bytes())?)
    }

    /// Print the words of an answer.
    fn tell(&self, words: &str) -> anyhow::Result<()> {
        match self.json {
            true => Ok(say!("{}", serde_json::json!({ "answer": words }))?),
            false => Ok(say!("{words}")?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

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
}
