//! What all workers' fragments have in common.

use std::hash::{BuildHasher, RandomState};

use crossbeam::queue::ArrayQueue;

use crate::headers::{Address, Addresses, Fragment};
use crate::packet::MemoryFrame;
use crate::verdict::PortId;

/// Fragments on their way to one worker. More are dropped: a worker empties its queue once a round.
const QUEUE: usize = 256;

/// What names a datagram. The port of entry belongs to it: else a fragment that is forged elsewhere could spoil it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Key {
    source: u128,
    destination: u128,
    id: u32,
    /// 0 in IPv6: there only the first fragment says what is carried (RFC 8200, section 4.5).
    protocol: u8,
    pub(super) ingress: u8,
    is_v6: bool,
}

impl Key {
    pub(super) fn new(ingress: PortId, fragment: &Fragment) -> Key {
        let (source, destination, is_v6) = match fragment.addresses {
            Addresses::V4(source, destination) => (source.bits(), destination.bits(), false),
            Addresses::V6(source, destination) => (source.bits(), destination.bits(), true),
        };
        let protocol = if is_v6 { 0 } else { fragment.protocol };
        Key { source, destination, id: fragment.id, protocol, ingress: ingress.0, is_v6 }
    }
}

/// A copy of a received frame, on its way to the worker that puts its datagram together.
pub struct HandedOver {
    ingress: PortId,
    len: u16,
    bytes: [u8; MemoryFrame::CAPACITY],
}

impl HandedOver {
    /// The port by which it came in.
    pub fn ingress(&self) -> PortId {
        self.ingress
    }

    /// The frame.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The secret by which datagrams are given to workers, and the queues between them.
pub struct Share {
    pub(super) keys: RandomState,
    capacity: u32,
    queues: Box<[ArrayQueue<HandedOver>]>,
}

impl Share {
    /// The least capacity of a worker: below it, one source's share would not hold a datagram of the most pieces.
    pub const WORKER_MIN: u32 = 1024;

    /// Room for `capacity` fragments in all `workers` together, but at least [`Share::WORKER_MIN`] in each; 0 for
    /// none at all, so that every fragment is dropped.
    pub fn new(capacity: u32, workers: usize) -> Share {
        let workers = workers.max(1);
        let queue = if workers > 1 && capacity > 0 { QUEUE } else { 1 };
        Share {
            keys: RandomState::new(),
            capacity: if capacity == 0 { 0 } else { (capacity / workers as u32).max(Share::WORKER_MIN) },
            queues: (0..workers).map(|_| ArrayQueue::new(queue)).collect(),
        }
    }

    /// One worker, with less room than makes sense.
    #[cfg(test)]
    pub(super) fn of_capacity(capacity: u32) -> Share {
        Share { capacity, ..Share::new(capacity, 1) }
    }

    /// Fragments that one worker holds at most.
    pub fn worker_capacity(&self) -> u32 {
        self.capacity
    }

    pub(super) fn hash(&self, key: &Key) -> u64 {
        self.keys.hash_one(key)
    }

    /// The worker that puts the datagram of this hash together.
    pub(super) fn owner(&self, hash: u64) -> usize {
        // The high half: the low bits choose the bucket in the owner's table.
        (hash >> 32) as usize % self.queues.len()
    }

    /// Hands a frame over; false when the other worker's queue is full, or the frame is longer than a frame can be.
    #[must_use]
    pub fn hand_over(&self, to: u16, ingress: PortId, frame: &[u8]) -> bool {
        let mut bytes = [0; MemoryFrame::CAPACITY];
        let Some(room) = bytes.get_mut(..frame.len()) else { return false };
        room.copy_from_slice(frame);
        let handed = HandedOver { ingress, len: frame.len() as u16, bytes };
        self.queues.get(usize::from(to)).is_some_and(|queue| queue.push(handed).is_ok())
    }

    /// The oldest frame that was handed over to this worker. Asked once a round, so an empty queue costs two loads: to
    /// pop in vain would cost a fence.
    pub fn take(&self, worker: usize) -> Option<HandedOver> {
        let queue = self.queues.get(worker)?;
        if queue.is_empty() { None } else { queue.pop() }
    }
}
