//! Frames: what is put is parsed, in any pieces; what makes no sense is refused.

use super::*;

#[test]
fn greetings_and_welcomes() {
    let token = Token([9; 16]);
    let bytes = greeting(&token);
    assert_eq!(parse_greeting(&bytes), Some(Ok(token)));
    let mut other = bytes;
    other[8] = 2;
    assert_eq!(parse_greeting(&other), Some(Err(Status::Version)));
    assert_eq!(parse_greeting(b"GET / HTTP/1.1\r\nHost: localhost\r"), None);
    assert_eq!(parse_welcome(&welcome(Status::Unknown, 3)), Some((Status::Unknown, 3)));
    assert_eq!(parse_welcome(b"HTTP/1.1 400 Bad"), None);
}

#[test]
fn requests_in_any_pieces() {
    let mut bytes = Vec::new();
    let mut asked = Vec::new();
    for number in 0..300u64 {
        if number % 3 == 0 {
            // Two words more than one request takes.
            let all: [u64; WRITE_BYTES_MAX / 8 + 2] = std::array::from_fn(|at| number + at as u64);
            put_writes(&mut bytes, 64, &all);
            let (first, rest) = all.split_at(WRITE_BYTES_MAX / 8);
            let words = std::array::from_fn(|at| first[at]);
            asked.push(Request::Write { offset: 64, words, count: WRITE_BYTES_MAX / 8 });
            let words = std::array::from_fn(|at| rest.get(at).copied().unwrap_or(0));
            asked.push(Request::Write { offset: 64 + WRITE_BYTES_MAX as u64, words, count: 2 });
        } else {
            put_read(&mut bytes, 5, number * 8, 4096, number);
            asked.push(Request::Read { region: 5, offset: number * 8, bytes: 4096, tag: number });
        }
    }
    for piece in [1, 7, 33, 1000, 5000] {
        let mut requests = Requests::default();
        let mut left = &bytes[..];
        let mut parsed = Vec::new();
        loop {
            match requests.next() {
                Next::Request(request) => parsed.push(request),
                Next::Malformed => panic!("what was put is well formed"),
                Next::Incomplete if left.is_empty() => break,
                Next::Incomplete => {
                    let room = requests.room();
                    let count = room.len().min(piece).min(left.len());
                    room[..count].copy_from_slice(&left[..count]);
                    requests.filled(count);
                    left = &left[count..];
                }
            }
        }
        assert_eq!(parsed, asked, "in pieces of {piece}");
    }
}

#[test]
fn requests_without_sense() {
    for (opcode, offset, bytes) in [
        (READ, 0, READ_BYTES_MAX + 8),
        (READ, 4, 8),
        (READ, 0, 9),
        (WRITE, 0, WRITE_BYTES_MAX + 8),
        (3, 0, 8),
        (0, 0, 0),
    ] {
        let mut out = Vec::new();
        put_request(&mut out, opcode, 0, offset, bytes, 1);
        let mut requests = Requests::default();
        requests.room()[..out.len()].copy_from_slice(&out);
        requests.filled(out.len());
        assert_eq!(requests.next(), Next::Malformed, "{opcode} {offset} {bytes}");
    }
}

/// Feed `bytes` byte by byte, against READs of these lengths, tagged from 0; gives how many were
/// answered.
fn feed(bytes: &[u8], lengths: &[usize]) -> Result<usize, BadAnswer> {
    let mut answers = Answers::default();
    let mut answered = 0;
    for byte in bytes {
        if let Want::Header(room) = answers.want() {
            room[0] = *byte;
        }
        let next = lengths.get(answered).map(|bytes| Expected { tag: answered as u64, bytes: *bytes });
        answered += usize::from(answers.took(1, next)?);
    }
    Ok(answered)
}

#[test]
fn answers_fit_their_questions_or_are_the_last() {
    let two = [&answer(0, Status::Good, 8)[..], &[1; 8], &answer(1, Status::Good, 16), &[2; 16]].concat();
    assert_eq!(feed(&two, &[8, 16]), Ok(2));
    assert_eq!(feed(&two[..two.len() - 1], &[8, 16]), Ok(1));
    assert_eq!(feed(&two, &[8]), Err(BadAnswer::Nonsense), "nobody asked");
    assert_eq!(feed(&two, &[8, 8]), Err(BadAnswer::Nonsense), "another length");
    assert_eq!(feed(&answer(1, Status::Good, 8), &[8]), Err(BadAnswer::Nonsense), "another tag");
    assert_eq!(feed(&answer(7, Status::Access, 0), &[8]), Err(BadAnswer::Status(Status::Access)));
    assert_eq!(feed(&answer(7, Status::Access, 0), &[]), Err(BadAnswer::Status(Status::Access)));
    assert_eq!(feed(&[0xFF; 16], &[8]), Err(BadAnswer::Nonsense));
}
