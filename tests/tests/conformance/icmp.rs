//! Group I: ICMP.

use std::net::IpAddr;
use std::time::Duration;

use bulkhead_tests::config::{Config, allow, reject};
use bulkhead_tests::craft::{self, PADDING, changed, with_extensions, with_ipv4_options};
use bulkhead_tests::frames::{ETHERNET_BYTES, Family, Packet, Path, flags, segment};
use bulkhead_tests::scene::Scene;

const PINGS: &str = "icmp/echo-request icmpv6/echo-request";

/// Office may ask the servers for all that the cases need; the servers may ask for nothing.
fn services() -> Config {
    Config::new(allow("services", "office", "servers", &format!("udp/53 tcp/80 {PINGS}")))
}

/// Type and code of "port unreachable".
fn port_unreachable(family: Family) -> (u8, u8) {
    if family == Family::V4 { (3, 3) } else { (1, 4) }
}

/// An IP packet as an error quotes it.
fn quoted(frame: &[u8]) -> &[u8] {
    &frame[ETHERNET_BYTES..]
}

/// There and back, and an error of the family's "port unreachable" about a frame's packet.
struct Ends {
    there: Path,
    back: Path,
    family: Family,
}

impl Ends {
    fn new(scene: &Scene, family: Family) -> Ends {
        let (there, back) =
            (scene.path("office", "servers", family), scene.path("servers", "office", family));
        Ends { there, back, family }
    }

    fn error(&self, packet: &[u8]) -> Vec<u8> {
        self.error_of(port_unreachable(self.family), 0, packet)
    }

    fn error_of(&self, (kind, code): (u8, u8), word: u32, packet: &[u8]) -> Vec<u8> {
        self.back.icmp(kind, code, word.to_be_bytes(), &packet[..packet.len().min(500)])
    }

    fn too_big(&self, mtu: u32, packet: &[u8]) -> Vec<u8> {
        let kind = if self.family == Family::V4 { (3, 4) } else { (2, 0) };
        self.error_of(kind, mtu, packet)
    }
}

#[test]
fn i1_an_error_about_a_real_packet_passes_once_and_to_its_sender() {
    let Some(scene) = Scene::start(&services()) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let ends = Ends::new(&scene, family);
        let mut tcp = scene.open_tcp("office", "servers", family, (4000, 80));
        let data = tcp.segment(0, flags::ACK | flags::PSH, b"not acknowledged yet");
        for frame in [ends.there.udp(4000, 53, b"query"), data, ends.there.echo_request(7, 1)] {
            let packet = scene.crosses("office", "servers", &frame);
            let error = ends.error(&packet.ip);
            scene.crosses("servers", "office", &error);
            // Once more, and another error about the same packet, which dies but once.
            scene.stays_out("servers", "office", &error);
            scene.stays_out("servers", "office", &ends.too_big(1400, &packet.ip));
        }
        // Another packet of the same connection is another matter.
        let next = scene.crosses("office", "servers", &ends.there.udp(4000, 53, b"another query"));
        scene.crosses("servers", "office", &ends.error(&next.ip));
    }
    scene.expect_drops(&before, &[("icmp_repeated", 12)]);
}

#[test]
fn i1_an_error_from_a_router_on_the_way_passes_and_one_from_elsewhere_does_not() {
    let Some(scene) = Scene::start(&services()) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let ends = Ends::new(&scene, family);
        let packet = scene.crosses("office", "servers", &ends.there.udp(4000, 53, b"query"));
        // From the office itself, from a forged address, and back to where the packet went.
        let inside =
            Path { source: scene.peer("office").nth(family, 1), ..scene.path("office", "office", family) };
        let (kind, code) = port_unreachable(family);
        scene.peer("office").send(&inside.icmp(kind, code, [0; 4], &packet.ip));
        let foreign = if family == Family::V4 { "192.0.2.1" } else { "2001:db8::1" }.parse().unwrap();
        let forged = Path { source: foreign, ..ends.back };
        scene.stays_out("servers", "office", &forged.icmp(kind, code, [0; 4], &packet.ip));
        scene.stays_out("office", "servers", &ends.there.icmp(kind, code, [0; 4], &packet.ip));
        let router = Path { source: scene.peer("servers").nth(family, 1), ..ends.back };
        scene.crosses("servers", "office", &router.icmp(kind, code, [0; 4], &packet.ip));
    }
    scene.expect_drops(&before, &[("icmp_unrelated", 4), ("spoofed_source", 2)]);
}

#[test]
fn i2_an_error_to_anybody_but_the_quoted_sender_drops() {
    let Some(scene) = Scene::start(&services()) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let ends = Ends::new(&scene, family);
        let packet = scene.crosses("office", "servers", &ends.there.udp(4000, 53, b"query"));
        let other = Path { destination: scene.peer("office").nth(family, 1), ..ends.back };
        let (kind, code) = port_unreachable(family);
        scene.stays_out("servers", "office", &other.icmp(kind, code, [0; 4], &packet.ip));
        // The answer's direction, quoted to the one who answered: nobody here has lost it.
        let reply = scene.crosses("servers", "office", &ends.back.udp(53, 4000, b"reply"));
        scene.stays_out("servers", "office", &ends.error(&reply.ip));
    }
    scene.expect_drops(&before, &[("icmp_unrelated", 4)]);
}

#[test]
fn i3_an_error_about_no_known_connection_drops() {
    let Some(scene) = Scene::start(&services()) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let ends = Ends::new(&scene, family);
        scene.crosses("office", "servers", &ends.there.udp(4000, 53, b"query"));
        let syn = ends.there.tcp((4000, 53), segment(flags::SYN, 1, 0), b"");
        for never in [
            ends.there.udp(4001, 53, b"query"),
            ends.there.udp(4000, 54, b"query"),
            syn,
            ends.there.echo_request(7, 1),
        ] {
            scene.stays_out("servers", "office", &ends.error(quoted(&never)));
        }
        let elsewhere = Path { destination: scene.peer("servers").nth(family, 1), ..ends.there };
        scene.stays_out("servers", "office", &ends.error(quoted(&elsewhere.udp(4000, 53, b"query"))));
    }
    scene.expect_drops(&before, &[("icmp_unrelated", 10)]);
}

#[test]
fn i4_a_quote_with_less_than_eight_bytes_of_transport_drops() {
    let Some(scene) = Scene::start(&services()) else { return };
    for family in Family::BOTH {
        let ends = Ends::new(&scene, family);
        let before = scene.drops();
        let packet = scene.crosses("office", "servers", &ends.there.udp(4000, 53, b"query"));
        let least = family.header_bytes() + 8;
        for length in 0..least {
            scene.stays_out("servers", "office", &ends.error(&packet.ip[..length]));
        }
        scene.crosses("servers", "office", &ends.error(&packet.ip[..least]));
        scene.expect_drops(&before, &[("icmp_bad_quote", least as u64)]);
    }
}

#[test]
fn i5_a_quoted_sequence_number_outside_what_is_in_flight_drops() {
    let Some(scene) = Scene::start(&services()) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let ends = Ends::new(&scene, family);
        let mut tcp = scene.open_tcp("office", "servers", family, (4000, 80));
        tcp.talks();
        tcp.crosses(0, flags::ACK | flags::PSH, b"0123456789");
        // Ten bytes are in flight: off by one before them, one after them, and far off.
        for offset in [-11_i32, 1, 1000, -1000, i32::MAX, i32::MIN] {
            let forged = tcp.segment_off_by(0, offset as u32, flags::ACK, b"");
            scene.stays_out("servers", "office", &ends.error(quoted(&forged)));
        }
        for offset in [-10_i32, -1, 0] {
            let flying = tcp.segment_off_by(0, offset as u32, flags::ACK, b"");
            scene.crosses("servers", "office", &ends.error(quoted(&flying)));
        }
        tcp.crosses(1, flags::ACK, b"");
        // All of it is acknowledged now.
        let late = tcp.segment_off_by(0, -5_i32 as u32, flags::ACK, b"");
        scene.stays_out("servers", "office", &ends.error(quoted(&late)));
        tcp.talks();
    }
    scene.expect_drops(&before, &[("icmp_bad_quote", 14)]);
}

#[test]
fn i6_an_error_neither_refreshes_nor_ends_a_connection() {
    let short = Config { timeouts: "udp_unreplied = \"2s\"\nudp_replied = \"2s\"", ..services() };
    let Some(scene) = Scene::start(&short) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let ends = Ends::new(&scene, family);
        // Errors of every kind about a connection of TCP, and it goes on.
        let mut tcp = scene.open_tcp("office", "servers", family, (4000, 80));
        let hard: &[(u8, u8)] = if family == Family::V4 {
            &[(3, 0), (3, 1), (3, 2), (3, 3), (3, 13), (11, 0), (12, 0)]
        } else {
            &[(1, 0), (1, 1), (1, 3), (1, 4), (3, 0), (4, 0), (4, 1)]
        };
        for kind in hard {
            let packet = tcp.crosses(0, flags::ACK | flags::PSH, b"lost");
            scene.crosses("servers", "office", &ends.error_of(*kind, 0, &packet.ip));
        }
        tcp.talks();
        // And a reply may still come after an error.
        let packet = scene.crosses("office", "servers", &ends.there.udp(4000, 53, b"query"));
        scene.crosses("servers", "office", &ends.error(&packet.ip));
        scene.crosses("servers", "office", &ends.back.udp(53, 4000, b"reply"));
        // Halfway through its time it is not prolonged by one.
        let packet = scene.crosses("office", "servers", &ends.there.udp(4001, 53, b"query"));
        std::thread::sleep(Duration::from_millis(1300));
        scene.crosses("servers", "office", &ends.error(&packet.ip));
        std::thread::sleep(Duration::from_millis(1300));
        scene.stays_out("servers", "office", &ends.back.udp(53, 4001, b"too late"));
    }
    scene.expect_drops(&before, &[("no_rule", 2)]);
}

#[test]
fn i7_redirects_and_source_quench_drop_even_for_a_real_connection() {
    let Some(scene) = Scene::start(&services()) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let ends = Ends::new(&scene, family);
        let packet = scene.crosses("office", "servers", &ends.there.udp(4000, 53, b"query"));
        if family == Family::V4 {
            for kind in [(4, 0), (5, 0), (5, 1), (5, 2), (5, 3)] {
                scene.stays_out("servers", "office", &ends.error_of(kind, 0x0a02_004e, &packet.ip));
            }
        } else {
            // A redirect has two addresses and then options, one of which quotes (RFC 4861, section 4.5).
            let IpAddr::V6(target) = scene.peer("servers").nth(family, 1) else { unreachable!("IPv6") };
            let content = [&target.octets()[..], &[0xfd; 16], &[4, 8, 0, 0, 0, 0, 0, 0], &packet.ip].concat();
            for ttl in [64, 255] {
                scene.stays_out("servers", "office", &ends.back.ttl(ttl).icmp(137, 0, [0; 4], &content));
            }
        }
        scene.crosses("servers", "office", &ends.error(&packet.ip));
    }
    scene.expect_at_least(&before, &[("icmp_type_denied", 7)]);
}

#[test]
fn i8_an_mtu_below_what_every_link_carries_drops() {
    let Some(scene) = Scene::start(&services()) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let ends = Ends::new(&scene, family);
        let packet = scene.crosses("office", "servers", &ends.there.udp(4000, 53, &[7; 1400]));
        let least = if family == Family::V4 { 576 } else { 1280 };
        // 0 was said by routers older than RFC 1191, and today by who wants the least packet size there is.
        for mtu in [0, 1, 68, 296, least - 1] {
            scene.stays_out("servers", "office", &ends.too_big(mtu, &packet.ip));
        }
        scene.crosses("servers", "office", &ends.too_big(least, &packet.ip));
        let packet = scene.crosses("office", "servers", &ends.there.udp(4000, 53, &[8; 1400]));
        scene.crosses("servers", "office", &ends.too_big(1400, &packet.ip));
    }
    scene.expect_drops(&before, &[("icmp_bad_quote", 10)]);
}

#[test]
fn i9_unsolicited_replies_and_obsolete_requests_drop() {
    let Some(scene) = Scene::start(&Config::new(allow("all", "any", "any", &format!("any {PINGS}")))) else {
        return;
    };
    let before = scene.drops();
    for family in Family::BOTH {
        let ends = Ends::new(&scene, family);
        scene.stays_out("servers", "office", &ends.back.echo_reply(7, 1));
        scene.crosses("office", "servers", &ends.there.echo_request(7, 1));
        // Of another identifier, and from another host.
        scene.stays_out("servers", "office", &ends.back.echo_reply(8, 1));
        let other = Path { source: scene.peer("servers").nth(family, 1), ..ends.back };
        scene.stays_out("servers", "office", &other.echo_reply(7, 1));
        scene.crosses("servers", "office", &ends.back.echo_reply(7, 1));
        // Router discovery, timestamp, information, mask, traceroute, extended echo; node information, extended echo.
        let denied: &[u8] = if family == Family::V4 {
            &[9, 10, 13, 14, 15, 16, 17, 18, 30, 42, 43, 1, 2, 255]
        } else {
            &[139, 140, 160, 161]
        };
        for kind in denied {
            scene.stays_out("office", "servers", &ends.there.icmp(*kind, 0, [0, 7, 0, 1], &[0; 32]));
        }
        // An echo has no codes.
        let (request, reply) = if family == Family::V4 { (8, 0) } else { (128, 129) };
        scene.stays_out("office", "servers", &ends.there.icmp(request, 1, [0, 9, 0, 1], b"ping"));
        scene.stays_out("servers", "office", &ends.back.icmp(reply, 1, [0, 7, 0, 1], b"ping"));
    }
    scene.expect_at_least(&before, &[("no_connection", 6), ("icmp_type_denied", 22)]);
}

#[test]
fn i10_the_list_of_rfc_4890_that_must_pass_passes() {
    let Some(scene) = Scene::start(&services()) else { return };
    for family in Family::BOTH {
        let ends = Ends::new(&scene, family);
        // RFC 4890, section 4.3.1; for IPv4 what corresponds (RFC 792, 1122, 1812).
        let kinds: Vec<(u8, u8)> = match family {
            Family::V4 => {
                [(0..=15).map(|code| (3, code)).collect(), vec![(11, 0), (11, 1), (12, 0), (12, 1), (12, 2)]]
                    .concat()
            }
            Family::V6 => [
                (0..=8).map(|code| (1, code)).collect(),
                vec![(2, 0), (3, 0), (3, 1)],
                (0..=10).map(|code| (4, code)).collect(),
            ]
            .concat(),
        };
        for (number, kind) in kinds.into_iter().enumerate() {
            // A packet too big has an MTU; no other error minds the word.
            let packet = scene.crosses("office", "servers", &ends.there.udp(4000, 53, &[number as u8]));
            scene.crosses("servers", "office", &ends.error_of(kind, 1400, &packet.ip));
        }
        scene.crosses("office", "servers", &ends.there.echo_request(7, 1));
        scene.crosses("servers", "office", &ends.back.echo_reply(7, 1));
    }
}

#[test]
fn i10_what_belongs_to_one_link_and_unknown_types_never_pass() {
    let Some(scene) = Scene::start(&Config::new(allow("all", "any", "any", &format!("any {PINGS}")))) else {
        return;
    };
    let before = scene.drops();
    let ends = Ends::new(&scene, Family::V6);
    let packet = scene.crosses("office", "servers", &ends.there.udp(4000, 53, b"query"));
    // MLD, router and neighbour discovery, redirect, renumbering, inverse discovery, MLDv2, mobility, SEND, multicast
    // router discovery, FMIPv6, RPL, ILNP, duplicate address; errors and messages of no known type or for experiments.
    let denied: Vec<u8> =
        (130..=138).chain(141..=155).chain([157, 158, 0, 5, 99, 100, 101, 126, 127, 200, 201, 255]).collect();
    let sent = denied.len() as u64 * 2;
    for kind in denied {
        for ttl in [64, 255] {
            scene.stays_out("servers", "office", &ends.back.ttl(ttl).icmp(kind, 0, [0; 4], &packet.ip));
        }
    }
    scene.expect_at_least(&before, &[("icmp_type_denied", sent)]);
}

#[test]
fn i10_unknown_codes_of_known_errors_drop() {
    let Some(scene) = Scene::start(&services()) else { return };
    let before = scene.drops();
    let mut sent = 0;
    for family in Family::BOTH {
        let ends = Ends::new(&scene, family);
        let packet = scene.crosses("office", "servers", &ends.there.udp(4000, 53, b"query"));
        let unknown: &[(u8, u8)] = if family == Family::V4 {
            &[(3, 16), (3, 255), (11, 2), (11, 255), (12, 3), (12, 255)]
        } else {
            &[(1, 9), (1, 255), (2, 1), (2, 255), (3, 2), (3, 255), (4, 11), (4, 255)]
        };
        for kind in unknown {
            scene.stays_out("servers", "office", &ends.error_of(*kind, 1400, &packet.ip));
            sent += 1;
        }
    }
    scene.expect_at_least(&before, &[("icmp_type_denied", sent)]);
}

#[test]
fn i11_no_error_answers_an_error_or_a_multicast_or_broadcast() {
    let config = Config::new(services().rules + &reject("told", "servers", "office", "udp/53-54"));
    let Some(scene) = Scene::start(&config) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let ends = Ends::new(&scene, family);
        let packet = scene.crosses("office", "servers", &ends.there.udp(4000, 53, &[7; 200]));
        // An error whose hop count ends here, and one that is too big for a link is none either.
        scene.stays_out(
            "servers",
            "office",
            &Path { ttl: 1, ..ends.back }.icmp(
                port_unreachable(family).0,
                port_unreachable(family).1,
                [0; 4],
                &packet.ip,
            ),
        );
        // To a group, to everybody, to the link's everybody, in a frame to everybody: each would be rejected.
        let everybody = if family == Family::V4 { "255.255.255.255" } else { "ff02::1" }.parse().unwrap();
        let group = if family == Family::V4 { "239.1.2.3" } else { "ff0e::1:2" }.parse().unwrap();
        for destination in [everybody, group] {
            let path = Path { destination, ..ends.back };
            scene.stays_out("servers", "office", &path.udp(4000, 53, &[7; 200]));
            scene.stays_out("servers", "office", &path.ttl(1).udp(4000, 53, &[7; 200]));
        }
        let path = Path { to: [0xff; 6], ..ends.back };
        scene.stays_out("servers", "office", &path.udp(4000, 54, &[7; 200]));
        // From a source that is no host.
        let path = Path { source: group, ..ends.back };
        scene.stays_out("servers", "office", &path.udp(4000, 54, &[7; 200]));
        scene.nothing_arrived("office", "servers");
        // The same to a host is told.
        scene.peer("servers").send(&ends.back.udp(4000, 54, &[7; 200]));
        scene.peer("servers").expect("an ICMP error", |packet| packet.icmp().is_some());
    }
    scene.expect_at_least(
        &before,
        &[
            ("hop_limit_exceeded", 2),
            ("destination_invalid", 8),
            ("ethernet_not_for_us", 2),
            ("source_invalid", 2),
            ("rule_rejected", 2),
        ],
    );
}

/// What the gateway tells a source of these frames: every answer that came until now.
fn answers(scene: &Scene, to: &Path, frames: &[Vec<u8>]) -> Vec<Packet> {
    frames.iter().for_each(|frame| scene.peer("office").send(frame));
    scene.arrived("office", "servers");
    let arrived = scene.arrived("servers", "office");
    arrived.into_iter().filter(|packet| packet.destination == to.source).collect()
}

#[test]
fn i12_d8_what_is_told_is_never_more_bytes_than_what_it_is_about() {
    let Some(scene) = Scene::start(&Config::new(reject("told", "office", "servers", "udp/53 tcp/80"))) else {
        return;
    };
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        let bytes =
            |frames: &[Vec<u8>]| frames.iter().map(|frame| frame.len() - ETHERNET_BYTES).sum::<usize>();
        let (mut sent, mut told) = (0, 0);
        // The shortest there are first, each alone; then larger ones.
        for (round, payload) in [0, 0, 0, 0, 1, 20, 100, 600, 1400].into_iter().enumerate() {
            for frame in [
                path.udp(4000, 53, &vec![7; payload]),
                path.tcp((4000 + round as u16, 80), segment(flags::SYN, 1, 0), b""),
                path.ttl(1).udp(4000, 54, &vec![7; payload]),
            ] {
                sent += bytes(std::slice::from_ref(&frame));
                told += answers(&scene, &path, &[frame]).iter().map(|packet| packet.ip.len()).sum::<usize>();
                assert!(told <= sent, "{told} bytes for {sent}");
            }
        }
        assert!(told > 0, "nothing was told at all");
    }
}

#[test]
fn i12_a_source_that_used_up_its_answers_takes_none_from_another() {
    let Some(scene) = Scene::start(&Config::new(reject("told", "office", "servers", "udp/53"))) else {
        return;
    };
    let greedy = scene.path("office", "servers", Family::V4);
    let flood: Vec<_> = (0..300).map(|port| greedy.udp(10_000 + port, 53, &[7; 100])).collect();
    let told = answers(&scene, &greedy, &flood).len();
    assert!((10..60).contains(&told), "{told} answers to one source");
    // Two of 4,096 buckets may be one by chance, but not for both of two others.
    let modest: usize = [1, 2]
        .map(|number| {
            let path = Path { source: scene.peer("office").nth(Family::V4, number), ..greedy };
            answers(&scene, &path, &[path.udp(4000, 53, &[7; 100])]).len()
        })
        .iter()
        .sum();
    assert!(modest >= 1, "others were told nothing");
}

#[test]
fn i13_options_and_extension_headers_inside_the_quote_are_walked() {
    let Some(scene) = Scene::start(&services()) else { return };
    let before = scene.drops();
    let ends = Ends::new(&scene, Family::V4);
    let frame = ends.there.udp(4000, 53, b"query");
    scene.crosses("office", "servers", &frame);
    let options = with_ipv4_options(&frame, &[1, 1, 1, 1, 7, 7, 4, 0, 0, 0, 0]);
    scene.crosses("servers", "office", &ends.error(quoted(&options)));
    // A header longer than the quote, shorter than a header, and another version.
    for first in [0x4f, 0x44, 0x40, 0x65] {
        let bad = craft::damaged(&frame, ETHERNET_BYTES, &[first]);
        scene.stays_out("servers", "office", &ends.error(quoted(&bad)));
    }
    let ends = Ends::new(&scene, Family::V6);
    let frame = ends.there.udp(4000, 53, b"query");
    scene.crosses("office", "servers", &frame);
    let extended = with_extensions(&frame, &[(0, PADDING), (60, PADDING)]);
    scene.crosses("servers", "office", &ends.error(quoted(&extended)));
    for chain in [vec![(60, PADDING); 9], vec![(0, PADDING), (0, PADDING)], vec![(59, PADDING)]] {
        let bad = with_extensions(&frame, &chain);
        scene.stays_out("servers", "office", &ends.error(quoted(&bad)));
    }
    scene.expect_drops(&before, &[("icmp_bad_quote", 7)]);
}

#[test]
fn i13_random_bytes_in_the_quote_neither_cross_nor_stop_the_gateway() {
    let Some(scene) = Scene::start(&services()) else { return };
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for family in Family::BOTH {
        let ends = Ends::new(&scene, family);
        let packet = scene.crosses("office", "servers", &ends.there.udp(4000, 53, &[7; 64]));
        // Whose addresses and ports are damaged is nobody's.
        let (from, to) = if family == Family::V4 { (12, 24) } else { (8, 44) };
        for _ in 0..1500 {
            let mut quote = packet.ip.clone();
            quote.truncate(random() as usize % (quote.len() + 1));
            for _ in 0..random() % 8 {
                if !quote.is_empty() {
                    let at = random() as usize % quote.len();
                    quote[at] = random() as u8;
                }
            }
            let at = from + random() as usize % (to - from);
            if quote.len() > at {
                quote[at] ^= 1 << (random() % 8);
            }
            scene.peer("servers").send(&ends.error(&quote));
        }
        let crossed = scene.arrived("servers", "office");
        // Of an error that got through, all that names the connection must have been repaired by chance.
        for arrived in &crossed {
            assert_eq!(&arrived.quote()[from..to], &packet.ip[from..to], "{arrived:?}");
        }
        // Of the packet itself an error may have got through by chance.
        let another = scene.crosses("office", "servers", &ends.there.udp(4000, 53, &[8; 64]));
        scene.crosses("servers", "office", &ends.error(&another.ip));
    }
}

#[test]
fn i13_a_wrong_checksum_of_the_error_drops() {
    let Some(scene) = Scene::start(&services()) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let ends = Ends::new(&scene, family);
        let packet = scene.crosses("office", "servers", &ends.there.udp(4000, 53, b"query"));
        let good = ends.error(&packet.ip);
        let at = craft::transport(family) + 2;
        scene.stays_out("servers", "office", &craft::damaged(&good, at, &[!good[at]]));
        // With another type inside its family and the checksum of the first.
        scene.stays_out("servers", "office", &craft::damaged(&good, at - 1, &[0]));
        scene.crosses("servers", "office", &changed(&good, at - 1, &[0]));
    }
    scene.expect_drops(&before, &[("icmp_bad_checksum", 4)]);
}
