//! Any network: a thread of the primary's answers READs over a TCP connection.
