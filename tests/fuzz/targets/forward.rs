//! Any bytes, as another server may send them over a link: no frame, or frames that are the same
//! when they are written again, and whose requests are what the parser takes whole.
#![no_main]

use remora::base::limits::KEY_BYTES_MAX;
use remora::protocol::forward::{Answered, Asked, Framed, is_forwardable, request_bytes_max};
use remora::protocol::{ParseLimits, Parsed};

/// Small, so that bounds are met.
const LIMITS: ParseLimits = ParseLimits { value_bytes_max: 100 };

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let (mut rest, bytes_max) = (input, request_bytes_max(LIMITS.value_bytes_max));
    while let Ok(Framed::Whole(asked, bytes)) = Asked::decode(rest, bytes_max) {
        assert!(asked.request.len() <= bytes_max);
        let mut again = Vec::new();
        asked.encode(&mut again);
        assert_eq!(again, rest[..bytes]);
        let cut = Asked::decode(&rest[..bytes - 1], bytes_max);
        assert!(matches!(cut, Ok(Framed::Incomplete { wanted_bytes }) if (4..=bytes).contains(&wanted_bytes)));
        let mut scratch = [0; KEY_BYTES_MAX];
        if let Parsed::Request(request, _) = asked.protocol.parse(asked.request, LIMITS, &mut scratch) {
            let _ = is_forwardable(&request);
        }
        rest = &rest[bytes..];
    }
    rest = input;
    while let Ok(Framed::Whole(answered, bytes)) = Answered::decode(rest, bytes_max) {
        let mut again = Vec::new();
        answered.encode(&mut again);
        assert_eq!(again, rest[..bytes]);
        rest = &rest[bytes..];
    }
});
