//! The meta commands mg, ms, md, ma and me, with their flags digested.
//!
//! Takes a line whose command is known, gives the request. Nothing is executed before all flags
//! have been read, so a refused command has changed nothing; memcached finds an opaque that is too
//! long only after it has, say, incremented.

use super::super::meta::{MetaRequest, MetaVerb, SetMode, flag_tokens};
use super::super::{Exptime, KeyScratch, ParseLimits, Parsed, Request, reply};
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

const DUPLICATE_FLAG: &[u8] = b"CLIENT_ERROR duplicate flag\r\n";
const INVALID_FLAG: &[u8] = b"CLIENT_ERROR invalid flag\r\n";
const INVALID_OR_DUPLICATE: &[u8] = b"CLIENT_ERROR invalid or duplicate flag\r\n";
const TOO_MANY_FLAGS: &[u8] = b"CLIENT_ERROR options flags are too long\r\n";
const BAD_TOKEN: &[u8] = b"CLIENT_ERROR bad token in command line format\r\n";
const BAD_KEY: &[u8] = b"CLIENT_ERROR error decoding key\r\n";
const BAD_INITIAL: &[u8] = b"CLIENT_ERROR invalid numeric initial value\r\n";
const BAD_DELTA: &[u8] = b"CLIENT_ERROR invalid numeric delta value\r\n";
const BAD_SET_MODE: &[u8] = b"CLIENT_ERROR invalid mode for ms M token\r\n";
const BAD_ARITHMETIC_MODE: &[u8] = b"CLIENT_ERROR invalid mode for ma M token\r\n";
const OPAQUE_TOO_LONG: &[u8] = b"CLIENT_ERROR opaque token too long\r\n";

type Refusal = &'static [u8];

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
        return line.refuse(reply::BAD_FORMAT);
    };
    let value_bytes = match verb {
        MetaVerb::Set => tokens.next_number().and_then(block_bytes),
        _ => Some(0),
    };
    let flag_tokens = tokens.rest();
    // A line that does not even look like one is refused before its block's length is believed.
    let (Some(value_bytes), Some(flags)) = (value_bytes, count_flags(flag_tokens)) else {
        return line.refuse(reply::BAD_FORMAT);
    };
    let mut request = MetaRequest { flag_tokens, ..MetaRequest::new(verb, key) };
    match verb {
        MetaVerb::Set => set(line, request, flags, value_bytes, limits, scratch),
        MetaVerb::Debug => match debug_key(&mut request, scratch) {
            Ok(()) => line.accept(Request::Meta(request)),
            Err(answer) => line.refuse(answer),
        },
        _ => match digest(&mut request, flags, scratch) {
            Ok(digested) if digested.opaque_too_long => line.refuse(OPAQUE_TOO_LONG),
            Ok(_) => line.accept(Request::Meta(request)),
            Err(answer) => line.refuse(answer),
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
        Err(answer) => line.refuse_with_block(answer, value_bytes, None),
        // Unlike the classic commands, ms drops the old value in every mode.
        Ok(_) if value_bytes as usize > limits.value_bytes_max => {
            line.refuse_with_block(reply::TOO_LARGE, value_bytes, Some(request.key))
        }
        Ok(digested) if digested.opaque_too_long => line.refuse_with_block(OPAQUE_TOO_LONG, value_bytes, None),
        Ok(_) => line.with_block(value_bytes, false, |value| Request::Meta(MetaRequest { value, ..request })),
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
        (Err(_), MetaVerb::Arithmetic) => return Err(INVALID_OR_DUPLICATE),
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
        (MetaVerb::Set, _) => return Err(BAD_SET_MODE),
        (MetaVerb::Arithmetic, b'I' | b'+') => request.decrement = false,
        (MetaVerb::Arithmetic, b'D' | b'-') => request.decrement = true,
        (MetaVerb::Arithmetic, _) => return Err(BAD_ARITHMETIC_MODE),
        (MetaVerb::Get | MetaVerb::Delete | MetaVerb::Debug, _) => {}
    }
    Ok(())
}

/// A duplicate or unknown flag ends the reading; a bad argument does not, and of several the last
/// one is named.
fn digest_flags<'a>(
    request: &mut MetaRequest<'a>,
    flags: usize,
    scratch: &'a mut KeyScratch,
) -> Result<Digested, Refusal> {
    let tokens_before_flags = if request.verb == MetaVerb::Set { 3 } else { 2 };
    // memcached counts a base64 key before decoding, so such keys end at 187 bytes.
    if request.key_token.len() > KEY_BYTES_MAX {
        return Err(reply::BAD_FORMAT);
    }
    if flags + tokens_before_flags > META_FLAGS_MAX {
        return Err(TOO_MANY_FLAGS);
    }
    let mut digested = Digested::default();
    let mut seen = 0u64;
    let mut scratch = Some(scratch);
    let mut bad_argument = None;
    for token in flag_tokens(request.flag_tokens) {
        let (flag, argument) = (token[0], &token[1..]);
        if flag < b'A' {
            return Err(INVALID_FLAG);
        }
        let bit = 1u64 << (flag - b'A');
        if seen & bit != 0 {
            return Err(DUPLICATE_FLAG);
        }
        seen |= bit;
        let taken = match flag {
            b'b' => scratch.take().map_or(Err(BAD_KEY), |scratch| decode_key(request, scratch)),
            b'M' => {
                // Only the first letter counts, as in memcached; a bare M is no mode at all.
                digested.mode = Some(argument.first().copied().unwrap_or(b' '));
                Ok(())
            }
            b'O' => {
                digested.opaque_too_long = token.len() > OPAQUE_BYTES_MAX;
                Ok(())
            }
            _ => digest_flag(request, flag, argument)?,
        };
        bad_argument = taken.err().or(bad_argument);
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
        b'v' => store(Some(true), &mut request.want_value, BAD_TOKEN),
        b'u' => store(Some(true), &mut request.no_bump, BAD_TOKEN),
        b'q' => store(Some(true), &mut request.quiet, BAD_TOKEN),
        b'x' => store(Some(true), &mut request.remove_value, BAD_TOKEN),
        b'I' => store(Some(true), &mut request.invalidate, BAD_TOKEN),
        b'N' => store(exptime().map(Some), &mut request.vivify, BAD_TOKEN),
        b'T' => store(exptime().map(Some), &mut request.ttl, BAD_TOKEN),
        b'R' => store(signed().map(Some), &mut request.recache_seconds, BAD_TOKEN),
        b'C' => store(number().map(Some), &mut request.compare_cas, BAD_TOKEN),
        b'E' => store(number().map(Some), &mut request.new_cas, BAD_TOKEN),
        // Remora's own: memcached has no A.
        b'A' => store(ack_replicas(argument).map(Some), &mut request.ack_replicas, BAD_TOKEN),
        b'J' => store(number(), &mut request.initial, BAD_INITIAL),
        b'D' => store(number(), &mut request.delta, BAD_DELTA),
        b'F' => {
            let flags = u32_strict(argument).filter(|_| !argument.is_empty());
            store(flags, &mut request.client_flags, reply::BAD_FORMAT)
        }
        _ => return Err(INVALID_FLAG),
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
        return Err(reply::BAD_FORMAT);
    }
    if flag_tokens(request.flag_tokens).next() == Some(b"b") {
        decode_key(request, scratch).map_err(|_| reply::BAD_FORMAT)?;
    }
    Ok(())
}

fn decode_key<'a>(request: &mut MetaRequest<'a>, scratch: &'a mut KeyScratch) -> Result<(), Refusal> {
    // A token is never empty, so neither is what it decodes to, but for padding alone: refused by
    // the decoder.
    let length = BASE64.decode_slice(request.key_token, scratch).map_err(|_| BAD_KEY)?;
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
