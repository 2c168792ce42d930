//! Waits for a condition, with a deadline: never for a time alone, and never for so many looks,
//! which a busy machine has over too early.

use std::fmt::{Debug, Display};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// No single wait is longer. Far more than anything takes, because the tests share their cores.
pub const LONG: Duration = Duration::from_secs(60);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Look until it is so; panics with the last complaint after [`LONG`].
pub fn wait_until<T, E: Display>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let until = Instant::now() + LONG;
    loop {
        match look() {
            Ok(found) => return found,
            Err(complaint) if Instant::now() > until => panic!("{what}: not within {LONG:?}: {complaint}"),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Go on with `step`, again and again without a pause, until it is enough; panics after [`LONG`].
pub fn go_on_until(what: &str, mut step: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !step() {
        assert!(Instant::now() < until, "{what}: not within {LONG:?}");
    }
}

/// A complaint unless both are the same.
pub fn expect_eq<T: PartialEq + Debug>(what: &str, is: T, should: T) -> Result<(), String> {
    if is == should { Ok(()) } else { Err(format!("{what} is {is:?}, not {should:?}")) }
}

/// Sets its flag when it goes out of scope, also where a test fails: the threads of a scope that
/// look at it end, and nobody waits for them for ever.
pub struct Ends<'e>(pub &'e AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
