//! Requirement G7 on the wire: many rules, random packets, and three who must agree about every one of them: this
//! gateway, the linear evaluator of its policy, and the kernel's nftables with the same rules. A hundred thousand rules
//! and a million packets are compared in memory, in `dataplane/tests/large_policy.rs`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::Command;

use bulkhead_dataplane::headers::protocol;
use bulkhead_dataplane::policy::{Circumstances, Query, reference};
use bulkhead_tests::config::{Config, SENTINEL};
use bulkhead_tests::frames::{Content, Family, Packet, Path, flags, segment};
use bulkhead_tests::scene::{Scene, office_and_servers};

const RULES: u32 = 10_000;
const PACKETS: u32 = 4_000;
/// Segments of either zone: each has eight addresses, from the sixty-fourth on.
const SEGMENTS: u32 = 16;
const FIRST: u32 = 64;
const ADDRESSES: u32 = 8 * SEGMENTS;

/// xorshift64 (Marsaglia 2003), from a fixed seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % u64::from(limit)) as u32
    }
}

/// A rule from one segment of the office to one of the servers.
struct Rule {
    from: u32,
    to: u32,
    is_tcp: bool,
    ports: (u32, u32),
    allows: bool,
}

fn rules(random: &mut Random) -> Vec<Rule> {
    let mut rule = |_| {
        let low = 1 + random.below(60_000);
        let wide = random.below(3) == 0;
        Rule {
            from: random.below(SEGMENTS),
            to: random.below(SEGMENTS),
            is_tcp: random.below(2) == 0,
            ports: (low, low + if wide { random.below(4_000) } else { 0 }),
            allows: random.below(3) > 0,
        }
    };
    (0..RULES).map(&mut rule).collect()
}

/// Address number `n` of a zone.
fn address(family: Family, zone: u32, n: u32) -> IpAddr {
    match family {
        Family::V4 => (0x0a00_0000 | zone << 16 | (FIRST + n)).to_be_bytes().into(),
        Family::V6 => (0xfd00 << 112 | u128::from(zone) << 96 | u128::from(FIRST + n)).to_be_bytes().into(),
    }
}

/// The network of a segment: eight addresses.
fn network(family: Family, zone: u32, segment: u32) -> String {
    let length = if family == Family::V4 { 29 } else { 125 };
    format!("{}/{length}", address(family, zone, 8 * segment))
}

fn config(rules: &[Rule]) -> Config {
    let mut segments = String::new();
    for (zone, name) in [(1, "office"), (2, "servers")] {
        for number in 0..SEGMENTS {
            let networks = Family::BOTH.map(|family| network(family, zone, number));
            let _ =
                writeln!(segments, "[segments.{name}-{number}]\nport = {name:?}\nnetworks = {networks:?}");
        }
    }
    let mut text = String::new();
    for (number, rule) in rules.iter().enumerate() {
        let Rule { from, to, ports: (low, high), .. } = rule;
        let protocol = if rule.is_tcp { "tcp" } else { "udp" };
        let action = if rule.allows { "allow" } else { "deny" };
        let _ = writeln!(
            text,
            "[[rule]]\nname = \"r{number}\"\nfrom = \"office-{from}\"\nto = \"servers-{to}\"\n\
             services = [\"{protocol}/{low}-{high}\"]\naction = \"{action}\""
        );
    }
    Config { segments: Some(segments), connections: 1 << 14, ..Config::new(text) }
}

/// The same for nftables: first what denies, then what allows, and then nothing.
fn nftables(rules: &[Rule]) -> String {
    let mut text =
        "table inet g7 {\n chain forward {\n  type filter hook forward priority 0; policy drop;\n".to_owned();
    let _ = writeln!(text, "  udp dport {SENTINEL} accept");
    for allows in [false, true] {
        for rule in rules.iter().filter(|rule| rule.allows == allows) {
            let Rule { from, to, ports: (low, high), .. } = rule;
            let protocol = if rule.is_tcp { "tcp" } else { "udp" };
            let verdict = if allows { "accept" } else { "drop" };
            for (family, ip) in [(Family::V4, "ip"), (Family::V6, "ip6")] {
                let (from, to) = (network(family, 1, *from), network(family, 2, *to));
                let _ = writeln!(
                    text,
                    "  {ip} saddr {from} {ip} daddr {to} {protocol} dport {low}-{high} {verdict}"
                );
            }
        }
    }
    text + " }\n}\n"
}

/// A packet with a number of its own, and the question that it is.
struct Probe {
    frame: Vec<u8>,
    query: Query,
}

/// Most are at or beside an edge of some rule's ports.
fn probe(scene: &Scene, rules: &[Rule], random: &mut Random, number: u32) -> Probe {
    let rule = &rules[random.below(RULES) as usize];
    let family = Family::BOTH[random.below(2) as usize];
    let (low, high) = rule.ports;
    let port = match random.below(8) {
        0 => low - 1,
        1 => high + 1,
        2 => low,
        3 => high,
        4 => 1 + random.below(64_000),
        _ => low + random.below(high - low + 1),
    };
    let port = port.max(1) as u16;
    let within = |random: &mut Random, segment: u32| match random.below(8) {
        0 => random.below(ADDRESSES),
        _ => 8 * segment + random.below(8),
    };
    let (source, destination) =
        (address(family, 1, within(random, rule.from)), address(family, 2, within(random, rule.to)));
    let path = Path { source, destination, ..scene.path("office", "servers", family) };
    // Each a connection of its own.
    let from_port = 1024 + number as u16;
    let frame = match rule.is_tcp {
        true => path.tcp((from_port, port), segment(flags::SYN, number, 0), b""),
        false => path.udp(from_port, port, &number.to_be_bytes()),
    };
    let protocol = if rule.is_tcp { protocol::TCP } else { protocol::UDP };
    let ingress = bulkhead_dataplane::verdict::PortId(0);
    Probe { frame, query: Query { ingress, source, destination, protocol, destination_port: port } }
}

/// The number of a packet that arrived.
fn number(packet: &Packet) -> Option<u32> {
    match &packet.content {
        Content::Udp(_, _, payload) => Some(u32::from_be_bytes(payload.as_slice().try_into().ok()?)),
        Content::Tcp(_, _, _, number, ..) => Some(*number),
        _ => None,
    }
}

/// Sends them all; the numbers of those that came out.
fn crossed(scene: &Scene, probes: &[Probe]) -> BTreeSet<u32> {
    let mut crossed = BTreeSet::new();
    // A few at a time, so that no queue on the way is too short.
    for batch in probes.chunks(32) {
        batch.iter().for_each(|probe| scene.peer("office").send(&probe.frame));
        crossed.extend(scene.arrived("office", "servers").iter().filter_map(number));
    }
    crossed
}

#[test]
fn g7_ten_thousand_rules_decide_four_thousand_packets_as_the_linear_scan_and_nftables_do() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let rules = rules(&mut random);
    let config = config(&rules);
    let Some(mut scene) = Scene::build(office_and_servers()) else { return };
    for n in 0..ADDRESSES {
        for family in Family::BOTH {
            let mac = scene.peer("servers").mac;
            scene.lab.gateway.add_neighbour("servers", address(family, 2, n), mac).unwrap();
        }
    }
    scene.run(&config);
    let model = bulkhead::model::parse("g7.toml", &scene.text(&config)).unwrap();
    let probes: Vec<_> = (0..PACKETS).map(|number| probe(&scene, &rules, &mut random, number)).collect();
    let linear: BTreeSet<u32> = probes
        .iter()
        .zip(0..)
        .filter(|(probe, _)| reference::judge(&model.rules, &probe.query, &Circumstances::NONE).allows())
        .map(|(_, number)| number)
        .collect();
    assert!((PACKETS as usize / 5..PACKETS as usize * 4 / 5).contains(&linear.len()), "{}", linear.len());
    let differs = |other: &BTreeSet<u32>| {
        let number = linear.symmetric_difference(other).next()?;
        Some(format!("packet {number}: {:?}", probes[*number as usize].query))
    };
    assert_eq!(differs(&crossed(&scene, &probes)), None, "the gateway and the linear scan");

    scene.check_ledger();
    let stopped = scene.cli(&["stop", "--unload"]);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert!(scene.take_gateway().ended().success());
    let file = scene.config().with_extension("nft");
    fs::write(&file, nftables(&rules)).unwrap();
    let loaded = scene.lab.gateway.run(|| Command::new("nft").arg("-f").arg(&file).output());
    let Ok(loaded) = loaded else {
        let _ = writeln!(std::io::stderr(), "SKIP g7 nftables: nft is not installed");
        return;
    };
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
    scene.lab.set_kernel_forwarding(true).unwrap();
    assert_eq!(differs(&crossed(&scene, &probes)), None, "nftables and the linear scan");
}
