//! Every option of memcached 1.6.45, and what becomes of it here: the one place that says so. What
//! is refused, what is taken without effect, and the page docs/COMPATIBILITY.md follow from it; the
//! names behind `-o` are in [`super::suboptions`].

use anyhow::bail;
use clap::ArgMatches;
use clap::parser::ValueSource;

/// What becomes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It does what it does in memcached.
    Same,
    /// It works, but not quite as in memcached: how.
    Differs(&'static str),
    /// It is taken and changes nothing: why.
    Idle(&'static str),
    /// It is an error: why, and what to do.
    Refused(&'static str),
}

/// An option.
#[derive(Debug)]
pub struct Opt {
    /// Its letter.
    pub letter: char,
    /// Its long name in memcached; "" where it has none.
    pub long: &'static str,
    /// What becomes of it.
    pub state: State,
}

pub(super) const SLABS: &str = "there are no slab classes: one pool serves all sizes";

/// All of them, in the order of memcached's help.
pub const OPTIONS: [Opt; 36] = [
    opt('p', "port", State::Same),
    opt(
        'U',
        "udp-port",
        State::Differs("better: an answer has at most 64 KiB, and answers of other servers are not answered"),
    ),
    opt('s', "unix-socket", State::Differs("with -p or -l there is TCP as well")),
    opt('a', "unix-mask", State::Same),
    opt('A', "enable-shutdown", State::Same),
    opt(
        'l',
        "listen",
        State::Differs(
            "without it 127.0.0.1 alone is listened to, not every address (`-l '*'` does that); a tag is taken without effect; proto[NAME] must \
             be the same for all listeners; proto[proxy] is refused",
        ),
    ),
    opt(
        'd',
        "daemon",
        State::Differs("better: the process that was started ends once the daemon serves, and fails if it does not"),
    ),
    opt('r', "enable-coredumps", State::Same),
    opt('u', "user", State::Differs("root is warned without it, not refused")),
    opt('m', "memory-limit", State::Same),
    opt('M', "disable-evictions", State::Same),
    opt('c', "conn-limit", State::Same),
    opt(
        'k',
        "lock-memory",
        State::Differs("memory is locked from its first use on, so that what is never used costs nothing"),
    ),
    opt('v', "verbose", State::Differs("-v logs information, -vv debugging; requests are never logged")),
    opt('h', "help", State::Same),
    opt('i', "license", State::Differs("Remora's own licences")),
    opt('V', "version", State::Differs("Remora's own number, and memcached's behind it")),
    opt('P', "pidfile", State::Differs("better: without -d, too, it is removed at the end")),
    opt('f', "slab-growth-factor", State::Idle(SLABS)),
    opt('n', "slab-min-size", State::Idle(SLABS)),
    opt('L', "enable-largepages", State::Idle("huge pages are always used where the host has them")),
    opt('D', "", State::Same),
    opt('t', "threads", State::Differs("one for each core by default, not 4")),
    opt('R', "max-reqs-per-event", State::Differs("256 by default, not 20")),
    opt('C', "disable-cas", State::Idle("every item has its number anyway, so gets and cas go on working")),
    opt('b', "listen-backlog", State::Same),
    opt(
        'B',
        "protocol",
        State::Differs(
            "with ascii, a client that opens in the binary protocol is disconnected at once; it is told of no ERROR",
        ),
    ),
    opt('I', "max-item-size", State::Same),
    opt(
        'S',
        "enable-sasl",
        State::Differs(
            "PLAIN alone, for the users of the file of MEMCACHED_SASL_PWDB or --sasl-pwdb, not of libsasl's configuration; the file is \
             read at the start and by SIGHUP, not at each attempt, has 1,024 users at most, and no other lines; a password goes to the \
             end of its line, and a user needs no @HOST behind the name",
        ),
    ),
    opt('F', "disable-flush-all", State::Same),
    opt('X', "disable-dumping", State::Same),
    opt('W', "disable-watch", State::Same),
    opt(
        'Y',
        "auth-file",
        State::Differs(
            "better: a file with a fault (a line without a colon, a line that is too long, more than 8 users) is told of by its line, and \
             changes nothing where it is read anew",
        ),
    ),
    opt(
        'e',
        "memory-file",
        State::Refused("the memory ends with the process; leave it out, and keep the cache warm with a replica"),
    ),
    opt('Z', "enable-ssl", State::Differs("by rustls, not OpenSSL: TLS 1.2 and 1.3")),
    opt('N', "napi-ids", State::Idle("the kernel spreads connections over the workers' own sockets")),
];

const fn opt(letter: char, long: &'static str, state: State) -> Opt {
    Opt { letter, long, state }
}

/// Refuse what is refused. Returns what was given and changes nothing.
pub fn judge(command: &clap::Command, given: &ArgMatches) -> anyhow::Result<Vec<String>> {
    let mut idle = Vec::new();
    for option in &OPTIONS {
        let argument = command.get_arguments().find(|argument| argument.get_short() == Some(option.letter));
        let Some(id) = argument.map(|argument| argument.get_id().as_str()) else { continue };
        if !matches!(given.value_source(id), Some(ValueSource::CommandLine)) {
            continue;
        }
        match option.state {
            State::Same | State::Differs(_) => {}
            State::Idle(_) => idle.push(format!("-{}", option.letter)),
            State::Refused(why) => bail!("-{} (--{}) is refused: {why}", option.letter, option.long),
        }
    }
    Ok(idle)
}

#[cfg(test)]
mod tests {
    use super::super::Args;
    use super::super::suboptions;
    use super::*;

    fn command() -> clap::Command {
        <Args as clap::Args>::augment_args(clap::Command::new("remora"))
    }

    fn judged(line: &str) -> anyhow::Result<Vec<String>> {
        let command = command();
        let given = command.clone().no_binary_name(true).get_matches_from(line.split_whitespace());
        judge(&command, &given)
    }

    #[test]
    fn memcacheds_letters_and_names_are_all_taken() {
        let mut command = command();
        command.build();
        for option in &OPTIONS {
            let argument = command.get_arguments().find(|argument| argument.get_short() == Some(option.letter));
            let argument = argument.unwrap_or_else(|| panic!("-{}", option.letter));
            let long = argument.get_long().expect("all have one here");
            assert!(
                option.long.is_empty() || long == option.long,
                "-{} is --{}, not --{long}",
                option.letter,
                option.long
            );
        }
        let short = command.get_arguments().filter(|argument| argument.get_short().is_some()).count();
        assert_eq!(short, OPTIONS.len() + 1, "these, and -o");
    }

    #[test]
    fn what_is_given_is_judged_by_the_table() {
        assert_eq!(judged("-p 0 -m 64 -U 0 -B auto -B binary").unwrap(), Vec::<String>::new());
        assert_eq!(judged("-C -f 1.25 -n 48 -L -N 1 -W").unwrap(), ["-f", "-n", "-L", "-C", "-N"]);
        let error = judged("-e /mnt/file").unwrap_err().to_string();
        assert!(error.starts_with("-e (--memory-file) is refused"), "{error}");
    }

    /// `| name | what becomes of it | why |`.
    fn row(name: &str, state: State) -> String {
        let (word, why) = match state {
            State::Same => ("same", String::new()),
            State::Differs(how) => match how.strip_prefix("better: ") {
                Some(how) => ("better", how.to_string()),
                None => ("differs", how.to_string()),
            },
            State::Idle(why) => ("without effect", why.to_string()),
            State::Refused(why) => ("refused", why.to_string()),
        };
        format!("| {name} | {word} | {why} |\n").replace("  |", " |")
    }

    #[test]
    fn the_page_shows_the_table() {
        let mut expected = String::from("| option | here | how, or why |\n| --- | --- | --- |\n");
        for option in &OPTIONS {
            let long = if option.long.is_empty() { String::new() } else { format!(", `--{}`", option.long) };
            expected += &row(&format!("`-{}`{long}", option.letter), option.state);
        }
        expected += &row("`-o`, `--extended`", State::Differs("its names are in the next table"));
        expected += "\n| behind `-o` | here | how, or why |\n| --- | --- | --- |\n";
        for suboption in &suboptions::SUBOPTIONS {
            expected += &row(&format!("`{}`", suboption.form()), suboption.state);
        }
        let page = include_str!("../../../docs/COMPATIBILITY.md");
        assert!(page.contains(&expected), "docs/COMPATIBILITY.md should have:\n{expected}");
    }
}
