//! What a new configuration changes, as data: computed on the policies, not on their text.
//!
//! [`Plan::between`] compares two models: what may cross afterwards that could not before, and the other way round, with
//! a packet that shows it ([`access`]); and what else is set differently ([`settings`]). Whoever asks adds which rules expire
//! ([`expiring`]), and the gateway what becomes of live connections. [`text`] tells it to people.

mod access;
mod expiring;
mod settings;
mod symbols;
pub mod text;
pub mod words;

use serde::{Deserialize, Serialize};

use crate::algebra::TooLarge;
use crate::model::Model;

pub use expiring::{Expiring, expiring};
pub use symbols::Symbols;

/// The differences between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What is compared with.
    pub old: Side,
    /// What would come.
    pub new: Side,
    /// What becomes of connections: gains first, then losses, then the rest.
    pub access: Vec<Access>,
    /// What else is set differently.
    pub settings: Vec<Setting>,
    /// Rules that came, went or read differently; by itself no difference in what the gateway does.
    pub rules: Names,
    /// Segments that only have another name: `old → new`.
    pub renamed: Vec<String>,
    /// Rules of either that have expired or expire soon; by itself no difference.
    pub expiring: Vec<Expiring>,
    /// Live connections; `None` when no gateway was asked.
    pub connections: Option<Connections>,
    /// Tests of the new configuration that fail. It cannot be put in force like this.
    pub failed_tests: Vec<String>,
}

/// One of both configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// The file, or what else it is.
    pub source: String,
    /// Its digest.
    pub digest: String,
    /// How many rules it has.
    pub rules: u64,
}

/// What becomes of the connections of an [`Access`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Allowed now, to some or to all.
    Gained,
    /// Allowed no more, to some or to all.
    Lost,
    /// Refused as before, but now the sender is told.
    Rejected,
    /// Refused as before, but now silently.
    Silenced,
    /// Allowed as before, with other limits or time-outs.
    Effect,
}

/// The same change between all of these segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// What changes.
    pub change: Change,
    /// Sources.
    pub from: Vec<EndName>,
    /// Destinations.
    pub to: Vec<EndName>,
    /// Protocols and ports, in the words of the configuration.
    pub services: Vec<String>,
    /// How the old policy treats them, clause by clause in the order they are asked.
    pub before: Vec<String>,
    /// How the new policy does.
    pub after: Vec<String>,
    /// A packet that meets the change. `None` when the rules' conditions were too much to search; then there may be none.
    pub witness: Option<Witness>,
}

/// A segment, in both configurations: the addresses that are in the one and in the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EndName {
    /// In the old one; `None` for addresses that are in none, or not behind the port.
    pub old: Option<String>,
    /// In the new one.
    pub new: Option<String>,
}

/// A packet, who sends it, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// Source address.
    pub source: String,
    /// The port by which it comes in.
    pub port_in: String,
    /// Destination address.
    pub destination: String,
    /// Protocol and port.
    pub service: String,
    /// Who sends it and when, as far as it matters; empty when anybody at any time does.
    pub who: Vec<String>,
    /// What the old policy says.
    pub before: Told,
    /// What the new policy says.
    pub after: Told,
}

/// A decision in names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// `allow`, `deny` or `reject`.
    pub verdict: String,
    /// Why not.
    pub reason: Option<String>,
    /// The deciding rule, or the one that comes nearest.
    pub rule: Option<String>,
    /// `path:line:column` of it.
    pub at: Option<String>,
}

/// Something that is set differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Of what: `gateway`, `port lan`, `segment web`.
    pub of: String,
    /// Which: `workers`.
    pub key: String,
    /// As it was; `None` when it was not there.
    pub old: Option<String>,
    /// As it will be; `None` when it is there no more.
    pub new: Option<String>,
    /// Whether only a restart can change it.
    pub restart: bool,
}

/// Names that came, went, or mean something else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Only in the new configuration.
    pub added: Vec<String>,
    /// Only in the old one.
    pub removed: Vec<String>,
    /// In both, and not the same.
    pub changed: Vec<String>,
}

/// What becomes of live connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Those that would be cut at their next packet, by the rule that lets them through.
    pub cut: Vec<Cut>,
    /// How many stay.
    pub stay: u64,
}

/// Live connections of one rule that would be cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The rule that lets them through now.
    pub rule: Option<String>,
    /// Why the new policy does not.
    pub reason: String,
    /// The rule that would cut them.
    pub by: Option<String>,
    /// How many.
    pub connections: u64,
    /// One of them.
    pub sample: String,
}

impl Plan {
    /// What changes from one to the other.
    ///
    /// # Errors
    ///
    /// The policies are too large to be compared in bounded time.
    pub fn between(old: &Model, new: &Model) -> Result<Plan, TooLarge> {
        let side = |model: &Model| Side {
            source: if model.sources.is_empty() { String::new() } else { model.sources.file(0).path.clone() },
            digest: model.digest.clone(),
            rules: model.rule_infos.len() as u64,
        };
        let mut symbols = Symbols::default();
        let rules = [old, new].map(|model| symbols.translate(model));
        let found = access::compare([old, new], [&rules[0], &rules[1]], &symbols)?;
        let (mut settings, renamed) = settings::compare(old, new);
        settings.extend(found.settings);
        Ok(Plan {
            old: side(old),
            new: side(new),
            access: found.access,
            settings,
            rules: settings::rules([old, new], [&rules[0], &rules[1]]),
            renamed,
            expiring: Vec::new(),
            connections: None,
            failed_tests: Vec::new(),
        })
    }

    /// Whether the gateway would do anything differently.
    pub fn is_different(&self) -> bool {
        !self.access.is_empty() || !self.settings.is_empty()
    }

    /// Whether only a restart can put it in force.
    pub fn needs_restart(&self) -> bool {
        self.settings.iter().any(|setting| setting.restart)
    }
}

#[cfg(test)]
mod tests;
