//! What holds for any bytes taken as a frame: of the parser, of forwarding, of our own answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_dataplane::answer::{IcmpError, icmp_error, tcp_reset};
use bulkhead_dataplane::headers::{
    Addresses, Headers, Transport, fragment, parse, parse_quote, protocol, reassembled,
    verify_transport_checksum,
};
use bulkhead_dataplane::packet::{FrameBuf, MemoryFrame};
use bulkhead_dataplane::rewrite;
use bulkhead_dataplane::topology::Hop;
use bulkhead_dataplane::verdict::{PortId, Reason};
use etherparse::{SlicedPacket, TransportSlice};

const HOP: Hop =
    Hop { port: PortId(1), destination: [2, 9, 9, 9, 9, 9], source: [2, 8, 8, 8, 8, 8], mtu: 1500 };
const OWN4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));
const OWN6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));

/// Panics if an invariant does not hold for these bytes.
pub fn check(frame: &[u8]) {
    let headers = match parse(frame) {
        Ok(headers) => headers,
        Err(Reason::Fragment) => return a_fragment_lies_within_the_largest_datagram(frame),
        Err(_) => {
            // Nobody asks, but whatever the answer is, it is one.
            let _ = fragment(frame);
            return;
        }
    };
    offsets_lie_within(frame, &headers);
    padding_changes_nothing(frame, &headers);
    etherparse_agrees(frame, &headers);
    let _ = verify_transport_checksum(frame, &headers);
    if let Ok(quote) = parse_quote(frame, &headers) {
        assert_eq!(headers.transport, Transport::IcmpError);
        assert_eq!(quote.addresses.source().is_ipv4(), headers.addresses.source().is_ipv4());
        assert_eq!(quote.tcp_sequence.is_some(), quote.protocol == protocol::TCP);
    }
    forwarding_changes_the_hop_count_alone(frame, &headers);
    if frame.len() <= MemoryFrame::CAPACITY {
        answers_are_well_formed(frame, &headers);
    }
}

fn a_fragment_lies_within_the_largest_datagram(frame: &[u8]) {
    let Ok(fragment) = fragment(frame) else { return };
    let [network, content, end] = [fragment.network, fragment.content, fragment.end].map(usize::from);
    assert!(network == 14 || network == 18);
    assert!(network + 20 <= content && content < end && end <= frame.len());
    assert_eq!((end - content, end - network), (fragment.content_len(), fragment.ip_len()));
    assert!(fragment.offset.is_multiple_of(8) && fragment.offset_end() <= 65_535);
    assert!(!fragment.more || fragment.content_len().is_multiple_of(8));
    assert!(fragment.more || fragment.offset > 0, "else it is a packet");
    // Alone it is never a datagram, but what it carries can be joined to one and is then read like a packet.
    let content = &frame[content..end];
    if let Ok(headers) = reassembled(content, 0, &fragment, 0, fragment.hop_limit) {
        assert_eq!(headers.addresses, fragment.addresses);
        assert_eq!(usize::from(headers.end), content.len());
        let _ = verify_transport_checksum(content, &headers);
        let _ = parse_quote(content, &headers);
    }
}

fn offsets_lie_within(frame: &[u8], headers: &Headers) {
    let (network, transport) = (usize::from(headers.network), usize::from(headers.transport_offset));
    let end = usize::from(headers.end);
    assert!(network == 14 || network == 18);
    assert!(transport >= network + 20 && transport <= network + 40 + 256);
    let least = if headers.transport == Transport::Opaque { 0 } else { 8 };
    assert!(transport + least <= end && end <= frame.len());
    if let Transport::Tcp(tcp) = headers.transport {
        assert!(transport + 20 + usize::from(tcp.payload) <= end);
        assert!(tcp.window_scale.is_none_or(|shift| shift <= 14));
    }
}

fn padding_changes_nothing(frame: &[u8], headers: &Headers) {
    assert_eq!(parse(&frame[..usize::from(headers.end)]).as_ref(), Ok(headers));
    let mut padded = frame.to_vec();
    padded.extend([0x5a; 9]);
    assert_eq!(parse(&padded).as_ref(), Ok(headers));
}

fn etherparse_agrees(frame: &[u8], headers: &Headers) {
    let ports = (headers.source_port, headers.destination_port);
    if headers.transport == Transport::Opaque {
        // Etherparse looks into some of them (an authentication header), and may not like what is there.
        assert!(protocol::is_opaque(headers.protocol) && ports == (0, 0));
        return;
    }
    let sliced = SlicedPacket::from_ethernet(frame).expect("what we take, etherparse takes");
    let offset = |slice: &[u8]| slice.as_ptr() as usize - frame.as_ptr() as usize;
    let transport = match sliced.transport.expect("a transport header") {
        TransportSlice::Tcp(tcp) => {
            assert_eq!(ports, (tcp.source_port(), tcp.destination_port()));
            offset(tcp.slice())
        }
        TransportSlice::Udp(udp) => {
            assert_eq!(ports, (udp.source_port(), udp.destination_port()));
            offset(udp.slice())
        }
        TransportSlice::Icmpv4(icmp) => offset(icmp.slice()),
        TransportSlice::Icmpv6(icmp) => offset(icmp.slice()),
        other => panic!("{other:?}"),
    };
    assert_eq!(transport, usize::from(headers.transport_offset));
}

fn forwarding_changes_the_hop_count_alone(frame: &[u8], headers: &Headers) {
    let mut out = frame.to_vec();
    let forwarded = rewrite::forward(&mut out, headers, &HOP);
    assert_eq!(forwarded, headers.hop_limit > 1);
    if !forwarded {
        assert_eq!(out, frame);
        return;
    }
    let sender = out[6..].first_chunk().copied();
    assert_eq!(parse(&out), Ok(Headers { hop_limit: headers.hop_limit - 1, sender, ..*headers }));
    let network = usize::from(headers.network);
    assert_eq!(out[12..network], frame[12..network]);
    assert_eq!(out[network + 20..], frame[network + 20..]);
}

fn answers_are_well_formed(frame: &[u8], headers: &Headers) {
    let mut out = MemoryFrame::new(frame);
    if tcp_reset(&mut out, headers) {
        let answer = well_formed(frame, headers, &out);
        assert_eq!(answer.addresses.source(), headers.addresses.destination());
        assert!(answer.ip_len() <= headers.ip_len());
    } else {
        assert_eq!(out.bytes(), frame);
    }
    let v4 = matches!(headers.addresses, Addresses::V4(..));
    let (own, limit) = if v4 { (OWN4, 576) } else { (OWN6, 1280) };
    for error in [IcmpError::TimeExceeded, IcmpError::AdminProhibited, IcmpError::TooBig { mtu: 1400 }] {
        out.fill(frame);
        let most = headers.ip_len();
        if icmp_error(&mut out, headers, error, own, most) {
            let answer = well_formed(frame, headers, &out);
            assert_eq!(answer.addresses.source(), own);
            assert!(answer.ip_len() <= limit && answer.ip_len() <= most);
            // Of a protocol without anything in it there is nothing to quote but its header.
            if headers.transport == Transport::Opaque && headers.end - headers.transport_offset < 8 {
                continue;
            }
            let quote = parse_quote(out.bytes(), &answer).expect("our own quote");
            assert_eq!(quote.addresses, headers.addresses);
            assert_eq!(quote.protocol, headers.protocol);
            assert_eq!(
                (quote.source_port, quote.destination_port),
                (headers.source_port, headers.destination_port)
            );
        } else {
            assert_eq!(out.bytes(), frame);
        }
    }
}

fn well_formed(frame: &[u8], headers: &Headers, out: &MemoryFrame) -> Headers {
    let out = out.bytes();
    let answer = parse(out).expect("our own answer");
    assert_eq!(verify_transport_checksum(out, &answer), Ok(()));
    assert_eq!(usize::from(answer.end), out.len());
    assert_eq!(answer.addresses.destination(), headers.addresses.source());
    assert_eq!((&out[0..6], &out[6..12]), (&frame[6..12], &frame[0..6]));
    answer
}
