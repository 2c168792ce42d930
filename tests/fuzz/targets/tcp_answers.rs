//! Any bytes, in any pieces, as a primary may send them to a channel of fabric/tcp that waits for
//! some READs.
#![no_main]

use remora::fabric::tcp::frames::{ANSWER_BYTES, Answers, Expected, BadAnswer, Status, WELCOME_BYTES, Want, answer, parse_welcome};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first_chunk::<3>() else { return };
    if let Some(welcome) = rest.first_chunk::<WELCOME_BYTES>() {
        let _ = parse_welcome(welcome);
    }
    // Few READs of few bytes, so that answers that fit are found.
    let expected: Vec<Expected> =
        (0..u64::from(choice[1] % 5)).map(|tag| Expected { tag, bytes: usize::from(choice[2]) % 8 * 8 }).collect();
    // Headers that fit are not to be guessed: half of the time, they are put where one is due.
    let helped = choice[0] & 1 == 1;
    let piece = usize::from(choice[0] >> 1) + 1;
    let taken = take(rest, piece, &expected, helped);
    assert_eq!(taken, take(rest, 1, &expected, helped), "the pieces in which they come change nothing");
});

/// How many READs were answered, and why no more.
fn take(mut bytes: &[u8], piece: usize, expected: &[Expected], helped: bool) -> (usize, Option<BadAnswer>) {
    let mut answers = Answers::default();
    let mut answered = 0;
    let mut header = 0; // bytes of the header that is due
    while !bytes.is_empty() {
        let next = expected.get(answered).copied();
        let in_body = matches!(answers.want(), Want::Body { .. });
        let count = match answers.want() {
            Want::Body { from } => {
                let whole = next.expect("a body is some READ's").bytes;
                assert!(from < whole, "it wants no byte beyond a landing");
                (whole - from).min(piece).min(bytes.len())
            }
            Want::Header(room) => {
                assert!(room.len() == ANSWER_BYTES - header && !room.is_empty());
                let count = room.len().min(piece).min(bytes.len());
                room[..count].copy_from_slice(&bytes[..count]);
                if let (true, Some(next)) = (helped, next) {
                    let good = answer(next.tag, Status::Good, next.bytes);
                    room[..count].copy_from_slice(&good[header..header + count]);
                }
                header = (header + count) % ANSWER_BYTES;
                count
            }
        };
        bytes = &bytes[count..];
        match answers.took(count, next) {
            Err(refusal) => return (answered, Some(refusal)),
            Ok(whole) => answered += usize::from(whole),
        }
        assert!(answered <= expected.len() && (in_body || header <= ANSWER_BYTES));
    }
    (answered, None)
}
