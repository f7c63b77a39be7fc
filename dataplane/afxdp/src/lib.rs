//! AF_XDP sockets in pure Rust over libc, safe outside.
//!
//! One [`Umem`] per worker thread, shared by its [`Socket`]s over several devices and queues; packets are [`Frame`]s,
//! move-only tokens that can be neither used twice nor outlive their memory. Every refusal is an [`Error`] that says
//! what was asked and what helps; a device that vanishes is such an error, never a panic.

mod cache;
pub mod device;
mod error;
pub mod l2fwd;
pub mod redirect;
mod ring;
mod slice;
mod socket;
pub mod source;
mod sys;
mod umem;

pub use cache::{large_table, prefetch};
pub use error::{Error, Kind};
pub use slice::prefer_time_slice;
pub use socket::{BusyPoll, Interface, Mode, Socket, SocketConfig, Statistics, ZeroCopy};
pub use umem::{Frame, Umem, UmemConfig};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
