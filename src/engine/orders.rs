//! `replication <order>`: orders to change this server's role. This file decides, by where an order
//! comes from, whether it may be given. The order taker knows what it means.

use super::{Call, Engine, Origin, Outcome};
use crate::protocol::reply;
use std::io::Write;

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

const NOT_BY_CONTROL_SOCKET: &[u8] = b"CLIENT_ERROR replication orders are taken from the control socket only: \
    use remora ctl on the server's host, as its user or root; or start the server with --orders-from-loopback\r\n";
const NOT_LOCAL: &[u8] = b"CLIENT_ERROR replication orders are taken from this host only: use remora ctl there\r\n";

impl Engine {
    /// Who takes the orders, and what a client must be to give them; once.
    pub fn set_order_taker(&self, from: Origin, taker: OrderTaker) {
        assert!(self.orders.set(Orders { taker, from }).is_ok(), "who takes orders is set once");
    }

    /// OK means that the order was accepted, not that it has been carried out: `stats replication`
    /// shows that.
    pub(super) fn order(&self, call: &mut Call<'_, '_, '_>, order: &[u8]) -> Outcome {
        let Some(orders) = self.orders.get() else { return call.answer(reply::ERROR) };
        if call.context.client.origin() < orders.from {
            return call.answer(if orders.from == Origin::ControlSocket { NOT_BY_CONTROL_SOCKET } else { NOT_LOCAL });
        }
        let Err(refused) = (orders.taker)(order) else { return call.answer(reply::OK) };
        let (kind, why) = match &refused {
            Refused::Nonsense(why) => ("CLIENT_ERROR", why),
            Refused::Busy(why) => ("SERVER_ERROR", why),
        };
        write!(call.out.bytes(), "{kind} {why}\r\n").expect("writing to a Vec cannot fail");
        Outcome::Done
    }
}
