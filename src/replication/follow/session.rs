//! One admission of a replica: its pullers, each with a share of the shards, and its control
//! connection. The session's thread is the first puller, and does the chores between its steps.

use super::group::{Group, Progress};
use super::{Follow, FollowConfig, SessionEnd};
use crate::base::term::Term;
use crate::fabric::Kind;
use crate::replication::HEARTBEAT;
use crate::replication::attach::is_usable;
use crate::replication::chores::Chores;
use crate::replication::clock::SkewWatch;
use crate::replication::lineage;
use crate::replication::link::Link;
use crate::replication::pace::Pace;
use crate::replication::preferred::Preferred;
use crate::replication::pull::{Counts, Puller, Step};
use crate::replication::report::FollowView;
use crate::store::{History, Store};
use std::convert::Infallible;
use std::sync::MutexGuard;
use std::thread::{Builder, Scope};
use std::time::{Duration, Instant};

/// Longest wait for READs within one step.
const STEP_WAIT: Duration = Duration::from_millis(10);

/// One admission, while it lasts.
pub(super) struct Session<'s> {
    /// The control connection.
    pub link: Link,
    /// What is pulled into.
    pub store: &'s Store,
    /// What earlier sessions have counted.
    pub before: Counts,
    /// The channels' fabric.
    pub kind: Kind,
    /// When it was chosen.
    pub chosen_at: Instant,
    /// What the primary offers.
    pub offered: Vec<Kind>,
}

impl Follow {
    /// Pull until something ends it; all pullers have stopped then. `histories` are the primary's.
    pub(super) fn pull_on(
        &self,
        session: &mut Session<'_>,
        pullers: &mut [Puller<'_>],
        histories: &[History],
        watch: &mut SkewWatch,
    ) -> Result<Infallible, SessionEnd> {
        let foreign = lineage::foreign(histories, session.store);
        if foreign.is_some() {
            pullers.iter_mut().for_each(Puller::keep_what_is_here);
        }
        let group = Group::new(pullers.len() - 1);
        let (first, further) = pullers.split_first_mut().expect("a session has a channel at least");
        let ended = std::thread::scope(|scope| {
            let _ends = group.ends_here();
            self.start_further(scope, &group, further)?;
            self.pull_first(session, first, &group, foreign, watch)
        });
        // One that had ended already when all were to discard has not done it.
        pullers.iter_mut().for_each(|puller| group.discard_if_ordered(puller));
        drop(self.report(session, Progress::of_all(pullers.iter().map(Progress::of))));
        ended
    }

    /// A thread for each further puller.
    fn start_further<'scope, 's: 'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        group: &'scope Group,
        further: &'scope mut [Puller<'s>],
    ) -> Result<(), SessionEnd> {
        for (number, puller) in further.iter_mut().enumerate() {
            let name = format!("replica-pull-{}", number + 1);
            let pull = move || {
                if let Err(error) = self.pull_further(number, puller, group) {
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
    fn pull_further(&self, number: usize, puller: &mut Puller<'_>, group: &Group) -> Result<(), SessionEnd> {
        let mut pace = Pace::new(self.config.pause_max);
        let mut beat_at = Instant::now() + HEARTBEAT;
        while !group.is_over() {
            let pause = step(puller, &mut pace)?;
            group.discard_if_ordered(puller);
            let now = Instant::now();
            if now >= beat_at {
                beat_at = now + HEARTBEAT;
                puller.summarize()?;
            }
            group.tell(number, puller);
            if !pause.is_zero() {
                std::thread::park_timeout(pause);
            }
        }
        Ok(())
    }

    /// What the session's thread does: it pulls, looks after the control connection, and ends the
    /// session where a further puller has failed.
    fn pull_first(
        &self,
        session: &mut Session<'_>,
        puller: &mut Puller<'_>,
        group: &Group,
        mut foreign: Option<(Term, Term)>,
        watch: &mut SkewWatch,
    ) -> Result<Infallible, SessionEnd> {
        let mut preferred = self.preferred(session);
        let mut pace = Pace::new(self.config.pause_max);
        let mut chores = Chores::new(self.config.silence_max);
        let mut has_caught_up = false;
        loop {
            // Where a further puller has failed before, that is the reason.
            let pause = step(puller, &mut pace).map_err(|error| group.failure().unwrap_or(error))?;
            if self.is_stopping() {
                return Err(SessionEnd::Stopped);
            }
            if let Some(failure) = group.failure() {
                return Err(failure);
            }
            if puller.may_discard()
                && group.progress(Progress::of(puller)).may_discard
                && let Some(lineages) = foreign.take()
            {
                self.discard(session, lineages, group, puller);
            }
            if !pause.is_zero() {
                std::thread::park_timeout(pause);
            }
            // The first time is shown at once: an order may be waiting for it.
            let first_time =
                !has_caught_up && puller.is_caught_up() && group.progress(Progress::of(puller)).is_caught_up;
            if first_time {
                has_caught_up = true;
                group.note_caught_up();
            }
            let due = chores.are_due();
            if due && preferred.is_due(|kind| self.can_use(session, kind), Instant::now()) {
                return Err(SessionEnd::TryPreferred);
            }
            if due && chores.attend(&mut session.link, &self.standing)? {
                puller.summarize()?;
            }
            if let (true, Some(skew)) = (due, chores.skew()) {
                self.tell_skew(skew, watch);
            }
            if due || first_time {
                let progress = group.progress(Progress::of(puller));
                let mut view = self.report(session, progress);
                view.skew = chores.skew().or(view.skew);
                if progress.is_caught_up {
                    view.state = "following";
                    view.trouble.clear();
                }
            }
        }
    }

    /// Give up what is here of another lineage: the primary has shown a log of its own. Replicas of
    /// this store must not follow it in that. So their sessions end first; once they are told of
    /// the new lineage, they decide for themselves.
    fn discard(&self, session: &Session<'_>, (theirs, ours): (Term, Term), group: &Group, first: &mut Puller<'_>) {
        let store = session.store;
        let held_data = lineage::holds_data(store);
        drop(self.offer.as_ref().map(|offer| offer.end_sessions()));
        lineage::leave(store);
        group.order_discard();
        group.discard_if_ordered(first);
        if held_data {
            let primary = &self.config.primary;
            log::warn!("discarding what is here of {ours}, as told, to follow {primary} of {theirs}");
        }
    }

    /// Tell how far it is, here and to those below.
    fn report(&self, session: &Session<'_>, now: Progress) -> MutexGuard<'_, FollowView> {
        let mut view = self.view();
        self.standing.measured(now.lag.bytes, now.lag.time);
        view.set(&session.before, &now.counts, now.lag, now.sign);
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

/// One step, and how long to pause after it. A lane that has ended ends the session.
fn step(puller: &mut Puller<'_>, pace: &mut Pace) -> Result<Duration, SessionEnd> {
    let step = puller.step(STEP_WAIT)?;
    if let [(_, why), ..] = puller.ended() {
        return Err(why.clone().into());
    }
    Ok(match step {
        Step { applied: true, .. } => pace.applied(puller.lag().bytes),
        Step { moved: true, .. } => pace.moved(),
        Step { moved: false, .. } => pace.still(),
    })
}
