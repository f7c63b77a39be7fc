//! The resolved configuration: names have become ids, defaults are filled in, and everything fits together.
//!
//! [`Config`](crate::config::Config) → [`Model`]. Names stop here: the packet path knows numbers only, and what it
//! says is told in names again by the model it was compiled from. Segments, rules and ports are numbered in the
//! order of their names, so the order in the files means nothing.

mod asked;
mod audit;
mod canonical;
mod conditions;
mod portal;
mod resolve;
mod time;
mod trial;
mod trust;
mod unused;
mod workloads;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_dataplane::connection::{Overrides, RuleLimits, TableConfig, Timeouts};
use bulkhead_dataplane::headers::Permits;
use bulkhead_dataplane::policy::RuleSet;
use bulkhead_dataplane::steering::LocalService;
use bulkhead_dataplane::verdict::{PortId, Reason, RuleId, SegmentId};
use jiff::Timestamp;

pub use audit::AUDIT;
pub use canonical::action_text;
pub use conditions::{Asker, Group, Identities, Posture};
pub use portal::Portal;
pub use time::{Ending, Gate, Schedule};
pub use trial::{TestResult, probe_text};
pub use trust::TrustDomain;
pub use workloads::Workload;

use crate::config::{self, At, Config, Diagnostics, Loaded, Report, Sources};
use crate::identity::oidc::settings::Settings as Provider;
use crate::identity::radius::Settings as Radius;
use crate::identity::signals::Transmitter;

/// A configuration that can be compiled and run.
#[derive(Clone, Debug)]
pub struct Model {
    /// Settings of the gateway.
    pub gateway: Gateway,
    /// Where people sign in, if anywhere.
    pub portal: Option<Portal>,
    /// How people may say who they are.
    pub sign_in: SignIn,
    /// Ports; a [`PortId`] is an index here.
    pub ports: Vec<Port>,
    /// Segments; a [`SegmentId`] is an index here and in `rules.segments`.
    pub segments: Vec<SegmentInfo>,
    /// Rules; a [`RuleId`] is an index here and in `rules.rules`.
    pub rule_infos: Vec<RuleInfo>,
    /// Segments and rules as the policy compiler takes them: what is enforced. A rule in audit matches nothing here.
    pub rules: RuleSet,
    /// What would be enforced if nothing were in audit, with the same numbers; `None` when nothing is.
    audited: Option<Arc<RuleSet>>,
    /// The names of the tiers, in their order; [`RuleInfo::tier`] is an index here.
    pub tiers: Vec<String>,
    /// The names of users, groups, tags, postures and conditions of time.
    pub identities: Identities,
    /// Machines of which the policy itself says who they are, by name.
    pub workloads: Vec<Workload>,
    /// The `[[test]]`s.
    pub tests: Vec<Test>,
    /// SHA-256 of the canonical content, in hexadecimal: equal for files that mean the same.
    pub digest: String,
    /// What is not wrong, but hardly meant: names that nothing uses.
    pub warnings: Diagnostics,
    /// The files it came from.
    pub sources: Sources,
}

/// `[gateway]`, with defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Path of the control socket.
    pub control: PathBuf,
    /// Directory of the policies that were in force.
    pub state: PathBuf,
    /// Worker threads.
    pub workers: usize,
    /// Capacity of the IPv4 connection table.
    pub connections_v4: usize,
    /// Capacity of the IPv6 connection table.
    pub connections_v6: usize,
    /// Largest share of a table that may wait for its handshake, percent.
    pub half_open_percent: u8,
    /// How many connections of one source may wait for their handshake; 0 for no limit.
    pub half_open_per_source: u32,
    /// Fragments that all workers together hold; 0 drops every fragment.
    pub fragments: u32,
    /// How many sessions there may be; with 0 nobody is known.
    pub sessions: usize,
    /// Whether workers ask the kernel for preferred busy polling.
    pub busy_poll: bool,
    /// How long idle connections are kept.
    pub timeouts: Timeouts,
}

impl Default for Gateway {
    fn default() -> Self {
        Gateway {
            control: PathBuf::from("/run/bulkhead/control.sock"),
            state: PathBuf::from("/var/lib/bulkhead"),
            workers: 1,
            connections_v4: 262_144,
            connections_v6: 131_072,
            half_open_percent: 25,
            half_open_per_source: 0,
            fragments: 8192,
            sessions: 16_384,
            busy_poll: true,
            timeouts: Timeouts::default(),
        }
    }
}

impl Gateway {
    /// The connection table's settings.
    pub fn table_config(&self) -> TableConfig {
        TableConfig {
            connections_v4: self.connections_v4 as u32,
            connections_v6: self.connections_v6 as u32,
            half_open_share_percent: self.half_open_percent,
            half_open_per_source: self.half_open_per_source,
            workers: self.workers,
            timeouts: self.timeouts,
        }
    }
}

/// `[identity]`, with defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignIn {
    /// How long a sign-in lasts, seconds.
    pub session_s: u32,
    /// For how long a device's statement holds, seconds.
    pub heartbeat_s: u32,
    /// Whether users of the gateway's own store may sign in with a password.
    pub passwords: bool,
    /// Identity providers, by name.
    pub providers: Vec<Provider>,
    /// Transmitters of security events, by name.
    pub transmitters: Vec<Transmitter>,
    /// Trust domains of SPIFFE, by name.
    pub trust_domains: Vec<TrustDomain>,
    /// Who may tell of sessions by RADIUS, if anybody.
    pub radius: Option<Radius>,
}

impl Default for SignIn {
    fn default() -> Self {
        SignIn {
            session_s: 8 * 3600,
            heartbeat_s: 180,
            passwords: true,
            providers: Vec::new(),
            transmitters: Vec::new(),
            trust_domains: Vec::new(),
            radius: None,
        }
    }
}

/// A port of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The network interface.
    pub interface: String,
    /// What the gateway's own kernel answers there: the port's own list and the gateway's, sorted.
    pub local: Vec<LocalService>,
}

/// What is said of a segment besides its ports and networks.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    /// Its name.
    pub name: String,
    /// Whether clients of its servers must show that they are there before they may connect.
    pub syn_cookies: bool,
    /// Unusual packets that may come from it and go to it.
    pub permits: Permits,
    /// Addresses in quarantine count as its own.
    pub is_quarantine: bool,
    /// Free text.
    pub description: Option<String>,
    /// Where it stands.
    pub at: At,
}

/// What is said of a rule besides what it matches.
#[derive(Clone, Debug)]
pub struct RuleInfo {
    /// Its name: its identity in logs, counters and history.
    pub name: String,
    /// Its services as written.
    pub services: Vec<String>,
    /// Its tier, an index in [`Model::tiers`]. In the rule set tiers without rules are left out.
    pub tier: u8,
    /// It is only tried: it changes no verdict, and what it would do is logged.
    pub audit: bool,
    /// It stands for an `[[audit]]` or for `audit` of the gateway, and its name begins with [`AUDIT`]. It allows everything
    /// in [`Model::rules`] and matches nothing in [`Model::written`].
    pub is_synthetic: bool,
    /// Before this moment it is not in force.
    pub starts: Option<Timestamp>,
    /// From this moment on it is not in force any more.
    pub expires: Option<Timestamp>,
    /// The schedule outside which it is not in force.
    pub schedule: Option<String>,
    /// Time-outs of its own.
    pub timeouts: Overrides,
    /// What it allows of new connections.
    pub limits: Option<RuleLimits>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// Where it was asked for.
    pub ticket: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// Where it stands.
    pub at: At,
}

/// One end of a question in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Any address of this segment.
    Segment(SegmentId),
    /// This address.
    Address(IpAddr),
}

/// A protocol with one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port; 0 for ICMP.
    pub port: u16,
}

/// A verdict in a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The connection is allowed.
    Allow,
    /// It is refused silently.
    Deny,
    /// It is refused, and the sender is told.
    Reject,
}

/// A `[[test]]`.
#[derive(Clone, Debug)]
pub struct Test {
    /// Its name.
    pub name: String,
    /// From where: every one of these is tried with all the others.
    pub from: Vec<Endpoint>,
    /// To where.
    pub to: Vec<Endpoint>,
    /// For what.
    pub probes: Vec<Probe>,
    /// Who asks.
    pub asker: Asker,
    /// When; `None` for the moment of the check.
    pub moment: Option<Timestamp>,
    /// The verdict.
    pub verdict: Expected,
    /// The reason, if the test cares.
    pub reason: Option<Reason>,
    /// The deciding rule, if the test cares.
    pub rule: Option<RuleId>,
    /// Where it stands.
    pub at: At,
}

/// Reads a file and what it includes, and resolves it.
pub fn load(path: &Path) -> Result<Model, Diagnostics> {
    finish(config::read(path))
}

/// Resolves texts that were read before, each with its path: the main file's first, then those that it includes.
pub fn load_texts(texts: impl IntoIterator<Item = (String, String)>) -> Result<Model, Diagnostics> {
    finish(config::read_texts(texts))
}

/// Reads and resolves a text; `name` stands for the file's path in messages.
pub fn parse(name: &str, text: &str) -> Result<Model, Diagnostics> {
    finish(config::read_text(name, text))
}

/// Resolves what [`config::load`] has read.
pub fn resolve(loaded: Loaded) -> Result<Model, Diagnostics> {
    let Loaded { config, sources } = loaded;
    resolve::resolve(config, Report::new(sources))
}

fn finish((config, report): (Option<Config>, Report)) -> Result<Model, Diagnostics> {
    match config {
        Some(config) => resolve::resolve(config, report),
        None => Err(report.into_diagnostics()),
    }
}

impl Model {
    /// The rule's name; `None` for [`RuleId::NONE`] and for a number of another generation.
    pub fn rule_name(&self, rule: RuleId) -> Option<&str> {
        Some(&self.rule_infos.get(rule.index()?)?.name)
    }

    /// The segment of addresses in quarantine, if there is one.
    pub fn quarantine(&self) -> Option<SegmentId> {
        (0..).map(SegmentId).zip(&self.segments).find(|(_, info)| info.is_quarantine).map(|(id, _)| id)
    }

    /// The segment's name.
    pub fn segment_name(&self, segment: SegmentId) -> Option<&str> {
        Some(&self.segments.get(segment.0 as usize)?.name)
    }

    /// The port's name.
    pub fn port_name(&self, port: PortId) -> Option<&str> {
        Some(&self.ports.get(usize::from(port.0))?.name)
    }

    /// The rule of this name.
    pub fn rule_id(&self, name: &str) -> Option<RuleId> {
        let index = self.rule_infos.binary_search_by(|rule| rule.name.as_str().cmp(name)).ok()?;
        Some(RuleId(index as u32))
    }

    /// The segment of this name.
    pub fn segment_id(&self, name: &str) -> Option<SegmentId> {
        let index = self.segments.binary_search_by(|segment| segment.name.as_str().cmp(name)).ok()?;
        Some(SegmentId(index as u32))
    }

    /// The limits of the rules that have some.
    pub fn limits(&self) -> Vec<(RuleId, RuleLimits)> {
        let rules = (0..).map(RuleId).zip(&self.rule_infos);
        rules.filter_map(|(id, rule)| Some((id, rule.limits?))).collect()
    }

    /// `path:line:column` of a rule.
    pub fn rule_place(&self, rule: RuleId) -> Option<String> {
        Some(self.sources.place(self.rule_infos.get(rule.index()?)?.at))
    }
}

#[cfg(test)]
mod tests;
