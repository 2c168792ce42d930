//! Any bytes, as a peer on a replication port may send them: no message, or one that means the same
//! when it is written again.
#![no_main]

use remora::replication::wire::{FRAME_BYTES_MAX, Message, STRANGER_FRAME_BYTES_MAX};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    while let Ok(Some((message, bytes))) = Message::decode(rest, FRAME_BYTES_MAX) {
        let mut again = Vec::new();
        message.encode(&mut again);
        // Text is shown without control characters, so bytes may differ; what they mean may not.
        assert_eq!(Message::decode(&again, FRAME_BYTES_MAX), Ok(Some((message, again.len()))));
        let cut = &rest[..bytes - 1];
        assert_eq!(Message::decode(cut, FRAME_BYTES_MAX), Ok(None));
        rest = &rest[bytes..];
    }
    let _ = Message::decode(input, STRANGER_FRAME_BYTES_MAX);
});
