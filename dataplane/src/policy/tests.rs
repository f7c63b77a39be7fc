//! The compiled policy against its semantics and against the reference evaluator.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::verdict::RuleId;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn segment(ports: &[u8], networks: &[&str]) -> Segment {
    Segment {
        ports: ports.iter().copied().map(PortId).collect(),
        networks: networks.iter().map(|n| net(n)).collect(),
    }
}

fn rule(from: u32, to: u32, services: &[Service], action: Action) -> Rule {
    Rule { from: vec![SegmentId(from)], to: vec![SegmentId(to)], services: services.to_vec(), action }
}

fn tcp(ingress: u8, source: &str, destination: &str, port: u16) -> Query {
    Query {
        ingress: PortId(ingress),
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: protocol::TCP,
        destination_port: port,
    }
}

/// Web behind port 0, db behind port 1, both of both families.
fn two_segments(rules: Vec<Rule>) -> RuleSet {
    RuleSet {
        segments: vec![
            segment(&[0], &["10.1.0.0/24", "fd00:1::/64"]),
            segment(&[1], &["10.2.0.0/24", "fd00:2::/64"]),
        ],
        rules,
    }
}

/// The answer, after checking that compiled policy and reference agree.
fn judged(rules: &RuleSet, query: Query) -> Decision {
    let decision = compile(rules).unwrap().judge(&query);
    assert_eq!(decision, reference::judge(rules, &query), "compiled and reference differ on {query:?}");
    decision
}

fn allowed_by(rule: u32) -> Decision {
    Decision::by(RuleId(rule), Action::Allow)
}

const WEB: &str = "10.1.0.5";
const DB: &str = "10.2.0.5";
const WEB6: &str = "fd00:1::5";
const DB6: &str = "fd00:2::5";

// ---- properties ----

/// Addresses at which networks of the pool begin or end, one beside them, and some in the middle.
fn addresses(networks: &[IpNet]) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = vec!["203.0.113.7".parse().unwrap(), "2001:db8:ffff::7".parse().unwrap()];
    for network in networks {
        match network {
            IpNet::V4(n) => {
                let (low, high) = (n.network().to_bits(), n.broadcast().to_bits());
                let near = [low, high, low.wrapping_sub(1), high.wrapping_add(1), low + (high - low) / 2];
                all.extend(near.map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits))));
            }
            IpNet::V6(n) => {
                let (low, high) = (n.network().to_bits(), n.broadcast().to_bits());
                let near = [low, high, low.wrapping_sub(1), high.wrapping_add(1), low + (high - low) / 2];
                all.extend(near.map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits))));
            }
        }
    }
    all
}

/// Few high bits and any length, so that networks nest, meet and overlap.
fn network() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u32>(), 0..=32u8).prop_map(|(bits, len)| {
        let address = Ipv4Addr::from_bits(0x0a00_0000 | bits & 0x0003_0707);
        IpNet::V4(Ipv4Net::new(address, len).unwrap())
    });
    let v6 = (any::<u128>(), 0..=128u8).prop_map(|(bits, len)| {
        let address = Ipv6Addr::from_bits(0xfd << 120 | bits & (0x3 << 64 | 0x0707));
        IpNet::V6(Ipv6Net::new(address, len).unwrap())
    });
    prop_oneof![v4, v6]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![select(vec![0, 1, 22, 79, 80, 81, 443, 65534, 65535]), any::<u16>()]
}

fn service() -> impl Strategy<Value = Service> {
    let range = || (port(), port()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    prop_oneof![
        1 => Just(Service::Any),
        4 => range().prop_map(|(low, high)| Service::Tcp(low, high)),
        4 => port().prop_map(|p| Service::Tcp(p, p)),
        3 => range().prop_map(|(low, high)| Service::Udp(low, high)),
        1 => Just(Service::IcmpEcho),
        1 => Just(Service::Icmpv6Echo),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![3 => Just(Action::Allow), 1 => Just(Action::Reject), 1 => Just(Action::Deny)]
}

/// One to eight segments behind ports 0 to 2 and up to forty rules among them.
fn rule_set() -> impl Strategy<Value = RuleSet> {
    let segment = (prop::collection::vec(0..3u8, 0..3), prop::collection::vec(network(), 0..4));
    prop::collection::vec(segment, 1..9).prop_flat_map(|segments| {
        let count = segments.len() as u32;
        let mut seen = std::collections::HashSet::new();
        let segments: Vec<Segment> = segments
            .into_iter()
            .map(|(ports, mut networks)| {
                networks.retain(|network: &IpNet| seen.insert(network.trunc()));
                Segment { ports: ports.into_iter().map(PortId).collect(), networks }
            })
            .collect();
        let side = move || prop::collection::vec((0..count).prop_map(SegmentId), 0..4);
        let rule = (side(), side(), prop::collection::vec(service(), 0..4), action())
            .prop_map(|(from, to, services, action)| Rule { from, to, services, action });
        prop::collection::vec(rule, 0..40)
            .prop_map(move |rules| RuleSet { segments: segments.clone(), rules })
    })
}

/// Which of the interesting addresses and ports to ask for.
type Pick = (u8, Index, Index, u8, Option<Index>, u16);

fn picks() -> impl Strategy<Value = Vec<Pick>> {
    let protocols =
        select(vec![protocol::TCP, protocol::TCP, protocol::UDP, protocol::ICMP, protocol::ICMPV6, 47]);
    let pick = (
        0..4u8,
        any::<Index>(),
        any::<Index>(),
        protocols,
        prop::option::weighted(0.8, any::<Index>()),
        port(),
    );
    prop::collection::vec(pick, 1..100)
}

fn queries(rules: &RuleSet, picks: &[Pick]) -> Vec<Query> {
    let networks: Vec<IpNet> = rules.segments.iter().flat_map(|s| s.networks.clone()).collect();
    let addresses = addresses(&networks);
    let mut ports = vec![0, u16::MAX];
    for service in rules.rules.iter().flat_map(|r| &r.services) {
        if let Service::Tcp(low, high) | Service::Udp(low, high) = *service {
            ports.extend([low.saturating_sub(1), low, high, high.saturating_add(1)]);
        }
    }
    let query = |&(ingress, source, destination, protocol, near, port): &Pick| Query {
        ingress: PortId(ingress),
        source: *source.get(&addresses),
        destination: *destination.get(&addresses),
        protocol,
        destination_port: near.map_or(port, |index| *index.get(&ports)),
    };
    picks.iter().map(query).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn compiled_and_reference_agree_on_everything(rules in rule_set(), picks in picks()) {
        let policy = compile(&rules).unwrap();
        prop_assert_eq!(policy.rule_count(), rules.rules.len());
        for query in queries(&rules, &picks) {
            prop_assert_eq!(policy.judge(&query), reference::judge(&rules, &query), "{:?}", query);
            prop_assert_eq!(
                policy.source_segment(query.ingress, query.source),
                reference::source_segment(&rules, query.ingress, query.source)
            );
            prop_assert_eq!(
                policy.destination_segment(query.destination),
                reference::segment_of(&rules, query.destination)
            );
        }
    }
}

#[test]
fn p1_without_a_policy_and_with_an_empty_one_nothing_crosses() {
    let query = tcp(0, WEB, DB, 443);
    assert_eq!(Policy::default().judge(&query), Decision::refused(Reason::SpoofedSource));
    assert_eq!(judged(&RuleSet::default(), query), Decision::refused(Reason::SpoofedSource));
    assert_eq!(judged(&two_segments(vec![]), query), Decision::refused(Reason::NoRule));
    assert_eq!(judged(&two_segments(vec![]), tcp(1, DB, WEB, 443)), Decision::refused(Reason::NoRule));
}

#[test]
fn g2_an_allowed_port_passes_and_its_neighbours_do_not() {
    let rules = two_segments(vec![rule(0, 1, &[Service::Tcp(80, 80)], Action::Allow)]);
    assert_eq!(judged(&rules, tcp(0, WEB, DB, 80)), allowed_by(0));
    for port in [79, 81] {
        assert_eq!(judged(&rules, tcp(0, WEB, DB, port)), Decision::refused(Reason::NoRule));
    }
    // Neither the other way round nor by another protocol.
    assert_eq!(judged(&rules, tcp(1, DB, WEB, 80)), Decision::refused(Reason::NoRule));
    let udp = Query { protocol: protocol::UDP, ..tcp(0, WEB6, DB6, 80) };
    assert_eq!(judged(&rules, udp), Decision::refused(Reason::NoRule));
}
