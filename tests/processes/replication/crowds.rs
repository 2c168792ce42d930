//! Crowds of strangers at the replication port: connections that prove nothing must not keep a
//! replica out.

use crate::node::{LONG, Node, in_sync, wait_for_count};
use crate::support::wait::Ends;
use remora::replication::attach::{Identity, join};
use remora::replication::reached::Holder;
use remora::replication::secret::Secret;
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// Strangers that are kept open: more than there are places for.
const CROWD: usize = 200;
/// Pause between two of them.
const PAUSE: Duration = Duration::from_millis(4);
/// Replicas that come one after the other, and how many of them must be let in at their first try.
const VISITS: usize = 20;
const WELCOME_AT_ONCE: usize = 15;

/// Open connections that say nothing and stay, again and again.
fn crowd(port: SocketAddr, stop: &AtomicBool) {
    let mut strangers = VecDeque::new();
    while !stop.load(Relaxed) {
        strangers.extend(TcpStream::connect_timeout(&port, LONG));
        if strangers.len() > CROWD {
            strangers.pop_front();
        }
        std::thread::sleep(PAUSE);
    }
}

#[test]
fn a_crowd_of_strangers_keeps_no_replica_out() {
    let primary = Node::primary(&["-m", "8", "-I", "64k"]);
    let first = Node::replica(primary.port(), &["--fabric", "tcp"]);
    in_sync(&primary, &[&first]);
    let (port, stop) = (primary.port(), AtomicBool::new(false));
    let second = std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        let strangers = std::thread::Builder::new().name("strangers".into());
        strangers.spawn_scoped(scope, || crowd(port, &stop)).expect("a thread");
        wait_for_count(&primary, "replicas_refused", 100);
        let visit = |number: usize| {
            let identity = Identity::new([number as u8; 16], format!("visitor {number}"));
            join(&port.to_string(), &Secret::none(), &identity, &Holder::new("test"))
                .map_err(|error| error.to_string())
                .err()
        };
        let failures: Vec<String> = (1..=VISITS).filter_map(visit).collect();
        assert!(failures.len() <= VISITS - WELCOME_AT_ONCE, "{} of {VISITS}: {failures:?}", failures.len());
        Node::replica(port, &["--fabric", "tcp"])
    });
    assert_eq!(primary.client().set("after", b"the crowd"), "STORED");
    in_sync(&primary, &[&first, &second]);
    assert_eq!(first.number("sessions"), 1, "whoever is known is not ended for strangers");
    assert!(primary.number("strangers_ended") > 0);
}
