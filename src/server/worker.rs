//! One worker: a thread with its own listeners, connections, buffers and loop.
//!
//! Invariant: while it sleeps in its poll it holds no turn of the store, so a sleeping worker never
//! delays reclaim; and within a turn it waits for nothing.

use super::Shared;
use super::accept::{Acceptor, dismiss};
use super::acks::{Holding, Waiting};
use super::admission::Principal;
use super::connection::{Arrival, Connection};
use super::control::Nobody;
use super::datagrams::{DATAGRAMS, Datagrams};
use super::forward::{self, Forwarder};
use super::listen::Doors;
use super::memory::Buffers;
use super::owner::{self, Links};
use super::parking::Parking;
use super::service::Service;
use super::state::{Event, State};
use super::table::{Table, Token};
use super::tls::Security;
use super::transport::{Session, Transport};
use super::watch::{note_watcher, tell_of_open};
use crate::base::limits::{
    KEYS_PER_TURN_MAX, POLL_MILLISECONDS_MAX, READS_AHEAD_MAX, STOP_MILLISECONDS_MAX, STOP_SENDING_MILLISECONDS,
};
use crate::base::time::SteadySeconds;
use crate::engine::Context;
use crate::protocol::text::watch::CloseReason;
use crate::store::{Place, Turn};
use crate::sys::poll::{Interest, Poller, Ticker, end_waits_in_time};
use arrayvec::ArrayVec;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// The waker's token; listeners have theirs from 0 on, sockets of UDP from [`DATAGRAMS`] on.
const WAKER: u32 = u32::MAX;
/// The ticker's.
const TICKER: u32 = u32::MAX - 1;

/// See the module.
pub struct Worker<'s> {
    pub(super) id: usize,
    pub(super) service: Service<'s>,
    pub(super) poller: Poller,
    /// Bounds every sleep.
    ticker: Ticker,
    acceptor: Acceptor,
    datagrams: Datagrams,
    pub(super) connections: Table<Connection>,
    /// Of other servers.
    pub(super) links: Links,
    /// Those with work left, for the next turn; and the same list's other half, reused.
    pub(super) again: Vec<Token>,
    pub(super) serving: Vec<Token>,
    /// Those whose requests wait for memory.
    parking: Parking,
    /// Those with answers that wait for replicas.
    pub(super) waiting: Waiting,
    /// Those that have an answer of another server's, to be served in this turn.
    pub(super) answered: Vec<Token>,
    /// Those that watch.
    pub(super) watching: Vec<Token>,
    /// The connection that was served last of those that held unfinished input afterwards; it is
    /// making progress.
    pub(super) served_with_input: Option<Token>,
    /// The same, of those that held unsent answers; none that was answered by others since.
    pub(super) served_with_output: Option<Token>,
    pub(super) turns: u64,
    pub(super) swept_at: SteadySeconds,
    /// Set once the server is to end.
    stop_at: Option<Instant>,
}

impl<'s> Worker<'s> {
    /// In the thread that will run it. Panics when the system gives no epoll set: there is nothing
    /// to go on with.
    pub fn new(id: usize, shared: &'s Shared, doors: Doors) -> Worker<'s> {
        let poller = Poller::new().expect("an epoll set; raise `ulimit -n`");
        poller.add(&shared.wakers[id], Token::other(WAKER).to_bits(), Interest::Read).expect("watching an eventfd");
        let ticker = Ticker::new(Duration::from_millis(POLL_MILLISECONDS_MAX)).expect("a timer; raise `ulimit -n`");
        poller.add(&ticker, Token::other(TICKER).to_bits(), Interest::Read).expect("watching a timer");
        let acceptor = Acceptor::new(doors.listeners, &poller).expect("watching listeners");
        let datagrams = Datagrams::new(doors.datagrams, &poller).expect("watching sockets of UDP");
        let (now, steady_now) = (shared.config.clock.wall(), shared.config.clock.steady());
        let stats = shared.registry.stats(id);
        let forwarder = shared.config.forwarding.as_ref().map(|forwarding| {
            Box::new(Forwarder::new(forwarding, shared.wakers[id].clone(), &shared.engine, stats.clone()))
        });
        Worker {
            id,
            service: Service {
                shared,
                stats,
                buffers: Buffers::new(),
                now,
                steady_now,
                keys_per_turn: KEYS_PER_TURN_MAX.max(shared.config.requests_per_turn),
                holding: Holding::new(shared.board.clone()),
                forwarder,
            },
            poller,
            ticker,
            acceptor,
            datagrams,
            connections: Table::default(),
            links: Links::default(),
            again: Vec::new(),
            serving: Vec::new(),
            parking: Parking::default(),
            waiting: Waiting::new(),
            answered: Vec::new(),
            watching: Vec::new(),
            served_with_input: None,
            served_with_output: None,
            turns: 0,
            swept_at: steady_now,
            stop_at: None,
        }
    }

    /// Until the server ends.
    pub fn run(mut self) {
        // While answers wait for replicas it sleeps for less than the timers of others are late.
        if !end_waits_in_time() {
            log::info!("worker {}: timers may be 50 us late, and with them acknowledged writes", self.id);
        }
        let mut participant = self.service.shared.engine.store().join();
        while !self.has_ended() {
            self.poll();
            let turn = participant.turn();
            self.turn(&turn);
        }
    }

    fn turn(&mut self, turn: &Turn<'_>) {
        self.read_clock();
        self.tick(turn);
        self.accept();
        let forwards = self.is_forwarding();
        if forwards {
            self.receive_forwarded(turn);
        }
        self.serve_ready(turn);
        if self.datagrams.are_ready() {
            self.datagrams.serve(&mut self.service, turn);
        }
        if !self.waiting.tokens.is_empty() {
            self.serve_waiting(turn);
        }
        if forwards || self.is_forwarding() {
            self.send_forwarded(turn);
        }
        self.sweep();
        self.relieve(turn);
        self.stop_if_asked();
        self.maintain(turn);
    }

    /// Sleep until something is ready; not at all while work is left over.
    fn poll(&mut self) {
        let forwarded = self.service.forwarder.as_ref().and_then(|forwarder| forwarder.due());
        let due =
            [self.acceptor.resting_until(), self.stop_at, self.parking.due(), forwarded].into_iter().flatten().min();
        let mut timeout = if !self.again.is_empty() {
            Some(Duration::ZERO)
        } else {
            due.map(|until| until.saturating_duration_since(Instant::now()))
        };
        if let Some(pause) = self.waiting.pause() {
            timeout = Some(timeout.map_or(pause, |timeout| timeout.min(pause)));
        }
        self.service.stats.polls.increment();
        self.poller.wait(timeout).expect("epoll_wait on a set of our own");
    }

    #[inline]
    fn is_forwarding(&self) -> bool {
        self.service.forwarder.as_ref().is_some_and(|forwarder| forwarder.is_busy())
    }

    fn read_clock(&mut self) {
        let clock = &self.service.shared.config.clock;
        (self.service.now, self.service.steady_now) = (clock.wall(), clock.steady());
        self.service.holding.begin_turn();
        self.turns += 1;
        self.service.buffers.sealing.begin_turn();
    }

    fn tick(&mut self, turn: &Turn<'_>) {
        let Service { shared, stats, buffers, now, .. } = &mut self.service;
        let (host, scratch) = (&shared.registry, &mut buffers.scratch);
        let mut context = Context { turn, now: *now, stats, scratch, keys_left: 0, host, client: &Nobody };
        shared.engine.tick(&mut context);
    }

    /// Accept where there is something to accept, and list the connections that are ready.
    fn accept(&mut self) {
        self.acceptor.wake(&self.poller).expect("watching listeners");
        self.serving.clear();
        // Requests that wait for memory come first: after the others, little of the memory just
        // freed would be left for a large one.
        self.parking.take_due(Instant::now, &mut self.serving);
        self.serving.append(&mut self.again);
        for token in &self.serving {
            if let Some(connection) = self.connections.get_mut(*token) {
                (connection.has_more, connection.is_parked) = (false, false);
            }
        }
        for at in 0..self.poller.ready() {
            let token = Token::from_bits(self.poller.token(at));
            match token.as_other() {
                None => self.serving.push(token),
                Some(TICKER) => self.ticker.clear(),
                Some(WAKER) => {
                    self.service.shared.wakers[self.id].clear();
                    self.tell_watchers();
                    self.take_links();
                }
                Some(link) if link >= owner::FIRST => {
                    self.links.note_ready(link);
                    self.heed_links();
                }
                Some(link) if link >= forward::FIRST => {
                    self.service.forwarder.iter_mut().for_each(|forwarder| forwarder.note_ready(link));
                }
                Some(socket) if socket >= DATAGRAMS => self.datagrams.note_ready(socket),
                Some(listener) => self.accept_from(listener),
            }
        }
    }

    fn accept_from(&mut self, listener: u32) {
        let Worker { id, service, poller, acceptor, connections, .. } = self;
        let Service { shared, stats, steady_now: now, .. } = service;
        acceptor.accept(listener, shared, stats, *now, poller, |socket, view, listener| {
            let is_operator = listener.is_control;
            let Some(transport) = begin(shared, listener.security, *now) else {
                stats.ssl_handshake_errors.increment();
                return dismiss(shared, is_operator);
            };
            shared.registry.insert(*id, socket.as_raw_fd(), view.clone());
            let (seen, descriptor) = (view.clone(), socket.as_raw_fd());
            let principal = Principal::of_newcomer(shared, is_operator);
            let by = Arrival { is_operator, principal, transport };
            let token = connections.insert(|token| Connection::new(socket, token, view, *now, by));
            let connection = connections.get_mut(token).expect("just inserted");
            if let Err(error) = poller.add(&connection.socket, token.to_bits(), Interest::Read) {
                log::warn!("cannot watch a connection: {error}; raise /proc/sys/fs/epoll/max_user_watches");
                let connection = connections.remove(token).expect("just inserted");
                shared.registry.remove(*id, connection.socket.as_raw_fd());
                return dismiss(shared, is_operator);
            }
            tell_of_open(shared, &seen, descriptor);
        });
    }

    fn serve_ready(&mut self, turn: &Turn<'_>) {
        let serving = std::mem::take(&mut self.serving);
        for group in serving.chunks(READS_AHEAD_MAX) {
            if group.len() > 1 {
                self.read_ahead(turn, group);
            }
            for token in group {
                self.serve(turn, *token, Event::Ready);
            }
        }
        self.serving = serving;
    }

    fn read_ahead(&mut self, turn: &Turn<'_>, group: &[Token]) {
        let mut places = ArrayVec::<Place, READS_AHEAD_MAX>::new();
        for (slot, token) in group.iter().enumerate() {
            if let Some(connection) = self.connections.get_mut(*token)
                && connection.served_in_turn != self.turns
            {
                places.extend(self.service.read_ahead(connection, slot));
            }
        }
        for place in places {
            self.service.shared.engine.prefetch(turn, place);
        }
    }

    pub(super) fn serve(&mut self, turn: &Turn<'_>, token: Token, event: Event) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        if connection.served_in_turn == self.turns {
            return;
        }
        connection.served_in_turn = self.turns;
        self.service.serve(turn, connection, event);
        if connection.state == State::Reading && connection.is_at_rest() {
            return; // as nearly all are: there is nothing to note
        }
        let (holds_input, holds_output) = (connection.input.held_bytes() > 0, connection.output_charged_bytes > 0);
        self.follow(token);
        if holds_input {
            self.served_with_input = Some(token);
        }
        match event {
            Event::Ready if holds_output => self.served_with_output = Some(token),
            Event::Ready => {}
            // Others have given it something: that is no progress of its own.
            Event::Answered => drop(self.served_with_output.take_if(|served| *served == token)),
        }
        if holds_input || holds_output {
            self.relieve(turn);
        }
    }

    /// See to it that a connection that was served gets what its state waits for.
    pub(super) fn follow(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        match connection.state {
            State::Closed => return self.close(token),
            State::Yielded if !connection.has_more => {
                connection.has_more = true;
                self.again.push(token);
            }
            // One that was served between two tries, for its held answers, is still listed.
            State::Parked if !connection.is_parked => {
                connection.is_parked = true;
                self.parking.park(token);
            }
            _ => {}
        }
        if connection.progress.claims.are_some() {
            note_watcher(self.id, connection, &mut self.watching);
        }
        if connection.awaits_replicas() && !connection.is_waiting {
            connection.is_waiting = true;
            self.waiting.tokens.push(token);
        }
        let interest = connection.state.interest(connection.has_sendable());
        if interest != connection.interest
            && let Err(error) = watch(&self.poller, connection, interest)
        {
            log::warn!("cannot watch a connection: {error}; raise /proc/sys/fs/epoll/max_user_watches");
            self.close(token);
        }
    }

    pub(super) fn close(&mut self, token: Token) {
        self.close_for(token, None);
    }

    /// The same, for a `reason` that the connection itself does not tell.
    pub(super) fn close_for(&mut self, token: Token, reason: Option<CloseReason>) {
        let Some(mut connection) = self.connections.remove(token) else {
            return;
        };
        self.tell_of_close(&connection, reason);
        if connection.progress.claims.watcher().is_some() {
            self.watching.retain(|watching| *watching != token);
        }
        self.service.reclaim(&mut connection);
        connection.transport.close(&connection.socket);
        self.service.shared.registry.remove(self.id, connection.socket.as_raw_fd());
        let is_operator = connection.is_operator;
        // The socket first, so that a client that is let in again because of the count finds a
        // descriptor.
        drop(connection);
        dismiss(self.service.shared, is_operator);
    }

    /// At the end: let go of the listeners, then of every connection that has nothing left to be
    /// sent.
    fn stop_if_asked(&mut self) {
        if !self.service.shared.stopping.load(Relaxed) {
            return;
        }
        if self.stop_at.is_none() {
            let stop_at = Instant::now() + Duration::from_millis(STOP_MILLISECONDS_MAX);
            self.stop_at = Some(stop_at);
            self.service.holding.end_at(stop_at - Duration::from_millis(STOP_SENDING_MILLISECONDS));
            self.acceptor.close(&self.poller);
            self.datagrams.close(&self.poller);
        }
        self.end_links();
        let goes_on = |one: &Connection| one.output.is_some() || one.has_more || one.is_parked;
        let over: Vec<_> = self.connections.iter().filter(|one| !goes_on(one)).map(|one| one.token).collect();
        over.into_iter().for_each(|token| self.close_for(token, Some(CloseReason::Shutdown)));
    }

    fn maintain(&mut self, turn: &Turn<'_>) {
        let is_due = self.service.shared.engine.store().maintain(turn, self.id, self.service.now);
        self.parking.end_turn(Instant::now, is_due);
    }

    fn has_ended(&self) -> bool {
        let is_done = || self.connections.is_empty() && self.links.are_none();
        self.stop_at.is_some_and(|until| is_done() || Instant::now() >= until)
    }
}

/// What a connection from a listener begins with; None where TLS cannot begin.
fn begin(shared: &Shared, security: Security, now: SteadySeconds) -> Option<Transport> {
    match &shared.config.tls {
        Some(tls) if security != Security::Plain => {
            let session = tls.begin(security).inspect_err(|error| log::warn!("TLS cannot begin: {error}")).ok()?;
            Some(Transport::Tls(Box::new(Session::new(session, now))))
        }
        _ => Some(Transport::Plain),
    }
}

/// Watch a connection's socket for `interest`. For nothing means not at all: a client that has hung
/// up would be told again and again.
fn watch(poller: &Poller, connection: &mut Connection, interest: Interest) -> io::Result<()> {
    let (before, token) = (connection.interest, connection.token.to_bits());
    connection.interest = interest;
    match (before, interest) {
        (_, Interest::Nothing) => poller.remove(&connection.socket),
        (Interest::Nothing, _) => poller.add(&connection.socket, token, interest),
        _ => poller.change(&connection.socket, token, interest),
    }
}
