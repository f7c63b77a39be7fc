//! A network namespace of the test's own with veth pairs, made by raw netlink: a fresh machine may lack `ip`.

// Each test binary uses its part.
#![allow(dead_code)]

use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc;

/// EtherType for local experiments (IEEE 802), so that no stack answers.
pub const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// Runs `test` on a thread in a new network namespace, which ends with the thread, also on panic. Says SKIP where
/// the rights are missing.
pub fn in_namespace(name: &str, test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let (ready, is_ready) = mpsc::channel();
        let thread = scope.spawn(move || {
            // SAFETY: changes only this thread's namespace; no memory is passed.
            let rc = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            let _ = ready.send(rc == 0);
            if rc == 0 {
                // Keeps neighbour discovery out of the counts. `/proc/sys/net` is that of the calling thread.
                for which in ["all", "default"] {
                    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
                }
                test();
            }
        });
        if is_ready.recv() == Ok(false) {
            // Not through the print macros, which the test runner swallows.
            let line = format!("SKIP {name}: needs root or CAP_SYS_ADMIN and CAP_NET_ADMIN\n");
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Makes a veth pair, both ends up.
pub fn veth(a: &str, b: &str) {
    let peer = |m: &mut Message| {
        m.link_header(0);
        m.attribute(libc::IFLA_IFNAME, |m| m.text(b));
    };
    let mut message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
    message.link_header(0);
    message.attribute(libc::IFLA_IFNAME, |m| m.text(a));
    message.attribute(libc::IFLA_LINKINFO, |m| {
        m.attribute(libc::IFLA_INFO_KIND, |m| m.text("veth"));
        // VETH_INFO_PEER of `include/uapi/linux/veth.h`
        m.attribute(libc::IFLA_INFO_DATA, |m| m.attribute(1, peer));
    });
    message.send().unwrap_or_else(|errno| panic!("make veth {a} {b}: errno {errno}"));
    // Only now: an end cannot be set up before it has its peer.
    for end in [a, b] {
        let mut message = Message::new(libc::RTM_NEWLINK, 0);
        message.link_header(libc::IFF_UP as u32);
        message.attribute(libc::IFLA_IFNAME, |m| m.text(end));
        message.send().unwrap_or_else(|errno| panic!("set up {end}: errno {errno}"));
    }
}

/// Removes an interface (and a veth's peer with it).
pub fn delete(interface: &str) {
    let mut message = Message::new(libc::RTM_DELLINK, 0);
    message.link_header(0);
    message.attribute(libc::IFLA_IFNAME, |m| m.text(interface));
    message.send().unwrap_or_else(|errno| panic!("delete {interface}: errno {errno}"));
}

/// A netlink request being written.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: i32) -> Message {
        let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        Message(bytes)
    }

    /// `struct ifinfomsg` with the given flags to set.
    fn link_header(&mut self, flags: u32) {
        self.0.extend([0; 8]);
        self.0.extend(flags.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, body: impl FnOnce(&mut Message)) {
        let at = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        body(self);
        let len = (self.0.len() - at) as u16;
        self.0[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn text(&mut self, text: &str) {
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn send(mut self) -> Result<(), i32> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        let fd = socket(libc::AF_NETLINK, libc::NETLINK_ROUTE);
        let mut answer = [0u8; 4096];
        // SAFETY: pointers and lengths describe live buffers.
        let got = unsafe {
            libc::send(fd.as_raw_fd(), self.0.as_ptr().cast(), self.0.len(), 0);
            libc::recv(fd.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0)
        };
        assert!(got >= 20, "netlink does not answer");
        // nlmsghdr (16 bytes), then nlmsgerr: a negative errno, 0 for success.
        match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
            0 => Ok(()),
            errno => Err(-errno),
        }
    }
}

fn socket(family: i32, protocol: i32) -> OwnedFd {
    // SAFETY: no memory is passed; a descriptor that is not negative is new and nobody else's.
    unsafe {
        let fd = libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
        assert!(fd >= 0, "socket: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    }
}

/// A packet socket: an end of the wire that knows nothing of AF_XDP.
pub struct Wire(OwnedFd);

impl Wire {
    pub fn open(interface: &str) -> Wire {
        let protocol = u16::from_be_bytes(ETHERTYPE).to_be();
        let fd = socket(libc::AF_PACKET, i32::from(protocol));
        let index = afxdp::device::index(interface).expect("the interface exists");
        // SAFETY: zero is valid for a struct of integers; pointers and lengths describe live values.
        unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = index as i32;
            let len = size_of_val(&address) as u32;
            let rc = libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), len);
            assert_eq!(rc, 0, "bind: {}", std::io::Error::last_os_error());
            let bytes = 16i32 << 20;
            let bytes = std::ptr::from_ref(&bytes).cast();
            libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes, 4);
            let wait = libc::timeval { tv_sec: 0, tv_usec: 200_000 };
            let wait = std::ptr::from_ref(&wait).cast();
            let len = size_of::<libc::timeval>() as u32;
            libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, wait, len);
        }
        Wire(fd)
    }

    pub fn send(&self, packet: &[u8]) {
        // SAFETY: pointer and length describe `packet`.
        let rc = unsafe { libc::send(self.0.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0) };
        assert_eq!(rc, packet.len() as isize, "send: {}", std::io::Error::last_os_error());
    }

    /// The next packet from the wire (not those sent here); `None` after 200 ms of silence.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut packet = vec![0u8; 4096];
        loop {
            // SAFETY: zero is valid for a struct of integers; pointers and lengths describe live buffers.
            let (got, kind) = unsafe {
                let mut from: libc::sockaddr_ll = std::mem::zeroed();
                let mut len = size_of_val(&from) as u32;
                let address = std::ptr::from_mut(&mut from).cast();
                let buffer = packet.as_mut_ptr().cast();
                let got = libc::recvfrom(self.0.as_raw_fd(), buffer, packet.len(), 0, address, &mut len);
                (got, from.sll_pkttype)
            };
            if got < 0 {
                return None;
            }
            if kind != libc::PACKET_OUTGOING {
                packet.truncate(got as usize);
                return Some(packet);
            }
        }
    }

    /// The next packet, however slow the machine; `None` after 5 s.
    pub fn wait(&self) -> Option<Vec<u8>> {
        (0..25).find_map(|_| self.receive())
    }

    /// All numbers that arrive until 200 ms of silence.
    pub fn numbers(&self) -> Vec<u32> {
        std::iter::from_fn(|| self.receive()).map(|p| number(&p)).collect()
    }
}

/// A 60-byte broadcast packet that carries a number.
pub fn packet(number: u32) -> Vec<u8> {
    let mut packet = vec![0xff; 6];
    packet.extend([2, 0, 0, 0, 0, 1]);
    packet.extend(ETHERTYPE);
    packet.extend(number.to_be_bytes());
    packet.extend((packet.len()..60).map(|i| (i as u32).wrapping_mul(number) as u8));
    packet
}

pub fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes([packet[14], packet[15], packet[16], packet[17]])
}
