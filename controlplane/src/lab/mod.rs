//! Network laboratories for tests, demo and benches: namespaces, veth pairs, addresses, routes, neighbours and raw
//! frames, made over netlink without `ip`, `ethtool` or `nft`. Root only.
//!
//! Nothing is left behind: a namespace lives only as long as the descriptor of its [`Namespace`] (and the processes
//! inside), so that even `kill -9` of the owner takes it away, with its interfaces.

mod links;
mod namespace;
mod raw_port;
mod zones;

pub use crate::netlink::Link;
pub use links::{RouteTarget, VethOptions};
pub use namespace::{Child, Namespace};
pub use raw_port::RawPort;
pub use zones::{Host, Lab, Neighbours, Zone};

/// Whether laboratories can be built here (effective user is root); tests say so and skip where not.
pub fn available() -> bool {
    nix::unistd::geteuid().is_root()
}

#[cfg(test)]
mod tests;
