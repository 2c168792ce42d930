//! `replication <order>`: orders to change this server's role, from clients on this host. What they mean is not known here.

use super::{Call, Engine, Outcome};
use crate::protocol::reply;
use std::io::Write;

/// Takes the words of an order.
pub type OrderTaker = Box<dyn Fn(&[u8]) -> Result<(), Refused> + Send + Sync>;

/// Why an order was not taken, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It makes no sense.
    Nonsense(String),
    /// Not now.
    Busy(String),
}

const NOT_LOCAL: &[u8] = b"CLIENT_ERROR replication orders are taken from this host only\r\n";

impl Engine {
    /// Who takes the orders; once.
    pub fn set_order_taker(&self, taker: OrderTaker) {
        assert!(self.orders.set(taker).is_ok(), "who takes orders is set once");
    }

    /// OK means that the order was accepted, not that it has been carried out: `stats replication` shows that.
    pub(super) fn order(&self, call: &mut Call<'_, '_, '_>, order: &[u8]) -> Outcome {
        let Some(taker) = self.orders.get() else { return call.answer(reply::ERROR) };
        if !call.context.client.is_local() {
            return call.answer(NOT_LOCAL);
        }
        let Err(refused) = taker(order) else { return call.answer(reply::OK) };
        let (kind, why) = match &refused {
            Refused::Nonsense(why) => ("CLIENT_ERROR", why),
            Refused::Busy(why) => ("SERVER_ERROR", why),
        };
        write!(call.out.bytes(), "{kind} {why}\r\n").expect("writing to a Vec cannot fail");
        Outcome::Done
    }
}
