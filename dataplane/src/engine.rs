//! The only handle given out: starts the workers, publishes policies and topologies, reads counters and events.
//!
//! Starting attaches the steering program first, with no worker behind it, so that from then on nothing reaches the
//! kernel's forwarding; then the workers open their sockets, and only then are these registered. Stopping, and any
//! way of dying, leaves the program attached: its sockets are gone, and it drops.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::beside::Beside;
use crate::connection::{Table, TableConfig};
use crate::counters::{Ledger, RuleCounters};
use crate::event::Event;
use crate::fragments::Share;
use crate::policy::Policy;
use crate::snapshot::{ActivePolicy, Snapshot};
use crate::steering::{self, AttachMode, LocalService, PortSteering, SteeringCounters};
use crate::sync::{Mutex, MutexGuard};
use crate::topology::Topology;
use crate::verdict::{Generation, MAX_PORTS, Now, PortId};
use crate::worker::{Shared, Unresolved};

mod thread;
mod together;

use thread::{Command, SocketCounters, Start};
use together::Together;

/// How long a publication waits for the workers.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// How to start.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The ports; index is the [`PortId`].
    pub ports: Vec<PortConfig>,
    /// Workers: worker *i* owns queue *i* of every port, so every port must have exactly as many queues.
    pub workers: usize,
    /// The connection table.
    pub table: TableConfig,
    /// Preferred busy polling: lowest latency, one CPU busy per worker while there is traffic.
    pub busy_poll: bool,
    /// Packet buffers of 2 KiB per worker.
    pub frames: u32,
    /// Events buffered per worker.
    pub events: usize,
    /// Fragments that all workers together hold: see [`fragments::Share`](crate::fragments::Share::new).
    pub fragments: u32,
    /// The CPUs for the workers, in turn; empty leaves it to the scheduler.
    pub cpus: Vec<usize>,
}

/// One port.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// The interface's name.
    pub interface: String,
    /// What the gateway's own kernel answers on it.
    pub local: Vec<LocalService>,
    /// To whom: see [`RuleSet::sources`](crate::policy::RuleSet::sources). May be empty where nothing is answered.
    pub sources: Vec<(IpNet, bool)>,
}

/// A failure to start or to publish.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The interface cannot be used.
    Interface {
        /// Its name.
        interface: String,
        /// What is wrong and what helps.
        problem: String,
    },
    /// The steering program.
    Steering {
        /// The interface's name.
        interface: String,
        /// What was refused.
        source: steering::Error,
    },
    /// A socket, or the packet memory.
    Socket {
        /// The interface's name, or "packet memory".
        interface: String,
        /// What was refused.
        source: afxdp::Error,
    },
    /// The operating system refused a thread or an event descriptor.
    System(std::io::Error),
    /// A worker did not acknowledge a publication in time: it is stuck or dead. The publication stays posted.
    WorkerStuck {
        /// Its number.
        worker: usize,
    },
    /// The policy's rules with limits, and those of earlier ones that have connections still, are too many to count.
    TooManyLimits,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Interface { interface, problem } => write!(f, "{interface}: {problem}"),
            Error::Steering { interface, source } => write!(f, "{interface}: {source}"),
            Error::Socket { interface, source } => write!(f, "{interface}: {source}"),
            Error::System(source) => write!(f, "the system refused: {source}"),
            Error::WorkerStuck { worker } => {
                write!(f, "worker {worker} did not take the new snapshot within {PUBLISH_TIMEOUT:?}")
            }
            Error::TooManyLimits => f.write_str(
                "too many rules with limits: those of earlier policies count as long as they have connections",
            ),
        }
    }
}

impl std::error::Error for Error {}

/// What one port does.
#[derive(Clone, Debug)]
pub struct PortReport {
    /// The interface's name.
    pub interface: String,
    /// Where its steering program sits.
    pub attach: AttachMode,
    /// Why not in the driver, if not.
    pub driver_refusal: Option<String>,
    /// Whether every worker's socket is there, and zero-copy or not.
    pub mode: Option<afxdp::Mode>,
    /// Counters of the steering program.
    pub steering: SteeringCounters,
    /// Received packets that the sockets lost because their ring was full.
    pub rx_ring_full: u64,
    /// Received packets that the sockets lost for other reasons (no free frame, too large).
    pub rx_dropped: u64,
}

/// The result of publishing a policy.
pub struct Published {
    /// The new generation, in force in every worker.
    pub generation: Generation,
    /// The policy that is no longer in force; its counters are final.
    pub retired: Arc<ActivePolicy>,
}

/// What the watch over the steering programs noticed.
#[derive(Clone, Debug)]
pub struct Alarm {
    /// The port.
    pub port: PortId,
    /// What happened and what was done.
    pub message: String,
}

struct PortState {
    config: PortConfig,
    steering: PortSteering,
    attach: AttachMode,
}

struct WorkerHandle {
    shared: Arc<Shared>,
    commands: Arc<crossbeam::queue::ArrayQueue<Command>>,
    counters: Arc<SocketCounters>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

/// The running dataplane.
pub struct Engine {
    ports: Mutex<Vec<PortState>>,
    workers: Vec<WorkerHandle>,
    table: Arc<Table>,
    snapshot: Mutex<Arc<Snapshot>>,
    settling: Together,
    stop: Arc<AtomicBool>,
    unresolved: Arc<EventFd>,
    started: Instant,
    started_wall: SystemTime,
    huge_pages: bool,
    fragment_capacity: u64,
}

impl Engine {
    /// Attaches the steering, starts the workers and registers their sockets. On an error everything is stopped
    /// again; a program already attached stays and drops.
    ///
    /// # Errors
    ///
    /// Which interface or socket was refused, and what helps.
    pub fn start(config: &EngineConfig, mut policy: Policy, topology: Topology) -> Result<Engine, Error> {
        let ports = attach_ports(config, &topology)?;
        let table = Arc::new(Table::new(&config.table));
        policy.bind(&table);
        table.bind(policy.limits_mut()).map_err(|_| Error::TooManyLimits)?;
        if policy.protects() {
            table.clients.prepare();
        }
        let counters = RuleCounters::new(policy.rule_count(), config.workers);
        let policy = Arc::new(ActivePolicy { generation: Generation(1), policy, counters });
        let snapshot =
            Arc::new(Snapshot { version: 1, policy, topology: Arc::new(topology), beside: Arc::default() });
        let event_fd = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC);
        let mut engine = Engine {
            ports: Mutex::new(ports),
            workers: Vec::new(),
            table,
            snapshot: Mutex::new(snapshot.clone()),
            settling: Together::default(),
            stop: Arc::new(AtomicBool::new(false)),
            unresolved: Arc::new(event_fd().map_err(|e| Error::System(e.into()))?),
            started: Instant::now(),
            started_wall: SystemTime::now(),
            huge_pages: true,
            fragment_capacity: 0,
        };
        let wakes: Result<Vec<_>, _> = (0..config.workers).map(|_| event_fd().map(Arc::new)).collect();
        let wakes: Arc<[_]> = wakes.map_err(|e| Error::System(e.into()))?.into();
        let fragments = Arc::new(Share::new(config.fragments, config.workers));
        engine.fragment_capacity = u64::from(fragments.worker_capacity()) * config.workers as u64;
        for index in 0..config.workers {
            engine.start_worker(config, index, &wakes, &fragments, &snapshot)?;
        }
        Ok(engine)
    }

    fn start_worker(
        &mut self,
        config: &EngineConfig,
        index: usize,
        wakes: &Arc<[Arc<EventFd>]>,
        fragments: &Arc<Share>,
        snapshot: &Arc<Snapshot>,
    ) -> Result<(), Error> {
        let (ready, opened) = mpsc::channel();
        let connections = self.table.worker().ok_or(Error::WorkerStuck { worker: index })?;
        let handle = WorkerHandle {
            shared: Arc::new(Shared::new(config.events)),
            commands: Arc::new(crossbeam::queue::ArrayQueue::new(MAX_PORTS)),
            counters: Arc::new(SocketCounters::default()),
            wake: wakes[index].clone(),
            thread: None,
        };
        let start = Start {
            index,
            interfaces: config.ports.iter().map(|port| port.interface.clone()).collect(),
            frames: config.frames,
            busy_poll: config.busy_poll,
            cpu: config.cpus.get(index % config.cpus.len().max(1)).copied(),
            workers: config.workers,
            table: self.table.clone(),
            snapshot: snapshot.clone(),
            shared: handle.shared.clone(),
            commands: handle.commands.clone(),
            counters: handle.counters.clone(),
            wakes: wakes.clone(),
            fragments: fragments.clone(),
            unresolved: self.unresolved.clone(),
            stop: self.stop.clone(),
            clock: self.started,
        };
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || thread::run(start, connections, &ready))
            .map_err(Error::System)?;
        self.workers.push(WorkerHandle { thread: Some(thread), ..handle });
        let opened = opened.recv().map_err(|_| Error::WorkerStuck { worker: index })??;
        self.huge_pages &= opened.huge_pages;
        let mut ports = lock(&self.ports);
        for (port, socket) in ports.iter_mut().zip(&opened.sockets) {
            let interface = port.config.interface.clone();
            port.steering
                .register(index as u32, socket.as_fd())
                .map_err(|source| Error::Steering { interface, source })?;
        }
        Ok(())
    }

    /// Gives the policy's limits their accounts. Publishing does so too; doing it before tells a refusal early.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyLimits`].
    pub fn bind_limits(&self, policy: &mut Policy) -> Result<(), Error> {
        self.table.bind(policy.limits_mut()).map_err(|_| Error::TooManyLimits)
    }

    /// Publishes a policy and waits until every worker judges by it.
    ///
    /// # Errors
    ///
    /// [`Error::WorkerStuck`]; the policy is published all the same. [`Error::TooManyLimits`]; it is not.
    pub fn publish_policy(&self, policy: Policy) -> Result<Published, Error> {
        self.publish_policy_with(policy, Vec::new())
    }

    /// As [`Engine::publish_policy`], with policies that are asked beside it from its first packet on.
    ///
    /// # Errors
    ///
    /// As of [`Engine::publish_policy`].
    pub fn publish_policy_with(
        &self,
        mut policy: Policy,
        beside: Vec<Arc<Beside>>,
    ) -> Result<Published, Error> {
        let mut current = lock(&self.snapshot);
        self.bind_limits(&mut policy)?;
        policy.bind(&self.table);
        if policy.protects() {
            self.table.clients.prepare();
        }
        let retired = current.policy.clone();
        let generation = retired.generation.next();
        let counters = RuleCounters::new(policy.rule_count(), self.workers.len());
        let policy = Arc::new(ActivePolicy { generation, policy, counters });
        self.publish(&mut current, |snapshot| {
            snapshot.policy = policy;
            snapshot.beside = beside.into();
        })?;
        Ok(Published { generation, retired })
    }

    /// Publishes the policies that are asked beside the running one, in place of those that were, and waits until every
    /// worker asks them and no other. They decide nothing.
    ///
    /// # Errors
    ///
    /// [`Error::WorkerStuck`]; they are published all the same.
    pub fn publish_besides(&self, beside: Vec<Arc<Beside>>) -> Result<(), Error> {
        let mut current = lock(&self.snapshot);
        self.publish(&mut current, |snapshot| snapshot.beside = beside.into())
    }

    /// Waits until every worker has begun another burst: what was written to the policy's
    /// [`identities`](crate::identity::Slots) before is what all packets from now on are judged by, those included that
    /// were waiting. Many threads that wait at the same time wait together, for one publication.
    ///
    /// # Errors
    ///
    /// [`Error::WorkerStuck`]; it will judge by it as soon as it moves.
    pub fn settle(&self) -> Result<(), Error> {
        self.settling.publish(&self.snapshot, |current| self.publish(current, |_| {}))
    }

    /// Publishes a topology and waits until every worker routes by it.
    ///
    /// # Errors
    ///
    /// [`Error::WorkerStuck`], or the steering refused the gateway's own addresses; the old topology stays then.
    pub fn publish_topology(&self, topology: Topology) -> Result<(), Error> {
        let own = own_addresses(&topology);
        for port in lock(&self.ports).iter_mut() {
            let interface = port.config.interface.clone();
            port.steering.set_own_addresses(&own).map_err(|source| Error::Steering { interface, source })?;
        }
        let mut current = lock(&self.snapshot);
        self.publish(&mut current, |snapshot| snapshot.topology = Arc::new(topology))
    }

    fn publish(
        &self,
        current: &mut MutexGuard<'_, Arc<Snapshot>>,
        change: impl FnOnce(&mut Snapshot),
    ) -> Result<(), Error> {
        let mut next = Snapshot::clone(current);
        next.version += 1;
        change(&mut next);
        let next = Arc::new(next);
        for worker in &self.workers {
            worker.shared.mailbox.post(next.clone());
            worker.wake();
        }
        // Kept until every worker has let go of it, so that it is freed here.
        let _old = std::mem::replace(&mut **current, next.clone());
        acknowledged(&self.workers, next.version)
    }

    /// What is in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        lock(&self.snapshot).clone()
    }

    /// Every worker's ledger as of its last burst.
    pub fn ledgers(&self) -> Vec<Ledger> {
        self.workers.iter().map(|worker| worker.shared.ledger.read()).collect()
    }

    /// The sum of all workers' ledgers.
    pub fn ledger(&self) -> Ledger {
        let mut sum = Ledger::default();
        for ledger in self.ledgers() {
            sum.add(&ledger);
        }
        sum
    }

    /// How many workers there are, and how many of them run.
    pub fn workers(&self) -> (usize, usize) {
        (self.workers.len(), self.workers.iter().filter(|worker| !worker.is_dead()).count())
    }

    /// How many rounds every worker has made. One whose number stands still for longer than a worker sleeps (10 ms)
    /// is stuck.
    pub fn rounds(&self) -> Vec<u64> {
        self.workers.iter().map(|worker| worker.shared.rounds.load(Ordering::Relaxed)).collect()
    }

    /// How many fragments wait, and of how many datagrams (condemned ones among them), as of every worker's last burst.
    pub fn fragments(&self) -> (u64, u64) {
        let read = |count: fn(&Shared) -> &AtomicU64| {
            self.workers.iter().map(|worker| count(&worker.shared).load(Ordering::Relaxed)).sum()
        };
        (read(|shared| &shared.fragments), read(|shared| &shared.datagrams))
    }

    /// How many fragments may wait in all workers together.
    pub fn fragment_capacity(&self) -> u64 {
        self.fragment_capacity
    }

    /// Whether all packet memory is in 2 MiB pages.
    pub fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// What every port does.
    ///
    /// # Errors
    ///
    /// The steering program's counters could not be read.
    pub fn ports(&self) -> Result<Vec<PortReport>, Error> {
        let ports = lock(&self.ports);
        ports.iter().enumerate().map(|(index, port)| self.report(index, port)).collect()
    }

    fn report(&self, index: usize, port: &PortState) -> Result<PortReport, Error> {
        let interface = port.config.interface.clone();
        let steering = port
            .steering
            .counters()
            .map_err(|source| Error::Steering { interface: interface.clone(), source })?;
        let lost: Vec<_> = self.workers.iter().map(|worker| worker.counters.read(index)).collect();
        let zero_copy = lost.iter().all(|counters| counters.mode == Some(afxdp::Mode::ZeroCopy));
        let mode = if zero_copy { afxdp::Mode::ZeroCopy } else { afxdp::Mode::Copy };
        Ok(PortReport {
            interface,
            attach: port.attach,
            driver_refusal: port.steering.driver_refusal().map(str::to_owned),
            mode: lost.iter().all(|counters| counters.mode.is_some()).then_some(mode),
            steering,
            rx_ring_full: lost.iter().map(|counters| counters.rx_ring_full).sum(),
            rx_dropped: lost.iter().map(|counters| counters.rx_dropped).sum(),
        })
    }

    /// Looks whether every port's steering program is still the one attached, and undoes what somebody else did.
    pub fn watch(&self) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        for (index, port) in lock(&self.ports).iter_mut().enumerate() {
            let message = match port.steering.is_attached() {
                Ok(true) | Err(steering::Error::InterfaceGone { .. }) => continue,
                Ok(false) => match port.steering.attach() {
                    Ok(mode) => {
                        port.attach = mode;
                        "somebody removed or replaced the steering program; it was attached again".to_owned()
                    }
                    Err(error) => format!("somebody removed or replaced the steering program, and: {error}"),
                },
                Err(error) => format!("cannot see whether the steering program is attached: {error}"),
            };
            alarms.push(Alarm { port: PortId(index as u8), message });
        }
        alarms
    }

    /// Takes up a port whose interface came back, under whatever index: steering first, then the sockets.
    ///
    /// # Errors
    ///
    /// As [`Engine::start`]; the port stays down then.
    pub fn reopen(&self, port: PortId) -> Result<(), Error> {
        let own = own_addresses(&self.snapshot().topology);
        let mut ports = lock(&self.ports);
        let Some(state) = ports.get_mut(usize::from(port.0)) else { return Ok(()) };
        let config = state.config.clone();
        let ifindex = ifindex(&config.interface)?;
        let (steering, attach) = attach_port(&config, ifindex, self.workers.len(), &own)?;
        *state = PortState { config, steering, attach };
        // The queue of a dead worker stays without a socket, and drops.
        for (index, worker) in self.workers.iter().enumerate().filter(|(_, worker)| !worker.is_dead()) {
            let (reply, opened) = mpsc::channel();
            let sent = worker.commands.push(Command::Reopen { port, ifindex, reply });
            worker.wake();
            let interface = state.config.interface.clone();
            let socket = sent
                .ok()
                .and_then(|()| opened.recv_timeout(PUBLISH_TIMEOUT).ok())
                .ok_or(Error::WorkerStuck { worker: index })??;
            state
                .steering
                .register(index as u32, socket.as_fd())
                .map_err(|source| Error::Steering { interface, source })?;
        }
        Ok(())
    }

    /// Changes what the gateway's own kernel answers on a port, and to whom ([`PortConfig::sources`]).
    ///
    /// # Errors
    ///
    /// The steering refused it.
    pub fn set_local(
        &self,
        port: PortId,
        services: &[LocalService],
        sources: Vec<(IpNet, bool)>,
    ) -> Result<(), Error> {
        let mut ports = lock(&self.ports);
        let Some(state) = ports.get_mut(usize::from(port.0)) else { return Ok(()) };
        let interface = state.config.interface.clone();
        let steering = &mut state.steering;
        steering
            .set_sources(&sources)
            .and_then(|()| steering.set_local(services))
            .map_err(|source| Error::Steering { interface, source })?;
        state.config.local = services.to_vec();
        state.config.sources = sources;
        Ok(())
    }

    /// The connection table.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The oldest event of any worker.
    pub fn take_event(&self) -> Option<Event> {
        self.workers.iter().find_map(|worker| worker.shared.events.take())
    }

    /// Events lost since the start because nobody took them in time.
    pub fn events_lost(&self) -> u64 {
        self.workers.iter().map(|worker| worker.shared.events.lost()).sum()
    }

    /// Records an event of the control plane's doing (a killed connection) beside the workers'.
    pub fn record(&self, event: Event) {
        if let Some(worker) = self.workers.first() {
            worker.shared.events.record(event);
        }
    }

    /// A next hop that packets wait for.
    pub fn take_unresolved(&self) -> Option<Unresolved> {
        self.workers.iter().find_map(|worker| worker.shared.resolve.pop())
    }

    /// Becomes readable when there is something for [`Engine::take_unresolved`].
    pub fn unresolved_signal(&self) -> BorrowedFd<'_> {
        self.unresolved.as_fd()
    }

    /// Makes [`Engine::unresolved_signal`] quiet again; call it before emptying the queue.
    pub fn clear_unresolved_signal(&self) {
        // Not readable is as good as read.
        let _ = self.unresolved.read();
    }

    /// The packet path's clock.
    pub fn now(&self) -> Now {
        thread::now(self.started)
    }

    /// The wall clock at a reading of the packet path's clock.
    pub fn wall(&self, at: Now) -> SystemTime {
        let started = thread::now(self.started).0.saturating_sub(self.started.elapsed().as_nanos() as u64);
        self.started_wall + Duration::from_nanos(at.0.saturating_sub(started))
    }

    /// Stops the workers. The steering program stays attached and drops everything, unless `unload`: then traffic
    /// reaches the kernel as if there were no gateway.
    ///
    /// # Errors
    ///
    /// The first program that could not be detached.
    pub fn stop(self, unload: bool) -> Result<(), Error> {
        let ports: Vec<_> = lock(&self.ports).iter().map(|port| port.config.interface.clone()).collect();
        drop(self);
        if unload {
            for interface in ports {
                let ifindex = ifindex(&interface)?;
                steering::detach(ifindex).map_err(|source| Error::Steering { interface, source })?;
            }
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for worker in &mut self.workers {
            worker.wake();
            if let Some(thread) = worker.thread.take() {
                // A worker that panicked has said so on standard error.
                let _ = thread.join();
            }
        }
    }
}

impl WorkerHandle {
    fn wake(&self) {
        // Only a full counter refuses, and then the worker is being woken already.
        let _ = self.wake.write(1);
    }

    fn is_dead(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

/// Waits until every worker has acknowledged the version. One that is dead judges nothing any more: its sockets are
/// closed with it, so it is not waited for and keeps nobody from the others' answer.
fn acknowledged(workers: &[WorkerHandle], version: u64) -> Result<(), Error> {
    let deadline = Instant::now() + PUBLISH_TIMEOUT;
    for (index, worker) in workers.iter().enumerate() {
        while worker.shared.mailbox.acknowledged() != version && !worker.is_dead() {
            if Instant::now() > deadline {
                return Err(Error::WorkerStuck { worker: index });
            }
            std::thread::sleep(Duration::from_micros(20));
        }
    }
    Ok(())
}

/// A panic while the lock was held leaves nothing half-done that matters here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn own_addresses(topology: &Topology) -> Vec<IpAddr> {
    let spec = topology.spec();
    let of_ports = spec.ports.iter().flat_map(|port| &port.addresses).map(|net| net.addr());
    spec.own_addresses.iter().copied().chain(of_ports).collect()
}

fn ifindex(interface: &str) -> Result<u32, Error> {
    nix::net::if_::if_nametoindex(interface).map_err(|_| Error::Interface {
        interface: interface.to_owned(),
        problem: "there is no such interface in this network namespace (see `ip link`)".to_owned(),
    })
}

fn attach_ports(config: &EngineConfig, topology: &Topology) -> Result<Vec<PortState>, Error> {
    let own = own_addresses(topology);
    let mut ports = Vec::new();
    for port in &config.ports {
        let ifindex = ifindex(&port.interface)?;
        let (steering, attach) = attach_port(port, ifindex, config.workers, &own)?;
        ports.push(PortState { config: port.clone(), steering, attach });
    }
    Ok(ports)
}

fn attach_port(
    config: &PortConfig,
    ifindex: u32,
    workers: usize,
    own: &[IpAddr],
) -> Result<(PortSteering, AttachMode), Error> {
    let interface = config.interface.as_str();
    let queues = afxdp::device::queues(interface)
        .map_err(|source| Error::Socket { interface: interface.to_owned(), source })?;
    // In the order in which the kernel numbers them, receive queues come first; only they steer.
    let queues = queues.rx;
    if queues as usize != workers {
        return Err(Error::Interface {
            interface: interface.to_owned(),
            problem: format!(
                "it has {queues} receive queue(s) and the gateway {workers} worker(s), so some packets would find no \
                 worker; set `workers = {queues}` in [gateway], or `ethtool -L {interface} combined {workers}`"
            ),
        });
    }
    // A card that takes VLAN tags off would pass tagged frames for untagged ones; merged packets are no packets.
    let offloads = afxdp::device::Offloads { rx_vlan: true, lro: true, ..Default::default() };
    afxdp::device::disable_offloads(interface, offloads)
        .map_err(|source| Error::Socket { interface: interface.to_owned(), source })?;
    let refused = |source| Error::Steering { interface: interface.to_owned(), source };
    let mut steering = PortSteering::load(ifindex, queues).map_err(refused)?;
    steering.set_own_addresses(own).map_err(refused)?;
    steering.set_sources(&config.sources).map_err(refused)?;
    steering.set_local(&config.local).map_err(refused)?;
    let attach = steering.attach().map_err(refused)?;
    Ok((steering, attach))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(body: impl FnOnce(&Shared) + Send + 'static) -> WorkerHandle {
        let shared = Arc::new(Shared::new(1));
        let own = shared.clone();
        WorkerHandle {
            shared,
            commands: Arc::new(crossbeam::queue::ArrayQueue::new(1)),
            counters: Arc::new(SocketCounters::default()),
            wake: Arc::new(EventFd::new().unwrap()),
            thread: Some(std::thread::spawn(move || body(&own))),
        }
    }

    #[test]
    fn a_dead_worker_neither_fails_a_publication_nor_ends_the_wait_for_the_living() {
        let dead = worker(|_| ());
        let slow = worker(|shared| {
            std::thread::sleep(Duration::from_millis(50));
            shared.mailbox.acknowledge(2);
        });
        while !dead.is_dead() {
            std::thread::yield_now();
        }
        let workers = [dead, slow];
        acknowledged(&workers, 2).unwrap();
        assert_eq!(workers[1].shared.mailbox.acknowledged(), 2);
    }
}
