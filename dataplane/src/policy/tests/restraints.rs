//! Addresses that are locked out or in quarantine: the compiled policy against the reference evaluator, and what must be
//! true of both.

use super::super::conditions::*;
use super::super::restraints::{QUARANTINE_V4, QUARANTINE_V6, Restraint, Restraints};
use super::conditional::{bits, conditional, person, who};
use super::*;

/// The rules with a quarantine segment, which some of them name.
fn with_quarantine(mut rules: RuleSet, named: &[u8]) -> (RuleSet, SegmentId) {
    let quarantine = SegmentId(rules.segments.len() as u32);
    rules.segments.push(Segment {
        ports: (0..4).map(PortId).collect(),
        networks: vec![IpAddr::from(QUARANTINE_V4).into(), IpAddr::from(QUARANTINE_V6).into()],
        ..Segment::default()
    });
    for (rule, named) in rules.rules.iter_mut().zip(named) {
        rule.from.extend((*named == 0).then_some(quarantine));
        rule.to.extend((*named == 1).then_some(quarantine));
    }
    (rules, quarantine)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn restrained_addresses_are_judged_as_the_reference_says_and_others_as_ever(
        rules in conditional(),
        named in prop::collection::vec(0..6u8, 60),
        picks in picks(),
        chosen in prop::collection::vec((any::<Index>(), any::<bool>()), 0..12),
        has_segment in prop::bool::weighted(0.8),
        (person, gates) in (person(), bits()),
    ) {
        let (rules, quarantine) = with_quarantine(rules, &named);
        let queries = queries(&rules, &picks);
        let ends: Vec<IpAddr> = queries.iter().flat_map(|query| [query.source, query.destination]).collect();
        let restraint = |locks: bool| if locks { Restraint::Locked } else { Restraint::Quarantined };
        let chosen = chosen.iter().map(|(end, locks)| (*end.get(&ends), restraint(*locks)));
        let restraints = Restraints::new(chosen, has_segment);
        let mut policy = compile(&rules).unwrap();
        let free = policy.clone();
        policy.set_restraints(std::sync::Arc::new(restraints.clone()));
        let circumstances = Circumstances { who: who(&person), gates: &gates };
        for query in &queries {
            let decision = policy.judge_in(query, &circumstances);
            let expected = reference::judge_restrained(&rules, &restraints, query, &circumstances);
            prop_assert_eq!(decision, expected, "{:?} {:?}", query, restraints);
            let [source, destination] = [query.source, query.destination].map(|end| restraints.of(end));
            match [source, destination] {
                [None, None] => prop_assert_eq!(decision, free.judge_in(query, &circumstances)),
                [Some(Restraint::Locked), _] | [_, Some(Restraint::Locked)] => prop_assert!(!decision.allows()),
                _ if !has_segment => prop_assert!(!decision.allows()),
                _ => {
                    // Only a rule that names the quarantine opens anything.
                    let rule = decision.decided_by().index().map(|index| &rules.rules[index]);
                    if let Some(rule) = rule.filter(|_| decision.allows()) {
                        prop_assert!(source.is_none() || rule.from.contains(&quarantine));
                        prop_assert!(destination.is_none() || rule.to.contains(&quarantine));
                    }
                }
            }
        }
    }
}

/// Web may reach the database, and the quarantine the web.
fn two_rules() -> RuleSet {
    let segment = |networks: [&str; 2], port| Segment {
        ports: vec![PortId(port)],
        networks: networks.map(|network| network.parse().unwrap()).to_vec(),
        ..Segment::default()
    };
    let allow = |from, to, port| Rule {
        from: vec![SegmentId(from)],
        to: vec![SegmentId(to)],
        services: vec![Service::Tcp(port, port)],
        action: Action::Allow,
        ..Rule::default()
    };
    let segments =
        vec![segment(["10.1.0.0/24", "fd00:1::/64"], 0), segment(["10.2.0.0/24", "fd00:2::/64"], 1)];
    let rules = RuleSet { segments, rules: vec![allow(0, 1, 5432)], ..RuleSet::default() };
    let (mut rules, quarantine) = with_quarantine(rules, &[]);
    rules.rules.push(Rule { from: vec![quarantine], ..allow(0, 1, 443) });
    rules
}

#[test]
fn an_address_in_quarantine_reaches_what_the_segment_reaches_and_a_locked_one_nothing() {
    let rules = two_rules();
    for (source, destination) in [(WEB, DB), (WEB6, DB6)] {
        let (source, destination): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
        let judged = |restrained: &[(IpAddr, Restraint)], port| {
            let mut policy = compile(&rules).unwrap();
            policy.set_restraints(std::sync::Arc::new(Restraints::new(restrained.iter().copied(), true)));
            let query = Query {
                ingress: PortId(0),
                source,
                destination,
                protocol: protocol::TCP,
                destination_port: port,
            };
            policy.judge_now(&query, None, Now(0)).answer.refusal
        };
        let quarantined = (source, Restraint::Quarantined);
        assert_eq!((judged(&[], 5432), judged(&[], 443)), (None, Some(Reason::NoRule)));
        assert_eq!(
            (judged(&[quarantined], 5432), judged(&[quarantined], 443)),
            (Some(Reason::Quarantined), None)
        );
        // The server in quarantine is reached by nobody; of two restraints the lock counts.
        let server = (destination, Restraint::Quarantined);
        assert_eq!(
            (judged(&[server], 5432), judged(&[server], 443)),
            (Some(Reason::Quarantined), Some(Reason::Quarantined))
        );
        for locked in [[(source, Restraint::Locked), quarantined], [quarantined, (source, Restraint::Locked)]]
        {
            assert_eq!(
                (judged(&locked, 5432), judged(&locked, 443)),
                (Some(Reason::Locked), Some(Reason::Locked))
            );
        }
    }
}

#[test]
fn without_a_segment_for_it_quarantine_reaches_nothing_also_beside_a_network_of_everything() {
    let mut rules = two_rules();
    rules.segments.pop();
    rules.rules.pop();
    // The address that stands for quarantine is in here.
    rules.segments[0].networks = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    let mut policy = compile(&rules).unwrap();
    let source: IpAddr = WEB.parse().unwrap();
    let restraints = Restraints::new([(source, Restraint::Quarantined)], false);
    let query = Query {
        ingress: PortId(0),
        source,
        destination: DB.parse().unwrap(),
        protocol: protocol::TCP,
        destination_port: 5432,
    };
    assert!(policy.judge(&query).allows());
    policy.set_restraints(std::sync::Arc::new(restraints));
    assert_eq!(policy.judge(&query).refusal, Some(Reason::Quarantined));
}
