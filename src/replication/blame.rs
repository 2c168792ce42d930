//! A data channel has failed: is it the fabric's fault, or is the primary gone, or has it ended the
//! session? The control connection knows, because it goes another way.

use super::HEARTBEAT;
use super::follow::SessionEnd;
use super::link::{Link, LinkError};
use super::wire::{Message, Refusal};
use std::time::{Duration, Instant};

/// Longest wait for a word of the primary's. It says one each second, and one may be late.
const WORD_WAIT_MAX: Duration = HEARTBEAT.saturating_mul(2);
/// How often whoever waits looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// Whether a session ended through its fabric's fault. `link` is its control connection.
pub(super) fn is_of_fabric(end: &SessionEnd, link: &mut Link, is_stopping: impl Fn() -> bool) -> bool {
    match end {
        SessionEnd::Fabric(_) | SessionEnd::Pull(_) => primary_goes_on(link, is_stopping),
        // The primary has said so before anything was seen of it here.
        SessionEnd::Link(LinkError::Refused(Refusal::Channel, _)) => true,
        _ => false,
    }
}

/// Whether the primary goes on, now that the data channel has failed: it says so, or a heartbeat
/// arrives after the failure was seen. An end of the connection, another refusal, and silence say
/// nothing against the fabric.
fn primary_goes_on(link: &mut Link, is_stopping: impl Fn() -> bool) -> bool {
    let until = Instant::now() + WORD_WAIT_MAX;
    // What was there before proves nothing.
    let heard_before = loop {
        match link.try_receive() {
            Ok(Some(_)) if Instant::now() < until => {}
            Ok(_) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let mut heard = heard_before.map(|()| None);
    while matches!(heard, Ok(None)) && Instant::now() < until && !is_stopping() {
        heard = match link.receive(until.min(Instant::now() + LOOK)) {
            Err(LinkError::Silent(_)) | Ok(Message::Unknown(_)) => Ok(None),
            heard => heard.map(Some),
        };
    }
    match heard {
        Ok(heard) => matches!(heard, Some(Message::Heartbeat(_))),
        Err(error) => matches!(error, LinkError::Refused(Refusal::Channel, _)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::Clocks;
    use super::super::link::tests::pair;
    use super::super::standing::Distance;
    use super::super::wire::Beat;
    use super::*;

    fn say(link: &mut Link, message: &Message) {
        link.send(message, Instant::now() + Duration::from_secs(10)).unwrap();
    }

    fn heartbeat() -> Message {
        Message::Heartbeat(Beat { distance: Distance::default(), stamp: Clocks::start().stamp(), path: Vec::new() })
    }

    #[test]
    fn a_primary_that_ends_the_session_or_is_gone_is_not_the_fabrics_fault() {
        for (why, goes_on) in [(Refusal::Channel, true), (Refusal::Ending, false), (Refusal::Replaced, false)] {
            let (mut primary, mut replica) = pair();
            say(&mut primary, &heartbeat());
            say(&mut primary, &Message::Unknown(200));
            say(&mut primary, &Message::Refuse { why, words: "over".into() });
            assert_eq!(primary_goes_on(&mut replica, || false), goes_on, "{why:?}");
        }
        let (mut primary, mut replica) = pair();
        say(&mut primary, &heartbeat());
        drop(primary);
        assert!(!primary_goes_on(&mut replica, || false), "its last heartbeat was there before");
    }

    #[test]
    fn a_heartbeat_of_later_shows_that_the_primary_goes_on() {
        let (mut primary, mut replica) = pair();
        let beats = std::thread::spawn(move || {
            // The other side may take any of them for one of before; the link's end ends this.
            while primary.send(&heartbeat(), Instant::now() + Duration::from_secs(10)).is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        assert!(primary_goes_on(&mut replica, || false));
        drop(replica);
        beats.join().unwrap();
    }

    #[test]
    fn silence_ends_and_so_does_who_is_to_stop() {
        let (_primary, mut replica) = pair();
        assert!(!primary_goes_on(&mut replica, || true));
        let begun = Instant::now();
        assert!(!primary_goes_on(&mut replica, || false));
        assert!(begun.elapsed() >= WORD_WAIT_MAX);
    }
}
