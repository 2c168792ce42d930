//! What two servers say to one another over a *link*, by which one of them, the *forwarder*, has
//! requests of its clients executed by the other, the *owner* of their shards. Pure. Both ends have
//! proved themselves, yet each length is held against its bound before it is used.
//!
//! ```text
//! request:  length 4 | tag 4 | protocol 1 | flags 1 (0) | within 2 | the request, as its client sent it
//! answer:   length 4 | tag 4 | outcome 1                           | bytes
//! ```
//!
//! Numbers are little-endian. A length counts the bytes behind it. The forwarder chooses the tags;
//! an answer has that of its request. Answers come in any order.

use super::Protocol;
use super::request::{NextKey, Request};
use crate::base::limits::{ITEM_BYTES_MAX, KEY_BYTES_MAX, LINE_BYTES_MAX};

/// Bytes of a frame's length.
const LENGTH_BYTES: usize = 4;
/// Bytes before the request in its frame.
const ASKED_HEAD_BYTES: usize = LENGTH_BYTES + 4 + 1 + 1 + 2;
/// Bytes before the answer in its frame.
const ANSWERED_HEAD_BYTES: usize = LENGTH_BYTES + 4 + 1;

/// Longest request or answer of any server.
const CONTENT_BYTES_MAX: usize = answer_bytes_max(ITEM_BYTES_MAX);

/// A request that is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked<'f> {
    /// What the answer is known by.
    pub tag: u32,
    /// What its client speaks.
    pub protocol: Protocol,
    /// The forwarder waits for the answer for so long.
    pub within_milliseconds: u16,
    /// One whole request.
    pub request: &'f [u8],
}

/// What has become of a forwarded request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// It was executed. The bytes are what its client is to be told: nothing, where it asked for no
    /// answer.
    Done = 0,
    /// Nothing was done: its shard takes no writes there. The bytes name who takes them, as
    /// HOST:PORT for clients; none where that is not known.
    NotMine = 1,
    /// Nothing was done, for a reason that the bytes tell people.
    Refused = 2,
}

/// The answer to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered<'f> {
    /// The request's.
    pub tag: u32,
    /// What has become of it.
    pub fate: Fate,
    /// More of that.
    pub bytes: &'f [u8],
}

/// What bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub enum Framed<F> {
    /// A frame, and how many bytes it takes.
    Whole(F, usize),
    /// The beginning of one: to look again is of no use before there are so many bytes.
    Incomplete {
        /// From where the frame begins.
        wanted_bytes: usize,
    },
    /// The beginning of one that is too large here: the other side allows larger values. It is to
    /// be skipped as it arrives.
    TooLarge {
        /// Its tag.
        tag: u32,
        /// All that is to be skipped, from where the frame begins.
        frame_bytes: usize,
    },
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length that no server allows.
    #[error("a frame of {0} bytes, more than is allowed anywhere")]
    TooLong(usize),
    /// A length too short for what stands in every frame.
    #[error("a frame of {0} bytes, fewer than its head takes")]
    TooShort(usize),
    /// A byte that means nothing: a protocol, a flag, an outcome.
    #[error("a frame with a {0} that there is not")]
    Unknown(&'static str),
}

/// Longest request that is forwarded, where values have at most so many bytes: a line, or the head
/// of a packet and its key, and the value with its line end.
pub const fn request_bytes_max(value_bytes_max: usize) -> usize {
    LINE_BYTES_MAX + value_bytes_max + 2
}

/// Longest answer to one.
pub const fn answer_bytes_max(value_bytes_max: usize) -> usize {
    // A value goes with its line and END, the head of a packet with its key.
    2 * LINE_BYTES_MAX + KEY_BYTES_MAX + value_bytes_max
}

/// Whether an owner executes such a request: it has one key, or is about all of them.
pub fn is_forwardable(request: &Request<'_>) -> bool {
    match request {
        Request::Get(get) => {
            let NextKey::Key(_, next) = get.keys.next(0) else { return false };
            get.ends && !get.continues && get.keys.next(next) == NextKey::End
        }
        Request::FlushAll { .. } => true,
        other => other.key().is_some(),
    }
}

impl<'f> Asked<'f> {
    /// Bytes of the frame.
    pub fn frame_bytes(&self) -> usize {
        ASKED_HEAD_BYTES + self.request.len()
    }

    /// Append the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let protocol = match self.protocol {
            Protocol::Text => 1,
            Protocol::Binary => 2,
        };
        put_length(out, ASKED_HEAD_BYTES - LENGTH_BYTES + self.request.len());
        out.extend_from_slice(&self.tag.to_le_bytes());
        out.extend_from_slice(&[protocol, 0]);
        out.extend_from_slice(&self.within_milliseconds.to_le_bytes());
        out.extend_from_slice(self.request);
    }

    /// What `bytes` begin with; a request has at most `request_bytes_max` of them.
    pub fn decode(bytes: &'f [u8], request_bytes_max: usize) -> Result<Framed<Asked<'f>>, FrameError> {
        let frame = match frame(bytes, ASKED_HEAD_BYTES, request_bytes_max)? {
            Framed::Whole(frame, _) => frame,
            Framed::Incomplete { wanted_bytes } => return Ok(Framed::Incomplete { wanted_bytes }),
            Framed::TooLarge { tag, frame_bytes } => return Ok(Framed::TooLarge { tag, frame_bytes }),
        };
        let (head, request) = frame.split_at(ASKED_HEAD_BYTES);
        let protocol = match head[8] {
            1 => Protocol::Text,
            2 => Protocol::Binary,
            _ => return Err(FrameError::Unknown("protocol")),
        };
        if head[9] != 0 {
            return Err(FrameError::Unknown("flag"));
        }
        let within_milliseconds = u16::from_le_bytes([head[10], head[11]]);
        let asked = Asked { tag: tag(head), protocol, within_milliseconds, request };
        Ok(Framed::Whole(asked, frame.len()))
    }
}

impl<'f> Answered<'f> {
    /// Append the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_answer(out, self.tag, self.fate, |out| out.extend_from_slice(self.bytes));
    }

    /// What `bytes` begin with; an answer has at most `answer_bytes_max` of them.
    pub fn decode(bytes: &'f [u8], answer_bytes_max: usize) -> Result<Framed<Answered<'f>>, FrameError> {
        let frame = match frame(bytes, ANSWERED_HEAD_BYTES, answer_bytes_max)? {
            Framed::Whole(frame, _) => frame,
            Framed::Incomplete { wanted_bytes } => return Ok(Framed::Incomplete { wanted_bytes }),
            Framed::TooLarge { tag, frame_bytes } => return Ok(Framed::TooLarge { tag, frame_bytes }),
        };
        let (head, bytes) = frame.split_at(ANSWERED_HEAD_BYTES);
        let fate = [Fate::Done, Fate::NotMine, Fate::Refused].into_iter().find(|fate| *fate as u8 == head[8]);
        let answered = Answered { tag: tag(head), fate: fate.ok_or(FrameError::Unknown("outcome"))?, bytes };
        Ok(Framed::Whole(answered, frame.len()))
    }
}

/// Append the frame of an answer whose bytes `put` appends.
pub fn encode_answer(out: &mut Vec<u8>, tag: u32, fate: Fate, put: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    put_length(out, 0);
    out.extend_from_slice(&tag.to_le_bytes());
    out.push(fate as u8);
    put(out);
    let length = out.len() - begin - LENGTH_BYTES;
    out[begin..begin + LENGTH_BYTES].copy_from_slice(&length_of(length));
}

fn length_of(bytes: usize) -> [u8; LENGTH_BYTES] {
    u32::try_from(bytes).expect("requests and answers have a bound").to_le_bytes()
}

fn put_length(out: &mut Vec<u8>, bytes: usize) {
    out.extend_from_slice(&length_of(bytes));
}

fn tag(head: &[u8]) -> u32 {
    u32::from_le_bytes([head[4], head[5], head[6], head[7]])
}

/// The frame that `bytes` begin with, of a head and at most so many bytes behind it.
fn frame(bytes: &[u8], head_bytes: usize, bytes_max: usize) -> Result<Framed<&[u8]>, FrameError> {
    let Some(length) = bytes.first_chunk::<LENGTH_BYTES>() else {
        return Ok(Framed::Incomplete { wanted_bytes: LENGTH_BYTES });
    };
    let length = u32::from_le_bytes(*length) as usize;
    let frame_bytes = LENGTH_BYTES + length;
    if frame_bytes < head_bytes {
        return Err(FrameError::TooShort(length));
    }
    let content_bytes = frame_bytes - head_bytes;
    if content_bytes > CONTENT_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    Ok(match bytes.get(..frame_bytes) {
        _ if content_bytes > bytes_max => match bytes.get(..head_bytes) {
            Some(head) => Framed::TooLarge { tag: tag(head), frame_bytes },
            None => Framed::Incomplete { wanted_bytes: head_bytes },
        },
        Some(frame) => Framed::Whole(frame, frame_bytes),
        None => Framed::Incomplete { wanted_bytes: frame_bytes },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{ParseLimits, Parsed};

    const ASKED: Asked<'_> =
        Asked { tag: 0x0102_0304, protocol: Protocol::Text, within_milliseconds: 5000, request: b"get a\r\n" };

    #[test]
    fn frames_come_back_as_they_were_however_much_has_arrived() {
        let packet = Asked { tag: u32::MAX, protocol: Protocol::Binary, request: b"\x80", ..ASKED };
        let (mut bytes, mut answers) = (Vec::new(), Vec::new());
        [ASKED, packet].iter().for_each(|asked| asked.encode(&mut bytes));
        let (first, second) = bytes.split_at(ASKED_HEAD_BYTES + ASKED.request.len());
        assert_eq!(Asked::decode(&bytes, 7), Ok(Framed::Whole(ASKED, first.len())));
        assert_eq!(Asked::decode(second, 7), Ok(Framed::Whole(packet, second.len())));
        for upto in 0..first.len() {
            let wanted_bytes = if upto < LENGTH_BYTES { LENGTH_BYTES } else { first.len() };
            assert_eq!(Asked::decode(&first[..upto], 7), Ok(Framed::Incomplete { wanted_bytes }));
        }
        for fate in [Fate::Done, Fate::NotMine, Fate::Refused] {
            let answered = Answered { tag: 7, fate, bytes: b"END\r\n" };
            answers.clear();
            answered.encode(&mut answers);
            assert_eq!(Answered::decode(&answers, 5), Ok(Framed::Whole(answered, answers.len())));
        }
    }

    /// By the length alone: nothing of what it announces has to be there.
    #[test]
    fn a_length_beyond_its_bound_is_refused_before_anything_is_kept() {
        let mut bytes = Vec::new();
        ASKED.encode(&mut bytes);
        assert_eq!(Asked::decode(&[0xff; 4], usize::MAX >> 1), Err(FrameError::TooLong(u32::MAX as usize)));
        let most = CONTENT_BYTES_MAX + ASKED_HEAD_BYTES;
        let of = |frame_bytes: usize| length_of(frame_bytes - LENGTH_BYTES);
        assert_eq!(Asked::decode(&of(most), most), Ok(Framed::Incomplete { wanted_bytes: most }));
        assert_eq!(Asked::decode(&of(most + 1), most), Err(FrameError::TooLong(most + 1 - LENGTH_BYTES)));
        assert_eq!(Asked::decode(&7u32.to_le_bytes(), 100), Err(FrameError::TooShort(7)));
        assert_eq!(Answered::decode(&4u32.to_le_bytes(), 100), Err(FrameError::TooShort(4)));
        let empty = Answered { tag: 1, fate: Fate::Done, bytes: b"" };
        let mut bytes = Vec::new();
        empty.encode(&mut bytes);
        assert_eq!(Answered::decode(&bytes, 0), Ok(Framed::Whole(empty, ANSWERED_HEAD_BYTES)));
    }

    /// Once its tag is there, however much more is.
    #[test]
    fn a_frame_that_is_too_large_here_is_known_by_its_head() {
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        ASKED.encode(&mut asked);
        Answered { tag: 7, fate: Fate::Done, bytes: b"END\r\n" }.encode(&mut answered);
        for upto in LENGTH_BYTES..ASKED_HEAD_BYTES {
            let wanted_bytes = ASKED_HEAD_BYTES;
            assert_eq!(Asked::decode(&asked[..upto], 6), Ok(Framed::Incomplete { wanted_bytes }), "{upto}");
        }
        for upto in ASKED_HEAD_BYTES..=asked.len() {
            let whole = Framed::TooLarge { tag: ASKED.tag, frame_bytes: asked.len() };
            assert_eq!(Asked::decode(&asked[..upto], 6), Ok(whole), "{upto}");
        }
        let whole = Framed::TooLarge { tag: 7, frame_bytes: answered.len() };
        assert_eq!(Answered::decode(&answered[..ANSWERED_HEAD_BYTES], 4), Ok(whole));
    }

    #[test]
    fn bytes_that_mean_nothing_are_refused() {
        let with = |at: usize, byte: u8| {
            let mut bytes = Vec::new();
            ASKED.encode(&mut bytes);
            bytes[at] = byte;
            Asked::decode(&bytes, 100).err()
        };
        assert_eq!([0, 3].map(|byte| with(8, byte)), [Some(FrameError::Unknown("protocol")); 2]);
        assert_eq!(with(9, 1), Some(FrameError::Unknown("flag")));
        let mut answer = Vec::new();
        Answered { tag: 1, fate: Fate::Refused, bytes: b"" }.encode(&mut answer);
        answer[8] = 3;
        assert_eq!(Answered::decode(&answer, 100), Err(FrameError::Unknown("outcome")));
    }

    #[test]
    fn what_has_one_key_is_forwarded_and_flush_all() {
        let is_forwarded = |line: &str| {
            let mut scratch = [0; KEY_BYTES_MAX];
            let parsed = Protocol::Text.parse(line.as_bytes(), ParseLimits { value_bytes_max: 100 }, &mut scratch);
            let Parsed::Request(request, bytes) = parsed else { panic!("{line:?} is no request") };
            assert_eq!(bytes, line.len());
            is_forwardable(&request)
        };
        for line in [
            "get a\r\n",
            "gets a \r\n",
            "gat 0 a\r\n",
            "set a 0 0 1\r\nx\r\n",
            "delete a noreply\r\n",
            "incr a 1\r\n",
            "touch a 0\r\n",
            "mg a v\r\n",
            "ms a 1\r\nx\r\n",
            "me a\r\n",
            "flush_all\r\n",
            "flush_all 10\r\n",
        ] {
            assert!(is_forwarded(line), "{line:?}");
        }
        for line in [
            "get a b\r\n",
            "gat 0 a b\r\n",
            "mn\r\n",
            "stats\r\n",
            "version\r\n",
            "verbosity 1\r\n",
            "watch fetchers\r\n",
            "cache_memlimit 100\r\n",
            "lru_crawler metadump all\r\n",
            "wait 1 100\r\n",
            "quit\r\n",
        ] {
            assert!(!is_forwarded(line), "{line:?}");
        }
    }
}
