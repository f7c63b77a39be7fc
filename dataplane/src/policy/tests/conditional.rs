//! Conditions, tiers, passing and floors: the compiled policy against the reference evaluator, and what must be true of
//! both whatever they say.

use super::super::conditions::*;
use super::super::rules::MAX_TIERS;
use super::*;

/// Few numbers, so that what is asked for and what is known meet.
fn few() -> impl Strategy<Value = u32> {
    select(vec![0, 1, 2, 70])
}

fn bits() -> impl Strategy<Value = Bits> {
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
type Twist = (u8, bool, Option<Index>);
type Floors = (Option<Index>, Option<Index>);

/// As [`rule_set`], with wide rules that meet, and all that is conditional.
fn conditional() -> impl Strategy<Value = RuleSet> {
    let wide = (prop::collection::vec(service(), 1..3), action());
    let twist = (
        select(vec![0, 0, 1, 2, MAX_TIERS - 1]),
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
    for (rule, (tier, passes, condition)) in rules.rules.iter_mut().zip(twists) {
        rule.tier = *tier;
        rule.action = if *passes { Action::Pass } else { rule.action };
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
type Person = Option<Option<Identity>>;

fn person() -> impl Strategy<Value = Person> {
    prop::option::weighted(0.9, prop::option::weighted(0.9, identity()))
}

fn who(person: &Person) -> Who<'_> {
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
