//! What operators do and see over the control socket, besides policies and sessions.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::session::Session;
use super::types::{Connection, Said};
use crate::audit::Head;
use crate::restraints::{Kind, Subject};

/// The end of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// Where the log is.
    pub directory: PathBuf,
    /// The number of the last record; 0 when there is none.
    pub seq: u64,
    /// Its digest, hexadecimal.
    pub hash: String,
    /// Records that wait to be written.
    pub pending: u64,
    /// Why they cannot be, if so.
    pub trouble: Option<String>,
}

impl AuditHead {
    /// The last record.
    pub fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash.clone() }
    }
}

/// Whom an operator means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whom {
    /// This user.
    User(String),
    /// This device.
    Device(String),
    /// Everybody in this group.
    Group(String),
    /// Whatever shows this SPIFFE ID.
    Spiffe(String),
    /// This address.
    Address(String),
    /// The address of the session with this id.
    Session(String),
}

/// Somebody to be locked out, or to be moved into quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restrain {
    /// Which of the two.
    pub kind: Kind,
    /// Whom.
    pub whom: Whom,
    /// Why.
    pub reason: Option<String>,
    /// For how long, such as `2h`; until somebody says otherwise without.
    pub lasts: Option<String>,
    /// What the client says of whoever asks.
    #[serde(default)]
    pub said: Said,
}

/// Somebody to be let in again, or out of quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Which of the two.
    pub kind: Kind,
    /// Whom; `None`: everybody of whom it was written down in a file that is damaged.
    pub whom: Option<Whom>,
    /// What the client says of whoever asks.
    #[serde(default)]
    pub said: Said,
}

/// One lock or quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestraintRow {
    /// Which of the two.
    pub kind: Kind,
    /// Whom it means.
    pub subject: Subject,
    /// Why.
    pub reason: Option<String>,
    /// Who said so.
    pub by: String,
    /// Since when.
    pub since: String,
    /// Until when; `None`: until somebody says otherwise.
    pub until: Option<String>,
    /// Of a quarantine, the addresses that came into it by sessions of the subject.
    pub addresses: Vec<String>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restrained {
    /// As it holds, or held.
    pub restraint: RestraintRow,
    /// Sessions that have ended, or are in quarantine now.
    pub sessions: u64,
    /// What to know besides.
    pub warning: Option<String>,
}

/// All that is known of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// It.
    pub session: Session,
    /// For how long the second factor is fresh enough, by the ages that the policy names.
    pub factor_limits: Vec<Limit>,
    /// For how long the reports count.
    pub posture_limits: Vec<Limit>,
    /// Why the address reaches less than the rules say: `locked` or `quarantined`.
    pub restrained: Option<String>,
    /// What the rules say of it now.
    pub rules: Vec<RuleShown>,
    /// There are more rules than are told.
    pub is_partial: bool,
    /// How many live connections it lets through.
    pub matched: u64,
    /// Some of them.
    pub connections: Vec<Connection>,
    /// Since the last packet of any of them, seconds.
    pub last_packet_s: Option<u64>,
    /// The last events of its address, oldest first.
    pub events: Vec<serde_json::Value>,
}

/// An age at which something runs out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Of what: a posture's name, or `mfa`.
    pub of: String,
    /// The age, seconds.
    pub max_age_s: u32,
    /// Until then, seconds; 0 when it has run out.
    pub left_s: u32,
}

/// What a rule says of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleShown {
    /// The rule.
    pub rule: String,
    /// The destination's segment.
    pub to: String,
    /// Services.
    pub services: Vec<String>,
    /// Why not; `None` when it opens them.
    pub reason: Option<String>,
    /// What the rule and the floors ask for.
    pub asks_for: Vec<String>,
    /// Until a deadline of the session changes that, seconds.
    pub left_s: Option<u64>,
}
