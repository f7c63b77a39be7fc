//! The canonical content: what a configuration means, independent of order, comments, layout and files.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{self, BufWriter, IntoInnerError};

use bulkhead_dataplane::connection::{Overrides, RuleLimits};
use bulkhead_dataplane::policy::conditions::{ConditionId, GroupId};
use bulkhead_dataplane::policy::{Action, Service};
use bulkhead_dataplane::verdict::SegmentId;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::time::day_name;
use super::{Model, SignIn};
use crate::config::identity::Check;
use crate::config::values::{mac_text, service_text};

impl Model {
    /// What the gateway will do, as JSON with sorted keys. Tests, owners and descriptions are not in it: they
    /// change nothing.
    pub fn canonical(&self) -> impl Serialize {
        let (gateway, ports, segments) =
            (self.canonical_gateway(), self.canonical_ports(), self.canonical_segments());
        Canonical {
            gateway,
            groups: self.canonical_groups(),
            portal: self.canonical_portal(),
            identity: self.canonical_sign_in(),
            ports,
            postures: self.canonical_postures(),
            rules: Rules(self),
            schedules: self.canonical_schedules(),
            segments,
            workloads: self.canonical_workloads(),
        }
    }

    fn canonical_workloads(&self) -> Vec<Value> {
        let workload = |workload: &super::Workload| {
            json!({
                "name": workload.name, "addresses": workload.addresses, "mac": workload.mac.map(mac_text),
                "tags": workload.tags, "enrolled": workload.enrolled,
                "spiffe": workload.spiffe.as_ref().map(|id| id.as_str()),
            })
        };
        self.workloads.iter().map(workload).collect()
    }

    fn canonical_gateway(&self) -> Value {
        let gateway = &self.gateway;
        let t = &gateway.timeouts;
        let timeouts = json!({
            "tcp_handshake_ms": t.tcp_handshake_ms, "tcp_established_ms": t.tcp_established_ms,
            "tcp_closing_ms": t.tcp_closing_ms, "tcp_time_wait_ms": t.tcp_time_wait_ms,
            "tcp_closed_ms": t.tcp_closed_ms, "udp_unreplied_ms": t.udp_unreplied_ms,
            "udp_replied_ms": t.udp_replied_ms, "icmp_ms": t.icmp_ms, "fragment_ms": t.fragment_ms,
        });
        json!({
            "control": gateway.control, "state": gateway.state, "workers": gateway.workers, "connections": gateway.connections_v4,
            "connections_v6": gateway.connections_v6, "half_open_percent": gateway.half_open_percent,
            "half_open_per_source": gateway.half_open_per_source, "fragments": gateway.fragments,
            "busy_poll": gateway.busy_poll, "sessions": gateway.sessions, "timeouts": timeouts,
        })
    }

    fn canonical_portal(&self) -> Option<Value> {
        let portal = self.portal.as_ref()?;
        let ports: Vec<_> = portal.ports.iter().map(|&port| self.port_name(port)).collect();
        Some(json!({
            "ports": ports, "port": portal.port, "redirect_port": portal.redirect_port,
            "certificate_port": portal.certificate_port, "name": portal.name,
            "files": portal.files, "user": portal.user,
        }))
    }

    /// Nothing where it says nothing else than the defaults.
    fn canonical_sign_in(&self) -> Option<Value> {
        let SignIn { session_s, heartbeat_s, passwords, providers, transmitters, trust_domains, radius } =
            &self.sign_in;
        let is_default = self.sign_in == SignIn::default();
        (!is_default).then(|| {
            json!({
                "session_s": session_s, "heartbeat_s": heartbeat_s, "passwords": passwords,
                "providers": providers, "transmitters": transmitters, "trust_domains": trust_domains,
                "radius": radius,
            })
        })
    }

    fn canonical_ports(&self) -> Vec<Value> {
        self.ports
            .iter()
            .map(|p| {
                let local: Vec<String> = p.local.iter().map(|s| format!("{s:?}")).collect();
                json!({ "name": p.name, "interface": p.interface, "local": local })
            })
            .collect()
    }

    fn canonical_segments(&self) -> Vec<Value> {
        self.segments
            .iter()
            .zip(&self.rules.segments)
            .map(|(info, s)| {
                let ports: Vec<_> = s.ports.iter().map(|&p| self.port_name(p)).collect();
                let networks: Vec<_> = s.networks.iter().map(ToString::to_string).collect();
                let mut segment = json!({ "name": info.name, "ports": ports, "networks": networks });
                if info.is_quarantine {
                    segment = json!({ "name": info.name, "quarantine": true });
                }
                if info.syn_cookies {
                    segment["protect"] = "syn-cookies".into();
                }
                if !info.permits.is_empty() {
                    segment["permit"] = info.permits.names().collect::<Vec<_>>().into();
                }
                for (key, floor) in [("require", s.floor), ("require_from", s.floor_out)] {
                    if let Some(floor) = floor {
                        segment[key] = self.canonical_condition(floor);
                    }
                }
                segment
            })
            .collect()
    }

    /// Who is in them decides who gets through.
    fn canonical_groups(&self) -> Vec<Value> {
        let groups = &self.identities.groups;
        let name = |id: &GroupId| &groups[id.0 as usize].name;
        let declared = groups.iter().filter(|group| !group.members.is_empty() || !group.groups.is_empty());
        declared
            .map(|group| {
                let inner: Vec<_> = group.groups.iter().map(name).collect();
                json!({ "name": group.name, "members": group.members, "groups": inner })
            })
            .collect()
    }

    fn canonical_postures(&self) -> Vec<Value> {
        let check = |check: &Check| match check {
            Check::Flag(flag) => json!(flag),
            Check::MaxAge(age) => json!({ "max_age_s": age.as_secs() }),
            Check::Text(text) => json!(text),
            Check::Texts(texts) => json!(texts),
        };
        let postures = self.identities.postures.iter();
        postures
            .map(|posture| {
                let checks: BTreeMap<_, _> =
                    posture.checks.iter().map(|(key, value)| (key, check(value))).collect();
                json!({ "name": posture.name, "max_age_s": posture.max_age_s, "checks": checks })
            })
            .collect()
    }

    fn canonical_schedules(&self) -> Vec<Value> {
        let schedules = self.identities.schedules.iter();
        schedules
            .map(|schedule| {
                let days: Vec<_> = (0..7).filter(|day| schedule.days[*day]).map(day_name).collect();
                let zone = schedule.zone.iana_name().unwrap_or("UTC");
                json!({ "name": schedule.name, "days": days, "minutes": schedule.hours, "timezone": zone })
            })
            .collect()
    }

    /// What it asks for, in names, and nothing of what it leaves out. Its gates stand beside it, in the rule.
    fn canonical_condition(&self, id: ConditionId) -> Value {
        let condition = self.rules.condition(id);
        let names = &self.identities;
        let mut asks = json!({});
        if let Some(users) = &condition.users {
            let groups: Vec<_> = users.groups.iter().map(|id| &names.groups[id.0 as usize].name).collect();
            let users: Vec<_> = users.users.iter().map(|id| &names.users[id.0 as usize]).collect();
            asks["users"] = json!({ "users": users, "groups": groups });
        }
        if let Some(devices) = &condition.devices {
            let tags: Vec<_> = devices.tags.iter().map(|id| &names.tags[id.0 as usize]).collect();
            asks["devices"] = json!({ "enrolled": devices.enrolled, "tags": tags });
        }
        if condition.phishing_resistant {
            asks["mfa"] = "phishing-resistant".into();
        }
        if let Some(age_s) = condition.mfa_max_age_s {
            asks["mfa_max_age_s"] = age_s.into();
        }
        if !condition.postures.is_empty() {
            let postures = condition.postures.iter().map(|id| names.postures[id.0 as usize].name.as_str());
            asks["posture"] = postures.collect::<Vec<_>>().into();
        }
        if let Some(risk) = condition.risk_below {
            asks["risk_below"] = risk.into();
        }
        asks
    }

    /// SHA-256 of [`canonical`](Model::canonical).
    pub(super) fn compute_digest(&self) -> String {
        let mut hash = BufWriter::new(Hashing(Sha256::new()));
        let written = serde_json::to_writer(&mut hash, &self.canonical());
        let hash = hash.into_inner().map_err(IntoInnerError::into_error);
        let Hashing(hash) = hash.expect("hashing cannot fail");
        written.expect("keys are strings, and hashing cannot fail");
        hash.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

/// Fields in the order of their names. Rules are written straight from the model: built as a tree of values first,
/// those of a large policy would take longer than everything else of a reload together.
#[derive(Serialize)]
struct Canonical<'m> {
    gateway: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    portal: Option<Value>,
    identity: Option<Value>,
    ports: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    postures: Vec<Value>,
    rules: Rules<'m>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    schedules: Vec<Value>,
    segments: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    workloads: Vec<Value>,
}

struct Rules<'m>(&'m Model);

impl Serialize for Rules<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Rules(model) = self;
        serializer.collect_seq(model.rule_infos.iter().zip(&model.written().rules).enumerate().map(
            |(id, (info, rule))| {
                // It matches nothing where the others stand as they are written, and its services are always the same.
                let at = if info.is_synthetic { &model.rules.rules[id] } else { rule };
                let asks = rule.condition.map(|condition| model.canonical_condition(condition));
                CanonicalRule {
                    action: action_text(rule.action),
                    asks: asks.filter(|asks| asks.as_object().is_some_and(|asks| !asks.is_empty())),
                    expires: info.expires.map(|moment| moment.to_string()),
                    from: Names(model, &at.from),
                    limits: info.limits.map(|limits| canonical_limits(&limits)),
                    mode: info.audit.then_some("audit"),
                    name: &info.name,
                    schedule: info.schedule.as_deref(),
                    services: Services(&rule.services),
                    starts: info.starts.map(|moment| moment.to_string()),
                    tier: rule.tier,
                    timeouts: canonical_overrides(&info.timeouts),
                    to: Names(model, &at.to),
                }
            },
        ))
    }
}

fn canonical_limits(limits: &RuleLimits) -> Value {
    json!({
        "connections": limits.connections, "connections_per_source": limits.connections_per_source,
        "new_per_second": limits.new_per_second,
        "new_per_second_per_source": limits.new_per_second_per_source,
    })
}

/// Fields in the order of their names.
#[derive(Serialize)]
struct CanonicalRule<'m> {
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    asks: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    from: Names<'m>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
    name: &'m str,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<&'m str>,
    services: Services<'m>,
    #[serde(skip_serializing_if = "Option::is_none")]
    starts: Option<String>,
    /// Its place among the tiers in which rules stand: their names mean nothing.
    #[serde(skip_serializing_if = "is_first")]
    tier: u8,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    timeouts: BTreeMap<&'static str, u32>,
    to: Names<'m>,
}

fn is_first(tier: &u8) -> bool {
    *tier == 0
}

/// What a rule says, and nothing of what it leaves out.
fn canonical_overrides(overrides: &Overrides) -> BTreeMap<&'static str, u32> {
    let all = [
        ("tcp_handshake_ms", overrides.tcp_handshake_ms),
        ("tcp_established_ms", overrides.tcp_established_ms),
        ("tcp_closing_ms", overrides.tcp_closing_ms),
        ("tcp_time_wait_ms", overrides.tcp_time_wait_ms),
        ("tcp_closed_ms", overrides.tcp_closed_ms),
        ("udp_unreplied_ms", overrides.udp_unreplied_ms),
        ("udp_replied_ms", overrides.udp_replied_ms),
        ("icmp_ms", overrides.icmp_ms),
    ];
    all.into_iter().filter_map(|(name, ms)| Some((name, ms?))).collect()
}

struct Names<'m>(&'m Model, &'m [SegmentId]);

impl Serialize for Names<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.1.iter().map(|segment| self.0.segment_name(*segment)))
    }
}

struct Services<'m>(&'m [Service]);

impl Serialize for Services<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|service| service_text(*service)))
    }
}

/// Hashes what is written to it.
struct Hashing(Sha256);

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The action as it is written in a file.
pub fn action_text(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Reject => "reject",
        Action::Deny => "deny",
        Action::Pass => "pass",
    }
}
