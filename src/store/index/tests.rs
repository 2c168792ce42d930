//! From a slot to a position.

use super::*;

#[test]
fn a_place_is_the_nearest_position_before_or_behind_the_reference() {
    for reference in [1 << 30, 1 << 32, (1 << 38) - 8, 1 << 39, (1 << 39) + 4096, (1 << 55) + 24] {
        for away in [0, 8, 4096, 1 << 31, 1 << 33, LOG_BYTES_MAX - 8] {
            for position in [reference + away, u64::saturating_sub(reference, away)] {
                assert_eq!(Slot::new(u64::MAX, position).position(reference), position, "{away} from {reference}");
            }
        }
    }
}
