//! Histories that cannot be: each breaks one rule, and the checker must see it.

use super::notation::read;
use crate::support::history::judge::judge;

/// Rejected, with these words among the complaints.
fn reject_for(words: &str, text: &str) {
    let complaints = judge(&read(text)).expect_err(text).join("\n");
    assert!(complaints.contains(words), "{text}\nis rejected, but with: {complaints}");
}

/// Rejected because no order explains it.
fn reject(text: &str) {
    reject_for("NoOrder", text);
}

#[test]
fn a_read_of_what_is_gone_or_not_yet_there() {
    reject("a 0-1 set 1\n a 2-3 set 2\n a 4-5 get 1");
    reject("a 0-1 set 1\n a 2-3 get -");
    reject("a 0-1 set 1\n a 2-3 del ok\n a 4-5 get 1");
    reject("a 0-1 set 1\n b 2-3 set 2\n c 4-5 get 1");
    reject("a 0-1 set 1\n a 2-3 get 1\n a 4-5 get -");
}

#[test]
fn a_value_that_nobody_wrote() {
    reject_for("nobody had written", "a 0-1 get 7");
    reject_for("nobody had written", "a 0-1 get 1\n a 2-3 set 1");
    reject_for("nobody had written", "a 0-1 set 1\n r1.x 2-3 get 2\n a 4-5 set 2");
    reject_for("nobody had written", "between.x 0-1 get 3");
    reject_for("nobody had written", "a 0-1 set 1\n promote\n between.x 3-4 get 3\n b 5-6 set 3");
}

/// Two reads one after the other, that would need the writes in two orders.
#[test]
fn readers_that_disagree() {
    reject("a 0-9 set 1\n b 0-9 set 2\n c 1-2 get 1\n c 3-4 get 2\n c 5-6 get 1");
    reject("a 0-9 set 1\n b 1-2 get 1\n c 3-4 get -");
    reject("a 0-9 set 1\n b 0-9 set 2\n c 1-2 get 1\n d 3-4 get 2\n e 10-11 get 1");
    reject("a 0-9 set 1\n b 0-9 set 2\n c 10-11 get 1\n d 12-13 get 2");
}

#[test]
fn a_compare_and_swap_that_two_have_won() {
    reject("a 0-1 set 1\n b 2-9 cas 1>2 ok\n c 2-9 cas 1>3 ok");
    reject("a 0-1 set 1\n b 2-3 set 2\n b 4-5 cas 1>3 ok");
    reject("a 0-1 set 1\n b 2-3 cas 1>2 exists");
    reject("a 0-1 set 1\n b 2-3 cas 1>2 -");
    reject("a 0-1 cas 1>2 exists");
    reject("a 0-1 set 1\n a 2-3 cas 1>2 ok\n a 4-5 get 1");
}

#[test]
fn a_counter_that_loses_or_repeats() {
    reject("a 0-1 set 0\n b 2-9 incr 1 =1\n c 2-9 incr 1 =1");
    reject("a 0-1 set 0\n b 2-9 incr 1 =1\n c 2-9 incr 1 =3");
    reject("a 0-1 set 0\n b 2-3 incr 1 =1\n b 4-5 get 0");
    reject("a 0-1 set 0\n b 2-3 incr 1 -");
    reject("a 0-1 incr 1 =1");
}

#[test]
fn a_delete_that_is_not_so() {
    reject("a 0-1 del ok");
    reject("a 0-1 set 1\n b 2-9 del ok\n c 2-9 del ok");
    reject("a 0-1 set 1\n a 2-3 del -");
}

#[test]
fn what_was_never_answered_comes_once_and_in_order() {
    reject("a 0-? set 1\n b 1-2 get 1\n b 3-4 set 2\n b 5-6 get 2\n b 7-8 get 1");
    reject("a 0-? set 1\n a 1-? set 2\n b 2-3 get 2\n b 4-5 get 1");
    reject("a 0-1 set 5\n b 2-? incr 2\n c 3-4 get 7\n c 5-6 get 9");
    reject("b 1-2 set 2\n a 3-? cas 7>8\n b 4-5 get 8");
    reject_for("nobody had written", "b 1-2 get 1\n a 3-? set 1");
}

#[test]
fn one_connection_is_executed_in_its_order() {
    reject("a 0-8 set 1\n a 0-9 set 2\n b 10-11 get 1");
    reject("a 0-8 get 1\n a 0-9 set 1");
    reject("a 0-8 set 1\n a 0-9 get -");
}

#[test]
fn a_replica_that_goes_back() {
    reject("a 0-1 set 1\n a 2-3 set 2\n r1.x 4-5 get 2\n r1.x 6-7 get 1");
    reject("a 0-1 set 1\n a 2-3 set 2\n r1.x 4-5 get 2\n r1.y 6-7 get 1");
    reject("a 0-1 set 1\n r1.x 4-5 get 1\n r1.x 6-7 get -");
    reject("a 0-9 set 1\n b 0-9 set 2\n c 1-2 get 1\n c 3-4 get 2\n r1.x 1-2 get 2\n r1.x 3-4 get 1");
    reject("a 0-9 set 1\n b 0-9 set 2\n r1.x 1-2 get 2\n r1.x 3-4 get 1\n r2.x 1-2 get 1\n r2.x 3-4 get 2");
}

/// A replica shows the primary's order and nothing else.
#[test]
fn a_replica_that_shows_what_the_primary_never_had() {
    reject("a 0-1 set 1\n b 2-3 cas 7>8 -\n r1.x 4-5 get 8");
    reject("a 0-1 set 1\n a 2-3 set 2\n b 4-5 cas 1>9 exists\n r1.x 4-5 get 9");
    reject("a 0-1 set 1\n r1.x 2-3 get -\n r1.x 4-5 get 1\n r1.x 6-7 get -");
    reject("a 0-1 set 1\n a 2-9 del ok\n r1.x 2-2 get 1\n r1.x 3-4 get -\n b 5-6 get 1");
    reject("a 0-1 set 0\n a 2-3 incr 2 =2\n r1.x 4-5 get 1");
}

#[test]
fn an_acknowledged_write_that_is_lost() {
    reject("a 0-1 set 1 !\n promote\n b 10-11 get -");
    reject("a 0-1 set 1\n a 2-3 set 2 !\n promote\n b 10-11 get 1");
    reject("a 0-1 set 1 !\n a 2-3 del ok !\n promote\n b 10-11 get 1");
    reject("a 0-1 set 1 !\n a 2-3 cas 1>2 ok !\n a 4-5 set 3\n promote\n b 10-11 get 1");
    reject("a 0-1 set 0 !\n a 2-3 incr 1 =1 !\n promote\n b 10-11 incr 1 =1");
    reject("a 0-1 set 1 !\n promote\n promote\n b 10-11 get -");
    reject("a 0-1 set 1 !\n promote\n b 10-11 set 2 !\n promote\n b 20-21 get 1");
    reject("a 0-9 set 1 !\n b 0-9 set 2 !\n promote\n b 10-11 get -");
}

#[test]
fn what_was_overwritten_or_lost_comes_back() {
    reject("a 0-1 set 1\n a 2-3 set 2 !\n promote\n b 10-11 get 2\n b 12-13 get 1");
    reject("a 0-1 set 1 !\n a 2-? set 2\n promote\n b 10-11 get 1\n b 12-13 get 2");
    reject("a 0-1 set 1 !\n a 2-? set 2\n promote\n b 10-11 get 1\n promote\n b 20-21 get 2");
    reject("a 0-? set 1\n promote\n b 10-11 get -\n r1.x 12-13 get 1");
}

#[test]
fn what_the_heir_has_shown_is_lost() {
    reject("a 0-1 set 1\n r1.x 4-5 get 1\n promote r1\n b 10-11 get -");
    reject("a 0-1 set 1\n a 2-3 set 2\n r1.x 4-5 get 2\n promote r1\n b 10-11 get 1");
    reject("a 0-? set 1\n r1.x 4-5 get 1\n promote r1\n b 10-11 get -");
}

/// Without such records every history would pass that the recorder has muddled.
#[test]
fn records_that_are_of_no_use() {
    reject_for("written twice", "a 0-1 set 1\n a 2-3 set 1");
    reject_for("written twice", "a 0-1 set 1\n promote\n b 10-11 set 1");
    reject_for("before its request", "a 5-1 set 1");
    reject_for("out of order", "a 0-9 set 1\n a 1-5 set 2");
    reject_for("out of order", "a 0-? set 1\n a 1-5 set 2");
    reject_for("write to a replica", "r1.x 0-1 set 1");
}

/// Each key is judged by itself, and named.
#[test]
fn one_wrong_key_among_many() {
    let mut reigns = read("a 0-1 set 1\n a 2-3 get 1");
    let wrong = read("b 0-1 set 2\n b 2-3 get -").remove(0).events;
    for key in 1..9 {
        let session = |event: &crate::support::history::event::Event| crate::support::history::event::Event {
            key,
            session: 10 + key,
            ..*event
        };
        let of_key: Vec<_> = wrong.iter().map(session).take(if key == 5 { 2 } else { 1 }).collect();
        reigns[0].events.extend(of_key);
    }
    let complaints = judge(&reigns).expect_err("key 5");
    assert!(complaints.len() == 1 && complaints[0].starts_with("key 5 in reign 1:"), "{complaints:?}");
}
