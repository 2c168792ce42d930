//! The configuration: of each option what the command line says, else the variable `REMORA_` with
//! its name, else the file of `--config`, else what is usual.
//!
//! What a variable or the file says is turned into words of a command line and put before the
//! words that were given. So there is one reader of values, and one kind of error.

use super::command;
use super::file::{self, Entry};
use anyhow::{Context, bail, ensure};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Options that a file cannot set: those that name it or print something.
const COMMAND_LINE_ONLY: [&str; 5] = ["config", "print-config", "help", "version", "license"];

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody has said anything.
    Default,
    /// The command line.
    CommandLine,
    /// This variable.
    Variable(String),
    /// This line of this file.
    File(PathBuf, usize),
}

impl fmt::Display for Source {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => to.write_str("default"),
            Source::CommandLine => to.write_str("command line"),
            Source::Variable(name) => write!(to, "variable {name}"),
            Source::File(path, line) => write!(to, "{}:{line}", path.display()),
        }
    }
}

/// What a variable or the file says of one option.
struct Said {
    words: Vec<OsString>,
    source: Source,
}

/// What all of them say.
#[derive(Debug)]
pub struct Config {
    /// The options, whoever set them.
    pub matches: ArgMatches,
    /// The file, if there is one; absolute, so that a daemon finds it again.
    pub path: Option<PathBuf>,
    /// Of each option by its long name that somebody has set: who.
    sources: BTreeMap<String, Source>,
}

/// Values of options by their long names; none where an option is not set.
pub type Values = BTreeMap<String, Vec<String>>;

impl Config {
    /// Read all of them. `words` are those behind `serve`, `variable` has the environment. `path`:
    /// the file, where it is known already.
    pub fn read(
        words: &[OsString],
        variable: &dyn Fn(&str) -> Option<OsString>,
        path: Option<&Path>,
    ) -> anyhow::Result<Config> {
        let command = command();
        let given = command.clone().try_get_matches_from(words)?;
        let named = given.get_one::<PathBuf>("config").cloned().or_else(|| set_in(variable, "config").map(Into::into));
        let path = match path.map(Path::to_path_buf).or(named) {
            Some(path) => Some(std::path::absolute(&path).with_context(|| format!("--config {}", path.display()))?),
            None => None,
        };
        let mut entries = path.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let (mut all, mut sources) = (Vec::new(), BTreeMap::new());
        for (option, name) in settable(&command) {
            let from_file = entries.iter().position(|entry| entry.name == name).map(|at| entries.swap_remove(at));
            let said = if given.value_source(option.get_id().as_str()) == Some(ValueSource::CommandLine) {
                Said { words: Vec::new(), source: Source::CommandLine }
            } else if let Some(value) = set_in(variable, name) {
                said(option, name, &[value], Source::Variable(variable_of(name)))?
            } else if let (Some(Entry { values, line, .. }), Some(path)) = (from_file, &path) {
                let values: Vec<OsString> = values.into_iter().map(OsString::from).collect();
                said(option, name, &values, Source::File(path.clone(), line))?
            } else {
                continue;
            };
            all.extend(said.words);
            sources.insert(name.to_string(), said.source);
        }
        if let (Some(Entry { name, line, .. }), Some(path)) = (entries.first(), &path) {
            bail!("{}:{line}: there is no option {name}; the nearest is {}", path.display(), nearest(&command, name));
        }
        all.extend_from_slice(words);
        Ok(Config { matches: command.try_get_matches_from(all)?, path, sources })
    }

    /// Who has set an option: the greater wins where two options say the same thing.
    pub fn rank(&self, name: &str) -> u8 {
        match self.sources.get(name).unwrap_or(&Source::Default) {
            Source::Default => 0,
            Source::File(..) => 1,
            Source::Variable(_) => 2,
            Source::CommandLine => 3,
        }
    }

    /// What it is in all, as a file of `--config`, with where each value comes from.
    pub fn to_toml(&self) -> String {
        let values = self.values();
        let command = command();
        let lines = settable(&command).map(|(option, name)| {
            let Some(values) = values.get(name) else { return format!("# {name} is not set\n") };
            let texts: Vec<String> = match option.get_action() {
                ArgAction::SetTrue => values.clone(),
                _ => values.iter().map(|value| file::written(value)).collect(),
            };
            let source = self.sources.get(name).unwrap_or(&Source::Default);
            match option.get_action() {
                ArgAction::Append => format!("{name} = [{}] # {source}\n", texts.join(", ")),
                _ => format!("{name} = {} # {source}\n", texts.concat()),
            }
        });
        lines.collect()
    }

    /// The values of all options that have one.
    pub fn values(&self) -> Values {
        let command = command();
        let values = settable(&command).filter_map(|(option, name)| {
            let id = option.get_id().as_str();
            let values = match option.get_action() {
                ArgAction::SetTrue => vec![self.matches.get_flag(id).to_string()],
                ArgAction::Count => vec![self.matches.get_count(id).to_string()],
                _ => self.matches.get_raw(id)?.map(|value| value.to_string_lossy().into_owned()).collect(),
            };
            Some((name.to_string(), values))
        });
        values.collect()
    }
}

/// The options that a variable or a file may set, with their names.
fn settable(command: &clap::Command) -> impl Iterator<Item = (&Arg, &str)> {
    let named = command.get_arguments().filter_map(|option| Some((option, option.get_long()?)));
    named.filter(|(_, name)| !COMMAND_LINE_ONLY.contains(name))
}

fn nearest<'c>(command: &'c clap::Command, name: &str) -> &'c str {
    let distance = |other: &&str| strsim::damerau_levenshtein(name, other);
    settable(command).map(|(_, name)| name).min_by_key(distance).expect("there are some")
}

/// What the variable of an option says. An empty one says nothing. Nor does one that an
/// orchestrator has made: where a service is called remora, Kubernetes and docker set REMORA_PORT
/// to its URL.
fn set_in(variable: &dyn Fn(&str) -> Option<OsString>, name: &str) -> Option<OsString> {
    let is_url = |value: &OsString| ["tcp://", "udp://"].iter().any(|url| value.to_string_lossy().starts_with(url));
    variable(&variable_of(name)).filter(|value| !value.is_empty() && !is_url(value))
}

fn variable_of(name: &str) -> String {
    format!("REMORA_{}", name.to_uppercase().replace('-', "_"))
}

fn read_file(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("--config {}", path.display()))?;
    file::read(&text).map_err(|wrong| anyhow::anyhow!("{}:{}: {}", path.display(), wrong.line, wrong.why))
}

/// Turn values into words of a command line, and see that they can be read.
fn said(option: &Arg, name: &str, values: &[OsString], source: Source) -> anyhow::Result<Said> {
    let words = words(option, name, values).with_context(|| source.to_string())?;
    match command().try_get_matches_from(&words) {
        Ok(_) => Ok(Said { words, source }),
        Err(error) => bail!("{source}: {}", in_short(&error)),
    }
}

fn words(option: &Arg, name: &str, values: &[OsString]) -> anyhow::Result<Vec<OsString>> {
    let is_list = matches!(option.get_action(), ArgAction::Append);
    ensure!(is_list || values.len() == 1, "{name} has one value, not {}", values.len());
    let times = match option.get_action() {
        ArgAction::SetTrue => usize::from(yes_or_no(name, &values[0])?),
        ArgAction::Count => {
            let count: Option<u8> = values[0].to_str().and_then(|text| text.parse().ok());
            count.with_context(|| format!("{name} is a number, for example 1"))?.into()
        }
        _ => {
            let word = |value: &OsString| {
                let mut word = OsString::from(format!("--{name}="));
                word.push(value);
                word
            };
            return Ok(values.iter().map(word).collect());
        }
    };
    Ok(vec![format!("--{name}").into(); times])
}

fn yes_or_no(name: &str, value: &OsString) -> anyhow::Result<bool> {
    match value.to_str() {
        Some("true" | "yes" | "1") => Ok(true),
        Some("false" | "no" | "0" | "") => Ok(false),
        _ => bail!("{name} is true or false"),
    }
}

/// The first sentence of what clap says.
fn in_short(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    first.strip_prefix("error: ").unwrap_or(first).to_string()
}

#[cfg(test)]
mod tests;
