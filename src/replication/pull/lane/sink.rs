//! Where a lane's bytes go: to the store, record by record, each checked before. A record that the
//! end of a piece cuts is kept until the next piece brings the rest.
//!
//! Invariant: `cursor + carry` is the position of the first word that was not taken from a piece.

use super::super::Counts;
use super::super::carry::Carry;
use super::super::piece::Piece;
use crate::store::{BadRecord, Follower, Stop};

/// Given up at once beyond what an append needs, where the primary evicts: [`Sink::make_room`].
const SLACK_BYTES: u64 = 64 << 10;
/// Log bytes walked in one go to let go of what the primary has given up.
const GIVE_UP_BYTES: u64 = 1 << 20;

/// See the module.
pub struct Sink<'s> {
    /// The shard's.
    pub follower: Follower<'s>,
    /// Whether the primary may give up what lives.
    evicts: bool,
    carry: Carry,
    /// Everything below this position is given up.
    given_up_to: u64,
    /// Readers may still have kept the bytes of what was given up last.
    keeps_bytes: bool,
}

/// How feeding a piece ended.
pub enum Fed {
    /// All of it is used.
    Up,
    /// The rest has to wait for room.
    Partly,
    /// The record at the cursor has failed its check.
    Bad(BadRecord),
}

impl<'s> Sink<'s> {
    /// Into one shard of the store.
    pub fn new(follower: Follower<'s>, evicts: bool) -> Sink<'s> {
        Sink { follower, evicts, carry: Carry::default(), given_up_to: 0, keeps_bytes: false }
    }

    /// Feed the words of a piece that has arrived to the store, until they are used up or cannot be
    /// for now; `tail` is the primary's, by the last look. True if any were consumed.
    pub fn feed(&mut self, piece: &mut Piece, tail: u64, counts: &mut Counts) -> (bool, Fed) {
        let mut moved = false;
        let Some(landing) = &piece.landing else { return (moved, Fed::Partly) };
        loop {
            let words = &landing.words(piece.bytes)[piece.consumed..];
            let stop = if self.carry.is_empty() {
                let applied = self.follower.apply(words, piece.begin + piece.consumed as u64 * 8);
                piece.consumed += applied.bytes as usize / 8;
                counts.records += applied.records;
                moved |= applied.bytes > 0;
                if let Stop::Cut { wanted_bytes } = applied.stop {
                    self.carry.want(wanted_bytes);
                    piece.consumed += self.carry.take(&words[applied.bytes as usize / 8..]);
                    return (moved, self.fed(piece));
                }
                applied.stop
            } else {
                let taken = self.carry.take(words);
                piece.consumed += taken;
                moved |= taken > 0;
                if !self.carry.is_complete() {
                    return (moved, self.fed(piece));
                }
                match self.apply_carry(counts) {
                    None => {
                        moved = true;
                        continue;
                    }
                    Some(stop) => stop,
                }
            };
            match stop {
                Stop::NoRoom { end } if self.make_room(end, tail) => {}
                Stop::Bad(why) => return (moved, Fed::Bad(why)),
                Stop::End | Stop::Cut { .. } | Stop::NoRoom { .. } => return (moved, self.fed(piece)),
            }
        }
    }

    /// While a whole record is carried and has found no room, its last piece stays, so that the
    /// record is tried again.
    fn fed(&self, piece: &Piece) -> Fed {
        if piece.consumed * 8 < piece.bytes || self.carry.holds_record() { Fed::Partly } else { Fed::Up }
    }

    /// Apply the record that was put together. None: it is applied, or more of it is wanted.
    fn apply_carry(&mut self, counts: &mut Counts) -> Option<Stop> {
        let applied = self.follower.apply(self.carry.words(), self.follower.cursor());
        counts.records += applied.records;
        match applied.stop {
            Stop::Cut { wanted_bytes } if self.carry.want(wanted_bytes) => None,
            Stop::Cut { .. } => Some(Stop::Bad(BadRecord::Malformed)),
            Stop::End => {
                self.carry.clear();
                None
            }
            stop => Some(stop),
        }
    }

    /// The next record ends at `end` and has no room: give up what it needs. True if it fits now.
    ///
    /// When the primary appended that record, it had given up just as much; what it had moved from
    /// there stands before the record, so it is applied here already. Giving up more could lose
    /// items that were moved to behind that record: until they are applied, and for good if this
    /// replica is promoted before. Where the primary evicts, an item may go missing anyway, so a
    /// little more is given up: each time costs a turn of every reader.
    fn make_room(&mut self, end: u64, tail: u64) -> bool {
        let before = self.follower.room_until();
        let slack_bytes = if self.evicts { SLACK_BYTES } else { 0 };
        let needed = (end + slack_bytes).saturating_sub(self.follower.reach_bytes());
        // As a budget, not as a goal: the record that reaches beyond what is needed must go, too.
        // Where nothing is missing, a reader keeps the room: it comes when that one has left.
        let missing = needed.saturating_sub(self.follower.tail());
        if missing > 0 {
            self.follower.give_up_below(tail, missing.min(GIVE_UP_BYTES));
        }
        self.follower.room_until() > before
    }

    /// Forget what is carried: what follows is not its rest.
    pub fn drop_carried(&mut self) {
        self.carry.clear();
    }

    /// Everything is forgotten, and the log begins anew.
    pub fn forget(&mut self) {
        self.follower.forget();
        self.carry.clear();
        self.given_up_to = 0;
    }

    /// Give up what the primary had given up below `tail`, a bounded amount.
    pub fn give_up_below(&mut self, tail: u64) {
        if tail > self.given_up_to && self.follower.give_up_below(tail, GIVE_UP_BYTES) {
            (self.given_up_to, self.keeps_bytes) = (tail, true);
        } else if self.keeps_bytes {
            self.keeps_bytes = !self.follower.release_given_up();
        }
    }

    /// The primary's log is to have so much. False if there is not so much here now.
    pub fn follow_capacity(&mut self, capacity_bytes: u64) -> bool {
        self.keeps_bytes = true;
        self.follower.follow_capacity(capacity_bytes)
    }

    /// Whether everything below `tail` is given up, and no reader keeps its bytes.
    pub fn has_given_up(&self, tail: u64) -> bool {
        self.given_up_to >= tail && !self.keeps_bytes
    }
}
