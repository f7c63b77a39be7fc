//! The algebra against the reference evaluator, on random policies and packets.

use std::net::IpAddr;

use bulkhead_dataplane::policy::conditions::{
    Bits, Device, Devices, GateId, GroupId, Identity, Posture, PostureId, TagId, UserId, Users, Who,
};
use bulkhead_dataplane::policy::{
    Action, Circumstances, Condition, ConditionId, Decision, Query, Rule, RuleSet, Segment, Service,
    reference,
};
use bulkhead_dataplane::verdict::{PortId, Reason, RuleId, SegmentId};
use ipnet::IpNet;

use super::forms::place;
use super::solve::is_conditional;
use super::survey::Fault;
use super::*;

/// Numbers that look random and come again with the same seed: a failure names the seed that shows it.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `sides`; xorshift (Marsaglia 2003), multiplied so that small seeds differ at once.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    pub fn one_in(&mut self, chances: u64) -> bool {
        self.roll(chances) == 0
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len() as u64) as usize].clone()
    }

    fn some<T: Clone>(&mut self, of: &[T], most: u64) -> Vec<T> {
        let mut list: Vec<T> = Vec::new();
        for _ in 0..=self.roll(most) {
            list.push(self.pick(of));
        }
        list
    }
}

/// How many rounds a property is tried for: `BULKHEAD_ROUNDS`, or few where the code is slow.
pub fn rounds() -> u64 {
    let given = std::env::var("BULKHEAD_ROUNDS").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(if cfg!(debug_assertions) { 300 } else { 10_000 })
}

const NETWORKS: [&str; 14] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.1.0/24",
    "10.1.1.128/25",
    "10.1.1.7/32",
    "10.2.0.0/16",
    "10.2.255.255/32",
    "255.255.255.255/32",
    "::/0",
    "fd00::/16",
    "fd00:1::/32",
    "fd00:1::7/128",
    "ffff::/16",
];
const PORTS: [u16; 7] = [0, 22, 79, 80, 81, 443, 65535];

fn service(dice: &mut Dice) -> Service {
    let (a, b) = (dice.pick(&PORTS), dice.pick(&PORTS));
    match dice.roll(12) {
        0 => Service::Any,
        1..=3 => Service::Tcp(a.min(b), a.max(b)),
        4..=6 => Service::Tcp(a, a),
        7 => Service::Udp(a.min(b), a.max(b)),
        8 => Service::Udp(a, a),
        9 => Service::IcmpEcho,
        10 => Service::Icmpv6Echo,
        _ => Service::Protocol(dice.pick(&[47, 47, 50, 6, 0, 255])),
    }
}

fn condition(dice: &mut Dice, action: Action) -> Condition {
    let mut condition = Condition::default();
    if dice.one_in(3) {
        condition.gates = dice.some(&[GateId(0), GateId(1), GateId(70)], 2);
    }
    if action == Action::Pass {
        return condition;
    }
    if dice.one_in(2) {
        let mut users = Users::default();
        if dice.one_in(2) {
            users.users = dice.some(&[UserId(0), UserId(1)], 2);
        }
        if dice.one_in(2) {
            users.groups = dice.some(&[GroupId(0), GroupId(1), GroupId(65)], 2);
        }
        condition.users = Some(users);
    }
    if action != Action::Allow {
        return condition;
    }
    if dice.one_in(5) {
        let tags = if dice.one_in(2) { dice.some(&[TagId(0), TagId(1)], 2) } else { Vec::new() };
        condition.devices = Some(Devices { enrolled: dice.one_in(2), tags });
    }
    condition.phishing_resistant = dice.one_in(6);
    if dice.one_in(3) {
        condition.mfa_max_age_s = Some(dice.pick(&[0, 60, 3600, u32::MAX]));
    }
    if dice.one_in(4) {
        condition.postures = dice.some(&[PostureId(0), PostureId(1)], 2);
    }
    if dice.one_in(4) {
        condition.risk_below = Some(dice.pick(&[0, 1, 50, 51]));
    }
    condition
}

/// A policy with a few of everything. `conditional` says how often rules ask for something, one in so many.
pub fn policy(dice: &mut Dice, conditional: u64) -> RuleSet {
    let mut rules = RuleSet::default();
    let mut left: Vec<IpNet> = NETWORKS.iter().map(|network| network.parse().unwrap()).collect();
    for _ in 0..=dice.roll(5) {
        let ports = dice.some(&[PortId(0), PortId(1), PortId(2)], 2);
        let mut segment = Segment { ports, ..Segment::default() };
        for _ in 0..=dice.roll(3) {
            segment.networks.push(left.swap_remove(dice.roll(left.len() as u64) as usize));
            if left.is_empty() {
                break;
            }
        }
        for floor in [0, 1] {
            if dice.one_in(3 * conditional) {
                rules.conditions.push(condition(dice, Action::Allow));
                let id = Some(ConditionId(rules.conditions.len() as u32 - 1));
                if floor == 0 { segment.floor = id } else { segment.floor_out = id }
            }
        }
        rules.segments.push(segment);
        if left.is_empty() {
            break;
        }
    }
    for _ in 0..dice.roll(9) {
        let rule = rule(dice, &mut rules, conditional);
        rules.rules.push(rule);
    }
    rules
}

fn rule(dice: &mut Dice, rules: &mut RuleSet, conditional: u64) -> Rule {
    let segments: Vec<SegmentId> = (0..rules.segments.len() as u32).map(SegmentId).collect();
    let action =
        dice.pick(&[Action::Allow, Action::Allow, Action::Allow, Action::Deny, Action::Reject, Action::Pass]);
    let condition = dice.one_in(conditional).then(|| {
        rules.conditions.push(condition(dice, action));
        ConditionId(rules.conditions.len() as u32 - 1)
    });
    Rule {
        from: if dice.one_in(3) { segments.clone() } else { dice.some(&segments, 3) },
        to: if dice.one_in(3) { segments.clone() } else { dice.some(&segments, 3) },
        services: (0..=dice.roll(3)).map(|_| service(dice)).collect(),
        action,
        tier: dice.roll(2) as u8,
        condition,
        waives_floors: dice.one_in(6),
    }
}

/// A policy with a few changes.
pub fn changed(dice: &mut Dice, old: &RuleSet, conditional: u64) -> RuleSet {
    let mut new = old.clone();
    for _ in 0..dice.roll(4) {
        let count = new.rules.len() as u64;
        match dice.roll(8) {
            0 | 1 if count > 0 => drop(new.rules.swap_remove(dice.roll(count) as usize)),
            2 if count > 0 => {
                let index = dice.roll(count) as usize;
                new.rules[index].services = vec![service(dice)];
            }
            3 if count > 0 => new.rules.swap(dice.roll(count) as usize, 0),
            4 if !new.conditions.is_empty() => {
                let index = dice.roll(new.conditions.len() as u64) as usize;
                let gates = new.conditions[index].gates.clone();
                new.conditions[index] =
                    Condition { gates, users: new.conditions[index].users.clone(), ..Condition::default() };
            }
            5 => {
                let index = dice.roll(new.segments.len() as u64) as usize;
                new.segments[index].ports = vec![PortId(dice.roll(3) as u8)];
            }
            6 => {
                let index = dice.roll(new.segments.len() as u64) as usize;
                new.segments[index].networks.pop();
            }
            _ => {
                let added = rule(dice, &mut new, conditional);
                new.rules.push(added);
            }
        }
    }
    new
}

pub fn identity(dice: &mut Dice) -> Identity {
    let bits = |dice: &mut Dice, of: &[u32]| of.iter().copied().filter(|_| dice.one_in(2)).collect::<Bits>();
    Identity {
        user: dice.pick(&[None, Some(UserId(0)), Some(UserId(1)), Some(UserId::OTHER)]),
        groups: bits(dice, &[0, 1, 65]),
        device: (!dice.one_in(3)).then(|| Device { enrolled: dice.one_in(2), tags: bits(dice, &[0, 1]) }),
        mfa_age_s: dice.pick(&[
            None,
            Some(0),
            Some(1),
            Some(60),
            Some(61),
            Some(3600),
            Some(3601),
            Some(u32::MAX),
        ]),
        phishing_resistant: dice.one_in(2),
        postures: (0..dice.roll(3))
            .map(|_| dice.pick(&[Posture::Unknown, Posture::Failed, Posture::Met]))
            .collect(),
        risk: dice.pick(&[None, Some(0), Some(1), Some(49), Some(50), Some(51), Some(100)]),
    }
}

/// A packet near the edges of networks and services.
pub fn question(dice: &mut Dice) -> Query {
    let address = |dice: &mut Dice, v4: bool| loop {
        let network: IpNet = dice.pick(&NETWORKS).parse().unwrap();
        if network.addr().is_ipv4() == v4 {
            break dice.pick(&[network.network(), network.broadcast(), beside(network.broadcast())]);
        }
    };
    let v4 = !dice.one_in(3);
    let (source, destination) = (address(dice, v4), address(dice, v4));
    let protocol = dice.pick(&[6, 6, 6, 17, 1, 58, 47, 50, 2, 99]);
    let destination_port =
        if protocol == 6 || protocol == 17 { dice.pick(&PORTS).wrapping_add(dice.roll(2) as u16) } else { 0 };
    Query { ingress: PortId(dice.roll(4) as u8), source, destination, protocol, destination_port }
}

fn beside(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(v4.to_bits().wrapping_add(1).into()),
        IpAddr::V6(v6) => IpAddr::V6(v6.to_bits().wrapping_add(1).into()),
    }
}

fn outcome(decision: &Decision, effects: &[u32]) -> Outcome {
    match decision.refusal {
        None => Outcome::Allow(effects[decision.rule.0 as usize]),
        Some(Reason::RuleRejected) => Outcome::Reject,
        Some(_) => Outcome::Deny,
    }
}

/// Whether the difference is between such ends and about such a service.
fn covers(comparison: &Comparison<'_>, difference: &Difference, query: &Query) -> bool {
    let [old, new] = comparison.atlas.policies.map(|policy| policy.rules);
    let source = [old, new].map(|rules| reference::source_segment(rules, query.ingress, query.source));
    let destination = [old, new].map(|rules| reference::destination_segment(rules, query));
    let family = usize::from(query.source.is_ipv6());
    let atlas = &comparison.atlas;
    let row = difference.rows.iter().any(|row| {
        let class = &atlas.rows[*row as usize];
        class.samples[family].is_some()
            && class.members.iter().any(|end| atlas.sources[*end as usize].segments == source)
    });
    let column = difference.columns.iter().any(|column| {
        let class = &atlas.columns[*column as usize];
        class.samples[family].is_some()
            && class.members.iter().any(|end| atlas.destinations[*end as usize].segments == destination)
    });
    let place = place(query.protocol, query.destination_port);
    row && column && difference.services.iter().any(|(low, high)| (low..=high).contains(&&place))
}

/// Whether a rule that has a say in the difference asks for the gate.
fn asks(comparison: &Comparison<'_>, difference: &Difference, gate: GateId) -> bool {
    let clauses = difference.forms.iter().flat_map(|form| comparison.forms.clauses(*form));
    let mut demands = clauses.map(|clause| comparison.atlas.demands.demand(clause.demand));
    demands.any(|demand| demand.gates.contains(&gate))
}

/// Compares, checks every witness and asks random questions; returns how many differences there were.
fn compare_and_check(dice: &mut Dice, seed: u64, old: &RuleSet, new: &RuleSet) -> usize {
    let effects = [old, new]
        .map(|rules| rules.rules.iter().map(|_| dice.roll(4).saturating_sub(2) as u32).collect::<Vec<_>>());
    let policies = [Policy { rules: old, effects: &effects[0] }, Policy { rules: new, effects: &effects[1] }];
    // Two of the three gates follow the clock.
    let moments =
        Moments::from([(GateId(0), Moment::From(10)), (GateId(70), Moment::Until(dice.pick(&[5, 10, 15])))]);
    let comparison = compare(policies[0], policies[1], &moments).unwrap();
    for difference in &comparison.differences {
        let witness = difference.witness.as_ref().unwrap_or_else(|| panic!("seed {seed}: given up"));
        let circumstances = witness.occasion.circumstances();
        for (rules, told) in [old, new].into_iter().zip(&witness.decisions) {
            assert_eq!(
                *told,
                reference::judge(rules, &witness.query, &circumstances),
                "seed {seed}: {witness:?}"
            );
        }
        let outcomes = [0, 1].map(|policy| outcome(&witness.decisions[policy], &effects[policy]));
        assert_eq!(
            Kind::between(outcomes[0], outcomes[1]),
            Some(difference.kind),
            "seed {seed}: {difference:?}"
        );
        assert!(covers(&comparison, difference, &witness.query), "seed {seed}: {difference:?}");
        let gates = &witness.occasion.gates;
        let comes = |at: i128| {
            moments.iter().all(|(gate, m)| {
                !asks(&comparison, difference, *gate) || m.is_open(at) == gates.contains(gate.0)
            })
        };
        assert!([0, 5, 10, 15].into_iter().any(comes), "seed {seed}: no such time comes: {difference:?}");
    }
    for _ in 0..40 {
        let query = question(dice);
        let identity = identity(dice);
        let who = dice.pick(&[Who::Nobody, Who::Expired, Who::Known(&identity), Who::Known(&identity)]);
        let now = dice.pick(&[0, 5, 10, 15]);
        let is_open = |gate: u32| moments.get(&GateId(gate)).map(|moment| moment.is_open(now));
        let gates: Bits =
            [0, 1, 70].into_iter().filter(|gate| is_open(*gate).unwrap_or_else(|| dice.one_in(2))).collect();
        let circumstances = Circumstances { who, gates: &gates };
        let outcomes = [0, 1].map(|policy| {
            outcome(&reference::judge(policies[policy].rules, &query, &circumstances), &effects[policy])
        });
        let kind = Kind::between(outcomes[0], outcomes[1]);
        let covering: Vec<&Difference> =
            comparison.differences.iter().filter(|d| covers(&comparison, d, &query)).collect();
        if let Some(kind) = kind {
            let found = covering.iter().any(|difference| difference.kind == kind);
            assert!(found, "seed {seed}: {kind:?} of {query:?} {circumstances:?} is missing");
        }
        for difference in covering {
            if !query.protocol_fits_family() {
                continue;
            }
            let clauses = difference.forms.map(|form| comparison.forms.clauses(form));
            if !clauses.iter().any(|clauses| is_conditional(clauses)) {
                assert_eq!(kind, Some(difference.kind), "seed {seed}: {query:?} does not differ");
            }
        }
    }
    comparison.differences.len()
}

#[test]
fn every_difference_is_found_and_every_one_found_is_met_by_its_witness() {
    let mut differences = 0;
    for seed in 0..rounds() {
        let mut dice = Dice::new(seed);
        let conditional = dice.pick(&[1, 2, 1000]);
        let old = policy(&mut dice, conditional);
        let new = if dice.one_in(5) {
            policy(&mut dice, conditional)
        } else {
            changed(&mut dice, &old, conditional)
        };
        differences += compare_and_check(&mut dice, seed, &old, &new);
    }
    println!("{} pairs of policies, {differences} differences", rounds());
    assert!(differences > 0);
}

/// The same policy without these rules, which match nothing then but keep their numbers.
fn without(rules: &RuleSet, gone: &[RuleId]) -> RuleSet {
    let mut less = rules.clone();
    gone.iter().for_each(|rule| less.rules[rule.0 as usize].from.clear());
    less
}

/// Random packets, and all that a policy says to them.
fn outcomes(
    dice: &mut Dice,
    rules: &RuleSet,
    effects: &[u32],
    count: usize,
) -> Vec<(Query, Identity, Bits, Outcome, RuleId)> {
    let mut found = Vec::new();
    for _ in 0..count {
        let (query, identity) = (question(dice), identity(dice));
        let gates: Bits = [0, 1, 70].into_iter().filter(|_| dice.one_in(2)).collect();
        let decision =
            reference::judge(rules, &query, &Circumstances { who: Who::Known(&identity), gates: &gates });
        found.push((query, identity, gates, outcome(&decision, effects), decision.rule));
    }
    found
}

/// What a rule comes to when it decides.
fn own_outcome(rules: &RuleSet, rule: RuleId, effects: &[u32]) -> Outcome {
    match rules.rules[rule.0 as usize].action {
        Action::Allow => Outcome::Allow(effects[rule.0 as usize]),
        Action::Reject => Outcome::Reject,
        Action::Deny | Action::Pass => Outcome::Deny,
    }
}

#[test]
fn no_fault_is_found_where_there_is_none_and_none_is_missed() {
    let mut found = 0;
    for seed in 0..rounds() {
        let mut dice = Dice::new(seed ^ 0x5eed);
        let conditional = dice.pick(&[1, 2, 1000]);
        let mut rules = policy(&mut dice, conditional);
        // As written: only the synthetic rules of an audit waive floors, and they match nothing there.
        rules.rules.iter_mut().for_each(|rule| rule.waives_floors = false);
        let effects: Vec<u32> = rules.rules.iter().map(|_| dice.roll(4).saturating_sub(2) as u32).collect();
        let policy = Policy { rules: &rules, effects: &effects };
        let findings = survey::survey(policy, &Moments::new()).unwrap();
        found += findings.len();
        let dispensable: Vec<RuleId> = findings
            .iter()
            .filter(|finding| matches!(finding.fault, Fault::Redundant(_) | Fault::DeniesNothing))
            .map(|finding| finding.rule)
            .collect();
        let less = without(&rules, &dispensable);
        for (query, identity, gates, before, decider) in outcomes(&mut dice, &rules, &effects, 30) {
            let circumstances = Circumstances { who: Who::Known(&identity), gates: &gates };
            let after = |rules: &RuleSet| outcome(&reference::judge(rules, &query, &circumstances), &effects);
            assert_eq!(
                before,
                after(&less),
                "seed {seed}: {dispensable:?} together are not dispensable: {query:?}"
            );
            for finding in &findings {
                match &finding.fault {
                    Fault::NeverMatches | Fault::Unsatisfiable | Fault::FloorForbids | Fault::Shadowed(_) => {
                        let is_allow = rules.rules[finding.rule.0 as usize].action == Action::Allow;
                        let decides = decider == finding.rule
                            && (!is_allow || before == own_outcome(&rules, finding.rule, &effects));
                        assert!(!decides, "seed {seed}: {finding:?} decides {query:?}");
                    }
                    Fault::Pointless(aspect, _) => {
                        let mut looser = rules.clone();
                        let condition = rules.rules[finding.rule.0 as usize].condition.unwrap();
                        let condition = aspect.without(rules.condition(condition)).unwrap();
                        looser.conditions.push(condition);
                        looser.rules[finding.rule.0 as usize].condition =
                            Some(ConditionId(looser.conditions.len() as u32 - 1));
                        assert_eq!(before, after(&looser), "seed {seed}: {finding:?} {query:?}");
                    }
                    Fault::Redundant(_) | Fault::DeniesNothing => {}
                }
            }
        }
        // Whatever is not named does something, as an exact comparison shows.
        let named: Vec<RuleId> =
            findings.iter().filter(|f| !matches!(f.fault, Fault::Pointless(..))).map(|f| f.rule).collect();
        for rule in (0..rules.rules.len() as u32).map(RuleId).filter(|rule| !named.contains(rule)) {
            // Together with what is dispensable, or as things stand: what does nothing only once the dispensable is gone is
            // named by the next look.
            let changes = |before: &RuleSet, gone: &[RuleId]| {
                let (before, after) = (Policy { rules: before, effects: &effects }, without(&rules, gone));
                let after = Policy { rules: &after, effects: &effects };
                !compare(before, after, &Moments::new()).unwrap().differences.is_empty()
            };
            let matters = changes(&less, &[&dispensable[..], &[rule]].concat()) || changes(&rules, &[rule]);
            assert!(matters, "seed {seed}: {rule:?} does nothing and is not named");
        }
    }
    println!("{} policies, {found} findings", rounds());
    assert!(found > 0);
}
