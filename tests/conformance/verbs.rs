//! The verbs fabric over a real RDMA device, whose interface has the address in REMORA_TEST_VERBS
//! (soft-RoCE will do). Both ends are in this process, but for the one that is killed.
//!
//! Waits are generous: under emulation a guest's second is not a host's.

mod endings;
mod parts;
mod prepared;
mod removal;
mod setup;

use remora::fabric::verbs::{self, Exporter, VerbsOptions};
use remora::fabric::{
    ACK_BYTES, Cause, Descriptor, Exporter as _, GrantState, Invitation, READ_BYTES_MAX, Token, Write,
};
use setup::*;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn a_grant_is_waited_for_and_then_connected() {
    with_device(|address| {
        let exporter = exporter(address);
        let listening: std::net::SocketAddr = exporter.address().parse().unwrap();
        assert!(listening.ip() == address && listening.port() != 0, "{listening}");
        let mut grant = exporter.grant(token(1), Memory::new(&[8192])).unwrap();
        assert_eq!(grant.state(), Ok(GrantState::Waiting));
        let channel = verbs::connect(&Invitation::new(&exporter, token(1), &*grant), &VerbsOptions::default()).unwrap();
        wait_for("connected", || grant.state().unwrap() == GrantState::Connected);
        assert!((1..=16).contains(&channel.depth_max()));
        drop(channel);
        let ended = wait_for_error(|| grant.state().err());
        assert_eq!(ended.cause, Cause::Closed, "{ended}");
    });
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn many_reads_bring_what_is_there() {
    with_device(|address| {
        let Pair { mut channel, memory, grant: _grant, exporter: _exporter } = connected(address, &[1 << 20, 64 << 10]);
        let mut landings: Vec<_> = (0..channel.depth_max()).map(|_| channel.landing(8192).unwrap()).collect();
        let (mut submitted, mut checked) = (0u64, 0);
        let place = |n: u64| ((n % 2) as u32, (n * 4104) % (56 << 10), 8 + (n as usize * 24) % 8184);
        while checked < 1000 {
            let count = landings.len().min(1 + submitted as usize % 5).min((1000 - submitted) as usize);
            let mut batch = Vec::new();
            for landing in landings.drain(..count) {
                let (region, offset, bytes) = place(submitted);
                batch.push(read(region, offset, bytes, landing, submitted));
                submitted += 1;
            }
            if !batch.is_empty() {
                channel.submit(&mut batch).unwrap();
            }
            for done in poll_some(&mut *channel) {
                done.outcome.unwrap();
                let (region, offset, bytes) = place(done.tag);
                memory.check(region, offset, done.landing.words(bytes));
                landings.push(done.landing);
                checked += 1;
            }
        }
    });
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn reads_of_a_batch_are_carried_out_in_their_order() {
    with_device(|address| {
        let Pair { mut channel, memory, grant: _grant, exporter: _exporter } = connected(address, &[4096]);
        let (stop, end) = (AtomicBool::new(false), Instant::now() + WAIT_MAX);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let word = &memory.words(0)[5];
                word.store(0, Relaxed);
                while !stop.load(Relaxed) && Instant::now() < end {
                    word.fetch_add(1, Relaxed);
                }
            });
            let mut last = 0;
            let mut seen = 0;
            let mut landings: Vec<_> = (0..channel.depth_max()).map(|_| channel.landing(4096).unwrap()).collect();
            // Long enough, and until the writer has been seen to move.
            let mut batches = 0;
            while batches < 50 || seen < 2 {
                assert!(Instant::now() < end, "the writer was never seen to move");
                batches += 1;
                let reads = landings.drain(..).zip(0..).map(|(landing, tag)| read(0, 40, 8, landing, tag));
                channel.submit(&mut reads.collect()).unwrap();
                let mut done = Vec::new();
                while done.len() < channel.depth_max() {
                    done.extend(poll_some(&mut *channel));
                }
                done.sort_by_key(|completion| completion.tag);
                for completion in done {
                    completion.outcome.unwrap();
                    let value = completion.landing.words(8)[0].load(Relaxed);
                    // The first may still be the pattern that was there before the writer began.
                    if value < 1 << 40 {
                        assert!(value >= last, "{value} after {last}");
                        seen += u64::from(value > last);
                        last = value;
                    }
                    landings.push(completion.landing);
                }
            }
            stop.store(true, Relaxed);
        });
    });
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn reads_of_four_mebibytes() {
    with_device(|address| {
        let Pair { mut channel, memory, grant: _grant, exporter: _exporter } =
            connected(address, &[4096, READ_BYTES_MAX + 8192]);
        let landings = [channel.landing(READ_BYTES_MAX).unwrap(), channel.landing(READ_BYTES_MAX).unwrap()];
        let begun = Instant::now();
        let batch = landings.into_iter().zip([0u64, 8192]);
        channel.submit(&mut batch.map(|(landing, at)| read(1, at, READ_BYTES_MAX, landing, at)).collect()).unwrap();
        let mut count = 0;
        while count < 2 {
            for done in poll_some(&mut *channel) {
                done.outcome.unwrap();
                memory.check(1, done.tag, done.landing.words(READ_BYTES_MAX));
                count += 1;
            }
        }
        println!("8 MiB in {:?}", begun.elapsed());
    });
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn acks_arrive_in_their_order() {
    with_device(|address| {
        let Pair { mut channel, grant, exporter: _exporter, .. } = connected(address, &[4096]);
        let slot = grant.ack().words();
        for n in 1..=200u64 {
            for (offset, words) in [(128, 8), (4088, 1)] {
                while !channel.write_ack(offset, &vec![n; words]).unwrap() {
                    channel.poll(&mut Vec::new(), Duration::from_millis(1)).unwrap();
                }
            }
            // The one at the end was written after the other, so it is never ahead of it.
            let (later, earlier) = (slot[511].load(Relaxed), slot[16].load(Relaxed));
            assert!(later <= earlier, "{later} is ahead of {earlier}");
        }
        wait_for("the last ack", || slot[511].load(Relaxed) == 200);
        assert!((16..24).all(|at| slot[at].load(Relaxed) == 200));
        assert_eq!(slot[15].load(Relaxed) + slot[24].load(Relaxed), 0, "nothing beside it");
    });
}

/// What WRITEs go out from is registered for as long as the channel lives, and no longer:
/// [`with_device`] counts.
#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn a_writer_registers_its_sources_and_leaves_none() {
    with_device(|address| {
        let (exporter, memory) = (exporter(address), Memory::new(&[4096]));
        let grant = exporter.grant(token(1), memory.clone()).unwrap();
        let before = verbs::registrations();
        let (invited, sources) = (Invitation::new(&exporter, token(1), &*grant), Memory::new(&[4096, 8192]));
        let mut channel = exporter.writer().expect("verbs writes").connect(&invited, sources).unwrap();
        assert_eq!(verbs::registrations(), before + 2);
        channel.write(&[Write { source: 1, from: 0, region: 0, offset: 0, bytes: 4096 }]).unwrap();
        let landing = channel.landing(4096).unwrap();
        let ended = match channel.submit(&mut vec![read(0, 0, 4096, landing, 0)]) {
            Ok(()) => wait_for_error(|| channel.poll(&mut Vec::new(), Duration::from_millis(100)).err()),
            Err(ended) => ended,
        };
        assert_eq!(ended.cause, Cause::Access, "the region is for reading: {ended}");
        memory.check(0, 0, memory.words(0));
        drop((channel, grant, exporter));
    });
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn a_read_beyond_a_region_ends_the_channel() {
    with_device(|address| {
        let Pair { mut channel, mut grant, exporter: _exporter, .. } = connected(address, &[8192, 8192]);
        let landing = channel.landing(8192).unwrap();
        channel.submit(&mut vec![read(0, 8, 8192, landing, 7)]).unwrap();
        let done = poll_some(&mut *channel).pop().unwrap();
        assert_eq!((done.tag, done.outcome.unwrap_err().cause), (7, Cause::Access));
        assert!(done.landing.words(8192).iter().all(|word| word.load(Relaxed) == 0), "nothing was seen");
        let again = channel.submit(&mut vec![read(0, 0, 8, done.landing, 8)]).unwrap_err();
        assert_eq!(again.cause, Cause::Access);
        assert_eq!(channel.poll(&mut Vec::new(), Duration::ZERO).unwrap_err().cause, Cause::Access);
        drop(channel);
        wait_for_error(|| grant.state().err());
    });
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn what_is_not_granted_cannot_be_reached() {
    with_device(|address| {
        let exporter = exporter(address);
        let memory = Memory::new(&[8192]);
        let other = exporter.grant(token(1), Memory::new(&[8192])).unwrap();
        // Another replica's region, by its true address and key; a region that does not exist.
        let foreign: [&dyn Fn(&mut Invitation); 2] =
            [&|invited| invited.regions = other.descriptors().to_vec(), &|invited| invited.regions[0].key ^= 0x5555];
        for (forge, number) in foreign.into_iter().zip(10..) {
            let grant = exporter.grant(token(number), memory.clone()).unwrap();
            let mut invited = Invitation::new(&exporter, token(number), &*grant);
            forge(&mut invited);
            let mut channel = verbs::connect(&invited, &VerbsOptions::default()).unwrap();
            let landing = channel.landing(4096).unwrap();
            channel.submit(&mut vec![read(0, 0, 64, landing, 1)]).unwrap();
            let done = poll_some(&mut *channel).pop().unwrap();
            assert_eq!(done.outcome.unwrap_err().cause, Cause::Access);
            assert!(done.landing.words(64).iter().all(|word| word.load(Relaxed) == 0));
        }
        // A WRITE into a region, which is there to be READ; one beyond the ack slot; one into
        // another replica's slot. The last is refused here alone, where each grant has a protection
        // domain of its own: memory that is prepared once for all shares one.
        let places: [&dyn Fn(&Invitation) -> Descriptor; 3] = [
            &|invited| invited.regions[0],
            &|invited| Descriptor { address: invited.ack.address + ACK_BYTES as u64, ..invited.ack },
            &|_| other.ack_descriptor(),
        ];
        for (place, number) in places.into_iter().zip(20..) {
            let grant = exporter.grant(token(number), memory.clone()).unwrap();
            let mut invited = Invitation::new(&exporter, token(number), &*grant);
            invited.ack = place(&invited);
            let mut channel = verbs::connect(&invited, &VerbsOptions::default()).unwrap();
            assert!(channel.write_ack(0, &[u64::MAX]).unwrap(), "it is the first");
            let ended = wait_for_error(|| channel.poll(&mut Vec::new(), Duration::from_millis(100)).err());
            assert_eq!(ended.cause, Cause::Access, "{ended}");
        }
        memory.check(0, 0, &memory.words(0)[..1]);
        assert_eq!(other.ack().words()[0].load(Relaxed), 0);
    });
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn a_token_is_good_once() {
    with_device(|address| {
        let exporter = exporter(address);
        let mut grant = exporter.grant(token(1), Memory::new(&[4096])).unwrap();
        let invited = Invitation::new(&exporter, token(1), &*grant);
        let refused = |invited: &Invitation| {
            let error = verbs::connect(invited, &VerbsOptions::default()).err().expect("turned down");
            assert_eq!(error.cause, Cause::UnknownToken, "{error}");
            assert!(error.what.contains("token"), "{error}");
        };
        refused(&Invitation { token: token(2), ..invited.clone() });
        assert_eq!(grant.state(), Ok(GrantState::Waiting), "a stranger changes nothing");
        let channel = verbs::connect(&invited, &VerbsOptions::default()).unwrap();
        refused(&invited);
        wait_for("connected", || grant.state().unwrap() == GrantState::Connected);
        drop((channel, grant));
        refused(&invited);

        let mut late = exporter.grant(token(3), Memory::new(&[4096])).unwrap();
        let invited = Invitation::new(&exporter, token(3), &*late);
        assert_eq!(wait_for_error(|| late.state().err()).cause, Cause::TimedOut);
        refused(&invited);
    });
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn nobody_listens() {
    with_device(|address| {
        let exporter = exporter(address);
        let grant = exporter.grant(token(1), Memory::new(&[4096])).unwrap();
        let invited = Invitation::new(&exporter, token(1), &*grant);
        drop(grant);
        drop(exporter);
        let error = verbs::connect(&invited, &VerbsOptions::default()).err().expect("nobody is there");
        assert_eq!(error.cause, Cause::Refused, "{error}");
    });
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn nobody_is_there() {
    with_device(|address| {
        let exporter = exporter(address);
        let grant = exporter.grant(token(1), Memory::new(&[4096])).unwrap();
        let std::net::IpAddr::V4(here) = address else { return println!("skipped: needs an IPv4 address") };
        // Another address of the same network, which is not likely to be taken.
        let elsewhere = std::net::Ipv4Addr::from(u32::from(here) ^ 0x55);
        let invited = Invitation { address: format!("{elsewhere}:7"), ..Invitation::new(&exporter, token(1), &*grant) };
        let begun = Instant::now();
        let error = verbs::connect(&invited, &VerbsOptions::default()).err().expect("nobody is there");
        println!("after {:?}: {error}", begun.elapsed());
        assert_eq!(error.cause, Cause::TimedOut, "{error}");
        assert!(begun.elapsed() < WAIT_MAX);
    });
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn a_device_is_chosen_by_name_port_and_gid() {
    with_device(|address| {
        let devices = verbs::devices().unwrap();
        println!("{devices:#?}");
        let holds = |gid: &verbs::Gid| gid.address.to_ipv4_mapped().is_some_and(|found| found == address);
        let (device, port, gid) = devices
            .iter()
            .flat_map(|device| device.ports.iter().map(move |port| (device, port)))
            .find_map(|(device, port)| Some((device, port, port.gids.iter().find(|gid| holds(gid))?)))
            .expect("the device whose address was given");
        assert!(port.active && device.mr_bytes_max > 1 << 30 && device.initiator_reads_max > 0);
        let options = VerbsOptions {
            device: Some(device.name.clone()),
            port: Some(port.number),
            gid_index: Some(gid.index),
            ..VerbsOptions::default()
        };
        let everywhere = Exporter::listen("0.0.0.0:0".parse().unwrap(), &options).unwrap();
        assert_eq!(everywhere.address().split(':').next().unwrap(), address.to_string(), "bound to the GID's address");
        let grant = everywhere.grant(token(1), Memory::new(&[4096])).unwrap();
        drop(verbs::connect(&Invitation::new(&everywhere, token(1), &*grant), &options).unwrap());

        let wrong = |options: VerbsOptions| {
            let listening = Exporter::listen((address, 0).into(), &options).err().expect("no such device");
            assert_eq!(listening.cause, Cause::Unsupported, "{listening}");
            println!("{listening}");
        };
        wrong(VerbsOptions { device: Some("none0".into()), ..options.clone() });
        wrong(VerbsOptions { port: Some(200), ..options.clone() });
    });
}

#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn the_unspecified_address_takes_replicas() {
    with_device(|address| {
        let exporter = Exporter::listen("0.0.0.0:0".parse().unwrap(), &VerbsOptions::default()).unwrap();
        let port = exporter.address().strip_prefix("0.0.0.0:").expect("as it listens").parse::<u16>().unwrap();
        let grant = exporter.grant(token(1), Memory::new(&[4096])).unwrap();
        let mut invited = Invitation::new(&exporter, token(1), &*grant);
        invited.address = format!("{address}:{port}");
        let mut channel = verbs::connect(&invited, &VerbsOptions::default()).unwrap();
        let landing = channel.landing(4096).unwrap();
        channel.submit(&mut vec![read(0, 0, 4096, landing, 0)]).unwrap();
        poll_some(&mut *channel).pop().unwrap().outcome.unwrap();
    });
}

/// The kernel and the device take them; what they do to packets no test sees.
#[test]
#[ignore = "needs an RDMA device: tools/soft-roce"]
fn a_type_of_service_and_a_timeout_are_taken() {
    with_device(|address| {
        let ack_timeout = verbs::AckTimeout::at_least(1000);
        let options = VerbsOptions { tos: Some(26 << 2), ack_timeout, ..VerbsOptions::default() };
        let exporter = Exporter::listen((address, 0).into(), &options).unwrap();
        let grant = exporter.grant(token(1), Memory::new(&[4096])).unwrap();
        let mut channel = verbs::connect(&Invitation::new(&exporter, token(1), &*grant), &options).unwrap();
        let landing = channel.landing(4096).unwrap();
        channel.submit(&mut vec![read(0, 0, 4096, landing, 0)]).unwrap();
        poll_some(&mut *channel).pop().unwrap().outcome.unwrap();
    });
}

#[test]
fn without_a_device_it_says_so() {
    if std::path::Path::new("/sys/class/infiniband").exists() {
        println!("skipped: this host has RDMA devices, or might have");
        return;
    }
    let invited = Invitation {
        address: "127.0.0.1:1".into(),
        token: Token([0; 16]),
        regions: Vec::new(),
        ack: Descriptor { address: 0, key: 0, bytes: 0 },
    };
    let options = VerbsOptions::default();
    let errors = [
        verbs::devices().err(),
        verbs::connect(&invited, &options).err(),
        Exporter::listen("127.0.0.1:0".parse().unwrap(), &options).err(),
    ];
    for error in errors {
        let error = error.expect("no device");
        assert_eq!(error.cause, Cause::Unsupported, "{error}");
        let words = if verbs::BUILT { ["no RDMA device", "modprobe rdma_rxe"] } else { ["no RDMA", "build again"] };
        let libraries_missing = error.what.contains("apt-get install libibverbs1");
        assert!(libraries_missing || words.iter().all(|word| error.what.contains(word)), "{error}");
    }
}
