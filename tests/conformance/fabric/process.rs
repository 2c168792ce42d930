//! What takes another process: this binary, run again with its part in an environment variable.

use super::world::{
    Memory, Pair, WAIT_MAX, World, by_name, read_now, token, until, until_grant_over, until_over, works,
};
use remora::fabric::{Cause, Descriptor, Invitation, Token};
use remora::sys::child::end_with_parent;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

const PART: &str = "REMORA_TEST_PART";
const LENGTHS: [usize; 2] = [8192, 1 << 20];

/// Opens the lines that the other process means for this one; the test harness prints others.
const MARK: &str = "part: ";

fn start(part: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["fabric::another_process", "--exact", "--ignored", "--nocapture"]).env(PART, part);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    end_with_parent(&mut command).spawn().unwrap()
}

/// The first line that the other process says, within bounds.
fn first_line(child: &mut Child) -> String {
    let output = BufReader::new(child.stdout.take().unwrap());
    let (say, said) = mpsc::channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            // The harness may have begun the line.
            if let Some(at) = line.find(MARK) {
                let _ = say.send(line[at + MARK.len()..].to_string());
            }
        }
    });
    said.recv_timeout(WAIT_MAX).expect("the other process came so far")
}

fn say(line: &str) {
    println!("{MARK}{line}");
    std::io::stdout().flush().unwrap();
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What the other process does.
pub fn another() {
    let part = std::env::var(PART).expect("only run by the tests of this file");
    let words: Vec<&str> = part.split(' ').collect();
    let world = by_name(words[1]);
    match words[0] {
        "reader" => reader(world.as_ref(), &told(&words[2..])),
        "primary" => primary(world.as_ref()),
        "leaks" => rounds_without_leaks(world.as_ref()),
        other => panic!("no part {other}"),
    }
}

fn numbers(descriptor: &Descriptor) -> String {
    format!("{}:{}:{}", descriptor.address, descriptor.key, descriptor.bytes)
}

fn tell(invitation: &Invitation) -> String {
    let token: String = invitation.token.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let descriptors: Vec<String> = invitation.regions.iter().chain([&invitation.ack]).map(numbers).collect();
    format!("{} {token} {}", invitation.address, descriptors.join(" "))
}

fn told(words: &[&str]) -> Invitation {
    let byte = |at: usize| u8::from_str_radix(&words[1][2 * at..2 * at + 2], 16).unwrap();
    let mut regions: Vec<Descriptor> = words[2..]
        .iter()
        .map(|word| {
            let numbers: Vec<u64> = word.split(':').map(|number| number.parse().unwrap()).collect();
            Descriptor { address: numbers[0], key: numbers[1], bytes: numbers[2] }
        })
        .collect();
    let ack = regions.pop().unwrap();
    Invitation { address: words[0].into(), token: Token(std::array::from_fn(byte)), regions, ack }
}

fn reader(world: &dyn World, invitation: &Invitation) {
    let mut channel = world.connect(invitation).unwrap();
    let end = std::time::Instant::now() + WAIT_MAX;
    let mut said = false;
    while std::time::Instant::now() < end {
        read_now(channel.as_mut(), 1, 0, LENGTHS[1]);
        if !std::mem::replace(&mut said, true) {
            say("reading");
        }
    }
}

pub fn a_killed_reader_shows(world: &dyn World) {
    let Some(name) = world.name() else { return }; // all of it is in one process
    let exporter = world.exporter();
    let token = token();
    let memory = Memory::new(&LENGTHS);
    let mut grant = exporter.grant(token, memory.clone()).unwrap();
    let told = tell(&Invitation::new(exporter.as_ref(), token, grant.as_ref()));
    let mut child = start(&format!("reader {name} {told}"));
    assert_eq!(first_line(&mut child), "reading");
    assert!(grant.state().is_ok());
    kill(child);
    let why = until_grant_over(grant.as_mut());
    assert_eq!(why.cause, Cause::Closed, "{why}");
    works(&mut Pair::new(world, exporter.as_ref(), memory));
}

fn primary(world: &dyn World) {
    let exporter = world.exporter();
    let token = token();
    let mut grant = exporter.grant(token, Memory::new(&LENGTHS)).unwrap();
    say(&tell(&Invitation::new(exporter.as_ref(), token, grant.as_ref())));
    until("this process is killed", || grant.state().is_err());
}

pub fn a_killed_primary_shows(world: &dyn World) {
    let Some(name) = world.name() else { return };
    let mut child = start(&format!("primary {name}"));
    let line = first_line(&mut child);
    let mut channel = world.connect(&told(&line.split(' ').collect::<Vec<_>>())).unwrap();
    let words = read_now(channel.as_mut(), 0, 0, 64);
    assert_eq!(words[3], super::world::word(0, 3));
    kill(child);
    let (_, why) = until_over(channel.as_mut());
    assert_eq!(why.cause, Cause::Closed, "{why}");
}

/// In a process of its own, where no other test opens anything.
pub fn nothing_leaks(world: &dyn World) {
    let name = world.name().unwrap_or("sim");
    let mut child = start(&format!("leaks {name}"));
    assert_eq!(first_line(&mut child), "nothing is left");
    child.wait().unwrap();
}

/// Open files, mappings of memfds, and all mappings.
fn held() -> (usize, usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let files = std::fs::read_dir("/proc/self/fd").unwrap().count();
    (files, maps.lines().filter(|line| line.contains("memfd:")).count(), maps.lines().count())
}

fn rounds_without_leaks(world: &dyn World) {
    const ROUNDS: usize = 50;
    let exporter = world.exporter();
    let memory = Memory::new(&LENGTHS);
    let round = |number: usize| {
        let mut pair = Pair::new(world, exporter.as_ref(), memory.clone());
        works(&mut pair);
        let reads =
            (0..4).map(|tag| super::world::read(pair.channel.as_mut(), 1, 0, LENGTHS[1], tag)).collect::<Vec<_>>();
        pair.channel.submit(&mut { reads }).unwrap();
        // Drop either end first.
        let Pair { channel, grant } = pair;
        if number.is_multiple_of(2) {
            drop(channel);
            drop(grant);
        } else {
            drop(grant);
            drop(channel);
        }
    };
    (0..4).for_each(round); // what is made once: stacks and heaps of threads
    let before = held();
    (0..ROUNDS).for_each(round);
    until("nothing is left", || {
        let after = held();
        // Heaps of threads come and go by a few.
        (after.0, after.1) == (before.0, before.1) && after.2 < before.2 + ROUNDS / 2
    });
    say("nothing is left");
}
