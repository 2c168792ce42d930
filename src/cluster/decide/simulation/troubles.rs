//! What goes wrong, and what operators do.

use super::{Message, World};
use crate::cluster::decide::Command;
use crate::cluster::map::{ServerId, Wanted};

/// An operator looks at what waits for one after so long.
const PATIENCE_MS: u64 = 3_000;

/// A server that dies more often is held out for longer than there is time.
const DEATHS_MAX: usize = 4;

impl World {
    pub fn make_troubles(&mut self) {
        let process = self.random.usize(0..self.processes.len());
        let until = self.now + self.random.u64(50..3000);
        match self.random.u16(0..1200) {
            0..4 => self.kill(process),
            4..10 => self.processes[process].stopped_until = until,
            10..16 => self.processes[process].cut_until = until,
            16..24 => {
                let other = self.random.usize(0..self.processes.len());
                self.cuts.insert((process.min(other), process.max(other)), until);
            }
            24..27 => self.replace_locator(),
            // An operator who is too quick.
            27 => {
                let server = self.processes[process].intro.name.clone();
                self.replace_locator();
                self.command(Command::Remove { server });
            }
            28..60 => self.restart(),
            60..70 => self.operate(),
            // Not long after one, another one: the rest of a shard's members.
            70..72 => {
                self.kill(process);
                let other = self.random.usize(0..self.processes.len());
                self.processes[other].stopped_until = until;
            }
            _ => {}
        }
        // Whoever is new is added, and whoever confirms does it soon.
        if self.random.u8(0..20) == 0 {
            self.command(Command::Add { server: None });
        }
        if self.random.u8(0..100) == 0 {
            self.command(Command::Resume { server: None });
        }
    }

    fn command(&mut self, command: Command) {
        let now = self.now;
        if self.random.u8(0..4) == 0 {
            _ = self.locator.decisions.command(command.clone(), true, now);
        }
        let answer = self.locator.decisions.command(command.clone(), false, now);
        if answer.is_ok() {
            self.say(|| format!("{command:?}: {answer:?}"));
        }
    }

    fn kill(&mut self, process: usize) {
        let name = &self.processes[process].intro.name;
        if self.processes.iter().filter(|one| one.intro.name == *name).count() > DEATHS_MAX {
            return;
        }
        let one = &mut self.processes[process];
        if !std::mem::replace(&mut one.is_running, false) {
            return;
        }
        let incarnation = one.intro.incarnation.clone();
        let generation = self.locator.generation;
        self.say(|| format!("{incarnation} ends"));
        // It may be seen, or not.
        if self.random.bool() {
            self.send(Message::Ended(incarnation, generation));
        }
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.processes.iter().map(|process| process.intro.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// A server without a process gets one.
    fn restart(&mut self) {
        let runs = |name: &str| self.processes.iter().any(|one| one.is_running && one.intro.name == name);
        let down: Vec<String> = self.names().into_iter().filter(|name| !runs(name)).collect();
        if down.is_empty() {
            return;
        }
        let name = &down[self.random.usize(0..down.len())];
        let number = name[1..].parse().expect("a number");
        self.start(number);
    }

    fn operate(&mut self) {
        let servers: Vec<String> = self.stored.servers.iter().map(|server| server.name.clone()).collect();
        if servers.is_empty() {
            return;
        }
        let server = servers[self.random.usize(0..servers.len())].clone();
        match self.random.u8(0..8) {
            0 if self.names().len() < 9 => self.start(self.names().len()),
            0 | 1 => self.command(Command::Drain { server }),
            2 => self.command(Command::Add { server: Some(server) }),
            3 => self.command(Command::Failover { server, force: false }),
            4 if self.random.bool() => {
                let shard = self.random.usize(0..self.stored.shards.len());
                self.command(Command::Move { shard, server });
            }
            4 => self.command(Command::Rebalance),
            5 => self.command(Command::Pause { server }),
            6 => self.command(Command::Resume { server: Some(server) }),
            _ => {
                let mut policy = self.stored.policy.clone();
                policy.replicas = self.random.u8(1..4);
                policy.acks = self.random.u8(1..=policy.replicas);
                self.command(Command::Policy(policy));
            }
        }
    }

    /// All servers run, and reach each other, from now on.
    pub fn heal(&mut self) {
        self.is_calm = true;
        self.cuts.clear();
        for process in &mut self.processes {
            (process.stopped_until, process.cut_until) = (0, 0);
        }
        for _ in 0..self.names().len() {
            self.restart();
        }
    }

    /// What waits for an operator gets one.
    pub fn operate_in_calm(&mut self) {
        if !self.now.is_multiple_of(500) {
            return;
        }
        self.command(Command::Add { server: None });
        self.command(Command::Resume { server: None });
        for server in self.stored.servers.clone() {
            match server.wanted {
                Wanted::Paused => self.command(Command::Resume { server: Some(server.name) }),
                Wanted::Draining => self.command(Command::Add { server: Some(server.name) }),
                Wanted::Serving | Wanted::Removed => {}
            }
        }
        let status = self.locator.decisions.status(self.now);
        if status.shards.waiting == 0 || self.now < super::TROUBLES_MS + PATIENCE_MS {
            return;
        }
        self.check_that_it_must_wait();
        for id in self.stored.servers.iter().map(|server| server.id).collect::<Vec<ServerId>>() {
            self.force(id);
        }
    }

    /// 5: who lives has what was acknowledged, unless K servers besides the primary have failed.
    fn check_that_it_must_wait(&self) {
        let acks = usize::from(self.stored.policy.acks.max(1));
        for (number, shard) in self.stored.shards.iter().enumerate() {
            let (Some(primary), None) = (shard.primary, shard.change) else { continue };
            if self.stored.is_alive(primary) && !shard.ended {
                continue;
            }
            let lives = |server: ServerId| self.stored.is_alive(server);
            let gone = |stage| matches!(stage, crate::cluster::map::Stage::Gone(_));
            let failed = shard.members.iter().filter(|one| gone(one.stage) || !lives(one.server)).count();
            assert!(
                failed >= acks || self.now < super::TROUBLES_MS + 2 * PATIENCE_MS,
                "5: shard {number} waits, and {failed} members are missing: {shard:?}"
            );
        }
    }

    /// An operator gives up what the dead had.
    fn force(&mut self, id: ServerId) {
        let Some(server) = self.stored.server(id).cloned() else { return };
        let waiting = self.locator.decisions.memory.waiting.keys().copied();
        let waits: Vec<usize> = waiting.filter(|shard| self.stored.shards[*shard].primary == Some(id)).collect();
        if !waits.is_empty() {
            waits.iter().for_each(|shard| self.forced[*shard] += 1);
            // Whoever it takes for ended has.
            for process in
                self.processes.iter_mut().filter(|one| server.missing.as_ref() == Some(&one.intro.incarnation))
            {
                process.is_running = false;
            }
            self.command(Command::Failover { server: server.name, force: true });
        }
    }
}
