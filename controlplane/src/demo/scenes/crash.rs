//! The gateway dies: nothing crosses, whatever the kernel is told. Then it comes back.

use anyhow::{Context, Result, bail};
use bulkhead_dataplane::steering::attached_program;

use crate::demo::probe::{Probe, Service};
use crate::demo::row::Finding;
use crate::demo::stage::{CROSSED, FAMILIES, Family, NOTHING, Stage, seen};
use crate::demo::watch::{Watch, flush};
use crate::lab::Lab;

use super::reload::{Download, SHARE, megabytes};

/// What the policy allows from clients to web.
const ALLOWED: [Service; 3] = [Service::Tcp(443), Service::Udp(53), Service::Ping];

/// What the kernel says when the steering program is on every port.
const STAYS: &str = "steering stays";

/// Plays it.
pub fn play(stage: &mut Stage<'_>) -> Result<()> {
    stage.scene("The gateway is killed (kill -9)");
    stage.trying("kill -9 in the middle of a download")?;
    let download = Download::start(stage, 443)?;
    download.wait_for(SHARE)?;
    stage.take_gateway()?.kill()?;
    know_neighbours(&stage.lab)?;
    let mut end = Watch::open(&stage.lab.gateway, stage.lab.host("clients"))?;
    // What the gateway had sent before is with the client now: its own sentinel came behind it.
    end.has_arrived(&[])?;
    nothing_crosses(stage, "clients → web: tcp/443, udp/53, ping")?;
    stage.lab.set_kernel_forwarding(true)?;
    nothing_crosses(stage, "the same with kernel forwarding on")?;
    ended(stage, &download, end)?;
    drop(download);
    refused_start(stage)?;
    stage.lab.set_kernel_forwarding(false)?;
    restart(stage)?;
    stage.attempt("clients", "web", "ping again", Service::Ping)?;
    stage.attempt("clients", "web", "login again", Service::Tcp(22))?;
    super::ledger(stage)?;
    removed(stage)
}

/// The gateway's kernel knows every host's Ethernet address: a packet that it forwarded would go out at once, before
/// the sentinel, and not wait for ARP.
fn know_neighbours(lab: &Lab) -> Result<()> {
    for host in lab.hosts() {
        for family in FAMILIES {
            lab.gateway.add_neighbour(&host.zone, family.address(host), host.mac)?;
        }
    }
    Ok(())
}

/// The server of the download goes on sending; none of it has come.
fn ended(stage: &mut Stage<'_>, download: &Download, mut end: Watch) -> Result<()> {
    let tried = "download, killed in the middle of it";
    stage.trying(tried)?;
    flush(stage.lab.host("web"))?;
    let what = match end.has_arrived(&[download.tuple.reversed(443)])? {
        true => CROSSED,
        false => "cut",
    };
    let note = format!("at {:.1} MB", megabytes(download.received()));
    let happened = Finding::new(what, steering(&stage.lab)?);
    stage.row(tried, Finding::new("cut", STAYS), happened, Some(note));
    Ok(())
}

fn nothing_crosses(stage: &mut Stage<'_>, tried: &str) -> Result<()> {
    stage.trying(tried)?;
    let what = send_all(stage, &ALLOWED, &FAMILIES)?;
    let expected = Finding::new(NOTHING, STAYS);
    let happened = Finding::new(what, steering(&stage.lab)?);
    stage.row(tried, expected, happened, None);
    Ok(())
}

/// Sends one packet of each service and family from clients to web; what was seen, the worst of it.
fn send_all(stage: &Stage<'_>, services: &[Service], families: &[Family]) -> Result<&'static str> {
    let (client, web) = (stage.lab.host("clients"), stage.lab.host("web"));
    let mut watch = Watch::open(&stage.lab.gateway, web)?;
    let mut probes = Vec::new();
    for family in families {
        for &service in services {
            let (source, destination) = (family.address(client), family.address(web));
            probes.push(client.namespace.run(|| Probe::send(source, destination, service))?);
        }
    }
    flush(client)?;
    let tuples: Vec<_> = probes.iter().map(|probe| probe.tuple).collect();
    if watch.has_arrived(&tuples)? {
        return Ok(CROSSED);
    }
    for probe in &mut probes {
        let what = seen(probe.look(std::time::Duration::ZERO)?, false);
        if what != NOTHING {
            return Ok(what);
        }
    }
    Ok(NOTHING)
}

/// What the kernel says is attached to the gateway's ports.
fn steering(lab: &Lab) -> Result<String> {
    for port in lab.ports() {
        let index = lab.gateway.link(&port)?.index;
        let program = lab.gateway.run(|| attached_program(index))?;
        if !program.is_some_and(|program| program.ours) {
            return Ok(format!("no steering on {port}"));
        }
    }
    Ok(STAYS.to_owned())
}

/// A gateway that starts beside a forwarding kernel would only seem to be closed.
fn refused_start(stage: &mut Stage<'_>) -> Result<()> {
    let tried = "starting it while the kernel forwards";
    stage.trying(tried)?;
    let said = stage.refused_start()?;
    let (what, why) = match &said {
        None => ("started", "it started"),
        Some(said) if said.contains("ip_forward") => ("refuses", "ip_forward is on"),
        Some(_) => ("refuses", "another reason"),
    };
    stage.row(tried, Finding::new("refuses", "ip_forward is on"), Finding::new(what, why), None);
    Ok(())
}

fn restart(stage: &mut Stage<'_>) -> Result<()> {
    let tried = "started again: clients → web, tcp/443";
    stage.trying(tried)?;
    let took = stage.start_gateway()?;
    let mut rows = Vec::new();
    for family in FAMILIES {
        let service = Service::Tcp(443);
        let expected = stage.expected("clients", "web", service, family)?;
        rows.push((expected, stage.happened("clients", "web", service, family)?));
    }
    let (expected, happened) = rows.iter().find(|(e, h)| e != h).unwrap_or(&rows[0]).clone();
    let note = format!("up {} ms after its start", took.as_millis());
    stage.row(tried, expected, happened, Some(note));
    Ok(())
}

/// The proof that the other rows can fail: without the gateway and with a forwarding kernel, every packet that was
/// stopped above crosses, and is seen to.
fn removed(stage: &mut Stage<'_>) -> Result<()> {
    stage.scene("And without it, to trust the lines above");
    let tried = "no gateway, kernel forwards: the same";
    stage.trying(tried)?;
    let gateway = stage.take_gateway()?;
    let output = gateway.command(&["stop", "--unload"])?;
    if !output.status.success() {
        bail!("it does not stop: {}", String::from_utf8_lossy(&output.stderr));
    }
    stage.lab.set_kernel_forwarding(true)?;
    let mut what = "crosses";
    for service in ALLOWED.into_iter().chain([Service::Tcp(22), Service::Udp(161)]) {
        for family in FAMILIES {
            if send_all(stage, &[service], &[family])? != CROSSED {
                what = "does not cross";
            }
        }
    }
    let why = steering(&stage.lab).context("looking for the steering program")?;
    let why = if why == STAYS { why } else { "no gateway".to_owned() };
    stage.row(tried, Finding::new("crosses", "no gateway"), Finding::new(what, why), None);
    Ok(())
}
