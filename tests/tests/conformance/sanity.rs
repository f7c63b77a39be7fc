//! Group S: source and destination sanity. Everything is allowed by the rules: what drops here drops whatever they say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::craft::changed;
use bulkhead_tests::frames::{Family, Path, flags, segment};
use bulkhead_tests::scene::Scene;

const OPEN: &str = "any icmp/echo-request icmpv6/echo-request";

/// Everything may go everywhere, and each segment has the whole world behind it as far as the other leaves it.
fn open() -> Config {
    let segments = "[segments.office]\nport = \"office\"\nnetworks = [\"10.1.0.0/24\", \"fd00:1::/64\"]\n\
                    [segments.servers]\nport = \"servers\"\nnetworks = [\"10.2.0.0/24\", \"fd00:2::/64\"]\n\
                    [segments.world]\nports = [\"office\", \"servers\"]\nnetworks = [\"0.0.0.0/0\", \"::/0\"]\n";
    Config { segments: Some(segments.to_owned()), ..Config::new(allow("all", "any", "any", OPEN)) }
}

/// One packet of each kind that can open a connection.
fn openers(path: &Path) -> [Vec<u8>; 3] {
    [
        path.udp(4000, 53, b"name"),
        path.tcp((4000, 443), segment(flags::SYN, 1, 0), b""),
        path.echo_request(7, 1),
    ]
}

/// None of the packets from this source crosses, all are dropped for this reason, and nobody is told.
fn no_source(source: &str, reason: &str) {
    sources(&[source], reason);
}

fn sources(list: &[&str], reason: &str) {
    let Some(scene) = Scene::start(&open()) else { return };
    let before = scene.drops();
    for source in list {
        let source: IpAddr = source.parse().unwrap();
        let family = if source.is_ipv4() { Family::V4 } else { Family::V6 };
        let path = Path { source, ..scene.path("office", "servers", family) };
        openers(&path).iter().for_each(|frame| scene.stays_out("office", "servers", frame));
    }
    scene.nothing_arrived("servers", "office");
    scene.expect_drops(&before, &[(reason, 3 * list.len() as u64)]);
    for family in Family::BOTH {
        let honest = scene.path("office", "servers", family);
        openers(&honest).iter().for_each(|frame| drop(scene.crosses("office", "servers", frame)));
    }
}

fn destinations(list: &[&str], reason: &str) {
    let Some(scene) = Scene::start(&open()) else { return };
    let before = scene.drops();
    for destination in list {
        let destination: IpAddr = destination.parse().unwrap();
        let family = if destination.is_ipv4() { Family::V4 } else { Family::V6 };
        let path = Path { destination, ..scene.path("office", "servers", family) };
        openers(&path).iter().for_each(|frame| scene.stays_out("office", "servers", frame));
    }
    scene.nothing_arrived("servers", "office");
    scene.expect_drops(&before, &[(reason, 3 * list.len() as u64)]);
}

fn own_addresses(scene: &Scene, zone: &str) -> [IpAddr; 2] {
    let host = scene.host(zone);
    [host.gateway_v4.into(), host.gateway_v6.into()]
}

fn from_an_own_address_of(zone: &str) {
    let Some(scene) = Scene::start(&open()) else { return };
    let before = scene.drops();
    for (family, source) in Family::BOTH.into_iter().zip(own_addresses(&scene, zone)) {
        let path = Path { source, ..scene.path("office", "servers", family) };
        openers(&path).iter().for_each(|frame| scene.stays_out("office", "servers", frame));
        // Nor to the gateway itself.
        for destination in
            own_addresses(&scene, "office").into_iter().filter(|a| a.is_ipv4() == source.is_ipv4())
        {
            let path = Path { destination, ..path };
            openers(&path).iter().for_each(|frame| scene.stays_out("office", "servers", frame));
        }
    }
    scene.nothing_arrived("servers", "office");
    scene.expect_drops(&before, &[("source_is_gateway", 12)]);
}

#[test]
fn s1_source_of_the_receiving_interface_drops() {
    from_an_own_address_of("office");
}

#[test]
fn s2_source_of_any_other_own_address_drops() {
    from_an_own_address_of("servers");
}

#[test]
fn s3_source_outside_the_segments_of_the_port_drops() {
    let Some(scene) = Scene::start(&Config::new(allow("all", "any", "any", OPEN))) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let honest = scene.path("office", "servers", family);
        let foreign = if family == Family::V4 { "192.0.2.9" } else { "2001:db8::9" }.parse().unwrap();
        // A stranger, a host of the other segment, and the address right behind the segment's own network.
        let beside = if family == Family::V4 { "10.1.1.0" } else { "fd00:1:0:1::" }.parse().unwrap();
        for source in [foreign, scene.peer("servers").nth(family, 1), beside] {
            let path = Path { source, ..honest };
            openers(&path).iter().for_each(|frame| scene.stays_out("office", "servers", frame));
        }
        openers(&honest).iter().for_each(|frame| drop(scene.crosses("office", "servers", frame)));
    }
    scene.nothing_arrived("servers", "office");
    scene.expect_drops(&before, &[("spoofed_source", 18)]);
}

#[test]
fn s4_source_limited_or_directed_broadcast_drops() {
    // Of either link's network; and its network address, which is the old form of the same (RFC 1812, 5.3.5).
    sources(&["255.255.255.255", "10.1.0.255", "10.2.0.255", "10.1.0.0", "10.2.0.0"], "source_invalid");
}

#[test]
fn s5_source_multicast_drops() {
    sources(&["224.0.0.1", "224.0.0.251", "239.255.255.255", "232.1.2.3"], "source_invalid");
}

#[test]
fn s6_source_loopback_drops() {
    sources(&["127.0.0.1", "127.255.255.254"], "source_invalid");
}

#[test]
fn s7_source_this_network_drops() {
    sources(&["0.0.0.0", "0.1.2.3"], "source_invalid");
}

#[test]
fn s8_source_or_destination_reserved_drops_silently() {
    sources(&["240.0.0.1", "255.255.255.254"], "source_invalid");
    destinations(&["240.0.0.1", "255.255.255.254", "255.255.255.255"], "destination_invalid");
}

#[test]
fn s9_source_or_destination_link_local_drops_silently() {
    sources(&["169.254.0.1", "169.254.255.254"], "source_invalid");
    destinations(&["169.254.0.1", "169.254.169.254"], "destination_invalid");
}

#[test]
fn s10_source_equal_to_destination_drops() {
    let Some(scene) = Scene::start(&open()) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        // Of a host on the other side, and of one on this.
        for address in [path.destination, path.source] {
            let path = Path { source: address, destination: address, ..path };
            openers(&path).iter().for_each(|frame| scene.stays_out("office", "servers", frame));
            // Also with one port at both ends.
            scene.stays_out("office", "servers", &path.tcp((139, 139), segment(flags::SYN, 1, 0), b""));
        }
    }
    scene.nothing_arrived("servers", "office");
    scene.expect_drops(&before, &[("land", 16)]);
}

#[test]
fn s11_destination_directed_broadcast_or_multicast_drops() {
    destinations(&["10.2.0.255", "10.2.0.0", "10.1.0.255", "224.0.0.1", "239.1.2.3"], "destination_invalid");
    destinations(&["127.0.0.1", "0.0.0.0", "0.9.9.9"], "destination_invalid");
}

#[test]
fn s12_ipv6_source_loopback_unspecified_multicast_or_link_local_drops() {
    for source in ["::1", "::", "ff02::1", "ff0e::1", "fe80::1", "febf::1"] {
        no_source(source, "source_invalid");
    }
}

#[test]
fn s12_ipv6_destination_loopback_unspecified_multicast_or_link_local_drops() {
    destinations(&["::", "ff0e::1", "ff02::1", "fe80::1", "fec0::1"], "destination_invalid");
    // The gateway's own, and no declared service of it.
    destinations(&["::1"], "local_service_undeclared");
}

#[test]
fn s13_ipv6_reserved_and_mapped_addresses_drop() {
    let list = [
        "4000::1",
        "8000::1",
        "::ffff:10.1.0.77",
        "::10.1.0.77",
        "100::1",
        "1fff::1",
        "fe00::1",
        "64:ff9b:2::1",
    ];
    sources(&list, "source_invalid");
    destinations(&list, "destination_invalid");
}

#[test]
fn s14_frames_not_for_the_port_s_own_ethernet_address_drop() {
    let Some(scene) = Scene::start(&open()) else { return };
    let before = scene.drops();
    let servers = scene.peer("servers");
    // Another station's (which a switch floods), the other port's, everybody's, a group's, the right one but for a bit.
    let mut near = scene.peer("office").gateway_mac;
    near[5] ^= 1;
    for to in [
        servers.mac,
        servers.gateway_mac,
        [0xff; 6],
        [1, 0, 0x5e, 0, 0, 1],
        [0x33, 0x33, 0, 0, 0, 1],
        near,
        [0; 6],
    ] {
        for family in Family::BOTH {
            let path = Path { to, ..scene.path("office", "servers", family) };
            openers(&path).iter().for_each(|frame| scene.stays_out("office", "servers", frame));
        }
    }
    scene.nothing_arrived("servers", "office");
    scene.expect_at_least(&before, &[("ethernet_not_for_us", 7 * 6)]);
}

#[test]
fn s14_frames_from_a_multicast_or_empty_ethernet_address_drop() {
    let Some(scene) = Scene::start(&open()) else { return };
    let before = scene.drops();
    for from in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1], [3, 0, 0, 0, 0, 1], [0; 6]] {
        for family in Family::BOTH {
            let path = Path { from, ..scene.path("office", "servers", family) };
            openers(&path).iter().for_each(|frame| scene.stays_out("office", "servers", frame));
        }
    }
    scene.nothing_arrived("servers", "office");
    scene.expect_drops(&before, &[("ethernet_bad_source", 30)]);
}

#[test]
fn s4_to_s13_hold_for_packets_of_a_known_connection_too() {
    let Some(scene) = Scene::start(&open()) else { return };
    let there = scene.path("office", "servers", Family::V4);
    scene.crosses("office", "servers", &there.udp(4000, 53, b"question"));
    let before = scene.drops();
    let reply = scene.path("servers", "office", Family::V4).udp(53, 4000, b"answer");
    for source in [Ipv4Addr::BROADCAST, Ipv4Addr::LOCALHOST, Ipv4Addr::new(224, 0, 0, 1)] {
        scene.stays_out("servers", "office", &changed(&reply, 26, &source.octets()));
    }
    scene.crosses("servers", "office", &reply);
    let there = scene.path("office", "servers", Family::V6);
    scene.crosses("office", "servers", &there.udp(4000, 53, b"question"));
    let reply = scene.path("servers", "office", Family::V6).udp(53, 4000, b"answer");
    for source in [Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED, "ff02::1".parse().unwrap()] {
        scene.stays_out("servers", "office", &changed(&reply, 22, &source.octets()));
    }
    scene.crosses("servers", "office", &reply);
    scene.expect_drops(&before, &[("source_invalid", 6)]);
}
