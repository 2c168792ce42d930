//! Requests whose shard is another server's, and which are forwarded to it: their places among the
//! answers of their connection.
//!
//! Such a request takes its place in the output when it is forwarded, and its answer is put there
//! when it comes ([`Output::fulfil`]). So answers keep the order of the requests, whichever comes
//! first; what is behind such a place is executed all the same. The places are in one queue with
//! the answers that wait for replicas ([`super::acks`]).
//!
//! What one request asks of several servers (the keys of a get, the shards of a flush_all) has a
//! place for each part. What is done here is a part as well, where it waits for replicas. A part
//! that fails says nothing in its own place: its error stands in the place of the end of the whole
//! answer ([`Wait::End`]), as where a get ends in an error after a part of it has gone out. A get
//! may take several turns, and its parts may be answered and sent before its end is made. Until
//! then its output knows of it ([`Parts`]), and stays with its connection.
//!
//! **Order.** Requests of one connection about one shard are executed in their order. So it is
//! known which shards have some under way, and to whom ([`UnderWay`]): a later one goes the same
//! way, or waits.

use super::acks::{Held, HeldAnswers, Judge, Verdict};
use super::output::Output;
use crate::base::reused::Reused;
use memchr::memrchr;

/// An answer counts as so many bytes before it is there, at least.
pub(super) const FORWARDED_BYTES_MIN: usize = 256;

/// What an answer waits for.
pub(super) enum Wait {
    /// Replicas.
    Acks {
        /// What is held.
        held: Held,
        /// It is a part of an answer that has an end of its own.
        is_part: bool,
    },
    /// Another server.
    Forwarded(Elsewhere),
    /// The parts before it. It stands where the answer ends.
    End,
}

impl Wait {
    /// What becomes of it, once all before it is answered.
    pub(super) fn verdict(&self, judge: &Judge<'_>) -> Verdict {
        match self {
            Wait::Acks { held, .. } => held.verdict(judge),
            Wait::Forwarded(Elsewhere { answer: None, .. }) => Verdict::Waits,
            Wait::Forwarded(_) | Wait::End => Verdict::Stands,
        }
    }
}

/// An answer in parts that has begun and has no end yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Parts {
    /// There is none.
    #[default]
    None,
    /// Nothing was written here for it.
    Unwritten,
    /// Something may have been.
    Written,
}

/// One request, or a part of one, that another server executes.
pub struct Elsewhere {
    /// Which shard it is about; None for a flush_all.
    pub shard: Option<u32>,
    /// Who executes it, by a number of the worker's.
    pub owner: u32,
    /// It is a part of an answer that has an end of its own.
    pub is_part: bool,
    /// Once it has come.
    pub answer: Option<Answer>,
}

/// What has come of it.
pub enum Answer {
    /// These bytes.
    Given(Reused),
    /// This error, as its client is to be told.
    Failed(Reused),
}

impl Answer {
    pub(super) fn bytes(&self) -> usize {
        let (Answer::Given(words) | Answer::Failed(words)) = self;
        words.len()
    }
}

/// How many answers of a connection are under way, of which shards and from whom.
pub(super) struct UnderWay {
    each: Vec<Way>,
    count: usize,
    /// Of answers that have come, and stand behind one that has not.
    pub(super) answered_bytes: usize,
    /// An answer that is under way counts as so many: about as many as the largest of late.
    usual_bytes: usize,
}

struct Way {
    shard: Option<u32>,
    owner: u32,
    count: usize,
}

impl Default for UnderWay {
    fn default() -> UnderWay {
        UnderWay { each: Vec::new(), count: 0, answered_bytes: 0, usual_bytes: 1 << 10 }
    }
}

impl UnderWay {
    pub(super) fn begin(&mut self, elsewhere: &Elsewhere) {
        self.count += 1;
        match self.each.iter_mut().find(|way| way.shard == elsewhere.shard && way.owner == elsewhere.owner) {
            Some(way) => way.count += 1,
            None => self.each.push(Way { shard: elsewhere.shard, owner: elsewhere.owner, count: 1 }),
        }
    }

    pub(super) fn end(&mut self, elsewhere: &Elsewhere, answer: &Answer) {
        let bytes = answer.bytes();
        self.answered_bytes += bytes;
        self.usual_bytes = bytes.max(self.usual_bytes - self.usual_bytes / 8).max(FORWARDED_BYTES_MIN);
        self.count -= 1;
        let is_it = |way: &Way| way.shard == elsewhere.shard && way.owner == elsewhere.owner;
        if let Some(at) = self.each.iter().position(is_it) {
            self.each[at].count -= 1;
            if self.each[at].count == 0 {
                self.each.swap_remove(at);
            }
        }
    }

    /// What counts for the bound of an output: what has come, and what may come.
    pub(super) fn reserved_bytes(&self) -> usize {
        self.answered_bytes + self.count * self.usual_bytes
    }
}

impl HeldAnswers {
    /// The answer to what was forwarded under this number has come.
    pub fn fulfil(&mut self, number: u64, answer: Answer) {
        let first = self.pushed - self.queue.len() as u64;
        let held = number.checked_sub(first).and_then(|at| self.queue.get_mut(at as usize));
        if let Some((_, Wait::Forwarded(elsewhere))) = held {
            self.under_way.end(elsewhere, &answer);
            elsewhere.answer = Some(answer);
        }
    }

    /// What has come of it elsewhere is to stand in its place, unless that is nothing.
    pub(super) fn place(&mut self, elsewhere: Elsewhere) -> Option<Reused> {
        let answer = elsewhere.answer?;
        self.under_way.answered_bytes -= answer.bytes();
        match answer {
            Answer::Failed(words) if elsewhere.is_part => self.note_failure(Some(words)),
            Answer::Given(words) | Answer::Failed(words) => (!words.is_empty()).then_some(words),
        }
    }

    /// A part has failed, if there are words. Nothing is to stand in its own place.
    pub(super) fn note_failure(&mut self, words: Option<Reused>) -> Option<Reused> {
        self.failure = self.failure.take().or(words);
        None
    }
}

impl Output {
    /// Whether any request of this connection is under way to another server.
    #[inline]
    pub fn is_forwarding(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.under_way.count > 0)
    }

    /// Whether each request is to be looked at before it is executed: some are under way to another
    /// server, or the first is a get of which parts are answered.
    #[inline]
    pub fn needs_care(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.under_way.count > 0 || held.parts != Parts::None)
    }

    /// Whether an answer in parts has begun and has no end yet.
    pub fn is_in_parts(&self) -> bool {
        self.parts() != Parts::None
    }

    pub(super) fn parts(&self) -> Parts {
        self.held.as_ref().map_or(Parts::None, |held| held.parts)
    }

    /// What is appended from here on is of an answer in parts, up to [`Output::end_parts`].
    /// `written`: something may have been written here for it.
    pub fn begin_parts(&mut self, written: bool) {
        self.held.get_or_insert_default().parts = if written { Parts::Written } else { Parts::Unwritten };
    }

    /// Who executes what is under way for this shard (None: a flush_all), if anything is.
    pub fn under_way(&self, shard: Option<u32>) -> Option<u32> {
        let each = &self.held.as_ref()?.under_way.each;
        each.iter().find(|way| way.shard == shard).map(|way| way.owner)
    }

    /// The answer to this is to stand at `place`, behind which nothing has been held. Returns the
    /// number by which it finds its place.
    pub fn await_answer(&mut self, place: u64, elsewhere: Elsewhere) -> u64 {
        self.held.get_or_insert_default().push(place..place, Wait::Forwarded(elsewhere))
    }

    /// The answer to what was forwarded under this number has come.
    pub fn fulfil(&mut self, number: u64, answer: Answer) {
        if let Some(held) = &mut self.held {
            held.fulfil(number, answer);
        }
    }

    /// What was appended last is the last line, or packet, of an answer in parts, from `begin` on:
    /// it stands only if no part fails.
    pub fn end_parts(&mut self, begin: u64) {
        let end = self.end();
        let Some(held) = &mut self.held else { return };
        held.parts = Parts::None;
        if held.is_empty() {
            // All parts have gone out.
            if let Some(failure) = held.take_failure() {
                let from = (begin - held.gone_bytes()) as usize - self.lent_bytes;
                self.bytes.truncate(from);
                self.bytes.extend_from_slice(&failure);
            }
            return;
        }
        held.push(begin..end, Wait::End);
    }

    /// Where the last line of what was appended begins.
    pub fn last_line(&self) -> u64 {
        let line_end = self.bytes.len().saturating_sub(1);
        let line_bytes = self.bytes.len() - memrchr(b'\n', &self.bytes[..line_end]).map_or(0, |newline| newline + 1);
        self.end() - line_bytes as u64
    }
}

#[cfg(test)]
mod tests;
