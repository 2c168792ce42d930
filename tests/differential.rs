//! Random histories of commands, the same bytes to memcached 1.6.45 and to Remora: the answers are
//! the same, byte for byte, but for what `differential/alike.rs` lists.
//!
//! A history is a function of its seed and its protocol. One that shows a difference is made as
//! short as it gets, and printed with both answers. `REMORA_SEED=N` runs that seed alone;
//! `REMORA_SEEDS=N` so many; `REMORA_DIFFERENTIAL_COMMANDS=N` goes on from `REMORA_SEED` until so
//! many commands are compared, which is what tools/differential does.

#[path = "differential/alike.rs"]
mod alike;
#[path = "differential/alike_packets.rs"]
mod alike_packets;
#[path = "differential/author.rs"]
mod author;
#[path = "differential/binary.rs"]
mod binary;
#[path = "differential/classic.rs"]
mod classic;
#[path = "differential/command.rs"]
mod command;
#[path = "differential/malformed.rs"]
mod malformed;
#[path = "interop/memcached.rs"]
mod memcached;
#[path = "differential/meta.rs"]
mod meta;
#[path = "differential/run.rs"]
mod run;
#[path = "differential/server.rs"]
mod server;
mod support;

use author::Protocol;
use run::Pair;

/// Commands of one history.
const COMMANDS: usize = 2000;
/// Histories of each protocol where nobody asks for more.
const SEEDS: u64 = 8;

/// memcached without what Remora has not: threads that look after items in the background. Both
/// without `watch`, which tells a client more than it asks for. One worker: its flush_all passes
/// over an item that another one holds.
const MEMCACHED: [&str; 7] = ["-m", "1024", "-t", "1", "-W", "-o", "no_lru_maintainer,no_lru_crawler,no_slab_reassign"];

/// The seeds to run: one after the other while commands are wanted.
fn wanted() -> Box<dyn Iterator<Item = u64>> {
    match support::number("REMORA_DIFFERENTIAL_COMMANDS") {
        Some(commands) => {
            let first = support::number("REMORA_SEED").unwrap_or(1);
            Box::new(first..first + commands.div_ceil(COMMANDS as u64))
        }
        None => Box::new(support::seeds(SEEDS).into_iter()),
    }
}

fn same_answers(name: &str, protocol: Protocol) {
    if memcached::version().is_none() {
        assert!(std::env::var_os("CI").is_none(), "in CI memcached must be there: {}", memcached::REMEDY);
        println!("skipped: there is no memcached ({})", memcached::REMEDY);
        return;
    }
    let memcached = memcached::Memcached::start(&MEMCACHED);
    let remora = support::Server::start(&["-m", "256", "-t", "2", "-W"]);
    let pair = Pair { addresses: [memcached.address, remora.tcp[0]] };
    let (mut histories, mut different) = (0, 0);
    for seed in wanted() {
        let history = author::history(protocol, seed, COMMANDS);
        histories += 1;
        let Some(difference) = pair.difference(&history) else {
            continue;
        };
        different += 1;
        let shortest = pair.shortest(history).unwrap_or_else(|| "It is not there when the history runs again.".into());
        println!("seed {seed} differs: {difference}\n\n{shortest}");
        println!("again: REMORA_SEED={seed} cargo test --test differential {name}\n");
    }
    println!("{name}: {} commands in {histories} histories compared, {different} differ", histories * COMMANDS);
    assert!(histories > 0 && different == 0, "{different} of {histories} histories differ");
}

/// The servers differ in the longest value that they take, so one command is enough to show it.
#[test]
fn a_difference_is_found_and_made_short() {
    let servers = [&["-t", "1"][..], &["-t", "1", "-I", "4k"]].map(support::Server::start);
    let pair = Pair { addresses: servers.each_ref().map(|server| server.tcp[0]) };
    let histories = (1..=20).map(|seed| author::history(Protocol::Text, seed, COMMANDS));
    let history = histories.into_iter().find(|history| pair.difference(history).is_some());
    let shortest = pair.shortest(history.expect("a value of more than 4 KiB in twenty histories"));
    let shortest = shortest.expect("the difference is there each time");
    assert_eq!(shortest.matches("connection ").count(), 1, "one command: {shortest}");
    assert!(shortest.contains("<r SERVER_ERROR object too large for cache"), "{shortest}");
}

#[test]
fn text() {
    same_answers("text", Protocol::Text);
}

#[test]
fn meta_commands() {
    same_answers("meta_commands", Protocol::Meta);
}

#[test]
fn mixed() {
    same_answers("mixed", Protocol::Mixed);
}

#[test]
fn packets() {
    same_answers("packets", Protocol::Binary);
}
