//! Answers, taken from the bytes as they come, however they are cut. Pure: bytes in, one verdict
//! for each key that was asked for.
//!
//! Keeps nothing but an unfinished line, and, when values are to be seen, an unfinished value; a
//! value that is not to be seen is passed over by its length, its end checked. Answers come in the
//! order of the questions; a text get leaves out what it did not find.

use super::client::{ClientError, unexpected};
use super::meaning::{Meaning, meaning};
use super::plan::Asked;
use super::question::Protocol;
use crate::base::limits::LOAD_LINE_BYTES_MAX;
use memchr::memchr;
use std::collections::VecDeque;

/// What came back for a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// Acknowledged.
    Stored,
    /// Found. The value, if values are to be seen.
    Hit(Option<&'a [u8]>),
    /// Not found.
    Missed,
}

enum State {
    Line,
    /// So many bytes of a value are still to come, then these behind it.
    Value(usize, &'static [u8]),
}

/// The reading end of one connection.
pub struct Answers {
    protocol: Protocol,
    see_values: bool,
    state: State,
    /// The next line is an element of an array that has begun (RESP).
    in_array: bool,
    carried: Vec<u8>,
}

impl Answers {
    /// For a new connection.
    pub fn new(protocol: Protocol, see_values: bool) -> Answers {
        Answers { protocol, see_values, state: State::Line, in_array: false, carried: Vec::new() }
    }

    /// Take all of `input`. Whatever is answered leaves `asked`, and `judge` hears of it.
    pub fn take(
        &mut self,
        mut input: &[u8],
        asked: &mut VecDeque<Asked>,
        mut judge: impl FnMut(&Asked, Outcome<'_>),
    ) -> Result<(), ClientError> {
        while !input.is_empty() {
            input = match self.state {
                State::Line => self.take_line(input, asked, &mut judge)?,
                State::Value(left, tail) => self.take_value(input, left, tail, asked, &mut judge)?,
            };
        }
        Ok(())
    }

    fn take_line<'a>(
        &mut self,
        input: &'a [u8],
        asked: &mut VecDeque<Asked>,
        judge: &mut impl FnMut(&Asked, Outcome<'_>),
    ) -> Result<&'a [u8], ClientError> {
        let end = memchr(b'\n', input);
        if self.carried.len() + end.unwrap_or(input.len()) > LOAD_LINE_BYTES_MAX {
            let said = if self.carried.is_empty() { input } else { &self.carried };
            return Err(unexpected("a line of an answer", said));
        }
        let Some(end) = end else {
            self.carried.extend_from_slice(input);
            return Ok(&[]);
        };
        let meaning = if self.carried.is_empty() {
            meaning(&input[..end], self.protocol, self.in_array, asked)?
        } else {
            self.carried.extend_from_slice(&input[..end]);
            let meaning = meaning(&self.carried, self.protocol, self.in_array, asked)?;
            self.carried.clear();
            meaning
        };
        match meaning {
            Meaning::Array => self.in_array = true,
            Meaning::Stored => judge(&asked.pop_front().expect("seen by meaning"), Outcome::Stored),
            Meaning::Missed => {
                let missed = asked.pop_front().expect("seen by meaning");
                self.in_array &= !missed.is_last;
                judge(&missed, Outcome::Missed);
            }
            Meaning::AllMissed => loop {
                let missed = asked.pop_front().expect("seen by meaning");
                judge(&missed, Outcome::Missed);
                if missed.is_last {
                    break;
                }
            },
            Meaning::Value { place, bytes } => {
                for _ in 0..place {
                    judge(&asked.pop_front().expect("seen by meaning"), Outcome::Missed);
                }
                let ends_command = self.protocol == Protocol::Text && asked[0].is_last;
                self.state = State::Value(bytes, if ends_command { b"\r\nEND\r\n" } else { b"\r\n" });
            }
        }
        Ok(&input[end + 1..])
    }

    fn take_value<'a>(
        &mut self,
        input: &'a [u8],
        left: usize,
        tail: &'static [u8],
        asked: &mut VecDeque<Asked>,
        judge: &mut impl FnMut(&Asked, Outcome<'_>),
    ) -> Result<&'a [u8], ClientError> {
        let (value, rest) = input.split_at(left.min(input.len()));
        let behind = tail.len().min(rest.len());
        if rest[..behind] != tail[..behind] {
            return Err(unexpected("an end after the value's last byte", &rest[..behind]));
        }
        let is_whole = value.len() == left && behind == tail.len();
        // A value that came in one piece is seen where it lies.
        if self.see_values && !(is_whole && self.carried.is_empty()) {
            self.carried.extend_from_slice(value);
        }
        if !is_whole {
            self.state = State::Value(left - value.len(), &tail[behind..]);
            return Ok(&rest[behind..]);
        }
        let seen = if self.carried.is_empty() { value } else { &self.carried };
        let found = asked.pop_front().expect("seen with its line");
        self.in_array &= !found.is_last;
        judge(&found, Outcome::Hit(self.see_values.then_some(seen)));
        self.carried.clear();
        self.state = State::Line;
        Ok(&rest[behind..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gets of so many keys each (numbers count on from 0); 0 stands for a set.
    fn asked(commands: &[usize]) -> VecDeque<Asked> {
        let mut asked = VecDeque::new();
        for keys in commands {
            for left in (0..(*keys).max(1)).rev() {
                let key = asked.len() as u32;
                let is_set = *keys == 0;
                asked.push_back(Asked { since_ns: 0, key, version: 0, value_bytes: 0, is_set, is_last: left == 0 });
            }
        }
        asked
    }

    /// One word for each key: what came back. Values are shown if they are to be `seen`.
    fn outcomes(protocol: Protocol, seen: bool, pieces: &[&[u8]], keys: &[usize]) -> Result<Vec<String>, String> {
        let (mut asked, mut answers) = (asked(keys), Answers::new(protocol, seen));
        let mut seen = Vec::new();
        for piece in pieces {
            let judge = |asked: &Asked, outcome: Outcome<'_>| {
                let word = match outcome {
                    Outcome::Stored => "stored".into(),
                    Outcome::Missed => "missed".into(),
                    Outcome::Hit(None) => "hit".into(),
                    Outcome::Hit(Some(value)) => String::from_utf8_lossy(value).into_owned(),
                };
                seen.push(format!("{} {word}", asked.key));
            };
            answers.take(piece, &mut asked, judge).map_err(|error| error.to_string())?;
        }
        assert!(asked.is_empty() || pieces.concat().is_empty(), "{asked:?}");
        Ok(seen)
    }

    /// Cut at every place in two, and into single bytes, with values seen and not.
    fn always(protocol: Protocol, answer: &[u8], commands: &[usize], expected: &[&str]) {
        let unseen = |text: &&str| match text.split_once(' ').expect("a key and a word") {
            (_, "stored" | "missed") => text.to_string(),
            (key, _) => format!("{key} hit"),
        };
        let unseen: Vec<String> = expected.iter().map(unseen).collect();
        for cut in 0..=answer.len() {
            let (first, second) = answer.split_at(cut);
            assert_eq!(outcomes(protocol, true, &[first, second], commands).unwrap(), expected, "cut at {cut}");
            assert_eq!(outcomes(protocol, false, &[first, second], commands).unwrap(), unseen, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = answer.chunks(1).collect();
        assert_eq!(outcomes(protocol, true, &bytes, commands).unwrap(), expected);
        assert_eq!(outcomes(protocol, false, &bytes, commands).unwrap(), unseen);
    }

    #[test]
    fn text_answers_at_every_split() {
        let answer = b"STORED\r\nVALUE load:0000000001 0 5\r\nva\r\ne\r\nEND\r\nEND\r\n\
            VALUE load:0000000004 7 0\r\n\r\nVALUE load:0000000006 0 3\r\nEND\r\nEND\r\nEND\r\nSTORED\r\n";
        let expected = [
            "0 stored",
            "1 va\r\ne",
            "2 missed",
            "3 missed",
            "4 ",
            "5 missed",
            "6 END",
            "7 missed",
            "8 missed",
            "9 stored",
        ];
        always(Protocol::Text, answer, &[0, 1, 1, 5, 1, 0], &expected);
        let last = b"VALUE load:0000000001 0 1\r\nx\r\nEND\r\nSTORED\r\n";
        always(Protocol::Text, last, &[2, 0], &["0 missed", "1 x", "2 stored"]);
    }

    #[test]
    fn meta_answers_at_every_split() {
        let answer = b"HD\r\nVA 5\r\nva\r\ne\r\nEN\r\nEN\r\nVA 0\r\n\r\nVA 2\r\nEN\r\nHD\r\n";
        let expected = ["0 stored", "1 va\r\ne", "2 missed", "3 missed", "4 ", "5 EN", "6 stored"];
        always(Protocol::Meta, answer, &[0, 1, 1, 3, 0], &expected);
    }

    #[test]
    fn resp_answers_at_every_split() {
        let answer = b"+OK\r\n$5\r\nva\r\ne\r\n$-1\r\n*3\r\n$-1\r\n$0\r\n\r\n$3\r\n$-1\r\n*2\r\n$1\r\nx\r\n$-1\r\n$1\r\n*\r\n+OK\r\n";
        let expected =
            ["0 stored", "1 va\r\ne", "2 missed", "3 missed", "4 ", "5 $-1", "6 x", "7 missed", "8 *", "9 stored"];
        always(Protocol::Resp, answer, &[0, 1, 1, 3, 2, 1, 0], &expected);
    }

    #[test]
    fn what_is_no_answer_is_an_error_with_the_words() {
        for (wrong, commands) in [
            ("VALUE load:0000000001 0 1\r\nx\r\nEND\r\n", &[1][..]),
            ("VALUE other 0 1\r\nx\r\nEND\r\n", &[1]),
            ("VALUE load:0000000000 0\r\n", &[1]),
            ("VALUE load:0000000000 0 -1\r\n", &[1]),
            ("VALUE load:0000000000 0 99999999999999999999\r\n", &[1]),
            ("VALUE load:0000000000 0 1\r\nxy\r\nEND\r\n", &[1]),
            ("VALUE load:0000000000 0 1\r\nx\r\nVALUE", &[1]),
            ("STORED\r\n", &[1]),
            ("NOT_STORED\r\n", &[0]),
            ("SERVER_ERROR out of memory storing object\r\n", &[0]),
            ("STORED\r\nSTORED\r\n", &[0]),
        ] {
            let error = outcomes(Protocol::Text, true, &[wrong.as_bytes()], commands).unwrap_err();
            assert!(error.contains("the server said"), "{wrong:?}: {error}");
        }
        for (wrong, commands) in [("VA\r\n", &[1][..]), ("VA x\r\n", &[1]), ("HD\r\n", &[1]), ("NS\r\n", &[0])] {
            let error = outcomes(Protocol::Meta, false, &[wrong.as_bytes()], commands).unwrap_err();
            assert!(error.contains("the server said"), "{wrong:?}: {error}");
        }
        for (wrong, commands) in [
            ("-OOM command not allowed when used memory > 'maxmemory'.\r\n", &[0][..]),
            ("$1\r\nx\r\n", &[0]),
            ("+OK\n", &[0]),
            ("+OK\r\n", &[1]),
            ("-ERR unknown command\r\n", &[1]),
            ("*1\r\n$1\r\nx\r\n", &[1]),
            ("$-2\r\n", &[1]),
            ("$\r\n", &[1]),
            ("$99999999999999999999\r\n", &[1]),
            ("$1\r\nxy\r\n", &[1]),
            ("$1\r\nx\r\n", &[2]),
            ("$-1\r\n", &[2]),
            ("*3\r\n$1\r\n", &[2]),
            ("*-1\r\n", &[2]),
            ("*2\r\n*2\r\n", &[2]),
            ("*2\r\n$-1\r\n$-1\r\n$-1\r\n", &[2]),
            ("*2\r\n$-1\r\n-ERR\r\n", &[2]),
        ] {
            let error = outcomes(Protocol::Resp, false, &[wrong.as_bytes()], commands).unwrap_err();
            assert!(error.contains("the server said"), "{wrong:?}: {error}");
        }
        let endless = vec![b'x'; LOAD_LINE_BYTES_MAX + 1];
        assert!(outcomes(Protocol::Text, false, &[&endless], &[1]).is_err());
    }
}
