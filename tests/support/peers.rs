//! Servers that exist for the tests of `remora load`. Their threads end with the test's process.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Acknowledge what is set, and answer every get with the same value of 16 bytes. Ends when nobody
/// connects any more: with the test's process.
pub fn liar() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let serve = move || {
        for stream in listener.incoming().map_while(Result::ok) {
            stream.set_nodelay(true).expect("a TCP socket");
            let mut lines = BufReader::new(stream.try_clone().expect("a second handle"));
            let (mut stream, mut line) = (stream, Vec::new());
            while lines.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                let text = String::from_utf8_lossy(&line).into_owned();
                line.clear();
                let words: Vec<&str> = text.split_whitespace().collect();
                let answer = match words[..] {
                    ["get", key] => format!("VALUE {key} 0 16\r\nsixteen letters!\r\nEND\r\n"),
                    ["set", _, _, _, bytes] => {
                        let bytes: usize = bytes.parse().expect("a length");
                        lines.read_exact(&mut vec![0; bytes + 2]).expect("the value");
                        "STORED\r\n".into()
                    }
                    _ => "ERROR\r\n".into(),
                };
                if stream.write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
        }
    };
    std::thread::Builder::new().name("liar".into()).spawn(serve).expect("a thread");
    address
}

type Items = Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>>;

/// GET, MGET and SET as in Redis; nothing expires. `lies`: the first byte of each value comes back
/// changed.
pub fn resp_server(lies: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let items = Items::default();
    let serve = move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // As real servers do. Without it each answer but the first waits for the client to
            // acknowledge the one before.
            stream.set_nodelay(true).expect("a TCP socket");
            let items = Arc::clone(&items);
            let serve = move || while_asked(&stream, &items, lies);
            std::thread::Builder::new().name("resp".into()).spawn(serve).expect("a thread");
        }
    };
    std::thread::Builder::new().name("resp-listener".into()).spawn(serve).expect("a thread");
    address
}

fn while_asked(mut stream: &TcpStream, items: &Items, lies: bool) {
    let mut input = BufReader::new(stream);
    while let Some(words) = command(&mut input) {
        let mut answer = Vec::new();
        let mut items = items.lock().expect("no thread has panicked");
        match &words.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] {
            [b"SET", key, value] | [b"SET", key, value, b"EX", _] => {
                items.insert(key.to_vec(), value.to_vec());
                answer.extend_from_slice(b"+OK\r\n");
            }
            [b"GET", key] => string(items.get(*key), lies, &mut answer),
            [b"MGET", keys @ ..] => {
                answer.extend_from_slice(format!("*{}\r\n", keys.len()).as_bytes());
                keys.iter().for_each(|key| string(items.get(*key), lies, &mut answer));
            }
            _ => answer.extend_from_slice(b"-ERR unknown command\r\n"),
        }
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

fn string(value: Option<&Vec<u8>>, lies: bool, answer: &mut Vec<u8>) {
    let Some(value) = value else { return answer.extend_from_slice(b"$-1\r\n") };
    answer.extend_from_slice(format!("${}\r\n", value.len()).as_bytes());
    let begin = answer.len();
    answer.extend_from_slice(value);
    answer[begin] ^= u8::from(lies);
    answer.extend_from_slice(b"\r\n");
}

/// An array of strings; None at the end of the connection.
fn command(input: &mut impl BufRead) -> Option<Vec<Vec<u8>>> {
    let count = number(input, '*')?;
    let word = |_| {
        let mut word = vec![0; number(input, '$')? + 2];
        input.read_exact(&mut word).ok()?;
        assert_eq!(word.split_off(word.len() - 2), b"\r\n");
        Some(word)
    };
    (0..count).map(word).collect()
}

fn number(input: &mut impl BufRead, mark: char) -> Option<usize> {
    let mut line = String::new();
    input.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
    let number = line.strip_prefix(mark).and_then(|rest| rest.strip_suffix("\r\n")?.parse().ok());
    Some(number.unwrap_or_else(|| panic!("{line:?} is not {mark} and a number")))
}
