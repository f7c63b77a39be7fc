//! Frames as the tests send them, and packets as they find them on the wire.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use bulkhead_dataplane::topology::Mac;
use etherparse::{NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TcpHeader, TransportSlice};

/// Bytes of an Ethernet header.
pub const ETHERNET_BYTES: usize = 14;

/// The TCP flags (RFC 9293, section 3.1).
pub mod flags {
    #![allow(missing_docs, reason = "they are what RFC 9293 calls them")]
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
}

/// Version of the Internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, for scenarios that hold for either.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// Bytes of its header without options.
    pub fn header_bytes(self) -> usize {
        match self {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }
}

/// From whom to whom a frame goes, and over which link.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Ethernet address of the sender.
    pub from: Mac,
    /// Ethernet address of the link's other end.
    pub to: Mac,
    /// IP address of the sender.
    pub source: IpAddr,
    /// IP address of the receiver, of the same family.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
}

/// What a TCP header says besides the ports.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// See [`flags`].
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; its flag is in `flags`.
    pub ack: u32,
    /// Window, unscaled.
    pub window: u16,
}

/// A segment with a window of 64,000 bytes.
pub fn segment(flags: u8, seq: u32, ack: u32) -> Segment {
    Segment { flags, seq, ack, window: 64_000 }
}

type Builder = PacketBuilderStep<etherparse::IpHeaders>;

impl Path {
    /// The same with another TTL.
    pub fn ttl(self, ttl: u8) -> Path {
        Path { ttl, ..self }
    }

    fn builder(&self) -> Builder {
        let ethernet = PacketBuilder::ethernet2(self.from, self.to);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                ethernet.ipv4(source.octets(), destination.octets(), self.ttl)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                ethernet.ipv6(source.octets(), destination.octets(), self.ttl)
            }
            _ => panic!("{self:?} has two families"),
        }
    }

    /// A UDP datagram.
    pub fn udp(&self, source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        self.builder().udp(source_port, destination_port).write(&mut frame, payload).unwrap();
        frame
    }

    /// A TCP segment.
    pub fn tcp(&self, ports: (u16, u16), segment: Segment, payload: &[u8]) -> Vec<u8> {
        let mut header = TcpHeader::new(ports.0, ports.1, segment.seq, segment.window);
        header.acknowledgment_number = segment.ack;
        let has = |flag: u8| segment.flags & flag != 0;
        header.fin = has(flags::FIN);
        header.syn = has(flags::SYN);
        header.rst = has(flags::RST);
        header.psh = has(flags::PSH);
        header.ack = has(flags::ACK);
        self.tcp_header(header, payload)
    }

    /// A TCP segment with this header; its checksum is computed.
    pub fn tcp_header(&self, header: TcpHeader, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        self.builder().tcp_header(header).write(&mut frame, payload).unwrap();
        frame
    }

    /// An echo request.
    pub fn echo_request(&self, id: u16, seq: u16) -> Vec<u8> {
        let (builder, mut frame) = (self.builder(), Vec::new());
        match self.source {
            IpAddr::V4(_) => builder.icmpv4_echo_request(id, seq).write(&mut frame, b"ping"),
            IpAddr::V6(_) => builder.icmpv6_echo_request(id, seq).write(&mut frame, b"ping"),
        }
        .unwrap();
        frame
    }

    /// An echo reply.
    pub fn echo_reply(&self, id: u16, seq: u16) -> Vec<u8> {
        let (builder, mut frame) = (self.builder(), Vec::new());
        match self.source {
            IpAddr::V4(_) => builder.icmpv4_echo_reply(id, seq).write(&mut frame, b"ping"),
            IpAddr::V6(_) => builder.icmpv6_echo_reply(id, seq).write(&mut frame, b"ping"),
        }
        .unwrap();
        frame
    }

    /// Any ICMP or ICMPv6 message: type, code, bytes 5 to 8, payload.
    pub fn icmp(&self, kind: u8, code: u8, word: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let (builder, mut frame) = (self.builder(), Vec::new());
        match self.source {
            IpAddr::V4(_) => builder.icmpv4_raw(kind, code, word).write(&mut frame, payload),
            IpAddr::V6(_) => builder.icmpv6_raw(kind, code, word).write(&mut frame, payload),
        }
        .unwrap();
        frame
    }

    /// An ICMP error "port unreachable" that quotes the beginning of an IP packet.
    pub fn port_unreachable(&self, quoted: &[u8]) -> Vec<u8> {
        let (kind, code) = if self.source.is_ipv4() { (3, 3) } else { (1, 4) };
        self.icmp(kind, code, [0; 4], &quoted[..quoted.len().min(500)])
    }
}

/// The frame with its IPv4 "don't fragment" taken away.
pub fn may_fragment(frame: Vec<u8>) -> Vec<u8> {
    fragment_v4(frame, 0)
}

/// The frame with these flags and this offset in its IPv4 header (RFC 791, section 3.1).
pub fn fragment_v4(mut frame: Vec<u8>, flags_and_offset: u16) -> Vec<u8> {
    let header = &mut frame[ETHERNET_BYTES..ETHERNET_BYTES + 20];
    header[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
    header[10..12].fill(0);
    let checksum = !sum(0, header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// The IPv6 frame with a fragment header of this offset and flag (RFC 8200, section 4.5) before what it carries.
pub fn fragment_v6(frame: &[u8], offset_and_more: u16) -> Vec<u8> {
    let (headers, content) = frame.split_at(ETHERNET_BYTES + 40);
    let mut headers = headers.to_vec();
    let next = std::mem::replace(&mut headers[ETHERNET_BYTES + 6], 44);
    let length = content.len() as u16 + 8;
    headers[ETHERNET_BYTES + 4..ETHERNET_BYTES + 6].copy_from_slice(&length.to_be_bytes());
    let fragment = [&[next, 0][..], &offset_and_more.to_be_bytes(), &[0, 0, 0, 7]].concat();
    [headers, fragment, content.to_vec()].concat()
}

/// A piece of a frame's IP packet as a fragment of the datagram with this identification: these bytes of what follows
/// the IP header (RFC 791, section 3.2; RFC 8200, section 4.5). Of IPv4 the low 16 bits of the identification count.
pub fn piece(frame: &[u8], id: u32, range: Range<usize>, more: bool) -> Vec<u8> {
    let is_v4 = frame[12..14] == [8, 0];
    let (headers, content) = frame.split_at(ETHERNET_BYTES + if is_v4 { 20 } else { 40 });
    let (mut headers, content) = (headers.to_vec(), &content[range.clone()]);
    let offset = range.start as u16;
    if is_v4 {
        headers[16..18].copy_from_slice(&(20 + content.len() as u16).to_be_bytes());
        headers[18..20].copy_from_slice(&(id as u16).to_be_bytes());
        return fragment_v4([&headers, content].concat(), (offset / 8) | (u16::from(more) << 13));
    }
    let next = std::mem::replace(&mut headers[ETHERNET_BYTES + 6], 44);
    headers[18..20].copy_from_slice(&(8 + content.len() as u16).to_be_bytes());
    let place = (offset | u16::from(more)).to_be_bytes();
    [&headers, &[next, 0][..], &place, &id.to_be_bytes(), content].concat()
}

/// The frame's IP packet in fragments of this many bytes, a multiple of eight, each.
pub fn pieces(frame: &[u8], id: u32, bytes: usize) -> Vec<Vec<u8>> {
    let content = frame.len() - ETHERNET_BYTES - if frame[12..14] == [8, 0] { 20 } else { 40 };
    let starts = (0..content).step_by(bytes);
    starts.map(|start| piece(frame, id, start..content.min(start + bytes), start + bytes < content)).collect()
}

/// The frame's IP packet as it leaves the gateway: one hop older.
pub fn one_hop_on(frame: &[u8]) -> Vec<u8> {
    let mut packet = frame.to_vec();
    if packet[12..14] == [8, 0] {
        packet[ETHERNET_BYTES + 8] -= 1;
        let place = u16::from_be_bytes([packet[20], packet[21]]);
        packet = fragment_v4(packet, place);
    } else {
        packet[ETHERNET_BYTES + 7] -= 1;
    }
    packet.split_off(ETHERNET_BYTES)
}

/// An IP packet from the wire.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    /// Ethernet source.
    pub from: Mac,
    /// Ethernet destination.
    pub to: Mac,
    /// IP source.
    pub source: IpAddr,
    /// IP destination.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// What it carries.
    pub content: Content,
    /// The whole IP packet.
    pub ip: Vec<u8>,
}

/// What an IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// UDP: source port, destination port, payload.
    Udp(u16, u16, Vec<u8>),
    /// TCP: source port, destination port, flags, sequence and acknowledgement number, payload.
    Tcp(u16, u16, u8, u32, u32, Vec<u8>),
    /// ICMP or ICMPv6: type, code, bytes 5 to 8, payload.
    Icmp(u8, u8, [u8; 4], Vec<u8>),
    /// Anything else.
    Other,
}

impl Packet {
    /// The packet in an Ethernet frame; `None` for what is not whole IP.
    ///
    /// # Panics
    /// Panics at a wrong checksum: nothing the gateway sends may have one, nor anything that the tests let through it.
    pub fn parse(frame: &[u8]) -> Option<Packet> {
        let sliced = SlicedPacket::from_ethernet(frame).ok()?;
        let (source, destination, ttl, bytes): (IpAddr, IpAddr, u8, usize) = match sliced.net.as_ref()? {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                let (source, destination) = (header.source_addr().into(), header.destination_addr().into());
                assert_eq!(sum(0, header.slice()), 0xffff, "IPv4 header checksum of {frame:02x?}");
                (source, destination, header.ttl(), usize::from(header.total_len()))
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                let (source, destination) = (header.source_addr().into(), header.destination_addr().into());
                (source, destination, header.hop_limit(), 40 + usize::from(header.payload_length()))
            }
            _ => return None,
        };
        let (content, transport) = match sliced.transport {
            Some(TransportSlice::Udp(udp)) => {
                let content = Content::Udp(udp.source_port(), udp.destination_port(), udp.payload().to_vec());
                (content, (udp.checksum() != 0).then_some((17, udp.slice())))
            }
            Some(TransportSlice::Tcp(tcp)) => {
                let [seq, ack] = [tcp.sequence_number(), tcp.acknowledgment_number()];
                let (ports, flags) = ((tcp.source_port(), tcp.destination_port()), tcp.header_slice()[13]);
                let content = Content::Tcp(ports.0, ports.1, flags, seq, ack, tcp.payload().to_vec());
                (content, Some((6, tcp.slice())))
            }
            Some(TransportSlice::Icmpv4(icmp)) => {
                let bytes = icmp.slice();
                (icmp_content(bytes), Some((1, bytes)))
            }
            Some(TransportSlice::Icmpv6(icmp)) => (icmp_content(icmp.slice()), Some((58, icmp.slice()))),
            _ => (Content::Other, None),
        };
        if let Some((protocol, bytes)) = transport {
            let sum = sum(pseudo_header(source, destination, protocol, bytes.len()), bytes);
            assert_eq!(sum, 0xffff, "transport checksum of {frame:02x?}");
        }
        let ip = frame.get(ETHERNET_BYTES..ETHERNET_BYTES + bytes)?.to_vec();
        let (to, from) = (frame[..6].try_into().ok()?, frame[6..12].try_into().ok()?);
        Some(Packet { from, to, source, destination, ttl, content, ip })
    }

    /// Its version.
    pub fn family(&self) -> Family {
        if self.source.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Whether it is UDP to this port.
    pub fn is_udp_to(&self, port: u16) -> bool {
        matches!(self.content, Content::Udp(_, destination, _) if destination == port)
    }

    /// Whether it is TCP to this port.
    pub fn is_tcp_to(&self, port: u16) -> bool {
        matches!(self.content, Content::Tcp(_, destination, ..) if destination == port)
    }

    /// The TCP flags; 0 for what is not TCP.
    pub fn tcp_flags(&self) -> u8 {
        if let Content::Tcp(_, _, flags, ..) = self.content { flags } else { 0 }
    }

    /// Type and code, if it is ICMP or ICMPv6.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        if let Content::Icmp(kind, code, ..) = self.content { Some((kind, code)) } else { None }
    }

    /// What an ICMP error quotes.
    pub fn quote(&self) -> &[u8] {
        if let Content::Icmp(_, _, _, quote) = &self.content { quote } else { &[] }
    }

    /// The payload of UDP or TCP.
    pub fn payload(&self) -> &[u8] {
        match &self.content {
            Content::Udp(.., payload) | Content::Tcp(.., payload) => payload,
            _ => &[],
        }
    }

    /// Whether it belongs to the noise of every IPv6 link (neighbour discovery, multicast listener reports) and so to
    /// no scenario.
    pub fn is_noise(&self) -> bool {
        let link_local = |address: IpAddr| match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
        };
        let discovery = self.family() == Family::V6 && matches!(self.icmp(), Some((133..=137, _)));
        discovery
            || self.destination.is_multicast()
            || link_local(self.source)
            || link_local(self.destination)
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {} ttl {} ", self.source, self.destination, self.ttl)?;
        match &self.content {
            Content::Udp(source, destination, payload) => {
                write!(f, "udp {source} → {destination} {} bytes", payload.len())
            }
            Content::Tcp(source, destination, flags, seq, ack, payload) => {
                let bytes = payload.len();
                write!(f, "tcp {source} → {destination} flags {flags:#x} seq {seq} ack {ack} {bytes} bytes")
            }
            Content::Icmp(kind, code, ..) => write!(f, "icmp type {kind} code {code}"),
            Content::Other => write!(f, "something else"),
        }
    }
}

fn icmp_content(bytes: &[u8]) -> Content {
    let word = bytes[4..8].try_into().expect("four bytes");
    Content::Icmp(bytes[0], bytes[1], word, bytes[8..].to_vec())
}

/// The sum of what TCP, UDP and ICMPv6 checksums cover besides the segment (RFC 9293, 3.1; RFC 8200, 8.1). ICMP of
/// IPv4 covers nothing else.
pub(crate) fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, bytes: usize) -> u16 {
    let rest = [&(bytes as u32).to_be_bytes()[..], &[0, 0, 0, protocol]].concat();
    match (source, destination) {
        _ if protocol == 1 => 0,
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            sum(0, &[&source.octets()[..], &destination.octets(), &rest].concat())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            sum(0, &[&source.octets()[..], &destination.octets(), &rest].concat())
        }
        _ => unreachable!("both came from one header"),
    }
}

/// The one's complement sum (RFC 1071).
pub(crate) fn sum(start: u16, bytes: &[u8]) -> u16 {
    let mut total = u32::from(start);
    for pair in bytes.chunks(2) {
        total += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}
