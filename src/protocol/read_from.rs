//! Whether a read may be answered by a replica: said by a request, or by its connection for all.

/// Whether a replica may answer a read, and how far behind it may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadFrom {
    /// A replica may answer.
    pub replica: bool,
    /// By so many milliseconds at most; None: by any time.
    pub lag_milliseconds: Option<u32>,
}
