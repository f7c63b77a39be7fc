//! The gateway from packets in to packets out: real interfaces, the real program, one gateway and its network
//! namespaces a scenario. After every scenario the ledger is checked to the packet.

mod audit;
mod audit_log;
mod certificates;
mod cli;
mod clock;
mod closed;
mod connections;
mod identity;
mod ledger;
mod lifecycle;
mod policy;
mod portal;
mod radius;
mod reload;
mod restraints;
mod routing;
mod rules;
mod sessions;
mod shadow;
mod signals;
mod users;
mod workers;
mod workloads;
