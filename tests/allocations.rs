//! Handling a request allocates nothing: once buffers have grown, parsing, executing and answering run in what is there.

#[path = "model/harness.rs"]
#[allow(dead_code)]
mod harness;

use harness::Client;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Allocations of this thread; others (the test harness's own) are none of our business.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting.
struct Counting;

fn count() {
    // A thread that is being torn down has no counter any more; it measures nothing either.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

#[allow(unsafe_code)]
// SAFETY: every call goes to the system's allocator unchanged; counting touches only a thread-local number.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the system allocator's own.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; what is freed came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

const ROUNDS: usize = 2000;

#[test]
fn requests_allocate_nothing() {
    // Small enough to wrap while measured: reclaim must not allocate either.
    let engine = harness::engine(1 << 20, 1, 64 << 10, true, 1);
    let mut client = Client::new(&engine, 0, 1_700_000_000);
    let value = "v".repeat(100);
    let requests = format!(
        "set a 5 0 100\r\n{value}\r\nget a\r\ngets a missing\r\nset n 0 0 2\r\n10\r\nincr n 5\r\ndecr n 1\r\n\
         mg a v c t f s h l k O1\r\nms b 100 c\r\n{value}\r\nma n v c\r\nmd b I\r\nmg b v\r\nmd b q\r\ntouch a 100\r\n\
         gat 0 a\r\nappend a 0 0 3\r\nabc\r\nprepend a 0 0 3\r\nabc\r\ncas a 0 0 1 5\r\nx\r\nadd a 0 0 1\r\nx\r\n\
         mg Zm9v b v k N30\r\nreplace a 0 0 1\r\nx\r\nme a\r\nmn\r\nversion\r\ndelete a\r\ndelete a\r\n"
    );
    let mut answers = Vec::new();
    let mut round = |client: &mut Client<'_>| {
        answers.clear();
        client.send_into(requests.as_bytes(), &mut answers);
        answers.len()
    };
    let warm_bytes = round(&mut client);
    assert!(warm_bytes > 500, "{warm_bytes} bytes of answers");
    for _ in 0..10 {
        round(&mut client);
    }
    let before = allocations();
    for _ in 0..ROUNDS {
        round(&mut client);
    }
    assert_eq!(allocations() - before, 0, "allocations in {ROUNDS} rounds of requests");
    let stats = engine.store().stats();
    assert!(stats.appended_bytes > stats.ring_bytes, "the ring has wrapped: {stats:?}");
}

#[test]
fn the_counter_counts() {
    let before = allocations();
    drop(std::hint::black_box(vec![1u8; 100]));
    assert_eq!(allocations() - before, 1);
}
