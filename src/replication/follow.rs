//! The replica's side: a thread that is admitted at the primary, pulls until something fails, says what, and tries again, ever more slowly up to a
//! bound. Between two sessions the replica goes on serving what it has.

use super::attach::{AttachError, Identity, Joined, PREFERENCE, attach, attach_pushed, join};
use super::link::{Link, LinkError};
use super::pace::Pace;
use super::pull::{Counts, PullError, Puller, Step};
use super::push::Mode;
use super::report::{FollowView, Report};
use super::secret::Secret;
use super::wire::{Message, Refusal, Welcome};
use super::{HANDSHAKE_WAIT_MAX, HEARTBEAT};
use crate::base::epoch::Epoch;
use crate::fabric::{ConnectOptions, FabricError, Kind};
use crate::store::Store;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The first pause after a failure, and the longest.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(50);
/// See [`RETRY_PAUSE_MIN`].
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A session that lasted so long was no failure: the next pause is the shortest again.
const SESSION_GOOD: Duration = Duration::from_secs(10);
/// How often the control connection and the report are looked after while pulling.
const CHORES: Duration = Duration::from_millis(100);
/// Messages heard at a time: more than come in that time from a primary that is one.
const MESSAGES_MAX: usize = 16;
/// Longest wait for the thread's end; a handshake may take longer.
const END_WAIT_MAX: Duration = Duration::from_secs(1);
/// Longest wait for READs within one step.
const STEP_WAIT: Duration = Duration::from_millis(10);

/// Whom to follow, and how.
#[derive(Debug, Clone)]
pub struct FollowConfig {
    /// The primary's replication port, HOST:PORT.
    pub primary: String,
    /// What the primary wants, and must have.
    pub secret: Secret,
    /// Fabrics to try, in this order.
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
}

impl FollowConfig {
    /// The fabrics of auto.
    pub fn any_fabric() -> Vec<Kind> {
        PREFERENCE.to_vec()
    }
}

/// Be admitted for the first time, trying for `patience`; the welcome says what store to make.
pub fn first_join(config: &FollowConfig, patience: Duration) -> Result<Joined, AttachError> {
    let until = Instant::now() + patience;
    let mut pause = RETRY_PAUSE_MIN;
    loop {
        match join(&config.primary, &config.secret, &config.identity) {
            Ok(joined) => return Ok(joined),
            // What the primary says to a replica that it knows is final; what stands in the way to it may pass.
            Err(error) if Instant::now() + pause >= until || error.is_final() => return Err(error),
            Err(error) => log::warn!("{error}; trying again"),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
}

impl AttachError {
    /// Trying again is no use before somebody changes something.
    fn is_final(&self) -> bool {
        match self {
            AttachError::Impostor(_) | AttachError::Link(_, LinkError::Wire(_)) => true,
            // Of these there are fewer later.
            AttachError::Link(_, LinkError::Refused(why, _)) => {
                !matches!(why, Refusal::Busy | Refusal::Replaced | Refusal::Ending)
            }
            _ => false,
        }
    }
}

/// For each shard the epoch of what was applied last, None where there is nothing to go on from.
type Known = Vec<Option<Epoch>>;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error("{0}")]
    Attach(#[from] AttachError),
    #[error("control connection: {0}")]
    Link(#[from] LinkError),
    #[error("{0}")]
    Pull(#[from] PullError),
    #[error("{0}")]
    Fabric(#[from] FabricError),
    #[error("the primary's rings are laid out in another way than this replica's: restart the replica")]
    Geometry,
    #[error("asked to stop")]
    Stopped,
}

/// What is told to others while it runs.
pub struct Follow {
    config: FollowConfig,
    view: Mutex<FollowView>,
    stopping: AtomicBool,
}

/// The running thread; ends when dropped, or at the latest with the handshake that it is in.
pub struct Following {
    follow: Arc<Follow>,
    thread: Option<JoinHandle<()>>,
    /// Disconnected once the thread is done.
    ended: Receiver<()>,
}

impl Following {
    /// Begin with what [`first_join`] gave.
    pub fn start(config: FollowConfig, joined: Joined, store: Arc<Store>) -> std::io::Result<Following> {
        let mode = config.mode.name();
        let view = FollowView { primary: config.primary.clone(), state: "joining", mode, ..FollowView::default() };
        let follow = Arc::new(Follow { config, view: Mutex::new(view), stopping: AtomicBool::new(false) });
        let (running, (ending, ended)) = (follow.clone(), channel());
        let run = move || {
            running.run(joined, &store);
            drop::<Sender<()>>(ending);
        };
        let thread = std::thread::Builder::new().name("replica-pull".into()).spawn(run)?;
        Ok(Following { follow, thread: Some(thread), ended })
    }

    /// What it tells.
    pub fn follow(&self) -> &Arc<Follow> {
        &self.follow
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.follow.stopping.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            match self.ended.recv_timeout(END_WAIT_MAX) {
                Err(RecvTimeoutError::Disconnected) => drop(thread.join()),
                // In a handshake with a primary that says nothing. It touches the store no more.
                _ => {
                    log::warn!("replication from {}: not waiting for the primary's answer", self.follow.config.primary)
                }
            }
        }
    }
}

impl Report for Follow {
    fn rows(&self, emit: &mut dyn FnMut(&str, &str)) {
        self.view().rows(emit);
    }
}

impl Follow {
    /// Where it stands.
    pub fn snapshot(&self) -> FollowView {
        self.view().clone()
    }

    fn view(&self) -> MutexGuard<'_, FollowView> {
        self.view.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    fn run(&self, joined: Joined, store: &Store) {
        let mut joined = Some(joined);
        let mut known = vec![None; store.shards().len()];
        let mut pause = RETRY_PAUSE_MIN;
        while !self.is_stopping() {
            let begun_at = Instant::now();
            let next = match joined.take() {
                Some(joined) => Ok(joined),
                None => join(&self.config.primary, &self.config.secret, &self.config.identity),
            };
            if self.is_stopping() {
                return;
            }
            let end = match next {
                Ok(joined) => self.session(joined, store, &mut known),
                Err(error) => error.into(),
            };
            if matches!(end, SessionEnd::Stopped) {
                return;
            }
            if begun_at.elapsed() > SESSION_GOOD {
                pause = RETRY_PAUSE_MIN;
            }
            self.tell(&end);
            std::thread::park_timeout(pause);
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// Say why a session ended: once for each reason, not for each try.
    fn tell(&self, end: &SessionEnd) {
        let trouble = end.to_string();
        let mut view = self.view();
        if view.trouble != trouble {
            log::warn!("replication from {}: {trouble}; trying again", self.config.primary);
        }
        let refused =
            matches!(end, SessionEnd::Geometry) || matches!(end, SessionEnd::Attach(error) if error.is_final());
        view.state = if refused { "refused" } else { "connecting" };
        view.trouble = trouble;
        view.failed_tries += 1;
    }

    /// One admission, until it ends.
    fn session(&self, mut joined: Joined, store: &Store, known: &mut Known) -> SessionEnd {
        match self.pull(&mut joined, store, known) {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    fn pull(
        &self,
        joined: &mut Joined,
        store: &Store,
        known: &mut Known,
    ) -> Result<std::convert::Infallible, SessionEnd> {
        if joined.welcome.geometry != store.geometry() {
            return Err(SessionEnd::Geometry);
        }
        self.view().state = "joining";
        let FollowConfig { fabrics, options, pause_max, .. } = &self.config;
        let (channel, why) = match self.config.mode {
            Mode::Pull => attach(joined, fabrics, options)?,
            Mode::Push => attach_pushed(joined, fabrics, options, *pause_max)?,
        };
        if self.is_stopping() {
            return Err(SessionEnd::Stopped);
        }
        log::info!("following {} over {why}", self.config.primary);
        let Welcome { epochs, .. } = &joined.welcome;
        let mut puller = Puller::new(channel, store, epochs, known, self.config.silence_max)?;
        store.adopt_epochs(epochs.clone());
        let before = {
            let mut view = self.view();
            view.fabric = why;
            view.sessions += 1;
            view.counts
        };
        let ended = self.pull_on(&mut puller, &mut joined.link, &before);
        *known = puller.known();
        self.view().set(&before, &puller.counts(), puller.lag());
        ended
    }

    fn pull_on(
        &self,
        puller: &mut Puller<'_>,
        link: &mut Link,
        before: &Counts,
    ) -> Result<std::convert::Infallible, SessionEnd> {
        let mut pace = Pace::new(self.config.pause_max);
        let mut chores = Chores::new(self.config.silence_max);
        loop {
            let pause = match puller.step(STEP_WAIT)? {
                Step { applied: true, .. } => pace.applied(puller.lag().bytes),
                Step { moved: true, .. } => pace.moved(),
                Step { moved: false, .. } => pace.still(),
            };
            if !pause.is_zero() {
                std::thread::park_timeout(pause);
            }
            if chores.are_due() {
                if self.is_stopping() {
                    return Err(SessionEnd::Stopped);
                }
                if chores.attend(link)? {
                    puller.acknowledge()?;
                }
                let mut view = self.view();
                view.set(before, &puller.counts(), puller.lag());
                if puller.is_caught_up() {
                    view.state = "following";
                    view.trouble.clear();
                }
            }
        }
    }
}

/// The control connection of a pulling replica.
struct Chores {
    silence_max: Duration,
    due_at: Instant,
    heard_at: Instant,
    beat_at: Instant,
}

impl Chores {
    fn new(silence_max: Duration) -> Chores {
        let now = Instant::now();
        Chores { silence_max, due_at: now, heard_at: now, beat_at: now }
    }

    fn are_due(&mut self) -> bool {
        let now = Instant::now();
        let due = now >= self.due_at;
        if due {
            self.due_at = now + CHORES;
        }
        due
    }

    /// Hear what the primary has said, and say that we are here once a second: then true.
    fn attend(&mut self, link: &mut Link) -> Result<bool, LinkError> {
        for _ in 0..MESSAGES_MAX {
            match link.try_receive()? {
                Some(Message::Heartbeat) => self.heard_at = Instant::now(),
                Some(other) => return Err(LinkError::OutOfPlace(other.name())),
                None => break,
            }
        }
        let silence = self.heard_at.elapsed();
        if silence > self.silence_max {
            return Err(LinkError::Silent(silence));
        }
        let due = Instant::now() >= self.beat_at;
        if due {
            link.send(&Message::Heartbeat, Instant::now() + HANDSHAKE_WAIT_MAX)?;
            self.beat_at = Instant::now() + HEARTBEAT;
        }
        Ok(due)
    }
}
