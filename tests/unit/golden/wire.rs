//! Every message of the control connection, as its frame.

use super::{assert_drawn, hex};
use remora::base::epoch::Epoch;
use remora::fabric::{Descriptor, Invitation, Kind, Token};
use remora::replication::clock::Stamp;
use remora::replication::push::Invite;
use remora::replication::secret::{Secret, Side};
use remora::replication::standing::Distance;
use remora::replication::wire::{Beat, Decline, FRAME_BYTES_MAX, Join, Message, Refusal, VERSION, Welcome};
use remora::store::{EpochStart, Geometry, Memory};

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
    assert_eq!(VERSION, 5, "the drawings are of this version");
    let with_32 = |head: &str| format!("{head}{THIRTY_TWO_DRAWN}");
    is_drawn(
        &Message::Hello { version: 5, nonce: THIRTY_TWO },
        &with_32("2b 00 00 00 | 43 bytes follow\n 01 | Hello\n 72 65 6d 6f 72 61 0d 0a\n 05 00 | version\n"),
    );
    is_drawn(&Message::Challenge { nonce: THIRTY_TWO }, &with_32("21 00 00 00  02"));
    is_drawn(&Message::Prove { proof: THIRTY_TWO }, &with_32("21 00 00 00  03"));
    is_drawn(&Message::Accept { proof: THIRTY_TWO }, &with_32("21 00 00 00  04"));
}

#[test]
fn refusals() {
    use Refusal::*;
    for (number, why) in (1..).zip([Version, Secret, Busy, Fabric, Protocol, Replaced, Ending, Circle]) {
        let drawing = format!("06 00 00 00  05  {number:02x}  02 00  6e 6f | no");
        is_drawn(&Message::Refuse { why, words: "no".into() }, &drawing);
    }
    is_drawn(&Message::Declined { why: Decline::NotYet, words: "no".into() }, "06 00 00 00  0d  02  02 00  6e 6f");
}

#[test]
fn who_joins_and_what_there_is() {
    is_drawn(
        &Message::Join(Join { replica: [0xAA; 16], host: [0xBB; 16], name: "two".into() }),
        "
        26 00 00 00
        06                        | Join
        aa aa aa aa aa aa aa aa  aa aa aa aa aa aa aa aa | replica
        bb bb bb bb bb bb bb bb  bb bb bb bb bb bb bb bb | host
        03 00  74 77 6f           | name
        ",
    );
    let geometry = Geometry { shards: 2, slab_bytes: 1 << 18, record_bytes_max: 4096, evict: true };
    let start = |generation, begins| EpochStart { epoch: Epoch::of(0xC0FF_EE12, generation), begins };
    is_drawn(
        &Message::Welcome(Welcome {
            geometry,
            memory: Memory { slabs: 9, table_cells: 8 },
            epochs: vec![start(1, vec![64, 64]), start(3, vec![0x1000, 0x2000])],
            host: [0xBB; 16],
            client_port: 11211,
            fabrics: vec![Kind::Verbs, Kind::Shm, Kind::Tcp],
        }),
        "
        65 00 00 00
        07                        | Welcome
        02 00 00 00               | shards
        09 00 00 00               | slabs
        08 00 00 00               | cells of a table
        00 00 04 00  00 00 00 00  | bytes of a slab
        00 10 00 00  00 00 00 00  | largest record
        01                        | evicts
        bb bb bb bb bb bb bb bb  bb bb bb bb bb bb bb bb | host
        cb 2b                     | clients' port
        03  02 01 03              | fabrics: verbs, shm, tcp
        02                        | epochs
        01 00 00 12 ee ff c0 00   | generation 1
        40 00 00 00  00 00 00 00
        40 00 00 00  00 00 00 00
        03 00 00 12 ee ff c0 00   | generation 3
        00 10 00 00  00 00 00 00
        00 20 00 00  00 00 00 00
        ",
    );
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
        is_drawn(&Message::Choose(kind), &format!("02 00 00 00  08  {number:02x}"));
    }
    is_drawn(&Message::Grant(invitation()), &format!("62 00 00 00\n09\n{INVITATION}"));
    is_drawn(&Message::Attached, "01 00 00 00  0a");
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
        0c                        | Invite
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
        }),
        "
        35 00 00 00
        0b                        | Heartbeat
        02 00 00 00               | links
        02 01 00 00  00 00 00 00  | lag in bytes
        04 03 00 00  00 00 00 00  | lag in microseconds
        06 05 00 00  00 00 00 00  | the sender's wall clock, in microseconds since 1970
        08 07 00 00  00 00 00 00  | its steady clock
        0a 09 00 00  00 00 00 00  | the last steady clock that it has heard from the other side
        0c 0b 00 00  00 00 00 00  | and how long ago
        ",
    );
}

/// HMAC-SHA-256 of the side's label, the version and both nonces, the replica's first; from another
/// implementation.
#[test]
fn proofs() {
    let secret = Secret::new(b"a secret of some length").expect("long enough");
    for (side, proof) in [
        (
            Side::Primary,
            "
            e5 07 b9 d8 df db 4b 5d  c2 54 c2 7c c7 e4 59 25
            35 45 1f 2e 6a 90 5a 57  56 df 6d 3b f2 bc 70 f9
            ",
        ),
        (
            Side::Replica,
            "
            4c bf f6 fa 3d d4 3f e3  d0 6e d7 39 55 3d d4 a2
            4d 3e 34 e5 a6 db 3f 12  b7 5f 70 08 06 d8 71 b6
            ",
        ),
    ] {
        assert_drawn(&secret.prove(side, &[1; 32], &[2; 32]), &hex(proof), &format!("{side:?}"));
    }
}
