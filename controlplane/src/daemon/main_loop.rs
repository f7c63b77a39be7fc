//! The main loop: what the kernel changed, what the signals ask, and once a second the watch.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use bulkhead_dataplane::topology::Topology;
use bulkhead_dataplane::verdict::PortId;
use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use super::gateway::{Gateway, StopRequest, lock};
use super::lifecycle::{self, Candidate, Order};
use crate::forwarding;
use crate::model::Model;
use crate::store::Cause;
use crate::topology::{Asking, Watcher};

/// How often the watch looks around.
const TICK: Duration = Duration::from_secs(1);
/// The longest sleep: a stop that a client asks for is seen this late at most.
const SLEEP_MS: u16 = 50;
/// Stale neighbours that are probed in a tick.
const CONFIRMATIONS: usize = 64;
/// Next hops asked for before the loop looks at anything else.
const RESOLUTIONS: usize = 1024;

/// Signals as readable descriptors.
pub struct Signals {
    reload: UnixStream,
    stop: UnixStream,
}

impl Signals {
    /// From now on SIGHUP reloads, SIGTERM and SIGINT stop.
    pub fn listen() -> io::Result<Signals> {
        let (reload, raise_reload) = UnixStream::pair()?;
        let (stop, raise_stop) = UnixStream::pair()?;
        pipe::register(SIGHUP, raise_reload)?;
        pipe::register(SIGTERM, raise_stop.try_clone()?)?;
        pipe::register(SIGINT, raise_stop)?;
        reload.set_nonblocking(true)?;
        stop.set_nonblocking(true)?;
        Ok(Signals { reload, stop })
    }
}

/// Whether a signal came since the last look.
fn raised(signal: &UnixStream) -> bool {
    let mut bytes = [0; 64];
    let mut any = false;
    while matches!((&*signal).read(&mut bytes), Ok(count) if count > 0) {
        any = true;
    }
    any
}

/// What a condition was when it was last told, so that a lasting one is told once.
#[derive(Default)]
struct Told {
    forwarding: Vec<String>,
    topology: Option<String>,
    resolve: Option<String>,
    enslaved: Option<String>,
    clock: Option<String>,
    dead_workers: usize,
    stuck: Vec<bool>,
    ports: Vec<Option<String>>,
}

/// The state of the loop.
pub struct MainLoop<'g> {
    gateway: &'g Arc<Gateway>,
    watcher: Watcher,
    signals: Signals,
    stops: Receiver<StopRequest>,
    manage_forwarding: bool,
    /// Reload signals since the last reload began; 0 when none is running.
    reloads_wanted: Arc<AtomicUsize>,
    /// The interface index by which each port was last opened; `None` while it is gone.
    opened: Vec<Option<u32>>,
    /// A topology that is not published yet.
    unpublished: bool,
    /// What the kernel has been asked to find.
    asking: Asking,
    rounds: Vec<u64>,
    /// The next moment at which rules begin or cease to hold.
    next_edge: Option<Timestamp>,
    told: Told,
}

impl<'g> MainLoop<'g> {
    /// Around a gateway that runs with the watcher's topology.
    pub fn new(
        gateway: &'g Arc<Gateway>,
        watcher: Watcher,
        signals: Signals,
        stops: Receiver<StopRequest>,
        manage_forwarding: bool,
    ) -> MainLoop<'g> {
        let ports = gateway.in_force().model.ports.len();
        let opened = ports_of(ports).map(|port| watcher.ifindex(port)).collect();
        MainLoop {
            gateway,
            watcher,
            signals,
            stops,
            manage_forwarding,
            reloads_wanted: Arc::default(),
            opened,
            unpublished: false,
            asking: Asking::new(ports),
            rounds: Vec::new(),
            next_edge: None,
            told: Told { ports: vec![None; ports], ..Told::default() },
        }
    }

    /// Turns until told to stop; returns the request if it came from a client.
    pub fn turn(mut self) -> Option<StopRequest> {
        let mut next_tick = Instant::now();
        loop {
            self.sleep();
            if raised(&self.signals.stop) {
                return None;
            }
            if let Ok(request) = self.stops.try_recv() {
                return Some(request);
            }
            if raised(&self.signals.reload) {
                self.reload();
            }
            self.gateway.roll_back_if_due();
            self.gateway.follow_sessions();
            self.gateway.follow_restraints();
            self.follow_clock();
            self.follow_kernel();
            self.resolve();
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                self.tick();
            }
        }
    }

    /// Lets the rules that have a time hold at their time.
    fn follow_clock(&mut self) {
        let result = self.gateway.follow_clock();
        self.next_edge = result.as_ref().copied().unwrap_or_default();
        tell_once(self.gateway, &mut self.told.clock, result.err());
    }

    /// How long to sleep at most, milliseconds: not over the next edge of the clock.
    fn patience_ms(&self) -> u16 {
        let until = |edge: Timestamp| edge.as_millisecond().saturating_sub(Timestamp::now().as_millisecond());
        let left_ms = self.next_edge.map_or(i64::from(SLEEP_MS), until);
        left_ms.clamp(1, i64::from(SLEEP_MS)) as u16
    }

    fn sleep(&self) {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [
            readable(self.watcher.as_fd()),
            readable(self.gateway.engine.unresolved_signal()),
            readable(self.signals.reload.as_fd()),
            readable(self.signals.stop.as_fd()),
        ];
        // An interrupted poll is a shorter sleep.
        if poll(&mut fds, PollTimeout::from(self.patience_ms())).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Reloads on a thread of its own: a large policy takes a while, and the kernel's changes do not wait for it. A
    /// signal during a reload leads to another one after it, because the file may have changed since it was read.
    fn reload(&self) {
        if self.reloads_wanted.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        let (gateway, wanted) = (self.gateway.clone(), self.reloads_wanted.clone());
        let spawned = std::thread::Builder::new().name("reload".to_owned()).spawn(move || {
            loop {
                let seen = wanted.load(Ordering::Acquire);
                let order = Order::plain(Cause::Signal, lifecycle::nobody());
                match gateway.put_in_force(Candidate::File(None), &order) {
                    // It has been logged.
                    Ok(_) => {}
                    Err(refusal) => {
                        let why = refusal.message;
                        gateway.alarm(format!("reload refused, the old policy runs on:\n{why}"));
                    }
                }
                if wanted.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    break;
                }
            }
        });
        if let Err(error) = spawned {
            self.reloads_wanted.store(0, Ordering::Release);
            self.gateway.alarm(format!("reload refused, the old policy runs on: no thread for it: {error}"));
        }
    }

    /// Takes in what the kernel changed and has the workers route by it.
    fn follow_kernel(&mut self) {
        let result = self.watcher.update().map_err(|error| format!("reading the kernel's tables: {error}"));
        let result = match result {
            Ok(changed) => {
                self.unpublished |= changed;
                self.publish_topology()
            }
            Err(error) => Err(error),
        };
        tell_once(self.gateway, &mut self.told.topology, result.err());
    }

    fn publish_topology(&mut self) -> Result<(), String> {
        if !self.unpublished {
            return Ok(());
        }
        self.reopen_ports();
        let neighbours = &self.watcher.spec().neighbours;
        self.asking.answered(neighbours.iter().map(|neighbour| (neighbour.port, neighbour.address)));
        let topology = Topology::new(self.watcher.spec().clone());
        let published = self.gateway.engine.publish_topology(topology);
        published
            .map_err(|error| format!("the kernel's tables changed, and the workers do not know: {error}"))?;
        self.unpublished = false;
        Ok(())
    }

    /// Takes up ports whose interface came back, perhaps under another index.
    fn reopen_ports(&mut self) {
        let model = self.gateway.in_force().model;
        for (port, info) in ports_of(model.ports.len()).zip(&model.ports) {
            let index = usize::from(port.0);
            let (before, now) = (self.opened[index], self.watcher.ifindex(port));
            let label = format!("port {} ({})", info.name, info.interface);
            let trouble = match (before, now) {
                (before, now) if before == now => continue,
                (_, None) => {
                    self.opened[index] = None;
                    Some(format!("{label}: the interface is gone"))
                }
                (_, Some(_)) => match reopen(self.gateway, port, &info.interface) {
                    Ok(()) => {
                        self.opened[index] = now;
                        self.gateway.alarm(format!("{label}: the interface is back, and the port with it"));
                        None
                    }
                    Err(error) => Some(format!("{label}: the interface is back, but: {error}")),
                },
            };
            tell_once(self.gateway, &mut self.told.ports[index], trouble);
        }
    }

    /// Has the kernel find the next hops for which packets wait.
    fn resolve(&mut self) {
        self.gateway.engine.clear_unresolved_signal();
        let mut trouble = None;
        for _ in 0..RESOLUTIONS {
            let Some(wanted) = self.gateway.engine.take_unresolved() else { break };
            if self.asking.admit(&wanted, Instant::now())
                && let Err(error) = self.watcher.resolve(wanted.port, wanted.next_hop)
            {
                trouble = Some(format!("the kernel does not look for next hops: {error}"));
            }
        }
        // No forgetting when there was nothing to resolve, or a scan would tell it once a packet.
        if trouble.is_some() {
            tell_once(self.gateway, &mut self.told.resolve, trouble);
        }
    }

    fn tick(&mut self) {
        for alarm in self.gateway.engine.watch() {
            let model = self.gateway.in_force().model;
            let name = model.port_name(alarm.port).unwrap_or("?");
            self.gateway.alarm(format!("port {name}: {}", alarm.message));
        }
        self.watch_forwarding();
        let enslaved = enslaved(&self.watcher, &self.gateway.in_force().model);
        let enslaved = (!enslaved.is_empty()).then(|| enslaved.join("\n"));
        tell_once(self.gateway, &mut self.told.enslaved, enslaved);
        self.watch_workers();
        self.reopen_ports();
        // The packet path does not tell which neighbours it uses, so every stale one is asked.
        if let Err(error) = self.watcher.confirm(CONFIRMATIONS, |_, _| true) {
            tell_once(
                self.gateway,
                &mut self.told.resolve,
                Some(format!("the kernel does not probe neighbours: {error}")),
            );
        } else {
            self.told.resolve = None;
        }
    }

    fn watch_forwarding(&mut self) {
        let found = match forwarding::enabled() {
            Ok(found) => found,
            // Not knowing must not look like all being well.
            Err(error) => vec![format!("unknown: {error}")],
        };
        if found != self.told.forwarding && !found.is_empty() {
            let names = found.join(", ");
            let done = if !self.manage_forwarding {
                format!("turn it off with `{}`", forwarding::command(&found))
            } else {
                match forwarding::disable() {
                    Ok(_) => "it was turned off again".to_owned(),
                    Err(error) => format!("turning it off failed: {error}"),
                }
            };
            self.gateway.alarm(format!("somebody turned the kernel's forwarding on ({names}): {done}"));
        }
        let left = if self.manage_forwarding { forwarding::enabled().unwrap_or(found) } else { found };
        self.told.forwarding.clone_from(&left);
        *lock(&self.gateway.kernel_forwarding) = left;
    }

    fn watch_workers(&mut self) {
        let (workers, alive) = self.gateway.engine.workers();
        let dead = workers - alive;
        if dead > self.told.dead_workers {
            let message =
                format!("{dead} of {workers} workers died: their queues drop everything until a restart");
            self.gateway.alarm(message);
        }
        self.told.dead_workers = dead;
        let rounds = self.gateway.engine.rounds();
        self.told.stuck.resize(rounds.len(), false);
        for (worker, (before, now)) in self.rounds.iter().zip(&rounds).enumerate() {
            let stuck = before == now;
            if stuck && !self.told.stuck[worker] && dead == 0 {
                self.gateway.alarm(format!("worker {worker} has not moved for a second"));
            }
            self.told.stuck[worker] = stuck;
        }
        self.rounds = rounds;
    }
}

/// The ports whose frames the kernel gives to another interface: around the gateway, if that is a bridge.
pub fn enslaved(watcher: &Watcher, model: &Model) -> Vec<String> {
    let masters = ports_of(model.ports.len()).map(|port| watcher.master(port)).zip(&model.ports);
    let told = masters.filter_map(|(master, port)| {
        let (interface, master) = (&port.interface, master?);
        Some(format!(
            "port {} ({interface}) belongs to {master}, which takes its ARP, neighbour discovery and local services \
             and may hand them on; take it out with `ip link set {interface} nomaster`",
            port.name
        ))
    });
    told.collect()
}

fn reopen(gateway: &Gateway, port: PortId, interface: &str) -> anyhow::Result<()> {
    forwarding::distrust(interface)?;
    Ok(gateway.engine.reopen(port)?)
}

fn ports_of(count: usize) -> impl Iterator<Item = PortId> {
    (0..=u8::MAX).map(PortId).take(count)
}

/// Raises an alarm for a new condition; one that lasts unchanged is not repeated.
fn tell_once(gateway: &Gateway, told: &mut Option<String>, condition: Option<String>) {
    if *told != condition {
        if let Some(message) = &condition {
            gateway.alarm(message.clone());
        }
        *told = condition;
    }
}
