//! Somebody in between who passes on what both sides say, over a session of TLS with each. Neither
//! side takes the proof of the other: it is of another session.

use crate::node::{LONG, Node, wait_for_count};
use crate::support::refused;
use remora::replication::link::{Link, LinkError};
use remora::replication::secret::{Secret, Side};
use remora::replication::tls::Listening;
use remora::replication::wire::{Greeting, Message, Refusal, VERSION};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

/// Passes the messages of one connection on to `primary`, and its answers back.
fn stand_between(primary: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let soon = || Instant::now() + LONG;
        let replica = listener.accept().expect("a replica comes").0;
        let mut replica = Link::accepted(replica, &Listening::new().expect("a key"), soon()).expect("TLS");
        let stream = TcpStream::connect(primary).expect("the port takes connections");
        let mut primary = Link::connected(stream, soon()).expect("TLS");
        loop {
            let Ok(said) = replica.receive(soon()) else { return };
            primary.send(&said, soon()).expect("sent");
            let answer = match primary.receive(soon()) {
                Err(LinkError::Refused(why, words)) => Message::Refuse { why, words },
                answer => answer.expect("an answer"),
            };
            replica.send(&answer, soon()).expect("sent");
        }
    });
    address
}

#[test]
fn a_primary_takes_no_proof_that_was_passed_on() {
    let primary = Node::primary(&["-m", "8", "-I", "64k"]);
    let between = stand_between(primary.port());
    let (status, said) = refused(&["-l", "127.0.0.1:0", "--replica-of", &between.to_string()]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("has not proved that it has the primary's secret"), "{said}");
    wait_for_count(&primary, "replicas_refused_secret", 1);
}

/// The same the other way round: what an honest primary has said elsewhere is worth nothing here.
#[test]
fn a_replica_takes_no_proof_that_was_passed_on() {
    let primary = Node::primary(&["-m", "8", "-I", "64k"]);
    let soon = || Instant::now() + LONG;
    let mut link = Link::connected(TcpStream::connect(primary.port()).expect("a connection"), soon()).expect("TLS");
    let proof = Secret::none().prove(Side::Replica, link.binding());
    link.send(&Message::Hello(Greeting { version: VERSION, proof }), soon()).expect("sent");
    let accept = link.receive(soon()).expect("accepted");
    assert!(matches!(accept, Message::Accept { .. }));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let liar = std::thread::spawn(move || {
        let stream = listener.accept().expect("a replica comes").0;
        let mut replica = Link::accepted(stream, &Listening::new().expect("a key"), soon()).expect("TLS");
        assert!(matches!(replica.receive(soon()), Ok(Message::Hello(_))));
        replica.send(&accept, soon()).expect("sent");
        // It says nothing more to whom it does not know.
        replica.receive(soon())
    });
    let (status, said) = refused(&["-l", "127.0.0.1:0", "--replica-of", &address]);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("has not proved that it has the secret: it is not the primary"), "{said}");
    let heard = liar.join().expect("it was met");
    assert!(matches!(heard, Err(LinkError::Closed | LinkError::Refused(Refusal::Secret, _))), "{heard:?}");
}
