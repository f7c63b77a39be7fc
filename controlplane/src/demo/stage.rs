//! The laboratory with its servers, the gateway in it, and what every scene does there.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::Audience;
use super::gateway::Gateway;
use super::policy;
use super::probe::{Probe, Seen, Service};
use super::row::{Finding, Row};
use super::servers::Servers;
use super::watch::Watch;
use crate::api::types::Asked;
use crate::explain::explain;
use crate::lab::{Host, Lab};
use crate::model::{self, Expected, Model};

/// How long to wait for what should come; what comes, comes at once, but on a machine that has other things to do.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// How long an answer is waited for before the gateway is asked.
const AT_ONCE: Duration = Duration::from_millis(30);
/// When TCP sends its SYN again (RFC 6298, section 2): a refusal that comes later is of the second.
const RETRANSMISSION: Duration = Duration::from_secs(1);

/// Seen from outside: the other end's answer came back.
pub const ANSWERED: &str = "answered";
/// The kernel reported a reset or an ICMP error.
pub const REFUSED: &str = "refused at once";
/// The same, but only after a second packet was sent.
pub const LATE: &str = "refused late";
/// Nothing came back, and nothing arrived at the other end.
pub const NOTHING: &str = "no answer";
/// Nothing came back, but the packet arrived: what must not be.
pub const CROSSED: &str = "IT CROSSED";

/// Both address families.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The host's address of this family.
    pub fn address(self, host: &Host) -> IpAddr {
        match self {
            Family::V4 => host.v4[0].into(),
            Family::V6 => host.v6[0].into(),
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// A directory for the configuration and the control socket, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn make() -> io::Result<Directory> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("bulkhead-demo-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Directory(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Everything the scenes share.
pub struct Stage<'a> {
    /// The running gateway; none after `kill -9`.
    gateway: Option<Gateway>,
    /// The policy in force.
    pub model: Model,
    /// The namespaces.
    pub lab: Arc<Lab>,
    _servers: Vec<Servers>,
    directory: Directory,
    audience: &'a mut dyn Audience,
    rows: Vec<Row>,
    scene: &'static str,
    interrupted: Arc<AtomicBool>,
}

impl<'a> Stage<'a> {
    /// Builds the laboratory, shows the policy and starts the gateway.
    pub fn build(audience: &'a mut dyn Audience) -> Result<Stage<'a>> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, interrupted.clone())?;
        }
        let directory = Directory::make().context("making a temporary directory")?;
        let text = policy::configuration(&directory.0.join("control.sock"), true);
        fs::write(directory.0.join("demo.toml"), &text)?;
        let model = model::parse("demo.toml", &text).map_err(|errors| anyhow!("{errors}"))?;
        audience.facts("The network and its policy", &policy::sentences(&model));
        audience.trying("building three zones and starting the gateway between them");
        let lab = Lab::new(&policy::zones())
            .context("building the network; this needs CAP_NET_ADMIN and CAP_SYS_ADMIN, as root has them outside of containers")?;
        let mut servers = Vec::new();
        for host in lab.hosts() {
            // The demonstration pings as ordinary users do: without a raw socket.
            let group = nix::unistd::getegid();
            host.namespace.set_sysctl("net.ipv4.ping_group_range", &format!("{group} {group}"))?;
            servers.push(Servers::start(&host.namespace, &policy::TCP_LISTENERS, &policy::UDP_LISTENERS)?);
        }
        let lab = Arc::new(lab);
        let mut stage = Stage {
            gateway: None,
            model,
            lab,
            _servers: servers,
            directory,
            audience,
            rows: Vec::new(),
            scene: "",
            interrupted,
        };
        let took = stage.start_gateway()?;
        let port = stage.gateway()?.status()?.ports.into_iter().next().context("the gateway has no ports")?;
        let how =
            format!("up after {} ms, AF_XDP in {} and {} mode", took.as_millis(), port.attach, port.mode);
        let tries =
            "every service below is tried over IPv4 and over IPv6, from one zone to another".to_owned();
        stage.audience.facts("The gateway", &[how, tries]);
        Ok(stage)
    }

    /// Of something in the demonstration's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.0.join(name)
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.path("demo.toml")
    }

    /// Starts the gateway; how long that took.
    pub fn start_gateway(&mut self) -> Result<Duration> {
        self.check_interrupt()?;
        let (control, log) = (self.path("control.sock"), self.path("gateway.log"));
        let gateway = Gateway::start(&self.lab, &self.config(), &control, &log)?;
        let took = gateway.started_in;
        self.gateway = Some(gateway);
        Ok(took)
    }

    /// Starts the gateway where it shall refuse; what it says. `None` if it starts.
    pub fn refused_start(&self) -> Result<Option<String>> {
        Gateway::refusal(&self.lab, &self.config(), &self.path("control.sock"), &self.path("refused.log"))
    }

    /// The running gateway.
    pub fn gateway(&self) -> Result<&Gateway> {
        self.gateway.as_ref().context("the gateway is not running")
    }

    /// Takes the gateway away, to kill or stop it.
    pub fn take_gateway(&mut self) -> Result<Gateway> {
        self.gateway.take().context("the gateway is not running")
    }

    /// Writes another configuration, for a reload.
    pub fn write_config(&self, text: &str) -> io::Result<()> {
        fs::write(self.config(), text)
    }

    /// The configuration with or without the rule for downloads.
    pub fn configuration(&self, downloads: bool) -> String {
        policy::configuration(&self.path("control.sock"), downloads)
    }

    /// The configuration of the second act.
    pub fn second_act(&self, corporate: &policy::Corporate) -> String {
        policy::second_act(&self.path("control.sock"), corporate)
    }

    /// Begins a scene.
    pub fn scene(&mut self, title: &'static str) {
        self.scene = title;
        self.audience.scene(title);
    }

    /// Tells what comes next.
    pub fn trying(&mut self, tried: &str) -> Result<()> {
        self.check_interrupt()?;
        self.audience.trying(tried);
        Ok(())
    }

    /// Adds a row.
    pub fn row(&mut self, tried: &str, expected: Finding, happened: Finding, note: Option<String>) {
        let row = Row { scene: self.scene, tried: tried.to_owned(), expected, happened, note };
        self.audience.row(&row);
        self.rows.push(row);
    }

    fn check_interrupt(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted; everything is removed");
        }
        Ok(())
    }

    /// All rows; the laboratory and the gateway go.
    pub fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    /// Tries a service with both address families and compares with what the policy in force says.
    pub fn attempt(&mut self, from: &str, to: &str, what: &str, service: Service) -> Result<()> {
        let tried = label(from, to, what, service);
        self.trying(&tried)?;
        let mut expected = Vec::new();
        let mut happened = Vec::new();
        for family in FAMILIES {
            expected.push(self.expected(from, to, service, family)?);
            happened.push(self.happened(from, to, service, family)?);
        }
        let (expected, happened) = (merge(&expected), merge(&happened));
        self.row(&tried, expected, happened, None);
        Ok(())
    }

    /// What the policy says of this attempt.
    pub fn expected(&self, from: &str, to: &str, service: Service, family: Family) -> Result<Finding> {
        self.expected_of(from, to, service, family, &Asked::default())
    }

    /// The same, of whoever asks.
    pub fn expected_of(
        &self,
        from: &str,
        to: &str,
        service: Service,
        family: Family,
        asked: &Asked,
    ) -> Result<Finding> {
        let source = family.address(self.lab.host(from));
        let destination = family.address(self.lab.host(to));
        let (from, to) = (source.to_string(), destination.to_string());
        let answers = explain(&self.model, &from, &to, &service.in_configuration(destination), asked)?;
        let answer = answers.first().context("the policy has no answer")?;
        let what = match answer.verdict {
            Expected::Allow => ANSWERED,
            Expected::Reject => REFUSED,
            Expected::Deny => NOTHING,
        };
        let reason = answer.reason.map(|reason| reason.name().to_owned());
        // As events tell it: the rule that decided, or else the reason.
        let decided = answer.rule.clone().filter(|_| !answer.is_unmet);
        Ok(Finding::new(what, decided.or(reason).unwrap_or_default()))
    }

    /// What happens to this attempt, and which rule or reason the gateway names for it.
    pub fn happened(&self, from: &str, to: &str, service: Service, family: Family) -> Result<Finding> {
        let gateway = self.gateway()?;
        let (source_host, target) = (self.lab.host(from), self.lab.host(to));
        let (source, destination) = (family.address(source_host), family.address(target));
        let mut watch = Watch::open(&self.lab.gateway, target)?;
        let mut probe = source_host.namespace.run(|| Probe::send(source, destination, service))?;
        // What comes back at once is seen at once; whether more will come is known only after the gateway has decided.
        let mut back = probe.look(AT_ONCE)?;
        let late = back == Seen::Refused && probe.elapsed() > RETRANSMISSION;
        let event = gateway.event(&probe.tuple, PATIENCE).unwrap_or_default();
        // A rule that did not decide, but came nearest, stands beside the reason.
        let reason = event["reason"].as_str();
        let decided =
            event["rule"].as_str().filter(|_| matches!(reason, None | Some("rule_denied" | "rule_rejected")));
        let why = decided.or(reason).unwrap_or("no event").to_owned();
        let arrived = watch.has_arrived(&[probe.tuple])?;
        if back == Seen::Nothing {
            // What the gateway let through, and its own refusal, may still be on the way.
            let told = event["kind"] == "opened" || event["reason"] == "rule_rejected";
            back = probe.look(if told { PATIENCE } else { Duration::ZERO })?;
        }
        Ok(Finding::new(if late { LATE } else { seen(back, arrived) }, why))
    }
}

/// What is seen from outside, in words.
pub fn seen(seen: Seen, arrived: bool) -> &'static str {
    match (seen, arrived) {
        (Seen::Answered, _) => ANSWERED,
        (Seen::Refused, false) => REFUSED,
        (Seen::Nothing, false) => NOTHING,
        (_, true) => CROSSED,
    }
}

/// The name of an attempt.
pub fn label(from: &str, to: &str, what: &str, service: Service) -> String {
    match service {
        Service::Ping => format!("{from} → {to}: {what}"),
        service => format!("{from} → {to}: {what}, {service}"),
    }
}

/// One finding for both families, or both where they differ.
fn merge(findings: &[Finding]) -> Finding {
    let all = |part: fn(&Finding) -> &str| {
        let mut parts: Vec<_> = findings.iter().map(part).collect();
        parts.dedup();
        if parts.len() == 1 {
            return parts[0].to_owned();
        }
        let named = FAMILIES.iter().zip(parts).map(|(family, part)| format!("{}: {part}", family.name()));
        named.collect::<Vec<_>>().join(", ")
    };
    Finding::new(all(|finding| &finding.what), all(|finding| &finding.why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_is_told_even_if_nothing_came_back() {
        assert_eq!(seen(Seen::Nothing, false), NOTHING);
        assert_eq!(seen(Seen::Refused, false), REFUSED);
        assert_eq!(seen(Seen::Answered, true), ANSWERED);
        assert_eq!([seen(Seen::Nothing, true), seen(Seen::Refused, true)], [CROSSED; 2]);
    }

    #[test]
    fn families_that_differ_are_told_apart() {
        let (good, bad) = (Finding::new(ANSWERED, "rule"), Finding::new(NOTHING, "rule"));
        assert_eq!(merge(&[good.clone(), good.clone()]), good);
        let merged = merge(&[good.clone(), bad]);
        assert_eq!(merged, Finding::new("IPv4: answered, IPv6: no answer", "rule"));
        assert_ne!(merged, good);
    }
}
