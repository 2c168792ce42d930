//! Whom a connection's requests are from, and the first thing that a client must say where the
//! server wants to know that (`-Y`). Until then nothing is executed for it, and no more is held of
//! what it sends than one attempt.

use super::Shared;
use super::connection::Connection;
use super::service::Service;
use super::state::State;
use crate::engine::Output;
use crate::protocol::Protocol;
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

impl Service<'_> {
    /// Look at the first command of a stranger. One attempt in a turn: whoever tries many has the
    /// others served in between.
    #[cold]
    pub(super) fn admit(
        &mut self,
        connection: &mut Connection,
        protocol: Protocol,
        input: &[u8],
        output: &mut Output,
    ) -> (usize, State) {
        let (answer, bytes) = match offered(input) {
            Offered::Incomplete { wanted_bytes } => {
                connection.progress.wanted_bytes = wanted_bytes;
                return (0, State::Reading);
            }
            Offered::Nonsense => return (input.len(), State::Ending { lingers: false }),
            Offered::Refused { answer, bytes } => (answer, bytes),
            Offered::Credentials { user, password, bytes } => (self.try_password(connection, user, password), bytes),
        };
        // A stranger has not opened: nothing looks at what it sends but this.
        connection.progress.protocol = (!connection.principal.is_stranger()).then_some(protocol);
        output.bytes().extend_from_slice(answer);
        (bytes, if bytes == input.len() { State::Reading } else { State::Yielded })
    }

    fn try_password(&mut self, connection: &mut Connection, user: &[u8], password: &[u8]) -> &'static [u8] {
        self.stats.auth_cmds.increment();
        let users = self.shared.config.users.as_ref();
        let Some(name) = users.and_then(|users| users.find(user, password)) else {
            self.stats.auth_errors.increment();
            return WRONG;
        };
        connection.view.set_user(name.clone());
        connection.principal = Principal::User(name);
        WELCOME
    }
}
