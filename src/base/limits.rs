//! Every fixed bound in one place, with its unit in its name and the reason beside it.
//! What an operator may set is in the configuration instead; the defaults are here.

/// Longest key in bytes, after base64 decoding (memcached's own limit, which clients check for themselves).
pub const KEY_BYTES_MAX: usize = 250;

/// Default of `-I`: the largest value plus its key and header, in bytes.
pub const ITEM_BYTES_DEFAULT: usize = 1 << 20;

/// Longest command line in bytes, its line end included, for all but multi-gets.
pub const LINE_BYTES_MAX: usize = 2048;

/// Longest line of a get, gets, gat or gats in bytes: about four thousand of the longest keys.
pub const GET_LINE_BYTES_MAX: usize = 1 << 20;

/// Longest opaque token of a meta command in bytes (memcached's limit).
pub const OPAQUE_BYTES_MAX: usize = 32;

/// Most flags on one meta command; memcached refuses more, too.
pub const META_FLAGS_MAX: usize = 20;

/// Longest value in bytes that incr and decr look at: 20 digits, and room for blanks.
pub const NUMBER_TEXT_BYTES_MAX: usize = 64;

/// Most key prefixes that `stats detail` counts; what comes later is not counted. About 1.5 MiB at worst.
pub const STATS_PREFIXES_MAX: usize = 4096;

const _: () = assert!(KEY_BYTES_MAX < LINE_BYTES_MAX && LINE_BYTES_MAX < GET_LINE_BYTES_MAX);
