//! The compiled policy against its semantics and against the reference evaluator.

mod changes;
mod conditional;
mod restraints;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::headers::protocol;
use crate::verdict::RuleId;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn segment(ports: &[u8], networks: &[&str]) -> Segment {
    Segment {
        ports: ports.iter().copied().map(PortId).collect(),
        networks: networks.iter().map(|n| net(n)).collect(),
        ..Segment::default()
    }
}

fn rule(from: u32, to: u32, services: &[Service], action: Action) -> Rule {
    Rule {
        from: vec![SegmentId(from)],
        to: vec![SegmentId(to)],
        services: services.to_vec(),
        action,
        ..Rule::default()
    }
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
        ..RuleSet::default()
    }
}

/// The answer, after checking that compiled policy and reference agree.
fn judged(rules: &RuleSet, query: Query) -> Decision {
    let decision = compile(rules).unwrap().judge(&query);
    assert_eq!(
        decision,
        reference::judge(rules, &query, &Circumstances::NONE),
        "compiled and reference differ on {query:?}"
    );
    decision
}

fn allowed_by(rule: u32) -> Decision {
    Decision::by(RuleId(rule), Action::Allow)
}

const WEB: &str = "10.1.0.5";
const DB: &str = "10.2.0.5";
const WEB6: &str = "fd00:1::5";
const DB6: &str = "fd00:2::5";

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
        2 => opaque().prop_map(Service::Protocol),
    ]
}

/// Protocol numbers of tunnels, around them, and some that no rule can open.
fn opaque() -> impl Strategy<Value = u8> {
    select(vec![
        protocol::GRE,
        protocol::GRE,
        protocol::ESP,
        protocol::IPIP,
        protocol::IPV6,
        46,
        254,
        6,
        0,
        60,
        255,
    ])
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
                Segment { ports: ports.into_iter().map(PortId).collect(), networks, ..Segment::default() }
            })
            .collect();
        let side = move || prop::collection::vec((0..count).prop_map(SegmentId), 0..4);
        let rule = (side(), side(), prop::collection::vec(service(), 0..4), action())
            .prop_map(|(from, to, services, action)| Rule { from, to, services, action, ..Rule::default() });
        prop::collection::vec(rule, 0..40).prop_map(move |rules| RuleSet {
            segments: segments.clone(),
            rules,
            ..RuleSet::default()
        })
    })
}

/// Which of the interesting addresses and ports to ask for.
type Pick = (u8, Index, Index, u8, Option<Index>, u16);

fn picks() -> impl Strategy<Value = Vec<Pick>> {
    let protocols =
        select(vec![protocol::TCP, protocol::TCP, protocol::UDP, protocol::ICMP, protocol::ICMPV6]);
    let protocols = prop_oneof![3 => protocols, 1 => opaque()];
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
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn compiled_and_reference_agree_on_everything(rules in rule_set(), picks in picks()) {
        let policy = compile(&rules).unwrap();
        prop_assert_eq!(policy.rule_count(), rules.rules.len());
        for query in queries(&rules, &picks) {
            prop_assert_eq!(policy.judge(&query), reference::judge(&rules, &query, &Circumstances::NONE), "{:?}", query);
            prop_assert_eq!(
                policy.source_segment(query.ingress, query.source),
                reference::source_segment(&rules, query.ingress, query.source)
            );
            let sources = rules.sources(query.ingress);
            let longest = sources
                .iter()
                .filter(|(network, _)| network.contains(&query.source))
                .max_by_key(|(network, _)| network.prefix_len());
            prop_assert_eq!(
                longest.is_some_and(|(_, is_here)| *is_here),
                policy.source_segment(query.ingress, query.source).is_some()
            );
            prop_assert_eq!(
                policy.destination_segment(query.destination),
                reference::segment_of(&rules, query.destination)
            );
        }
    }

    #[test]
    fn an_explanation_decides_like_the_reference_and_its_near_misses_fail_on_one_clause(
        rules in rule_set(),
        picks in picks(),
    ) {
        for query in queries(&rules, &picks) {
            let explanation = explain(&rules, &query, &Circumstances::NONE);
            prop_assert_eq!(explanation.decision, reference::judge(&rules, &query, &Circumstances::NONE));
            prop_assert!(explanation.near_misses.len() <= explain::MAX_NEAR_MISSES);
            for (id, clause) in explanation.near_misses {
                let rule = &rules.rules[id.0 as usize];
                let from = explanation.source_segment.is_some_and(|s| rule.from.contains(&s));
                let to = explanation.destination_segment.is_some_and(|s| rule.to.contains(&s));
                let service = reference::service_matches(rule, &query);
                prop_assert_eq!(
                    (from, to, service),
                    (clause != Clause::From, clause != Clause::To, clause != Clause::Service)
                );
            }
        }
    }

    #[test]
    fn g3_shuffling_the_rules_never_changes_a_verdict(
        (rules, order) in rule_set().prop_flat_map(|rules| {
            let order: Vec<usize> = (0..rules.rules.len()).collect();
            (Just(rules), Just(order).prop_shuffle())
        }),
        picks in picks(),
    ) {
        let shuffled = RuleSet {
            segments: rules.segments.clone(),
            rules: order.iter().map(|rule| rules.rules[*rule].clone()).collect(), ..RuleSet::default() };
        let (policy, shuffled_policy) = (compile(&rules).unwrap(), compile(&shuffled).unwrap());
        for query in queries(&rules, &picks) {
            let (before, after) = (policy.judge(&query), shuffled_policy.judge(&query));
            prop_assert_eq!(before.refusal, after.refusal, "{:?}", query);
            // With the ids carried along it is even the same rule: of all that decide alike, the one whose
            // original id is lowest.
            let matching = shuffled.rules.iter().zip(&order).filter(|(rule, _)| {
                let source = reference::source_segment(&shuffled, query.ingress, query.source);
                let destination = reference::destination_segment(&shuffled, &query);
                source.is_some_and(|s| rule.from.contains(&s))
                    && destination.is_some_and(|d| rule.to.contains(&d))
                    && reference::service_matches(rule, &query)
            });
            let strongest = matching.clone().map(|(rule, _)| rule.action).max();
            let original = matching.filter(|(rule, _)| Some(rule.action) == strongest).map(|(_, id)| *id).min();
            prop_assert_eq!(before.rule.index(), original, "{:?}", query);
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

#[test]
fn g3_deny_beats_reject_beats_allow_whatever_the_order() {
    let ssh = [Service::Tcp(22, 22)];
    let actions = [Action::Allow, Action::Reject, Action::Deny];
    for first in actions {
        for second in actions {
            let rules = two_segments(vec![rule(0, 1, &ssh, first), rule(0, 1, &ssh, second)]);
            let expected = Decision::by(RuleId(u32::from(second > first)), first.max(second));
            assert_eq!(judged(&rules, tcp(0, WEB, DB, 22)), expected, "{first:?} then {second:?}");
        }
    }
}

#[test]
fn the_lowest_rule_of_the_deciding_action_is_named() {
    let rules = two_segments(vec![
        rule(0, 1, &[Service::Any], Action::Allow),
        rule(0, 1, &[Service::Tcp(1, 1000)], Action::Allow),
        rule(0, 1, &[Service::Tcp(20, 30)], Action::Deny),
        rule(0, 1, &[Service::Tcp(22, 22)], Action::Deny),
    ]);
    assert_eq!(judged(&rules, tcp(0, WEB, DB, 22)), Decision::by(RuleId(2), Action::Deny));
    assert_eq!(judged(&rules, tcp(0, WEB, DB, 31)), allowed_by(0));
}

#[test]
fn g4_a_segment_of_one_family_never_lets_the_other_in() {
    let rules = RuleSet {
        segments: vec![segment(&[0], &["0.0.0.0/0"]), segment(&[1], &["10.2.0.0/24"])],
        rules: vec![rule(0, 1, &[Service::Any], Action::Allow), rule(0, 0, &[Service::Any], Action::Allow)],
        ..RuleSet::default()
    };
    assert_eq!(judged(&rules, tcp(0, WEB, DB, 80)), allowed_by(0));
    assert_eq!(judged(&rules, tcp(0, WEB6, DB6, 80)), Decision::refused(Reason::SpoofedSource));
    // Not even an IPv4 address written in IPv6, nor a pair that no packet can have.
    let mapped = tcp(0, "::ffff:10.1.0.5", "::ffff:10.2.0.5", 80);
    assert_eq!(judged(&rules, mapped), Decision::refused(Reason::SpoofedSource));
    let mixed = tcp(0, WEB, DB6, 80);
    assert_eq!(judged(&two_segments(rules.rules), mixed), Decision::refused(Reason::NoDestinationSegment));
}

#[test]
fn g4_icmp_of_one_family_never_allows_that_of_the_other() {
    let echo = |source: &str, destination: &str, protocol: u8| Query {
        protocol,
        destination_port: 0,
        ..tcp(0, source, destination, 0)
    };
    let no_rule = Decision::refused(Reason::NoRule);
    let v4 = two_segments(vec![rule(0, 1, &[Service::IcmpEcho], Action::Allow)]);
    assert_eq!(judged(&v4, echo(WEB, DB, protocol::ICMP)), allowed_by(0));
    assert_eq!(judged(&v4, echo(WEB6, DB6, protocol::ICMPV6)), no_rule);
    let v6 = two_segments(vec![rule(0, 1, &[Service::Icmpv6Echo], Action::Allow)]);
    assert_eq!(judged(&v6, echo(WEB6, DB6, protocol::ICMPV6)), allowed_by(0));
    assert_eq!(judged(&v6, echo(WEB, DB, protocol::ICMP)), no_rule);
    // Any allows each in its own family only, and no protocol that the gateway does not forward.
    let any = two_segments(vec![rule(0, 1, &[Service::Any], Action::Allow)]);
    assert_eq!(judged(&any, echo(WEB, DB, protocol::ICMP)), allowed_by(0));
    assert_eq!(judged(&any, echo(WEB, DB, protocol::ICMPV6)), no_rule);
    assert_eq!(judged(&any, echo(WEB6, DB6, protocol::ICMP)), no_rule);
    assert_eq!(judged(&any, echo(WEB, DB, 47)), Decision::refused(Reason::ProtocolUnsupported));
}

#[test]
fn h20_an_opaque_protocol_is_allowed_by_name_only_and_denied_by_any() {
    let unsupported = Decision::refused(Reason::ProtocolUnsupported);
    let ask = |protocol| Query { protocol, destination_port: 0, ..tcp(0, WEB, DB, 0) };
    let named = rule(0, 1, &[Service::Protocol(protocol::GRE), Service::Protocol(6)], Action::Allow);
    let any = |action| rule(0, 1, &[Service::Any], action);
    let rules = two_segments(vec![any(Action::Allow), named.clone()]);
    assert_eq!(judged(&rules, ask(protocol::GRE)), allowed_by(1));
    for other in [46, 48, protocol::ESP, 254] {
        assert_eq!(judged(&rules, ask(other)), unsupported);
    }
    // What has services of its own is not opened by its number, nor is what never crosses.
    let rules = two_segments(vec![rule(0, 1, &[Service::Protocol(6), Service::Protocol(60)], Action::Allow)]);
    assert_eq!(judged(&rules, ask(protocol::TCP)), Decision::refused(Reason::NoRule));
    assert_eq!(judged(&rules, ask(60)), unsupported);
    let rules = two_segments(vec![any(Action::Deny), named]);
    for number in [protocol::GRE, protocol::ESP, 0, 255] {
        assert_eq!(judged(&rules, ask(number)), Decision::by(RuleId(0), Action::Deny));
    }
}

#[test]
fn g5_a_source_counts_only_on_the_ports_of_its_segment() {
    let mut rules = two_segments(vec![rule(0, 1, &[Service::Any], Action::Allow)]);
    rules.segments[0].ports = vec![PortId(0), PortId(63)];
    for (ingress, allowed) in [(0, true), (63, true), (1, false), (62, false), (64, false), (255, false)] {
        let expected = if allowed { allowed_by(0) } else { Decision::refused(Reason::SpoofedSource) };
        assert_eq!(judged(&rules, tcp(ingress, WEB, DB, 80)), expected, "port {ingress}");
    }
    let policy = compile(&rules).unwrap();
    assert_eq!(policy.source_segment(PortId(63), WEB.parse().unwrap()), Some(SegmentId(0)));
    assert_eq!(policy.source_segment(PortId(1), WEB.parse().unwrap()), None);
    assert_eq!(policy.destination_segment(DB.parse().unwrap()), Some(SegmentId(1)));
    assert_eq!(policy.destination_segment("192.0.2.1".parse().unwrap()), None);
}

#[test]
fn the_source_is_checked_before_the_destination_and_both_before_the_rules() {
    let rules = two_segments(vec![rule(0, 1, &[Service::Any], Action::Deny)]);
    let nowhere = "192.0.2.1";
    assert_eq!(judged(&rules, tcp(0, nowhere, nowhere, 80)), Decision::refused(Reason::SpoofedSource));
    assert_eq!(judged(&rules, tcp(1, WEB, DB, 80)), Decision::refused(Reason::SpoofedSource));
    assert_eq!(judged(&rules, tcp(0, WEB, nowhere, 80)), Decision::refused(Reason::NoDestinationSegment));
}

#[test]
fn inside_one_segment_a_rule_from_it_to_itself_is_needed() {
    let inside = tcp(0, WEB, "10.1.0.6", 80);
    let without = two_segments(vec![rule(0, 1, &[Service::Any], Action::Allow)]);
    assert_eq!(judged(&without, inside), Decision::refused(Reason::NoRule));
    let with = two_segments(vec![rule(0, 0, &[Service::Any], Action::Allow)]);
    assert_eq!(judged(&with, inside), allowed_by(0));
}

#[test]
fn g6_a_port_range_ends_exactly_at_its_ends() {
    for (low, high) in [(100, 200), (0, 10), (65000, 65535), (0, 65535), (65535, 65535), (0, 0)] {
        for udp in [false, true] {
            let service = if udp { Service::Udp(low, high) } else { Service::Tcp(low, high) };
            let rules = two_segments(vec![rule(0, 1, &[service], Action::Allow)]);
            let around = [low.checked_sub(1), Some(low), Some(high), high.checked_add(1)];
            for port in around.into_iter().flatten() {
                let protocol = if udp { protocol::UDP } else { protocol::TCP };
                let allowed = (low..=high).contains(&port);
                let decision = judged(&rules, Query { protocol, ..tcp(0, WEB, DB, port) });
                assert_eq!(decision.allows(), allowed, "{service:?} at {port}");
            }
        }
    }
}

#[test]
fn g6_a_network_ends_exactly_at_its_ends() {
    let cases = [
        ("10.1.0.0/31", vec!["10.1.0.0", "10.1.0.1"], vec!["10.0.255.255", "10.1.0.2"]),
        ("10.1.0.1/32", vec!["10.1.0.1"], vec!["10.1.0.0", "10.1.0.2"]),
        ("10.1.0.0/30", vec!["10.1.0.0", "10.1.0.3"], vec!["10.0.255.255", "10.1.0.4"]),
        ("255.255.255.254/31", vec!["255.255.255.255"], vec!["255.255.255.253", "0.0.0.0"]),
        ("0.0.0.0/0", vec!["0.0.0.0", "255.255.255.255"], vec!["::", "::1"]),
        ("128.0.0.0/1", vec!["128.0.0.0", "255.255.255.255"], vec!["127.255.255.255"]),
        ("fd00::/127", vec!["fd00::", "fd00::1"], vec!["fd00::2", "fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
        ("fd00::1/128", vec!["fd00::1"], vec!["fd00::", "fd00::2"]),
        ("fd00::/126", vec!["fd00::3"], vec!["fd00::4"]),
        ("::/0", vec!["::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"], vec!["0.0.0.0"]),
    ];
    for (network, inside, outside) in cases {
        let rules =
            RuleSet { segments: vec![segment(&[0], &[network])], rules: vec![], ..RuleSet::default() };
        let policy = compile(&rules).unwrap();
        for (addresses, expected) in [(inside, Some(SegmentId(0))), (outside, None)] {
            for address in addresses {
                let address: IpAddr = address.parse().unwrap();
                assert_eq!(policy.source_segment(PortId(0), address), expected, "{address} in {network}");
                assert_eq!(reference::segment_of(&rules, address), expected, "{address} in {network}");
            }
        }
    }
}

#[test]
fn the_longest_network_decides_over_all_segments() {
    let rules = RuleSet {
        segments: vec![
            segment(&[0], &["0.0.0.0/0", "10.2.0.7/32"]),
            segment(&[1], &["10.0.0.0/8"]),
            segment(&[2], &["10.2.0.0/16"]),
        ],
        rules: vec![],
        ..RuleSet::default()
    };
    let policy = compile(&rules).unwrap();
    for (address, expected) in
        [("8.8.8.8", 0), ("10.1.1.1", 1), ("10.2.0.6", 2), ("10.2.0.7", 0), ("10.3.0.0", 1)]
    {
        let address = address.parse().unwrap();
        assert_eq!(policy.destination_segment(address), Some(SegmentId(expected)));
        assert_eq!(reference::segment_of(&rules, address), Some(SegmentId(expected)));
    }
    // The longest network decides before the port does: no falling back to a shorter one behind the right port.
    assert_eq!(policy.source_segment(PortId(1), "10.2.0.6".parse().unwrap()), None);
}

#[test]
fn what_cannot_be_compiled_is_named() {
    let any = [Service::Any];
    let rules = two_segments(vec![rule(0, 1, &any, Action::Allow), rule(0, 2, &any, Action::Allow)]);
    let error = CompileError::UnknownSegment { rule: RuleId(1), segment: SegmentId(2) };
    assert_eq!(compile(&rules).unwrap_err(), error);
    assert_eq!(error.to_string(), "rule 1 names segment 2, which does not exist");

    let service = Service::Udp(9, 8);
    let rules = two_segments(vec![rule(0, 1, &[Service::Any, service], Action::Allow)]);
    assert_eq!(compile(&rules).unwrap_err(), CompileError::InvertedRange { rule: RuleId(0), service });

    let mut rules = two_segments(vec![]);
    rules.segments[1].networks.push(net("10.1.0.77/24"));
    let (first, second) = (SegmentId(0), SegmentId(1));
    let error = CompileError::SameNetwork { network: net("10.1.0.0/24"), first, second };
    assert_eq!(compile(&rules).unwrap_err(), error);

    let mut rules = two_segments(vec![]);
    rules.segments[1].ports.push(PortId(64));
    let error = CompileError::UnknownPort { segment: SegmentId(1), port: PortId(64) };
    assert_eq!(compile(&rules).unwrap_err(), error);
}

#[test]
fn a_network_named_twice_by_one_segment_is_one_network() {
    let mut rules = two_segments(vec![rule(0, 1, &[Service::Any], Action::Allow)]);
    rules.segments[0].networks.push(net("10.1.0.9/24"));
    assert_eq!(judged(&rules, tcp(0, WEB, DB, 80)), allowed_by(0));
}

#[test]
fn too_many_of_anything_is_refused_by_number() {
    let segment = Segment::default();
    let beyond = compile::MAX_SEGMENTS + 1;
    let rules = RuleSet { segments: vec![segment; beyond], rules: vec![], ..RuleSet::default() };
    assert_eq!(compile(&rules).unwrap_err(), CompileError::TooManySegments(beyond));
    let empty = Rule { from: vec![], to: vec![], services: vec![], action: Action::Allow, ..Rule::default() };
    let rules =
        RuleSet { segments: vec![], rules: vec![empty; compile::MAX_RULES + 1], ..RuleSet::default() };
    assert_eq!(compile(&rules).unwrap_err(), CompileError::TooManyRules(compile::MAX_RULES + 1));
}

/// Segments `0..count`, each with one network.
fn many_segments(count: u32) -> Vec<Segment> {
    let one = |id: u32| Segment {
        ports: vec![PortId((id % 2) as u8)],
        networks: vec![IpNet::from(IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + id)))],
        ..Segment::default()
    };
    (0..count).map(one).collect()
}

#[test]
fn a_hundred_thousand_rules_between_one_pair_compile_and_answer() {
    let rules = (0..100_000u32).map(|i| {
        let low = (i * 7 % 65_000) as u16;
        let action = if i % 10 == 0 { Action::Deny } else { Action::Allow };
        rule(0, 1, &[Service::Tcp(low, low + (i % 500) as u16)], action)
    });
    let rules = two_segments(rules.collect());
    let policy = compile(&rules).unwrap();
    for port in (0..=u16::MAX).step_by(4111) {
        let query = tcp(0, WEB, DB, port);
        assert_eq!(
            policy.judge(&query),
            reference::judge(&rules, &query, &Circumstances::NONE),
            "port {port}"
        );
    }
}

#[test]
fn rules_from_everything_to_everything_over_a_thousand_distinct_segments_compile() {
    let all: Vec<SegmentId> = (0..1000).map(SegmentId).collect();
    let mut rules: Vec<Rule> = (0..1000).map(|i| rule(i, 999 - i, &[Service::Any], Action::Allow)).collect();
    for i in 0..200 {
        let services = vec![Service::Tcp(i * 10, i * 10 + 20)];
        rules.push(Rule {
            from: all.clone(),
            to: all.clone(),
            services,
            action: Action::Deny,
            ..Rule::default()
        });
    }
    let rules = RuleSet { segments: many_segments(1000), rules, ..RuleSet::default() };
    let policy = compile(&rules).unwrap();
    for (source, destination, port) in
        [(0, 999, 5), (0, 999, 3000), (1, 1, 15), (1, 1, 3000), (500, 499, 2020)]
    {
        let address = |id: u32| Ipv4Addr::from_bits(0x0a00_0000 + id).to_string();
        let query = tcp((source % 2) as u8, &address(source), &address(destination), port);
        assert_eq!(policy.judge(&query), reference::judge(&rules, &query, &Circumstances::NONE), "{query:?}");
    }
}

#[test]
fn wide_lists_that_all_cross_are_refused_and_not_unrolled() {
    // 200 rules, each between 1,999 of 2,000 segments: 8 * 10^8 places in the matrix.
    let but = |i: u32| (0..2000).filter(|s| *s != i).map(SegmentId).collect::<Vec<_>>();
    let rules = (0..200).map(|i| Rule {
        from: but(i),
        to: but(i + 1),
        services: vec![Service::Any],
        action: Action::Allow,
        ..Rule::default()
    });
    let singles = (0..2000).map(|i| rule(i, i, &[Service::Any], Action::Allow));
    let rules = RuleSet {
        segments: many_segments(2000),
        rules: rules.chain(singles).collect(),
        ..RuleSet::default()
    };
    assert!(matches!(compile(&rules), Err(CompileError::TooManyPairs(n)) if n > compile::MAX_COVERED));
}

#[test]
fn a_table_that_would_be_merged_into_every_cell_is_refused() {
    // 20,000 ranges from all to all, and a rule of its own for each of 700 pairs.
    let all: Vec<SegmentId> = (0..700).map(SegmentId).collect();
    let services = (0..20_000u16).map(|i| Service::Tcp(3 * i, 3 * i)).collect();
    let wide = Rule { from: all.clone(), to: all, services, action: Action::Allow, ..Rule::default() };
    let own = (0..700).map(|i| rule(i, i, &[Service::Udp(i as u16, i as u16)], Action::Allow));
    let rules = RuleSet {
        segments: many_segments(700),
        rules: std::iter::once(wide).chain(own).collect(),
        ..RuleSet::default()
    };
    assert_eq!(compile(&rules).unwrap_err(), CompileError::TooManyPieces(RuleId(0)));
}

#[test]
fn an_explanation_names_the_nearest_rules_and_the_one_clause_they_failed_on() {
    let rules = two_segments(vec![
        rule(1, 1, &[Service::Tcp(81, 81)], Action::Allow),
        rule(0, 0, &[Service::Tcp(81, 81)], Action::Allow),
        rule(0, 1, &[Service::Tcp(443, 443)], Action::Allow),
        rule(0, 1, &[Service::Udp(81, 81)], Action::Allow),
        rule(0, 1, &[Service::Tcp(70, 80)], Action::Allow),
        rule(1, 0, &[Service::Tcp(81, 81)], Action::Allow),
        rule(0, 1, &[Service::Tcp(82, 82)], Action::Deny),
    ]);
    let explanation = explain(&rules, &tcp(0, WEB, DB, 81), &Circumstances::NONE);
    assert_eq!(explanation.source_segment, Some(SegmentId(0)));
    assert_eq!(explanation.destination_segment, Some(SegmentId(1)));
    assert_eq!(explanation.decision, Decision::refused(Reason::NoRule));
    // Two clauses off (rule 5) and other than allowing (rule 6) are no near misses.
    let expected = [
        (RuleId(4), Clause::Service),
        (RuleId(2), Clause::Service),
        (RuleId(3), Clause::Service),
        (RuleId(1), Clause::To),
        (RuleId(0), Clause::From),
    ];
    assert_eq!(explanation.near_misses, expected);
    let allowed = explain(&rules, &tcp(0, WEB, DB, 80), &Circumstances::NONE);
    assert_eq!((allowed.decision, allowed.near_misses), (allowed_by(4), vec![]));
}

#[test]
fn an_explanation_names_at_most_five_near_misses() {
    let rules = two_segments((0..20).map(|i| rule(0, 1, &[Service::Tcp(i, i)], Action::Allow)).collect());
    let explanation = explain(&rules, &tcp(0, WEB, DB, 30), &Circumstances::NONE);
    let expected: Vec<_> = (15..20).rev().map(|i| (RuleId(i), Clause::Service)).collect();
    assert_eq!(explanation.near_misses, expected);
}

#[test]
fn a_policy_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Policy>();
}

#[test]
fn more_pairs_of_classes_than_a_dense_matrix_holds_answer_alike() {
    let count = 2100;
    let rules = (0..count).map(|i| rule(i, (i + 1) % count, &[Service::Tcp(80, 80)], Action::Allow));
    let rules = RuleSet { segments: many_segments(count), rules: rules.collect(), ..RuleSet::default() };
    let policy = compile(&rules).unwrap();
    assert!(matches!(policy.matrix, Matrix::Sparse(_)));
    for (source, destination) in [(0, 1), (1, 0), (2099, 0), (7, 7), (1234, 1235), (1234, 1236)] {
        let address = |id: u32| Ipv4Addr::from_bits(0x0a00_0000 + id).to_string();
        let query = tcp((source % 2) as u8, &address(source), &address(destination), 80);
        assert_eq!(policy.judge(&query), reference::judge(&rules, &query, &Circumstances::NONE), "{query:?}");
        assert_eq!(policy.judge(&query).allows(), destination == (source + 1) % count);
    }
}

/// What the reference evaluator says of a connection from web to db, of its rules in the order given.
fn reference_says(
    rules: Vec<Rule>,
    conditions: Vec<Condition>,
    circumstances: &Circumstances<'_>,
) -> Decision {
    let rules = RuleSet { conditions, ..two_segments(rules) };
    reference::judge(&rules, &tcp(0, WEB, DB, 80), circumstances)
}

#[test]
fn the_first_tier_with_a_say_decides_and_pass_leaves_it_to_the_next() {
    let any = |action, tier| Rule { tier, ..rule(0, 1, &[Service::Any], action) };
    let says = |rules: &[Rule]| reference_says(rules.to_vec(), vec![], &Circumstances::NONE);
    let (allow, deny) = (any(Action::Allow, 0), any(Action::Deny, 0));
    assert_eq!(says(&[any(Action::Deny, 1), allow.clone()]), allowed_by(1), "an earlier tier's allow");
    assert_eq!(says(&[any(Action::Allow, 1), deny.clone()]).refusal, Some(Reason::RuleDenied));
    let pass = any(Action::Pass, 0);
    assert_eq!(says(&[any(Action::Allow, 2), deny.clone(), pass.clone()]), allowed_by(0), "pass beats deny");
    assert_eq!(says(&[deny, pass]), Decision::refused(Reason::NoRule), "and lets nothing through by itself");
}

#[test]
fn a_floor_binds_every_rule_that_allows_and_the_nearest_rule_is_named() {
    let of = |condition| Rule { condition, ..rule(0, 1, &[Service::Any], Action::Allow) };
    let conditions = vec![
        Condition { users: Some(conditions::Users::default()), ..Condition::default() },
        Condition { mfa_max_age_s: Some(60), ..Condition::default() },
        Condition { risk_below: Some(10), ..Condition::default() },
    ];
    let user = |mfa_age_s, risk| Identity {
        user: Some(conditions::UserId::OTHER),
        mfa_age_s,
        risk,
        ..Identity::default()
    };
    let mut rules = RuleSet { conditions, ..two_segments(vec![of(None), of(Some(ConditionId(2)))]) };
    rules.segments[1].floor = Some(ConditionId(1));
    fn says(rules: &RuleSet, who: Who<'_>) -> Decision {
        let circumstances = Circumstances { who, gates: conditions::Bits::NONE };
        reference::judge(rules, &tcp(0, WEB, DB, 80), &circumstances)
    }
    assert_eq!(says(&rules, Who::Nobody), Decision::unmet(RuleId(0), Reason::NotAuthenticated));
    assert_eq!(says(&rules, Who::Known(&user(Some(60), None))), allowed_by(0));
    assert_eq!(
        says(&rules, Who::Known(&user(Some(61), None))),
        Decision::unmet(RuleId(0), Reason::MfaTooOld)
    );
    rules.rules.remove(0);
    let risky = user(Some(60), Some(10));
    assert_eq!(says(&rules, Who::Known(&risky)), Decision::unmet(RuleId(0), Reason::RiskTooHigh));
    // The floor of the source's segment, for what leaves it.
    rules.segments[0].floor_out = Some(ConditionId(0));
    rules.rules[0].condition = None;
    let device = Identity { user: None, ..user(Some(1), Some(1)) };
    assert_eq!(says(&rules, Who::Known(&device)), Decision::unmet(RuleId(0), Reason::NotAuthenticated));
}
