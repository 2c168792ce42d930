//! What is said to the server as a whole: orders to change its role, questions about its cluster,
//! shutdown, cache_memlimit, verbosity, debugtime.
//!
//! An order (`replication <order>`) is taken or not by where it comes from; that is decided here.
//! The order taker knows what it means.

use super::{Call, Engine, Origin, Outcome};
use crate::base::time::ClockChange;
use crate::protocol::answer::Done;
use crate::protocol::reply::Fault;
use crate::protocol::{Refusal, Reply, Shutdown};
use crate::store::CannotResize;
use crate::sys::signals;

/// Takes the words of an order.
pub type OrderTaker = Box<dyn Fn(&[u8]) -> Result<(), Refused> + Send + Sync>;

/// Tells the servers of the cluster, as the answer to `config get cluster`; None before they are
/// known here.
pub type ServersTeller = Box<dyn Fn() -> Option<String> + Send + Sync>;

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

    /// Whether this server is one of a cluster: then its map says whose each shard is, and nothing
    /// is served of a shard that is nobody's here.
    pub fn is_of_cluster(&self) -> bool {
        self.servers.get().is_some()
    }

    /// Who tells of the servers of this server's cluster; once.
    pub fn set_servers_teller(&self, teller: ServersTeller) {
        assert!(self.servers.set(teller).is_ok(), "who tells of the servers is set once");
    }

    /// config get cluster. Unknown where there is no cluster, as to memcached.
    pub(super) fn discover(&self, call: &mut Call<'_, '_, '_>, reply: Reply) -> Outcome {
        let Some(teller) = self.servers.get() else { return call.refused(reply, Refusal::UnknownCommand) };
        match teller() {
            Some(answer) => call.out.bytes().extend_from_slice(answer.as_bytes()),
            None => {
                let why = "no locator has told this server of its cluster yet; ask another one, or try again";
                reply.refused_because(call.out.bytes(), Fault::Server, why);
            }
        }
        Outcome::Done
    }

    /// shutdown: what the signal does, SIGINT or SIGUSR1. The client is not answered.
    pub(super) fn shutdown(&self, call: &mut Call<'_, '_, '_>, mode: Shutdown, reply: Reply) -> Outcome {
        if !self.switches.shutdown {
            return call.refused(reply, Refusal::ShutdownOff);
        }
        let raised = match mode {
            Shutdown::Plain => signals::raise(signals::Ending::Int),
            Shutdown::Graceful => signals::raise(signals::Ending::Usr1),
            Shutdown::Unknown => return call.refused(reply, Refusal::ShutdownUnknown),
        };
        if let Err(error) = raised {
            log::warn!("a client's shutdown is not carried out: {error}; send the process SIGTERM");
        }
        Outcome::Close
    }

    /// cache_memlimit. More memory is reserved at once, up to --memory-max; less is had as reclaim
    /// comes by it. Refused where a shard has as much as its primary elsewhere says.
    pub(super) fn cache_memlimit(&self, call: &mut Call<'_, '_, '_>, mebibytes: u64, reply: Reply) -> Outcome {
        if let Some(closed) = self.store.first_closed() {
            return self.refuse_write(call, closed, reply);
        }
        let adjusted = mebibytes.checked_mul(1 << 20).ok_or(CannotResize::TooMuch);
        let adjusted = adjusted.and_then(|memory_bytes| self.store.set_memory(memory_bytes));
        if let Err(CannotResize::Closed(closed)) = adjusted {
            return self.refuse_write(call, closed, reply);
        }
        if let Err(why) = adjusted {
            log::info!("cache_memlimit {mebibytes} is refused: {why}");
            return call.refused(reply, Refusal::CannotAdjustMemory);
        }
        call.done(reply, Done::Ok)
    }
}

/// verbosity: 0 warnings and errors, 1 information, 2 and more debugging.
pub(super) fn verbosity(call: &mut Call<'_, '_, '_>, level: u32, reply: Reply) -> Outcome {
    log::set_max_level(match level {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Debug,
    });
    log::info!("a client has set verbosity to {level}");
    call.done(reply, Done::Ok)
}

/// debugtime: the same client's further commands see the new time at once, others from their
/// workers' next turns on.
pub(super) fn debugtime(call: &mut Call<'_, '_, '_>, change: ClockChange, reply: Reply) -> Outcome {
    match call.context.host.change_clock(change) {
        Some(now) => {
            call.context.now = now;
            call.done(reply, Done::Ok)
        }
        None => call.refused(reply, Refusal::UnknownCommand),
    }
}
