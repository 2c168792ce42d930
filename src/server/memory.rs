//! The memory of a worker and its connections: the worker's buffers ([`Buffers`]), what a
//! connection has sent in part ([`Input`]), and what all connections may hold ([`Budget`]).
//!
//! Memory follows what has arrived, never what was announced, and is charged to the budget of the
//! whole process. Freed buffers go to bounded pools of the worker, so the steady state allocates
//! nothing.

use super::execute::KeyScratches;
use super::transport::Sealing;
use crate::base::limits::{
    BATCH_REQUESTS_MAX, INPUT_BUFFER_BYTES_MIN, INPUT_POOL_BUFFERS_MAX, INPUT_POOL_BYTES_MAX, KEY_BYTES_MAX,
    OUTPUT_POOL_BYTES_MAX, OUTPUT_POOL_MAX, READ_BUFFER_BYTES, READ_BYTES_WHEN_TIGHT, READS_AHEAD_MAX,
};
use crate::engine::Output;
use arrayvec::ArrayVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A worker's own buffers: those that everything is read into, one for the engine, and spare ones
/// that connections borrow while they have something unfinished.
pub struct Buffers {
    /// What is read from a socket comes here first: one for each read ahead, and one for all
    /// others.
    pub reads: Box<[Box<[u8]>]>,
    /// The engine's, for append and prepend.
    pub scratch: Vec<u8>,
    /// The parser's, for the decoded keys of a batch.
    pub keys: Box<KeyScratches>,
    /// For connections by TLS.
    pub sealing: Sealing,
    /// For unfinished requests.
    pub inputs: InputPool,
    /// In boxes, which go to a connection and back in each of its turns.
    outputs: ArrayVec<Box<Output>, OUTPUT_POOL_MAX>,
}

impl Buffers {
    /// Empty, but for the read buffers, of which only what is used takes memory.
    pub fn new() -> Buffers {
        Buffers {
            reads: (0..=READS_AHEAD_MAX).map(|_| vec![0; READ_BUFFER_BYTES].into()).collect(),
            scratch: Vec::new(),
            keys: Box::new([[0; KEY_BYTES_MAX]; BATCH_REQUESTS_MAX]),
            sealing: Sealing::new(),
            inputs: InputPool::default(),
            outputs: ArrayVec::new(),
        }
    }

    /// An empty output.
    pub fn take_output(&mut self) -> Box<Output> {
        self.outputs.pop().unwrap_or_default()
    }

    /// Give back an output whose contents are sent or given up.
    pub fn give_output(&mut self, output: Box<Output>) {
        let reusable = output.is_empty() && output.capacity_bytes() <= OUTPUT_POOL_BYTES_MAX;
        if reusable && !self.outputs.is_full() {
            self.outputs.push(output);
        }
    }
}

/// Spare buffers of a worker.
#[derive(Default)]
pub struct InputPool {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl InputPool {
    fn take(&mut self, bytes: usize) -> Vec<u8> {
        // Not one that is much too large: it would be charged in full to a request that does not
        // need it.
        let fits = |buffer: &Vec<u8>| (bytes..=bytes * 4).contains(&buffer.capacity());
        match self.buffers.iter().rposition(fits) {
            Some(at) => {
                let buffer = self.buffers.swap_remove(at);
                self.bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(bytes),
        }
    }

    fn give(&mut self, mut buffer: Vec<u8>) {
        let bytes = self.bytes + buffer.capacity();
        if buffer.capacity() > 0 && self.buffers.len() < INPUT_POOL_BUFFERS_MAX && bytes <= INPUT_POOL_BYTES_MAX {
            buffer.clear();
            self.bytes = bytes;
            self.buffers.push(buffer);
        }
    }
}

/// Where memory for input comes from: the worker's pool, charged to the process's budget.
pub struct InputMemory<'a> {
    /// Spare buffers.
    pub pool: &'a mut InputPool,
    /// What all may hold.
    pub budget: &'a Budget,
}

/// The unfinished part of what a connection has sent: `buffer[start..]`. A connection that waits
/// for nothing holds no memory here.
#[derive(Default)]
pub struct Input {
    buffer: Vec<u8>,
    start: usize,
}

impl Input {
    /// What has arrived and is not consumed.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Bytes of memory held.
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Hold `rest` instead of whatever was held.
    pub fn keep(&mut self, rest: &[u8], memory: &mut InputMemory<'_>) {
        if rest.is_empty() {
            if self.buffer.capacity() > 0 {
                self.free(memory);
            }
            return;
        }
        self.buffer.clear();
        self.start = 0;
        if self.buffer.capacity() < rest.len() {
            self.exchange(rest.len().next_power_of_two().max(INPUT_BUFFER_BYTES_MIN), memory);
        }
        self.buffer.extend_from_slice(rest);
    }

    /// The first `bytes` pending bytes are done with.
    pub fn consume(&mut self, bytes: usize, memory: &mut InputMemory<'_>) {
        self.start += bytes;
        if self.start >= self.buffer.len() {
            self.free(memory);
        }
    }

    /// Room behind the pending bytes, to read into: some at once, more as more arrives, up to
    /// `wanted_bytes` in all once that is near.
    pub fn grow(&mut self, wanted_bytes: usize, memory: &mut InputMemory<'_>) -> &mut Vec<u8> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let held = self.buffer.len();
        let least = held + READ_BYTES_WHEN_TIGHT;
        if self.buffer.capacity() < least.min(wanted_bytes.max(held + 1)) {
            let capacity = (2 * held).clamp(least, wanted_bytes.max(least));
            self.exchange(capacity, memory);
        }
        &mut self.buffer
    }

    /// Give the memory back.
    pub fn free(&mut self, memory: &mut InputMemory<'_>) {
        memory.budget.give(self.buffer.capacity());
        memory.pool.give(std::mem::take(&mut self.buffer));
        self.start = 0;
    }

    /// Move what is held into a buffer of at least `capacity` bytes.
    fn exchange(&mut self, capacity: usize, memory: &mut InputMemory<'_>) {
        let mut buffer = memory.pool.take(capacity);
        memory.budget.take(buffer.capacity());
        buffer.extend_from_slice(&self.buffer);
        memory.budget.give(self.buffer.capacity());
        memory.pool.give(std::mem::replace(&mut self.buffer, buffer));
    }
}

/// What all connections together may hold of one kind: unfinished requests, or unsent answers.
///
/// Memory is charged and never refused: bytes that have arrived, and answers that have been made,
/// must be kept somewhere. When too much is held, connections that make no progress lose what they
/// hold: see [`super::stillness`].
pub struct Budget {
    /// Shown in `stats`.
    held_bytes: Arc<AtomicU64>,
    bytes_max: u64,
    /// What is left once too much was held: less, so that not each further byte costs another
    /// search.
    aim_bytes: u64,
    share_bytes: u64,
}

impl Budget {
    /// `held_bytes` is where it is counted. A worker's share is what it may always hold.
    pub fn new(held_bytes: Arc<AtomicU64>, bytes_max: usize, workers: usize) -> Budget {
        let aim_bytes = (bytes_max - bytes_max / 8) as u64;
        Budget { held_bytes, bytes_max: bytes_max as u64, aim_bytes, share_bytes: aim_bytes / workers.max(1) as u64 }
    }

    /// More is held.
    pub fn take(&self, bytes: usize) {
        self.held_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Less is held.
    pub fn give(&self, bytes: usize) {
        self.held_bytes.fetch_sub(bytes as u64, Relaxed);
    }

    /// Bytes held now.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Relaxed)
    }

    /// True past half: then little is read at a time, and connections that hold memory and make no
    /// progress are closed sooner.
    pub fn is_tight(&self) -> bool {
        self.held_bytes() > self.bytes_max / 2
    }

    /// True when too much is held.
    pub fn is_over(&self) -> bool {
        self.held_bytes() > self.bytes_max
    }

    /// Bytes that a worker's connections, which hold `own_bytes`, must give up once too much is
    /// held: never below its share. As long as too much is held, some worker has more than its
    /// share.
    pub fn excess_bytes(&self, own_bytes: u64) -> u64 {
        let over = self.held_bytes().saturating_sub(self.aim_bytes);
        if self.is_over() { over.min(own_bytes.saturating_sub(self.share_bytes)) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_charged_and_given_back() {
        let (mut pool, budget) = (InputPool::default(), Budget::new(Arc::default(), 1 << 20, 1));
        let mut memory = InputMemory { pool: &mut pool, budget: &budget };
        let mut input = Input::default();
        input.keep(b"get a", &mut memory);
        assert_eq!(input.pending(), b"get a");
        assert_eq!(budget.held_bytes(), input.held_bytes() as u64);
        input.grow(6, &mut memory).push(b'\n');
        input.consume(2, &mut memory);
        assert_eq!(input.pending(), b"t a\n");
        input.consume(4, &mut memory);
        assert_eq!((input.held_bytes(), budget.held_bytes()), (0, 0));
        assert_eq!(memory.pool.buffers.len(), 1);
    }

    #[test]
    fn memory_follows_what_arrives_not_what_was_announced() {
        let (mut pool, budget) = (InputPool::default(), Budget::new(Arc::default(), 64 << 20, 1));
        let mut memory = InputMemory { pool: &mut pool, budget: &budget };
        let mut input = Input::default();
        input.keep(b"set a 0 0 1000000000\r\nx", &mut memory);
        assert!(input.held_bytes() <= INPUT_BUFFER_BYTES_MIN);
        for _ in 0..2000 {
            let buffer = input.grow(1_000_000_024, &mut memory);
            let room = (buffer.capacity() - buffer.len()).min(1000);
            assert!(room > 0);
            buffer.extend(std::iter::repeat_n(b'x', room));
            assert!(input.held_bytes() <= 2 * input.pending().len() + READ_BYTES_WHEN_TIGHT);
        }
    }

    #[test]
    fn an_announced_body_ends_in_a_buffer_of_its_size() {
        let (mut pool, budget) = (InputPool::default(), Budget::new(Arc::default(), 64 << 20, 1));
        let mut memory = InputMemory { pool: &mut pool, budget: &budget };
        let mut input = Input::default();
        let wanted = 1_048_600;
        input.keep(&[b'x'; 40_000], &mut memory);
        while input.pending().len() < wanted {
            let missing = wanted - input.pending().len();
            let buffer = input.grow(wanted, &mut memory);
            let room = (buffer.capacity() - buffer.len()).min(missing);
            buffer.extend(std::iter::repeat_n(b'x', room));
        }
        assert!(input.held_bytes() <= wanted + READ_BYTES_WHEN_TIGHT);
    }

    #[test]
    fn too_much_is_given_up_by_those_beyond_their_share() {
        let budget = Budget::new(Arc::default(), 8000, 2);
        budget.take(4000);
        assert!(!budget.is_tight());
        budget.take(4000);
        assert!(budget.is_tight() && !budget.is_over());
        assert_eq!(budget.excess_bytes(8000), 0);
        budget.take(1000);
        assert_eq!([9000, 5000, 3500, 0].map(|own| budget.excess_bytes(own)), [2000, 1500, 0, 0]);
        budget.give(1000);
        assert!(!budget.is_over());
    }
}
