//! Every message there and back, and what is refused.
#![allow(clippy::unwrap_used)]

use super::*;

fn examples() -> Vec<Message> {
    let geometry = Geometry { shards: 2, slab_bytes: 1 << 18, record_bytes_max: 1 << 18, evict: true };
    let memory = Memory { slabs: 8, table_cells: 8 };
    let start = |epoch| EpochStart { epoch: Epoch(epoch), begins: vec![64, 4096] };
    let descriptor = |key| Descriptor { address: 7, key, bytes: 4096 };
    let regions = vec![descriptor(1), descriptor(2)];
    let (address, token, ack) = ("127.0.0.1:7".to_string(), Token([8; 16]), descriptor(3));
    let invitation = || Invitation { address: address.clone(), token, regions: regions.clone(), ack };
    vec![
        Message::Hello { version: 1, nonce: [1; NONCE_BYTES] },
        Message::Challenge { nonce: [2; NONCE_BYTES] },
        Message::Prove { proof: [3; 32] },
        Message::Accept { proof: [4; 32] },
        Message::Refuse { why: Refusal::Secret, words: "the secret is another one".into() },
        Message::Join(Join { replica: [5; 16], host: [6; 16], name: "replica".into() }),
        Message::Welcome(Welcome {
            geometry,
            memory,
            epochs: vec![start(1 << 24 | 1), start(1 << 24 | 2)],
            host: [9; 16],
            client_port: 11211,
            fabrics: vec![Kind::Shm, Kind::Tcp],
        }),
        Message::Choose(Kind::Verbs),
        Message::Grant(invitation()),
        Message::Attached,
        Message::Heartbeat(Beat {
            distance: Distance { depth: 2, lag_bytes: 1 << 40, lag_microseconds: 1500 },
            stamp: Stamp { wall: 1_700_000_000_000_000, sent: 4, echo: 5, held: 6 },
        }),
        Message::Invite(Invite {
            fabric: Kind::Shm,
            window_bytes: 1 << 20,
            pause_microseconds: 1000,
            invitation: invitation(),
        }),
        Message::Declined { why: Decline::Failed, words: "no device".into() },
        Message::Declined { why: Decline::NotYet, words: "registering".into() },
    ]
}

#[test]
fn every_message_comes_back_and_no_part_of_one_does() {
    for message in examples() {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(Message::decode(&bytes[..cut], FRAME_BYTES_MAX), Ok(None), "{message:?} cut at {cut}");
        }
        let length = bytes.len();
        bytes.extend_from_slice(b"more");
        assert_eq!(Message::decode(&bytes, FRAME_BYTES_MAX), Ok(Some((message, length))));
    }
}

#[test]
fn a_frame_with_a_byte_too_few_or_too_many_is_refused() {
    for message in examples() {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let length = bytes.len() - LENGTH_BYTES;
        for wrong in [length - 1, length + 1] {
            let mut bytes = bytes.clone();
            bytes[..LENGTH_BYTES].copy_from_slice(&(wrong as u32).to_le_bytes());
            bytes.push(0);
            assert!(Message::decode(&bytes, FRAME_BYTES_MAX).is_err(), "{message:?} with length {wrong}");
        }
    }
}

#[test]
fn lengths_beyond_their_bounds_are_refused_before_anything_is_made_of_them() {
    let mut bytes = (FRAME_BYTES_MAX as u32 + 1).to_le_bytes().to_vec();
    assert_eq!(Message::decode(&bytes, FRAME_BYTES_MAX), Err(WireError::TooLong(FRAME_BYTES_MAX + 1)));
    bytes = b"get key\r\n".to_vec();
    assert_eq!(Message::decode(&bytes, STRANGER_FRAME_BYTES_MAX), Err(WireError::Stranger));
    // Two billion regions in a frame of 100 bytes.
    let mut bytes = Vec::new();
    let invitation = Invitation {
        address: String::new(),
        token: Token([0; 16]),
        regions: vec![],
        ack: Descriptor { address: 0, key: 0, bytes: 0 },
    };
    Message::Grant(invitation).encode(&mut bytes);
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Message::decode(&bytes, FRAME_BYTES_MAX), Err(WireError::Malformed(9)));
}

#[test]
fn text_is_cut_to_its_bound_and_shown_without_control_characters() {
    let words = "é".repeat(TEXT_BYTES_MAX) + "\n";
    let mut bytes = Vec::new();
    Message::Refuse { why: Refusal::Busy, words }.encode(&mut bytes);
    let Ok(Some((Message::Refuse { words, .. }, _))) = Message::decode(&bytes, FRAME_BYTES_MAX) else {
        panic!("no refusal");
    };
    assert_eq!(words, "é".repeat(TEXT_BYTES_MAX / 2));
    let mut bytes = Vec::new();
    Message::Refuse { why: Refusal::Busy, words: "a\x1b[2Jb".into() }.encode(&mut bytes);
    let Ok(Some((Message::Refuse { words, .. }, _))) = Message::decode(&bytes, FRAME_BYTES_MAX) else {
        panic!("no refusal");
    };
    assert_eq!(words, "a [2Jb");
}
