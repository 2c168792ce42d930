//! Replication between real processes, and what goes wrong with it: cuts at every step, processes
//! that stop or die, peers that lie. Each wait is bounded, generously: nothing here judges how long
//! something took, only that it comes.
//!
//! | file | what is tested |
//! | --- | --- |
//! | follow.rs | a replica shows what its primary holds, and refuses every write |
//! | forwarding.rs | requests that other servers forward to the owner of their shards |
//! | joining.rs | replicas that come and go under full write load, and leave nothing behind |
//! | cuts.rs | control connections that are cut or stall, at every step |
//! | counted.rs | slow replicas under acknowledged writes |
//! | crowds.rs | strangers that take every place at the replication port |
//! | elsewhere.rs | peers of other hosts, who must not choose sockets of this one |
//! | memory.rs | memory that changes while it serves |
//! | names.rs | name servers that say nothing |
//! | places.rs | as many replicas as there are places for, and one more |
//! | operators.rs | who may give orders, and over which socket |
//! | stalls.rs | processes that stand still for a while |
//! | chain.rs | replicas of replicas |
//! | chain_retain.rs | writers that wait for a slow replica |
//! | restarts.rs | processes that die |
//! | fallback.rs | fabrics that fail: the next one is used, and they are used again once they work |
//! | early.rs | a replica that is started before its primary |
//! | lineage.rs | primaries of another lineage: a replica that holds data refuses them |
//! | acks.rs | acknowledged writes |
//! | pullers.rs | replicas that pull with several threads |
//! | push.rs | replicas that are pushed to |
//! | reads.rs | reads from replicas: tokens of positions, how far behind a replica may be |
//! | shards.rs | as many shards as there can be, most of which sleep |
//! | shutdown.rs | what is answered before the end of a primary reaches its replicas |
//! | secrets.rs | who is let in |
//! | strangers.rs | whatever else comes to the replication port |
//! | subscriptions.rs | shards that are subscribed to one by one, and a server that has begun in some |
//! | unfit.rs | single shards that cannot follow: the others go on |
//! | versions.rs | peers that speak another version of the protocol |
//! | handover.rs | shards that are handed over, and heirs that give up or are gone |
//! | roles.rs | a replica is promoted, others move over, the old primary comes back |
//! | roles_by_shard.rs | servers that are the primary of some shards and replicas in others |
//! | orders_by_shard.rs | orders about some shards: what they change, what they leave as it is, what is refused |
//! | through.rs | every key at every server: what clients see who ask a server for what is another one's |
//! | through_parts.rs | the same where one answer has parts of several servers, some of which fail or wait |
//! | within.rs | the same within this process, where turns and handshakes hang when told to |
//! | unlocked.rs | nothing that holds a lock writes to the log |
//! | orders.rs | what is refused of `remora ctl`, and in which words |
//! | impostor.rs | a primary that lies, to a replica's process; tests/simulated/pull has lies for the pull loop alone, many times |

mod acks;
mod between;
mod chain;
mod chain_retain;
mod counted;
mod crowds;
mod cuts;
mod early;
mod elsewhere;
mod fallback;
mod follow;
mod forwarding;
mod handover;
mod impostor;
mod joining;
mod lineage;
mod memory;
mod names;
mod operators;
mod orders;
mod orders_by_shard;
mod places;
mod pullers;
mod push;
pub mod reads;
mod restarts;
mod roles;
mod roles_by_shard;
mod secrets;
mod shards;
mod shutdown;
mod stalls;
mod strangers;
mod subscriptions;
pub mod through;
mod through_parts;
mod unfit;
mod unlocked;
mod versions;
mod within;
pub mod writers;
