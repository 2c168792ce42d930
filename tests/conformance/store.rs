//! What every store of the map promises (src/cluster/store.rs), as one list of tests that each
//! store runs through; then what is particular to each of them: a folder on a full disk, an etcd
//! that is killed or stopped, several locators.
//!
//! A store is a [`world::World`]; a demand takes one and knows no more of it.

mod demands;
mod embedded;
mod etcd;
mod world;

macro_rules! demands {
    ($($world:ident: $($name:ident,)*;)*) => {
        $(mod $world {
            $(
                #[test]
                fn $name() {
                    if let Some(mut world) = super::world::$world() {
                        super::demands::$name(&mut world);
                    }
                }
            )*
        })*
    };
    ($($world:ident)*) => {
        demands! {
            $($world:
                nothing_is_kept_at_first,
                what_is_written_is_kept_and_its_revision_rises,
                only_what_was_expected_is_written_over,
                only_who_is_in_charge_writes,
                a_generation_rises_with_each_that_takes_charge,
                the_longest_map_is_kept_and_a_longer_one_refused,
                any_course_of_calls_is_as_in_the_model,
            ;)*
        }
    };
}

demands! { a_folder an_etcd }
