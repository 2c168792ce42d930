//! Lines that are wrong in some way, and well-formed ones of which a byte has changed.
//!
//! In a form `{k}` is a key, `{s}` a short one, `{c}` one of a number, `{n}` a word that is hardly
//! a number, `{250}` and `{251}` keys of so many bytes, `{bad}` a wrong length of a data block,
//! `{max}` a line as long as one may be.

use super::author::{Author, KEYS};
use super::command::{Command, Part};
use super::{classic, meta};

/// Of the classic protocol, and of none.
const CLASSIC: [&str; 100] = [
    "\r\n",
    "\n",
    " \r\n",
    "x\r\n",
    "xy\r\n",
    "\r\r\n",
    "    \r\n",
    "\0\r\n",
    "\t\t\t\r\n",
    "get\r\n",
    "get \r\n",
    "get  \n",
    "gets\r\n",
    "gat\r\n",
    "gat {n}\r\n",
    "gat 400\r\n",
    "gats 400 \r\n",
    "gat {n} {k}\r\n",
    "gats {n} {k} {k}\r\n",
    "gat {k}\r\n",
    "get {250}\r\n",
    "get {251}\r\n",
    "get {c} {251}\r\n",
    "gets {c} {250} {251} {k}\r\n",
    "gat 400 {251}\r\n",
    "gat 400 {c} {251}\r\n",
    "get {k} noreply\r\n",
    "get {s}\t{s}\r\n",
    "get {s}\0{s}\r\n",
    "get {s}\r{s}\r\n",
    "Get {k}\r\n",
    "GET {k}\r\n",
    " get {k}\r\n",
    "get {max}\r\n",
    "set\r\n",
    "set {k}\r\n",
    "set {k} 0 0\r\n",
    "set {k} 0 0 \r\n",
    "set {k} {n} 0 2\r\nqq\r\n",
    "set {k} 0 {n} 2\r\nqq\r\n",
    "set {k} {n} {n} 2 noreply\r\nqq\r\n",
    "set {k} 0 0 {bad}\r\nqqqqqqqqqqqqqqqqqqqqqqqqqqqq\r\nmn\r\n",
    "add {k} 0 0 {bad} noreply\r\nqqqqqqqqqqqqqqqqqqqqqqqqqqqq\r\nmn\r\n",
    "set {250} 0 0 2\r\nqq\r\n",
    "set {251} 0 0 2\r\nqq\r\n",
    "set {251} 0 0 2 noreply\r\nqq\r\n",
    "set {k} 0 0 2\r\nqqq\r\n",
    "set {k} 0 0 4\r\nqq\r\n\r\nmn\r\n",
    "set {k} 0 0 2\r\nqqqqqqqqqqqqqqqqqqqq\r\nmn\r\n",
    "set {k} 0 0 9\r\nqq\r\nget a\r\nget b\r\n",
    "set {k} 0 0 2\r\nqq\nq\nmn\r\n",
    "set {k} 0 0 2 noreply\r\nqqqq\r\nmn\r\n",
    "set {k} 0 0 2 7\r\nqq\r\n",
    "set {k} 0 0 2 noreply 7\r\nqq\r\n",
    "set  {k}  0  0  2  \r\nqq\r\n",
    "set {k} 0 0 4\r\nq\r\nq\r\n",
    "cas {k} 0 0 2\r\nqq\r\n",
    "cas {k} 0 0 2 {n}\r\nqq\r\n",
    "cas {k} 0 0 2 noreply\r\nqq\r\n",
    "cas {k} 0 0 2 {n} noreply\r\nqq\r\n",
    "cas {251} 0 0 2 7000000000000000\r\nqq\r\n",
    "append {k} {n} 0 2\r\nqq\r\n",
    "prepend {251} 0 0 2\r\nqq\r\n",
    "replace {k} 0 0 -1\r\nqq\r\n",
    "incr\r\n",
    "incr {c}\r\n",
    "incr {c} {n}\r\n",
    "decr {c} {n}\r\n",
    "incr {k} {n} noreply\r\n",
    "incr {251} 1\r\n",
    "incr {c} 1 2 3\r\n",
    "decr {251} {n} noreply\r\n",
    "incr {c} 1 \r\n",
    "incr {k} noreply\r\n",
    "touch\r\n",
    "touch {k}\r\n",
    "touch {k} {n}\r\n",
    "touch {251} 400\r\n",
    "touch {k} {n} noreply\r\n",
    "touch {k} 400 7\r\n",
    "delete\r\n",
    "delete {251}\r\n",
    "delete {251} noreply\r\n",
    "delete {n}\r\n",
    "delete {k} {k} noreply\r\n",
    "delete noreply\r\n",
    "flush_all {n}\r\n",
    "flush_all {n} noreply\r\n",
    "flush_all noreply 400\r\n",
    "flush_all noreply noreply\r\n",
    "flush_all\tx\r\n",
    "verbosity\r\n",
    "verbosity {n}x\r\n",
    "verbosity noreply\r\n",
    "bogus {k} noreply\r\n",
    "bogus {k} {n}\r\n",
    "noreply\r\n",
    "{max}\r\n",
    "x {k} {k} {k} {k} {k} {k} {k} {k} {k} {k} {k} {k} {k} {k} {k} {k} {k} {k} {k} {k} {k} {k} {k} noreply\r\n",
    "set {k} 0 0 2 x x x x x x x x x x x x x x x x x x x x noreply\r\nqq\r\n",
];

/// Of operators' commands: what memcached refuses, or says that it is off.
const OPERATORS: [&str; 42] = [
    "watch\r\n",
    "watch fetchers\r\n",
    "watch nonsense\r\n",
    "watch f {n}\r\n",
    "watch fetchers evictions noreply\r\n",
    "slabs\r\n",
    "slabs x\r\n",
    "slabs reassign\r\n",
    "slabs reassign 1\r\n",
    "slabs reassign 1 2\r\n",
    "slabs reassign x y\r\n",
    "slabs reassign 1 2 3\r\n",
    "slabs r 1 2\r\n",
    "slabs automove\r\n",
    "slabs automove x\r\n",
    "slabs automove 7\r\n",
    "slabs automove ratio\r\n",
    "slabs automove ratio x\r\n",
    "slabs automove window\r\n",
    "slabs automove window 1\r\n",
    "slabs automove window x noreply\r\n",
    "slabs automove freeratio\r\n",
    "slabs noreply\r\n",
    "lru x\r\n",
    "lru tune\r\n",
    "lru tune 10 10 10\r\n",
    "lru tune x 10 0.1 2\r\n",
    "lru tune 50 50 0.1 2\r\n",
    "lru tune 10 10 0 2\r\n",
    "lru tune 10 10 0.1 -2\r\n",
    "lru tune 10 10 0.1 x\r\n",
    "lru mode flat\r\n",
    "lru temp_ttl 60\r\n",
    "lru_crawler x\r\n",
    "lru_crawler crawl\r\n",
    "lru_crawler crawl 1\r\n",
    "lru_crawler sleep x\r\n",
    "lru_crawler sleep 1000001\r\n",
    "lru_crawler tocrawl x\r\n",
    "cache_memlimit\r\n",
    "cache_memlimit 7\r\n",
    "cache_memlimit x noreply\r\n",
];

/// Of the meta protocol.
const META: [&str; 57] = [
    "mg\r\n",
    "mg \r\n",
    "mg  \r\n",
    "ms\r\n",
    "ms \r\n",
    "ms {k}\r\n",
    "ms {k} \r\n",
    "md\r\n",
    "ma\r\n",
    "me\r\n",
    "me \r\n",
    "mn x y\r\n",
    "mn  \n",
    "mn noreply\r\n",
    "mx {k}\r\n",
    "mq\r\n",
    "mgx {k}\r\n",
    "mg {250} v k\r\n",
    "mg {251} v k\r\n",
    "mg {251}\r\n",
    "md {251} q\r\n",
    "ma {251} q\r\n",
    "me {251}\r\n",
    "ms {251} 2\r\nqq\r\n",
    "ms {251} 2 q k Ozz\r\nqq\r\n",
    "ms {k} {bad} v\r\nqqqqqqqqqqqqqqqqqqqqqqqqqqqq\r\nmn\r\n",
    "ms {k} 2 T{n}\r\nqq\r\n",
    "ms {k} 2 F{n}\r\nqq\r\n",
    "ms {k} 2 C{n} q\r\nqq\r\n",
    "ms {k} 2\r\nqqq\r\n",
    "ms {k} 2 q\r\nqqqq\r\nmn\r\n",
    "ms {k} 4 q k\r\nqq\r\n\r\nmn\r\n",
    "ms {k} 9\r\nqq\r\nmg a v\r\nmg b v\r\n",
    "ms {k} 2 \r\nqq\r\n",
    "ms {k} S2\r\nqq\r\n",
    "ms {k} 2 -\r\nqq\r\n",
    "ms {k} 2 ~ v\r\nqq\r\n",
    "ms {k} 2 k \u{7f}\r\nqq\r\n",
    "ms {k} 2 z\r\nqq\r\n",
    "ms {k} 2 k 1\r\nqq\r\n",
    "ms {k} 2 S2\r\nqq\r\n",
    "ms {k} 2 noreply\r\nqq\r\n",
    "ms {k} 2 MZ q\r\nqq\r\n",
    "mg {k} T{n} v\r\n",
    "mg {k} N{n} v\r\n",
    "mg {k} R{n} v\r\n",
    "mg {k} C{n}\r\n",
    "md {k} C{n}\r\n",
    "md {k} T{n} I\r\n",
    "ma {c} D{n} v\r\n",
    "ma {c} N{n} v\r\n",
    "ma {c} J{n} v\r\n",
    "ma {c} MX v\r\n",
    "mg {k}\tv k\r\n",
    "mg {k} v\tk\r\n",
    "mg {k} v v\r\n",
    "mg {k} s t c f h l k O1 q u v T400 N400 R30 C7000000000000000 E1 F1 P1 L1 x I\r\n",
];

pub fn classic(author: &mut Author) -> Command {
    match author.random.u32(..10) {
        0 if author.one_in(30) => Command::alone(author.pick(&["GET / HTTP/1.1\r\n", "POST x HTTP/1.0\r\n"])),
        0 => filled(author, OPERATORS.as_slice()),
        1..7 => filled(author, CLASSIC.as_slice()),
        _ => {
            let command = classic::command(author);
            changed(author, command)
        }
    }
}

pub fn meta(author: &mut Author) -> Command {
    if author.random.bool() {
        filled(author, META.as_slice())
    } else {
        let command = meta::command(author);
        changed(author, command)
    }
}

fn filled(author: &mut Author, forms: &[&str]) -> Command {
    let mut text = author.pick(forms).to_string();
    while let Some(at) = text.find('{') {
        let end = at + text[at..].find('}').expect("forms are closed");
        let word = match &text[at + 1..end] {
            "k" => author.key(),
            "s" => author.pick(&KEYS).into(),
            "c" => author.counter(),
            "n" => author.odd_number().into(),
            "250" => "M".repeat(250),
            "251" => "M".repeat(251),
            // The line with its command and its line end.
            "max" => "m ".repeat(1020),
            "bad" => author
                .pick(&["-1", "-", "x", "+3", "0x3", "2147483646", "2147483648", "99999999999999999999", "-0", "03"])
                .into(),
            other => panic!("no form has {{{other}}}"),
        };
        text.replace_range(at..=end, &word);
    }
    // memcached's refusal of a get for a key overtakes answers that are still to be sent.
    let overtakes = text.contains(&"M".repeat(251)) && text.starts_with('g');
    Command { alone: overtakes, ..Command::of(text) }
}

/// One byte of the line changed, dropped or put in. Some commands stay as they are: those with a
/// data block, whose length may become one that is never sent; those with a CAS; those that stand
/// alone; lines with numbers that matter; keys that would become too long; keys in base64, of which
/// memcached takes what is none.
fn changed(author: &mut Author, mut command: Command) -> Command {
    let [Part::Bytes(bytes)] = &mut command.parts[..] else {
        return command;
    };
    let is_line = bytes.iter().filter(|byte| **byte == b'\n').count() == 1 && bytes.len() < 1000;
    let numbers = [&b"verbosity"[..], b"flush_all", b"  "].iter().any(|start| bytes.starts_with(start));
    if !is_line || command.alone || numbers || bytes.contains(&b'L') || has_own(bytes) {
        return command;
    }
    let text = bytes.len() - bytes.iter().rev().take_while(|byte| b"\r\n".contains(byte)).count();
    let at = author.random.usize(..=text);
    let odd = *b" \t\0\r\x01\x7f\x80\xff-+0123noreplyvqkTbGS".get(author.random.usize(..28)).expect("one of them");
    // What opens a connection with 0x80 speaks the binary protocol.
    let odd = if at == 0 && odd == 0x80 { 0xff } else { odd };
    let before = bytes.clone();
    match author.random.u32(..3) {
        0 if at < text => bytes[at] = odd,
        1 if at < text => drop(bytes.remove(at)),
        _ => bytes.insert(at, odd),
    }
    // Intended differences.
    let words = bytes.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).count();
    if has_own(bytes) || (bytes.starts_with(b"delete ") && words > 3) {
        *bytes = before;
    }
    command
}

/// A key in base64, or a flag that is Remora's own.
fn has_own(line: &[u8]) -> bool {
    let of_meta: &[u8] = if line.starts_with(b"m") { b"bApyYrd" } else { b"bA" };
    line.windows(2).any(|two| two[0] == b' ' && of_meta.contains(&two[1]))
}
