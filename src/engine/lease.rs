//! How sure this server is of its roles, and what it does where it is not.
//!
//! A member of a cluster is sure of its roles until its lease ends, by a clock that goes on while
//! the host sleeps ([`Lease`]). It hears of a renewal from a locator, and nobody tells
//! it of an end. So whoever must know looks at the clock. Without a cluster a server is always
//! sure.
//!
//! There are two ways to look, because there are two needs:
//!
//! - What a **strong read** shows may be old if the lease had ended when it was read. So the clock
//!   is read behind it, each time ([`super::strong`]). A worker that sleeps, or stands still at
//!   whatever place, loses nothing by that.
//! - A **write that no replica acknowledges** may be lost in any case. Where the policy refuses
//!   these without a lease, the cluster's thread, which looks at the clock every few milliseconds,
//!   sets a bit of the word that each request looks at anyway. So such a write may still be taken
//!   for a few milliseconds, and a server whose lease is in force pays nothing.
//!
//! Acknowledged writes need no lease: whoever takes a shard over has stopped its replicas, and they
//! acknowledge nothing to the server of before.

use super::target::writes;
use super::{Call, Engine, Outcome, failed, watched};
use crate::base::lease::{Lease, Sureness};
use crate::protocol::text::meta::MetaVerb;
use crate::protocol::{Refusal, Request};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

impl Engine {
    /// How long this server is sure of its roles.
    pub fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// Heed this from now on.
    pub fn set_sureness(&self, sureness: Sureness) {
        let Sureness { strong_replicas, refuses } = sureness;
        self.lease.set_strong_replicas(strong_replicas);
        for (bit, is_set) in [(watched::STRONG, strong_replicas > 0), (watched::NO_LEASE, refuses)] {
            match is_set {
                true => self.special.fetch_or(bit, Relaxed),
                false => self.special.fetch_and(!bit, Relaxed),
            };
        }
    }

    /// Whether writes that no replica acknowledges are refused now.
    pub(super) fn refuses_without_lease(&self) -> bool {
        self.special.load(Relaxed) & watched::NO_LEASE != 0
    }

    /// Refuse a write that no replica acknowledges, if that is to be.
    #[cold]
    pub(super) fn refuse_without_lease(&self, call: &mut Call<'_, '_, '_>, request: &Request<'_>) -> Option<Outcome> {
        if !self.refuses_without_lease() || !may_write(request) || self.ack_replicas(request) > 0 {
            return None;
        }
        call.context.turn.forget_appended();
        call.context.stats.no_lease_refused.increment();
        let answered = call.refused(request.reply(), Refusal::NoLeaseToWrite);
        Some(failed(request, answered))
    }
}

/// Whether it may change an item, or all of them.
fn may_write(request: &Request<'_>) -> bool {
    match request {
        Request::CacheMemlimit { .. } => false,
        Request::Meta(meta) if meta.verb == MetaVerb::Get => meta.ttl.is_some() || meta.vivify.is_some(),
        other => writes(other).is_some(),
    }
}
