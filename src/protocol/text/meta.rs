//! The meta commands mg, ms, md, ma and me: what a request says, and how a line is read into one,
//! its flags digested.
//!
//! Takes a line whose command is known, gives the request. Nothing is executed before all flags
//! have been read, so a refused command has changed nothing; memcached finds an opaque that is too
//! long only after it has, say, incremented.

use super::super::{Exptime, KeyScratch, ParseLimits, Parsed, Refusal, Reply, Request};
use super::demand::{self, OwnFlags};
use super::line::{Line, block_bytes};
use super::tokens::{Tokens, ack_replicas, i32_strict, u32_strict, u64_strict};
use crate::base::limits::{KEY_BYTES_MAX, META_FLAGS_MAX, OPAQUE_BYTES_MAX};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

/// Padding required, bits left over in the last letter ignored: as memcached. It also skips letters
/// that are not base64 and whatever follows the padding; both are refused here, since a key that is
/// silently another key is worse than an error.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

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
/// order in which they came by [`super::encode`], from `flag_tokens`.
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
    /// Which flags of Remora's own it has.
    pub own: OwnFlags,
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
            own: OwnFlags::default(),
            set_mode: SetMode::Set,
            decrement: false,
            delta: 1,
            initial: 0,
        }
    }
}

/// The flags of a meta command, one by one, in the order in which they came. None is empty.
pub fn flag_tokens(tokens: &[u8]) -> impl Iterator<Item = &[u8]> {
    tokens.split(|byte| *byte == b' ').filter(|token| !token.is_empty())
}

/// Any of the five; `rest` is the line behind the command.
pub fn command<'a>(
    line: Line<'a>,
    rest: &'a [u8],
    verb: MetaVerb,
    limits: ParseLimits,
    scratch: &'a mut KeyScratch,
) -> Parsed<'a> {
    let mut tokens = Tokens::behind_command(rest);
    let Some(key) = tokens.next() else {
        return line.refuse(Refusal::BadFormat);
    };
    let value_bytes = match verb {
        MetaVerb::Set => tokens.next_number().and_then(block_bytes),
        _ => Some(0),
    };
    let flag_tokens = tokens.rest();
    // A line that does not even look like one is refused before its block's length is believed.
    let (Some(value_bytes), Some(flags)) = (value_bytes, count_flags(flag_tokens)) else {
        return line.refuse(Refusal::BadFormat);
    };
    let mut request = MetaRequest { flag_tokens, ..MetaRequest::new(verb, key) };
    match verb {
        MetaVerb::Set => set(line, request, flags, value_bytes, limits, scratch),
        MetaVerb::Debug => match debug_key(&mut request, scratch) {
            Ok(()) => line.accept(Request::Meta(request)),
            Err(refusal) => line.refuse(refusal),
        },
        _ => match digest(&mut request, flags, scratch) {
            Ok(digested) if digested.opaque_too_long => line.refuse(Refusal::OpaqueTooLong),
            Ok(_) => line.accept(Request::Meta(request)),
            Err(refusal) => line.refuse(refusal),
        },
    }
}

/// ms: whatever is wrong from here on, the block is swallowed.
fn set<'a>(
    line: Line<'a>,
    mut request: MetaRequest<'a>,
    flags: usize,
    value_bytes: u32,
    limits: ParseLimits,
    scratch: &'a mut KeyScratch,
) -> Parsed<'a> {
    match digest(&mut request, flags, scratch) {
        Err(refusal) => line.refuse_with_block(refusal, Reply::Text, value_bytes, None),
        // Unlike the classic commands, ms drops the old value in every mode.
        Ok(_) if value_bytes as usize > limits.value_bytes_max => {
            line.refuse_with_block(Refusal::TooLarge, Reply::Text, value_bytes, Some(request.key))
        }
        Ok(digested) if digested.opaque_too_long => {
            line.refuse_with_block(Refusal::OpaqueTooLong, Reply::Text, value_bytes, None)
        }
        Ok(_) => line.with_block(value_bytes, Reply::Text, |value| Request::Meta(MetaRequest { value, ..request })),
    }
}

/// What the flags say that is not kept in the request.
#[derive(Default)]
struct Digested {
    /// The letter behind M.
    mode: Option<u8>,
    /// Refused last of all, behind a value that is too large.
    opaque_too_long: bool,
}

/// Read all flags into `request`. ma has one answer for everything that can be wrong here.
fn digest<'a>(request: &mut MetaRequest<'a>, flags: usize, scratch: &'a mut KeyScratch) -> Result<Digested, Refusal> {
    let digested = match (digest_flags(request, flags, scratch), request.verb) {
        (Err(_), MetaVerb::Arithmetic) => return Err(Refusal::InvalidOrDuplicateFlag),
        (digested, _) => digested?,
    };
    if let Some(mode) = digested.mode {
        set_mode(request, mode)?;
    }
    Ok(digested)
}

/// M means something to ms and ma; the others take it and make nothing of it.
fn set_mode(request: &mut MetaRequest<'_>, mode: u8) -> Result<(), Refusal> {
    match (request.verb, mode) {
        (MetaVerb::Set, b'S') => request.set_mode = SetMode::Set,
        (MetaVerb::Set, b'E') => request.set_mode = SetMode::Add,
        (MetaVerb::Set, b'A') => request.set_mode = SetMode::Append,
        (MetaVerb::Set, b'P') => request.set_mode = SetMode::Prepend,
        (MetaVerb::Set, b'R') => request.set_mode = SetMode::Replace,
        (MetaVerb::Set, _) => return Err(Refusal::BadSetMode),
        (MetaVerb::Arithmetic, b'I' | b'+') => request.decrement = false,
        (MetaVerb::Arithmetic, b'D' | b'-') => request.decrement = true,
        (MetaVerb::Arithmetic, _) => return Err(Refusal::BadArithmeticMode),
        (MetaVerb::Get | MetaVerb::Delete | MetaVerb::Debug, _) => {}
    }
    Ok(())
}

/// A duplicate or unknown flag ends the reading; a bad argument does not, and of several the last
/// one is named, but for that of F.
fn digest_flags<'a>(
    request: &mut MetaRequest<'a>,
    flags: usize,
    scratch: &'a mut KeyScratch,
) -> Result<Digested, Refusal> {
    let tokens_before_flags = if request.verb == MetaVerb::Set { 3 } else { 2 };
    // memcached counts a base64 key before decoding, so such keys end at 187 bytes.
    if request.key_token.len() > KEY_BYTES_MAX {
        return Err(Refusal::BadFormat);
    }
    if flags + tokens_before_flags > META_FLAGS_MAX {
        return Err(Refusal::TooManyFlags);
    }
    let mut digested = Digested::default();
    let mut seen = 0u64;
    let mut scratch = Some(scratch);
    let mut bad_argument = None;
    for token in request.flag_tokens.split(|byte| *byte == b' ') {
        let [flag, argument @ ..] = token else { continue };
        let flag = *flag;
        if flag < b'A' {
            return Err(Refusal::InvalidFlag);
        }
        let bit = 1u64 << (flag - b'A');
        if seen & bit != 0 {
            return Err(Refusal::DuplicateFlag);
        }
        seen |= bit;
        let taken = match flag {
            b'b' => scratch.take().map_or(Err(Refusal::BadEncodedKey), |scratch| decode_key(request, scratch)),
            b'M' => {
                // Only the first letter counts, as in memcached. A bare M is a mode that there is
                // not, and a NUL stands for none given.
                let first = argument.first().copied().unwrap_or(b' ');
                digested.mode = Some(first).filter(|mode| *mode != 0);
                Ok(())
            }
            b'O' => {
                digested.opaque_too_long = token.len() > OPAQUE_BYTES_MAX;
                Ok(())
            }
            _ => digest_flag(request, flag, argument)?,
        };
        if let Err(refusal) = taken {
            // That of F has no words of its own.
            let found = if refusal == Refusal::BadFormat { bad_argument } else { None };
            bad_argument = found.or(Some(refusal));
        }
    }
    bad_argument.map_or(Ok(digested), Err)
}

/// One flag that concerns only the request. The outer error is for a flag that does not exist, the
/// inner one for a bad argument. All commands know all flags; one that means nothing to a command
/// is read and ignored.
#[inline]
fn digest_flag(request: &mut MetaRequest<'_>, flag: u8, argument: &[u8]) -> Result<Result<(), Refusal>, Refusal> {
    let number = || u64_strict(argument).filter(|_| !argument.is_empty());
    let signed = || i32_strict(argument).filter(|_| !argument.is_empty());
    let exptime = || signed().map(|seconds| Exptime(seconds.into()));
    let taken = match flag {
        // Given back by the reply, or (P, L) meant for a proxy before the server.
        b'k' | b's' | b't' | b'c' | b'f' | b'h' | b'l' | b'P' | b'L' => Ok(()),
        b'v' => store(Some(true), &mut request.want_value, Refusal::BadToken),
        b'u' => store(Some(true), &mut request.no_bump, Refusal::BadToken),
        b'q' => store(Some(true), &mut request.quiet, Refusal::BadToken),
        b'x' => store(Some(true), &mut request.remove_value, Refusal::BadToken),
        b'I' => store(Some(true), &mut request.invalidate, Refusal::BadToken),
        b'N' => store(exptime().map(Some), &mut request.vivify, Refusal::BadToken),
        b'T' => store(exptime().map(Some), &mut request.ttl, Refusal::BadToken),
        b'R' => store(signed().map(Some), &mut request.recache_seconds, Refusal::BadToken),
        b'C' => store(number().map(Some), &mut request.compare_cas, Refusal::BadToken),
        b'E' => store(number().map(Some), &mut request.new_cas, Refusal::BadToken),
        // Remora's own: memcached has no A.
        b'A' => {
            request.own.add(OwnFlags::ACKS);
            store(ack_replicas(argument).map(Some), &mut request.ack_replicas, Refusal::BadToken)
        }
        b'p' | b'y' | b'Y' | b'r' | b'd' => return demand::digest(request, flag, argument),
        b'J' => store(number(), &mut request.initial, Refusal::BadInitial),
        b'D' => {
            // Of mg it is how far behind a replica may be.
            if request.verb == MetaVerb::Get {
                request.own.add(OwnFlags::REPLICA);
            }
            store(number(), &mut request.delta, Refusal::BadMetaDelta)
        }
        b'F' => {
            let flags = u32_strict(argument).filter(|_| !argument.is_empty());
            store(flags, &mut request.client_flags, Refusal::BadFormat)
        }
        _ => return Err(Refusal::InvalidFlag),
    };
    Ok(taken)
}

fn store<T>(value: Option<T>, place: &mut T, refusal: Refusal) -> Result<(), Refusal> {
    *place = value.ok_or(refusal)?;
    Ok(())
}

/// me looks at no flag but a b that comes first. (1.6.45 wants a further token behind that b, a
/// slip: 1.6.18 and the documentation do not.)
fn debug_key<'a>(request: &mut MetaRequest<'a>, scratch: &'a mut KeyScratch) -> Result<(), Refusal> {
    if request.key_token.len() > KEY_BYTES_MAX {
        return Err(Refusal::BadFormat);
    }
    if flag_tokens(request.flag_tokens).next() == Some(b"b") {
        decode_key(request, scratch).map_err(|_| Refusal::BadFormat)?;
    }
    Ok(())
}

fn decode_key<'a>(request: &mut MetaRequest<'a>, scratch: &'a mut KeyScratch) -> Result<(), Refusal> {
    // A token is never empty, so neither is what it decodes to, but for padding alone: refused by
    // the decoder.
    let length = BASE64.decode_slice(request.key_token, scratch).map_err(|_| Refusal::BadEncodedKey)?;
    request.key = &scratch[..length];
    request.base64_key = true;
    Ok(())
}

/// How many flags there are, or None when one of them opens with neither a letter nor a digit.
/// (That no digit is a flag is found out later, and answered otherwise.) One pass of its own over a
/// few bytes: what is refused here must be refused before any flag is read. memcached's tokens end
/// somewhere; a line that goes on behind them has too many flags.
fn count_flags(flag_tokens: &[u8]) -> Option<usize> {
    let mut flags = 0;
    let mut before = b' ';
    for &byte in flag_tokens {
        if before == b' ' && byte != b' ' && flags <= META_FLAGS_MAX {
            if !matches!(byte, b'A'..=b'z' | b'0'..=b'9') {
                return None;
            }
            flags += 1;
        }
        before = byte;
    }
    Some(flags)
}
