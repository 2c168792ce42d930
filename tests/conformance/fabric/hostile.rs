//! Peers that do not keep to the protocol, on either side: each is its fabric's own, so these are
//! not among the conformance tests.

use super::world::{Memory, Pair, WAIT_MAX, by_name, read, token, until_grant_over, until_over, works};
use remora::fabric::tcp::frames;
use remora::fabric::{Cause, Descriptor, Invitation, Token, shm, tcp};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread::JoinHandle;

const LENGTHS: [usize; 2] = [8192, 4096];

fn unix(address: &str) -> UnixStream {
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(address).unwrap()).unwrap()
}

/// More of them than strangers may stand at a door, some with half a greeting.
#[test]
fn silent_strangers_keep_nobody_out() {
    for name in ["shm", "tcp"] {
        let world = by_name(name);
        let exporter = world.exporter();
        let mut strangers: Vec<Box<dyn Write>> = Vec::new();
        for number in 0..100 {
            let mut stranger: Box<dyn Write> = match name {
                "shm" => Box::new(unix(&exporter.address())),
                _ => Box::new(TcpStream::connect(exporter.address()).unwrap()),
            };
            if number % 2 == 0 {
                stranger.write_all(b"half").unwrap();
            }
            strangers.push(stranger);
        }
        works(&mut Pair::new(world.as_ref(), exporter.as_ref(), Memory::new(&LENGTHS)));
    }
}

/// A connection that was let in, without a channel around it.
fn let_in(exporter: &dyn remora::fabric::Exporter, grant: &dyn remora::fabric::Grant, token: Token) -> TcpStream {
    let to = Invitation::new(exporter, token, grant);
    let mut socket = TcpStream::connect(to.address).unwrap();
    socket.set_read_timeout(Some(WAIT_MAX)).unwrap();
    socket.write_all(&frames::greeting(&token)).unwrap();
    let mut welcome = [0; frames::WELCOME_BYTES];
    socket.read_exact(&mut welcome).unwrap();
    assert_eq!(frames::parse_welcome(&welcome), Some((frames::Status::Good, 2)));
    socket
}

#[test]
fn a_tcp_request_without_sense_is_told_so_and_is_the_last() {
    let world = by_name("tcp");
    let exporter = world.exporter();
    let token = token();
    let mut grant = exporter.grant(token, Memory::new(&LENGTHS)).unwrap();
    let mut socket = let_in(exporter.as_ref(), grant.as_ref(), token);
    socket.write_all(&[0xFF; 3 * frames::REQUEST_BYTES]).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, frames::answer(0, frames::Status::Malformed, 0));
    assert_eq!(until_grant_over(grant.as_mut()).cause, Cause::Protocol);
}

/// It asks for far more than a socket holds and takes none of it: the grant can be dropped all the
/// same, and others are served.
#[test]
fn a_tcp_replica_that_takes_no_answers_holds_up_nobody() {
    let world = by_name("tcp");
    let exporter = world.exporter();
    let token = token();
    let memory = Memory::new(&[4 << 20, 4096]);
    let grant = exporter.grant(token, memory.clone()).unwrap();
    let mut socket = let_in(exporter.as_ref(), grant.as_ref(), token);
    let mut requests = Vec::new();
    (0..200).for_each(|tag| frames::put_read(&mut requests, 0, 0, 4 << 20, tag));
    socket.write_all(&requests).unwrap();
    works(&mut Pair::new(world.as_ref(), exporter.as_ref(), memory));
    drop(grant);
    drop(exporter);
}

/// A primary by TCP that lets one in, waits for a request, and answers with `bytes`.
fn tcp_primary(bytes: Vec<u8>) -> (Invitation, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let descriptor = Descriptor { address: 0, key: 0, bytes: 4096 };
    let address = listener.local_addr().unwrap().to_string();
    let serve = move || {
        let mut socket = listener.accept().unwrap().0;
        socket.set_read_timeout(Some(WAIT_MAX)).unwrap();
        socket.read_exact(&mut [0; frames::GREETING_BYTES]).unwrap();
        socket.write_all(&frames::welcome(frames::Status::Good, 1)).unwrap();
        socket.read_exact(&mut [0; frames::REQUEST_BYTES]).unwrap();
        socket.write_all(&bytes).unwrap();
        let _ = socket.read(&mut [0]); // until the replica has had enough
    };
    let told = Invitation { address, token: Token([1; 16]), regions: vec![descriptor], ack: descriptor };
    (told, std::thread::spawn(serve))
}

#[test]
fn a_tcp_primary_without_sense_ends_the_channel() {
    let good = frames::Status::Good;
    for (bytes, cause) in [
        (vec![0xFF; 64], Cause::Protocol),
        (frames::answer(6, good, 64).to_vec(), Cause::Protocol),
        (frames::answer(5, good, 1 << 30).to_vec(), Cause::Protocol),
        (frames::answer(5, good, 0).to_vec(), Cause::Protocol),
        (frames::answer(0, frames::Status::Access, 0).to_vec(), Cause::Access),
    ] {
        let (told, primary) = tcp_primary(bytes.clone());
        let mut channel = tcp::connect(&told).unwrap();
        let read = read(channel.as_mut(), 0, 0, 64, 5);
        channel.submit(&mut vec![read]).unwrap();
        let (done, why) = until_over(channel.as_mut());
        assert_eq!(why.cause, cause, "{bytes:?}: {why}");
        assert_eq!(done.len(), 1, "the READ comes back");
        assert_eq!(done[0].outcome.as_ref().unwrap_err(), &why);
        drop(channel);
        primary.join().unwrap();
    }
}

/// A primary of this host that answers with `regions` descriptors' count, and hands over these
/// files in one batch.
fn shm_primary(count: u32, files: Vec<File>) -> (Invitation, JoinHandle<()>) {
    let name = format!("remora-shm-{:016x}", fastrand::u64(..));
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let descriptor = Descriptor { address: 0, key: 0, bytes: 4096 };
    let serve = move || {
        let mut socket = listener.accept().unwrap().0;
        socket.set_read_timeout(Some(WAIT_MAX)).unwrap();
        socket.read_exact(&mut [0; 16]).unwrap();
        let answer = [&b"RMRSHM1\n"[..], &0u32.to_le_bytes(), &count.to_le_bytes()].concat();
        socket.write_all(&answer).unwrap();
        let header = [0u32.to_le_bytes(), (files.len() as u32).to_le_bytes()].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let _ = sendmsg(&socket, &[IoSlice::new(&header)], &mut ancillary, SendFlags::NOSIGNAL); // it may have left
        let _ = socket.read(&mut [0]);
    };
    (
        Invitation { address: name, token: Token([1; 16]), regions: vec![descriptor], ack: descriptor },
        std::thread::spawn(serve),
    )
}

/// A primary must not choose among the sockets of this host: nothing is connected to that no
/// exporter could be.
#[test]
fn a_shm_name_that_is_no_exporters_is_not_connected_to() {
    let digits = format!("{:016x}", fastrand::u64(..));
    for name in [format!("service-{digits}"), format!("remora-shm-{digits}0"), format!("remora-shm-{}", &digits[1..])] {
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let descriptor = Descriptor { address: 0, key: 0, bytes: 4096 };
        let to = Invitation { address: name, token: Token([1; 16]), regions: vec![descriptor], ack: descriptor };
        let error = shm::connect(&to).err().expect("no channel");
        assert_eq!(error.cause, Cause::Protocol, "{error}");
        assert_eq!(listener.accept().map(drop).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}

#[test]
fn a_shm_primary_that_hands_over_what_is_not_as_told_is_refused() {
    use remora::sys::memory::Memfd;
    let region = |bytes| Memfd::new("test", bytes, false).unwrap().open_for_reading().unwrap();
    let ack = || Memfd::for_writers("test", 4096).unwrap().file().try_clone().unwrap();
    let unsealed = || {
        let file = File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(4096).unwrap();
        file
    };
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(4096).unwrap();
    let refused = |what: &str, count, files| {
        let (told, primary) = shm_primary(count, files);
        let why = shm::connect(&told).err().unwrap_or_else(|| panic!("{what} was taken"));
        assert!(matches!(why.cause, Cause::Protocol | Cause::System), "{what}: {why}");
        primary.join().unwrap();
    };
    refused("memory that may shrink", 2, vec![unsealed(), ack()]);
    refused("an ack slot that may shrink", 2, vec![region(4096), unsealed()]);
    refused("a file on a disk", 2, vec![disk, ack()]);
    refused("too small a region", 2, vec![region(2048), ack()]);
    refused("too large an ack slot", 2, vec![region(4096), region(8192)]);
    refused("an ack slot that cannot be written to", 2, vec![region(4096), region(4096)]);
    refused("too many regions", 3, vec![region(4096), region(4096), ack()]);
    let (told, primary) = shm_primary(2, vec![region(4096), ack()]);
    drop(shm::connect(&told).unwrap());
    primary.join().unwrap();
}
