//! The least XDP program that feeds sockets: every packet of queue q goes to the socket entered for q.
//!
//! For the bare forwarder, tests and benches. It is attached by a bpf_link, so it is gone when its [`Redirect`] is dropped
//! or the process ends; a gateway's steering must outlive its process and is another program.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::error::{Error, Kind};
use crate::socket::{Interface, Socket};
use crate::sys;

// Commands and constants of `include/uapi/linux/bpf.h`.
pub(crate) const BPF_MAP_CREATE: i32 = 0;
const BPF_MAP_UPDATE_ELEM: i32 = 2;
const BPF_PROG_LOAD: i32 = 5;
const BPF_LINK_CREATE: i32 = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
/// Queues the map has room for.
const QUEUES: u32 = 1024;

/// What becomes of packets of a queue without a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// They are dropped.
    Drop,
    /// They go to the kernel's stack.
    Pass,
}

/// An attached redirect program; dropping it detaches it.
#[derive(Debug)]
pub struct Redirect {
    map: OwnedFd,
    _link: OwnedFd,
    ifindex: u32,
}

impl Redirect {
    /// Loads the program and attaches it to the interface, in driver mode where the driver has one.
    pub fn attach(interface: impl Into<Interface>, otherwise: Otherwise) -> Result<Redirect, Error> {
        let (ifindex, device) = interface.into().resolve()?;
        let failed = |what: &str, errno| Error::new(format!("{what} for {device}"), errno);
        let map = create_map().map_err(|errno| failed("create an XSKMAP", errno))?;
        let program =
            redirect_program(&map, otherwise).map_err(|errno| failed("load the redirect program", errno))?;
        let link = link(&program, ifindex).map_err(|errno| match errno {
            libc::EBUSY | libc::EEXIST => failed("attach the redirect program", errno)
                .meaning(Kind::Taken, "the interface carries another XDP program: detach it first"),
            _ => failed("attach the redirect program", errno),
        })?;
        Ok(Redirect { map, _link: link, ifindex })
    }

    /// Lets the socket receive its queue's packets. The kernel strikes the entry when the socket is closed.
    pub fn add(&self, socket: &Socket<'_>) -> Result<(), Error> {
        let asked = || format!("redirect queue {} of interface {}", socket.queue(), self.ifindex);
        if socket.ifindex() != self.ifindex {
            return Err(Error::new(asked(), 0).meaning(Kind::Invalid, "the socket is on another interface"));
        }
        let key = socket.queue();
        let value = socket.as_fd().as_raw_fd();
        let mut attr = UpdateElement {
            map: self.map.as_raw_fd(),
            pad: 0,
            key: std::ptr::from_ref(&key) as u64,
            value: std::ptr::from_ref(&value) as u64,
            flags: 0,
        };
        // SAFETY: key and value are four bytes each, as the map was made, and live through the call.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) }.map_err(|errno| Error::new(asked(), errno))?;
        Ok(())
    }
}

/// `struct bpf_insn`.
#[repr(C)]
pub(crate) struct Instruction {
    pub code: u8,
    /// Destination register in the low half, source in the high one (little-endian bit fields).
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// Each argument is the beginning of `union bpf_attr`; the kernel takes the rest as zero.
#[repr(C)]
pub(crate) struct CreateMap {
    pub kind: u32,
    pub key_bytes: u32,
    pub value_bytes: u32,
    pub entries: u32,
    pub flags: u32,
}

#[repr(C)]
struct UpdateElement {
    map: i32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct LoadProgram {
    pub kind: u32,
    pub instruction_count: u32,
    pub instructions: u64,
    pub license: u64,
    pub log_level: u32,
    pub log_size: u32,
    pub log_buffer: u64,
    pub kernel_version: u32,
    pub flags: u32,
    pub name: [u8; 16],
    pub ifindex: u32,
    pub expected_attach: u32,
}

#[repr(C)]
struct CreateLink {
    program: i32,
    ifindex: u32,
    attach: u32,
    flags: u32,
}

/// One bpf(2) call; its descriptor or 0.
///
/// # Safety
/// `attr` must be the beginning of `union bpf_attr` for the command, without padding, and what it points to must live
/// through the call.
pub(crate) unsafe fn bpf<T>(command: i32, attr: &mut T) -> Result<i32, i32> {
    // SAFETY: pointer and length describe `attr`; the rest is the caller's promise.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if rc < 0 { Err(sys::errno()) } else { Ok(rc as i32) }
}

/// # Safety
/// The descriptor must be new and nobody else's.
pub(crate) unsafe fn own(fd: i32) -> OwnedFd {
    // SAFETY: the caller's promise.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn create_map() -> Result<OwnedFd, i32> {
    let mut attr =
        CreateMap { kind: BPF_MAP_TYPE_XSKMAP, key_bytes: 4, value_bytes: 4, entries: QUEUES, flags: 0 };
    // SAFETY: the attributes of BPF_MAP_CREATE, without pointers; the kernel answers a new descriptor.
    unsafe { bpf(BPF_MAP_CREATE, &mut attr).map(|fd| own(fd)) }
}

fn redirect_program(map: &OwnedFd, otherwise: Otherwise) -> Result<OwnedFd, i32> {
    let verdict = match otherwise {
        Otherwise::Drop => 1, // XDP_DROP
        Otherwise::Pass => 2, // XDP_PASS
    };
    let instructions = [
        // r2 = ctx->rx_queue_index (offset 16 of struct xdp_md)
        instruction(0x61, 2, 1, 16, 0),
        // r1 = the map (BPF_PSEUDO_MAP_FD in the source register; two slots)
        instruction(0x18, 1, 1, 0, map.as_raw_fd()),
        instruction(0, 0, 0, 0, 0),
        // r3 = what to do where the map has no socket (the low bits of the flags, Linux 5.3)
        instruction(0xb7, 3, 0, 0, verdict),
        // r0 = bpf_redirect_map(r1, r2, r3), helper 51
        instruction(0x85, 0, 0, 0, 51),
        instruction(0x95, 0, 0, 0, 0),
    ];
    load(b"afxdp_queues", &instructions)
}

/// Loads an XDP program under a name.
pub(crate) fn load(name: &[u8; 12], instructions: &[Instruction]) -> Result<OwnedFd, i32> {
    let license = c"GPL";
    let mut padded = [0; 16];
    padded[..name.len()].copy_from_slice(name);
    let mut attr = LoadProgram {
        kind: BPF_PROG_TYPE_XDP,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
        name: padded,
        ifindex: 0,
        expected_attach: BPF_XDP,
    };
    // SAFETY: the attributes of BPF_PROG_LOAD; instructions and license live through the call.
    unsafe { bpf(BPF_PROG_LOAD, &mut attr).map(|fd| own(fd)) }
}

fn link(program: &OwnedFd, ifindex: u32) -> Result<OwnedFd, i32> {
    let mut attr = CreateLink { program: program.as_raw_fd(), ifindex, attach: BPF_XDP, flags: 0 };
    // SAFETY: the attributes of BPF_LINK_CREATE, without pointers; the kernel answers a new descriptor.
    unsafe { bpf(BPF_LINK_CREATE, &mut attr).map(|fd| own(fd)) }
}

pub(crate) fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    let registers =
        if cfg!(target_endian = "little") { source << 4 | destination } else { destination << 4 | source };
    Instruction { code, registers, offset, immediate }
}
