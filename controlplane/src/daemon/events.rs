//! Events on their way from the workers to whoever wants them.
//!
//! One thread takes them from the workers' queues. It never waits: the most recent are kept in a ring, each follower
//! has a bounded queue, and what does not fit there is counted and told to him. Names are put to the numbers only
//! when an event is shown, so that a flood of refusals costs little where nobody looks.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bulkhead_dataplane::beside::Kind;
use bulkhead_dataplane::event::{Event, EventKind};
use bulkhead_dataplane::headers::protocol;
use bulkhead_dataplane::verdict::{Now, Reason};
use crossbeam::queue::ArrayQueue;
use dashmap::DashMap;
use serde_json::{Value, json};

use super::beside::verdict;
use super::gateway::{Gateway, lock};
use super::generations::segments;
use super::time::rfc3339;
use crate::api::types::{Alarm, SourceRow};

/// Recent events kept.
const RECENT: usize = 10_000;
/// Events that wait for one follower.
const FOLLOWER_QUEUE: usize = 8192;
/// Followers at once: fewer than clients, so that `status` always finds a place.
const FOLLOWERS_MAX: usize = 16;
/// Sources of refused connections that are counted one by one.
const SOURCES: usize = 65_536;
/// Events taken from the workers before they are passed on.
const BATCH: usize = 1024;

/// One thing to tell.
#[derive(Clone, Debug)]
pub enum Entry {
    /// Of a connection.
    Event(Event),
    /// Of the gateway.
    Alarm(Arc<Alarm>),
    /// Told as it is.
    Told(Arc<Value>),
    /// So many events are missing here.
    Lost(u64),
}

/// A follower's queue.
pub struct Follower {
    queue: ArrayQueue<Entry>,
    lost: AtomicU64,
}

impl Follower {
    /// The next thing to tell him. What he lost stands where it would have been.
    pub fn next(&self) -> Option<Entry> {
        self.queue.pop().or_else(|| match self.lost.swap(0, Ordering::Relaxed) {
            0 => None,
            lost => Some(Entry::Lost(lost)),
        })
    }

    fn push(&self, entry: Entry) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 && self.queue.push(Entry::Lost(lost)).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        } else if self.queue.push(entry).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[derive(Default)]
struct State {
    recent: VecDeque<Entry>,
    followers: Vec<Arc<Follower>>,
}

/// The recent events and their followers.
#[derive(Default)]
pub struct Hub(Mutex<State>);

impl Hub {
    /// Passes on what happened.
    pub fn publish(&self, entries: impl IntoIterator<Item = Entry>) {
        let mut state = lock(&self.0);
        // Followers that left hold no reference any more.
        state.followers.retain(|follower| Arc::strong_count(follower) > 1);
        for entry in entries {
            state.followers.iter().for_each(|follower| follower.push(entry.clone()));
            if state.recent.len() == RECENT {
                state.recent.pop_front();
            }
            state.recent.push_back(entry);
        }
    }

    /// Passes on an alarm.
    pub fn alarm(&self, alarm: Arc<Alarm>) {
        self.publish([Entry::Alarm(alarm)]);
    }

    /// Tells what is no connection's event and no alarm.
    pub fn told(&self, event: Value) {
        self.publish([Entry::Told(Arc::new(event))]);
    }

    /// The last events, oldest first.
    pub fn recent(&self, last: usize) -> Vec<Entry> {
        recent(&lock(&self.0), last)
    }

    /// The last events and a queue of all that follow, without gap or repetition between the two; `None` when there
    /// are too many followers.
    pub fn follow(&self, last: usize) -> Option<(Vec<Entry>, Arc<Follower>)> {
        let mut state = lock(&self.0);
        state.followers.retain(|follower| Arc::strong_count(follower) > 1);
        if state.followers.len() >= FOLLOWERS_MAX {
            return None;
        }
        let follower = Arc::new(Follower { queue: ArrayQueue::new(FOLLOWER_QUEUE), lost: AtomicU64::new(0) });
        state.followers.push(follower.clone());
        Some((recent(&state, last), follower))
    }
}

fn recent(state: &State, last: usize) -> Vec<Entry> {
    let skip = state.recent.len().saturating_sub(last);
    state.recent.iter().skip(skip).cloned().collect()
}

/// What is known of a refused source.
#[derive(Clone, Copy, Debug)]
struct Refused {
    denied: u64,
    reason: Reason,
    last: Now,
}

/// Refused connections by source, bounded.
#[derive(Default)]
pub struct Sources {
    by_address: DashMap<IpAddr, Refused>,
    /// Length of the map, which itself would have to lock all of its shards to tell.
    known: AtomicU64,
    overflow: AtomicU64,
}

impl Sources {
    /// Counts a refusal. Only the one thread that takes the events calls this, so the bound is exact.
    pub fn note(&self, event: &Event) {
        let EventKind::Denied(reason) = event.kind else { return };
        if let Some(mut refused) = self.by_address.get_mut(&event.source) {
            refused.denied += 1;
            refused.reason = reason;
            refused.last = event.at;
        } else if self.known.load(Ordering::Relaxed) < SOURCES as u64 {
            self.known.fetch_add(1, Ordering::Relaxed);
            self.by_address.insert(event.source, Refused { denied: 1, reason, last: event.at });
        } else {
            self.overflow.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The most refused sources, how many are known, and how many refusals found no room.
    pub fn read(&self, limit: usize, ts: impl Fn(Now) -> String) -> (Vec<SourceRow>, u64, u64) {
        let mut all: Vec<_> = self.by_address.iter().map(|entry| (*entry.key(), *entry.value())).collect();
        all.sort_unstable_by(|(a, x), (b, y)| y.denied.cmp(&x.denied).then(a.cmp(b)));
        let row = |(source, refused): (IpAddr, Refused)| SourceRow {
            source: source.to_string(),
            denied: refused.denied,
            last_reason: refused.reason.name().to_owned(),
            last: ts(refused.last),
        };
        let top = all.into_iter().take(limit).map(row).collect();
        (top, self.known.load(Ordering::Relaxed), self.overflow.load(Ordering::Relaxed))
    }
}

/// Takes what the workers have for us; false when that was nothing. `lost` is how many were lost so far.
pub fn pump(gateway: &Gateway, lost: &mut u64) -> bool {
    let mut batch = Vec::new();
    while batch.len() < BATCH
        && let Some(event) = gateway.engine.take_event()
    {
        gateway.sources.note(&event);
        gateway.besides.note(gateway, &event);
        batch.push(Entry::Event(event));
    }
    let lost_now = gateway.engine.events_lost();
    if lost_now > *lost {
        batch.push(Entry::Lost(lost_now - *lost));
        *lost = lost_now;
    }
    let any = !batch.is_empty();
    if any {
        gateway.hub.publish(batch);
    }
    any
}

/// The name of an IP protocol that the gateway forwards.
pub fn protocol_name(protocol: u8) -> String {
    match protocol {
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::ICMP => "icmp".to_owned(),
        protocol::ICMPV6 => "icmpv6".to_owned(),
        other => crate::config::values::protocol_text(other),
    }
}

/// The ports of originator and responder as they are shown: of an echo, the identifier at the requester's end and 0 at the
/// other, where the tuple has the number after it.
pub fn shown_ports(protocol: u8, ports: (u16, u16)) -> (u16, u16) {
    let is_echo = matches!(protocol, protocol::ICMP | protocol::ICMPV6);
    match ports {
        (identifier, next) if is_echo && next == identifier.wrapping_add(1) => (identifier, 0),
        (next, identifier) if is_echo && next == identifier.wrapping_add(1) => (0, identifier),
        _ => ports,
    }
}

/// The word for why a policy is asked beside the one in force.
fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Shadow => "shadow",
        Kind::Audit => "audit",
    }
}

/// An event in names: those of its generation for the rule, those in force for the segments.
pub fn describe(gateway: &Gateway, event: &Event) -> Value {
    let (kind, reason) = match event.kind {
        EventKind::Opened => ("opened", None),
        EventKind::Denied(reason) => ("denied", Some(reason)),
        EventKind::Cut(reason) => ("cut", Some(reason)),
        EventKind::Closed => ("closed", None),
        EventKind::Beside(difference) => (kind_name(difference.kind), difference.running.refusal),
    };
    let in_force = gateway.in_force();
    let snapshot = gateway.engine.snapshot();
    let (from, to) =
        segments(&in_force.model, &snapshot.policy.policy, event.ingress, event.source, event.destination);
    let (source_port, destination_port) =
        shown_ports(event.protocol, (event.source_port, event.destination_port));
    let session = gateway.sessions.whose(event.generation, event.bearer, event.source);
    let mut value = json!({
        "ts": rfc3339(gateway.engine.wall(event.at)),
        "kind": kind,
        "protocol": protocol_name(event.protocol),
        "source": event.source,
        "source_port": source_port,
        "destination": event.destination,
        "destination_port": destination_port,
        "ingress": in_force.model.port_name(event.ingress).unwrap_or("?"),
        "from": from,
        "to": to,
        "rule": gateway.rule_name(event.generation, event.rule),
        "reason": reason.map(Reason::name),
        "user": session.as_ref().and_then(|session| session.claims.user.as_ref()),
        "session": session.as_ref().map(|session| &session.id),
        "generation": event.generation.0,
    });
    if let EventKind::Beside(difference) = event.kind {
        let rule = gateway.besides.rule_name(gateway, &difference, event.generation);
        value["would"] = json!(verdict(&difference.beside, rule.as_deref()));
    }
    if matches!(event.kind, EventKind::Cut(_) | EventKind::Closed) {
        value["packets"] = json!(event.packets);
        value["bytes"] = json!(event.bytes);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_dataplane::identity::Bearer;
    use bulkhead_dataplane::verdict::{Generation, PortId, RuleId};

    fn denied(source: IpAddr) -> Event {
        Event {
            at: Now(7),
            kind: EventKind::Denied(Reason::NoRule),
            ingress: PortId(0),
            source,
            destination: "10.0.0.2".parse().unwrap(),
            source_port: 1,
            destination_port: 2,
            protocol: 6,
            rule: RuleId::NONE,
            generation: Generation(1),
            bearer: Bearer::NONE,
            packets: 0,
            bytes: 0,
        }
    }

    #[test]
    fn a_follower_that_does_not_read_is_told_how_much_he_lost() {
        let hub = Hub::default();
        let event = denied("10.0.0.1".parse().unwrap());
        hub.publish((0..3).map(|_| Entry::Event(event)));
        let (recent, follower) = hub.follow(2).unwrap();
        assert_eq!(recent.len(), 2);
        hub.publish((0..FOLLOWER_QUEUE + 5).map(|_| Entry::Event(event)));
        // He reads two, and the next one finds room behind the mark of the lost ones.
        assert!(matches!((follower.next(), follower.next()), (Some(Entry::Event(_)), Some(Entry::Event(_)))));
        hub.publish([Entry::Event(event)]);
        for _ in 2..FOLLOWER_QUEUE {
            assert!(matches!(follower.next(), Some(Entry::Event(_))));
        }
        assert!(matches!(follower.next(), Some(Entry::Lost(5))));
        assert!(matches!(follower.next(), Some(Entry::Event(_))));
        assert!(follower.next().is_none());
        hub.publish((0..FOLLOWER_QUEUE + 1).map(|_| Entry::Event(event)));
        let told: Vec<_> = std::iter::from_fn(|| follower.next()).collect();
        assert!(told.len() == FOLLOWER_QUEUE + 1 && matches!(told.last(), Some(Entry::Lost(1))));
        assert_eq!(hub.recent(usize::MAX).len(), RECENT);
        hub.publish((0..2 * RECENT).map(|_| Entry::Event(event)));
        assert_eq!(hub.recent(usize::MAX).len(), RECENT);
    }

    #[test]
    fn an_echo_is_shown_with_its_identifier_at_the_requesters_end_only() {
        assert_eq!(shown_ports(protocol::ICMP, (77, 78)), (77, 0));
        assert_eq!(shown_ports(protocol::ICMPV6, (0, u16::MAX)), (0, u16::MAX));
        assert_eq!(shown_ports(protocol::ICMPV6, (u16::MAX, 0)), (u16::MAX, 0));
        assert_eq!(shown_ports(protocol::ICMP, (0, 0)), (0, 0));
        assert_eq!(shown_ports(protocol::TCP, (79, 80)), (79, 80));
    }

    #[test]
    fn followers_are_bounded_and_one_that_left_makes_room() {
        let hub = Hub::default();
        let mut followers: Vec<_> = (0..FOLLOWERS_MAX).map(|_| hub.follow(0).unwrap().1).collect();
        assert!(hub.follow(0).is_none());
        followers.pop();
        assert!(hub.follow(0).is_some());
    }

    #[test]
    fn refused_sources_are_bounded_and_the_rest_is_counted() {
        let sources = Sources::default();
        for number in 0..SOURCES as u32 + 10 {
            sources.note(&denied(std::net::Ipv4Addr::from(number).into()));
        }
        sources.note(&denied("0.0.0.5".parse().unwrap()));
        let (top, known, overflow) = sources.read(2, |at| at.0.to_string());
        assert_eq!((known, overflow), (SOURCES as u64, 10));
        assert_eq!((top[0].source.as_str(), top[0].denied, top[0].last.as_str()), ("0.0.0.5", 2, "7"));
        assert_eq!((top[1].source.as_str(), top[1].denied), ("0.0.0.0", 1));
    }
}
