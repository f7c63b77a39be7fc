//! The one thing the pure pipeline needs of a frame: its bytes, and room to answer in place.

/// A packet buffer that owns its bytes. AF_XDP frames implement it, and so does [`MemoryFrame`].
pub trait FrameBuf {
    /// The frame's bytes, from the Ethernet header to the end of any padding.
    fn bytes(&self) -> &[u8];
    /// The same, to be rewritten.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Changes the frame's length, bytes. New bytes are unspecified. False, and nothing changed, when there is no
    /// room for them.
    #[must_use]
    fn set_len(&mut self, len: usize) -> bool;
}

/// A frame in ordinary memory, for tests, benches, fuzzing and replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryFrame {
    bytes: Vec<u8>,
}

impl MemoryFrame {
    /// Room for a frame, bytes: what an AF_XDP frame of 2,048 bytes has behind the kernel's 256 of headroom.
    pub const CAPACITY: usize = 1792;

    /// A frame holding a copy of `bytes`, cut at [`MemoryFrame::CAPACITY`].
    pub fn new(bytes: &[u8]) -> MemoryFrame {
        let mut copy = Vec::with_capacity(Self::CAPACITY);
        copy.extend_from_slice(&bytes[..bytes.len().min(Self::CAPACITY)]);
        MemoryFrame { bytes: copy }
    }

    /// Replaces the contents without allocating.
    pub fn fill(&mut self, bytes: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(Self::CAPACITY)]);
    }
}

impl FrameBuf for MemoryFrame {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn set_len(&mut self, len: usize) -> bool {
        if len > Self::CAPACITY {
            return false;
        }
        self.bytes.resize(len, 0);
        true
    }
}
