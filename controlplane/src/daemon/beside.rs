//! Policies beside the one in force: the shadow, and what audit would refuse. Their numbers are told in names here.
//!
//! A shadow is compared with one policy in force. A reload of that begins the comparison anew, with the same shadow:
//! live connections are judged again at their next packet then, and the shadow with them. What is there when a shadow
//! starts is judged here, once, so that no packet pays for it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bulkhead_dataplane::beside::{Beside, Difference, Kind};
use bulkhead_dataplane::connection::Summary;
use bulkhead_dataplane::event::{Event, EventKind};
use bulkhead_dataplane::policy::{Decision, Policy, Query, Restraints};
use bulkhead_dataplane::verdict::{Generation, Now, PortId, Reason, RuleId, SegmentId};

use jiff::Timestamp;

use super::audit::AuditLog;
use super::events::{protocol_name, shown_ports};
use super::gateway::{Gateway, lock};
use super::generations::segments;
use super::load::{self, Loaded};
use super::time::rfc3339;
use crate::api::types::{Refusal, Shadow, ShadowRow, Verdict};
use crate::model::{Expected, Model};

/// Between the moment from which workers ask, and the look at what was there before: longer than a burst takes.
const SETTLE: Duration = Duration::from_millis(20);
/// Differences of which samples are kept.
const SAMPLED_MAX: usize = 4096;
/// Samples of each.
const SAMPLES: usize = 5;

/// A shadow that is running.
struct Running {
    model: Arc<Model>,
    policy: Arc<Policy>,
    file: PathBuf,
    started: SystemTime,
    /// When the comparison with the policy in force began.
    since: SystemTime,
    beside: Arc<Beside>,
}

/// Of a difference, the events that show it.
type Samples = HashMap<(Difference, Generation, Option<SegmentId>, Option<SegmentId>), Vec<Event>>;

/// The policies beside.
#[derive(Default)]
pub struct Besides {
    /// Held while a shadow starts or stops, and when the policy in force changes.
    shadow: Mutex<Option<Running>>,
    samples: Mutex<Samples>,
    /// What audit would have refused.
    pub audit: AuditLog,
}

impl Besides {
    /// The policies to be asked beside a new policy in force, with its sessions and restraints; the samples of its predecessor
    /// are forgotten.
    pub fn renew(&self, model: &Arc<Model>, in_force: &Policy, workers: usize) -> Vec<Arc<Beside>> {
        let mut besides = Vec::new();
        if let Some(running) = lock(&self.shadow).as_mut() {
            // By the clock as it is now: the policy in force may change because of it.
            let mut policy = Policy::clone(&running.policy);
            policy.set_gates(running.model.gates_at(Timestamp::now()).0);
            policy.set_restraints(restrained(&running.model, in_force));
            running.policy = Arc::new(policy);
            running.beside = shadow_of(&running.model, running.policy.clone(), model, workers);
            running.since = SystemTime::now();
            running.beside.begin(Now(0));
            besides.push(running.beside.clone());
        }
        lock(&self.samples).clear();
        if let Some(audited) = self.audit.renew(model, in_force, workers) {
            audited.begin(Now(0));
            besides.push(audited);
        }
        besides
    }

    /// The name of a rule of a policy beside.
    pub fn rule_name(
        &self,
        gateway: &Gateway,
        difference: &Difference,
        generation: Generation,
    ) -> Option<String> {
        match difference.kind {
            Kind::Audit => gateway.rule_name(generation, difference.beside.rule),
            Kind::Shadow => {
                let shadow = lock(&self.shadow);
                shadow.as_ref()?.model.rule_name(difference.beside.rule).map(str::to_owned)
            }
        }
    }

    /// Remembers who shows a difference. Called for every event, by the one thread that takes them.
    pub fn note(&self, gateway: &Gateway, event: &Event) {
        let EventKind::Beside(difference) = event.kind else { return };
        let snapshot = gateway.engine.snapshot();
        let policy = &snapshot.policy.policy;
        let (from, to) = (
            policy.source_segment(event.ingress, event.source),
            policy.destination_segment(event.destination),
        );
        if difference.kind == Kind::Audit {
            let model = gateway.in_force().model;
            let rule = self.rule_name(gateway, &difference, event.generation);
            let running = gateway.rule_name(event.generation, event.rule);
            let pair = segments(&model, policy, event.ingress, event.source, event.destination);
            self.audit.note(event, &difference, pair, running, rule);
            return;
        }
        let mut samples = lock(&self.samples);
        let is_full = samples.len() >= SAMPLED_MAX;
        let key = (difference, event.generation, from, to);
        if is_full && !samples.contains_key(&key) {
            return;
        }
        let samples = samples.entry(key).or_default();
        // Others tell more than the same once more.
        let is_known = |known: &Event| (known.source, known.destination) == (event.source, event.destination);
        if samples.len() < SAMPLES && !samples.iter().any(is_known) {
            samples.push(*event);
        }
    }
}

/// The restraints of the policy in force, as another one has them.
fn restrained(model: &Model, in_force: &Policy) -> Arc<Restraints> {
    Arc::new(in_force.restraints().with_segment(model.quarantine().is_some()))
}

fn shadow_of(shadow: &Model, policy: Arc<Policy>, in_force: &Model, workers: usize) -> Arc<Beside> {
    let namesake = |info: &crate::model::RuleInfo| in_force.rule_id(&info.name).unwrap_or(RuleId::NONE);
    let namesakes = shadow.rule_infos.iter().map(namesake).collect();
    Arc::new(Beside::new(Kind::Shadow, policy, Some(namesakes), workers))
}

impl Gateway {
    /// Starts a shadow, in place of the one that runs.
    ///
    /// # Errors
    ///
    /// The configuration is wrong or fails its own tests, or its ports are others than the gateway's; nothing changes.
    pub fn start_shadow(&self, file: &Path) -> Result<Shadow, Refusal> {
        let Loaded { model, mut policy } = load::load(file, self.compiled().as_ref())?;
        let _one_at_a_time = self.one_change_at_a_time();
        let in_force = self.in_force();
        let ports = |model: &Model| model.ports.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
        if ports(&model) != ports(&in_force.model) {
            return Err(Refusal::error(format!(
                "{}: its ports are {}, the gateway's {}: what comes in by them cannot be compared",
                file.display(),
                ports(&model).join(", "),
                ports(&in_force.model).join(", ")
            )));
        }
        let model = Arc::new(model);
        self.sessions.attach(&model, &mut policy, self.engine.now());
        policy.set_restraints(restrained(&model, &self.engine.snapshot().policy.policy));
        let policy = Arc::new(policy);
        let workers = self.engine.workers().0;
        let beside = shadow_of(&model, policy.clone(), &in_force.model, workers);
        let now = SystemTime::now();
        let running = Running {
            model,
            policy,
            file: file.to_owned(),
            started: now,
            since: now,
            beside: beside.clone(),
        };
        *lock(&self.besides.shadow) = Some(running);
        lock(&self.besides.samples).clear();
        self.publish_besides()?;
        self.begin_beside(&beside);
        self.shadow().ok_or_else(|| Refusal::error("the shadow is gone again"))
    }

    /// Stops the shadow; what it came to. `None` when none runs.
    ///
    /// # Errors
    ///
    /// A worker is stuck.
    pub fn stop_shadow(&self) -> Result<Option<Shadow>, Refusal> {
        let _one_at_a_time = self.one_change_at_a_time();
        let report = self.shadow();
        *lock(&self.besides.shadow) = None;
        self.publish_besides()?;
        lock(&self.besides.samples).clear();
        Ok(report)
    }

    /// Has audit begin, where something is in audit: at the start of the gateway.
    pub(super) fn begin_audit(&self) -> Result<(), Refusal> {
        let in_force = self.in_force();
        let policy = self.engine.snapshot().policy.clone();
        let workers = self.engine.workers().0;
        if let Some(audited) = self.besides.audit.renew(&in_force.model, &policy.policy, workers) {
            self.publish_besides()?;
            self.begin_beside(&audited);
        }
        Ok(())
    }

    /// Publishes the policies beside the one in force, as they are now.
    pub(super) fn publish_besides(&self) -> Result<(), Refusal> {
        let shadow = lock(&self.besides.shadow).as_ref().map(|running| running.beside.clone());
        let besides = shadow.into_iter().chain(self.besides.audit.beside()).collect();
        self.engine.publish_besides(besides).map_err(|error| Refusal::error(error.to_string()))
    }

    /// Has the workers ask from now on, and asks about the connections that are there already: every connection once.
    pub(super) fn begin_beside(&self, beside: &Beside) {
        // A whole millisecond that no worker has seen yet.
        let begins = Now((self.engine.now().millis() + 2) * 1_000_000);
        beside.begin(begins);
        std::thread::sleep(SETTLE);
        let snapshot = self.engine.snapshot();
        let (table, now) = (self.engine.table(), self.engine.now());
        let v4 = table.v4.summaries(0, now).map(|(_, summary)| summary);
        let v6 = table.v6.summaries(0, now).map(|(_, summary)| summary);
        for summary in v4.chain(v6).filter(|summary| summary.opened_ms < begins.millis()) {
            let running = Decision { refusal: None, rule: summary.stamp.rule };
            // One that has not been judged by the policy in force is asked about when it is.
            if summary.stamp.generation != snapshot.generation() {
                continue;
            }
            let (policy, query) = (&snapshot.policy.policy, query(&summary));
            if let Some(difference) = beside.ask(beside.control_row(), now, policy, running, &query, None) {
                self.engine.record(event(now, &summary, difference, snapshot.generation()));
            }
        }
    }

    /// What the shadow has come to; `None` when none runs.
    pub fn shadow(&self) -> Option<Shadow> {
        let in_force = self.in_force();
        let shadow = lock(&self.besides.shadow);
        let running = shadow.as_ref()?;
        let samples = lock(&self.besides.samples);
        let mut rows: HashMap<_, ShadowRow> = HashMap::new();
        for counted in running.beside.counted() {
            let Difference { running: now, beside, .. } = counted.difference;
            let (from, to) = counted.pair;
            let name = |segment: Option<SegmentId>| {
                segment.and_then(|s| in_force.model.segment_name(s)).map(str::to_owned)
            };
            let (first, last) = (self.engine.wall(counted.first), self.engine.wall(counted.last));
            let row = rows.entry((counted.difference, from, to)).or_insert_with(|| ShadowRow {
                change: change(now.refusal, beside.refusal).to_owned(),
                from: name(from),
                to: name(to),
                running: verdict(&now, in_force.model.rule_name(now.rule)),
                shadow: verdict(&beside, running.model.rule_name(beside.rule)),
                count: 0,
                first: rfc3339(first),
                last: rfc3339(last),
                samples: samples
                    .get(&(counted.difference, in_force.generation, from, to))
                    .map(|events| events.iter().map(sample).collect())
                    .unwrap_or_default(),
            });
            row.count += counted.count;
            // Of one form and length, so they compare as texts.
            row.first = rfc3339(first).min(std::mem::take(&mut row.first));
            row.last = rfc3339(last).max(std::mem::take(&mut row.last));
        }
        let mut rows: Vec<_> = rows.into_values().collect();
        rows.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| (&a.from, &a.to).cmp(&(&b.from, &b.to))));
        let overflow = running.beside.overflow();
        let changed = rows.iter().map(|row| row.count).sum::<u64>() + overflow;
        Some(Shadow {
            config: running.file.clone(),
            digest: running.model.digest.clone(),
            started: rfc3339(running.started),
            since: rfc3339(running.since),
            generation: in_force.generation.0,
            asked: running.beside.asked(),
            changed,
            overflow,
            rows,
        })
    }
}

/// The word for what changes.
fn change(running: Option<Reason>, beside: Option<Reason>) -> &'static str {
    match (running, beside) {
        (None, Some(_)) => "allow_to_refuse",
        (Some(_), None) => "refuse_to_allow",
        (a, b) if a != b => "other_reason",
        _ => "other_rule",
    }
}

/// A decision in names.
pub fn verdict(decision: &Decision, rule: Option<&str>) -> Verdict {
    Verdict {
        verdict: Expected::of(decision).name().to_owned(),
        reason: decision.refusal.map(|reason| reason.name().to_owned()),
        rule: rule.map(str::to_owned),
    }
}

/// `tcp 10.1.0.5:40000 → 10.2.0.5:443`.
fn sample(event: &Event) -> String {
    let (source, destination) = shown_ports(event.protocol, (event.source_port, event.destination_port));
    let end = |address: IpAddr, port: u16| match (address, port) {
        (address, 0) => address.to_string(),
        (IpAddr::V6(address), port) => format!("[{address}]:{port}"),
        (address, port) => format!("{address}:{port}"),
    };
    let protocol = protocol_name(event.protocol);
    format!("{protocol} {} → {}", end(event.source, source), end(event.destination, destination))
}

fn query(summary: &Summary) -> Query {
    let tuple = &summary.tuple;
    Query {
        ingress: summary.ingress,
        source: tuple.source,
        destination: tuple.destination,
        protocol: tuple.protocol,
        destination_port: tuple.destination_port,
    }
}

fn event(at: Now, summary: &Summary, difference: Difference, generation: Generation) -> Event {
    let tuple = &summary.tuple;
    let ingress: PortId = summary.ingress;
    Event {
        at,
        kind: EventKind::Beside(difference),
        ingress,
        source: tuple.source,
        destination: tuple.destination,
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        protocol: tuple.protocol,
        rule: summary.stamp.rule,
        generation,
        bearer: summary.stamp.bearer,
        packets: 0,
        bytes: 0,
    }
}
