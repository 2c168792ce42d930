//! Answers that wait for replicas, from a worker's side: which of its connections have some, what
//! the replicas have applied, and how soon to look again. No thread blocks for an answer: while a
//! worker holds some, it sleeps for a shorter time in its poll, and looks once a turn. What is held
//! and what becomes of it is in `engine/acks.rs`.

use super::owner::LINKS;
use super::service::Service;
use super::state::Event;
use super::table::Token;
use super::worker::Worker;
use crate::base::limits::{ACK_PAUSE_MICROSECONDS_MAX, ACK_PAUSE_MICROSECONDS_MIN, ACK_REPLICAS_MAX};
use crate::engine::acks::{Holders, Judge};
use crate::engine::{Engine, Output, WorkerStats};
use crate::replication::REPLICAS_MAX;
use crate::replication::board::{Board, BoardView};
use crate::store::Turn;
use std::sync::Arc;
use std::time::{Duration, Instant};

const _: () = assert!(ACK_REPLICAS_MAX as usize == REPLICAS_MAX);

impl Holders for BoardView {
    fn holders(&self, shard: usize, position: u64) -> usize {
        BoardView::holders(self, shard, position)
    }
}

/// What held answers of a worker are judged by.
pub struct Holding {
    board: BoardView,
    /// The clock, read in this turn if anything is held.
    now: Option<Instant>,
    /// From then on nothing is waited for: the server ends.
    until: Option<Instant>,
}

impl Holding {
    /// By what stands on `board`.
    pub fn new(board: Arc<Board>) -> Holding {
        Holding { board: BoardView::new(board), now: None, until: None }
    }

    /// Another turn, another time.
    pub fn begin_turn(&mut self) {
        self.now = None;
    }

    /// Wait for nothing from `until` on.
    pub fn end_at(&mut self, until: Instant) {
        self.until = Some(until);
    }

    /// Whether nothing is waited for any more.
    pub fn is_ending(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    fn judge<'a>(&'a mut self, engine: &'a Engine) -> Judge<'a> {
        self.board.refresh();
        let now = *self.now.get_or_insert_with(Instant::now);
        let ending = self.until.is_some_and(|until| now >= until);
        Judge { holders: &self.board, now, ending, reigns: engine.store(), lease: engine.lease() }
    }
}

impl Service<'_> {
    /// Let go of what is held no longer.
    #[inline]
    pub(super) fn resolve(&mut self, output: &mut Output) {
        if output.is_holding() {
            self.resolve_held(output);
        }
    }

    fn resolve_held(&mut self, output: &mut Output) {
        let resolved = output.resolve(&self.holding.judge(&self.shared.engine));
        self.stats.acks_ended.add(resolved.answers as u64);
        self.stats.acks_timed_out.add(resolved.failed as u64);
    }

    /// Whether there is something to let go of.
    pub fn is_resolvable(&mut self, output: &Output) -> bool {
        output.is_resolvable(&self.holding.judge(&self.shared.engine))
    }

    /// The connection ends, so its held answers are dropped.
    pub(super) fn abandon(&mut self, output: &mut Output) {
        self.stats.acks_ended.add(output.abandon_held() as u64);
    }
}

/// The connections of a worker that have held answers, and its pause.
pub struct Waiting {
    /// Each once, and all links of other servers as one. One may have been closed, or have been
    /// answered, since.
    pub tokens: Vec<Token>,
    pause: Duration,
    /// What those counters stood at that change when an answer is held or let go of.
    acks_seen: u64,
}

const PAUSE_MIN: Duration = Duration::from_micros(ACK_PAUSE_MICROSECONDS_MIN);
const PAUSE_MAX: Duration = Duration::from_micros(ACK_PAUSE_MICROSECONDS_MAX);

impl Waiting {
    /// None.
    pub fn new() -> Waiting {
        Waiting { tokens: Vec::new(), pause: PAUSE_MIN, acks_seen: 0 }
    }

    /// How long to sleep at most before the next look; None while nothing is held.
    pub fn pause(&self) -> Option<Duration> {
        (!self.tokens.is_empty()).then_some(self.pause)
    }

    /// A look is over. Where an answer was held or let go of since the last one, the next one
    /// follows soon.
    fn looked(&mut self, stats: &WorkerStats) {
        let acks = stats.acks_waited.get().wrapping_add(stats.waits.get()).wrapping_add(stats.acks_ended.get());
        self.pause = if acks == self.acks_seen { (self.pause * 2).min(PAUSE_MAX) } else { PAUSE_MIN };
        self.acks_seen = acks;
    }
}

impl Worker<'_> {
    /// Send answers that have waited long enough for replicas, on connections that were not served
    /// in this turn; and serve links.
    #[cold]
    pub(super) fn serve_waiting(&mut self, turn: &Turn<'_>) {
        for at in 0..self.waiting.tokens.len() {
            let token = self.waiting.tokens[at];
            let Some(connection) = self.connections.get_mut(token) else { continue };
            let output = connection.output.as_ref().filter(|_| connection.served_in_turn != self.turns);
            if output.is_some_and(|output| self.service.is_resolvable(output)) {
                self.serve(turn, token, Event::Answered);
            }
        }
        let links_wait = self.serve_links(turn);
        let Worker { waiting, connections, service, .. } = self;
        waiting.tokens.retain(|token| {
            *token == LINKS && links_wait
                || connections.get_mut(*token).is_some_and(|connection| {
                    connection.is_waiting = connection.awaits_replicas();
                    connection.is_waiting
                })
        });
        waiting.looked(&service.stats);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_sleeps_shorter_while_answers_are_held_and_longer_while_nothing_comes() {
        let (mut waiting, stats) = (Waiting::new(), WorkerStats::default());
        assert_eq!(waiting.pause(), None);
        waiting.tokens.push(Token::other(1));
        assert_eq!(waiting.pause(), Some(PAUSE_MIN));
        let pauses: Vec<_> = (0..20)
            .map(|_| {
                waiting.looked(&stats);
                waiting.pause().expect("something is held")
            })
            .collect();
        assert!(pauses.is_sorted() && pauses.last() == Some(&PAUSE_MAX), "{pauses:?}");
        stats.acks_ended.increment();
        waiting.looked(&stats);
        assert_eq!(waiting.pause(), Some(PAUSE_MIN));
    }
}
