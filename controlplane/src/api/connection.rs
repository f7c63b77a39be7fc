//! Connections over the control socket.

use serde::{Deserialize, Serialize};

/// Which connections. Everything given must hold; nothing given means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// The originator's segment, or its network.
    pub from: Option<String>,
    /// The responder's segment, or its network.
    pub to: Option<String>,
    /// The originator's address or network.
    pub source: Option<String>,
    /// The responder's address or network.
    pub destination: Option<String>,
    /// Protocol and destination port, such as `tcp/443`.
    pub port: Option<String>,
    /// The rule's name.
    pub rule: Option<String>,
    /// The state's name, such as `established`.
    pub state: Option<String>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// `tcp`, `udp`, `icmp` or `icmpv6`.
    pub protocol: String,
    /// The originator.
    pub source: String,
    /// Its port; of an echo, the identifier.
    pub source_port: u16,
    /// The responder.
    pub destination: String,
    /// Its port; of an echo, 0.
    pub destination_port: u16,
    /// The originator's segment.
    pub from: Option<String>,
    /// The responder's segment.
    pub to: Option<String>,
    /// The port by which it was opened.
    pub ingress: String,
    /// Its state.
    pub state: String,
    /// The rule that lets it through.
    pub rule: Option<String>,
    /// The user by whose session it was let through.
    pub user: Option<String>,
    /// That session.
    pub session: Option<String>,
    /// The policy that was last asked.
    pub generation: u32,
    /// Since it was opened, seconds.
    pub age_s: u64,
    /// Since its last packet, seconds.
    pub idle_s: u64,
    /// Packets from the originator and back.
    pub packets: [u64; 2],
    /// Bytes from the originator and back.
    pub bytes: [u64; 2],
}
