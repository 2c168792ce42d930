//! What happens to a cluster, by seed. Each chain has its own deck of faults.
//!
//! With K=1 one server may be lost at a time. So no fault takes the data of more than one: beside a
//! server that is killed another one may stand still, which keeps what it has.

use super::hosts::Way;
use super::site::{LOCATOR, Site};
use fastrand::Rng;
use std::time::Duration;

/// From here on a primary that is silent is certainly replaced, in leases.
const REPLACED_AFTER: u64 = 2;

/// What happens, whichever server it happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// kill -9, and a new process after some time.
    Kill,
    /// The same, within 100 ms, as a supervisor does.
    Restart,
    /// SIGSTOP for less than a lease.
    PauseShort,
    /// For about a lease.
    PauseLease,
    /// For some leases.
    PauseLong,
    /// No packet comes or goes.
    Cut,
    /// It sends none.
    CutOut,
    /// It gets none.
    CutIn,
    /// None between it and the locator.
    CutLocator,
    /// The locator is killed, and comes back.
    KillLocator,
    /// The locator stands still.
    PauseLocator,
    /// A server is killed and comes back at once, while another one stands still.
    RestartBesidePause,
}

/// All of them.
pub const KINDS: [Kind; 12] = [
    Kind::Kill,
    Kind::Restart,
    Kind::PauseShort,
    Kind::PauseLease,
    Kind::PauseLong,
    Kind::Cut,
    Kind::CutOut,
    Kind::CutIn,
    Kind::CutLocator,
    Kind::KillLocator,
    Kind::PauseLocator,
    Kind::RestartBesidePause,
];

/// Those of a short run.
pub const KINDS_SHORT: [Kind; 6] =
    [Kind::Restart, Kind::PauseLong, Kind::CutIn, Kind::CutLocator, Kind::KillLocator, Kind::RestartBesidePause];

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Restart => "restart",
            Kind::PauseShort => "pause-short",
            Kind::PauseLease => "pause-lease",
            Kind::PauseLong => "pause-long",
            Kind::Cut => "cut",
            Kind::CutOut => "cut-out",
            Kind::CutIn => "cut-in",
            Kind::CutLocator => "cut-locator",
            Kind::KillLocator => "kill-locator",
            Kind::PauseLocator => "pause-locator",
            Kind::RestartBesidePause => "restart-beside-pause",
        }
    }

    /// A process of the server ends by it.
    pub fn kills(self) -> bool {
        matches!(self, Kind::Kill | Kind::Restart | Kind::RestartBesidePause)
    }

    /// The server stands still for so long that another one takes its shards.
    pub fn stops(self) -> bool {
        self == Kind::PauseLong
    }
}

/// A fault, as it is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub kind: Kind,
    pub victim: usize,
    /// Who stands still beside it, where one does.
    pub other: usize,
    pub milliseconds: u64,
}

impl Fault {
    /// The victim is one of those that were killed least: who dies again and again is held out.
    pub fn draw(kind: Kind, lease: u64, deaths: &[u32], random: &mut Rng) -> Fault {
        let least = deaths.iter().min().copied().unwrap_or(0);
        let may_be: Vec<usize> = (0..deaths.len()).filter(|server| !kind.kills() || deaths[*server] == least).collect();
        let victim = may_be[random.usize(..may_be.len())];
        let other = (victim + random.usize(1..deaths.len())) % deaths.len();
        let range = match kind {
            Kind::Kill => 100..3000,
            Kind::Restart => 0..100,
            Kind::PauseShort => lease / 10..lease * 7 / 10,
            Kind::PauseLease => lease * 8 / 10..lease * 13 / 10,
            Kind::PauseLong => lease * REPLACED_AFTER..lease * 5,
            Kind::Cut | Kind::CutOut | Kind::CutIn | Kind::CutLocator => lease / 5..lease * 4,
            Kind::KillLocator => 0..lease * 3,
            Kind::PauseLocator => lease / 10..lease * 3,
            Kind::RestartBesidePause => lease * REPLACED_AFTER..lease * 4,
        };
        Fault { kind, victim, other, milliseconds: random.u64(range) }
    }

    /// Who may be without a lease by it, and is the primary in its own eyes. Without `strong`
    /// consistency such a server answers reads.
    pub fn away(self) -> Option<usize> {
        match self.kind {
            Kind::PauseLease | Kind::PauseLong | Kind::Cut | Kind::CutOut | Kind::CutIn | Kind::CutLocator => {
                Some(self.victim)
            }
            Kind::RestartBesidePause => Some(self.other),
            Kind::Kill | Kind::Restart | Kind::PauseShort | Kind::KillLocator | Kind::PauseLocator => None,
        }
    }

    /// Have it happen, and be over.
    /// `begun` is called once the server is gone.
    pub fn happen(self, site: &mut Site, random: &mut Rng, begun: impl Fn()) {
        let (victim, host, milliseconds) = (self.victim, Site::host(self.victim), self.milliseconds);
        let wait = || std::thread::sleep(Duration::from_millis(milliseconds));
        match self.kind {
            Kind::Kill | Kind::Restart => {
                site.kill(victim);
                begun();
                wait();
                site.start(victim);
            }
            Kind::PauseShort | Kind::PauseLease | Kind::PauseLong => {
                site.signal(Some(victim), "STOP");
                begun();
                wait();
                site.signal(Some(victim), "CONT");
            }
            Kind::Cut => site.cut_for(host, Way::Both, milliseconds),
            Kind::CutOut => site.cut_for(host, Way::Out, milliseconds),
            Kind::CutIn => site.cut_for(host, Way::In, milliseconds),
            Kind::CutLocator => site.cut_for(host, Way::With(LOCATOR), milliseconds),
            Kind::KillLocator => {
                site.kill_locator();
                wait();
                site.start_locator();
            }
            Kind::PauseLocator => {
                site.signal(None, "STOP");
                wait();
                site.signal(None, "CONT");
            }
            Kind::RestartBesidePause => {
                // Meanwhile writes are acknowledged that the one that stands still has not.
                site.signal(Some(self.other), "STOP");
                std::thread::sleep(Duration::from_millis(random.u64(0..site.setting.policy.lease_ms / 2)));
                site.kill(victim);
                begun();
                site.start(victim);
                wait();
                site.signal(Some(self.other), "CONT");
            }
        }
    }
}
