//! A server's connection has ended: has its process? It has, for certain, where its host refuses
//! connections to both of its ports, or where another process has its replication port: that one
//! says another number. Whatever else is seen proves nothing, and the lease decides.
//!
//! This is a shortcut for the common case. No acknowledged write rests on it: an heir has those
//! stopped who hold them. It is believed as this one observer sees it: where something between the
//! locator and that host refuses connections in its stead, a server that lives is failed over. That
//! costs its clients a moment, and no write.

use crate::cluster::member::step::number_of;
use crate::cluster::report::Introduction;
use crate::replication::attach::{AttachError, meet};
use crate::replication::secret::Secret;
use crate::sys::reach;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// A process that is ending closes one port after the other.
const LOOKS_FOR: Duration = Duration::from_secs(1);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest wait for one connection.
const CONNECT_WAIT_MAX: Duration = Duration::from_millis(500);

/// Whether the process that has introduced itself like this has ended, for certain.
pub fn has_ended(introduction: &Introduction, secret: &Secret) -> bool {
    let until = Instant::now() + LOOKS_FOR;
    loop {
        match look(introduction, secret) {
            Some(has_ended) => return has_ended,
            None if Instant::now() >= until => return false,
            None => std::thread::sleep(PAUSE),
        }
    }
}

/// None: it may be about to end.
fn look(introduction: &Introduction, secret: &Secret) -> Option<bool> {
    let met = meet(&introduction.replication, secret, Instant::now() + CONNECT_WAIT_MAX);
    match met.map(|(_, number)| number) {
        Ok(number) if Some(number) == number_of(&introduction.incarnation) => None,
        Ok(_) => Some(true),
        Err(AttachError::Connect(_, error)) if error.kind() == ErrorKind::ConnectionRefused => {
            is_refused(&introduction.clients).then_some(true)
        }
        // A silent host proves nothing, and looking on takes long.
        Err(AttachError::Connect(..) | AttachError::Resolve(..)) => Some(false),
        Err(_) => None,
    }
}

fn is_refused(address: &str) -> bool {
    let until = Instant::now() + CONNECT_WAIT_MAX;
    let connected = reach::resolve(address, until).map(|addresses| reach::connect(&addresses, until));
    matches!(connected, Ok(Err((Some(_), error))) if error.kind() == ErrorKind::ConnectionRefused)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cluster::member::step::incarnation_of;
    use crate::replication::session;
    use crate::replication::tls::Listening;
    use std::net::TcpListener;

    /// Of a server that says so.
    pub fn introduction(clients: &str, replication: &str) -> Introduction {
        Introduction {
            name: "one".into(),
            incarnation: incarnation_of([1; 16]),
            cluster: None,
            map_version: 0,
            generation: 0,
            clients: clients.into(),
            replication: replication.into(),
            host: "h".into(),
            zone: String::new(),
            memory_mib: 64,
            shards: 8,
        }
    }

    #[test]
    fn a_process_has_ended_where_nobody_or_another_one_has_its_ports() {
        let (one, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let [clients, replication] = [&one, &other].map(|socket| socket.local_addr().unwrap().to_string());
        let told = introduction(&clients, &replication);
        let serving = std::thread::spawn(move || {
            let (listening, soon) = (Listening::new().unwrap(), || Instant::now() + Duration::from_secs(30));
            for number in [[1; 16], [2; 16]] {
                let stream = other.accept().unwrap().0;
                session::meet(stream, &listening, &Secret::none(), number, soon()).unwrap();
            }
        });
        assert_eq!(look(&told, &Secret::none()), None, "it is there");
        assert_eq!(look(&told, &Secret::none()), Some(true), "another process is there");
        serving.join().unwrap();
        assert_eq!(look(&told, &Secret::none()), None, "clients still reach somebody");
        drop(one);
        assert!(has_ended(&told, &Secret::none()));
    }
}
