//! What is recorded of an act.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::store::Who;

/// The longest text in a record, characters; what is longer is cut.
const TEXT_CHARS: usize = 1000;
/// The most members of a list or an object in a record.
const MEMBERS: usize = 100;
/// The most that is said in one record, bytes of JSON.
const WHAT_BYTES: usize = 12 * 1024;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident $name:literal;)*) => {
        /// What kind of act.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[$doc])* $variant,)* }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant,)*];

            /// Its name in the log.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$variant => $name,)* }
            }
        }
    };
}

kinds! {
    /// The gateway has started.
    Start "start";
    /// It stops.
    Stop "stop";
    /// A policy is put in force: started with, reloaded, applied, rolled back to.
    Policy "policy";
    /// The one just recorded was not put in force after all.
    PolicyFailed "policy_failed";
    /// A policy that waited for it is kept.
    Confirmed "confirmed";
    /// A policy that was not confirmed is taken back.
    RolledBack "rolled_back";
    /// Somebody is behind an address from now on, and how that was proved.
    SessionBegun "session_begun";
    /// The one just recorded has not begun after all.
    SessionFailed "session_failed";
    /// What is known of somebody has changed: another factor, another report.
    SessionChanged "session_changed";
    /// A session was ended by somebody.
    SessionRevoked "session_revoked";
    /// Another session took its place.
    SessionReplaced "session_replaced";
    /// It ended by the clock.
    SessionExpired "session_expired";
    /// Another policy ended it.
    SessionMoved "session_moved";
    /// A sign-in was refused.
    SignInRefused "sign_in_refused";
    /// A user was added, changed or removed, or one of their factors.
    UserChanged "user_changed";
    /// A device was enrolled, changed or revoked.
    DeviceChanged "device_changed";
    /// Somebody or something is locked out.
    Locked "locked";
    /// No longer.
    Unlocked "unlocked";
    /// Somebody or something is moved into quarantine.
    Quarantined "quarantined";
    /// And out of it.
    Released "released";
    /// Connections were cut.
    Killed "killed";
    /// Another policy is asked beside the one in force.
    ShadowStarted "shadow_started";
    /// No longer.
    ShadowStopped "shadow_stopped";
    /// Somebody outside has said something of a user or a device, and was believed.
    Signal "signal";
    /// What an operator must see.
    Alarm "alarm";
    /// So many records could not be kept until the disk took them.
    Lost "lost";
    /// The log ended in the middle of a record, which was cut off.
    Torn "torn";
    /// The log was not as the gateway had left it.
    Damaged "damaged";
    /// The oldest file of the log is removed, for there is one more than are kept.
    Trimmed "trimmed";
}

/// On whose behalf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// An operator, over the control socket or at the command line.
    Operator(Who),
    /// Somebody at an address, through the portal.
    User {
        /// Who they say they are, or are known to be.
        user: Option<String>,
        /// Where they are.
        address: IpAddr,
    },
    /// A service outside: an identity provider, a transmitter of signals, a RADIUS server.
    Service(String),
    /// The time.
    Clock,
    /// The gateway by itself.
    Gateway,
}

impl By {
    fn to_json(&self) -> Value {
        match self {
            By::Operator(who) => json!({ "operator": who }),
            By::User { user, address } => json!({ "user": user, "address": address }),
            By::Service(name) => json!({ "service": name }),
            By::Clock => json!("clock"),
            By::Gateway => json!("gateway"),
        }
    }
}

/// One act. Whatever is said in it is cut to a bounded length; no part of it may be a secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    kind: Kind,
    by: By,
    what: Map<String, Value>,
}

impl Entry {
    /// An act of this kind, of which nothing more is said yet.
    pub fn new(kind: Kind, by: By) -> Entry {
        Entry { kind, by, what: Map::new() }
    }

    /// Says something of it. Nothing is said where the value is null.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Entry {
        let value = bounded(value.into());
        if !value.is_null() {
            self.what.insert(name.to_owned(), value);
        }
        self
    }

    /// What kind it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn by(&self) -> Value {
        bounded(self.by.to_json())
    }

    pub(super) fn what(&self) -> Value {
        let what = Value::Object(self.what.clone());
        let bytes = what.to_string().len();
        if bytes > WHAT_BYTES { json!({ "left_out_bytes": bytes }) } else { what }
    }
}

/// The value with its texts and lists cut.
fn bounded(value: Value) -> Value {
    match value {
        Value::String(text) if text.chars().count() > TEXT_CHARS => {
            Value::String(text.chars().take(TEXT_CHARS).chain(['…']).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().take(MEMBERS).map(bounded).collect()),
        Value::Object(map) => {
            map.into_iter().take(MEMBERS).map(|(name, value)| (name, bounded(value))).collect()
        }
        other => other,
    }
}
