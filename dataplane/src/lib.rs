//! The packet path of Bulkhead, in the order a packet meets it.
//!
//! Pure modules (`headers`, `connection`, `policy`, `topology`, `pipeline`) know neither sockets nor clocks nor
//! names; `worker` and `engine` are the shell around them.

pub mod answer;
pub mod connection;
pub mod headers;
pub mod packet;
pub mod policy;
pub mod rewrite;
pub mod steering;
pub(crate) mod sync;
pub mod topology;
pub mod verdict;
pub mod wire;
