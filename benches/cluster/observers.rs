//! A map that has changed, told to observers: from its being stored until 99 % of them have it,
//! read and decrypted, on the same machine.

use criterion::Criterion;
use remora::cluster::locator::peer::Port;
use remora::cluster::locator::published::Published;
use remora::cluster::locator::{Common, Stop};
use remora::cluster::map::Map;
use remora::cluster::wire::Message;
use remora::replication::attach::meet;
use remora::replication::secret::Secret;
use remora::replication::tls::Listening;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::time::{Duration, Instant};

const OBSERVERS: usize = 1000;
const LONG: Duration = Duration::from_secs(60);

/// A port, and observers that say when they have a map.
struct Site {
    published: Arc<Published>,
    has_it: Receiver<Instant>,
    stop: Stop,
}

impl Site {
    fn start() -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let (published, stop) = (Arc::<Published>::default(), Stop::default());
        published.take_charge();
        let (events, hears) = sync_channel(1024);
        std::thread::spawn(move || hears.into_iter().for_each(drop));
        let common = Common { events, published: published.clone(), secret: Secret::none(), stop: stop.clone() };
        let port = Port::new(common, listener, Listening::new().expect("random bytes"), [7; 16]);
        std::thread::spawn(move || port.run());
        let (says, has_it) = channel();
        for _ in 0..OBSERVERS {
            let says = says.clone();
            std::thread::spawn(move || observe(address, &says));
        }
        let site = Site { published, has_it, stop };
        site.wait_for(OBSERVERS);
        site
    }

    /// The last of so many moments.
    fn wait_for(&self, count: usize) -> Vec<Instant> {
        let mut moments: Vec<Instant> =
            (0..count).map(|_| self.has_it.recv_timeout(LONG).expect("they are told")).collect();
        moments.sort_unstable();
        moments
    }

    /// Until 99 % have this map.
    fn tell(&self, version: u64, text: String) -> Duration {
        let begun = Instant::now();
        self.published.publish(version, text).expect("it fits");
        self.wait_for(OBSERVERS)[OBSERVERS * 99 / 100 - 1] - begun
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

/// Says when it has been told something, the first answer included.
fn observe(address: SocketAddr, says: &Sender<Instant>) {
    let until = Instant::now() + LONG;
    let (mut link, _) = meet(&address.to_string(), &Secret::none(), until).expect("it listens");
    Message::Watch.send(&mut link, until).expect("it goes out");
    while let Ok(message) = Message::receive(&mut link, Instant::now() + LONG) {
        let now = Instant::now();
        assert!(matches!(message, Message::Map(_) | Message::Current(_)), "{message:?}");
        if says.send(now).is_err() {
            return;
        }
    }
}

/// With these maps.
pub fn told(criterion: &mut Criterion, maps: &[(&str, Map)]) {
    let site = Site::start();
    let mut group = criterion.benchmark_group("cluster");
    let mut version = 0;
    for (name, map) in maps {
        let text = map.to_text();
        let name = format!("{OBSERVERS} observers are told a map of {name}, {} KiB", text.len() >> 10);
        group.sample_size(10).measurement_time(Duration::from_secs(3)).bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                (0..rounds)
                    .map(|_| {
                        version += 1;
                        site.tell(version, text.clone())
                    })
                    .sum()
            });
        });
    }
    group.finish();
}
