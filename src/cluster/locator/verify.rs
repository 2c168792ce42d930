//! A server's connection has ended: has its process? It has, for certain, where its host refuses
//! connections to both of its ports, or where another process has its replication port: that one
//! says another number. Whatever else is seen proves nothing, and the lease decides.
//!
//! This is a shortcut for the common case. No acknowledged write rests on it: an heir has those
//! stopped who hold them. It is believed as this one observer sees it: where something between the
//! locator and that host refuses connections in its stead, a server that lives is failed over. That
//! costs its clients a moment, and no write. In strong mode the lease is waited for all the same.

use crate::cluster::map::Id;
use crate::cluster::member::step::number_of;
use crate::cluster::report::Introduction;
use crate::replication::attach::{AttachError, meet};
use crate::replication::secret::Secret;
use crate::replication::standing::ServerNumber;
use crate::sys::reach;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// A process that is ending closes one port after the other.
const LOOKS_FOR: Duration = Duration::from_secs(1);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest wait for one connection.
const CONNECT_WAIT_MAX: Duration = Duration::from_millis(500);

/// Whom to look for.
pub struct Sought {
    /// The process.
    pub incarnation: Id,
    /// Where clients connected to it, HOST:PORT.
    pub clients: String,
    /// Its replication port, HOST:PORT.
    pub replication: String,
}

impl Sought {
    /// The process that has introduced itself like this.
    pub fn of(introduction: &Introduction) -> Sought {
        let Introduction { incarnation, clients, replication, .. } = introduction.clone();
        Sought { incarnation, clients, replication }
    }
}

/// What was found.
pub struct Found {
    /// The process has ended, for certain.
    pub has_ended: bool,
    /// What its ports do, for people.
    pub words: String,
}

/// Look at both ports of a process once.
pub fn find(sought: &Sought, secret: &Secret) -> Found {
    let met = meet(&sought.replication, secret, Instant::now() + CONNECT_WAIT_MAX).map(|(_, number)| number);
    let replication = match &met {
        Ok(number) if Some(*number) == number_of(&sought.incarnation) => "answers".into(),
        Ok(_) => "is another process's".into(),
        Err(error) => format!("does not answer ({error})"),
    };
    let clients = match connect(&sought.clients) {
        Ok(()) => "takes connections".into(),
        Err(error) => format!("takes none ({error})"),
    };
    let has_ended = judge(sought, met) == Some(true);
    let verdict = if has_ended { "its process has ended: it is failed over" } else { "it is not taken for ended" };
    Found { has_ended, words: format!("its replication port {replication}, its port for clients {clients}: {verdict}") }
}

/// Whether the process has ended, for certain.
pub fn has_ended(sought: &Sought, secret: &Secret) -> bool {
    let until = Instant::now() + LOOKS_FOR;
    loop {
        match look(sought, secret) {
            Some(has_ended) => return has_ended,
            None if Instant::now() >= until => return false,
            None => std::thread::sleep(PAUSE),
        }
    }
}

/// None: it may be about to end.
fn look(sought: &Sought, secret: &Secret) -> Option<bool> {
    let met = meet(&sought.replication, secret, Instant::now() + CONNECT_WAIT_MAX);
    judge(sought, met.map(|(_, number)| number))
}

/// What follows from how its replication port has answered.
fn judge(sought: &Sought, met: Result<ServerNumber, AttachError>) -> Option<bool> {
    match met {
        Ok(number) if Some(number) == number_of(&sought.incarnation) => None,
        Ok(_) => Some(true),
        Err(AttachError::Connect(_, error)) if error.kind() == ErrorKind::ConnectionRefused => {
            let is_refused = connect(&sought.clients).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
            is_refused.then_some(true)
        }
        // A silent host proves nothing, and looking on takes long.
        Err(AttachError::Connect(..) | AttachError::Resolve(..)) => Some(false),
        Err(_) => None,
    }
}

/// Whether somebody takes connections there.
fn connect(address: &str) -> std::io::Result<()> {
    let until = Instant::now() + CONNECT_WAIT_MAX;
    let addresses = reach::resolve(address, until)?;
    match reach::connect(&addresses, until) {
        Ok(_) => Ok(()),
        Err((_, error)) => Err(error),
    }
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
        let told = Sought::of(&introduction(&clients, &replication));
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
        let found = find(&told, &Secret::none());
        assert!(!found.has_ended && found.words.contains("clients takes connections"), "{}", found.words);
        drop(one);
        assert!(has_ended(&told, &Secret::none()));
        let found = find(&told, &Secret::none());
        assert!(found.has_ended && found.words.contains("clients takes none"), "{}", found.words);
    }
}
