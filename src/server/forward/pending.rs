//! Requests that are forwarded and not answered yet, by the tags of their frames.

use crate::base::reused::Reused;
use crate::engine::forwarded::Answer;
use crate::protocol::forward::Fate;
use crate::protocol::reply::Fault;
use crate::protocol::{Protocol, Reply};
use crate::server::table::Token;
use std::fmt::Display;
use std::time::Instant;

/// What of an answer a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// One key of a get, asked for by a get of its own.
    Key,
    /// One server's part of a flush_all.
    Flush,
    /// Nothing: what it asks for is this server's business, not its client's.
    Unlink,
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It waits for the link.
    Queued,
    /// It is handed to the link: it may have been executed.
    Sent,
    /// Its owner has said that it is not the primary: nothing was done.
    NotMine {
        /// When one said so last.
        last: Instant,
        /// Where to go on here: it belonged here since, and there was no room for it.
        resume: Option<u32>,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Pending {
    /// Whose it is.
    pub client: Token,
    /// The number of its place in that one's output.
    pub place: u64,
    /// Which shard it is about; None for a flush_all.
    pub shard: Option<u32>,
    /// What its answer is of the client's.
    pub part: Part,
    /// How an error is told.
    pub reply: Reply,
    /// What its client speaks.
    pub protocol: Protocol,
    /// As its client sent it, or as a get of one key.
    pub bytes: Reused,
    /// By whom it is to be executed.
    pub owner: u32,
    /// Since when it waits.
    pub since: Instant,
    /// How far it has come.
    pub stage: Stage,
    /// Links that have failed while it waited for them.
    pub failures: u8,
    /// When an owner first said that it is not the primary, if one has.
    pub first_not_mine: Option<Instant>,
}

const END: &[u8] = b"END\r\n";
/// Of the binary protocol.
const PACKET_HEADER_BYTES: usize = 24;

impl Pending {
    /// The answer to its client, where an owner has given this one.
    pub fn answer(&self, fate: Fate, bytes: &[u8]) -> Answer {
        if fate != Fate::Done {
            return self.failure(format_args!("{}", String::from_utf8_lossy(bytes)));
        }
        match self.part {
            Part::Whole => return Answer::Given(bytes.into()),
            // Of a flush_all one answer stands for all parts.
            Part::Flush | Part::Unlink => return Answer::Given(Reused::default()),
            Part::Key => {}
        }
        match bytes.strip_suffix(END) {
            Some(values) => Answer::Given(values.into()),
            None => Answer::Failed(bytes.into()),
        }
    }

    /// Of a flush_all: whether it was done, where it was answered so.
    pub fn is_flushed(&self, fate: Fate, bytes: &[u8]) -> bool {
        fate == Fate::Done
            && match self.reply {
                Reply::Silent => true,
                Reply::Text => bytes == b"OK\r\n",
                // A quiet one says nothing; of a header, bytes 6 and 7 are the status.
                Reply::Binary(_) => bytes.get(6..8).is_none_or(|status| status == [0, 0]),
            }
    }

    /// Where an error's words begin.
    pub fn words_at(&self, fate: Fate) -> usize {
        match self.reply {
            Reply::Binary(_) if fate == Fate::Done => PACKET_HEADER_BYTES,
            _ => 0,
        }
    }

    /// That it has failed, and why.
    pub fn failure(&self, why: impl Display) -> Answer {
        let mut words = Vec::new();
        self.reply.refused_because(&mut words, Fault::Server, why);
        Answer::Failed(words.into())
    }
}

/// All of a worker. A tag is a place here, and how often the place was used. Tags come round: one
/// may be taken out only if nothing can come by its tag any more ([`super::Forwarder::take_out`]).
#[derive(Default)]
pub struct Pendings {
    slots: Vec<(u16, Option<Pending>)>,
    free: Vec<u16>,
    count: usize,
}

impl Pendings {
    /// Whether there is room for one more.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty() || self.slots.len() < usize::from(u16::MAX)
    }

    /// None is there.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Put one in, for which there is room. Returns its tag.
    pub fn insert(&mut self, pending: Pending) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u16::try_from(self.slots.len() - 1).expect("there was room")
        });
        let (uses, place) = &mut self.slots[usize::from(slot)];
        *place = Some(pending);
        self.count += 1;
        u32::from(*uses) << 16 | u32::from(slot)
    }

    /// Look up.
    pub fn get_mut(&mut self, tag: u32) -> Option<&mut Pending> {
        let (uses, pending) = self.slots.get_mut(tag as u16 as usize)?;
        if u32::from(*uses) == tag >> 16 { pending.as_mut() } else { None }
    }

    /// Take out.
    pub fn remove(&mut self, tag: u32) -> Option<Pending> {
        self.get_mut(tag)?;
        let (uses, place) = &mut self.slots[tag as u16 as usize];
        let pending = place.take();
        *uses = uses.wrapping_add(1);
        self.free.push(tag as u16);
        self.count -= 1;
        pending
    }

    /// All that are in, with their tags.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Pending)> {
        let tagged = |(slot, (uses, pending)): (usize, &'_ (u16, Option<Pending>))| {
            let tag = u32::from(*uses) << 16 | slot as u32;
            pending.as_ref().map(|_| tag)
        };
        let tags = self.slots.iter().enumerate().map(tagged);
        tags.zip(&self.slots).filter_map(|(tag, (_, pending))| Some((tag?, pending.as_ref()?)))
    }
}
