//! The flags by which `remora serve` takes part in a cluster, and what is started for them.

use super::Args;
use super::replication::Plan;
use crate::cluster::discovery;
use crate::cluster::map::Map;
use crate::cluster::member::known::Known;
use crate::cluster::member::step::incarnation_of;
use crate::cluster::member::{Member, MemberConfig, Parts};
use crate::cluster::report::Introduction;
use crate::engine::{Cluster, Engine, Origin, Refused};
use crate::protocol::request::Discovery;
use crate::protocol::text::hello::Owner;
use crate::replication::node::{Node, RunningNode};
use crate::replication::offer::Offer;
use crate::replication::order::{Order, with_port};
use crate::replication::report::Report;
use crate::store::Store;
use anyhow::{Context, ensure};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Shards of a cluster, where nobody says otherwise.
pub const SHARDS_DEFAULT: usize = 256;

/// A cluster.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Take part in the cluster of these locators: they say which shards this server has. Needs
    /// --replication, and as many --shards as the cluster has (256 by default). --replica-name is
    /// the server's name there [default: the host's name and the port]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub locators: Vec<String>,
    /// What fails together with this server, in your words: a rack, a room
    #[arg(long, value_name = "NAME", default_value = "")]
    pub zone: String,
    /// What tells this server's host from others: no two copies of a shard are at one [default: the
    /// kernel's boot id]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
}

/// Check what the flags say of a cluster.
pub fn check(args: &Args) -> anyhow::Result<()> {
    let (cluster, replication) = (&args.cluster, &args.replication);
    if cluster.locators.is_empty() {
        ensure!(cluster.zone.is_empty(), "--zone needs --locators: without a cluster nobody asks for it");
        ensure!(cluster.host.is_none(), "--host needs --locators: without a cluster nobody asks for it");
        return Ok(());
    }
    for locator in &cluster.locators {
        with_port(locator).context("--locators")?;
    }
    ensure!(
        replication.replication.is_some(),
        "--locators needs --replication ADDR:PORT: the servers of a cluster replicate from one another"
    );
    ensure!(
        replication.replica_of.is_none() && !replication.replica_discard,
        "--locators say whom this server follows: leave --replica-of and --replica-discard out"
    );
    Ok(())
}

/// Whether requests are forwarded: in a cluster any server takes any key.
pub fn forwards(args: &Args) -> bool {
    args.replication.forward || !args.cluster.locators.is_empty()
}

/// The number of shards that was asked for.
pub fn shards(args: &Args) -> Option<usize> {
    args.shards.or((!args.cluster.locators.is_empty()).then_some(SHARDS_DEFAULT))
}

/// Take part, if that was asked for.
pub fn start(
    args: &Args,
    plan: &Plan,
    store: &Arc<Store>,
    engine: &Arc<Engine>,
    node: &RunningNode,
    offer: Option<&Arc<Offer>>,
    clients: Option<SocketAddr>,
) -> anyhow::Result<Option<Member>> {
    let (false, Some(offer)) = (args.cluster.locators.is_empty(), offer) else { return Ok(None) };
    let clients = clients.context("--locators: clients find this server by a TCP port: give one with -p or -l")?;
    let introduction = Introduction {
        name: name(args, plan, Some(clients)),
        incarnation: incarnation_of(plan.number()),
        cluster: None,
        map_version: 0,
        generation: 0,
        clients: clients.to_string(),
        replication: offer.address().to_string(),
        host: args.cluster.host.clone().unwrap_or_else(boot_id),
        zone: args.cluster.zone.clone(),
        memory_mib: store.stats().capacity_bytes >> 20,
        shards: store.shards().len(),
    };
    let locators = args.cluster.locators.clone();
    let config = MemberConfig { locators, secret: plan.secret().clone(), introduction, clients };
    let heeding = engine.clone();
    let parts = Parts {
        store: store.clone(),
        lease: engine.lease().clone(),
        heed: Arc::new(move |sureness| heeding.set_sureness(sureness)),
        node: node.node().clone(),
        offer: offer.clone(),
        board: plan.board().clone(),
    };
    Member::start(config, parts).context("cannot take part in the cluster; raise `ulimit -u`").map(Some)
}

/// Have the engine tell how this server stands, and take orders. The roles of a member of a cluster
/// are those of the map, so it takes none.
pub fn connect(engine: &Engine, node: &Arc<Node>, member: Option<&Member>, name: String, orders_from: Origin) {
    let (telling, taking) = (node.clone(), node.clone());
    let known = member.map(|member| member.known().clone());
    let is_member = known.is_some();
    let cluster = known.clone().map(|known| Box::new(Told::of(known)) as Box<dyn Cluster>);
    engine.set_place(name, cluster);
    engine.set_replication_rows(Box::new(move |emit| {
        telling.rows(emit);
        known.iter().for_each(|known| known.rows(emit));
    }));
    let take = move |words: &[u8]| if is_member { Err(not_by_orders()) } else { take_order(&taking, words) };
    engine.set_order_taker(orders_from, Box::new(take));
}

/// What this server is called: as it was told, or by its host's name and the port for clients.
pub fn name(args: &Args, plan: &Plan, clients: Option<SocketAddr>) -> String {
    match (&args.replication.replica_name, clients) {
        (Some(name), _) => name.clone(),
        (None, Some(clients)) => format!("{}:{}", plan.name(), clients.port()),
        (None, None) => plan.name().into(),
    }
}

/// What the engine is told of the map.
struct Told {
    known: Arc<Known>,
    /// The map as clients get it, which is long, and its version.
    text: Mutex<(u64, Arc<str>)>,
}

impl Told {
    fn of(known: Arc<Known>) -> Told {
        Told { known, text: Mutex::new((0, Arc::default())) }
    }

    fn map_answer(&self, map: &Map) -> Arc<str> {
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        if text.0 != map.version {
            *text = (map.version, discovery::map_answer(map).into());
        }
        text.1.clone()
    }
}

impl Cluster for Told {
    fn map_version(&self) -> u64 {
        self.known.version()
    }

    fn map(&self) -> Option<(String, u64)> {
        self.known.map().map(|map| (map.cluster.clone(), map.version))
    }

    fn tell(&self, what: Discovery) -> Option<Arc<str>> {
        let map = self.known.map()?;
        Some(match what {
            Discovery::Cluster => discovery::cluster_answer(&map).into(),
            Discovery::Map => self.map_answer(&map),
        })
    }

    fn owner(&self, shard: u32) -> Option<Owner> {
        let map = self.known.map()?;
        let discovery::Owner { term, server } = discovery::owner(&map, shard as usize, self.known.own())?;
        Some(Owner { map_version: map.version, term, server: server.name.clone(), clients: server.clients.clone() })
    }
}

fn not_by_orders() -> Refused {
    Refused::Nonsense("this server's roles are those of its cluster's map: use remora ctl cluster".into())
}

fn take_order(node: &Node, words: &[u8]) -> Result<(), Refused> {
    let order = Order::parse(&String::from_utf8_lossy(words)).map_err(|error| Refused::Nonsense(error.to_string()))?;
    node.take(order).map_err(|error| Refused::Busy(error.to_string()))
}

/// The kernel's: another one after each boot, and the same in all containers of a host.
fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_string()
}
