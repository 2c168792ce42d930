//! Replication between real processes, and what goes wrong with it: cuts at every step, processes that stop or die, peers that lie. Each wait is
//! bounded, generously: nothing here judges how long something took, only that it comes.
//!
//! | file | what is tested |
//! | --- | --- |
//! | follow.rs | a replica shows what its primary holds, and refuses every write |
//! | joining.rs | replicas that come and go under full write load, and leave nothing behind |
//! | cuts.rs | control connections that are cut or stall, at every step |
//! | crowds.rs | strangers that take every place at the replication port |
//! | elsewhere.rs | peers of other hosts, who must not choose sockets of this one |
//! | names.rs | name servers that say nothing |
//! | operators.rs | who may give orders, and over which socket |
//! | stalls.rs | processes that stand still for a while |
//! | chain.rs | replicas of replicas |
//! | chain_retain.rs | writers that wait for a slow replica |
//! | restarts.rs | processes that die |
//! | acks.rs | acknowledged writes |
//! | push.rs | replicas that are pushed to |
//! | secrets.rs | who is let in |
//! | strangers.rs | whatever else comes to the replication port |
//! | roles.rs | a replica is promoted, others move over, the old primary comes back |
//! | within.rs | the same within this process, where turns and handshakes hang when told to |
//! | orders.rs | what is refused of `remora ctl`, and in which words |
//! | impostor.rs | a primary that lies, to a replica's process |
//! | lies.rs | the same to the pull loop alone, many times |

mod support;

#[path = "replication/acks.rs"]
mod acks;
#[path = "replication/chain.rs"]
mod chain;
#[path = "replication/chain_retain.rs"]
mod chain_retain;
#[path = "replication/crowds.rs"]
mod crowds;
#[path = "replication/cuts.rs"]
mod cuts;
#[path = "replication/elsewhere.rs"]
mod elsewhere;
#[path = "replication/follow.rs"]
mod follow;
#[path = "replication/forged.rs"]
mod forged;
#[path = "replication/impostor.rs"]
mod impostor;
#[path = "replication/joining.rs"]
mod joining;
#[path = "replication/lies.rs"]
mod lies;
#[path = "replication/names.rs"]
mod names;
#[path = "replication/node.rs"]
mod node;
#[path = "replication/operators.rs"]
mod operators;
#[path = "replication/orders.rs"]
mod orders;
#[path = "replication/proxy.rs"]
mod proxy;
#[path = "replication/push.rs"]
mod push;
#[path = "replication/restarts.rs"]
mod restarts;
#[path = "replication/roles.rs"]
mod roles;
#[path = "replication/secrets.rs"]
mod secrets;
#[path = "replication/stalls.rs"]
mod stalls;
#[path = "replication/strangers.rs"]
mod strangers;
#[path = "replication/within.rs"]
mod within;
#[path = "replication/writers.rs"]
mod writers;
