//! The system calls, each wrapped once. Errors are bare errnos here; the callers know what was asked.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

/// The calling thread's errno.
pub(crate) fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// A memory mapping, unmapped when dropped.
pub(crate) struct Mapping {
    at: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a Mapping is plain memory that belongs to no thread; it gives out only a pointer.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Zeroed private memory, faulted in at once; `huge` asks for reserved 2 MiB pages.
    pub(crate) fn anonymous(bytes: usize, huge: bool) -> Result<Mapping, i32> {
        let mut flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        if huge {
            flags |= libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        }
        Mapping::map(bytes, flags, -1, 0)
    }

    /// A ring of an AF_XDP socket.
    pub(crate) fn ring(fd: BorrowedFd<'_>, bytes: usize, offset: i64) -> Result<Mapping, i32> {
        Mapping::map(bytes, libc::MAP_SHARED | libc::MAP_POPULATE, fd.as_raw_fd(), offset)
    }

    fn map(bytes: usize, flags: i32, fd: RawFd, offset: i64) -> Result<Mapping, i32> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, fd, offset) };
        if at == libc::MAP_FAILED {
            return Err(errno());
        }
        NonNull::new(at.cast()).map(|at| Mapping { at, bytes }).ok_or(libc::ENOMEM)
    }

    pub(crate) fn as_ptr(&self) -> NonNull<u8> {
        self.at
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that was mapped; whoever borrowed from it is gone.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}

/// Values that may be read from and written to socket options as bytes.
///
/// # Safety
/// Plain old data: valid for any bytes.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: integers and structs of integers only.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for libc::xdp_umem_reg {}
// SAFETY: as above.
unsafe impl Plain for libc::xdp_mmap_offsets {}
// SAFETY: as above.
unsafe impl Plain for libc::xdp_statistics {}

pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, i32> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(errno());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn set_option<T: Plain>(fd: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> Result<(), i32> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`, which the kernel only reads.
    let rc = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len) };
    if rc < 0 { Err(errno()) } else { Ok(()) }
}

/// Reads an option into `value`; answers how many bytes the kernel gave (older kernels know shorter structs).
pub(crate) fn option<T: Plain>(
    fd: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: &mut T,
) -> Result<usize, i32> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`, and any bytes are a valid T (Plain).
    let rc =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, std::ptr::from_mut(value).cast(), &mut len) };
    if rc < 0 { Err(errno()) } else { Ok(len as usize) }
}

pub(crate) fn bind_xdp(fd: BorrowedFd<'_>, address: &libc::sockaddr_xdp) -> Result<(), i32> {
    let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    // SAFETY: pointer and length describe `address`, which the kernel only reads.
    let rc = unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(address).cast(), len) };
    if rc < 0 { Err(errno()) } else { Ok(()) }
}

/// An empty send: AF_XDP takes it as "look at the TX ring".
pub(crate) fn kick_tx(fd: BorrowedFd<'_>) -> Result<(), i32> {
    // SAFETY: no buffer is passed.
    let rc =
        unsafe { libc::sendto(fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
    if rc < 0 { Err(errno()) } else { Ok(()) }
}

/// An empty receive: AF_XDP takes it as "busy-poll the driver, or wake it to look at the fill ring".
pub(crate) fn kick_rx(fd: BorrowedFd<'_>) -> Result<(), i32> {
    let null = std::ptr::null_mut();
    // SAFETY: no buffer is passed.
    let rc = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            null,
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    if rc < 0 { Err(errno()) } else { Ok(()) }
}

/// Polls descriptors; the events that are ready on each. An interrupted poll is one without events.
pub(crate) fn poll<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    events: i16,
    timeout_ms: i32,
) -> Result<[i16; N], i32> {
    let mut entries = fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 });
    // SAFETY: pointer and count describe `entries`.
    let rc = unsafe { libc::poll(entries.as_mut_ptr(), N as libc::nfds_t, timeout_ms) };
    match rc {
        0.. => Ok(entries.map(|entry| entry.revents)),
        _ if errno() == libc::EINTR => Ok([0; N]),
        _ => Err(errno()),
    }
}

/// The interface's index in the calling thread's network namespace.
pub(crate) fn ifindex(name: &str) -> Result<u32, i32> {
    let name = CString::new(name).map_err(|_| libc::EINVAL)?;
    // SAFETY: a terminated string that the call only reads.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(errno()),
        index => Ok(index),
    }
}
