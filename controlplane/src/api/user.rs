//! The gateway's own users over the control socket.

use serde::{Deserialize, Serialize};

use crate::portal::wire::Secret;

/// What is done to a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case", deny_unknown_fields)]
pub enum UserAct {
    /// Add it.
    Add {
        /// Groups that the store tells.
        groups: Vec<String>,
        /// The password; without one it cannot sign in yet.
        password: Option<Secret>,
    },
    /// Set the password. Ends the user's sessions.
    Password {
        /// It.
        password: Secret,
    },
    /// Set the groups that the store tells. Its sessions are judged by them at once.
    Groups {
        /// All of them.
        groups: Vec<String>,
    },
    /// Give it a new authenticator. Ends the user's sessions. The answer has [`User::authenticator`].
    Totp,
    /// Take its authenticator away. Ends the user's sessions.
    TotpOff,
    /// Take one of its passkeys away. Ends the user's sessions.
    PasskeyRemove {
        /// The passkey's id.
        id: String,
    },
    /// It may not sign in any more. Ends its sessions.
    Disable,
    /// It may again.
    Enable,
    /// Take it away. Ends its sessions.
    Remove,
}

/// A user, as told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The name.
    pub name: String,
    /// Groups that the store tells.
    pub groups: Vec<String>,
    /// Whether it has a password.
    pub password: bool,
    /// Whether it has an authenticator.
    pub totp: bool,
    /// Its passkeys.
    #[serde(default)]
    pub passkeys: Vec<Passkey>,
    /// Whether it may not sign in.
    pub disabled: bool,
    /// When it was added.
    pub added: String,
    /// How many sessions it has, or had when they were ended with this.
    pub sessions: u64,
    /// A new authenticator: told this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authenticator: Option<NewAuthenticator>,
}

/// A passkey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passkey {
    /// Its id, base64url.
    pub id: String,
    /// What its user calls it.
    pub name: String,
    /// When it was registered.
    pub added: String,
    /// When it was last shown.
    pub used: Option<String>,
    /// The greatest counter that it has shown; 0 of one that does not count.
    pub sign_count: u32,
    /// It is kept in several places.
    pub synced: bool,
    /// The authenticator's kind, 32 hexadecimal digits; all 0 of one that does not say.
    pub aaguid: String,
}

/// A new authenticator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewAuthenticator {
    /// Its key, in base32.
    pub key: Secret,
    /// The same as a URI for apps.
    pub uri: Secret,
}
