//! How the gateway is, as `status` and the start-up report show it.

use bulkhead_dataplane::counters;
use bulkhead_dataplane::engine::PortReport;
use bulkhead_dataplane::steering::AttachMode;
use bulkhead_dataplane::verdict::{PortId, Reason, RuleId};
use jiff::Timestamp;

use super::gateway::{Gateway, lock};
use super::lifecycle::from_ms;
use super::time::rfc3339;
use crate::api::types::{DropRow, Fragments, Ledger, Port, Refusal, Room, RuleRow, Rules, Status, Table};
use crate::model::action_text;

/// How the gateway is.
pub fn status(gateway: &Gateway) -> Result<Status, Refusal> {
    let in_force = gateway.in_force();
    let engine = &gateway.engine;
    let (workers, alive) = engine.workers();
    let table = engine.table();
    let (alarms_total, alarms) = gateway.alarms.read();
    let ledgers = engine.ledgers();
    let mut sum = counters::Ledger::default();
    ledgers.iter().for_each(|ledger| sum.add(ledger));
    let (started, started_wall) = gateway.started;
    let (fragments, datagrams) = engine.fragments();
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: rfc3339(started_wall),
        uptime_s: started.elapsed().as_secs(),
        generation: in_force.generation.0,
        revision: in_force.revision,
        confirm_until: in_force.confirm_until.map(rfc3339),
        digest: in_force.model.digest.clone(),
        config: in_force.file.clone(),
        config_stored: in_force.from_store,
        loaded: rfc3339(in_force.since),
        rules: in_force.model.rule_infos.len() as u64,
        workers: workers as u64,
        workers_alive: alive as u64,
        huge_pages: engine.huge_pages(),
        ports: ports(gateway)?,
        ledger: ledger(&sum),
        worker_ledgers: ledgers.iter().map(ledger).collect(),
        connections: Table {
            open: table.len().into(),
            half_open: table.half_open().into(),
            evicted: table.evicted(),
            capacity: table.capacity().into(),
        },
        fragments: Fragments { held: fragments, datagrams, capacity: engine.fragment_capacity() },
        sessions: Room { open: gateway.sessions.len() as u64, capacity: gateway.sessions.capacity() as u64 },
        audit: gateway.audit_head(),
        portal: gateway.portal.to_api(),
        events_lost: engine.events_lost(),
        kernel_forwarding: lock(&gateway.kernel_forwarding).clone(),
        alarms_total,
        alarms,
    })
}

fn ports(gateway: &Gateway) -> Result<Vec<Port>, Refusal> {
    let reports = gateway.engine.ports().map_err(|error| Refusal::error(error.to_string()))?;
    let model = gateway.in_force().model;
    let topology = gateway.engine.snapshot().topology.clone();
    let ids = (0..=u8::MAX).map(PortId);
    Ok(ids
        .zip(reports)
        .map(|(id, report)| {
            let up = topology.port(id).is_some_and(|port| port.up);
            port(model.port_name(id).unwrap_or("?"), up, report)
        })
        .collect())
}

fn port(name: &str, up: bool, report: PortReport) -> Port {
    let attach = match report.attach {
        AttachMode::Driver => "driver",
        AttachMode::Generic => "generic",
    };
    let mode = match report.mode {
        Some(afxdp::Mode::ZeroCopy) => "zero-copy",
        Some(afxdp::Mode::Copy) => "copy",
        None => "down",
    };
    Port {
        name: name.to_owned(),
        interface: report.interface,
        up,
        attach: attach.to_owned(),
        driver_refusal: report.driver_refusal,
        mode: mode.to_owned(),
        received: report.steering.received(),
        to_host: report.steering.to_host,
        to_worker: report.steering.redirected,
        no_worker: report.steering.no_worker,
        rx_ring_full: report.rx_ring_full,
        rx_dropped: report.rx_dropped,
    }
}

fn ledger(ledger: &counters::Ledger) -> Ledger {
    Ledger {
        received: ledger.received,
        received_bytes: ledger.received_bytes,
        forwarded: ledger.forwarded,
        forwarded_bytes: ledger.forwarded_bytes,
        dropped: ledger.dropped_total(),
        held: ledger.held,
        answered: ledger.answered,
        answers_lost: ledger.answers_lost,
        balanced: ledger.is_balanced(),
    }
}

/// Counters of every rule in force, and of the default deny at last.
pub fn rules(gateway: &Gateway) -> Result<Rules, Refusal> {
    // First, so that nothing is published between the look at the model and the look at the counters.
    let totals = gateway.totals();
    let policy = gateway.engine.snapshot().policy.clone();
    let names = gateway.names(policy.generation);
    let names = names.ok_or_else(|| Refusal::error("the names of the policy in force are gone"))?;
    let model = gateway.in_force().model;
    let table = gateway.engine.table();
    let limit = |rule| policy.policy.limits().find(rule);
    let open = |rule| limit(rule).and_then(|limit| table.connections_of(limit)).map(u64::from);
    let time = |ms| rfc3339(from_ms(ms));
    let now = Timestamp::now();
    let row = |name: Option<&String>, rule: RuleId, action: &str| {
        let counted = totals.read(name.map(String::as_str), rule, &policy.counters);
        let info = rule.index().and_then(|index| model.rule_infos.get(index));
        RuleRow {
            rule: name.cloned(),
            action: action.to_owned(),
            packets: counted.packets,
            bytes: counted.bytes,
            connections: counted.connections,
            open: open(rule),
            last_hit: counted.hit_ms.map(time),
            first_seen: name.map(|_| time(counted.first_ms)),
            in_force_since: name.map(|_| time(counted.since_ms)),
            audit: info.is_some_and(|info| info.audit),
            untimely: info.and_then(|info| model.untimely(info, now)),
        }
    };
    let ids = (0..).map(RuleId);
    let rules = ids.zip(&names.rules).map(|(id, name)| {
        let action = model.rules.rules.get(id.0 as usize).map_or("?", |rule| action_text(rule.action));
        row(Some(name), id, action)
    });
    let (since_ms, gaps, last_gap_ms) = totals.observed();
    Ok(Rules {
        observed_since: time(since_ms),
        gaps,
        last_gap: last_gap_ms.map(time),
        rules: rules.chain([row(None, RuleId::NONE, "deny")]).collect(),
    })
}

/// Dropped packets by reason: those of the workers, and what was lost before it reached one.
pub fn drops(gateway: &Gateway) -> Result<Vec<DropRow>, Refusal> {
    let mut dropped = gateway.engine.ledger().dropped;
    for port in gateway.engine.ports().map_err(|error| Refusal::error(error.to_string()))? {
        dropped[Reason::NoWorker as usize] += port.steering.no_worker;
        dropped[Reason::RxRingFull as usize] += port.rx_ring_full;
    }
    Ok(Reason::ALL
        .iter()
        .map(|&reason| DropRow {
            reason: reason.name().to_owned(),
            group: reason.group().to_owned(),
            packets: dropped[reason as usize],
            help: reason.help().to_owned(),
        })
        .collect())
}

/// The start-up report.
pub fn report(gateway: &Gateway) -> Result<String, Refusal> {
    let status = status(gateway)?;
    let mut text = format!(
        "bulkhead {}: {}generation {}, {} rules from {}{} ({})\n",
        status.version,
        status.revision.map_or_else(String::new, |revision| format!("revision {revision}, ")),
        status.generation,
        status.rules,
        status.config.display(),
        if status.config_stored { " as it was stored" } else { "" },
        &status.digest[..12.min(status.digest.len())],
    );
    for port in &status.ports {
        let state = if port.up { "up" } else { "DOWN" };
        text += &format!(
            "  port {} on {}: {state}, {} mode, {}\n",
            port.name, port.interface, port.attach, port.mode
        );
        if let Some(refusal) = &port.driver_refusal {
            text += &format!("    not in the driver: {refusal}\n");
        }
    }
    let pages =
        if status.huge_pages { "2 MiB pages" } else { "ordinary pages (reserve 2 MiB pages for more speed)" };
    text += &format!("  {} worker(s), packet memory in {pages}\n", status.workers);
    text += &format!("  room for {} connections", status.connections.capacity);
    Ok(text)
}
