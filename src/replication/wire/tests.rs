//! Every message there and back, what is left out of it, and what is refused.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::base::term::Term;
use crate::fabric::Token;
use crate::replication::ack::Tag;
use crate::replication::shares::PULLERS_MAX;
use crate::store::TermStart;

/// An heir that says that it is here.
fn seal(clients: &str, replication: &str) -> Seal {
    let [clients, replication] = [clients, replication].map(|address| address.parse().ok());
    Seal { shards: "3,7-9".parse().unwrap(), term: Term::of(9, 5), heir: [4; 16], clients, replication }
}

fn examples() -> Vec<Message> {
    let geometry = Geometry { shards: 2, slab_bytes: 1 << 18, record_bytes_max: 1 << 18, evict: true };
    let memory = Memory { slabs: 8, table_cells: 8 };
    let start = |number, begins| TermStart { term: Term::of(number, 7), begins };
    let history = || History::new(Term::of(1, 9), [start(2, 64), start(3, 4096)]);
    let told = |shard, history| Told { shard, tag: Tag::FIRST, history };
    let descriptor = |key| Descriptor { address: 7, key, bytes: 4096 };
    let regions = vec![descriptor(1), descriptor(2)];
    let join = Join { replica: [5; 16], host: [6; 16], name: "replica".into(), program_version: "1.2.3".into() };
    let welcome = Welcome {
        geometry,
        memory,
        histories: vec![history(), History::NONE],
        host: [9; 16],
        client_port: 11211,
        fabrics: vec![Kind::Shm, Kind::Tcp],
        program_version: "1.2.3".into(),
    };
    let (address, token, ack) = ("127.0.0.1:7".to_string(), Token([8; 16]), descriptor(3));
    let invitation = || Invitation { address: address.clone(), token, regions: regions.clone(), ack };
    vec![
        Message::Hello(Greeting { version: VERSION, proof: [1; 32] }),
        Message::Accept {
            greeting: Greeting { version: Version { minor: 9, ..VERSION }, proof: [2; 32] },
            server: [3; 16],
        },
        Message::Refuse { why: Refusal::Secret, words: "the secret is another one".into() },
        Message::Join(join),
        Message::Welcome(welcome),
        Message::Choose { fabric: Kind::Verbs, channels: 3 },
        Message::Grant { first: invitation(), further: vec![] },
        Message::Grant { first: invitation(), further: vec![invitation(), invitation()] },
        Message::Attached,
        Message::Heartbeat(Beat {
            distance: Distance { depth: 2, lag_bytes: 1 << 40, lag_microseconds: 1500 },
            stamp: Stamp { wall: 1_700_000_000_000_000, sent: 4, echo: 5, held: 6 },
            path: vec![[1; 16], [2; 16]],
        }),
        Message::Invite(Invite {
            fabric: Kind::Shm,
            window_bytes: 1 << 20,
            pause_microseconds: 1000,
            invitation: invitation(),
        }),
        Message::Declined { why: Decline::Failed, words: "no device".into() },
        Message::Declined { why: Decline::NotYet, words: "registering".into() },
        Message::Subscribe(vec![Wanted::new(0, 0), Wanted::new(1023, 15)]),
        Message::Subscribed(Subscribed {
            path: vec![[1; 16]],
            shards: vec![told(0, history()), told(1023, History::NONE)],
        }),
        Message::Unsubscribe("0-1,1023".parse().unwrap()),
        Message::Seal(seal("10.0.0.9:11211", "[fd00::9]:11311")),
        Message::Sealed(vec![SealedShard {
            shard: 3,
            term: Term::of(8, 5),
            position: 4096,
            is_whole: true,
            was_primary: true,
        }]),
        Message::Begun("3,1023".parse().unwrap()),
        Message::GivenUp,
        Message::Forward,
        Message::Forwarding,
        Message::NotSealed(NotSealed { known: Term::of(9, 5), words: "busy".into() }),
        Message::Cluster(b"{}".to_vec()),
        Message::Unknown(200),
    ]
}

/// With its frame's length changed by so many bytes, which are cut off or are ones.
fn stretched(message: &Message, by: isize) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes.resize(bytes.len().strict_add_signed(by), 1);
    let length = (bytes.len() - LENGTH_BYTES) as u32;
    bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    bytes
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
fn a_frame_with_a_byte_too_few_is_refused() {
    for message in examples() {
        assert!(Message::decode(&stretched(&message, -1), FRAME_BYTES_MAX).is_err(), "{message:?}");
    }
}

#[test]
fn fields_that_a_later_version_has_added_are_left_out() {
    for message in examples() {
        for more in [1, 100, 4000] {
            let bytes = stretched(&message, more);
            assert_eq!(Message::decode(&bytes, FRAME_BYTES_MAX), Ok(Some((message.clone(), bytes.len()))));
        }
    }
}

#[test]
fn a_greeting_of_another_major_version_says_so_whatever_else_is_in_it() {
    let (proof, other) = ([7; 32], Version { major: VERSION.major + 1, minor: 0 });
    let greeting = Greeting { version: other, proof };
    for greeting in [Message::Hello(greeting), Message::Accept { greeting, server: [3; 16] }] {
        for bytes in [stretched(&greeting, 0), stretched(&greeting, -32), stretched(&greeting, 50)] {
            assert_eq!(Message::decode(&bytes, STRANGER_FRAME_BYTES_MAX), Err(WireError::Major(other.major)));
        }
    }
    // As version 5 said it: its number has two bytes.
    let mut hello = vec![43, 0, 0, 0, 1];
    hello.extend_from_slice(&MAGIC);
    hello.extend_from_slice(&5u16.to_le_bytes());
    hello.extend_from_slice(&proof);
    assert_eq!(Message::decode(&hello, STRANGER_FRAME_BYTES_MAX), Err(WireError::Major(5)));
}

#[test]
fn of_a_path_as_much_is_told_as_may_be_and_no_more_is_taken() {
    let subscribed = |count: usize| Message::Subscribed(Subscribed { path: vec![[3; 16]; count], shards: vec![] });
    let mut bytes = Vec::new();
    subscribed(PATH_MAX + 1).encode(&mut bytes);
    assert_eq!(Message::decode(&bytes, FRAME_BYTES_MAX), Ok(Some((subscribed(PATH_MAX), bytes.len()))));
    // The count stands behind the frame's length and kind.
    bytes[LENGTH_BYTES + 1] += 1;
    assert_eq!(Message::decode(&bytes, FRAME_BYTES_MAX), Err(WireError::Malformed(13)));
}

/// As many shards as there can be, each with as many terms as are told.
#[test]
fn what_is_told_of_all_shards_fits_a_frame() {
    let starts = (1..=100).map(|number| TermStart { term: Term::of(number, 7), begins: u64::from(number) * 64 });
    let history = History::new(Term::of(1, 9), starts);
    let told = |shard| Told { shard, tag: Tag::FIRST, history: history.clone() };
    let shards: Vec<Told> = (0..SHARDS_MAX).map(told).collect();
    let mut bytes = Vec::new();
    Message::Subscribed(Subscribed { path: vec![[3; 16]; PATH_MAX], shards }).encode(&mut bytes);
    let Ok(Some((Message::Subscribed(subscribed), _))) = Message::decode(&bytes, FRAME_BYTES_MAX) else {
        panic!("a Subscribed")
    };
    assert_eq!((subscribed.shards.len(), subscribed.path.len()), (SHARDS_MAX, PATH_MAX));
    assert_eq!(subscribed.shards[1023].history, history.within(TERMS_TOLD_MAX));
}

/// The tail's term, without which nobody could join, and what is newest.
#[test]
fn of_a_long_history_the_oldest_term_and_the_latest_are_told() {
    let count = TERMS_TOLD_MAX as u32 + 40;
    let starts = (1..=count).map(|number| TermStart { term: Term::of(number, 7), begins: u64::from(number) * 64 });
    let long = History::new(Term::of(1, 9), starts);
    let Some(Message::Welcome(mut welcome)) = examples().into_iter().find(|message| message.kind() == 5) else {
        panic!("a Welcome")
    };
    welcome.histories[0] = long.clone();
    let mut bytes = Vec::new();
    Message::Welcome(welcome).encode(&mut bytes);
    let Ok(Some((Message::Welcome(welcome), _))) = Message::decode(&bytes, FRAME_BYTES_MAX) else {
        panic!("a Welcome")
    };
    let told = &welcome.histories[0];
    assert_eq!((told.origin(), told.starts().len()), (long.origin(), TERMS_TOLD_MAX));
    assert_eq!(told.starts()[0], long.starts()[0]);
    assert_eq!(told.starts()[1..], long.starts()[41..]);
}

/// What `tools/fuzz` begins with.
#[test]
fn seeds_of_fuzzing_are_messages_of_this_version() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/seeds/replication");
    let mut kinds: Vec<u8> = Vec::new();
    for seed in std::fs::read_dir(folder).unwrap() {
        let path = seed.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (message, taken) =
                Message::decode(rest, FRAME_BYTES_MAX).unwrap().unwrap_or_else(|| panic!("{path:?} is cut"));
            kinds.push(message.kind());
            rest = &rest[taken..];
        }
    }
    let missing: Vec<Message> = examples().into_iter().filter(|message| !kinds.contains(&message.kind())).collect();
    assert!(missing.is_empty(), "no seed for {missing:?}");
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
    Message::Grant { first: invitation.clone(), further: vec![] }.encode(&mut bytes);
    let end = bytes.len();
    bytes[end - 6..end - 2].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Message::decode(&bytes, FRAME_BYTES_MAX), Err(WireError::Malformed(7)));
    // As many channels as a replica may have, and one more.
    for (further, is_one) in [(PULLERS_MAX - 1, true), (PULLERS_MAX, false)] {
        let grant = Message::Grant { first: invitation.clone(), further: vec![invitation.clone(); further] };
        bytes.clear();
        grant.encode(&mut bytes);
        let expected = if is_one { Ok(Some((grant, bytes.len()))) } else { Err(WireError::Malformed(7)) };
        assert_eq!(Message::decode(&bytes, FRAME_BYTES_MAX), expected);
    }
}

/// A server that is told such an address would send clients and connections there.
#[test]
fn an_heir_is_at_no_address_that_is_no_hosts() {
    let told = |address: &str| {
        let mut bytes = Vec::new();
        Message::Seal(seal(address, "")).encode(&mut bytes);
        Message::decode(&bytes, FRAME_BYTES_MAX).map(|read| match read {
            Some((Message::Seal(seal), _)) => seal.clients.map(|address| address.to_string()),
            other => panic!("{other:?}"),
        })
    };
    for address in ["224.0.0.1:1", "255.255.255.255:1", "[ff02::1]:1"] {
        assert_eq!(told(address), Err(WireError::Malformed(15)), "{address}");
    }
    assert_eq!(told("10.0.0.9:1"), Ok(Some("10.0.0.9:1".into())));
    assert_eq!(told("10.0.0.9:0"), Ok(None), "no port");
    assert_eq!(told("0.0.0.0:1"), Ok(Some("[::]:1".into())));
    assert_eq!(told("[fe80::9]:1"), Ok(Some("[::]:1".into())), "of a link: only its own host knows which");
    // No Remora sends the unspecified address of IPv4, but a peer may.
    let mut bytes = Vec::new();
    Message::Seal(seal("10.0.0.9:1", "")).encode(&mut bytes);
    let at = bytes.windows(4).position(|four| four == [10, 0, 0, 9]).unwrap();
    bytes[at..at + 4].fill(0);
    let Ok(Some((Message::Seal(read), _))) = Message::decode(&bytes, FRAME_BYTES_MAX) else { panic!("no seal") };
    assert_eq!(read.clients, "[::]:1".parse().ok());
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
