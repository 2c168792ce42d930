//! A worker's own buffers: those that everything is read into, one for the engine, and spare ones
//! that connections borrow while they have something unfinished.

use super::execute::KeyScratches;
use super::input::InputPool;
use super::transport::Sealing;
use crate::base::limits::{
    BATCH_REQUESTS_MAX, KEY_BYTES_MAX, OUTPUT_POOL_BYTES_MAX, OUTPUT_POOL_MAX, READ_BUFFER_BYTES, READS_AHEAD_MAX,
};
use crate::engine::Output;

/// See the module.
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
    outputs: Vec<Box<Output>>,
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
            outputs: Vec::new(),
        }
    }

    /// An empty output.
    pub fn take_output(&mut self) -> Box<Output> {
        self.outputs.pop().unwrap_or_default()
    }

    /// Give back an output whose contents are sent or given up.
    pub fn give_output(&mut self, output: Box<Output>) {
        let reusable = output.is_empty() && output.capacity_bytes() <= OUTPUT_POOL_BYTES_MAX;
        if reusable && self.outputs.len() < OUTPUT_POOL_MAX {
            self.outputs.push(output);
        }
    }
}
