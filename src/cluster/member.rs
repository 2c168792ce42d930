//! A server's side of a cluster: it introduces itself to the locators, reports what it has come to,
//! and does what the map asks of it.
//!
//! **The map is the order.** The thread "cluster" compares what the map asks of this server
//! ([`super::duty`]) with what it has, and gives one order at a time to the node that changes roles
//! ([`crate::replication::node`]), until nothing is left to do. An order that has failed is given
//! again after a pause, for as long as the map asks for it; but a term that this server could not
//! begin is given up for ever, since the locator goes on by that.
//!
//! **Roles belong to processes.** Where the map names another process for this server's name, or
//! none, it asks nothing of this one: this one gives up what it has. A map of a lower version than
//! one that was seen here, or of a lower generation, is not taken.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`step`] | what is to be done next; pure |
//! | [`holdings`] | what this server has of each shard |
//! | [`counting`] | whom it counts where writes wait for replicas, and when that is so |
//! | [`contact`] | the connection to one locator, a thread each |
//! | [`known`] | what the threads share: the map, the report, the lease |

pub mod contact;
pub mod counting;
pub mod holdings;
pub mod known;
pub mod step;

use super::duty::Duty;
use super::map::{Map, WithoutLease};
use super::report::{Failure, Holding, Introduction, Report};
use crate::base::lease::{Heed, Lease, Sureness};
use crate::base::shards::ShardSet;
use crate::replication::board::Board;
use crate::replication::node::Node;
use crate::replication::offer::Offer;
use crate::replication::order::{Order, Outcome};
use crate::replication::secret::Secret;
use crate::store::Store;
use contact::Contact;
use counting::Counting;
use holdings::Holdings;
use known::Known;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use step::{GivenUp, Place, Step};

/// How often the thread looks what has changed.
pub const LOOK: Duration = Duration::from_millis(20);
/// How often it is looked how long the logs are.
const SIZES_EVERY: Duration = Duration::from_secs(1);
/// The first pause after an order has failed, and the longest.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(100);
/// See [`RETRY_PAUSE_MIN`].
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(2);

/// Who a server is in its cluster.
pub struct MemberConfig {
    /// The locators, each HOST:PORT.
    pub locators: Vec<String>,
    /// The secret that all of the cluster share.
    pub secret: Secret,
    /// What is said of this server. An address that names no host is told as the one by which the
    /// locator is reached.
    pub introduction: Introduction,
    /// Where clients connect.
    pub clients: SocketAddr,
}

/// What it acts upon.
#[derive(Clone)]
pub struct Parts {
    /// What has the shards.
    pub store: Arc<Store>,
    /// Where requests look whether this server is sure of its roles.
    pub lease: Arc<Lease>,
    /// Has them heed what the policy asks, and the end of the lease.
    pub heed: Heed,
    /// What changes roles.
    pub node: Arc<Node>,
    /// The replication port.
    pub offer: Arc<Offer>,
    /// Who is counted where writes wait for replicas.
    pub board: Arc<Board>,
}

/// A server that takes part in a cluster; it ends when this is dropped.
pub struct Member {
    known: Arc<Known>,
    threads: Vec<JoinHandle<()>>,
}

impl Member {
    /// Begin.
    pub fn start(config: MemberConfig, parts: Parts) -> std::io::Result<Member> {
        let MemberConfig { locators, secret, introduction, clients } = config;
        let known = Arc::new(Known::new(introduction.incarnation.clone(), introduction.shards, parts.lease.clone()));
        let mut member = Member { known: known.clone(), threads: Vec::new() };
        let acting = Acting::new(parts.clone(), known.clone());
        member.threads.push(std::thread::Builder::new().name("cluster".into()).spawn(move || acting.run())?);
        for locator in locators {
            let ports = [clients, parts.offer.address()];
            let contact = Contact::new(locator, secret.clone(), introduction.clone(), ports, known.clone());
            let thread = std::thread::Builder::new().name("cluster-contact".into());
            // A contact may be in a handshake with a silent host: it is not waited for.
            drop(thread.spawn(move || contact.run())?);
        }
        Ok(member)
    }

    /// What it knows.
    pub fn known(&self) -> &Arc<Known> {
        &self.known
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.known.end();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The thread "cluster".
struct Acting {
    parts: Parts,
    known: Arc<Known>,
    counting: Counting,
    failed: Vec<Failed>,
    given_up: GivenUp,
    given: Option<Step>,
    sizes: Option<Sizes>,
    /// Whether the lease was in force at the last look; None before the first one.
    had_lease: Option<bool>,
}

/// How long the logs were at that moment.
struct Sizes {
    at: Instant,
    of: Vec<Holding>,
    kib: BTreeMap<usize, u64>,
}

/// A step that could not be taken, and is tried again.
struct Failed {
    step: Step,
    words: String,
    again_at: Instant,
    pause: Duration,
}

impl Acting {
    fn new(parts: Parts, known: Arc<Known>) -> Acting {
        let counting = Counting::new(parts.board.clone());
        let given_up = GivenUp::none(parts.store.shards().len());
        let had_lease = None;
        Acting { parts, known, counting, failed: Vec::new(), given_up, given: None, sizes: None, had_lease }
    }

    fn run(mut self) {
        while !self.known.is_ending() {
            self.parts.store.be_sure_until(self.parts.lease.until());
            let map = self.known.map();
            // An order that is under way may still change what is here.
            let is_idle = !matches!(self.parts.node.ordered().map(|ordered| ordered.outcome), Some(Outcome::Running));
            let here = Holdings::of(&self.parts.store, &self.parts.node);
            let mut failures = Vec::new();
            if let Some(map) = &map {
                let place = Place::of(map, self.known.own());
                self.counting.take(map, place.server());
                self.parts.node.copy_bound().set(map.policy.copy_mib_per_second);
                let duties: Vec<_> = (0..map.shards.len()).map(|shard| place.duty(map, shard)).collect();
                if is_idle && step::is_settled(&duties, &here) {
                    self.known.settle(map.version);
                }
                self.heed_lease(map);
                failures = self.act(map, &duties, &here);
            }
            let (map_version, unconfirmed) = self.counting.confirm(&self.parts.store, here.primary());
            let unconfirmed = if unconfirmed.is_empty() { String::new() } else { unconfirmed.to_string() };
            failures.extend(self.failed.iter().map(Failed::told));
            let holdings = here.told();
            let kib = self.kib(&here, &holdings);
            self.known.set_report(Report { map_version, unconfirmed, holdings, failures, kib });
            self.known.rest(LOOK, map.as_ref().map_or(0, |map| map.version));
        }
    }

    /// How long the logs are. They are looked at anew now and then, and where what it holds has
    /// changed: each report that differs is sent at once.
    fn kib(&mut self, here: &Holdings, holdings: &[Holding]) -> BTreeMap<usize, u64> {
        let is_due = self.sizes.as_ref().is_none_or(|sizes| sizes.at.elapsed() >= SIZES_EVERY || sizes.of != holdings);
        if is_due {
            let kib = here.kib(&self.parts.store);
            self.sizes = Some(Sizes { at: Instant::now(), of: holdings.to_vec(), kib });
        }
        self.sizes.as_ref().map(|sizes| sizes.kib.clone()).unwrap_or_default()
    }

    /// Have the engine heed the policy, and the end of the lease.
    fn heed_lease(&mut self, map: &Map) {
        let has_lease = self.parts.lease.is_in_force();
        let refuses = !has_lease && map.policy.without_lease == WithoutLease::Refuse;
        let strong_replicas = map.policy.strong_replicas();
        (self.parts.heed)(Sureness { strong_replicas, refuses });
        match (self.had_lease.replace(has_lease), has_lease) {
            (Some(true), false) => {
                let reads = if strong_replicas > 0 { "strong reads are refused, " } else { "" };
                let writes = if refuses { "refused" } else { "taken" };
                log::warn!(
                    "the lease has ended, since no locator has renewed it: {reads}writes that no replica acknowledges \
                     are {writes}; see that a locator runs and is reached"
                );
            }
            (Some(false), true) => log::info!("the lease is renewed: all is served as usual"),
            _ => {}
        }
    }

    /// Give the next order, unless one is under way. What the map asks for and no order brings.
    fn act(&mut self, map: &Map, duties: &[Duty], here: &Holdings) -> Vec<Failure> {
        let plan = step::plan(map, duties, here, &self.parts.store, &mut self.given_up);
        let is_wanted = |failed: &Failed| plan.steps.contains(&failed.step);
        self.failed.retain(is_wanted);
        if self.is_under_way() {
            return plan.failures;
        }
        let now = Instant::now();
        let waits = |step: &Step| self.failed.iter().any(|failed| failed.step == *step && failed.again_at > now);
        if let Some(step) = plan.steps.iter().find(|step| !waits(step)) {
            let order = Order { change: step.change.clone(), shards: Some(step.shards) };
            match self.parts.node.take(order) {
                Ok(()) => self.given = Some(step.clone()),
                // It is about to end, or an operator was quicker.
                Err(why) => log::info!("cluster: {why}"),
            }
        }
        plan.failures
    }

    /// Whether an order is under way. What has become of one that is not any more is noted.
    fn is_under_way(&mut self) -> bool {
        let outcome = self.parts.node.ordered().map(|ordered| ordered.outcome);
        let Some(step) = self.given.take() else { return matches!(outcome, Some(Outcome::Running)) };
        match outcome {
            Some(Outcome::Running) => {
                self.given = Some(step);
                return true;
            }
            Some(Outcome::Failed(words)) if step.term() > 0 => self.given_up.note(step.shards, step.term(), &words),
            Some(Outcome::Failed(words)) => self.note_failed(step, words),
            Some(Outcome::Done(_)) | None => self.failed.retain(|failed| failed.step != step),
        }
        // What this server has is to be looked at anew first.
        true
    }

    fn note_failed(&mut self, step: Step, words: String) {
        let now = Instant::now();
        match self.failed.iter_mut().find(|failed| failed.step == step) {
            Some(failed) => {
                failed.pause = (failed.pause * 2).min(RETRY_PAUSE_MAX);
                (failed.words, failed.again_at) = (words, now + failed.pause);
            }
            None => {
                let again_at = now + RETRY_PAUSE_MIN;
                self.failed.push(Failed { step, words, again_at, pause: RETRY_PAUSE_MIN });
            }
        }
    }
}

impl Failed {
    fn told(&self) -> Failure {
        Failure { shards: self.step.shards.to_string(), term: 0, words: self.words.clone() }
    }
}

/// Of one group of shards.
pub(crate) fn group<K: PartialEq>(groups: &mut Vec<(K, ShardSet)>, key: K, shard: usize) {
    match groups.iter_mut().find(|(known, _)| *known == key) {
        Some((_, shards)) => shards.insert(shard),
        None => groups.push((key, ShardSet::one(shard))),
    }
}
