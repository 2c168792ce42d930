//! Certificates that clients ask to be read anew (refresh_certs): a thread reads them, which serves
//! nobody, since a disk may make it wait. It is there while somebody has asked.

use super::Tls;
use crate::engine::Refresh;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Who has asked, and what became of it.
#[derive(Default)]
pub(super) struct Asked {
    /// The last ticket that was given out.
    ticket: u32,
    /// All up to this one are done, as `outcome` says. Whoever asks while files are read has them
    /// read once more: they may have changed since.
    done: u32,
    outcome: Option<Result<(), String>>,
    is_reading: bool,
    /// When files were read last.
    read_at: Option<Instant>,
}

/// Files are read so often at most: whoever may connect may ask, and with new certificates all
/// sessions that could be resumed are forgotten.
const PAUSE: Duration = Duration::from_secs(1);

impl Tls {
    /// Have the files read anew; with the `ticket` of an earlier call, what has become of that.
    pub(in crate::server) fn refresh_apart(self: &Arc<Tls>, ticket: Option<u32>) -> Refresh {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = match ticket {
            Some(ticket) => ticket,
            None => {
                if !asked.is_reading {
                    let tls = Arc::clone(self);
                    let thread = std::thread::Builder::new().name("certificates".into());
                    if let Err(error) = thread.spawn(move || tls.read_while_asked()) {
                        return Refresh::Done(Err(format!(
                            "no thread to read certificates: {error}; raise `ulimit -u`"
                        )));
                    }
                    asked.is_reading = true;
                }
                if asked.ticket == u32::MAX {
                    (asked.ticket, asked.done) = (0, 0);
                }
                asked.ticket += 1;
                asked.ticket
            }
        };
        match &asked.outcome {
            Some(outcome) if asked.done >= ticket => Refresh::Done(outcome.clone()),
            _ => Refresh::UnderWay(ticket),
        }
    }

    fn read_while_asked(&self) {
        loop {
            let (ticket, pause) = {
                let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                if asked.done == asked.ticket {
                    asked.is_reading = false;
                    return;
                }
                (asked.ticket, asked.read_at.map_or(Duration::ZERO, |at| PAUSE.saturating_sub(at.elapsed())))
            };
            if !pause.is_zero() {
                std::thread::sleep(pause);
                continue;
            }
            let outcome = self.refresh().map_err(|error| error.to_string());
            match &outcome {
                Ok(()) => log::info!("refresh_certs: certificates have been read; new connections have them"),
                Err(why) => log::warn!("refresh_certs: {why}; the certificates stay"),
            }
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            (asked.done, asked.outcome, asked.read_at) = (ticket, Some(outcome), Some(Instant::now()));
        }
    }
}
