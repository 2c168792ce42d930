//! Replies to bytes, appended to a connection's output.

use super::meta::MetaRequest;

/// `VALUE <key> <flags> <bytes> [<cas>]\r\n`; the value and its line end are the caller's to add.
pub fn value_line(out: &mut Vec<u8>, key: &[u8], client_flags: u32, value_bytes: usize, cas: Option<u64>) {
    let _ = (out, key, client_flags, value_bytes, cas);
}

/// The two letters that open the answer to a meta command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaCode {
    /// HD: done, or a hit without a value.
    Done,
    /// VA: a value follows, of so many bytes.
    Value(usize),
    /// EN: mg missed.
    Miss,
    /// NS: not stored.
    NotStored,
    /// EX: another CAS is there.
    Exists,
    /// NF: nothing is there.
    NotFound,
}

/// What the flags of a meta answer are made from. For an answer without an item use `None`: then only the flags that
/// need none (O, k, b) are given back.
#[derive(Debug, Clone, Copy, Default)]
pub struct MetaFacts {
    /// f
    pub client_flags: u32,
    /// c
    pub cas: u64,
    /// t: seconds left, None for never (-1)
    pub ttl_seconds: Option<u32>,
    /// h: whether it was hit before this command
    pub hit_before: bool,
    /// l: seconds since the access before this command
    pub idle_seconds: u32,
    /// s: bytes of the value
    pub value_bytes: usize,
    /// W
    pub won: bool,
    /// X
    pub stale: bool,
    /// Z
    pub token_sent: bool,
}

/// `<CD> [<size>] <flags>*\r\n`. `quiet` is not looked at here: the engine decides whether to answer at all.
pub fn meta_line(out: &mut Vec<u8>, code: MetaCode, request: &MetaRequest<'_>, facts: Option<&MetaFacts>) {
    let _ = (out, code, request, facts);
}
