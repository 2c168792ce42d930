//! A locator that decides nothing: the test writes the maps.

use crate::node::wait_until;
use crate::support::wait::LONG;
use remora::base::shards::ShardSet;
use remora::cluster::map::{Map, Policy, Server, ServerId, Wanted};
use remora::cluster::report::{Introduction, Report, Role};
use remora::cluster::wire::Message;
use remora::replication::secret::Secret;
use remora::replication::session;
use remora::replication::tls::Listening;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const LEASE_MILLISECONDS: u64 = 2000;
const LOOK: Duration = Duration::from_millis(10);

/// What it has heard, and what it says.
#[derive(Default)]
struct Heard {
    map: Option<Map>,
    /// By the server's name.
    servers: BTreeMap<String, (Introduction, Report)>,
}

pub struct Scripted {
    pub address: SocketAddr,
    pub shards: usize,
    heard: Arc<Mutex<Heard>>,
    is_ending: Arc<AtomicBool>,
}

fn locked(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.is_ending.store(true, Relaxed);
    }
}

impl Scripted {
    /// Of a cluster with so many shards, and no map yet.
    pub fn start(shards: usize) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let (heard, is_ending) = (Arc::<Mutex<Heard>>::default(), Arc::<AtomicBool>::default());
        let (hearing, ending) = (heard.clone(), is_ending.clone());
        std::thread::spawn(move || {
            while !ending.load(Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (hearing, ending) = (hearing.clone(), ending.clone());
                        std::thread::spawn(move || serve(stream, &hearing, &ending));
                    }
                    Err(_) => std::thread::sleep(LOOK),
                }
            }
        });
        Scripted { address, shards, heard, is_ending }
    }

    /// Once these servers have introduced themselves: a map in which nobody has anything.
    pub fn born(&self, names: &[&str]) -> Map {
        let introduced = wait_until("they introduce themselves", || {
            let heard = locked(&self.heard);
            let found: Option<Vec<Introduction>> = names
                .iter()
                .map(|name| heard.servers.get(*name).map(|(introduction, _)| introduction.clone()))
                .collect();
            found.ok_or_else(|| format!("only {:?}", heard.servers.keys()))
        });
        let server = |(id, one): (usize, &Introduction)| Server {
            id: id as ServerId,
            name: one.name.clone(),
            incarnation: Some(one.incarnation.clone()),
            missing: None,
            clients: one.clients.clone(),
            replication: one.replication.clone(),
            host: one.host.clone(),
            zone: one.zone.clone(),
            memory_mib: one.memory_mib,
            wanted: Wanted::Serving,
        };
        let servers = introduced.iter().enumerate().map(server).collect();
        Map { servers, generation: 1, ..Map::born("c0ffee".into(), self.shards, Policy::default()) }
    }

    /// Say this map to everybody, with the next version.
    pub fn say(&self, map: &mut Map) -> u64 {
        map.version += 1;
        for shard in &mut map.shards {
            shard.reserved = shard.reserved.max(shard.change.map_or(0, |change| change.term));
        }
        map.check().expect("a map that makes sense");
        locked(&self.heard).map = Some(map.clone());
        map.version
    }

    /// The last report of a server.
    pub fn report(&self, name: &str) -> Report {
        locked(&self.heard).servers.get(name).map(|(_, report)| report.clone()).unwrap_or_default()
    }

    /// Wait until a server has these shards in that role, and in that term.
    pub fn wait_for(&self, name: &str, role: Role, term: u32, shards: &str) {
        let wanted: ShardSet = shards.parse().expect("shards");
        wait_until(&format!("{name} is {role:?} of term {term} in {shards}"), || {
            let report = self.report(name);
            let is_it = |holding: &&remora::cluster::report::Holding| (holding.role, holding.term) == (role, term);
            let there = report.holdings.iter().find(is_it).map(|holding| holding.shards.parse().expect("shards"));
            let has_all = there.is_some_and(|there: ShardSet| wanted.without(there).is_empty());
            if has_all { Ok(()) } else { Err(format!("{report:?}")) }
        });
    }

    /// Wait until a server has nothing in these shards.
    pub fn wait_for_nothing(&self, name: &str, shards: &str) {
        let wanted: ShardSet = shards.parse().expect("shards");
        wait_until(&format!("{name} has nothing of {shards}"), || {
            let report = self.report(name);
            let held = report.holdings.iter().map(|holding| holding.shards.parse::<ShardSet>().expect("shards"));
            let held = held.fold(ShardSet::default(), ShardSet::with);
            if held.within(wanted).is_empty() { Ok(()) } else { Err(format!("{report:?}")) }
        });
    }

    /// Wait until a server has confirmed a map.
    pub fn wait_for_version(&self, name: &str, version: u64) {
        wait_until(&format!("{name} confirms map {version}"), || {
            let report = self.report(name);
            if report.map_version >= version && report.unconfirmed.is_empty() {
                Ok(())
            } else {
                Err(format!("{report:?}"))
            }
        });
    }
}

fn serve(stream: TcpStream, heard: &Mutex<Heard>, is_ending: &AtomicBool) {
    let soon = || Instant::now() + LONG;
    stream.set_nonblocking(false).expect("a socket");
    let listening = Listening::new().expect("random bytes");
    let Ok(mut link) = session::meet(stream, &listening, &Secret::none(), [7; 16], soon()) else { return };
    let (mut name, mut told) = (String::new(), 0);
    while !is_ending.load(Relaxed) {
        match Message::receive(&mut link, Instant::now() + LOOK) {
            Ok(Message::Introduction(introduction)) => {
                name.clone_from(&introduction.name);
                locked(heard).servers.insert(name.clone(), (introduction, Report::default()));
            }
            Ok(Message::Report { sent, report }) => {
                let mut heard = locked(heard);
                let (generation, map_version) = heard.map.as_ref().map_or((1, 0), |map| (map.generation, map.version));
                heard.servers.get_mut(&name).expect("it has introduced itself").1 = report;
                drop(heard);
                let lease = Message::Lease { sent, milliseconds: LEASE_MILLISECONDS, generation, map_version };
                if lease.send(&mut link, soon()).is_err() {
                    return;
                }
            }
            Ok(other) => panic!("a server says {other:?}"),
            Err(error) if error.is_silence() => {}
            Err(_) => return,
        }
        let map = locked(heard).map.clone().filter(|map| map.version != told);
        if let Some(map) = map {
            told = map.version;
            if Message::Map(map.to_text()).send(&mut link, soon()).is_err() {
                return;
            }
        }
    }
}
