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

use crate::beside::Beside;
use crate::counters::RuleCounters;
use crate::policy::Policy;
use crate::sync::{Acquire, AtomicU64, Queue, Release};
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
pub struct Mailbox<T = Snapshot> {
    next: Queue<Arc<T>>,
    posted: AtomicU64,
    acknowledged: AtomicU64,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Mailbox { next: Queue::new(1), posted: AtomicU64::new(0), acknowledged: AtomicU64::new(0) }
    }
}

impl Mailbox {
    /// Posts a snapshot, replacing one that was not taken yet.
    pub fn post(&self, snapshot: Arc<Snapshot>) {
        self.put(snapshot.version, snapshot);
    }
}

impl<T> Mailbox<T> {
    fn put(&self, version: u64, next: Arc<T>) {
        drop(self.next.force_push(next));
        self.posted.store(version, Release);
    }

    /// The new snapshot, if there is one that is newer than `current`.
    pub fn take(&self, current: u64) -> Option<Arc<T>> {
        if self.posted.load(Acquire) == current {
            return None;
        }
        self.next.pop()
    }

    /// Says that no packet will be judged by an older version any more.
    pub fn acknowledge(&self, version: u64) {
        self.acknowledged.store(version, Release);
    }

    /// The version last acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Acquire)
    }
}

/// See `connection/loom.rs` for how to run it.
#[cfg(all(test, loom))]
mod models {
    use ::loom::model::Builder;
    use ::loom::thread;

    use super::*;
    use crate::sync::{Relaxed, spin_loop};

    /// A worker that begins bursts until it judges by version 2, and has seen a packet that was sent once it was said to. Two
    /// publications; the first is waited for or not.
    fn publish_twice(waits: bool) {
        let mut builder = Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let mailbox = Arc::new(Mailbox::<u64>::default());
            // What is written before a publication, as sessions are, and the newest version whose publication has returned.
            let (written, returned) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            let worker = {
                let (mailbox, written, returned) = (mailbox.clone(), written.clone(), returned.clone());
                thread::spawn(move || {
                    let mut current = 0;
                    while current < 2 {
                        if let Some(next) = mailbox.take(current) {
                            assert!(*next > current, "it goes back from {current} to {next}");
                            current = *next;
                            mailbox.acknowledge(current);
                        }
                        // A burst. Whoever has sent it may have waited for a publication.
                        let sent_after = returned.load(Relaxed);
                        assert!(current >= sent_after, "judged by {current} after {sent_after} was there");
                        assert!(written.load(Relaxed) >= current, "what {current} is about is not seen");
                        spin_loop();
                    }
                })
            };
            for version in [1, 2] {
                written.store(version, Relaxed);
                mailbox.put(version, Arc::new(version));
                while (waits || version == 2) && mailbox.acknowledged() < version {
                    spin_loop();
                }
                if mailbox.acknowledged() >= version {
                    returned.store(version, Relaxed);
                }
            }
            worker.join().unwrap();
        });
    }

    #[test]
    fn loom_after_a_publication_has_returned_no_burst_is_judged_by_an_older_one() {
        publish_twice(true);
    }

    #[test]
    fn loom_a_snapshot_that_was_not_taken_is_replaced_and_the_last_one_is_never_lost() {
        publish_twice(false);
    }
}
