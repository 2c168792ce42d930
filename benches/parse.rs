//! The parser alone: nanoseconds and bytes a second per request, from bytes in memory to a request.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use remora::base::limits::KEY_BYTES_MAX;
use remora::protocol::request::NextKey;
use remora::protocol::{ParseLimits, Parsed, Request, parse};
use std::hint::black_box;

const LIMITS: ParseLimits = ParseLimits { value_bytes_max: 1 << 20 };

/// Parse, and walk the keys of a get as the engine would: its keys are checked nowhere else.
fn parse_whole(input: &[u8]) -> usize {
    let mut scratch = [0; KEY_BYTES_MAX];
    match parse(black_box(input), LIMITS, &mut scratch) {
        Parsed::Request(Request::Get(get), taken) => {
            let mut offset = 0;
            while let NextKey::Key(key, next) = get.keys.next(offset) {
                black_box(key);
                offset = next;
            }
            taken
        }
        Parsed::Request(request, taken) => {
            black_box(request);
            taken
        }
        other => panic!("a benchmark's request was not taken: {other:?}"),
    }
}

fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let keys: Vec<String> = (0..50).map(|number| format!("key:{number:016}")).collect();
    let value = "v".repeat(100);
    vec![
        ("get", b"get key:0000000000000001\r\n".to_vec()),
        ("multi-get of 50", format!("get {}\r\n", keys.join(" ")).into_bytes()),
        ("set of 100 bytes", format!("set {} 0 3600 100\r\n{value}\r\n", keys[0]).into_bytes()),
        ("delete noreply", b"delete key:0000000000000001 noreply\r\n".to_vec()),
        ("mg with flags", format!("mg {} s v t f c Oabcdef k q\r\n", keys[0]).into_bytes()),
        ("mg of a base64 key", b"mg a2V5OjAwMDAwMDAwMDAwMDAwMDE= b v\r\n".to_vec()),
        ("ms of 100 bytes", format!("ms {} 100 T3600 F1 c\r\n{value}\r\n", keys[0]).into_bytes()),
    ]
}

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for (name, request) in requests() {
        group.throughput(Throughput::Bytes(request.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(|| parse_whole(&request)));
    }
    group.finish();
}

criterion_group!(benches, parsing);
criterion_main!(benches);
