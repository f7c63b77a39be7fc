//! Raw Ethernet frames at one interface of a namespace.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send, setsockopt,
    socket, sockopt,
};

use super::Namespace;

/// Longest frame received: a jumbo frame, and the 64 KiB of a veth that still coalesces.
const FRAME_BYTES: usize = 66_000;

/// Receive buffer, bytes: some thousand small frames.
const SOCKET_BYTES: usize = 4 << 20;

/// How long a frame may wait for room in the socket's or the interface's queue.
const SEND_PATIENCE: Duration = Duration::from_secs(5);

/// A packet socket at one interface: frames sent here leave by it, frames that arrive at it are received here, for
/// whatever Ethernet address. What the interface itself sends is not seen.
///
/// The kernel takes an outer 802.1Q tag off a received frame before a packet socket sees it.
pub struct RawPort {
    socket: OwnedFd,
    index: usize,
    buffer: Vec<u8>,
}

impl RawPort {
    /// Opens the interface and makes it promiscuous. Frames that arrived earlier are not seen.
    pub fn open(namespace: &Namespace, name: &str) -> io::Result<RawPort> {
        namespace.set_promiscuous(name, true)?;
        let opened = namespace.run(|| -> nix::Result<_> {
            // getifaddrs is where a link address can be had without unsafe code; its protocol is zero, with which
            // bind keeps the one given here.
            let address = getifaddrs()?
                .filter(|interface| interface.interface_name == name)
                .find_map(|interface| interface.address?.as_link_addr().copied())
                .ok_or(nix::Error::ENODEV)?;
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
            bind(socket.as_raw_fd(), &address)?;
            setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BYTES)?;
            Ok((socket, address.ifindex()))
        });
        match opened {
            Ok((socket, index)) => Ok(RawPort { socket, index, buffer: vec![0; FRAME_BYTES] }),
            Err(error) => Err(namespace.context(error.into(), format!("opening a packet socket at {name}"))),
        }
    }

    /// Sends one frame, from its Ethernet header on. Where the queue stays full, or a veth refuses the frame because it
    /// is larger than the other end's MTU (which looks the same), the kernel's error comes after a few seconds.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + SEND_PATIENCE;
        loop {
            match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(nix::Error::EINTR) => {}
                // The socket's or the interface's queue is full for the moment.
                Err(nix::Error::EAGAIN | nix::Error::ENOBUFS) if Instant::now() < deadline => {
                    self.wait(PollFlags::POLLOUT, Duration::from_millis(10))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next frame that arrives within this time, from its Ethernet header on.
    pub fn receive(&mut self, timeout: Duration) -> io::Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + timeout;
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut self.buffer) {
                Ok((length, from)) => {
                    // Between its creation and its binding the socket heard every interface.
                    let arrived = from.is_some_and(|from| {
                        from.ifindex() == self.index && from.pkttype() != libc::PACKET_OUTGOING
                    });
                    if arrived {
                        return Ok(Some(self.buffer[..length].to_vec()));
                    }
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(None);
                    }
                    self.wait(PollFlags::POLLIN, left)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The first frame for which `wanted` holds; others that arrive before it are thrown away.
    pub fn receive_where(
        &mut self,
        timeout: Duration,
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> io::Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.receive(deadline.saturating_duration_since(Instant::now()))? {
                Some(frame) if wanted(&frame) => return Ok(Some(frame)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    fn wait(&self, what: PollFlags, timeout: Duration) -> io::Result<()> {
        // Rounded up, or the last fraction of a millisecond would be spent spinning.
        let ms = timeout.as_millis().saturating_add(1).min(60_000) as u16;
        match poll(&mut [PollFd::new(self.socket.as_fd(), what)], PollTimeout::from(ms)) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for RawPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
