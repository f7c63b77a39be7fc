//! The I/O seam: what a worker needs of a port. AF_XDP in production ([`XdpPort`]), memory in tests and benches.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use crate::packet::{FrameBuf, MemoryFrame};

/// One queue of one port.
pub trait PortIo {
    /// Its frames.
    type Frame: FrameBuf;
    /// Appends up to `max` received frames. A port that failed delivers none.
    fn receive(&mut self, frames: &mut Vec<Self::Frame>, max: usize);
    /// A frame with a copy of these bytes, to be sent by any port; `None` when there is no free one.
    fn allocate(&mut self, bytes: &[u8]) -> Option<Self::Frame>;
    /// Queues a frame for transmission; gives it back when there is no room.
    fn send(&mut self, frame: Self::Frame) -> Result<(), Self::Frame>;
    /// Has the kernel transmit what is queued, and collects what it is done with.
    fn flush(&mut self);
    /// Whether it can send and receive at all.
    fn is_up(&self) -> bool;
}

impl FrameBuf for afxdp::Frame<'_> {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }

    fn set_len(&mut self, len: usize) -> bool {
        afxdp::Frame::set_len(self, len)
    }
}

/// A port in memory: what is put into `incoming` is received, what is sent is found in `outgoing`.
#[derive(Default)]
pub struct MemoryPort {
    /// Frames to be received, oldest first.
    pub incoming: VecDeque<MemoryFrame>,
    /// Frames sent, oldest first.
    pub outgoing: VecDeque<MemoryFrame>,
    /// When set, the port takes no frame for sending.
    pub full: bool,
}

impl PortIo for MemoryPort {
    type Frame = MemoryFrame;

    fn receive(&mut self, frames: &mut Vec<MemoryFrame>, max: usize) {
        let count = self.incoming.len().min(max);
        frames.extend(self.incoming.drain(..count));
    }

    fn allocate(&mut self, bytes: &[u8]) -> Option<MemoryFrame> {
        Some(MemoryFrame::new(bytes))
    }

    fn send(&mut self, frame: MemoryFrame) -> Result<(), MemoryFrame> {
        if self.full {
            return Err(frame);
        }
        self.outgoing.push_back(frame);
        Ok(())
    }

    fn flush(&mut self) {}

    fn is_up(&self) -> bool {
        true
    }
}

/// One queue of one interface over AF_XDP.
///
/// An interface that vanishes closes the socket: the port is then down, delivers nothing and takes nothing, until
/// [`reopen`](XdpPort::reopen).
pub struct XdpPort<'u> {
    umem: &'u afxdp::Umem,
    config: afxdp::SocketConfig,
    socket: Option<afxdp::Socket<'u>>,
    failure: Option<afxdp::Error>,
}

impl<'u> XdpPort<'u> {
    /// Opens the queue.
    ///
    /// # Errors
    ///
    /// What the kernel refused, and what helps.
    pub fn open(umem: &'u afxdp::Umem, config: afxdp::SocketConfig) -> Result<XdpPort<'u>, afxdp::Error> {
        let socket = afxdp::Socket::open(umem, &config)?;
        Ok(XdpPort { umem, config, socket: Some(socket), failure: None })
    }

    /// Opens the queue anew, on an interface that may have come back under another index.
    ///
    /// # Errors
    ///
    /// What the kernel refused; the port is down then.
    pub fn reopen(&mut self, ifindex: u32) -> Result<(), afxdp::Error> {
        // The old socket first: a queue takes one socket.
        self.socket = None;
        self.config.interface = ifindex.into();
        self.socket = Some(afxdp::Socket::open(self.umem, &self.config)?);
        self.failure = None;
        Ok(())
    }

    /// The socket, to register and to sleep on.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Zero-copy or copy mode; `None` while down.
    pub fn mode(&self) -> Option<afxdp::Mode> {
        self.socket.as_ref().map(afxdp::Socket::mode)
    }

    /// The socket's counters; `None` while down.
    pub fn statistics(&self) -> Option<afxdp::Statistics> {
        self.socket.as_ref()?.statistics().ok()
    }

    /// Frames queued that the kernel has not taken yet: whoever sleeps now leaves them there.
    pub fn pending(&mut self) -> u32 {
        self.socket.as_mut().map_or(0, afxdp::Socket::pending)
    }

    /// Runs the driver's receive side under preferred busy polling.
    pub fn kick(&mut self) {
        let result = self.socket.as_ref().map_or(Ok(()), afxdp::Socket::kick_rx);
        self.note(result);
    }

    /// Asks whether the interface is still there; one system call.
    pub fn check(&mut self) {
        let result = self.socket.as_ref().map_or(Ok(()), afxdp::Socket::check);
        self.note(result);
    }

    /// Why the port is down.
    pub fn failure(&self) -> Option<&afxdp::Error> {
        self.failure.as_ref()
    }

    fn note(&mut self, result: Result<(), afxdp::Error>) {
        if let Err(error) = result
            && error.is_gone()
        {
            self.socket = None;
            self.failure = Some(error);
        }
    }
}

impl<'u> PortIo for XdpPort<'u> {
    type Frame = afxdp::Frame<'u>;

    fn receive(&mut self, frames: &mut Vec<afxdp::Frame<'u>>, max: usize) {
        if let Some(socket) = &mut self.socket {
            socket.receive(frames, max);
        }
    }

    fn allocate(&mut self, bytes: &[u8]) -> Option<afxdp::Frame<'u>> {
        let mut frame = self.umem.allocate()?;
        frame.set_len(bytes.len()).then(|| {
            frame.copy_from_slice(bytes);
            frame
        })
    }

    fn send(&mut self, frame: afxdp::Frame<'u>) -> Result<(), afxdp::Frame<'u>> {
        match &mut self.socket {
            Some(socket) => socket.send(frame),
            None => Err(frame),
        }
    }

    fn flush(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        if socket.pending() > 0 {
            let result = socket.flush();
            self.note(result);
        }
    }

    fn is_up(&self) -> bool {
        self.socket.is_some()
    }
}
