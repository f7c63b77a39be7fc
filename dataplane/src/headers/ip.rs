//! Ethernet and IP: from the frame's first byte to the transport header.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Addresses, Headers, Permits, extension, option, protocol, transport};
use crate::topology::Mac;
use crate::verdict::Reason;
use crate::wire::checksum::Sum;
use crate::wire::{be16, be32, chunk, ethernet, ipv4, ipv6};

/// Reads a frame from its Ethernet header to its transport header.
///
/// One forward pass, no allocation, no panic on any bytes. The destination address of the Ethernet header is not
/// looked at: which ones are the port's own is the pipeline's to know. Transport checksums are not verified here, see
/// [`super::verify_transport_checksum`].
///
/// # Errors
/// The one reason why the frame is malformed, or must not cross whatever a rule says.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Headers, Reason> {
    let link = ethernet(frame)?;
    match link.ethertype {
        ethernet::IPV4 => ipv4(frame, &link),
        ethernet::IPV6 => ipv6(frame, &link),
        _ => Err(Reason::EthertypeUnsupported),
    }
}

pub(super) struct Link {
    pub ethertype: u16,
    pub vlan: u16,
    pub network: usize,
    pub sender: Option<Mac>,
}

#[inline(always)]
pub(super) fn ethernet(frame: &[u8]) -> Result<Link, Reason> {
    let header = chunk::<{ ethernet::HEADER_BYTES }>(frame, 0).ok_or(Reason::EthernetTruncated)?;
    let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *header;
    let source = [a, b, c, d, e, f];
    if a & 1 != 0 || source == [0; 6] {
        return Err(Reason::EthernetBadSource);
    }
    match be16(header, 12) {
        ethernet::CUSTOMER_TAG | ethernet::SERVICE_TAG | ethernet::OLD_NESTED_TAG => tagged(frame),
        ethertype => Ok(Link { ethertype, vlan: 0, network: ethernet::HEADER_BYTES, sender: Some(source) }),
    }
}

#[cold]
fn tagged(frame: &[u8]) -> Result<Link, Reason> {
    let tag =
        chunk::<{ ethernet::TAG_BYTES }>(frame, ethernet::HEADER_BYTES).ok_or(Reason::EthernetTruncated)?;
    let ethertype = be16(tag, 2);
    match ethertype {
        ethernet::CUSTOMER_TAG | ethernet::SERVICE_TAG | ethernet::OLD_NESTED_TAG => Err(Reason::VlanNested),
        // The low twelve bits; the others are priority. A priority tag (identifier 0) is still a tag, and `network`
        // tells it from an untagged frame.
        _ => Ok(Link {
            ethertype,
            vlan: be16(tag, 0) & 0x0fff,
            network: ethernet::HEADER_BYTES + ethernet::TAG_BYTES,
            sender: ethernet::source(frame),
        }),
    }
}

/// What both families tell the transport parser.
pub(super) struct Network {
    pub addresses: Addresses,
    pub protocol: u8,
    pub hop_limit: u8,
    pub may_fragment: bool,
    pub needs: Permits,
    pub transport_offset: usize,
    pub end: usize,
}

#[inline(always)]
fn ipv4(frame: &[u8], link: &Link) -> Result<Headers, Reason> {
    let header = chunk::<{ ipv4::HEADER_BYTES }>(frame, link.network).ok_or(Reason::Ipv4Truncated)?;
    if header[0] >> 4 != 4 {
        return Err(Reason::Ipv4BadVersion);
    }
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    if header_bytes < ipv4::HEADER_BYTES {
        return Err(Reason::Ipv4BadHeaderLength);
    }
    let total = usize::from(be16(header, 2));
    let transport_offset = link.network + header_bytes;
    let end = link.network + total;
    if transport_offset > frame.len() {
        return Err(Reason::Ipv4BadHeaderLength);
    }
    if total < header_bytes {
        return Err(Reason::Ipv4BadTotalLength);
    }
    if end > frame.len() {
        return Err(Reason::Ipv4Truncated);
    }
    let needs = if header_bytes == ipv4::HEADER_BYTES {
        if !Sum::new().bytes(header).is_valid() {
            return Err(Reason::Ipv4BadChecksum);
        }
        Permits::NONE
    } else {
        ipv4_options(&frame[link.network..transport_offset])?
    };
    let fragment = be16(header, 6);
    if fragment & (ipv4::FRAGMENT | ipv4::RESERVED) != 0 {
        if fragment & ipv4::RESERVED != 0 {
            return Err(Reason::Ipv4ReservedFlag);
        }
        // Each fragment has options of its own, and what permits them would have to be kept with each.
        return Err(needs.refusal(Permits::NONE).unwrap_or(Reason::Fragment));
    }
    let network = Network {
        addresses: Addresses::V4(
            Ipv4Addr::from_bits(be32(header, 12)),
            Ipv4Addr::from_bits(be32(header, 16)),
        ),
        protocol: header[9],
        hop_limit: header[ipv4::TTL],
        may_fragment: fragment & ipv4::DONT_FRAGMENT == 0,
        needs,
        transport_offset,
        end,
    };
    finish(frame, link, network)
}

#[cold]
fn ipv4_options(header: &[u8]) -> Result<Permits, Reason> {
    if !Sum::new().bytes(header).is_valid() {
        return Err(Reason::Ipv4BadChecksum);
    }
    option::ipv4(&header[ipv4::HEADER_BYTES..])
}

#[inline(always)]
fn ipv6(frame: &[u8], link: &Link) -> Result<Headers, Reason> {
    let header = chunk::<{ ipv6::HEADER_BYTES }>(frame, link.network).ok_or(Reason::Ipv6Truncated)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::Ipv6BadVersion);
    }
    let payload = usize::from(be16(header, 4));
    if payload == 0 {
        return Err(Reason::Ipv6Jumbogram);
    }
    let start = link.network + ipv6::HEADER_BYTES;
    let end = start + payload;
    let body = frame.get(start..end).ok_or(Reason::Ipv6Truncated)?;
    let upper = extension::walk(body, header[6])?;
    let network = Network {
        addresses: Addresses::V6(address6(header, 8), address6(header, 24)),
        protocol: upper.protocol,
        hop_limit: header[ipv6::HOP_LIMIT],
        may_fragment: false,
        needs: upper.needs,
        transport_offset: start + upper.offset,
        end,
    };
    finish(frame, link, network)
}

/// An IPv6 address out of a header array.
#[inline(always)]
pub(super) fn address6(header: &[u8; ipv6::HEADER_BYTES], offset: usize) -> Ipv6Addr {
    let half = |at| u128::from(be32(header, at)) << 32 | u128::from(be32(header, at + 4));
    Ipv6Addr::from_bits(half(offset) << 64 | half(offset + 8))
}

#[inline(always)]
pub(super) fn finish(frame: &[u8], link: &Link, network: Network) -> Result<Headers, Reason> {
    // Offsets are kept in 16 bits. A longer frame does not exist on any link the gateway serves, but the bytes given
    // may claim one.
    let Ok(end) = u16::try_from(network.end) else {
        return Err(match network.addresses {
            Addresses::V4(..) => Reason::Ipv4BadTotalLength,
            Addresses::V6(..) => Reason::Ipv6Jumbogram,
        });
    };
    let segment = frame.get(network.transport_offset..network.end).ok_or(Reason::TransportTruncated)?;
    // Each protocol calls this once at its end, with all it found. A struct filled step by step and then moved makes
    // the processor wait for its own narrow stores: 1 to 3 ns more a packet, and 8 ns more as an intermediate result.
    let headers = |upper: transport::Upper| Headers {
        addresses: network.addresses,
        source_port: upper.source_port,
        destination_port: upper.destination_port,
        protocol: network.protocol,
        icmp_type: upper.icmp_type,
        icmp_code: upper.icmp_code,
        hop_limit: network.hop_limit,
        sender: link.sender,
        vlan: link.vlan,
        // Both lie before `end`, which fits.
        network: link.network as u16,
        transport_offset: network.transport_offset as u16,
        end,
        may_fragment: network.may_fragment,
        needs: network.needs,
        transport: upper.transport,
    };
    match (network.protocol, &network.addresses) {
        (protocol::TCP, _) => transport::tcp(segment, headers),
        (protocol::UDP, Addresses::V4(..)) => transport::udp(segment, false, headers),
        (protocol::UDP, Addresses::V6(..)) => transport::udp(segment, true, headers),
        (protocol::ICMP, Addresses::V4(..)) => transport::icmp(segment, transport::icmp4).map(headers),
        (protocol::ICMPV6, Addresses::V6(..)) => transport::icmp(segment, transport::icmp6).map(headers),
        _ => transport::opaque(network.protocol).map(headers),
    }
}
