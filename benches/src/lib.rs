//! Benches live in `benches/`; this library holds what they share: rule sets and queries of any size, the same in
//! every run, and a gateway in memory with the packets of as many connections.

pub mod allocations;
pub mod clock;
pub mod gateway;
pub mod traffic;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_dataplane::headers::protocol;
use bulkhead_dataplane::policy::{Action, Query, Rule, RuleSet, Segment, Service};
use bulkhead_dataplane::verdict::{PortId, SegmentId};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Ports of the gateway in every generated rule set.
pub const PORTS: u8 = 4;

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast, and the same numbers in every run.
pub struct Random(u64);

impl Random {
    /// A sequence of its own for every seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(end)) >> 32) as u32
    }
}

/// A rule set of this many rules, as an organisation of that size might have it: the square root of as many
/// segments (at least four), each with an IPv4 /24 and an IPv6 /64; every eighth also has a /28 inside its
/// predecessor's. Rules have one or two segments on each side and up to three common services or a range of ports;
/// 5 % deny, 5 % reject. Segment *n* lies behind port *n* mod [`PORTS`].
pub fn rule_set(rules: usize) -> RuleSet {
    let mut random = Random::new(rules as u64);
    let count = (rules as f64).sqrt().ceil().max(4.0) as u32;
    let segments = (0..count).map(segment).collect();
    let rules = (0..rules).map(|_| rule(&mut random, count)).collect();
    RuleSet { segments, rules, ..RuleSet::default() }
}

fn network_v4(id: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(10 << 24 | id << 8)
}

fn network_v6(id: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(id) << 64)
}

fn segment(id: u32) -> Segment {
    let v4 = |address, len| IpNet::V4(Ipv4Net::new(address, len).expect("at most 32"));
    let mut networks =
        vec![v4(network_v4(id), 24), IpNet::V6(Ipv6Net::new(network_v6(id), 64).expect("at most 128"))];
    if id % 8 == 7 {
        let inside = network_v4(id - 1).to_bits() + 0xf0;
        networks.push(v4(Ipv4Addr::from_bits(inside), 28));
    }
    Segment { ports: vec![PortId((id % u32::from(PORTS)) as u8)], networks, ..Segment::default() }
}

fn rule(random: &mut Random, segments: u32) -> Rule {
    let action = match random.below(20) {
        0 => Action::Deny,
        1 => Action::Reject,
        _ => Action::Allow,
    };
    let from = side(random, segments);
    let to = side(random, segments);
    let services = (0..=random.below(3)).map(|_| service(random)).collect();
    Rule { from, to, services, action, ..Rule::default() }
}

fn side(random: &mut Random, segments: u32) -> Vec<SegmentId> {
    (0..=random.below(2)).map(|_| SegmentId(random.below(segments))).collect()
}

fn service(random: &mut Random) -> Service {
    const TCP: [u16; 12] = [22, 25, 80, 389, 443, 445, 636, 3306, 5432, 6379, 8080, 9200];
    const UDP: [u16; 4] = [53, 123, 161, 514];
    match random.below(20) {
        0 => Service::IcmpEcho,
        1 => Service::Icmpv6Echo,
        2..=4 => {
            let port = UDP[random.below(UDP.len() as u32) as usize];
            Service::Udp(port, port)
        }
        5 | 6 => {
            let low = 1024 + random.below(60_000) as u16;
            Service::Tcp(low, low + random.below(1000) as u16)
        }
        _ => {
            let port = TCP[random.below(TCP.len() as u32) as usize];
            Service::Tcp(port, port)
        }
    }
}

/// Queries to a [`rule_set`], half of each family, from the right port and between the segments of a random rule;
/// three quarters ask for one of the rule's services, the rest for any TCP port.
pub fn queries(rules: &RuleSet, count: usize) -> Vec<Query> {
    let mut random = Random::new(count as u64 ^ 0x51);
    (0..count).map(|index| query(&mut random, rules, index % 2 == 0)).collect()
}

fn query(random: &mut Random, rules: &RuleSet, v4: bool) -> Query {
    let rule = &rules.rules[random.below(rules.rules.len() as u32) as usize];
    let pick = |random: &mut Random, side: &[SegmentId]| side[random.below(side.len() as u32) as usize].0;
    let (from, to) = (pick(random, &rule.from), pick(random, &rule.to));
    // Hosts 1 to 199: not in the /28 that may belong to the next segment.
    let host = |random: &mut Random, segment: u32| -> IpAddr {
        let host = 1 + random.below(199);
        if v4 {
            Ipv4Addr::from_bits(network_v4(segment).to_bits() + host).into()
        } else {
            Ipv6Addr::from_bits(network_v6(segment).to_bits() + u128::from(host)).into()
        }
    };
    let (source, destination) = (host(random, from), host(random, to));
    let service = rule.services[random.below(rule.services.len() as u32) as usize];
    let (protocol, destination_port) = match service {
        _ if random.below(4) == 0 => (protocol::TCP, random.below(1 << 16) as u16),
        Service::Tcp(low, high) => (protocol::TCP, low + random.below(u32::from(high - low) + 1) as u16),
        Service::Udp(low, high) => (protocol::UDP, low + random.below(u32::from(high - low) + 1) as u16),
        Service::Protocol(number) => (number, 0),
        _ if v4 => (protocol::ICMP, 0),
        _ => (protocol::ICMPV6, 0),
    };
    Query {
        ingress: PortId((from % u32::from(PORTS)) as u8),
        source,
        destination,
        protocol,
        destination_port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_dataplane::policy::{Circumstances, compile, reference};
    use bulkhead_dataplane::verdict::Reason;

    #[test]
    fn generated_rule_sets_compile_and_answer_like_the_reference_with_every_kind_of_answer() {
        for rules in [10, 1000, 10_000] {
            let rules = rule_set(rules);
            let policy = compile(&rules).unwrap();
            let mut refusals = Vec::new();
            for query in queries(&rules, 500) {
                let decision = policy.judge(&query);
                assert_eq!(decision, reference::judge(&rules, &query, &Circumstances::NONE), "{query:?}");
                refusals.push(decision.refusal);
            }
            let allowed = refusals.iter().filter(|refusal| refusal.is_none()).count();
            assert!((100..450).contains(&allowed), "{allowed} of 500 allowed by {} rules", rules.rules.len());
            assert!(refusals.contains(&Some(Reason::NoRule)));
            assert!(!refusals.contains(&Some(Reason::SpoofedSource)));
            assert!(!refusals.contains(&Some(Reason::NoDestinationSegment)));
        }
    }

    #[test]
    fn every_run_generates_the_same() {
        let (rules, again) = (rule_set(300), rule_set(300));
        assert_eq!(rules, again);
        assert_eq!(queries(&rules, 50), queries(&again, 50));
    }
}
