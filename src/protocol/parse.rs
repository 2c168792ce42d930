//! One entry for all text: finds the line, tells classic from meta, hands on.

use super::{KeyScratch, ParseLimits, Parsed};

/// Parse the first request in `input`.
pub fn parse<'a>(input: &'a [u8], limits: ParseLimits, scratch: &'a mut KeyScratch) -> Parsed<'a> {
    let _ = (limits, scratch);
    Parsed::Incomplete { wanted_bytes: input.len() + 1 }
}
