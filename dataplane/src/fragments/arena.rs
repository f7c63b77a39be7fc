//! Memory for the fragments' frames: slots of one size, in one piece that is set aside at the start. The operating
//! system gives the pages only when they are first used, so where no fragments come they cost nothing.

use crate::headers::Fragment;
use crate::packet::{FrameBuf, MemoryFrame};

/// Bytes of a slot: the longest frame that a port receives.
pub(super) const SLOT: usize = MemoryFrame::CAPACITY;

/// A slot's frame: how long it is, and how it describes itself.
#[derive(Clone, Copy, Default)]
struct Slot {
    len: u16,
    fragment: Option<Fragment>,
}

/// The slots.
pub(super) struct Arena {
    bytes: Box<[u8]>,
    slots: Box<[Slot]>,
}

impl Arena {
    pub(super) fn new(capacity: u32) -> Arena {
        Arena {
            bytes: vec![0; capacity as usize * SLOT].into_boxed_slice(),
            slots: vec![Slot::default(); capacity as usize].into_boxed_slice(),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Keeps a frame of at most [`SLOT`] bytes; what is longer is cut.
    pub(super) fn store(&mut self, slot: u32, frame: &[u8], fragment: &Fragment) {
        let len = frame.len().min(SLOT);
        let start = slot as usize * SLOT;
        self.bytes[start..start + len].copy_from_slice(&frame[..len]);
        self.slots[slot as usize] = Slot { len: len as u16, fragment: Some(*fragment) };
    }

    pub(super) fn frame(&self, slot: u32) -> &[u8] {
        let start = slot as usize * SLOT;
        &self.bytes[start..start + usize::from(self.slots[slot as usize].len)]
    }

    pub(super) fn fragment(&self, slot: u32) -> Option<&Fragment> {
        self.slots[slot as usize].fragment.as_ref()
    }

    /// The piece of a datagram that the frame carries.
    pub(super) fn content(&self, slot: u32) -> &[u8] {
        let range = self.fragment(slot).map_or(0..0, |f| usize::from(f.content)..usize::from(f.end));
        self.frame(slot).get(range).unwrap_or_default()
    }

    /// The frame, to be rewritten, and how it described itself when it came.
    pub(super) fn stored(&mut self, slot: u32) -> (Stored<'_>, Option<Fragment>) {
        let start = slot as usize * SLOT;
        let Slot { len, fragment } = &mut self.slots[slot as usize];
        (Stored { room: &mut self.bytes[start..start + SLOT], len }, *fragment)
    }
}

/// A stored frame.
pub struct Stored<'a> {
    room: &'a mut [u8],
    len: &'a mut u16,
}

impl FrameBuf for Stored<'_> {
    fn bytes(&self) -> &[u8] {
        &self.room[..usize::from(*self.len)]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[..usize::from(*self.len)]
    }

    fn set_len(&mut self, len: usize) -> bool {
        let fits = len <= self.room.len();
        if fits {
            *self.len = len as u16;
        }
        fits
    }
}
