//! From a name to a connection, within a bound; and whether the other end of one is on this host.
//!
//! The C library looks a name up for as long as its configuration says, minutes where name servers
//! are silent, and cannot be interrupted. So it does that on threads of their own, "resolve", at
//! most `LOOKUPS_MAX` at a time, and whoever asks waits for one until a deadline. A lookup that
//! nobody waits for any more goes on; whoever asks for the same name meanwhile waits for that one,
//! instead of starting another.

use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Names that are looked up at a time. Each costs a thread for as long as its name servers are
/// silent.
const LOOKUPS_MAX: usize = 8;
/// Longest wait for a name at the start of a process, where nobody gives another deadline.
pub const RESOLVE_WAIT_MAX: Duration = Duration::from_secs(10);
/// A wait whose time is over is given this: the system takes no wait of zero.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// The addresses of `name` (HOST:PORT), by `until`. An address in numbers is looked up nowhere.
pub fn resolve(name: &str, until: Instant) -> io::Result<Vec<SocketAddr>> {
    static RESOLVER: Mutex<Vec<Arc<Lookup>>> = Mutex::new(Vec::new());
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    find(&RESOLVER, name, until, |name| name.to_socket_addrs().map(Iterator::collect))
}

/// A connection to the first of `addresses` that answers; each may take its share of the time that
/// is left until `until`. An error is the last one's.
pub fn connect(addresses: &[SocketAddr], until: Instant) -> Result<TcpStream, (Option<SocketAddr>, io::Error)> {
    let mut last = (None, io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for (at, address) in addresses.iter().enumerate() {
        match TcpStream::connect_timeout(address, share(until, addresses.len() - at)) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = (Some(*address), error),
        }
    }
    Err(last)
}

/// A connection to a unix socket, by `until`. One whose backlog is full makes who connects wait.
pub fn connect_unix(address: &SockAddr, until: Instant) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // For unix sockets this bounds connecting as well.
    socket.set_write_timeout(Some(share(until, 1)))?;
    socket.connect(address)?;
    Ok(OwnedFd::from(socket).into())
}

/// How much of the time until `until` one of `tries` remaining tries may take; never zero.
pub fn share(until: Instant, tries: usize) -> Duration {
    let left = until.saturating_duration_since(Instant::now());
    (left / u32::try_from(tries.max(1)).unwrap_or(u32::MAX)).max(WAIT_MIN)
}

/// Whether the two ends of a TCP connection are one host: the peer's address is loopback, or is
/// this end's as well. Nobody else's connection can come from such an address.
pub fn are_one_host(own: SocketAddr, peer: SocketAddr) -> bool {
    let (own, peer) = (own.ip().to_canonical(), peer.ip().to_canonical());
    peer.is_loopback() || peer == own
}

/// Whether `address` is one of this host's: what is sent to it comes from it.
pub fn is_of_this_host(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let routed = || {
        let socket = std::net::UdpSocket::bind((any, 0))?;
        // For UDP this sends nothing: the kernel only chooses a route.
        socket.connect((address, 1))?;
        socket.local_addr()
    };
    address.is_loopback() || routed().is_ok_and(|own| own.ip() == address)
}

/// What a lookup gives, as it is told to all who wait for it.
type Found = Result<Vec<SocketAddr>, (io::ErrorKind, String)>;

struct Lookup {
    name: String,
    found: Mutex<Option<Found>>,
    told: Condvar,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn find<L>(
    lookups: &'static Mutex<Vec<Arc<Lookup>>>,
    name: &str,
    until: Instant,
    look_up: L,
) -> io::Result<Vec<SocketAddr>>
where
    L: FnOnce(&str) -> io::Result<Vec<SocketAddr>> + Send + 'static,
{
    let begun_at = Instant::now();
    let lookup = begin(lookups, name, look_up)?;
    let wait = until.saturating_duration_since(begun_at);
    let waited = lookup.told.wait_timeout_while(locked(&lookup.found), wait, |found| found.is_none());
    match &*waited.unwrap_or_else(PoisonError::into_inner).0 {
        Some(Ok(addresses)) => Ok(addresses.clone()),
        Some(Err((kind, words))) => Err(io::Error::new(*kind, words.clone())),
        None => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "the name servers have not answered within {:.1} s; look into /etc/resolv.conf, or write an address",
                wait.as_secs_f32()
            ),
        )),
    }
}

/// The lookup of this name that is under way, or a new one.
fn begin<L>(lookups: &'static Mutex<Vec<Arc<Lookup>>>, name: &str, look_up: L) -> io::Result<Arc<Lookup>>
where
    L: FnOnce(&str) -> io::Result<Vec<SocketAddr>> + Send + 'static,
{
    let mut under_way = locked(lookups);
    if let Some(lookup) = under_way.iter().find(|lookup| lookup.name == name) {
        return Ok(lookup.clone());
    }
    if under_way.len() >= LOOKUPS_MAX {
        let what = format!("{LOOKUPS_MAX} names are looked up already, and the name servers do not answer");
        return Err(io::Error::new(io::ErrorKind::TimedOut, what));
    }
    let lookup = Arc::new(Lookup { name: name.to_string(), found: Mutex::default(), told: Condvar::new() });
    let running = lookup.clone();
    let run = move || {
        let found = look_up(&running.name).map_err(|error| (error.kind(), error.to_string()));
        locked(lookups).retain(|lookup| !Arc::ptr_eq(lookup, &running));
        *locked(&running.found) = Some(found);
        running.told.notify_all();
    };
    std::thread::Builder::new().name("resolve".into()).spawn(run)?;
    under_way.push(lookup.clone());
    Ok(lookup)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const NOTHING: Duration = Duration::from_millis(5);

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn a_silent_name_server_costs_the_asker_no_more_than_its_time() {
        static LOOKUPS: Mutex<Vec<Arc<Lookup>>> = Mutex::new(Vec::new());
        let (answer, question) = channel::<SocketAddr>();
        let silent = move |_: &str| Ok(vec![question.recv().map_err(io::Error::other)?]);
        let error = find(&LOOKUPS, "far.example:1", Instant::now() + NOTHING, silent).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(error.to_string().contains("/etc/resolv.conf"), "{error}");
        // Asked again while the first lookup goes on: there is no second one.
        let second = |_: &str| -> io::Result<Vec<SocketAddr>> { panic!("two lookups of one name") };
        let waiting = std::thread::spawn(move || find(&LOOKUPS, "far.example:1", soon(), second));
        assert!(find(&LOOKUPS, "far.example:1", Instant::now() + NOTHING, second).is_err());
        answer.send("10.0.0.1:1".parse().unwrap()).unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), ["10.0.0.1:1".parse().unwrap()]);
        while !locked(&LOOKUPS).is_empty() {
            std::thread::yield_now();
        }
        let gone = |_: &str| Err(io::Error::new(io::ErrorKind::NotFound, "gone"));
        assert_eq!(find(&LOOKUPS, "far.example:1", soon(), gone).unwrap_err().to_string(), "gone");
    }

    #[test]
    fn lookups_have_a_bound() {
        static LOOKUPS: Mutex<Vec<Arc<Lookup>>> = Mutex::new(Vec::new());
        let mut answers = Vec::new();
        for number in 0..LOOKUPS_MAX {
            let (answer, question) = channel::<()>();
            answers.push(answer);
            let silent = move |_: &str| question.recv().map(|()| Vec::new()).map_err(io::Error::other);
            assert!(find(&LOOKUPS, &number.to_string(), Instant::now() + NOTHING, silent).is_err());
        }
        let more = |_: &str| -> io::Result<Vec<SocketAddr>> { panic!("more lookups than there may be") };
        assert!(find(&LOOKUPS, "more", soon(), more).unwrap_err().to_string().contains("already"));
        drop(answers);
        while !locked(&LOOKUPS).is_empty() {
            std::thread::yield_now();
        }
        assert!(find(&LOOKUPS, "more", soon(), |_| Ok(Vec::new())).is_ok());
    }

    #[test]
    fn a_try_leaves_time_for_those_behind_it() {
        let until = Instant::now() + Duration::from_secs(8);
        let half = share(until, 2);
        assert!(half > Duration::from_secs(3) && half <= Duration::from_secs(4), "{half:?}");
        assert!(share(Instant::now(), 1) > Duration::ZERO && share(until, 0) > Duration::ZERO);
        assert_eq!(resolve("127.0.0.1:7", Instant::now()).unwrap(), ["127.0.0.1:7".parse().unwrap()]);
        let (address, error) = connect(&[], until).unwrap_err();
        assert!(address.is_none() && error.to_string().contains("no address"));
    }

    #[test]
    fn this_host_is_told_from_others() {
        let one_host = |own: &str, peer: &str| are_one_host(own.parse().unwrap(), peer.parse().unwrap());
        assert!(one_host("10.0.0.1:11211", "10.0.0.1:40000"));
        assert!(one_host("[::ffff:10.0.0.1]:11211", "10.0.0.1:40000"));
        assert!(one_host("[::ffff:127.0.0.1]:11211", "[::ffff:127.0.0.1]:40000") && one_host("[::1]:1", "[::1]:2"));
        assert!(!one_host("10.0.0.1:11211", "10.0.0.2:40000"));
        assert!(!one_host("[::ffff:10.0.0.1]:11211", "[::ffff:10.0.0.2]:40000") && !one_host("[::1]:1", "[fe80::1]:2"));
        assert!(is_of_this_host([127, 0, 0, 5].into()));
        // TEST-NET-1: nobody's.
        assert!(!is_of_this_host([192, 0, 2, 1].into()));
    }
}
