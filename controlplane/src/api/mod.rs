//! The control protocol: how `bulkhead status` and the other verbs talk to the running gateway.
//!
//! A Unix stream socket that only root (and the gateway's own user) may use. The client sends one [`Request`] as one
//! line of JSON; the gateway answers with lines of JSON, each a [`Line`], of which the last holds [`Reply::Done`] or
//! [`Reply::Refused`], and closes. An answer that ends without one of these two was cut off. Both directions carry
//! `"api": 1`; another number is refused, so that an old client never misreads a new gateway.
//!
//! A client harms nobody: requests are bounded in size and time, clients are bounded in number, and one that does not
//! read is left.

pub mod client;
pub mod connection;
pub mod device;
pub mod operator;
pub mod portal;
pub mod server;
pub mod session;
mod tried;
pub mod types;
pub mod user;

pub use types::{API, Line, Reply, Request};

/// The longest request, bytes.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Where the socket is unless the configuration or the command line says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/bulkhead/control.sock";
