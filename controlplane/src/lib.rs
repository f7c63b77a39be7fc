//! The control plane: configuration, model, control socket, laboratory and command line.
#![forbid(unsafe_code)]

pub mod agent;
pub mod algebra;
pub mod api;
pub mod audit;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod explain;
pub mod identity;
pub mod import;
pub mod learn;
pub mod lint;
pub mod matrix;
pub mod model;
pub mod portal;
pub mod propose;
pub mod replay;
pub mod restraints;
pub mod sessions;
pub mod store;
pub mod tokens;

pub mod netlink;
pub mod topology;

pub mod forwarding;

pub mod lab;

pub mod demo;

pub mod bench;

pub mod plan;
