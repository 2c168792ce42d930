//! etcd: several locators, and an etcd that is killed, stopped, or not there.

use super::world::{EtcdWorld, LONG_LEASE_SECONDS, an_etcd, in_charge, is_not_in_charge, kept, written};
use crate::wait::{LONG, wait_until};
use remora::cluster::store::{CALL_MAX, Etcd, LEASE_SECONDS, Lead, MapStore, StoreError, Swapped};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a busy machine takes besides a call's deadline.
const BUSY: Duration = Duration::from_secs(10);

fn other(store: &mut Etcd, me: &str) -> String {
    match store.lead(me) {
        Ok(Lead::Other { name }) => name,
        in_charge => panic!("{me}: {in_charge:?}"),
    }
}

/// The generation, once this one is in charge.
fn once_in_charge(store: &mut Etcd, me: &str) -> u64 {
    wait_until("in charge", || match store.lead(me) {
        Ok(Lead::InCharge { generation }) => Ok(generation),
        other => Err(format!("{other:?}")),
    })
}

#[test]
fn of_several_locators_one_is_in_charge() {
    let Some(world) = an_etcd() else { return };
    let (mut one, mut two) = (world.locator(LONG_LEASE_SECONDS), world.locator(LONG_LEASE_SECONDS));
    let generation = in_charge(&mut one, "one");
    assert_eq!(other(&mut two, "two"), "one");
    // Its name makes nobody the one in charge.
    assert_eq!(other(&mut two, "one"), "one");
    let revision = written(&mut one, None, b"map");
    assert!(is_not_in_charge(&two.swap(Some(revision), b"theirs")));
    assert_eq!(kept(&mut two), Some((revision, b"map".to_vec())));
    // Who ends in order is followed at once, with no lease to wait for.
    drop(one);
    assert!(in_charge(&mut two, "two") > generation);
    written(&mut two, Some(revision), b"next");
}

#[test]
fn clusters_with_prefixes_of_their_own_share_an_etcd() {
    let Some(world) = an_etcd() else { return };
    let place = |prefix| format!("etcd://{}{prefix}", world.0.address);
    let open = |prefix| remora::cluster::store::open(&place(prefix)).expect("it is a place");
    let (mut one, mut two) = (open("/one/"), open("/two/"));
    assert_eq!((in_charge(&mut *one, "a"), in_charge(&mut *two, "b")), (1, 1));
    let revision = written(&mut *one, None, b"one");
    written(&mut *two, None, b"two");
    assert_eq!(kept(&mut *one), Some((revision, b"one".to_vec())));
}

/// As one that was stopped (SIGSTOP, a pause of its virtual machine): it does not renew, and finds
/// out by its next write at the latest.
#[test]
fn who_was_away_longer_than_its_lease_writes_nothing() {
    let Some(world) = an_etcd() else { return };
    let (mut away, mut next) = (world.locator(LEASE_SECONDS), world.locator(LONG_LEASE_SECONDS));
    let generation = in_charge(&mut away, "away");
    let revision = written(&mut away, None, b"one");
    let later = once_in_charge(&mut next, "next");
    assert!(later > generation);
    // The map is as it saw it last, so its revision alone would let it write.
    let swapped = away.swap(Some(revision), b"late");
    assert!(is_not_in_charge(&swapped) && format!("{swapped:?}").contains("next"), "{swapped:?}");
    assert_eq!(kept(&mut next), Some((revision, b"one".to_vec())));
    assert_eq!(other(&mut away, "away"), "next");
    assert_eq!(in_charge(&mut next, "next"), later);
}

/// For longer than its lease, while another one tries to take charge.
#[test]
fn who_renews_stays_in_charge_beyond_its_lease() {
    let Some(world) = an_etcd() else { return };
    let (mut one, mut two) = (world.locator(LEASE_SECONDS), world.locator(LEASE_SECONDS));
    let generation = in_charge(&mut one, "one");
    let (begun, mut renewed) = (Instant::now(), Instant::now());
    while begun.elapsed() < Duration::from_secs(LEASE_SECONDS + 2) {
        let before = std::mem::replace(&mut renewed, Instant::now());
        let leads = (one.lead("one").expect("it is answered"), two.lead("two").expect("it is answered"));
        if leads != (Lead::InCharge { generation }, Lead::Other { name: "one".into() }) {
            // The machine may stand still for so long.
            assert!(before.elapsed() >= Duration::from_secs(LEASE_SECONDS), "{leads:?}, though it was renewed");
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A locator that writes the numbers from 1 on, whatever fails, and tells each that is written.
/// Ends with the last, which it returns.
fn writing(mut store: Etcd, last: u32) -> (Receiver<u32>, JoinHandle<u32>) {
    let (tell, told) = std::sync::mpsc::channel();
    let write = move || {
        let (mut written, mut generation) = (0, 0);
        while written < last {
            if step(&mut store, written, &mut generation) {
                written += 1;
                let _ = tell.send(written);
            } else {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        written
    };
    (told, std::thread::Builder::new().name("writing".into()).spawn(write).expect("a thread"))
}

/// Whether the number behind `written` is written now.
fn step(store: &mut Etcd, written: u32, generation: &mut u64) -> bool {
    let Ok(Lead::InCharge { generation: now }) = store.lead("a") else { return false };
    assert!(now >= *generation, "generation {now} after {generation}");
    *generation = now;
    let Ok(before) = store.load() else { return false };
    let value = before.as_ref().map_or(0, |stored| number_of(&stored.bytes));
    let next = written + 1;
    // A write that has failed may have been done.
    assert!(value == written || value == next, "there is {value}, and {written} was told to be written");
    value == next
        || match store.swap(before.map(|stored| stored.revision), next.to_string().as_bytes()) {
            Ok(Swapped::Done { .. }) => true,
            Ok(Swapped::Conflict) => panic!("{next}: a conflict with nobody"),
            Err(_) => false,
        }
}

fn until(told: &Receiver<u32>, number: u32) {
    while told.recv_timeout(LONG).expect("writes go on") < number {}
}

/// Writes go on while etcd is killed and started again, several times: whatever was told to be
/// written is there, and nothing is written twice.
#[test]
fn nothing_written_is_lost_when_etcd_is_killed() {
    let Some(EtcdWorld(mut etcd)) = an_etcd() else { return };
    let open = |etcd: &crate::etcd::Etcd| Etcd::new(vec![etcd.address.clone()], "/remora/", LEASE_SECONDS);
    let (told, writer) = writing(open(&etcd), 400);
    for killed_at in [100, 200, 300] {
        until(&told, killed_at);
        etcd.kill();
        etcd.start_again();
    }
    let last = writer.join().expect("its assertions hold");
    assert!(kept(&mut open(&etcd)).is_some_and(|(_, bytes)| number_of(&bytes) == last));
}

/// Of three members any one is killed, and any one is stopped, the leader among them: writes go on
/// without it.
#[test]
fn two_members_of_three_go_on() {
    let Some(mut members) = crate::etcd::Etcd::members(3) else { return };
    let endpoints: Vec<String> = members.iter().map(|member| member.address.clone()).collect();
    let (told, writer) = writing(Etcd::new(endpoints.clone(), "/remora/", LEASE_SECONDS), 400);
    for (round, at) in [0, 1, 2, 0, 1, 2].into_iter().enumerate() {
        let number = 60 * round as u32 + 20;
        until(&told, number);
        let is_killed = round < 3;
        if is_killed {
            members[at].kill()
        } else {
            members[at].stop()
        }
        until(&told, number + 20);
        if is_killed { members[at].start_again() } else { members[at].go_on() }
    }
    let last = writer.join().expect("its assertions hold");
    for endpoint in endpoints {
        let mut one = Etcd::new(vec![endpoint], "/remora/", LEASE_SECONDS);
        assert!(kept(&mut one).is_some_and(|(_, bytes)| number_of(&bytes) == last), "each has all of it");
    }
}

fn number_of(bytes: &[u8]) -> u32 {
    String::from_utf8_lossy(bytes).parse().expect("a number was written")
}

#[test]
fn a_stopped_etcd_costs_the_deadline_and_no_more() {
    let Some(world) = an_etcd() else { return };
    let mut store = world.locator(LONG_LEASE_SECONDS);
    in_charge(&mut store, "a");
    let revision = written(&mut store, None, b"one");
    world.0.stop();
    let begun = Instant::now();
    let error = store.swap(Some(revision), b"two").expect_err("nobody answers");
    assert!(error.to_string().contains("has not answered in time") && begun.elapsed() < CALL_MAX + BUSY, "{error}");
    type Call = fn(&mut Etcd) -> Result<(), StoreError>;
    let calls: [Call; 2] = [|store| store.load().map(drop), |store| store.lead("a").map(drop)];
    for call in calls {
        let begun = Instant::now();
        assert!(matches!(call(&mut store), Err(StoreError::Unreachable(_))));
        assert!(begun.elapsed() < CALL_MAX + BUSY);
    }
    world.0.go_on();
    // It may be in charge still, or again; what it wrote before the stop may have come late.
    once_in_charge(&mut store, "a");
    let (now, bytes) = kept(&mut store).expect("it was written");
    assert!(bytes == b"one" || bytes == b"two");
    written(&mut store, Some(now), b"three");
}

#[test]
fn of_several_endpoints_one_that_answers_is_enough() {
    let (Some(stopped), Some(world)) = (an_etcd(), an_etcd()) else { return };
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let endpoints = vec![free.to_string(), stopped.0.address.clone(), world.0.address.clone()];
    let mut store = Etcd::new(endpoints, "/remora/", LONG_LEASE_SECONDS);
    stopped.0.stop();
    in_charge(&mut store, "a");
    let revision = written(&mut store, None, b"one");
    assert_eq!(kept(&mut store), Some((revision, b"one".to_vec())));
    stopped.0.go_on();
}

/// Hands questions on to `etcd`, and answers back, but for one: the answer that `swallows` counts
/// down to 0 with is not told, and the connection closed instead. Returns its address.
fn between(etcd: &str, swallows: &Arc<AtomicI64>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let (etcd, swallows) = (etcd.to_owned(), Arc::clone(swallows));
    let hand_on = move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut server = TcpStream::connect(&etcd).expect("etcd runs");
            let mut piece = [0; 4096];
            while let Ok(bytes @ 1..) = client.read(&mut piece) {
                server.write_all(&piece[..bytes]).expect("etcd reads");
                let bytes = server.read(&mut piece).expect("etcd answers");
                if swallows.fetch_sub(1, SeqCst) == 1 || client.write_all(&piece[..bytes]).is_err() {
                    break;
                }
            }
        }
    };
    std::thread::Builder::new().name("between".into()).spawn(hand_on).expect("a thread");
    address
}

/// The answer to a write is lost, and the write is asked for again: it is one write, and no
/// conflict.
#[test]
fn what_is_asked_again_because_its_answer_was_lost_is_done_once() {
    let Some(world) = an_etcd() else { return };
    let swallows = Arc::new(AtomicI64::new(0));
    let lossy = || Etcd::new(vec![between(&world.0.address, &swallows)], "/remora/", LONG_LEASE_SECONDS);
    let is_lost = || swallows.load(SeqCst) <= 0;
    let mut store = lossy();
    let mut generation = in_charge(&mut store, "a");
    let first = written(&mut store, None, b"one");
    swallows.store(1, SeqCst);
    let second = written(&mut store, Some(first), b"two");
    assert!(is_lost());
    assert_eq!(kept(&mut store), Some((second, b"two".to_vec())));
    // The same bytes, but nobody's second try: that is a conflict.
    assert_eq!(store.swap(Some(first), b"two").expect("it is answered"), Swapped::Conflict);
    drop(store);
    // The answers on the way to being in charge, one after the other: to the version, the look at
    // who is in charge, the one at the generation, the lease, the transaction.
    for nth in 1..=5 {
        swallows.store(nth, SeqCst);
        let mut store = lossy();
        let taken = once_in_charge(&mut store, "a");
        assert!(is_lost());
        assert_eq!(taken, generation + 1, "it takes charge once, with answer {nth} lost");
        generation = taken;
    }
}

#[test]
fn an_endpoint_that_is_no_etcd_is_told() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let error = Etcd::new(vec![free.to_string()], "/remora/", LEASE_SECONDS).load().expect_err("nobody listens");
    assert!(error.to_string().contains(&free.to_string()), "{error}");
}
