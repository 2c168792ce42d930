//! The format of a transcript: what clients send and what they must be answered, as plain text.
//!
//! | line | meaning |
//! | --- | --- |
//! | `# ...` | a comment; `# needs 1.6.45` and `# remora only: why` say who is held to the transcript, |
//! | | `# memcached in turn: why` that memcached itself answers differently when requests come in one write |
//! | `> get a` | sent, with `\r\n` behind it; `2> ` is the second client |
//! | `< END` | the answer, with `\r\n` behind it; `2< ` the second client's |
//! | `<m ...`, `<r ...` | an answer of memcached's only, of Remora's only; the comment above says why they differ |
//! | `<+ STAT <*>` | one line like this, or more; each `<& ...` below it must be like one of them |
//! | `= closed` | the server hangs up |
//!
//! Within a line: `\r \n \xNN` are bytes, `{k*250}` is 250 times `k`, a
//! `\` at the end stands for "no line end here", `<*>` is the rest of the line, `<cas>` a decimal
//! number that is the same wherever the name stands, `<new!old>` one that must differ from `old`,
//! `<ttl:90..100>` any number in the range.

/// A part of a line.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    Bytes(Vec<u8>),
    Number { name: String, unlike: Option<String> },
    Range(u64, u64),
    Rest,
}

/// Which servers an answer is asked of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Memcached,
    Remora,
}

/// What is to happen next.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    Send(Vec<Piece>),
    Expect(Vec<Piece>),
    /// One or more lines like this one...
    ExpectMany(Vec<Piece>),
    /// ...of which one is like this.
    ExpectAmong(Vec<Piece>),
    ExpectClosed,
}

#[derive(Debug, Clone)]
pub struct Step {
    /// Line in the file, from 1.
    pub line_number: usize,
    /// 0 or 1.
    pub client: usize,
    /// None: every server.
    pub dialect: Option<Dialect>,
    pub act: Act,
}

/// A release of memcached's, for comparing.
pub type Release = [u32; 3];

#[derive(Debug, Clone)]
pub struct Transcript {
    pub name: String,
    /// memcached older than this does not do what the transcript says.
    pub needs: Release,
    pub remora_only: bool,
    pub memcached_in_turn: bool,
    pub steps: Vec<Step>,
}

/// `1.6.45` in whatever stands around it.
pub fn release(text: &str) -> Option<Release> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let mut numbers = text[start..].split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some([numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?])
}

impl Transcript {
    pub fn parse(name: &str, text: &str) -> Result<Transcript, String> {
        let mut transcript = Transcript {
            name: name.into(),
            needs: [0; 3],
            remora_only: false,
            memcached_in_turn: false,
            steps: Vec::new(),
        };
        for (index, line) in text.lines().enumerate() {
            if let Some(version) = line.strip_prefix("# needs ") {
                transcript.needs = release(version).ok_or(format!("{name}: which release is {version:?}?"))?;
            } else if line.starts_with("# remora only: ") {
                transcript.remora_only = true;
            } else if line.starts_with("# memcached in turn: ") {
                transcript.memcached_in_turn = true;
            } else if let Some(comment) = line.strip_prefix('#') {
                let misplaced =
                    ["needs 1.", "remora only: ", "memcached in turn: "].iter().find(|it| comment.contains(**it));
                if let Some(misplaced) = misplaced {
                    return Err(format!("{name}:{}: `{misplaced}` must begin its line: {line}", index + 1));
                }
            } else if !line.is_empty() {
                let step = step(index + 1, line).map_err(|why| format!("{name}:{}: {why}: {line}", index + 1))?;
                transcript.steps.push(step);
            }
        }
        Ok(transcript)
    }

    /// Bytes that all clients send, as far as they are known before the run.
    pub fn sent_bytes(&self) -> usize {
        let length = |step: &Step| match &step.act {
            Act::Send(pieces) => known_bytes(pieces),
            _ => 0,
        };
        self.steps.iter().map(length).sum()
    }
}

/// Bytes that are written out in `pieces`.
pub fn known_bytes(pieces: &[Piece]) -> usize {
    let length = |piece: &Piece| {
        if let Piece::Bytes(bytes) = piece { bytes.len() } else { 0 }
    };
    pieces.iter().map(length).sum()
}

fn step(line_number: usize, line: &str) -> Result<Step, String> {
    let (client, line) = match line.as_bytes()[0] {
        b'1' => (0, &line[1..]),
        b'2' => (1, &line[1..]),
        _ => (0, line),
    };
    let done = |dialect, act| Ok(Step { line_number, client, dialect, act });
    if line == "= closed" {
        return done(None, Act::ExpectClosed);
    }
    let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
    let pieces = line_pieces(rest)?;
    match mark {
        ">" => done(None, Act::Send(pieces)),
        "<" => done(None, Act::Expect(pieces)),
        "<m" => done(Some(Dialect::Memcached), Act::Expect(pieces)),
        "<r" => done(Some(Dialect::Remora), Act::Expect(pieces)),
        "<+" => done(None, Act::ExpectMany(pieces)),
        "<&" => done(None, Act::ExpectAmong(pieces)),
        _ => Err("neither sent nor expected".into()),
    }
}

fn line_pieces(text: &str) -> Result<Vec<Piece>, String> {
    let (text, line_end) = match text.strip_suffix('\\') {
        Some(text) => (text, &b""[..]),
        None => (text, &b"\r\n"[..]),
    };
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let used = match first {
            '\\' => escape(rest, &mut pieces)?,
            '{' => repeat(rest, &mut pieces)?,
            '<' => number(rest, &mut pieces)?,
            _ => {
                push_bytes(&mut pieces, &rest.as_bytes()[..first.len_utf8()]);
                first.len_utf8()
            }
        };
        rest = &rest[used..];
    }
    push_bytes(&mut pieces, line_end);
    Ok(pieces)
}

fn push_bytes(pieces: &mut Vec<Piece>, bytes: &[u8]) {
    if let Some(Piece::Bytes(last)) = pieces.last_mut() {
        last.extend_from_slice(bytes);
    } else {
        pieces.push(Piece::Bytes(bytes.to_vec()));
    }
}

fn escape(text: &str, pieces: &mut Vec<Piece>) -> Result<usize, String> {
    match text.as_bytes().get(1) {
        Some(b'r') => push_bytes(pieces, b"\r"),
        Some(b'n') => push_bytes(pieces, b"\n"),
        Some(b'x') => {
            let digits = text.get(2..4).ok_or("\\x wants two digits")?;
            let byte = u8::from_str_radix(digits, 16).map_err(|_| "\\x wants two digits")?;
            push_bytes(pieces, &[byte]);
            return Ok(4);
        }
        _ => return Err("unknown escape".into()),
    }
    Ok(2)
}

fn repeat(text: &str, pieces: &mut Vec<Piece>) -> Result<usize, String> {
    let end = text.find('}').ok_or("{ without }; write \\x7b")?;
    let (what, times) = text[1..end].split_once('*').ok_or("{...} is {what*times}")?;
    let times: usize = times.parse().map_err(|_| "{...} is {what*times}")?;
    push_bytes(pieces, what.repeat(times).as_bytes());
    Ok(end + 1)
}

fn number(text: &str, pieces: &mut Vec<Piece>) -> Result<usize, String> {
    let end = text.find('>').ok_or("< without >; write \\x3c")?;
    let inside = &text[1..end];
    pieces.push(if inside == "*" {
        Piece::Rest
    } else if let Some((_, range)) = inside.split_once(':') {
        let (low, high) = range.split_once("..").ok_or("a range is <name:low..high>")?;
        let bound = |digits: &str| digits.parse().map_err(|_| "a range is <name:low..high>");
        Piece::Range(bound(low)?, bound(high)?)
    } else if let Some((name, unlike)) = inside.split_once('!') {
        Piece::Number { name: name.into(), unlike: Some(unlike.into()) }
    } else {
        Piece::Number { name: inside.into(), unlike: None }
    });
    Ok(end + 1)
}
