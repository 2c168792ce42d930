//! The roles of this process's shards: it is a shard's primary, follows another server in it, or
//! follows nobody. Orders change the roles while the process runs.
//!
//! One thread, "replication-control", carries out one order at a time ([`super::change`]); an order
//! that comes meanwhile is refused. Only that thread has the followings
//! ([`super::follow::Following`]), and it alone opens and closes the store's gates
//! ([`crate::store::reign`]), so no shard ever has two writers.

use super::HANDSHAKE_WAIT_MAX;
use super::admission::Admitted;
use super::change::Roles;
use super::copying::CopyBound;
use super::follow::{Follow, FollowConfig};
use super::offer::Offer;
use super::order::{Order, Ordered, Outcome};
use super::report::{FollowView, Report};
use super::sealing::{Heir, Sealer, Settled};
use super::wire::{NotSealed, Seal, SealedShard};
use crate::base::shards::ShardSet;
use crate::base::term::Term;
use crate::store::Store;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest wait for the thread to end. An order that waits for a peer may take longer; it is not
/// waited for.
const END_WAIT_MAX: Duration = Duration::from_secs(1);

/// What a node is made of.
pub struct NodeConfig {
    /// How to follow any primary.
    pub follow: FollowConfig,
    /// What is offered to replicas, in either role.
    pub offer: Option<Arc<Offer>>,
}

/// Why an order was not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotTaken {
    /// Another order is under way.
    #[error("busy: {0} is under way")]
    Busy(&'static str),
    /// The process ends.
    #[error("the server is ending")]
    Ending,
}

/// See the module.
pub struct Node {
    pub(super) store: Arc<Store>,
    pub(super) config: NodeConfig,
    told: Mutex<Told>,
}

/// What other threads see of the node.
#[derive(Default)]
struct Told {
    /// The followings of now; where there is none, that which ended last, but in a primary.
    follows: Vec<Arc<Follow>>,
    ordered: Option<Ordered>,
    /// None once the node is ending.
    tasks: Option<SyncSender<Task>>,
}

/// What the control thread does, one after the other.
pub(super) enum Task {
    Order(Order),
    /// Stop for another server, by then or not at all, and answer.
    Seal(Seal, Heir, Instant, SyncSender<SealAnswer>),
    Settle(Term, Settled),
}

type SealAnswer = Result<Vec<SealedShard>, NotSealed>;

/// Why a server is not sealed that has something else to do.
const BUSY: &str = "another order is under way";
/// Tasks that wait.
const TASKS_MAX: usize = 64;
/// Pause between two tries to put a task where there is no room.
const LOOK: Duration = Duration::from_millis(5);

/// With nothing else to do, the control thread looks so often whether two followings are of one
/// server.
const TWINS_EVERY: Duration = Duration::from_secs(1);

/// A running node; ends when dropped, and with it the following.
pub struct RunningNode {
    node: Arc<Node>,
    thread: Option<JoinHandle<()>>,
    /// Disconnected once the thread is done.
    ended: Receiver<()>,
}

impl Node {
    /// Begin: as a replica of the primary that `config.follow` names where one has admitted it,
    /// else as a primary.
    pub fn start(config: NodeConfig, admitted: Option<Admitted>, store: Arc<Store>) -> std::io::Result<RunningNode> {
        let (sender, tasks) = sync_channel(TASKS_MAX);
        let told = Mutex::new(Told { tasks: Some(sender), ..Told::default() });
        let node = Arc::new(Node { store, config, told });
        let roles = Roles::begin(node.clone(), admitted, tasks)?;
        if let Some(offer) = &node.config.offer {
            let sealer: Arc<dyn Sealer> = node.clone();
            offer.set_sealer(Arc::downgrade(&sealer));
        }
        let (running, (ending, ended)) = (node.clone(), channel::<()>());
        let run = move || {
            running.carry_out(roles);
            drop(ending);
        };
        let thread = std::thread::Builder::new().name("replication-control".into()).spawn(run)?;
        Ok(RunningNode { node, thread: Some(thread), ended })
    }

    /// Take an order. Its outcome is shown in the rows of `stats replication`.
    pub fn take(&self, order: Order) -> Result<(), NotTaken> {
        let mut told = self.told();
        if let Some(Ordered { name, outcome: Outcome::Running, .. }) = &told.ordered {
            return Err(NotTaken::Busy(name));
        }
        let name = order.name();
        let taken = told.tasks.as_ref().is_some_and(|tasks| tasks.try_send(Task::Order(order)).is_ok());
        if !taken {
            return Err(NotTaken::Ending);
        }
        told.ordered = Some(Ordered { name, outcome: Outcome::Running, took: Duration::ZERO });
        Ok(())
    }

    /// How fast shards are copied that are not whole here.
    pub fn copy_bound(&self) -> &CopyBound {
        &self.config.follow.copy_bound
    }

    /// The followings of now, one for each primary; where there is none, the last one. None at all
    /// in a server that is the primary of all shards.
    pub fn follows(&self) -> Vec<Arc<Follow>> {
        self.told().follows.clone()
    }

    pub(super) fn set_follows(&self, follows: Vec<Arc<Follow>>, is_primary: bool) {
        if !follows.is_empty() || is_primary {
            self.told().follows = follows;
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.told().tasks.is_none()
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last order that was taken.
    pub fn ordered(&self) -> Option<Ordered> {
        self.told().ordered.clone()
    }

    fn carry_out(&self, mut roles: Roles) {
        loop {
            match roles.tasks().recv_timeout(TWINS_EVERY) {
                Ok(Task::Order(order)) => self.carry_out_order(&mut roles, &order),
                Ok(Task::Seal(seal, heir, deadline, answer)) => {
                    answer_seal(&mut roles, &seal, heir, deadline, &answer);
                }
                Ok(Task::Settle(term, settled)) => roles.settle(term, settled),
                Err(RecvTimeoutError::Timeout) => roles.join_twins(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn carry_out_order(&self, roles: &mut Roles, order: &Order) {
        let (name, begun_at) = (order.name(), Instant::now());
        log::info!("replication: {order}");
        let outcome = match roles.change(order) {
            Ok(words) => Outcome::Done(words),
            Err(why) => {
                log::warn!("replication: {order}: {why}");
                Outcome::Failed(why)
            }
        };
        self.told().ordered = Some(Ordered { name, outcome, took: begun_at.elapsed() });
    }

    /// Put a task where the control thread finds it, by then. False where it ends, or has too much
    /// to do.
    fn put(&self, mut task: Task, deadline: Instant) -> bool {
        loop {
            let put = match &self.told().tasks {
                None => return false,
                Some(tasks) => tasks.try_send(task),
            };
            match put {
                Ok(()) => return true,
                Err(TrySendError::Full(rest)) if Instant::now() < deadline => task = rest,
                Err(_) => return false,
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn answer_seal(roles: &mut Roles, seal: &Seal, heir: Heir, deadline: Instant, answer: &SyncSender<SealAnswer>) {
    let is_late = Instant::now() >= deadline;
    let sealed = if is_late { Err(NotSealed::now(BUSY)) } else { roles.seal(seal, heir) };
    let has_sealed = sealed.is_ok();
    // Nobody has told the heir: its term cannot begin.
    if answer.send(sealed).is_err() && has_sealed {
        roles.settle(seal.term, Settled::GivenUp);
    }
}

impl Roles {
    /// While an order about `busy` waits for other servers: stop for heirs in other shards, who
    /// may be those that are waited for.
    pub(super) fn answer_meanwhile(&mut self, busy: ShardSet) {
        while let Ok(task) = self.tasks().try_recv() {
            match task {
                Task::Order(_) => unreachable!("one is under way, so no other is taken"),
                Task::Seal(seal, _, _, answer) if !seal.shards.within(busy).is_empty() => {
                    // Whoever asked may have gone.
                    let _ = answer.send(Err(NotSealed::now(BUSY)));
                }
                Task::Seal(seal, heir, deadline, answer) => answer_seal(self, &seal, heir, deadline, &answer),
                Task::Settle(term, settled) => self.settle(term, settled),
            }
        }
    }
}

impl Sealer for Node {
    fn seal(&self, seal: Seal, heir: Heir, deadline: Instant) -> SealAnswer {
        let (answer, answers) = sync_channel(0);
        if !self.put(Task::Seal(seal, heir, deadline, answer), deadline) {
            return Err(NotSealed::now("the server is ending, or has too much to do"));
        }
        // An answer that comes later is nobody's, and then nothing has changed.
        let waited = answers.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        waited.unwrap_or_else(|_| Err(NotSealed::now(BUSY)))
    }

    fn settle(&self, term: Term, settled: Settled) {
        if !self.put(Task::Settle(term, settled), Instant::now() + HANDSHAKE_WAIT_MAX) {
            log::warn!("what has become of term {term} is not noted here: the server is ending");
        }
    }
}

impl Report for Node {
    fn rows(&self, emit: &mut dyn FnMut(&str, &str)) {
        let terms = self.store.terms_known();
        emit("term", &terms.last().map_or("none".into(), Term::to_string));
        emit("terms_known", &terms.len().to_string());
        // Copied out, because orders take the same lock.
        let (follows, ordered) = {
            let told = self.told();
            (told.follows.clone(), told.ordered.clone())
        };
        Ordered::rows(ordered.as_ref(), emit);
        let own = self.store.writable();
        emit("shards_primary", &own.to_string());
        FollowView::rows_of(&follows.iter().map(|follow| follow.snapshot()).collect::<Vec<_>>(), emit);
        if let Some(offer) = &self.config.offer {
            offer.rows(emit);
        }
    }
}

impl RunningNode {
    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        self.node.told().tasks = None;
        if let Some(thread) = self.thread.take()
            && self.ended.recv_timeout(END_WAIT_MAX) == Err(RecvTimeoutError::Disconnected)
        {
            drop(thread.join());
        }
    }
}
