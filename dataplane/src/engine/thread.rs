//! The thread around a [`Worker`]: opens the sockets, turns the rounds, sleeps when there is nothing to do.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::eventfd::EventFd;
use nix::unistd::Pid;

use super::Error;
use crate::answer::{Limits, RateLimiter};
use crate::connection::{self, Table};
use crate::fragments::Share;
use crate::pipeline::Pipeline;
use crate::port::XdpPort;
use crate::snapshot::Snapshot;
use crate::verdict::{MAX_PORTS, Now, PortId};
use crate::worker::{Shared, Worker};

/// Empty rounds before the worker sleeps: some 20 µs, less than going to sleep and waking up costs.
const IDLE_ROUNDS: u32 = 64;
/// The longest sleep, milliseconds: the table is swept and time-outs are seen at least this often.
const SLEEP_MS: u16 = 10;
/// The sleep while packets wait for a next hop, or frames for a full device queue, milliseconds.
const SHORT_SLEEP_MS: u16 = 1;
/// How often the sockets are asked for their counters and whether they still live, nanoseconds.
const INSPECTION_NS: u64 = 100_000_000;
/// The clock's reading at the start, so that 0 can mean "never".
const CLOCK_START_NS: u64 = 1_000_000_000;

/// The packet path's clock.
pub(super) fn now(started: Instant) -> Now {
    Now(CLOCK_START_NS + started.elapsed().as_nanos() as u64)
}

/// What the engine asks of a worker between two rounds.
pub(super) enum Command {
    /// Open the port's queue anew.
    Reopen { port: PortId, ifindex: u32, reply: Sender<Result<OwnedFd, Error>> },
}

/// The sockets' own counters, as last inspected.
pub(super) struct SocketCounters {
    ports: [SocketCell; MAX_PORTS],
}

#[derive(Default)]
struct SocketCell {
    /// 0 down, 1 copy, 2 zero-copy.
    mode: AtomicU64,
    rx_ring_full: AtomicU64,
    rx_dropped: AtomicU64,
}

/// One socket's counters.
pub(super) struct SocketReading {
    pub mode: Option<afxdp::Mode>,
    pub rx_ring_full: u64,
    pub rx_dropped: u64,
}

impl Default for SocketCounters {
    fn default() -> Self {
        SocketCounters { ports: std::array::from_fn(|_| SocketCell::default()) }
    }
}

impl SocketCounters {
    pub(super) fn read(&self, port: usize) -> SocketReading {
        let cell = &self.ports[port];
        let mode = match cell.mode.load(Ordering::Relaxed) {
            1 => Some(afxdp::Mode::Copy),
            2 => Some(afxdp::Mode::ZeroCopy),
            _ => None,
        };
        SocketReading {
            mode,
            rx_ring_full: cell.rx_ring_full.load(Ordering::Relaxed),
            rx_dropped: cell.rx_dropped.load(Ordering::Relaxed),
        }
    }

    fn write(&self, index: usize, port: &XdpPort<'_>) {
        let cell = &self.ports[index];
        let mode = match port.mode() {
            None => 0,
            Some(afxdp::Mode::Copy) => 1,
            Some(afxdp::Mode::ZeroCopy) => 2,
        };
        cell.mode.store(mode, Ordering::Relaxed);
        if let Some(statistics) = port.statistics() {
            cell.rx_ring_full.store(statistics.rx_ring_full, Ordering::Relaxed);
            cell.rx_dropped.store(statistics.rx_dropped, Ordering::Relaxed);
        }
    }
}

/// All that a worker's thread starts with.
pub(super) struct Start {
    pub index: usize,
    pub interfaces: Vec<String>,
    pub frames: u32,
    pub busy_poll: bool,
    pub cpu: Option<usize>,
    pub workers: usize,
    pub table: Arc<Table>,
    pub snapshot: Arc<Snapshot>,
    pub shared: Arc<Shared>,
    pub commands: Arc<ArrayQueue<Command>>,
    pub counters: Arc<SocketCounters>,
    /// What wakes every worker, this one too.
    pub wakes: Arc<[Arc<EventFd>]>,
    pub fragments: Arc<Share>,
    pub unresolved: Arc<EventFd>,
    pub stop: Arc<AtomicBool>,
    pub clock: Instant,
}

/// What a started worker reports: its sockets, in the order of ports.
pub(super) struct Opened {
    pub sockets: Vec<OwnedFd>,
    pub huge_pages: bool,
}

/// The thread's body.
pub(super) fn run(start: Start, connections: connection::Worker, ready: &Sender<Result<Opened, Error>>) {
    if let Some(cpu) = start.cpu {
        let mut set = CpuSet::new();
        // A CPU that does not exist leaves the choice to the scheduler.
        let _ = set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    }
    // The gateway's other threads run for a short time only, and before it: see `afxdp::prefer_time_slice`.
    afxdp::prefer_time_slice(Duration::ZERO);
    let config = afxdp::UmemConfig { frames: start.frames, ..Default::default() };
    let umem = match afxdp::Umem::new(&config) {
        Ok(umem) => umem,
        Err(source) => {
            let _ = ready.send(Err(Error::Socket { interface: "packet memory".to_owned(), source }));
            return;
        }
    };
    let mut ports = Vec::new();
    let mut sockets = Vec::new();
    for interface in &start.interfaces {
        match open(&umem, interface, &start) {
            Ok((port, socket)) => {
                ports.push(port);
                sockets.push(socket);
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        }
    }
    for (index, port) in ports.iter().enumerate() {
        start.counters.write(index, port);
    }
    let limiter = RateLimiter::new(Limits::default());
    let pipeline = Pipeline::new(start.index, connections, limiter, start.shared.events.clone())
        .with_fragments(start.fragments.clone());
    let worker = Worker::new(
        ports,
        pipeline,
        start.table.clone(),
        start.shared.clone(),
        start.snapshot.clone(),
        start.workers,
    );
    if ready.send(Ok(Opened { sockets, huge_pages: umem.huge_pages() })).is_ok() {
        turn(worker, &start);
    }
}

fn open<'u>(umem: &'u afxdp::Umem, interface: &str, start: &Start) -> Result<(XdpPort<'u>, OwnedFd), Error> {
    let config = afxdp::SocketConfig {
        busy_poll: start.busy_poll.then(afxdp::BusyPoll::default),
        ..afxdp::SocketConfig::new(interface, start.index as u32)
    };
    let refused = |source| Error::Socket { interface: interface.to_owned(), source };
    let port = XdpPort::open(umem, config).map_err(refused)?;
    let socket = duplicate(&port)?;
    Ok((port, socket))
}

fn duplicate(port: &XdpPort<'_>) -> Result<OwnedFd, Error> {
    let socket = port.socket().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
    socket.and_then(|socket| socket.try_clone_to_owned()).map_err(Error::System)
}

/// Round after round until told to stop.
fn turn(mut worker: Worker<XdpPort<'_>>, start: &Start) {
    let mut idle = 0;
    let mut inspection = now(start.clock);
    while !start.stop.load(Ordering::Acquire) {
        let at = now(start.clock);
        if worker.round(at) > 0 {
            idle = 0;
        } else {
            idle += 1;
            if start.busy_poll {
                worker.ports_mut().iter_mut().for_each(XdpPort::kick);
            }
        }
        let handed_to = worker.take_handed_to();
        if handed_to != 0 {
            wake(start, handed_to);
        }
        if !start.shared.resolve.is_empty() && worker.held() > 0 {
            let _ = start.unresolved.write(1);
        }
        while let Some(Command::Reopen { port, ifindex, reply }) = start.commands.pop() {
            let _ = reply.send(reopen(&mut worker, start, port, ifindex));
        }
        if at.0 - inspection.0 >= INSPECTION_NS {
            inspection = at;
            for (index, port) in worker.ports_mut().iter_mut().enumerate() {
                port.check();
                start.counters.write(index, port);
            }
        }
        if idle > IDLE_ROUNDS {
            sleep(&mut worker, start);
        }
    }
    worker.finish();
    for (index, port) in worker.ports_mut().iter().enumerate() {
        start.counters.write(index, port);
    }
}

/// Wakes the workers of these bits.
fn wake(start: &Start, workers: u64) {
    for (index, wake) in start.wakes.iter().enumerate().take(64) {
        if workers >> index & 1 != 0 {
            // Only a full counter refuses, and then it is being woken already.
            let _ = wake.write(1);
        }
    }
}

fn reopen(
    worker: &mut Worker<XdpPort<'_>>,
    start: &Start,
    port: PortId,
    ifindex: u32,
) -> Result<OwnedFd, Error> {
    let interface = start.interfaces[usize::from(port.0)].clone();
    let port = &mut worker.ports_mut()[usize::from(port.0)];
    port.reopen(ifindex).map_err(|source| Error::Socket { interface, source })?;
    duplicate(port)
}

/// Sleeps until a packet, a wake-up or the time for housekeeping comes.
fn sleep(worker: &mut Worker<XdpPort<'_>>, start: &Start) {
    let waits = worker.held() > 0 || worker.ports_mut().iter_mut().any(|port| port.pending() > 0);
    worker.pause();
    let timeout = PollTimeout::from(if waits { SHORT_SLEEP_MS } else { SLEEP_MS });
    let mut fds = vec![PollFd::new(start.wakes[start.index].as_fd(), PollFlags::POLLIN)];
    let ports = worker.ports_mut();
    fds.extend(ports.iter().filter_map(XdpPort::socket).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    // An interrupted or failed poll is a shorter sleep.
    let _ = poll(&mut fds, timeout);
    let _ = start.wakes[start.index].read();
}
