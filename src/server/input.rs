//! The unfinished part of what a connection has sent. A connection that waits for nothing holds no memory here.
//!
//! Memory follows what has arrived, never what was announced, and is charged to a budget of the whole process. Freed
//! buffers go to a bounded pool of the worker, so the steady state allocates nothing.

use crate::base::limits::{
    INPUT_BUFFER_BYTES_MIN, INPUT_POOL_BUFFERS_MAX, INPUT_POOL_BYTES_MAX, READ_BYTES_WHEN_TIGHT,
};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes that unfinished requests of all connections hold, and may hold.
pub struct InputBudget {
    held_bytes: AtomicUsize,
    bytes_max: usize,
}

/// The budget is used up.
#[derive(Debug, PartialEq, Eq)]
pub struct OverBudget;

impl InputBudget {
    /// Nothing held yet.
    pub fn new(bytes_max: usize) -> InputBudget {
        InputBudget { held_bytes: AtomicUsize::new(0), bytes_max }
    }

    /// True past half: read in small steps, and close who holds memory without going on.
    pub fn is_tight(&self) -> bool {
        self.held_bytes.load(Relaxed) > self.bytes_max / 2
    }

    fn take(&self, bytes: usize) -> Result<(), OverBudget> {
        let before = self.held_bytes.fetch_add(bytes, Relaxed);
        if before.saturating_add(bytes) <= self.bytes_max {
            return Ok(());
        }
        self.give(bytes);
        Err(OverBudget)
    }

    fn give(&self, bytes: usize) {
        self.held_bytes.fetch_sub(bytes, Relaxed);
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
        // Not one that is much too large: it would be charged in full to a request that does not need it.
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
    pub budget: &'a InputBudget,
}

/// See the module. The pending bytes are `buffer[start..]`.
#[derive(Default)]
pub struct Input {
    buffer: Vec<u8>,
    start: usize,
    wanted_bytes: usize,
}

impl Input {
    /// What has arrived and is not consumed.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// How long the pending bytes must be before looking at them makes sense.
    pub fn wanted_bytes(&self) -> usize {
        self.wanted_bytes
    }

    /// True when it makes sense to look at the pending bytes as they are.
    pub fn is_executable(&self) -> bool {
        self.start < self.buffer.len() && self.pending().len() >= self.wanted_bytes
    }

    /// Bytes of memory held.
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Hold `rest` instead of whatever was held.
    pub fn keep(&mut self, rest: &[u8], wanted_bytes: usize, memory: &mut InputMemory<'_>) -> Result<(), OverBudget> {
        self.wanted_bytes = wanted_bytes;
        if rest.is_empty() {
            self.release(memory);
            return Ok(());
        }
        self.buffer.clear();
        self.start = 0;
        if self.buffer.capacity() < rest.len() {
            self.exchange(rest.len().next_power_of_two().max(INPUT_BUFFER_BYTES_MIN), memory)?;
        }
        self.buffer.extend_from_slice(rest);
        Ok(())
    }

    /// The first `bytes` pending bytes are done with; look again when `wanted_bytes` are there.
    pub fn consume(&mut self, bytes: usize, wanted_bytes: usize, memory: &mut InputMemory<'_>) {
        self.start += bytes;
        self.wanted_bytes = wanted_bytes;
        if self.start >= self.buffer.len() {
            self.release(memory);
        }
    }

    /// Room behind the pending bytes, to read into: some at once, more as more arrives, no more than is wanted soon.
    pub fn grow(&mut self, memory: &mut InputMemory<'_>) -> Result<&mut Vec<u8>, OverBudget> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let held = self.buffer.len();
        let least = held + READ_BYTES_WHEN_TIGHT;
        if self.buffer.capacity() < least.min(self.wanted_bytes.max(held + 1)) {
            let capacity = (2 * held).clamp(least, self.wanted_bytes.max(least));
            self.exchange(capacity, memory)?;
        }
        Ok(&mut self.buffer)
    }

    /// Give the memory back.
    pub fn release(&mut self, memory: &mut InputMemory<'_>) {
        memory.budget.give(self.buffer.capacity());
        memory.pool.give(std::mem::take(&mut self.buffer));
        self.start = 0;
    }

    /// Move what is held into a buffer of at least `capacity` bytes.
    fn exchange(&mut self, capacity: usize, memory: &mut InputMemory<'_>) -> Result<(), OverBudget> {
        memory.budget.take(capacity)?;
        let mut buffer = memory.pool.take(capacity);
        if memory.budget.take(buffer.capacity() - capacity).is_err() {
            let surplus = std::mem::replace(&mut buffer, Vec::with_capacity(capacity));
            memory.pool.give(surplus);
        }
        buffer.extend_from_slice(&self.buffer);
        memory.budget.give(self.buffer.capacity());
        memory.pool.give(std::mem::replace(&mut self.buffer, buffer));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_charged_and_given_back() {
        let (mut pool, budget) = (InputPool::default(), InputBudget::new(1 << 20));
        let mut memory = InputMemory { pool: &mut pool, budget: &budget };
        let mut input = Input::default();
        input.keep(b"get a", 6, &mut memory).unwrap();
        assert_eq!((input.pending(), input.is_executable()), (&b"get a"[..], false));
        assert_eq!(budget.held_bytes.load(Relaxed), input.held_bytes());
        input.grow(&mut memory).unwrap().push(b'\n');
        assert!(input.is_executable());
        input.consume(2, 0, &mut memory);
        assert_eq!(input.pending(), b"t a\n");
        input.consume(4, 0, &mut memory);
        assert_eq!((input.held_bytes(), budget.held_bytes.load(Relaxed)), (0, 0));
        assert_eq!(memory.pool.buffers.len(), 1);
    }

    #[test]
    fn memory_follows_what_arrives_not_what_was_announced() {
        let (mut pool, budget) = (InputPool::default(), InputBudget::new(64 << 20));
        let mut memory = InputMemory { pool: &mut pool, budget: &budget };
        let mut input = Input::default();
        input.keep(b"set a 0 0 1000000000\r\nx", 1_000_000_024, &mut memory).unwrap();
        assert!(input.held_bytes() <= INPUT_BUFFER_BYTES_MIN);
        for _ in 0..2000 {
            let buffer = input.grow(&mut memory).unwrap();
            let room = (buffer.capacity() - buffer.len()).min(1000);
            assert!(room > 0);
            buffer.extend(std::iter::repeat_n(b'x', room));
            assert!(input.held_bytes() <= 2 * input.pending().len() + READ_BYTES_WHEN_TIGHT);
        }
    }

    #[test]
    fn an_announced_body_ends_in_a_buffer_of_its_size() {
        let (mut pool, budget) = (InputPool::default(), InputBudget::new(64 << 20));
        let mut memory = InputMemory { pool: &mut pool, budget: &budget };
        let mut input = Input::default();
        let wanted = 1_048_600;
        input.keep(&[b'x'; 40_000], wanted, &mut memory).unwrap();
        while !input.is_executable() {
            let missing = wanted - input.pending().len();
            let buffer = input.grow(&mut memory).unwrap();
            let room = (buffer.capacity() - buffer.len()).min(missing);
            buffer.extend(std::iter::repeat_n(b'x', room));
        }
        assert!(input.held_bytes() <= wanted + READ_BYTES_WHEN_TIGHT);
    }

    #[test]
    fn past_the_budget_nothing_more_is_given() {
        let (mut pool, budget) = (InputPool::default(), InputBudget::new(4096));
        let mut memory = InputMemory { pool: &mut pool, budget: &budget };
        let mut inputs = Vec::new();
        let refused = loop {
            let mut input = Input::default();
            match input.keep(b"x", 2, &mut memory) {
                Ok(()) => inputs.push(input),
                Err(refused) => break refused,
            }
        };
        assert_eq!((refused, inputs.len()), (OverBudget, 4096 / INPUT_BUFFER_BYTES_MIN));
        assert!(budget.is_tight());
        inputs.iter_mut().for_each(|input| input.release(&mut memory));
        assert_eq!(budget.held_bytes.load(Relaxed), 0);
    }
}
