//! `bulkhead status`: how is the running gateway?

use clap::Args;
use serde_json::json;

use super::control::{ControlArgs, Table, unexpected};
use super::{Exit, Format, OutputArgs, say, say_json};
use crate::api::portal::Portal;
use crate::api::types::Status;
use crate::api::{Reply, Request};
use crate::daemon::time::duration;

/// Show how the running gateway is
///
/// Policy in force, workers, ports, what became of every packet, connections, alarms.
#[derive(Args)]
#[command(after_help = "Examples:\n  bulkhead status\n  bulkhead status -o json | jq .ledger")]
pub struct StatusArgs {
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl StatusArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let status = match self.control.ask_one(&Request::Status, "asking")? {
            Ok(Reply::Status(status)) => status,
            Ok(reply) => return Err(unexpected(&reply)),
            Err(exit) => return Ok(exit),
        };
        if self.output.output == Format::Json {
            say_json(&json!(status));
        } else {
            say(&text(&status));
        }
        Ok(Exit::Ok)
    }
}

fn text(status: &Status) -> String {
    let digest = &status.digest[..12.min(status.digest.len())];
    let mut lines = vec![
        format!(
            "gateway      bulkhead {}, pid {}, up {}",
            status.version,
            status.pid,
            duration(status.uptime_s)
        ),
        format!(
            "policy       generation {}, {} rules, digest {digest}, in force since {}",
            status.generation, status.rules, status.loaded
        ),
        format!("revision     {}", revision(status)),
        format!(
            "config       {}{}",
            status.config.display(),
            if status.config_stored { ", as it was stored" } else { "" }
        ),
        format!(
            "workers      {} of {} alive, packet memory in {} pages",
            status.workers_alive,
            status.workers,
            if status.huge_pages { "2 MiB" } else { "ordinary" }
        ),
        format!(
            "connections  {} open, {} of them half-open, room for {}; {} evicted since the start",
            status.connections.open,
            status.connections.half_open,
            status.connections.capacity,
            status.connections.evicted
        ),
    ];
    let audit = &status.audit;
    lines.push(format!("audit log    {}", audit.head()));
    if audit.pending > 0 || audit.trouble.is_some() {
        let why = audit.trouble.as_deref().unwrap_or("they are about to be");
        lines.push(format!("             {} record(s) not written: {why}", audit.pending));
    }
    let fragments = &status.fragments;
    lines.push(format!(
        "fragments    {} wait, of {} datagrams, room for {}",
        fragments.held, fragments.datagrams, fragments.capacity
    ));
    let ledger = &status.ledger;
    lines.push(format!(
        "ledger       {} received = {} forwarded + {} dropped + {} held: {}",
        ledger.received,
        ledger.forwarded,
        ledger.dropped,
        ledger.held,
        if ledger.balanced { "balanced" } else { "NOT BALANCED" }
    ));
    lines.push(format!("answers      {} sent, {} lost", ledger.answered, ledger.answers_lost));
    lines.push(format!("sessions     {}, room for {}", status.sessions.open, status.sessions.capacity));
    if let Some(portal) = &status.portal {
        lines.extend(self::portal(portal));
    }
    lines.push(format!("events       {} lost", status.events_lost));
    if !status.kernel_forwarding.is_empty() {
        lines.push(format!("KERNEL FORWARDS AROUND THE GATEWAY: {}", status.kernel_forwarding.join(", ")));
    }
    lines.push(String::new());
    lines.push(ports(status));
    if status.alarms_total > 0 {
        lines.push(String::new());
        let shown = status.alarms.len();
        lines.push(format!("{} alarm(s), the last {shown}:", status.alarms_total));
        lines.extend(status.alarms.iter().map(|alarm| format!("{}  {}", alarm.ts, alarm.message)));
    }
    lines.join("\n")
}

fn portal(portal: &Portal) -> Vec<String> {
    let runs = match portal.pid {
        Some(pid) => format!("{} in process {pid}, {} questions", portal.listening.join(", "), portal.asked),
        None => "DOES NOT RUN".to_owned(),
    };
    let restarts = if portal.restarts > 0 {
        format!("; started again {} times", portal.restarts)
    } else {
        String::new()
    };
    let mut lines = vec![format!("portal       {}: {runs}{restarts}", portal.name)];
    if !portal.fingerprint.is_empty() {
        lines.push(format!("             certificate SHA-256 {}", portal.fingerprint));
    }
    if !portal.certificates.is_empty() {
        lines.push(format!(
            "             certificates are shown at {}: {} handshakes, {} recognised",
            portal.certificates.join(", "),
            portal.shown,
            portal.recognised
        ));
    }
    lines.extend(portal.trouble.as_ref().map(|trouble| format!("             TROUBLE: {trouble}")));
    lines
}

fn revision(status: &Status) -> String {
    match (status.revision, &status.confirm_until) {
        (None, _) => "NOT STORED, see the alarms".to_owned(),
        (Some(revision), None) => format!("{revision}, confirmed"),
        (Some(revision), Some(until)) => {
            format!("{revision}, ROLLED BACK AT {until} unless it is confirmed (`bulkhead confirm`)")
        }
    }
}

fn ports(status: &Status) -> String {
    let mut table = Table::new(&[
        "PORT",
        "INTERFACE",
        "LINK",
        "STEERING",
        "SOCKETS",
        ">TO WORKER",
        ">TO HOST",
        ">NO WORKER",
        ">RING FULL",
        ">LOST",
    ]);
    for port in &status.ports {
        table.row([
            port.name.clone(),
            port.interface.clone(),
            if port.up { "up" } else { "DOWN" }.to_owned(),
            port.attach.clone(),
            port.mode.clone(),
            port.to_worker.to_string(),
            port.to_host.to_string(),
            port.no_worker.to_string(),
            port.rx_ring_full.to_string(),
            port.rx_dropped.to_string(),
        ]);
    }
    table.text()
}
