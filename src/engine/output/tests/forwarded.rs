//! Answers that other servers give, in their places.

use super::*;
use crate::engine::forwarded::{Answer, Elsewhere};

fn forward(output: &mut Output, shard: Option<u32>, is_part: bool) -> u64 {
    output.await_answer(output.end(), Elsewhere { shard, owner: 7, is_part, answer: None })
}

fn given(words: &str) -> Answer {
    Answer::Given(words.as_bytes().into())
}

fn failed(words: &str) -> Answer {
    Answer::Failed(words.as_bytes().into())
}

/// Let go of what can be; what the socket gets then.
fn released(output: &mut Output) -> String {
    let judge = Judge {
        holders: &Applied { replicas: 0, below: 0 },
        now: since(),
        ending: false,
        reigns: &Unchanged,
        lease: &Lease::default(),
    };
    assert_eq!(output.resolve(&judge).answers, 0, "none waits for replicas");
    sent(output, usize::MAX)
}

#[test]
fn answers_of_others_stand_where_their_requests_stood() {
    let mut output = Output::default();
    output.bytes().extend_from_slice(b"one ");
    let two = forward(&mut output, Some(1), false);
    output.bytes().extend_from_slice(b"three ");
    let [four, silent] = [1, 2].map(|shard| forward(&mut output, Some(shard), false));
    output.bytes().extend_from_slice(b"five");
    assert_eq!(released(&mut output), "one ");
    output.fulfil(four, given("four "));
    output.fulfil(silent, given(""));
    assert_eq!((released(&mut output).as_str(), output.is_empty(), output.is_forwarding()), ("", false, true));
    output.fulfil(two, failed("two "));
    assert_eq!(released(&mut output), "two three four five");
    assert!(output.is_empty() && !output.is_forwarding());
    let six = forward(&mut output, Some(1), false);
    output.fulfil(six, given("six"));
    assert_eq!(released(&mut output), "six", "numbers go on");
}

/// Whether they come one by one or together, and whether the socket has taken what is before them.
#[test]
fn answers_at_the_end_are_appended_in_their_order() {
    for (before, sent_bytes) in [("", 0), ("own ", 0), ("own ", 2)] {
        let mut output = Output::default();
        output.bytes().extend_from_slice(before.as_bytes());
        let [one, two, three, four] = [1, 2, 1, 2].map(|shard| forward(&mut output, Some(shard), false));
        assert_eq!(sent(&mut output, sent_bytes), before[..sent_bytes]);
        output.fulfil(one, given("one "));
        output.fulfil(three, given("three "));
        assert_eq!(released(&mut output), [&before[sent_bytes..], "one "].concat());
        output.bytes().extend_from_slice(b"here ");
        output.fulfil(two, given("two "));
        assert_eq!(released(&mut output), "two three ");
        output.fulfil(four, given("four "));
        assert_eq!(released(&mut output), "four here ");
        // Two at once, with one behind them that has yet to come.
        let [five, six, seven] = [1, 2, 1].map(|shard| forward(&mut output, Some(shard), false));
        output.fulfil(five, given("five "));
        output.fulfil(six, given("six "));
        assert_eq!(released(&mut output), "five six ");
        output.fulfil(seven, given("seven "));
        assert_eq!(released(&mut output), "seven ");
        assert!(output.is_empty());
    }
}

#[test]
fn the_error_of_a_part_stands_in_the_place_of_the_end() {
    let mut output = Output::default();
    let parts = [1, 2, 3].map(|shard| forward(&mut output, Some(shard), true));
    output.bytes().extend_from_slice(b"VALUE d\r\nd\r\nEND\r\n");
    output.end_parts(output.last_line());
    output.bytes().extend_from_slice(b"VALUE e\r\ne\r\nEND\r\n");
    output.fulfil(parts[0], given("VALUE a\r\na\r\n"));
    output.fulfil(parts[1], failed("SERVER_ERROR 2\r\n"));
    assert_eq!(released(&mut output), "VALUE a\r\na\r\n");
    output.fulfil(parts[2], failed("SERVER_ERROR 3\r\n"));
    let rest = "VALUE d\r\nd\r\nSERVER_ERROR 2\r\nVALUE e\r\ne\r\nEND\r\n";
    assert_eq!(released(&mut output), rest, "the first one that failed, and only once");

    let good = forward(&mut output, Some(1), true);
    output.bytes().extend_from_slice(b"END\r\n");
    output.end_parts(output.last_line());
    output.fulfil(good, given(""));
    assert_eq!(released(&mut output), "END\r\n");
}

/// All parts have gone out before the end is made: in a later turn.
#[test]
fn the_end_may_come_when_its_parts_are_gone() {
    let mut output = Output::default();
    for (answer, end) in [(failed("SERVER_ERROR 1\r\n"), "SERVER_ERROR 1\r\n"), (given(""), "END\r\n")] {
        let part = forward(&mut output, Some(1), true);
        output.bytes().extend_from_slice(b"VALUE d\r\nd\r\n");
        output.fulfil(part, answer);
        assert_eq!(released(&mut output), "VALUE d\r\nd\r\n");
        output.bytes().extend_from_slice(b"VALUE e\r\ne\r\nEND\r\n");
        output.end_parts(output.last_line());
        assert_eq!(released(&mut output), format!("VALUE e\r\ne\r\n{end}"));
    }
}

#[test]
fn what_is_under_way_is_known_by_its_shard_until_it_is_answered() {
    let mut output = Output::default();
    let numbers = [Some(1), Some(1), None].map(|shard| forward(&mut output, shard, false));
    assert_eq!([Some(1), Some(2), None].map(|shard| output.under_way(shard)), [Some(7), None, Some(7)]);
    output.fulfil(numbers[0], given(""));
    output.fulfil(numbers[2], given(""));
    assert_eq!([Some(1), None].map(|shard| output.under_way(shard)), [Some(7), None]);
    output.fulfil(numbers[1], given(""));
    assert_eq!(output.under_way(Some(1)), None);
}

/// Answers that may come count before they come, by the size of those of late.
#[test]
fn so_many_are_under_way_as_their_answers_may_take() {
    let fill = |output: &mut Output| -> Vec<u64> {
        let mut numbers = Vec::new();
        while !output.is_full() {
            numbers.push(forward(output, Some(1), false));
        }
        numbers
    };
    let mut output = Output::default();
    let first = fill(&mut output);
    assert_eq!(first.len(), OUTPUT_BYTES_HIGH >> 10);
    for number in first {
        output.fulfil(number, given(&"x".repeat(100_000)));
    }
    assert!(output.is_full() && output.capacity_bytes() >= (OUTPUT_BYTES_HIGH >> 10) * 100_000);
    released(&mut output);
    assert!(output.is_empty() && output.capacity_bytes() < 1 << 30);
    let second = fill(&mut output);
    assert_eq!(second.len(), OUTPUT_BYTES_HIGH.div_ceil(100_000));
    for number in second {
        output.fulfil(number, given("small"));
    }
    released(&mut output);
    for _ in 0..100 {
        let number = forward(&mut output, Some(1), false);
        output.fulfil(number, given("small"));
        released(&mut output);
    }
    assert_eq!(fill(&mut output).len(), HELD_ANSWERS_MAX.min(OUTPUT_BYTES_HIGH / 256));
}
