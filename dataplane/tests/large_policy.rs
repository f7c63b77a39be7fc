//! Requirement G7, in memory: a hundred thousand rules, compiled, against the linear scan. On the wire, and with
//! nftables as the third: `tests/tests/conformance/large.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_dataplane::headers::protocol;
use bulkhead_dataplane::policy::{
    Action, Circumstances, Query, Rule, RuleSet, Segment, Service, compile, reference,
};
use bulkhead_dataplane::verdict::{PortId, RuleId, SegmentId};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const RULES: u32 = 100_000;
const SEGMENTS: u32 = 250;
const PORTS: u32 = 4;
/// A release build asks for all million packets; a debug build, forty times slower, for a fiftieth.
const PACKETS: u32 = if cfg!(debug_assertions) { 20_000 } else { 1_000_000 };
/// Of these so many are put to every single rule; the rest to every rule that names the source's segment, which are the
/// only ones that can match.
const SCANNED: u32 = if cfg!(debug_assertions) { 200 } else { 10_000 };

/// xorshift64 (Marsaglia 2003), from a fixed seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u32) -> u32 {
        (self.next() % u64::from(limit)) as u32
    }

    /// True once in `n`.
    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u32) as usize]
    }
}

/// Segment `id` has 10.(id/250).(id%250).0/24 and the like of IPv6; every tenth also a host in the middle of its left
/// neighbour's network, so that the longest match counts.
fn segment(id: u32) -> Segment {
    let v4 = |id: u32, host: u32, len| Ipv4Net::new(Ipv4Addr::from_bits(0x0a00_0000 | id << 8 | host), len);
    let v6 = |id: u32, host: u128, len| {
        Ipv6Net::new(Ipv6Addr::from_bits(0xfd << 120 | u128::from(id) << 64 | host), len)
    };
    let mut networks: Vec<IpNet> = vec![v4(id, 0, 24).unwrap().into(), v6(id, 0, 64).unwrap().into()];
    if id % 10 == 1 {
        networks.push(v4(id - 1, 77, 32).unwrap().into());
        networks.push(v6(id - 1, 77, 128).unwrap().into());
    }
    Segment { ports: vec![PortId((id % PORTS) as u8)], networks, ..Segment::default() }
}

fn service(random: &mut Random) -> Service {
    const PORTS: [u16; 12] = [22, 25, 53, 80, 123, 389, 443, 445, 636, 3306, 5432, 8080];
    let range = |random: &mut Random| {
        let low = random.next() as u16;
        (low, low.saturating_add(random.below(3000) as u16))
    };
    match random.below(40) {
        0 => Service::IcmpEcho,
        1 => Service::Icmpv6Echo,
        2 => Service::Protocol(random.pick(&[protocol::GRE, protocol::ESP, protocol::SCTP, 99])),
        3 if random.one_in(20) => Service::Any,
        3..=9 => {
            let (low, high) = range(random);
            Service::Udp(low, high)
        }
        10..=16 => {
            let (low, high) = range(random);
            Service::Tcp(low, high)
        }
        17..=24 => {
            let port = random.pick(&PORTS);
            Service::Udp(port, port)
        }
        _ => {
            let port = random.pick(&PORTS);
            Service::Tcp(port, port)
        }
    }
}

fn rules(random: &mut Random) -> RuleSet {
    let side = |random: &mut Random| {
        let count = if random.one_in(5) { 1 + random.below(4) } else { 1 };
        let mut list: Vec<_> = (0..count).map(|_| SegmentId(random.below(SEGMENTS))).collect();
        list.sort_unstable();
        list.dedup();
        list
    };
    let everywhere: Vec<_> = (0..SEGMENTS).map(SegmentId).collect();
    let mut rule = |_| {
        let (mut from, mut to) = (side(random), side(random));
        // A few rules from or to everywhere, as every real set has.
        if random.one_in(2000) {
            from.clone_from(&everywhere);
        }
        if random.one_in(2000) {
            to.clone_from(&everywhere);
        }
        let services = (0..1 + random.below(3)).map(|_| service(random)).collect();
        let action =
            random.pick(&[Action::Allow, Action::Allow, Action::Allow, Action::Deny, Action::Reject]);
        Rule { from, to, services, action, ..Rule::default() }
    };
    let rules = (0..RULES).map(&mut rule).collect();
    RuleSet { segments: (0..SEGMENTS).map(segment).collect(), rules, ..RuleSet::default() }
}

/// A packet that some rule is about: of its segments and at, or right beside, an edge of one of its services; and now
/// and then one that differs in something.
fn packet(rules: &RuleSet, random: &mut Random) -> Query {
    let rule = &rules.rules[random.below(RULES) as usize];
    let (mut from, mut to) = (random.pick(&rule.from).0, random.pick(&rule.to).0);
    if random.one_in(10) {
        from = random.below(SEGMENTS);
    }
    if random.one_in(10) {
        to = random.below(SEGMENTS + 20);
    }
    let (protocol, port) = match random.pick(&rule.services) {
        _ if random.one_in(10) => (random.pick(&[protocol::TCP, protocol::UDP, 47]), random.next() as u16),
        Service::Tcp(low, high) => (protocol::TCP, edge(random, low, high)),
        Service::Udp(low, high) => (protocol::UDP, edge(random, low, high)),
        Service::IcmpEcho => (protocol::ICMP, 0),
        Service::Icmpv6Echo => (protocol::ICMPV6, 0),
        Service::Protocol(number) => (number, 0),
        Service::Any => (random.pick(&[protocol::TCP, protocol::UDP, protocol::GRE]), random.next() as u16),
    };
    let host = if random.one_in(4) { 77 } else { 1 + random.below(254) };
    let is_v4 = match protocol {
        protocol::ICMP => true,
        protocol::ICMPV6 => false,
        _ => random.one_in(2),
    };
    let address = |segment: u32| -> IpAddr {
        match is_v4 {
            true => Ipv4Addr::from_bits(0x0a00_0000 | segment << 8 | host).into(),
            false => Ipv6Addr::from_bits(0xfd << 120 | u128::from(segment) << 64 | u128::from(host)).into(),
        }
    };
    let ingress = if random.one_in(50) { from + 1 } else { from };
    Query {
        ingress: PortId((ingress % PORTS) as u8),
        source: address(from),
        destination: address(to),
        protocol,
        destination_port: port,
    }
}

fn edge(random: &mut Random, low: u16, high: u16) -> u16 {
    match random.below(6) {
        0 => low,
        1 => high,
        2 => low.wrapping_sub(1),
        3 => high.wrapping_add(1),
        _ => low + (random.next() % (u64::from(high - low) + 1)) as u16,
    }
}

#[test]
fn g7_a_hundred_thousand_rules_answer_a_million_packets_a_fiftieth_in_debug_as_the_linear_scan_does() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let rules = rules(&mut random);
    let policy = compile(&rules).unwrap();
    let mut rules_from: Vec<Vec<RuleId>> = vec![Vec::new(); SEGMENTS as usize];
    for (rule, id) in rules.rules.iter().zip(0..) {
        rule.from.iter().for_each(|segment| rules_from[segment.0 as usize].push(RuleId(id)));
    }
    let mut answers = std::collections::BTreeMap::new();
    for number in 0..PACKETS {
        let query = packet(&rules, &mut random);
        let compiled = policy.judge(&query);
        let among = reference::segment_of(&rules, query.source)
            .map_or(&[][..], |segment| &rules_from[segment.0 as usize]);
        let scanned = reference::judge_among(&rules, among.iter().copied(), &query, &Circumstances::NONE);
        assert_eq!(compiled, scanned, "packet {number}: {query:?}");
        if number < SCANNED {
            assert_eq!(
                compiled,
                reference::judge(&rules, &query, &Circumstances::NONE),
                "packet {number}: {query:?}"
            );
        }
        *answers.entry(compiled.refusal).or_insert(0) += 1;
    }
    // Every kind of answer was among them, and not just here and there.
    assert!(answers.len() == 7 && answers.values().all(|count| *count > PACKETS / 1000), "{answers:?}");
}
