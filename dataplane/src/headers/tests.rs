//! Each malformed case by name, each valid kind against etherparse, each truncation.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::sample::{self, Family, IP, L4, L4_V6, changed};
use super::*;
use crate::verdict::Reason;

fn reason(frame: &[u8]) -> Reason {
    parse(frame).expect_err("malformed")
}

/// The reason after one byte of the frame was set (the IPv4 header checksum is set right again).
fn reason_with(frame: &[u8], offset: usize, value: u8) -> Reason {
    reason(&changed(frame, |f| f[offset] = value))
}

#[test]
fn a_syn_gives_addresses_ports_and_window_scale() {
    let headers = parse(&sample::syn(Family::V4)).unwrap();
    assert_eq!(headers.addresses, Addresses::V4(sample::A4.into(), sample::B4.into()));
    assert_eq!((headers.source_port, headers.destination_port), (40000, 443));
    assert_eq!((headers.network, headers.transport_offset, headers.end), (14, 34, 62));
    assert_eq!(headers.hop_limit, 64);
    assert!(!headers.may_fragment);
    let Transport::Tcp(tcp) = headers.transport else { panic!("{headers:?}") };
    assert_eq!(tcp.flags, tcp_flags::SYN);
    assert_eq!((tcp.sequence, tcp.window, tcp.window_scale, tcp.payload), (1000, 64240, Some(7), 0));
}

#[test]
fn a_window_scale_above_14_is_read_as_14_and_ignored_without_syn() {
    let high = changed(&sample::syn(Family::V4), |f| f[L4 + 27] = 200);
    let Transport::Tcp(tcp) = parse(&high).unwrap().transport else { panic!() };
    assert_eq!(tcp.window_scale, Some(14));
    let no_syn = changed(&sample::syn(Family::V4), |f| f[L4 + 13] = tcp_flags::ACK);
    let Transport::Tcp(tcp) = parse(&no_syn).unwrap().transport else { panic!() };
    assert_eq!(tcp.window_scale, None);
}

#[test]
fn ethernet_addresses_and_types_that_cannot_be_are_refused() {
    let frame = sample::syn(Family::V4);
    assert_eq!(reason(&frame[..13]), Reason::EthernetTruncated);
    assert_eq!(reason_with(&frame, 6, 1), Reason::EthernetBadSource);
    assert_eq!(reason(&changed(&frame, |f| f[6..12].fill(0))), Reason::EthernetBadSource);
    assert_eq!(
        reason(&changed(&frame, |f| f[12..14].copy_from_slice(&[8, 6]))),
        Reason::EthertypeUnsupported
    );
    // A length instead of a type: LLC, spanning tree.
    assert_eq!(
        reason(&changed(&frame, |f| f[12..14].copy_from_slice(&[0, 38]))),
        Reason::EthertypeUnsupported
    );
}

#[test]
fn one_vlan_tag_is_read_and_two_are_refused() {
    let frame = sample::syn(Family::V4);
    let tagged = sample::tagged(&frame, 0xe00a);
    let headers = parse(&tagged).unwrap();
    assert_eq!((headers.vlan, headers.network), (10, 18));
    assert_eq!(reason(&sample::tagged(&tagged, 20)), Reason::VlanNested);
    assert_eq!(reason(&tagged[..17]), Reason::EthernetTruncated);
}

#[test]
fn h1_ipv4_version_and_lengths_that_cannot_be_are_refused() {
    let frame = sample::syn(Family::V4);
    assert_eq!(reason_with(&frame, IP, 0x55), Reason::Ipv4BadVersion);
    let mut short = frame.clone();
    short[IP] = 0x44;
    assert_eq!(reason(&short), Reason::Ipv4BadHeaderLength);
    let mut long = frame[..L4].to_vec();
    long[IP] = 0x4f;
    assert_eq!(reason(&long), Reason::Ipv4BadHeaderLength);
    assert_eq!(reason_with(&frame, IP + 3, 19), Reason::Ipv4BadTotalLength);
    assert_eq!(reason_with(&frame, IP + 2, 1), Reason::Ipv4Truncated);
    assert_eq!(reason(&frame[..frame.len() - 1]), Reason::Ipv4Truncated);
    assert_eq!(reason(&frame[..L4 - 1]), Reason::Ipv4Truncated);
}

#[test]
fn h2_any_wrong_ipv4_header_checksum_is_refused() {
    let frame = sample::syn(Family::V4);
    for bit in 0..16 {
        let mut wrong = frame.clone();
        wrong[IP + 10 + bit / 8] ^= 1 << (bit % 8);
        assert_eq!(reason(&wrong), Reason::Ipv4BadChecksum);
    }
    let mut wrong = sample::with_ipv4_options(&frame, &[1, 1, 1, 0]);
    wrong[IP + 10] ^= 1;
    assert_eq!(reason(&wrong), Reason::Ipv4BadChecksum);
}

#[test]
fn h3_wrong_transport_checksums_are_found_for_every_protocol() {
    for family in [Family::V4, Family::V6] {
        for (frame, wrong) in [
            (sample::segment(family, b"odd"), Reason::TcpBadChecksum),
            (sample::udp(family, b"question"), Reason::UdpBadChecksum),
            (sample::echo_request(family), Reason::IcmpBadChecksum),
            (sample::too_big(family, 1400, &sample::syn(family)[IP..]), Reason::IcmpBadChecksum),
        ] {
            let headers = parse(&frame).unwrap();
            assert_eq!(verify_transport_checksum(&frame, &headers), Ok(()));
            let mut damaged = frame.clone();
            *damaged.last_mut().unwrap() ^= 0x10;
            assert_eq!(verify_transport_checksum(&damaged, &headers), Err(wrong));
            assert!(verify_transport_checksum(&frame[..frame.len() - 1], &headers).is_err());
        }
    }
}

#[test]
fn h4_udp_length_is_at_least_8_and_within_the_packet() {
    for (family, at) in [(Family::V4, L4), (Family::V6, L4_V6)] {
        let frame = sample::udp(family, b"question");
        for bad in [0, 4, 7, 17, 0xff] {
            assert_eq!(reason_with(&frame, at + 5, bad), Reason::UdpBadLength, "{bad}");
        }
        assert!(parse(&changed(&frame, |f| f[at + 5] = 8)).is_ok());
    }
}

#[test]
fn h4_a_udp_checksum_of_zero_is_legal_over_ipv4_only() {
    let frame = changed(&sample::udp(Family::V4, b"x"), |f| f[L4 + 6..L4 + 8].fill(0));
    let headers = parse(&frame).unwrap();
    assert_eq!(verify_transport_checksum(&frame, &headers), Ok(()));
    let frame = changed(&sample::udp(Family::V6, b"x"), |f| f[L4_V6 + 6..L4_V6 + 8].fill(0));
    assert_eq!(reason(&frame), Reason::UdpBadChecksum);
}

#[test]
fn h5_tcp_offsets_and_options_that_cannot_be_are_refused() {
    let frame = sample::syn(Family::V4);
    assert_eq!(reason_with(&frame, L4 + 12, 0x40), Reason::TcpBadOffset);
    assert_eq!(reason_with(&frame, L4 + 12, 0xf0), Reason::TcpBadOffset);
    for bad in [0, 1, 9, 255] {
        assert_eq!(reason_with(&frame, L4 + 21, bad), Reason::TcpBadOption, "{bad}");
    }
    // A window scale of two or four bytes, and an option whose length byte is missing.
    assert_eq!(
        reason(&changed(&frame, |f| f[L4 + 24..L4 + 28].copy_from_slice(&[3, 2, 1, 1]))),
        Reason::TcpBadOption
    );
    assert_eq!(
        reason(&changed(&frame, |f| f[L4 + 24..L4 + 28].copy_from_slice(&[3, 4, 1, 1]))),
        Reason::TcpBadOption
    );
    assert_eq!(
        reason(&changed(&frame, |f| f[L4 + 24..L4 + 28].copy_from_slice(&[1, 1, 1, 8]))),
        Reason::TcpBadOption
    );
}

#[test]
fn h6_only_flags_that_a_tcp_sends_pass() {
    use tcp_flags::{ACK, FIN, PSH, RST, SYN, URG};
    let frame = sample::syn(Family::V4);
    for bad in
        [0, PSH, URG, FIN | PSH | URG, SYN | FIN, SYN | RST, FIN, SYN | FIN | RST | ACK, FIN | RST | ACK]
    {
        assert_eq!(reason_with(&frame, L4 + 13, bad), Reason::TcpBadFlags, "{bad:#x}");
    }
    for good in [SYN, SYN | ACK, ACK, ACK | PSH, ACK | URG, FIN | ACK, FIN | PSH | ACK, RST, RST | ACK] {
        assert!(parse(&changed(&frame, |f| f[L4 + 13] = good)).is_ok(), "{good:#x}");
    }
}

#[test]
fn h7_port_zero_is_refused() {
    for frame in [sample::syn(Family::V4), sample::udp(Family::V4, b"x")] {
        for at in [L4, L4 + 2] {
            assert_eq!(reason(&changed(&frame, |f| f[at..at + 2].fill(0))), Reason::PortZero);
        }
    }
}

#[test]
fn h8_link_layer_padding_changes_nothing() {
    for frame in sample::every_kind() {
        let plain = parse(&frame);
        let mut padded = frame.clone();
        padded.extend([0xaa; 46]);
        assert_eq!(parse(&padded), plain);
        let headers = plain.unwrap();
        assert_eq!(usize::from(headers.end), frame.len());
        assert_eq!(verify_transport_checksum(&padded, &headers), verify_transport_checksum(&frame, &headers));
    }
}

#[test]
fn h9_ecn_and_reserved_bits_change_neither_verdict_nor_flags() {
    let frame = sample::syn(Family::V4);
    let plain = parse(&frame).unwrap();
    for bits in 0..32u8 {
        let marked = changed(&frame, |f| {
            f[L4 + 12] |= bits & 0x0f;
            f[L4 + 13] |= if bits & 0x10 == 0 { 0 } else { 0xc0 };
            f[IP + 1] |= bits & 3;
        });
        assert_eq!(parse(&marked), Ok(plain));
    }
}

#[test]
fn h10_unknown_tcp_options_pass() {
    let frame = changed(&sample::syn(Family::V4), |f| f[L4 + 20] = 253);
    assert!(parse(&frame).is_ok());
}

#[test]
fn h11_to_h14_ipv4_options_are_refused_by_their_kind() {
    let frame = sample::syn(Family::V4);
    let with = |options: &[u8]| parse(&sample::with_ipv4_options(&frame, options));
    assert!(with(&[1, 1, 1, 1]).is_ok());
    assert!(with(&[0, 9, 9, 9]).is_ok(), "nothing counts after the end of the list");
    for route in [131, 137] {
        assert_eq!(with(&[route, 7, 4, 1, 2, 3, 4, 0]), Err(Reason::Ipv4SourceRoute));
        assert_eq!(with(&[148, 4, 0, 0, route, 7, 4, 1, 2, 3, 4, 0]), Err(Reason::Ipv4SourceRoute));
    }
    let needs = |options: &[u8]| with(options).unwrap().needs;
    assert_eq!(needs(&[1, 1, 1, 1]), Permits::NONE);
    assert_eq!(needs(&[7, 4, 0, 0]), Permits::IPV4_RECORD_ROUTE);
    assert_eq!(needs(&[68, 4, 0, 0]), Permits::IPV4_TIMESTAMP);
    assert_eq!(needs(&[148, 4, 0, 0]), Permits::IPV4_ROUTER_ALERT);
    for other in [130, 200] {
        assert_eq!(needs(&[other, 4, 0, 0]), Permits::IPV4_UNKNOWN_OPTION);
    }
    let mut two = Permits::IPV4_RECORD_ROUTE;
    two |= Permits::IPV4_UNKNOWN_OPTION;
    assert_eq!(needs(&[7, 4, 0, 0, 200, 4, 0, 0]), two);
    assert_eq!(two.refusal(Permits::NONE), Some(Reason::Ipv4OptionDenied));
    for bad in [0, 1, 5, 255] {
        assert_eq!(with(&[7, bad, 0, 0]), Err(Reason::Ipv4BadOption));
    }
    assert_eq!(with(&[131, 4, 0, 0, 1, 1, 1, 7]), Err(Reason::Ipv4BadOption));
}

#[test]
fn ipv6_version_and_lengths_that_cannot_be_are_refused() {
    let frame = sample::syn(Family::V6);
    assert_eq!(reason_with(&frame, IP, 0x50), Reason::Ipv6BadVersion);
    assert_eq!(reason(&frame[..L4_V6 - 1]), Reason::Ipv6Truncated);
    assert_eq!(reason(&frame[..frame.len() - 1]), Reason::Ipv6Truncated);
    assert_eq!(reason_with(&frame, IP + 4, 1), Reason::Ipv6Truncated);
    assert_eq!(reason(&changed(&frame, |f| f[IP + 4..IP + 6].fill(0))), Reason::Ipv6Jumbogram);
    assert_eq!(reason_with(&frame, IP + 5, 19), Reason::TransportTruncated);
}

const PAD4: &[u8] = &[1, 4, 0, 0, 0, 0];

#[test]
fn hop_by_hop_and_destination_options_are_walked_to_the_transport_header() {
    let frame = sample::with_extensions(&sample::syn(Family::V6), &[(0, PAD4), (60, PAD4)]);
    let headers = parse(&frame).unwrap();
    assert_eq!((headers.protocol, headers.transport_offset), (protocol::TCP, 70));
    assert_eq!(headers.destination_port, 443);
    assert_eq!(verify_transport_checksum(&frame, &headers), Ok(()));
}

#[test]
fn h15_h16_h18_extension_headers_that_must_not_cross_have_their_own_reasons() {
    let with = |chain: &[(u8, &[u8])]| reason(&sample::with_extensions(&sample::syn(Family::V6), chain));
    for (number, expected) in [
        (43, Reason::Ipv6RoutingHeader),
        (44, Reason::Fragment),
        (59, Reason::Ipv6NoNextHeader),
        (135, Reason::ProtocolUnsupported),
        (140, Reason::ProtocolUnsupported),
    ] {
        assert_eq!(with(&[(number, PAD4)]), expected, "{number}");
        assert_eq!(with(&[(0, PAD4), (60, PAD4), (number, PAD4)]), expected, "{number}");
    }
    assert_eq!(with(&[(60, PAD4), (0, PAD4)]), Reason::Ipv6BadExtension);
    assert_eq!(with(&[(0, PAD4), (0, PAD4)]), Reason::Ipv6BadExtension);
    assert_eq!(with(&[(60, PAD4), (60, PAD4)]), Reason::Ipv6BadExtension);
}

#[test]
fn h15_routing_headers_that_can_be_permitted_are_told_by_type_and_checked() {
    let frame = sample::syn(Family::V6);
    let with = |content: &[u8]| {
        parse(&sample::with_extensions(&frame, &[(43, content)])).map(|headers| headers.needs)
    };
    let routing = |kind: u8, left: u8, rest: [u8; 4], addresses: usize| {
        [&[kind, left][..], &rest, &vec![0xfd; 16 * addresses]].concat()
    };
    let bad = Err(Reason::Ipv6BadExtension);
    for left in [0, 1] {
        assert_eq!(with(&routing(2, left, [0; 4], 1)), Ok(Permits::IPV6_ROUTING_2));
        assert_eq!(with(&routing(3, left, [0; 4], 1)), Ok(Permits::IPV6_ROUTING_3));
        assert_eq!(with(&routing(4, left, [0; 4], 1)), Ok(Permits::IPV6_SRH));
        assert_eq!(with(&routing(0, left, [0; 4], 1)), Err(Reason::Ipv6RoutingHeader));
        assert_eq!(with(&routing(5, left, [0; 4], 1)), Err(Reason::Ipv6RoutingHeader));
    }
    // More left than there are, and lists longer than the header.
    assert_eq!(with(&routing(2, 2, [0; 4], 1)), bad);
    assert_eq!(with(&routing(2, 1, [0; 4], 2)), bad);
    assert_eq!(with(&routing(3, 2, [0; 4], 1)), bad);
    assert_eq!(with(&routing(3, 1, [0, 0x10, 0, 0], 1)), bad, "padding before the last address");
    assert_eq!(with(&routing(4, 3, [0; 4], 1)), bad);
    assert_eq!(with(&routing(4, 0, [1, 0, 0, 0], 1)), bad);
    // Eight addresses of two bytes each (RFC 6554: fourteen are left out).
    assert_eq!(with(&routing(3, 8, [0xee, 0, 0, 0], 1)), Ok(Permits::IPV6_ROUTING_3));
    assert_eq!(with(&routing(3, 9, [0xee, 0, 0, 0], 1)), bad);
    // Destination options may stand on both sides of it, and there is but one.
    let srh = routing(4, 0, [0; 4], 1);
    let chain: [(u8, &[u8]); 4] = [(0, PAD4), (60, PAD4), (43, &srh), (60, PAD4)];
    assert!(parse(&sample::with_extensions(&frame, &chain)).is_ok());
    let twice: [(u8, &[u8]); 2] = [(43, &srh), (43, &srh)];
    assert_eq!(reason(&sample::with_extensions(&frame, &twice)), Reason::Ipv6BadExtension);
}

#[test]
fn h17_long_chains_of_extension_headers_are_refused() {
    let chain: Vec<(u8, &[u8])> = vec![(60, PAD4); 30];
    assert_eq!(reason(&sample::with_extensions(&sample::syn(Family::V6), &chain)), Reason::Ipv6BadExtension);
    // 264 bytes of padding, and twice 136.
    let long = [0; 262];
    assert_eq!(
        reason(&sample::with_extensions(&sample::syn(Family::V6), &[(60, &long)])),
        Reason::Ipv6TooManyExtensions
    );
    let half = [0; 134];
    assert_eq!(
        reason(&sample::with_extensions(&sample::syn(Family::V6), &[(0, &half), (60, &half)])),
        Reason::Ipv6TooManyExtensions
    );
    let fits = [0; 254];
    assert!(parse(&sample::with_extensions(&sample::syn(Family::V6), &[(60, &fits)])).is_ok());
}

#[test]
fn h19_jumbo_and_impossible_ipv6_options_are_refused() {
    let with = |number, content: &[u8]| {
        parse(&sample::with_extensions(&sample::syn(Family::V6), &[(number, content)]))
    };
    assert_eq!(with(0, &[0xc2, 4, 0, 1, 0, 0]), Err(Reason::Ipv6Jumbogram));
    for number in [0, 60] {
        assert_eq!(with(number, &[1, 5, 0, 0, 0, 0]), Err(Reason::Ipv6BadExtension));
        assert_eq!(with(number, &[0, 0, 0, 0, 0, 1]), Err(Reason::Ipv6BadExtension));
    }
    for number in [0, 60] {
        for kind in [0x3e, 0x7e, 0xc9, 4] {
            let needs = with(number, &[kind, 4, 0, 0, 0, 0]).unwrap().needs;
            assert_eq!(needs, Permits::IPV6_UNKNOWN_OPTION, "{kind:#x}");
        }
        assert_eq!(with(number, PAD4).unwrap().needs, Permits::NONE);
    }
    let alert = |number| with(number, &[5, 2, 0, 0, 1, 0]).unwrap().needs;
    assert_eq!((alert(0), alert(60)), (Permits::IPV6_ROUTER_ALERT, Permits::IPV6_UNKNOWN_OPTION));
}

#[test]
fn f1_no_piece_of_a_datagram_is_taken_for_a_packet() {
    let frame = sample::udp(Family::V4, b"question");
    for (high, low) in [(0x20, 0), (0, 1), (0x1f, 0xff), (0x60, 1)] {
        let fragment = changed(&frame, |f| f[IP + 6..IP + 8].copy_from_slice(&[high, low]));
        assert_eq!(reason(&fragment), Reason::Fragment);
    }
    let whole = changed(&frame, |f| f[IP + 6..IP + 8].fill(0));
    assert!(parse(&whole).unwrap().may_fragment);
}

#[test]
fn h20_tunnels_are_opaque_and_icmp_of_the_other_family_is_unsupported() {
    for (frame, at) in [(sample::udp(Family::V4, b"x"), IP + 9), (sample::udp(Family::V6, b"x"), IP + 6)] {
        for number in [4, 41, 47, 50, 51, 132] {
            let headers = parse(&changed(&frame, |f| f[at] = number)).unwrap();
            assert_eq!((headers.transport, headers.protocol), (Transport::Opaque, number));
            assert_eq!((headers.source_port, headers.destination_port), (0, 0));
        }
        for number in [2, 139, 140, 255] {
            assert_eq!(reason_with(&frame, at, number), Reason::ProtocolUnsupported, "{number}");
        }
    }
    assert_eq!(reason_with(&sample::echo_request(Family::V4), IP + 9, 58), Reason::ProtocolUnsupported);
    assert_eq!(reason_with(&sample::echo_request(Family::V6), IP + 6, 1), Reason::ProtocolUnsupported);
}

#[test]
fn i7_i9_only_echo_and_errors_pass_of_icmp() {
    let v4 = sample::echo_request(Family::V4);
    let v6 = sample::echo_request(Family::V6);
    let passes = |frame: &[u8], at: usize| -> Vec<u8> {
        (0..=255).filter(|&t| parse(&changed(frame, |f| f[at] = t)).is_ok()).collect()
    };
    assert_eq!(passes(&v4, L4), [0, 3, 8, 11, 12]);
    assert_eq!(passes(&v6, L4_V6), [1, 2, 3, 4, 128, 129]);
    assert_eq!(reason_with(&v4, L4 + 1, 9), Reason::IcmpTypeDenied);
    assert_eq!(reason_with(&v6, L4_V6 + 1, 9), Reason::IcmpTypeDenied);
    let headers = parse(&v4).unwrap();
    assert_eq!((headers.source_port, headers.destination_port, headers.icmp_type), (77, 78, 8));
    let reply = parse(&changed(&v4, |f| f[L4] = 0)).unwrap();
    assert_eq!((reply.source_port, reply.destination_port), (78, 77));
    assert_eq!(headers.transport, Transport::EchoRequest);
}

#[test]
fn every_truncation_of_every_kind_is_an_error_with_any_lengths_repaired() {
    for frame in sample::every_kind() {
        for length in 0..frame.len() {
            assert!(parse(&frame[..length]).is_err());
            // The same with the IP length made to agree: what is read must lie within.
            let mut repaired = frame[..length].to_vec();
            if frame[12..14] == [8, 0] && length >= L4 {
                repaired[IP + 2..IP + 4].copy_from_slice(&((length - IP) as u16).to_be_bytes());
                if length >= IP + usize::from(repaired[IP] & 15) * 4 {
                    sample::fix_ipv4(&mut repaired);
                }
            } else if frame[12..14] == [0x86, 0xdd] && length >= L4_V6 {
                repaired[IP + 4..IP + 6].copy_from_slice(&((length - L4_V6) as u16).to_be_bytes());
            }
            if let Ok(headers) = parse(&repaired) {
                assert!(headers.network < headers.transport_offset);
                assert!(usize::from(headers.transport_offset) + 8 <= usize::from(headers.end));
                assert_eq!(usize::from(headers.end), length);
                let _ = verify_transport_checksum(&repaired, &headers);
                let _ = parse_quote(&repaired, &headers);
            }
        }
    }
}

#[test]
fn the_fuzz_seeds_are_one_packet_of_every_kind() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds/parse");
    let named =
        |name: &'static str| move |(number, frame): (usize, Vec<u8>)| (format!("{name}-{number:02}"), frame);
    let kinds = sample::every_kind().into_iter().enumerate().map(named("kind"));
    let rare = sample::rare_kinds().into_iter().enumerate().map(named("rare"));
    for (name, frame) in kinds.chain(rare) {
        assert!(parse(&frame).is_ok(), "{name}");
        let path = folder.join(name);
        if std::env::var_os("BULKHEAD_WRITE_SEEDS").is_some() {
            std::fs::write(&path, &frame).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), frame, "{}", path.display());
    }
}

fn assert_agrees(frame: &[u8], headers: &Headers) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let h = ip.header();
            assert_eq!(headers.addresses, Addresses::V4(h.source_addr(), h.destination_addr()));
            assert_eq!((headers.protocol, headers.hop_limit), (ip.payload_ip_number().0, h.ttl()));
            assert_eq!(headers.ip_len(), usize::from(h.total_len()));
            assert_eq!(headers.may_fragment, !h.dont_fragment());
        }
        NetSlice::Ipv6(ip) => {
            let h = ip.header();
            assert_eq!(headers.addresses, Addresses::V6(h.source_addr(), h.destination_addr()));
            assert_eq!((headers.protocol, headers.hop_limit), (ip.payload().ip_number.0, h.hop_limit()));
            assert_eq!(headers.ip_len(), usize::from(h.payload_length()) + 40);
        }
        other => panic!("{other:?}"),
    }
    let ports = (headers.source_port, headers.destination_port);
    let transport = match sliced.transport.as_ref().unwrap() {
        TransportSlice::Tcp(tcp) => {
            let Transport::Tcp(ours) = headers.transport else { panic!("{headers:?}") };
            assert_eq!(ports, (tcp.source_port(), tcp.destination_port()));
            assert_eq!(ours.sequence, tcp.sequence_number());
            assert_eq!(ours.acknowledgement, tcp.acknowledgment_number());
            assert_eq!((ours.window, usize::from(ours.payload)), (tcp.window_size(), tcp.payload().len()));
            tcp.slice()
        }
        TransportSlice::Udp(udp) => {
            assert_eq!(ports, (udp.source_port(), udp.destination_port()));
            udp.slice()
        }
        TransportSlice::Icmpv4(icmp) => icmp.slice(),
        TransportSlice::Icmpv6(icmp) => icmp.slice(),
        other => panic!("{other:?}"),
    };
    let offset = transport.as_ptr() as usize - frame.as_ptr() as usize;
    assert_eq!(usize::from(headers.transport_offset), offset);
}

#[test]
fn etherparse_reads_every_kind_as_we_do() {
    for frame in sample::every_kind() {
        assert_agrees(&frame, &parse(&frame).unwrap());
    }
}

proptest! {
    #[test]
    fn etherparse_reads_random_valid_packets_as_we_do(
        kind in 0..6u8, source: [u8; 4], destination: [u8; 4], source6: [u8; 16], destination6: [u8; 16],
        ports in (1u16.., 1u16..), sequence: u32, window: u16, ttl: u8,
        payload in proptest::collection::vec(0u8.., 0..100), padding in 0usize..46,
    ) {
        let link = || etherparse::PacketBuilder::ethernet2(sample::SENDER, sample::GATEWAY);
        let v4 = link().ipv4(source, destination, ttl);
        let v6 = link().ipv6(source6, destination6, ttl);
        let mut frame = Vec::new();
        match kind {
            0 => v4.tcp(ports.0, ports.1, sequence, window).ack(!sequence).write(&mut frame, &payload),
            1 => v6.tcp(ports.0, ports.1, sequence, window).syn().write(&mut frame, &payload),
            2 => v4.udp(ports.0, ports.1).write(&mut frame, &payload),
            3 => v6.udp(ports.0, ports.1).write(&mut frame, &payload),
            4 => v4.icmpv4_echo_request(ports.0, window).write(&mut frame, &payload),
            _ => v6.icmpv6_echo_reply(ports.0, window).write(&mut frame, &payload),
        }.unwrap();
        frame.extend(std::iter::repeat_n(0, padding));
        let headers = parse(&frame).unwrap();
        assert_agrees(&frame, &headers);
        prop_assert_eq!(verify_transport_checksum(&frame, &headers), Ok(()));
    }

    #[test]
    fn no_bytes_make_it_panic_and_what_parses_lies_within_the_frame(
        pick in 0..17usize, changes in proptest::collection::vec((0usize..120, 0u8..), 0..6), cut in 0usize..140,
    ) {
        let all = sample::every_kind();
        let mut frame = all[pick % all.len()].clone();
        for (at, value) in changes {
            let at = at % frame.len();
            frame[at] = value;
        }
        // A right checksum lets the changed bytes get past the first check.
        if frame[12..14] == [8, 0] && IP + usize::from(frame[IP] & 15) * 4 <= frame.len() {
            sample::fix_ipv4(&mut frame);
        }
        frame.truncate(cut);
        if let Ok(headers) = parse(&frame) {
            prop_assert!(headers.network < headers.transport_offset && headers.transport_offset < headers.end);
            prop_assert!(usize::from(headers.end) <= frame.len());
            let _ = verify_transport_checksum(&frame, &headers);
            let _ = parse_quote(&frame, &headers);
        }
    }
}
