//! The bytes of the embedded store's log. Pure: states to bytes, bytes to the last state.
//!
//! ```text
//! file    0  magic "remora-map-log\n\0" (16)
//!         16 record, record, ...           each is all that is to be known: the last one counts
//!
//! record  0  u32 bytes of the map
//!         4  u64 number      one more than the record's before
//!        12  u64 generation
//!        20  u64 revision    0: there is no map
//!        28  u32 checksum    CRC-32C of the 28 bytes before, then u64 place in the file, u64 0
//!        32  the map, and zeros up to a multiple of 4
//!         .  u32 checksum    CRC-32C of all the record before, then u64 place, u64 number; never 0
//! ```
//!
//! All numbers are little-endian. A file comes to be with its first record whole: it is written
//! elsewhere and renamed. Behind it one record is appended and synced at a time, so only the last
//! one can be **torn**: it ends too early, or ends in zeros, which is what a file system shows of
//! bytes that had not come to the disk (in whole sectors, and no checksum lies in two of them).
//! Whatever else does not fit its checksum is **damage**, and is no reason to go back to an older
//! map.

use crate::sys::checksum::BodyChecksum;

/// What the file begins with.
const MAGIC: [u8; HEADER_BYTES] = *b"remora-map-log\n\0";
/// Of the file.
pub const HEADER_BYTES: usize = 16;
const HEAD_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;

/// All that is to be known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub number: u64,
    pub generation: u64,
    /// 0: there is no map.
    pub revision: u64,
    pub bytes: Vec<u8>,
}

/// What a file says.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub state: State,
    /// Up to here it is whole. What is behind is torn.
    pub length: u64,
}

/// Why a file says nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct Damage {
    pub at: u64,
    pub why: &'static str,
}

/// Of the record of a map of so many bytes.
pub const fn record_bytes(map: usize) -> usize {
    HEAD_BYTES + map.next_multiple_of(CHECKSUM_BYTES) + CHECKSUM_BYTES
}

impl State {
    /// Its record at that place.
    pub fn record(&self, place: u64) -> Vec<u8> {
        let mut record = Vec::with_capacity(record_bytes(self.bytes.len()));
        let bytes = u32::try_from(self.bytes.len()).expect("checked when it came in");
        record.extend_from_slice(&bytes.to_le_bytes());
        for word in [self.number, self.generation, self.revision] {
            record.extend_from_slice(&word.to_le_bytes());
        }
        record.extend_from_slice(&head_checksum(&record, place).to_le_bytes());
        record.extend_from_slice(&self.bytes);
        record.resize(record_bytes(self.bytes.len()) - CHECKSUM_BYTES, 0);
        record.extend_from_slice(&checksum(&record, place, self.number).to_le_bytes());
        record
    }
}

/// A file whose first record is `state`.
pub fn begun_with(state: &State) -> Vec<u8> {
    [&MAGIC[..], &state.record(HEADER_BYTES as u64)].concat()
}

fn head_checksum(head: &[u8], place: u64) -> u32 {
    BodyChecksum::default().update(head).at(place, 0)
}

/// Never 0, so that zeros in its place are no checksum.
fn checksum(record: &[u8], place: u64, number: u64) -> u32 {
    BodyChecksum::default().update(record).at(place, number).max(1)
}

/// What a record is, at some place of a file.
enum Record {
    Whole(State),
    Torn,
    Bad(&'static str),
}

/// The last state that a file tells.
pub fn scan(file: &[u8]) -> Result<Found, Damage> {
    if !file.starts_with(&MAGIC) {
        return Err(Damage { at: 0, why: "it does not begin as the log of a map does" });
    }
    let mut found: Option<Found> = None;
    let mut at = HEADER_BYTES;
    while at < file.len() || found.is_none() {
        let damage = |why| Err(Damage { at: at as u64, why });
        match (read(&file[at..], at as u64), &found) {
            (Record::Whole(state), None) => at = taken(&mut found, state, at),
            (Record::Whole(state), Some(before)) if follows(&state, &before.state) => at = taken(&mut found, state, at),
            (Record::Whole(_), Some(_)) => return damage("a record is not the one that follows"),
            (Record::Torn, Some(_)) => break,
            (Record::Torn, None) => {
                return damage("the first record is not whole, and it was when the file came to be");
            }
            (Record::Bad(why), _) => return damage(why),
        }
    }
    Ok(found.expect("the loop does not end before there is one"))
}

fn taken(found: &mut Option<Found>, state: State, at: usize) -> usize {
    let end = at + record_bytes(state.bytes.len());
    *found = Some(Found { state, length: end as u64 });
    end
}

fn follows(state: &State, before: &State) -> bool {
    state.number == before.number + 1 && state.generation >= before.generation && state.revision >= before.revision
}

/// The record that `rest` of the file begins with, at that place.
fn read(rest: &[u8], place: u64) -> Record {
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let Some((head, _)) = rest.split_at_checked(HEAD_BYTES) else { return Record::Torn };
    let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let half = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    if half(&head[28..]) != head_checksum(&head[..28], place) {
        // Zeros from within the head on.
        return if is_zero(&rest[HEAD_BYTES - CHECKSUM_BYTES..]) {
            Record::Torn
        } else {
            Record::Bad("a record's head does not fit its checksum")
        };
    }
    let map_bytes = half(&head[..4]) as usize;
    let end = record_bytes(map_bytes);
    if rest.len() < end {
        return Record::Torn;
    }
    let (body, sum) = rest[..end].split_at(end - CHECKSUM_BYTES);
    let (number, generation, revision) = (word(4), word(12), word(20));
    if half(sum) == checksum(body, place, number) {
        return Record::Whole(State {
            number,
            generation,
            revision,
            bytes: body[HEAD_BYTES..HEAD_BYTES + map_bytes].to_vec(),
        });
    }
    // What is behind was appended once this one was whole.
    let is_last = rest.len() == end;
    if is_last && is_zero(sum) { Record::Torn } else { Record::Bad("a record does not fit its checksum") }
}
