//! Random bytes, for keys, tokens and names that nobody is to guess.

use rustix::rand::{GetRandomFlags, getrandom};
use std::io;

/// Fresh random bytes from the kernel.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let got = getrandom(&mut bytes, GetRandomFlags::empty())?;
    if got == N { Ok(bytes) } else { Err(io::Error::other("the kernel gave too few random bytes")) }
}
