//! `stats <subject>`: settings, items, slabs, sizes, conns, replication, detail, reset.

use super::stats_classes::{ITEMS, SLABS, SLABS_TOTAL};
use super::stats_report::report_rows;
use super::stats_settings::SETTINGS;
use super::stats_table::report;
use super::{Call, Engine, Outcome};
use crate::protocol::answer::Done;
use crate::protocol::request::{Dump, DumpedClasses};
use crate::protocol::text::dump::DumpForm;
use crate::protocol::text::{CLASS, CLASSES_MAX, u32_strict};
use crate::protocol::{Refusal, Reply};

impl Engine {
    /// stats, with what it is asked about. memcached takes the start of some words for the whole.
    pub(super) fn stats(&self, call: &mut Call<'_, '_, '_>, subject: &[u8], reply: Reply, resume: u32) -> Outcome {
        let mut words = subject.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let Some(word) = words.next() else {
            self.report_general(call, reply);
            return call.end_of_rows(reply);
        };
        let begins = |whole: &[u8]| whole.starts_with(word);
        match word {
            _ if begins(b"reset") => {
                self.reset_stats(call);
                return call.done(reply, Done::Reset);
            }
            _ if begins(b"detail") && !self.switches.dumps => return call.refused(reply, Refusal::DetailOff),
            _ if begins(b"detail") => return self.detail(call, words.next(), reply),
            _ if begins(b"settings") => self.report_settings(call, reply),
            _ if begins(b"cachedump") && reply == Reply::Text => {
                return self.cachedump(call, words.next(), words.next(), resume);
            }
            _ if begins(b"conns") => report_connections(call, reply),
            // No row: neither is here, nor used there unless it is asked for.
            _ if begins(b"extstore") || begins(b"proxy") || begins(b"proxyfuncs") || begins(b"proxybe") => {}
            b"items" => self.report_item_class(call, reply),
            b"slabs" => self.report_slab_class(call, reply),
            // Sizes are not tracked, as in a memcached that was not told to.
            b"sizes" => call.rows(reply).row("sizes_status", "disabled"),
            b"replication" => self.report_replication(call, reply),
            _ => return call.refused(reply, Refusal::UnknownCommand),
        }
        call.end_of_rows(reply)
    }

    fn cachedump(
        &self,
        call: &mut Call<'_, '_, '_>,
        class: Option<&[u8]>,
        items_max: Option<&[u8]>,
        resume: u32,
    ) -> Outcome {
        let (class, items_max) = match (class, items_max) {
            _ if !self.switches.dumps => return call.refused(Reply::Text, Refusal::CachedumpOff),
            (Some(class), Some(items_max)) => (u32_strict(class), u32_strict(items_max)),
            _ => return call.refused(Reply::Text, Refusal::BadCommandLine),
        };
        let (Some(class), Some(items_max)) = (class, items_max) else {
            return call.refused(Reply::Text, Refusal::BadFormat);
        };
        let classes = match class {
            CLASS => DumpedClasses::All,
            ..=CLASSES_MAX => DumpedClasses::Empty,
            _ => return call.refused(Reply::Text, Refusal::BadSlabId),
        };
        self.dump(call, Dump { form: DumpForm::Cache { items_max }, classes }, resume)
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

    /// memcached's rows, where the server's win, then what else the server says.
    fn report_settings(&self, call: &mut Call<'_, '_, '_>, reply: Reply) {
        let figures = self.figures(call);
        let out = &mut call.rows(reply);
        for stat in SETTINGS {
            match self.setting(stat.name) {
                Some(value) => out.row(stat.name, value),
                None => report(out, "", std::slice::from_ref(stat), &figures),
            }
        }
        let is_new = |name: &str| SETTINGS.iter().all(|stat| stat.name != name);
        self.settings.rows.iter().filter(|row| is_new(row.0)).for_each(|(name, value)| out.row(name, value));
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

    /// Nothing without an item, as in memcached.
    fn report_item_class(&self, call: &mut Call<'_, '_, '_>, reply: Reply) {
        let figures = self.figures(call);
        if figures.now.store.items > 0 {
            report(&mut call.rows(reply), &format!("items:{CLASS}:"), ITEMS, &figures);
        }
    }

    fn report_slab_class(&self, call: &mut Call<'_, '_, '_>, reply: Reply) {
        let figures = self.figures(call);
        let out = &mut call.rows(reply);
        report(out, &format!("{CLASS}:"), SLABS, &figures);
        report(out, "", SLABS_TOTAL, &figures);
    }
}

fn report_connections(call: &mut Call<'_, '_, '_>, reply: Reply) {
    let host = call.context.host;
    let out = &mut call.rows(reply);
    host.connections(&mut |id, field, value| out.row(format_args!("{id}:{field}"), value));
}
