//! TCP, UDP, ICMP and ICMPv6.

use super::{Headers, TcpSegment, Transport, option, protocol, tcp_flags};
use crate::verdict::Reason;
use crate::wire::{be16, be32, chunk, icmp, tcp, udp};

/// Which of the 64 combinations of FIN, SYN, RST, PSH, ACK and URG are sent by a TCP, as a bit set. At most one of
/// SYN, FIN and RST; FIN, and a segment with none of them, only with ACK. ECE, CWR and AE are not looked at.
const FLAGS_VALID: u64 = {
    let mut set = 0;
    let mut flags: u8 = 0;
    while flags < 64 {
        let acknowledges = flags & tcp_flags::ACK != 0;
        let valid = match flags & (tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST) {
            tcp_flags::SYN | tcp_flags::RST => true,
            0 | tcp_flags::FIN => acknowledges,
            _ => false,
        };
        if valid {
            set |= 1 << flags;
        }
        flags += 1;
    }
    set
};

/// What the transport header adds to [`super::Headers`].
pub(super) struct Upper {
    pub source_port: u16,
    pub destination_port: u16,
    pub icmp_type: u8,
    pub icmp_code: u8,
    pub transport: Transport,
}

#[inline(always)]
fn with_ports(
    source_port: u16,
    destination_port: u16,
    transport: Transport,
    build: impl FnOnce(Upper) -> Headers,
) -> Result<Headers, Reason> {
    if source_port == 0 || destination_port == 0 {
        return Err(Reason::PortZero);
    }
    Ok(build(Upper { source_port, destination_port, icmp_type: 0, icmp_code: 0, transport }))
}

/// Reads a TCP header: `segment` is all of the IP packet behind the IP headers, `build` makes the result of it.
#[inline(always)]
pub(super) fn tcp(segment: &[u8], build: impl FnOnce(Upper) -> Headers) -> Result<Headers, Reason> {
    let header = chunk::<{ tcp::HEADER_BYTES }>(segment, 0).ok_or(Reason::TransportTruncated)?;
    let header_bytes = usize::from(header[12] >> 4) * 4;
    if header_bytes < tcp::HEADER_BYTES {
        return Err(Reason::TcpBadOffset);
    }
    let options = segment.get(tcp::HEADER_BYTES..header_bytes).ok_or(Reason::TcpBadOffset)?;
    let flags = header[13] & 0x3f;
    if FLAGS_VALID >> flags & 1 == 0 {
        return Err(Reason::TcpBadFlags);
    }
    let window_scale = if options.is_empty() { None } else { option::tcp(options)? };
    let tcp = TcpSegment {
        sequence: be32(header, 4),
        acknowledgement: be32(header, 8),
        window: be16(header, 14),
        flags,
        // Only a SYN may carry it; elsewhere it is to be ignored (RFC 7323, section 2.2).
        window_scale: window_scale.filter(|_| flags & tcp_flags::SYN != 0),
        // Shorter than the IP packet, whose length fits 16 bits.
        payload: (segment.len() - header_bytes) as u16,
    };
    with_ports(be16(header, 0), be16(header, 2), Transport::Tcp(tcp), build)
}

/// As [`tcp`], for UDP.
#[inline(always)]
pub(super) fn udp(
    segment: &[u8],
    over_ipv6: bool,
    build: impl FnOnce(Upper) -> Headers,
) -> Result<Headers, Reason> {
    let header = chunk::<{ udp::HEADER_BYTES }>(segment, 0).ok_or(Reason::TransportTruncated)?;
    let length = usize::from(be16(header, 4));
    if length < udp::HEADER_BYTES || length > segment.len() {
        return Err(Reason::UdpBadLength);
    }
    if over_ipv6 && be16(header, udp::CHECKSUM) == 0 {
        return Err(Reason::UdpBadChecksum);
    }
    with_ports(be16(header, 0), be16(header, 2), Transport::Udp, build)
}

/// A protocol of which nothing but the number is read. ICMP of the other family is none.
#[cold]
pub(super) fn opaque(number: u8) -> Result<Upper, Reason> {
    if !protocol::is_opaque(number) {
        return Err(Reason::ProtocolUnsupported);
    }
    let transport = Transport::Opaque;
    Ok(Upper { source_port: 0, destination_port: 0, icmp_type: 0, icmp_code: 0, transport })
}

/// Reads the header of ICMP or ICMPv6, whichever `classify` knows.
pub(super) fn icmp(segment: &[u8], classify: fn(u8, u8) -> Option<Transport>) -> Result<Upper, Reason> {
    let header = chunk::<{ icmp::HEADER_BYTES }>(segment, 0).ok_or(Reason::TransportTruncated)?;
    let (icmp_type, icmp_code) = (header[0], header[1]);
    let transport = classify(icmp_type, icmp_code).ok_or(Reason::IcmpTypeDenied)?;
    let (source_port, destination_port) = echo_ports(transport, be16(header, 4));
    Ok(Upper { source_port, destination_port, icmp_type, icmp_code, transport })
}

/// The identifier stands at the requester's end, and the next number at the other: so a request that goes the other way,
/// whatever its identifier (some systems always use 1), is another connection's, not this one's reply. No constant at
/// the other end would do, for it is an identifier, too.
pub(super) fn echo_ports(transport: Transport, identifier: u16) -> (u16, u16) {
    match transport {
        Transport::EchoRequest => (identifier, identifier.wrapping_add(1)),
        Transport::EchoReply => (identifier.wrapping_add(1), identifier),
        _ => (0, 0),
    }
}

/// The codes of errors that are known: an unknown one says nothing that its receiver could act on (IANA, ICMP
/// parameters: RFC 792, RFC 1122, RFC 1812).
const V4_CODES: [(u8, u8); 3] =
    [(icmp::V4_UNREACHABLE, 15), (icmp::V4_TIME_EXCEEDED, 1), (icmp::V4_PARAMETER_PROBLEM, 2)];
/// As [`V4_CODES`]; codes 0 to the number (IANA, ICMPv6 parameters: RFC 4443, RFC 7112, RFC 8883, RFC 8754).
const V6_CODES: [(u8, u8); 4] = [
    (icmp::V6_UNREACHABLE, 8),
    (icmp::V6_PACKET_TOO_BIG, 0),
    (icmp::V6_TIME_EXCEEDED, 1),
    (icmp::V6_PARAMETER_PROBLEM, 10),
];

fn error(codes: &[(u8, u8)], icmp_type: u8, code: u8) -> Option<Transport> {
    let is_known = codes.iter().any(|(known, last)| *known == icmp_type && code <= *last);
    is_known.then_some(Transport::IcmpError)
}

/// What a type and code mean here; `None` for what never crosses. Echo has code 0 only.
pub(super) fn icmp4(icmp_type: u8, code: u8) -> Option<Transport> {
    match (icmp_type, code) {
        (icmp::V4_ECHO_REQUEST, 0) => Some(Transport::EchoRequest),
        (icmp::V4_ECHO_REPLY, 0) => Some(Transport::EchoReply),
        _ => error(&V4_CODES, icmp_type, code),
    }
}

/// As [`icmp4`], for ICMPv6.
pub(super) fn icmp6(icmp_type: u8, code: u8) -> Option<Transport> {
    match (icmp_type, code) {
        (icmp::V6_ECHO_REQUEST, 0) => Some(Transport::EchoRequest),
        (icmp::V6_ECHO_REPLY, 0) => Some(Transport::EchoReply),
        _ => error(&V6_CODES, icmp_type, code),
    }
}
