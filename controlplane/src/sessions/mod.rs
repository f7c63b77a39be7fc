//! Who is behind which address, as the control plane knows it: names and times, for every policy in use.
//!
//! A [`Session`] says what was proved of whoever is behind one address, and when. The packet path has no names: each
//! compiled policy asks slots of its own ([`Slots`](bulkhead_dataplane::identity::Slots)), and [`Sessions`] keeps those of
//! all policies in use in step. [`describe`] turns a session into what a slot holds: what is known now and at every
//! later moment until it ends, so that an age that grows too high bites with nobody's help.
//!
//! All times are those of the packet path's clock, which nobody sets: a wall clock that is put back lengthens no session.
//! Sessions live in memory only. A gateway that starts knows nobody.

mod describe;
pub mod health;
mod roll;
mod store;
mod turns;

use std::net::IpAddr;
use std::time::Duration;

use bulkhead_dataplane::policy::conditions::Posture as State;
use bulkhead_dataplane::topology::Mac;
use bulkhead_dataplane::verdict::Now;

pub use describe::{Ages, Described, describe, identity};
pub use health::Health;
pub use store::{Begun, Ended, New, Placed, Refused, Sessions, Which, Why};

/// The longest session: a year, which is as far as a connection's deadline reaches.
pub const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// A moment by the packet path's clock, also one before that began; nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    /// So long before `now`.
    pub fn before(now: Now, age: Duration) -> Moment {
        let age = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
        Moment(nanos(now).saturating_sub(age))
    }

    /// How long ago it was, in whole seconds, of which the last has begun: more than *n* exactly when the age is more than
    /// *n* seconds.
    pub fn age_s(self, now: Now) -> u32 {
        let age = nanos(now).saturating_sub(self.0).max(0).unsigned_abs();
        u32::try_from(age.div_ceil(SECOND)).unwrap_or(u32::MAX)
    }

    /// From when on its age is more than so many seconds.
    pub fn older_than(self, seconds: u32) -> Now {
        let at = self.0.saturating_add_unsigned(u64::from(seconds) * SECOND).saturating_add(1);
        Now(u64::try_from(at).unwrap_or_default())
    }
}

const SECOND: u64 = 1_000_000_000;

fn nanos(now: Now) -> i64 {
    i64::try_from(now.0).unwrap_or(i64::MAX)
}

/// The moment so much later.
pub fn later(now: Now, by: Duration) -> Now {
    Now(now.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
}

/// How it was proved who is behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// An operator, or a program of his, vouches for it over the control socket.
    Operator,
    /// A client of RADIUS has told of it.
    Radius,
    /// An identity provider has said so.
    Provider,
    /// A password of the gateway's own store, with or without a second factor.
    Password,
    /// A passkey of the gateway's own store, alone.
    Passkey,
    /// The key of an enrolled device, of which no user is known.
    Device,
    /// A SPIFFE X.509-SVID of a workload.
    Spiffe,
    /// The policy in force says so (`[[workload]]`).
    Static,
}

impl Proof {
    /// Whether the user is one of the gateway's own store, who showed that here.
    pub fn is_of_the_store(self) -> bool {
        matches!(self, Proof::Password | Proof::Passkey)
    }

    /// Its name in lists.
    pub fn name(self) -> &'static str {
        match self {
            Proof::Operator => "operator",
            Proof::Radius => "radius",
            Proof::Provider => "provider",
            Proof::Password => "password",
            Proof::Passkey => "passkey",
            Proof::Device => "device",
            Proof::Spiffe => "spiffe",
            Proof::Static => "static",
        }
    }
}

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// What it is called.
    pub name: Option<String>,
    /// It has shown a certificate of its own.
    pub enrolled: bool,
    /// Its tags.
    pub tags: Vec<String>,
    /// The certificate that it has shown, in words: its serial number, or a SPIFFE ID.
    pub credential: Option<String>,
    /// From then on nothing is known of it any more: it has to say again and again that it is there. `None` when nobody
    /// expects that.
    pub until: Option<Now>,
}

/// A second factor that was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// When.
    pub shown: Moment,
    /// It cannot be phished.
    pub phishing_resistant: bool,
}

/// How a device stands to a posture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The posture's name.
    pub posture: String,
    /// How it stands to it.
    pub state: State,
    /// When that was reported.
    pub at: Moment,
}

/// Whom an identity provider knows somebody as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its name in the configuration.
    pub provider: String,
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// `sid`, if it has told it.
    pub session: Option<String>,
}

/// What was proved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The user; `None` when only the device is known.
    pub user: Option<String>,
    /// Groups that whoever proved it tells. The policy's own come on top.
    pub groups: Vec<String>,
    /// The device, if it is known.
    pub device: Option<Device>,
    /// The second factor, if one was shown.
    pub factor: Option<Factor>,
    /// Whom the identity provider knows them as that has said so.
    pub origin: Option<Origin>,
    /// Reports of how the device stands to postures, by somebody who has looked at it.
    pub reports: Vec<Report>,
    /// What the device itself says of its health.
    pub health: Option<Health>,
    /// 0 to 100; `None` when nobody has said.
    pub risk: Option<u8>,
}

/// Whoever is behind an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Short and random, for people to name it by. It opens nothing.
    pub id: String,
    /// The address.
    pub address: IpAddr,
    /// The name of the segment to which it belonged when the session began; in another one it does not hold.
    pub segment: String,
    /// The MAC address from which the packets come, where the address is on the link of a port.
    pub mac: Option<Mac>,
    /// What was proved.
    pub claims: Claims,
    /// How.
    pub proof: Proof,
    /// Since when.
    pub begun: Now,
    /// From then on it has ended.
    pub ends: Now,
}

#[cfg(test)]
mod tests;
