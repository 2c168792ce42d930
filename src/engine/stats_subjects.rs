//! `stats <subject>`: settings, items, slabs, sizes, conns, replication, detail, reset.

use super::{Call, Engine, Outcome};
use crate::protocol::reply::{self, stat_line};
use std::io::Write;

const DETAIL_OFF: &[u8] = b"CLIENT_ERROR stats detail not allowed\r\n";

impl Engine {
    /// stats, with the rest of its line.
    pub(super) fn stats(&self, call: &mut Call<'_, '_, '_>, subject: &[u8]) -> Outcome {
        let mut words = subject.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        match words.next() {
            None => self.report_general(call),
            Some(b"reset") => {
                self.reset_stats(call);
                return call.answer(reply::RESET);
            }
            Some(b"detail") if !self.switches.dumps => return call.answer(DETAIL_OFF),
            Some(b"detail") => return self.detail(call, words.next()),
            Some(b"settings") => self.report_settings(call),
            Some(b"items") => self.report_item_class(call),
            Some(b"slabs") => self.report_slab_class(call),
            // Sizes are not tracked, as in a memcached that was not told to.
            Some(b"sizes") => stat_line(call.out.bytes(), "sizes_status", "disabled"),
            Some(b"conns") => report_connections(call),
            Some(b"replication") => self.report_replication(call),
            Some(b"cachedump") => {
                return call.answer(b"CLIENT_ERROR stats cachedump not allowed\r\n");
            }
            Some(_) => return call.answer(reply::ERROR),
        }
        call.answer(reply::END)
    }

    fn detail(&self, call: &mut Call<'_, '_, '_>, argument: Option<&[u8]>) -> Outcome {
        match argument {
            Some(b"on") => self.prefixes.enable(true),
            Some(b"off") => self.prefixes.enable(false),
            Some(b"dump") => {
                self.prefixes.dump(call.out.bytes());
                return call.answer(reply::END);
            }
            _ => return call.answer(b"CLIENT_ERROR usage: stats detail on|off|dump\r\n"),
        }
        call.answer(reply::OK)
    }

    /// What the engine knows of the configuration, then the server's rows, which win where both
    /// name a setting.
    fn report_settings(&self, call: &mut Call<'_, '_, '_>) {
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
        let out = call.out.bytes();
        for (name, value) in own.iter().filter(|row| self.setting(row.0).is_none()).chain(&self.settings.rows) {
            stat_line(out, name, value);
        }
    }

    /// The role, then what the replication layer tells.
    fn report_replication(&self, call: &mut Call<'_, '_, '_>) {
        let out = call.out.bytes();
        let role = match self.store.writable().count() {
            0 => "replica",
            open if open == self.store.shards().len() => "primary",
            _ => "mixed",
        };
        stat_line(out, "role", role);
        if let Some(rows) = self.replication.get() {
            rows(&mut |name, value| stat_line(out, name, value));
        }
        let now = self.snapshot(call);
        self.report_acks(call, &now.workers);
    }

    /// There are no size classes here; tools that walk them find one, with everything in it.
    fn report_item_class(&self, call: &mut Call<'_, '_, '_>) {
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
        class_rows(call.out.bytes(), "items:1:", &rows);
    }

    fn report_slab_class(&self, call: &mut Call<'_, '_, '_>) {
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
        let out = call.out.bytes();
        class_rows(out, "1:", &rows);
        stat_line(out, "active_slabs", 1);
        stat_line(out, "total_malloced", now.store.capacity_bytes);
    }
}

fn class_rows(out: &mut Vec<u8>, class: &str, rows: &[(&str, u64)]) {
    for (name, value) in rows {
        write!(out, "STAT {class}{name} {value}\r\n").expect("writing to a Vec cannot fail");
    }
}

fn report_connections(call: &mut Call<'_, '_, '_>) {
    let host = call.context.host;
    let out = call.out.bytes();
    host.connections(&mut |id, field, value| {
        write!(out, "STAT {id}:{field} {value}\r\n").expect("writing to a Vec cannot fail");
    });
}
