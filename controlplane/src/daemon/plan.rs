//! What a file would change of the running gateway, its live connections included. Changes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bulkhead_dataplane::connection::Summary;
use bulkhead_dataplane::policy::{Policy, Query};
use bulkhead_dataplane::verdict::{PortId, Reason};
use jiff::Timestamp;

use super::events::{protocol_name, shown_ports};
use super::gateway::Gateway;
use crate::api::types::Refusal;
use crate::model::{self, Model};
use crate::plan::{Connections, Cut, Plan, expiring};

/// Compares a file with what is in force.
///
/// # Errors
///
/// The file is wrong, or too large to be compared.
pub fn plan(gateway: &Gateway, file: &Path) -> Result<Plan, Refusal> {
    let new = Arc::new(model::load(file).map_err(|errors| Refusal::error(errors.to_string()))?);
    let compiled = match gateway.compiled() {
        Some(before) => new.recompile(&before.model, &before.policy.policy),
        None => new.compile(),
    };
    let mut policy = compiled.map_err(Refusal::error)?;
    let now = Timestamp::now();
    policy.set_gates(new.gates_at(now).0);
    let in_force = gateway.in_force();
    let mut plan = Plan::between(&in_force.model, &new).map_err(|error| Refusal::error(error.to_string()))?;
    plan.old.source = format!("generation {} ({})", in_force.generation, in_force.file.display());
    plan.failed_tests = new.failed_tests(&policy);
    plan.expiring = expiring(&in_force.model, &new, now);
    gateway.sessions.attach(&new, &mut policy, gateway.engine.now());
    policy.set_restraints(gateway.restraints.of_model(&new));
    plan.connections = Some(connections(gateway, &in_force.model, &new, &policy));
    Ok(plan)
}

/// The rule that let a connection through, the reason for cutting it, and the rule that does.
type Why = (Option<String>, Reason, Option<String>);

/// Judges every live connection as its next packet would be judged.
fn connections(gateway: &Gateway, old: &Model, new: &Model, policy: &Policy) -> Connections {
    // Ports have other numbers where some came or went.
    let ports: Vec<Option<PortId>> = old
        .ports
        .iter()
        .map(|port| {
            new.ports.iter().position(|other| other.name == port.name).map(|index| PortId(index as u8))
        })
        .collect();
    let (table, now) = (gateway.engine.table(), gateway.engine.now());
    let v4 = table.v4.summaries(0, now).map(|(_, summary)| summary);
    let v6 = table.v6.summaries(0, now).map(|(_, summary)| summary);
    let mut found = Connections::default();
    let mut cut: BTreeMap<Why, (u64, String)> = BTreeMap::new();
    for summary in v4.chain(v6).filter(|summary| summary.end.is_none()) {
        let tuple = &summary.tuple;
        let ingress = ports.get(usize::from(summary.ingress.0)).copied().flatten();
        let judged = ingress.map(|ingress| {
            let query = Query {
                ingress,
                source: tuple.source,
                destination: tuple.destination,
                protocol: tuple.protocol,
                destination_port: tuple.destination_port,
            };
            policy.judge_now(&query, None, now).answer
        });
        // Without its port nothing can come in any more.
        let refusal = judged.map_or(Some(Reason::SpoofedSource), |decision| decision.refusal);
        let Some(reason) = refusal else {
            found.stay += 1;
            continue;
        };
        let rule = gateway.rule_name(summary.stamp.generation, summary.stamp.rule);
        let by = judged.and_then(|decision| new.rule_name(decision.rule)).map(str::to_owned);
        let (count, _) = cut.entry((rule, reason, by)).or_insert_with(|| (0, sample(&summary)));
        *count += 1;
    }
    found.cut = cut
        .into_iter()
        .map(|((rule, reason, by), (connections, sample))| Cut {
            rule,
            reason: reason.name().to_owned(),
            by,
            connections,
            sample,
        })
        .collect();
    found.cut.sort_by_key(|cut| std::cmp::Reverse(cut.connections));
    found
}

fn sample(summary: &Summary) -> String {
    let tuple = &summary.tuple;
    let (source_port, destination_port) =
        shown_ports(tuple.protocol, (tuple.source_port, tuple.destination_port));
    let protocol = protocol_name(tuple.protocol);
    let end = |address: std::net::IpAddr, port: u16| match port {
        0 => address.to_string(),
        port => std::net::SocketAddr::new(address, port).to_string(),
    };
    format!("{protocol} {} → {}", end(tuple.source, source_port), end(tuple.destination, destination_port))
}
