//! Forwarded requests that find no room: they hold up nobody but those about the same shard, have
//! bounds, and are refused with nothing done once the forwarder waits no more. The server is within
//! this process, so that the test can keep room from coming.

use super::within::Within;
use crate::support::forwarder::{Forwarder, NEVER};
use remora::protocol::Protocol;
use remora::protocol::forward::Fate;
use remora::server::ServerConfig;
use remora::store::Participant;

const MEMORY_BYTES: usize = 16 << 20;
const VALUE_BYTES: usize = 2000;

/// A server of which one shard has no room, and a link to it.
struct Full {
    server: Within,
    forwarder: Forwarder,
    /// Keys of that shard that are not stored.
    here: Vec<String>,
    /// A key of another shard, which is.
    elsewhere: String,
}

fn set(key: &str, value: &[u8]) -> Vec<u8> {
    [format!("set {key} 0 0 {}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

impl Full {
    /// While somebody is in a turn, who was so before: then nothing may be overwritten.
    fn new(server: Within) -> Full {
        let keys = |prefix: &'static str| (0..).map(move |number| format!("{prefix}-{number}"));
        let shard = |key: &String| server.store.locate(key.as_bytes()).place.shard();
        let full = shard(&"here-0".to_string());
        let here = keys("here").filter(|key| shard(key) == full).take(40).collect();
        let elsewhere = keys("elsewhere").find(|key| shard(key) != full).expect("there are several shards");
        let mut forwarder = server.link();
        assert_eq!(forwarder.ask(&format!("set {elsewhere} 0 0 3\r\nold\r\n")).done(), "STORED\r\n");
        server.fill(full, &mut forwarder, VALUE_BYTES);
        Full { server, forwarder, here, elsewhere }
    }
}

/// A turn that is not the server's, for as long as the test wants.
fn without_room(test: impl FnOnce(Full, Box<dyn FnOnce() + '_>)) {
    let server = Within::start(ServerConfig::default(), MEMORY_BYTES);
    let store = server.store.clone();
    let mut seat: Participant<'_> = store.join();
    let turn = seat.turn();
    test(Full::new(server), Box::new(move || drop(turn)));
}

/// Frames are read in batches, and begun as far as a turn's share goes; the others come later.
#[test]
fn frames_that_come_together_are_each_answered_once() {
    for requests_per_turn in [1, 3, 16, 20] {
        let config = ServerConfig { requests_per_turn, ..ServerConfig::default() };
        let server = Within::start(config, MEMORY_BYTES);
        let mut forwarder = server.link();
        let asked: Vec<(String, String)> = (0..50)
            .flat_map(|number| {
                let set = (format!("set key-{number} 0 0 1\r\n0\r\n"), "STORED\r\n".to_string());
                let count = |by| (format!("incr key-{number} {number}\r\n"), format!("{}\r\n", number * by));
                // One that is refused stands among the others.
                [set, count(1), (format!("get key-{number} a\r\n"), "such a request is not forwarded".into()), count(2)]
            })
            .collect();
        let requests: Vec<&[u8]> = asked.iter().map(|(request, _)| request.as_bytes()).collect();
        let first = forwarder.send(Protocol::Text, NEVER, &requests);
        for (tag, (request, words)) in (first..).zip(&asked) {
            let answer = forwarder.answer();
            assert_eq!((answer.tag, &answer.text()), (tag, words), "{request:?}, {requests_per_turn} in a turn");
        }
        assert_eq!(server.stat("forwarded_in"), requests.len() as u64);
    }
}

#[test]
fn a_request_that_waits_for_room_holds_up_its_own_shard_alone() {
    without_room(|full, let_go| {
        let Full { server, mut forwarder, here, elsewhere } = full;
        let here = &here[0];
        let waiting = set(here, &[b'n'; VALUE_BYTES]);
        let get = |key: &str| format!("get {key}\r\n").into_bytes();
        let requests = [waiting, get(here), get(&elsewhere)];
        let requests: Vec<&[u8]> = requests.iter().map(|request| &request[..]).collect();
        let first = forwarder.send(Protocol::Text, NEVER, &requests);
        let answer = forwarder.answer();
        assert_eq!((answer.tag, answer.done()), (first + 2, format!("VALUE {elsewhere} 0 3\r\nold\r\nEND\r\n")));
        assert_eq!(server.connect().ask("mn"), "MN", "clients do not wait for it");
        let_go();
        let (stored, got) = (forwarder.answer(), forwarder.answer());
        assert_eq!((stored.tag, stored.done()), (first, "STORED\r\n".into()));
        let head = format!("VALUE {here} 0 {VALUE_BYTES}\r\n");
        let expected = [head.as_bytes(), &[b'n'; VALUE_BYTES], b"\r\nEND\r\n"].concat();
        assert!((got.tag, got.bytes) == (first + 1, expected), "it comes behind the set, and sees it");
    });
}

#[test]
fn a_request_that_waits_too_long_is_refused_and_not_done_later() {
    without_room(|full, let_go| {
        let Full { server, mut forwarder, here, .. } = full;
        let request = set(&here[0], &[b'n'; VALUE_BYTES]);
        forwarder.send(Protocol::Text, 30, &[&request]);
        let answer = forwarder.answer();
        assert_eq!((answer.fate, answer.text().as_str()), (Fate::Refused, "there was no room for it in time"));
        let_go();
        let again = set(&here[1], &[b'n'; VALUE_BYTES]);
        forwarder.send(Protocol::Text, NEVER, &[&again]);
        assert_eq!(forwarder.answer().done(), "STORED\r\n", "room has come");
        assert_eq!(server.connect().get(&here[0]), None);
    });
}

/// Their bytes are counted, and beyond a bound nothing more is begun.
#[test]
fn requests_that_wait_for_room_have_a_bound() {
    without_room(|full, let_go| {
        let Full { server, mut forwarder, here, .. } = full;
        let value = vec![b'n'; 400_000];
        let requests: Vec<_> = here.iter().map(|key| set(key, &value)).collect();
        let begun = server.stat("forwarded_in");
        let sent: usize = requests.iter().map(Vec::len).sum();
        std::thread::scope(|scope| {
            let sending = &mut forwarder;
            let requests: Vec<&[u8]> = requests.iter().map(|request| &request[..]).collect();
            // The owner stops reading before all of it is sent.
            let sent_all = scope.spawn(move || sending.send(Protocol::Text, NEVER, &requests));
            server.wait_for(|| server.stat("input_held_bytes") > 4 << 20);
            for _ in 0..10 {
                assert_eq!(server.connect().ask("mn"), "MN");
            }
            let (held, begun) = (server.stat("input_held_bytes"), server.stat("forwarded_in") - begun);
            assert!(held < 8 << 20 && held < sent as u64, "{held} bytes of {sent} are held");
            assert!(begun <= 12, "{begun} of {} were begun", here.len());
            let_go();
            sent_all.join().expect("it is read on");
        });
        for _ in &here {
            assert_eq!(forwarder.answer().done(), "STORED\r\n");
        }
    });
}
