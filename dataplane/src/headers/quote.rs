//! The packet quoted in an ICMP error. Only its beginning is there, and it was written by whoever sent the error.

use std::net::Ipv4Addr;

use super::ip::address6;
use super::transport::{echo_ports, icmp4, icmp6};
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
    let quote = transport(quoted.get(header_bytes..end)?, addresses, header[9], mtu)?;
    Some(Quote { identification: be16(header, 4), ..quote })
}

fn read6(quoted: &[u8], mtu: Option<u32>) -> Option<Quote> {
    let (header, body) = quoted.split_first_chunk::<{ ipv6::HEADER_BYTES }>()?;
    let payload = usize::from(be16(header, 4));
    if header[0] >> 4 != 6 {
        return None;
    }
    let body = &body[..body.len().min(payload)];
    let upper = extension::walk_quoted(body, header[6]).ok()?;
    let addresses = Addresses::V6(address6(header, 8), address6(header, 24));
    transport(body.get(upper.offset..)?, addresses, upper.protocol, mtu)
}

fn transport(segment: &[u8], addresses: Addresses, protocol: u8, mtu: Option<u32>) -> Option<Quote> {
    let header = segment.first_chunk::<TRANSPORT_BYTES>()?;
    let echo = |kind: Option<Transport>| match kind? {
        kind @ (Transport::EchoRequest | Transport::EchoReply) => Some(echo_ports(kind, be16(header, 4))),
        _ => None,
    };
    let (source_port, destination_port) = match (protocol, &addresses) {
        (protocol::TCP | protocol::UDP, _) => {
            let ports = (be16(header, 0), be16(header, 2));
            (ports.0 != 0 && ports.1 != 0).then_some(ports)?
        }
        (protocol::ICMP, Addresses::V4(..)) => echo(icmp4(header[0], header[1]))?,
        (protocol::ICMPV6, Addresses::V6(..)) => echo(icmp6(header[0], header[1]))?,
        (other, _) if protocol::is_opaque(other) => (0, 0),
        _ => return None,
    };
    let tcp_sequence = (protocol == protocol::TCP).then(|| be32(header, 4));
    let start = u64::from_be_bytes(*header);
    let identification = 0;
    Some(Quote {
        addresses,
        source_port,
        destination_port,
        protocol,
        tcp_sequence,
        mtu,
        start,
        identification,
    })
}

#[cfg(test)]
mod tests {
    use crate::headers::sample::{self, Family, IP, L4, L4_V6, changed};
    use crate::headers::{Headers, Quote, Transport, parse, parse_quote};
    use crate::verdict::Reason;

    fn quote(frame: &[u8]) -> Result<Quote, Reason> {
        let headers = parse(frame).unwrap();
        assert_eq!(headers.transport, Transport::IcmpError);
        parse_quote(frame, &headers)
    }

    fn quote_of(family: Family, packet: &[u8]) -> Result<Quote, Reason> {
        quote(&sample::unreachable(family, packet))
    }

    const BOTH: [(Family, usize); 2] = [(Family::V4, L4), (Family::V6, L4_V6)];

    #[test]
    fn i1_a_quote_gives_the_tuple_in_the_direction_the_packet_went() {
        for (family, _) in BOTH {
            let packet = sample::syn(family);
            let quote = quote_of(family, &packet[IP..]).unwrap();
            let headers: Headers = parse(&packet).unwrap();
            assert_eq!(quote.addresses, headers.addresses);
            assert_eq!((quote.source_port, quote.destination_port), (40000, 443));
            assert_eq!((quote.tcp_sequence, quote.mtu), (Some(1000), None));
            let echo = quote_of(family, &sample::echo_request(family)[IP..]).unwrap();
            assert_eq!((echo.source_port, echo.destination_port, echo.tcp_sequence), (77, 78, None));
            let reply = quote_of(family, &sample::echo_reply(family)[IP..]).unwrap();
            assert_eq!((reply.source_port, reply.destination_port), (78, 77));
        }
    }

    #[test]
    fn i4_a_quote_with_less_than_eight_bytes_of_transport_is_bad() {
        for (family, l4) in BOTH {
            for packet in [sample::syn(family), sample::udp(family, b"x"), sample::echo_request(family)] {
                for length in 0..packet.len() - IP {
                    let quote = quote_of(family, &packet[IP..IP + length]);
                    assert_eq!(quote.is_ok(), IP + length >= l4 + 8, "{length}");
                    assert!(quote.is_ok() || quote == Err(Reason::IcmpBadQuote));
                }
            }
        }
    }

    #[test]
    fn i8_the_stated_mtu_is_told_however_absurd() {
        for (family, _) in BOTH {
            for mtu in [0, 68, 575, 1279, 1400, u16::MAX] {
                let frame = sample::too_big(family, mtu, &sample::syn(family)[IP..]);
                assert_eq!(quote(&frame).unwrap().mtu, Some(mtu.into()));
            }
        }
    }

    #[test]
    fn i13_lengths_and_versions_that_cannot_be_make_a_bad_quote() {
        let packet = sample::syn(Family::V4);
        for (at, value) in [(IP, 0x44), (IP, 0x4f), (IP, 0x65), (IP + 3, 27), (IP + 9, 2), (IP + 9, 58)] {
            let mut bad = packet.clone();
            bad[at] = value;
            bad[IP + 2] = 0;
            assert_eq!(quote_of(Family::V4, &bad[IP..]), Err(Reason::IcmpBadQuote), "{at} {value:#x}");
        }
        let packet = sample::syn(Family::V6);
        for (at, value) in [(IP, 0x45), (IP + 5, 7), (IP + 6, 43), (IP + 6, 44), (IP + 6, 59), (IP + 6, 1)] {
            let bad = changed(&packet, |f| f[at] = value);
            assert_eq!(quote_of(Family::V6, &bad[IP..]), Err(Reason::IcmpBadQuote), "{at} {value:#x}");
        }
        // The family of the error and of its quote are one.
        assert!(quote_of(Family::V4, &sample::syn(Family::V6)[IP..]).is_err());
        assert!(quote_of(Family::V6, &sample::syn(Family::V4)[IP..]).is_err());
    }

    #[test]
    fn i13_options_and_extension_headers_inside_a_quote_are_walked() {
        let padded = sample::with_ipv4_options(&sample::syn(Family::V4), &[7, 7, 4, 0, 0, 0, 0, 0]);
        assert_eq!(quote_of(Family::V4, &padded[IP..]).unwrap().destination_port, 443);
        let content: &[u8] = &[1, 4, 0, 0, 0, 0];
        let extended = sample::with_extensions(&sample::syn(Family::V6), &[(0, content), (60, content)]);
        assert_eq!(quote_of(Family::V6, &extended[IP..]).unwrap().destination_port, 443);
        let long = sample::with_extensions(&sample::syn(Family::V6), &[(60, content), (60, content)]);
        assert!(quote_of(Family::V6, &long[IP..]).is_err());
    }

    #[test]
    fn a_quoted_first_fragment_has_ports_and_a_later_one_is_bad() {
        let packet = sample::udp(Family::V4, b"question");
        let first = changed(&packet, |f| f[IP + 6..IP + 8].copy_from_slice(&[0x20, 0]));
        assert_eq!(quote_of(Family::V4, &first[IP..]).unwrap().destination_port, 53);
        let later = changed(&packet, |f| f[IP + 6..IP + 8].copy_from_slice(&[0, 1]));
        assert!(quote_of(Family::V4, &later[IP..]).is_err());
    }

    #[test]
    fn an_error_about_an_error_or_about_port_zero_is_a_bad_quote() {
        for (family, l4) in BOTH {
            let error = sample::unreachable(family, &sample::syn(family)[IP..]);
            assert_eq!(quote_of(family, &error[IP..]), Err(Reason::IcmpBadQuote));
            let zero = changed(&sample::syn(family), |f| f[l4..l4 + 2].fill(0));
            assert_eq!(quote_of(family, &zero[IP..]), Err(Reason::IcmpBadQuote));
        }
    }

    #[test]
    fn a_packet_that_is_no_icmp_error_has_no_quote() {
        let frame = sample::echo_request(Family::V4);
        assert_eq!(parse_quote(&frame, &parse(&frame).unwrap()), Err(Reason::IcmpBadQuote));
    }
}
