//! TCP, UDP, ICMP and ICMPv6.

use super::{Addresses, Headers, TcpSegment, Transport, option, protocol, tcp_flags};
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

/// Reads the transport header: `segment` is all of the IP packet behind the IP headers.
#[inline(always)]
pub(super) fn parse(segment: &[u8], headers: &mut Headers) -> Result<(), Reason> {
    match (headers.protocol, &headers.addresses) {
        (protocol::TCP, _) => parse_tcp(segment, headers),
        (protocol::UDP, _) => parse_udp(segment, headers),
        (protocol::ICMP, Addresses::V4(..)) => parse_icmp(segment, headers, icmp4),
        (protocol::ICMPV6, Addresses::V6(..)) => parse_icmp(segment, headers, icmp6),
        _ => Err(Reason::ProtocolUnsupported),
    }
}

#[inline(always)]
fn set_ports(headers: &mut Headers, source: u16, destination: u16) -> Result<(), Reason> {
    if source == 0 || destination == 0 {
        return Err(Reason::PortZero);
    }
    headers.source_port = source;
    headers.destination_port = destination;
    Ok(())
}

#[inline(always)]
fn parse_tcp(segment: &[u8], headers: &mut Headers) -> Result<(), Reason> {
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
    set_ports(headers, be16(header, 0), be16(header, 2))?;
    let window_scale = if options.is_empty() { None } else { option::tcp(options)? };
    headers.transport = Transport::Tcp(TcpSegment {
        sequence: be32(header, 4),
        acknowledgement: be32(header, 8),
        window: be16(header, 14),
        flags,
        // Only a SYN may carry it; elsewhere it is to be ignored (RFC 7323, section 2.2).
        window_scale: window_scale.filter(|_| flags & tcp_flags::SYN != 0),
        // Shorter than the IP packet, whose length fits 16 bits.
        payload: (segment.len() - header_bytes) as u16,
    });
    Ok(())
}

#[inline(always)]
fn parse_udp(segment: &[u8], headers: &mut Headers) -> Result<(), Reason> {
    let header = chunk::<{ udp::HEADER_BYTES }>(segment, 0).ok_or(Reason::TransportTruncated)?;
    let length = usize::from(be16(header, 4));
    if length < udp::HEADER_BYTES || length > segment.len() {
        return Err(Reason::UdpBadLength);
    }
    if be16(header, udp::CHECKSUM) == 0 && matches!(headers.addresses, Addresses::V6(..)) {
        return Err(Reason::UdpBadChecksum);
    }
    set_ports(headers, be16(header, 0), be16(header, 2))?;
    headers.transport = Transport::Udp;
    Ok(())
}

fn parse_icmp(
    segment: &[u8],
    headers: &mut Headers,
    classify: fn(u8, u8) -> Option<Transport>,
) -> Result<(), Reason> {
    let header = chunk::<{ icmp::HEADER_BYTES }>(segment, 0).ok_or(Reason::TransportTruncated)?;
    headers.icmp_type = header[0];
    headers.icmp_code = header[1];
    headers.transport = classify(header[0], header[1]).ok_or(Reason::IcmpTypeDenied)?;
    (headers.source_port, headers.destination_port) = echo_ports(headers.transport, be16(header, 4));
    Ok(())
}

/// The identifier stands at the requester's end only: so a request that goes the other way with the same identifier
/// (some systems always use 1) is another connection's, not this one's reply.
pub(super) fn echo_ports(transport: Transport, identifier: u16) -> (u16, u16) {
    match transport {
        Transport::EchoRequest => (identifier, 0),
        Transport::EchoReply => (0, identifier),
        _ => (0, 0),
    }
}

/// Echo has code 0 only; errors may have codes that are not known yet.
pub(super) fn icmp4(icmp_type: u8, code: u8) -> Option<Transport> {
    match (icmp_type, code) {
        (icmp::V4_ECHO_REQUEST, 0) => Some(Transport::EchoRequest),
        (icmp::V4_ECHO_REPLY, 0) => Some(Transport::EchoReply),
        (icmp::V4_UNREACHABLE | icmp::V4_TIME_EXCEEDED | icmp::V4_PARAMETER_PROBLEM, _) => {
            Some(Transport::IcmpError)
        }
        _ => None,
    }
}

/// As [`icmp4`], for ICMPv6.
pub(super) fn icmp6(icmp_type: u8, code: u8) -> Option<Transport> {
    match (icmp_type, code) {
        (icmp::V6_ECHO_REQUEST, 0) => Some(Transport::EchoRequest),
        (icmp::V6_ECHO_REPLY, 0) => Some(Transport::EchoReply),
        (
            icmp::V6_UNREACHABLE
            | icmp::V6_PACKET_TOO_BIG
            | icmp::V6_TIME_EXCEEDED
            | icmp::V6_PARAMETER_PROBLEM,
            _,
        ) => Some(Transport::IcmpError),
        _ => None,
    }
}
