//! Who wins, what is refused, and that what is printed can be read.

use super::*;
use proptest::prelude::*;

fn folder_with(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("remora.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn read(line: &str, variables: &[(&str, &str)], path: Option<&Path>) -> anyhow::Result<Config> {
    let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    let variable =
        |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| OsString::from(value));
    Config::read(&words, &variable, path)
}

fn value(config: &Config, name: &str) -> String {
    config.values().remove(name).unwrap_or_default().join(" ")
}

#[test]
fn the_command_line_wins_over_a_variable_and_that_over_the_file() {
    let (_folder, path) = folder_with("port = 1\nconn-limit = 2\nthreads = 3\nlisten = [\"a\", \"b\"]\nverbose = 2\n");
    let variables = [("REMORA_PORT", "4"), ("REMORA_CONN_LIMIT", "5"), ("REMORA_VERBOSE", "1")];
    let config = read("-p 6 -l c", &variables, Some(&path)).unwrap();
    let values = ["port", "conn-limit", "threads", "listen", "verbose"].map(|name| value(&config, name));
    assert_eq!(values, ["6", "5", "3", "c", "1"]);
    let toml = config.to_toml();
    for line in [
        "port = 6 # command line\n".to_string(),
        "conn-limit = 5 # variable REMORA_CONN_LIMIT\n".to_string(),
        format!("threads = 3 # {}:3\n", path.display()),
        "listen = [\"c\"] # command line\n".to_string(),
        "unix-mask = \"0700\" # default\n".to_string(),
        "daemon = false # default\n".to_string(),
        "# pidfile is not set\n".to_string(),
    ] {
        assert!(toml.contains(&line), "{line} in {toml}");
    }
    let named = read("", &[("REMORA_CONFIG", path.to_str().unwrap())], None).unwrap();
    assert_eq!((value(&named, "port"), named.path), ("1".to_string(), Some(path)));
}

#[test]
fn flags_can_be_switched() {
    let (_folder, path) = folder_with("daemon = true\nlock-memory = false\n");
    let config = read("", &[("REMORA_DISABLE_EVICTIONS", "yes"), ("REMORA_DAEMON", "no")], Some(&path)).unwrap();
    let values = ["daemon", "lock-memory", "disable-evictions"].map(|name| value(&config, name));
    assert_eq!(values, ["false", "false", "true"]);
}

#[test]
fn a_variable_that_nobody_meant_for_the_server_says_nothing() {
    let variables = [("REMORA_PORT", "tcp://10.0.0.1:11211"), ("REMORA_USER", ""), ("REMORA_VERBOSE", "")];
    let config = read("", &variables, None).unwrap();
    assert_eq!(["port", "user", "verbose"].map(|name| value(&config, name)), ["", "", "0"]);
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (text, words) in [
        ("port = 1\nmemory-limmit = 2\n", ":2: there is no option memory-limmit; the nearest is memory-limit"),
        ("port = 1\n\nconn-limit = 0\n", ":3: invalid value '0'"),
        ("daemon = 7\n", ":1: daemon is true or false"),
        ("port = [1, 2]\n", ":1: port has one value, not 2"),
        ("config = \"x\"\n", ":1: there is no option config"),
        ("port 1\n", ":1: this is no TOML"),
    ] {
        let (_folder, path) = folder_with(text);
        let error = format!("{:#}", read("", &[], Some(&path)).unwrap_err());
        assert!(error.contains(words), "{text}: {error}");
    }
    let error = format!("{:#}", read("", &[("REMORA_PORT", "x")], None).unwrap_err());
    assert!(error.starts_with("variable REMORA_PORT: invalid value 'x'"), "{error}");
    assert!(read("--config /no/such/file", &[], None).unwrap_err().to_string().contains("/no/such/file"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// What is printed is a file that says the same.
    #[test]
    fn what_is_printed_can_be_read(
        port in -1..65536i32, mask in 0..0o777u32, verbose in 0..4usize, daemon in prop::bool::ANY,
        user in ".{1,12}", listen in proptest::collection::vec("[^,]{1,12}", 0..3),
    ) {
        let mut words: Vec<OsString> =
            [format!("-p{port}"), format!("-a{mask:04o}"), format!("--user={user}")].map(OsString::from).into();
        words.extend(listen.iter().map(|address| OsString::from(format!("--listen={address}"))));
        words.extend(vec![OsString::from("-v"); verbose]);
        words.extend(daemon.then(|| OsString::from("-d")));
        let config = Config::read(&words, &|_| None, None).unwrap();
        let (_folder, path) = folder_with(&config.to_toml());
        let again = Config::read(&[], &|_| None, Some(&path)).unwrap();
        prop_assert_eq!(again.values(), config.values());
    }
}
