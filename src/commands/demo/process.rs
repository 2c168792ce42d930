//! A server as a child process that runs this same binary, on a port that the kernel chooses.
//!
//! It does not outlive this process: dropping the handle ends it, and the kernel ends it when this
//! process is killed.

use crate::sys::child;
use anyhow::{Context, bail};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Longest wait for the server to say where it listens, and for it to end.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Once it has ended: longest wait for the next line of its log.
const LAST_WORDS_MAX: Duration = Duration::from_millis(200);
/// Lines of its log that are kept, to be shown if it fails; later ones are dropped.
const LOG_LINES_MAX: usize = 64;
/// Its log line that names a listener begins with this.
const LISTENING: &str = "remora: listening on tcp ";
/// Its log line that names its port for replicas begins with this.
const REPLICATION: &str = "remora: replication on tcp ";
/// The log line in which a replica names its primary begins with this.
const FOLLOWS: &str = "remora: read-only replica of ";

/// It takes no options from the variables of whoever has started this program.
fn without_options(command: &mut Command) {
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter(|name| name.to_string_lossy().starts_with("REMORA_")).for_each(|name| _ = command.env_remove(name));
}

/// See the module.
pub struct ServerProcess {
    process: Child,
    log: Receiver<String>,
    name: &'static str,
    address: SocketAddr,
    replication: Option<SocketAddr>,
}

impl ServerProcess {
    /// Start with these arguments, and wait until it serves clients, and replicas where it has
    /// them.
    pub fn start(name: &'static str, arguments: &[&str]) -> anyhow::Result<ServerProcess> {
        let binary = std::env::current_exe().context("cannot find this program's own file, to start it as a server")?;
        let mut command = Command::new(&binary);
        // The load shares the cores with the servers, so the kernel may move the workers.
        command.args(["serve", "-l", "127.0.0.1:0", "--no-pin"]).args(arguments);
        without_options(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = child::end_with_parent(&mut command)
            .spawn()
            .with_context(|| format!("cannot start {} as a server", binary.display()))?;
        let pipe = process.stderr.take().context("the server's stderr is no pipe")?;
        let address = SocketAddr::from(([0; 4], 0));
        let mut server = ServerProcess { process, log: log_of(pipe)?, name, address, replication: None };
        server.wait_until_it_serves()?;
        Ok(server)
    }

    /// Where replicas connect.
    pub fn replication(&self) -> anyhow::Result<SocketAddr> {
        self.replication.with_context(|| format!("the {} has no port for replicas", self.name))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// How it ended and the last lines of its log, if it ends within `wait_max`. The wait is needed
    /// because a process that dies closes its connections a moment before waitpid tells of its end.
    pub fn fate(&mut self, wait_max: Duration) -> Option<String> {
        let status = self.wait(wait_max).ok().flatten()?;
        let words: Vec<String> = std::iter::from_fn(|| self.log.recv_timeout(LAST_WORDS_MAX).ok()).collect();
        let words = if words.is_empty() { "nothing".to_string() } else { words.join(" | ") };
        Some(format!("the {} has ended ({status}); it said: {words}", self.name))
    }

    /// SIGKILL: it ends at once, without a word.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().with_context(|| format!("cannot kill the {}", self.name))?;
        self.process.wait().with_context(|| format!("cannot wait for the {}", self.name))?;
        Ok(())
    }

    /// SIGTERM, and how it ended.
    pub fn stop(mut self) -> anyhow::Result<ExitStatus> {
        child::terminate(&self.process).context("cannot send SIGTERM to the server")?;
        let status = self.wait(WAIT_MAX)?;
        status.with_context(|| {
            format!("the {} (pid {}) did not end within {WAIT_MAX:?} of SIGTERM", self.name, self.pid())
        })
    }

    /// A server with a port for replicas logs that port after its listeners; a replica without such
    /// a port logs its primary. Either line means that it is ready.
    fn wait_until_it_serves(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + WAIT_MAX;
        let mut said = String::new();
        let named = |line: &str| line.trim().parse().with_context(|| format!("\"{line}\" names no address"));
        loop {
            let Ok(line) = self.log.recv_timeout(until.saturating_duration_since(Instant::now())) else {
                bail!("the {} did not come up within {WAIT_MAX:?}; it said: {said}", self.name);
            };
            if let Some(address) = line.strip_prefix(LISTENING) {
                self.address = named(address)?;
            } else if let Some(rest) = line.strip_prefix(REPLICATION) {
                self.replication = Some(named(rest.split(' ').next().unwrap_or(rest))?);
                return Ok(());
            } else if line.starts_with(FOLLOWS) {
                return Ok(());
            }
            said.push_str(&line);
            said.push_str(" | ");
        }
    }

    fn wait(&mut self, wait_max: Duration) -> anyhow::Result<Option<ExitStatus>> {
        let until = Instant::now() + wait_max;
        loop {
            let ended = self.process.try_wait().context("cannot wait for the server")?;
            if ended.is_some() || Instant::now() >= until {
                return Ok(ended);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if !matches!(self.process.try_wait(), Ok(None)) {
            return;
        }
        let asked = child::terminate(&self.process);
        if asked.is_err() || !matches!(self.wait(WAIT_MAX), Ok(Some(_))) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// The lines of the server's log, read by a thread of its own so that the server never blocks on
/// the pipe; it ends with the server.
fn log_of(pipe: impl Read + Send + 'static) -> anyhow::Result<Receiver<String>> {
    let (sender, receiver): (SyncSender<String>, _) = sync_channel(LOG_LINES_MAX);
    let read = move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let _ = sender.try_send(line);
        }
    };
    std::thread::Builder::new().name("server-log".into()).spawn(read).context("cannot start a thread")?;
    Ok(receiver)
}
