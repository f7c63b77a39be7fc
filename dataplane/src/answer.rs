//! Our own answers to packets that are not forwarded: TCP resets and ICMP errors, built in place in the frame of the
//! packet that is answered, and sent back to where it came from.
//!
//! # Amplification
//! A reset is never longer than the segment it answers. An ICMP error quotes as much of its packet as what
//! [`RateLimiter`] has left for that source, and never makes more than 576 (IPv4) or 1,280 bytes (IPv6); the limiter
//! also bounds how many answers there are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::connection::Challenge;
use crate::headers::{Addresses, Headers, Transport, protocol, tcp_flags};
use crate::packet::FrameBuf;
use crate::wire::checksum::Sum;
use crate::wire::{icmp, ipv4, ipv6, tcp};

mod limit;
#[cfg(test)]
mod tests;

pub use limit::{Limits, RateLimiter};

/// An ICMP error, in IPv4 at most this long (RFC 1812, section 4.3.2.3).
const V4_ERROR_BYTES: usize = 576;
/// An ICMPv6 error with its headers: the least MTU of IPv6 (RFC 4443, section 2.4 c).
const V6_ERROR_BYTES: usize = 1280;
/// TTL and hop limit of what we send (RFC 1700).
const HOP_LIMIT: u8 = 64;
/// Type of service of ICMPv4 errors: precedence "internetwork control" (RFC 1812, section 4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 0xc0;

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// The TTL or hop limit ran out in transit.
    TimeExceeded,
    /// A rule rejects it.
    AdminProhibited,
    /// The next hop does not answer: host unreachable (IPv4), address unreachable (IPv6).
    HostUnreachable,
    /// No route: network unreachable (IPv4), no route to destination (IPv6).
    NoRoute,
    /// Fragmentation needed (IPv4 with don't-fragment), packet too big (IPv6).
    TooBig {
        /// The egress MTU, bytes.
        mtu: u16,
    },
}

impl IcmpError {
    /// Type, code, and the four bytes behind the checksum.
    fn v4(self) -> (u8, u8, u32) {
        match self {
            IcmpError::TimeExceeded => (icmp::V4_TIME_EXCEEDED, 0, 0),
            IcmpError::NoRoute => (icmp::V4_UNREACHABLE, 0, 0),
            IcmpError::HostUnreachable => (icmp::V4_UNREACHABLE, 1, 0),
            IcmpError::AdminProhibited => (icmp::V4_UNREACHABLE, 13, 0),
            IcmpError::TooBig { mtu } => (icmp::V4_UNREACHABLE, icmp::V4_FRAGMENTATION_NEEDED, mtu.into()),
        }
    }

    fn v6(self) -> (u8, u8, u32) {
        match self {
            IcmpError::TimeExceeded => (icmp::V6_TIME_EXCEEDED, 0, 0),
            IcmpError::NoRoute => (icmp::V6_UNREACHABLE, 0, 0),
            IcmpError::AdminProhibited => (icmp::V6_UNREACHABLE, 1, 0),
            IcmpError::HostUnreachable => (icmp::V6_UNREACHABLE, 3, 0),
            IcmpError::TooBig { mtu } => (icmp::V6_PACKET_TOO_BIG, 0, mtu.into()),
        }
    }
}

/// Turns a TCP segment into the reset that answers it (RFC 9293, section 3.10.7.1), as if its destination had sent it.
/// `headers` must be those of `frame`.
///
/// Returns false, with the frame unchanged, where it must not be answered: not TCP, itself a reset, or see
/// [`icmp_error`] for addresses.
#[must_use]
pub fn tcp_reset(frame: &mut impl FrameBuf, headers: &Headers) -> bool {
    let Transport::Tcp(segment) = headers.transport else { return false };
    let answer = if segment.flags & tcp_flags::ACK != 0 {
        (segment.acknowledgement, 0, tcp_flags::RST)
    } else {
        // SYN and FIN each take one sequence number.
        let controls = (segment.flags & (tcp_flags::SYN | tcp_flags::FIN)).count_ones();
        let length = u32::from(segment.payload) + controls;
        (0, segment.sequence.wrapping_add(length), tcp_flags::RST | tcp_flags::ACK)
    };
    tcp_answer(frame, headers, answer)
}

/// Turns a SYN into the SYN-ACK that asks its sender to show that it is there (see
/// [`Clients`](crate::connection::Clients)), as if its destination had sent it: without options, and with a window of 0,
/// so that it is never longer than the SYN and nobody who should take it for real sends data on it.
///
/// Returns false as [`tcp_reset`] does.
#[must_use]
pub fn syn_challenge(frame: &mut impl FrameBuf, headers: &Headers, challenge: Challenge) -> bool {
    let Challenge { sequence, acknowledgement } = challenge;
    tcp_answer(frame, headers, (sequence, acknowledgement, tcp_flags::SYN | tcp_flags::ACK))
}

/// Turns a TCP segment into a bare one with these sequence and acknowledgement numbers and flags, sent back.
fn tcp_answer(frame: &mut impl FrameBuf, headers: &Headers, answer: (u32, u32, u8)) -> bool {
    let Transport::Tcp(segment) = headers.transport else { return false };
    if segment.flags & tcp_flags::RST != 0 || !may_answer(frame.bytes(), headers) {
        return false;
    }
    let network = usize::from(headers.network);
    let ip_bytes = ip_header_bytes(&headers.addresses);
    let start = network + ip_bytes;
    // Never longer than what is answered, but an allowed length all the same must be asked for.
    if frame.bytes().len() < start + tcp::HEADER_BYTES || !frame.set_len(start + tcp::HEADER_BYTES) {
        return false;
    }
    let addresses = reversed(&headers.addresses);
    let bytes = frame.bytes_mut();
    swap_ethernet(bytes);
    write_ip(&mut bytes[network..start], &addresses, protocol::TCP, tcp::HEADER_BYTES as u16, 0);
    let out = bare_segment(headers, &addresses, answer);
    bytes[start..].copy_from_slice(&out);
    true
}

fn bare_segment(
    headers: &Headers,
    addresses: &Addresses,
    (sequence, acknowledgement, flags): (u32, u32, u8),
) -> [u8; tcp::HEADER_BYTES] {
    let mut out = [0; tcp::HEADER_BYTES];
    out[0..2].copy_from_slice(&headers.destination_port.to_be_bytes());
    out[2..4].copy_from_slice(&headers.source_port.to_be_bytes());
    out[4..8].copy_from_slice(&sequence.to_be_bytes());
    out[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
    out[12] = (tcp::HEADER_BYTES as u8 / 4) << 4;
    out[13] = flags;
    let sum = Sum::new().pseudo_header(addresses, protocol::TCP, tcp::HEADER_BYTES as u16).bytes(&out);
    out[tcp::CHECKSUM..tcp::CHECKSUM + 2].copy_from_slice(&sum.checksum().to_be_bytes());
    out
}

/// The least that a reset and an ICMP error about this packet take, bytes of IP: an error quotes at least the headers
/// up to the transport's and eight bytes of that (RFC 792; RFC 5927 and every NAT need the ports).
pub fn least_bytes(headers: &Headers, is_reset: bool) -> usize {
    let ip_bytes = ip_header_bytes(&headers.addresses);
    match is_reset {
        true => ip_bytes + tcp::HEADER_BYTES,
        false => ip_bytes + icmp::HEADER_BYTES + least_quote(headers),
    }
}

fn least_quote(headers: &Headers) -> usize {
    headers.ip_len().min(usize::from(headers.transport_offset - headers.network) + icmp::HEADER_BYTES)
}

/// Turns a packet into the ICMP error about it, sent by `from`, one of the gateway's own addresses. It quotes as much
/// of the packet as fits, with `most` bytes of IP in all. The packet must be as it was received, not yet rewritten; `headers` must be those of `frame`.
///
/// Returns false, with the frame unchanged, where it must not be answered (RFC 1122, section 3.2.2; RFC 1812, section
/// 4.3.2.7; RFC 4443, section 2.4 e): an ICMP error, a destination that is multicast or broadcast on the link or in
/// IP, a source that is not one host. Also where `from` is of the other family, where an IPv4 packet that may be
/// fragmented is too big (it is dropped without a word), where the frame's memory is too small, and where `most` is less
/// than [`least_bytes`].
/// Directed broadcasts are the caller's to know, and that of a datagram only the first fragment is answered.
#[must_use]
pub fn icmp_error(
    frame: &mut impl FrameBuf,
    headers: &Headers,
    error: IcmpError,
    from: IpAddr,
    most: usize,
) -> bool {
    if headers.transport == Transport::IcmpError || !may_answer(frame.bytes(), headers) {
        return false;
    }
    let too_big = matches!(error, IcmpError::TooBig { .. });
    let (addresses, number, limit, (icmp_type, code, rest)) = match (&headers.addresses, from) {
        (Addresses::V4(source, _), IpAddr::V4(from)) if !(too_big && headers.may_fragment) => {
            (Addresses::V4(from, *source), protocol::ICMP, V4_ERROR_BYTES, error.v4())
        }
        (Addresses::V6(source, _), IpAddr::V6(from)) => {
            (Addresses::V6(from, *source), protocol::ICMPV6, V6_ERROR_BYTES, error.v6())
        }
        _ => return false,
    };
    let network = usize::from(headers.network);
    let start = network + ip_header_bytes(&addresses);
    let quote = start + icmp::HEADER_BYTES;
    let quoted = headers.ip_len().min(limit.min(most).saturating_sub(quote - network));
    if quoted < least_quote(headers) {
        return false;
    }
    let end = quote + quoted;
    let len = frame.bytes().len();
    if len < network + quoted || (end > len && !frame.set_len(end)) {
        return false;
    }
    frame.bytes_mut().copy_within(network..network + quoted, quote);
    // Shortening where there was padding or more packet than is quoted. It cannot fail; were it to, what is left
    // behind the end is link-layer padding.
    let _ = frame.set_len(end);
    let bytes = frame.bytes_mut();
    swap_ethernet(bytes);
    let length = (icmp::HEADER_BYTES + quoted) as u16;
    write_ip(&mut bytes[network..start], &addresses, number, length, INTERNETWORK_CONTROL);
    let message = &mut bytes[start..end];
    message[..4].copy_from_slice(&[icmp_type, code, 0, 0]);
    message[4..8].copy_from_slice(&rest.to_be_bytes());
    let pseudo = match addresses {
        Addresses::V4(..) => Sum::new(),
        Addresses::V6(..) => Sum::new().pseudo_header(&addresses, number, length),
    };
    let sum = pseudo.bytes(message).checksum();
    message[icmp::CHECKSUM..icmp::CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Whether anything may be said about a packet with these addresses.
fn may_answer(frame: &[u8], headers: &Headers) -> bool {
    // The frame's destination becomes the answer's source, so it must be one station's.
    let to_one_station = frame.first_chunk::<6>().is_some_and(|to| to[0] & 1 == 0 && *to != [0; 6]);
    to_one_station
        && match &headers.addresses {
            Addresses::V4(source, destination) => is_host4(source) && is_host4(destination),
            Addresses::V6(source, destination) => is_host6(source) && is_host6(destination),
        }
}

fn is_host4(address: &Ipv4Addr) -> bool {
    // 0/8 is "this network", 224/4 multicast, 240/4 reserved and the limited broadcast.
    !matches!(address.octets()[0], 0 | 127 | 224..)
}

fn is_host6(address: &Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

fn reversed(addresses: &Addresses) -> Addresses {
    match *addresses {
        Addresses::V4(source, destination) => Addresses::V4(destination, source),
        Addresses::V6(source, destination) => Addresses::V6(destination, source),
    }
}

fn ip_header_bytes(addresses: &Addresses) -> usize {
    match addresses {
        Addresses::V4(..) => ipv4::HEADER_BYTES,
        Addresses::V6(..) => ipv6::HEADER_BYTES,
    }
}

/// Back to the sender: source and destination change places. A VLAN tag stays.
fn swap_ethernet(frame: &mut [u8]) {
    let (destination, source) = frame.split_at_mut(6);
    destination.swap_with_slice(&mut source[..6]);
}

/// Writes an IP header without options. `payload` is the length of what follows, bytes.
fn write_ip(out: &mut [u8], addresses: &Addresses, protocol: u8, payload: u16, service: u8) {
    out.fill(0);
    match addresses {
        Addresses::V4(source, destination) => {
            out[0] = 0x45;
            out[1] = service;
            out[2..4].copy_from_slice(&(ipv4::HEADER_BYTES as u16 + payload).to_be_bytes());
            // Identification 0 is right for a packet that can never be a fragment (RFC 6864, section 4.1).
            out[6..8].copy_from_slice(&ipv4::DONT_FRAGMENT.to_be_bytes());
            out[ipv4::TTL] = HOP_LIMIT;
            out[9] = protocol;
            out[12..16].copy_from_slice(&source.octets());
            out[16..20].copy_from_slice(&destination.octets());
            let sum = Sum::new().bytes(out).checksum();
            out[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
        }
        Addresses::V6(source, destination) => {
            out[0] = 0x60;
            out[4..6].copy_from_slice(&payload.to_be_bytes());
            out[6] = protocol;
            out[ipv6::HOP_LIMIT] = HOP_LIMIT;
            out[8..24].copy_from_slice(&source.octets());
            out[24..40].copy_from_slice(&destination.octets());
        }
    }
}
