//! The subcommands of the binary: one file each, wiring only.

pub mod ctl;
pub mod demo;
pub mod doctor;
pub mod load;
pub mod locator;
pub mod output;
pub mod serve;
pub mod size;

use clap::Parser;
use std::ffi::OsString;

/// The version, and whether this build has RDMA verbs.
const VERSION: &str = if crate::fabric::verbs::BUILT {
    concat!(env!("CARGO_PKG_VERSION"), "\nRDMA verbs: yes (libibverbs and librdmacm are loaded when they are needed)")
} else {
    concat!(env!("CARGO_PKG_VERSION"), "\nRDMA verbs: no (built without libibverbs-dev and librdmacm-dev)")
};

/// What the binary is asked to do.
#[derive(Debug, clap::Parser)]
#[command(name = "remora", version = VERSION, about = "A memcached-compatible cache whose log is the cache", long_about = None)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Serve a cache (memcached's own flags)
    Serve(Box<serve::Args>),
    /// Load servers that speak memcached's protocols or Redis', measure, and check every answer
    Load(load::Args),
    /// Start a primary and two replicas, load them, show what happens and check every answer
    Demo(demo::Args),
    /// Ask a running server about its replicas
    Ctl(ctl::Args),
    /// Decide which server of a cluster has which shards
    Locator(locator::Args),
    /// Say what this host offers, and how to get more of it
    Doctor(doctor::Args),
}

/// Do what the words of the command line say, the program's name before them; returns the exit
/// status.
pub fn run(words: impl IntoIterator<Item = OsString>) -> u8 {
    let words = serve::without_blanks(words, &serve::command());
    match Cli::try_parse_from(&words) {
        Ok(cli) => output::finish(run_command(cli, &words)),
        Err(usage) => output::finish_usage(&usage),
    }
}

fn run_command(cli: Cli, words: &[OsString]) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve(_) => serve::run(&words[2..]),
        Command::Load(args) => load::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Ctl(args) => ctl::run(&args),
        Command::Locator(args) => locator::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    }
}
