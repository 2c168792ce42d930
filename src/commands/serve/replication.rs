//! The flags of `remora serve` that make a primary offer its logs and a replica follow one, and
//! what is started for them.

use super::{Args, cluster};
use crate::base::limits::{ACK_MILLISECONDS_DEFAULT, ACK_MILLISECONDS_MAX, ACK_REPLICAS_MAX};
use crate::cluster::member::Member;
use crate::commands::size;
use crate::engine::{AckPolicy, Engine, Origin};
use crate::fabric::verbs::{AckTimeout, VerbsOptions};
use crate::fabric::{self, ConnectOptions, Exporter, FabricError, Kind};
use crate::replication::admission::Admitted;
use crate::replication::attach::{Identity, Joined};
use crate::replication::board::Board;
use crate::replication::copying::CopyBound;
use crate::replication::follow::{FollowConfig, first_join};
use crate::replication::forwarding::Owner;
use crate::replication::lineage::Discard;
use crate::replication::node::{Node, NodeConfig, RunningNode};
use crate::replication::offer::{Offer, OfferConfig, Running};
use crate::replication::order::with_port;
use crate::replication::penalties::SharedPenalties;
use crate::replication::push::Mode;
use crate::replication::report::ReplicaView;
use crate::replication::retain::Retain;
use crate::replication::secret::Secret;
use crate::replication::shares::PULLERS_MAX;
use crate::replication::standing::{Chain, ServerNumber};
use crate::replication::{HEARTBEAT, SILENCE_SECONDS_DEFAULT, SILENCE_SECONDS_MAX, SILENCE_SECONDS_MIN};
use crate::server::address;
use crate::server::forward::Forwarding;
use crate::store::Store;
use crate::sys::logging;
use crate::sys::random::random;
use anyhow::{Context, bail};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long a replica that starts looks for its primary.
const PATIENCE: Duration = Duration::from_secs(30);

/// Least of `--replica-retain` but 0. Who writes less has most likely left out the unit.
const RETAIN_BYTES_MIN: usize = 64 << 10;

/// Replication.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Replication")]
pub struct ReplicationArgs {
    /// Offer the cache to replicas at this address and port; port 0 for one of the kernel's choice.
    /// Beyond loopback it takes a secret
    #[arg(long, value_name = "ADDR:PORT")]
    pub replication: Option<String>,
    /// Be a read-only replica of the primary whose replication port this is
    #[arg(long, value_name = "HOST:PORT")]
    pub replica_of: Option<String>,
    /// Follow a primary of another lineage even where this replica holds data: a primary that was
    /// restarted empty then empties it, too
    #[arg(long)]
    pub replica_discard: bool,
    /// File with the secret that primary and replicas share: 16 to 1024 bytes, mode 0600
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Fabrics to offer or to use, in this order: auto, shm, verbs, tcp
    #[arg(long, value_delimiter = ',', default_value = "auto")]
    pub fabric: Vec<String>,
    /// Longest pause of a replica between two looks at an idle primary, in microseconds: more costs
    /// lag, less costs CPU; 0 spins
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub replica_poll: u64,
    /// Which side moves the data of this replica: pull (it reads the primary's memory) or push (the
    /// primary writes to its; shm and verbs)
    #[arg(long, value_name = "MODE", default_value = "pull", value_parser = mode)]
    pub replication_mode: Mode,
    /// Threads by which this replica pulls, each with its share of the shards and a data channel of
    /// its own; never more than there are shards. For a primary that writes faster than one core
    /// applies. With push there is one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=PULLERS_MAX as i64))]
    pub pullers: u8,
    /// What the replica calls itself in the primary's stats [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub replica_name: Option<String>,
    /// Seconds of silence after which the other side counts as gone
    #[arg(long, value_name = "SECONDS", default_value_t = SILENCE_SECONDS_DEFAULT, value_parser = silence)]
    pub replication_timeout: u64,
    /// Have writers wait for replicas that are at most so many bytes behind, rather than overrun
    /// them; 0: never. With k, m or g [default: for each that is not stuck, once a write has waited
    /// for replicas]
    #[arg(long, value_name = "BYTES", value_parser = retain)]
    pub replica_retain: Option<usize>,
    /// Port of the data channels over verbs and TCP; 0 for one of the kernel's choice
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub replication_data_port: u16,
    /// Replicas that must hold a write before it is answered; 0 for none. A meta command may say
    /// otherwise (flag A)
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=i64::from(ACK_REPLICAS_MAX)))]
    pub ack_replicas: u8,
    /// Milliseconds after which a write that too few replicas hold is answered with an error
    #[arg(long, value_name = "MILLISECONDS", default_value_t = ACK_MILLISECONDS_DEFAULT, value_parser = ack_timeout)]
    pub ack_timeout: u64,
    /// Take orders (promote, detach, replicate) from every client on this host, proxies and
    /// sidecars included, and not from the control socket alone
    #[arg(long)]
    pub orders_from_loopback: bool,
    /// Take requests about every key: those about shards of which another server is the primary go
    /// to that one, reads included, and its answers to their clients. With --locators in any case
    #[arg(long)]
    pub forward: bool,
    /// RDMA device to use, with its port and GID index if those matter: mlx5_0, mlx5_0:1,
    /// mlx5_0:1:3
    #[arg(long, value_name = "NAME[:PORT[:GID]]", value_parser = device)]
    pub device: Option<VerbsOptions>,
    /// Type of service (0 to 255) of RDMA connections that this server makes, for the network's
    /// classes of traffic: on RoCE its upper six bits are the DSCP
    #[arg(long, value_name = "TOS")]
    pub tos: Option<u8>,
    /// Milliseconds until a packet over RDMA that was not answered is sent again, rounded up to
    /// 4.096 us * 2^n; a peer counts as gone after seven of these
    #[arg(long, value_name = "MILLISECONDS", default_value_t = AckTimeout::MILLISECONDS_DEFAULT,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(AckTimeout::MILLISECONDS_MAX)))]
    pub rdma_timeout: u32,
}

/// The flags, checked.
pub struct Plan {
    listen: Option<SocketAddr>,
    primary: Option<String>,
    secret: Secret,
    /// None for auto.
    fabrics: Option<Vec<Kind>>,
    mode: Mode,
    pullers: usize,
    options: ConnectOptions,
    pause_max: Duration,
    silence_max: Duration,
    data_port: u16,
    retain_bytes: Option<u64>,
    discard: Discard,
    pin: bool,
    penalties: SharedPenalties,
    copy_bound: Arc<CopyBound>,
    identity: Identity,
    board: Arc<Board>,
    chain: Arc<Chain>,
    acks: AckPolicy,
    /// What a client must be to give orders.
    orders_from: Origin,
    forwards: bool,
}

/// What runs beside the server. Dropping it ends the node first, because the node may write to the
/// store.
pub struct Replicating {
    /// It gives the node orders, so it ends before.
    _member: Option<Member>,
    node: RunningNode,
    offer: Option<Running>,
}

impl Plan {
    /// Check the flags. `pin`: whether threads may be bound to cores. `forwards`: requests about
    /// shards of other servers go to these.
    pub fn new(args: &ReplicationArgs, pin: bool, forwards: bool) -> anyhow::Result<Plan> {
        let listen = args.replication.as_deref().map(resolve_one).transpose().context("--replication")?;
        let secret = match &args.secret_file {
            None => Secret::none(),
            Some(path) => Secret::from_file(path).with_context(|| format!("--secret-file {}", path.display()))?,
        };
        if let Some(listen) = listen.filter(|listen| !listen.ip().is_loopback() && secret.is_none()) {
            bail!("--replication {listen} is open to other hosts, so replicas must have a secret: give --secret-file");
        }
        let fabrics = fabrics(&args.fabric)?;
        let cannot_push = |named: &Vec<Kind>| !named.iter().any(|kind| kind.writes());
        if args.replication_mode == Mode::Push && fabrics.as_ref().is_some_and(cannot_push) {
            bail!("--replication-mode push: tcp has no one-sided WRITE; name shm or verbs with --fabric, or pull");
        }
        if args.replication_mode == Mode::Push && args.pullers > 1 {
            bail!(
                "--pullers {} goes with --replication-mode pull: with push the primary writes to this replica by one \
                 channel, and one thread applies; leave one of the two flags out",
                args.pullers
            );
        }
        let replica = random()?;
        if let (None, replicas @ 1..) = (listen, args.ack_replicas) {
            bail!(
                "--ack-replicas {replicas} needs --replication ADDR:PORT: without it there is no replica to wait for"
            );
        }
        if let (Some(0), replicas @ 1..) = (args.replica_retain, args.ack_replicas) {
            bail!(
                "--replica-retain 0 overruns replicas that --ack-replicas {replicas} counts on, and with them what was \
                 acknowledged: leave it out, or give BYTES"
            );
        }
        Ok(Plan {
            listen,
            primary: args.replica_of.as_deref().map(with_port).transpose().context("--replica-of")?,
            secret,
            fabrics,
            mode: args.replication_mode,
            pullers: args.pullers.into(),
            options: ConnectOptions {
                verbs: VerbsOptions {
                    tos: args.tos,
                    ack_timeout: AckTimeout::at_least(args.rdma_timeout),
                    ..args.device.clone().unwrap_or_default()
                },
            },
            pause_max: Duration::from_micros(args.replica_poll),
            silence_max: Duration::from_secs(args.replication_timeout),
            data_port: args.replication_data_port,
            retain_bytes: args.replica_retain.map(|bytes| bytes as u64),
            discard: if args.replica_discard { Discard::Always } else { Discard::Never },
            pin,
            penalties: SharedPenalties::default(),
            copy_bound: Arc::default(),
            board: Arc::default(),
            chain: Arc::new(Chain::new(replica)),
            identity: Identity::new(replica, args.replica_name.clone().unwrap_or_else(host_name)),
            orders_from: if args.orders_from_loopback { Origin::ThisHost } else { Origin::ControlSocket },
            forwards,
            acks: AckPolicy { replicas: args.ack_replicas, timeout: Duration::from_millis(args.ack_timeout) },
        })
    }

    /// What replicas have applied.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// This process's number.
    pub fn number(&self) -> ServerNumber {
        self.identity.replica
    }

    /// Its name, or its host's.
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// What all servers share.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// How requests are forwarded, if they are.
    pub fn forwarding(&self) -> Option<Forwarding> {
        self.forwards.then(|| Forwarding { secret: self.secret.clone(), chain: self.chain.clone() })
    }

    /// Which writes wait for replicas.
    pub fn acks(&self) -> AckPolicy {
        self.acks
    }

    /// Rows of `stats settings`. `without_orders`: where there is no control socket, for somebody
    /// else has its name.
    pub fn setting_rows(&self, without_orders: &[String]) -> [(&'static str, String); 4] {
        let from = if self.orders_from == Origin::ControlSocket { "control_socket" } else { "this_host" };
        let but = if without_orders.is_empty() { "" } else { " but not at " };
        let orders_from = format!("{from}{but}{}", without_orders.join(","));
        [
            ("ack_replicas", self.acks.replicas.to_string()),
            ("ack_timeout", self.acks.timeout.as_millis().to_string()),
            ("orders_from", orders_from),
            ("forward", if self.forwards { "yes" } else { "no" }.to_string()),
        ]
    }

    /// Of a replica: be admitted by its primary, which says what store to make.
    pub fn join(&self) -> anyhow::Result<Option<Joined>> {
        let Some(primary) = &self.primary else { return Ok(None) };
        let joined = first_join(&self.follow_config().of(primary), PATIENCE).context("cannot join the primary")?;
        Ok(Some(joined))
    }

    /// How to follow, now or once an order says whom.
    fn follow_config(&self) -> FollowConfig {
        FollowConfig {
            primary: self.primary.clone().unwrap_or_default(),
            secret: self.secret.clone(),
            fabrics: self.fabrics_to_try(),
            mode: self.mode,
            options: self.options.clone(),
            identity: self.identity.clone(),
            pause_max: self.pause_max,
            silence_max: self.silence_max,
            chain: self.chain.clone(),
            penalties: self.penalties.clone(),
            discard: self.discard.clone(),
            gathers: false,
            copy_bound: self.copy_bound.clone(),
            pin: self.pin,
            pullers: self.pullers,
        }
    }

    /// The fabrics that are named, or all, but for those that cannot do what the mode asks.
    fn fabrics_to_try(&self) -> Vec<Kind> {
        let mut fabrics = self.fabrics.clone().unwrap_or_else(FollowConfig::any_fabric);
        fabrics.retain(|kind| self.mode == Mode::Pull || kind.writes());
        fabrics
    }

    /// Start what was asked for.
    pub fn start(
        &self,
        joined: Option<Joined>,
        store: &Arc<Store>,
        engine: &Arc<Engine>,
        clients: Option<SocketAddr>,
        args: &Args,
    ) -> anyhow::Result<Replicating> {
        store.serve(true);
        let offer = self.listen.map(|listen| self.offer(listen, store, clients)).transpose()?;
        let config =
            NodeConfig { follow: self.follow_config(), offer: offer.as_ref().map(|running| running.offer().clone()) };
        let node =
            Node::start(config, joined.map(Admitted::from), store.clone()).context("cannot start replication")?;
        let member = cluster::start(args, self, store, engine, &node, offer.as_ref().map(Running::offer), clients)?;
        let name = cluster::name(args, self, clients);
        cluster::connect(engine, node.node(), member.as_ref(), name, self.orders_from);
        Ok(Replicating { _member: member, node, offer })
    }

    fn offer(&self, listen: SocketAddr, store: &Arc<Store>, clients: Option<SocketAddr>) -> anyhow::Result<Running> {
        let config = OfferConfig {
            listen,
            secret: self.secret.clone(),
            exporters: self.exporters(listen)?,
            clients,
            silence_max: self.silence_max,
            board: self.board.clone(),
            chain: self.chain.clone(),
        };
        Retain::install(store, &self.board, self.retain_bytes);
        Ok(Offer::start(store.clone(), config)?)
    }

    /// With auto, the fabrics that this host has; otherwise those that were named, or an error.
    fn exporters(&self, listen: SocketAddr) -> anyhow::Result<Vec<Box<dyn Exporter>>> {
        let data = SocketAddr::new(listen.ip(), self.data_port);
        let Some(named) = &self.fabrics else {
            let all = FollowConfig::any_fabric().into_iter().map(|kind| fabric::listen(kind, data, &self.options));
            let (there, missing): (Vec<_>, Vec<_>) = all.partition(Result::is_ok);
            missing
                .into_iter()
                .filter_map(Result::err)
                .for_each(|error| log::info!("not offered to replicas: {error}"));
            return Ok(there.into_iter().filter_map(Result::ok).collect());
        };
        let opened = named.iter().map(|kind| fabric::listen(*kind, data, &self.options));
        opened.collect::<Result<_, FabricError>>().context("--fabric")
    }
}

impl Replicating {
    /// From now on other servers may forward requests to this one.
    pub fn set_owner(&self, owner: Weak<dyn Owner>) {
        if let Some(running) = &self.offer {
            running.offer().set_owner(owner);
        }
    }

    /// The replicas that have a data channel to this process, as they stand now.
    pub fn attached_replicas(&self) -> Vec<ReplicaView> {
        let replicas = self.offer.iter().flat_map(|running| running.offer().replicas());
        replicas.filter(|replica| replica.fabric.is_some()).collect()
    }

    /// Names of the replicas whose data channel has ended a moment ago, and that have no new one.
    pub fn absent_replicas(&self) -> Vec<String> {
        self.offer.iter().flat_map(|running| running.offer().absent_replicas()).collect()
    }

    /// One line on stderr: with port 0 it is the only way to learn the port.
    pub fn announce(&self) {
        if let Some(running) = &self.offer {
            let fabrics: Vec<&str> = running.offer().fabrics().map(Kind::name).collect();
            let address = running.offer().address();
            logging::line(&format!("remora: replication on tcp {address} over {}", fabrics.join(", ")));
        }
        for follow in self.node.node().follows() {
            logging::line(&format!("remora: read-only replica of {}", follow.primary()));
        }
    }
}

fn resolve_one(text: &str) -> anyhow::Result<SocketAddr> {
    if !text.contains(':') {
        bail!("\"{text}\" has no port; write ADDR:PORT");
    }
    let found = address::resolve(text, None)?;
    found.into_iter().next().with_context(|| format!("\"{text}\" has no address"))
}

fn fabrics(names: &[String]) -> anyhow::Result<Option<Vec<Kind>>> {
    if names.iter().any(|name| name == "auto") {
        if names.len() > 1 {
            bail!("--fabric auto chooses by itself; name it alone");
        }
        return Ok(None);
    }
    let known = FollowConfig::any_fabric();
    let kind = |name: &String| known.iter().copied().find(|kind| kind.name() == name);
    let all = names
        .iter()
        .map(|name| kind(name).with_context(|| format!("--fabric {name}: there are auto, shm, verbs and tcp")));
    Ok(Some(all.collect::<anyhow::Result<_>>()?))
}

fn mode(text: &str) -> Result<Mode, String> {
    let known = [Mode::Pull, Mode::Push].into_iter().find(|mode| mode.name() == text);
    known.ok_or_else(|| format!("\"{text}\" is no mode; there are pull and push"))
}

fn silence(text: &str) -> Result<u64, String> {
    let seconds = text.parse().ok().filter(|seconds| (SILENCE_SECONDS_MIN..=SILENCE_SECONDS_MAX).contains(seconds));
    seconds.ok_or_else(|| {
        format!(
            "\"{text}\" is no time after which the other side can count as gone: it says something every {} s, and one of these may be \
             late; write {SILENCE_SECONDS_MIN} to {SILENCE_SECONDS_MAX} seconds",
            HEARTBEAT.as_secs()
        )
    })
}

fn retain(text: &str) -> Result<usize, String> {
    let bytes = size::parse(text)?;
    if (1..RETAIN_BYTES_MIN).contains(&bytes) {
        return Err(format!(
            "{bytes} bytes are less than any replica is behind now and then, so none would be waited for; write {}k or more, or 0",
            RETAIN_BYTES_MIN >> 10
        ));
    }
    Ok(bytes)
}

fn ack_timeout(text: &str) -> Result<u64, String> {
    let milliseconds =
        text.parse().ok().filter(|milliseconds| (1..=ACK_MILLISECONDS_MAX.into()).contains(milliseconds));
    milliseconds.ok_or_else(|| {
        format!(
            "\"{text}\" is no time in which a replica can tell that it holds a write, and no client waits without end; write 1 to \
             {ACK_MILLISECONDS_MAX} milliseconds, or --ack-replicas 0 to wait for none"
        )
    })
}

fn device(text: &str) -> Result<VerbsOptions, String> {
    let wrong = || format!("\"{text}\" is no device; write NAME, NAME:PORT or NAME:PORT:GID, for example mlx5_0:1:3");
    let mut parts = text.split(':');
    let device = parts.next().filter(|name| !name.is_empty()).ok_or_else(wrong)?.to_string();
    let mut number = || parts.next().map(|part| part.parse().map_err(|_| wrong())).transpose();
    let (port, gid_index) = (number()?, number()?);
    if parts.next().is_some() {
        Err(wrong())
    } else {
        Ok(VerbsOptions { device: Some(device), port, gid_index, ..VerbsOptions::default() })
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
