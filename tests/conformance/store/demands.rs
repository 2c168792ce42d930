//! What every store promises.

use super::world::{World, in_charge, is_not_in_charge, kept, written};
use fastrand::Rng;
use remora::cluster::store::{STORED_BYTES_MAX, StoreError, Swapped};

pub fn nothing_is_kept_at_first(world: &mut dyn World) {
    let mut store = world.open();
    assert_eq!(kept(&mut *store), None);
    assert_eq!(in_charge(&mut *store, "a"), 1);
    assert_eq!(kept(&mut *store), None);
    assert_eq!(store.swap(Some(1), b"x").expect("it is answered"), Swapped::Conflict);
}

pub fn what_is_written_is_kept_and_its_revision_rises(world: &mut dyn World) {
    let mut store = world.open();
    in_charge(&mut *store, "a");
    let mut expected = None;
    // Any bytes, none at all among them; the same again is a write as well.
    for bytes in [&b"one"[..], b"", b"two\0\n\xFF", b"two\0\n\xFF", b"three"] {
        let revision = written(&mut *store, expected, bytes);
        assert!(revision > expected.unwrap_or(0));
        assert_eq!(kept(&mut *store), Some((revision, bytes.to_vec())));
        expected = Some(revision);
        if bytes.len() == 3 {
            drop(store);
            store = world.open();
            assert_eq!(kept(&mut *store), Some((revision, bytes.to_vec())));
            in_charge(&mut *store, "b");
        }
    }
}

pub fn only_what_was_expected_is_written_over(world: &mut dyn World) {
    let mut store = world.open();
    in_charge(&mut *store, "a");
    let first = written(&mut *store, None, b"one");
    let second = written(&mut *store, Some(first), b"two");
    for wrong in [None, Some(first), Some(second + 1), Some(u64::MAX >> 1)] {
        assert_eq!(store.swap(wrong, b"three").expect("it is answered"), Swapped::Conflict, "{wrong:?}");
    }
    assert_eq!(kept(&mut *store), Some((second, b"two".to_vec())));
    // Who has lost a race goes on from what there is.
    written(&mut *store, Some(second), b"three");
}

pub fn only_who_is_in_charge_writes(world: &mut dyn World) {
    let mut store = world.open();
    assert!(is_not_in_charge(&store.swap(None, b"one")));
    in_charge(&mut *store, "a");
    let revision = written(&mut *store, None, b"one");
    drop(store);
    // Being in charge belongs to a process, not to a name.
    let mut store = world.open();
    assert!(is_not_in_charge(&store.swap(Some(revision), b"two")));
    assert_eq!(kept(&mut *store), Some((revision, b"one".to_vec())));
}

pub fn a_generation_rises_with_each_that_takes_charge(world: &mut dyn World) {
    let mut last = 0;
    for _ in 0..4 {
        let mut store = world.open();
        let generation = in_charge(&mut *store, "a");
        assert!(generation > last, "{generation} after {last}");
        assert_eq!(in_charge(&mut *store, "a"), generation, "who stays in charge keeps its generation");
        last = generation;
    }
}

pub fn the_longest_map_is_kept_and_a_longer_one_refused(world: &mut dyn World) {
    let mut store = world.open();
    in_charge(&mut *store, "a");
    let bytes: Vec<u8> = (0..=STORED_BYTES_MAX).map(|at| (at * 7 + at / 251) as u8).collect();
    let error = store.swap(None, &bytes).expect_err("it is too long");
    assert!(matches!(error, StoreError::TooLong(length) if length == bytes.len()), "{error}");
    assert_eq!(kept(&mut *store), None);
    let longest = &bytes[..STORED_BYTES_MAX];
    let mut expected = None;
    // More than the folder's log takes before it is begun anew.
    for _ in 0..10 {
        expected = Some(written(&mut *store, expected, longest));
    }
    drop(store);
    assert!(kept(&mut *world.open()).is_some_and(|(revision, kept)| Some(revision) == expected && kept == longest));
}

/// As the store must be, without any place to keep it.
#[derive(Default)]
struct Model {
    kept: Option<(u64, Vec<u8>)>,
    generation: u64,
    is_in_charge: bool,
}

pub fn any_course_of_calls_is_as_in_the_model(world: &mut dyn World) {
    for seed in 1..=3 {
        let mut random = Rng::with_seed(seed);
        let mut store = world.open();
        let mut model = Model { kept: kept(&mut *store), ..Model::default() };
        for call in 0..60 {
            let at = format!("seed {seed}, call {call}");
            match random.u32(..12) {
                0 => {
                    drop(store);
                    store = world.open();
                    model.is_in_charge = false;
                }
                1 | 2 => {
                    let generation = in_charge(&mut *store, "a");
                    assert_eq!(generation == model.generation, model.is_in_charge, "{at}");
                    assert!(generation >= model.generation, "{at}");
                    (model.generation, model.is_in_charge) = (generation, true);
                }
                3..9 => {
                    let now = model.kept.as_ref().map(|(revision, _)| *revision);
                    let expected = if random.u32(..3) > 0 { now } else { [None, Some(1), Some(2)][random.usize(..3)] };
                    let bytes: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..)).collect();
                    let swapped = store.swap(expected, &bytes);
                    match swapped {
                        Ok(Swapped::Done { revision }) => {
                            assert!(model.is_in_charge && expected == now && Some(revision) > now, "{at}");
                            model.kept = Some((revision, bytes));
                        }
                        Ok(Swapped::Conflict) => assert!(model.is_in_charge && expected != now, "{at}"),
                        _ => assert!(is_not_in_charge(&swapped) && !model.is_in_charge, "{at}: {swapped:?}"),
                    }
                }
                _ => assert_eq!(kept(&mut *store), model.kept, "{at}"),
            }
        }
    }
}
