//! The outcome of a run: the table on standard output, the files, and the verdict (whether anything
//! was wrong).

use super::Args;
use crate::commands::output::print;
use crate::load::drive::Outcome;
use crate::load::html::{Report, page};
use crate::load::report::grouped;
use crate::load::summary::Named;
use crate::load::{json, summary};
use crate::sys::logging;
use anyhow::{Context, ensure};
use jiff::{Timestamp, Unit};
use std::fs::OpenOptions;
use std::path::Path;

/// Fail now if a file that was asked for cannot be written, rather than after an hour's run.
pub fn check_files(args: &Args) -> anyhow::Result<()> {
    let files = [("--json", &args.json), ("--hdr", &args.hdr), ("--html", &args.html)];
    for (option, path) in files {
        if let Some(path) = path.as_deref().filter(|path| !is_standard_output(path)) {
            let opened = OpenOptions::new().append(true).create(true).open(path);
            opened.with_context(|| format!("cannot write {option} {}", path.display()))?;
        }
    }
    Ok(())
}

/// The summary, the files, and the verdict.
pub fn report(args: &Args, began: Timestamp, phases: &[(&str, Outcome)]) -> anyhow::Result<()> {
    let named: Vec<Named<'_>> = phases.iter().map(|(name, outcome)| (*name, outcome)).collect();
    let verdict = verdict(&named);
    let error = verdict.as_ref().err().map(|error| format!("{error:#}"));
    let table = summary::table(&named);
    let json = args.json.as_deref().map(|path| (path, json::json(&settings(args), &named, error.as_deref())));
    // If the table cannot be printed, the files are written and the verdict is given all the same.
    let printed = match json {
        Some((path, json)) if is_standard_output(path) => {
            logging::write(table.into_bytes());
            print(format_args!("{json}"))
        }
        Some((path, json)) => {
            write("--json", path, &json)?;
            print(format_args!("{table}"))
        }
        None => print(format_args!("{table}")),
    };
    if let (Some(path), Some((_, outcome))) = (&args.hdr, named.last()) {
        write("--hdr", path, &summary::percentile_log(&outcome.tally))?;
    }
    if let Some(path) = &args.html {
        write("--html", path, &html(args, began, &named, error.as_deref()))?;
    }
    verdict?;
    Ok(printed?)
}

fn is_standard_output(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn write(option: &str, path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {option} {}", path.display()))
}

/// An error with everything that went wrong: wrong answers as well as what ended the run.
fn verdict(phases: &[Named<'_>]) -> anyhow::Result<()> {
    let mut faults = Vec::new();
    for (name, Outcome { tally, error, .. }) in phases {
        let wrong = tally.first_wrong.as_ref();
        faults.extend(wrong.map(|first| format!("{name}: {} wrong answers; the first: {first}", tally.wrong)));
        faults.extend(error.as_ref().map(|error| format!("{name}: {error}")));
    }
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

fn html(args: &Args, began: Timestamp, phases: &[Named<'_>], error: Option<&str>) -> String {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| quoted(&word.to_string_lossy())).collect();
    let command = format!("remora {}", words.join(" "));
    let began = began.round(Unit::Second).unwrap_or(began).strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let praise = match phases.iter().map(|(_, outcome)| outcome.tally.hits).sum() {
        0 => "No errors.".to_string(),
        values if args.verify => format!("No errors. {} values came back, each as it was written.", grouped(values)),
        _ => "No errors. Values were not checked; --verify would.".to_string(),
    };
    // Only the phase "run" has a rate; "fill" goes as fast as it can.
    let asked_rate = args.rate.filter(|_| phases.last().is_some_and(|(name, _)| *name == "run"));
    let setup = setup(args);
    page(&Report { command: &command, began: &began, setup: &setup, phases, asked_rate, error, praise: &praise })
}

/// The word, quoted for a shell where it must be.
fn quoted(word: &str) -> String {
    let is_plain =
        !word.is_empty() && word.chars().all(|letter| letter.is_alphanumeric() || "-_./:,=@%+".contains(letter));
    if is_plain { word.to_string() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// The settings of the run, in words for a person.
fn setup(args: &Args) -> Vec<(&'static str, String)> {
    let order = args.rate.map_or("closed loop".to_string(), |rate| {
        format!("open loop: {} commands/s, {} arrivals", grouped(rate as u64), args.arrivals.name())
    });
    let keys = args.zipf.map_or("each equally often".to_string(), |exponent| format!("Zipf {exponent}"));
    vec![
        ("servers", args.server.join(", ")),
        ("protocol", args.protocol.name().to_string()),
        ("load", order),
        ("TLS", if args.tls_ca.is_some() { "yes" } else { "no" }.to_string()),
        ("connections", grouped(args.connections.into())),
        ("threads", args.threads.to_string()),
        ("commands under way per connection, at most", args.pipeline.to_string()),
        ("sets : gets", ratio(args)),
        ("keys per get", args.multi_get.to_string()),
        ("keys", format!("{}, {keys}", grouped(args.keys.into()))),
        ("bytes of a value", args.value_bytes.to_string()),
        ("expiry", if args.ttl == 0 { "never".to_string() } else { format!("{} s", args.ttl) }),
        ("values checked", if args.verify { "yes" } else { "no" }.to_string()),
        ("seed", args.seed.to_string()),
    ]
}

fn ratio(args: &Args) -> String {
    format!("{}:{}", args.ratio.0, args.ratio.1)
}

/// The settings of the run as the JSON has them.
#[derive(serde::Serialize)]
struct Settings<'a> {
    servers: &'a [String],
    connections: u32,
    threads: u32,
    pipeline: u32,
    rate: Option<f64>,
    arrivals: Option<&'static str>,
    ratio: String,
    keys: u32,
    zipf: Option<f64>,
    value_bytes: String,
    value_bytes_min: u32,
    value_bytes_max: u32,
    ttl: u32,
    multi_get: u32,
    protocol: &'static str,
    verify: bool,
    seed: u64,
}

fn settings(args: &Args) -> Settings<'_> {
    Settings {
        servers: &args.server,
        connections: args.connections,
        threads: args.threads,
        pipeline: args.pipeline,
        rate: args.rate,
        arrivals: args.rate.map(|_| args.arrivals.name()),
        ratio: ratio(args),
        keys: args.keys,
        zipf: args.zipf,
        value_bytes: args.value_bytes.to_string(),
        value_bytes_min: args.value_bytes.min(),
        value_bytes_max: args.value_bytes.max(),
        ttl: args.ttl,
        multi_get: args.multi_get,
        protocol: args.protocol.name(),
        verify: args.verify,
        seed: args.seed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_a_shell_takes_them() {
        for (word, expected) in
            [("--zipf", "--zipf"), ("unix:/run/a", "unix:/run/a"), ("a b", "'a b'"), ("it's", "'it'\\''s'"), ("", "''")]
        {
            assert_eq!(quoted(word), expected);
        }
    }
}
