//! Answers read back by etherparse and by our own parser.

use etherparse::{SlicedPacket, TransportSlice};

use super::*;
use crate::headers::TcpSegment;
use crate::headers::sample::{self, A4, A6, B4, Family, IP, L4, changed};
use crate::headers::{parse, parse_quote, verify_transport_checksum};
use crate::packet::MemoryFrame;
use crate::topology::Mac;

const OWN4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));
const OWN6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 1));
/// Room for every answer there is.
const ALL: usize = 1280;
const BOTH: [(Family, IpAddr); 2] = [(Family::V4, OWN4), (Family::V6, OWN6)];

/// A frame without room to grow.
struct Tight(Vec<u8>);

impl FrameBuf for Tight {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn set_len(&mut self, len: usize) -> bool {
        let fits = len <= self.0.len();
        self.0.truncate(len);
        fits
    }
}

/// The answer that `build` makes of the frame: well formed, checksums right, back to the sender's Ethernet address.
fn answered(frame: &[u8], build: impl FnOnce(&mut MemoryFrame, &Headers) -> bool) -> (Vec<u8>, Headers) {
    let mut out = MemoryFrame::new(frame);
    assert!(build(&mut out, &parse(frame).unwrap()));
    let out = out.bytes().to_vec();
    let macs: (Mac, Mac) = (out[0..6].try_into().unwrap(), out[6..12].try_into().unwrap());
    assert_eq!(macs, (sample::SENDER, sample::GATEWAY));
    let headers = parse(&out).expect("well formed");
    assert_eq!(usize::from(headers.end), out.len());
    assert_eq!(verify_transport_checksum(&out, &headers), Ok(()));
    assert_eq!(headers.hop_limit, 64);
    (out, headers)
}

fn refused(frame: &[u8], build: impl FnOnce(&mut MemoryFrame, &Headers) -> bool) {
    let mut out = MemoryFrame::new(frame);
    assert!(!build(&mut out, &parse(frame).unwrap()));
    assert_eq!(out.bytes(), frame, "unchanged");
}

fn tcp_of(headers: &Headers) -> TcpSegment {
    let Transport::Tcp(tcp) = headers.transport else { panic!("{headers:?}") };
    tcp
}

#[test]
fn a_challenge_is_a_bare_syn_ack_with_the_numbers_it_is_given_and_answers_no_reset() {
    let challenge = Challenge { sequence: 77, acknowledgement: 88 };
    for family in [Family::V4, Family::V6] {
        let frame = sample::syn(family);
        let (out, headers) = answered(&frame, |frame, headers| syn_challenge(frame, headers, challenge));
        let tcp = tcp_of(&headers);
        assert_eq!(tcp.flags, tcp_flags::SYN | tcp_flags::ACK);
        assert_eq!((tcp.sequence, tcp.acknowledgement, tcp.window), (77, 88, 0));
        assert!(out.len() <= frame.len());
    }
}

#[test]
fn a_syn_is_answered_by_a_reset_that_acknowledges_it() {
    for family in [Family::V4, Family::V6] {
        let frame = sample::syn(family);
        let (out, headers) = answered(&frame, tcp_reset);
        let tcp = tcp_of(&headers);
        assert_eq!(tcp.flags, tcp_flags::RST | tcp_flags::ACK);
        assert_eq!((tcp.sequence, tcp.acknowledgement), (0, 1001));
        assert_eq!((headers.source_port, headers.destination_port), (443, 40000));
        assert_eq!(headers.addresses, reversed(&parse(&frame).unwrap().addresses));
        assert!(out.len() <= frame.len());
    }
}

#[test]
fn syn_data_and_fin_count_in_the_acknowledgement_and_it_wraps() {
    // SYN with data (fast open): SYN and three bytes.
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(sample::SENDER, sample::GATEWAY)
        .ipv4(A4, B4, 64)
        .tcp(40000, 443, u32::MAX, 1000)
        .syn()
        .write(&mut frame, b"abc")
        .unwrap();
    let (_, headers) = answered(&frame, tcp_reset);
    assert_eq!(tcp_of(&headers).acknowledgement, 3);
}

#[test]
fn a_segment_with_ack_is_answered_by_a_reset_at_its_acknowledgement_number() {
    for family in [Family::V4, Family::V6] {
        let (_, headers) = answered(&sample::segment(family, b"data"), tcp_reset);
        let tcp = tcp_of(&headers);
        assert_eq!((tcp.flags, tcp.sequence, tcp.acknowledgement), (tcp_flags::RST, 2001, 0));
    }
}

#[test]
fn a_reset_is_never_answered_nor_is_what_is_not_tcp() {
    let reset = changed(&sample::syn(Family::V4), |f| f[L4 + 13] = tcp_flags::RST);
    refused(&reset, tcp_reset);
    refused(&sample::udp(Family::V4, b"x"), tcp_reset);
    refused(&sample::echo_request(Family::V6), tcp_reset);
}

#[test]
fn the_vlan_tag_stays_on_an_answer() {
    let frame = sample::tagged(&sample::syn(Family::V4), 10);
    let (_, headers) = answered(&frame, tcp_reset);
    assert_eq!(headers.vlan, 10);
    let (_, headers) = answered(&frame, |f, h| icmp_error(f, h, IcmpError::NoRoute, OWN4, ALL));
    assert_eq!(headers.vlan, 10);
}

#[test]
fn an_icmp_error_quotes_the_packet_as_it_came_and_names_what_happened() {
    for (family, own) in BOTH {
        let frame = sample::segment(family, b"some payload");
        let original = parse(&frame).unwrap();
        let v4 = family == Family::V4;
        for (error, expected) in [
            (IcmpError::TimeExceeded, if v4 { (11, 0) } else { (3, 0) }),
            (IcmpError::AdminProhibited, if v4 { (3, 13) } else { (1, 1) }),
            (IcmpError::HostUnreachable, if v4 { (3, 1) } else { (1, 3) }),
            (IcmpError::NoRoute, if v4 { (3, 0) } else { (1, 0) }),
            (IcmpError::TooBig { mtu: 1400 }, if v4 { (3, 4) } else { (2, 0) }),
        ] {
            // etherparse does not set don't-fragment otherwise, and without it too big is not answered.
            let (out, headers) = answered(&frame, |f, h| icmp_error(f, h, error, own, ALL));
            assert_eq!((headers.icmp_type, headers.icmp_code), expected);
            assert_eq!(headers.addresses.source(), own);
            assert_eq!(headers.addresses.destination(), original.addresses.source());
            let quoted = usize::from(headers.transport_offset) + 8;
            assert_eq!(out[quoted..], frame[IP..]);
            let quote = parse_quote(&out, &headers).unwrap();
            assert_eq!(quote.addresses, original.addresses);
            assert_eq!((quote.source_port, quote.destination_port), (40000, 443));
            assert_eq!((quote.protocol, quote.tcp_sequence), (protocol::TCP, Some(1001)));
            assert_eq!(quote.mtu, matches!(error, IcmpError::TooBig { .. }).then_some(1400));
            let sliced = SlicedPacket::from_ethernet(&out).unwrap();
            match sliced.transport.unwrap() {
                TransportSlice::Icmpv4(icmp) => assert_eq!((icmp.type_u8(), icmp.code_u8()), expected),
                TransportSlice::Icmpv6(icmp) => assert_eq!((icmp.type_u8(), icmp.code_u8()), expected),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_long_packet_is_quoted_up_to_576_or_1280_bytes_and_padding_is_not() {
    for ((family, own), limit) in BOTH.into_iter().zip([576, 1280]) {
        for payload in [0, 1, 500, 540, 600, 1232, 1400] {
            let mut frame = sample::udp(family, &vec![7; payload]);
            let ip_len = frame.len() - IP;
            frame.extend([0xaa; 30]);
            let overhead = if family == Family::V4 { 28 } else { 48 };
            let (out, _) = answered(&frame, |f, h| icmp_error(f, h, IcmpError::TimeExceeded, own, ALL));
            assert_eq!(out.len(), IP + (ip_len + overhead).min(limit));
        }
    }
}

#[test]
fn d8_no_answer_is_longer_than_it_may_be_and_a_reset_never_longer_than_the_segment() {
    for frame in sample::every_kind() {
        let headers = parse(&frame).unwrap();
        let own = if headers.addresses.source().is_ipv4() { OWN4 } else { OWN6 };
        let mut out = MemoryFrame::new(&frame);
        if icmp_error(&mut out, &headers, IcmpError::TimeExceeded, own, headers.ip_len()) {
            assert!(parse(out.bytes()).unwrap().ip_len() <= headers.ip_len());
        }
        let mut out = MemoryFrame::new(&frame);
        if tcp_reset(&mut out, &headers) {
            assert!(parse(out.bytes()).unwrap().ip_len() <= headers.ip_len());
        }
    }
}

#[test]
fn d8_an_error_quotes_what_it_has_room_for_and_at_least_eight_bytes_of_transport() {
    for (family, own) in BOTH {
        for frame in [sample::udp(family, &[7; 100]), sample::syn(family), sample::udp(family, b"")] {
            let headers = parse(&frame).unwrap();
            let least = least_bytes(&headers, false);
            assert_eq!(least, if family == Family::V4 { 56 } else { 96 });
            refused(&frame, |f, h| icmp_error(f, h, IcmpError::NoRoute, own, least - 1));
            for most in [least, least + 1, ALL] {
                let (out, answer) = answered(&frame, |f, h| icmp_error(f, h, IcmpError::NoRoute, own, most));
                assert!(answer.ip_len() <= most);
                let quote = parse_quote(&out, &answer).unwrap();
                assert_eq!(quote.destination_port, headers.destination_port);
            }
        }
    }
}

#[test]
fn i11_an_icmp_error_is_never_answered_and_an_echo_is() {
    for (family, own) in BOTH {
        for frame in [
            sample::unreachable(family, &sample::syn(family)[IP..]),
            sample::too_big(family, 1400, &sample::syn(family)[IP..]),
        ] {
            refused(&frame, |f, h| icmp_error(f, h, IcmpError::TimeExceeded, own, ALL));
        }
        answered(&sample::echo_request(family), |f, h| icmp_error(f, h, IcmpError::TimeExceeded, own, ALL));
    }
}

#[test]
fn i11_nothing_is_said_about_multicast_broadcast_or_sources_that_are_no_host() {
    fn never(frame: &[u8], own: IpAddr) {
        refused(frame, |f, h| icmp_error(f, h, IcmpError::AdminProhibited, own, ALL));
        refused(frame, tcp_reset);
    }
    for (family, own) in BOTH {
        never(&changed(&sample::syn(family), |f| f[0] |= 1), own);
        never(&changed(&sample::syn(family), |f| f[0..6].fill(0xff)), own);
        never(&changed(&sample::syn(family), |f| f[0..6].fill(0)), own);
    }
    for at in [IP + 12, IP + 16] {
        for address in
            [[224, 0, 0, 1], [239, 1, 2, 3], [255; 4], [240, 0, 0, 1], [0; 4], [0, 1, 2, 3], [127, 0, 0, 1]]
        {
            never(&changed(&sample::syn(Family::V4), |f| f[at..at + 4].copy_from_slice(&address)), OWN4);
        }
    }
    let loopback = Ipv6Addr::LOCALHOST.octets();
    for at in [IP + 8, IP + 24] {
        for address in [[0; 16], loopback, [0xff; 16]] {
            never(&changed(&sample::syn(Family::V6), |f| f[at..at + 16].copy_from_slice(&address)), OWN6);
        }
    }
}

#[test]
fn g14_an_ipv4_packet_that_may_be_fragmented_is_too_big_without_an_answer() {
    let frame = changed(&sample::udp(Family::V4, b"x"), |f| f[IP + 6] &= !0x40);
    refused(&frame, |f, h| icmp_error(f, h, IcmpError::TooBig { mtu: 1400 }, OWN4, ALL));
    answered(&frame, |f, h| icmp_error(f, h, IcmpError::TimeExceeded, OWN4, ALL));
}

#[test]
fn an_address_of_the_other_family_or_a_frame_without_room_gives_no_answer() {
    refused(&sample::syn(Family::V4), |f, h| icmp_error(f, h, IcmpError::NoRoute, OWN6, ALL));
    refused(&sample::syn(Family::V6), |f, h| icmp_error(f, h, IcmpError::NoRoute, OWN4, ALL));
    let frame = sample::udp(Family::V6, b"x");
    let mut tight = Tight(frame.clone());
    assert!(!icmp_error(&mut tight, &parse(&frame).unwrap(), IcmpError::NoRoute, OWN6, ALL));
    assert_eq!(tight.0, frame);
}

#[test]
fn a_quote_with_extension_headers_or_options_is_read_to_its_ports() {
    let extended = sample::with_extensions(&sample::syn(Family::V6), &[(60, &[1, 4, 0, 0, 0, 0])]);
    let (out, headers) = answered(&extended, |f, h| icmp_error(f, h, IcmpError::NoRoute, OWN6, ALL));
    assert_eq!(parse_quote(&out, &headers).unwrap().destination_port, 443);
    assert_eq!(headers.addresses, Addresses::V6("fd00:10::1".parse().unwrap(), A6.into()));
    let padded = sample::with_ipv4_options(&sample::udp(Family::V4, b"x"), &[1, 1, 1, 0]);
    let (out, headers) = answered(&padded, |f, h| icmp_error(f, h, IcmpError::NoRoute, OWN4, ALL));
    let quote = parse_quote(&out, &headers).unwrap();
    assert_eq!((quote.destination_port, quote.tcp_sequence, quote.mtu), (53, None, None));
    assert_eq!(quote.addresses, Addresses::V4(A4.into(), B4.into()));
}
