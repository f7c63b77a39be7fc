//! Group G: policy basics. G3 and G7 are also properties of `dataplane/src/policy`.

use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use bulkhead_tests::config::{Config, allow, deny, reject};
use bulkhead_tests::craft::{self, PADDING, changed, damaged, of_ethertype, tagged};
use bulkhead_tests::frames::{Content, Family, Packet, Path, flags, may_fragment, segment};
use bulkhead_tests::scene::{Scene, number};
use bulkhead_tests::wait_until;

const PINGS: &str = "icmp/echo-request icmpv6/echo-request";

fn syn(path: &Path, port: u16) -> Vec<u8> {
    path.tcp((4000, port), segment(flags::SYN, 100, 0), b"")
}

fn own_address(scene: &Scene, zone: &str, family: Family) -> IpAddr {
    let host = scene.host(zone);
    if family == Family::V4 { host.gateway_v4.into() } else { host.gateway_v6.into() }
}

#[test]
fn g1_without_rules_nothing_crosses_of_any_ethertype_in_either_direction() {
    let closed = Config { sentinels: false, ..Config::new("") };
    let Some(scene) = Scene::start(&closed) else { return };
    // IEEE 802 numbers: LLDP, PPPoE, MPLS, 802.1X, MACsec, PTP, TRILL, an experiment, a length (LLC), 0xAAAA, ARP.
    let ethertypes =
        [0x88cc, 0x8864, 0x8847, 0x888e, 0x88e5, 0x88f7, 0x22f3, 0x88b5, 0x0026, 0xaaaa, 0x0806, 0x0000];
    let before = scene.drops();
    for (from, to) in [("office", "servers"), ("servers", "office")] {
        for family in Family::BOTH {
            let path = scene.path(from, to, family);
            for frame in [path.udp(4000, 53, b"name"), syn(&path, 443), path.echo_request(7, 1)] {
                scene.peer(from).send(&frame);
            }
        }
        let path = scene.path(from, to, Family::V4);
        for ethertype in ethertypes {
            scene.peer(from).send(&of_ethertype(&path, ethertype));
        }
    }
    scene.expect_at_least(&before, &[("no_rule", 12), ("ethertype_unsupported", 2 * 11)]);
    assert_eq!(number(&scene.status()["ledger"], "forwarded"), 0);
    scene.reload(&Config::new(""));
    for (from, to) in [("office", "servers"), ("servers", "office")] {
        let sent = scene.peer(from).mac;
        let crossed = |frame: &Vec<u8>| frame[6..12] == sent || ethertypes.contains(&ethertype(frame));
        // The kernels' own ARP is no crossing: it comes from the gateway, for the gateway.
        let own = |frame: &Vec<u8>| frame[6..12] == scene.peer(to).gateway_mac;
        assert_eq!(scene.arrived_frames(from, to).iter().find(|f| crossed(f) && !own(f)), None);
    }
}

fn ethertype(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[12], frame[13]])
}

#[test]
fn g2_a_syn_to_the_allowed_port_passes_and_to_its_neighbours_does_not() {
    let Some(scene) = Scene::start(&Config::new(allow("web", "office", "servers", "tcp/443"))) else {
        return;
    };
    let before = scene.drops();
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        scene.crosses("office", "servers", &syn(&path, 443));
        scene.stays_out("office", "servers", &syn(&path, 444));
        scene.stays_out("office", "servers", &syn(&path, 442));
        scene.stays_out("office", "servers", &path.udp(4000, 443, b"other protocol"));
    }
    scene.expect_drops(&before, &[("no_rule", 6)]);
}

#[test]
fn g3_deny_beats_reject_beats_allow_in_every_order_of_the_rules() {
    let rules = [
        allow("some", "office", "servers", "udp/1-2000"),
        reject("told", "office", "servers", "udp/1500-1600"),
        deny("quiet", "office", "servers", "udp/1550"),
    ];
    let Some(scene) = Scene::start(&Config::new("")) else { return };
    for (round, order) in
        [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].iter().enumerate()
    {
        scene.reload(&Config::new(order.map(|index| rules[index].as_str()).concat()));
        let before = scene.drops();
        let source_port = 4000 + round as u16;
        for family in Family::BOTH {
            let path = scene.path("office", "servers", family);
            scene.crosses("office", "servers", &path.udp(source_port, 1499, b"x"));
            scene.stays_out("office", "servers", &path.udp(source_port, 1500, b"x"));
            scene.stays_out("office", "servers", &path.udp(source_port, 1550, b"x"));
        }
        scene.expect_drops(&before, &[("rule_rejected", 2), ("rule_denied", 2)]);
    }
}

#[test]
fn g4_a_rule_between_ipv4_networks_never_allows_the_same_over_ipv6() {
    let segments = |office: &str, servers: &str| {
        let segment = |name: &str, network: &str| {
            format!("[segments.{name}]\nport = \"{name}\"\nnetworks = [\"{network}\"]\n")
        };
        Some(segment("office", office) + &segment("servers", servers))
    };
    let all = allow("all", "office", "servers", &format!("tcp/443 udp/53 {PINGS}"));
    let only_v4 = Config { segments: segments("10.1.0.0/24", "10.2.0.0/24"), ..Config::new(all.clone()) };
    let Some(scene) = Scene::start(&only_v4) else { return };
    let before = scene.drops();
    let frames = |family| {
        let path = scene.path("office", "servers", family);
        [path.udp(4000, 53, b"name"), syn(&path, 443), path.echo_request(7, 1)]
    };
    for (allowed, denied) in frames(Family::V4).iter().zip(&frames(Family::V6)) {
        scene.crosses("office", "servers", allowed);
        scene.stays_out("office", "servers", denied);
    }
    // An IPv4 address written as an IPv6 one is not one.
    let v4 = scene.path("office", "servers", Family::V4);
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(_) => address,
    };
    let mapped = Path { source: mapped(v4.source), destination: mapped(v4.destination), ..v4 };
    scene.stays_out("office", "servers", &mapped.udp(4000, 53, b"name"));
    scene.expect_drops(&before, &[("spoofed_source", 3), ("source_invalid", 1)]);
}

#[test]
fn g4_the_icmp_of_one_family_is_not_that_of_the_other() {
    for (service, allowed, denied) in
        [("icmp/echo-request", Family::V4, Family::V6), ("icmpv6/echo-request", Family::V6, Family::V4)]
    {
        let Some(scene) = Scene::start(&Config::new(allow("ping", "office", "servers", service))) else {
            return;
        };
        let before = scene.drops();
        let ping = |family| scene.path("office", "servers", family).echo_request(7, 1);
        scene.crosses("office", "servers", &ping(allowed));
        scene.stays_out("office", "servers", &ping(denied));
        // The number of the allowed one in a packet of the other family.
        let message = |family: Family| scene.path("office", "servers", family).echo_request(8, 1);
        let content = message(denied)[craft::transport(denied)..].to_vec();
        let number = if allowed == Family::V4 { 1 } else { 58 };
        let crossbred = craft::raw(&scene.path("office", "servers", denied), number, &content);
        scene.stays_out("office", "servers", &crossbred);
        scene.expect_drops(&before, &[("no_rule", 1), ("protocol_unsupported", 1)]);
    }
}

#[test]
fn g5_the_same_packet_by_another_port_drops() {
    let Some(scene) = Scene::start(&Config::new(allow("names", "office", "servers", "udp/53"))) else {
        return;
    };
    let before = scene.drops();
    for family in Family::BOTH {
        let frame = scene.path("office", "servers", family).udp(4000, 53, b"name");
        scene.crosses("office", "servers", &frame);
        // The same, to the other port's Ethernet address, without which it would not be looked at.
        for port in [4000, 4001] {
            let path =
                Path { to: scene.peer("servers").gateway_mac, ..scene.path("office", "servers", family) };
            scene.stays_out("servers", "office", &path.udp(port, 53, b"name"));
            scene.nothing_arrived("office", "servers");
        }
    }
    scene.expect_drops(&before, &[("spoofed_source", 4)]);
}

#[test]
fn g6_port_ranges_end_where_they_say() {
    let services = "tcp/1000-2000 udp/1-9 udp/65530-65535 tcp/65535";
    let Some(scene) = Scene::start(&Config::new(allow("some", "office", "servers", services))) else {
        return;
    };
    let before = scene.drops();
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        for port in [1000, 1001, 1999, 2000, 65535] {
            scene.crosses("office", "servers", &syn(&path, port));
        }
        for port in [999, 2001, 65534, 1] {
            scene.stays_out("office", "servers", &syn(&path, port));
        }
        for port in [1, 9, 65530, 65535] {
            scene.crosses("office", "servers", &path.udp(4000, port, b"x"));
        }
        for port in [10, 65529] {
            scene.stays_out("office", "servers", &path.udp(4000, port, b"x"));
        }
    }
    scene.expect_drops(&before, &[("no_rule", 12)]);
}

#[test]
fn g6_prefixes_of_every_edge_length_end_where_they_say() {
    // Peers are at .77, .78 and .79 (4d, 4e, 4f), as IPv6 addresses at ::4d and so on.
    let segments = |servers: [&str; 2], pair: [&str; 2]| {
        format!(
            "[segments.office]\nport = \"office\"\nnetworks = [\"10.1.0.0/24\", \"fd00:1::/64\"]\n\
             [segments.world]\nport = \"servers\"\nnetworks = [\"0.0.0.0/0\", \"::/0\"]\n\
             [segments.servers]\nport = \"servers\"\nnetworks = {servers:?}\n\
             [segments.pair]\nport = \"servers\"\nnetworks = {pair:?}\n"
        )
    };
    let rules = allow("one", "office", "servers", "udp/53")
        + &allow("two", "office", "pair", "udp/54")
        + &allow("rest", "office", "world", "udp/55");
    let config = Config {
        segments: Some(segments(["10.2.0.77/32", "fd00:2::4d/128"], ["10.2.0.78/31", "fd00:2::4e/127"])),
        ..Config::new(rules)
    };
    let Some(scene) = Scene::start(&config) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        for (peer, its) in [(0, 53), (1, 54), (2, 54)] {
            let destination = scene.peer("servers").nth(family, peer);
            let path = Path { destination, ..scene.path("office", "servers", family) };
            for port in [53, 54, 55] {
                let frame = path.udp(4000, port, b"x");
                match port == its {
                    true => drop(scene.crosses("office", "servers", &frame)),
                    false => scene.stays_out("office", "servers", &frame),
                }
            }
        }
    }
    scene.expect_drops(&before, &[("no_rule", 12)]);
    // Beside them everything is the world's.
    let config = Config {
        segments: Some(segments(["10.2.0.76/32", "fd00:2::4c/128"], ["10.2.0.80/31", "fd00:2::50/127"])),
        ..config
    };
    scene.reload(&config);
    for family in Family::BOTH {
        let destination = scene.peer("servers").nth(family, 2);
        let path = Path { destination, ..scene.path("office", "servers", family) };
        scene.crosses("office", "servers", &path.udp(4001, 55, b"x"));
        scene.stays_out("office", "servers", &path.udp(4001, 54, b"x"));
    }
}

#[test]
fn g6_gapped_masks_and_host_bits_are_refused_not_guessed() {
    let config = |network: &str| Config {
        segments: Some(format!("[segments.office]\nport = \"office\"\nnetworks = [{network:?}]\n")),
        ..Config::new("")
    };
    let Some(scene) = Scene::start(&Config::new("")) else { return };
    let before = number(&scene.status(), "generation");
    for network in [
        "10.1.0.0/255.0.255.0",
        "10.1.0.0/33",
        "fd00:1::/129",
        "10.1.0.1/24",
        "10.1.0.0/",
        "10.1/16",
        "fd00:1::1/64",
    ] {
        scene.write(&config(network));
        let ran = scene.cli(&["reload"]);
        assert_ne!(ran.code, 0, "{network} was taken");
        assert!(ran.stderr.contains(network), "{}", ran.stderr);
    }
    assert_eq!(number(&scene.status(), "generation"), before);
}

#[test]
fn g8_every_packet_is_counted_exactly_once() {
    let rules = allow("names", "office", "servers", "udp/53") + &deny("no", "office", "servers", "udp/54");
    let Some(scene) = Scene::start(&Config::new(rules)) else { return };
    scene.arrived("office", "servers");
    let (before, status) = (scene.drops(), scene.status());
    let mut sent = 0;
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        for _ in 0..50 {
            for port in [53, 54, 55] {
                scene.peer("office").send(&path.udp(4000, port, b"x"));
                sent += 1;
            }
        }
    }
    scene.arrived("office", "servers");
    scene.expect_drops(&before, &[("rule_denied", 100), ("no_rule", 100)]);
    scene.check_ledger();
    let after = scene.status();
    let moved = |key: &str| number(&after["ledger"], key) - number(&status["ledger"], key);
    // The sentinel went through as well; the kernels' chatter is dropped.
    assert_eq!(moved("forwarded"), sent - 200 + 1);
    assert!(moved("received") > sent && moved("dropped") >= 200 && moved("held") == 0);
}

#[test]
fn g9_unknown_ethertypes_lldp_and_spanning_tree_are_dropped() {
    let Some(scene) = Scene::start(&Config::new(allow("all", "any", "any", "any"))) else { return };
    let before = scene.drops();
    let path = scene.path("office", "servers", Family::V4);
    let groups = [path.to, [1, 0x80, 0xc2, 0, 0, 0], [1, 0x80, 0xc2, 0, 0, 0xe], [0xff; 6]];
    let mut sent = 0;
    for to in groups {
        // LLDP, spanning tree's length and LLC, 0xAAAA, IPX, MPLS, 802.1X, IPv4's number in the wrong order.
        for ethertype in [0x88cc, 0x0026, 0xaaaa, 0x8137, 0x8847, 0x888e, 0x0008] {
            scene.stays_out("office", "servers", &of_ethertype(&Path { to, ..path }, ethertype));
            sent += 1;
        }
    }
    let crossed = scene.arrived_frames("office", "servers");
    assert_eq!(crossed.iter().find(|frame| ethertype(frame) == 0xaaaa), None);
    scene.expect_drops(&before, &[("ethertype_unsupported", sent)]);
}

#[test]
fn g10_tagged_and_doubly_tagged_frames_never_meet_the_untagged_rules() {
    let Some(scene) = Scene::start(&Config::new(allow("all", "any", "any", "any"))) else { return };
    let before = scene.drops();
    for family in Family::BOTH {
        let frame = scene.path("office", "servers", family).udp(4000, 53, b"name");
        for kind in [0x8100, 0x88a8, 0x9100] {
            // Also VLAN 0, which is a priority and no VLAN.
            for vlan in [0, 1, 10, 4095, 0xe00a] {
                scene.stays_out("office", "servers", &tagged(&frame, kind, vlan));
            }
            scene.stays_out("office", "servers", &tagged(&tagged(&frame, 0x8100, 10), kind, 20));
        }
        scene.crosses("office", "servers", &frame);
    }
    scene.expect_drops(&before, &[("vlan_unexpected", 30), ("vlan_nested", 6)]);
}

#[test]
fn g10_a_tag_that_the_sending_kernel_keeps_beside_the_frame_is_a_tag_all_the_same() {
    let Some(scene) = Scene::start(&Config::new(allow("all", "any", "any", "any"))) else { return };
    let office = scene.host("office");
    let run = |args: &[&str]| {
        let mut command = Command::new("ip");
        office.namespace.run(|| command.args(args).output()).is_ok_and(|ran| ran.status.success())
    };
    let ip = |args: &[&str]| assert!(run(args), "ip {args:?}");
    // Its packets have the tag in the kernel's metadata, which the link hands over as it is.
    if !run(&["link", "add", "link", office.interface, "name", "tagged", "type", "vlan", "id", "10"]) {
        let _ = writeln!(
            std::io::stderr(),
            "SKIP g10 metadata: `ip` is missing, or the kernel has no VLAN devices"
        );
        return;
    }
    ip(&["address", "add", "10.1.0.200/32", "dev", "tagged"]);
    ip(&["link", "set", "tagged", "up"]);
    ip(&["route", "add", "10.2.0.0/24", "dev", "tagged", "src", "10.1.0.200"]);
    let gateway = office.gateway_mac.map(|byte| format!("{byte:02x}")).join(":");
    let to = scene.peer("servers").address(Family::V4);
    ip(&["neigh", "add", &to.to_string(), "lladdr", &gateway, "dev", "tagged"]);
    let before = scene.drops();
    let socket = office.namespace.run(|| UdpSocket::bind("10.1.0.200:4000")).unwrap();
    for _ in 0..5 {
        socket.send_to(b"tagged", (to, 53)).unwrap();
    }
    wait_until("they are dropped", || {
        let count = |drops: &std::collections::BTreeMap<String, u64>| {
            drops.get("vlan_unexpected").copied().unwrap_or(0)
        };
        count(&scene.drops()) >= count(&before) + 5
    });
    scene.nothing_arrived("office", "servers");
}

#[test]
fn g11_arp_and_neighbour_discovery_end_at_the_gateway() {
    let Some(scene) = Scene::start(&Config::new(allow("all", "any", "any", "any"))) else { return };
    let office = scene.peer("office");
    let (IpAddr::V4(own), IpAddr::V4(other)) =
        (office.address(Family::V4), scene.peer("servers").address(Family::V4))
    else {
        unreachable!("IPv4 was asked for")
    };
    // Request, reply, gratuitous and probe, to everybody and to the gateway alone (RFC 826, RFC 5227).
    for to in [[0xff; 6], office.gateway_mac] {
        for (operation, sender, target) in
            [(1, own, other), (2, own, other), (1, own, own), (1, [0; 4].into(), own)]
        {
            let header = [0, 1, 8, 0, 6, 4, 0, operation];
            let arp = [
                &to[..],
                &office.mac,
                &[8, 6],
                &header,
                &office.mac,
                &sender.octets(),
                &[0; 6],
                &target.octets(),
                &[0; 18],
            ];
            office.send(&arp.concat());
        }
    }
    let before = scene.drops();
    let path = scene.path("office", "servers", Family::V6).ttl(255);
    let IpAddr::V6(target) = path.destination else { unreachable!("IPv6 was asked for") };
    // Solicitations and advertisements for a host of the other zone, to it and to its group, and redirects.
    for kind in [133, 134, 135, 136, 137] {
        let frame = path.icmp(kind, 0, [0; 4], &[&target.octets()[..], &[1, 1], &office.mac].concat());
        scene.stays_out("office", "servers", &frame);
    }
    scene.expect_at_least(&before, &[("icmp_type_denied", 5)]);
    let crossed = scene.arrived_frames("office", "servers");
    let ours = |frame: &&Vec<u8>| frame.windows(6).any(|bytes| bytes == office.mac);
    assert_eq!(crossed.iter().find(ours), None);
}

#[test]
fn g12_the_hop_count_falls_by_one_and_its_end_is_told_within_a_limit() {
    let Some(scene) = Scene::start(&Config::new(allow("names", "office", "servers", "udp/53"))) else {
        return;
    };
    let before = scene.drops();
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        // Which also checks that it is one less.
        for ttl in [255, 64, 2] {
            scene.crosses("office", "servers", &path.ttl(ttl).udp(4000, 53, b"name"));
        }
        let last = path.ttl(1).udp(4000, 53, &[7; 60]);
        scene.stays_out("office", "servers", &last);
        let told = scene.peer("office").expect("time exceeded", |packet| packet.icmp().is_some());
        assert_eq!(told.icmp(), Some(if family == Family::V4 { (11, 0) } else { (3, 0) }));
        assert_eq!((told.source, told.destination), (own_address(&scene, "office", family), path.source));
        assert!(Packet::parse(&last).unwrap().ip.starts_with(told.quote()));
        scene.stays_out("office", "servers", &path.ttl(0).udp(4000, 53, &[7; 60]));
        scene.nothing_arrived("servers", "office");
        // Of a hundred, a source is told of its burst, twenty, and what is left of the first is less.
        for _ in 0..100 {
            scene.peer("office").send(&last);
        }
        let answers = scene.arrived("office", "servers").len() + scene.arrived("servers", "office").len();
        assert!((10..60).contains(&answers), "{answers} answers");
    }
    scene.expect_drops(&before, &[("hop_limit_exceeded", 204)]);
}

#[test]
fn g13_what_crosses_is_byte_identical_but_for_hop_count_and_link() {
    let services = format!("tcp/443 udp/53 {PINGS}");
    let Some(scene) = Scene::start(&Config::new(allow("all", "office", "servers", &services))) else {
        return;
    };
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        let payload: Vec<u8> = (0..=255).collect();
        let frames = [path.udp(4000, 53, &payload), syn(&path, 443), path.echo_request(9, 1)];
        for frame in &frames {
            // Every DSCP and ECN value that is special in some way: none, EF, CS6, all ones.
            for service in [0x00, 0x01, 0x02, 0x03, 0xb8, 0xc0, 0xff] {
                let marked = match family {
                    Family::V4 => changed(frame, 15, &[service]),
                    Family::V6 => changed(frame, 14, &[0x60 | service >> 4, service << 4 | 0x5, 0x43, 0x21]),
                };
                scene.crosses_unchanged("office", "servers", &marked);
            }
        }
        if family == Family::V4 {
            for identification in [0u16, 1, 0xffff] {
                let marked = changed(&frames[0], 18, &identification.to_be_bytes());
                scene.crosses_unchanged("office", "servers", &marked);
                scene.crosses_unchanged("office", "servers", &may_fragment(marked));
            }
            // No checksum is a checksum (RFC 768).
            scene.crosses_unchanged("office", "servers", &damaged(&frames[0], 40, &[0, 0]));
        } else {
            let extended = craft::with_extensions(&frames[0], &[(60, PADDING)]);
            scene.crosses_unchanged("office", "servers", &extended);
        }
    }
}

#[test]
fn g14_a_smaller_mtu_is_told_with_its_size_and_a_datagram_without_df_is_dropped_silently() {
    let Some(scene) = Scene::start(&Config::new(allow("names", "office", "servers", "udp/53"))) else {
        return;
    };
    let datagram =
        |family, bytes: usize| scene.path("office", "servers", family).udp(4000, 53, &vec![7; bytes]);
    for family in Family::BOTH {
        scene.crosses("office", "servers", &datagram(family, 1400));
    }
    scene.lab.gateway.set_mtu("servers", 1300).unwrap();
    for family in Family::BOTH {
        let headers = family.header_bytes() + 8;
        let mut told = None;
        wait_until("the sender is told", || {
            scene.peer("office").send(&datagram(family, 1301 - headers));
            told = scene.peer("office").next(Duration::from_millis(200)).filter(|p| p.icmp().is_some());
            told.is_some()
        });
        let told = told.unwrap();
        assert_eq!(told.icmp(), Some(if family == Family::V4 { (3, 4) } else { (2, 0) }));
        let Content::Icmp(_, _, mtu, _) = told.content else { unreachable!("it is ICMP") };
        assert_eq!((u32::from_be_bytes(mtu), told.source), (1300, own_address(&scene, "office", family)));
        assert!(told.ip.len() <= if family == Family::V4 { 576 } else { 1280 });
        scene.arrived("office", "servers");
        scene.crosses("office", "servers", &datagram(family, 1300 - headers));
    }
    scene.peer("office").drain();
    let before = scene.drops();
    scene.stays_out("office", "servers", &may_fragment(datagram(Family::V4, 1400)));
    scene.nothing_arrived("servers", "office");
    scene.expect_drops(&before, &[("packet_too_big", 1)]);
}

#[test]
fn g15_the_gateway_s_own_addresses_are_reached_by_declared_services_only() {
    let config = Config { local: vec!["icmp/echo-request", "udp/7007"], ..Config::new("") };
    let Some(scene) = Scene::start(&config) else { return };
    let listen = |port: u16| {
        let socket = scene.lab.gateway.run(|| UdpSocket::bind(("::", port))).unwrap();
        socket.set_read_timeout(Some(bulkhead_tests::PATIENCE)).unwrap();
        socket
    };
    let (declared, undeclared) = (listen(7007), listen(7008));
    undeclared.set_nonblocking(true).unwrap();
    let before = scene.drops();
    for family in Family::BOTH {
        let path = scene.path("office", "servers", family);
        // The address of the port it comes in by, and that of the other port.
        for zone in ["office", "servers"] {
            let path = Path { destination: own_address(&scene, zone, family), ..path };
            scene.peer("office").send(&path.udp(4000, 7008, b"undeclared"));
            scene.peer("office").send(&syn(&path, 7007));
            scene.peer("office").send(&path.udp(4000, 7007, b"declared"));
            assert_eq!(declared.recv_from(&mut [0; 99]).unwrap().0, 8);
        }
    }
    // ICMPv6 echo was not declared.
    let path = scene.path("office", "servers", Family::V6);
    let path = Path { destination: own_address(&scene, "office", Family::V6), ..path };
    scene.peer("office").send(&path.echo_request(5, 1));
    scene.expect_drops(&before, &[("local_service_undeclared", 9)]);
    assert!(undeclared.recv_from(&mut [0; 99]).is_err(), "an undeclared service was reached");
}
