//! Every message of the control connection, as its frame.

use super::{assert_drawn, hex};
use remora::base::term::Term;
use remora::fabric::{Descriptor, Invitation, Kind, Token};
use remora::protocol::Protocol;
use remora::protocol::forward::{Answered, Asked, Fate, Framed};
use remora::replication::ack::Tag;
use remora::replication::clock::Stamp;
use remora::replication::push::Invite;
use remora::replication::secret::{Secret, Side};
use remora::replication::standing::Distance;
use remora::replication::wire::{
    Beat, Decline, FRAME_BYTES_MAX, Greeting, Join, Message, NotSealed, Refusal, Seal, SealedShard, Subscribed, Told,
    VERSION, Version, Wanted, Welcome,
};
use remora::store::{Geometry, History, Memory, TermStart};

/// The frame is this, and this is read as the message.
fn is_drawn(message: &Message, drawing: &str) {
    let (bytes, mut written) = (hex(drawing), Vec::new());
    message.encode(&mut written);
    assert_drawn(&written, &bytes, &format!("{message:?}"));
    assert_eq!(Message::decode(&bytes, FRAME_BYTES_MAX), Ok(Some((message.clone(), bytes.len()))));
}

const THIRTY_TWO: [u8; 32] = {
    let mut bytes = [0; 32];
    let mut at = 0;
    while at < 32 {
        bytes[at] = at as u8;
        at += 1;
    }
    bytes
};

const THIRTY_TWO_DRAWN: &str = "
    00 01 02 03 04 05 06 07  08 09 0a 0b 0c 0d 0e 0f
    10 11 12 13 14 15 16 17  18 19 1a 1b 1c 1d 1e 1f
";

#[test]
fn the_handshake() {
    let version = Version { major: 10, minor: 1 };
    assert_eq!(VERSION, version, "the drawings are of this version");
    let greeting = Greeting { version, proof: THIRTY_TWO };
    let hello = format!(
        "2d 00 00 00 | 45 bytes follow\n 01 | Hello\n 72 65 6d 6f 72 61 0d 0a\n 0a 00  01 00 | version\n{THIRTY_TWO_DRAWN}"
    );
    is_drawn(&Message::Hello(greeting), &hello);
    let server = "aa aa aa aa aa aa aa aa  aa aa aa aa aa aa aa aa | the primary";
    let accept = format!("35 00 00 00  02  0a 00  01 00 | version\n{THIRTY_TWO_DRAWN}{server}");
    is_drawn(&Message::Accept { greeting, server: [0xAA; 16] }, &accept);
}

#[test]
fn refusals() {
    use Refusal::{Busy, Channel, Circle, Ending, Fabric, Leaves, Protocol, Replaced, Secret, Unfit};
    let at_first = [Refusal::Version, Secret, Busy, Fabric, Protocol, Replaced];
    let later = [Ending, Circle, Unfit, Channel, Leaves];
    for (number, why) in (1..).zip(at_first.into_iter().chain(later)) {
        let drawing = format!("06 00 00 00  03  {number:02x}  02 00  6e 6f | no");
        is_drawn(&Message::Refuse { why, words: "no".into() }, &drawing);
    }
    is_drawn(&Message::Declined { why: Decline::Failed, words: "no".into() }, "06 00 00 00  0b  01  02 00  6e 6f");
    is_drawn(&Message::Declined { why: Decline::NotYet, words: "no".into() }, "06 00 00 00  0b  02  02 00  6e 6f");
}

#[test]
fn what_a_replica_subscribes_to() {
    let drawing = "
        0f 00 00 00  0c           | Subscribe
        04 00                     | shards
        00 00  00                 | shard 0, puller 0
        01 00  00
        02 00  01
        ff 03  01                 | shard 1023, puller 1
        ";
    let wanted = [(0, 0), (1, 0), (2, 1), (1023, 1)].map(|(shard, puller)| Wanted::new(shard, puller));
    is_drawn(&Message::Subscribe(wanted.into()), drawing);
    let start = |number, begins| TermStart { term: Term::of(number, 0xC0_FFEE_1234), begins };
    let history = History::new(Term::of(1, 0xAB), [start(2, 64)]);
    let drawing = "
        50 00 00 00  0d           | Subscribed
        02                        | servers on the path
        aa aa aa aa aa aa aa aa  aa aa aa aa aa aa aa aa | the primary
        bb bb bb bb bb bb bb bb  bb bb bb bb bb bb bb bb | whom it follows
        02 00                     | shards
        02 00  01 00              | shard 2, tag 1
        ab 00 00 00 00  01 00 00  | its origin, of number 1
        01 00                     | terms
        34 12 ee ff c0  02 00 00  | number 2
        40 00 00 00  00 00 00 00  | begins
        ff 03  01 00              | shard 1023, tag 1
        00 00 00 00 00  00 00 00  | it has none
        00 00
        ";
    let told = |shard, history| Told { shard, tag: Tag::FIRST, history };
    let shards = vec![told(2, history), told(1023, History::NONE)];
    is_drawn(&Message::Subscribed(Subscribed { path: vec![[0xAA; 16], [0xBB; 16]], shards }), drawing);
    let drawing = "
        07 00 00 00  0e           | Unsubscribe
        02 00                     | shards
        02 00  ff 03
        ";
    is_drawn(&Message::Unsubscribe("2,1023".parse().expect("shards")), drawing);
}

#[test]
fn how_a_server_stops_for_another() {
    let seal = Seal {
        shards: "2,1023".parse().expect("shards"),
        term: Term::of(3, 0xC0_FFEE_1234),
        heir: [0xAA; 16],
        clients: Some("10.0.0.9:11211".parse().expect("an address")),
        replication: Some("[fd00::9]:11220".parse().expect("an address")),
    };
    let drawing = "
        43 00 00 00  0f           | Seal
        02 00                     | shards
        02 00  ff 03
        34 12 ee ff c0  03 00 00  | the heir's term, of number 3
        aa aa aa aa aa aa aa aa  aa aa aa aa aa aa aa aa | the heir
        00 00 00 00 00 00 00 00  00 00 ff ff 0a 00 00 09 | where its clients write
        cb 2b
        fd 00 00 00 00 00 00 00  00 00 00 00 00 00 00 09 | where it is followed
        d4 2b
        ";
    is_drawn(&Message::Seal(seal.clone()), drawing);
    let drawing = "
        43 00 00 00  0f           | Seal
        02 00                     | shards
        02 00  ff 03
        34 12 ee ff c0  03 00 00  | the heir's term, of number 3
        aa aa aa aa aa aa aa aa  aa aa aa aa aa aa aa aa | the heir
        00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00 | the connection's host
        cb 2b
        00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00 | it is not followed
        00 00
        ";
    let clients = Some("[::]:11211".parse().expect("an address"));
    is_drawn(&Message::Seal(Seal { clients, replication: None, ..seal }), drawing);
    let drawing = "
        0d 00 00 00  13           | NotSealed
        34 12 ee ff c0  03 00 00  | the latest term that is known there
        02 00  6e 6f              | no
        ";
    is_drawn(&Message::NotSealed(NotSealed { known: Term::of(3, 0xC0_FFEE_1234), words: "no".into() }), drawing);
    let sealed = [
        SealedShard {
            shard: 2,
            term: Term::of(2, 0xC0_FFEE_1234),
            position: 0x2000,
            is_whole: true,
            was_primary: false,
        },
        SealedShard { shard: 1023, term: Term::NONE, position: 0, is_whole: false, was_primary: false },
    ];
    let drawing = "
        29 00 00 00  10           | Sealed
        02 00                     | shards
        02 00                     | shard 2
        34 12 ee ff c0  02 00 00  | its term, of number 2
        00 20 00 00  00 00 00 00  | everything below this is here
        01                        | and nothing is missing
        ff 03                     | shard 1023
        00 00 00 00 00  00 00 00  | it has no term
        00 00 00 00  00 00 00 00  | and nothing
        00
        ";
    is_drawn(&Message::Sealed(sealed.into()), drawing);
    is_drawn(&Message::Begun("2,1023".parse().unwrap()), "07 00 00 00  11  02 00  02 00  ff 03");
    is_drawn(&Message::GivenUp, "01 00 00 00  12");
}

#[test]
fn how_a_link_begins_and_what_it_carries() {
    is_drawn(&Message::Forward, "01 00 00 00  14");
    is_drawn(&Message::Forwarding, "01 00 00 00  15");
    let asked =
        Asked { tag: 0x0403_0201, protocol: Protocol::Text, within_milliseconds: 5000, request: b"delete a\r\n" };
    let drawing = "
        12 00 00 00               | bytes that follow
        01 02 03 04               | tag
        01                        | protocol: text
        00                        | flags
        88 13                     | within 5000 ms
        64 65 6c 65 74 65 20 61 0d 0a
        ";
    let (bytes, mut written) = (hex(drawing), Vec::new());
    asked.encode(&mut written);
    assert_drawn(&written, &bytes, "a request");
    assert_eq!(Asked::decode(&bytes, 10), Ok(Framed::Whole(asked, bytes.len())));
    let packet = Asked { protocol: Protocol::Binary, ..asked };
    written.clear();
    packet.encode(&mut written);
    assert_eq!(written[8], 2);
    for (number, fate) in [(0, Fate::Done), (1, Fate::NotMine), (2, Fate::Refused)] {
        let drawing = format!("07 00 00 00 | bytes that follow\n 01 02 03 04 | tag\n {number:02x} | outcome\n 6e 6f");
        let (bytes, mut written) = (hex(&drawing), Vec::new());
        let answered = Answered { tag: 0x0403_0201, fate, bytes: b"no" };
        answered.encode(&mut written);
        assert_drawn(&written, &bytes, "an answer");
        assert_eq!(Answered::decode(&bytes, 2), Ok(Framed::Whole(answered, bytes.len())));
    }
}

#[test]
fn who_joins_and_what_there_is() {
    let join = Join { replica: [0xAA; 16], host: [0xBB; 16], name: "two".into(), program_version: "1.2.3".into() };
    let drawing = "
        04                        | Join
        aa aa aa aa aa aa aa aa  aa aa aa aa aa aa aa aa | replica
        bb bb bb bb bb bb bb bb  bb bb bb bb bb bb bb bb | host
        03 00  74 77 6f           | name
        05 00  31 2e 32 2e 33     | of its program: 1.2.3
        ";
    is_drawn(&Message::Join(join), &format!("2d 00 00 00 {drawing}"));
    let geometry = Geometry { shards: 2, slab_bytes: 1 << 18, record_bytes_max: 4096, evict: true };
    let start = |number, begins| TermStart { term: Term::of(number, 0xC0_FFEE_1234), begins };
    let history = || History::new(Term::of(1, 0xAB), [start(2, 64), start(3, 0x2000)]);
    let welcome = Welcome {
        geometry,
        memory: Memory { slabs: 9, table_cells: 8 },
        histories: vec![history(), History::NONE],
        host: [0xBB; 16],
        client_port: 11211,
        fabrics: vec![Kind::Verbs, Kind::Shm, Kind::Tcp],
        program_version: "1.2.3".into(),
    };
    let drawing = "
        05                        | Welcome
        02 00 00 00               | shards
        09 00 00 00               | slabs
        08 00 00 00               | cells of a table
        00 00 04 00  00 00 00 00  | bytes of a slab
        00 10 00 00  00 00 00 00  | largest record
        01                        | evicts
        bb bb bb bb bb bb bb bb  bb bb bb bb bb bb bb bb | host
        cb 2b                     | clients' port
        03  02 01 03              | fabrics: verbs, shm, tcp
        ab 00 00 00 00  01 00 00  | shard 0: its origin, of number 1
        02 00                     | terms
        34 12 ee ff c0  02 00 00  | number 2
        40 00 00 00  00 00 00 00  | begins
        34 12 ee ff c0  03 00 00  | number 3
        00 20 00 00  00 00 00 00
        00 00 00 00 00  00 00 00  | shard 1: it has none
        00 00
        05 00  31 2e 32 2e 33     | of its program: 1.2.3
        ";
    is_drawn(&Message::Welcome(welcome), &format!("6f 00 00 00 {drawing}"));
}

fn invitation() -> Invitation {
    let region = |address, key, bytes| Descriptor { address, key, bytes };
    Invitation {
        address: "h:1".into(),
        token: Token([0xCC; 16]),
        ack: region(0x1000, 7, 4096),
        regions: vec![region(0x2000, 8, 64), region(0x3000, 9, 0x10_0000)],
    }
}

const INVITATION: &str = "
        03 00  68 3a 31           | address
        cc cc cc cc cc cc cc cc  cc cc cc cc cc cc cc cc | token
        00 10 00 00  00 00 00 00  | ack slot: address
        07 00 00 00  00 00 00 00  | key
        00 10 00 00  00 00 00 00  | bytes
        02 00 00 00               | regions
        00 20 00 00  00 00 00 00
        08 00 00 00  00 00 00 00
        40 00 00 00  00 00 00 00
        00 30 00 00  00 00 00 00
        09 00 00 00  00 00 00 00
        00 00 10 00  00 00 00 00
";

#[test]
fn how_the_data_channel_comes_to_be() {
    for (kind, number) in [(Kind::Shm, 1), (Kind::Verbs, 2), (Kind::Tcp, 3)] {
        let choose = |channels| Message::Choose { fabric: kind, channels };
        is_drawn(&choose(3), &format!("04 00 00 00  06  {number:02x}  03 00 | channels"));
    }
    let grant = |further| Message::Grant { first: invitation(), further };
    is_drawn(&grant(vec![]), &format!("64 00 00 00\n07\n{INVITATION}\n00 00 | further channels\n"));
    is_drawn(
        &grant(vec![invitation(); 2]),
        &format!("26 01 00 00\n07\n{INVITATION}\n02 00 | further channels\n{INVITATION}\n{INVITATION}"),
    );
    is_drawn(&Message::Attached, "01 00 00 00  08");
    is_drawn(
        &Message::Invite(Invite {
            fabric: Kind::Verbs,
            window_bytes: 0x20_0000,
            pause_microseconds: 1000,
            invitation: invitation(),
        }),
        &format!(
            "
        6f 00 00 00
        0a                        | Invite
        02                        | verbs
        00 00 20 00  00 00 00 00  | window
        e8 03 00 00               | longest pause
        {INVITATION}"
        ),
    );
}

#[test]
fn a_heartbeat() {
    is_drawn(
        &Message::Heartbeat(Beat {
            distance: Distance { depth: 2, lag_bytes: 0x0102, lag_microseconds: 0x0304 },
            stamp: Stamp { wall: 0x0506, sent: 0x0708, echo: 0x090a, held: 0x0b0c },
            path: vec![[0xAA; 16]],
        }),
        "
        46 00 00 00
        09                        | Heartbeat
        02 00 00 00               | links
        02 01 00 00  00 00 00 00  | lag in bytes
        04 03 00 00  00 00 00 00  | lag in microseconds
        06 05 00 00  00 00 00 00  | the sender's wall clock, in microseconds since 1970
        08 07 00 00  00 00 00 00  | its steady clock
        0a 09 00 00  00 00 00 00  | the last steady clock that it has heard from the other side
        0c 0b 00 00  00 00 00 00  | and how long ago
        01                        | servers on the path
        aa aa aa aa aa aa aa aa  aa aa aa aa aa aa aa aa
        ",
    );
}

/// HMAC-SHA-256 of the side's label and the connection's binding; from another implementation.
#[test]
fn proofs() {
    let secret = Secret::new(b"a secret of some length").expect("long enough");
    let is_drawn = |side, drawing: &str| {
        assert_drawn(&secret.prove(side, &THIRTY_TWO), &hex(drawing), &format!("{side:?}"));
    };
    is_drawn(
        Side::Primary,
        "
            ce fe 5d e5 9a 32 03 7b  73 29 c9 b6 0b 9a be d2
            5e 14 78 18 bb 0a df de  2d 0a f6 db 07 0b 0d 54
            ",
    );
    is_drawn(
        Side::Replica,
        "
            bb 10 77 3e 19 f1 ac 81  5e ee f3 da d1 5a 2c ae
            2d 28 e6 6d a3 ce a2 4f  e6 ab 2d 67 b6 c3 5e b8
            ",
    );
}
