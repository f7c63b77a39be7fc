//! RADIUS accounting (RFC 2866): switches and access points that have authenticated somebody (802.1X) tell who has got which
//! address.
//!
//! [`packet`] reads what comes and writes what is answered; nothing is believed without a Message-Authenticator (RFC 3579,
//! section 3.2) and a Request Authenticator that the client's secret makes. [`Accounts`] decides what a request means, so
//! that neither a repetition nor a late one brings back a session that was stopped. No sockets here.

mod accounts;
pub mod packet;

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;

pub use accounts::{Accounts, Act, WINDOW_S};
pub use packet::{Refused, Request, Status};

/// `[identity.radius]`, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// The UDP port.
    pub port: u16,
    /// Who may tell, by name.
    pub clients: Vec<Client>,
}

/// `[identity.radius.clients.NAME]`, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Client {
    /// Its name in the configuration.
    pub name: String,
    /// From where it speaks.
    pub address: IpAddr,
    /// Where its secret is.
    pub secret_file: PathBuf,
    /// Groups of everybody whom it tells of.
    pub groups: Vec<String>,
    /// How long a session lasts unless it is stopped before, seconds.
    pub lasts_s: u32,
}

#[cfg(test)]
mod tests;
