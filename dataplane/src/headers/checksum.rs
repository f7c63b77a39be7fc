//! The transport checksum, verified apart from parsing: only packets that would change state need it.

use super::{Addresses, Headers, protocol};
use crate::verdict::Reason;
use crate::wire::checksum::Sum;
use crate::wire::{be16, chunk, udp};

/// Verifies the checksum of TCP, UDP, ICMP or ICMPv6 over the whole segment. `headers` must be those of `frame`.
///
/// A UDP checksum of zero over IPv4 says that there is none, and passes (RFC 768).
///
/// # Errors
/// [`Reason::TcpBadChecksum`], [`Reason::UdpBadChecksum`] or [`Reason::IcmpBadChecksum`];
/// [`Reason::TransportTruncated`] where the headers are not this frame's.
pub fn verify_transport_checksum(frame: &[u8], headers: &Headers) -> Result<(), Reason> {
    let segment = frame
        .get(usize::from(headers.transport_offset)..usize::from(headers.end))
        .ok_or(Reason::TransportTruncated)?;
    let (segment, reason) = match headers.protocol {
        protocol::TCP => (segment, Reason::TcpBadChecksum),
        protocol::UDP => {
            let header = chunk::<{ udp::HEADER_BYTES }>(segment, 0).ok_or(Reason::TransportTruncated)?;
            if be16(header, udp::CHECKSUM) == 0 {
                return match headers.addresses {
                    Addresses::V4(..) => Ok(()),
                    Addresses::V6(..) => Err(Reason::UdpBadChecksum),
                };
            }
            // The datagram may end before the packet does.
            let datagram = segment.get(..usize::from(be16(header, 4))).ok_or(Reason::UdpBadLength)?;
            (datagram, Reason::UdpBadChecksum)
        }
        protocol::ICMP | protocol::ICMPV6 => (segment, Reason::IcmpBadChecksum),
        // What, if anything, protects another protocol is not known here.
        _ => return Ok(()),
    };
    let pseudo = match headers.protocol {
        protocol::ICMP => Sum::new(),
        // A segment is shorter than its packet, whose length fits 16 bits.
        other => Sum::new().pseudo_header(&headers.addresses, other, segment.len() as u16),
    };
    if pseudo.bytes(segment).is_valid() { Ok(()) } else { Err(reason) }
}
