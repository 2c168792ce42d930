//! A device that goes away and comes back, and an address: who listens there listens again.

use super::setup::{Memory, exporter, poll_some, read, token, wait_for, wait_for_error, with_device};
use crate::rxe::{self, Rxe};
use remora::fabric::verbs::{self, VerbsOptions};
use remora::fabric::{Cause, Channel, Exporter as _, Grant, Invitation, Readiness, Regions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Child;
use std::sync::Arc;

type Ends = (Box<dyn Channel>, Box<dyn Grant>);

fn connected(exporter: &verbs::Exporter, address: IpAddr, regions: &Arc<dyn Regions>, number: u8) -> Ends {
    let grant = exporter.grant(token(number), regions.clone()).unwrap();
    let mut invited = Invitation::new(exporter, token(number), &*grant);
    let listens: SocketAddr = invited.address.parse().expect("an address");
    invited.address = SocketAddr::new(address, listens.port()).to_string();
    (verbs::connect(&invited, &VerbsOptions::default()).unwrap(), grant)
}

fn reads(channel: &mut dyn Channel, memory: &Memory) {
    let landing = channel.landing(8192).unwrap();
    channel.submit(&mut vec![read(0, 0, 8192, landing, 0)]).unwrap();
    let done = poll_some(channel).pop().unwrap();
    done.outcome.unwrap();
    memory.check(0, 0, done.landing.words(8192));
}

/// Something that listening at `listens` needs goes away, and comes back. Peers come to `address`.
fn goes_and_comes_back(listens: IpAddr, address: IpAddr, takes: impl FnOnce() -> Child, brings: impl FnOnce()) {
    let memory = Memory::new(&[8192]);
    let regions: Arc<dyn Regions> = memory.clone();
    let mut exporter = exporter(listens);
    exporter.prepare(&regions).unwrap();
    let told = exporter.address();
    wait_for("registered", || exporter.readiness() == Readiness::Ready);
    let (mut channel, grant) = connected(&exporter, address, &regions, 1);
    reads(&mut *channel, &memory);

    let taken = takes();
    let is_away = || matches!(exporter.readiness(), Readiness::Failed(_));
    wait_for("the listener says so", is_away);
    let declined = exporter.grant(token(2), regions.clone()).err().expect("nothing is granted");
    assert_eq!(declined.cause, Cause::NotYet, "{declined}");
    drop((channel, grant));
    rxe::ended(taken, || ());
    assert!(is_away(), "nothing is there to listen on");

    brings();
    wait_for("it listens again", || exporter.readiness() == Readiness::Ready);
    assert_eq!(exporter.address(), told, "where it was");
    let (mut channel, mut grant) = connected(&exporter, address, &regions, 3);
    reads(&mut *channel, &memory);
    drop(channel);
    wait_for_error(|| grant.state().err());
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn a_listener_comes_back_with_its_device() {
    with_device(|address| {
        let Some(rxe) = Rxe::find() else { return };
        rxe.add_other();
        goes_and_comes_back(address, address, || rxe.delete(), || rxe.add());
        rxe.delete_other(|| drop(verbs::devices()));
    });
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn a_listener_at_the_unspecified_address_comes_back_with_its_device() {
    with_device(|address| {
        let Some(rxe) = Rxe::find() else { return };
        // The other one has a link as well, and is not what peers come over.
        let goes = || {
            rxe.add_other();
            rxe.delete()
        };
        goes_and_comes_back(Ipv4Addr::UNSPECIFIED.into(), address, goes, || rxe.add());
        rxe.delete_other(|| drop(verbs::devices()));
    });
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn a_listener_comes_back_with_its_address() {
    with_device(|address| {
        let Some(rxe) = Rxe::find() else { return };
        let order = |verb| format!("address {verb} {address}/24 dev {}", rxe.below);
        let comes = || {
            rxe::run("ip", &order("add"));
            rxe.await_gid();
        };
        goes_and_comes_back(address, address, || rxe::start("ip", &order("delete")), comes);
    });
}
