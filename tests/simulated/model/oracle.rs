//! What the commands mean, written down a second time: naively, over one optional item, straight
//! from memcached's documentation and behaviour, and sharing no code with the engine.

use super::command::Command;

#[derive(Clone, PartialEq, Eq)]
pub struct Known {
    pub value: Vec<u8>,
    pub flags: u32,
    /// Unix second; 0 never.
    pub expires: u64,
    pub cas: u64,
    pub stale: bool,
    pub token: bool,
    pub fetched: bool,
    pub accessed: u32,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Known { value, flags, expires, cas, stale, token, fetched, accessed } = self;
        let shown = String::from_utf8_lossy(&value[..value.len().min(24)]);
        write!(f, "{} bytes {shown:?} flags {flags} expires {expires} cas {cas} ", value.len())?;
        write!(f, "stale {stale} token {token} fetched {fetched} accessed {accessed}")
    }
}

impl Known {
    pub fn is_over(&self, now: u32) -> bool {
        self.expires != 0 && self.expires <= u64::from(now)
    }
}

/// What one key's command answers and leaves behind.
pub struct Result {
    pub answer: Vec<u8>,
    pub item: Option<Known>,
    /// A new record was written, with the CAS that was passed in unless it was given.
    pub wrote: bool,
}

/// The circumstances.
#[derive(Clone, Copy)]
pub struct World {
    pub now: u32,
    /// The CAS that the server gives if this command writes.
    pub next_cas: u64,
    /// A value joined from two is too large (the exact limit is the store's business).
    pub join_too_large: bool,
    pub item_bytes_max: usize,
}

const TOO_LARGE: &str = "SERVER_ERROR object too large for cache\r\n";
const NON_NUMERIC: &str = "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";

fn expires(exptime: i64, now: u32) -> u64 {
    match exptime {
        0 => 0,
        ..0 => 1,
        1..=2_592_000 => u64::from(now) + exptime as u64,
        _ => exptime as u64,
    }
}

fn ttl(expires: u64, now: u32) -> String {
    if expires == 0 { "-1".into() } else { expires.saturating_sub(now.into()).to_string() }
}

fn fresh(value: &[u8], flags: u32, expires: u64, cas: u64, now: u32) -> Known {
    let value = value.to_vec();
    Known { value, flags, expires, cas, stale: false, token: false, fetched: false, accessed: now }
}

fn used(item: &mut Known, now: u32) {
    item.fetched = true;
    item.accessed = now;
}

/// One key of a get: its block of the answer.
pub fn get(item: &mut Option<Known>, key: &[u8], cas: bool, touch: Option<i64>, now: u32) -> Vec<u8> {
    let Some(item) = item else { return Vec::new() };
    used(item, now);
    if let Some(exptime) = touch {
        item.expires = expires(exptime, now);
    }
    let mut answer = format!("VALUE {} {} {}", String::from_utf8_lossy(key), item.flags, item.value.len());
    if cas {
        answer += &format!(" {}", item.cas);
    }
    [answer.as_bytes(), b"\r\n", &item.value, b"\r\n"].concat()
}

/// Any other command on its one key.
pub fn perform(item: Option<Known>, command: &Command, world: World) -> Result {
    match command {
        Command::Store { verb, flags, exptime, value, cas, noreply, .. } => {
            let order = Order {
                verb,
                value,
                flags: *flags,
                expires: expires(*exptime, world.now),
                cas: (*verb == "cas").then_some(*cas),
                onto: 0,
                vivify: false,
                stale: false,
                given: None,
            };
            let too_large = value.len() > world.item_bytes_max;
            let (code, item, wrote) = if too_large {
                (TOO_LARGE, if *verb == "set" { None } else { item }, false)
            } else {
                let (code, item) = store(item, &order, world);
                let words =
                    [("HD", "STORED\r\n"), ("NS", "NOT_STORED\r\n"), ("EX", "EXISTS\r\n"), ("NF", "NOT_FOUND\r\n")];
                (words.iter().find(|(short, _)| *short == code).unwrap().1, item, code == "HD")
            };
            let answer = if *noreply { Vec::new() } else { code.into() };
            Result { answer, item, wrote }
        }
        Command::Count { up, delta, noreply, .. } => {
            let (outcome, item) = count(item, *up, *delta, 0, None, world);
            let answer = match outcome {
                Ok(number) => format!("{number}\r\n"),
                Err("NF") => "NOT_FOUND\r\n".into(),
                Err(line) => line.into(),
            };
            let answer = if *noreply { String::new() } else { answer };
            Result { answer: answer.into(), item, wrote: outcome.is_ok() }
        }
        Command::Touch { exptime, noreply, .. } => {
            let answer = if item.is_some() { "TOUCHED\r\n" } else { "NOT_FOUND\r\n" };
            let item = item.map(|mut item| {
                item.expires = expires(*exptime, world.now);
                used(&mut item, world.now);
                item
            });
            Result { answer: if *noreply { Vec::new() } else { answer.into() }, item, wrote: false }
        }
        Command::Delete { noreply, .. } => {
            let answer = if item.is_some() { "DELETED\r\n" } else { "NOT_FOUND\r\n" };
            Result { answer: if *noreply { Vec::new() } else { answer.into() }, item: None, wrote: false }
        }
        Command::Meta { verb: "mg", key, flags, .. } => meta_get(item, key, flags, world),
        Command::Meta { verb: "ms", key, flags, value } => meta_set(item, key, flags, value.as_deref().unwrap(), world),
        Command::Meta { verb: "md", key, flags, .. } => meta_delete(item, key, flags, world),
        Command::Meta { verb: "ma", key, flags, .. } => meta_count(item, key, flags, world),
        Command::Meta { .. } | Command::Get { .. } | Command::Flush { .. } => unreachable!("not on one key"),
    }
}

struct Order<'a> {
    verb: &'a str,
    value: &'a [u8],
    flags: u32,
    expires: u64,
    cas: Option<u64>,
    onto: u64,
    vivify: bool,
    stale: bool,
    given: Option<u64>,
}

fn store(old: Option<Known>, order: &Order<'_>, world: World) -> (&'static str, Option<Known>) {
    let cas = order.given.unwrap_or(world.next_cas);
    let new = fresh(order.value, order.flags, order.expires, cas, world.now);
    match (order.verb, old) {
        ("set", _) => ("HD", Some(new)),
        ("add", None) => ("HD", Some(new)),
        ("replace", Some(_)) => ("HD", Some(new)),
        ("add" | "replace", old) => ("NS", old),
        ("cas", None) => ("NF", None),
        ("cas", Some(old)) => match order.cas.unwrap() {
            asked if asked != 0 && asked == old.cas => ("HD", Some(new)),
            asked if asked != 0 && asked < old.cas && order.stale => {
                ("HD", Some(Known { expires: old.expires, stale: true, token: old.token, ..new }))
            }
            _ => ("EX", Some(old)),
        },
        (_, None) if order.vivify => ("HD", Some(new)),
        (_, None) => ("NS", None),
        (_, Some(old)) if order.onto != 0 && order.onto != old.cas => ("EX", Some(old)),
        (_, Some(old)) if world.join_too_large => ("NS", Some(old)),
        (verb, Some(old)) => {
            let parts: [&[u8]; 2] =
                if verb == "append" { [&old.value, order.value] } else { [order.value, &old.value] };
            ("HD", Some(fresh(&parts.concat(), old.flags, old.expires, cas, world.now)))
        }
    }
}

fn count(
    item: Option<Known>,
    up: bool,
    delta: u64,
    compare: u64,
    given: Option<u64>,
    world: World,
) -> (std::result::Result<u64, &'static str>, Option<Known>) {
    let Some(item) = item else { return (Err("NF"), None) };
    if item.value.is_empty() {
        return (Err(NON_NUMERIC), Some(item));
    }
    if compare != 0 && compare != item.cas {
        return (Err("EX"), Some(item));
    }
    let text = String::from_utf8_lossy(&item.value).into_owned();
    let word = text.trim_start().split(|c: char| c.is_ascii_whitespace() || c == '\x0b').next().unwrap_or("");
    let is_number = item.value.len() <= 64 && !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let Some(number) = is_number.then(|| word.parse::<u64>().ok()).flatten() else {
        return (Err(NON_NUMERIC), Some(item));
    };
    let number = if up { number.wrapping_add(delta) } else { number.saturating_sub(delta) };
    let cas = given.unwrap_or(world.next_cas);
    let value = number.to_string().into_bytes();
    (Ok(number), Some(Known { value, cas, accessed: world.now, ..item }))
}

/// The value of a flag such as T30.
fn number(flags: &[String], letter: char) -> Option<i64> {
    flags.iter().find_map(|flag| flag.strip_prefix(letter)?.parse().ok())
}

fn has(flags: &[String], flag: &str) -> bool {
    flags.iter().any(|given| given == flag)
}

fn line(code: &str, key: &[u8], flags: &[String], fact: impl Fn(char) -> Option<String>, tail: &str) -> Vec<u8> {
    let mut line = code.to_string();
    for flag in flags {
        let letter = flag.chars().next().unwrap();
        match letter {
            'O' => line += &format!(" {flag}"),
            'k' => line += &format!(" k{}", String::from_utf8_lossy(key)),
            _ => line += &fact(letter).map_or(String::new(), |fact| format!(" {letter}{fact}")),
        }
    }
    (line + tail + "\r\n").into_bytes()
}

fn meta_get(item: Option<Known>, key: &[u8], flags: &[String], world: World) -> Result {
    let now = world.now;
    let given = number(flags, 'E').map(|cas| cas as u64);
    let created = item.is_none() && number(flags, 'N').is_some();
    let item = item.or_else(|| created.then(|| fresh(b"", 0, 0, given.unwrap_or(world.next_cas), now)));
    let Some(mut item) = item else {
        let answer = if has(flags, "q") { Vec::new() } else { line("EN", key, flags, |_| None, "") };
        return Result { answer, item: None, wrote: false };
    };
    let before = item.clone();
    let mut facts = Vec::new();
    let mut won = created;
    for flag in flags {
        let letter = flag.chars().next().unwrap();
        let argument = || flag[1..].parse::<i64>().unwrap();
        let fact = match letter {
            'T' => {
                item.expires = expires(argument(), now);
                continue;
            }
            'N' => {
                item.expires = if created { expires(argument(), now) } else { item.expires };
                continue;
            }
            'R' => {
                won |= !created && !before.token && item.expires != 0 && item.expires < expires(argument(), now);
                continue;
            }
            's' => item.value.len().to_string(),
            't' => ttl(item.expires, now),
            'c' => item.cas.to_string(),
            'f' => item.flags.to_string(),
            'l' => (now - before.accessed).to_string(),
            'h' => u8::from(before.fetched).to_string(),
            _ => continue,
        };
        facts.push((letter, fact));
    }
    let mut tail = String::new();
    tail += if before.token { " Z" } else { "" };
    tail += if before.stale { " X" } else { "" };
    won |= before.stale && !before.token;
    tail += if won { " W" } else { "" };
    item.token |= won;
    let with_value = has(flags, "v") && number(flags, 'C') != Some(item.cas as i64);
    let code = if with_value { format!("VA {}", item.value.len()) } else { "HD".into() };
    let fact = |letter| facts.iter().find(|(known, _)| *known == letter).map(|(_, fact)| fact.clone());
    let mut answer = line(&code, key, flags, fact, &tail);
    if with_value {
        answer.extend_from_slice(&item.value);
        answer.extend_from_slice(b"\r\n");
    }
    if !has(flags, "u") {
        used(&mut item, now);
    }
    Result { answer, item: Some(item), wrote: created }
}

fn meta_set(item: Option<Known>, key: &[u8], flags: &[String], value: &[u8], world: World) -> Result {
    if value.len() > world.item_bytes_max {
        return Result { answer: TOO_LARGE.into(), item: None, wrote: false };
    }
    let mode = flags.iter().find_map(|flag| flag.strip_prefix('M')).unwrap_or("S");
    let cas = number(flags, 'C').map(|cas| cas as u64);
    let (verb, joins) = match mode {
        "E" => ("add", false),
        "A" => ("append", true),
        "P" => ("prepend", true),
        _ if cas.is_some() => ("cas", false),
        "R" => ("replace", false),
        _ => ("set", false),
    };
    let vivify = number(flags, 'N').filter(|_| joins);
    let exptime = vivify.or(number(flags, 'T')).unwrap_or(0);
    let order = Order {
        verb,
        value,
        flags: number(flags, 'F').unwrap_or(0) as u32,
        expires: expires(exptime, world.now),
        cas,
        onto: cas.unwrap_or(0),
        vivify: vivify.is_some(),
        stale: has(flags, "I"),
        given: number(flags, 'E').map(|cas| cas as u64),
    };
    let (code, item) = store(item, &order, world);
    let stored = code == "HD";
    let fact = |letter| match letter {
        'c' if stored => Some(item.as_ref().unwrap().cas.to_string()),
        'c' => Some("0".into()),
        's' if stored => Some(item.as_ref().unwrap().value.len().to_string()),
        's' => Some(value.len().to_string()),
        _ => None,
    };
    let answer = if stored && has(flags, "q") { Vec::new() } else { line(code, key, flags, fact, "") };
    Result { answer, item, wrote: stored }
}

fn meta_delete(item: Option<Known>, key: &[u8], flags: &[String], world: World) -> Result {
    let answer = |code: &str| line(code, key, flags, |_| None, "");
    let Some(old) = item else { return Result { answer: answer("NF"), item: None, wrote: false } };
    if number(flags, 'C').is_some_and(|cas| cas as u64 != old.cas) {
        return Result { answer: answer("EX"), item: Some(old), wrote: false };
    }
    let given = number(flags, 'E').map(|cas| cas as u64);
    let new_ttl = number(flags, 'T').map(|exptime| expires(exptime, world.now));
    let mut left = old.clone();
    let (empty, invalidate) = (has(flags, "x"), has(flags, "I"));
    if empty {
        left = fresh(b"", 0, new_ttl.unwrap_or(0), given.unwrap_or(old.cas), world.now);
    }
    if invalidate {
        left.expires = new_ttl.unwrap_or(left.expires);
        left.stale = true;
        left.token = false;
        left.accessed = world.now;
        left.cas = given.unwrap_or(world.next_cas);
    }
    let left = (empty || invalidate).then_some(left);
    let answer = if has(flags, "q") { Vec::new() } else { answer("HD") };
    Result { answer, wrote: left.is_some(), item: left }
}

fn meta_count(item: Option<Known>, key: &[u8], flags: &[String], world: World) -> Result {
    let now = world.now;
    let given = number(flags, 'E').map(|cas| cas as u64);
    let up = !flags.iter().any(|flag| flag == "MD" || flag == "M-");
    let argument = |letter| flags.iter().find_map(|flag| flag.strip_prefix(letter)?.parse::<u64>().ok());
    let compare = argument('C').unwrap_or(0);
    let created = item.is_none() && number(flags, 'N').is_some();
    let (outcome, item) = if created {
        let number = argument('J').unwrap_or(0);
        let cas = given.unwrap_or(world.next_cas);
        (Ok(number), Some(fresh(number.to_string().as_bytes(), 0, 0, cas, now)))
    } else {
        count(item, up, argument('D').unwrap_or(1), compare, given, world)
    };
    let value = match outcome {
        Ok(number) => number.to_string(),
        Err(code @ ("NF" | "EX")) => {
            return Result { answer: line(code, key, flags, |_| None, ""), item, wrote: false };
        }
        Err(message) => return Result { answer: message.into(), item, wrote: false },
    };
    let mut item = item.unwrap();
    let mut seen_ttl = String::new();
    for flag in flags {
        match flag.chars().next().unwrap() {
            'T' => item.expires = expires(flag[1..].parse().unwrap(), now),
            'N' if created => item.expires = expires(flag[1..].parse().unwrap(), now),
            't' => seen_ttl = ttl(item.expires, now),
            _ => {}
        }
    }
    let fact = |letter| match letter {
        'c' => Some(item.cas.to_string()),
        't' => Some(seen_ttl.clone()),
        _ => None,
    };
    let answer = match (has(flags, "q"), has(flags, "v")) {
        (true, _) => Vec::new(),
        (_, true) => {
            [line(&format!("VA {}", value.len()), key, flags, fact, ""), value.into_bytes(), b"\r\n".into()].concat()
        }
        _ => line("HD", key, flags, fact, ""),
    };
    Result { answer, item: Some(item), wrote: true }
}
