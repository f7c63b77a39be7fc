//! A piece of a datagram: where it belongs, and what it says of itself.

use std::net::Ipv4Addr;

use super::extension::{self, Chain};
use super::ip::{Link, Network, address6, ethernet, finish};
use super::{Addresses, Headers, Permits, protocol};
use crate::verdict::Reason;
use crate::wire::{be16, be32, chunk, ethernet as link, icmp, ipv4, ipv6, tcp, udp};

/// The largest IPv4 packet, and the largest payload of an IPv6 packet, bytes.
const LARGEST: usize = 65_535;
/// More fragments follow, in the flags and fragment offset word of IPv4.
const V4_MORE: u16 = 0x2000;

/// A fragment, as its own headers describe it. Offsets without a name are in its frame, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Source and destination address.
    pub addresses: Addresses,
    /// The datagram's identification: 16 bits in IPv4.
    pub id: u32,
    /// What the datagram carries: in IPv6 that of the first fragment counts (RFC 8200, section 4.5).
    pub protocol: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// IPv4 without the don't-fragment flag; always false for IPv6.
    pub may_fragment: bool,
    /// Offset of the IP header.
    pub network: u16,
    /// Offset of the piece of the datagram.
    pub content: u16,
    /// Offset of the end of the packet, and so of the piece.
    pub end: u16,
    /// Where the piece lies in the datagram, bytes.
    pub offset: u16,
    /// Whether it is not the datagram's last piece.
    pub more: bool,
    /// What of these headers the whole datagram would have, and counts to its largest length, bytes.
    kept: u16,
    chain: Chain,
}

impl Fragment {
    /// Bytes of the piece.
    pub fn content_len(&self) -> usize {
        usize::from(self.end - self.content)
    }

    /// Where the piece ends in the datagram, bytes.
    pub fn offset_end(&self) -> usize {
        usize::from(self.offset) + self.content_len()
    }

    /// Bytes of the IP packet that it travels in.
    pub fn ip_len(&self) -> usize {
        usize::from(self.end - self.network)
    }

    /// The headers of the fragment's frame, where those of the whole datagram are known.
    pub fn headers(&self, whole: &Headers) -> Headers {
        Headers {
            hop_limit: self.hop_limit,
            network: self.network,
            transport_offset: self.content,
            end: self.end,
            may_fragment: self.may_fragment,
            ..*whole
        }
    }
}

/// Reads a frame for which [`super::parse`] says [`Reason::Fragment`].
///
/// # Errors
/// The reason why it can be no piece of any datagram: empty (F9), not a multiple of eight bytes though more follows,
/// or beyond the largest datagram (F8); a second fragment header (F11); in IPv6 a first fragment that lacks a part of
/// the headers (RFC 7112); a protocol that is not forwarded.
pub fn fragment(frame: &[u8]) -> Result<Fragment, Reason> {
    let link = ethernet(frame)?;
    let fragment = match link.ethertype {
        link::IPV4 => v4(frame, link.network),
        link::IPV6 => v6(frame, link.network),
        _ => Err(Reason::EthertypeUnsupported),
    }?;
    let bytes = fragment.content_len();
    let beyond = usize::from(fragment.kept) + fragment.offset_end() > LARGEST;
    if bytes == 0 || (fragment.more && !bytes.is_multiple_of(8)) || beyond {
        return Err(Reason::FragmentMalformed);
    }
    if fragment.addresses.source().is_ipv6() {
        holds_its_headers(frame, &fragment)?;
    }
    Ok(fragment)
}

/// What the fragment header precedes: never another one, and in a first fragment all the headers (RFC 7112).
fn holds_its_headers(frame: &[u8], fragment: &Fragment) -> Result<(), Reason> {
    if fragment.protocol == ipv6::FRAGMENT {
        return Err(Reason::FragmentNested);
    }
    if fragment.offset != 0 {
        return Ok(());
    }
    let content = frame.get(usize::from(fragment.content)..usize::from(fragment.end)).unwrap_or_default();
    let upper = extension::walk_from(content, 0, fragment.protocol, fragment.chain)?;
    let segment = content.get(upper.offset..).ok_or(Reason::FragmentNoHeader)?;
    if segment.len() < transport_header_bytes(upper.protocol, segment) {
        return Err(Reason::FragmentNoHeader);
    }
    Ok(())
}

/// The headers' sanity is [`super::parse`]'s, which comes before.
fn v4(frame: &[u8], network: usize) -> Result<Fragment, Reason> {
    let header = chunk::<{ ipv4::HEADER_BYTES }>(frame, network).ok_or(Reason::Ipv4Truncated)?;
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    let (content, end) = (network + header_bytes, network + usize::from(be16(header, 2)));
    if frame.get(content..end).is_none() {
        return Err(Reason::Ipv4Truncated);
    }
    let protocol = header[9];
    let is_known = matches!(protocol, protocol::TCP | protocol::UDP | protocol::ICMP);
    if !is_known && !protocol::is_opaque(protocol) {
        return Err(Reason::ProtocolUnsupported);
    }
    let place = be16(header, 6);
    Ok(Fragment {
        addresses: Addresses::V4(
            Ipv4Addr::from_bits(be32(header, 12)),
            Ipv4Addr::from_bits(be32(header, 16)),
        ),
        id: be16(header, 4).into(),
        protocol,
        hop_limit: header[ipv4::TTL],
        may_fragment: place & ipv4::DONT_FRAGMENT == 0,
        network: narrow(network)?,
        content: narrow(content)?,
        end: narrow(end)?,
        offset: (place & ipv4::FRAGMENT_OFFSET) * 8,
        more: place & V4_MORE != 0,
        kept: header_bytes as u16,
        chain: Chain::default(),
    })
}

fn v6(frame: &[u8], network: usize) -> Result<Fragment, Reason> {
    let header = chunk::<{ ipv6::HEADER_BYTES }>(frame, network).ok_or(Reason::Ipv6Truncated)?;
    let start = network + ipv6::HEADER_BYTES;
    let end = start + usize::from(be16(header, 4));
    let body = frame.get(start..end).ok_or(Reason::Ipv6Truncated)?;
    let piece = extension::piece(body, header[6])?;
    Ok(Fragment {
        addresses: Addresses::V6(address6(header, 8), address6(header, 24)),
        id: piece.id,
        protocol: piece.next,
        hop_limit: header[ipv6::HOP_LIMIT],
        may_fragment: false,
        network: narrow(network)?,
        content: narrow(start + piece.content)?,
        end: narrow(end)?,
        offset: piece.offset,
        more: piece.more,
        kept: (piece.content - extension::FRAGMENT_BYTES) as u16,
        chain: piece.chain,
    })
}

fn transport_header_bytes(protocol: u8, segment: &[u8]) -> usize {
    match protocol {
        protocol::TCP => {
            let stated = segment.get(12).map_or(0, |byte| usize::from(byte >> 4) * 4);
            stated.max(tcp::HEADER_BYTES)
        }
        protocol::UDP => udp::HEADER_BYTES,
        protocol::ICMP | protocol::ICMPV6 => icmp::HEADER_BYTES,
        _ => 0,
    }
}

/// Offsets are kept in 16 bits: see [`finish`].
fn narrow(offset: usize) -> Result<u16, Reason> {
    u16::try_from(offset).map_err(|_| Reason::FragmentMalformed)
}

/// The headers of a datagram that is whole again: its pieces lie in order in `bytes[start..]`, up to the end.
///
/// `network` is only where the IP header would begin if the packet were as long as the longest of its fragments, so
/// that [`Headers::ip_len`] is what every link must carry; there is no IP header there. `hop_limit` is to be the least
/// of the fragments'. `start` must be at least `longest` less the datagram's length, all of them bytes.
///
/// # Errors
/// As [`super::parse`], of what the IP header precedes; [`Reason::FragmentMalformed`] where the datagram is longer
/// than a packet can be.
pub fn reassembled(
    bytes: &[u8],
    start: usize,
    first: &Fragment,
    longest: usize,
    hop_limit: u8,
) -> Result<Headers, Reason> {
    let content = bytes.get(start..).unwrap_or_default();
    if usize::from(first.kept) + content.len() > LARGEST {
        return Err(Reason::FragmentMalformed);
    }
    let (protocol, offset) = match first.addresses {
        Addresses::V4(..) => (first.protocol, 0),
        Addresses::V6(..) => {
            let upper = extension::walk_from(content, 0, first.protocol, first.chain)?;
            (upper.protocol, upper.offset)
        }
    };
    let network = bytes.len().checked_sub(longest).ok_or(Reason::FragmentMalformed)?;
    let link = Link { ethertype: 0, vlan: 0, network, sender: None };
    finish(
        bytes,
        &link,
        Network {
            addresses: first.addresses,
            protocol,
            hop_limit,
            may_fragment: first.may_fragment,
            // The walks through the headers of a fragment refuse what would have to be permitted.
            needs: Permits::NONE,
            transport_offset: start + offset,
            end: bytes.len(),
        },
    )
}
