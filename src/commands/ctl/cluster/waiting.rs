//! A change is under way: how far it has come, until it is done. Whoever waits only looks: the
//! change goes on when nobody does.

use super::Asking;
use crate::cluster::decide::{Command, Status, in_words};
use crate::commands::output::{print, say};
use anyhow::bail;
use serde::Serialize;
use std::io::IsTerminal;
use std::time::Duration;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(250);
/// Characters of a whole bar.
const BAR: usize = 24;

/// What is waited for, beside that every shard is where it is to be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Awaited {
    /// This server has no shard.
    empty: Option<String>,
    /// This server is in no map.
    forgotten: Option<String>,
}

impl Awaited {
    /// What this command is to come to.
    pub fn of(command: &Command) -> Awaited {
        match command {
            Command::Drain { server } | Command::Swap { old: server, .. } => {
                Awaited { empty: Some(server.clone()), ..Awaited::default() }
            }
            Command::Remove { server } => Awaited { forgotten: Some(server.clone()), ..Awaited::default() },
            _ => Awaited::default(),
        }
    }

    fn is_there(&self, status: &Status) -> bool {
        let named = |name: &Option<String>| status.servers.iter().find(|one| Some(&one.name) == name.as_ref());
        let is_empty = named(&self.empty).is_none_or(|server| server.primary + server.replica == 0);
        let is_forgotten = named(&self.forgotten).is_none_or(|server| server.wanted.is_none());
        status.shards.moving == 0 && is_empty && is_forgotten
    }
}

/// How far it has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Progress {
    /// Shards that were to move at most, and those that still are.
    shards: usize,
    shards_left: usize,
    /// KiB that were to be copied at most, and those that still are; None: not known.
    kib: Option<u64>,
    kib_left: Option<u64>,
    /// Until all is copied; None: not known.
    seconds_left: Option<u64>,
    done: bool,
}

impl Progress {
    /// Take what is seen now.
    fn next(&self, status: &Status, awaited: &Awaited) -> Progress {
        let (left, kib_left) = (status.shards.moving, status.copying.kib);
        Progress {
            shards: self.shards.max(left),
            shards_left: left,
            kib: self.kib.max(kib_left),
            kib_left,
            seconds_left: status.copying.seconds,
            done: awaited.is_there(status),
        }
    }

    fn words(&self) -> String {
        let Progress { shards, shards_left, kib, kib_left, seconds_left, .. } = self;
        let copied = match (kib, kib_left) {
            (Some(kib), Some(left)) => format!("{} of {} copied", in_words(kib - left), in_words(*kib)),
            _ => "how much is to be copied is unknown".into(),
        };
        let time = match seconds_left {
            Some(0) => String::new(),
            Some(seconds) => format!(", {seconds} s more for what is left"),
            None => ", for how long is unknown".into(),
        };
        format!("{shards_left} of {shards} shards still move; {copied}{time}")
    }

    fn bar(&self) -> String {
        let done = (BAR * (self.shards - self.shards_left)).checked_div(self.shards).unwrap_or(BAR);
        format!("[{}{}]", "#".repeat(done), " ".repeat(BAR - done))
    }
}

/// Wait until it is done: a bar on a terminal, lines elsewhere, or lines of JSON.
pub fn wait(asking: &Asking<'_>, awaited: &Awaited) -> anyhow::Result<()> {
    let is_terminal = std::io::stdout().is_terminal() && !asking.json;
    let mut told = Progress::default();
    loop {
        let status = asking.status()?;
        let progress = told.next(&status, awaited);
        if is_terminal {
            print(format_args!("\r{} {}\x1b[K", progress.bar(), progress.words()))?;
        } else if progress != told {
            match asking.json {
                true => say!("{}", serde_json::to_string(&progress)?)?,
                false => say!("{}", progress.words())?,
            }
        }
        if is_terminal && (progress.done || status.stopped.is_some()) {
            print(format_args!("\n"))?;
        }
        if let Some(stopped) = status.stopped {
            bail!("it goes on once the locator decides again: {stopped}");
        }
        if progress.done {
            return if asking.json { Ok(()) } else { Ok(say!("done")?) };
        }
        told = progress;
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::decide::{Copying, ServerStatus, ShardsStatus};
    use crate::cluster::map::Wanted;

    fn status(moving: usize, kib: Option<u64>, held: usize) -> Status {
        let server = ServerStatus {
            name: "a".into(),
            clients: "a:1".into(),
            zone: String::new(),
            alive: true,
            lease_age_ms: Some(1),
            primary: held,
            replica: 0,
            wanted: Some(Wanted::Draining),
        };
        Status {
            cluster: "c".into(),
            version: 1,
            generation: 1,
            servers: vec![server],
            shards: ShardsStatus { all: 8, moving, ..ShardsStatus::default() },
            copying: Copying { replicas: moving, kib, seconds: kib.map(|kib| kib / 1024) },
            stopped: None,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_change_comes_nearer_to_its_end_and_is_done_where_all_of_it_is() {
        let drained = Awaited::of(&Command::Drain { server: "a".into() });
        let first = Progress::default().next(&status(8, Some(20_480), 8), &drained);
        assert_eq!(first.words(), "8 of 8 shards still move; 0 KiB of 20 MiB copied, 20 s more for what is left");
        let half = first.next(&status(4, Some(10_240), 4), &drained);
        assert_eq!(half.words(), "4 of 8 shards still move; 10 MiB of 20 MiB copied, 10 s more for what is left");
        assert_eq!((half.bar().matches('#').count(), half.bar().len()), (BAR / 2, BAR + 2));
        let held = half.next(&status(0, Some(0), 1), &drained);
        assert!(!held.done, "it has a shard yet");
        let done = held.next(&status(0, Some(0), 0), &drained);
        assert!(done.done && done.bar().contains(&"#".repeat(BAR)), "{done:?}");
        let json = serde_json::to_string(&half).unwrap();
        assert!(json.contains("\"shards_left\":4") && json.contains("\"kib_left\":10240"), "{json}");
    }

    #[test]
    fn what_is_not_known_is_said() {
        let progress = Progress::default().next(&status(2, None, 1), &Awaited::default());
        assert_eq!(
            progress.words(),
            "2 of 2 shards still move; how much is to be copied is unknown, for how long is unknown"
        );
    }

    #[test]
    fn who_is_removed_is_waited_for_until_nobody_knows_it() {
        let awaited = Awaited::of(&Command::Remove { server: "a".into() });
        let mut now = status(0, Some(0), 0);
        assert!(!Progress::default().next(&now, &awaited).done);
        now.servers[0].wanted = None;
        assert!(Progress::default().next(&now, &awaited).done, "it waits to be added, as any other");
        assert_eq!(Awaited::of(&Command::Rebalance), Awaited::default());
    }
}
