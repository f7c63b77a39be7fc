//! The program's decisions, frame by frame, as the kernel computes them (BPF_PROG_TEST_RUN): no interface is touched.

use std::net::{Ipv4Addr, Ipv6Addr};

use aya::programs::{TestRun, TestRunOptions};

use super::*;

#[path = "../../tests/steering/frames.rs"]
mod frames;

use frames::*;

/// linux/bpf.h.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

const ENDS: Ends = Ends {
    source_mac: [2, 0, 0, 0, 0, 9],
    mac: [2, 0, 0, 0, 0, 1],
    source_v4: Ipv4Addr::new(10, 1, 0, 9),
    v4: Ipv4Addr::new(10, 1, 0, 1),
    source_v6: Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 9),
    v6: Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1),
};
const OTHER_OWN_V4: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
const OTHER_OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1);
const ELSEWHERE: Ends =
    Ends { v4: Ipv4Addr::new(10, 2, 0, 7), v6: Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 7), ..ENDS };

fn v4_from(source: [u8; 4]) -> Ends {
    Ends { source_v4: source.into(), ..ENDS }
}

fn v6_from(source: &str) -> Ends {
    Ends { source_v6: source.parse().unwrap(), ..ENDS }
}

fn v6_to(destination: &str) -> Ends {
    Ends { v6: destination.parse().unwrap(), ..ENDS }
}

/// Everything lies behind the port, but for a network elsewhere, but for one in it.
const SOURCES: [(&str, bool); 6] = [
    ("0.0.0.0/0", true),
    ("10.3.0.0/16", false),
    ("10.3.3.0/24", true),
    ("::/0", true),
    ("fd00:3::/32", false),
    ("fd00:3:3::/48", true),
];

fn sources(of: &[(&str, bool)]) -> Vec<(IpNet, bool)> {
    of.iter().map(|(network, is_here)| (network.parse().unwrap(), *is_here)).collect()
}

/// A program that is not attached, with four services declared; `None`, visibly, without the rights for it.
fn steering() -> Option<PortSteering> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: loading a BPF program takes root");
        return None;
    }
    let mut steering = PortSteering::load(1, 1).unwrap();
    steering
        .set_own_addresses(&[
            ENDS.v4.into(),
            OTHER_OWN_V4.into(),
            ENDS.v6.into(),
            OTHER_OWN_V6.into(),
            "fe80::1".parse().unwrap(),
        ])
        .unwrap();
    steering
        .set_local(&[
            LocalService::Tcp(22),
            LocalService::Udp(53),
            LocalService::IcmpEcho,
            LocalService::Icmpv6Echo,
        ])
        .unwrap();
    steering.set_sources(&sources(&SOURCES)).unwrap();
    Some(steering)
}

/// Whether the kernel gets the frame. Anything but passing and dropping fails, and so does a frame that is not
/// counted exactly once, where it belongs.
fn passes(steering: &mut PortSteering, frame: &[u8]) -> bool {
    let before = steering.counters().unwrap();
    let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
    let action = program(&mut steering.ebpf).unwrap().test_run(options).unwrap().return_value;
    let mut expected = before;
    match action {
        XDP_PASS => expected.to_host += 1,
        XDP_DROP => expected.no_worker += 1,
        other => panic!("the program answered {other}"),
    }
    assert_eq!(steering.counters().unwrap(), expected);
    action == XDP_PASS
}

fn check(table: Vec<(&str, Vec<u8>)>, expected: bool) {
    let Some(mut steering) = steering() else { return };
    for (name, frame) in table {
        assert_eq!(passes(&mut steering, &frame), expected, "{name}");
    }
}

#[test]
fn the_kernel_gets_arp_neighbour_discovery_and_declared_services() {
    let discovery = |kind| icmpv6(&ENDS, 255, kind, 0, &[0; 32]);
    check(
        vec![
            ("ARP request", arp_request(&ENDS)),
            ("ARP reply", bent(arp_request(&ENDS), NETWORK + 7, 2)),
            ("neighbour solicitation to a group", neighbour_solicitation(&ENDS)),
            ("router solicitation", discovery(133)),
            ("router advertisement", discovery(134)),
            ("neighbour solicitation", discovery(135)),
            ("neighbour advertisement", discovery(136)),
            ("redirect", discovery(137)),
            ("router advertisement to all nodes", icmpv6(&v6_to("ff02::1"), 255, 134, 0, &[0; 32])),
            ("duplicate address detection", neighbour_solicitation(&v6_from("::"))),
            (
                "neighbour solicitation to a link-local address",
                icmpv6(&v6_to("fe80::1"), 255, 135, 0, &[0; 24]),
            ),
            ("declared TCP", tcp4(&ENDS, 22)),
            ("declared UDP", udp4(&ENDS, 53)),
            ("declared UDP over IPv6", udp6(&ENDS, 53)),
            ("echo request", echo4(&ENDS)),
            ("echo request over IPv6", icmpv6(&ENDS, 64, 128, 0, b"payload")),
            ("don't fragment", bent(udp4(&ENDS, 53), NETWORK + 6, 0x40)),
            ("another own address", udp4(&Ends { v4: OTHER_OWN_V4, ..ENDS }, 53)),
            ("another own IPv6 address", udp6(&Ends { v6: OTHER_OWN_V6, ..ENDS }, 53)),
            ("a source just outside ::/80", udp6(&v6_from("::1:0:0:1"), 53)),
            ("a source in a network here that is inside one elsewhere", udp4(&v4_from([10, 3, 3, 9]), 53)),
            ("the same over IPv6", udp6(&v6_from("fd00:3:3::9"), 53)),
        ],
        true,
    );
}

#[test]
fn undeclared_services_and_foreign_destinations_go_to_the_worker() {
    check(
        vec![
            ("undeclared TCP", tcp4(&ENDS, 23)),
            ("TCP to a port declared for UDP", tcp4(&ENDS, 53)),
            ("UDP to a port declared for TCP", udp4(&ENDS, 22)),
            ("the port with its bytes swapped", udp4(&ENDS, 53 << 8)),
            ("undeclared UDP over IPv6", udp6(&ENDS, 54)),
            ("echo reply", bent(echo4(&ENDS), NETWORK + 20, 0)),
            ("echo request with a code", bent(echo4(&ENDS), NETWORK + 21, 1)),
            ("ICMP timestamp request", bent(echo4(&ENDS), NETWORK + 20, 13)),
            ("echo reply over IPv6", icmpv6(&ENDS, 64, 129, 0, b"payload")),
            ("ICMPv6 error", icmpv6(&ENDS, 64, 1, 0, &[0; 48])),
            ("ICMPv6 in IPv4", bent(bent(echo4(&ENDS), NETWORK + 9, 58), NETWORK + 20, 128)),
            ("ICMP in IPv6", bent(icmpv6(&ENDS, 64, 8, 0, b"payload"), NETWORK + 6, 1)),
            ("protocol 0", bent(echo4(&ENDS), NETWORK + 9, 0)),
            ("SCTP", bent(udp4(&ENDS, 53), NETWORK + 9, 132)),
            ("transit UDP", udp4(&ELSEWHERE, 53)),
            ("transit TCP", tcp4(&ELSEWHERE, 22)),
            ("transit UDP over IPv6", udp6(&ELSEWHERE, 53)),
            ("transit echo request", echo4(&ELSEWHERE)),
            ("broadcast", udp4(&Ends { v4: Ipv4Addr::BROADCAST, mac: [0xff; 6], ..ENDS }, 53)),
            ("multicast", udp4(&Ends { v4: [224, 0, 0, 1].into(), mac: [1, 0, 0x5e, 0, 0, 1], ..ENDS }, 53)),
            ("multicast over IPv6", udp6(&v6_to("ff02::1"), 53)),
            ("echo request to all nodes", icmpv6(&v6_to("ff02::1"), 64, 128, 0, b"payload")),
            ("own address in a broadcast frame", udp4(&Ends { mac: [0xff; 6], ..ENDS }, 53)),
            (
                "own IPv6 address in a multicast frame",
                udp6(&Ends { mac: [0x33, 0x33, 0, 0, 0, 1], ..ENDS }, 53),
            ),
        ],
        false,
    );
}

#[test]
fn fragments_options_extension_headers_and_tags_go_to_the_worker() {
    let solicitation = || icmpv6(&ENDS, 255, 135, 0, &[0; 24]);
    check(
        vec![
            ("first fragment", bent(udp4(&ENDS, 53), NETWORK + 6, 0x20)),
            ("last fragment", bent(udp4(&ENDS, 53), NETWORK + 7, 1)),
            ("large fragment offset", bent(udp4(&ENDS, 53), NETWORK + 6, 0x10)),
            ("reserved flag", bent(udp4(&ENDS, 53), NETWORK + 6, 0x80)),
            ("options", with_options(udp4(&ENDS, 53))),
            ("hop-by-hop options", with_extension(udp6(&ENDS, 53), 0)),
            ("routing header", with_extension(udp6(&ENDS, 53), 43)),
            ("fragment header", with_extension(udp6(&ENDS, 53), 44)),
            ("destination options", with_extension(udp6(&ENDS, 53), 60)),
            ("fragmented neighbour solicitation", with_extension(solicitation(), 44)),
            ("neighbour solicitation behind hop-by-hop options", with_extension(solicitation(), 0)),
            ("tagged ARP", tagged(arp_request(&ENDS), 10)),
            ("priority-tagged ARP", tagged(arp_request(&ENDS), 0)),
            ("tagged UDP", tagged(udp4(&ENDS, 53), 10)),
            ("tagged neighbour solicitation", tagged(solicitation(), 10)),
            ("twice tagged", tagged(tagged(udp4(&ENDS, 53), 10), 20)),
        ],
        false,
    );
}

#[test]
fn sources_that_no_host_can_have_go_to_the_worker() {
    check(
        vec![
            ("the destination itself", udp4(&v4_from([10, 1, 0, 1]), 53)),
            ("another own address", udp4(&Ends { source_v4: OTHER_OWN_V4, ..ENDS }, 53)),
            ("this network", udp4(&v4_from([0, 0, 0, 0]), 53)),
            ("loopback", tcp4(&v4_from([127, 0, 0, 1]), 22)),
            ("multicast", udp4(&v4_from([224, 0, 0, 1]), 53)),
            ("broadcast", echo4(&v4_from([255, 255, 255, 255]))),
            ("the destination itself, IPv6", udp6(&Ends { source_v6: ENDS.v6, ..ENDS }, 53)),
            ("another own IPv6 address", udp6(&Ends { source_v6: OTHER_OWN_V6, ..ENDS }, 53)),
            ("unspecified IPv6", udp6(&v6_from("::"), 53)),
            ("loopback IPv6", udp6(&v6_from("::1"), 53)),
            ("IPv4-mapped", udp6(&v6_from("::ffff:10.1.0.9"), 53)),
            ("multicast IPv6", udp6(&v6_from("ff02::1"), 53)),
        ],
        false,
    );
}

#[test]
fn a_source_that_lies_elsewhere_goes_to_the_worker() {
    check(
        vec![
            ("UDP", udp4(&v4_from([10, 3, 0, 9]), 53)),
            ("TCP", tcp4(&v4_from([10, 3, 255, 255]), 22)),
            ("echo request", echo4(&v4_from([10, 3, 2, 9]))),
            ("UDP over IPv6", udp6(&v6_from("fd00:3::9"), 53)),
            ("echo request over IPv6", icmpv6(&v6_from("fd00:3:4::9"), 64, 128, 0, b"payload")),
        ],
        false,
    );
}

#[test]
fn a_source_that_no_network_holds_goes_to_the_worker_unless_it_is_link_local() {
    let Some(mut steering) = steering() else { return };
    let link_local = ["fe80::9", "febf::9"].map(|source| udp6(&v6_from(source), 53));
    let others = ["fe7f::9", "fec0::9", "fd00:1::9"].map(|source| udp6(&v6_from(source), 53));
    // The families are apart: ::/0 is not IPv4's, and 0.0.0.0/0 is not IPv6's.
    steering.set_sources(&sources(&[("::/0", true)])).unwrap();
    assert!(!passes(&mut steering, &udp4(&ENDS, 53)));
    assert!(others.iter().all(|frame| passes(&mut steering, frame)));
    steering.set_sources(&sources(&[("0.0.0.0/0", true)])).unwrap();
    assert!(passes(&mut steering, &udp4(&ENDS, 53)));
    assert!(!others.iter().any(|frame| passes(&mut steering, frame)));
    steering.set_sources(&[]).unwrap();
    assert!(!passes(&mut steering, &udp4(&ENDS, 53)));
    assert!(link_local.iter().all(|frame| passes(&mut steering, frame)));
    // Neither ARP nor neighbour discovery asks for sources.
    assert!(passes(&mut steering, &arp_request(&ENDS)));
    assert!(passes(&mut steering, &neighbour_solicitation(&ENDS)));
}

#[test]
fn sources_are_replaced_by_what_is_set() {
    let Some(mut steering) = steering() else { return };
    let (here, within) = (udp4(&ENDS, 53), udp4(&v4_from([10, 1, 1, 9]), 53));
    // The last one's host bits do not matter.
    for (set, expected) in [
        (vec![("10.1.0.0/24", true)], (true, false)),
        (vec![("10.1.0.0/16", true)], (true, true)),
        (vec![("10.1.0.0/16", true), ("10.1.1.0/24", false)], (true, false)),
        (vec![("10.1.0.0/16", false), ("10.1.1.0/24", true)], (false, true)),
        (vec![("10.1.1.0/24", false)], (false, false)),
        (vec![("10.1.1.77/24", true)], (false, true)),
    ] {
        steering.set_sources(&sources(&set)).unwrap();
        assert_eq!((passes(&mut steering, &here), passes(&mut steering, &within)), expected, "{set:?}");
    }
}

#[test]
fn neighbour_discovery_from_elsewhere_or_of_another_shape_goes_to_the_worker() {
    let discovery = |hop_limit, kind, code| icmpv6(&ENDS, hop_limit, kind, code, &[0; 32]);
    check(
        vec![
            ("hop limit 254", discovery(254, 135, 0)),
            ("code 1", discovery(255, 135, 1)),
            ("type 132", discovery(255, 132, 0)),
            ("type 138", discovery(255, 138, 0)),
            ("to an address that is not ours", icmpv6(&ELSEWHERE, 255, 135, 0, &[0; 24])),
            ("to site-local multicast", icmpv6(&v6_to("ff05::1"), 255, 135, 0, &[0; 24])),
            ("ARP for another hardware", bent(arp_request(&ENDS), NETWORK + 1, 6)),
            ("ARP for another protocol", bent(arp_request(&ENDS), NETWORK + 2, 0x86)),
            ("reverse ARP in ARP", bent(arp_request(&ENDS), NETWORK + 7, 3)),
            ("ARP with long addresses", bent(arp_request(&ENDS), NETWORK + 4, 8)),
        ],
        false,
    );
}

#[test]
fn frames_and_lengths_cut_short_go_to_the_worker() {
    let Some(mut steering) = steering() else { return };
    // Complete up to the last byte that the decision needs; the kernel looks at the rest.
    for (frame, needed) in [
        (arp_request(&ENDS), NETWORK + 28),
        (udp4(&ENDS, 53), NETWORK + 20 + 8),
        (tcp4(&ENDS, 22), NETWORK + 20 + 8),
        (echo4(&ENDS), NETWORK + 20 + 8),
        (udp6(&ENDS, 53), NETWORK + 40 + 8),
        (icmpv6(&ENDS, 255, 135, 0, &[0; 24]), NETWORK + 40 + 8),
    ] {
        // BPF_PROG_TEST_RUN takes no frame shorter than an Ethernet header.
        for length in NETWORK..frame.len() {
            assert_eq!(passes(&mut steering, &frame[..length]), length >= needed, "{frame:x?} at {length}");
        }
    }
    let short = |frame: Vec<u8>, offset: usize, length: u8| bent(frame, NETWORK + offset, length);
    for (name, frame) in [
        ("IPv4 that ends in its header", short(udp4(&ENDS, 53), 3, 19)),
        ("IPv4 that ends in the UDP header", short(udp4(&ENDS, 53), 3, 27)),
        ("IPv4 that ends in the TCP header", short(tcp4(&ENDS, 22), 3, 39)),
        ("IPv6 that ends in the UDP header", short(udp6(&ENDS, 53), 5, 7)),
        ("IPv4 of another version", short(udp4(&ENDS, 53), 0, 0x65)),
        ("IPv4 with a short header", short(udp4(&ENDS, 53), 0, 0x44)),
        ("IPv6 of another version", short(udp6(&ENDS, 53), 0, 0x40)),
    ] {
        assert!(!passes(&mut steering, &frame), "{name}");
    }
}

#[test]
fn addresses_and_services_are_replaced_by_what_is_set() {
    let Some(mut steering) = steering() else { return };
    steering.set_local(&[LocalService::Udp(53), LocalService::Udp(54)]).unwrap();
    assert!(passes(&mut steering, &udp4(&ENDS, 53)));
    assert!(passes(&mut steering, &udp4(&ENDS, 54)));
    assert!(!passes(&mut steering, &tcp4(&ENDS, 22)));
    assert!(!passes(&mut steering, &echo4(&ENDS)));
    steering.set_own_addresses(&[ELSEWHERE.v4.into(), ENDS.v6.into()]).unwrap();
    assert!(!passes(&mut steering, &udp4(&ENDS, 53)));
    assert!(passes(&mut steering, &udp4(&ELSEWHERE, 53)));
    assert!(passes(&mut steering, &udp6(&ENDS, 53)));
    steering.set_local(&[]).unwrap();
    assert!(!passes(&mut steering, &udp4(&ELSEWHERE, 53)));
    assert!(passes(&mut steering, &arp_request(&ENDS)));
}

#[test]
fn a_full_set_can_be_replaced_by_another_full_set_and_more_is_refused_unchanged() {
    let Some(mut steering) = steering() else { return };
    let ports = |from: u16| -> Vec<LocalService> {
        (from..from + LOCAL_SERVICES_MAX as u16).map(LocalService::Udp).collect()
    };
    steering.set_local(&ports(1)).unwrap();
    steering.set_local(&ports(10_000)).unwrap();
    assert!(!passes(&mut steering, &udp4(&ENDS, 53)));
    let mut more = ports(1);
    more.push(LocalService::IcmpEcho);
    let error = steering.set_local(&more).unwrap_err();
    assert_eq!(error.to_string(), "4097 local services; a port takes 4096 at most");
    assert!(passes(&mut steering, &udp4(&ENDS, 10_000)));
    assert!(!passes(&mut steering, &udp4(&ENDS, 53)));

    let address = |n: usize| IpAddr::from(Ipv4Addr::from_bits(n as u32));
    let addresses: Vec<IpAddr> = (0..=OWN_ADDRESSES_MAX).map(address).collect();
    assert!(matches!(
        steering.set_own_addresses(&addresses),
        Err(Error::TooMany { given: 4097, limit: 4096, .. })
    ));
    assert!(passes(&mut steering, &udp4(&ENDS, 10_000)));
}

#[test]
fn a_descriptor_that_is_no_xdp_socket_and_a_queue_that_is_not_there_are_refused() {
    let Some(mut steering) = steering() else { return };
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(steering.register(0, file.as_fd()), Err(Error::Refused { .. })));
    assert!(matches!(steering.register(1, file.as_fd()), Err(Error::NoSuchQueue { queue: 1, queues: 1 })));
}

#[test]
fn a_port_can_be_handed_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<PortSteering>();
}
