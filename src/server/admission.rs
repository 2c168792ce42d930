//! Whom a connection's requests are from, and what a client must say first where the server wants
//! to know that: a token in the text protocol (`-Y`), or SASL in the binary one (`-S`). Until then
//! nothing is executed for it, and of what it sends no more is held than one read brings.
//!
//! SASL may be spoken later as well. As in memcached, a user who asks for the mechanisms, or tries
//! to say once more who it is, is a stranger again. A connection is known once: no
//! attempt that follows is right.

use super::Shared;
use super::connection::Connection;
use super::service::Service;
use super::state::State;
use super::users::Means;
use crate::engine::Output;
use crate::protocol::Protocol;
use crate::protocol::Refusal;
use crate::protocol::binary::sasl::{self, Ask};
use crate::protocol::binary::{Head, encode};
use crate::protocol::text::credentials::{Offered, WELCOME, WRONG, offered};
use std::sync::Arc;

/// Whose requests they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Nobody in particular: the server does not ask, or it has asked the kernel (an operator).
    Anybody,
    /// Somebody who is to say who that is, and has not said it.
    Stranger,
    /// A user of the file of -Y, by name.
    User(Arc<str>),
}

/// How far a connection has come with SASL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sasl {
    /// Not begun, or begun in vain.
    #[default]
    Unbegun,
    /// A mechanism has been named; its message is still to come.
    Begun,
    /// The client was known: this connection's exchange is over.
    Over,
}

impl Principal {
    /// Of a new connection. Operators are let in by what the kernel says of them.
    pub fn of_newcomer(shared: &Shared, is_operator: bool) -> Principal {
        if shared.config.users.is_some() && !is_operator { Principal::Stranger } else { Principal::Anybody }
    }

    /// Whether nothing may be executed.
    #[inline]
    pub fn is_stranger(&self) -> bool {
        matches!(self, Principal::Stranger)
    }
}

/// Whether what a connection goes on with is for [`Service::admit`] to look at.
pub fn is_to_admit(shared: &Shared, principal: &Principal, protocol: Protocol, input: &[u8]) -> bool {
    let by_sasl = shared.config.asks_by(Means::Sasl) && protocol == Protocol::Binary;
    principal.is_stranger() || (by_sasl && sasl::is_sasl(input))
}

impl Service<'_> {
    /// Look at the next command of a stranger, or at one of SASL's. One in a turn: whoever tries
    /// many has the others served in between.
    #[cold]
    pub(super) fn admit(
        &mut self,
        connection: &mut Connection,
        protocol: Protocol,
        input: &[u8],
        output: &mut Output,
    ) -> (usize, State) {
        match protocol {
            Protocol::Text => self.admit_by_token(connection, input, output),
            Protocol::Binary => self.admit_by_sasl(connection, input, output),
        }
    }

    fn admit_by_token(&mut self, connection: &mut Connection, input: &[u8], output: &mut Output) -> (usize, State) {
        let (answer, bytes) = match offered(input) {
            Offered::Incomplete { wanted_bytes } => {
                connection.progress.wanted_bytes = wanted_bytes;
                return (0, State::Reading);
            }
            Offered::Nonsense => return (input.len(), State::Ending { lingers: false }),
            Offered::Refused { answer, bytes } => (answer, bytes),
            Offered::Credentials { user, password, bytes } => (self.try_password(connection, user, password), bytes),
        };
        output.bytes().extend_from_slice(answer);
        (bytes, go_on(connection, Protocol::Text, bytes == input.len()))
    }

    fn try_password(&mut self, connection: &mut Connection, user: &[u8], password: &[u8]) -> &'static [u8] {
        let name = self.find(Some((user, password)));
        if welcome(connection, name) { WELCOME } else { WRONG }
    }

    fn admit_by_sasl(&mut self, connection: &mut Connection, input: &[u8], output: &mut Output) -> (usize, State) {
        let bytes = match sasl::offered(input) {
            sasl::Offered::Incomplete { wanted_bytes } => {
                connection.progress.wanted_bytes = wanted_bytes;
                return (0, State::Reading);
            }
            sasl::Offered::Nonsense => return (input.len(), State::Ending { lingers: false }),
            sasl::Offered::Refused { head, refusal, bytes } => {
                encode::refused(output.bytes(), head, refusal);
                let Some(bytes) = bytes else { return (input.len(), State::Ending { lingers: true }) };
                bytes
            }
            sasl::Offered::Asked { head, ask, bytes } => {
                self.answer(connection, head, ask, output.bytes());
                bytes
            }
        };
        (bytes, go_on(connection, Protocol::Binary, bytes == input.len()))
    }

    fn answer(&mut self, connection: &mut Connection, head: Head, ask: Ask<'_>, out: &mut Vec<u8>) {
        if ask != Ask::Version {
            // A user who asks for anything of SASL's is a stranger again, until it is known anew.
            connection.principal = Principal::of_newcomer(self.shared, connection.is_operator);
            connection.view.set_user(None);
        }
        let begun = connection.sasl;
        let message = match ask {
            Ask::Version => return encode::version(out, head),
            Ask::Mechanisms => return encode::mechanisms(out, head),
            Ask::Begin { mechanism, .. } if !mechanism.eq_ignore_ascii_case(sasl::PLAIN) => None,
            Ask::Begin { message: b"", .. } => {
                if begun == Sasl::Unbegun {
                    connection.sasl = Sasl::Begun;
                }
                return encode::go_on(out, head);
            }
            Ask::Begin { message, .. } => Some(message).filter(|_| begun != Sasl::Over),
            Ask::Step { message } => Some(message).filter(|_| begun == Sasl::Begun),
        };
        let name = self.find(message.and_then(sasl::plain));
        if welcome(connection, name) {
            connection.sasl = Sasl::Over;
            return encode::welcome(out, head);
        }
        if matches!(ask, Ask::Begin { .. }) && begun == Sasl::Begun {
            connection.sasl = Sasl::Unbegun;
        }
        encode::refused(out, head, Refusal::Unauthenticated);
    }

    /// The user of this name and password. Counts the attempt.
    fn find(&mut self, offered: Option<(&[u8], &[u8])>) -> Option<Arc<str>> {
        self.stats.auth_cmds.increment();
        let users = self.shared.config.users.as_ref();
        let name = offered.zip(users).and_then(|((user, password), users)| users.find(user, password));
        if name.is_none() {
            self.stats.auth_errors.increment();
        }
        name
    }
}

/// The connection's client is this user, if it is one.
fn welcome(connection: &mut Connection, name: Option<Arc<str>>) -> bool {
    let Some(name) = name else { return false };
    connection.view.set_user(Some(name.clone()));
    connection.principal = Principal::User(name);
    true
}

/// What follows once something has been looked at. A stranger has not opened: nothing looks at what
/// it sends but [`Service::admit`].
fn go_on(connection: &mut Connection, protocol: Protocol, is_all: bool) -> State {
    connection.progress.protocol = (!connection.principal.is_stranger()).then_some(protocol);
    if is_all { State::Reading } else { State::Yielded }
}
