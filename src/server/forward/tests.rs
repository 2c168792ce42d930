//! A forwarder and owners that do what they are told: links that fail, owners that are not the
//! primary, answers that come late or never.

mod ways;

use super::*;
use crate::base::limits::{FORWARD_OWNERS_MAX, KEY_BYTES_MAX};
use crate::engine::Settings;
use crate::protocol::{Protocol, Reply};
use crate::replication::link::Link;
use crate::replication::secret::Side;
use crate::replication::tls::Listening;
use crate::replication::wire::{Greeting, Message, VERSION};
use crate::store::{Primary, Store, StoreConfig};
use std::net::{SocketAddr, TcpListener};

const CLIENT: Token = Token::other(1);
const SHARD: u32 = 1;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// An owner's port, and its end of each link that was begun there.
struct FakeOwner(TcpListener, Listening);

impl FakeOwner {
    fn new() -> FakeOwner {
        FakeOwner(TcpListener::bind("127.0.0.1:0").unwrap(), Listening::new().unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// As gates name it; its clients know it by its number.
    fn primary(&self, number: u8) -> Primary {
        Primary {
            clients: format!("10.0.0.{number}:11211").into(),
            replication: Some(self.address().to_string().into()),
        }
    }

    /// The next link.
    fn accept(&self) -> Pipe {
        let mut link = Link::accepted(self.0.accept().unwrap().0, &self.1, soon()).unwrap();
        assert!(matches!(link.receive(soon()), Ok(Message::Hello(_))));
        let greeting = Greeting { version: VERSION, proof: Secret::none().prove(Side::Primary, link.binding()) };
        link.send(&Message::Accept { greeting, server: [9; 16] }, soon()).unwrap();
        assert_eq!(link.receive(soon()).unwrap(), Message::Forward);
        link.send(&Message::Forwarding, soon()).unwrap();
        Pipe::new(link.into_line()).unwrap()
    }
}

/// A request of [`CLIENT`]'s about [`SHARD`].
fn pending(place: u64, line: &str, owner: u32) -> Pending {
    Pending {
        client: CLIENT,
        place,
        shard: Some(SHARD),
        part: Part::Whole,
        reply: Reply::Text,
        protocol: Protocol::Text,
        bytes: line.as_bytes().into(),
        owner,
        since: Instant::now(),
        stage: Stage::Queued,
        failures: 0,
        first_not_mine: None,
    }
}

/// A worker's forwarder, and the store of its server.
struct Scene {
    poller: Poller,
    forwarder: Forwarder,
    engine: Arc<Engine>,
    stats: Arc<WorkerStats>,
}

impl Scene {
    /// All shards are this owner's.
    fn new(primary: &Primary) -> Scene {
        let config =
            StoreConfig { memory_bytes: 16 << 20, item_bytes_max: 1 << 16, shards: Some(4), ..StoreConfig::default() };
        let settings = Settings { item_bytes_max: 1 << 16, workers: 1, rows: Vec::new() };
        let engine = Arc::new(Engine::new(Store::new(config).unwrap(), settings));
        engine.store().close_gates_for(0..4, primary);
        let (poller, waker, stats) = (Poller::new().unwrap(), Waker::new().unwrap(), Arc::new(WorkerStats::default()));
        poller.add(&waker, Token::other(7).to_bits(), Interest::Read).unwrap();
        let forwarding = Forwarding { secret: Secret::none(), chain: Arc::new(Chain::new([1; 16])) };
        let forwarder = Forwarder::new(&forwarding, waker, &engine, stats.clone());
        Scene { poller, forwarder, engine, stats }
    }

    fn names(&self, primary: &Primary) {
        self.engine.store().close_gates_for(0..4, primary);
    }

    /// Forward a request of [`CLIENT`]'s.
    fn submit(&mut self, place: u64, line: &str) {
        let way = self.forwarder.way(self.engine.store(), SHARD, line.len());
        let Some((owner, true)) = way else { panic!("{way:?}: its primary is known, and has room") };
        self.forwarder.submit(pending(place, line, owner));
    }

    /// All that is under way has waited for too long. Returns what is settled.
    fn give_up(&mut self) -> Vec<(u64, String)> {
        let late = Instant::now() + Duration::from_millis(FORWARD_MILLISECONDS_MAX);
        self.forwarder.look(self.engine.store(), late, false);
        self.taken()
    }

    /// Others use the free tags until this one is the next.
    fn use_up(&mut self, tag: u32) {
        let pendings = &mut self.forwarder.pending;
        let mut next = || {
            let used = pendings.insert(pending(0, "", 0));
            pendings.remove(used);
            used.wrapping_add(1 << 16)
        };
        assert!((0..1 << 16).any(|_| next() == tag));
    }

    /// What is settled, or is to be executed here: the places, and the words.
    fn taken(&mut self) -> Vec<(u64, String)> {
        let here: Vec<_> = std::mem::take(&mut self.forwarder.here)
            .into_iter()
            .map(|tag| {
                let pending = self.forwarder.take_out(tag).expect("it is under way");
                (pending.place, [b"here: ", &*pending.bytes].concat())
            })
            .collect();
        let settled = self.forwarder.settled.drain(..).map(|settled| {
            let (Answer::Given(words) | Answer::Failed(words)) = settled.answer;
            (settled.place, words.to_vec())
        });
        let words = |(place, words)| (place, String::from_utf8(words).unwrap());
        settled.chain(here).map(words).collect()
    }

    /// One turn of the worker. What is settled then: the places, and the words.
    fn turn(&mut self) -> Vec<(u64, String)> {
        self.poller.wait(Duration::from_millis(1)).unwrap();
        for at in 0..self.poller.ready() {
            let token = Token::from_bits(self.poller.token(at)).as_other().expect("no connection's");
            if token >= FIRST {
                self.forwarder.note_ready(token);
            }
        }
        let Scene { poller, forwarder, engine, .. } = self;
        forwarder.receive(poller);
        forwarder.look(engine.store(), Instant::now(), false);
        forwarder.send(poller, Instant::now());
        self.taken()
    }

    /// Turns until so many are settled.
    fn settled(&mut self, count: usize) -> Vec<(u64, String)> {
        let (mut settled, until) = (Vec::new(), soon());
        while settled.len() < count {
            assert!(Instant::now() < until, "only {settled:?}");
            settled.extend(self.turn());
        }
        settled
    }

    /// Turns until the owner has so many requests: their tags and bytes, in their order.
    fn arrived(&mut self, pipe: &mut Pipe, count: usize) -> Vec<(u32, String)> {
        let (mut arrived, until, mut cipher) = (Vec::new(), soon(), vec![0; 1 << 16]);
        while arrived.len() < count {
            assert!(Instant::now() < until, "only {arrived:?}");
            assert_eq!(self.turn(), []);
            pipe.receive(&mut cipher).unwrap();
            while let Framed::Whole(asked, bytes) = Asked::decode(pipe.incoming.pending(), 1 << 16).unwrap() {
                assert!(asked.within_milliseconds > 0);
                arrived.push((asked.tag, String::from_utf8(asked.request.to_vec()).unwrap()));
                pipe.incoming.consume(bytes);
            }
        }
        arrived
    }

    /// Begin a link to this owner.
    fn link(&mut self, owner: &FakeOwner) -> Pipe {
        let until = soon();
        std::thread::scope(|scope| {
            let accepting = scope.spawn(|| owner.accept());
            while !accepting.is_finished() {
                assert!(Instant::now() < until);
                assert_eq!(self.turn(), []);
            }
            accepting.join().unwrap()
        })
    }
}

fn answer(pipe: &mut Pipe, tag: u32, fate: Fate, words: &str) {
    Answered { tag, fate, bytes: words.as_bytes() }.encode(pipe.outgoing.buffer());
    pipe.send().unwrap();
    assert!(!pipe.has_unsent());
}

fn told(place: u64, words: &str) -> (u64, String) {
    (place, words.to_string())
}

#[test]
fn answers_find_their_requests_in_any_order() {
    let owner = FakeOwner::new();
    let mut scene = Scene::new(&owner.primary(1));
    (0..3).for_each(|place| scene.submit(place, &format!("get {place}\r\n")));
    let mut pipe = scene.link(&owner);
    let arrived = scene.arrived(&mut pipe, 3);
    assert_eq!(
        arrived.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>(),
        ["get 0\r\n", "get 1\r\n", "get 2\r\n"]
    );
    answer(&mut pipe, arrived[2].0, Fate::Done, "two");
    answer(&mut pipe, arrived[0].0, Fate::Refused, "I do not");
    answer(&mut pipe, arrived[0].0, Fate::Done, "twice");
    answer(&mut pipe, 0xdead_beef, Fate::Done, "nobody's");
    answer(&mut pipe, arrived[1].0, Fate::Done, "one");
    assert_eq!(scene.settled(3), [told(2, "two"), told(0, "SERVER_ERROR I do not\r\n"), told(1, "one")]);
    assert!(!scene.forwarder.is_busy() && scene.engine.global().forward_links_out.load(Relaxed) == 1);
}

/// The owner's -I may be larger. That costs one client its answer, and nobody the link.
#[test]
fn an_answer_that_is_too_large_is_skipped() {
    let owner = FakeOwner::new();
    let mut scene = Scene::new(&owner.primary(1));
    (0..2).for_each(|place| scene.submit(place, &format!("get {place}\r\n")));
    let mut pipe = scene.link(&owner);
    let arrived = scene.arrived(&mut pipe, 2);
    answer(&mut pipe, arrived[0].0, Fate::Done, &"x".repeat(100 << 10));
    answer(&mut pipe, arrived[1].0, Fate::Done, "one");
    let large = "SERVER_ERROR the answer of 10.0.0.1:11211 is larger than this server's -I allows\r\n";
    assert_eq!(scene.settled(2), [told(0, large), told(1, "one")]);
    assert_eq!(scene.engine.global().forward_links_out.load(Relaxed), 1);
}

/// What was sent is in doubt, and never sent again; what was not goes by the next link.
#[test]
fn a_link_that_ends_leaves_in_doubt_what_was_sent() {
    let owner = FakeOwner::new();
    let mut scene = Scene::new(&owner.primary(1));
    scene.submit(0, "incr a 1\r\n");
    let mut pipe = scene.link(&owner);
    scene.arrived(&mut pipe, 1);
    drop(pipe);
    let settled = scene.settled(1);
    assert!(
        settled[0].1.starts_with("SERVER_ERROR forwarded to 10.0.0.1:11211, and the connection ended"),
        "{settled:?}"
    );
    assert_eq!((scene.stats.forward_errors.get(), scene.engine.global().forward_links_out.load(Relaxed)), (1, 0));
    scene.submit(1, "incr a 2\r\n");
    let mut pipe = scene.link(&owner);
    let arrived = scene.arrived(&mut pipe, 1);
    assert_eq!(arrived[0].1, "incr a 2\r\n", "and not the one before");
    answer(&mut pipe, arrived[0].0, Fate::Done, "3\r\n");
    assert_eq!(scene.settled(1), [told(1, "3\r\n")]);
}

/// An answer that comes too late must not be taken for that to a later request of the same tag.
#[test]
fn a_late_answer_finds_nobody_however_often_its_tag_was_used() {
    let owner = FakeOwner::new();
    let mut scene = Scene::new(&owner.primary(1));
    (0..2).for_each(|place| scene.submit(place, &format!("get {place}\r\n")));
    let mut late = scene.link(&owner);
    let [_, (tag, _)] = scene.arrived(&mut late, 2)[..] else { panic!("two were sent") };
    let settled = scene.give_up();
    assert!(settled.iter().all(|(_, words)| words.contains(" and no answer within ")), "{settled:?}");
    assert_eq!(scene.engine.global().forward_links_out.load(Relaxed), 0, "the link has ended");
    scene.use_up(tag);
    scene.submit(2, "get 2\r\n");
    answer(&mut late, tag, Fate::Done, "one");
    let mut pipe = scene.link(&owner);
    let arrived = scene.arrived(&mut pipe, 1);
    assert_eq!(arrived, [(tag, "get 2\r\n".to_string())]);
    answer(&mut pipe, tag, Fate::Done, "two");
    assert_eq!(scene.settled(1), [told(2, "two")]);
}

/// What was given up before it was sent is not in the queue when its tag is another request's.
#[test]
fn what_is_given_up_leaves_the_queue() {
    let (first, second) = (FakeOwner::new(), FakeOwner::new());
    let mut scene = Scene::new(&first.primary(1));
    scene.submit(0, "incr a 0\r\n");
    let settled = scene.give_up();
    assert!(settled[0].1.starts_with("SERVER_ERROR not forwarded to 10.0.0.1:11211 within"), "{settled:?}");
    scene.use_up(0);
    scene.names(&second.primary(2));
    scene.submit(1, "incr a 1\r\n");
    let queues = |scene: &Scene| scene.forwarder.owners.iter().map(|owner| owner.queue.len()).collect::<Vec<_>>();
    assert_eq!(queues(&scene), [0, 1]);
    let mut pipe = scene.link(&second);
    let [(tag, _)] = scene.arrived(&mut pipe, 1)[..] else { panic!("one was sent") };
    answer(&mut pipe, tag, Fate::Done, "1");
    assert_eq!(scene.settled(1), [told(1, "1")]);
}

/// It waits for a second try, and no more.
#[test]
fn what_finds_no_link_twice_is_not_done() {
    let primary = FakeOwner::new().primary(1); // which has ended
    let mut scene = Scene::new(&primary);
    scene.submit(0, "set a 0 0 1\r\nx\r\n");
    let settled = scene.settled(1);
    assert!(settled[0].1.starts_with("SERVER_ERROR not forwarded to 10.0.0.1:11211: "), "{settled:?}");
    assert!(settled[0].1.ends_with("; nothing was done\r\n"), "{settled:?}");
}

/// Those that come back go to whom the gate names by then, in their order.
#[test]
fn what_comes_back_is_sent_again_in_its_order() {
    let (first, second) = (FakeOwner::new(), FakeOwner::new());
    let mut scene = Scene::new(&first.primary(1));
    (0..3).for_each(|place| scene.submit(place, &format!("incr a {place}\r\n")));
    let mut pipe = scene.link(&first);
    let arrived = scene.arrived(&mut pipe, 3);
    for at in [2, 0] {
        answer(&mut pipe, arrived[at].0, Fate::NotMine, "");
    }
    scene.names(&second.primary(2));
    for _ in 0..20 {
        assert_eq!(scene.turn(), [], "the one in the middle is still under way");
    }
    assert!(scene.forwarder.holds_up(CLIENT, Some(SHARD)) && !scene.forwarder.holds_up(CLIENT, Some(SHARD + 1)));
    answer(&mut pipe, arrived[1].0, Fate::NotMine, "");
    let mut pipe = scene.link(&second);
    let arrived = scene.arrived(&mut pipe, 3);
    assert!(scene.forwarder.holds_up(CLIENT, Some(SHARD)), "who is asked next may be another one");
    assert_eq!(
        arrived.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>(),
        ["incr a 0\r\n", "incr a 1\r\n", "incr a 2\r\n"]
    );
    for (at, (tag, _)) in arrived.iter().enumerate() {
        answer(&mut pipe, *tag, Fate::Done, &at.to_string());
    }
    assert_eq!(scene.settled(3), [told(0, "0"), told(1, "1"), told(2, "2")]);
    assert!(!scene.forwarder.holds_up(CLIENT, Some(SHARD)));
    let left: Vec<_> = scene.forwarder.owners.iter().map(|owner| (owner.frames, owner.bytes)).collect();
    assert_eq!(left, [(0, 0); 2]);
}

/// A later request was done: an earlier one that came back must not be done after it.
#[test]
fn what_was_overtaken_is_not_sent_again() {
    let owner = FakeOwner::new();
    let mut scene = Scene::new(&owner.primary(1));
    (0..2).for_each(|place| scene.submit(place, &format!("incr a {place}\r\n")));
    let mut pipe = scene.link(&owner);
    let arrived = scene.arrived(&mut pipe, 2);
    answer(&mut pipe, arrived[0].0, Fate::NotMine, "");
    answer(&mut pipe, arrived[1].0, Fate::Done, "1");
    let settled = scene.settled(2);
    assert_eq!(settled[1], told(1, "1"));
    assert!(settled[0].1.starts_with("SERVER_ERROR a later request was done before this one"), "{settled:?}");
}

/// The gate opens here, or names nobody who takes it.
#[test]
fn what_comes_back_is_done_here_or_by_nobody() {
    let owner = FakeOwner::new();
    let mut scene = Scene::new(&owner.primary(1));
    scene.submit(0, "incr a 1\r\n");
    let mut pipe = scene.link(&owner);
    let [(tag, _)] = scene.arrived(&mut pipe, 1)[..] else { panic!("one was sent") };
    scene.engine.store().open_gates(0..4);
    answer(&mut pipe, tag, Fate::NotMine, "");
    assert_eq!(scene.settled(1), [told(0, "here: incr a 1\r\n")]);

    scene.names(&owner.primary(1));
    scene.submit(1, "incr a 2\r\n");
    let (began, mut cipher) = (Instant::now(), vec![0; 1 << 16]);
    let settled = loop {
        let settled = scene.turn();
        if !settled.is_empty() {
            break settled;
        }
        pipe.receive(&mut cipher).unwrap();
        while let Framed::Whole(asked, bytes) = Asked::decode(pipe.incoming.pending(), 1 << 16).unwrap() {
            let tag = asked.tag;
            pipe.incoming.consume(bytes);
            answer(&mut pipe, tag, Fate::NotMine, "");
        }
    };
    assert_eq!(settled, [told(1, "SERVER_ERROR shard 1 has no primary now; nothing was done\r\n")]);
    assert!(began.elapsed() >= Duration::from_secs(1));
}

/// The first owner is not the primary any more: it names the second one, which has done a request.
/// And the link to that one.
fn redirected(first: &FakeOwner, second: &FakeOwner) -> (Scene, Pipe) {
    let mut scene = Scene::new(&first.primary(1));
    // Known by another shard's gate.
    scene.engine.store().close_gates_for([3], &second.primary(2));
    scene.submit(0, "incr a 1\r\n");
    let mut pipe = scene.link(first);
    let [(tag, _)] = scene.arrived(&mut pipe, 1)[..] else { panic!("one was sent") };
    answer(&mut pipe, tag, Fate::NotMine, "10.0.0.2:11211");
    let mut pipe = scene.link(second);
    let [(tag, _)] = scene.arrived(&mut pipe, 1)[..] else { panic!("it is sent again") };
    answer(&mut pipe, tag, Fate::Done, "1");
    assert_eq!(scene.settled(1), [told(0, "1")]);
    (scene, pipe)
}

/// An owner that is not the primary names the one who is, as its clients know that one.
#[test]
fn who_is_named_by_an_owner_is_asked_from_then_on() {
    let (first, second) = (FakeOwner::new(), FakeOwner::new());
    let (mut scene, mut pipe) = redirected(&first, &second);
    let asked =
        |scene: &Scene| scene.forwarder.primary_of(scene.engine.store(), SHARD).expect("known").clients.to_string();
    assert_eq!(asked(&scene), "10.0.0.2:11211");
    scene.submit(1, "incr a 1\r\n");
    let [(tag, _)] = scene.arrived(&mut pipe, 1)[..] else { panic!("straight to it") };
    answer(&mut pipe, tag, Fate::NotMine, "10.0.0.9:11211");
    while asked(&scene) != "10.0.0.1:11211" {
        assert_eq!(scene.turn(), [], "it waits for who it is");
    }
}

#[test]
fn the_clock_is_read_once_for_what_is_sent_together() {
    let owner = FakeOwner::new();
    let mut scene = Scene::new(&owner.primary(1));
    let first = scene.forwarder.now();
    assert_eq!(scene.forwarder.now(), first);
    scene.turn();
    assert!(scene.forwarder.now() > first, "later requests may wait for as long as these");
}

#[test]
fn what_a_link_may_have_under_way_has_a_bound() {
    let owner = FakeOwner::new();
    let primary = Arc::new(owner.primary(1));
    let mut scene = Scene::new(&primary);
    let large = "x".repeat(3 << 20);
    for (place, has_room) in [(0, true), (1, true), (2, false)] {
        assert_eq!(scene.forwarder.owner(&primary, large.len()).1, has_room, "{place}");
        if has_room {
            scene.submit(place, &large);
        }
    }
    let mut small = 2;
    while scene.forwarder.owner(&primary, KEY_BYTES_MAX).1 {
        scene.submit(small, "get a\r\n");
        small += 1;
    }
    assert_eq!(small, crate::base::limits::FORWARD_FRAMES_MAX as u64);
    assert_eq!(scene.give_up().len() as u64, small, "nobody waits for ever");
    assert!(scene.forwarder.owner(&primary, 100 << 20).1, "one alone may be larger");
}
