//! The page that `remora load --html` writes, as a browser shows it: a real run against a real
//! server, opened in headless Chromium, wide and narrow, light and dark. Skipped without Chromium,
//! except in CI.

use crate::support::Server;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// No program of this test runs longer; `timeout` ends it.
const PROGRAM_SECONDS_MAX: &str = "60";

fn run(program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", PROGRAM_SECONDS_MAX, program]).args(arguments).stdin(Stdio::null());
    command.output().expect("timeout(1) is part of coreutils")
}

/// The name of the browser, if there is one.
fn chromium() -> Option<&'static str> {
    let is_there = |name: &&str| run("which", &[name]).status.success();
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(is_there);
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "in CI chromium must be there: apt-get install chromium");
        println!("skipped: there is no chromium (apt-get install chromium)");
    }
    found
}

/// A run of a few seconds; where its page and its figures are.
fn measured(folder: &Path, further: &[&str]) -> (PathBuf, Value) {
    let server = Server::start(&["-m", "16", "-t", "1"]);
    let (page, json) = (folder.join("page.html"), folder.join("run.json"));
    let (address, page_path) = (server.tcp[0].to_string(), page.to_str().expect("text"));
    let json_path = json.to_str().expect("text");
    let arguments = ["load", "-s", &address, "--fill", "--keys", "2000", "--json", json_path, "--html", page_path];
    let output = run(env!("CARGO_BIN_EXE_remora"), &[&arguments[..], further].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json = std::fs::read_to_string(json).expect("the JSON");
    (page, serde_json::from_str(&json).expect("JSON"))
}

/// What the browser made of the page at each width (tests/processes/report/probe.html), and what it
/// had to say on its console.
fn rendered(browser: &str, page: &Path, widths: [u32; 2], is_dark: bool) -> (Vec<Value>, Vec<String>) {
    let folder = page.parent().expect("a file lies in a folder");
    let page = std::fs::read_to_string(page).expect("the page");
    // An end tag within the quoted page would end the script.
    let quoted = serde_json::to_string(&page).expect("a string").replace("</", "<\\/");
    let probe = include_str!("report/probe.html").replace("= WIDTHS", &format!("= {widths:?}"));
    let probe_path = folder.join("probe.html");
    std::fs::write(&probe_path, probe.replace("= REPORT", &format!("= {quoted}"))).expect("a written file");
    let profile = format!("--user-data-dir={}", folder.join("profile").display());
    let url = format!("file://{}", probe_path.display());
    let mut arguments = vec![
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--dump-dom",
    ];
    arguments.extend(["--window-size=1400,1000", profile.as_str(), if is_dark { "--force-dark-mode" } else { "" }]);
    arguments.retain(|argument| !argument.is_empty());
    arguments.push(&url);
    let output = run(browser, &arguments);
    let (dom, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let found = dom.split_once("<pre id=\"found\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let Some((found, _)) = found else { panic!("the browser wrote nothing:\n{dom:.2000}\n{said:.4000}") };
    let found = found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let console = said.lines().filter(|line| line.contains("CONSOLE")).map(str::to_string).collect();
    (serde_json::from_str(&found).expect("JSON"), console)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// What must hold for every page, at every width.
fn is_well_laid_out(page: &Value, width: u32) {
    assert_eq!(page["width"], width);
    assert_eq!(page["scroll_width"], width, "nothing stands out to the right");
    assert!(number(&page["font_pixels_min"]) >= 11.0, "{page}");
    let nothing = Value::Array(Vec::new());
    assert_eq!((&page["cut"], &page["requests"]), (&nothing, &nothing));
    let charts = page["charts"].as_array().expect("charts");
    assert_eq!(charts.len(), 3);
    for chart in charts {
        assert_eq!((&chart["touching"], &chart["outside"]), (&nothing, &nothing), "{chart}");
        assert!(number(&chart["plot_pixels"][0]) >= 0.6 * f64::from(width), "{chart}");
        assert!(chart["labels"].as_array().is_some_and(|labels| labels.len() >= 6), "{chart}");
        for line in chart["lines"].as_array().expect("lines") {
            assert_eq!(line["is_inside"], true, "{chart}");
            let stroke = line["stroke"].as_str().expect("a colour");
            assert!(stroke.starts_with("rgb") && *stroke != page["panel"], "{line} on {}", page["panel"]);
        }
    }
}

/// The lines of a chart: their names, and how many points they have.
fn lines(chart: &Value) -> Vec<(&str, u64)> {
    let lines = chart["lines"].as_array().expect("lines");
    lines
        .iter()
        .map(|line| (line["name"].as_str().expect("a name"), line["points"].as_u64().expect("a number")))
        .collect()
}

#[test]
fn the_page_is_as_readable_in_a_browser_as_it_was_meant() {
    let Some(browser) = chromium() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (page, json) = measured(folder.path(), &["--seconds", "3", "-c", "4", "--zipf", "0.9"]);
    let all = json["run"]["intervals"].as_array().expect("intervals");
    let intervals = all.len() as u64;
    // The last one may be so short that nothing is answered in it: it has no latency to show.
    let answered = all.iter().filter(|interval| number(&interval["p50_us"]) > 0.0).count() as u64;
    assert!((2..=4).contains(&intervals), "{intervals} intervals in three seconds");
    for is_dark in [false, true] {
        let widths = [1000, 400];
        let (pages, console) = rendered(browser, &page, widths, is_dark);
        assert_eq!(console, Vec::<String>::new(), "an error, or a request that the page forbids itself");
        for (page, width) in pages.iter().zip(widths) {
            is_well_laid_out(page, width);
            assert_eq!(page["is_dark"], is_dark);
            let (behind, before) = (number(&page["page_luminance"]), number(&page["text_luminance"]));
            assert!(if is_dark { before > 0.6 && behind < 0.1 } else { before < 0.1 && behind > 0.6 }, "{page}");
            assert!(page["command"].as_str().is_some_and(|command| command.starts_with("remora load -s 127.0.0.1:")));
            let [rate, latency, curve] = &page["charts"].as_array().expect("charts")[..] else { panic!("{page}") };
            assert_eq!(lines(rate), [("rate", intervals)]);
            assert_eq!(lines(latency), [("p99", answered), ("p50", answered)]);
            assert_eq!((&rate["columns"], &latency["columns"]), (&intervals.into(), &intervals.into()));
            let [("curve", points)] = lines(curve)[..] else { panic!("{curve}") };
            assert!(points > 20, "{points} points of the curve");
            let curve_pixels = &curve["lines"][0]["pixels"];
            assert_eq!(curve_pixels[0], curve["plot_pixels"][0], "from 0% to the last command");
            assert!(number(&curve_pixels[1]) > 20.0, "the slowest is slower than the fastest: {curve}");
            for label in ["0%", "90%", "99%", "99.9%"] {
                assert!(curve["labels"].as_array().is_some_and(|labels| labels.contains(&label.into())), "{curve}");
            }
        }
    }
}

#[test]
fn an_open_loop_shows_the_rate_that_was_asked_for() {
    let Some(browser) = chromium() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (page, _) =
        measured(folder.path(), &["--rate", "500", "--arrivals", "poisson", "-n", "400", "--multi-get", "2"]);
    let (pages, console) = rendered(browser, &page, [700, 400], true);
    assert_eq!(console, Vec::<String>::new());
    for (page, width) in pages.iter().zip([700, 400]) {
        is_well_laid_out(page, width);
        let rate = lines(&page["charts"][0]);
        assert_eq!((rate[0], rate[1].0), (("asked", 2), "rate"));
    }
}
