//! The process around the server: what it does when nobody takes what it writes to its standard
//! outputs, and what it says when it is given more memory than there is.
//!
//! | file | what is tested |
//! | --- | --- |
//! | pipes.rs | what the tests hand to a process as its output: pipes that are full or closed, a full disk |
//! | log_pipe.rs | a log that nobody reads holds up no client, and what was lost is counted |
//! | outputs.rs | each command with a full disk or a closed pipe behind its outputs |
//! | memory.rs | a `-m` that is not to be had is told of |
//! | panics.rs | what a panic leaves in the log |

mod log_pipe;
mod memory;
mod outputs;
mod panics;
mod pipes;
