//! Lies and curiosity: a spoofed source, a port scan.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use crate::demo::gateway::Gateway;
use crate::demo::policy::TCP_LISTENERS;
use crate::demo::probe::{Probe, Seen, Service};
use crate::demo::row::Finding;
use crate::demo::stage::{ANSWERED, FAMILIES, Family, NOTHING, PATIENCE, Stage, seen};
use crate::demo::watch::Watch;

/// The ports that are scanned.
const SCANNED: std::ops::RangeInclusive<u16> = 1..=1000;
/// Connections tried at once, well under the usual limit of 1,024 descriptors.
const AT_ONCE: usize = 200;

/// Plays it.
pub fn play(stage: &mut Stage<'_>) -> Result<()> {
    stage.scene("Attacks");
    spoof(stage)?;
    scan(stage)
}

/// A client gives itself the web server's address, which the database would let in.
fn spoof(stage: &mut Stage<'_>) -> Result<()> {
    let tried = "clients → db as if from web, tcp/5432";
    stage.trying(tried)?;
    let (client, web, db) = (stage.lab.host("clients"), stage.lab.host("web"), stage.lab.host("db"));
    let gateway = stage.gateway()?;
    let before = dropped(gateway)?;
    let mut watch = Watch::open(&stage.lab.gateway, db)?;
    let mut probes = Vec::new();
    for family in FAMILIES {
        let claimed = family.address(web);
        client.namespace.add_address("lo", IpNet::from(claimed))?;
        let service = Service::Tcp(5432);
        probes.push(client.namespace.run(|| Probe::send(claimed, family.address(db), service))?);
    }
    // Goes the same way behind them, so that their fate is known when it is answered.
    sentinel(stage, Family::V4)?;
    let tuples: Vec<_> = probes.iter().map(|probe| probe.tuple).collect();
    let arrived = watch.has_arrived(&tuples)?;
    let mut what = NOTHING;
    for probe in &probes {
        let seen = seen(probe.tcp_state()?, arrived);
        if seen != NOTHING {
            what = seen;
        }
    }
    let after = dropped(gateway)?;
    for (family, probe) in FAMILIES.iter().zip(probes) {
        probe.abort()?;
        client.namespace.delete_address("lo", IpNet::from(family.address(web)))?;
    }
    // Other traffic may be dropped meanwhile, for its own reasons; these packets have theirs only if it rose by them.
    let rise = |reason: &str| {
        let count =
            |list: &[(String, u64)]| list.iter().find(|(name, _)| name == reason).map_or(0, |(_, n)| *n);
        count(&after) - count(&before)
    };
    let why = if rise("spoofed_source") >= tuples.len() as u64 {
        "spoofed_source".to_owned()
    } else {
        let risen = after.iter().map(|(reason, _)| reason.as_str()).filter(|reason| rise(reason) > 0);
        risen.collect::<Vec<_>>().join(", ")
    };
    let note = Some("with the address of web, which may do this (web-uses-db)".to_owned());
    let happened = Finding::new(what, why);
    stage.row(tried, Finding::new(NOTHING, "spoofed_source"), happened, note);
    Ok(())
}

fn dropped(gateway: &Gateway) -> Result<Vec<(String, u64)>> {
    Ok(gateway.drops()?.into_iter().map(|row| (row.reason, row.packets)).collect())
}

/// An allowed connection, answered.
fn sentinel(stage: &Stage<'_>, family: Family) -> Result<()> {
    let (from, to) = (stage.lab.host("clients"), stage.lab.host("web"));
    let (source, destination) = (family.address(from), family.address(to));
    let mut probe = from.namespace.run(|| Probe::send(source, destination, Service::Tcp(443)))?;
    match probe.look(PATIENCE)? {
        Seen::Answered => Ok(()),
        other => bail!(
            "an allowed connection is not answered ({other:?}), so nothing can be said of what went before"
        ),
    }
}

/// A thousand ports, of which only those are found that are allowed and have a listener.
fn scan(stage: &mut Stage<'_>) -> Result<()> {
    let tried = format!("clients → web: scan of tcp/{}–{}", SCANNED.start(), SCANNED.end());
    stage.trying(&tried)?;
    let begun = std::time::Instant::now();
    let (client, web) = (stage.lab.host("clients"), stage.lab.host("web"));
    let (source, destination) = (Family::V4.address(client), Family::V4.address(web));
    let ports: Vec<u16> = SCANNED.collect();
    let (mut open, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for batch in ports.chunks(AT_ONCE) {
        let probes = client.namespace.run(|| {
            let send =
                |&port| Probe::send(source, destination, Service::Tcp(port)).map(|probe| (port, probe));
            batch.iter().map(send).collect::<Result<Vec<_>, _>>()
        })?;
        // When this is answered, so is every one before it that ever will be.
        sentinel(stage, Family::V4)?;
        for (port, probe) in probes {
            match probe.tcp_state()? {
                Seen::Answered => open.insert(port),
                Seen::Refused => refused.insert(port),
                Seen::Nothing => false,
            };
            probe.abort()?;
        }
    }
    let took = begun.elapsed();
    let mut allowed = BTreeSet::new();
    for port in SCANNED {
        let says = stage.expected("clients", "web", Service::Tcp(port), Family::V4)?;
        if says.what == ANSWERED {
            allowed.insert(port);
        }
    }
    let listening: BTreeSet<u16> =
        allowed.iter().copied().filter(|port| TCP_LISTENERS.contains(port)).collect();
    let closed = SCANNED.len() - allowed.len();
    let denied =
        denied_ports(stage.gateway()?, source, destination, closed).context("the events of the scan")?;
    let found = |open: &BTreeSet<u16>, refused: usize| {
        let list = open.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        if refused == 0 { format!("open: {list}") } else { format!("open: {list}; refused: {refused}") }
    };
    let expected =
        Finding::new(found(&listening, allowed.len() - listening.len()), format!("no_rule × {closed}"));
    let happened = Finding::new(found(&open, refused.len()), format!("no_rule × {denied}"));
    let note = format!("port 22 has a listener too, but no rule; took {} ms", took.as_millis());
    stage.row(&tried, expected, happened, Some(note));
    Ok(())
}

/// How many different ports the gateway says it denied by default; waits for this many.
fn denied_ports(gateway: &Gateway, source: IpAddr, destination: IpAddr, wanted: usize) -> Option<usize> {
    let (source, destination) = (source.to_string(), destination.to_string());
    let count = |events: &[serde_json::Value]| {
        let denied = events.iter().filter(|event| {
            event["reason"] == "no_rule"
                && event["protocol"] == "tcp"
                && event["source"] == source
                && event["destination"] == destination
        });
        let ports: BTreeSet<u64> = denied.filter_map(|event| event["destination_port"].as_u64()).collect();
        ports.iter().filter(|&&port| SCANNED.contains(&(port as u16))).count()
    };
    gateway
        .wait(PATIENCE, |events| Some(count(events)).filter(|&ports| ports >= wanted))
        .or_else(|| gateway.wait(std::time::Duration::ZERO, |events| Some(count(events))))
}
