//! What lies between a primary and its replica: looks at the control lines, copies of bytes in
//! pieces of any length, and a pull that does with them what replication does: look, copy, look at
//! the tail again, apply.

use crate::compare::Logs;
use remora::base::term::Term;
use remora::store::line::ControlLine;
use remora::store::{Applied, Follower, Stop, Store};
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

/// Pulls after which a replica must have come up with a primary that rests.
const PULLS_MAX: usize = 1_000_000;
/// Longest wait for local readers to end their turns, which last microseconds unless the machine is
/// busy with something else.
const JUMP_WAIT_MAX: Duration = Duration::from_secs(60);

pub struct Link<'s> {
    primary: &'s Store,
    logs: Logs<'s>,
    pub followers: Vec<Follower<'s>>,
    /// The tails at the look before the last: what was given up then is given up here.
    tails_before: Vec<u64>,
    /// Times that the replica was overrun, and began anew at the tail.
    pub jumps: usize,
    /// Times that a piece ended within a record.
    pub cuts: usize,
}

impl<'s> Link<'s> {
    pub fn new(primary: &'s Store, replica: &'s Store) -> Self {
        primary.log_touches();
        let follower = |shard| replica.follower(shard).expect("nobody else follows");
        let followers: Vec<_> = (0..replica.shards().len()).map(follower).collect();
        let tails_before = vec![0; followers.len()];
        Link { primary, logs: Logs::of(primary), followers, tails_before, jumps: 0, cuts: 0 }
    }

    fn line(&self, shard: usize) -> ControlLine<'s> {
        ControlLine::of(self.primary.control_lines().words(), shard)
    }

    /// One READ of at most `piece_bytes`, applied. True when the shard has all that was committed
    /// at the time of the look.
    pub fn pull(&mut self, shard: usize, piece_bytes: usize) -> bool {
        let line = self.line(shard);
        let (term, tail, committed) = (Term(line.term()), line.tail(), line.committed());
        let follower = &self.followers[shard];
        if !self.leads_to(shard, follower.term(), term) || follower.cursor() < tail {
            self.jump(shard, tail);
            return false;
        }
        let given_up = std::mem::replace(&mut self.tails_before[shard], tail);
        let follower = &mut self.followers[shard];
        follower.note_owed(tail, committed, line.owes_until());
        let cursor = follower.cursor();
        follower.give_up_below(given_up, 4096);
        let mut end = committed.min(cursor + piece_bytes as u64);
        loop {
            let words = self.logs.copy(shard, cursor, end);
            // The copies come before the second look at the tail, as READs of one channel do.
            fence(Ordering::Acquire);
            if line.tail() > cursor {
                return false;
            }
            let Applied { bytes, stop, .. } = follower.apply(&words, cursor);
            assert_eq!(follower.cursor(), cursor + bytes);
            match stop {
                Stop::End => return follower.cursor() == committed && follower.give_up_below(tail, 4096),
                Stop::NoRoom { .. } => {
                    // Give up more than the last look showed, as under pressure.
                    follower.give_up_below(tail, 4096);
                    return false;
                }
                Stop::Cut { wanted_bytes } if bytes == 0 => {
                    assert!(wanted_bytes as u64 > end - cursor && cursor + wanted_bytes as u64 <= committed);
                    self.cuts += 1;
                    end = cursor + wanted_bytes as u64;
                }
                Stop::Cut { .. } => return false,
                Stop::Bad(bad) => panic!("{bad} at {cursor} of shard {shard}, with {} words", words.len()),
            }
        }
    }

    /// Whether the records of `later` come after those of `term`.
    fn leads_to(&self, shard: usize, term: Term, later: Term) -> bool {
        term == later || !self.primary.shards()[shard].history().up_to(term).is_empty()
    }

    fn jump(&mut self, shard: usize, tail: u64) {
        let history = self.primary.shards()[shard].history();
        let follower = &mut self.followers[shard];
        self.jumps += usize::from(follower.term().is_valid());
        follower.forget();
        let begun = Instant::now();
        while begun.elapsed() < JUMP_WAIT_MAX {
            if follower.begin_at(tail, &history) {
                return;
            }
            std::thread::yield_now();
        }
        panic!("local readers never end their turns");
    }

    /// Catch up with a primary that is not written to.
    pub fn settle(&mut self) {
        for shard in 0..self.followers.len() {
            let mut pulls = (0..PULLS_MAX).map(|_| self.pull(shard, 64 << 10));
            assert!(pulls.any(|settled| settled), "shard {shard} never comes up");
        }
    }
}
