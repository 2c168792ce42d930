//! `remora load` as its users meet it: against the real server, and against servers that die or
//! lie.

use crate::support::Server;
use crate::support::certificates::Authority;
use crate::support::peers::{liar, resp_server};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

/// A run and what it left.
struct Ended {
    code: Option<i32>,
    out: String,
    errors: String,
}

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.arg("load").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the remora binary starts")
}

/// Every wait of the load generator has a bound of its own, so it ends.
fn end(child: Child) -> Ended {
    let output = child.wait_with_output().expect("our own child");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ended { code: output.status.code(), out: text(output.stdout), errors: text(output.stderr) }
}

fn load(server: &str, arguments: &[&str]) -> Ended {
    end(start(&[&["-s", server], arguments].concat()))
}

impl Ended {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {}", self.out))
    }

    /// The numbers of one phase in the JSON on standard output.
    fn numbers(&self, phase: &str) -> BTreeMap<String, f64> {
        let json = self.json();
        let fields = json[phase].as_object().unwrap_or_else(|| panic!("{phase} in {json}"));
        fields.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect()
    }

    fn succeeded(&self) -> &Ended {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.errors);
        self
    }
}

fn adds_up(numbers: &BTreeMap<String, f64>) {
    assert_eq!(numbers["gets"] + numbers["sets"], numbers["requests"], "{numbers:?}");
    assert_eq!(numbers["hits"] + numbers["misses"], numbers["gets"], "{numbers:?}");
    assert_eq!(numbers["wrong"], 0.0, "{numbers:?}");
    assert!(numbers["latency_p50_us"] > 0.0 && numbers["latency_p50_us"] <= numbers["latency_max_us"], "{numbers:?}");
}

#[test]
fn values_are_checked_while_the_server_reclaims() {
    let server = Server::start(&["-m", "8", "-t", "2"]);
    let address = server.tcp[0].to_string();
    let arguments =
        "--verify --keys 20000 --value-bytes 16-1500 --zipf 0.9 -c 12 -t 2 -P 8 -n 60000 --ratio 1:3 --json -";
    let ended = load(&address, &arguments.split(' ').collect::<Vec<_>>());
    let (fill, run) = (ended.succeeded().numbers("fill"), ended.numbers("run"));
    assert_eq!((fill["sets"], fill["requests"]), (20_000.0, 20_000.0));
    adds_up(&run);
    assert_eq!((run["requests"], run["commands"]), (60_000.0, 60_000.0));
    assert!(run["hits"] > 0.0 && run["misses"] > 0.0 && run["sets"] > 10_000.0, "{run:?}");
    let evictions: u64 = server.stat("evictions").and_then(|text| text.parse().ok()).expect("a number");
    assert!(evictions > 0, "this was to go on while items are evicted");
}

#[test]
fn by_tls_values_are_checked_and_strangers_are_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.sign("server");
    let server = Server::start(&["-Z", "-o", &authority.options("server"), "-m", "64", "-t", "1", "-I", "2m"]);
    let address = server.tcp[0].to_string();
    let [known, unknown] = [&authority, &other].map(|authority| authority.path("ca.pem").display().to_string());
    let arguments = "--verify --keys 300 --value-bytes 16-1500:9,200000:1 -c 5 -t 2 -P 8 --multi-get 3 -n 3000 --ratio 1:3 --json -";
    let arguments: Vec<&str> = arguments.split(' ').chain(["--tls-ca", &known]).collect();
    let ended = load(&address, &arguments);
    let run = ended.succeeded().numbers("run");
    adds_up(&run);
    assert_eq!((run["commands"], run["misses"]), (3000.0, 0.0));
    assert!(ended.json()["run"]["tls"].as_str().is_some_and(|terms| terms.starts_with("TLSv1_3 ")));
    for (server, file, why) in [
        (address.as_str(), &unknown, "--tls-ca who signed"),
        (address.as_str(), &"/nonexistent".to_string(), "cannot read the authorities"),
        (Server::start(&["-t", "1"]).tcp[0].to_string().as_str(), &known, "does it speak TLS"),
    ] {
        let ended = load(server, &["-c", "1", "-n", "1", "--tls-ca", file]);
        assert!(ended.code == Some(1) && ended.errors.contains(why), "{why}: {}", ended.errors);
    }
}

#[test]
fn an_open_loop_asks_as_often_as_it_is_told() {
    let server = Server::start(&["-m", "16", "-t", "1"]);
    let address = server.tcp[0].to_string();
    let arguments = "--fill --keys 100 -c 3 -t 2 --rate 2000 --seconds 1 --multi-get 3 --json -";
    let ended = load(&address, &arguments.split(' ').collect::<Vec<_>>());
    let run = ended.succeeded().numbers("run");
    adds_up(&run);
    // Two threads, whose first arrivals lie at different places in an interval.
    let due = run["commands"] + run["unsent"];
    assert!((1998.0..=2002.0).contains(&due), "{run:?}");
    assert_eq!(ended.json()["settings"]["arrivals"], "even");
    assert_eq!((run["gets"] - 3.0 * (run["commands"] - run["sets"]), run["misses"]), (0.0, 0.0), "{run:?}");
}

#[test]
fn random_arrivals_and_weighted_lengths() {
    let server = Server::start(&["-m", "16", "-t", "1"]);
    let address = server.tcp[0].to_string();
    let arguments = "--verify --keys 200 -c 4 -t 2 --rate 4000 --arrivals poisson -n 2000 --ratio 1:0 \
                     --value-bytes 50:3,500-600:1 --json -";
    let ended = load(&address, &arguments.split_whitespace().collect::<Vec<_>>());
    let run = ended.succeeded().numbers("run");
    adds_up(&run);
    assert_eq!((run["commands"], run["unsent"]), (2000.0, 0.0));
    let mean_bytes = run["value_bytes_written"] / run["sets"];
    assert!((160.0..=200.0).contains(&mean_bytes), "175 on average: {mean_bytes}");
    let settings = &ended.json()["settings"];
    assert_eq!((&settings["arrivals"], &settings["value_bytes"]), (&"poisson".into(), &"50:3,500-600:1".into()));
    let again = load(&address, &arguments.split_whitespace().collect::<Vec<_>>()).numbers("run");
    assert_eq!(again["value_bytes_written"], run["value_bytes_written"], "the same seed, the same values");
}

#[test]
fn meta_commands_over_a_unix_socket_and_the_files_it_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (socket, json, hdr) = (folder.path().join("s"), folder.path().join("json"), folder.path().join("hdr"));
    let path = |path: &std::path::Path| path.to_str().expect("text").to_string();
    let _server = Server::start_listening(&["-m", "16", "-t", "1", "-s", &path(&socket)], 1);
    let arguments = "--verify --protocol meta --keys 500 -c 4 -P 4 -n 5000 --ttl 600 --multi-get 2 --json";
    let mut arguments: Vec<&str> = arguments.split(' ').collect();
    let (json_path, hdr_path) = (path(&json), path(&hdr));
    arguments.extend([json_path.as_str(), "--hdr", &hdr_path]);
    let ended = load(&format!("unix:{}", path(&socket)), &arguments);
    assert!(ended.succeeded().out.contains("p99.9 ms"), "the table goes to standard output: {}", ended.out);
    let json = Ended { out: std::fs::read_to_string(json).expect("the JSON"), ..ended };
    let run = json.numbers("run");
    adds_up(&run);
    assert_eq!((run["commands"], run["misses"]), (5000.0, 0.0));
    let hdr = std::fs::read_to_string(hdr).expect("the percentile log");
    assert!(hdr.contains("1/(1-Percentile)") && hdr.contains("Total count    =         5000]"), "{hdr}");
}

#[test]
fn resp_values_are_written_read_and_checked() {
    let address = resp_server(false).to_string();
    let arguments = "--protocol resp --verify --keys 300 -c 3 -t 2 -P 5 -n 4000 --multi-get 3 --ttl 600 --json -";
    let ended = load(&address, &arguments.split(' ').collect::<Vec<_>>());
    let run = ended.succeeded().numbers("run");
    adds_up(&run);
    assert_eq!((run["commands"], run["misses"]), (4000.0, 0.0));
    assert_eq!(run["gets"], 3.0 * (run["commands"] - run["sets"]));

    let unfilled = "--protocol resp --keys 400000 -c 1 -n 1000 --json -";
    let ended = load(&address, &unfilled.split(' ').collect::<Vec<_>>());
    let run = ended.succeeded().numbers("run");
    adds_up(&run);
    assert!(run["misses"] > 0.0, "most keys were never written: {run:?}");

    let lies = resp_server(true).to_string();
    let ended = load(&lies, &arguments.split(' ').collect::<Vec<_>>());
    assert_eq!(ended.code, Some(1), "a byte of every value is wrong");
    assert!(ended.errors.contains("wrong answers; the first: get load:"), "{}", ended.errors);
}

/// Ends with the test.
struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn interop_redis_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("socket").to_str().expect("text").to_string();
    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--save", "", "--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru"]);
    command.args(["--unixsocket", &socket]).current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::piped());
    let Ok(child) = command.spawn() else {
        assert!(std::env::var_os("CI").is_none(), "in CI redis-server must be there: apt-get install redis-server");
        println!("skipped: there is no redis-server (apt-get install redis-server)");
        return;
    };
    let mut server = Redis(child);
    let mut said = BufReader::new(server.0.stdout.take().expect("stdout is piped")).lines().map_while(Result::ok);
    assert!(said.any(|line| line.to_lowercase().contains("ready to accept connections")), "it ended");
    let arguments =
        "--protocol resp --verify --keys 20000 --value-bytes 16-1500 --zipf 0.9 -c 8 -P 8 -n 40000 --ttl 600 --json -";
    for further in [&[][..], &["--multi-get", "4"]] {
        let ended = load(&format!("unix:{socket}"), &[&arguments.split(' ').collect::<Vec<_>>()[..], further].concat());
        let run = ended.succeeded().numbers("run");
        adds_up(&run);
        assert!(run["hits"] > 0.0 && run["misses"] > 0.0, "more was written than fits: {run:?}");
    }
}

#[test]
fn several_servers_share_the_keys() {
    let servers = [Server::start(&["-m", "16", "-t", "1"]), Server::start(&["-m", "16", "-t", "1"])];
    let second = servers[1].tcp[0].to_string();
    let arguments = ["-s", &second, "--verify", "--keys", "1000", "-c", "5", "-n", "3000", "--json", "-"];
    let ended = load(&servers[0].tcp[0].to_string(), &arguments);
    let run = ended.succeeded().numbers("run");
    adds_up(&run);
    assert_eq!(run["misses"], 0.0, "every key is asked for where it was filled");
    let items = servers.each_ref().map(|server| server.stat("curr_items").and_then(|text| text.parse::<u32>().ok()));
    assert_eq!(items[0].zip(items[1]).map(|(first, second)| first + second), Some(1000), "{items:?}");
    assert!(items.iter().all(|items| items.is_some_and(|items| items > 300)), "{items:?}");
}

#[test]
fn a_server_that_dies_is_named_and_counts_are_still_told() {
    let server = Server::start(&["-m", "16", "-t", "1"]);
    let address = server.tcp[0].to_string();
    let mut child = start(&["-s", &address, "--seconds", "600", "-c", "4", "--json", "-"]);
    // The first line of progress: it is under way.
    let mut stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
    let mut line = String::new();
    stderr.read_line(&mut line).expect("progress");
    assert!(line.starts_with("run") && line.contains("/s "), "{line}");
    server.signal("KILL");
    let mut errors = String::new();
    stderr.read_to_string(&mut errors).expect("text");
    let ended = end(child);
    assert_eq!(ended.code, Some(1), "{errors}");
    assert!(errors.contains(&format!("to {address}: the server closed the connection")), "{errors}");
    assert!(ended.numbers("run")["requests"] > 0.0);
    assert!(ended.json()["error"].as_str().is_some_and(|error| error.starts_with("run: connection ")));
}

#[test]
fn an_interrupt_ends_it_with_the_summary() {
    let server = Server::start(&["-m", "16", "-t", "1"]);
    let mut child = start(&["-s", &server.tcp[0].to_string(), "--seconds", "600", "-c", "2"]);
    let mut stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
    stderr.read_line(&mut String::new()).expect("progress");
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(status.expect("kill(1) runs").success());
    let ended = end(child);
    assert_eq!(ended.code, Some(0));
    assert!(ended.out.contains("p99.9 ms") && ended.out.lines().any(|line| line.starts_with("run ")), "{}", ended.out);
}

#[test]
fn wrong_bytes_end_with_status_1_if_and_only_if_looked_at() {
    let address = liar().to_string();
    let arguments = ["-c", "1", "-n", "200", "--keys", "20", "--value-bytes", "16", "--json", "-"];
    let ended = load(&address, &[&arguments[..], &["--verify"]].concat());
    let run = ended.numbers("run");
    assert_eq!(ended.code, Some(1), "{}", ended.errors);
    assert!(run["wrong"] > 0.0 && run["wrong"] == run["gets"], "{run:?}");
    let words = ["wrong answers; the first: get load:00000000", &format!("on connection 0 to {address}")];
    assert!(words.iter().all(|word| ended.errors.contains(word)), "{}", ended.errors);
    load(&address, &arguments).succeeded();
}

#[test]
fn what_is_no_answer_ends_with_status_1_and_the_words() {
    let ended = load(&liar().to_string(), &["-c", "1", "-n", "10", "--protocol", "meta"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.errors.contains("the server said \"ERROR\""), "{}", ended.errors);
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let ended = load(&nobody.to_string(), &["-n", "10"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.errors.contains(&format!("cannot connect to {nobody}")), "{}", ended.errors);
}

#[test]
fn what_cannot_work_is_refused_with_a_remedy() {
    for (arguments, remedy) in [
        (&["--verify", "--value-bytes", "8"][..], "16 at least"),
        (&["-c", "2", "-t", "3"], "a thread needs one"),
        (&["-c", "1", "-s", "127.0.0.1:2"], "as many --connections"),
        (&["--ratio", "0:0"], "for example 1:9"),
        (&["--value-bytes", "9-3"], "write 100, 16-1000 or 100:70,1000:30"),
        (&["--arrivals", "poisson"], "--rate"),
        (&["--zipf", "0"], "for example 0.99"),
        (&["--rate", "nan"], "for example 50000"),
        (&["--seconds", "1", "-n", "1"], "cannot be used with"),
    ] {
        let ended = load("127.0.0.1:1", arguments);
        assert!(
            ended.code.is_some_and(|code| code != 0) && ended.errors.contains(remedy),
            "{remedy}: {}",
            ended.errors
        );
    }
}
