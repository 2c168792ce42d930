//! The process around the server: what it does when nobody takes what it writes to its standard outputs, and what it
//! says when it is given more memory than there is.
//!
//! | file | what is tested |
//! | --- | --- |
//! | process/pipes.rs | what the tests hand to a process as its output: pipes that are full or closed, a full disk |
//! | process/log_pipe.rs | a log that nobody reads holds up no client, and what was lost is counted |
//! | process/outputs.rs | each command with a full disk or a closed pipe behind its outputs |
//! | process/memory.rs | a `-m` that is not to be had is told of |
//! | process/panics.rs | what a panic leaves in the log |

mod support;

#[path = "process/log_pipe.rs"]
mod log_pipe;
#[path = "process/memory.rs"]
mod memory;
#[path = "process/outputs.rs"]
mod outputs;
#[path = "process/panics.rs"]
mod panics;
#[path = "process/pipes.rs"]
mod pipes;
