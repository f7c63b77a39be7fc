//! The shortcut for plain packets against the whole way: whatever comes, both give the same verdicts, the same frames,
//! the same connections and the same counters.

use std::sync::Arc;

use bulkhead_dataplane::answer::{Limits, RateLimiter};
use bulkhead_dataplane::connection::{Summary, Table, TableConfig};
use bulkhead_dataplane::counters::{RuleCounters, RuleHits};
use bulkhead_dataplane::event::{Event, EventQueue};
use bulkhead_dataplane::identity::{Occupant, Slots, Stage};
use bulkhead_dataplane::packet::MemoryFrame;
use bulkhead_dataplane::pipeline::{Context, Pipeline};
use bulkhead_dataplane::policy::conditions::{
    Bits, Condition, ConditionId, GroupId, Identity, UserId, Users,
};
use bulkhead_dataplane::policy::{Action, Rule, RuleSet, Service, compile};
use bulkhead_dataplane::snapshot::{ActivePolicy, Snapshot};
use bulkhead_dataplane::topology::{Topology, TopologySpec};
use bulkhead_dataplane::verdict::{Generation, Now, RuleId, Verdict};
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep, TcpHeader, TcpOptionElement};
use proptest::prelude::*;

use crate::gateway::{self, CLIENT, CLIENTS, SERVER, SERVERS, Station, allow, id, rule, tcp_flags};

/// One of the two ways, with a table of its own.
struct Side {
    table: Arc<Table>,
    pipeline: Pipeline,
    events: Arc<EventQueue>,
    in_full: bool,
}

/// All that can be told from outside after a burst.
struct Seen {
    verdicts: Vec<Verdict>,
    frames: Vec<MemoryFrame>,
    connections: Vec<Summary>,
    events: Vec<Event>,
    unresolved: usize,
}

impl Side {
    fn new(in_full: bool) -> Side {
        let config = TableConfig { connections_v4: 256, connections_v6: 256, ..TableConfig::default() };
        let table = Arc::new(Table::new(&config));
        let events = Arc::new(EventQueue::new(4096));
        let limiter = RateLimiter::new(Limits::default());
        let pipeline = Pipeline::new(0, table.worker().unwrap(), limiter, events.clone());
        Side { table, pipeline, events, in_full }
    }

    fn burst(&mut self, snapshot: &Snapshot, now: Now, ingress: Station, frames: &[MemoryFrame]) -> Seen {
        let mut frames = frames.to_vec();
        let mut verdicts = Vec::new();
        let context = Context { now, snapshot, table: &self.table };
        self.pipeline.quiesce();
        if self.in_full {
            self.pipeline.process_in_full(&context, id(ingress), &mut frames, &mut verdicts);
        } else {
            self.pipeline.process(&context, id(ingress), &mut frames, &mut verdicts);
        }
        self.pipeline.sweep(&context, 0);
        let mut connections: Vec<_> = self
            .table
            .v4
            .summaries(0, now)
            .map(|(_, summary)| summary)
            .chain(self.table.v6.summaries(0, now).map(|(_, summary)| summary))
            .collect();
        // The secret of the hash, and so the order, is each table's own.
        connections.sort_by_key(|c| {
            (c.tuple.protocol, c.tuple.source, c.tuple.source_port, c.tuple.destination_port)
        });
        Seen {
            verdicts,
            frames,
            connections,
            events: std::iter::from_fn(|| self.events.take()).collect(),
            unresolved: std::iter::from_fn(|| self.pipeline.next_unresolved()).count(),
        }
    }
}

/// A packet of one of a few connections.
#[derive(Clone, Debug)]
struct Packet {
    v6: bool,
    connection: u16,
    protocol: Protocol,
    payload: usize,
    ttl: u8,
    /// A byte that is overwritten, among the headers.
    damage: Option<(usize, u8)>,
}

#[derive(Clone, Debug)]
enum Protocol {
    Udp,
    Tcp { flags: u8, sequence: u32, acknowledgement: u32, stamped: bool },
}

impl Packet {
    fn frame(&self, from: Station) -> Vec<u8> {
        let (near, far) = (1000 + self.connection, if self.connection.is_multiple_of(2) { 443 } else { 53 });
        let (source, destination) = if from == CLIENT { (near, far) } else { (far, near) };
        let host = |client: bool| -> ([u8; 4], [u8; 16]) {
            let network = if client { 1 } else { 2 };
            let mut v6 = [0; 16];
            (v6[0], v6[3], v6[15]) = (0xfd, network, 9);
            ([10, network, 0, 9], v6)
        };
        let ((from4, from6), (to4, to6)) = (host(from == CLIENT), host(from != CLIENT));
        let port = if from == CLIENT { CLIENTS } else { SERVERS };
        let ethernet = PacketBuilder::ethernet2(from.mac, port.mac);
        let ip: PacketBuilderStep<IpHeaders> =
            if self.v6 { ethernet.ipv6(from6, to6, self.ttl) } else { ethernet.ipv4(from4, to4, self.ttl) };
        let (mut frame, payload) = (Vec::new(), vec![7; self.payload]);
        match self.protocol {
            Protocol::Udp => ip.udp(source, destination).write(&mut frame, &payload).unwrap(),
            Protocol::Tcp { flags, sequence, acknowledgement, stamped } => {
                let mut header = TcpHeader::new(source, destination, sequence, 65_000);
                header.syn = flags & tcp_flags::SYN != 0;
                header.ack = flags & tcp_flags::ACK != 0;
                header.fin = flags & tcp_flags::FIN != 0;
                header.rst = flags & tcp_flags::RST != 0;
                header.psh = flags & tcp_flags::PSH != 0;
                header.acknowledgment_number = acknowledgement;
                if stamped {
                    use TcpOptionElement::{Noop, Timestamp};
                    header.set_options(&[Noop, Noop, Timestamp(1, 2)]).unwrap();
                }
                ip.tcp_header(header).write(&mut frame, &payload).unwrap();
            }
        }
        if let Some((at, byte)) = self.damage {
            let at = at % frame.len().min(74);
            frame[at] = byte;
        }
        frame
    }
}

#[derive(Clone, Debug)]
enum Step {
    Burst(bool, Vec<Packet>),
    Wait(u64),
    Policy(u8),
    Session(u8),
    Topology(u8),
}

fn packet() -> impl Strategy<Value = Packet> {
    let flags = prop_oneof![
        8 => Just(tcp_flags::ACK),
        4 => Just(tcp_flags::ACK | tcp_flags::PSH),
        1 => any::<u8>(),
    ];
    let near = |base: u32| prop_oneof![8 => base..base + 3000, 1 => any::<u32>()];
    let tcp = (flags, near(101), near(101), any::<bool>()).prop_map(
        |(flags, sequence, acknowledgement, stamped)| Protocol::Tcp {
            flags,
            sequence,
            acknowledgement,
            stamped,
        },
    );
    let protocol = prop_oneof![1 => Just(Protocol::Udp), 3 => tcp];
    let damage = prop_oneof![12 => Just(None), 1 => (any::<usize>(), any::<u8>()).prop_map(Some)];
    let ttl = prop_oneof![12 => Just(64u8), 1 => 0..3u8];
    let payload = prop_oneof![8 => 0..64usize, 1 => 1300..1500usize];
    (any::<bool>(), 0..4u16, protocol, payload, ttl, damage).prop_map(
        |(v6, connection, protocol, payload, ttl, damage)| Packet {
            v6,
            connection,
            protocol,
            payload,
            ttl,
            damage,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (any::<bool>(), prop::collection::vec(packet(), 1..80)).prop_map(|(client, packets)| Step::Burst(client, packets)),
        2 => (0..200u64).prop_map(Step::Wait),
        1 => any::<u8>().prop_map(Step::Policy),
        2 => any::<u8>().prop_map(Step::Session),
        1 => any::<u8>().prop_map(Step::Topology),
    ]
}

/// The packets that establish the connections, so that most of what follows is plain.
fn handshakes() -> Vec<(Station, Packet)> {
    let (syn, ack) = (tcp_flags::SYN, tcp_flags::ACK);
    let mut packets = Vec::new();
    for (v6, connection) in [(false, 0), (false, 1), (false, 2), (true, 0), (true, 1), (true, 2)] {
        let plain = |protocol| Packet { v6, connection, protocol, payload: 0, ttl: 64, damage: None };
        let tcp = |flags, sequence, acknowledgement| {
            plain(Protocol::Tcp { flags, sequence, acknowledgement, stamped: false })
        };
        packets.extend([
            (CLIENT, tcp(syn, 100, 0)),
            (SERVER, tcp(syn | ack, 100, 101)),
            (CLIENT, tcp(ack, 101, 101)),
            (CLIENT, plain(Protocol::Udp)),
            (SERVER, plain(Protocol::Udp)),
        ]);
    }
    packets
}

fn rules(kind: u8) -> Vec<Rule> {
    let first =
        [allow(Service::Any), rule(Action::Deny, Service::Tcp(443, 443)), allow(Service::Udp(53, 53))];
    let rules =
        [first[usize::from(kind) % 3].clone(), allow(Service::Tcp(1, 65535)), allow(Service::Udp(1, 65535))];
    if kind & 8 != 0 { rules.to_vec() } else { rules[..1 + usize::from(kind) % 2].to_vec() }
}

/// Rules that all ask for a user, or only some of them.
fn policy(table: &Table, generation: u32, kind: u8, sessions: &Arc<Slots>) -> Arc<ActivePolicy> {
    let mut rules = rules(kind);
    let asking = rules.iter_mut().skip(usize::from(kind >> 4 & 1)).filter(|_| kind & 32 != 0);
    asking.for_each(|rule| rule.condition = Some(ConditionId(0)));
    let group = Users { users: vec![], groups: vec![GroupId(0)] };
    let conditions = vec![Condition { users: Some(group), ..Condition::default() }];
    let mut policy = compile(&RuleSet { conditions, ..gateway::rule_set(&rules) }).unwrap();
    policy.set_identities(sessions.clone());
    policy.bind(table);
    let counters = RuleCounters::new(policy.rule_count(), 2);
    Arc::new(ActivePolicy { generation: Generation(generation), policy, counters })
}

/// Somebody signs in or out at one of the client's addresses, for a while, from where it is or not.
fn sign(sessions: &Slots, kind: u8, now: Now) {
    let address = if kind & 1 == 0 { "10.1.0.9" } else { "fd00:1::9" }.parse().unwrap();
    let stage = |seconds: u64, in_group: bool| Stage {
        until: Now(now.0 + seconds * 1_000_000_000),
        identity: Identity {
            user: Some(UserId::OTHER),
            groups: Bits::from_iter(in_group.then_some(0)),
            ..Identity::default()
        },
    };
    let stages = match kind >> 1 & 3 {
        0 => vec![],
        1 => vec![stage(1000, true)],
        2 => vec![stage(20, true), stage(100, false)],
        _ => vec![stage(50, false), stage(100, true)],
    };
    let mac = match kind >> 3 & 3 {
        0 => None,
        1 => Some([2, 9, 9, 9, 9, 9]),
        _ => Some(CLIENT.mac),
    };
    sessions.set(Occupant { address, mac, stages }).unwrap();
}

fn change(spec: &mut TopologySpec, kind: u8) {
    let port = usize::from(kind >> 3 & 1);
    match kind % 8 {
        0 => spec.neighbours.clear(),
        1 => spec.neighbours = gateway::topology().neighbours,
        2 => spec.ports[port].up ^= true,
        3 => spec.ports[port].mtu = 1280 + u16::from(kind),
        4 => spec.own_addresses.push(if kind & 16 == 0 { "10.1.0.9" } else { "fd00:2::9" }.parse().unwrap()),
        5 => spec.own_addresses.clear(),
        6 => spec.ports[port].mac[5] ^= 8,
        // Everything leaves by one port.
        _ => spec.routes.iter_mut().for_each(|route| route.kind = gateway::via([CLIENTS, SERVERS][port])),
    }
}

fn compare(steps: &[Step]) -> Result<(), TestCaseError> {
    let (mut short, mut full) = (Side::new(false), Side::new(true));
    let sessions = Arc::new(Slots::new(4));
    let mut spec = gateway::topology();
    let mut snapshot = Snapshot {
        version: 1,
        beside: Arc::default(),
        policy: policy(&short.table, 1, 0, &sessions),
        topology: Arc::new(Topology::new(spec.clone())),
    };
    // Each way counts in counters of its own.
    let mut other = Snapshot { policy: policy(&full.table, 1, 0, &sessions), ..snapshot.clone() };
    let mut now = Now(1_000_000_000);
    let opening = handshakes().into_iter().map(|(from, packet)| Step::Burst(from == CLIENT, vec![packet]));
    for step in opening.chain(steps.iter().cloned()) {
        match step {
            Step::Burst(client, packets) => {
                let (from, port) = if client { (CLIENT, CLIENTS) } else { (SERVER, SERVERS) };
                let frames: Vec<_> =
                    packets.iter().map(|packet| MemoryFrame::new(&packet.frame(from))).collect();
                let seen = short.burst(&snapshot, now, port, &frames);
                let expected = full.burst(&other, now, port, &frames);
                for (number, packet) in packets.iter().enumerate() {
                    // Whether a sender is told is a matter of chance, within its limit.
                    let at = |seen: &Seen| match seen.verdicts[number] {
                        Verdict::Answer(_, reason) => (Verdict::Drop(reason), None),
                        Verdict::Drop(reason) => (Verdict::Drop(reason), None),
                        verdict => (verdict, Some(seen.frames[number].clone())),
                    };
                    prop_assert_eq!(at(&seen), at(&expected), "packet {}: {:?}", number, packet);
                }
                prop_assert_eq!(seen.connections, expected.connections);
                prop_assert_eq!(seen.events, expected.events);
                prop_assert_eq!(seen.unresolved, expected.unresolved);
            }
            Step::Wait(seconds) => now.0 += seconds * 1_000_000_000,
            Step::Policy(kind) => {
                let generation = snapshot.policy.generation.0 + 1;
                snapshot.policy = policy(&short.table, generation, kind, &sessions);
                other.policy = policy(&full.table, generation, kind, &sessions);
            }
            Step::Session(kind) => sign(&sessions, kind, now),
            Step::Topology(kind) => {
                change(&mut spec, kind);
                snapshot.topology = Arc::new(Topology::new(spec.clone()));
                other.topology = snapshot.topology.clone();
            }
        }
        let hits = |snapshot: &Snapshot| -> Vec<RuleHits> {
            (0..3).map(RuleId).chain([RuleId::NONE]).map(|rule| snapshot.policy.counters.read(rule)).collect()
        };
        prop_assert_eq!(hits(&snapshot), hits(&other));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_shortcut_forwards_what_the_whole_way_forwards_and_changes_the_same(
        steps in prop::collection::vec(step(), 1..24),
    ) {
        compare(&steps)?;
    }
}
