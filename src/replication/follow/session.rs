//! One admission of a replica: its pullers, each with a share of the shards, and its control
//! connection. The session's thread is the first puller, and does the chores between its steps.

use super::group::{Coming, Group, Progress};
use super::subscriptions::Subscriptions;
use super::{Follow, FollowConfig, SessionEnd};
use crate::base::shards::ShardSet;
use crate::fabric::Kind;
use crate::replication::attach::{AttachError, is_usable};
use crate::replication::chores::Chores;
use crate::replication::clock::SkewWatch;
use crate::replication::link::{Link, LinkError};
use crate::replication::pace::Pace;
use crate::replication::preferred::Preferred;
use crate::replication::pull::{Counts, LaneEnd, Puller, Step};
use crate::replication::report::FollowView;
use crate::replication::shares::Shares;
use crate::replication::unfit::{Refusals, Unfit};
use crate::replication::wire::{Message, Subscribed, Told, Wanted};
use crate::replication::{HANDSHAKE_WAIT_MAX, HEARTBEAT};
use crate::store::Store;
use std::convert::Infallible;
use std::sync::MutexGuard;
use std::thread::{Builder, Scope};
use std::time::{Duration, Instant};

/// Longest wait for READs within one step.
const STEP_WAIT: Duration = Duration::from_millis(10);

/// A replica that lacks so little is near its primary: some milliseconds.
const NEAR_BYTES: u64 = 1 << 20;

/// One admission, while it lasts.
pub(super) struct Session<'s> {
    /// The control connection.
    pub link: Link,
    /// What is pulled into.
    pub store: &'s Store,
    /// How the pullers share the shards.
    pub shares: Shares,
    /// What is followed.
    pub subscriptions: Subscriptions,
    /// What earlier sessions have counted.
    pub before: Counts,
    /// The channels' fabric.
    pub kind: Kind,
    /// When it was chosen.
    pub chosen_at: Instant,
    /// What the primary offers.
    pub offered: Vec<Kind>,
    /// That data is given up has been told.
    pub has_told_discard: bool,
}

impl Follow {
    /// Pull until something ends it; all pullers have stopped then. `told` is what the primary has
    /// answered to the first subscription.
    pub(super) fn pull_on<'s>(
        &self,
        session: &mut Session<'s>,
        pullers: &mut [Puller<'s>],
        told: Vec<Told>,
        watch: &mut SkewWatch,
    ) -> Result<Infallible, SessionEnd> {
        let group = Group::new(pullers.len() - 1);
        let (first, further) = pullers.split_first_mut().expect("a session has a channel at least");
        let store = session.store;
        let ended = std::thread::scope(|scope| {
            let _ends = group.ends_here();
            self.start_further(scope, &group, store, further)?;
            self.answered(session, first, &group, told)?;
            self.pull_first(session, first, &group, watch)
        });
        drop(self.report(session, Progress::of_all(pullers.iter().map(Progress::of))));
        ended
    }

    /// A thread for each further puller.
    fn start_further<'scope, 's: 'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        group: &'scope Group,
        store: &'s Store,
        further: &'scope mut [Puller<'s>],
    ) -> Result<(), SessionEnd> {
        for (number, puller) in further.iter_mut().enumerate() {
            let name = format!("replica-pull-{}", number + 1);
            let pull = move || {
                if let Err(error) = self.pull_further(number, store, puller, group) {
                    group.fail(error);
                }
            };
            match Builder::new().name(name.clone()).spawn_scoped(scope, pull) {
                Ok(handle) => group.add(handle.thread()),
                Err(error) => return Err(SessionEnd::Thread(name, error)),
            }
        }
        Ok(())
    }

    /// What a further puller's thread does until the session is over, or its channel fails.
    fn pull_further<'s>(
        &self,
        number: usize,
        store: &'s Store,
        puller: &mut Puller<'s>,
        group: &Group,
    ) -> Result<(), SessionEnd> {
        let mut pace = Pace::new(self.config.pause_max);
        let mut beat_at = Instant::now() + HEARTBEAT;
        while !group.is_over() {
            let pause = step(puller, &mut pace)?;
            for (shard, why) in drop_ended(puller) {
                // First: whoever hears of it finds the shard let go, or about to be.
                group.lane_ended(shard, why);
                self.hold.let_go(ShardSet::one(shard));
            }
            let now = Instant::now();
            if now >= beat_at {
                beat_at = now + HEARTBEAT;
                puller.summarize()?;
            }
            let comings = group.tell(number, puller);
            let has_more = !comings.is_empty();
            comings.into_iter().for_each(|coming| self.come(store, puller, group, coming));
            if !pause.is_zero() && !has_more {
                std::thread::park_timeout(pause);
            }
        }
        Ok(())
    }

    /// A lane comes to a puller, or goes.
    fn come<'s>(&self, store: &'s Store, puller: &mut Puller<'s>, group: &Group, coming: Coming) {
        match coming {
            // It may have been barred, or let go, since the session's thread took it.
            Coming::Add(Told { shard, .. }) if !self.hold.take(shard) => {
                group.lane_ended(shard, LaneEnd::Held { shard });
            }
            Coming::Add(Told { shard, tag, history }) => match store.follower(shard) {
                Some(follower) => puller.add(shard, follower, history, tag),
                None => {
                    self.hold.let_go(ShardSet::one(shard));
                    group.lane_ended(shard, LaneEnd::Held { shard });
                }
            },
            Coming::Drop(shard) => {
                puller.drop_lane(shard);
                self.hold.let_go(ShardSet::one(shard));
            }
        }
    }

    /// What the session's thread does: it pulls, looks after the control connection and the
    /// subscriptions, and ends the session where a further puller has failed.
    fn pull_first<'s>(
        &self,
        session: &mut Session<'s>,
        puller: &mut Puller<'s>,
        group: &Group,
        watch: &mut SkewWatch,
    ) -> Result<Infallible, SessionEnd> {
        let mut preferred = self.preferred(session);
        let mut pace = Pace::new(self.config.pause_max);
        let mut chores = Chores::new(self.config.silence_max);
        let (mut has_caught_up, mut changes) = (false, None);
        loop {
            // Where a further puller has failed before, that is the reason.
            let pause = step(puller, &mut pace).map_err(|error| group.failure().unwrap_or(error))?;
            if self.is_stopping() {
                return Err(SessionEnd::Stopped);
            }
            if let Some(failure) = group.failure() {
                return Err(failure);
            }
            let due = chores.are_due();
            let mut ended = drop_ended(puller);
            if !ended.is_empty() {
                self.hold.let_go(ended.iter().map(|(shard, _)| *shard).collect());
            }
            ended.append(&mut group.take_ended());
            // Lanes that end are asked for again, some after a pause.
            if due || !ended.is_empty() || changes != Some(self.hold.changes()) {
                changes = Some(self.hold.changes());
                has_caught_up &= !self.change_lanes(session, puller, group, ended)?;
            }
            if !pause.is_zero() {
                std::thread::park_timeout(pause);
            }
            // The first time is shown at once: an order may be waiting for it.
            let first_time = !has_caught_up
                && puller.is_caught_up()
                && session.subscriptions.has_all(self.hold.wanted())
                && group.progress(Progress::of(puller)).is_caught_up;
            if first_time {
                has_caught_up = true;
                group.note_caught_up();
            }
            if due && preferred.is_due(|kind| self.can_use(session, kind), Instant::now()) {
                return Err(SessionEnd::TryPreferred);
            }
            if due || session.subscriptions.awaits_answer() {
                self.attend(session, puller, group, &mut chores)?;
            }
            if let (true, Some(skew)) = (due, chores.skew()) {
                self.tell_skew(skew, watch);
            }
            if due || first_time {
                let progress = group.progress(Progress::of(puller));
                let mut view = self.report(session, progress);
                view.skew = chores.skew().or(view.skew);
                let has_all = session.subscriptions.has_all(self.hold.wanted());
                view.is_near = has_all && progress.follows && progress.lag.bytes <= NEAR_BYTES;
                if has_caught_up && progress.is_caught_up && has_all {
                    let has_refused = !session.subscriptions.refused().is_empty();
                    view.state = if has_refused { "refused" } else { "following" };
                    view.trouble.clear();
                }
            }
        }
    }

    /// Hear the primary, and say that this replica is here.
    fn attend<'s>(
        &self,
        session: &mut Session<'s>,
        puller: &mut Puller<'s>,
        group: &Group,
        chores: &mut Chores,
    ) -> Result<(), SessionEnd> {
        let mut answers = Vec::new();
        if chores.attend(&mut session.link, &self.standing, &mut answers)? {
            puller.summarize()?;
        }
        for Subscribed { shards, path } in answers {
            if self.config.chain.is_on(&path) {
                return Err(AttachError::Circle(session.link.peer()).into());
            }
            self.standing.comes_also_through(&path);
            self.answered(session, puller, group, shards)?;
        }
        let unanswered = session.subscriptions.unanswered(Instant::now());
        if unanswered > HANDSHAKE_WAIT_MAX {
            return Err(LinkError::Silent(unanswered).into());
        }
        Ok(())
    }

    /// Lanes have ended, or other shards are wanted than before: drop what is to go, and subscribe
    /// to what is to come. True if anything is to come.
    fn change_lanes<'s>(
        &self,
        session: &mut Session<'s>,
        puller: &mut Puller<'s>,
        group: &Group,
        ended: Vec<(usize, LaneEnd)>,
    ) -> Result<bool, SessionEnd> {
        let now = Instant::now();
        for (shard, why) in ended {
            self.tell_lane_end(&why);
            session.subscriptions.ended(shard, !why.is_no_failure(), now);
        }
        let wanted = self.hold.wanted();
        let unwanted = session.subscriptions.drop_unwanted(wanted);
        unwanted.iter().for_each(|shard| self.send(session, puller, group, Coming::Drop(shard), shard));
        let missing = session.subscriptions.ask(wanted, now);
        let deadline = now + HANDSHAKE_WAIT_MAX;
        let left = unwanted.with(session.subscriptions.leave());
        if !left.is_empty() {
            session.link.send(&Message::Unsubscribe(left), deadline)?;
        }
        if !missing.is_empty() {
            group.await_all();
            let ask = missing.iter().map(|shard| Wanted::new(shard, session.shares.owner(shard))).collect();
            session.link.send(&Message::Subscribe(ask), deadline)?;
        }
        Ok(!missing.is_empty())
    }

    /// The primary has answered for these shards: follow in those that are still wanted, and that
    /// can follow what was told. The others are left; where none can follow, the session is over.
    fn answered<'s>(
        &self,
        session: &mut Session<'s>,
        puller: &mut Puller<'s>,
        group: &Group,
        told: Vec<Told>,
    ) -> Result<(), SessionEnd> {
        let now = Instant::now();
        if !told.iter().all(|told| session.subscriptions.answered(told.shard, now)) {
            return Err(LinkError::OutOfPlace("Subscribed of a shard that it was not asked for").into());
        }
        let histories = told.iter().map(|told| (told.shard, &told.history));
        let refusals = Refusals::of(&self.config, session.store, histories);
        let refused = refusals.shards();
        refused.iter().for_each(|shard| session.subscriptions.refuse(shard, now));
        if !refused.is_empty() && self.hold.wanted().without(session.subscriptions.refused()).is_empty() {
            return Err(Unfit::Shards(self.view().refused.clone().with(&refusals)).into());
        }
        self.tell_refused(&refusals, told.iter().map(|told| told.shard).collect());
        let mut left = session.subscriptions.leave().within(refused);
        for told in told.into_iter().filter(|told| !refused.has(told.shard)) {
            let shard = told.shard;
            if self.hold.take(shard) {
                session.subscriptions.add(shard);
                self.send(session, puller, group, Coming::Add(told), shard);
            } else {
                left.insert(shard);
            }
        }
        if !left.is_empty() {
            session.link.send(&Message::Unsubscribe(left), now + HANDSHAKE_WAIT_MAX)?;
        }
        Ok(())
    }

    /// To the puller that has this shard.
    fn send<'s>(&self, session: &Session<'s>, first: &mut Puller<'s>, group: &Group, coming: Coming, shard: usize) {
        match session.shares.owner(shard).checked_sub(1) {
            None => self.come(session.store, first, group, coming),
            Some(number) => group.send(number, coming),
        }
    }

    /// Tell how far it is, here and to those below.
    fn report(&self, session: &mut Session<'_>, now: Progress) -> MutexGuard<'_, FollowView> {
        if now.counts.discarded > 0 && !std::mem::replace(&mut session.has_told_discard, true) {
            log::warn!("discarding what is here of another lineage, as told, to follow {}", self.config.primary);
        }
        let mut view = self.view();
        self.standing.measured(now.lag.bytes, now.lag.time);
        view.set(&session.before, &now.counts, now.lag, now.sign.unwrap_or_default());
        view
    }

    /// What is preferred to the fabric that this session uses.
    fn preferred(&self, session: &Session<'_>) -> Preferred {
        let FollowConfig { primary, fabrics, penalties, .. } = &self.config;
        let again_at = penalties.lock().again_at(primary, fabrics, session.kind, session.chosen_at);
        let is_offered = |kind: &Kind| session.offered.contains(kind);
        let preferred = fabrics.iter().copied().take_while(|kind| *kind != session.kind).filter(is_offered);
        Preferred::new(again_at, preferred, |kind| self.can_use(session, kind), Instant::now())
    }

    fn can_use(&self, session: &Session<'_>, kind: Kind) -> bool {
        is_usable(kind, &session.offered, &session.link, &self.config.options).is_ok()
    }
}

/// Drop the lanes that have ended. Returns which, and why.
fn drop_ended(puller: &mut Puller<'_>) -> Vec<(usize, LaneEnd)> {
    let ended = puller.ended().to_vec();
    ended.iter().for_each(|(shard, _)| puller.drop_lane(*shard));
    ended
}

/// One step, and how long to pause after it.
fn step(puller: &mut Puller<'_>, pace: &mut Pace) -> Result<Duration, SessionEnd> {
    Ok(match puller.step(STEP_WAIT)? {
        Step { applied: true, .. } => pace.applied(puller.lag().bytes),
        Step { moved: true, .. } => pace.moved(),
        Step { moved: false, .. } => pace.still(),
    })
}
