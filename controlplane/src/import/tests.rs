//! Random ordered rulesets, packet by packet: what a plain reading of the rules says, and what the rules without order
//! decide that were made of them.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::classes::{Class, classes};
use super::program::*;
use super::regions::{Action, Emitted, Pairs, unordered};
use super::sets::{Addresses, Families, Ranges, Services};
use super::*;
use crate::config::At;

const NOWHERE: At = At { file: 0, start: 0, end: 0 };
/// Uncertain rules of a ruleset at most: every combination of them is tried.
const UNSURE: usize = 3;
/// Rules that may be uncertain come first.
const INTERFACES: [&str; 3] = ["a", "b", "c"];

/// One packet: source, destination, protocol, port.
#[derive(Clone, Copy, Debug)]
struct Probe {
    source: u8,
    destination: u8,
    protocol: u8,
    port: u16,
}

/// Addresses are 10.0.0.0 to 10.0.0.23; eight lie behind each interface.
fn address(host: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, host).into()
}

fn interface_of(host: u8) -> &'static str {
    INTERFACES[usize::from(host / 8)]
}

fn services() -> impl Strategy<Value = Services> {
    let ranges = || {
        proptest::collection::vec((1u128..12, 0u128..5), 0..3).prop_map(|list| {
            Ranges::from_list(list.into_iter().map(|(low, more)| (low, low + more)).collect())
        })
    };
    prop_oneof![
        2 => Just(Services::everything()),
        3 => (ranges(), ranges()).prop_map(|(tcp, udp)| Services { tcp, udp, ..Services::default() }),
        1 => Just(Services::protocols(&[1])),
        1 => Just(Services::protocols(&[47])),
        1 => Just(Services::protocols(&[6])),
    ]
}

fn end() -> impl Strategy<Value = End> {
    let interfaces = proptest::option::of((proptest::sample::select(&INTERFACES[..]), any::<bool>()));
    let addresses = proptest::option::of((0usize..4, any::<bool>()));
    (interfaces, addresses).prop_map(|(interface, address)| End {
        interfaces: interface
            .map(|(name, negated)| InterfaceMatch { patterns: vec![name.to_owned()], negated })
            .into_iter()
            .collect(),
        addresses: address.into_iter().collect(),
    })
}

fn verdict(chain: usize, chains: usize) -> BoxedStrategy<Verdict> {
    let plain = prop_oneof![
        4 => Just(Verdict::Accept),
        3 => Just(Verdict::Drop),
        1 => Just(Verdict::Reject),
        1 => Just(Verdict::Return),
    ];
    if chain + 1 >= chains {
        return plain.boxed();
    }
    let deeper = chain + 1..chains;
    prop_oneof![
        3 => plain,
        1 => deeper.clone().prop_map(Verdict::Jump),
        1 => deeper.prop_map(Verdict::Goto),
    ]
    .boxed()
}

fn rule(verdict: BoxedStrategy<Verdict>) -> impl Strategy<Value = Rule> {
    (end(), end(), services(), verdict, prop::bool::weighted(0.3)).prop_map(
        |(source, destination, services, verdict, quick)| Rule {
            at: NOWHERE,
            comment: None,
            source,
            destination,
            families: Families::V4,
            services,
            certain: true,
            first: true,
            later: true,
            per_second: None,
            verdict,
            quick,
        },
    )
}

fn sets() -> impl Strategy<Value = Vec<AddressSet>> {
    let set = proptest::collection::vec((0u8..24, 0u8..9), 0..4).prop_map(|list| AddressSet {
        name: None,
        addresses: Addresses::from_list(
            list.into_iter().map(|(low, more)| (address(low), address((low + more).min(23)))),
        ),
        at: NOWHERE,
    });
    proptest::collection::vec(set, 4)
}

/// Two stages, of which either may be one whose last match counts, over three chains.
fn program() -> impl Strategy<Value = Program> {
    let chain = |index: usize, chains: usize| proptest::collection::vec(rule(verdict(index, chains)), 0..7);
    let plain = || {
        proptest::collection::vec(
            rule(
                prop_oneof![
                    3 => Just(Verdict::Accept),
                    3 => Just(Verdict::Drop),
                    1 => Just(Verdict::Reject),
                ]
                .boxed(),
            ),
            0..7,
        )
    };
    let policy = || proptest::sample::select(vec![Verdict::Accept, Verdict::Drop]);
    let unsure = proptest::collection::vec(0usize..20, 0..UNSURE);
    let kind = 0usize..4;
    (sets(), (chain(0, 3), chain(1, 3), chain(2, 3)), (plain(), plain()), (policy(), policy()), unsure, kind)
        .prop_map(|(sets, (a, b, c), (d, e), (first, second), unsure, kind)| {
            let mut program = Program {
                interfaces: INTERFACES
                    .iter()
                    .enumerate()
                    .map(|(n, name)| Interface {
                        name: (*name).to_owned(),
                        networks: vec![format!("10.0.0.{}/29", n * 8).parse().unwrap()],
                    })
                    .collect(),
                sets,
                rules: Vec::new(),
                chains: Vec::new(),
                stages: Vec::new(),
                universe: Services::transport(),
            };
            for rules in [a, b, c, d, e] {
                let start = program.rules.len();
                program.rules.extend(rules);
                let rules = (start..program.rules.len()).collect();
                program.chains.push(Chain { name: String::new(), rules });
            }
            for number in unsure {
                if let Some(rule) = program.rules.get_mut(number) {
                    rule.certain = false;
                }
            }
            let stage = |chain, order, policy, is_main| Stage {
                chain,
                order,
                families: Families::V4,
                policy,
                is_main,
            };
            program.stages = match kind {
                0 => vec![stage(0, Order::First, first, true)],
                1 => vec![stage(3, Order::Last, first, true)],
                2 => vec![stage(3, Order::Last, first, true), stage(4, Order::Last, second, false)],
                _ => vec![stage(0, Order::First, first, true), stage(1, Order::First, second, false)],
            };
            limit_universe(&mut program);
            program
        })
}

/// The services of one packet.
fn services_of(probe: &Probe) -> Services {
    match probe.protocol {
        6 => Services { tcp: Ranges::of(probe.port.into(), probe.port.into()), ..Services::default() },
        17 => Services { udp: Ranges::of(probe.port.into(), probe.port.into()), ..Services::default() },
        other => Services::protocols(&[other]),
    }
}

/// The rules read plainly. `unsure` says, by rule, whether an uncertain one matches.
struct Plain<'p> {
    program: &'p Program,
    probe: Probe,
    unsure: &'p dyn Fn(usize) -> bool,
}

impl Plain<'_> {
    fn matches(&self, number: usize) -> bool {
        let rule = &self.program.rules[number];
        let end = |end: &End, host: u8| {
            end.interfaces.iter().all(|interfaces| interfaces.matches(interface_of(host)))
                && end.addresses.iter().all(|&(set, negated)| {
                    self.program.sets[set].addresses.contains(address(host)) != negated
                })
        };
        end(&rule.source, self.probe.source)
            && end(&rule.destination, self.probe.destination)
            && services_of(&self.probe).is_within(&rule.services)
            && (rule.certain || (self.unsure)(number))
    }

    /// What a chain decides; `None` when it comes back.
    fn chain(&self, chain: usize) -> Option<Verdict> {
        for &number in &self.program.chains[chain].rules {
            if !self.matches(number) {
                continue;
            }
            match self.program.rules[number].verdict {
                Verdict::Return => return None,
                Verdict::Jump(inner) => {
                    if let Some(verdict) = self.chain(inner) {
                        return Some(verdict);
                    }
                }
                Verdict::Goto(inner) => return self.chain(inner),
                verdict => return Some(verdict),
            }
        }
        None
    }

    fn last(&self, chain: usize) -> Option<Verdict> {
        let mut last = None;
        for &number in &self.program.chains[chain].rules {
            if self.matches(number) {
                last = Some(self.program.rules[number].verdict);
                if self.program.rules[number].quick {
                    break;
                }
            }
        }
        last
    }

    fn decides(&self) -> Verdict {
        for stage in &self.program.stages {
            let verdict = match stage.order {
                Order::First => self.chain(stage.chain),
                Order::Last => self.last(stage.chain),
            };
            let verdict = verdict.unwrap_or(stage.policy);
            if verdict != Verdict::Accept {
                return verdict;
            }
        }
        Verdict::Accept
    }
}

/// The class of a host by longest match.
fn class_of(classes: &[Class], host: u8) -> Option<usize> {
    let all =
        classes.iter().enumerate().flat_map(|(n, class)| class.networks.iter().map(move |net| (n, net)));
    all.filter(|(_, net)| net.contains(&address(host)))
        .max_by_key(|(_, net)| net.prefix_len())
        .map(|(n, _)| n)
}

/// What the new rules decide: deny before reject before allow.
fn judged(rules: &[Emitted], from: usize, to: usize, probe: &Probe) -> Verdict {
    let matching = rules.iter().filter(|rule| {
        rule.sources.has(from) && rule.destinations.has(to) && services_of(probe).is_within(&rule.services)
    });
    match matching.map(|rule| rule.action).max() {
        Some(Action::Allow) => Verdict::Accept,
        Some(Action::Reject) => Verdict::Reject,
        Some(Action::Deny) | None => Verdict::Drop,
    }
}

fn probes() -> impl Strategy<Value = Vec<Probe>> {
    let one = (0u8..24, 0u8..24, proptest::sample::select(vec![1u8, 6, 17, 47]), 1u16..18)
        .prop_map(|(source, destination, protocol, port)| Probe { source, destination, protocol, port });
    proptest::collection::vec(one, 64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn rules_without_order_decide_as_the_ordered_ones_did(program in program(), probes in probes()) {
        let classes = classes(&program).unwrap();
        let pairs = Pairs::new(&program, &classes).unwrap();
        let new = unordered(&program, &classes, &pairs).unwrap();
        let unsure: Vec<usize> = (0..program.rules.len()).filter(|&rule| !program.rules[rule].certain).collect();
        for probe in probes.iter().filter(|probe| services_of(probe).is_within(&program.universe)) {
            let from = class_of(&classes, probe.source).unwrap();
            let to = class_of(&classes, probe.destination).unwrap();
            let ours = judged(&new.rules, from, to, probe);
            for combination in 0u32..1 << unsure.len() {
                let is_matched = |rule: usize| {
                    unsure.iter().position(|known| *known == rule).is_some_and(|bit| combination >> bit & 1 == 1)
                };
                let theirs = Plain { program: &program, probe: *probe, unsure: &is_matched }.decides();
                if unsure.is_empty() {
                    prop_assert_eq!(ours == Verdict::Accept, theirs == Verdict::Accept, "{:?}", probe);
                    prop_assert!(ours == theirs || !new.silenced.is_empty(), "{:?} {:?} {:?}", probe, ours, theirs);
                } else {
                    prop_assert!(ours != Verdict::Accept || theirs == Verdict::Accept, "{:?}", probe);
                }
            }
        }
    }
}
