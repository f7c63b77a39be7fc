//! Packet memory: one mapping cut into equal frames, and the tokens that own them.
//!
//! Every frame is in exactly one place: in the pool, in a [`Frame`] the program holds, or in the kernel's hands by
//! one ring of one socket. `owner` records which. A token is made only by taking from the pool or from a kernel
//! that held that frame, so no two tokens name the same bytes, even if the kernel should return a frame twice.
//!
//! A `Umem` may be moved to its worker's thread while nothing borrows it, but it is not `Sync`: the pool is plain
//! cells, without locks or atomics. Frames and sockets borrow it, so neither can outlive the mapping or cross threads.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::error::{Error, Kind};
use crate::socket::Mode;
use crate::sys::Mapping;

/// XDP_PACKET_HEADROOM of `include/uapi/linux/bpf.h`: the kernel leaves this much before every received packet.
const KERNEL_HEADROOM: u32 = 256;
/// Size of the huge pages asked for.
const HUGE_PAGE_BYTES: usize = 2 << 20;

const IN_POOL: u16 = 0;
const IN_PROGRAM: u16 = 1;
const LOST: u16 = 2;
/// Tags of kernel-held frames: socket slot s has `FIRST + 2 s` for reception and one more for transmission.
const FIRST_SOCKET: u16 = 4;

/// How much packet memory, and how cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UmemConfig {
    /// Number of frames. Must cover, over all sockets: fill ring + RX ring + whatever is in flight on TX (up to
    /// `tx_entries`) + what the program holds. The default serves two sockets of default size with room to spare.
    pub frames: u32,
    /// Bytes of one frame: 2048 or 4096 (a power of two, at most a page).
    pub frame_size: u32,
    /// Room before each packet in bytes, beyond the kernel's own 256.
    pub headroom: u32,
    /// Try 2 MiB huge pages first; ordinary pages where none are reserved.
    pub huge_pages: bool,
}

impl Default for UmemConfig {
    fn default() -> UmemConfig {
        UmemConfig { frames: 16_384, frame_size: 2048, headroom: 0, huge_pages: true }
    }
}

/// A socket that lives on this memory.
#[derive(Clone, Copy)]
pub(crate) struct Tenant {
    pub fd: i32,
    pub mode: Mode,
    pub ifindex: u32,
    pub queue: u32,
}

/// Packet memory of one worker, shared by its sockets.
pub struct Umem {
    memory: Mapping,
    frame_shift: u32,
    frames: u32,
    headroom: u32,
    huge_pages: bool,
    /// A stack: the first `free_len` entries are free frames, the last used first, since it is warm in the cache.
    free: Box<[Cell<u32>]>,
    free_len: Cell<u32>,
    owner: Box<[Cell<u16>]>,
    lost: Cell<u32>,
    /// Live sockets by slot; off the packet path.
    tenants: RefCell<Vec<Option<Tenant>>>,
}

impl Umem {
    /// Maps the memory. Nothing is told to the kernel before the first socket.
    pub fn new(config: &UmemConfig) -> Result<Umem, Error> {
        let asked = format!("packet memory of {} frames of {} bytes", config.frames, config.frame_size);
        if config.frames == 0 || !matches!(config.frame_size, 2048 | 4096) {
            return Err(Error::new(asked, libc::EINVAL)
                .meaning(Kind::Invalid, "frame_size is 2048 or 4096, and at least one frame is needed"));
        }
        if config.headroom > config.frame_size / 2 {
            return Err(
                Error::new(asked, libc::EINVAL).meaning(Kind::Invalid, "headroom is at most half a frame")
            );
        }
        let bytes = config.frames as usize * config.frame_size as usize;
        let huge_bytes = bytes.next_multiple_of(HUGE_PAGE_BYTES);
        let huge = if config.huge_pages { Mapping::anonymous(huge_bytes, true).ok() } else { None };
        let huge_pages = huge.is_some();
        let memory = match huge {
            Some(memory) => memory,
            None => Mapping::anonymous(bytes, false).map_err(|errno| Error::new(asked, errno))?,
        };
        Ok(Umem {
            memory,
            frame_shift: config.frame_size.trailing_zeros(),
            frames: config.frames,
            headroom: config.headroom,
            huge_pages,
            free: (0..config.frames).rev().map(Cell::new).collect(),
            free_len: Cell::new(config.frames),
            owner: (0..config.frames).map(|_| Cell::new(IN_POOL)).collect(),
            lost: Cell::new(0),
            tenants: RefCell::new(Vec::new()),
        })
    }

    /// Whether the memory lies in 2 MiB huge pages.
    pub fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// Number of frames in all.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Bytes of one frame, headroom included.
    pub fn frame_size(&self) -> u32 {
        1 << self.frame_shift
    }

    /// Frames in the pool.
    pub fn free_frames(&self) -> u32 {
        self.free_len.get()
    }

    /// Frames that closed sockets left in the kernel's hands; they are never used again (see [`crate::Socket`]).
    pub fn lost_frames(&self) -> u32 {
        self.lost.get()
    }

    /// Takes an empty frame from the pool; `None` when the pool is empty. Its bytes are whatever they were.
    pub fn allocate(&self) -> Option<Frame<'_>> {
        let index = self.take()?;
        self.owner[index as usize].set(IN_PROGRAM);
        Some(Frame { umem: self, index, start: KERNEL_HEADROOM + self.headroom, len: 0 })
    }

    fn take(&self) -> Option<u32> {
        let len = self.free_len.get().checked_sub(1)?;
        self.free_len.set(len);
        Some(self.free[len as usize].get())
    }

    fn give(&self, index: u32) {
        let len = self.free_len.get();
        self.owner[index as usize].set(IN_POOL);
        self.free[len as usize].set(index);
        self.free_len.set(len + 1);
    }

    /// Takes a frame for the kernel to fill: its address in the memory.
    pub(crate) fn lend_for_rx(&self, slot: Slot) -> Option<u64> {
        let index = self.take()?;
        self.owner[index as usize].set(slot.rx());
        Some(u64::from(index) << self.frame_shift)
    }

    /// The token of a frame in which the kernel delivered a packet; `None` if the descriptor makes no sense: not
    /// within one frame, or a frame that this socket had not lent.
    pub(crate) fn received(&self, slot: Slot, addr: u64, len: u32) -> Option<Frame<'_>> {
        let index = u32::try_from(addr >> self.frame_shift).ok()?;
        let start = (addr & u64::from(self.frame_size() - 1)) as u32;
        let owner = self.owner.get(index as usize)?;
        if owner.get() != slot.rx() || len > self.frame_size() - start {
            return None;
        }
        owner.set(IN_PROGRAM);
        Some(Frame { umem: self, index, start, len })
    }

    /// Takes back a transmitted frame; false if this socket had not sent it.
    pub(crate) fn transmitted(&self, slot: Slot, addr: u64) -> bool {
        self.take_back(addr, slot.tx())
    }

    /// Takes back a frame that a closed socket's fill ring still names; false if it was not lent.
    pub(crate) fn unlent(&self, slot: Slot, addr: u64) -> bool {
        self.take_back(addr, slot.rx())
    }

    fn take_back(&self, addr: u64, tag: u16) -> bool {
        let Ok(index) = u32::try_from(addr >> self.frame_shift) else { return false };
        match self.owner.get(index as usize) {
            Some(owner) if owner.get() == tag => {
                self.give(index);
                true
            }
            _ => false,
        }
    }

    /// Address and length of the whole mapping of frames.
    pub(crate) fn region(&self) -> (u64, u64) {
        (self.memory.as_ptr().as_ptr() as u64, u64::from(self.frames) << self.frame_shift)
    }

    pub(crate) fn headroom(&self) -> u32 {
        self.headroom
    }

    pub(crate) fn tenants(&self) -> Vec<Tenant> {
        self.tenants.borrow().iter().flatten().copied().collect()
    }

    /// Enters a socket; its slot names it in `owner`.
    pub(crate) fn admit(&self, tenant: Tenant) -> Result<Slot, Error> {
        let mut tenants = self.tenants.borrow_mut();
        let at = tenants.iter().position(Option::is_none).unwrap_or(tenants.len());
        if at > 1000 {
            return Err(Error::new("another socket on this memory", libc::EMFILE));
        }
        if at == tenants.len() {
            tenants.push(None);
        }
        tenants[at] = Some(tenant);
        Ok(Slot(at as u16))
    }

    /// Strikes a closed socket. Frames lent for reception are recovered when `rx_is_quiet`; what remains tagged is
    /// lost, so that the slot can be used again.
    pub(crate) fn dismiss(&self, slot: Slot, rx_is_quiet: bool) {
        for index in 0..self.frames {
            let owner = &self.owner[index as usize];
            if owner.get() == slot.rx() && rx_is_quiet {
                self.give(index);
            } else if owner.get() == slot.rx() || owner.get() == slot.tx() {
                owner.set(LOST);
                self.lost.set(self.lost.get() + 1);
            }
        }
        self.tenants.borrow_mut()[usize::from(slot.0)] = None;
    }

    fn packet(&self, index: u32, start: u32) -> NonNull<u8> {
        let offset = ((index as usize) << self.frame_shift) + start as usize;
        // SAFETY: index < frames and start < frame_size (checked where a Frame is made or moved), so inside the mapping.
        unsafe { self.memory.as_ptr().add(offset) }
    }
}

/// A socket's place in its Umem.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(u16);

impl Slot {
    fn rx(self) -> u16 {
        FIRST_SOCKET + 2 * self.0
    }

    fn tx(self) -> u16 {
        self.rx() + 1
    }
}

/// One packet buffer: the only name of its bytes. Dereferences to the packet; dropping it returns it to the pool.
#[must_use = "dropping a frame drops its packet"]
pub struct Frame<'u> {
    umem: &'u Umem,
    index: u32,
    /// Where the packet begins inside the frame.
    start: u32,
    len: u32,
}

impl<'u> Frame<'u> {
    /// Bytes that fit from the packet's start to the frame's end.
    pub fn capacity(&self) -> usize {
        (self.umem.frame_size() - self.start) as usize
    }

    /// Bytes free before the packet.
    pub fn headroom(&self) -> usize {
        self.start as usize
    }

    /// Sets the packet's length in bytes; false, and nothing changed, when it exceeds the capacity.
    #[must_use]
    pub fn set_len(&mut self, len: usize) -> bool {
        let fits = len <= self.capacity();
        if fits {
            self.len = len as u32;
        }
        fits
    }

    /// Lets the packet begin `bytes` earlier, to write a header in front; false when the headroom does not suffice.
    #[must_use]
    pub fn extend_front(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.headroom();
        if fits {
            self.start -= bytes as u32;
            self.len += bytes as u32;
        }
        fits
    }

    /// Cuts `bytes` off the packet's front; false when the packet is shorter.
    #[must_use]
    pub fn trim_front(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.len as usize && bytes < self.capacity();
        if fits {
            self.start += bytes as u32;
            self.len -= bytes as u32;
        }
        fits
    }

    /// The memory this frame belongs to.
    pub fn umem(&self) -> &'u Umem {
        self.umem
    }

    /// Hands the frame over to the kernel: the descriptor's address and length.
    pub(crate) fn into_kernel(self, slot: Slot) -> (u64, u32) {
        let frame = std::mem::ManuallyDrop::new(self);
        frame.umem.owner[frame.index as usize].set(slot.tx());
        ((u64::from(frame.index) << frame.umem.frame_shift) + u64::from(frame.start), frame.len)
    }
}

impl Deref for Frame<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let data = self.umem.packet(self.index, self.start);
        // SAFETY: start + len is inside the frame; this token is the frame's only name, the kernel has given it up
        // (or never had it), and the mapping outlives 'u. Anonymous memory is initialised (zeroed).
        unsafe { std::slice::from_raw_parts(data.as_ptr(), self.len as usize) }
    }
}

impl DerefMut for Frame<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let data = self.umem.packet(self.index, self.start);
        // SAFETY: as for `deref`, and `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), self.len as usize) }
    }
}

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        self.umem.give(self.index);
    }
}

impl std::fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame {{ index: {}, start: {}, len: {} }}", self.index, self.start, self.len)
    }
}

impl std::fmt::Debug for Umem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Umem")
            .field("frames", &self.frames)
            .field("frame_size", &self.frame_size())
            .field("free", &self.free_len.get())
            .field("lost", &self.lost.get())
            .field("huge_pages", &self.huge_pages)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Umem {
        Umem::new(&UmemConfig { frames: 4, huge_pages: false, ..UmemConfig::default() }).expect("map 8 KiB")
    }

    #[test]
    fn every_frame_is_handed_out_once_and_comes_back_when_dropped() {
        let umem = small();
        let mut frames: Vec<Frame> = std::iter::from_fn(|| umem.allocate()).collect();
        assert_eq!((frames.len(), umem.free_frames()), (4, 0));
        for (i, frame) in frames.iter_mut().enumerate() {
            assert!(frame.set_len(frame.capacity()));
            frame.fill(i as u8);
        }
        for (i, frame) in frames.iter().enumerate() {
            assert!(frame.iter().all(|&b| b == i as u8), "frames overlap");
        }
        drop(frames);
        assert_eq!(umem.free_frames(), 4);
    }

    #[test]
    fn lengths_and_fronts_stay_inside_the_frame() {
        let umem = small();
        let mut frame = umem.allocate().expect("a frame");
        assert!(!frame.set_len(2048 - 256 + 1));
        assert!(frame.set_len(10) && frame.trim_front(10) && !frame.trim_front(1));
        assert!(frame.extend_front(266) && !frame.extend_front(1));
        assert_eq!((frame.len(), frame.capacity()), (266, 2048));
    }

    #[test]
    fn descriptors_that_make_no_sense_are_refused() {
        let umem = small();
        let slot = Slot(0);
        let addr = umem.lend_for_rx(slot).expect("a frame");
        assert!(umem.received(slot, addr + 256, 1793).is_none(), "past the frame's end");
        assert!(umem.received(slot, 4 * 2048, 1).is_none(), "past the memory's end");
        assert!(umem.received(slot, u64::MAX, 1).is_none());
        assert!(umem.received(Slot(1), addr + 256, 60).is_none(), "another socket's frame");
        let frame = umem.received(slot, addr + 256, 60).expect("the lent frame");
        assert!(umem.received(slot, addr + 256, 60).is_none(), "the same frame twice");
        assert!(!umem.transmitted(slot, addr), "not sent");
        assert_eq!(frame.len(), 60);
        let (addr, len) = frame.into_kernel(slot);
        assert_eq!((len, umem.free_frames()), (60, 3));
        assert!(umem.transmitted(slot, addr) && !umem.transmitted(slot, addr));
        assert_eq!(umem.free_frames(), 4);
    }

    #[test]
    fn a_closed_socket_loses_exactly_what_the_kernel_may_still_use() {
        for (rx_is_quiet, lost) in [(true, 1), (false, 2)] {
            let umem = small();
            let tenant = Tenant { fd: -1, mode: Mode::Copy, ifindex: 1, queue: 0 };
            let (slot, other) = (umem.admit(tenant).expect("a slot"), umem.admit(tenant).expect("a slot"));
            umem.lend_for_rx(slot).expect("a frame");
            let elsewhere = umem.lend_for_rx(other).expect("a frame");
            let (sent, _) = umem.allocate().expect("a frame").into_kernel(slot);
            umem.dismiss(slot, rx_is_quiet);
            assert_eq!((umem.lost_frames(), umem.free_frames()), (lost, 3 - lost));
            // Whoever gets the slot next has no claim on what was lost.
            let heir = umem.admit(tenant).expect("a slot");
            assert!(heir == slot && !umem.transmitted(heir, sent));
            assert!(umem.received(other, elsewhere, 60).is_some(), "other sockets are not affected");
        }
    }
}
