//! Replication between real processes, and what goes wrong with it: cuts at every step, processes that stop or die, peers that lie. Each wait is
//! bounded, generously: nothing here judges how long something took, only that it comes.
//!
//! | file | what is tested |
//! | --- | --- |
//! | follow.rs | a replica shows what its primary holds, and refuses every write |
//! | joining.rs | replicas that come and go under full write load, and leave nothing behind |
//! | cuts.rs | control connections that are cut or stall, at every step |
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

mod acks;
mod chain;
mod chain_retain;
mod cuts;
mod follow;
mod forged;
mod impostor;
mod joining;
mod lies;
mod orders;
mod push;
mod restarts;
mod roles;
mod secrets;
mod stalls;
mod strangers;
mod within;
mod writers;
