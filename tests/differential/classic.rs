//! Well-formed commands of the classic text protocol.

use super::author::Author;
use super::command::Command;

pub fn command(author: &mut Author) -> Command {
    match author.random.u32(..100) {
        0..25 => get(author),
        25..58 => store(author),
        58..74 => arithmetic(author),
        74..82 => touch(author),
        82..91 => delete(author),
        91..94 => flush(author),
        _ => simple(author),
    }
}

fn get(author: &mut Author) -> Command {
    let mut line = match author.random.u32(..4) {
        0 => format!("gat {}", author.exptime()),
        1 => format!("gats {}", author.exptime()),
        2 => "gets".to_string(),
        _ => "get".to_string(),
    };
    let is_gat = line.starts_with("gat");
    // A gat of more than 2 KiB depends on how it is cut, in memcached.
    let keys = match author.random.u32(..200) {
        0 if !is_gat => author.random.usize(100..900),
        1..60 => author.random.usize(2..12),
        _ => 1,
    };
    for at in 0..keys {
        let key = author.any_key();
        let key = if at > 6 && key.len() > 100 { "a".into() } else { key };
        line = line + if author.one_in(30) { "  " } else { " " } + &key;
    }
    Command::of(line).then(author.line_end())
}

fn store(author: &mut Author) -> Command {
    let counts = author.one_in(3);
    let (key, value) = if counts { (author.counter(), author.number_value()) } else { (author.key(), author.value()) };
    let verbs = ["set", "set", "set", "add", "replace", "cas", "append", "prepend"];
    let verb = author.pick(if counts { &verbs[..6] } else { &verbs });
    let (flags, exptime) = (author.flags(), author.exptime());
    let mut command = Command::of(format!("{verb} {key} {flags} {exptime} {}", value.len()));
    if verb == "cas" {
        command = command.then(" ");
        command = if author.one_in(4) { command.then("9000000000000007") } else { command.then_cas_of(&key) };
    }
    if author.one_in(6) {
        command = command.then(" noreply");
    }
    command.then(author.line_end()).then(value).then("\r\n")
}

fn arithmetic(author: &mut Author) -> Command {
    let key = if author.one_in(10) { author.key() } else { author.counter() };
    let verb = author.pick(&["incr", "decr"]);
    let line = format!("{verb} {key} {}{}", author.delta(), noreply(author));
    Command::of(line).then(author.line_end())
}

fn touch(author: &mut Author) -> Command {
    let line = format!("touch {} {}{}", author.any_key(), author.exptime(), noreply(author));
    Command::of(line).then(author.line_end())
}

/// In all forms that clients have: with a time, too, which is a relic. With further words it is an
/// intended difference.
fn delete(author: &mut Author) -> Command {
    let behind = author.pick(&["", "", "", " 0", " 0 noreply", " noreply", " 10", " x"]);
    let line = format!("delete {}{behind}", author.any_key());
    Command::of(line).then(author.line_end())
}

/// A delay is so long that it never comes.
fn flush(author: &mut Author) -> Command {
    let delay = author.pick(&["", "", " 0", " 4000", " -1", " 2592000", " 2100000000"]);
    let line = format!("flush_all{delay}{}", noreply(author));
    Command::of(line).then(author.line_end())
}

fn simple(author: &mut Author) -> Command {
    if author.one_in(60) {
        return Command::alone(author.pick(&["quit\r\n", "quit now\r\n", "quit noreply\n"]));
    }
    let line = author.pick(&[
        "mn",
        "mn noreply",
        "version",
        "version 1",
        "version noreply",
        "verbosity 1",
        "verbosity 0",
        "verbosity 0 noreply",
        "verbosity 1 2 3",
        "  verbosity 0",
        "  flush_all 4000",
    ]);
    Command::of(line).then(author.line_end())
}

fn noreply(author: &mut Author) -> &'static str {
    if author.one_in(6) { " noreply" } else { "" }
}
