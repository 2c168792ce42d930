//! Bytes that are kept for a short time each, in buffers that their thread uses again.
//!
//! Where hundreds of small pieces are kept at once, and each for an instant, the allocator costs
//! more than all else that is done with them. Each thread has spare buffers of its own, in a bound
//! number, and none of them large.

use std::cell::RefCell;
use std::ops::Deref;

/// A buffer with more memory than this is not used again.
const BUFFER_BYTES_MAX: usize = 512;
/// What a short piece may hold beyond four times its length.
const SLACK_BYTES: usize = 64;
/// A thread keeps no more spare buffers.
const SPARE_MAX: usize = 256;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// See the module. They do not change.
#[derive(Debug, Default)]
pub struct Reused(Vec<u8>);

impl From<&[u8]> for Reused {
    fn from(bytes: &[u8]) -> Reused {
        // A long piece gets its own: a spare one would only be moved.
        let spare = if bytes.is_empty() || bytes.len() > BUFFER_BYTES_MAX { None } else { take(bytes.len()) };
        let mut buffer = spare.unwrap_or_default();
        buffer.extend_from_slice(bytes);
        Reused(buffer)
    }
}

impl From<Vec<u8>> for Reused {
    fn from(buffer: Vec<u8>) -> Reused {
        Reused(buffer)
    }
}

impl Deref for Reused {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Reused {
    fn drop(&mut self) {
        if (1..=BUFFER_BYTES_MAX).contains(&self.0.capacity()) {
            give(std::mem::take(&mut self.0));
        }
    }
}

/// One for so many bytes, which does not hold much more memory than they need.
fn take(bytes: usize) -> Option<Vec<u8>> {
    let fits = |buffer: &mut Vec<u8>| buffer.capacity() <= 4 * bytes + SLACK_BYTES;
    // A thread that ends has no spare ones any more.
    SPARE.try_with(|spare| spare.borrow_mut().pop_if(fits)).ok().flatten()
}

fn give(mut buffer: Vec<u8>) {
    buffer.clear();
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < SPARE_MAX {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spare() -> usize {
        SPARE.with(|spare| spare.borrow().len())
    }

    #[test]
    fn small_buffers_are_used_again_and_hold_nothing_of_the_last() {
        let first = Reused::from(&b"some longer words"[..]);
        let at = first.as_ptr();
        drop(first);
        let second = Reused::from(&b"few"[..]);
        assert_eq!((&*second, second.as_ptr(), spare()), (&b"few"[..], at, 0));
        let third = Reused::from(&b"others"[..]);
        assert_eq!((&*second, &*third), (&b"few"[..], &b"others"[..]), "each has its own");
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        drop(Reused::from(&[0; BUFFER_BYTES_MAX + 1][..]));
        drop(Reused::from(Vec::with_capacity(BUFFER_BYTES_MAX + 1)));
        drop(Reused::default());
        assert_eq!(spare(), 0, "none that is large, and none without memory");
        let many: Vec<_> = (0..SPARE_MAX + 1).map(|_| Reused::from(&b"x"[..])).collect();
        drop(many);
        assert_eq!(spare(), SPARE_MAX);
    }
}
