//! The replica's side: a thread that joins the primary and pulls until something fails. It then
//! says what failed and tries again, after a pause that grows up to a bound. Between two sessions
//! the replica goes on serving what it has.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`following`] | the thread, as its owner holds it |
//! | `hold` | which shards it may write to, and which it does |
//! | `session` | one admission: all of its pullers, and the control connection |
//! | `subscriptions` | which shards a session follows, and which it asks for again |
//! | `group` | what the pullers of a session share |

mod following;
mod group;
mod hold;
mod session;
mod subscriptions;

pub use following::{Following, StillHeld};

use super::admission::{Admitted, Attached};
use super::attach::{AttachError, Channels, Identity, Joined, PREFERENCE, join};
use super::blame;
use super::clock::{Notice, Skew, SkewWatch};
use super::copying::CopyBound;
use super::lineage::Discard;
use super::link::LinkError;
use super::penalties::SharedPenalties;
use super::pull::{LaneEnd, PullError, Puller};
use super::push::Mode;
use super::reached::Holder;
use super::report::{FollowView, Report};
use super::secret::Secret;
use super::shares::Shares;
use super::standing::{Chain, ServerNumber, Standing};
use super::unfit::{Refusals, Unfit};
use super::wire::{Message, Refusal};
use crate::base::shards::ShardSet;
use crate::fabric::{Channel, ConnectOptions, FabricError, Kind};
use crate::store::Store;
use crate::sys::numa;
use crate::sys::pinning::Given;
use hold::Hold;
use session::Session;
use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use subscriptions::Subscriptions;

/// The first pause after a failure, and the longest.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);
/// See [`RETRY_PAUSE_MIN`].
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// After a session that lasted so long the next pause is the shortest again.
const SESSION_GOOD: Duration = Duration::from_secs(10);

/// Whom to follow, and how.
#[derive(Debug, Clone)]
pub struct FollowConfig {
    /// The primary's replication port, HOST:PORT.
    pub primary: String,
    /// The secret that both sides must have.
    pub secret: Secret,
    /// Fabrics to try, in this order; each can do what `mode` asks of it.
    pub fabrics: Vec<Kind>,
    /// Which side moves the data.
    pub mode: Mode,
    /// What the fabrics need to know of this host.
    pub options: ConnectOptions,
    /// Who this is.
    pub identity: Identity,
    /// Longest pause between two looks where nothing moves; zero spins.
    pub pause_max: Duration,
    /// Silence after which the primary counts as gone.
    pub silence_max: Duration,
    /// Where this process stands. Whoever starts a following says in it which shards come by that.
    pub chain: Arc<Chain>,
    /// Which fabrics have failed.
    pub penalties: SharedPenalties,
    /// For which primaries of another lineage the data of this store may be given up.
    pub discard: Discard,
    /// To bring over what a peer has and this store lacks: nothing that is here is given up.
    pub gathers: bool,
    /// How fast all followings together copy shards that are not whole here.
    pub copy_bound: Arc<CopyBound>,
    /// Whether the threads that pull may be bound to cores: those near the device that they pull
    /// by.
    pub pin: bool,
    /// Threads that pull, each over a data channel of its own. There are never more than shards,
    /// and no more than the primary gives channels.
    pub pullers: usize,
}

impl FollowConfig {
    /// The same, but another primary.
    #[must_use]
    pub fn of(&self, primary: &str) -> FollowConfig {
        FollowConfig { primary: primary.into(), ..self.clone() }
    }

    /// Be admitted by the primary, as [`join`] says; the place there is for `holder`.
    pub fn join(&self, holder: &Arc<Holder>) -> Result<Joined, AttachError> {
        join(&self.primary, &self.secret, &self.identity, holder)
    }

    /// The fabrics of auto.
    pub fn any_fabric() -> Vec<Kind> {
        PREFERENCE.to_vec()
    }
}

/// Keep this thread to the cores of the node where the device is; to all that it was given, if no
/// node is nearer. Threads that it starts are kept to the same cores. Each makes its landings
/// afterwards, and is the first to touch them.
fn stay_near(node: Option<u32>, given: &Given) {
    let cores = node.map(|node| numa::cores_of(Path::new("/sys"), node)).unwrap_or_default();
    if let (count @ 1.., Some(node)) = (given.keep_to(&cores), node) {
        log::info!("replica-pull runs on {count} cores of NUMA node {node}, where the device is");
    }
}

/// Be admitted for the first time, trying for `patience`; the welcome says what store to make.
pub fn first_join(config: &FollowConfig, patience: Duration) -> Result<Joined, AttachError> {
    let (until, holder) = (Instant::now() + patience, Holder::new(&config.primary));
    let mut pause = RETRY_PAUSE_MIN;
    loop {
        match config.join(&holder) {
            Ok(joined) => return Ok(joined),
            // A refusal by the primary is final as a rule. A primary that cannot be reached may
            // come back.
            Err(error) if Instant::now() + pause >= until || error.is_final() => return Err(error),
            Err(error) => {
                log::warn!("{error}; trying again");
                pause = error.pause(pause);
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
}

/// Why a session ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The handshake, or no fabric.
    #[error("{0}")]
    Attach(#[from] AttachError),
    /// The control connection.
    #[error("control connection: {0}")]
    Link(#[from] LinkError),
    /// Pulling.
    #[error("{0}")]
    Pull(#[from] PullError),
    /// The data channel.
    #[error("{0}")]
    Fabric(#[from] FabricError),
    /// The system gives no thread for a further puller.
    #[error("cannot start the thread {0}: {1}; raise `ulimit -u`, or lower --pullers")]
    Thread(String, std::io::Error),
    /// It cannot be followed with this store.
    #[error("{0}")]
    Unfit(#[from] Unfit),
    /// A fabric that is preferred to this one may be tried again.
    #[error("joining again, for a fabric that is preferred may work by now")]
    TryPreferred,
    /// An order, or the end of the process.
    #[error("asked to stop")]
    Stopped,
}

/// Whom a following has reached, by the name that it has been given.
#[derive(Clone)]
enum Whom {
    /// This server, where it has the place.
    Server(ServerNumber),
    /// This server, where another one has it.
    Twin(ServerNumber, Arc<Holder>),
}

/// What the threads that follow share with the rest of the process.
pub struct Follow {
    config: FollowConfig,
    /// Who has the place at the primary.
    holder: Arc<Holder>,
    standing: Arc<Standing>,
    /// As of the last time that anybody was reached.
    whom: Mutex<Option<Whom>>,
    view: Mutex<FollowView>,
    stopping: AtomicBool,
    hold: Hold,
}

impl Report for Follow {
    fn rows(&self, emit: &mut dyn FnMut(&str, &str)) {
        self.snapshot().rows(emit);
    }
}

impl Follow {
    /// Where it stands.
    pub fn snapshot(&self) -> FollowView {
        // Both under one lock, so that the lag of this link and that of the whole chain are of the
        // same measurement.
        let view = self.view();
        let penalties = self.config.penalties.lock().view(&self.config.primary, Instant::now());
        let shards = self.shards();
        let refused = view.refused.within(shards);
        FollowView { distance: self.standing.distance(), penalties, shards, refused, ..view.clone() }
    }

    /// The primary, and how it is followed.
    pub fn config(&self) -> &FollowConfig {
        &self.config
    }

    /// The primary's replication port, as it was given.
    pub fn primary(&self) -> &str {
        &self.config.primary
    }

    fn note(&self, whom: Whom) {
        *self.whom.lock().unwrap_or_else(PoisonError::into_inner) = Some(whom);
    }

    fn whom(&self) -> Option<Whom> {
        self.whom.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of the server that it has reached, where it has the place there.
    pub fn server(&self) -> Option<ServerNumber> {
        match self.whom()? {
            Whom::Server(server) => Some(server),
            Whom::Twin(..) => None,
        }
    }

    /// Whether it follows the server with this number, under whatever name.
    pub fn is_of_server(&self, number: &ServerNumber) -> bool {
        matches!(self.whom(), Some(Whom::Server(server)) if server == *number)
    }

    /// Whether `holder` is this following.
    pub fn is(&self, holder: &Arc<Holder>) -> bool {
        Arc::ptr_eq(&self.holder, holder)
    }

    /// Whether it has reached the server that `other` follows, and stands back.
    pub fn is_twin_of(&self, other: &Follow) -> bool {
        let Some(Whom::Twin(server, holder)) = self.whom() else { return false };
        other.is(&holder) && other.is_of_server(&server)
    }

    /// Where this following stands.
    pub fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    /// The following has ended. The numbers that it shows stay.
    pub fn note_detached(&self) {
        let mut view = self.view();
        (view.state, view.is_near) = ("detached", false);
        view.trouble.clear();
    }

    fn view(&self) -> MutexGuard<'_, FollowView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shards that it follows, or is to follow.
    pub fn shards(&self) -> ShardSet {
        self.hold.wanted()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    fn run(&self, admitted: Option<Admitted>, store: &Store) {
        self.follow_until_stopped(admitted, store);
        self.note_detached();
    }

    fn follow_until_stopped(&self, mut admitted: Option<Admitted>, store: &Store) {
        let (mut pause, mut watch) = (RETRY_PAUSE_MIN, SkewWatch::default());
        let cores = self.config.pin.then(Given::to_current_thread);
        while !self.is_stopping() {
            if self.hold.wanted().is_empty() {
                rest(RETRY_PAUSE_MIN, || self.is_stopping());
                continue;
            }
            let begun_at = Instant::now();
            let Err(end) = self.session(admitted.take(), store, cores.as_ref(), &mut watch);
            self.standing.comes_through(Vec::new());
            if matches!(end, SessionEnd::Stopped) || self.is_stopping() {
                return;
            }
            if begun_at.elapsed() > SESSION_GOOD || matches!(end, SessionEnd::TryPreferred) {
                pause = RETRY_PAUSE_MIN;
            }
            if let SessionEnd::Attach(error) = &end {
                pause = error.pause(pause);
                if let AttachError::Twin { server, holder } = error {
                    self.note(Whom::Twin(*server, holder.clone()));
                }
            }
            self.tell(&end);
            rest(pause, || self.is_stopping());
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// Log why a session ended: once for each reason, not for each try.
    fn tell(&self, end: &SessionEnd) {
        let trouble = end.to_string();
        if matches!(end, SessionEnd::TryPreferred) {
            return log::info!("replication from {}: {trouble}", self.config.primary);
        }
        if self.view().trouble != trouble {
            log::warn!("replication from {}: {trouble}; trying again", self.config.primary);
        }
        let refused = match end {
            SessionEnd::Attach(error) => error.is_final(),
            end => matches!(end, SessionEnd::Unfit(_)),
        };
        let mut view = self.view();
        view.state = if refused { "refused" } else { "connecting" };
        view.is_near = false;
        if let SessionEnd::Unfit(Unfit::Shards(refused)) = end {
            view.refused.add_all(refused);
        }
        view.trouble = trouble;
        view.failed_tries += 1;
    }

    /// Log in which of the shards that were asked for the primary cannot be followed: once for each
    /// reason. It is in the others.
    fn tell_refused(&self, refused: &Refusals, asked: ShardSet) {
        let mut view = self.view();
        view.refused.remove(asked.without(refused.shards()));
        for refused in view.refused.add_all(refused).iter() {
            log::warn!("replication from {}: {refused}; the other shards are followed", self.config.primary);
        }
    }

    /// Log why a lane ended: once for each reason.
    fn tell_lane_end(&self, why: &LaneEnd) {
        let trouble = why.to_string();
        let mut view = self.view();
        if view.trouble != trouble {
            let level = if why.is_no_failure() { log::Level::Info } else { log::Level::Warn };
            log::log!(level, "replication from {}: {trouble}; subscribing again", self.config.primary);
        }
        (view.state, view.is_near) = ("joining", false);
        view.trouble = trouble;
        view.failed_tries += 1;
    }

    /// Say that the clocks are apart, or not any more.
    fn tell_skew(&self, skew: Skew, watch: &mut SkewWatch) {
        let Some(notice) = watch.notice(skew) else { return };
        let primary = &self.config.primary;
        let (apart, precision) = (skew.milliseconds().unsigned_abs(), skew.precision_milliseconds());
        let where_to = if skew.microseconds > 0 { "ahead of" } else { "behind" };
        match notice {
            Notice::Apart => log::warn!(
                "the clock of {primary} is {apart} ms {where_to} this host's (give or take {precision} ms): items expire here too late or too early; \
                 have both hosts keep their time by NTP"
            ),
            Notice::Together => {
                log::warn!("the clock of {primary} agrees with this host's again, within {} ms", apart + precision);
            }
        }
    }

    /// A puller as this following wants it: writes wait for what is gathered.
    fn prepared<'s>(&self, mut puller: Puller<'s>) -> Puller<'s> {
        if self.config.gathers {
            puller.give_up_nothing();
        } else {
            puller.set_copy_bound(self.config.copy_bound.clone());
        }
        if self.config.mode == Mode::Push {
            puller.look_at_what_was_pushed();
        }
        puller
    }

    /// One admission, until it ends.
    fn session(
        &self,
        admitted: Option<Admitted>,
        store: &Store,
        cores: Option<&Given>,
        watch: &mut SkewWatch,
    ) -> Result<Infallible, SessionEnd> {
        let admitted = match admitted {
            Some(admitted) => admitted,
            None => Admitted::from(self.config.join(&self.holder)?),
        };
        self.note(Whom::Server(admitted.server()));
        if self.is_stopping() {
            return Err(SessionEnd::Stopped);
        }
        self.view().state = "joining";
        let chosen_at = Instant::now();
        let wanted = self.hold.wanted();
        let Attached { link, welcome, channels, subscribed, taken: _taken } =
            admitted.attach(&self.config, wanted, store)?;
        let Channels { channels, fabric } = channels;
        self.standing.comes_through(subscribed.path);
        let told = subscribed.shards;
        log::info!("following {} over {fabric}, pullers: {}", self.config.primary, channels.len());
        let (kind, offered) = (channels[0].kind(), welcome.fabrics);
        if let Some(cores) = cores {
            stay_near(channels[0].numa_node(), cores);
        }
        let shares = Shares::new(store.shards().len(), channels.len());
        let puller = |(number, channel): (usize, Box<dyn Channel>)| {
            let (share, silence_max) = (shares.of(number), self.config.silence_max);
            self.prepared(Puller::new(channel, store.geometry(), share, welcome.memory, silence_max))
        };
        let mut pullers: Vec<Puller<'_>> = channels.into_iter().enumerate().map(puller).collect();
        let before = {
            let mut view = self.view();
            view.fabric = fabric;
            view.pullers = pullers.len();
            view.primary_version = Some(welcome.program_version);
            view.sessions += 1;
            view.counts
        };
        let mut subscriptions = Subscriptions::new(chosen_at);
        subscriptions.ask(told.iter().map(|told| told.shard).collect(), chosen_at);
        let mut session =
            Session { link, store, shares, subscriptions, before, kind, chosen_at, offered, has_told_discard: false };
        let ended = self.pull_on(&mut session, &mut pullers, told, watch);
        for (number, puller) in pullers.iter_mut().enumerate() {
            shares.of(number).for_each(|shard| puller.drop_lane(shard));
        }
        self.hold.let_go(ShardSet::all(store.shards().len()));
        if let Err(end @ (SessionEnd::TryPreferred | SessionEnd::Unfit(_))) = &ended {
            // So the primary's log can say why. It need not arrive.
            let words = Message::Refuse { why: Refusal::Leaves, words: end.to_string() };
            let _ = session.link.send(&words, Instant::now());
        }
        // The channels go before anything is waited for.
        drop(pullers);
        if let Err(end) = &ended
            && blame::is_of_fabric(end, &mut session.link, || self.is_stopping())
        {
            self.penalize(kind, &end.to_string());
        }
        ended
    }

    /// A fabric has failed that was connected.
    fn penalize(&self, kind: Kind, why: &str) {
        self.config.penalties.lock().failed(&self.config.primary, kind, why, Instant::now());
    }
}

/// Wait for so long, or until that is over. (What unparked this thread may have been a puller of
/// the session that has ended.)
fn rest(pause: Duration, is_over: impl Fn() -> bool) {
    let until = Instant::now() + pause;
    let mut left = pause;
    while !is_over() && !left.is_zero() {
        std::thread::park_timeout(left);
        left = until.saturating_duration_since(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_kept_by_a_thread_that_was_unparked_before() {
        let begun = Instant::now();
        std::thread::current().unpark();
        rest(Duration::from_millis(20), || false);
        assert!(begun.elapsed() >= Duration::from_millis(20));
        rest(Duration::from_secs(600), || true);
    }
}
