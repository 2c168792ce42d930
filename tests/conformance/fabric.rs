//! What every fabric promises (src/fabric/mod.rs), as one list of tests that each fabric runs
//! through.
//!
//! A fabric is a [`world::World`]; a body takes one and knows no more of it. Some bodies need
//! another process: this binary runs itself again (tests/conformance/fabric/process.rs). To add a
//! fabric: a world, its name in `world::by_name`, and a line in each list here. The attribute
//! behind its name says where its tests run: one that needs a device is ignored, and run by
//! tools/soft-roce.

mod access;
mod ends;
mod hostile;
mod process;
mod reads;
mod world;
mod writes;

macro_rules! conformance {
    ($fabric:ident in $mod:ident $where:tt: $($module:ident::$body:ident,)*) => {
        mod $mod {
            $(
                #[test]
                #$where
                fn $body() {
                    let _alone = super::world::alone(stringify!($fabric));
                    super::$module::$body(super::world::by_name(stringify!($fabric)).as_ref());
                }
            )*
        }
    };
    ($($fabric:ident $where:tt)*) => {
        $(conformance! { $fabric in $fabric $where:
            reads::bytes_at_random_places_are_what_the_primary_wrote,
            reads::every_read_at_full_depth_comes_back_once,
            reads::what_is_read_later_is_no_older,
            reads::the_longest_read_is_whole,
            reads::a_landing_is_filled_again_and_no_further_than_asked,
            reads::three_channels_of_one_exporter_do_not_mix,
            reads::a_poll_of_nothing_ends_when_it_was_told,
            access::acks_arrive_in_order,
            access::a_read_beyond_ends_the_channel_and_harms_nobody,
            access::a_write_beyond_ends_the_channel_and_harms_nobody,
            access::a_wrong_token_is_refused,
            access::a_token_is_good_once,
            access::a_token_that_nobody_shows_expires,
            access::a_token_of_a_dropped_grant_is_refused,
            ends::a_dropped_grant_ends_the_channel_and_later_bytes_never_arrive,
            ends::a_dropped_channel_shows_and_makes_room_for_another,
            ends::an_exporter_ends_with_its_threads,
            process::a_killed_reader_shows,
            process::a_killed_primary_shows,
            process::nothing_leaks,
        })*
    };
}

conformance! {
    shm [cfg(test)]
    tcp [cfg(test)]
    sim [cfg(test)]
    verbs [ignore = "needs an RDMA device: tools/soft-roce"]
}

/// The tests for the fabrics that push.
macro_rules! writing {
    ($($fabric:ident in $mod:ident $where:tt)*) => {
        $(conformance! { $fabric in $mod $where:
            writes::what_is_written_stands_where_it_was_meant_and_nowhere_else,
            writes::what_is_written_later_is_seen_later,
            writes::a_source_may_change_once_a_read_behind_has_come,
            writes::full_depth_again_and_again,
            writes::a_write_beyond_a_region_changes_nothing,
            writes::a_write_to_a_region_for_reading_changes_nothing,
            writes::a_writer_whose_peer_goes_learns_it,
            writes::an_owner_whose_writer_goes_learns_it,
        })*
    };
}

writing! {
    shm in shm_writes [cfg(test)]
    sim in sim_writes [cfg(test)]
    verbs in verbs_writes [ignore = "needs an RDMA device: tools/soft-roce"]
}

/// Not a test: what this binary does when it runs itself as another process.
#[test]
#[ignore = "run by the tests that need another process"]
fn another_process() {
    process::another();
}
