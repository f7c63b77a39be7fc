//! What happened to connections, through a bounded queue: a worker never waits, and what did not fit is counted.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::beside::Difference;
use crate::identity::Bearer;
use crate::verdict::{Generation, Now, PortId, Reason, RuleId};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A connection was allowed and opened.
    Opened,
    /// A packet that would have opened a connection was refused.
    Denied(Reason),
    /// A live connection was cut.
    Cut(Reason),
    /// A connection ended by itself: closed, reset or timed out.
    Closed,
    /// A policy beside the running one would have decided otherwise. Nothing happened.
    Beside(Difference),
}

/// One event. Addresses and ports are the originator's and the responder's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Now,
    /// What.
    pub kind: EventKind,
    /// The port by which the originator's packets come in.
    pub ingress: PortId,
    /// The originator.
    pub source: IpAddr,
    /// The responder.
    pub destination: IpAddr,
    /// The originator's port, or what stands for it in an echo ([`crate::headers::Tuple`]).
    pub source_port: u16,
    /// The responder's, likewise.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// The deciding rule, of this generation; of a refusal by an unmet demand the rule that makes it.
    pub rule: RuleId,
    /// The policy that decided.
    pub generation: Generation,
    /// By whose session it was decided, of the slots of that policy; [`Bearer::NONE`] where none was asked for, or none known.
    pub bearer: Bearer,
    /// Packets in both directions, when the connection ended.
    pub packets: u64,
    /// Bytes of IP packets in both directions, when the connection ended.
    pub bytes: u64,
}

/// A bounded queue of events with an exact count of the lost ones.
pub struct EventQueue {
    queue: ArrayQueue<Event>,
    lost: AtomicU64,
}

impl EventQueue {
    /// A queue of at most `capacity` events.
    pub fn new(capacity: usize) -> EventQueue {
        EventQueue { queue: ArrayQueue::new(capacity.max(1)), lost: AtomicU64::new(0) }
    }

    /// Records an event, or counts it as lost.
    pub fn record(&self, event: Event) {
        if self.queue.push(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The oldest event.
    pub fn take(&self) -> Option<Event> {
        self.queue.pop()
    }

    /// How many events were lost since the start.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let queue = EventQueue::new(2);
        let event = Event {
            at: Now(1),
            kind: EventKind::Denied(Reason::NoRule),
            ingress: PortId(0),
            source: "10.0.0.1".parse().unwrap(),
            destination: "10.0.0.2".parse().unwrap(),
            source_port: 1,
            destination_port: 2,
            protocol: 6,
            rule: RuleId::NONE,
            generation: Generation(1),
            bearer: Bearer::NONE,
            packets: 0,
            bytes: 0,
        };
        for _ in 0..5 {
            queue.record(event);
        }
        assert_eq!(queue.lost(), 3);
        assert_eq!(queue.take(), Some(event));
        assert!(queue.take().is_some() && queue.take().is_none());
    }
}
