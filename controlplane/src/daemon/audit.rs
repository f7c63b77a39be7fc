//! What would have been refused, or let through, if nothing were in audit: by pair of segments and service.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bulkhead_dataplane::beside::{Beside, Difference, Kind};
use bulkhead_dataplane::event::Event;
use bulkhead_dataplane::policy::Policy;
use bulkhead_dataplane::verdict::{Now, Reason};
use jiff::Timestamp;

use super::events::protocol_name;
use super::gateway::{Gateway, lock};
use super::time::rfc3339;
use crate::api::types::{AuditReport, AuditRow};
use crate::model::Model;

/// Pairs of segments and services that are told apart.
const ROWS_MAX: usize = 16_384;
/// Example sources of each.
const SOURCES: usize = 5;

/// What belongs together: the segments, protocol and port, and whether it would be refused.
type Key = (Option<String>, Option<String>, u8, u16, bool);

struct Row {
    count: u64,
    first: Now,
    last: Now,
    reason: Option<Reason>,
    rule: Option<String>,
    running: Option<String>,
    sources: BTreeSet<IpAddr>,
}

#[derive(Default)]
struct State {
    rows: HashMap<Key, Row>,
    noted: u64,
    overflow: u64,
    /// What the policies before the one in force have counted: asked, and different.
    before: (u64, u64),
    /// What is asked beside the policy in force, and the model that it was compiled from.
    beside: Option<(Arc<Beside>, Arc<Model>)>,
}

/// What audit would have changed since the gateway started.
#[derive(Default)]
pub struct AuditLog(Mutex<State>);

impl AuditLog {
    /// What is asked beside the policy in force.
    pub fn beside(&self) -> Option<Arc<Beside>> {
        Some(lock(&self.0).beside.as_ref()?.0.clone())
    }

    /// For a new policy in force, or the same one at another time, with its sessions and restraints; `None` when nothing of it
    /// is in audit.
    pub fn renew(&self, model: &Arc<Model>, in_force: &Policy, workers: usize) -> Option<Arc<Beside>> {
        let mut state = lock(&self.0);
        let mut compiled = None;
        if let Some((retired, compiled_from)) = state.beside.take() {
            let (asked, changed) = sums(&retired);
            state.before.0 += asked;
            state.before.1 += changed;
            // At an edge of the clock only the gates are others.
            compiled = Arc::ptr_eq(&compiled_from, model).then(|| Policy::clone(retired.policy()));
        }
        let mut policy = match compiled {
            Some(policy) => policy,
            // It was compiled before, when it was loaded, and is no larger.
            None => model.compile_audited()?.ok()?,
        };
        policy.set_gates(model.gates_at(Timestamp::now()).0);
        // It is of the same model, so the same numbers mean the same.
        policy.set_identities(in_force.identities().clone());
        policy.set_restraints(in_force.restraints().clone());
        let beside = Arc::new(Beside::new(Kind::Audit, Arc::new(policy), None, workers));
        state.beside = Some((beside.clone(), model.clone()));
        Some(beside)
    }

    /// Counts one event.
    pub fn note(
        &self,
        event: &Event,
        difference: &Difference,
        pair: (Option<&str>, Option<&str>),
        running: Option<String>,
        rule: Option<String>,
    ) {
        let mut state = lock(&self.0);
        state.noted += 1;
        let name = |name: Option<&str>| name.map(str::to_owned);
        // An echo's port is its identifier.
        let port = if protocol_has_ports(event.protocol) { event.destination_port } else { 0 };
        let key = (name(pair.0), name(pair.1), event.protocol, port, !difference.beside.allows());
        if state.rows.len() >= ROWS_MAX && !state.rows.contains_key(&key) {
            state.overflow += 1;
            return;
        }
        let row = state.rows.entry(key).or_insert_with(|| Row {
            count: 0,
            first: event.at,
            last: event.at,
            reason: None,
            rule: None,
            running: None,
            sources: BTreeSet::new(),
        });
        row.count += 1;
        row.last = row.last.max(event.at);
        row.first = row.first.min(event.at);
        (row.reason, row.rule, row.running) = (difference.beside.refusal, rule, running);
        if row.sources.len() < SOURCES {
            row.sources.insert(event.source);
        }
    }
}

/// Whether a connection of this protocol is to a port.
pub fn protocol_has_ports(protocol: u8) -> bool {
    use bulkhead_dataplane::headers::protocol;
    matches!(protocol, protocol::TCP | protocol::UDP)
}

/// How much was asked, and how much of it was different.
fn sums(beside: &Beside) -> (u64, u64) {
    let counted: u64 = beside.counted().iter().map(|counted| counted.count).sum();
    (beside.asked(), counted + beside.overflow())
}

impl Gateway {
    /// What audit would have changed, of that last seen since a moment.
    pub fn audit_report(&self, since: Option<SystemTime>) -> AuditReport {
        let state = lock(&self.besides.audit.0);
        let (asked, changed) = state.beside.as_ref().map(|(beside, _)| sums(beside)).unwrap_or_default();
        let changed = changed + state.before.1;
        let mut rows: Vec<_> = state
            .rows
            .iter()
            .filter(|(_, row)| since.is_none_or(|since| self.engine.wall(row.last) >= since))
            .map(|((from, to, protocol, port, is_refused), row)| AuditRow {
                would: if *is_refused { "deny" } else { "allow" }.to_owned(),
                from: from.clone(),
                to: to.clone(),
                protocol: protocol_name(*protocol),
                port: *port,
                count: row.count,
                first: rfc3339(self.engine.wall(row.first)),
                last: rfc3339(self.engine.wall(row.last)),
                reason: row.reason.map(|reason| reason.name().to_owned()),
                rule: row.rule.clone(),
                running: row.running.clone(),
                sources: row.sources.iter().map(IpAddr::to_string).collect(),
            })
            .collect();
        rows.sort_by(|a, b| {
            b.count.cmp(&a.count).then_with(|| {
                (&a.from, &a.to, &a.protocol, a.port).cmp(&(&b.from, &b.to, &b.protocol, b.port))
            })
        });
        AuditReport {
            in_audit: state.beside.is_some(),
            asked: asked + state.before.0,
            changed,
            // Their events were lost, or have not been taken yet.
            unknown: changed.saturating_sub(state.noted) + state.overflow,
            rows,
        }
    }
}
