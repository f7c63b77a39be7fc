//! One AF_XDP socket: one queue of one device, with its four rings, on a shared [`Umem`].

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind};
use crate::ring::{Consumer, Parts, Producer};
use crate::sys::{self, Mapping};
use crate::umem::{Frame, Slot, Tenant, Umem};

/// XDP_MAX_TX_SKB_BUDGET of `include/uapi/linux/if_xdp.h` (Linux 6.18), not yet in libc.
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
/// SO_PREFER_BUSY_POLL and SO_BUSY_POLL_BUDGET of `include/uapi/asm-generic/socket.h` (Linux 5.11).
const SO_PREFER_BUSY_POLL: i32 = 69;
const SO_BUSY_POLL_BUDGET: i32 = 70;
/// Most kicks of one flush: enough for a 2,048-entry ring at 32 descriptors a call (TX_BATCH_SIZE, `xsk.c`).
const KICKS_PER_FLUSH: u32 = 64;

/// How long an opening waits for a taken queue: the kernel lets go of a closed socket's queue a little later
/// (`xp_release_deferred` runs on a work queue), and a restarted process should not stumble over its predecessor.
const RELEASE_PATIENCE: Duration = Duration::from_millis(250);

/// Whether to ask the driver for zero-copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Zero-copy where the driver gives it, copy mode else.
    #[default]
    Prefer,
    /// Copy mode.
    Never,
    /// Zero-copy, or an error.
    Require,
}

/// What a socket got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The device reads and writes the frames themselves.
    ZeroCopy,
    /// The kernel copies each packet.
    Copy,
}

/// Preferred busy polling: the driver's NAPI runs inside [`Socket::kick_rx`] and not in an interrupt, where kernel and
/// driver can; see [`Socket::busy_polls`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// SO_BUSY_POLL in microseconds.
    pub microseconds: u32,
    /// SO_BUSY_POLL_BUDGET: packets of one poll.
    pub budget: u32,
}

impl Default for BusyPoll {
    fn default() -> BusyPoll {
        BusyPoll { microseconds: 20, budget: 64 }
    }
}

/// The device a socket is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interface {
    /// By name, in the calling thread's network namespace.
    Name(String),
    /// By index, in the calling thread's network namespace.
    Index(u32),
}

impl From<&str> for Interface {
    fn from(name: &str) -> Interface {
        Interface::Name(name.to_owned())
    }
}

impl From<u32> for Interface {
    fn from(index: u32) -> Interface {
        Interface::Index(index)
    }
}

impl Interface {
    /// Index and a name for messages.
    pub(crate) fn resolve(&self) -> Result<(u32, String), Error> {
        match self {
            Interface::Index(index) => Ok((*index, format!("interface {index}"))),
            Interface::Name(name) => Ok((crate::device::index(name)?, name.clone())),
        }
    }
}

/// How to open a socket. Ring sizes are powers of two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketConfig {
    /// The device.
    pub interface: Interface,
    /// Its queue.
    pub queue: u32,
    /// Entries of the RX ring, and of the fill ring.
    pub rx_entries: u32,
    /// Entries of the TX ring, and of the completion ring; also the most frames in flight.
    pub tx_entries: u32,
    /// Zero-copy or not.
    pub zero_copy: ZeroCopy,
    /// Preferred busy polling.
    pub busy_poll: Option<BusyPoll>,
    /// XDP_MAX_TX_SKB_BUDGET: descriptors the kernel sends in one call in copy mode (its default is 32).
    pub tx_budget: Option<u32>,
    /// SO_SNDBUFFORCE in bytes: bounds the frames in flight in copy mode.
    pub send_buffer: Option<u32>,
}

impl SocketConfig {
    /// The defaults for one queue of one device.
    pub fn new(interface: impl Into<Interface>, queue: u32) -> SocketConfig {
        SocketConfig {
            interface: interface.into(),
            queue,
            rx_entries: 2048,
            tx_entries: 2048,
            zero_copy: ZeroCopy::Prefer,
            busy_poll: None,
            tx_budget: Some(256),
            send_buffer: Some(8 << 20),
        }
    }
}

/// XDP_STATISTICS of one socket, plus what this package refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Received packets dropped for other reasons (mostly: larger than a frame).
    pub rx_dropped: u64,
    /// Fill entries the kernel found invalid.
    pub rx_invalid: u64,
    /// TX descriptors the kernel found invalid.
    pub tx_invalid: u64,
    /// Received packets dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Times the kernel found no frame in the fill ring.
    pub fill_ring_empty: u64,
    /// Times the kernel found the TX ring empty.
    pub tx_ring_empty: u64,
    /// Descriptors from the kernel that named no frame of this socket; ignored.
    pub bad_descriptors: u64,
}

/// One queue of one device.
///
/// # Frames of a closed socket
/// Dropping a socket closes it first. In copy mode the kernel touches no frame for reception after close (it waits
/// for running receivers in `xsk_unbind_dev`), so the lent frames, and TX frames the kernel had not begun to send,
/// return to the pool. A driver in zero-copy mode may still hold frames when close returns, as may packets in
/// flight on TX: those frames are never used again, and [`Umem::lost_frames`] counts them. The pages themselves are pinned
/// by the kernel as long as it uses them, so that unmapping the memory later is safe at any time.
pub struct Socket<'u> {
    umem: &'u Umem,
    slot: Slot,
    /// Taken only by drop, which closes it before it looks at the rings a last time.
    fd: Option<OwnedFd>,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    rx: Consumer<libc::xdp_desc>,
    tx: Producer<libc::xdp_desc>,
    mode: Mode,
    ifindex: u32,
    queue: u32,
    /// How the socket is named in errors.
    name: String,
    refused: Vec<Error>,
    asked_to_busy_poll: bool,
    bad_descriptors: u64,
    /// The four rings' memory; the rings point into it.
    _memory: [Mapping; 4],
}

/// A bound socket and its rings, before it becomes a [`Socket`].
struct Bound {
    fd: OwnedFd,
    rings: Rings,
    mode: Mode,
    refused: Vec<Error>,
}

struct Rings {
    fill: Producer<u64>,
    completion: Consumer<u64>,
    rx: Consumer<libc::xdp_desc>,
    tx: Producer<libc::xdp_desc>,
    memory: [Mapping; 4],
}

impl<'u> Socket<'u> {
    /// Opens and binds a socket. With [`ZeroCopy::Prefer`] zero-copy is tried first, then copy mode. The socket shares the
    /// kernel's registration of the memory (XDP_SHARED_UMEM) with an earlier socket of the same mode where there is
    /// one, and registers it anew else: zero-copy and copy mode devices can thus serve the same frames.
    /// A queue in use is tried again for 250 ms before it is an error.
    pub fn open(umem: &'u Umem, config: &SocketConfig) -> Result<Socket<'u>, Error> {
        let (ifindex, device) = config.interface.resolve()?;
        let name = format!("AF_XDP socket on {device} queue {}", config.queue);
        for entries in [config.rx_entries, config.tx_entries] {
            if !entries.is_power_of_two() {
                return Err(
                    Error::new(name, libc::EINVAL).meaning(Kind::Invalid, "ring sizes are powers of two")
                );
            }
        }
        let tenants = umem.tenants();
        if tenants.iter().any(|t| t.ifindex == ifindex && t.queue == config.queue) {
            return Err(Error::new(name, libc::EBUSY));
        }
        let give_up = Instant::now() + RELEASE_PATIENCE;
        let bound = loop {
            match attempt(umem, config, ifindex, &tenants, &name) {
                Err(error) if error.kind() == Kind::Taken && Instant::now() < give_up => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                outcome => break outcome?,
            }
        };
        let slot =
            umem.admit(Tenant { fd: bound.fd.as_raw_fd(), mode: bound.mode, ifindex, queue: config.queue })?;
        let Bound { fd, rings, mode, refused } = bound;
        let Rings { fill, completion, rx, tx, memory } = rings;
        let mut socket = Socket {
            umem,
            slot,
            fd: Some(fd),
            fill,
            completion,
            rx,
            tx,
            mode,
            ifindex,
            queue: config.queue,
            name,
            refused,
            asked_to_busy_poll: config.busy_poll.is_some(),
            bad_descriptors: 0,
            _memory: memory,
        };
        socket.refill();
        Ok(socket)
    }

    /// Zero-copy or copy mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The device's index.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The device's queue.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Options that were asked for and the kernel lacks or refused: the socket works without them.
    pub fn refused(&self) -> &[Error] {
        &self.refused
    }

    /// Moves up to `max` received packets into `out` and answers how many. Also returns transmitted frames to the pool, refills
    /// the fill ring from the pool, and wakes the driver when it asks for that. Allocates only where `out` lacks capacity.
    pub fn receive(&mut self, out: &mut Vec<Frame<'u>>, max: usize) -> usize {
        let mut count = 0;
        while count < max {
            let Some(descriptor) = self.rx.pop() else { break };
            match self.umem.received(self.slot, descriptor.addr, descriptor.len) {
                Some(frame) => {
                    out.push(frame);
                    count += 1;
                }
                None => self.bad_descriptors += 1,
            }
        }
        self.rx.release();
        self.reap();
        self.refill();
        count
    }

    /// Keeps the fill ring full while the pool has frames.
    fn refill(&mut self) {
        let room = self.fill.room(u32::MAX);
        for _ in 0..room {
            let Some(addr) = self.umem.lend_for_rx(self.slot) else { break };
            if !self.fill.push(addr) {
                // Cannot happen while `room` is right; the frame goes back rather than being lost.
                self.umem.unlent(self.slot, addr);
                break;
            }
        }
        self.fill.publish();
        if self.mode == Mode::ZeroCopy && self.fill.needs_wakeup() {
            // A failure here is a device in trouble, which `check` and the next flush report.
            let _ = self.kick_rx();
        }
    }

    /// Queues a packet for transmission; it goes out with the next [`flush`](Self::flush).
    /// `Err` gives the frame back: the TX ring is full, the packet is empty, or the frame is of another [`Umem`].
    pub fn send(&mut self, frame: Frame<'u>) -> Result<(), Frame<'u>> {
        if !std::ptr::eq(frame.umem(), self.umem) || frame.is_empty() || self.tx.room(1) == 0 {
            return Err(frame);
        }
        let (addr, len) = frame.into_kernel(self.slot);
        // There is room, and only `send` pushes.
        self.tx.push(libc::xdp_desc { addr, len, options: 0 });
        Ok(())
    }

    /// Shows the kernel the queued packets and kicks it until it took them or makes no more progress. In copy mode
    /// the kernel takes a limited number per call (`tx_budget`) and stops early when the send buffer or the device's queue
    /// is full: while [`pending`](Self::pending) is not 0 afterwards, flush again, or they stay queued.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.tx.publish();
        let mut left = self.tx.outstanding();
        for _ in 0..KICKS_PER_FLUSH {
            if left == 0 || !self.tx.needs_wakeup() {
                break;
            }
            self.kick_tx()?;
            // A full completion ring stops transmission as well.
            self.reap();
            let now = self.tx.outstanding();
            if now == left || self.mode == Mode::ZeroCopy {
                break;
            }
            left = now;
        }
        Ok(())
    }

    /// Packets queued that the kernel has not taken. In zero-copy mode the driver takes them on its own unless it asks to
    /// be woken, which flush does.
    pub fn pending(&mut self) -> u32 {
        self.tx.outstanding()
    }

    /// Returns transmitted frames to the pool; answers how many.
    pub fn reap(&mut self) -> usize {
        let mut count = 0;
        while let Some(addr) = self.completion.pop() {
            if self.umem.transmitted(self.slot, addr) {
                count += 1;
            } else {
                self.bad_descriptors += 1;
            }
        }
        self.completion.release();
        count
    }

    /// One empty receive: runs the driver's NAPI under preferred busy polling, wakes the driver in zero-copy mode.
    pub fn kick_rx(&self) -> Result<(), Error> {
        self.settle(sys::kick_rx(self.as_fd()), "receive on")
    }

    /// Whether [`kick_rx`](Self::kick_rx) really runs the driver's NAPI: busy polling was asked for and the kernel has
    /// tied the socket to a NAPI instance (SO_INCOMING_NAPI_ID). Where it has not, napi_defer_hard_irqs must stay 0, or
    /// packets arrive by its timer alone. Up to Linux 6.13 the tie comes with the first packet; newer kernels make it in
    /// bind, and for drivers that name their NAPI instances only: veth in copy mode on 6.18 never is tied.
    pub fn busy_polls(&self) -> bool {
        let mut napi = 0i32;
        let tied = sys::option(self.as_fd(), libc::SOL_SOCKET, libc::SO_INCOMING_NAPI_ID, &mut napi).is_ok();
        self.asked_to_busy_poll && tied && napi != 0
    }

    fn kick_tx(&self) -> Result<(), Error> {
        self.settle(sys::kick_tx(self.as_fd()), "send on")
    }

    /// Kicks report "not now" in several ways; none of them is an error, the work stays queued. One of them is an
    /// interface that is set down: the socket stays bound and works again once it is up (`xsk_notifier` unbinds it
    /// only when the interface is removed, and then kicks report ENXIO; kernel, net/xdp/xsk.c).
    fn settle(&self, outcome: Result<(), i32>, what: &str) -> Result<(), Error> {
        match outcome {
            Ok(()) | Err(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR | libc::ENETDOWN) => Ok(()),
            Err(errno) => Err(self.in_use(what, errno)),
        }
    }

    /// An error on a bound socket, where "no device" means that it vanished.
    fn in_use(&self, what: &str, errno: i32) -> Error {
        let error = Error::new(format!("{what} {}", self.name), errno);
        if errno == libc::ENODEV {
            return error.meaning(Kind::DeviceGone, "the interface was removed: open the socket again");
        }
        error
    }

    /// Whether the device is still there; one that vanished is an error, one that is set down is not. poll(2) does not
    /// tell (`xsk_poll` only looks at the rings), so an idle program should ask from time to time. Two system calls:
    /// not for every burst.
    pub fn check(&self) -> Result<(), Error> {
        let mut pending = 0i32;
        sys::option(self.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR, &mut pending)
            .map_err(|errno| self.in_use("ask about", errno))?;
        if pending != 0 {
            return Err(self.in_use("ask about", pending));
        }
        self.kick_rx()
    }

    /// The socket's counters.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        let mut raw = libc::xdp_statistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 0,
            rx_fill_ring_empty_descs: 0,
            tx_ring_empty_descs: 0,
        };
        sys::option(self.as_fd(), libc::SOL_XDP, libc::XDP_STATISTICS, &mut raw)
            .map_err(|errno| self.in_use("XDP_STATISTICS of", errno))?;
        Ok(Statistics {
            rx_dropped: raw.rx_dropped,
            rx_invalid: raw.rx_invalid_descs,
            tx_invalid: raw.tx_invalid_descs,
            rx_ring_full: raw.rx_ring_full,
            fill_ring_empty: raw.rx_fill_ring_empty_descs,
            tx_ring_empty: raw.tx_ring_empty_descs,
            bad_descriptors: self.bad_descriptors,
        })
    }
}

impl AsFd for Socket<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("only drop takes the descriptor").as_fd()
    }
}

impl Drop for Socket<'_> {
    fn drop(&mut self) {
        self.fd = None;
        self.reap();
        if self.mode == Mode::Copy {
            for descriptor in self.tx.leftover() {
                self.umem.transmitted(self.slot, descriptor.addr);
            }
        }
        self.umem.dismiss(self.slot, self.mode == Mode::Copy);
    }
}

/// Tries the modes the configuration allows, and in each sharing before a registration of its own.
fn attempt(
    umem: &Umem,
    config: &SocketConfig,
    ifindex: u32,
    tenants: &[Tenant],
    name: &str,
) -> Result<Bound, Error> {
    let modes: &[Mode] = match config.zero_copy {
        ZeroCopy::Prefer => &[Mode::ZeroCopy, Mode::Copy],
        ZeroCopy::Never => &[Mode::Copy],
        ZeroCopy::Require => &[Mode::ZeroCopy],
    };
    let mut last = None;
    for &mode in modes {
        let peer = tenants.iter().find(|t| t.mode == mode).map(|t| t.fd);
        for shared in peer.map(Some).into_iter().chain([None]) {
            match bind(umem, config, ifindex, mode, shared, name) {
                Ok(bound) => return Ok(bound),
                // Neither copy mode nor another registration would change these.
                Err(error) if matches!(error.kind(), Kind::Permission | Kind::Taken) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
    }
    let error = last.unwrap_or_else(|| Error::new(name, libc::EINVAL));
    Err(match error.errno() {
        libc::EINVAL if error.asked().starts_with("bind") => error.meaning(
            Kind::NoSuchDevice,
            "the queue does not exist (see device::queues), or the interface's MTU is larger than a frame",
        ),
        libc::EOPNOTSUPP if config.zero_copy == ZeroCopy::Require => error.meaning(
            Kind::Unsupported,
            "the driver has no zero-copy for this queue: prefer it rather than require it",
        ),
        _ => error,
    })
}

fn bind(
    umem: &Umem,
    config: &SocketConfig,
    ifindex: u32,
    mode: Mode,
    shared: Option<i32>,
    name: &str,
) -> Result<Bound, Error> {
    let failed = |what: &str, errno: i32| Error::new(format!("{what} {name}"), errno);
    let owned = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0).map_err(|e| failed("open", e))?;
    let fd = owned.as_fd();
    if shared.is_none() {
        register(umem, fd).map_err(|errno| failed("register the packet memory for", errno))?;
    }
    let sizes = [
        (libc::XDP_UMEM_FILL_RING, config.rx_entries, "size the fill ring of"),
        (libc::XDP_UMEM_COMPLETION_RING, config.tx_entries, "size the completion ring of"),
        (libc::XDP_RX_RING, config.rx_entries, "size the RX ring of"),
        (libc::XDP_TX_RING, config.tx_entries, "size the TX ring of"),
    ];
    for (option, entries, what) in sizes {
        sys::set_option(fd, libc::SOL_XDP, option, &(entries as i32)).map_err(|e| failed(what, e))?;
    }
    let rings = map_rings(fd, config).map_err(|errno| failed("map the rings of", errno))?;
    let refused = tune(fd, config, name);
    // The kernel refuses any other flag beside XDP_SHARED_UMEM: the mode is the earlier socket's.
    let flags = match (shared, mode) {
        (Some(_), _) => libc::XDP_SHARED_UMEM,
        (None, Mode::ZeroCopy) => libc::XDP_USE_NEED_WAKEUP | libc::XDP_ZEROCOPY,
        (None, Mode::Copy) => libc::XDP_USE_NEED_WAKEUP | libc::XDP_COPY,
    };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: config.queue,
        sxdp_shared_umem_fd: shared.unwrap_or(0) as u32,
    };
    sys::bind_xdp(fd, &address).map_err(|errno| failed("bind", errno))?;
    Ok(Bound { fd: owned, rings, mode, refused })
}

fn register(umem: &Umem, fd: BorrowedFd<'_>) -> Result<(), i32> {
    let (addr, len) = umem.region();
    let registration = libc::xdp_umem_reg {
        addr,
        len,
        chunk_size: umem.frame_size(),
        headroom: umem.headroom(),
        flags: 0,
        tx_metadata_len: 0,
    };
    sys::set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &registration)
}

/// The best-effort options; what the kernel refused.
fn tune(fd: BorrowedFd<'_>, config: &SocketConfig, name: &str) -> Vec<Error> {
    let mut wanted: Vec<(i32, i32, u32, &str)> = Vec::new();
    if let Some(busy) = config.busy_poll {
        wanted.push((libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, 1, "SO_PREFER_BUSY_POLL"));
        wanted.push((libc::SOL_SOCKET, libc::SO_BUSY_POLL, busy.microseconds, "SO_BUSY_POLL"));
        wanted.push((libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, busy.budget, "SO_BUSY_POLL_BUDGET"));
    }
    if let Some(bytes) = config.send_buffer {
        wanted.push((libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes, "SO_SNDBUFFORCE"));
    }
    if let Some(budget) = config.tx_budget {
        // The kernel refuses a budget above the TX ring's size, and one of 0.
        let budget = budget.clamp(1, config.tx_entries);
        wanted.push((libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, budget, "XDP_MAX_TX_SKB_BUDGET"));
    }
    let attempt = |(level, option, value, what): (i32, i32, u32, &str)| {
        let value = i32::try_from(value).unwrap_or(i32::MAX);
        let errno = sys::set_option(fd, level, option, &value).err()?;
        Some(Error::new(format!("set {what} of {name}"), errno))
    };
    wanted.into_iter().filter_map(attempt).collect()
}

fn map_rings(fd: BorrowedFd<'_>, config: &SocketConfig) -> Result<Rings, i32> {
    let none = || libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
    let mut offsets = libc::xdp_mmap_offsets { rx: none(), tx: none(), fr: none(), cr: none() };
    let got = sys::option(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
    if got != size_of::<libc::xdp_mmap_offsets>() {
        // Kernels before 5.4 know no flags word, and so no need_wakeup.
        return Err(libc::EOPNOTSUPP);
    }
    let fill_page = libc::XDP_UMEM_PGOFF_FILL_RING as i64;
    let completion_page = libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64;
    let (fill_memory, fill) = map_ring(fd, &offsets.fr, config.rx_entries, fill_page)?;
    let (completion_memory, completion) = map_ring(fd, &offsets.cr, config.tx_entries, completion_page)?;
    let (rx_memory, rx) = map_ring(fd, &offsets.rx, config.rx_entries, libc::XDP_PGOFF_RX_RING)?;
    let (tx_memory, tx) = map_ring(fd, &offsets.tx, config.tx_entries, libc::XDP_PGOFF_TX_RING)?;
    // SAFETY: `map_ring` checked that all parts lie in the mappings, which the socket keeps as long as the rings and
    // drops after them; the kernel plays the other end; any bytes are a valid u64 or xdp_desc.
    let rings = unsafe {
        Rings {
            fill: Producer::new(fill),
            completion: Consumer::new(completion),
            rx: Consumer::new(rx),
            tx: Producer::new(tx),
            memory: [fill_memory, completion_memory, rx_memory, tx_memory],
        }
    };
    Ok(rings)
}

fn map_ring<T>(
    fd: BorrowedFd<'_>,
    at: &libc::xdp_ring_offset,
    entries: u32,
    page: i64,
) -> Result<(Mapping, Parts<T>), i32> {
    let bytes = at.desc as usize + entries as usize * size_of::<T>();
    let memory = Mapping::ring(fd, bytes, page)?;
    let word = size_of::<AtomicU32>() as u64;
    for offset in [at.producer, at.consumer, at.flags] {
        if !offset.is_multiple_of(word) || offset + word > memory.bytes() as u64 {
            return Err(libc::EPROTO);
        }
    }
    if !(at.desc as usize).is_multiple_of(align_of::<T>()) {
        return Err(libc::EPROTO);
    }
    let base = memory.as_ptr().as_ptr();
    // SAFETY: the offsets were checked to lie inside the mapping.
    let part = |offset: u64| unsafe { base.add(offset as usize) };
    let parts = Parts {
        producer: part(at.producer).cast_const().cast(),
        consumer: part(at.consumer).cast_const().cast(),
        flags: part(at.flags).cast_const().cast(),
        slots: part(at.desc).cast(),
        size: entries,
    };
    Ok((memory, parts))
}
