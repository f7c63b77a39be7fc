//! The same packets to nftables with the ruleset and to the policy that was made of it.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bulkhead::import::Language;
use bulkhead::lab::{RouteTarget, Zone};
use bulkhead::model::Model;
use bulkhead_dataplane::policy::{Circumstances, Policy, Query, reference};
use bulkhead_tests::frames::{Content, Packet, Path, flags, segment};
use bulkhead_tests::nft::{Kernel, is_missing};
use ipnet::IpNet;

use super::samples::{self, SOURCE_PORT, Sample, differs, imported, options};

/// How many questions are put to both for every sample, at least.
const QUESTIONS: usize = 4_000;
/// So many packets are on their way at once: fewer than a device's backlog holds.
const BATCH: usize = 200;

/// The same seed, the same packets (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// The zones as the laboratory makes them: the third one's own networks lie within the world.
fn zones(sample: &Sample) -> Vec<Zone> {
    let zone = |(index, name): (usize, &&str)| {
        let number = index + 1;
        Zone::new(name, &format!("10.0.{number}.0/24"), &format!("fd00:{number}::/64"))
    };
    sample.zones.iter().enumerate().map(zone).collect()
}

fn is_usable(address: IpAddr, zones: &[Zone]) -> bool {
    let near = |base: IpNet| base.contains(&address);
    let inside: Option<&Zone> =
        zones.iter().find(|zone| near(IpNet::from(zone.v4)) || near(IpNet::from(zone.v6)));
    match (address, inside) {
        // Not the network's own address, the gateway's or the broadcast address.
        (IpAddr::V4(v4), Some(_)) => !matches!(v4.octets()[3], 0 | 1 | 2 | 255),
        (IpAddr::V6(v6), Some(_)) => v6.segments()[7] > 2 || v6.segments()[4..7] != [0, 0, 0],
        // The world is far away; only what is routed there.
        (IpAddr::V4(v4), None) => {
            v4 > Ipv4Addr::new(128, 0, 0, 0) && v4 < Ipv4Addr::new(224, 0, 0, 0) && !v4.is_link_local()
        }
        (IpAddr::V6(v6), None) => v6.segments()[0] >> 13 == 1 || v6.segments()[0] == 0xfd00,
    }
}

/// Addresses at the edges, with the zone that each lies in.
fn addresses(model: &Model, zones: &[Zone]) -> Vec<(usize, IpAddr)> {
    let zone_of = |address: &IpAddr| {
        let is_in =
            |zone: &Zone| IpNet::from(zone.v4).contains(address) || IpNet::from(zone.v6).contains(address);
        zones.iter().position(is_in).unwrap_or(zones.len() - 1)
    };
    let mut found = samples::addresses(model);
    found.retain(|address| is_usable(*address, zones));
    found.into_iter().map(|address| (zone_of(&address), address)).collect()
}

/// A question, and the zones of its ends.
struct Case {
    query: Query,
    from: usize,
    to: usize,
}

fn cases(sample: &Sample, model: &Model, zones: &[Zone]) -> Vec<Case> {
    let addresses = addresses(model, zones);
    let ports = samples::ports(model, sample.text);
    let ingress = |zone: usize| {
        let index = model.ports.iter().position(|port| port.interface == sample.zones[zone]);
        bulkhead_dataplane::verdict::PortId(index.expect("the interface is a port") as u8)
    };
    // What no chain sees is said to be left out.
    let has = |is_v4: bool| {
        model.rules.segments.iter().flat_map(|s| &s.networks).any(|network| network.addr().is_ipv4() == is_v4)
    };
    let mut pairs = Vec::new();
    for &(from, source) in &addresses {
        for &(to, destination) in &addresses {
            if source != destination && source.is_ipv4() == destination.is_ipv4() && has(source.is_ipv4()) {
                pairs.push((from, source, to, destination));
            }
        }
    }
    let mut dice = Dice(sample.name.len() as u64);
    let each = (QUESTIONS / pairs.len()).max(5);
    let mut cases = Vec::new();
    for (from, source, to, destination) in pairs {
        let mut asked = HashSet::new();
        let echo = if source.is_ipv4() { 1 } else { 58 };
        asked.insert((echo, 0));
        for _ in 0..each {
            asked.insert(([6, 17][dice.below(2)], ports[dice.below(ports.len())]));
        }
        for (protocol, destination_port) in asked {
            let query = Query { ingress: ingress(from), source, destination, protocol, destination_port };
            cases.push(Case { query, from, to });
        }
    }
    cases
}

/// The packet of a question; its number is in it.
fn frame(case: &Case, number: u32, kernel: &Kernel, zones: &[Zone]) -> Vec<u8> {
    let peer = kernel.peer(&zones[case.from].name);
    let Query { source, destination, protocol, destination_port, .. } = case.query;
    let path = Path { from: peer.mac, to: peer.gateway_mac, source, destination, ttl: 64 };
    match protocol {
        6 => path.tcp((SOURCE_PORT, destination_port), segment(flags::SYN, number, 0), b""),
        17 => path.udp(SOURCE_PORT, destination_port, &number.to_be_bytes()),
        protocol => {
            let kind = if protocol == 1 { 8 } else { 128 };
            path.icmp(kind, 0, number.to_be_bytes(), &number.to_be_bytes())
        }
    }
}

/// The number in a packet that is one of ours. Translation may have changed its source.
fn number_of(packet: &Packet) -> Option<u32> {
    match &packet.content {
        Content::Tcp(_, _, flags::SYN, number, ..) => Some(*number),
        Content::Udp(_, _, payload) | Content::Icmp(8 | 128, 0, _, payload) => {
            Some(u32::from_be_bytes(payload[..].try_into().ok()?))
        }
        _ => None,
    }
}

fn kernel(sample: &Sample, zones: &[Zone], addresses: &[(usize, IpAddr)]) -> Kernel {
    let kernel = Kernel::with_ruleset(zones.to_vec(), sample.text);
    let gateway = &kernel.lab().gateway;
    for (zone, address) in addresses {
        let is_near =
            IpNet::from(zones[*zone].v4).contains(address) || IpNet::from(zones[*zone].v6).contains(address);
        if is_near {
            let name = &zones[*zone].name;
            gateway.add_neighbour(name, *address, kernel.peer(name).mac).expect("a neighbour is added");
        }
    }
    for (everywhere, router) in [("0.0.0.0/0", "10.0.3.77"), ("::/0", "fd00:3::4d")] {
        let router = RouteTarget::Gateway(router.parse().unwrap());
        gateway.add_route(everywhere.parse().unwrap(), router, 0).expect("a route is added");
    }
    kernel
}

/// Sends all packets; the numbers of those that arrive where they should.
fn arrived(cases: &[(u32, &Case)], kernel: &Kernel, zones: &[Zone]) -> HashSet<u32> {
    let mut arrived = HashSet::new();
    for batch in cases.chunks(BATCH) {
        for (number, case) in batch {
            kernel.peer(&zones[case.from].name).send(&frame(case, *number, kernel, zones));
        }
        for (index, zone) in zones.iter().enumerate() {
            while let Some(packet) = kernel.peer(&zone.name).next(Duration::from_millis(4)) {
                let Some(number) = number_of(&packet) else { continue };
                // The host's kernel may say something of its own.
                if packet.ttl == 63 && batch.iter().any(|(sent, case)| *sent == number && case.to == index) {
                    arrived.insert(number);
                }
            }
        }
    }
    arrived
}

fn compare(name: &str) {
    if is_missing() {
        return;
    }
    let sample = samples::NFT.iter().find(|sample| sample.name == name).expect("a sample of this name");
    let (imported, model) = imported(Language::Nft, sample.name, sample.text, &options(&sample.zones));
    assert_eq!(!differs(&imported), sample.is_exact, "{name}: {:#?}", imported.findings);
    let policy = model.compile().unwrap();
    let zones = zones(sample);
    let kernel = kernel(sample, &zones, &addresses(&model, &zones));
    let cases = cases(sample, &model, &zones);
    let numbered: Vec<(u32, &Case)> = cases.iter().enumerate().map(|(n, case)| (n as u32, case)).collect();
    let allowed = |case: &Case| judged(&model, &policy, &case.query);
    let mut through = arrived(&numbered, &kernel, &zones);
    // What should have arrived and did not may have been lost on the way: the truth is in the repetition.
    for _ in 0..3 {
        let missing: Vec<(u32, &Case)> = numbered
            .iter()
            .filter(|(number, case)| allowed(case) && !through.contains(number))
            .copied()
            .collect();
        if missing.is_empty() {
            break;
        }
        through.extend(arrived(&missing, &kernel, &zones));
    }
    let mut counts = [0usize; 2];
    let mut wrong = Vec::new();
    for (number, case) in &numbered {
        let (ours, theirs) = (allowed(case), through.contains(number));
        counts[usize::from(theirs)] += 1;
        if is_limited(&model, &policy, &case.query) {
            continue;
        }
        if ours != theirs && (sample.is_exact || ours) {
            let decision = policy.judge(&case.query);
            wrong.push(format!("{:?}: nftables {theirs}, we {ours} ({decision:?})", case.query));
        }
    }
    let shown = wrong[..wrong.len().min(10)].join("\n");
    assert!(
        wrong.is_empty(),
        "{name}: {} of {} differ:\n{shown}\n{}",
        wrong.len(),
        cases.len(),
        imported.toml
    );
    assert!(counts[0] > 100 && counts[1] > 100, "{name} decides too little: {counts:?}");
    println!("{name}: {} packets, {} of them through, as in the policy", cases.len(), counts[1]);
}

/// Whether the policy allows it; compiled policy and reference evaluator agree.
fn judged(model: &Model, policy: &Policy, query: &Query) -> bool {
    let decision = policy.judge(query);
    assert_eq!(decision, reference::judge(&model.rules, query, &Circumstances::NONE), "{query:?}");
    decision.allows()
}

/// Whether a limit counts, so that not every packet passes.
fn is_limited(model: &Model, policy: &Policy, query: &Query) -> bool {
    let rule = policy.judge(query).rule;
    rule.index().is_some_and(|index| model.rule_infos[index].limits.is_some())
}

macro_rules! compared {
    ($($function:ident: $name:literal,)*) => {
        $(#[test]
        fn $function() {
            compare($name);
        })*
        #[test]
        fn every_ruleset_is_compared() {
            let mut compared = vec![$($name),*];
            let mut all: Vec<&str> = samples::NFT.iter().map(|sample| sample.name).collect();
            compared.sort_unstable();
            all.sort_unstable();
            assert_eq!(compared, all);
        }
    };
}

compared! {
    a_home_router_does_what_it_did: "home-router",
    a_demilitarised_zone_does_what_it_did: "dmz",
    an_office_with_many_networks_does_what_it_did: "office-vlans",
    a_server_farm_with_sets_and_maps_does_what_it_did: "server-farm",
    block_lists_before_an_open_policy_do_what_they_did: "blocklist",
    a_table_for_each_family_does_what_it_did: "dual-tables",
    chains_one_after_the_other_do_what_they_did: "campus",
    nested_networks_do_what_they_did: "nested",
    what_cannot_be_expressed_never_allows_more: "unsure",
}
