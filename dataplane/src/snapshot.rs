//! What a worker decides by: one immutable policy with its generation, and the topology, behind one pointer.
//!
//! **How a snapshot reaches a worker.** The publisher puts an `Arc<Snapshot>` into the worker's [`Mailbox`] and wakes
//! it. Between two bursts the worker looks at the mailbox's version (one load of a line that only changes at a
//! publication), takes the new snapshot, judges again what it holds, and only then acknowledges the version. The
//! publisher waits for every acknowledgement. So a burst is judged by exactly one snapshot, and after `publish` has
//! returned none is judged by an older one (promise P2). The publisher keeps its own reference to the old snapshot
//! until then, so that a large policy is freed by the publisher, never on the packet path.
//!
//! The design named crossbeam's epochs for this. A mailbox needs no unsafe dereference, pins nothing per burst, and
//! its acknowledgement is the quiescence that a reload has to wait for anyway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::beside::Beside;
use crate::counters::RuleCounters;
use crate::policy::Policy;
use crate::topology::Topology;
use crate::verdict::Generation;

/// A compiled policy in force, with the counters of its rules.
pub struct ActivePolicy {
    /// Its number.
    pub generation: Generation,
    /// The compiled tables.
    pub policy: Policy,
    /// Counters of its rules.
    pub counters: RuleCounters,
}

/// All that a burst is judged by.
#[derive(Clone)]
pub struct Snapshot {
    /// Grows by one with every publication, of a policy or of a topology.
    pub version: u64,
    /// The policy in force.
    pub policy: Arc<ActivePolicy>,
    /// Ports, routes and neighbours.
    pub topology: Arc<Topology>,
    /// Policies that are asked too, and decide nothing.
    pub beside: Arc<[Arc<Beside>]>,
}

impl Snapshot {
    /// The policy's generation.
    pub fn generation(&self) -> Generation {
        self.policy.generation
    }
}

/// Where one worker finds its next snapshot.
pub struct Mailbox {
    next: ArrayQueue<Arc<Snapshot>>,
    posted: AtomicU64,
    acknowledged: AtomicU64,
}

impl Default for Mailbox {
    fn default() -> Self {
        Mailbox { next: ArrayQueue::new(1), posted: AtomicU64::new(0), acknowledged: AtomicU64::new(0) }
    }
}

impl Mailbox {
    /// Posts a snapshot, replacing one that was not taken yet.
    pub fn post(&self, snapshot: Arc<Snapshot>) {
        let version = snapshot.version;
        drop(self.next.force_push(snapshot));
        self.posted.store(version, Ordering::Release);
    }

    /// The new snapshot, if there is one that is newer than `current`.
    pub fn take(&self, current: u64) -> Option<Arc<Snapshot>> {
        if self.posted.load(Ordering::Acquire) == current {
            return None;
        }
        self.next.pop()
    }

    /// Says that no packet will be judged by an older version any more.
    pub fn acknowledge(&self, version: u64) {
        self.acknowledged.store(version, Ordering::Release);
    }

    /// The version last acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }
}
