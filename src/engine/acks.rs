//! Acknowledged writes: which answers are held for replicas, and until when. And `wait`.
//!
//! Whether an answer is held depends on what the request has written, not on the command: the turn
//! notes it ([`Appended`]). The answer to a request that has written nothing (NOT_STORED, EXISTS, a
//! miss, an error) is not held. Neither is that to a request with noreply. A quiet meta command is
//! held: it is answered only if too few replicas have it in time.

use super::held::{AckPolicy, Goal, Held, Kind};
use super::{Call, Engine, Outcome, elsewhere, watched};
use crate::protocol::{Reply, Request};
use crate::store::{Appended, Reign};
use std::sync::atomic::AtomicU8;
use std::time::{Duration, Instant};

impl Engine {
    /// The same engine, with writes acknowledged like this.
    #[must_use]
    pub fn with_acks(self, acks: AckPolicy) -> Engine {
        Engine { special: AtomicU8::new(if acks.replicas > 0 { watched::ACKS } else { 0 }), acks, ..self }
    }

    /// How many replicas the answer to `request` is to wait for, if it turns out to have written
    /// something.
    #[inline]
    pub(super) fn ack_replicas(&self, request: &Request<'_>) -> u8 {
        let by_default = self.acks.replicas;
        match request {
            Request::Meta(request) => request.ack_replicas.unwrap_or(by_default),
            _ if by_default > 0 => self.ack_replicas_of_classic(request),
            _ => 0,
        }
    }

    /// None for a request with noreply: there is no answer to hold.
    #[cold]
    fn ack_replicas_of_classic(&self, request: &Request<'_>) -> u8 {
        if elsewhere::writes(request) == Some(Reply::Silent) { 0 } else { self.acks.replicas }
    }

    /// What is needed to hold the answer to what is written from here on. A gat that goes on has
    /// touched keys before, perhaps in an earlier turn; its last part is held for them.
    #[cold]
    pub(super) fn begin_held(&self, call: &Call<'_, '_, '_>, request: &Request<'_>, resume: u32) -> Begin {
        match request {
            Request::Get(request) if (resume > 0 || request.continues) && request.form.touch.is_some() => {
                call.context.turn.resume_appended()
            }
            _ => call.context.turn.forget_appended(),
        }
        Begin { place: call.out.end(), reign: self.store.reign() }
    }

    /// Hold the answer to what was written since `begin`, if anything was.
    #[cold]
    pub(super) fn hold_answer(&self, call: &mut Call<'_, '_, '_>, reply: Reply, replicas: u8, begin: Begin) {
        let Begin { place, reign } = begin;
        let goal = match call.context.turn.appended() {
            Appended::Nothing => return,
            Appended::Below { shard, position } => Goal::Shard { shard, position },
            Appended::Widely => Goal::All(self.store.heads(reign)),
        };
        call.context.stats.acks_waited.increment();
        let within = self.acks.timeout;
        let kind = Kind::Write(reply);
        call.out.hold(place, Held { kind, goal, reign, replicas, since: Instant::now(), within });
    }

    /// wait: what is written now is all that this connection, or any other, has written here so
    /// far.
    pub(super) fn wait(&self, call: &mut Call<'_, '_, '_>, replicas: u8, milliseconds: u32) -> Outcome {
        call.context.stats.waits.increment();
        let reign = self.store.reign();
        // What was written here before is followed elsewhere, or not at all: nobody can say.
        if self.store.writable().is_empty()
            && let Some(closed) = self.store.first_closed()
        {
            return self.refuse_write(call, closed, Reply::Text);
        }
        let goal = Goal::All(self.store.heads(reign));
        let within = Duration::from_millis(milliseconds.into());
        let place = call.out.end();
        call.out.hold(place, Held { kind: Kind::Count, goal, reign, replicas, since: Instant::now(), within });
        Outcome::Done
    }
}

/// Where a request begins whose answer may be held.
#[derive(Clone, Copy)]
pub(super) struct Begin {
    /// The place of its answer.
    place: u64,
    /// The store's reign.
    reign: Reign,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::KEY_BYTES_MAX;
    use crate::base::time::UnixSeconds;
    use crate::engine::held::{Holders, Judge};
    use crate::engine::{Attempt, Client, Context, Host, Origin, Output, Settings, WorkerStats};
    use crate::protocol::Refusal;
    use crate::protocol::{Parsed, parse};
    use crate::store::{Store, StoreConfig};
    use std::sync::Arc;

    struct Nobody;

    impl Client for Nobody {
        fn origin(&self) -> Origin {
            Origin::Elsewhere
        }
    }

    impl Host for Nobody {
        fn connections(&self, _emit: &mut dyn FnMut(u64, &str, &str)) {}

        fn worker_stats(&self) -> Vec<Arc<WorkerStats>> {
            Vec::new()
        }
    }

    /// One replica that has applied all of every shard but one.
    struct AllBut(usize);

    impl Holders for AllBut {
        fn holders(&self, shard: usize, _position: u64) -> usize {
            usize::from(shard != self.0)
        }
    }

    const SHARDS: usize = 4;

    fn engine(replicas: u8) -> Engine {
        let store = Store::new(StoreConfig {
            memory_bytes: 16 << 20,
            item_bytes_max: 1 << 16,
            shards: Some(SHARDS),
            hash_seed: Some((1, 2)),
            ..StoreConfig::default()
        });
        let settings = Settings { item_bytes_max: 1 << 16, workers: 1, rows: Vec::new() };
        Engine::new(store.unwrap(), settings).with_acks(AckPolicy { replicas, timeout: Duration::MAX })
    }

    /// Execute the requests on `lines` in one turn; what the last one has put out.
    fn output(engine: &Engine, lines: &str) -> Output {
        let mut seat = engine.store().join();
        let turn = seat.turn();
        let (stats, mut scratch) = (WorkerStats::default(), Vec::new());
        let now = UnixSeconds::now();
        let mut context = Context {
            turn: &turn,
            now,
            stats: &stats,
            scratch: &mut scratch,
            keys_left: 100,
            host: &Nobody,
            client: &Nobody,
        };
        let mut rest = lines.as_bytes();
        let mut output = Output::default();
        while !rest.is_empty() {
            let mut key = [0; KEY_BYTES_MAX];
            output = Output::default();
            rest = match parse(rest, engine.parse_limits(), &mut key) {
                Parsed::Request(request, bytes) => {
                    let plan = engine.plan(&request);
                    engine.execute(&mut context, &request, plan, Attempt::default(), &mut output);
                    &rest[bytes..]
                }
                Parsed::Rejected(rejection) => {
                    engine.reject(&mut context, &rejection, true, &mut output);
                    &rest[rejection.skip_bytes as usize..]
                }
                Parsed::Incomplete { .. } => panic!("{lines:?}"),
            };
        }
        output
    }

    /// Of the last of the requests on `lines`: its answer, and the shards each of which it waits
    /// for.
    fn waits_for(engine: &Engine, lines: &str) -> (String, Vec<usize>) {
        let mut output = output(engine, lines);
        let waits = |shard: &usize| {
            let judge = Judge { holders: &AllBut(*shard), now: Instant::now(), ending: false, reigns: engine.store() };
            output.is_holding() && !output.is_resolvable(&judge)
        };
        let shards = (0..SHARDS).filter(waits).collect();
        (String::from_utf8(output.bytes().clone()).unwrap(), shards)
    }

    #[test]
    fn what_wrote_is_held_and_nothing_else() {
        let engine = engine(1);
        for (lines, answer, held) in [
            ("get a\r\n", "END\r\n", false),
            ("set a 0 0 1\r\n1\r\n", "STORED\r\n", true),
            ("set a 0 0 1\r\n1\r\nget a\r\n", "VALUE a 0 1\r\n1\r\nEND\r\n", false),
            ("set a 0 0 1 noreply\r\n1\r\n", "", false),
            ("add a 0 0 1\r\n1\r\n", "NOT_STORED\r\n", false),
            ("cas a 0 0 1 1\r\n1\r\n", "EXISTS\r\n", false),
            ("append a 0 0 1\r\n1\r\n", "STORED\r\n", true),
            ("incr a 1\r\n", "12\r\n", true),
            (
                "set b 0 0 1\r\nx\r\nincr b 1\r\n",
                "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
                false,
            ),
            ("touch a 0\r\n", "TOUCHED\r\n", true),
            ("touch nothing 0\r\n", "NOT_FOUND\r\n", false),
            ("gat 0 a\r\n", "VALUE a 0 2\r\n12\r\nEND\r\n", true),
            ("gat 0 nothing\r\n", "END\r\n", false),
            ("ms a 1 q\r\n1\r\n", "", true),
            ("ms a 1 A0\r\n1\r\n", "HD\r\n", false),
            ("mg a t\r\n", "HD t-1\r\n", false),
            ("mg a T0\r\n", "HD\r\n", true),
            ("mg new N0\r\n", "HD W\r\n", true),
            ("mg new N0\r\n", "HD Z\r\n", false),
            ("md a I\r\n", "HD\r\n", true),
            ("mg a\r\n", "HD X W\r\n", true),
            ("mg a\r\n", "HD Z X\r\n", false),
            ("md a C1\r\n", "EX\r\n", false),
            ("ma n N0\r\n", "HD\r\n", true),
            ("delete a\r\n", "DELETED\r\n", true),
            ("delete a\r\n", "NOT_FOUND\r\n", false),
            ("set n 0 0 70000\r\n", "SERVER_ERROR object too large for cache\r\n", false),
            ("flush_all\r\n", "OK\r\n", true),
            ("flush_all 100\r\n", "OK\r\n", true),
            ("flush_all noreply\r\n", "", false),
            ("mn\r\n", "MN\r\n", false),
            ("wait 0 0\r\n", "", true),
        ] {
            let padded =
                if lines.ends_with("70000\r\n") { format!("{lines}{}\r\n", "x".repeat(70_000)) } else { lines.into() };
            let (told, shards) = waits_for(&engine, &padded);
            assert_eq!(told, answer, "{lines:?}");
            // `wait 0` needs no replica, so it is held but waits for none.
            assert_eq!(!shards.is_empty(), held && !lines.starts_with("wait"), "{lines:?} waits for {shards:?}");
        }
    }

    /// Nobody looked at the held answer while this server was a replica. What its replicas hold now
    /// at the same position may be another server's.
    #[test]
    fn what_an_earlier_reign_has_written_is_never_acknowledged() {
        let engine = engine(1);
        let holders = AllBut(SHARDS);
        let judge = || Judge { holders: &holders, now: Instant::now(), ending: false, reigns: engine.store() };
        let shards_of_a = [engine.store().locate(b"a").place.shard() as usize];
        for lines in ["set a 0 0 1\r\n1\r\n", "flush_all\r\n", "wait 1 60000\r\n"] {
            let mut held = output(&engine, lines);
            engine.store().close_gates(shards_of_a, Some("127.0.0.1:1"));
            engine.store().open_gates(shards_of_a);
            assert_eq!(held.resolve(&judge()).failed, 1, "{lines:?}");
            assert_eq!(*held.bytes(), Refusal::Demoted.line());
            let mut held = output(&engine, lines);
            assert_eq!(held.resolve(&judge()).failed, 0, "{lines:?}");
        }
    }

    /// `wait` counts what is written here; the logs of other shards are another server's.
    #[test]
    fn wait_asks_for_the_shards_that_take_writes_here() {
        let engine = engine(1);
        engine.store().close_gates([1, 3], None);
        assert_eq!(waits_for(&engine, "wait 1 60000\r\n").1, [0, 2]);
        let mut held = output(&engine, "wait 1 60000\r\n");
        engine.store().open_gates([1]);
        let judge = Judge { holders: &AllBut(1), now: Instant::now(), ending: false, reigns: engine.store() };
        assert_eq!(held.resolve(&judge).failed, 0, "what is opened later is not asked for");
        assert_eq!(*held.bytes(), b"REPLICAS 1\r\n");
    }

    #[test]
    fn without_acks_only_a_flag_asks_for_them() {
        let engine = engine(0);
        for (lines, held) in [
            ("set a 0 0 1\r\n1\r\n", false),
            ("ms a 1\r\n1\r\n", false),
            ("ms a 1 A1\r\n1\r\n", true),
            ("md a A1\r\n", true),
        ] {
            assert_eq!(!waits_for(&engine, lines).1.is_empty(), held, "{lines:?}");
        }
    }

    #[test]
    fn a_write_waits_for_its_shard_and_a_wide_one_for_all() {
        let engine = engine(1);
        let key = |shard: u32| {
            let found = (0..)
                .map(|number| format!("k{number}"))
                .find(|key| engine.store().locate(key.as_bytes()).place.shard() == shard);
            found.expect("every shard has keys")
        };
        let set = |key: &str| format!("set {key} 0 0 1\r\n1\r\n");
        for shard in 0..SHARDS as u32 {
            let lines = format!("{}{}", set(&key(0)), set(&key(shard)));
            assert_eq!(waits_for(&engine, &lines).1, [shard as usize], "not for what others wrote in the same turn");
        }
        let all: Vec<usize> = (0..SHARDS).collect();
        assert_eq!(waits_for(&engine, &format!("gat 0 {} {}\r\n", key(1), key(3))).1, all);
        assert_eq!(waits_for(&engine, &format!("gat 0 {} {}\r\n", key(1), key(1))).1, [1]);
        let too_long = "k".repeat(251);
        assert!(waits_for(&engine, &format!("gat 0 {} {too_long}\r\n", key(2))).1.is_empty(), "an error is not held");
        assert_eq!(waits_for(&engine, "flush_all\r\n").1, all);
        assert_eq!(waits_for(&engine, "wait 1 60000\r\n").1, all);
    }
}
