//! Group H: header sanity. Everything is allowed by the rules: what drops here drops whatever they say.

use bulkhead_tests::config::{Config, allow, deny, reject};
use bulkhead_tests::craft::{
    self, PADDING, changed, damaged, raw, sealed, set_length, transport, with_extensions, with_ipv4_options,
    with_tcp_options,
};
use bulkhead_tests::frames::{ETHERNET_BYTES, Family, Path, flags, pieces, segment};
use bulkhead_tests::scene::Scene;

/// Where the IP header begins.
const IP: usize = ETHERNET_BYTES;

const OPEN: &str = "any icmp/echo-request icmpv6/echo-request";

fn open() -> Option<Scene> {
    Scene::start(&Config::new(allow("all", "any", "any", OPEN)))
}

fn syn(path: &Path) -> Vec<u8> {
    path.tcp((4000, 443), segment(flags::SYN, 100, 0), b"")
}

fn udp(scene: &Scene, family: Family) -> Vec<u8> {
    scene.path("office", "servers", family).udp(4000, 53, b"0123456789")
}

/// None of the frames crosses, nobody is told, each is dropped for its reason; and a good packet crosses after them.
fn all_drop(scene: &Scene, frames: &[(Vec<u8>, &str)]) {
    let before = scene.drops();
    let mut expected = std::collections::BTreeMap::new();
    for (frame, reason) in frames {
        scene.stays_out("office", "servers", frame);
        *expected.entry(*reason).or_insert(0) += 1;
    }
    scene.nothing_arrived("servers", "office");
    scene.expect_drops(&before, &expected.into_iter().collect::<Vec<_>>());
    for family in Family::BOTH {
        scene.crosses("office", "servers", &scene.path("office", "servers", family).udp(4999, 53, b"good"));
    }
}

#[test]
fn h1_ip_versions_and_lengths_that_cannot_be_drop() {
    let Some(scene) = open() else { return };
    let v4 = udp(&scene, Family::V4);
    let v6 = udp(&scene, Family::V6);
    let bad_v4 = |offset, bytes: &[u8]| {
        let mut frame = damaged(&v4, IP + offset, bytes);
        craft::seal_ipv4(&mut frame);
        frame
    };
    all_drop(
        &scene,
        &[
            (bad_v4(0, &[0x55]), "ipv4_bad_version"),
            (bad_v4(0, &[0x05]), "ipv4_bad_version"),
            (bad_v4(0, &[0x65]), "ipv4_bad_version"),
            (bad_v4(0, &[0x44]), "ipv4_bad_header_length"),
            (bad_v4(0, &[0x40]), "ipv4_bad_header_length"),
            (bad_v4(0, &[0x4f]), "ipv4_bad_header_length"),
            (bad_v4(2, &[0, 19]), "ipv4_bad_total_length"),
            (bad_v4(2, &[0, 0]), "ipv4_bad_total_length"),
            (bad_v4(2, &[0xff, 0xff]), "ipv4_truncated"),
            (bad_v4(2, &(v4.len() as u16 - 13).to_be_bytes()), "ipv4_truncated"),
            (bad_v4(2, &[0, 27]), "transport_truncated"),
            (damaged(&v6, IP, &[0x50]), "ipv6_bad_version"),
            (damaged(&v6, IP, &[0x40]), "ipv6_bad_version"),
            (damaged(&v6, IP + 4, &[0xff, 0xff]), "ipv6_truncated"),
            (damaged(&v6, IP + 4, &(v6.len() as u16 - 53).to_be_bytes()), "ipv6_truncated"),
            (damaged(&v6, IP + 4, &[0, 7]), "transport_truncated"),
            // Each other's number in the Ethernet header.
            (damaged(&v4, 12, &[0x86, 0xdd]), "ipv6_truncated"),
            (damaged(&v6, 12, &[8, 0]), "ipv4_bad_version"),
        ],
    );
}

#[test]
fn h1_a_frame_cut_off_at_every_byte_never_crosses() {
    let Some(scene) = open() else { return };
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        let with_options = with_tcp_options(&syn(&path), &[2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 1, 1]);
        for frame in [path.udp(4000, 53, b"0123456789"), with_options, path.echo_request(7, 1)] {
            // The kernel sends no frame without an Ethernet header.
            for length in 14..frame.len() {
                scene.peer("office").send(&frame[..length]);
            }
        }
        scene.nothing_arrived("office", "servers");
    }
    scene.nothing_arrived("servers", "office");
}

#[test]
fn h1_the_reserved_ipv4_flag_drops_with_or_without_the_others() {
    let Some(scene) = open() else { return };
    let good = udp(&scene, Family::V4);
    let frames =
        [0x80, 0xc0, 0xa0, 0xe0].map(|flags| (changed(&good, IP + 6, &[flags]), "ipv4_reserved_flag"));
    all_drop(&scene, &frames);
}

#[test]
fn h2_any_wrong_ipv4_header_checksum_drops() {
    let Some(scene) = open() else { return };
    let good = udp(&scene, Family::V4);
    let mut frames: Vec<_> = (0..16)
        .map(|bit| {
            let at = IP + 10 + bit / 8;
            (damaged(&good, at, &[good[at] ^ 1 << (bit % 8)]), "ipv4_bad_checksum")
        })
        .collect();
    // Zero is no exception, as it is for UDP; nor is the difference of a router that forgot to update it.
    frames.push((damaged(&good, IP + 10, &[0, 0]), "ipv4_bad_checksum"));
    frames.push((damaged(&good, IP + 8, &[63]), "ipv4_bad_checksum"));
    let padded = with_ipv4_options(&good, &[1, 1, 1, 0]);
    frames.push((damaged(&padded, IP + 10, &[!padded[IP + 10]]), "ipv4_bad_checksum"));
    all_drop(&scene, &frames);
}

/// One opener of each protocol with its checksum wrong, and the reason.
fn wrong_checksums(path: &Path) -> [(Vec<u8>, &'static str); 3] {
    let flip = |frame: Vec<u8>, at: usize| {
        let at = transport(craft::family(&frame)) + at;
        damaged(&frame, at, &[frame[at] ^ 0x10])
    };
    [
        (flip(syn(path), 16), "tcp_bad_checksum"),
        (flip(path.udp(4000, 53, b"x"), 6), "udp_bad_checksum"),
        (flip(path.echo_request(7, 1), 2), "icmp_bad_checksum"),
    ]
}

#[test]
fn h3_a_bad_transport_checksum_opens_no_connection() {
    let Some(scene) = open() else { return };
    for family in Family::BOTH {
        all_drop(&scene, &wrong_checksums(&scene.path("office", "servers", family)));
    }
    let connections = scene.json(&["connections", "list"]);
    let rows = connections["connections"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["protocol"] == "udp"), "only the good ones are there: {connections}");
}

#[test]
fn h4_udp_lengths_that_cannot_be_drop() {
    let Some(scene) = open() else { return };
    for family in Family::BOTH {
        let good = udp(&scene, family);
        let at = transport(family) + 4;
        let length = (good.len() - transport(family)) as u16;
        let frames = [0, 4, 7, length + 1, 0xffff]
            .map(|length| (changed(&good, at, &length.to_be_bytes()), "udp_bad_length"));
        all_drop(&scene, &frames);
    }
}

#[test]
fn h4_udp_without_a_checksum_passes_over_ipv4_and_drops_over_ipv6() {
    let Some(scene) = open() else { return };
    let without = |family| damaged(&udp(&scene, family), transport(family) + 6, &[0, 0]);
    scene.crosses_unchanged("office", "servers", &without(Family::V4));
    all_drop(&scene, &[(without(Family::V6), "udp_bad_checksum")]);
}

#[test]
fn h5_tcp_offsets_and_options_that_cannot_be_drop() {
    let Some(scene) = open() else { return };
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        let at = transport(family);
        let good = with_tcp_options(&syn(&path), &[2, 4, 5, 0xb4, 1, 3, 3, 7]);
        let offset = |words: u8| (changed(&good, at + 12, &[words << 4]), "tcp_bad_offset");
        let options = |options: &[u8]| (with_tcp_options(&syn(&path), options), "tcp_bad_option");
        all_drop(
            &scene,
            &[
                offset(0),
                offset(4),
                offset(8),
                offset(15),
                options(&[2, 0, 5, 0xb4]),
                options(&[2, 1, 5, 0xb4]),
                options(&[1, 1, 1, 2]),
                options(&[2, 5, 5, 0xb4]),
                options(&[8, 255, 0, 0]),
                options(&[3, 2, 1, 1]),
                options(&[3, 4, 7, 7]),
                options(&[253, 0, 1, 1]),
            ],
        );
        // What follows the end of the list is not looked at.
        scene.crosses_unchanged("office", "servers", &with_tcp_options(&syn(&path), &[0, 9, 9, 9]));
    }
}

#[test]
fn h6_flags_that_no_tcp_sends_drop() {
    let Some(scene) = open() else { return };
    let (fin, syn, rst, psh, ack, urg) = (1, 2, 4, 8, 16, 32);
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        let good = path.tcp((4000, 443), segment(flags::SYN, 100, 0), b"");
        let frames = [
            0,
            fin,
            psh,
            urg,
            fin | psh | urg,
            syn | fin,
            syn | fin | ack,
            syn | rst,
            syn | rst | ack,
            syn | fin | rst | ack,
            syn | fin | rst | psh | ack | urg,
            fin | rst,
            fin | rst | ack,
        ]
        .map(|flags| (changed(&good, transport(family) + 13, &[flags]), "tcp_bad_flags"));
        all_drop(&scene, &frames);
        // With ECN's bits they are no better.
        let frames = [0, fin, syn | fin, syn | rst]
            .map(|flags| (changed(&good, transport(family) + 13, &[flags | 0xc0]), "tcp_bad_flags"));
        all_drop(&scene, &frames);
    }
}

#[test]
fn h7_port_zero_at_either_end_drops() {
    let Some(scene) = open() else { return };
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        let frames = [(0, 53), (53, 0), (0, 0)].map(|ports| {
            [
                (path.udp(ports.0, ports.1, b"x"), "port_zero"),
                (path.tcp(ports, segment(flags::SYN, 1, 0), b""), "port_zero"),
            ]
        });
        all_drop(&scene, &frames.concat());
    }
}

#[test]
fn h8_a_trailer_of_padding_changes_no_verdict() {
    let Some(scene) = open() else { return };
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        for frame in [path.udp(4000, 53, b"x"), syn(&path), path.echo_request(7, 1)] {
            for trailer in [1, 6, 46] {
                // Of a byte that would spoil every checksum that took it in.
                scene.crosses("office", "servers", &[&frame[..], &vec![0xa5; trailer]].concat());
            }
        }
        let padded = |frame: Vec<u8>| [&frame[..], &[0xa5; 46]].concat();
        let frames = wrong_checksums(&Path { ttl: 9, ..path }).map(|(frame, reason)| (padded(frame), reason));
        // The connections of the good ones above must not let them through.
        let frames = frames.map(|(frame, reason)| (changed_port(&frame), reason));
        all_drop(&scene, &frames);
    }
}

/// Another source port or identifier, and the checksum as wrong as before.
fn changed_port(frame: &[u8]) -> Vec<u8> {
    let at = transport(craft::family(frame));
    let identifier = if matches!(frame[at], 8 | 128) { at + 4 } else { at };
    damaged(frame, identifier, &[0x7f, 0x7f])
}

#[test]
fn h9_ecn_accecn_and_reserved_bits_change_no_verdict() {
    let Some(scene) = open() else { return };
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        let at = transport(family);
        for (port, bits) in (4000..).zip(0..16u8) {
            // NS (AE) and the three reserved bits.
            let frame = path.tcp((port, 443), segment(flags::SYN, 100, 0), b"");
            scene.crosses_unchanged("office", "servers", &changed(&frame, at + 12, &[0x50 | bits]));
            let frame = path.tcp((port, 444), segment(flags::SYN, 100, 0), b"");
            let ecn = (bits & 3) << 6;
            scene.crosses_unchanged("office", "servers", &changed(&frame, at + 13, &[flags::SYN | ecn]));
        }
    }
}

#[test]
fn h10_unknown_tcp_options_pass_unchanged() {
    let Some(scene) = open() else { return };
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        // Fast open, MPTCP, experiments, MD5, an unassigned kind, and all forty bytes of one.
        let long: Vec<u8> = [&[200, 40][..], &[7; 38]].concat();
        for options in [
            &[34, 2, 1, 1][..],
            &[30, 12, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8],
            &[253, 4, 0xf9, 0x89],
            &[19, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
            &[99, 8, 1, 2, 3, 4, 5, 6],
            &long,
        ] {
            scene.crosses_unchanged("office", "servers", &with_tcp_options(&syn(&path), options));
        }
    }
}

#[test]
fn h11_source_routes_drop_always() {
    let Some(scene) = open() else { return };
    let good = udp(&scene, Family::V4);
    let mut frames = Vec::new();
    for kind in [131, 137] {
        for route in [
            &[kind, 7, 4, 10, 2, 0, 77][..],
            &[kind, 3, 4],
            &[kind, 11, 8, 10, 2, 0, 77, 10, 2, 0, 78],
            &[1, 1, kind, 7, 8, 10, 2, 0, 77],
            &[7, 7, 4, 0, 0, 0, 0, kind, 7, 4, 10, 2, 0, 77],
        ] {
            frames.push((with_ipv4_options(&good, route), "ipv4_source_route"));
        }
    }
    all_drop(&scene, &frames);
}

#[test]
fn h12_record_route_drops_by_default() {
    let Some(scene) = open() else { return };
    let good = udp(&scene, Family::V4);
    let full = [&[7, 39, 4][..], &[0; 36]].concat();
    let frames = [&full[..], &[7, 7, 4, 0, 0, 0, 0], &[7, 3, 4], &[1, 7, 7, 8, 1, 2, 3, 4]]
        .map(|options| (with_ipv4_options(&good, options), "ipv4_option_denied"));
    all_drop(&scene, &frames);
}

#[test]
fn h13_timestamp_router_alert_and_unknown_options_drop_by_default() {
    let Some(scene) = open() else { return };
    let good = udp(&scene, Family::V4);
    let frames = [
        &[68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
        &[148, 4, 0, 0],
        // Security, stream identifier, quick start, experiments, unassigned.
        &[130, 4, 0, 0],
        &[136, 4, 0, 0],
        &[25, 8, 0, 0, 0, 0, 0, 0],
        &[222, 4, 0, 0],
        &[99, 4, 0, 0],
    ]
    .map(|options| (with_ipv4_options(&good, options), "ipv4_option_denied"));
    all_drop(&scene, &frames);
    // IPv6's: router alert, home address, tunnel limit, and unknown ones whatever they say of those who do not know them.
    let v6 = udp(&scene, Family::V6);
    let options = [5, 0xc9, 4, 0x1e, 0x3e, 0x5e, 0x7e, 0x9e, 0xde];
    let frames: Vec<_> = options
        .iter()
        .flat_map(|option| [0, 60].map(|number| (number, [*option, 2, 0, 0, 1, 0])))
        .map(|(number, content)| (with_extensions(&v6, &[(number, &content)]), "ipv6_option_denied"))
        .collect();
    all_drop(&scene, &frames);
    // Padding is no option that asks for anything.
    scene.crosses_unchanged("office", "servers", &with_ipv4_options(&good, &[1, 1, 1, 1]));
    scene.crosses_unchanged("office", "servers", &with_ipv4_options(&good, &[0, 0, 0, 0]));
}

#[test]
fn h14_malformed_option_lengths_drop_and_nobody_is_told() {
    let Some(scene) = open() else { return };
    let good = udp(&scene, Family::V4);
    let frames = [
        &[7, 0, 0, 0][..],
        &[7, 1, 0, 0],
        &[7, 5, 0, 0],
        &[68, 255, 0, 0],
        &[1, 1, 1, 7],
        &[131, 4, 0, 0, 1, 1, 1, 7],
    ]
    .map(|options| (with_ipv4_options(&good, options), "ipv4_bad_option"));
    all_drop(&scene, &frames);
}

#[test]
fn h15_routing_headers_of_every_type_drop_by_default() {
    let Some(scene) = open() else { return };
    let good = udp(&scene, Family::V6);
    let address: [u8; 16] = [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x4e];
    let mut frames = Vec::new();
    for kind in [0, 1, 2, 3, 4, 5, 99, 253, 255] {
        for left in [0, 1] {
            let content = [&[kind, left, 0, 0, 0, 0][..], &address].concat();
            frames.push((with_extensions(&good, &[(43, &content)]), "ipv6_routing_header"));
        }
        // A segment routing header without any segment says that there is one.
        let reason = if kind == 4 { "ipv6_bad_extension" } else { "ipv6_routing_header" };
        frames.push((with_extensions(&good, &[(43, &[kind, 0, 0, 0, 0, 0])]), reason));
    }
    all_drop(&scene, &frames);
}

#[test]
fn h16_hop_by_hop_not_first_or_repeated_drops() {
    let Some(scene) = open() else { return };
    let good = udp(&scene, Family::V6);
    let chains: [&[craft::Extension<'_>]; 6] = [
        &[(60, PADDING), (0, PADDING)],
        &[(0, PADDING), (0, PADDING)],
        &[(0, PADDING), (60, PADDING), (0, PADDING)],
        &[(60, PADDING), (60, PADDING)],
        &[(0, &[1, 5, 0, 0, 0, 0])],
        &[(60, &[0, 0, 0, 0, 0, 1])],
    ];
    let frames = chains.map(|chain| (with_extensions(&good, chain), "ipv6_bad_extension"));
    all_drop(&scene, &frames);
    // Padding in the right places passes.
    scene.crosses_unchanged("office", "servers", &with_extensions(&good, &[(0, PADDING), (60, PADDING)]));
}

#[test]
fn h17_more_than_eight_extension_headers_or_256_bytes_of_them_drop() {
    let Some(scene) = open() else { return };
    let good = udp(&scene, Family::V6);
    let (long, half) = ([0; 262], [0; 134]);
    let frames = [
        (with_extensions(&good, &[(60, &long)]), "ipv6_too_many_extensions"),
        (with_extensions(&good, &[(0, &half), (60, &half)]), "ipv6_too_many_extensions"),
    ];
    all_drop(&scene, &frames);
    // A repeated header ends the walk before the ninth does.
    for count in [9, 30, 100] {
        let chain: Vec<craft::Extension<'_>> = vec![(60, PADDING); count];
        all_drop(&scene, &[(with_extensions(&good, &chain), "ipv6_bad_extension")]);
    }
    scene.crosses_unchanged("office", "servers", &with_extensions(&good, &[(60, &[0; 254])]));
}

#[test]
fn h18_no_next_header_and_unknown_next_headers_drop() {
    let Some(scene) = open() else { return };
    let mut frames = Vec::new();
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        // TCP's number in the other place is the other family's ICMP, and so on: nothing that crosses is among these.
        for protocol in [2, 3, 8, 9, 33, 46, 88, 89, 103, 108, 112, 136, 139, 140, 142, 253, 254, 255] {
            frames.push((raw(&path, protocol, &[0; 40]), "protocol_unsupported"));
        }
    }
    let v6 = scene.path("office", "servers", Family::V6);
    frames.push((raw(&v6, 59, &[0; 40]), "ipv6_no_next_header"));
    frames.push((raw(&v6, 1, &[8, 0, 0, 0, 0, 0, 0, 0]), "protocol_unsupported"));
    frames.push((raw(&v6, 135, &[59, 0, 0, 0, 0, 0, 0, 0]), "protocol_unsupported"));
    let v4 = scene.path("office", "servers", Family::V4);
    frames.push((raw(&v4, 58, &[128, 0, 0, 0, 0, 0, 0, 0]), "protocol_unsupported"));
    frames.push((raw(&v4, 59, &[0; 40]), "protocol_unsupported"));
    frames.push((raw(&v4, 0, &[0; 40]), "protocol_unsupported"));
    all_drop(&scene, &frames);
}

#[test]
fn h19_jumbograms_drop_always() {
    let Some(scene) = open() else { return };
    let good = udp(&scene, Family::V6);
    let jumbo = |bytes: u32| [&[0xc2, 4][..], &bytes.to_be_bytes()].concat();
    let zero_length = damaged(&with_extensions(&good, &[(0, &jumbo(70_000))]), IP + 4, &[0, 0]);
    let frames = [
        (zero_length, "ipv6_jumbogram"),
        (with_extensions(&good, &[(0, &jumbo(70_000))]), "ipv6_jumbogram"),
        (with_extensions(&good, &[(0, &jumbo(18))]), "ipv6_jumbogram"),
        (with_extensions(&good, &[(60, &jumbo(70_000))]), "ipv6_jumbogram"),
        (damaged(&good, IP + 4, &[0, 0]), "ipv6_jumbogram"),
    ];
    all_drop(&scene, &frames);
}

/// A whole IP packet that every rule lets through by itself.
fn inner(scene: &Scene, family: Family) -> Vec<u8> {
    syn(&scene.path("office", "servers", family))[IP..].to_vec()
}

#[test]
fn h20_tunnels_drop_and_what_is_inside_is_never_looked_at() {
    let Some(scene) = open() else { return };
    let mut frames = Vec::new();
    for outer in Family::BOTH {
        let path = scene.path("office", "servers", outer);
        for (family, protocol, gre) in [(Family::V4, 4, [0, 0, 8, 0]), (Family::V6, 41, [0, 0, 0x86, 0xdd])] {
            let inner = inner(&scene, family);
            // 4in4, 4in6, 6in4, 6in6; GRE; ESP, AH, SCTP, L2TP over IP, EtherIP, UDP-Lite.
            frames.push((raw(&path, protocol, &inner), "protocol_unsupported"));
            frames.push((raw(&path, 47, &[&gre[..], &inner].concat()), "protocol_unsupported"));
            for other in [50, 51, 132, 115, 97, 136] {
                frames.push((raw(&path, other, &inner), "protocol_unsupported"));
            }
        }
    }
    all_drop(&scene, &frames);
}

#[test]
fn h20_a_protocol_that_a_rule_names_passes_with_its_replies_and_no_other_does() {
    let rules = allow("tunnel", "office", "servers", "gre proto/99") + &allow("rest", "any", "any", OPEN);
    let Some(scene) = Scene::start(&Config::new(rules)) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let (there, back) =
            (scene.path("office", "servers", family), scene.path("servers", "office", family));
        let inner = [&[0, 0, 8, 0][..], &inner(&scene, Family::V4)].concat();
        // The responder may not begin, but may reply.
        scene.stays_out("servers", "office", &raw(&back, 47, &inner));
        for content in [&inner[..], b"x"] {
            scene.crosses_unchanged("office", "servers", &raw(&there, 47, content));
            scene.crosses_unchanged("servers", "office", &raw(&back, 47, content));
        }
        scene.crosses_unchanged("office", "servers", &raw(&there, 99, &inner));
        // Others, and the same between other hosts the wrong way.
        for protocol in [4, 41, 50, 51, 98, 100, 132] {
            scene.stays_out("office", "servers", &raw(&there, protocol, &inner));
        }
        let other = Path { source: scene.peer("servers").nth(family, 1), ..back };
        scene.stays_out("servers", "office", &raw(&other, 47, &inner));
        // An error about the tunnel's packet reaches its sender, with an MTU to believe.
        let frame = raw(&there, 47, &[7; 1400]);
        let packet = scene.crosses_unchanged("office", "servers", &frame);
        let kind = if family == Family::V4 { (3, 4) } else { (2, 0) };
        let error = back.icmp(kind.0, kind.1, 1300_u32.to_be_bytes(), &packet[IP..IP + 100]);
        scene.crosses("servers", "office", &error);
        let never = raw(&there, 98, &[7; 1400]);
        let error = back.icmp(kind.0, kind.1, 1300_u32.to_be_bytes(), &never[IP..IP + 100]);
        scene.stays_out("servers", "office", &error);
    }
    scene.expect_drops(&before, &[("protocol_unsupported", 18), ("icmp_unrelated", 2)]);
    let rows = scene.json(&["connections", "list", "--rule", "tunnel"]);
    let rows = rows["connections"].as_array().unwrap().clone();
    assert!(
        rows.len() == 4 && rows.iter().all(|row| row["protocol"] == "gre" || row["protocol"] == "proto/99")
    );
}

#[test]
fn h20_a_named_protocol_crosses_in_fragments_too_and_no_other_does() {
    let Some(scene) = Scene::start(&Config::new(allow("tunnel", "office", "servers", "gre"))) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        for (protocol, crosses) in [(47, true), (50, false)] {
            let sent = pieces(&raw(&path, protocol, &[7; 300]), u32::from(protocol), 128);
            sent.iter().for_each(|piece| scene.peer("office").send(piece));
            let arrived = scene.arrived_frames("office", "servers");
            let arrived: Vec<_> = arrived.iter().map(|frame| craft::essence(frame)).collect();
            let came = sent.iter().filter(|piece| arrived.contains(&craft::essence(piece))).count();
            assert_eq!(came, if crosses { 3 } else { 0 }, "{family:?} {protocol}");
        }
    }
    scene.expect_drops(&before, &[("protocol_unsupported", 6)]);
}

#[test]
fn h20_every_named_tunnel_passes_by_its_name_and_a_denial_of_any_covers_them_all() {
    let named =
        [("ipip", 4), ("6in4", 41), ("gre", 47), ("esp", 50), ("ah", 51), ("sctp", 132), ("proto/112", 112)];
    let names = named.map(|(name, _)| name).join(" ");
    let open = allow("tunnels", "office", "servers", &names);
    let Some(scene) = Scene::start(&Config::new(open.clone())) else { return };
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        for (_, protocol) in named {
            scene.crosses_unchanged("office", "servers", &raw(&path, protocol, &inner(&scene, Family::V6)));
        }
    }
    scene.reload(&Config::new(open.clone() + &deny("stop", "office", "servers", "any")).without_sentinels());
    let before = scene.drops();
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        for (_, protocol) in named {
            scene.peer("office").send(&raw(&path, protocol, b"of a connection that was allowed"));
            scene.peer("office").send(&raw(&path, protocol, b"and once more, without one"));
        }
    }
    scene.expect_drops(&before, &[("policy_revoked", 14), ("rule_denied", 14)]);
    scene.reload(&Config::new(open.clone() + &reject("told", "office", "servers", "gre")));
    let before = scene.drops();
    let path = scene.path("office", "servers", Family::V4);
    scene.stays_out("office", "servers", &raw(&path, 47, &[7; 100]));
    scene.peer("office").expect("administratively prohibited", |packet| packet.icmp() == Some((3, 13)));
    scene.expect_drops(&before, &[("rule_rejected", 1)]);
}

#[test]
fn h20_vxlan_teredo_and_geneve_are_udp_and_need_a_rule_for_their_port() {
    // What is inside is allowed, the tunnel is not.
    let Some(scene) = Scene::start(&Config::new(allow("web", "office", "servers", "tcp/443"))) else {
        return;
    };
    let before = scene.drops();
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        let ethernet = syn(&path);
        let vxlan = [&[8, 0, 0, 0, 0, 0, 7, 0][..], &ethernet].concat();
        let geneve = [&[0, 0, 0x65, 0x58, 0, 0, 7, 0][..], &ethernet].concat();
        for (port, payload) in
            [(4789, vxlan.clone()), (8472, vxlan), (6081, geneve), (3544, inner(&scene, Family::V6))]
        {
            scene.stays_out("office", "servers", &path.udp(4000, port, &payload));
        }
        scene.crosses("office", "servers", &ethernet);
    }
    scene.expect_drops(&before, &[("no_rule", 8)]);
    scene.reload(&Config::new(allow("tunnel", "office", "servers", "udp/4789")));
    let path = scene.path("office", "servers", Family::V4);
    scene.crosses("office", "servers", &path.udp(4000, 4789, &syn(&path)));
}

#[test]
fn h1_to_h20_nothing_of_random_bytes_behind_an_ethernet_header_crosses_unjudged() {
    let Some(scene) = Scene::start(&Config::new(allow("one", "office", "servers", "tcp/1"))) else { return };
    // xorshift64 (Marsaglia 2003), from a fixed seed.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for family in Family::BOTH {
        let good = udp(&scene, family);
        for _ in 0..2000 {
            let mut frame = good.clone();
            frame.resize(IP + 20 + random() as usize % 80, 0xff);
            for _ in 0..1 + random() % 6 {
                let at = IP + random() as usize % (frame.len() - IP);
                frame[at] = random() as u8;
            }
            if random() % 2 == 0 {
                set_length(&mut frame);
                frame = sealed(frame);
            }
            scene.peer("office").send(&frame);
        }
        scene.nothing_arrived("office", "servers");
    }
}
