//! Packets of many connections that a [`rule_set`](crate::rule_set) allows, in bursts by ingress port, as a port's
//! receive ring would give them: the connections in random order, half of the packets going each way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_dataplane::headers::{protocol, tcp_flags};
use bulkhead_dataplane::pipeline::BURST;
use bulkhead_dataplane::policy::{Policy, Query, RuleSet};
use bulkhead_dataplane::verdict::PortId;
use etherparse::PacketBuilder;

use crate::{PORTS, Random, gateway, queries};

/// Hosts of every segment that take part. They are on link, each with a neighbour entry of its own.
pub const HOSTS: u32 = 16;

/// Payload of every data packet, bytes: an IPv4 TCP frame has 62.
pub const PAYLOAD: usize = 8;

/// Which packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP over IPv4.
    Tcp4,
    /// UDP over IPv4.
    Udp4,
    /// TCP over IPv6.
    Tcp6,
}

impl Kind {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tcp4 => "tcp4",
            Kind::Udp4 => "udp4",
            Kind::Tcp6 => "tcp6",
        }
    }

    fn protocol(self) -> u8 {
        if self == Kind::Udp4 { protocol::UDP } else { protocol::TCP }
    }

    /// Where the sequence number stands in the frame, for TCP without options.
    fn sequence_offset(self) -> Option<usize> {
        match self {
            Kind::Tcp4 => Some(14 + 20 + 4),
            Kind::Tcp6 => Some(14 + 40 + 4),
            Kind::Udp4 => None,
        }
    }
}

/// One connection, seen from its originator.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// The originator's address.
    pub source: IpAddr,
    destination: IpAddr,
    source_port: u16,
    destination_port: u16,
    /// The port by which the originator's packets come in.
    pub ingress: PortId,
    /// The port by which the responder's packets come in.
    pub egress: PortId,
}

/// `count` different connections that the policy allows.
///
/// # Panics
/// Panics when the rules allow nothing of this kind.
pub fn connections(rules: &RuleSet, policy: &Policy, kind: Kind, count: usize) -> Vec<Connection> {
    let v4 = kind != Kind::Tcp6;
    let mut allowed: Vec<Query> = queries(rules, 16_384)
        .into_iter()
        .filter(|query| query.source.is_ipv4() == v4 && query.protocol == kind.protocol())
        // Inside one segment both ends could turn out to be one host.
        .filter(|query| segment(query.source) != segment(query.destination) && policy.judge(query).allows())
        .map(|query| Query {
            source: host(query.source, 0),
            destination: host(query.destination, 0),
            ..query
        })
        .collect();
    let key = |query: &Query| (query.source, query.destination, query.destination_port);
    allowed.sort_unstable_by_key(key);
    allowed.dedup_by_key(|query| key(query));
    assert!(!allowed.is_empty(), "the rules allow no {}", kind.name());
    // In mixed radix, so that no two are equal: what is allowed, then both hosts, then the originator's port.
    (0..count as u32)
        .map(|index| {
            let (query, rest) = (allowed[index as usize % allowed.len()], index / allowed.len() as u32);
            Connection {
                source: host(query.source, 1 + rest % HOSTS),
                destination: host(query.destination, 1 + rest / HOSTS % HOSTS),
                source_port: 1024 + (rest / HOSTS / HOSTS) as u16,
                destination_port: query.destination_port,
                ingress: query.ingress,
                egress: PortId((segment(query.destination) % u32::from(PORTS)) as u8),
            }
        })
        .collect()
}

/// The segment of a generated address; see [`rule_set`](crate::rule_set).
fn segment(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.to_bits() >> 8 & 0xffff,
        IpAddr::V6(address) => (address.to_bits() >> 64) as u32 & 0xffff,
    }
}

/// The host of this number beside another one.
fn host(beside: IpAddr, number: u32) -> IpAddr {
    match beside {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & !0xff | number).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64 | u128::from(number)).into(),
    }
}

/// The packets of a connection's life that a bench sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The first packet: SYN, or a datagram.
    Open,
    /// The responder's SYN-ACK or first datagram.
    Accept,
    /// The originator's ACK; for UDP another datagram.
    Confirm,
    /// Data, from the originator of even connections and from the responder of odd ones.
    Data,
}

/// Up to [`BURST`] packets that came in by one port.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// The port.
    pub ingress: PortId,
    first: usize,
}

/// Frames, all of one length, in bursts.
pub struct Traffic {
    kind: Kind,
    step: Step,
    /// Bytes of one frame.
    frame_bytes: usize,
    bytes: Vec<u8>,
    bursts: Vec<Burst>,
}

impl Traffic {
    /// One packet of every connection, in random order; the last burst of a port is filled up with packets of its
    /// first.
    pub fn new(kind: Kind, connections: &[Connection], step: Step) -> Traffic {
        let mut random = Random::new(connections.len() as u64);
        let mut of_port: Vec<Vec<usize>> = vec![Vec::new(); usize::from(PORTS)];
        for (index, connection) in connections.iter().enumerate() {
            let port = if is_reply(step, index) { connection.egress } else { connection.ingress };
            of_port[usize::from(port.0)].push(index);
        }
        let mut chunks: Vec<(PortId, Vec<usize>)> = Vec::new();
        for (port, indexes) in of_port.iter_mut().enumerate() {
            shuffle(&mut random, indexes);
            for chunk in indexes.chunks(BURST) {
                let filled = chunk.iter().chain(indexes.iter().cycle()).copied().take(BURST).collect();
                chunks.push((PortId(port as u8), filled));
            }
        }
        shuffle(&mut random, &mut chunks);
        let mut traffic = Traffic { kind, step, frame_bytes: 0, bytes: Vec::new(), bursts: Vec::new() };
        for (number, (ingress, indexes)) in chunks.into_iter().enumerate() {
            traffic.bursts.push(Burst { ingress, first: number * BURST });
            for index in indexes {
                let frame = frame(kind, &connections[index], step, is_reply(step, index));
                traffic.frame_bytes = frame.len();
                traffic.bytes.extend_from_slice(&frame);
            }
        }
        traffic
    }

    /// All bursts, to be repeated for ever.
    pub fn bursts(&self) -> &[Burst] {
        &self.bursts
    }

    /// Writes one packet of a burst. TCP data moves on by its payload with every `lap`, within half a window.
    pub fn write(
        &self,
        burst: &Burst,
        packet: usize,
        lap: u32,
        out: &mut bulkhead_dataplane::packet::MemoryFrame,
    ) {
        use bulkhead_dataplane::packet::FrameBuf;
        let at = (burst.first + packet) * self.frame_bytes;
        out.fill(&self.bytes[at..at + self.frame_bytes]);
        if self.step == Step::Data
            && let Some(offset) = self.kind.sequence_offset()
        {
            let sequence = &mut out.bytes_mut()[offset..offset + 4];
            let moved = lap % 4096 * PAYLOAD as u32;
            let start = u32::from_be_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]);
            sequence.copy_from_slice(&start.wrapping_add(moved).to_be_bytes());
        }
    }
}

fn is_reply(step: Step, index: usize) -> bool {
    match step {
        Step::Open | Step::Confirm => false,
        Step::Accept => true,
        Step::Data => index % 2 == 1,
    }
}

fn shuffle<T>(random: &mut Random, items: &mut [T]) {
    for end in (1..items.len()).rev() {
        items.swap(end, random.below(end as u32 + 1) as usize);
    }
}

fn frame(kind: Kind, connection: &Connection, step: Step, reply: bool) -> Vec<u8> {
    let Connection { source, destination, source_port, destination_port, ingress, egress } = *connection;
    let (from, to, ports, port) = match reply {
        false => (source, destination, (source_port, destination_port), ingress),
        true => (destination, source, (destination_port, source_port), egress),
    };
    let ethernet = PacketBuilder::ethernet2(gateway::host_mac(from), gateway::port_mac(port));
    let ip = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!("a connection is of one family"),
    };
    let payload = if step == Step::Data { &[7; PAYLOAD][..] } else { &[] };
    let mut frame = Vec::new();
    if kind == Kind::Udp4 {
        ip.udp(ports.0, ports.1).write(&mut frame, &[7; PAYLOAD]).expect("a Vec takes everything");
    } else {
        ip.tcp_header(segment_of(step, reply, ports))
            .write(&mut frame, payload)
            .expect("a Vec takes everything");
    }
    frame
}

/// The originator's numbers start at 100, the responder's at 500.
fn segment_of(step: Step, reply: bool, ports: (u16, u16)) -> etherparse::TcpHeader {
    let (sequence, acknowledgement, flags) = match (step, reply) {
        (Step::Open, _) => (100, 0, tcp_flags::SYN),
        (Step::Accept, _) => (500, 101, tcp_flags::SYN | tcp_flags::ACK),
        (_, false) => (101, 501, tcp_flags::ACK),
        (_, true) => (501, 101, tcp_flags::ACK),
    };
    let mut header = etherparse::TcpHeader::new(ports.0, ports.1, sequence, 65_000);
    header.syn = flags & tcp_flags::SYN != 0;
    header.ack = flags & tcp_flags::ACK != 0;
    header.acknowledgment_number = acknowledgement;
    header
}
