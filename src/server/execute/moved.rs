//! What a client gets that has said hello: notices of new maps, and who has what is another
//! server's.
//!
//! Each request of its connection goes the careful way, so others pay nothing for that.
//!
//! **A notice** stands before the answer of the next request that is begun, once for each version.
//! An answer that is made in several turns has begun already, so nothing is put into it.
//!
//! **Moved.** The map says who is the primary, and nothing else is believed here: a map has one
//! primary for each shard, so servers that have the same map cannot send a client in circles, and
//! one with an older map names the version of that. Where the map names nobody who is alive, or
//! this server although its gate is closed, the shard is between two primaries. Then the request
//! waits for the next map, for a bounded time, and is refused with nothing done. What comes behind
//! it on the same connection does not wait again for the same map.

use super::elsewhere::refuse_undone;
use super::{Executor, Flow, has_waited_enough};
use crate::engine::{Context, Output};
use crate::protocol::Request;
use crate::protocol::text::hello::{self, Preferences};
use crate::server::connection::Progress;

impl Executor<'_> {
    /// The client has said hello: answer that, and do as it asks from now on.
    #[cold]
    pub(super) fn greet(&self, preferences: Preferences, progress: &mut Progress, output: &mut Output) {
        let standing = self.shared.engine.standing();
        hello::greet(output.bytes(), &standing);
        progress.care.prefer(preferences);
        progress.told_version = standing.map_version;
    }

    /// Tell of a new map, if there is one and the client wants to know, before the next request is
    /// begun.
    pub(super) fn notice(&self, progress: &mut Progress, output: &mut Output) {
        if !progress.care.preferences().notices {
            return;
        }
        let has_begun = progress.resume != 0 || progress.open_get.is_some() || output.is_in_parts();
        let version = self.shared.engine.cluster().map_or(0, |cluster| cluster.map_version());
        if version > progress.told_version && !has_begun {
            progress.told_version = version;
            hello::notice(output.bytes(), version);
        }
    }

    /// A request is another server's from the key at `at` on: say whose, where the client wants
    /// that. None: it is to be forwarded.
    #[cold]
    pub(super) fn answer_moved(
        &mut self,
        context: &mut Context<'_, '_>,
        request: &Request<'_>,
        at: u32,
        progress: &mut Progress,
        output: &mut Output,
    ) -> Option<Flow> {
        let engine = &self.shared.engine;
        let cluster = engine.cluster().filter(|_| progress.care.preferences().moved)?;
        let (key, next, is_only) = request.key_at(at)?;
        let shard = engine.store().locate(key).place.shard();
        if engine.store().is_open(shard) {
            return None; // it is to be looked at again, or behind what is under way
        }
        let version = cluster.map_version();
        let Some(owner) = cluster.owner(shard) else {
            if progress.waited_for != Some(version) && !has_waited_enough(progress) {
                return Some(Flow::Stop(Self::wait(context, progress)));
            }
            progress.waited_for = Some(version);
            let why = format_args!("no primary of shard {shard} is known in map {version}; nothing was done");
            refuse_undone(context, request, why, progress, output);
            return Some(Flow::On);
        };
        context.stats.moved.increment();
        (progress.parked_at, progress.is_last_try) = (None, false);
        if is_only {
            hello::moved(output.bytes(), shard, &owner, request);
            progress.resume = 0;
            return Some(Flow::On);
        }
        if !output.is_in_parts() {
            output.begin_parts(at > 0 || matches!(request, Request::Get(get) if get.continues));
        }
        hello::moved_key(output.bytes(), shard, &owner, key);
        progress.resume = next;
        Some(Flow::Carefully)
    }
}
