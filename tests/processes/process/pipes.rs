//! Outputs that take nothing: a pipe that is full and that nobody reads, a pipe without a reader, a
//! full disk.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, PipeReader, Write};
use std::process::Stdio;

/// A pipe that takes not one byte more, until somebody reads from the end that is returned beside
/// it.
pub fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let blocking = rustix::fs::fcntl_getfl(&writer).expect("a pipe has flags");
    rustix::fs::fcntl_setfl(&writer, blocking | rustix::fs::OFlags::NONBLOCK).expect("a pipe takes flags");
    let filled = loop {
        if let Err(error) = writer.write(&[b'.'; 1024]) {
            break error;
        }
    };
    assert_eq!(filled.kind(), ErrorKind::WouldBlock);
    // Fill the last page byte by byte as well.
    while writer.write(b".").is_ok() {}
    rustix::fs::fcntl_setfl(&writer, blocking).expect("a pipe takes flags");
    (reader, writer.into())
}

/// A pipe that nobody will ever read.
pub fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// A file on a disk without room.
pub fn full_disk() -> Stdio {
    let file: File = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full is there on Linux");
    file.into()
}
