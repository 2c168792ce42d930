//! The meta commands, as structures.

use super::Exptime;

/// Which meta command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaVerb {
    /// mg.
    Get,
    /// ms.
    Set,
    /// md.
    Delete,
    /// ma.
    Arithmetic,
    /// me.
    Debug,
}

/// The M flag of ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetMode {
    /// S: whatever is there.
    #[default]
    Set,
    /// E: only if nothing is there.
    Add,
    /// A: behind what is there.
    Append,
    /// P: before what is there.
    Prepend,
    /// R: only if something is there.
    Replace,
}

/// One meta command with its flags digested. Flags that are to be given back are walked in the
/// order in which they came by [`super::reply`], from `flag_tokens`.
#[derive(Debug)]
pub struct MetaRequest<'a> {
    /// Which command.
    pub verb: MetaVerb,
    /// The key as stored: decoded when the b flag was given.
    pub key: &'a [u8],
    /// The key as the client wrote it: what k gives back.
    pub key_token: &'a [u8],
    /// The flags as they came, separated by blanks; what the reply's flags are made from.
    pub flag_tokens: &'a [u8],
    /// ms: the value; empty otherwise.
    pub value: &'a [u8],
    /// b: the key came as base64.
    pub base64_key: bool,
    /// q: leave out the usual answer (mg: EN; ms, md, ma: HD). NF is never hidden.
    pub quiet: bool,
    /// v: the value is wanted in the answer.
    pub want_value: bool,
    /// u: do not count this as a use.
    pub no_bump: bool,
    /// C: only if the item's CAS is this (mg: leave out the value if it is).
    pub compare_cas: Option<u64>,
    /// E: the CAS the item is to have after a change.
    pub new_cas: Option<u64>,
    /// F: client flags of a stored item.
    pub client_flags: u32,
    /// I: ms: accept an older CAS but mark the item stale; md: mark stale instead of deleting.
    pub invalidate: bool,
    /// x: md: take the value away, keep the item.
    pub remove_value: bool,
    /// T: new time to live.
    pub ttl: Option<Exptime>,
    /// N: create on a miss with this time to live (mg, ma; ms in append or prepend mode).
    pub vivify: Option<Exptime>,
    /// R: win the recache when less than this many seconds remain.
    pub recache_seconds: Option<i32>,
    /// A, Remora's own: replicas that must have applied what this command writes before it is
    /// answered, instead of as many as the server is set to.
    pub ack_replicas: Option<u8>,
    /// M of ms.
    pub set_mode: SetMode,
    /// M of ma: true for D or -.
    pub decrement: bool,
    /// D: how much (1 if not given).
    pub delta: u64,
    /// J: value of an item that ma creates (0 if not given).
    pub initial: u64,
}

impl<'a> MetaRequest<'a> {
    /// A command with no flags: what each of them is when it is not given.
    pub fn new(verb: MetaVerb, key: &'a [u8]) -> Self {
        MetaRequest {
            verb,
            key,
            key_token: key,
            flag_tokens: b"",
            value: b"",
            base64_key: false,
            quiet: false,
            want_value: false,
            no_bump: false,
            compare_cas: None,
            new_cas: None,
            client_flags: 0,
            invalidate: false,
            remove_value: false,
            ttl: None,
            vivify: None,
            recache_seconds: None,
            ack_replicas: None,
            set_mode: SetMode::Set,
            decrement: false,
            delta: 1,
            initial: 0,
        }
    }
}

/// The flags of a meta command, one by one, in the order in which they came. None is empty.
pub(super) fn flag_tokens(tokens: &[u8]) -> impl Iterator<Item = &[u8]> {
    tokens.split(|byte| *byte == b' ').filter(|token| !token.is_empty())
}
