//! Sessions over the control socket.

use serde::{Deserialize, Serialize};

use super::types::Asked;

/// A session to begin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSession {
    /// The address.
    pub address: String,
    /// What is known of whoever is behind it; neither a state of the session nor a moment.
    pub asked: Asked,
    /// What the device is called.
    pub device_name: Option<String>,
    /// The MAC address from which the packets come, such as `02:00:00:00:00:07`; without, the address's neighbour.
    pub mac: Option<String>,
    /// How long it lasts, such as `8h`.
    pub lasts: String,
}

/// Which sessions. Everything given must hold; nothing given means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionFilter {
    /// The one with this id.
    pub id: Option<String>,
    /// Those of this user.
    pub user: Option<String>,
    /// The one of this address.
    pub address: Option<String>,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: String,
    /// The address.
    pub address: String,
    /// The segment to which it belonged when the session began.
    pub segment: String,
    /// The MAC address from which the packets have to come; `None` behind routers.
    pub mac: Option<String>,
    /// The user; `None` when only the device is known.
    pub user: Option<String>,
    /// All groups of the user that the policy in force knows, told and declared.
    pub groups: Vec<String>,
    /// The device, if it is known.
    pub device: Option<Device>,
    /// The second factor, if one was shown.
    pub mfa: Option<Factor>,
    /// The postures of which there was a report.
    pub postures: Vec<Posture>,
    /// 0 to 100.
    pub risk: Option<u8>,
    /// How it was proved: `operator`.
    pub proof: String,
    /// Since when.
    pub begun: String,
    /// Until when.
    pub ends: String,
    /// How long that is, seconds.
    pub left_s: u64,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What it is called.
    pub name: Option<String>,
    /// Whether it has shown a certificate of its own.
    pub enrolled: bool,
    /// Its tags.
    pub tags: Vec<String>,
    /// The certificate that it has shown: `certificate 5f3a…`, or a SPIFFE ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// A second factor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Factor {
    /// Since it was shown, seconds.
    pub age_s: u32,
    /// Whether it cannot be phished.
    pub phishing_resistant: bool,
}

/// How a device stands to a posture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posture {
    /// Its name.
    pub name: String,
    /// `met`, `failed` or `unknown`, which is what a report comes to that is too old.
    pub state: String,
    /// Since the report, seconds.
    pub age_s: u32,
}
