//! The packet quoted in an ICMP error. Only its beginning is there, and it was written by whoever sent the error.

use std::net::Ipv4Addr;

use super::ip::address6;
use super::transport::{icmp4, icmp6};
use super::{Addresses, Headers, Quote, Transport, extension, protocol};
use crate::verdict::Reason;
use crate::wire::{be16, be32, chunk, icmp, ipv4, ipv6};

/// Routers need not quote more of the transport header than this (RFC 792).
const TRANSPORT_BYTES: usize = 8;

/// Reads the packet quoted in an ICMP error.
///
/// The quoted header checksum is not verified: routers have changed the TTL under it, and some NATs and routers leave
/// it wrong. The transport checksum of the error itself is [`super::verify_transport_checksum`]'s.
///
/// # Errors
/// [`Reason::IcmpBadQuote`] where the headers are not an ICMP error's, or the quote is cut short before eight bytes
/// of transport header, malformed, of the other family, a later fragment, itself an ICMP error, or of a packet that
/// the gateway never forwards.
pub fn parse_quote(frame: &[u8], headers: &Headers) -> Result<Quote, Reason> {
    read(frame, headers).ok_or(Reason::IcmpBadQuote)
}

fn read(frame: &[u8], headers: &Headers) -> Option<Quote> {
    if headers.transport != Transport::IcmpError {
        return None;
    }
    let message = frame.get(usize::from(headers.transport_offset)..usize::from(headers.end))?;
    let (header, quoted) = message.split_first_chunk::<{ icmp::HEADER_BYTES }>()?;
    match headers.addresses {
        Addresses::V4(..) => {
            let stated = (header[0], header[1]) == (icmp::V4_UNREACHABLE, icmp::V4_FRAGMENTATION_NEEDED);
            read4(quoted, stated.then(|| u32::from(be16(header, 6))))
        }
        Addresses::V6(..) => read6(quoted, (header[0] == icmp::V6_PACKET_TOO_BIG).then(|| be32(header, 4))),
    }
}

fn read4(quoted: &[u8], mtu: Option<u32>) -> Option<Quote> {
    let header = chunk::<{ ipv4::HEADER_BYTES }>(quoted, 0)?;
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(be16(header, 2));
    if header[0] >> 4 != 4
        || header_bytes < ipv4::HEADER_BYTES
        || total < header_bytes + TRANSPORT_BYTES
        // A first fragment has the ports: a router behind us may have fragmented what we sent whole.
        || be16(header, 6) & ipv4::FRAGMENT_OFFSET != 0
    {
        return None;
    }
    let addresses =
        Addresses::V4(Ipv4Addr::from_bits(be32(header, 12)), Ipv4Addr::from_bits(be32(header, 16)));
    // What follows the packet (RFC 4884 extensions) is not part of it. Options are skipped by the header's length.
    let end = quoted.len().min(total);
    transport(quoted.get(header_bytes..end)?, addresses, header[9], mtu)
}

fn read6(quoted: &[u8], mtu: Option<u32>) -> Option<Quote> {
    let (header, body) = quoted.split_first_chunk::<{ ipv6::HEADER_BYTES }>()?;
    let payload = usize::from(be16(header, 4));
    if header[0] >> 4 != 6 {
        return None;
    }
    let body = &body[..body.len().min(payload)];
    // A fragment header is a reason to drop here too: the gateway forwards none, and no router adds one.
    let upper = extension::walk(body, header[6]).ok()?;
    let addresses = Addresses::V6(address6(header, 8), address6(header, 24));
    transport(body.get(upper.offset..)?, addresses, upper.protocol, mtu)
}

fn transport(segment: &[u8], addresses: Addresses, protocol: u8, mtu: Option<u32>) -> Option<Quote> {
    let header = segment.first_chunk::<TRANSPORT_BYTES>()?;
    let echo = |kind: Option<Transport>| match kind? {
        Transport::EchoRequest | Transport::EchoReply => Some((be16(header, 4), be16(header, 4))),
        _ => None,
    };
    let (source_port, destination_port) = match (protocol, &addresses) {
        (protocol::TCP | protocol::UDP, _) => {
            let ports = (be16(header, 0), be16(header, 2));
            (ports.0 != 0 && ports.1 != 0).then_some(ports)?
        }
        (protocol::ICMP, Addresses::V4(..)) => echo(icmp4(header[0], header[1]))?,
        (protocol::ICMPV6, Addresses::V6(..)) => echo(icmp6(header[0], header[1]))?,
        _ => return None,
    };
    let tcp_sequence = (protocol == protocol::TCP).then(|| be32(header, 4));
    Some(Quote { addresses, source_port, destination_port, protocol, tcp_sequence, mtu })
}
