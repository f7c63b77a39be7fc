//! Policies that are only tried: what a shadow or the rules in audit would have decided.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What one policy says, in names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `allow`, `deny` or `reject`.
    pub verdict: String,
    /// Why not.
    pub reason: Option<String>,
    /// The deciding rule.
    pub rule: Option<String>,
}

/// What a policy beside the one in force would have decided otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shadow {
    /// The shadow's configuration.
    pub config: PathBuf,
    /// Its digest.
    pub digest: String,
    /// When it was started.
    pub started: String,
    /// Since when it is compared with the policy in force.
    pub since: String,
    /// That one's generation.
    pub generation: u32,
    /// Connections, opened or refused, that it was asked about.
    pub asked: u64,
    /// Of those, decided otherwise.
    pub changed: u64,
    /// Of those, missing below: too many different ones.
    pub overflow: u64,
    /// What differs, the most frequent first.
    pub rows: Vec<ShadowRow>,
}

/// What would change in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowRow {
    /// `allow_to_refuse`, `refuse_to_allow`, `other_reason` or `other_rule`.
    pub change: String,
    /// The originator's segment.
    pub from: Option<String>,
    /// The responder's segment.
    pub to: Option<String>,
    /// What the policy in force says.
    pub running: Verdict,
    /// What the shadow says.
    pub shadow: Verdict,
    /// How often.
    pub count: u64,
    /// When first.
    pub first: String,
    /// When last.
    pub last: String,
    /// Some of the connections.
    pub samples: Vec<String>,
}

/// What would have been decided otherwise if nothing were in audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Whether anything is in audit now.
    pub in_audit: bool,
    /// Connections, opened or refused, while something was.
    pub asked: u64,
    /// Of those, decided otherwise.
    pub changed: u64,
    /// Of those, missing below: their events were lost or are under way, or there was no room.
    pub unknown: u64,
    /// The rest, the most frequent first.
    pub rows: Vec<AuditRow>,
}

/// Connections of one service from one segment to one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// What would become of them: `deny` or `allow`.
    pub would: String,
    /// The originator's segment.
    pub from: Option<String>,
    /// The responder's segment.
    pub to: Option<String>,
    /// The protocol.
    pub protocol: String,
    /// The responder's port, of TCP and UDP.
    pub port: u16,
    /// How many.
    pub count: u64,
    /// When first.
    pub first: String,
    /// When last.
    pub last: String,
    /// Why they would be refused.
    pub reason: Option<String>,
    /// Which rule would decide.
    pub rule: Option<String>,
    /// Which rule decides now.
    pub running: Option<String>,
    /// Some of the sources.
    pub sources: Vec<String>,
}
