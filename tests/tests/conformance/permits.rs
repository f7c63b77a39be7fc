//! Group H where segments permit what drops by default: H3, H11 to H13, H15, H16, H19, H20.

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::craft::{self, PADDING, damaged, sealed, transport, with_extensions, with_ipv4_options};
use bulkhead_tests::frames::{ETHERNET_BYTES, Family, Path, flags, fragment_v4, fragment_v6, segment};
use bulkhead_tests::scene::Scene;

/// Two segments with these permits each, and everything allowed between them.
fn config(office: &[&str], servers: &[&str]) -> Config {
    let segment = |name: &str, number: u8, permit: &[&str]| {
        let permit = if permit.is_empty() { String::new() } else { format!("permit = {permit:?}\n") };
        format!(
            "[segments.{name}]\nport = \"{name}\"\nnetworks = [\"10.{number}.0.0/24\", \"fd00:{number}::/64\"]\n\
             {permit}"
        )
    };
    let segments = segment("office", 1, office) + &segment("servers", 2, servers);
    let rules = allow("all", "any", "any", "any");
    Config { segments: Some(segments), ..Config::new(rules) }
}

fn both(permit: &[&str]) -> Config {
    config(permit, permit)
}

/// Every permit there is.
const ALL: [&str; 10] = [
    "bad-checksum",
    "ipv4-record-route",
    "ipv4-router-alert",
    "ipv4-timestamp",
    "ipv4-unknown-option",
    "ipv6-router-alert",
    "ipv6-routing-2",
    "ipv6-routing-3",
    "ipv6-srh",
    "ipv6-unknown-option",
];

const OTHER_ADDRESS: [u8; 16] = [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x4e];

/// A routing header's content behind its first two bytes, with one address.
fn routing(kind: u8, left: u8) -> Vec<u8> {
    [&[kind, left, 0, 0, 0, 0][..], &OTHER_ADDRESS].concat()
}

/// What each permit opens, as a change of a datagram, and why it drops without.
fn opened(permit: &str, frame: &[u8]) -> (Vec<u8>, &'static str) {
    let v4 = |options: &[u8]| (with_ipv4_options(frame, options), "ipv4_option_denied");
    let v6 = |number, content: &[u8], reason| (with_extensions(frame, &[(number, content)]), reason);
    match permit {
        "bad-checksum" => {
            let at = transport(craft::family(frame)) + 6;
            (damaged(frame, at, &[!frame[at]]), "udp_bad_checksum")
        }
        "ipv4-record-route" => v4(&[7, 7, 4, 0, 0, 0, 0]),
        "ipv4-router-alert" => v4(&[148, 4, 0, 0]),
        "ipv4-timestamp" => v4(&[68, 8, 5, 0, 0, 0, 0, 0]),
        "ipv4-unknown-option" => v4(&[130, 4, 0, 0]),
        "ipv6-router-alert" => v6(0, &[5, 2, 0, 0, 1, 0], "ipv6_option_denied"),
        // Mobile IPv6's home address among them.
        "ipv6-unknown-option" => v6(60, &[0xc9, 4, 1, 2, 3, 4], "ipv6_option_denied"),
        "ipv6-routing-2" => v6(43, &routing(2, 0), "ipv6_routing_header"),
        "ipv6-routing-3" => v6(43, &routing(3, 0), "ipv6_routing_header"),
        "ipv6-srh" => v6(43, &routing(4, 0), "ipv6_routing_header"),
        other => panic!("{other} is no permit"),
    }
}

/// In which family a permit means something.
fn family_of(permit: &str) -> Family {
    if permit.starts_with("ipv6") { Family::V6 } else { Family::V4 }
}

fn udp(scene: &Scene, permit: &str, port: u16) -> Vec<u8> {
    scene.path("office", "servers", family_of(permit)).udp(port, 53, b"0123456789")
}

#[test]
fn h3_h12_h13_h15_h16_each_permit_opens_what_it_names_in_both_directions_and_nothing_else() {
    let Some(scene) = Scene::start(&both(&[])) else { return };
    for (permit, port) in ALL.into_iter().zip(4000..) {
        scene.reload(&both(&[permit]));
        let (frame, _) = opened(permit, &udp(&scene, permit, port));
        scene.crosses_frame("office", "servers", &frame);
        // A reply that opens nothing: its checksum is not looked at.
        let back = scene.path("servers", "office", family_of(permit)).udp(53, port, b"reply");
        scene.crosses_frame("servers", "office", &opened(permit, &back).0);
        let before = scene.drops();
        let mut expected = std::collections::BTreeMap::new();
        for (other, port) in ALL.into_iter().filter(|other| *other != permit).zip(5000..) {
            let (frame, reason) = opened(other, &udp(&scene, other, port));
            scene.stays_out("office", "servers", &frame);
            *expected.entry(reason).or_insert(0) += 1;
        }
        scene.expect_drops(&before, &expected.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn h3_h12_h13_h15_h16_one_end_s_permit_is_not_enough() {
    let Some(scene) = Scene::start(&both(&[])) else { return };
    for (office, servers) in [(&ALL[..], &[][..]), (&[], &ALL)] {
        scene.reload(&config(office, servers));
        for (from, to) in [("office", "servers"), ("servers", "office")] {
            for permit in ALL {
                let frame = scene.path(from, to, family_of(permit)).udp(4000, 53, b"0123456789");
                scene.stays_out(from, to, &opened(permit, &frame).0);
            }
        }
    }
}

#[test]
fn h3_h12_h13_h15_h16_a_known_connection_needs_the_permit_too_and_a_reload_takes_it_back_at_once() {
    let Some(scene) = Scene::start(&both(&ALL)) else { return };
    let options: Vec<&str> = ALL.into_iter().filter(|permit| *permit != "bad-checksum").collect();
    for permit in &options {
        let good = udp(&scene, permit, 4000);
        scene.crosses_unchanged("office", "servers", &good);
        scene.crosses_frame("office", "servers", &opened(permit, &good).0);
    }
    scene.reload(&both(&["bad-checksum"]));
    let before = scene.drops();
    for permit in &options {
        let good = udp(&scene, permit, 4000);
        scene.stays_out("office", "servers", &opened(permit, &good).0);
        scene.crosses_unchanged("office", "servers", &good);
    }
    scene.expect_drops(
        &before,
        &[("ipv4_option_denied", 4), ("ipv6_option_denied", 2), ("ipv6_routing_header", 3)],
    );
}

#[test]
fn h3_a_bad_checksum_that_is_permitted_opens_for_tcp_udp_and_echo() {
    let rules = allow("all", "any", "any", "any icmp/echo-request icmpv6/echo-request");
    let config = Config { rules, ..both(&["bad-checksum"]) };
    let Some(scene) = Scene::start(&config) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        let syn = path.tcp((4000, 443), segment(flags::SYN, 100, 0), b"");
        for (frame, at) in [(syn, 16), (path.udp(4000, 53, b"x"), 6), (path.echo_request(7, 1), 2)] {
            let at = transport(family) + at;
            scene.crosses_frame("office", "servers", &damaged(&frame, at, &[frame[at] ^ 0x10]));
        }
    }
    // None over IPv6 is not a wrong one, and a header's is none of the transport's.
    let v6 = scene.path("office", "servers", Family::V6).udp(4001, 53, b"x");
    scene.stays_out("office", "servers", &damaged(&v6, transport(Family::V6) + 6, &[0, 0]));
    let v4 = scene.path("office", "servers", Family::V4).udp(4001, 53, b"x");
    scene.stays_out("office", "servers", &damaged(&v4, ETHERNET_BYTES + 10, &[!v4[ETHERNET_BYTES + 10]]));
    scene.expect_drops(&before, &[("udp_bad_checksum", 1), ("ipv4_bad_checksum", 1)]);
}

#[test]
fn h11_h15_h19_source_routes_rh0_unknown_routing_and_jumbograms_drop_with_every_permit() {
    let Some(scene) = Scene::start(&both(&ALL)) else { return };
    let before = scene.drops();
    let v4 = scene.path("office", "servers", Family::V4).udp(4000, 53, b"x");
    for kind in [131, 137] {
        scene.stays_out("office", "servers", &with_ipv4_options(&v4, &[kind, 7, 4, 10, 2, 0, 78]));
        scene.stays_out("office", "servers", &with_ipv4_options(&v4, &[148, 4, 0, 0, kind, 3, 4]));
    }
    let v6 = scene.path("office", "servers", Family::V6).udp(4000, 53, b"x");
    for kind in [0, 1, 5, 6, 99, 253, 255] {
        for left in [0, 1] {
            scene.stays_out("office", "servers", &with_extensions(&v6, &[(43, &routing(kind, left))]));
        }
    }
    let jumbo = [0xc2, 4, 0, 1, 0, 0];
    scene.stays_out("office", "servers", &with_extensions(&v6, &[(0, &jumbo)]));
    scene.stays_out("office", "servers", &with_extensions(&v6, &[(60, &jumbo)]));
    scene.expect_drops(
        &before,
        &[("ipv4_source_route", 4), ("ipv6_routing_header", 14), ("ipv6_jumbogram", 2)],
    );
}

#[test]
fn h14_h15_h16_malformed_ones_drop_with_every_permit() {
    let Some(scene) = Scene::start(&both(&ALL)) else { return };
    let before = scene.drops();
    let v4 = scene.path("office", "servers", Family::V4).udp(4000, 53, b"x");
    for options in [&[7, 0, 0, 0][..], &[7, 1, 0, 0], &[7, 5, 0, 0], &[148, 255, 0, 0], &[1, 1, 1, 68]] {
        scene.stays_out("office", "servers", &with_ipv4_options(&v4, options));
    }
    let v6 = scene.path("office", "servers", Family::V6).udp(4000, 53, b"x");
    let srh = routing(4, 0);
    // More segments left than there are, a list beyond the header, two of them, an option beyond the header, and
    // hop-by-hop options not first.
    let left = routing(4, 3);
    let beyond = [&[4, 0, 1, 0, 0, 0][..], &OTHER_ADDRESS].concat();
    let chains: [&[craft::Extension<'_>]; 6] = [
        &[(43, &left)],
        &[(43, &beyond)],
        &[(43, &srh), (43, &srh)],
        &[(60, &[0x1e, 5, 0, 0, 0, 0])],
        &[(60, PADDING), (0, &[5, 2, 0, 0, 1, 0])],
        &[(43, &routing(2, 2))],
    ];
    for chain in chains {
        scene.stays_out("office", "servers", &with_extensions(&v6, chain));
    }
    scene.expect_drops(&before, &[("ipv4_bad_option", 5), ("ipv6_bad_extension", 6)]);
}

#[test]
fn h13_h15_fragments_never_have_options_or_routing_headers() {
    let Some(scene) = Scene::start(&both(&ALL)) else { return };
    let before = scene.drops();
    let v4 = scene.path("office", "servers", Family::V4).udp(4000, 53, &[7; 64]);
    let optioned = with_ipv4_options(&v4, &[148, 4, 0, 0]);
    let mut fragment = fragment_v4(optioned, 0x2000);
    craft::seal_ipv4(&mut fragment);
    scene.stays_out("office", "servers", &fragment);
    let v6 = scene.path("office", "servers", Family::V6).udp(4000, 53, &[7; 64]);
    // Behind the fragment header, and before it.
    let routed = with_extensions(&v6, &[(43, &routing(4, 0))]);
    scene.stays_out("office", "servers", &fragment_v6(&routed, 1));
    let alert: [u8; 6] = [5, 2, 0, 0, 1, 0];
    let piece = [&[0, 1][..], &[0, 0, 0, 7]].concat();
    scene.stays_out("office", "servers", &with_extensions(&v6, &[(0, &alert), (44, &piece)]));
    scene.expect_drops(
        &before,
        &[("ipv4_option_denied", 1), ("ipv6_routing_header", 1), ("ipv6_option_denied", 1)],
    );
}

#[test]
fn h15_a_permitted_routing_header_with_segments_left_crosses_to_the_next_one() {
    let Some(scene) = Scene::start(&both(&["ipv6-srh", "ipv6-routing-2"])) else { return };
    let good = scene.path("office", "servers", Family::V6).udp(4000, 53, b"0123456789");
    for kind in [4, 2] {
        // The transport checksum is over the last address (RFC 8200, section 8.1), which is not the header's.
        let last = Path { destination: OTHER_ADDRESS.into(), ..scene.path("office", "servers", Family::V6) };
        let checked = last.udp(4000 + u16::from(kind), 53, b"0123456789");
        let mut frame = good.clone();
        let at = transport(Family::V6);
        frame[at..].copy_from_slice(&checked[at..]);
        let routed = {
            let content = routing(kind, 1);
            let mut out = frame[..at].to_vec();
            out[20] = 43;
            out.extend([17, ((content.len() + 2) / 8 - 1) as u8]);
            out.extend(&content);
            out.extend(&frame[at..]);
            craft::set_length(&mut out);
            out
        };
        scene.crosses_frame("office", "servers", &routed);
        // A wrong address to go to next is dropped like any other.
        let stranger = damaged(&routed, 38, &[0xff, 0x0e]);
        let before = scene.drops();
        scene.stays_out("office", "servers", &stranger);
        scene.expect_drops(&before, &[("destination_invalid", 1)]);
    }
    assert_eq!(sealed(good.clone()), good);
}

#[test]
fn h20_unknown_next_headers_are_not_opened_by_any_permit() {
    let Some(scene) = Scene::start(&both(&ALL)) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        for protocol in [4, 41, 47, 50, 139, 140, 253] {
            scene.stays_out("office", "servers", &craft::raw(&path, protocol, &[0; 40]));
        }
    }
    scene.expect_drops(&before, &[("protocol_unsupported", 14)]);
}
