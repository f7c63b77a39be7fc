//! A gateway in memory: two ports, two hosts, one worker.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bulkhead_dataplane::answer::{Limits, RateLimiter};
use bulkhead_dataplane::beside::Beside;
use bulkhead_dataplane::connection::{Overrides, RuleLimits, Summary, Table, TableConfig, Timeouts};
use bulkhead_dataplane::counters::{Ledger, RuleCounters, RuleHits};
use bulkhead_dataplane::event::Event;
use bulkhead_dataplane::fragments::Share;
use bulkhead_dataplane::identity::Slots;
use bulkhead_dataplane::packet::{FrameBuf, MemoryFrame};
use bulkhead_dataplane::pipeline::Pipeline;
use bulkhead_dataplane::policy::conditions::{Bits, Condition};
use bulkhead_dataplane::policy::{
    Action, Policy, Restraint, Restraints, Rule, RuleSet, Segment, Service, compile,
};
use bulkhead_dataplane::port::MemoryPort;
use bulkhead_dataplane::snapshot::{ActivePolicy, Snapshot};
use bulkhead_dataplane::topology::{Mac, Neighbour, PortState, Route, RouteKind, Topology, TopologySpec};
use bulkhead_dataplane::verdict::{Generation, Now, PortId, Reason, RuleId, SegmentId};
use bulkhead_dataplane::worker::{Shared, Worker};
use etherparse::{PacketBuilder, PacketBuilderStep};

pub use bulkhead_dataplane::headers::tcp_flags;

/// Events that are kept until somebody takes them.
pub const EVENTS: usize = 256;

/// A host, or a port of the gateway.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Station {
    pub mac: Mac,
    pub address: &'static str,
}

pub const CLIENTS: Station = Station { mac: [2, 0, 0, 0, 0, 1], address: "10.1.0.1" };
pub const SERVERS: Station = Station { mac: [2, 0, 0, 0, 0, 2], address: "10.2.0.1" };
pub const CLIENT: Station = Station { mac: [2, 0, 0, 1, 0, 9], address: "10.1.0.9" };
pub const SERVER: Station = Station { mac: [2, 0, 0, 2, 0, 9], address: "10.2.0.9" };

pub fn id(port: Station) -> PortId {
    PortId(u8::from(port == SERVERS))
}

pub fn neighbour(port: Station, host: Station) -> Neighbour {
    Neighbour { port: id(port), address: host.address.parse().unwrap(), mac: host.mac }
}

pub fn via(port: Station) -> RouteKind {
    RouteKind::Via(id(port), None)
}

/// A rule from the clients to the servers.
pub fn rule(action: Action, service: Service) -> Rule {
    Rule {
        from: vec![SegmentId(0)],
        to: vec![SegmentId(1)],
        services: vec![service],
        action,
        ..Rule::default()
    }
}

pub fn allow(service: Service) -> Rule {
    rule(Action::Allow, service)
}

pub fn rule_set(rules: &[Rule]) -> RuleSet {
    let segment = |port, networks: [&str; 2]| Segment {
        ports: vec![PortId(port)],
        networks: networks.map(|network| network.parse().unwrap()).to_vec(),
        ..Segment::default()
    };
    let segments =
        vec![segment(0, ["10.1.0.0/24", "fd00:1::/64"]), segment(1, ["10.2.0.0/24", "fd00:2::/64"])];
    RuleSet { segments, rules: rules.to_vec(), ..RuleSet::default() }
}

pub fn topology() -> TopologySpec {
    let port = |station: Station, v6: &str| PortState {
        mac: station.mac,
        mtu: 1500,
        up: true,
        addresses: vec![format!("{}/24", station.address).parse().unwrap(), v6.parse().unwrap()],
    };
    let route = |prefix: &str, port| Route { prefix: prefix.parse().unwrap(), kind: via(port) };
    let v6 = |port, host: Station, address: &str| Neighbour {
        address: address.parse().unwrap(),
        ..neighbour(port, host)
    };
    TopologySpec {
        ports: vec![port(CLIENTS, "fd00:1::1/64"), port(SERVERS, "fd00:2::1/64")],
        routes: vec![
            route("10.1.0.0/24", CLIENTS),
            route("10.2.0.0/24", SERVERS),
            route("fd00:1::/64", CLIENTS),
            route("fd00:2::/64", SERVERS),
        ],
        neighbours: vec![
            neighbour(CLIENTS, CLIENT),
            neighbour(SERVERS, SERVER),
            v6(CLIENTS, CLIENT, "fd00:1::9"),
            v6(SERVERS, SERVER, "fd00:2::9"),
        ],
        own_addresses: vec![],
    }
}

pub struct Gateway {
    worker: Worker<MemoryPort>,
    table: Arc<Table>,
    shared: Arc<Shared>,
    snapshot: Arc<Snapshot>,
    now: Now,
    /// The sessions of all policies that are published with conditions.
    pub sessions: Arc<Slots>,
}

impl Gateway {
    pub fn new(rules: &[Rule]) -> Gateway {
        Gateway::with_timeouts(rules, Timeouts::default())
    }

    pub fn with_timeouts(rules: &[Rule], timeouts: Timeouts) -> Gateway {
        Gateway::with(rules, &[], timeouts)
    }

    /// With limits for some of the rules, by number.
    pub fn with_limits(rules: &[Rule], limits: &[(u32, RuleLimits)]) -> Gateway {
        Gateway::with(rules, limits, Timeouts::default())
    }

    fn with(rules: &[Rule], limits: &[(u32, RuleLimits)], timeouts: Timeouts) -> Gateway {
        Gateway::workers(rules, limits, timeouts, 1024, 1).remove(0)
    }

    /// A gateway that drops every fragment.
    pub fn without_fragments(rules: &[Rule]) -> Gateway {
        Gateway::workers(rules, &[], Timeouts::default(), 0, 1).remove(0)
    }

    /// Two workers of one gateway, each with its queue of both ports.
    pub fn pair(rules: &[Rule]) -> [Gateway; 2] {
        let workers = Gateway::workers(rules, &[], Timeouts::default(), 1024, 2);
        workers.try_into().ok().expect("as many as were asked for")
    }

    fn workers(
        rules: &[Rule],
        limits: &[(u32, RuleLimits)],
        timeouts: Timeouts,
        fragments: u32,
        count: usize,
    ) -> Vec<Gateway> {
        let config = TableConfig {
            connections_v4: 256,
            connections_v6: 256,
            timeouts,
            workers: count,
            ..TableConfig::default()
        };
        let table = Arc::new(Table::new(&config));
        let snapshot = Arc::new(Snapshot {
            version: 1,
            beside: Arc::default(),
            policy: active(&table, 1, rules, limits),
            topology: Arc::new(Topology::new(topology())),
        });
        let share = Arc::new(Share::new(fragments, count));
        let gateway = |index| {
            let shared = Arc::new(Shared::new(EVENTS));
            let limiter = RateLimiter::new(Limits::default());
            let pipeline = Pipeline::new(index, table.worker().unwrap(), limiter, shared.events.clone())
                .with_fragments(share.clone());
            let ports = vec![MemoryPort::default(), MemoryPort::default()];
            let (table, snapshot) = (table.clone(), snapshot.clone());
            let worker = Worker::new(ports, pipeline, table.clone(), shared.clone(), snapshot.clone(), count);
            let sessions = Arc::new(Slots::new(16));
            Gateway { worker, table, shared, snapshot, now: Now(1_000_000_000), sessions }
        };
        (0..count).map(gateway).collect()
    }

    pub fn port(&mut self, port: Station) -> &mut MemoryPort {
        &mut self.worker.ports_mut()[usize::from(id(port).0)]
    }

    pub fn ledger(&self) -> Ledger {
        self.shared.ledger.read()
    }

    /// Puts a frame in and turns one round; answers what the packet was dropped for, if it was.
    pub fn put(&mut self, port: Station, frame: &[u8]) -> Option<Reason> {
        let before = self.ledger();
        self.port(port).incoming.push_back(MemoryFrame::new(frame));
        assert_eq!(self.worker.round(self.now), 1);
        let after = self.ledger();
        assert!(after.is_balanced());
        Reason::ALL.iter().copied().find(|&r| after.dropped[r as usize] > before.dropped[r as usize])
    }

    /// Puts a frame in; answers what came out at the other port, or the reason why nothing did.
    pub fn send(&mut self, port: Station, frame: &[u8]) -> Result<Vec<u8>, Reason> {
        let dropped = self.put(port, frame);
        let other = if port == CLIENTS { SERVERS } else { CLIENTS };
        match (self.sent_by(other), dropped) {
            (Some(out), None) => Ok(out),
            (None, Some(reason)) => Err(reason),
            (out, reason) => panic!("out {out:?}, dropped {reason:?}"),
        }
    }

    pub fn sent_by(&mut self, port: Station) -> Option<Vec<u8>> {
        self.port(port).outgoing.pop_front().map(|frame| frame.bytes().to_vec())
    }

    /// Turns one round.
    pub fn turn(&mut self) {
        self.worker.round(self.now);
    }

    pub fn advance(&mut self, nanoseconds: u64) {
        self.now.0 += nanoseconds;
        self.worker.round(self.now);
    }

    /// The time.
    pub fn now(&self) -> Now {
        self.now
    }

    /// Sets the clock, in milliseconds, without turning a round.
    pub fn set_time(&mut self, milliseconds: u64) {
        self.now = Now(milliseconds * 1_000_000);
    }

    /// Opens a TCP connection: sequence numbers are 101 and 501 afterwards.
    pub fn handshake(&mut self, source: u16, destination: u16) {
        let (syn, ack) = (tcp_flags::SYN, tcp_flags::ACK);
        for (port, frame) in [
            (CLIENTS, tcp(CLIENT, SERVER, source, destination, syn, 100, 0)),
            (SERVERS, tcp(SERVER, CLIENT, destination, source, syn | ack, 500, 101)),
            (CLIENTS, tcp(CLIENT, SERVER, source, destination, ack, 101, 501)),
        ] {
            self.send(port, &frame).unwrap();
        }
    }

    pub fn publish(&mut self, rules: &[Rule]) {
        self.judge_by(self.snapshot.policy.generation.0 + 1, rules);
    }

    /// Publishes rules with time-outs of their own, by rule.
    pub fn publish_with_timeouts(&mut self, rules: &[Rule], timeouts: &[Overrides]) {
        let mut policy = compile(&rule_set(rules)).unwrap();
        policy.set_timeouts((0..).map(RuleId).zip(timeouts.iter().copied())).unwrap();
        policy.bind(&self.table);
        self.publish_policy(policy);
    }

    /// Makes the worker judge by this generation, also by an older one, as a worker does that is behind.
    pub fn judge_by(&mut self, generation: u32, rules: &[Rule]) {
        let policy = active(&self.table, generation, rules, &[]);
        self.post(Snapshot { policy, ..Snapshot::clone(&self.snapshot) });
    }

    /// As [`Gateway::publish`], of rules that ask for these conditions, with these gates open.
    pub fn publish_conditions(&mut self, rules: &[Rule], conditions: &[Condition], open: &[u32]) {
        let mut policy = self.asking(rules, conditions, open);
        policy.bind(&self.table);
        self.publish_policy(policy);
    }

    /// A policy of rules that ask for these conditions, with these gates open.
    pub fn asking(&self, rules: &[Rule], conditions: &[Condition], open: &[u32]) -> Policy {
        let rules = RuleSet { conditions: conditions.to_vec(), ..rule_set(rules) };
        let mut policy = compile(&rules).unwrap();
        policy.set_gates(Bits::from_iter(open.iter().copied()));
        policy.set_identities(self.sessions.clone());
        policy
    }

    /// Publishes a policy as it is.
    pub fn publish_policy(&mut self, policy: Policy) {
        let counters = RuleCounters::new(policy.rule_count(), 2);
        let generation = self.snapshot.policy.generation.next();
        let policy = Arc::new(ActivePolicy { generation, policy, counters });
        self.post(Snapshot { policy, ..Snapshot::clone(&self.snapshot) });
    }

    /// Publishes the same policy again, with these addresses restrained.
    pub fn publish_restraints(&mut self, restraints: &[(&str, Restraint)]) {
        let before = &self.snapshot.policy;
        let mut policy = before.policy.clone();
        let restraints = restraints.iter().map(|(address, restraint)| (address.parse().unwrap(), *restraint));
        policy.set_restraints(Arc::new(Restraints::new(restraints, false)));
        let counters = RuleCounters::new(policy.rule_count(), 2);
        let policy = Arc::new(ActivePolicy { generation: before.generation.next(), policy, counters });
        self.post(Snapshot { policy, ..Snapshot::clone(&self.snapshot) });
    }

    /// As [`Gateway::publish`], with limits for some of the rules.
    pub fn publish_limits(&mut self, rules: &[Rule], limits: &[(u32, RuleLimits)]) {
        let policy = active(&self.table, self.snapshot.policy.generation.0 + 1, rules, limits);
        self.post(Snapshot { policy, ..Snapshot::clone(&self.snapshot) });
    }

    /// How many connections a rule that limits them has.
    pub fn connections_of(&self, rule: u32) -> Option<u32> {
        let limit = self.snapshot.policy.policy.limits().find(RuleId(rule))?;
        self.table.connections_of(limit)
    }

    /// Has policies asked beside the running one.
    pub fn publish_beside(&mut self, beside: Vec<Arc<Beside>>) {
        self.post(Snapshot { beside: beside.into(), ..Snapshot::clone(&self.snapshot) });
    }

    pub fn change_topology(&mut self, change: impl FnOnce(&mut TopologySpec)) {
        let mut next = Snapshot::clone(&self.snapshot);
        let mut spec = next.topology.spec().clone();
        change(&mut spec);
        next.topology = Arc::new(Topology::new(spec));
        self.post(next);
    }

    fn post(&mut self, mut next: Snapshot) {
        next.version += 1;
        self.snapshot = Arc::new(next);
        self.shared.mailbox.post(self.snapshot.clone());
        self.worker.round(self.now);
        assert_eq!(self.shared.mailbox.acknowledged(), self.snapshot.version);
    }

    pub fn unresolved(&self) -> Vec<(PortId, IpAddr)> {
        let asked = std::iter::from_fn(|| self.shared.resolve.pop());
        asked.map(|wanted| (wanted.port, wanted.next_hop)).collect()
    }

    pub fn events(&self) -> Vec<Event> {
        assert_eq!(self.shared.events.lost(), 0);
        std::iter::from_fn(|| self.shared.events.take()).collect()
    }

    /// Empties the event queue; how many there were, and how many were lost.
    pub fn take_events(&self) -> (usize, u64) {
        (std::iter::from_fn(|| self.shared.events.take()).count(), self.shared.events.lost())
    }

    /// Empties the event queue, however many were lost.
    pub fn discard_events(&self) {
        while self.shared.events.take().is_some() {}
    }

    pub fn rule_hits(&self, rule: u32) -> RuleHits {
        self.snapshot.policy.counters.read(RuleId(rule))
    }

    /// The ledger balances, nothing waits, these drops were counted and no other.
    pub fn assert_ledger(&self, drops: &[(Reason, u64)]) {
        let ledger = self.ledger();
        assert!(ledger.is_balanced() && ledger.held == 0, "{ledger:?}");
        for &reason in Reason::ALL {
            let expected = drops.iter().find(|(r, _)| *r == reason).map_or(0, |(_, count)| *count);
            assert_eq!(ledger.dropped[reason as usize], expected, "{reason}");
        }
    }
}

pub fn active(
    table: &Table,
    generation: u32,
    rules: &[Rule],
    limits: &[(u32, RuleLimits)],
) -> Arc<ActivePolicy> {
    let limits = limits.iter().map(|(rule, limits)| (RuleId(*rule), *limits)).collect();
    let mut policy = compile(&rule_set(rules)).unwrap();
    policy.set_limits(limits);
    table.bind(policy.limits_mut()).unwrap();
    let counters = RuleCounters::new(policy.rule_count(), 2);
    Arc::new(ActivePolicy { generation: Generation(generation), policy, counters })
}

/// The gateway's MAC on the sender's side.
fn gateway_mac(sender: Station) -> Mac {
    if sender.mac == CLIENT.mac { CLIENTS.mac } else { SERVERS.mac }
}

fn v4(station: Station) -> [u8; 4] {
    station.address.parse::<Ipv4Addr>().unwrap().octets()
}

pub fn udp_of(from: Station, to: Station, source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.mac, gateway_mac(from))
        .ipv4(v4(from), v4(to), 64)
        .udp(source, destination);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// Long enough for an ICMP error about it: see `answer::least_bytes`.
pub fn udp(from: Station, to: Station, source: u16, destination: u16) -> Vec<u8> {
    udp_of(from, to, source, destination, b"a payload of forty bytes, for an answer!")
}

pub fn udp6(from: &str, to: &str, source: u16, destination: u16) -> Vec<u8> {
    let sender = if from.starts_with("fd00:1") { CLIENT } else { SERVER };
    let octets = |address: &str| address.parse::<Ipv6Addr>().unwrap().octets();
    let builder = PacketBuilder::ethernet2(sender.mac, gateway_mac(sender))
        .ipv6(octets(from), octets(to), 64)
        .udp(source, destination);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"payload").unwrap();
    frame
}

#[allow(clippy::too_many_arguments)]
pub fn tcp(
    from: Station,
    to: Station,
    source: u16,
    destination: u16,
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
) -> Vec<u8> {
    let mut header = etherparse::TcpHeader::new(source, destination, sequence, 65_000);
    header.syn = flags & tcp_flags::SYN != 0;
    header.ack = flags & tcp_flags::ACK != 0;
    header.fin = flags & tcp_flags::FIN != 0;
    header.rst = flags & tcp_flags::RST != 0;
    header.psh = flags & tcp_flags::PSH != 0;
    header.acknowledgment_number = acknowledgement;
    let builder =
        PacketBuilder::ethernet2(from.mac, gateway_mac(from)).ipv4(v4(from), v4(to), 64).tcp_header(header);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    frame
}

/// The IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];
}

/// Everything before the transport header, from one host to the other.
pub fn ip(from: Station, family: Family) -> PacketBuilderStep<etherparse::IpHeaders> {
    let (to, builder) = (other(from), PacketBuilder::ethernet2(from.mac, gateway_mac(from)));
    match family {
        Family::V4 => builder.ipv4(v4(from), v4(to), 64),
        Family::V6 => builder.ipv6(v6(from), v6(to), 64),
    }
}

/// The host that is not this one.
pub fn other(host: Station) -> Station {
    if host == CLIENT { SERVER } else { CLIENT }
}

fn v6(host: Station) -> [u8; 16] {
    let address: Ipv6Addr = if host == CLIENT { "fd00:1::9" } else { "fd00:2::9" }.parse().unwrap();
    address.octets()
}

pub fn echo(from: Station, to: Station, request: bool, identifier: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.mac, gateway_mac(from)).ipv4(v4(from), v4(to), 64);
    let builder = match request {
        true => builder.icmpv4_echo_request(identifier, 1),
        false => builder.icmpv4_echo_reply(identifier, 1),
    };
    let mut frame = Vec::new();
    builder.write(&mut frame, b"ping").unwrap();
    frame
}

/// A port-unreachable error that quotes the IP packet of this frame.
pub fn unreachable(from: Station, to: Station, quoted: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.mac, gateway_mac(from)).ipv4(v4(from), v4(to), 64).icmpv4(
        etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port),
    );
    let mut frame = Vec::new();
    builder.write(&mut frame, &quoted[14..]).unwrap();
    frame
}

/// As [`unreachable`], of either family, to the other host.
pub fn unreachable_of(from: Station, family: Family, quoted: &[u8]) -> Vec<u8> {
    let (builder, mut frame) = (ip(from, family), Vec::new());
    // As much as leaves the error under the smallest MTU of IPv6.
    let quoted = &quoted[14..quoted.len().min(14 + 1000)];
    match family {
        Family::V4 => builder.icmpv4_raw(3, 3, [0; 4]).write(&mut frame, quoted),
        Family::V6 => builder.icmpv6_raw(1, 4, [0; 4]).write(&mut frame, quoted),
    }
    .unwrap();
    frame
}

/// What the connection table holds.
impl Gateway {
    pub fn connections(&self) -> Vec<Summary> {
        let v4 = self.table.v4.summaries(0, self.now).map(|(_, summary)| summary);
        v4.chain(self.table.v6.summaries(0, self.now).map(|(_, summary)| summary)).collect()
    }
}

pub fn set_ttl(frame: &mut [u8], ttl: u8) {
    frame[22] = ttl;
    fix_checksum(frame);
}

pub fn set_dont_fragment(frame: &mut [u8]) {
    frame[20] |= 0x40;
    fix_checksum(frame);
}

fn fix_checksum(frame: &mut [u8]) {
    let header = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
    frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
}
