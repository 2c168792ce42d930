//! Flags of meta commands that memcached does not have, but for A: of positions and of replicas.
//!
//! ```text
//! p         ms md ma mg   the answer is to have a token: a state of the shard
//! y<token>  mg            answer from a state at least as new
//! Y<how>    mg            where it is not here yet: p ask the primary (as without Y), m miss,
//!                         w<milliseconds> wait for it, then miss
//! r         mg            a replica may answer
//! D<ms>     mg            the same, if it is so far behind at most
//! d         mg            the answer is to say how far it may be behind
//! ```
//!
//! A **token** is `<shard>.<term>.<position>`, each in hexadecimal: everything that the shard's log
//! has below that position, in the history of which that term is a part. A term is told whole, with
//! its nonce, so no token fits a log that was written by somebody else. Clients keep it as it is.

use super::super::read_from::ReadFrom;
use super::super::refusal::Refusal;
use super::meta::{MetaRequest, MetaVerb, flag_tokens};
use super::tokens::u32_strict;
use crate::base::term::Term;
use std::io::Write as _;

/// Which of these flags a command has. Their arguments stay in its line: they are seldom there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnFlags(u8);

impl OwnFlags {
    /// A.
    pub const ACKS: OwnFlags = OwnFlags(1);
    /// p.
    pub const POSITION: OwnFlags = OwnFlags(2);
    /// y or Y.
    pub const DEMAND: OwnFlags = OwnFlags(4);
    /// r, or D of mg.
    pub const REPLICA: OwnFlags = OwnFlags(8);
    /// d.
    pub const LAG: OwnFlags = OwnFlags(16);
    /// All of a read or a position.
    pub const READS: OwnFlags = OwnFlags(2 | 4 | 8 | 16);

    /// It has this one.
    pub fn add(&mut self, flag: OwnFlags) {
        self.0 |= flag.0;
    }

    /// It has none.
    #[inline]
    pub fn are_none(self) -> bool {
        self.0 == 0
    }

    /// It has one of these.
    #[inline]
    pub fn have(self, any: OwnFlags) -> bool {
        self.0 & any.0 != 0
    }
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Of which shard.
    pub shard: u32,
    /// The term of what stands below the position.
    pub term: Term,
    /// Where the log ends that is demanded.
    pub position: u64,
}

impl Token {
    /// Of the words of a client.
    pub fn parse(words: &[u8]) -> Option<Token> {
        let mut parts = words.split(|byte| *byte == b'.').map(hexadecimal);
        let (Some(shard), Some(term), Some(position), None) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next())
        else {
            return None;
        };
        Some(Token { shard: shard.try_into().ok()?, term: Term(term), position })
    }

    /// Append ` p` and the token.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Token { shard, term, position } = self;
        write!(out, " p{shard:x}.{:x}.{position:x}", term.0).expect("writing to a Vec cannot fail");
    }
}

/// One to sixteen digits.
fn hexadecimal(digits: &[u8]) -> Option<u64> {
    if !matches!(digits.len(), 1..=16) {
        return None;
    }
    digits.iter().try_fold(0, |sum: u64, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u64::from(digit))
    })
}

/// What is to be done where the state that is demanded is not here yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Late {
    /// Ask the primary.
    #[default]
    Primary,
    /// Say that it is not here.
    Miss,
    /// Wait so many milliseconds, then say so.
    Wait(u32),
}

impl Late {
    fn parse(words: &[u8]) -> Option<Late> {
        match words {
            b"p" => Some(Late::Primary),
            b"m" => Some(Late::Miss),
            [b'w', milliseconds @ ..] if !milliseconds.is_empty() => u32_strict(milliseconds).map(Late::Wait),
            _ => None,
        }
    }
}

/// What these flags say of one command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demand {
    /// The answer is to come from a state that is at least as new.
    pub token: Option<Token>,
    /// What if it is not here yet.
    pub late: Late,
    /// Whether a replica may answer.
    pub read_from: ReadFrom,
    /// The answer is to have a token.
    pub tells_position: bool,
    /// The answer is to say how far it may be behind.
    pub tells_lag: bool,
}

impl Demand {
    /// Of a command that was taken.
    pub fn of(request: &MetaRequest<'_>) -> Demand {
        let mut demand = Demand {
            tells_position: request.own.have(OwnFlags::POSITION),
            tells_lag: request.own.have(OwnFlags::LAG),
            ..Demand::default()
        };
        demand.read_from.replica = request.own.have(OwnFlags::REPLICA);
        for token in flag_tokens(request.flag_tokens) {
            match token[0] {
                b'y' => demand.token = Token::parse(&token[1..]),
                b'Y' => demand.late = Late::parse(&token[1..]).unwrap_or_default(),
                // The number has been read as that of ma, which is as large as there are.
                b'D' if demand.read_from.replica => {
                    demand.read_from.lag_milliseconds = Some(request.delta.try_into().unwrap_or(u32::MAX));
                }
                _ => {}
            }
        }
        demand
    }
}

/// Note one of these flags. The outer error is for a command that does not have it.
#[cold]
pub fn digest(request: &mut MetaRequest<'_>, flag: u8, argument: &[u8]) -> Result<Result<(), Refusal>, Refusal> {
    let is_get = request.verb == MetaVerb::Get;
    let (own, is_well) = match flag {
        b'p' => (OwnFlags::POSITION, argument.is_empty()),
        b'y' if is_get => (OwnFlags::DEMAND, Token::parse(argument).is_some()),
        b'Y' if is_get => (OwnFlags::DEMAND, Late::parse(argument).is_some()),
        b'r' if is_get => (OwnFlags::REPLICA, argument.is_empty()),
        b'd' if is_get => (OwnFlags::LAG, argument.is_empty()),
        _ => return Err(Refusal::InvalidFlag),
    };
    request.own.add(own);
    Ok(is_well.then_some(()).ok_or(Refusal::BadToken))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::KEY_BYTES_MAX;
    use crate::protocol::{ParseLimits, Parsed, Request, parse};

    const TERM: Term = Term::of(5, 0xabc);

    /// What the parser makes of a line; the words of a refusal.
    fn demand(line: &str) -> Result<Demand, String> {
        let mut scratch = [0; KEY_BYTES_MAX];
        match parse(format!("{line}\r\n").as_bytes(), ParseLimits { value_bytes_max: 100 }, &mut scratch) {
            Parsed::Request(Request::Meta(request), _) => Ok(Demand::of(&request)),
            Parsed::Rejected(rejection) => Err(String::from_utf8_lossy(rejection.refusal.words()).into()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_token_comes_back_as_it_was_given() {
        for token in [
            Token { shard: 0x3ff, term: TERM, position: 0x40 },
            Token { shard: u32::MAX, term: Term(u64::MAX), position: u64::MAX },
            Token { shard: 0, term: Term::NONE, position: 0 },
        ] {
            let mut words = Vec::new();
            token.write(&mut words);
            assert!(words.len() <= 64 && words.starts_with(b" p"), "{words:?}");
            assert_eq!(Token::parse(&words[2..]), Some(token));
        }
        let mut words = Vec::new();
        Token { shard: 10, term: TERM, position: 255 }.write(&mut words);
        assert_eq!(words, b" pa.50000000abc.ff");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let too_long = format!("0.0.{}", "1".repeat(17));
        for words in ["", "1", "1.2", "1.2.3.4", "1..3", ".2.3", "1.2.", "+1.2.3", "1.2.A", "100000000.1.1", &too_long]
        {
            assert_eq!(Token::parse(words.as_bytes()), None, "{words}");
        }
    }

    #[test]
    fn a_get_says_what_it_demands_and_of_whom() {
        let token = Token { shard: 10, term: TERM, position: 255 };
        let read_from = ReadFrom { replica: true, lag_milliseconds: Some(100) };
        let all = Demand { token: Some(token), late: Late::Wait(20), read_from, tells_position: true, tells_lag: true };
        assert_eq!(demand("mg k v ya.50000000abc.ff Yw20 r D100 d p q"), Ok(all));
        assert_eq!(demand("mg k D7").map(|demand| demand.read_from.lag_milliseconds), Ok(Some(7)));
        assert_eq!(
            demand("mg k r").map(|demand| demand.read_from),
            Ok(ReadFrom { replica: true, ..ReadFrom::default() })
        );
        assert_eq!(demand("mg k D5000000000").map(|demand| demand.read_from.lag_milliseconds), Ok(Some(u32::MAX)));
        assert_eq!(demand("mg k Ym").map(|demand| demand.late), Ok(Late::Miss));
        assert_eq!(demand("mg k v t N5 T3"), Ok(Demand::default()));
        assert_eq!(demand("ma k D3 p").map(|demand| demand.read_from), Ok(ReadFrom::default()), "D is ma's own there");
    }

    #[test]
    fn what_a_command_does_not_have_is_refused_in_memcacheds_words() {
        const INVALID: &str = "invalid flag";
        const BAD: &str = "bad token in command line format";
        for (line, words) in [
            ("md k y1.1.1", INVALID),
            ("md k r", INVALID),
            ("ma k d", "invalid or duplicate flag"),
            ("md k Yp", INVALID),
            ("mg k pa", BAD),
            ("mg k y", BAD),
            ("mg k y1.1", BAD),
            ("mg k Y", BAD),
            ("mg k Yw", BAD),
            ("mg k Yw1x", BAD),
            ("mg k Yq", BAD),
            ("mg k r1", BAD),
            ("mg k d1", BAD),
            ("mg k p p", "duplicate flag"),
            ("mg k D", "invalid numeric delta value"),
        ] {
            assert_eq!(demand(line), Err(words.into()), "{line}");
        }
    }
}
