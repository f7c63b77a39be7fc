//! IPv6 extension headers (RFC 8200, section 4), walked in bounded steps.

use crate::headers::protocol;
use crate::verdict::Reason;
use crate::wire::ipv6;

/// The longest chain, in headers. Two can stand in a packet that passes; the bound does not lean on that.
const MAX_HEADERS: usize = 8;
/// The longest chain, in bytes: what hardware routers read (RFC 9098, section 7).
const MAX_BYTES: usize = 256;

/// Option types (RFC 8200, section 4.2; RFC 2675).
const PAD1: u8 = 0;
const JUMBO: u8 = 0xc2;
/// The two highest bits of an option's type say what a node that does not know it must do; 00 is "skip over".
const UNKNOWN_ACTION: u8 = 0xc0;

/// The header after the chain.
pub(super) struct Upper {
    pub protocol: u8,
    /// Its offset in the packet's payload, bytes.
    pub offset: usize,
}

/// Walks from the first next-header value to the transport header.
#[inline(always)]
pub(super) fn walk(payload: &[u8], next: u8) -> Result<Upper, Reason> {
    match next {
        protocol::TCP | protocol::UDP | protocol::ICMPV6 => Ok(Upper { protocol: next, offset: 0 }),
        _ => walk_chain(payload, next),
    }
}

#[cold]
fn walk_chain(payload: &[u8], mut next: u8) -> Result<Upper, Reason> {
    let mut offset = 0;
    let mut destination_options = false;
    for position in 0..=MAX_HEADERS {
        match next {
            protocol::TCP | protocol::UDP | protocol::ICMPV6 => {
                return Ok(Upper { protocol: next, offset });
            }
            // Only as the very first, and so never twice.
            ipv6::HOP_BY_HOP if position == 0 => {}
            ipv6::HOP_BY_HOP => return Err(Reason::Ipv6BadExtension),
            // A second one belongs behind a routing header, and those are not let through.
            ipv6::DESTINATION_OPTIONS if destination_options => return Err(Reason::Ipv6BadExtension),
            ipv6::DESTINATION_OPTIONS => destination_options = true,
            ipv6::ROUTING => return Err(Reason::Ipv6RoutingHeader),
            ipv6::FRAGMENT => return Err(Reason::Fragment),
            ipv6::NO_NEXT_HEADER => return Err(Reason::Ipv6NoNextHeader),
            _ => return Err(Reason::ProtocolUnsupported),
        }
        let header = payload.get(offset..).ok_or(Reason::Ipv6BadExtension)?;
        let &[following, units] = header.first_chunk::<2>().ok_or(Reason::Ipv6BadExtension)?;
        let bytes = (usize::from(units) + 1) * 8;
        if offset + bytes > MAX_BYTES {
            return Err(Reason::Ipv6TooManyExtensions);
        }
        options(header.get(2..bytes).ok_or(Reason::Ipv6BadExtension)?, next == ipv6::HOP_BY_HOP)?;
        offset += bytes;
        next = following;
    }
    Err(Reason::Ipv6TooManyExtensions)
}

/// Checks the options of one header. Routers are bound by the hop-by-hop ones: an option there that asks to be
/// discarded by who does not know it is discarded here.
fn options(mut options: &[u8], hop_by_hop: bool) -> Result<(), Reason> {
    while let Some(&kind) = options.first() {
        if kind == PAD1 {
            options = &options[1..];
            continue;
        }
        let &[_, length] = options.first_chunk::<2>().ok_or(Reason::Ipv6BadExtension)?;
        let rest = options.get(2 + usize::from(length)..).ok_or(Reason::Ipv6BadExtension)?;
        if kind == JUMBO {
            return Err(Reason::Ipv6Jumbogram);
        }
        if hop_by_hop && kind & UNKNOWN_ACTION != 0 {
            return Err(Reason::Ipv6BadExtension);
        }
        options = rest;
    }
    Ok(())
}
