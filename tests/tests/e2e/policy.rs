//! What the rules say, seen on the wire.

use std::net::IpAddr;

use bulkhead_tests::config::{Config, allow, deny, reject};
use bulkhead_tests::frames::{Content, ETHERNET_BYTES, Family, Packet, Path, flags, pieces, segment};
use bulkhead_tests::scene::{Scene, office_and_servers, zone};

/// A payload long enough for an ICMP error about it, which is never longer than what it is about.
const LONG: [u8; 60] = [7; 60];
const PINGS: &str = "icmp/echo-request icmpv6/echo-request";

fn own_address(scene: &Scene, family: Family) -> IpAddr {
    let office = scene.host("office");
    if family == Family::V4 { office.gateway_v4.into() } else { office.gateway_v6.into() }
}

/// Sends a frame that a rule rejects with an ICMP error; checks the error and that nothing crosses.
fn is_told_by_icmp(scene: &Scene, frame: &[u8]) {
    let sent = Packet::parse(frame).unwrap();
    scene.stays_out("office", "servers", frame);
    let answer = scene.peer("office").expect("an ICMP error", |packet| packet.icmp().is_some());
    // Administratively prohibited (RFC 1812, section 5.2.7.1; RFC 4443, section 3.1).
    let prohibited = if sent.family() == Family::V4 { (3, 13) } else { (1, 1) };
    assert_eq!(answer.icmp(), Some(prohibited));
    assert_eq!((answer.source, answer.destination), (own_address(scene, sent.family()), sent.source));
    assert!(sent.ip.starts_with(answer.quote()) && answer.quote().len() >= sent.family().header_bytes() + 8);
}

#[test]
fn allowed_crosses_denied_is_silent_rejected_is_told_and_what_no_rule_names_is_denied() {
    let rules = allow("web", "office", "servers", &format!("tcp/80 udp/53 {PINGS}"))
        + &deny("old", "office", "servers", "udp/54 tcp/79")
        + &reject("telnet", "office", "servers", "tcp/23 udp/69");
    let Some(scene) = Scene::start(&Config::new(rules)) else { return };
    let before = scene.drops();
    let syn = |path: &Path, port| path.tcp((4000, port), segment(flags::SYN, 100, 0), b"");
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        scene.crosses("office", "servers", &path.udp(4000, 53, b"name"));
        scene.crosses("office", "servers", &path.echo_request(7, 1));
        scene.crosses("office", "servers", &syn(&path, 80));
        for denied in
            [path.udp(4000, 54, b"name"), syn(&path, 79), path.udp(4000, 55, b"name"), syn(&path, 81)]
        {
            scene.stays_out("office", "servers", &denied);
        }
        scene.stays_out("office", "servers", &syn(&path, 23));
        let reset = scene.peer("office").expect("a reset", |packet| packet.tcp_flags() & flags::RST != 0);
        // As if the server had sent it (RFC 9293, section 3.10.7.1).
        assert_eq!((reset.source, reset.destination), (path.destination, path.source));
        assert_eq!(reset.content, Content::Tcp(23, 4000, flags::RST | flags::ACK, 0, 101, Vec::new()));
        is_told_by_icmp(&scene, &path.udp(4000, 69, &LONG));
    }
    scene.nothing_arrived("servers", "office");
    scene.expect_drops(&before, &[("rule_denied", 4), ("no_rule", 4), ("rule_rejected", 4)]);
}

#[test]
fn a_source_that_does_not_belong_to_its_port_is_spoofed_whatever_the_rules_say() {
    let rules = allow("all", "any", "any", "any");
    let Some(scene) = Scene::start(&Config::new(rules)) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let honest = scene.path("office", "servers", family);
        let foreign: IpAddr =
            if family == Family::V4 { "192.0.2.9".parse() } else { "2001:db8::9".parse() }.unwrap();
        let neighbour = scene.peer("servers").nth(family, 1);
        for source in [foreign, neighbour] {
            let path = Path { source, ..honest };
            scene.stays_out("office", "servers", &path.udp(4000, 53, b"name"));
            scene.stays_out("office", "servers", &path.tcp((4000, 80), segment(flags::SYN, 1, 0), b""));
            scene.stays_out("office", "servers", &path.echo_request(7, 1));
        }
        let own = Path { source: own_address(&scene, family), ..honest };
        scene.stays_out("office", "servers", &own.udp(4000, 53, b"name"));
        scene.crosses("office", "servers", &honest.udp(4000, 53, b"name"));
    }
    scene.nothing_arrived("servers", "office");
    scene.expect_drops(&before, &[("spoofed_source", 12), ("source_is_gateway", 2)]);
}

#[test]
fn the_order_of_rules_in_the_file_does_not_matter() {
    let rules = [
        allow("wide", "office", "servers", "udp/1000-2000"),
        deny("narrow", "office", "servers", "udp/1500"),
        reject("told", "office", "servers", "udp/1600"),
    ];
    let Some(scene) = Scene::start(&Config::new("")) else { return };
    for (round, order) in
        [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].iter().enumerate()
    {
        scene.reload(&Config::new(order.map(|index| rules[index].as_str()).concat()));
        let source_port = 4000 + round as u16;
        for family in Family::BOTH {
            let path = scene.path("office", "servers", family);
            for port in [1000, 1499, 1501, 2000] {
                scene.crosses("office", "servers", &path.udp(source_port, port, b"x"));
            }
            for port in [999, 1500, 2001] {
                scene.stays_out("office", "servers", &path.udp(source_port, port, b"x"));
            }
            is_told_by_icmp(&scene, &path.udp(source_port, 1600, &LONG));
        }
    }
}

#[test]
fn a_rule_opens_one_direction_only() {
    let rules = allow("there", "office", "servers", &format!("tcp/80 udp/53 {PINGS}"));
    let Some(scene) = Scene::start(&Config::new(rules)) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let back = scene.path("servers", "office", family);
        scene.stays_out("servers", "office", &back.udp(53, 53, b"name"));
        scene.stays_out("servers", "office", &back.tcp((80, 80), segment(flags::SYN, 1, 0), b""));
        scene.stays_out("servers", "office", &back.echo_request(7, 1));
        let there = scene.path("office", "servers", family);
        scene.crosses("office", "servers", &there.udp(4000, 53, b"name"));
    }
    scene.expect_drops(&before, &[("no_rule", 6)]);
}

#[test]
fn a_rule_for_ipv4_does_not_open_ipv6_nor_the_other_way_round() {
    let both = allow("names", "office", "servers", "udp/53");
    let config = |services: &str| Config::new(allow("ping", "office", "servers", services));
    let Some(scene) = Scene::start(&config("icmp/echo-request")) else { return };
    let ping = |family| scene.path("office", "servers", family).echo_request(7, 1);
    scene.crosses("office", "servers", &ping(Family::V4));
    scene.stays_out("office", "servers", &ping(Family::V6));
    scene.reload(&config("icmpv6/echo-request"));
    scene.crosses("office", "servers", &ping(Family::V6));
    scene.stays_out("office", "servers", &ping(Family::V4));

    // Segments that have networks of one family only.
    let names = |family| scene.path("office", "servers", family).udp(4000, 53, b"name");
    let segments = |office: &str, servers: &str| {
        let segment = |name: &str, network: &str| {
            format!("[segments.{name}]\nport = \"{name}\"\nnetworks = [\"{network}\"]\n")
        };
        let segments = Some(segment("office", office) + &segment("servers", servers));
        Config { segments, sentinels: false, ..Config::new(both.clone()) }
    };
    let before = scene.drops();
    scene.reload(&segments("10.1.0.0/24", "10.2.0.0/24"));
    scene.crosses("office", "servers", &names(Family::V4));
    scene.peer("office").send(&names(Family::V6));
    scene.expect_drops(&before, &[("spoofed_source", 1)]);
    scene.reload(&segments("fd00:1::/64", "fd00:2::/64"));
    scene.crosses("office", "servers", &names(Family::V6));
    let before = scene.drops();
    scene.peer("office").send(&path_with_new_port(&scene));
    scene.expect_drops(&before, &[("spoofed_source", 1)]);
    scene.reload(&Config::new(both));
    scene.nothing_arrived("office", "servers");
}

/// IPv4 name service that no earlier connection knows.
fn path_with_new_port(scene: &Scene) -> Vec<u8> {
    scene.path("office", "servers", Family::V4).udp(4001, 53, b"name")
}

#[test]
fn traffic_inside_a_segment_needs_a_rule_from_the_segment_to_itself() {
    let outward = allow("out", "office", "servers", "udp/53");
    let Some(scene) = Scene::start(&Config::new(outward.clone())) else { return };
    let inside = |family| {
        let destination = scene.peer("office").nth(family, 1);
        Path { destination, ..scene.path("office", "office", family) }.udp(4000, 53, b"name")
    };
    let before = scene.drops();
    for family in Family::BOTH {
        scene.peer("office").send(&inside(family));
    }
    // First out of the office, behind the two; then back into it.
    scene.nothing_arrived("office", "servers");
    scene.nothing_arrived("servers", "office");
    scene.expect_drops(&before, &[("no_rule", 2)]);
    scene.reload(&Config::new(outward + &allow("inside", "office", "office", "udp/53")));
    for family in Family::BOTH {
        scene.crosses("office", "office", &inside(family));
    }
}

#[test]
fn a_segment_inside_another_ones_network_and_a_third_zone_are_told_apart() {
    let mut zones = office_and_servers();
    zones.push(zone("guests", 3));
    let Some(mut scene) = Scene::build(zones) else { return };
    let vault = scene.peer("servers").nth(Family::V4, 1);
    let segment = |name: &str, port: &str, network: &str| {
        format!("[segments.{name}]\nport = \"{port}\"\nnetworks = [\"{network}\"]\n")
    };
    let segments = segment("office", "office", "10.1.0.0/24")
        + &segment("servers", "servers", "10.2.0.0/24")
        + &segment("guests", "guests", "10.3.0.0/24")
        + &segment("vault", "servers", &format!("{vault}/32"));
    let rules = allow("staff", "office", "servers", "udp/53") + &allow("safe", "guests", "vault", "udp/53");
    scene.run(&Config { segments: Some(segments), ..Config::new(rules) });
    let to_vault = |from| Path { destination: vault, ..scene.path(from, "servers", Family::V4) };
    scene.crosses("office", "servers", &scene.path("office", "servers", Family::V4).udp(4000, 53, b"x"));
    scene.crosses("guests", "servers", &to_vault("guests").udp(4000, 53, b"x"));
    scene.stays_out("office", "servers", &to_vault("office").udp(4000, 53, b"x"));
    let from_guests = scene.path("guests", "servers", Family::V4);
    scene.stays_out("guests", "servers", &from_guests.udp(4000, 53, b"x"));
    scene.stays_out("guests", "office", &scene.path("guests", "office", Family::V4).udp(4000, 53, b"x"));
}

#[test]
fn what_is_no_ip_packet_is_dropped_with_its_reason() {
    let Some(scene) = Scene::start(&Config::new(allow("all", "any", "any", "any"))) else { return };
    let before = scene.drops();
    let good = scene.path("office", "servers", Family::V4).udp(4000, 53, b"0123456789");
    let damaged = |offset: usize, value: u8| {
        let mut frame = good.clone();
        frame[ETHERNET_BYTES + offset] = value;
        frame
    };
    scene.stays_out("office", "servers", &damaged(0, 0x55));
    scene.stays_out("office", "servers", &damaged(10, !good[ETHERNET_BYTES + 10]));
    scene.stays_out("office", "servers", &damaged(26, !good[ETHERNET_BYTES + 26]));
    scene.stays_out("office", "servers", &good[..ETHERNET_BYTES + 12]);
    scene.crosses("office", "servers", &good);
    scene.expect_drops(
        &before,
        &[("ipv4_bad_version", 1), ("ipv4_bad_checksum", 1), ("udp_bad_checksum", 1), ("ipv4_truncated", 1)],
    );
}

#[test]
fn a_fragment_is_dropped_whatever_the_rules_say_where_fragments_are_switched_off() {
    let all = Config { gateway: "fragments = 0".into(), ..Config::new(allow("all", "any", "any", "any")) };
    let Some(scene) = Scene::start(&all) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let whole = scene.path("office", "servers", family).udp(4000, 53, b"0123456789abcdef");
        pieces(&whole, 1, 8).iter().for_each(|frame| scene.stays_out("office", "servers", frame));
        scene.crosses("office", "servers", &whole);
    }
    scene.expect_drops(&before, &[("fragment", 6)]);
}
