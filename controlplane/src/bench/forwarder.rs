//! What is measured, started between source and sink and stopped again.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use afxdp::l2fwd::{self, Counts};
use afxdp::redirect::{Otherwise, Redirect};
use afxdp::{BusyPoll, Socket, SocketConfig, Umem, UmemConfig};
use anyhow::{Context, Result, anyhow, bail};
use bulkhead_dataplane::connection::TableConfig;
use bulkhead_dataplane::engine::{Engine, EngineConfig, PortConfig};
use bulkhead_dataplane::policy::compile;
use bulkhead_dataplane::topology::Topology;

use super::site::{CONNECTIONS, IN, OUT, SINK_MAC, SOURCE_MAC, Site};
use super::{Options, cpu, rules};
use crate::topology::Watcher;

/// The table of the bench's nftables ruleset.
const NFT_TABLE: &str = "table inet bulkhead_bench";
/// Packet buffers of 2 KiB: both sockets' receive and fill rings, and what is in flight.
const FRAMES: u32 = 16_384;

/// A forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The bare AF_XDP forwarder, which decides nothing.
    L2fwd,
    /// The gateway: 1,000 rules, the traffic's connections established.
    Bulkhead,
    /// The kernel's forwarding, without rules.
    Kernel,
    /// The kernel's forwarding with the same rules in nftables, established connections first.
    Nftables,
}

impl Kind {
    /// All of them, in the order in which they are measured.
    pub const ALL: [Kind; 4] = [Kind::L2fwd, Kind::Bulkhead, Kind::Kernel, Kind::Nftables];

    /// Its name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::L2fwd => "bare AF_XDP l2fwd",
            Kind::Bulkhead => "Bulkhead",
            Kind::Kernel => "kernel, no rules",
            Kind::Nftables => "nftables",
        }
    }

    /// Why it cannot be measured here.
    pub(super) fn unavailable(self) -> Option<String> {
        let runs = || {
            let mut nft = Command::new("nft");
            let nft = nft.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
            nft.status().is_ok_and(|status| status.success())
        };
        (self == Kind::Nftables && !runs()).then(|| "nft is not installed".to_owned())
    }
}

/// One that runs.
pub enum Running {
    /// See [`Kind::L2fwd`].
    L2fwd(Bare),
    /// See [`Kind::Bulkhead`].
    Bulkhead(Box<Engine>),
    /// See [`Kind::Kernel`] and [`Kind::Nftables`].
    Kernel,
}

impl Running {
    /// Starts it.
    pub fn start(site: &Site, kind: Kind, options: &Options) -> Result<Running> {
        match kind {
            Kind::L2fwd => Bare::start(site, options).map(Running::L2fwd),
            Kind::Bulkhead => bulkhead(site, options).map(|engine| Running::Bulkhead(Box::new(engine))),
            Kind::Kernel => {
                site.gateway.set_sysctl("net.ipv4.ip_forward", "1")?;
                Ok(Running::Kernel)
            }
            Kind::Nftables => {
                nft(site, &rules::nftables())?;
                site.gateway.set_sysctl("net.ipv4.ip_forward", "1")?;
                Ok(Running::Kernel)
            }
        }
    }

    /// Whether the connections are what the measurement says they are.
    pub fn check_connections(&self) -> Result<()> {
        let Running::Bulkhead(engine) = self else { return Ok(()) };
        let (all, half_open) = (engine.table().len(), engine.table().half_open());
        if (all, half_open) != (u32::from(CONNECTIONS), 0) {
            bail!("of {CONNECTIONS} connections the gateway has {all}, {half_open} of them half-open");
        }
        Ok(())
    }

    /// Stops it; how many packets it says it forwarded since its start, where it says so.
    pub fn stop(self, site: &Site, kind: Kind) -> Result<Option<u64>> {
        match self {
            Running::L2fwd(bare) => bare.stop().map(Some),
            Running::Bulkhead(engine) => {
                let ledger = engine.ledger();
                if !ledger.is_balanced() {
                    bail!("the gateway's ledger does not balance: {ledger:?}");
                }
                site.gateway.run(|| engine.stop(true))?;
                Ok(Some(ledger.forwarded))
            }
            Running::Kernel => {
                site.gateway.set_sysctl("net.ipv4.ip_forward", "0")?;
                if kind == Kind::Nftables {
                    nft(site, &format!("delete {NFT_TABLE}\n"))?;
                }
                Ok(None)
            }
        }
    }
}

/// Feeds a script to nft inside the gateway.
fn nft(site: &Site, script: &str) -> Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = site.gateway.run(|| command.spawn()).context("starting nft")?;
    child.stdin.take().context("nft has an input")?.write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("nft refused the ruleset: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn bulkhead(site: &Site, options: &Options) -> Result<Engine> {
    let policy = compile(&rules::rule_set()).map_err(|error| anyhow!("compiling the rules: {error}"))?;
    let port = |interface: &str| PortConfig {
        interface: interface.to_owned(),
        local: Vec::new(),
        sources: Vec::new(),
    };
    let config = EngineConfig {
        ports: vec![port(IN), port(OUT)],
        workers: 1,
        table: TableConfig { connections_v4: 65_536, connections_v6: 1024, ..TableConfig::default() },
        busy_poll: options.busy_poll,
        frames: FRAMES,
        events: 4096,
        fragments: 0,
        cpus: vec![options.cpus[1]],
    };
    site.gateway.run(|| {
        let watcher = Watcher::new(&[IN.to_owned(), OUT.to_owned()])?;
        let topology = Topology::new(watcher.spec().clone());
        Ok(Engine::start(&config, policy, topology)?)
    })
}

/// The bare forwarder on a thread of its own.
pub struct Bare {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<[Counts; 2], afxdp::Error>>,
}

impl Bare {
    fn start(site: &Site, options: &Options) -> Result<Bare> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::channel();
        let (cpu, busy_poll) = (options.cpus[1], options.busy_poll);
        let thread = {
            let stop = stop.clone();
            // A thread started inside the namespace is born into it.
            site.gateway.run(move || {
                std::thread::Builder::new()
                    .name("l2fwd".to_owned())
                    .spawn(move || forward(cpu, busy_poll, &stop, &ready))
            })?
        };
        if is_ready.recv_timeout(Duration::from_secs(10)).is_err() {
            stop.store(true, Ordering::Relaxed);
            joined(thread).context("starting the bare forwarder")?;
            bail!("the bare forwarder did not start");
        }
        Ok(Bare { stop, thread })
    }

    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let counts = joined(self.thread)?;
        Ok(counts.iter().map(|count| count.forwarded).sum())
    }
}

fn joined(thread: JoinHandle<Result<[Counts; 2], afxdp::Error>>) -> Result<[Counts; 2]> {
    let counts = thread.join().map_err(|_| anyhow!("the bare forwarder panicked"))?;
    Ok(counts?)
}

fn forward(
    cpu: usize,
    busy_poll: bool,
    stop: &AtomicBool,
    ready: &mpsc::Sender<()>,
) -> Result<[Counts; 2], afxdp::Error> {
    cpu::pin(cpu);
    let umem = Umem::new(&UmemConfig { frames: FRAMES, ..UmemConfig::default() })?;
    let open = |interface| -> Result<(Socket<'_>, Redirect), afxdp::Error> {
        let busy_poll = busy_poll.then(BusyPoll::default);
        let socket = Socket::open(&umem, &SocketConfig { busy_poll, ..SocketConfig::new(interface, 0) })?;
        let redirect = Redirect::attach(interface, Otherwise::Drop)?;
        redirect.add(&socket)?;
        Ok((socket, redirect))
    };
    let (mut first, _keep_first) = open(IN)?;
    let (mut second, _keep_second) = open(OUT)?;
    let _ = ready.send(());
    let options = l2fwd::Options { busy_poll, rewrite_destination: Some([SOURCE_MAC, SINK_MAC]) };
    l2fwd::run(&mut first, &mut second, options, stop)
}
