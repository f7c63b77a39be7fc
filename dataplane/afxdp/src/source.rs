//! A packet source for benches: the kernel runs an XDP program over and over on frames of its own (BPF_PROG_TEST_RUN with
//! live frames, Linux 5.18), which rewrites each frame and redirects it out of an interface. On veth that is several million
//! packets a second, far more than any socket sends.
//!
//! The interface must be able to send redirected frames: a veth does when its peer runs NAPI, that is with an XDP program
//! or with [`enable_gro`](crate::device::enable_gro). What the peer's ring of 256 entries does not hold is lost.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use crate::error::Error;
use crate::redirect::{BPF_MAP_CREATE, CreateMap, Instruction, bpf, instruction, load, own};

/// Commands and constants of `include/uapi/linux/bpf.h`.
const BPF_PROG_TEST_RUN: i32 = 10;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PSEUDO_MAP_VALUE: u8 = 2;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
/// The kernel's NAPI budget, and what it takes for 0.
const BATCH: u32 = 64;
/// Bytes at the front of each frame that are written anew each time: Ethernet, IPv4 and UDP headers.
const HEADERS_BYTES: usize = 14 + 20 + 8;
/// Where the UDP source port stands.
const SOURCE_PORT: i16 = 14 + 20;

/// A loaded source for one interface.
#[derive(Debug)]
pub struct Source {
    program: OwnedFd,
    frame: Vec<u8>,
    interface: String,
}

/// `union bpf_attr` of BPF_PROG_TEST_RUN.
#[repr(C)]
struct TestRun {
    program: i32,
    result: u32,
    data_in_bytes: u32,
    data_out_bytes: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_in_bytes: u32,
    context_out_bytes: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

impl Source {
    /// A source of copies of `frame`, an Ethernet frame of IPv4 without options and UDP without checksum, whose source
    /// ports go round from `first_port` on over `ports` ports. In the calling thread's network namespace.
    ///
    /// # Errors
    /// The interface does not exist, the frame has less than 42 bytes, or the kernel refused the program.
    pub fn new(interface: &str, frame: &[u8], first_port: u16, ports: u16) -> Result<Source, Error> {
        let failed = |what: &str, errno| Error::new(format!("{what} for packets out of {interface}"), errno);
        if frame.len() < HEADERS_BYTES || ports == 0 {
            return Err(failed("write a program", libc::EINVAL));
        }
        let ifindex = crate::device::index(interface)?;
        let mut attr =
            CreateMap { kind: BPF_MAP_TYPE_ARRAY, key_bytes: 4, value_bytes: 8, entries: 1, flags: 0 };
        // SAFETY: the attributes of BPF_MAP_CREATE, without pointers; the kernel answers a new descriptor.
        let counter = unsafe { bpf(BPF_MAP_CREATE, &mut attr).map(|fd| own(fd)) }
            .map_err(|errno| failed("create a counter", errno))?;
        let instructions = program(&counter, frame, ifindex, first_port, ports);
        let program = load(b"afxdp_source", &instructions)
            .map_err(|errno| failed("load a program (Linux 5.18 or newer)", errno))?;
        Ok(Source { program, frame: frame.to_vec(), interface: interface.to_owned() })
    }

    /// Sends `count` packets as fast as the kernel can, on the calling thread's CPU; how long it took. The thread must be
    /// in the namespace in which the source was made. Starting takes some 20 ms.
    ///
    /// # Errors
    /// The kernel is older than 5.18, or the interface cannot send redirected frames.
    pub fn send(&self, count: u32) -> Result<Duration, Error> {
        let started = std::time::Instant::now();
        let mut attr = TestRun {
            program: self.program.as_raw_fd(),
            result: 0,
            data_in_bytes: self.frame.len() as u32,
            data_out_bytes: 0,
            data_in: self.frame.as_ptr() as u64,
            data_out: 0,
            repeat: count,
            duration: 0,
            context_in_bytes: 0,
            context_out_bytes: 0,
            context_in: 0,
            context_out: 0,
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            cpu: 0,
            batch: BATCH,
            padding: 0,
        };
        // SAFETY: the attributes of BPF_PROG_TEST_RUN; the frame lives through the call, and nothing is written back
        // but result and duration.
        match unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) } {
            Ok(_) | Err(libc::EINTR) => Ok(started.elapsed()),
            Err(errno) => Err(Error::new(format!("send packets out of {}", self.interface), errno)),
        }
    }
}

/// Writes the headers, the next source port among them, and redirects.
fn program(counter: &OwnedFd, frame: &[u8], ifindex: u32, first_port: u16, ports: u16) -> Vec<Instruction> {
    let mut code = vec![
        // r2 = ctx->data, r3 = ctx->data_end
        instruction(0x61, 2, 1, 0, 0),
        instruction(0x61, 3, 1, 4, 0),
        // Frames shorter than the headers do not exist, which the verifier wants to see: drop (XDP_DROP is 1).
        instruction(0xbf, 4, 2, 0, 0),
        instruction(0x07, 4, 0, 0, HEADERS_BYTES as i32),
        instruction(0x2d, 4, 3, 1, 0),
        instruction(0x05, 0, 0, 2, 0),
        instruction(0xb7, 0, 0, 0, 1),
        instruction(0x95, 0, 0, 0, 0),
        // r4 = the counter's place (BPF_PSEUDO_MAP_VALUE; two slots)
        instruction(0x18, 4, BPF_PSEUDO_MAP_VALUE, 0, counter.as_raw_fd()),
        instruction(0, 0, 0, 0, 0),
    ];
    // Recycled frames carry what became of them last time, so every header is written each time.
    for (index, word) in frame[..HEADERS_BYTES].chunks_exact(2).enumerate() {
        let value = i32::from(i16::from_ne_bytes([word[0], word[1]]));
        code.push(instruction(0x6a, 2, 0, 2 * index as i16, value));
    }
    code.extend([
        // r0 = counter++, then the port: r0 % ports + first, in network order
        instruction(0x79, 0, 4, 0, 0),
        instruction(0xbf, 5, 0, 0, 0),
        instruction(0x07, 5, 0, 0, 1),
        instruction(0x7b, 4, 5, 0, 0),
        instruction(0x97, 0, 0, 0, i32::from(ports)),
        instruction(0x07, 0, 0, 0, i32::from(first_port)),
        instruction(0xdc, 0, 0, 0, 16),
        instruction(0x6b, 2, 0, SOURCE_PORT, 0),
        // return bpf_redirect(ifindex, 0), helper 23
        instruction(0xb7, 1, 0, 0, ifindex as i32),
        instruction(0xb7, 2, 0, 0, 0),
        instruction(0x85, 0, 0, 0, 23),
        instruction(0x95, 0, 0, 0, 0),
    ]);
    code
}
