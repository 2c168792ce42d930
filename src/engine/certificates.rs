//! Of certificates that clients are shown: what the server tells of them, and refresh_certs. The
//! files are the server's ([`super::Host`]).

use super::{Call, Outcome};
use crate::protocol::answer::Done;
use crate::protocol::reply::Fault;
use crate::protocol::{Refusal, Reply};

/// Of the server's certificate.
#[derive(Debug, Clone, Copy)]
pub struct CertificateTimes {
    /// Seconds since it was read.
    pub age_seconds: u32,
    /// The last second in which it is good, since 1970; None where it does not tell.
    pub expires_at: Option<i64>,
}

/// How far the reading of certificates has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Not to its end: ask again with this ticket, which is not 0.
    UnderWay(u32),
    /// New connections have them, or why they could not be read.
    Done(Result<(), String>),
}

/// refresh_certs. The answer says what came of it, so the request is parked while the files are
/// read; it resumes with its ticket.
#[cold]
pub(super) fn refresh(call: &mut Call<'_, '_, '_>, reply: Reply, resume: u32) -> Outcome {
    let why = match call.context.host.refresh_certificates((resume > 0).then_some(resume)) {
        None => return call.refused(reply, Refusal::UnknownCommand),
        Some(Refresh::Done(Ok(()))) => return call.done(reply, Done::Ok),
        Some(Refresh::UnderWay(ticket)) if !call.last_try => return Outcome::Park(ticket),
        Some(Refresh::UnderWay(_)) => "the files are still being read; if that fails, the log will say why".into(),
        Some(Refresh::Done(Err(why))) => why,
    };
    reply.refused_because(call.out.bytes(), Fault::Server, why);
    Outcome::Done
}
