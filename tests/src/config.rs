//! Configurations as text.

use std::fmt::Write;
use std::path::Path;

use bulkhead::lab::Zone;

/// The UDP port of the packets that prove a way open: see [`crate::scene::Scene::arrived`].
pub const SENTINEL: u16 = 65_000;

/// What a scenario wants of the gateway; the rest is the same for all.
#[derive(Clone, Debug)]
pub struct Config {
    /// Rules, as TOML.
    pub rules: String,
    /// Segments as TOML; without, each zone is a segment of its name with the zone's two networks.
    pub segments: Option<String>,
    /// What the gateway itself answers on every port.
    pub local: Vec<&'static str>,
    /// More keys of `[gateway]`, as TOML.
    pub gateway: String,
    /// `[gateway.timeouts]`, as TOML.
    pub timeouts: &'static str,
    /// Connections of either family.
    pub connections: u32,
    /// Of these, so many percent may be half open.
    pub half_open_percent: u32,
    /// Workers.
    pub workers: u32,
    /// Whether a rule lets the sentinels cross everywhere.
    pub sentinels: bool,
}

impl Config {
    /// A gateway with these rules, and one more for the sentinels.
    pub fn new(rules: impl Into<String>) -> Config {
        Config {
            rules: rules.into(),
            segments: None,
            local: Vec::new(),
            gateway: String::new(),
            timeouts: "",
            connections: 4096,
            half_open_percent: 100,
            workers: 1,
            sentinels: true,
        }
    }

    /// The same without the rule for the sentinels.
    pub fn without_sentinels(self) -> Config {
        Config { sentinels: false, ..self }
    }

    /// The whole file.
    pub fn text(&self, control: &Path, zones: &[Zone]) -> String {
        let mut text = format!(
            "version = 1\n[gateway]\ncontrol = {control:?}\nstate = {:?}\nworkers = {}\nbusy_poll = false\n\
             connections = {connections}\nconnections_v6 = {connections}\nhalf_open_percent = {}\n",
            control.with_file_name("state"),
            self.workers,
            self.half_open_percent,
            connections = self.connections,
        );
        if !self.local.is_empty() {
            let _ = writeln!(text, "local = {:?}", self.local);
        }
        let _ = writeln!(text, "{}", self.gateway);
        let _ = writeln!(text, "[gateway.timeouts]\n{}", self.timeouts);
        for zone in zones {
            let name = &zone.name;
            let _ = writeln!(text, "[ports.{name}]\ninterface = \"{name}\"");
            if self.segments.is_none() {
                let _ = writeln!(
                    text,
                    "[segments.{name}]\nport = \"{name}\"\nnetworks = [\"{}\", \"{}\"]",
                    zone.v4, zone.v6
                );
            }
        }
        text += self.segments.as_deref().unwrap_or_default();
        text += "\n";
        text += &self.rules;
        if self.sentinels {
            text += &rule("sentinels", "any", "any", &format!("udp/{SENTINEL}"), "allow");
        }
        text
    }
}

fn rule(name: &str, from: &str, to: &str, services: &str, action: &str) -> String {
    let services: Vec<_> = services.split(' ').collect();
    format!(
        "\n[[rule]]\nname = \"{name}\"\nfrom = \"{from}\"\nto = \"{to}\"\nservices = {services:?}\naction = \"{action}\"\n"
    )
}

/// A rule that allows; services are separated by spaces.
pub fn allow(name: &str, from: &str, to: &str, services: &str) -> String {
    rule(name, from, to, services, "allow")
}

/// A rule that denies silently.
pub fn deny(name: &str, from: &str, to: &str, services: &str) -> String {
    rule(name, from, to, services, "deny")
}

/// A rule that denies and tells the sender.
pub fn reject(name: &str, from: &str, to: &str, services: &str) -> String {
    rule(name, from, to, services, "reject")
}
