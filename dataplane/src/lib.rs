//! The packet path of Bulkhead.
//!
//! In the order in which a packet meets them: `steering`, `port`, `headers`, `sanity`, `fragments`, `connection`,
//! `policy`, `topology`, then `rewrite` or `answer`. The pure modules (`headers`, `sanity`, `fragments`, `connection`,
//! `policy`, `topology`, `rewrite`, `answer`, `pipeline`) know neither sockets nor clocks nor names; `worker` and
//! `engine` are the shell.

pub mod answer;
pub mod beside;
pub mod connection;
pub mod counters;
pub mod engine;
pub mod event;
pub mod fragments;
pub mod headers;
pub(crate) mod hold;
pub mod identity;
pub mod packet;
pub mod pipeline;
pub mod policy;
pub mod port;
pub(crate) mod quotes;
pub mod rewrite;
pub mod sanity;
pub mod snapshot;
pub mod steering;
pub(crate) mod sync;
pub mod topology;
pub(crate) mod trie;
pub mod verdict;
pub mod wire;
pub mod worker;
