//! Faults for tools/sanitizers to find: what it says of the tree is worth something only if it sees
//! these. No part of any test target: compiled by rustc alone.

use std::cell::UnsafeCell;

struct Shared(UnsafeCell<u64>);

// SAFETY: it is not; that is the fault.
unsafe impl Sync for Shared {}

static SHARED: Shared = Shared(UnsafeCell::new(0));

/// Two threads add to one number that is no atomic.
fn race() {
    let add = || {
        for _ in 0..1000 {
            // SAFETY: none.
            unsafe { *SHARED.0.get() += 1 }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(add);
        add();
    });
}

/// A byte behind the end of what was allocated.
fn overrun() {
    let bytes = vec![1u8; std::env::args().count() * 8];
    // SAFETY: none.
    let beyond = unsafe { std::ptr::read_volatile(bytes.as_ptr().add(bytes.len())) };
    println!("{beyond}");
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("race") => race(),
        Some("overrun") => overrun(),
        _ => println!("no fault"),
    }
}
