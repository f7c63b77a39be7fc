//! Conditions, tiers, passing and floors: the compiled policy against the reference evaluator, and what must be true of
//! both whatever they say.

use super::super::conditions::*;
use super::super::rules::MAX_TIERS;
use super::*;

/// Few numbers, so that what is asked for and what is known meet.
fn few() -> impl Strategy<Value = u32> {
    select(vec![0, 1, 2, 70])
}

pub(super) fn bits() -> impl Strategy<Value = Bits> {
    prop::collection::vec(few(), 0..4).prop_map(Bits::from_iter)
}

fn users() -> impl Strategy<Value = Users> {
    let ids = || prop::collection::btree_set(few(), 0..3);
    (ids(), ids()).prop_map(|(users, groups)| Users {
        users: users.into_iter().map(UserId).collect(),
        groups: groups.into_iter().map(GroupId).collect(),
    })
}

fn condition() -> impl Strategy<Value = Condition> {
    let devices = (any::<bool>(), prop::collection::vec(few().prop_map(TagId), 0..2))
        .prop_map(|(enrolled, tags)| Devices { enrolled, tags });
    (
        prop::collection::vec(few().prop_map(GateId), 0..2),
        prop::option::of(users()),
        prop::option::weighted(0.2, devices),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.3, select(vec![60, 3600])),
        prop::collection::vec((0..2u32).prop_map(PostureId), 0..2),
        prop::option::weighted(0.3, select(vec![20, 50])),
    )
        .prop_map(|(gates, users, devices, phishing_resistant, mfa_max_age_s, postures, risk_below)| {
            Condition { gates, users, devices, phishing_resistant, mfa_max_age_s, postures, risk_below }
        })
}

/// Some that ask for everything, for the user, for the time and for nothing, so that every action finds one.
fn conditions() -> impl Strategy<Value = Vec<Condition>> {
    let of_users = (users(), prop::collection::vec(few().prop_map(GateId), 0..2))
        .prop_map(|(users, gates)| Condition { users: Some(users), gates, ..Condition::default() });
    let of_time = prop::collection::vec(few().prop_map(GateId), 1..3)
        .prop_map(|gates| Condition { gates, ..Condition::default() });
    let any = prop_oneof![4 => condition(), 2 => of_users, 2 => of_time, 1 => Just(Condition::default())];
    prop::collection::vec(any, 0..8)
}

fn fits(action: Action, condition: &Condition) -> bool {
    match action {
        Action::Allow => true,
        Action::Reject | Action::Deny => !condition.asks_for_proof(),
        Action::Pass => !condition.asks_for_identity(),
    }
}

/// What makes a rule and a segment of [`rule_set`] conditional.
type Twist = (u8, bool, bool, Option<Index>);
type Floors = (Option<Index>, Option<Index>);

/// As [`rule_set`], with wide rules that meet, and all that is conditional.
pub(super) fn conditional() -> impl Strategy<Value = RuleSet> {
    let wide = (prop::collection::vec(service(), 1..3), action());
    let twist = (
        select(vec![0, 0, 1, 2, MAX_TIERS - 1]),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.6, any::<Index>()),
    );
    let floor = || prop::option::weighted(0.3, any::<Index>());
    (
        rule_set(),
        conditions(),
        prop::collection::vec(wide, 0..12),
        prop::collection::vec(twist, 60),
        prop::collection::vec((floor(), floor()), 10),
    )
        .prop_map(|(rules, conditions, wide, twists, floors)| {
            twisted(rules, conditions, wide, &twists, &floors)
        })
}

fn twisted(
    mut rules: RuleSet,
    conditions: Vec<Condition>,
    wide: Vec<(Vec<Service>, Action)>,
    twists: &[Twist],
    floors: &[Floors],
) -> RuleSet {
    let all: Vec<SegmentId> = (0..rules.segments.len() as u32).map(SegmentId).collect();
    rules.rules.extend(wide.into_iter().map(|(services, action)| Rule {
        from: all.clone(),
        to: all.clone(),
        services,
        action,
        ..Rule::default()
    }));
    let pick = |index: &Option<Index>, action| {
        let fitting: Vec<u32> =
            (0..).zip(&conditions).filter(|(_, c)| fits(action, c)).map(|(id, _)| id).collect();
        index.filter(|_| !fitting.is_empty()).map(|index| ConditionId(*index.get(&fitting)))
    };
    for (rule, (tier, passes, waives, condition)) in rules.rules.iter_mut().zip(twists) {
        rule.tier = *tier;
        rule.action = if *passes { Action::Pass } else { rule.action };
        rule.waives_floors = *waives;
        rule.condition = pick(condition, rule.action);
    }
    for (segment, (floor, floor_out)) in rules.segments.iter_mut().zip(floors) {
        segment.floor = pick(floor, Action::Allow);
        segment.floor_out = pick(floor_out, Action::Allow);
    }
    rules.conditions = conditions;
    rules
}

fn identity() -> impl Strategy<Value = Identity> {
    let device = (any::<bool>(), bits()).prop_map(|(enrolled, tags)| Device { enrolled, tags });
    let posture = select(vec![Posture::Unknown, Posture::Failed, Posture::Met, Posture::Met]);
    (
        prop::option::weighted(0.8, few().prop_map(UserId)),
        bits(),
        prop::option::of(device),
        prop::option::weighted(0.8, select(vec![0, 60, 61, 3600, 3601])),
        any::<bool>(),
        prop::collection::vec(posture, 0..3),
        prop::option::weighted(0.8, select(vec![0, 19, 20, 49, 50, 100])),
    )
        .prop_map(|(user, groups, device, mfa_age_s, phishing_resistant, postures, risk)| Identity {
            user,
            groups,
            device,
            mfa_age_s,
            phishing_resistant,
            postures,
            risk,
        })
}

/// `None` and `Some(None)`: nobody, and somebody whose session has ended.
pub(super) type Person = Option<Option<Identity>>;

pub(super) fn person() -> impl Strategy<Value = Person> {
    prop::option::weighted(0.9, prop::option::weighted(0.9, identity()))
}

pub(super) fn who(person: &Person) -> Who<'_> {
    match person {
        None => Who::Nobody,
        Some(None) => Who::Expired,
        Some(Some(identity)) => Who::Known(identity),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn compiled_and_reference_agree_in_all_circumstances(
        rules in conditional(),
        picks in picks(),
        people in prop::collection::vec((person(), bits()), 1..6),
    ) {
        let mut policy = compile(&rules).unwrap();
        for query in queries(&rules, &picks) {
            for (person, gates) in &people {
                let circumstances = Circumstances { who: who(person), gates };
                let expected = reference::judge(&rules, &query, &circumstances);
                prop_assert_eq!(policy.judge_in(&query, &circumstances), expected, "{:?} {:?}", query, circumstances);
            }
            // By itself it knows nobody, and the gates it was given.
            policy.set_gates(people[0].1.clone());
            let circumstances = Circumstances { who: Who::Nobody, gates: &people[0].1 };
            prop_assert_eq!(policy.judge(&query), reference::judge(&rules, &query, &circumstances), "{:?}", query);
        }
    }
}

/// One thing less that is known of somebody.
fn less(identity: &Identity, what: u8) -> Option<Identity> {
    let mut less = identity.clone();
    match what {
        0 => return None,
        1 => less.user = None,
        2 => less.device = None,
        3 => less.device = less.device.map(|device| Device { enrolled: false, ..device }),
        4 => less.mfa_age_s = None,
        5 => less.phishing_resistant = false,
        6 => less.postures.clear(),
        7 => less.risk = None,
        _ => less.device = less.device.map(|device| Device { tags: Bits::default(), ..device }),
    }
    Some(less)
}

/// Of each question whether it is allowed.
fn allowed(rules: &RuleSet, queries: &[Query], circumstances: &Circumstances<'_>) -> Vec<bool> {
    let policy = compile(rules).unwrap();
    queries.iter().map(|query| policy.judge_in(query, circumstances).allows()).collect()
}

/// A rule between all segments about everything, in this tier.
fn everything(rules: &RuleSet, action: Action, tier: u8) -> Rule {
    let all: Vec<SegmentId> = (0..rules.segments.len() as u32).map(SegmentId).collect();
    Rule { from: all.clone(), to: all, services: vec![Service::Any], action, tier, ..Rule::default() }
}

fn never_more(before: &[bool], after: &[bool]) -> bool {
    before.iter().zip(after).all(|(before, after)| *before || !after)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_order_of_conditional_rules_never_changes_a_verdict(
        (rules, order) in conditional().prop_flat_map(|rules| {
            let order: Vec<usize> = (0..rules.rules.len()).collect();
            (Just(rules), Just(order).prop_shuffle())
        }),
        picks in picks(),
        person in person(),
        gates in bits(),
    ) {
        let circumstances = Circumstances { who: who(&person), gates: &gates };
        let shuffled = order.iter().map(|rule| rules.rules[*rule].clone()).collect();
        let shuffled = RuleSet { rules: shuffled, ..rules.clone() };
        let (policy, shuffled) = (compile(&rules).unwrap(), compile(&shuffled).unwrap());
        for query in queries(&rules, &picks) {
            let after = shuffled.judge_in(&query, &circumstances);
            prop_assert_eq!(policy.judge_in(&query, &circumstances).refusal, after.refusal, "{:?}", query);
        }
    }

    #[test]
    fn knowing_less_never_gains_access(
        rules in conditional(),
        picks in picks(),
        identity in identity(),
        what in 0..9u8,
        gates in bits(),
    ) {
        let queries = queries(&rules, &picks);
        let says = |who| allowed(&rules, &queries, &Circumstances { who, gates: &gates });
        let before = says(Who::Known(&identity));
        let after = match &less(&identity, what) {
            Some(less) => says(Who::Known(less)),
            None => {
                let nobody = says(Who::Nobody);
                prop_assert_eq!(&nobody, &says(Who::Expired), "an ended session is as good as none");
                nobody
            }
        };
        prop_assert!(never_more(&before, &after));
    }

    #[test]
    fn a_floor_never_allows_more_and_no_rule_escapes_it(
        mut rules in conditional(),
        picks in picks(),
        person in person(),
        gates in bits(),
        (segment, floor) in (any::<Index>(), condition()),
    ) {
        // But those that waive floors, as an audited pair does.
        rules.rules.iter_mut().for_each(|rule| rule.waives_floors = false);
        let circumstances = Circumstances { who: who(&person), gates: &gates };
        let queries = queries(&rules, &picks);
        let before = allowed(&rules, &queries, &circumstances);
        let segment = SegmentId(segment.index(rules.segments.len()) as u32);
        let is_met = floor.unmet(&circumstances).is_none();
        let added = Some(ConditionId(rules.conditions.len() as u32));
        rules.conditions.push(floor);
        for (is_in, change) in [(true, &mut rules.clone()), (false, &mut rules.clone())] {
            let changed = &mut change.segments[segment.0 as usize];
            // A floor that replaces another may well allow more.
            if is_in && changed.floor.is_none() {
                changed.floor = added;
            } else if !is_in && changed.floor_out.is_none() {
                changed.floor_out = added;
            } else {
                continue;
            }
            let after = allowed(change, &queries, &circumstances);
            prop_assert!(never_more(&before, &after));
            for (query, allowed) in queries.iter().zip(after) {
                let end = if is_in { query.destination } else { query.source };
                let is_bound = reference::segment_of(change, end) == Some(segment);
                prop_assert!(is_met || !is_bound || !allowed, "{:?} escapes the floor", query);
            }
        }
    }

    #[test]
    fn to_pass_in_the_last_tier_never_allows_more(
        mut rules in conditional(),
        picks in picks(),
        person in person(),
        gates in bits(),
    ) {
        let circumstances = Circumstances { who: who(&person), gates: &gates };
        let queries = queries(&rules, &picks);
        let before = allowed(&rules, &queries, &circumstances);
        rules.rules.push(everything(&rules, Action::Pass, MAX_TIERS - 1));
        prop_assert!(never_more(&before, &allowed(&rules, &queries, &circumstances)));
    }

    #[test]
    fn what_a_tier_has_decided_no_later_one_changes(
        mut rules in conditional(),
        picks in picks(),
        person in person(),
        gates in bits(),
        action in action(),
    ) {
        // The last tier of all stays free for the rule that comes.
        rules.rules.iter_mut().for_each(|rule| rule.tier = rule.tier.min(MAX_TIERS - 2));
        let circumstances = Circumstances { who: who(&person), gates: &gates };
        let before = compile(&rules).unwrap();
        rules.rules.push(everything(&rules, action, MAX_TIERS - 1));
        let after = compile(&rules).unwrap();
        for query in queries(&rules, &picks) {
            let decision = before.judge_in(&query, &circumstances);
            if decision.decided_by() != RuleId::NONE {
                prop_assert_eq!(after.judge_in(&query, &circumstances), decision, "{:?}", query);
            }
        }
    }

    #[test]
    fn an_explanation_names_what_alone_stood_in_the_way(
        rules in conditional(),
        picks in picks(),
        person in person(),
        gates in bits(),
    ) {
        let circumstances = Circumstances { who: who(&person), gates: &gates };
        let policy = compile(&rules).unwrap();
        let mut without_floors = rules.clone();
        for segment in &mut without_floors.segments {
            (segment.floor, segment.floor_out) = (None, None);
        }
        let mut allow_only = rules.clone();
        for rule in allow_only.rules.iter_mut().filter(|rule| rule.action != Action::Allow) {
            rule.services.clear();
        }
        for query in queries(&rules, &picks) {
            let told = explain(&rules, &query, &circumstances);
            prop_assert_eq!(told.decision, policy.judge_in(&query, &circumstances));
            if let (Some(reason), RuleId::NONE) = (told.decision.refusal, told.decision.decided_by())
                && told.decision.rule != RuleId::NONE
            {
                let nearest = (told.decision.rule, Clause::Condition(reason));
                prop_assert_eq!(told.near_misses.first(), Some(&nearest));
            }
            for (id, clause) in told.near_misses {
                let rule = &rules.rules[id.0 as usize];
                let judge = |rules: &RuleSet| reference::judge(rules, &query, &circumstances);
                match clause {
                    Clause::Condition(_) => {
                        let mut met = without_floors.clone();
                        met.rules[id.0 as usize].condition = None;
                        prop_assert!(judge(&met).allows(), "{:?} {:?}", query, id);
                    }
                    Clause::Overruled(by) => {
                        let by = &rules.rules[by.0 as usize];
                        prop_assert!(by.action != Action::Allow && by.tier <= rule.tier);
                        prop_assert!(judge(&allow_only).allows(), "{:?} {:?}", query, id);
                    }
                    Clause::Service | Clause::To | Clause::From => {
                        let from = told.source_segment.is_some_and(|s| rule.from.contains(&s));
                        let to = told.destination_segment.is_some_and(|s| rule.to.contains(&s));
                        let matches = (from, to, reference::service_matches(rule, &query));
                        let expected = (clause != Clause::From, clause != Clause::To, clause != Clause::Service);
                        prop_assert_eq!(matches, expected);
                        let own = rule.condition.map(|id| rules.condition(id).unmet(&circumstances));
                        prop_assert_eq!(own.flatten(), None, "its own condition fails besides");
                    }
                }
            }
        }
    }
}

/// Rules from web to db, each of its own tier, action and condition.
fn conditional_rules(rules: Vec<Rule>, conditions: Vec<Condition>) -> RuleSet {
    RuleSet { conditions, ..two_segments(rules) }
}

fn members_of(group: u32) -> Condition {
    let users = Some(Users { users: vec![], groups: vec![GroupId(group)] });
    Condition { users, ..Condition::default() }
}

fn of_groups(count: u32, services: &[Service]) -> RuleSet {
    let of = |group| Rule { condition: Some(ConditionId(group)), ..rule(0, 1, services, Action::Allow) };
    conditional_rules((0..count).map(of).collect(), (0..count).map(members_of).collect())
}

#[test]
fn as_many_rules_of_different_groups_may_meet_at_a_port_as_the_limit_says() {
    let most = compile::MAX_ALTERNATIVES as u32;
    let rules = of_groups(most, &[Service::Tcp(443, 443)]);
    let policy = compile(&rules).unwrap();
    let last =
        Identity { user: Some(UserId::OTHER), groups: Bits::from_iter([most - 1]), ..Identity::default() };
    let circumstances = Circumstances { who: Who::Known(&last), gates: Bits::NONE };
    assert_eq!(policy.judge_in(&tcp(0, WEB, DB, 443), &circumstances), allowed_by(most - 1));
    let rules = of_groups(most + 1, &[Service::Tcp(443, 443)]);
    assert_eq!(compile(&rules).unwrap_err(), CompileError::TooManyAlternatives(RuleId(most)));
    // At different ports there may be any number.
    let mut rules = of_groups(2 * most, &[]);
    for (rule, port) in rules.rules.iter_mut().zip(1..) {
        rule.services.push(Service::Tcp(port, port));
    }
    assert!(compile(&rules).is_ok());
}

#[test]
fn rules_that_meet_in_too_many_combinations_are_refused() {
    let mut rules = of_groups(1000, &[Service::Tcp(0, u16::MAX)]);
    let ports = (0..20_000).map(|port| Service::Tcp(3 * port, 3 * port)).collect();
    rules.rules.push(Rule { services: ports, tier: 1, ..rule(0, 1, &[], Action::Allow) });
    assert!(matches!(compile(&rules), Err(CompileError::TooManyClauses(_))));
}

#[test]
fn what_is_unconditional_is_kept_as_plainly_as_without_tiers_and_passing() {
    let at = |tier, action| Rule { tier, ..rule(0, 1, &[Service::Any], action) };
    let rules = conditional_rules(
        vec![
            Rule { condition: Some(ConditionId(0)), ..at(0, Action::Allow) },
            at(0, Action::Pass),
            at(1, Action::Deny),
            at(2, Action::Allow),
            Rule { condition: Some(ConditionId(0)), ..at(1, Action::Deny) },
        ],
        vec![members_of(0)],
    );
    let policy = compile(&rules).unwrap();
    assert_eq!(policy.clauses.len(), 0, "no list is needed");
    assert_eq!(policy.judge(&tcp(0, WEB, DB, 80)), Decision::by(RuleId(2), Action::Deny));
}

#[test]
fn conditions_that_do_not_exist_or_stand_in_the_wrong_place_are_named() {
    let with = |condition, action, tier| {
        let rule = Rule { condition, tier, ..rule(0, 1, &[Service::Any], action) };
        let proof = Condition { risk_below: Some(1), ..Condition::default() };
        compile(&conditional_rules(vec![rule], vec![members_of(0), proof])).map(|_| ())
    };
    let (user, proof) = (Some(ConditionId(0)), Some(ConditionId(1)));
    assert_eq!(
        with(Some(ConditionId(2)), Action::Allow, 0),
        Err(CompileError::UnknownCondition(ConditionId(2)))
    );
    assert_eq!(with(None, Action::Allow, MAX_TIERS), Err(CompileError::UnknownTier(RuleId(0))));
    assert_eq!(with(proof, Action::Deny, 0), Err(CompileError::MisplacedCondition(RuleId(0))));
    assert_eq!(with(user, Action::Pass, 0), Err(CompileError::MisplacedCondition(RuleId(0))));
    assert_eq!((with(user, Action::Deny, 0), with(proof, Action::Allow, MAX_TIERS - 1)), (Ok(()), Ok(())));
    let mut rules = conditional_rules(vec![], vec![]);
    rules.segments[0].floor_out = proof;
    assert_eq!(compile(&rules).unwrap_err(), CompileError::UnknownCondition(ConditionId(1)));
}

#[test]
fn an_explanation_names_the_demand_the_stronger_rule_and_the_earlier_tier() {
    let at = |tier, action, condition| Rule { tier, condition, ..rule(0, 1, &[Service::Any], action) };
    let (staff, mfa) = (Some(ConditionId(0)), Some(ConditionId(1)));
    let mfa_condition = Condition { mfa_max_age_s: Some(60), ..Condition::default() };
    let told = |rules: Vec<Rule>, who| {
        let rules = conditional_rules(rules, vec![members_of(0), mfa_condition.clone()]);
        explain(&rules, &tcp(0, WEB, DB, 80), &Circumstances { who, gates: Bits::NONE })
    };
    let user = Identity { user: Some(UserId::OTHER), ..Identity::default() };
    let allow = |condition| at(1, Action::Allow, condition);
    let unmet = told(vec![allow(staff), allow(mfa)], Who::Known(&user));
    assert_eq!(unmet.decision, Decision::unmet(RuleId(1), Reason::MfaMissing));
    let expected = [
        (RuleId(1), Clause::Condition(Reason::MfaMissing)),
        (RuleId(0), Clause::Condition(Reason::NotInGroup)),
    ];
    assert_eq!(unmet.near_misses, expected);
    // Of two clauses that fail none is the one: the rule for staff is told of only when nothing else decides.
    let overruled = told(vec![allow(staff), allow(None), at(1, Action::Deny, None)], Who::Nobody);
    assert_eq!(overruled.near_misses, [(RuleId(1), Clause::Overruled(RuleId(2)))]);
    let earlier =
        told(vec![allow(None), at(0, Action::Reject, staff), at(1, Action::Pass, None)], Who::Nobody);
    assert_eq!(earlier.decision, Decision::by(RuleId(1), Action::Reject));
    assert_eq!(earlier.near_misses, [(RuleId(0), Clause::Overruled(RuleId(1)))]);
    let passed = told(vec![allow(None), at(1, Action::Pass, None)], Who::Nobody);
    assert_eq!(passed.decision, Decision::refused(Reason::NoRule));
    assert_eq!(passed.near_misses, [(RuleId(0), Clause::Overruled(RuleId(1)))]);
}

#[test]
fn an_explanation_asked_a_rule_that_waives_floors_for_the_floor() {
    let calm = Condition { risk_below: Some(1), ..Condition::default() };
    let fresh = Condition { mfa_max_age_s: Some(60), ..Condition::default() };
    let allow = rule(0, 1, &[Service::Any], Action::Allow);
    let waiving = Rule { waives_floors: true, condition: Some(ConditionId(0)), ..allow };
    let mut rules = conditional_rules(vec![waiving], vec![calm, fresh]);
    rules.segments[1].floor = Some(ConditionId(1));
    let user = Identity { user: Some(UserId::OTHER), ..Identity::default() };
    let circumstances = Circumstances { who: Who::Known(&user), gates: Bits::NONE };
    let told = explain(&rules, &tcp(0, WEB, DB, 80), &circumstances);
    assert_eq!(told.decision, Decision::unmet(RuleId(0), Reason::RiskUnknown));
    assert_eq!(told.near_misses, [(RuleId(0), Clause::Condition(Reason::RiskUnknown))]);
}
