//! The canonical content: what a configuration means, independent of order, comments, layout and files.

use std::fmt::Write;

use bulkhead_dataplane::policy::Action;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Model;
use crate::config::values::service_text;

impl Model {
    /// What the gateway will do, as JSON with sorted keys. Tests, owners and descriptions are not in it: they
    /// change nothing.
    pub fn canonical(&self) -> Value {
        let gateway = &self.gateway;
        let t = &gateway.timeouts;
        let timeouts = json!({
            "tcp_handshake_ms": t.tcp_handshake_ms, "tcp_established_ms": t.tcp_established_ms,
            "tcp_closing_ms": t.tcp_closing_ms, "tcp_time_wait_ms": t.tcp_time_wait_ms,
            "tcp_closed_ms": t.tcp_closed_ms, "udp_unreplied_ms": t.udp_unreplied_ms,
            "udp_replied_ms": t.udp_replied_ms, "icmp_ms": t.icmp_ms,
        });
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|p| {
                let local: Vec<String> = p.local.iter().map(|s| format!("{s:?}")).collect();
                json!({ "name": p.name, "interface": p.interface, "local": local })
            })
            .collect();
        let segments: Vec<Value> = self
            .segments
            .iter()
            .zip(&self.rules.segments)
            .map(|(info, s)| {
                let ports: Vec<_> = s.ports.iter().map(|&p| self.port_name(p)).collect();
                let networks: Vec<_> = s.networks.iter().map(ToString::to_string).collect();
                json!({ "name": info.name, "ports": ports, "networks": networks })
            })
            .collect();
        let rules: Vec<Value> = self
            .rule_infos
            .iter()
            .zip(&self.rules.rules)
            .map(|(info, r)| {
                let names = |ids: &[_]| ids.iter().map(|&s| self.segment_name(s)).collect::<Vec<_>>();
                let services: Vec<_> = r.services.iter().map(|&s| service_text(s)).collect();
                json!({
                    "name": info.name, "from": names(&r.from), "to": names(&r.to), "services": services,
                    "action": action_text(r.action),
                })
            })
            .collect();
        json!({
            "gateway": {
                "control": gateway.control, "workers": gateway.workers, "connections": gateway.connections_v4,
                "connections_v6": gateway.connections_v6, "half_open_percent": gateway.half_open_percent,
                "busy_poll": gateway.busy_poll, "timeouts": timeouts,
            },
            "ports": ports, "segments": segments, "rules": rules,
        })
    }

    /// SHA-256 of [`canonical`](Model::canonical).
    pub(super) fn compute_digest(&self) -> String {
        let hash = Sha256::digest(self.canonical().to_string().as_bytes());
        hash.iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

/// The action as it is written in a file.
pub fn action_text(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Reject => "reject",
        Action::Deny => "deny",
    }
}
