//! `replication <order>`: orders to change this server's role. This file decides, by where an order
//! comes from, whether it may be given. The order taker knows what it means.

use super::{Call, Engine, Origin, Outcome};
use crate::protocol::answer::Done;
use crate::protocol::reply::Fault;
use crate::protocol::{Refusal, Reply};

/// Takes the words of an order.
pub type OrderTaker = Box<dyn Fn(&[u8]) -> Result<(), Refused> + Send + Sync>;

/// Who takes orders, and from where.
pub(super) struct Orders {
    taker: OrderTaker,
    /// The least that a client must be.
    from: Origin,
}

/// Why an order was not taken, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It makes no sense.
    Nonsense(String),
    /// Not now.
    Busy(String),
}

impl Engine {
    /// Who takes the orders, and what a client must be to give them; once.
    pub fn set_order_taker(&self, from: Origin, taker: OrderTaker) {
        assert!(self.orders.set(Orders { taker, from }).is_ok(), "who takes orders is set once");
    }

    /// OK means that the order was accepted, not that it has been carried out: `stats replication`
    /// shows that.
    pub(super) fn order(&self, call: &mut Call<'_, '_, '_>, order: &[u8]) -> Outcome {
        let Some(orders) = self.orders.get() else { return call.refused(Reply::Text, Refusal::UnknownCommand) };
        if call.context.client.origin() < orders.from {
            return call.refused(
                Reply::Text,
                match orders.from {
                    Origin::ControlSocket => Refusal::OrdersByControlSocketOnly,
                    Origin::ThisHost | Origin::Elsewhere => Refusal::OrdersFromThisHostOnly,
                },
            );
        }
        let (fault, why) = match (orders.taker)(order) {
            Ok(()) => return call.done(Reply::Text, Done::Ok),
            Err(Refused::Nonsense(why)) => (Fault::Client, why),
            Err(Refused::Busy(why)) => (Fault::Server, why),
        };
        Reply::Text.refused_because(call.out.bytes(), fault, why);
        Outcome::Done
    }
}
