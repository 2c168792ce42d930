//! `stats <subject>`: settings, items, slabs, sizes, conns, replication, detail, reset.

use super::stats_report::report_rows;
use super::{Call, Engine, Outcome};
use crate::protocol::answer::Done;
use crate::protocol::reply::Rows;
use crate::protocol::{Refusal, Reply};

impl Engine {
    /// stats, with what it is asked about.
    pub(super) fn stats(&self, call: &mut Call<'_, '_, '_>, subject: &[u8], reply: Reply) -> Outcome {
        let mut words = subject.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        match words.next() {
            None => self.report_general(call, reply),
            Some(b"reset") => {
                self.reset_stats(call);
                return call.done(reply, Done::Reset);
            }
            Some(b"detail") if !self.switches.dumps => return call.refused(reply, Refusal::DetailOff),
            Some(b"detail") => return self.detail(call, words.next(), reply),
            Some(b"settings") => self.report_settings(call, reply),
            Some(b"items") => self.report_item_class(call, reply),
            Some(b"slabs") => self.report_slab_class(call, reply),
            // Sizes are not tracked, as in a memcached that was not told to.
            Some(b"sizes") => call.rows(reply).row("sizes_status", "disabled"),
            Some(b"conns") => report_connections(call, reply),
            Some(b"replication") => self.report_replication(call, reply),
            Some(b"cachedump") => return call.refused(reply, Refusal::CachedumpOff),
            Some(_) => return call.refused(reply, Refusal::UnknownCommand),
        }
        call.end_of_rows(reply)
    }

    fn detail(&self, call: &mut Call<'_, '_, '_>, argument: Option<&[u8]>, reply: Reply) -> Outcome {
        match argument {
            Some(b"on") => self.prefixes.enable(true),
            Some(b"off") => self.prefixes.enable(false),
            Some(b"dump") => {
                self.prefixes.dump(&mut call.rows(reply));
                return call.end_of_rows(reply);
            }
            _ => return call.refused(reply, Refusal::DetailUsage),
        }
        call.done(reply, Done::Ok)
    }

    /// What the engine knows of the configuration, then the server's rows, which win where both
    /// name a setting.
    fn report_settings(&self, call: &mut Call<'_, '_, '_>, reply: Reply) {
        let verbosity = match log::max_level() {
            log::LevelFilter::Off | log::LevelFilter::Error | log::LevelFilter::Warn => 0,
            log::LevelFilter::Info => 1,
            log::LevelFilter::Debug | log::LevelFilter::Trace => 2,
        };
        let detail_enabled = if self.prefixes.is_enabled() { "yes" } else { "no" };
        let own = [
            ("maxbytes", self.store.stats().capacity_bytes.to_string()),
            ("verbosity", verbosity.to_string()),
            ("num_threads", self.settings.workers.to_string()),
            ("stat_key_prefix", char::from(self.prefixes.delimiter()).to_string()),
            ("detail_enabled", detail_enabled.to_string()),
            ("cas_enabled", "yes".to_string()),
            ("item_size_max", self.settings.item_bytes_max.to_string()),
            ("flush_enabled", if self.switches.flush { "yes" } else { "no" }.to_string()),
            ("shutdown_command", if self.switches.shutdown { "yes" } else { "no" }.to_string()),
            ("dump_enabled", "no".to_string()),
            ("hash_algorithm", "siphash13".to_string()),
            ("track_sizes", "no".to_string()),
            ("client_flags_size", size_of::<u32>().to_string()),
        ];
        let out = &mut call.rows(reply);
        for (name, value) in own.iter().filter(|row| self.setting(row.0).is_none()).chain(&self.settings.rows) {
            out.row(name, value);
        }
    }

    /// The role, then what the replication layer tells.
    fn report_replication(&self, call: &mut Call<'_, '_, '_>, reply: Reply) {
        let acks = self.acks_rows(call, &self.snapshot(call).workers);
        let out = &mut call.rows(reply);
        let role = match self.store.writable().count() {
            0 => "replica",
            open if open == self.store.shards().len() => "primary",
            _ => "mixed",
        };
        out.row("role", role);
        if let Some(rows) = self.replication.get() {
            rows(&mut |name, value| out.row(name, value));
        }
        report_rows(out, &acks);
    }

    /// There are no size classes here; tools that walk them find one, with everything in it.
    fn report_item_class(&self, call: &mut Call<'_, '_, '_>, reply: Reply) {
        let now = self.snapshot(call);
        if now.store.items == 0 {
            return;
        }
        let rows = [
            ("number", now.store.items),
            ("mem_requested", now.store.item_bytes),
            ("evicted", now.store.counts.evictions),
            ("outofmemory", now.workers.store_no_memory),
            ("reclaimed", now.store.counts.reclaimed),
            ("expired_unfetched", now.store.counts.expired_unfetched),
            ("evicted_unfetched", now.store.counts.evicted_unfetched),
        ];
        class_rows(&mut call.rows(reply), "items:1:", &rows);
    }

    fn report_slab_class(&self, call: &mut Call<'_, '_, '_>, reply: Reply) {
        let now = self.snapshot(call);
        let rows = [
            ("used_chunks", now.store.items),
            ("get_hits", now.workers.get_hits),
            ("cmd_set", now.workers.cmd_set),
            ("delete_hits", now.workers.delete_hits),
            ("incr_hits", now.workers.incr_hits),
            ("decr_hits", now.workers.decr_hits),
            ("cas_hits", now.workers.cas_hits),
            ("cas_badval", now.workers.cas_badval),
            ("touch_hits", now.workers.touch_hits),
        ];
        let out = &mut call.rows(reply);
        class_rows(out, "1:", &rows);
        out.row("active_slabs", 1);
        out.row("total_malloced", now.store.capacity_bytes);
    }
}

fn class_rows(out: &mut Rows<'_>, class: &str, rows: &[(&str, u64)]) {
    for (name, value) in rows {
        out.row(format_args!("{class}{name}"), value);
    }
}

fn report_connections(call: &mut Call<'_, '_, '_>, reply: Reply) {
    let host = call.context.host;
    let out = &mut call.rows(reply);
    host.connections(&mut |id, field, value| out.row(format_args!("{id}:{field}"), value));
}
