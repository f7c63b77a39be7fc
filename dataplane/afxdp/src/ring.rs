//! The four rings shared with the kernel: single producer, single consumer, power-of-two size.
//!
//! Producer and consumer words are free-running u32 that wrap; an index into the ring is the word masked.
//! Orderings (kernel side: `net/xdp/xsk_queue.h`, smp_load_acquire / smp_store_release):
//! * We publish with a Release store of the producer word: the descriptor, and the packet bytes written before
//!   it, are visible to a kernel that loads the word with acquire.
//! * We read the producer word with Acquire: descriptors and packet bytes the kernel wrote before it are visible.
//! * We give slots back with a Release store of the consumer word: our reads of them happen before the kernel
//!   overwrites them.
//! * We read the consumer word with Acquire: the kernel has finished with a slot before we overwrite it.
//! * The flags word is advice (a stale value costs one wake-up more or later); where a missed wake-up would stall,
//!   see [`Producer::needs_wakeup`].
//!
//! Our own word of a ring is written by us alone, so it lives in a plain field and is only stored to memory.

use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Addresses of one ring's parts.
struct Raw<T> {
    producer: *const AtomicU32,
    consumer: *const AtomicU32,
    flags: *const AtomicU32,
    slots: *mut T,
    size: u32,
}

impl<T: Copy> Raw<T> {
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: `new` of either side demands that the words live as long as the ring.
        unsafe { &*self.producer }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { &*self.consumer }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { &*self.flags }
    }

    fn slot(&self, at: u32) -> *mut T {
        // SAFETY: the mask keeps the index below `size`, and `new` demands that many slots.
        unsafe { self.slots.add((at & (self.size - 1)) as usize) }
    }
}

/// Where the parts of a ring lie; the argument of the two constructors.
pub(crate) struct Parts<T> {
    pub producer: *const AtomicU32,
    pub consumer: *const AtomicU32,
    pub flags: *const AtomicU32,
    pub slots: *mut T,
    /// Number of slots, a power of two.
    pub size: u32,
}

impl<T> Parts<T> {
    fn raw(self) -> Raw<T> {
        assert!(self.size.is_power_of_two(), "ring sizes are powers of two");
        let Parts { producer, consumer, flags, slots, size } = self;
        Raw { producer, consumer, flags, slots, size }
    }
}

/// Our side of a ring we fill: the fill ring and the TX ring.
pub(crate) struct Producer<T> {
    raw: Raw<T>,
    /// Next slot to write.
    next: u32,
    /// What the kernel was told.
    published: u32,
    /// The consumer word when last looked at.
    consumed: u32,
}

impl<T: Copy> Producer<T> {
    /// # Safety
    /// The parts must be valid, aligned and live as long as the ring, and nobody else may produce into it.
    pub(crate) unsafe fn new(parts: Parts<T>) -> Producer<T> {
        let raw = parts.raw();
        let next = raw.producer().load(Ordering::Relaxed);
        let consumed = raw.consumer().load(Ordering::Acquire);
        Producer { raw, next, published: next, consumed }
    }

    /// Slots in use, clamped to the size so that a nonsensical kernel word cannot make room appear.
    fn used(&self) -> u32 {
        self.next.wrapping_sub(self.consumed).min(self.raw.size)
    }

    /// Free slots; looks at the kernel's word only when the remembered one says fewer than `wanted`.
    pub(crate) fn room(&mut self, wanted: u32) -> u32 {
        if self.raw.size - self.used() < wanted {
            self.consumed = self.raw.consumer().load(Ordering::Acquire);
        }
        self.raw.size - self.used()
    }

    /// Writes one entry, not yet visible to the kernel; false when the ring is full.
    pub(crate) fn push(&mut self, entry: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        // SAFETY: a free slot, which the kernel does not read before `publish`.
        unsafe { self.raw.slot(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Shows the kernel everything pushed; true when there was something new.
    pub(crate) fn publish(&mut self) -> bool {
        if self.published == self.next {
            return false;
        }
        self.raw.producer().store(self.next, Ordering::Release);
        self.published = self.next;
        true
    }

    /// Entries, pushed or published, that the kernel has not consumed.
    pub(crate) fn outstanding(&mut self) -> u32 {
        self.consumed = self.raw.consumer().load(Ordering::Acquire);
        self.used()
    }

    /// Whether the kernel wants a system call to go on. The fence keeps the load behind the published producer
    /// word (store then load may be reordered otherwise, also on x86): either we see the flag, or the kernel, which
    /// sets the flag before it looks at the ring a last time, sees our entries.
    pub(crate) fn needs_wakeup(&self) -> bool {
        fence(Ordering::SeqCst);
        self.raw.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    /// The entries that the kernel has not consumed. Only for a ring whose socket is closed.
    pub(crate) fn leftover(&mut self) -> Vec<T> {
        let count = self.outstanding();
        let first = self.next.wrapping_sub(count);
        // SAFETY: these slots were written by `push`, and the kernel only ever reads them.
        (0..count).map(|i| unsafe { self.raw.slot(first.wrapping_add(i)).read() }).collect()
    }
}

/// Our side of a ring the kernel fills: the RX ring and the completion ring.
pub(crate) struct Consumer<T> {
    raw: Raw<T>,
    /// Next slot to read.
    next: u32,
    /// What the kernel was told.
    released: u32,
    /// The producer word when last looked at.
    produced: u32,
}

impl<T: Copy> Consumer<T> {
    /// # Safety
    /// The parts must be valid, aligned and live as long as the ring, and nobody else may consume from it. The
    /// slots must hold a valid `T` for any bytes the kernel writes.
    pub(crate) unsafe fn new(parts: Parts<T>) -> Consumer<T> {
        let raw = parts.raw();
        let next = raw.consumer().load(Ordering::Relaxed);
        Consumer { raw, next, released: next, produced: next }
    }

    /// Reads one entry; the slot stays ours until [`release`](Self::release).
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.produced == self.next {
            let produced = self.raw.producer().load(Ordering::Acquire);
            // A word further ahead than the ring is long is nonsense; the unreleased slots count too.
            let ahead = produced.wrapping_sub(self.released);
            if ahead > self.raw.size || produced == self.next {
                return None;
            }
            self.produced = produced;
        }
        // SAFETY: the kernel has published this slot and leaves it alone until it is released.
        let entry = unsafe { self.raw.slot(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives every slot read back to the kernel.
    pub(crate) fn release(&mut self) {
        if self.released != self.next {
            self.raw.consumer().store(self.next, Ordering::Release);
            self.released = self.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring in ordinary memory whose other end the test plays.
    struct Memory {
        producer: AtomicU32,
        consumer: AtomicU32,
        flags: AtomicU32,
        slots: Vec<u64>,
    }

    impl Memory {
        fn starting_at(word: u32, size: u32) -> Box<Memory> {
            Box::new(Memory {
                producer: AtomicU32::new(word),
                consumer: AtomicU32::new(word),
                flags: AtomicU32::new(0),
                slots: vec![0; size as usize],
            })
        }

        fn parts(&mut self) -> Parts<u64> {
            Parts {
                producer: &self.producer,
                consumer: &self.consumer,
                flags: &self.flags,
                slots: self.slots.as_mut_ptr(),
                size: self.slots.len() as u32,
            }
        }
    }

    #[test]
    fn entries_survive_the_overflow_of_the_index_words() {
        let mut memory = Memory::starting_at(u32::MAX - 5, 8);
        // SAFETY: the memory outlives both sides, and each side exists once.
        let (mut tx, mut rx) = unsafe { (Producer::new(memory.parts()), Consumer::new(memory.parts())) };
        for round in 0..20u64 {
            for i in 0..5 {
                assert!(tx.push(round * 10 + i));
            }
            assert_eq!(rx.pop(), None, "nothing is visible before publish");
            assert!(tx.publish());
            let got: Vec<u64> = std::iter::from_fn(|| rx.pop()).collect();
            assert_eq!(got, (0..5).map(|i| round * 10 + i).collect::<Vec<_>>());
            assert_eq!(tx.outstanding(), 5, "read but not released is still in use");
            rx.release();
            assert_eq!(tx.outstanding(), 0);
        }
    }

    #[test]
    fn a_full_ring_refuses_and_has_room_again_after_release_across_the_overflow() {
        let mut memory = Memory::starting_at(u32::MAX - 1, 4);
        // SAFETY: as above.
        let (mut tx, mut rx) = unsafe { (Producer::new(memory.parts()), Consumer::new(memory.parts())) };
        assert!((0..4).all(|i| tx.push(i)));
        assert!(!tx.push(4));
        assert!(tx.publish() && !tx.publish());
        assert_eq!((rx.pop(), rx.pop()), (Some(0), Some(1)));
        rx.release();
        assert_eq!(tx.room(4), 2);
        assert!(tx.push(4) && tx.push(5) && !tx.push(6));
        assert_eq!(tx.leftover(), [2, 3, 4, 5]);
    }

    #[test]
    fn nonsense_in_the_kernels_words_neither_makes_room_nor_entries() {
        let mut memory = Memory::starting_at(7, 4);
        // SAFETY: as above.
        let (mut tx, mut rx) = unsafe { (Producer::new(memory.parts()), Consumer::new(memory.parts())) };
        memory.producer.store(7 + 5, Ordering::Release);
        assert_eq!(rx.pop(), None);
        memory.producer.store(7, Ordering::Release);
        memory.consumer.store(1000, Ordering::Release);
        assert_eq!(tx.outstanding(), 4);
        assert_eq!(tx.room(1), 0);
        assert!(!tx.push(1));
    }
}
