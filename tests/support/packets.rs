//! Packets of the binary protocol, made and read apart from the server's own code.

/// The parts of a request. Its header says of them what is true, unless `lengths` says otherwise.
#[derive(Debug, Clone, Default)]
pub struct Packet<'a> {
    pub opcode: u8,
    pub opaque: u32,
    pub cas: u64,
    pub extras: &'a [u8],
    pub key: &'a [u8],
    pub value: &'a [u8],
    /// Of key, extras and body.
    pub lengths: Option<(u16, u8, u32)>,
}

impl Packet<'_> {
    pub fn bytes(&self) -> Vec<u8> {
        let body = self.extras.len() + self.key.len() + self.value.len();
        let (key, extras, body) = self.lengths.unwrap_or((self.key.len() as u16, self.extras.len() as u8, body as u32));
        let mut bytes = vec![0x80, self.opcode];
        bytes.extend(key.to_be_bytes());
        bytes.extend([extras, 0, 0, 0]);
        bytes.extend(body.to_be_bytes());
        bytes.extend(self.opaque.to_be_bytes());
        bytes.extend(self.cas.to_be_bytes());
        [&bytes, self.extras, self.key, self.value].concat()
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub opcode: u8,
    pub status: u16,
    pub opaque: u32,
    pub cas: u64,
    pub extras: Vec<u8>,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

/// Of a header.
pub const HEADER_BYTES: usize = 24;

/// Bytes of the body behind an answer's header.
pub fn body_bytes(header: &[u8]) -> usize {
    u32::from_be_bytes(header[8..12].try_into().expect("four bytes")) as usize
}

/// The first answer in `bytes`, and what follows it.
pub fn read(bytes: &[u8]) -> (Answer, &[u8]) {
    assert_eq!((bytes[0], bytes[5]), (0x81, 0), "an answer's magic and data type: {:?}", &bytes[..HEADER_BYTES]);
    parts(bytes)
}

/// The parts of the first packet in `bytes`, of a request or an answer, and what follows it.
pub fn parts(bytes: &[u8]) -> (Answer, &[u8]) {
    let (header, rest) = bytes.split_at(HEADER_BYTES);
    let (body, rest) = rest.split_at(body_bytes(header));
    let (extras, body) = body.split_at(usize::from(header[4]));
    let (key, value) = body.split_at(usize::from(u16::from_be_bytes([header[2], header[3]])));
    let answer = Answer {
        opcode: header[1],
        status: u16::from_be_bytes([header[6], header[7]]),
        opaque: u32::from_be_bytes(header[12..16].try_into().expect("four bytes")),
        cas: u64::from_be_bytes(header[16..24].try_into().expect("eight bytes")),
        extras: extras.to_vec(),
        key: key.to_vec(),
        value: value.to_vec(),
    };
    (answer, rest)
}

/// All answers in `bytes`.
pub fn read_all(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let (answer, rest) = read(bytes);
        answers.push(answer);
        bytes = rest;
    }
    answers
}
