//! Enrolled devices over the control socket.

use serde::{Deserialize, Serialize};

use crate::portal::wire::Secret;

/// What is done to a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case", deny_unknown_fields)]
pub enum DeviceAct {
    /// Make a code with which it can be enrolled, also again. The answer has [`Device::code`].
    Enroll {
        /// Its tags.
        tags: Vec<String>,
        /// How long the enrolment will hold, such as `365d`.
        lasts: String,
    },
    /// Set its tags. Its sessions are judged by them at once.
    Tags {
        /// All of them.
        tags: Vec<String>,
    },
    /// Its key counts no more. Nothing is known of it in any session from then on.
    Revoke,
    /// As [`DeviceAct::Revoke`], and it is forgotten.
    Remove,
}

/// A device, as told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What it is called.
    pub name: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// `invited`, `enrolled`, `expired` or `revoked`.
    pub state: String,
    /// When it was enrolled; `None` before that.
    pub enrolled: Option<String>,
    /// Until when that holds.
    pub ends: Option<String>,
    /// The thumbprint of its key (RFC 7638).
    pub key: Option<String>,
    /// In how many sessions it is known, or was until this.
    pub sessions: u64,
    /// With what it can be enrolled: told this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
}

/// With what a device can be enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// The code.
    pub code: Secret,
    /// How long it may be used, seconds.
    pub lasts_s: u64,
}
