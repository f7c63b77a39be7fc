//! What goes over the pair besides questions and answers: how the portal's process begins, and where it listens.
//!
//! The process starts with nothing but its end of the pair as standard input. First comes [`Order::Begin`], which holds
//! the key; then the process confines itself ([`sandbox`](super::sandbox)) and says [`Word::Ready`]; only after that the
//! gateway gives it sockets to listen at.

use serde::{Deserialize, Serialize};

use super::wire::{Answered, Asked, Secret};

/// What the gateway says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// The first message.
    Begin(Box<Setup>),
    /// A listening socket comes with it.
    Listen {
        /// Speak TLS there; else only send browsers to where it is spoken.
        secure: bool,
    },
    /// An answer.
    Answer(Answered),
}

/// How to begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// The portal's DNS name.
    pub name: String,
    /// The TCP port on which TLS is spoken.
    pub port: u16,
    /// Certificate chain, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: Secret,
    /// Browsers may be told never to come in the clear, and not to look past a wrong certificate: only where the
    /// certificate is one that they believe.
    pub strict: bool,
    /// As whom to run.
    pub uid: u32,
    /// With which group.
    pub gid: u32,
}

/// What the portal says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Word {
    /// It has confined itself. Once.
    Ready,
    /// A question; the connection on which it was asked comes with it.
    Asked(Asked),
}
