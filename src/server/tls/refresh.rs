//! Certificates that clients ask to be read anew (refresh_certs): a thread reads them, which serves
//! nobody, since a disk may make it wait. It is there while somebody has asked.

use super::Tls;
use crate::engine::Refresh;
use std::sync::{Arc, PoisonError};

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
}

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
            let ticket = {
                let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                if asked.done == asked.ticket {
                    asked.is_reading = false;
                    return;
                }
                asked.ticket
            };
            let outcome = self.refresh().map_err(|error| error.to_string());
            match &outcome {
                Ok(()) => log::info!("refresh_certs: certificates have been read; new connections have them"),
                Err(why) => log::warn!("refresh_certs: {why}; the certificates stay"),
            }
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            (asked.done, asked.outcome) = (ticket, Some(outcome));
        }
    }
}
