//! Histories that can be: the checker must let each pass.

use super::notation::read;
use crate::support::history::judge::{Judged, judge};

fn accept(text: &str) -> Judged {
    judge(&read(text)).unwrap_or_else(|complaints| panic!("{text}\n{complaints:#?}"))
}

#[test]
fn one_client() {
    accept("a 0-1 get -\n a 2-3 set 1\n a 4-5 get 1\n a 6-7 del ok\n a 8-9 get -\n a 10-11 del -");
    accept("a 0-1 set 1\n a 2-3 cas 1>2 ok\n a 4-5 cas 1>3 exists\n a 6-7 get 2\n a 8-9 del ok\n a 10-11 cas 2>4 -");
    accept("a 0-1 incr 5 -\n a 2-3 set 10\n a 4-5 incr 5 =15\n a 6-7 incr 1 =16\n a 8-9 get 16");
}

#[test]
fn two_at_the_same_time_in_either_order() {
    accept("a 0-9 set 1\n b 0-9 set 2\n c 10-11 get 1");
    accept("a 0-9 set 1\n b 0-9 set 2\n c 10-11 get 2");
    accept("a 0-9 set 1\n b 0-9 set 2\n c 1-2 get 1\n c 3-4 get 2");
    accept("a 0-9 set 1\n b 1-2 get -\n b 3-4 get 1");
    accept("a 0-1 set 1\n b 2-9 cas 1>2 ok\n c 2-9 cas 1>3 exists");
    accept("a 0-1 set 0\n b 2-9 incr 1 =1\n c 2-9 incr 1 =2\n d 2-9 incr 1 =3");
    accept("a 0-9 del ok\n b 0-9 set 1\n c 10-11 get -");
}

#[test]
fn what_was_never_answered_was_done_or_not_or_late() {
    accept("a 0-? set 1\n b 1-2 get -\n b 3-4 get -");
    accept("a 0-? set 1\n b 1-2 get 1\n b 3-4 get 1");
    accept("a 0-? set 1\n b 1-2 set 2\n b 3-4 get 2\n b 50-51 get 1");
    accept("a 0-? set 1\n a 1-? set 2\n b 2-3 get 1\n b 4-5 get 2");
    accept("a 0-1 set 1\n b 2-? del\n c 3-4 get 1\n c 5-6 get -");
    accept("a 0-1 set 1\n b 2-? cas 1>2\n c 3-4 get 1\n c 5-6 get 2");
    accept("a 0-1 set 1\n b 2-? cas 7>8\n c 3-4 get 1");
    accept("a 0-1 set 5\n b 2-? incr 2\n c 3-4 get 5\n c 5-6 get 7");
    accept("a 0-? get\n b 1-2 get -");
}

#[test]
fn replicas_are_behind() {
    accept("a 0-1 set 1\n a 2-3 set 2\n r1.x 9-10 get -\n r1.x 11-12 get 1\n r1.x 13-14 get 1\n r1.x 15-16 get 2");
    accept("a 0-1 set 1\n a 2-3 set 2\n r1.x 9-10 get 2\n r2.y 11-12 get 1");
    accept("a 0-9 set 1\n r1.x 2-3 get 1\n b 4-5 get 1");
    accept("a 0-1 set 1\n a 2-3 set 2\n r1.x 4-9 get 2\n r1.y 5-8 get 1");
    accept("a 0-? set 1\n r1.x 1-2 get 1");
    accept("a 0-1 set 1\n a 2-3 set 2\n between.x 4-5 get 2\n between.x 6-7 get 1\n between.x 8-9 get -");
}

#[test]
fn a_promotion_keeps_a_beginning() {
    accept("a 0-1 set 1\n a 2-3 set 2\n promote\n b 10-11 get 1");
    accept("a 0-1 set 1\n a 2-3 set 2\n promote\n b 10-11 get -");
    accept("a 0-1 set 1 !\n a 2-3 set 2\n promote\n b 10-11 get 1");
    accept("a 0-1 set 1 !\n a 2-3 set 2\n promote\n b 10-11 get 2");
    accept("a 0-1 set 1 !\n a 2-3 set 2\n c 4-5 get 2\n promote\n b 10-11 get 1");
    accept("a 0-1 set 1 !\n a 2-? set 2\n a 3-? set 3\n promote\n b 10-11 get 2\n b 12-13 set 4");
    accept("a 0-1 set 1 !\n a 2-3 del ok\n promote\n b 10-11 get -");
    accept("a 0-1 set 1\n a 2-3 set 2\n r1.x 4-5 get 1\n promote r1\n b 10-11 get 1");
    accept("a 0-1 set 1\n a 2-3 set 2\n r1.x 4-5 get 2\n promote r2\n b 10-11 get 1");
    accept("a 0-9 set 1 !\n b 0-9 set 2 !\n promote\n b 10-11 get 1");
    accept("a 0-1 set 3\n a 2-3 incr 2 =5 !\n a 4-? incr 2\n promote\n b 10-11 incr 1 =8");
}

/// What is unclear after one promotion may become clear after the next.
#[test]
fn promotions_follow_each_other() {
    accept("a 0-1 set 1\n a 2-3 set 2\n promote\n promote\n b 10-11 get 1");
    accept(
        "a 0-1 set 1 !\n promote\n b 10-? set 2\n promote\n c 20-21 get 2\n c 22-23 set 3 !\n promote\n d 30-31 get 3",
    );
    accept("a 0-1 set 1 !\n promote\n r7.x 10-11 get 1\n b 12-13 get 1\n promote r7\n c 20-21 get 1");
}

#[test]
fn what_was_judged_is_counted() {
    let judged = accept("a 0-1 set 1 !\n a 2-? set 2\n r1.x 3-4 get 1\n promote\n b 5-6 get 1");
    let expected = Judged { reigns: 2, operations: 4, replica_reads: 1, acknowledged: 1, unknown: 1 };
    assert_eq!(judged, expected);
}
