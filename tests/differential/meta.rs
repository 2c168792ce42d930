//! Commands of the meta protocol: every flag with every other, some of them with wrong arguments.

use super::author::Author;
use super::command::Command;

/// Longest opaque token that is taken.
const OPAQUE_BYTES_MAX: usize = 32;

/// A key as a client writes it, and what kind it is.
struct Key {
    token: String,
    base64: bool,
    counts: bool,
}

pub fn command(author: &mut Author) -> Command {
    match author.random.u32(..100) {
        0..36 => flagged(author, "mg", "stcfhlkvOqubTNRCE", 6),
        36..64 => set(author),
        64..76 => flagged(author, "md", "OkbqICETxF", 4),
        76..90 => flagged(author, "ma", "OkbqvctNTJDMCE", 6),
        90..96 => debug(author),
        _ => Command::of("mn").then(author.line_end()),
    }
}

/// Base64 of `a`, of bytes that are no text, of the longest binary key that is taken.
fn key(author: &mut Author, counts: bool) -> Key {
    if counts {
        return Key { token: author.counter(), base64: false, counts };
    }
    if author.one_in(4) {
        let longest = "/".repeat(248);
        let token = author.pick(&["eA==", "eB==", "/w8A", "AAA=", "YWJj", "YWJjZA==", &longest]).to_string();
        return Key { token, base64: true, counts };
    }
    Key { token: author.key(), base64: false, counts }
}

fn flagged(author: &mut Author, verb: &str, usual: &str, most: usize) -> Command {
    let counts = author.one_in(if verb == "ma" { 1 } else { 3 }) && !(verb == "ma" && author.one_in(10));
    let key = key(author, counts);
    let command = Command::of(format!("{verb} {}", key.token));
    with_flags(author, command, verb, &key, usual, most).then(author.line_end())
}

fn set(author: &mut Author) -> Command {
    let counts = author.one_in(3);
    let key = key(author, counts);
    let value = if counts { author.number_value() } else { author.value() };
    let command = Command::of(format!("ms {} {}", key.token, value.len()));
    let command = with_flags(author, command, "ms", &key, "OkbqsctTFIMCEN", 6);
    command.then(author.line_end()).then(value).then("\r\n")
}

/// Never of a number, of which memcached forgets the uses when it becomes longer, and never of a
/// key in base64: memcached gives some of them back as text, and heeds a `b` of me only
/// if another word stands behind it, which is a slip.
fn debug(author: &mut Author) -> Command {
    let line = format!("me {}{}", author.key(), author.pick(&["", " v", " k", " q Oab"]));
    Command::of(line).then(author.line_end())
}

fn with_flags(author: &mut Author, mut command: Command, verb: &str, key: &Key, usual: &str, most: usize) -> Command {
    let count = if author.one_in(60) { 25 } else { author.random.usize(..=most) };
    let mut flags: Vec<char> = Vec::new();
    if key.base64 {
        flags.push('b');
    }
    for _ in 0..count {
        let among = if author.one_in(12) { "stcfhlkvOqubTNRCEFIMJDxPL" } else { usual };
        let flag = among.chars().nth(author.random.usize(..among.len())).expect("within");
        if !flags.contains(&flag) || author.one_in(15) {
            flags.push(flag);
        }
    }
    author.random.shuffle(&mut flags);
    flags.retain(|flag| fits(*flag, verb, key));
    let keeps_number = verb == "ma" && flags.iter().any(|flag| matches!(flag, 'T' | 'E'));
    if keeps_number {
        flags.retain(|flag| *flag != 'D');
        command = command.then(" D0");
    }
    let gives_cas = flags.contains(&'E');
    for flag in flags {
        command = command.then(if author.one_in(40) { "  " } else { " " });
        command = if flag == 'O' {
            command.then(opaque(author, verb == "md" || (verb == "ms" && !gives_cas)))
        } else {
            with_flag(author, command, flag, verb, key)
        };
    }
    if verb != "ms" && author.one_in(60) {
        command = command.then(author.pick(&[" 1", " Q", " z", " -", " \u{1}", " \u{7f}", " {", " ~", " ", " qq  "]));
    }
    command
}

/// Flags that show no intended difference. Those differences are
///
/// - of numbers (see `author.rs`): the size of one that became shorter; and, of one that became
///   longer, all that memcached forgets then: marks (`h`, what `I`, `N` and `R` leave), the time
///   and the CAS that ma gives it, unless it adds nothing;
/// - of keys in base64: what memcached creates under them and gives back as text (`N` and `k` of
///   mg, `x` of md); and a `b` behind a key that is no base64;
/// - of large values: memcached says that they are no numbers before it looks at `C`.
fn fits(flag: char, verb: &str, key: &Key) -> bool {
    match flag {
        's' | 'h' | 'R' if key.counts && verb == "mg" => false,
        'I' if key.counts => false,
        // It makes a number.
        'N' => (verb == "ma" && key.counts) || (verb != "ma" && !key.counts && !key.base64),
        'k' if key.base64 => verb != "mg",
        'x' if key.base64 => false,
        'C' if verb == "ma" => key.counts,
        'b' => key.base64,
        _ => true,
    }
}

fn with_flag(author: &mut Author, command: Command, flag: char, verb: &str, key: &Key) -> Command {
    let command = command.then(flag.to_string());
    let odd = author.one_in(25);
    match flag {
        'N' | 'T' if !odd => command.then(author.exptime()),
        'R' if !odd => command.then(author.pick(&["0", "30", "-1", "1000", "50000", "100000"])),
        'C' if !odd => match author.random.u32(..6) {
            0 => command.then("9000000000000007"),
            1 => command.then("0"),
            _ => command.then_cas_of(&key.token),
        },
        // Beyond what servers give by themselves.
        'E' if !odd => command.then((1u64 << 60 | author.random.u64(1..4)).to_string()),
        'F' if !odd => command.then(author.flags()),
        'J' if !odd => command.then(author.random.u64(..).to_string()),
        'D' if !odd => command.then(author.delta()),
        'M' => {
            let modes: &[&str] = match verb {
                "ma" => &["I", "D", "+", "-", "incr", "i", "x", ""],
                _ if key.counts => &["S", "E", "R", "set", "X", "e"],
                _ => &["S", "E", "R", "A", "P", "append", "X", "a", ""],
            };
            command.then(author.pick(modes))
        }
        'N' | 'T' | 'R' | 'C' | 'E' | 'F' | 'J' | 'D' => command.then(author.pick(&["", "x", "-", "1x", "-1x"])),
        'P' | 'L' => command.then("proxy"),
        _ if odd => command.then("7"),
        _ => command,
    }
}

/// An opaque, also one that is too long if that is `harmless`: memcached finds it behind what the
/// command does, and gives the CAS that it was to give to what the connection stores next. Both are
/// intended differences.
fn opaque(author: &mut Author, harmless: bool) -> String {
    let bytes = match author.random.u32(..25) {
        0 if harmless => OPAQUE_BYTES_MAX + 4,
        1 => OPAQUE_BYTES_MAX - 2,
        _ => author.random.usize(..8),
    };
    format!("O{}", "x".repeat(bytes))
}
