//! What clients are told of the cluster that this server is a part of: `config get cluster`,
//! `config get map`, and what hello is about.
//!
//! Who knows the map is not known here: it is given ([`Cluster`]).

use super::{Call, Engine, Outcome};
use crate::protocol::reply::Fault;
use crate::protocol::request::Discovery;
use crate::protocol::text::hello::{Owner, Standing};
use crate::protocol::{Refusal, Reply};
use std::sync::Arc;

/// Who knows the map of this server's cluster.
pub trait Cluster: Send + Sync {
    /// The version of the latest map; 0: there is none yet. Asked for each request of some
    /// connections, so it takes no lock.
    fn map_version(&self) -> u64;

    /// The cluster's id and the version of the latest map. A version that
    /// [`Cluster::map_version`] tells later is never lower.
    fn map(&self) -> Option<(String, u64)>;

    /// The whole answer to this question; None before there is a map.
    fn tell(&self, what: Discovery) -> Option<Arc<str>>;

    /// The shard's primary, where that is alive and another server.
    fn owner(&self, shard: u32) -> Option<Owner>;
}

/// This server among others.
pub(super) struct Place {
    name: String,
    cluster: Option<Box<dyn Cluster>>,
}

impl Engine {
    /// This server's name, and who knows the map of its cluster, where it is a part of one; once.
    pub fn set_place(&self, name: String, cluster: Option<Box<dyn Cluster>>) {
        assert!(self.place.set(Place { name, cluster }).is_ok(), "the place of a server is set once");
    }

    /// Who knows the map of this server's cluster; None where it is a part of none.
    pub fn cluster(&self) -> Option<&dyn Cluster> {
        self.place.get()?.cluster.as_deref()
    }

    /// What this server says of itself to who says hello.
    pub fn standing(&self) -> Standing {
        let (cluster, map_version) = self.cluster().and_then(Cluster::map).unzip();
        Standing {
            cluster,
            map_version: map_version.unwrap_or(0),
            server: self.place.get().map_or_else(String::new, |place| place.name.clone()),
            shards: self.store.shards().len(),
        }
    }

    /// hello: what the client asks for is its connection's to keep. There is none over UDP.
    pub(super) fn hello(call: &mut Call<'_, '_, '_>) -> Outcome {
        if call.context.client.stays() { Outcome::Hello } else { call.refused(Reply::Text, Refusal::BadHello) }
    }

    /// config get. Unknown where there is no cluster, as to memcached.
    pub(super) fn discover(&self, call: &mut Call<'_, '_, '_>, what: Discovery, reply: Reply) -> Outcome {
        let Some(cluster) = self.cluster() else { return call.refused(reply, Refusal::UnknownCommand) };
        match cluster.tell(what) {
            Some(answer) => call.out.bytes().extend_from_slice(answer.as_bytes()),
            None => {
                let why = "no locator has told this server of its cluster yet; ask another one, or try again";
                reply.refused_because(call.out.bytes(), Fault::Server, why);
            }
        }
        Outcome::Done
    }
}
