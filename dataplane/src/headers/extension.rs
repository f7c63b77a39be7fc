//! IPv6 extension headers (RFC 8200, section 4), walked in bounded steps.

use crate::headers::{Permits, protocol};
use crate::verdict::Reason;
use crate::wire::{be16, be32, ipv6};

/// The longest chain, in headers. Three can stand in a packet that passes; the bound does not lean on that.
const MAX_HEADERS: usize = 8;
/// The longest chain, in bytes: what hardware routers read (RFC 9098, section 7).
const MAX_BYTES: usize = 256;
/// A fragment header: it has no length field.
pub(super) const FRAGMENT_BYTES: usize = 8;

/// Option types (RFC 8200, section 4.2; RFC 2711; RFC 2675).
const PAD1: u8 = 0;
const PADN: u8 = 1;
const ROUTER_ALERT: u8 = 5;
const JUMBO: u8 = 0xc2;

/// The header after the chain.
pub(super) struct Upper {
    pub protocol: u8,
    /// Its offset in the packet's payload, bytes.
    pub offset: usize,
    /// What the chain has that must be permitted.
    pub needs: Permits,
}

/// How much of a chain has been walked: the fragmentable part of a datagram continues the chain before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    headers: u8,
    bytes: u16,
    destination_options: bool,
    fragment: bool,
    needs: Permits,
}

/// A fragment header that makes its packet a piece of a datagram (RFC 8200, section 4.5).
pub(super) struct Piece {
    /// Where what it carries begins in the packet's payload, bytes.
    pub content: usize,
    /// Its next header.
    pub next: u8,
    /// Where its content lies in the datagram, bytes.
    pub offset: u16,
    /// Whether more follows.
    pub more: bool,
    pub id: u32,
    /// The chain up to and with the fragment header.
    pub chain: Chain,
}

/// Where a chain ends.
enum End {
    Upper(Upper),
    Piece(Piece),
}

/// Walks from the first next-header value to the transport header. An atomic fragment is a plain packet (RFC 6946).
#[inline(always)]
pub(super) fn walk(payload: &[u8], next: u8) -> Result<Upper, Reason> {
    match next {
        protocol::TCP | protocol::UDP | protocol::ICMPV6 => {
            Ok(Upper { protocol: next, offset: 0, needs: Permits::NONE })
        }
        _ => walk_chain(payload, next),
    }
}

#[cold]
fn walk_chain(payload: &[u8], next: u8) -> Result<Upper, Reason> {
    match follow(payload, 0, next, Chain::default())? {
        End::Upper(upper) => Ok(upper),
        End::Piece(_) => Err(Reason::Fragment),
    }
}

/// As [`walk`], in the packet that an ICMP error quotes: a first fragment holds the transport header.
pub(super) fn walk_quoted(payload: &[u8], next: u8) -> Result<Upper, Reason> {
    match follow(payload, 0, next, Chain::default())? {
        End::Upper(upper) => Ok(upper),
        End::Piece(piece) if piece.offset == 0 => walk_from(payload, piece.content, piece.next, piece.chain),
        End::Piece(_) => Err(Reason::Fragment),
    }
}

/// Walks on behind a fragment header, whose offset in `payload` is `start`.
pub(super) fn walk_from(payload: &[u8], start: usize, next: u8, chain: Chain) -> Result<Upper, Reason> {
    match follow(payload, start, next, chain)? {
        End::Upper(upper) => Ok(upper),
        End::Piece(_) => Err(Reason::FragmentNested),
    }
}

/// The fragment header of a packet for which [`walk`] says [`Reason::Fragment`].
pub(super) fn piece(payload: &[u8], next: u8) -> Result<Piece, Reason> {
    match follow(payload, 0, next, Chain::default())? {
        End::Upper(_) => Err(Reason::FragmentMalformed),
        End::Piece(piece) => Ok(piece),
    }
}

fn follow(payload: &[u8], start: usize, mut next: u8, mut chain: Chain) -> Result<End, Reason> {
    let mut offset = start;
    loop {
        match next {
            protocol::TCP | protocol::UDP | protocol::ICMPV6 => return upper(next, offset, chain),
            // Only as the very first, and so never twice.
            ipv6::HOP_BY_HOP if chain.headers == 0 => {}
            ipv6::HOP_BY_HOP => return Err(Reason::Ipv6BadExtension),
            // A second one belongs behind a routing header.
            ipv6::DESTINATION_OPTIONS if chain.destination_options => return Err(Reason::Ipv6BadExtension),
            ipv6::DESTINATION_OPTIONS => chain.destination_options = true,
            ipv6::ROUTING if chain.needs.has_routing() => return Err(Reason::Ipv6BadExtension),
            ipv6::ROUTING => {}
            ipv6::FRAGMENT if chain.fragment => return Err(Reason::FragmentNested),
            ipv6::FRAGMENT => chain.fragment = true,
            ipv6::NO_NEXT_HEADER => return Err(Reason::Ipv6NoNextHeader),
            other if protocol::is_opaque(other) => return upper(other, offset, chain),
            _ => return Err(Reason::ProtocolUnsupported),
        }
        let header = payload.get(offset..).ok_or(Reason::Ipv6BadExtension)?;
        let &[following, units] = header.first_chunk::<2>().ok_or(Reason::Ipv6BadExtension)?;
        // The second byte of a fragment header is reserved.
        let bytes = if next == ipv6::FRAGMENT { FRAGMENT_BYTES } else { (usize::from(units) + 1) * 8 };
        chain.headers += 1;
        if usize::from(chain.headers) > MAX_HEADERS || usize::from(chain.bytes) + bytes > MAX_BYTES {
            return Err(Reason::Ipv6TooManyExtensions);
        }
        chain.bytes += bytes as u16;
        offset += bytes;
        if next == ipv6::FRAGMENT {
            let header = header.first_chunk::<FRAGMENT_BYTES>().ok_or(Reason::Ipv6BadExtension)?;
            let (position, id) = (be16(header, 2), be32(header, 4));
            let (position, more) = (position & !7, position & 1 != 0);
            // Alone it is the whole datagram, and has nothing to do with others of its identification.
            if position != 0 || more {
                // Nobody keeps what was permitted until the datagram is whole.
                if let Some(reason) = chain.needs.refusal(Permits::NONE) {
                    return Err(reason);
                }
                return Ok(End::Piece(Piece {
                    content: offset,
                    next: following,
                    offset: position,
                    more,
                    id,
                    chain,
                }));
            }
        } else {
            let content = header.get(2..bytes).ok_or(Reason::Ipv6BadExtension)?;
            if next == ipv6::ROUTING {
                chain.needs |= routing(content)?;
                chain.destination_options = false;
            } else {
                chain.needs |= options(content, next == ipv6::HOP_BY_HOP)?;
            }
        }
        next = following;
    }
}

/// The end of a chain. Behind a fragment header nothing may need a permission, see [`follow`].
fn upper(protocol: u8, offset: usize, chain: Chain) -> Result<End, Reason> {
    match chain.needs.refusal(Permits::NONE) {
        Some(reason) if chain.fragment => Err(reason),
        _ => Ok(End::Upper(Upper { protocol, offset, needs: chain.needs })),
    }
}

/// Reads the options of one header: padding asks for nothing, jumbo payloads never cross, all others must be permitted.
fn options(mut options: &[u8], hop_by_hop: bool) -> Result<Permits, Reason> {
    let mut needs = Permits::NONE;
    while let Some(&kind) = options.first() {
        if kind == PAD1 {
            options = &options[1..];
            continue;
        }
        let &[_, length] = options.first_chunk::<2>().ok_or(Reason::Ipv6BadExtension)?;
        let rest = options.get(2 + usize::from(length)..).ok_or(Reason::Ipv6BadExtension)?;
        match kind {
            PADN => {}
            JUMBO => return Err(Reason::Ipv6Jumbogram),
            ROUTER_ALERT if hop_by_hop => needs |= Permits::IPV6_ROUTER_ALERT,
            _ => needs |= Permits::IPV6_UNKNOWN_OPTION,
        }
        options = rest;
    }
    Ok(needs)
}

/// Reads a routing header behind its first two bytes. Type 0 never crosses (RFC 5095), nor do types that are not known.
fn routing(content: &[u8]) -> Result<Permits, Reason> {
    let (&[kind, left, third, fourth], _) = content.split_first_chunk().ok_or(Reason::Ipv6BadExtension)?;
    // What stands behind the eight fixed bytes.
    let bytes = content.len() - 6;
    let (permit, addresses) = match kind {
        // One home address (RFC 6275, section 6.4.1).
        2 => (Permits::IPV6_ROUTING_2, usize::from(bytes == 16)),
        3 => (Permits::IPV6_ROUTING_3, compressed_addresses(bytes, third, fourth)),
        // Segments in the list by its last index, with type-length-values behind it (RFC 8754, section 2). One more may
        // be left than there are: a reduced header leaves out the first (section 4.1.1).
        4 if (usize::from(third) + 1) * 16 <= bytes => (Permits::IPV6_SRH, usize::from(third) + 2),
        4 => return Err(Reason::Ipv6BadExtension),
        _ => return Err(Reason::Ipv6RoutingHeader),
    };
    if usize::from(left) > addresses { Err(Reason::Ipv6BadExtension) } else { Ok(permit) }
}

/// How many addresses an RPL source route holds (RFC 6554, section 3); 0 where its fields contradict each other.
fn compressed_addresses(bytes: usize, compression: u8, padding: u8) -> usize {
    let (each, last) = (16 - usize::from(compression >> 4), 16 - usize::from(compression & 0xf));
    bytes.checked_sub(last + usize::from(padding >> 4)).map_or(0, |rest| rest / each + 1)
}
