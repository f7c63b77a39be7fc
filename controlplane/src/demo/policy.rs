//! The network and the policies of the demonstration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_dataplane::policy::Rule;
use bulkhead_dataplane::verdict::SegmentId;

use crate::demo::provider::CLIENT;
use crate::lab::Zone;
use crate::model::{Model, action_text};

/// Name, IPv4 and IPv6 network of every zone. The host of a zone has the second address.
const ZONES: [(&str, &str, &str); 3] = [
    ("clients", "10.1.0.0/24", "fd00:1::/64"),
    ("web", "10.2.0.0/24", "fd00:2::/64"),
    ("db", "10.3.0.0/24", "fd00:3::/64"),
];

/// TCP ports with somebody listening, in every zone: what is not answered was stopped by the gateway.
pub const TCP_LISTENERS: [u16; 5] = [22, 80, 443, 5432, 8080];
/// The same for UDP.
pub const UDP_LISTENERS: [u16; 2] = [53, 161];

/// The rule that the reload takes away.
const DOWNLOADS: &str = r#"
[[rule]]
name = "big-downloads"
from = "clients"
to = "web"
services = ["tcp/8080"]
"#;

const RULES: &str = r#"
[services.ping]
ports = ["icmp/echo-request", "icmpv6/echo-request"]

[[rule]]
name = "web-pages"
from = "clients"
to = "web"
services = ["tcp/80", "tcp/443"]

[[rule]]
name = "names"
from = "clients"
to = "web"
services = ["udp/53"]

[[rule]]
name = "ping-web"
from = "clients"
to = "web"
services = ["ping"]

[[rule]]
name = "web-uses-db"
from = "web"
to = "db"
services = ["tcp/5432"]

[[rule]]
name = "not-into-db"
from = "clients"
to = "db"
services = "any"
action = "reject"

[[rule]]
name = "db-stays-home"
from = "db"
to = "any"
services = "any"
action = "deny"
"#;

/// How old the second factor may be of whoever reaches the database in the second act.
pub const FACTOR_LASTS: Duration = Duration::from_secs(6);

/// Where the second act's portal is for browsers.
pub const PORTAL: &str = "https://portal.demo";

/// The second act's: nobody reaches the database for where he is.
const SECOND_ACT: &str = r#"
[portal]
ports = ["clients"]
name = "portal.demo"

[postures.compliant]
disk_encrypted = true

[[rule]]
name = "web-pages"
from = "clients"
to = "web"
services = ["tcp/80", "tcp/443"]

[[rule]]
name = "alice-to-db"
from = "clients"
to = "db"
services = ["tcp/5432"]
users = "alice"
require = { mfa_max_age = "6s" }

[[rule]]
name = "dbas-to-db"
from = "clients"
to = "db"
services = ["tcp/5432"]
users = { groups = ["dba"] }
require = { mfa_max_age = "6s" }

[[rule]]
name = "healthy-to-db"
from = "clients"
to = "db"
services = ["tcp/22"]
require = { devices = { enrolled = true }, posture = "compliant" }
"#;

/// The zones of the laboratory.
pub fn zones() -> Vec<Zone> {
    ZONES.iter().map(|(name, v4, v6)| Zone::new(name, v4, v6)).collect()
}

/// The whole configuration, with or without the rule for downloads.
pub fn configuration(control: &Path, downloads: bool) -> String {
    let downloads = if downloads { DOWNLOADS } else { "" };
    network(control) + RULES + downloads
}

/// What the second act's configuration says of an identity provider.
pub struct Corporate {
    /// Its issuer.
    pub issuer: String,
    /// The file of the root that it is known by.
    pub authority: PathBuf,
    /// The file of the gateway's secret there.
    pub secret: PathBuf,
    /// The file of what it shows when it pushes events.
    pub push: PathBuf,
}

/// The whole configuration of the second act.
pub fn second_act(control: &Path, corporate: &Corporate) -> String {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let (issuer, authority) = (&corporate.issuer, quoted(&corporate.authority));
    let provider = format!(
        "\n[identity.providers.corp]\nlabel = \"Corporate account\"\nissuer = \"{issuer}\"\nclient_id = \"{CLIENT}\"\n\
         client_secret_file = {}\nscopes = [\"email\", \"groups\"]\ngroups = \"groups\"\nca_file = {authority}\n",
        quoted(&corporate.secret)
    );
    let transmitter = format!(
        "\n[identity.transmitters.corp]\nissuer = \"{issuer}\"\naudience = \"{PORTAL}\"\nkeys = \"{issuer}/keys\"\n\
         ca_file = {authority}\npush_token_file = {}\n",
        quoted(&corporate.push)
    );
    network(control) + SECOND_ACT + &provider + &transmitter
}

fn network(control: &Path) -> String {
    let mut text = format!(
        "version = 1\n\n[gateway]\ncontrol = {:?}\nstate = {:?}\nconnections = 16384\nconnections_v6 = 16384\n",
        control.display().to_string(),
        control.with_extension("state").display().to_string()
    );
    for (name, v4, v6) in ZONES {
        text += &format!(
            "\n[ports.{name}]\ninterface = \"{name}\"\n\n\
             [segments.{name}]\nport = \"{name}\"\nnetworks = [\"{v4}\", \"{v6}\"]\n"
        );
    }
    text
}

/// The zones and rules as sentences, one a line.
pub fn sentences(model: &Model) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, v4, v6) in ZONES {
        lines.push(format!("{name:<8} {v4}, {v6}"));
    }
    lines.push(String::new());
    let mut rules: Vec<_> = model.rules.rules.iter().zip(&model.rule_infos).collect();
    rules.sort_by_key(|(rule, info)| (action_text(rule.action), info.name.as_str()));
    let width = rules.iter().map(|(_, info)| info.name.len()).max().unwrap_or(0);
    for (rule, info) in rules {
        lines.push(format!("{:<width$}  {}", info.name, sentence(model, rule, &info.services)));
    }
    lines.push(format!("{:<width$}  denied, and nobody is told", "all else"));
    lines
}

fn sentence(model: &Model, rule: &Rule, services: &[String]) -> String {
    let action = action_text(rule.action);
    let segments = |ids: &[SegmentId]| match ids.len() == model.segments.len() {
        true => "anywhere".to_owned(),
        false => ids.iter().filter_map(|&id| model.segment_name(id)).collect::<Vec<_>>().join(", "),
    };
    let (from, to) = (segments(&rule.from), segments(&rule.to));
    let services = services.join(", ").replace("any", "everything");
    format!("{action:<6}  {from:<7} → {to:<8}  {services}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_policies_are_right_and_differ_by_the_rule_for_downloads() {
        let read = |downloads| {
            let text = configuration(Path::new("/run/a \"quoted\" place"), downloads);
            crate::model::parse("demo.toml", &text).unwrap_or_else(|errors| panic!("{errors}"))
        };
        let (with, without) = (read(true), read(false));
        assert_eq!(with.rule_infos.len(), without.rule_infos.len() + 1);
        assert!(with.rule_id("big-downloads").is_some() && without.rule_id("big-downloads").is_none());
    }

    #[test]
    fn the_second_act_asks_for_a_factor_of_the_last_seconds() {
        let file = |name: &str| PathBuf::from(format!("/a \"quoted\" place/{name}"));
        let corporate = Corporate {
            issuer: "https://localhost:8443".to_owned(),
            authority: file("ca"),
            secret: file("secret"),
            push: file("push"),
        };
        let model = crate::model::parse("demo.toml", &second_act(Path::new("/c"), &corporate)).unwrap();
        let asked = model.rules.conditions.iter().filter_map(|condition| condition.mfa_max_age_s);
        assert_eq!(asked.collect::<Vec<_>>(), [FACTOR_LASTS.as_secs() as u32; 2]);
    }

    #[test]
    fn every_rule_is_a_sentence() {
        let model = crate::model::parse("demo.toml", &configuration(Path::new("/c"), true)).unwrap();
        let lines = sentences(&model);
        for info in &model.rule_infos {
            assert!(lines.iter().any(|line| line.starts_with(&info.name)), "{} is missing", info.name);
        }
        let expected = "db-stays-home  deny    db      → anywhere  everything";
        assert!(lines.iter().any(|line| line == expected), "{lines:#?}");
    }
}
