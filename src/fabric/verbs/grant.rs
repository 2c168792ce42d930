//! What one replica was given: regions that are registered, an ack slot, and a queue pair of its
//! own that reaches them, made when the replica connects. Replicas share the registration and its
//! protection domain; what one of them reaches, it reaches through its own queue pair, and no
//! longer than that stands. (Within the domain a queue pair also reaches the ack slots of other
//! replicas, if it is told their keys or guesses them: see SECURITY.md.)
//!
//! A primary sends nothing by itself, so it cannot tell a replica whose host has vanished from one
//! that is silent. The state stays [`GrantState::Connected`] until the layer above, which misses
//! heartbeats and acks, drops the grant.

use super::desk::Desk;
use super::errors::failed;
use super::native::cm::{Connection, Id};
use super::native::completion::CompletionQueue;
use super::native::memory::{AckSlot, Domain};
use super::native::queue::QueuePair;
use super::registered::{Registered, descriptor};
use super::watch::Watch;
use crate::fabric::{self, ACK_BYTES, CONNECT_WAIT_MAX, Cause, Descriptor, FabricError, GrantState, Token};
use crate::sys::memory::Memfd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The primary's end of a grant's connection, as the listening thread and the grant share it.
pub(super) struct Endpoint {
    domain: Arc<Domain>,
    completions: Arc<CompletionQueue>,
    deadline: Instant,
    state: Mutex<State>,
}

/// How far it is. The watch goes before the queue pair.
struct State {
    cm: CmState,
    watch: Option<Watch>,
    pair: Option<QueuePair>,
}

/// As the connection manager has told.
enum CmState {
    Waiting,
    Accepted,
    Connected,
    Ended(FabricError),
}

impl State {
    /// End the channel: from here on the peer reaches nothing. The grant's owner learns the reason.
    fn end(&mut self, why: FabricError) {
        if !matches!(self.cm, CmState::Ended(_)) {
            self.cm = CmState::Ended(why);
        }
        self.watch = None;
        if let Some(pair) = &mut self.pair {
            pair.stop();
        }
    }
}

impl Endpoint {
    fn new(domain: &Arc<Domain>) -> Result<Endpoint, FabricError> {
        Ok(Endpoint {
            domain: domain.clone(),
            completions: Arc::new(CompletionQueue::unused(domain.device())?),
            deadline: Instant::now() + CONNECT_WAIT_MAX,
            state: Mutex::new(State { cm: CmState::Waiting, watch: None, pair: None }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked has left a correct state, and a queue pair that its owner
        // destroys.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the peer may still come.
    pub(super) fn is_due(&self) -> bool {
        Instant::now() <= self.deadline
    }

    /// Make a queue pair in the regions' domain for the peer's request `id`. On failure the id
    /// comes back.
    pub(super) fn accept(&self, id: Id, with: &Connection<'_>) -> Result<(), (Option<Id>, FabricError)> {
        let mut state = self.state();
        if !matches!(state.cm, CmState::Waiting) {
            return Err((Some(id), failed(Cause::Refused, "the grant was taken back")));
        }
        // Room for one request, which is never posted: some devices refuse a queue of 0.
        let made = QueuePair::new(id, &self.domain, &self.completions, 1, 0);
        let mut pair = match made {
            Ok(pair) => pair,
            Err((id, refusal)) => {
                state.end(refusal.into());
                return Err((Some(id), refusal.into()));
            }
        };
        let watch = Watch::new(self.domain.device(), pair.number());
        let accepted = pair.accept(with);
        state.cm = CmState::Accepted;
        state.pair = Some(pair);
        match accepted.and(watch) {
            Ok(watch) => state.watch = Some(watch),
            Err(refusal) => {
                state.end(refusal.into());
                return Err((None, refusal.into()));
            }
        }
        Ok(())
    }

    /// The peer knows that it is connected.
    pub(super) fn established(&self) {
        let mut state = self.state();
        if matches!(state.cm, CmState::Accepted) {
            state.cm = CmState::Connected;
        }
    }

    /// The connection is over.
    pub(super) fn ended(&self, why: FabricError) {
        self.state().end(why);
    }

    fn look(&self) -> Result<GrantState, FabricError> {
        let mut state = self.state();
        if let Some(why) = state.watch.as_ref().and_then(Watch::look) {
            state.end(why);
        }
        match &state.cm {
            CmState::Connected => Ok(GrantState::Connected),
            CmState::Ended(why) => Err(why.clone()),
            CmState::Waiting | CmState::Accepted if self.is_due() => Ok(GrantState::Waiting),
            CmState::Waiting | CmState::Accepted => {
                let why = failed(Cause::TimedOut, format!("no replica came within {} s", CONNECT_WAIT_MAX.as_secs()));
                state.end(why.clone());
                Err(why)
            }
        }
    }

    /// Destroy the queue pair; none can be made any more.
    fn close(&self) {
        let mut state = self.state();
        state.end(failed(Cause::Closed, "the grant was taken back"));
        state.pair = None;
    }
}

/// See the module. The order of its fields is the order in which they go, after the queue pair.
pub(super) struct Grant {
    endpoint: Arc<Endpoint>,
    desk: Arc<Desk>,
    token: Token,
    number: u64,
    ack: AckSlot,
    registered: Arc<Registered>,
}

impl Grant {
    /// Expect the peer to come for what is registered.
    pub(super) fn new(registered: Arc<Registered>, desk: &Arc<Desk>, token: Token) -> Result<Grant, FabricError> {
        let endpoint = Endpoint::new(registered.domain())?;
        let memfd = Memfd::new("remora-ack", ACK_BYTES, false)
            .map_err(|error| FabricError::from_io(fabric::Kind::Verbs, "cannot make an ack slot", &error))?;
        let ack = AckSlot::new(&endpoint.domain, memfd)?;
        let endpoint = Arc::new(endpoint);
        let number = desk.expect(token, &endpoint);
        Ok(Grant { endpoint, desk: desk.clone(), token, number, ack, registered })
    }
}

impl fabric::Grant for Grant {
    fn descriptors(&self) -> &[Descriptor] {
        self.registered.descriptors()
    }

    fn ack(&self) -> &Arc<Memfd> {
        self.ack.memory()
    }

    fn ack_descriptor(&self) -> Descriptor {
        descriptor(self.ack.registration(), ACK_BYTES)
    }

    fn state(&mut self) -> Result<GrantState, FabricError> {
        self.endpoint.look()
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        // First the queue pair, so that the peer reaches nothing; then, with the fields, the ack
        // slot, and the regions if nobody else has them.
        self.desk.forget(self.token, self.number);
        self.endpoint.close();
    }
}
