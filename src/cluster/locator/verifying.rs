//! Servers whose connections have ended, and threads that look whether their processes have
//! ([`verify`](super::verify)): a bounded number of threads, and the rest waits. A rack that loses
//! its power ends them all at once.

use super::Common;
use super::deciding::Event;
use super::outbox::Outbox;
use super::verify::{Sought, find, has_ended};
use crate::cluster::wire::Message;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

/// Servers that are looked at at a time. A look takes a second and a half at most, where a host is
/// silent half a second.
pub const THREADS_MAX: usize = 32;
/// Servers that wait to be looked at. Of one beyond that nothing is known but that it is silent.
const WAITING_MAX: usize = 4096;

/// See the module.
#[derive(Clone)]
pub struct Verifying {
    common: Common,
    work: Arc<Mutex<Work>>,
}

#[derive(Default)]
struct Work {
    waiting: VecDeque<Look>,
    threads: usize,
}

/// Whom to look at; and who has asked for that, with the words before what is found.
type Look = (Sought, Option<(Outbox, String)>);

impl Verifying {
    /// Nothing to look at yet.
    pub fn new(common: Common) -> Verifying {
        Verifying { common, work: Arc::default() }
    }

    /// Look whether that process has ended, and say so as [`Event::Verified`], and to whoever has
    /// asked. False: too many wait for that, or there is no thread.
    pub fn look(&self, sought: Sought, asked: Option<(Outbox, String)>) -> bool {
        let mut work = self.work();
        if work.waiting.len() >= WAITING_MAX {
            log::warn!("{} is not looked for: {WAITING_MAX} servers wait for that", sought.replication);
            return false;
        }
        work.waiting.push_back((sought, asked));
        if work.threads >= THREADS_MAX {
            return true;
        }
        work.threads += 1;
        let looking = self.clone();
        if let Err(error) = Builder::new().name("locator-verify".into()).spawn(move || looking.run()) {
            work.threads -= 1;
            log::warn!("no thread to look for servers: {error}; raise `ulimit -u`");
            return work.threads > 0;
        }
        true
    }

    /// Until nobody waits.
    fn run(self) {
        while let Some((sought, asked)) = self.next() {
            let secret = &self.common.secret;
            let has_ended = match asked {
                None => has_ended(&sought, secret),
                Some((outbox, begin)) => {
                    let found = find(&sought, secret);
                    outbox.say(Message::Answer { is_done: true, body: format!("{begin}; {}", found.words) });
                    found.has_ended
                }
            };
            // Nobody hears it where the locator ends.
            let _ = self.common.events.send(Event::Verified { incarnation: sought.incarnation, has_ended });
        }
    }

    /// None: this thread ends. Whoever comes later has another one.
    fn next(&self) -> Option<Look> {
        let mut work = self.work();
        let next = work.waiting.pop_front().filter(|_| !self.common.stop.is_asked());
        if next.is_none() {
            work.threads -= 1;
        }
        next
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::verify::tests::introduction;
    use super::*;
    use crate::replication::secret::Secret;
    use std::collections::BTreeSet;
    use std::net::TcpListener;
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    /// More than there are threads, and most of them wait: the first of them have ports that are
    /// there still, for as long as it is looked.
    #[test]
    fn a_rack_that_ends_at_once_is_looked_at_whole() {
        let (events, hears) = sync_channel(256);
        let common =
            Common { events, published: Arc::default(), secret: Secret::none(), stop: super::super::Stop::default() };
        let verifying = Verifying::new(common);
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let open = address(&silent);
        let free = address(&TcpListener::bind("127.0.0.1:0").unwrap());
        for number in 0..60 {
            let (clients, replication) = if number < THREADS_MAX { (&open, &free) } else { (&free, &free) };
            let incarnation = format!("{number:032x}");
            let sought = Sought::of(&introduction(clients, replication));
            assert!(verifying.look(Sought { incarnation, ..sought }, None));
            assert!(verifying.work().threads <= THREADS_MAX);
        }
        let told = || match hears.recv_timeout(Duration::from_secs(30)) {
            Ok(Event::Verified { incarnation, has_ended }) => (incarnation, has_ended),
            _ => panic!("not all of them are looked at"),
        };
        let all: BTreeSet<(String, bool)> = (0..60).map(|_| told()).collect();
        let expected = |number: usize| (format!("{number:032x}"), number >= THREADS_MAX);
        assert_eq!(all, (0..60).map(expected).collect());
    }
}
