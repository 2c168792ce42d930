//! Any bytes, as a peer may send them to a locator or to a server of a cluster: no message, or one
//! that means the same when it is written again; and any text as a map.
#![no_main]

use remora::cluster::map::Map;
use remora::cluster::wire::Message;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Ok(message) = Message::of_bytes(input) {
        let bytes = message.to_bytes().expect("it came from as few");
        assert_eq!(Message::of_bytes(&bytes).expect("it was written here"), message);
    }
    if let Ok(map) = Map::of_text(input) {
        assert_eq!(Map::of_text(map.to_text().as_bytes()), Ok(map));
    }
});
