//! The cluster: who holds what, who decides, and how servers come by it.
//!
//! The **map** says which server is the primary of which shard, and which servers have replicas. It
//! is the only truth, and it is the order: a server that sees a map does what the map says of it
//! ([`duty`]), and reports what it has come to ([`report`]). Locators write the map, one of them at
//! a time, into a store with compare-and-swap. What a locator writes next is a pure function of the
//! map, of what servers report, and of the time. So a locator can end at any moment, and the next
//! one goes on.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`map`] | the map: its types, its text, what a valid one is |
//! | [`duty`] | what a map asks of one server |
//! | [`report`] | what a server tells a locator |
//! | [`assign`] | which server is to have which copies of which shards |
//! | [`decide`] | what the locator in charge decides: the next map, and why |
//! | [`wire`] | what servers, locators and operators say to one another |
//! | [`locator`] | the process that decides |
//! | [`client`] | an operator's side |
//! | [`observer`] | the side of whoever watches the map |
//! | [`member`] | a server's side: it does what the map asks of it, and reports |
//! | [`store`] | where the map is kept: a folder, or etcd |
//! | [`discovery`] | the map's servers, as clients of ElastiCache ask for them |

pub mod assign;
pub mod client;
pub mod decide;
pub mod discovery;
pub mod duty;
pub mod locator;
pub mod map;
pub mod member;
pub mod observer;
pub mod report;
pub mod store;
pub mod wire;
