//! `remora locator` decides which server of a cluster has which shards.

use super::serve::logger;
use crate::cluster::locator::peer::FILES_MAX;
use crate::cluster::locator::{Locator, LocatorConfig, Stop};
use crate::cluster::store;
use crate::cluster::wire::PORT_DEFAULT;
use crate::replication::secret::Secret;
use crate::server::address;
use crate::sys::{logging, privilege, signals};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for its threads at the end.
const END_WAIT_MAX: Duration = Duration::from_secs(3);

/// Decide which server of a cluster has which shards.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where servers, operators and observers connect; beyond loopback it takes a secret
    #[arg(short, long, value_name = "ADDR:PORT", default_value_t = format!("127.0.0.1:{PORT_DEFAULT}"))]
    pub listen: String,
    /// Where the map is kept: a folder, for one locator alone; or
    /// etcd://HOST:PORT,HOST:PORT/PREFIX/, for several
    #[arg(long, value_name = "PLACE")]
    pub store: String,
    /// File with the secret that all of the cluster share: 16 to 1024 bytes, mode 0600
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Its name among locators [default: the address]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Say more: -v decisions, -vv debugging (RUST_LOG has the last word)
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The secret in that file; none where there is no file.
pub fn secret(file: Option<&Path>) -> anyhow::Result<Secret> {
    match file {
        None => Ok(Secret::none()),
        Some(path) => Secret::from_file(path).with_context(|| format!("--secret-file {}", path.display())),
    }
}

/// Decide until a signal ends it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    logger::start(args.verbose)?;
    signals::survive_hangup().context("cannot watch for signals")?;
    let found = address::resolve(&args.listen, Some(PORT_DEFAULT)).context("--listen")?;
    let listen = found.into_iter().next().with_context(|| format!("--listen {} has no address", args.listen))?;
    let secret = secret(args.secret_file.as_deref())?;
    let store = store::open(&args.store).context("--store")?;
    if let Err(limit) = privilege::raise_open_files(FILES_MAX) {
        log::warn!(
            "this process may have {limit} open files, so it takes fewer connections than it could; \
             raise the limit (`ulimit -n {FILES_MAX}`, LimitNOFILE= in a unit)"
        );
    }
    let stop = Stop::default();
    let name = args.name.clone().unwrap_or_else(|| listen.to_string());
    let locator = Locator::start(LocatorConfig { listen, secret, name, store }, stop.clone())?;
    let stopping = stop.clone();
    signals::watch(
        move |signal| {
            log::info!("{signal}: ending");
            stopping.stop();
        },
        || {},
    )
    .context("cannot watch for signals")?;
    logging::line(&format!("remora: locator on tcp {}", locator.address()));
    locator.wait(END_WAIT_MAX);
    Ok(())
}
