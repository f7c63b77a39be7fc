//! Group F: fragments. What is left open is chosen so: a datagram is judged when it is whole; exact copies are dropped,
//! also for a second after the datagram has left; overlaps condemn it until the time-out; F8 and F9 spoil nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::{
    ETHERNET_BYTES, Family, Path, flags, fragment_v4, one_hop_on, piece, pieces, segment,
};
use bulkhead_tests::scene::{Scene, number};
use bulkhead_tests::workers::{pin, two_workers};
use bulkhead_tests::{PATIENCE, wait_until};
use serde_json::{Value, json};

/// Name service is allowed, and telnet, of which tests want a handshake.
fn scene() -> Option<Scene> {
    Scene::start(&Config::new(rules()))
}

fn rules() -> String {
    allow("names", "office", "servers", "udp/53 tcp/23 icmp/echo-request icmpv6/echo-request")
}

/// A gateway that waits for fragments for one second.
fn impatient() -> Option<Scene> {
    Scene::start(&Config { timeouts: "fragment = \"1s\"", ..Config::new(rules()) })
}

fn there(scene: &Scene, family: Family) -> Path {
    scene.path("office", "servers", family)
}

/// Sends frames from office to servers. Returns the IP packets that arrived there, in order.
fn cross(scene: &Scene, frames: &[Vec<u8>]) -> Packets {
    cross_from(scene, ["office", "servers"], frames)
}

fn cross_from(scene: &Scene, [from, to]: [&str; 2], frames: &[Vec<u8>]) -> Packets {
    frames.iter().for_each(|frame| scene.peer(from).send(frame));
    // Not all fragments look like packets to a library that reads each alone.
    let arrived = scene.arrived_frames(from, to).into_iter();
    let sources = Family::BOTH.map(|family| scene.peer(from).address(family));
    let is_from_peer = |frame: &Vec<u8>| match &frame[12..14] {
        [8, 0] => sources[0] == IpAddr::from(<[u8; 4]>::try_from(&frame[26..30]).unwrap()),
        [0x86, 0xdd] => sources[1] == IpAddr::from(<[u8; 16]>::try_from(&frame[22..38]).unwrap()),
        _ => false,
    };
    Packets(arrived.filter(is_from_peer).map(|mut frame| frame.split_off(ETHERNET_BYTES)).collect())
}

/// IP packets.
#[derive(PartialEq)]
struct Packets(Vec<Vec<u8>>);

impl fmt::Debug for Packets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|packet| format!("{:02x?}…", &packet[..64.min(packet.len())])))
            .finish()
    }
}

const NOTHING: Packets = Packets(Vec::new());

/// The packets of these frames as they leave the gateway.
fn on(frames: &[Vec<u8>]) -> Packets {
    Packets(frames.iter().map(|frame| one_hop_on(frame)).collect())
}

/// So much payload that the pieces can be told apart.
fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 7) as u8).collect()
}

fn permutations(list: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    if list.len() < 2 {
        return vec![list.to_vec()];
    }
    let mut all = Vec::new();
    for first in 0..list.len() {
        let mut rest = list.to_vec();
        let head = rest.remove(first);
        all.extend(permutations(&rest).into_iter().map(|tail| [vec![head.clone()], tail].concat()));
    }
    all
}

#[test]
fn f1_every_permutation_of_four_pieces_crosses_unchanged_in_the_order_received() {
    let Some(scene) = scene() else { return };
    let before = scene.drops();
    let mut id = 0;
    for family in Family::BOTH {
        let whole = there(&scene, family).udp(4000, 53, &payload(4000));
        for order in permutations(&pieces(&whole, 0, 1008)) {
            id += 1;
            // The pieces again, by an identification of their own.
            let frames: Vec<_> = order.iter().map(|frame| with_id(frame, id)).collect();
            assert_eq!(frames.len(), 4);
            assert_eq!(cross(&scene, &frames), on(&frames));
        }
    }
    scene.expect_drops(&before, &[]);
}

/// The fragment as one of another datagram.
fn with_id(frame: &[u8], id: u32) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[12..14] == [8, 0] {
        frame[18..20].copy_from_slice(&(id as u16).to_be_bytes());
        let place = u16::from_be_bytes([frame[20], frame[21]]);
        return fragment_v4(frame, place);
    }
    frame[58..62].copy_from_slice(&id.to_be_bytes());
    frame
}

#[test]
fn f1_a_fragmented_datagram_gets_the_verdict_of_the_whole_and_its_connection_counts_every_piece() {
    let Some(scene) = scene() else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let (there, back) = (there(&scene, family), scene.path("servers", "office", family));
        let question = pieces(&there.udp(4100, 53, &payload(3000)), 9, 1400);
        let answer = pieces(&back.udp(53, 4100, &payload(2000)), 9, 1400);
        // No reply without a question, in pieces as little as in one.
        assert_eq!(answer.len(), 2);
        assert_eq!(cross_from(&scene, ["servers", "office"], &answer), NOTHING);
        assert_eq!(cross(&scene, &question), on(&question));
        let answer: Vec<_> = answer.iter().map(|frame| with_id(frame, 10)).collect();
        assert_eq!(cross_from(&scene, ["servers", "office"], &answer), on(&answer));
        let listed = scene.json(&["connections", "list"]);
        let connections = listed["connections"].as_array().unwrap();
        let bytes = |frames: &[Vec<u8>]| frames.iter().map(|f| f.len() - ETHERNET_BYTES).sum::<usize>();
        let expected = json!([bytes(&question), bytes(&answer)]);
        let is_this = |c: &Value| c["packets"] == json!([3, 2]) && c["bytes"] == expected;
        assert!(connections.iter().any(is_this), "{expected} is not in {listed:#}");
    }
    scene.expect_drops(&before, &[("no_rule", 4)]);
}

#[test]
fn f1_echo_requests_and_tcp_segments_cross_in_pieces_too() {
    let Some(scene) = scene() else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let (there, back) = (there(&scene, family), scene.path("servers", "office", family));
        let kind = if family == Family::V4 { (8, 0) } else { (128, 129) };
        let ping = pieces(&there.icmp(kind.0, 0, [0, 77, 0, 1], &payload(3000)), 1, 1440);
        assert_eq!(cross(&scene, &ping), on(&ping));
        let pong = pieces(&back.icmp(kind.1, 0, [0, 77, 0, 1], &payload(3000)), 1, 1440);
        assert_eq!(cross_from(&scene, ["servers", "office"], &pong), on(&pong));
        let mut tcp = scene.open_tcp("office", "servers", family, (4000, 23));
        let data = pieces(&tcp.segment(0, flags::ACK | flags::PSH, &payload(1200)), 2, 400);
        assert_eq!(cross(&scene, &data), on(&data));
        // The state has followed the segment of 1,200 bytes.
        tcp.talks();
    }
    scene.expect_drops(&before, &[]);
}

#[test]
fn f2_of_a_denied_datagram_no_piece_crosses_in_any_order() {
    let Some(scene) = scene() else { return };
    let before = scene.drops();
    let mut id = 0;
    for family in Family::BOTH {
        let whole = there(&scene, family).udp(4000, 54, &payload(3000));
        for order in permutations(&pieces(&whole, 0, 1008)) {
            id += 1;
            let frames: Vec<_> = order.iter().map(|frame| with_id(frame, id)).collect();
            assert_eq!(cross(&scene, &frames), NOTHING);
        }
    }
    scene.expect_drops(&before, &[("no_rule", 2 * 6 * 3)]);
}

#[test]
fn f3_any_overlap_drops_the_datagram_and_what_still_comes_of_it() {
    let Some(scene) = scene() else { return };
    for family in Family::BOTH {
        let whole = there(&scene, family).udp(4000, 53, &payload(2992));
        let other = there(&scene, family).udp(4001, 53, &payload(2993).split_off(1));
        let mut id = 0;
        // Into the middle of three pieces of 1,000 bytes: over its head, its tail, inside, all of it, the same place
        // with other contents; and over a part of the last piece.
        for (range, more) in [
            (992..1008, true),
            (1992..2008, true),
            (1208..1608, true),
            (992..2008, true),
            (1000..2000, true),
            (2000..2008, true),
            (2992..2999, false),
            (1992..1999, false),
        ] {
            let forged = piece(&other, 0, range.clone(), more);
            let honest = pieces(&whole, 0, 1000);
            let orders = [
                // Before the piece that would complete it, before all, and after the first of three.
                vec![&honest[0], &honest[1], &forged, &honest[2]],
                vec![&forged, &honest[0], &honest[1], &honest[2]],
                vec![&honest[2], &forged, &honest[1], &honest[0]],
            ];
            for order in orders {
                id += 1;
                let before = scene.drops();
                let frames: Vec<_> = order.iter().map(|frame| with_id(frame, id)).collect();
                assert_eq!(cross(&scene, &frames), NOTHING, "{family:?} {range:?} {more}");
                scene.expect_drops(&before, &[("fragment_overlap", 4)]);
            }
        }
        assert_eq!(cross(&scene, &pieces(&whole, 1000, 1000)).0.len(), 3);
    }
}

#[test]
fn f3_after_the_time_out_a_clean_resend_with_the_same_identification_is_judged_anew() {
    let Some(scene) = impatient() else { return };
    for family in Family::BOTH {
        let before = scene.drops();
        let frames = pieces(&there(&scene, family).udp(4000, 53, &payload(2000)), 5, 1000);
        let forged = piece(&there(&scene, family).udp(4000, 53, &payload(1000)), 5, 8..16, true);
        let attack = [frames[0].clone(), forged, frames[1].clone(), frames[2].clone()];
        assert_eq!(cross(&scene, &attack), NOTHING);
        // At once it is still condemned.
        assert_eq!(cross(&scene, &frames), NOTHING);
        scene.expect_drops(&before, &[("fragment_overlap", 7)]);
        wait_until("the condemned datagram is forgotten", || {
            number(&scene.status()["fragments"], "datagrams") == 0
        });
        assert_eq!(cross(&scene, &frames), on(&frames));
    }
}

#[test]
fn f4_exact_copies_leave_once_also_after_the_datagram_has_left() {
    let Some(scene) = scene() else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let frames = pieces(&there(&scene, family).udp(4000, 53, &payload(2000)), 6, 1000);
        let twice = [&frames[..], &frames[..]].concat();
        let each_twice: Vec<_> =
            frames.iter().flat_map(|frame| [with_id(frame, 7), with_id(frame, 7)]).collect();
        let once: Vec<_> = frames.iter().map(|frame| with_id(frame, 7)).collect();
        assert_eq!(frames.len(), 3);
        assert_eq!(cross(&scene, &twice), on(&frames));
        assert_eq!(cross(&scene, &each_twice), on(&once));
    }
    scene.expect_drops(&before, &[("fragment_duplicate", 2 * (3 + 3))]);
}

#[test]
fn f5_half_a_datagram_is_held_until_the_time_out_and_then_dropped() {
    let Some(scene) = impatient() else { return };
    for family in Family::BOTH {
        for (id, part) in [(1, 0..1), (2, 1..3), (3, 0..2)] {
            let before = scene.drops();
            let frames = pieces(&there(&scene, family).udp(4000, 53, &payload(2900)), id, 1000);
            let count = part.len() as u64;
            assert_eq!(cross(&scene, &frames[part]), NOTHING);
            let status = scene.status();
            assert_eq!(number(&status["ledger"], "held"), count, "{status:#}");
            assert_eq!(number(&status["fragments"], "held"), count);
            assert_eq!(number(&status["fragments"], "datagrams"), 1);
            scene.expect_drops(&before, &[("fragment_timeout", count)]);
            assert_eq!(number(&scene.status()["ledger"], "held"), 0);
            // What comes later is half a datagram again.
            scene.nothing_arrived("office", "servers");
        }
    }
}

#[test]
fn f6_a_tiny_first_fragment_of_ipv4_is_judged_by_the_ports_and_flags_of_the_whole() {
    let Some(scene) = scene() else { return };
    let before = scene.drops();
    let there = there(&scene, Family::V4);
    let syn = |port| there.tcp((4000, port), segment(flags::SYN, 1, 0), b"");
    // Eight bytes: the ports, but not the flags (RFC 1858, section 3). The rest begins at offset one (RFC 3128).
    let allowed = pieces(&syn(23), 1, 8);
    assert_eq!(allowed.len(), 3);
    assert_eq!(cross(&scene, &allowed), on(&allowed));
    assert_eq!(cross(&scene, &pieces(&syn(24), 2, 8)), NOTHING);
    // An ACK of no connection hides its flags as little.
    let ack = there.tcp((4001, 23), segment(flags::ACK, 1, 1), b"");
    assert_eq!(cross(&scene, &pieces(&ack, 3, 8)), NOTHING);
    scene.expect_drops(&before, &[("no_rule", 3), ("no_connection", 3)]);
}

#[test]
fn f7_an_overlap_that_rewrites_the_port_delivers_nothing() {
    let Some(scene) = scene() else { return };
    for family in Family::BOTH {
        let before = scene.drops();
        let there = there(&scene, family);
        let allowed = there.udp(4000, 53, &payload(1000));
        let denied = there.udp(4000, 54, &payload(1000));
        for (id, order) in [(1, [&allowed, &denied]), (2, [&denied, &allowed])] {
            let frames = [
                piece(order[0], id, 0..504, true),
                // The same place, but to another port.
                piece(order[1], id, 0..504, true),
                piece(&allowed, id, 504..1008, false),
            ];
            assert_eq!(cross(&scene, &frames), NOTHING);
        }
        scene.expect_drops(&before, &[("fragment_overlap", 6)]);
    }
}

#[test]
fn f8_f9_pieces_that_can_be_of_no_datagram_are_dropped_at_once() {
    let Some(scene) = scene() else { return };
    for family in Family::BOTH {
        let before = scene.drops();
        let whole = there(&scene, family).udp(4000, 53, &payload(1000));
        let far = |frame: &[u8], place: u16| match family {
            Family::V4 => fragment_v4(frame.to_vec(), (place / 8) | ((place & 1) << 13)),
            Family::V6 => {
                let mut frame = frame.to_vec();
                frame[ETHERNET_BYTES + 42..ETHERNET_BYTES + 44].copy_from_slice(&place.to_be_bytes());
                frame
            }
        };
        let last = piece(&whole, 1, 0..1000, false);
        let frames = [
            piece(&whole, 1, 0..1001, true),
            piece(&whole, 1, 8..15, true),
            piece(&whole, 1, 0..0, true),
            piece(&whole, 1, 8..8, false),
            far(&last, 65_528),
            far(&last, 64_544),
            far(&piece(&whole, 1, 0..1000, true), 65_529),
        ];
        assert_eq!(cross(&scene, &frames), NOTHING);
        scene.expect_drops(&before, &[("fragment_malformed", frames.len() as u64)]);
        // They have not spoiled the datagram of that identification.
        let honest = pieces(&whole, 1, 504);
        assert_eq!(cross(&scene, &honest), on(&honest));
    }
}

#[test]
fn f10_an_atomic_fragment_is_a_plain_packet_also_when_its_identification_is_under_attack() {
    let Some(scene) = scene() else { return };
    let before = scene.drops();
    let there = there(&scene, Family::V6);
    let atomic = |port| piece(&there.udp(4000, port, b"atomic"), 7, 0..14, false);
    let large = there.udp(4000, 53, &payload(1000));
    let attack = [
        piece(&large, 7, 0..504, true),
        atomic(53),
        // Overlaps: the identification is condemned.
        piece(&large, 7, 496..1000, true),
        atomic(53),
        atomic(54),
    ];
    assert_eq!(cross(&scene, &attack), on(&[atomic(53), atomic(53)]));
    scene.expect_drops(&before, &[("fragment_overlap", 2), ("no_rule", 1)]);
    // And its connection is the one of its ports, in pieces and whole.
    scene.crosses("servers", "office", &scene.path("servers", "office", Family::V6).udp(53, 4000, b"re"));
}

/// The IPv6 frame with an extension header of eight bytes, of this number and with padding in it, before what follows
/// the IPv6 header (`at` 0) or the fragment header (`at` 8).
fn with_extension(frame: &[u8], at: usize, number: u8) -> Vec<u8> {
    let start = ETHERNET_BYTES + 40 + at;
    let next_at = if at == 0 { ETHERNET_BYTES + 6 } else { ETHERNET_BYTES + 40 };
    let mut out = frame[..start].to_vec();
    let next = std::mem::replace(&mut out[next_at], number);
    out.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    out.extend(&frame[start..]);
    let bytes = (out.len() - ETHERNET_BYTES - 40) as u16;
    out[ETHERNET_BYTES + 4..ETHERNET_BYTES + 6].copy_from_slice(&bytes.to_be_bytes());
    out
}

const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;

#[test]
fn f11_two_fragment_headers_are_dropped_atomic_or_not() {
    let Some(scene) = scene() else { return };
    let before = scene.drops();
    let whole = there(&scene, Family::V6).udp(4000, 53, &payload(1000));
    // An inner fragment header of any kind behind an outer one of any kind.
    let mut frames = Vec::new();
    for inner in
        [piece(&whole, 1, 0..504, true), piece(&whole, 1, 504..1008, false), piece(&whole, 1, 0..1008, false)]
    {
        let content = inner.len() - ETHERNET_BYTES - 40;
        frames.push(piece(&inner, 2, 0..content, false));
        frames.push(piece(&inner, 3, 0..content / 8 * 8, true));
        frames.push(piece(&inner, 4, 8..content, false));
    }
    // In a piece that is not the first, the next header alone tells.
    assert_eq!(frames.len(), 9);
    assert_eq!(cross(&scene, &frames), NOTHING);
    // Behind destination options.
    let nested = with_extension(&frames[0], 8, DESTINATION_OPTIONS);
    assert_eq!(cross(&scene, &[nested]), NOTHING);
    scene.expect_drops(&before, &[("fragment_nested", 10)]);
}

#[test]
fn f12_a_first_fragment_of_ipv6_without_the_whole_upper_header_is_dropped() {
    let Some(scene) = scene() else { return };
    let there = there(&scene, Family::V6);
    let udp = there.udp(4000, 53, &payload(100));
    let syn = there.tcp((4000, 23), segment(flags::SYN, 1, 0), b"");
    let before = scene.drops();
    let options = with_extension(&udp, 0, DESTINATION_OPTIONS);
    let frames = [
        // A TCP header of which 16 bytes are there; and one that claims four bytes more than are there.
        piece(&syn, 1, 0..16, true),
        {
            let mut claims = syn.clone();
            claims[ETHERNET_BYTES + 40 + 12] = 0x70;
            piece(&[claims, vec![0; 4]].concat(), 2, 0..24, true)
        },
        // Extension headers alone, of which the next is the upper one.
        piece(&options, 3, 0..8, true),
    ];
    assert_eq!(cross(&scene, &frames), NOTHING);
    scene.expect_drops(&before, &[("fragment_no_header", 3)]);
    // With it, the rest may come in pieces of eight bytes.
    let honest = pieces(&udp, 4, 8);
    assert_eq!(cross(&scene, &honest), on(&honest));
}

#[test]
fn f13_extension_headers_that_differ_between_fragments_are_not_misread() {
    let Some(scene) = scene() else { return };
    let before = scene.drops();
    let there = there(&scene, Family::V6);
    // In the fragmentable part, which the first fragment begins: the ports stand behind them.
    for (id, port, crosses) in [(1, 53, true), (2, 54, false)] {
        let whole = with_extension(&there.udp(4000, port, &payload(800)), 0, DESTINATION_OPTIONS);
        let frames = pieces(&whole, id, 400);
        assert_eq!(cross(&scene, &frames), if crosses { on(&frames) } else { NOTHING });
    }
    // Before the fragment header, in one of the pieces only: each piece is read by its own headers, and the datagram
    // by those of the first.
    for (id, at) in [(3, 0), (4, 1)] {
        let mut frames = pieces(&there.udp(4000, 53, &payload(800)), id, 408);
        frames[at] = with_extension(&frames[at], 0, DESTINATION_OPTIONS);
        assert_eq!(cross(&scene, &frames), on(&frames));
    }
    // A later piece that names another next header is one of the datagram all the same (RFC 8200, section 4.5).
    let mut frames = pieces(&there.udp(4000, 53, &payload(800)), 5, 408);
    frames[1][ETHERNET_BYTES + 40] = 6;
    assert_eq!(cross(&scene, &frames), on(&frames));
    let mut frames = pieces(&there.udp(4000, 54, &payload(800)), 6, 408);
    frames[1][ETHERNET_BYTES + 40] = 6;
    assert_eq!(cross(&scene, &frames), NOTHING);
    // The next header of the fragment header is not looked for in vain in a last piece.
    let mut frames = pieces(&there.udp(4000, 53, &payload(800)), 7, 408);
    frames[1][ETHERNET_BYTES + 40] = FRAGMENT;
    assert_eq!(cross(&scene, &frames), NOTHING);
    // Of the last datagram the first half waits.
    scene.expect_drops(&before, &[("no_rule", 5), ("fragment_nested", 1)]);
}

#[test]
fn f16_fragmented_discovery_and_fragments_to_the_gateway_itself_are_dropped() {
    let local = vec!["udp/7000", "tcp/7000", "icmp/echo-request", "icmpv6/echo-request"];
    let Some(scene) = Scene::start(&Config { local, ..Config::new(rules()) }) else { return };
    let gateway = |family| -> IpAddr {
        match family {
            Family::V4 => scene.host("office").gateway_v4.into(),
            Family::V6 => scene.host("office").gateway_v6.into(),
        }
    };
    for family in Family::BOTH {
        let before = scene.drops();
        let to_gateway = Path { destination: gateway(family), ..there(&scene, family) };
        let ping = if family == Family::V4 { 8 } else { 128 };
        let wholes = [
            to_gateway.udp(4000, 7000, &payload(800)),
            to_gateway.tcp((4000, 7000), segment(flags::SYN, 1, 0), &payload(100)),
            to_gateway.icmp(ping, 0, [0, 1, 0, 1], &payload(800)),
        ];
        let mut count = 0;
        for (id, whole) in wholes.iter().enumerate() {
            // In two, the first with all of the header; and, for the steering, both as if they were first.
            let middle = (whole.len() - ETHERNET_BYTES - family.header_bytes()) / 16 * 8;
            let content = whole.len() - ETHERNET_BYTES - family.header_bytes();
            for frame in
                [piece(whole, id as u32, middle..content, false), piece(whole, 99, 0..content / 8 * 8, true)]
            {
                scene.peer("office").send(&frame);
                count += 1;
            }
        }
        scene.nothing_arrived("office", "servers");
        scene.expect_drops(&before, &[("local_service_undeclared", count)]);
    }
    // A solicitation for the gateway's address in an atomic fragment and in two pieces, hop limit 255 (RFC 6980).
    let before = scene.drops();
    let discovery = Path { destination: gateway(Family::V6), ttl: 255, ..there(&scene, Family::V6) };
    let target = scene.host("office").gateway_v6.octets();
    let solicitation = discovery.icmp(135, 0, [0; 4], &target);
    assert_eq!(solicitation.len(), ETHERNET_BYTES + 40 + 24);
    for frame in [
        piece(&solicitation, 1, 0..24, false),
        piece(&solicitation, 2, 0..16, true),
        piece(&solicitation, 2, 16..24, false),
    ] {
        scene.peer("office").send(&frame);
    }
    scene.nothing_arrived("office", "servers");
    // The workers dropped all of it, so the kernel got none: every frame is counted once.
    scene.expect_drops(&before, &[("local_service_undeclared", 2)]);
    // The hosts' kernels add to this one.
    let denied = |drops: &BTreeMap<String, u64>| drops.get("icmp_type_denied").copied().unwrap_or(0);
    assert!(denied(&scene.drops()) > denied(&before));
}

#[test]
fn f1_the_hosts_own_kernels_talk_in_datagrams_of_up_to_65507_bytes() {
    let Some(scene) = Scene::start(&Config::new(allow("talk", "office", "servers", "udp/7000"))) else {
        return;
    };
    for family in Family::BOTH {
        let address = SocketAddr::new(scene.host_address("servers", family), 7000);
        let server = scene.host("servers").namespace.run(|| UdpSocket::bind(address)).unwrap();
        let local = SocketAddr::new(scene.host_address("office", family), 0);
        let client = scene.host("office").namespace.run(|| UdpSocket::bind(local)).unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let mut buffer = vec![0; 65_536];
        for bytes in [1, 1472, 1473, 3000, 20_000, 65_507] {
            client.send_to(&payload(bytes), address).unwrap();
            let (received, from) = server.recv_from(&mut buffer).unwrap();
            assert!(buffer[..received] == payload(bytes));
            server.send_to(&buffer[..received], from).unwrap();
            let (received, _) = client.recv_from(&mut buffer).unwrap();
            assert!(buffer[..received] == payload(bytes), "{received} of {bytes} bytes came back");
        }
    }
}

/// Of the gateway's process, KiB.
fn resident(scene: &Scene) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", number(&scene.status(), "pid"))).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn f14_a_million_half_datagrams_hurt_neither_established_connections_nor_new_honest_fragments() {
    const ROUNDS: u32 = 1000;
    const HALVES: u32 = 500;
    let Some(scene) = Scene::start(&Config { timeouts: "fragment = \"2s\"", ..Config::new(rules()) }) else {
        return;
    };
    let before = scene.drops();
    let memory = resident(&scene);
    let (mut crossed, mut most) = (0, 0);
    for family in Family::BOTH {
        let mut tcp = scene.open_tcp("office", "servers", family, (4000, 23));
        let flood = Flood::new(there(&scene, family));
        for round in 0..ROUNDS {
            let honest = pieces(&there(&scene, family).udp(4000, 53, &payload(1000)), round, 600);
            let data = tcp.segment(0, flags::ACK | flags::PSH, b"established");
            let mut frames = Vec::new();
            for (at, piece) in honest.iter().enumerate() {
                frames.push(piece.clone());
                let count = HALVES / 2;
                let first = round * HALVES + at as u32 * count;
                // Of one source in one half of all rounds, of as many as there are in the other.
                frames.extend((first..first + count).map(|n| flood.half(n, round % 2 == 0)));
            }
            frames.push(data.clone());
            let expected = on(&[honest[0].clone(), honest[1].clone(), data]);
            let arrived = cross(&scene, &frames);
            // Its socket hears what the peer sends, and would be full when the peer listens.
            scene.peer("office").drain();
            assert!(arrived.0.last() == expected.0.last(), "the established connection lost a segment");
            crossed += u32::from(arrived == expected);
            if round % 100 == 0 {
                let fragments = scene.status()["fragments"].clone();
                most = most.max(number(&fragments, "held"));
                assert!(number(&fragments, "held") <= number(&fragments, "capacity"));
            }
        }
        tcp.talks();
    }
    let total = 2 * ROUNDS;
    let grown = resident(&scene).saturating_sub(memory);
    println!(
        "{crossed} of {total} honest datagrams crossed, at most {most} fragments held, {grown} KiB grown"
    );
    assert!(crossed * 100 >= total * 99, "{crossed} of {total} honest datagrams crossed");
    assert!(grown < 32 * 1024, "{grown} KiB more than before");
    wait_until("the memory is free again", || number(&scene.status()["fragments"], "held") == 0);
    let drops = scene.drops();
    let count = |reason: &str| drops.get(reason).unwrap_or(&0) - before.get(reason).unwrap_or(&0);
    assert_eq!(count("fragment_limit") + count("fragment_timeout"), u64::from(2 * ROUNDS * HALVES));
}

/// Half datagrams of one or many sources.
struct Flood {
    path: Path,
    half: Vec<u8>,
}

impl Flood {
    fn new(path: Path) -> Flood {
        Flood { path, half: piece(&path.udp(4000, 53, &payload(64)), 0, 0..64, true) }
    }

    fn half(&self, number: u32, one_source: bool) -> Vec<u8> {
        let mut frame = self.half.clone();
        let source = if one_source { 1 } else { 1 + number % 60 };
        match self.path.source {
            // Behind the peer's own addresses.
            IpAddr::V4(_) => frame[ETHERNET_BYTES + 15] = 100 + source as u8,
            IpAddr::V6(_) => {
                frame[ETHERNET_BYTES + 16..ETHERNET_BYTES + 20].copy_from_slice(&source.to_be_bytes())
            }
        }
        with_id(&frame, number)
    }
}

#[test]
fn f15_pieces_that_arrive_by_two_queues_are_one_datagram_of_one_worker() {
    let Some((scene, cpus)) = two_workers("udp/53") else { return };
    let from = |cpu: usize, frame: &[u8]| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pin(cpu);
                scene.peer("office").send(frame);
            });
        });
    };
    for family in Family::BOTH {
        for id in 0..40 {
            let denied = pieces(&there(&scene, family).udp(4000, 54, &payload(2000)), 1000 + id, 1000);
            let frames = pieces(&there(&scene, family).udp(4000, 53, &payload(2000)), id, 1000);
            for whole in [&denied, &frames] {
                for (at, frame) in whole.iter().enumerate() {
                    from(cpus[(at + id as usize) % 2], frame);
                }
            }
            // No order between the queues, but all of them.
            let expected: BTreeSet<_> = on(&frames).0.into_iter().collect();
            let mut arrived = BTreeSet::new();
            while arrived.len() < expected.len() {
                let frame = scene.peer("servers").frame(PATIENCE).expect("all three fragments");
                let packet = frame[ETHERNET_BYTES..].to_vec();
                if expected.contains(&packet) {
                    assert!(arrived.insert(packet), "a fragment came twice");
                } else {
                    let identification = if family == Family::V4 { &frame[18..20] } else { &frame[60..62] };
                    assert!(
                        u16::from_be_bytes([identification[0], identification[1]]) < 1000,
                        "{frame:02x?}"
                    );
                }
            }
        }
    }
    scene.check_ledger();
    let status = scene.status();
    let ledgers = status["worker_ledgers"].as_array().unwrap();
    let forwarded: Vec<_> = ledgers.iter().map(|ledger| number(ledger, "forwarded")).collect();
    assert_eq!(forwarded.iter().sum::<u64>(), 2 * 40 * 3);
    assert!(forwarded.iter().all(|count| count % 3 == 0 && *count > 60), "{forwarded:?}");
    assert_eq!(scene.drops()["no_rule"], 2 * 40 * 3);
}
