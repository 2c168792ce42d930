//! The unfinished part of what a connection has sent. A connection that waits for nothing holds no
//! memory here.
//!
//! Memory follows what has arrived, never what was announced, and is charged to a [`Budget`] of the
//! whole process. Freed buffers go to a bounded pool of the worker, so the steady state allocates
//! nothing.

use super::budget::Budget;
use crate::base::limits::{
    INPUT_BUFFER_BYTES_MIN, INPUT_POOL_BUFFERS_MAX, INPUT_POOL_BYTES_MAX, READ_BYTES_WHEN_TIGHT,
};

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

/// See the module. The pending bytes are `buffer[start..]`.
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
                self.release(memory);
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
            self.release(memory);
        }
    }

    /// Room behind the pending bytes, to read into: some at once, more as more arrives, no more
    /// than `wanted_bytes` of both where that is soon to be had.
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
    pub fn release(&mut self, memory: &mut InputMemory<'_>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

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
}
