//! The portal, as `status` tells it.

use serde::{Deserialize, Serialize};

/// How the portal is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Portal {
    /// Its DNS name.
    pub name: String,
    /// Its process; `None` while there is none.
    pub pid: Option<u32>,
    /// Where it listens.
    pub listening: Vec<String>,
    /// SHA-256 of its certificate.
    pub fingerprint: String,
    /// How often its process was started again.
    pub restarts: u64,
    /// Questions that it has asked the gateway.
    pub asked: u64,
    /// Of these, those for which there was no room.
    pub busy: u64,
    /// Where clients show certificates.
    #[serde(default)]
    pub certificates: Vec<String>,
    /// Clients that have made a handshake there.
    #[serde(default)]
    pub shown: u64,
    /// Of these, those that were recognised.
    #[serde(default)]
    pub recognised: u64,
    /// What is wrong, if something is.
    pub trouble: Option<String>,
}
