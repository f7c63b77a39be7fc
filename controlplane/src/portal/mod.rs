//! The portal: the page at which people say who they are, in a process of its own that decides nothing.
//!
//! It is the only part of the gateway that a stranger can talk to. It speaks TLS and HTTP, shows pages, and relays what
//! it is given; the gateway's side ([`daemon::portal`](crate::daemon)) decides. See [`wire`] for what a portal that was
//! taken over can ask, and [`sandbox`] for what it can do besides: nothing.
//!
//! One thread, one asynchronous runtime, no state but open connections. What it holds is bounded in [`limits`].

mod api;
mod ask;
#[doc(hidden)]
pub mod cookie;
pub mod doorman;
#[doc(hidden)]
pub mod form;
#[doc(hidden)]
pub mod http;
pub mod limits;
pub mod orders;
mod pages;
mod process;
mod requests;
#[doc(hidden)]
pub mod route;
pub mod sandbox;
pub mod wire;

pub use process::{run, tls};

/// TCP port of HTTPS, which addresses do not name.
pub const HTTPS: u16 = 443;

/// How browsers write where a server is: `https://access.example.org`, and with a port that is not [`HTTPS`]
/// `https://access.example.org:8443`.
pub fn origin(host: &str, port: u16) -> String {
    if port == HTTPS { format!("https://{host}") } else { format!("https://{host}:{port}") }
}
