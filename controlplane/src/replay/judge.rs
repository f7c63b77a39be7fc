//! One policy with everything that a packet meets in the running gateway: the pipeline itself, a connection table,
//! room for fragments. Only the network around it is made up, from the policy.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use bulkhead_dataplane::answer::{Limits, RateLimiter};
use bulkhead_dataplane::connection::{Family, Map, Table, TableConfig};
use bulkhead_dataplane::counters::RuleCounters;
use bulkhead_dataplane::event::{EventKind, EventQueue};
use bulkhead_dataplane::fragments::{Release, Share};
use bulkhead_dataplane::headers::{self, Addresses, Headers, Transport, Tuple};
use bulkhead_dataplane::packet::FrameBuf;
use bulkhead_dataplane::pipeline::{Context, Pipeline};
use bulkhead_dataplane::policy::Query;
use bulkhead_dataplane::snapshot::{ActivePolicy, Snapshot};
use bulkhead_dataplane::topology::{Mac, Neighbour, PortState, Route, RouteKind, Topology, TopologySpec};
use bulkhead_dataplane::verdict::{Generation, Now, PortId, Reason, RuleId, SegmentId, Verdict};
use bulkhead_dataplane::worker::HOLD_NS;
use jiff::Timestamp;

use crate::model::Model;

/// Slots of the connection table that are looked at for a packet, at most: what has timed out is over whether it was
/// looked at or not, so that this only spares time.
const SWEEP_MAX: u64 = 4096;
/// Events of one packet: what it ends to make room among them.
const EVENTS: usize = 4096;
const MILLISECOND_NS: u64 = 1_000_000;

/// What became of a packet, or would become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// It goes on.
    Forward,
    /// It is refused silently.
    Drop,
    /// It is refused, and its sender is told.
    Answer,
    /// A fragment that waits for the rest of its datagram.
    Wait,
}

impl Fate {
    /// The word for it in output.
    pub fn name(self) -> &'static str {
        match self {
            Fate::Forward => "forward",
            Fate::Drop => "drop",
            Fate::Answer => "answer",
            Fate::Wait => "wait",
        }
    }
}

/// What a policy says of one packet or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// What becomes of it.
    pub fate: Fate,
    /// Why not.
    pub reason: Option<Reason>,
    /// The deciding rule; [`RuleId::NONE`] where none is known.
    pub rule: RuleId,
    /// The originator's segment and the responder's.
    pub pair: (Option<SegmentId>, Option<SegmentId>),
    /// Whether it opened a connection.
    pub opened: bool,
    /// How many fragments the fate is of: those that waited, with this packet that completed them.
    pub fragments: u64,
    /// How many fragments of others had to make room for this one.
    pub displaced: u64,
}

/// What became of fragments while they waited: by reason, how many were dropped.
pub type Dropped = Vec<(Reason, u64)>;

/// A frame as long as an IP packet can be, which no port's are.
#[derive(Default)]
struct LargeFrame(Vec<u8>);

impl FrameBuf for LargeFrame {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn set_len(&mut self, len: usize) -> bool {
        let fits = len <= usize::from(u16::MAX);
        if fits {
            self.0.resize(len, 0);
        }
        fits
    }
}

/// A policy that judges packets.
pub struct Judge {
    /// In names.
    pub model: Model,
    snapshot: Snapshot,
    table: Arc<Table>,
    pipeline: Pipeline,
    events: Arc<EventQueue>,
    frame: [LargeFrame; 1],
    verdicts: Vec<Verdict>,
    swept: Now,
    slots_per_ms: u64,
    /// When some rule's time begins or ends next; `None` while no time was told, and where that never happens again.
    next_gate: Option<Timestamp>,
    knows_time: bool,
}

impl Judge {
    /// Around a model.
    ///
    /// # Errors
    ///
    /// It cannot be compiled.
    pub fn new(model: Model) -> Result<Judge, String> {
        let mut policy = model.compile()?;
        // Nobody answers a challenge in a capture: clients are taken to have shown that they are there.
        policy.set_protected(Vec::new());
        let config = TableConfig { workers: 1, ..model.gateway.table_config() };
        let table = Arc::new(Table::new(&config));
        policy.bind(&table);
        table.bind(policy.limits_mut()).map_err(|_| "too many rules with limits")?;
        let counters = RuleCounters::new(policy.rule_count(), 1);
        let policy = Arc::new(ActivePolicy { generation: Generation(1), policy, counters });
        let topology = Arc::new(Topology::new(topology(&model)));
        let snapshot = Snapshot { version: 1, policy, topology, beside: Arc::default() };
        let events = Arc::new(EventQueue::new(EVENTS));
        let connections = table.worker().ok_or("the connection table has no handle left")?;
        let limiter = RateLimiter::new(Limits::default());
        let pipeline = Pipeline::new(0, connections, limiter, events.clone())
            .with_fragments(Arc::new(Share::new(model.gateway.fragments, 1)));
        let slots_per_ms = (table.slots() as u64).div_ceil(1000);
        Ok(Judge {
            model,
            snapshot,
            table,
            pipeline,
            events,
            frame: [LargeFrame::default()],
            verdicts: Vec::new(),
            swept: Now(0),
            slots_per_ms,
            next_gate: None,
            knows_time: false,
        })
    }

    /// Has the rules hold that hold at this moment. Connections are judged again where that changes some.
    pub fn set_time(&mut self, at: Timestamp) {
        if self.knows_time && self.next_gate.is_none_or(|next| at < next) {
            return;
        }
        let (open, next) = self.model.gates_at(at);
        let before = &self.snapshot.policy;
        let mut policy = before.policy.clone();
        policy.set_gates(open);
        let generation = if self.knows_time { before.generation.next() } else { before.generation };
        let counters = RuleCounters::new(policy.rule_count(), 1);
        self.snapshot.policy = Arc::new(ActivePolicy { generation, policy, counters });
        (self.knows_time, self.next_gate) = (true, next);
    }

    /// The port behind which an address lies, the first of several.
    pub fn port_of(&self, address: IpAddr) -> Option<PortId> {
        let segment = self.snapshot.policy.policy.destination_segment(address)?;
        self.model.rules.segments.get(segment.0 as usize)?.ports.first().copied()
    }

    /// Whether an address lies behind a port.
    pub fn is_behind(&self, port: PortId, address: IpAddr) -> bool {
        self.snapshot.policy.policy.source_segment(port, address).is_some()
    }

    /// What the policy says of a connection.
    pub fn question(&self, query: &Query) -> Said {
        let policy = &self.snapshot.policy.policy;
        let decision = policy.judge(query);
        Said {
            fate: match decision.refusal {
                None => Fate::Forward,
                Some(Reason::RuleRejected) => Fate::Answer,
                Some(_) => Fate::Drop,
            },
            reason: decision.refusal,
            rule: decision.rule,
            pair: (
                policy.source_segment(query.ingress, query.source),
                policy.destination_segment(query.destination),
            ),
            opened: false,
            fragments: 0,
            displaced: 0,
        }
    }

    /// Judges a packet. `dropped` gets the fragments that did not wait to the end.
    pub fn packet(&mut self, now: Now, ingress: PortId, bytes: &[u8], dropped: &mut Dropped) -> Said {
        self.pipeline.quiesce();
        self.expire(now, dropped);
        let Judge { snapshot, table, pipeline, frame, verdicts, events, .. } = self;
        let context = Context { now, snapshot, table };
        frame[0].0.clear();
        frame[0].0.extend_from_slice(bytes);
        address_to_port(&mut frame[0].0, snapshot, ingress);
        let parsed = headers::parse(&frame[0].0);
        // A connection that this packet ends, or that it belongs to, is to be seen before.
        let known = parsed.as_ref().ok().and_then(|h| connection(table, &frame[0].0, h, now));
        pipeline.process(&context, ingress, frame, verdicts);
        pipeline.sweep(&context, 0);
        let mut said = Said {
            fate: Fate::Drop,
            reason: None,
            rule: RuleId::NONE,
            pair: (None, None),
            opened: false,
            fragments: 0,
            displaced: 0,
        };
        let mut originator = known.map(|(originator, rule)| {
            said.rule = rule;
            originator
        });
        while let Some(event) = events.take() {
            if matches!(event.kind, EventKind::Closed | EventKind::Beside(_)) {
                continue;
            }
            said.opened |= event.kind == EventKind::Opened;
            said.rule = event.rule;
            originator = Some((event.ingress, event.source, event.destination));
        }
        let policy = &snapshot.policy.policy;
        let own =
            parsed.map(|h| h.addresses).or_else(|_| headers::fragment(&frame[0].0).map(|f| f.addresses));
        let own = own.ok().map(|addresses| (ingress, addresses.source(), addresses.destination()));
        if let Some((port, source, destination)) = originator.or(own) {
            said.pair = (policy.source_segment(port, source), policy.destination_segment(destination));
        }
        (said.fate, said.reason) = match verdicts.first() {
            Some(Verdict::Forward(_)) => (Fate::Forward, None),
            Some(Verdict::Drop(reason)) => (Fate::Drop, Some(*reason)),
            Some(Verdict::Answer(_, reason)) => (Fate::Answer, Some(*reason)),
            Some(Verdict::Stored(_)) => (Fate::Wait, None),
            // Every next hop is known, and there is no other worker.
            Some(Verdict::Hold | Verdict::HandOver(_)) | None => (Fate::Drop, Some(Reason::HeldTooLong)),
        };
        if said.fate == Fate::Wait {
            self.released(&mut said);
        }
        self.pipeline.take_dropped_fragments(|reason, count| dropped.push((reason, u64::from(count))));
        said
    }

    /// What became of fragments whose datagram this packet completed.
    fn released(&mut self, said: &mut Said) {
        while let Some(release) = self.pipeline.next_release() {
            let slot = match release {
                Release::Forward(slot, _) => {
                    said.fate = Fate::Forward;
                    slot
                }
                Release::Answer(slot, _, reason) => {
                    (said.fate, said.reason) = (Fate::Answer, Some(reason));
                    slot
                }
                Release::Resolve(..) => continue,
            };
            said.fragments += 1;
            self.pipeline.free(slot);
        }
        let mut displaced = 0;
        self.pipeline.take_dropped_fragments(|reason, count| match reason {
            // One that is stored displaces others' at the most; a refused datagram is refused with all of it.
            Reason::FragmentLimit => displaced += u64::from(count),
            reason => {
                if said.fate == Fate::Wait {
                    (said.fate, said.reason) = (Fate::Drop, Some(reason));
                }
                said.fragments += u64::from(count);
            }
        });
        said.displaced = displaced;
    }

    /// Ends what has waited too long.
    fn expire(&mut self, now: Now, dropped: &mut Dropped) {
        let elapsed_ms = now.0.saturating_sub(self.swept.0) / MILLISECOND_NS;
        if elapsed_ms == 0 {
            return;
        }
        self.swept = now;
        let Judge { snapshot, table, pipeline, .. } = self;
        let context = Context { now, snapshot, table };
        if pipeline.datagrams() > 0 {
            pipeline.expire_fragments(&context, HOLD_NS);
            while let Some(release) = pipeline.next_release() {
                if let Release::Forward(slot, _) | Release::Answer(slot, ..) = release {
                    pipeline.free(slot);
                }
            }
            pipeline.take_dropped_fragments(|reason, count| dropped.push((reason, u64::from(count))));
        }
        let budget = self.slots_per_ms.saturating_mul(elapsed_ms.min(1000)).min(SWEEP_MAX);
        pipeline.sweep(&context, budget as usize);
        while self.events.take().is_some() {}
    }

    /// Fragments that wait still.
    pub fn held(&self) -> u64 {
        self.pipeline.fragments_held() as u64
    }
}

type Ends = (PortId, IpAddr, IpAddr);

/// The connection that a packet belongs to, or that an ICMP error is about: its originator's side, and its rule.
fn connection(table: &Table, frame: &[u8], headers: &Headers, now: Now) -> Option<(Ends, RuleId)> {
    fn find<A: Family>(map: &Map<A>, tuple: &Tuple<A>, now: Now) -> Option<(Ends, RuleId)> {
        let hit = map.find(map.hash(tuple), tuple, now)?;
        let (original, ingress) = map.original(hit);
        Some(((ingress, original.source.into(), original.destination.into()), map.stamp(hit).rule))
    }
    let (addresses, ports, protocol) = if headers.transport == Transport::IcmpError {
        let quote = headers::parse_quote(frame, headers).ok()?;
        (quote.addresses, (quote.source_port, quote.destination_port), quote.protocol)
    } else {
        (headers.addresses, (headers.source_port, headers.destination_port), headers.protocol)
    };
    let (source_port, destination_port) = ports;
    match addresses {
        Addresses::V4(source, destination) => {
            find(&table.v4, &Tuple { source, destination, source_port, destination_port, protocol }, now)
        }
        Addresses::V6(source, destination) => {
            find(&table.v6, &Tuple { source, destination, source_port, destination_port, protocol }, now)
        }
    }
}

/// Writes the port's address into a frame that went to any one host: whose it was on the wire is not known here.
fn address_to_port(frame: &mut [u8], snapshot: &Snapshot, ingress: PortId) {
    let own = snapshot.topology.port(ingress).map(|port| port.mac);
    if let (Some(own), Some(to)) = (own, frame.first_chunk_mut::<6>())
        && to[0] & 1 == 0
    {
        *to = own;
    }
}

/// The gateway's made-up address on a port, as for its own answers (RFC 7600, section 6; RFC 6666): nobody speaks
/// from there.
const OWN: [&str; 2] = ["192.0.0.8/32", "100::1/128"];

/// Every network on the link of its segment's first port, and every next hop known.
fn topology(model: &Model) -> TopologySpec {
    // All destinations of a network lead to one next hop, so that none has to be asked for.
    let next_hop = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let ids = || (0..=u8::MAX).map(PortId);
    let mac = |port: PortId, last: u8| -> Mac { [2, 0, 0, 0, port.0, last] };
    let port = |id: PortId| PortState {
        mac: mac(id, 1),
        mtu: u16::MAX,
        up: true,
        addresses: OWN.iter().filter_map(|own| own.parse().ok()).collect(),
    };
    let segments = model.rules.segments.iter();
    let routes = segments.filter_map(|segment| Some((segment.ports.first()?, &segment.networks)));
    TopologySpec {
        ports: ids().zip(&model.ports).map(|(id, _)| port(id)).collect(),
        routes: routes
            .flat_map(|(port, networks)| networks.iter().map(|network| (*port, *network)))
            .map(|(port, prefix)| Route { prefix, kind: RouteKind::Via(port, Some(next_hop)) })
            .collect(),
        neighbours: ids()
            .zip(&model.ports)
            .map(|(port, _)| Neighbour { port, address: next_hop, mac: mac(port, 2) })
            .collect(),
        own_addresses: Vec::new(),
    }
}
