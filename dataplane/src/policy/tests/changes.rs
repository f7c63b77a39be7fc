//! Policies made from the one before, against those compiled from scratch and the reference evaluator.

use super::super::change::changed;
use super::super::rules::MAX_TIERS;
use super::conditional::{bits, conditional, person, who};
use super::*;

/// One change of a rule set. Rules that come are like others that are there, but for what is given.
#[derive(Clone, Debug)]
enum Edit {
    /// A rule from where this one is to where that one is, put before this one.
    Insert([Index; 3], Vec<Service>, Action),
    Remove(Index),
    /// Other services.
    Serve(Index, Vec<Service>),
    /// To another place in the order, as with another name.
    Move(Index, Index),
    /// Another tier.
    Lift(Index, u8),
    /// Other segments, which may tell apart what was one class.
    Aim(Index, Vec<Index>),
    /// No rule: a segment behind other ports.
    Plug(Index, u8),
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<Index>;
    let services = || prop::collection::vec(service(), 0..4);
    prop_oneof![
        5 => ([index(), index(), index()], services(), action())
            .prop_map(|(places, services, action)| Edit::Insert(places, services, action)),
        5 => index().prop_map(Edit::Remove),
        5 => (index(), services()).prop_map(|(rule, services)| Edit::Serve(rule, services)),
        3 => (index(), index()).prop_map(|(rule, to)| Edit::Move(rule, to)),
        1 => (index(), 0..MAX_TIERS).prop_map(|(rule, tier)| Edit::Lift(rule, tier)),
        1 => (index(), prop::collection::vec(index(), 0..3)).prop_map(|(rule, to)| Edit::Aim(rule, to)),
        1 => (index(), 0..3u8).prop_map(|(segment, port)| Edit::Plug(segment, port)),
    ]
}

fn apply(rules: &mut RuleSet, edit: &Edit) {
    let (count, segments) = (rules.rules.len(), rules.segments.len());
    match edit {
        Edit::Plug(segment, port) => rules.segments[segment.index(segments)].ports = vec![PortId(*port)],
        _ if count == 0 => {}
        Edit::Insert([place, from, to], services, action) => {
            let (from, to) = (&rules.rules[from.index(count)], &rules.rules[to.index(count)]);
            let (from, to) = (from.from.clone(), to.to.clone());
            let rule = Rule { from, to, services: services.clone(), action: *action, ..Rule::default() };
            rules.rules.insert(place.index(count), rule);
        }
        Edit::Remove(rule) => drop(rules.rules.remove(rule.index(count))),
        Edit::Serve(rule, services) => rules.rules[rule.index(count)].services.clone_from(services),
        Edit::Move(rule, to) => {
            let rule = rules.rules.remove(rule.index(count));
            rules.rules.insert(to.index(count), rule);
        }
        Edit::Lift(rule, tier) => rules.rules[rule.index(count)].tier = *tier,
        Edit::Aim(rule, to) => {
            rules.rules[rule.index(count)].to =
                to.iter().map(|s| SegmentId(s.index(segments) as u32)).collect();
        }
    }
}

/// Sets of plain rules, of all kinds, and of plain ones with a few others.
fn any_rule_set() -> impl Strategy<Value = RuleSet> {
    let few = conditional().prop_map(|mut rules| {
        for (index, rule) in rules.rules.iter_mut().enumerate().filter(|(index, _)| !index.is_multiple_of(8))
        {
            (rule.tier, rule.condition) = (0, None);
            rule.action = if rule.action == Action::Pass { Action::Allow } else { rule.action };
            rule.waives_floors &= index.is_multiple_of(2);
        }
        for segment in rules.segments.iter_mut().skip(1) {
            (segment.floor, segment.floor_out) = (None, None);
        }
        rules
    });
    prop_oneof![2 => rule_set(), 1 => conditional(), 2 => few]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_changed_policy_decides_like_one_compiled_from_scratch(
        mut rules in any_rule_set(),
        steps in prop::collection::vec(prop::collection::vec(edit(), 1..4), 1..8),
        picks in picks(),
        person in person(),
        gates in bits(),
    ) {
        let circumstances = Circumstances { who: who(&person), gates: &gates };
        let mut policy = compile(&rules).unwrap();
        for edits in steps {
            let mut next = rules.clone();
            edits.iter().for_each(|edit| apply(&mut next, edit));
            // Each from the one before, which was itself made like this.
            policy = recompile(&policy, &rules, &next).unwrap();
            rules = next;
            prop_assert_eq!(policy.rule_count(), rules.rules.len());
            for query in queries(&rules, &picks) {
                let expected = reference::judge(&rules, &query, &circumstances);
                prop_assert_eq!(policy.judge_in(&query, &circumstances), expected, "{:?} of {:?}", query, edits);
            }
        }
        let scratch = compile(&rules).unwrap();
        for query in queries(&rules, &picks) {
            prop_assert_eq!(policy.judge_in(&query, &circumstances), scratch.judge_in(&query, &circumstances));
        }
    }
}

/// Segment *n* is 10.0.*n*.0/24 behind port 0; 1,000 rules between them in pairs, each with ports of its own.
fn many_rules() -> RuleSet {
    let segments = (0..20).map(|n| segment(&[0], &[&format!("10.0.{n}.0/24")])).collect();
    let rules =
        (0..1000).map(|n| rule(n % 20, n / 20 % 20, &[Service::Tcp(n as u16, n as u16 + 5)], Action::Allow));
    RuleSet { segments, rules: rules.collect(), ..RuleSet::default() }
}

/// All that the rules of [`many_rules`] can decide, asked of both.
fn assert_decides_alike(policy: &Policy, rules: &RuleSet) {
    let scratch = compile(rules).unwrap();
    for (from, to) in (0..20).flat_map(|from| (0..20).map(move |to| (from, to))) {
        for port in (0..1100).step_by(3) {
            let query = tcp(0, &format!("10.0.{from}.1"), &format!("10.0.{to}.1"), port);
            assert_eq!(policy.judge(&query), scratch.judge(&query), "{query:?}");
        }
    }
}

#[test]
fn a_rule_more_one_less_and_another_one_are_made_from_the_policy_before() {
    let old = many_rules();
    let before = compile(&old).unwrap();
    let other = rule(3, 4, &[Service::Tcp(30, 900)], Action::Deny);
    let edits: [fn(&mut Vec<Rule>, Rule); 6] = [
        |rules, other| rules.insert(0, other),
        |rules, other| rules.insert(500, other),
        |rules, other| rules.push(other),
        |rules, _| drop(rules.remove(500)),
        |rules, other| rules[500] = other,
        |rules, other| {
            rules[10] = other.clone();
            rules.remove(400);
            rules.insert(990, other);
        },
    ];
    for edit in edits {
        let mut new = old.clone();
        edit(&mut new.rules, other.clone());
        let policy = changed(&before, &old, &new).expect("only a rule or two differ");
        assert_decides_alike(&policy, &new);
        // And back again.
        let policy = changed(&policy, &new, &old).expect("only a rule or two differ");
        assert_decides_alike(&policy, &old);
    }
    let same = changed(&before, &old, &old).expect("nothing differs");
    assert_decides_alike(&same, &old);
}

#[test]
fn what_needs_more_than_some_cells_is_compiled_from_scratch() {
    let old = many_rules();
    let before = compile(&old).unwrap();
    let edits: [fn(&mut RuleSet); 7] = [
        |rules| rules.segments[3].ports.push(PortId(1)),
        |rules| rules.segments[3].networks.push(net("10.9.0.0/24")),
        |rules| rules.conditions.push(Condition::default()),
        |rules| rules.rules[3].tier = 1,
        |rules| drop(rules.rules.drain(100..200)),
        |rules| rules.rules.reverse(),
        |rules| rules.rules[3].action = Action::Pass,
    ];
    for edit in edits {
        let mut new = old.clone();
        edit(&mut new);
        assert!(changed(&before, &old, &new).is_none());
        assert_decides_alike(&recompile(&before, &old, &new).unwrap(), &new);
    }
    // Segments 0 and 1 are one class until a rule names one of them alone.
    let mut old = old;
    for rule in &mut old.rules {
        rule.from = vec![SegmentId(0), SegmentId(1)];
    }
    let before = compile(&old).unwrap();
    let mut new = old.clone();
    new.rules[0].from.pop();
    assert!(changed(&before, &old, &new).is_none());
    assert_decides_alike(&recompile(&before, &old, &new).unwrap(), &new);
}

#[test]
fn a_changed_rule_set_is_refused_as_when_compiled_from_scratch() {
    let old = many_rules();
    let before = compile(&old).unwrap();
    let edits: [fn(&mut Rule); 4] = [
        |rule| rule.to.push(SegmentId(20)),
        |rule| rule.services.push(Service::Udp(2, 1)),
        |rule| rule.tier = MAX_TIERS,
        |rule| rule.condition = Some(ConditionId(0)),
    ];
    for edit in edits {
        let mut new = old.clone();
        edit(&mut new.rules[77]);
        let error = recompile(&before, &old, &new).unwrap_err();
        assert_eq!(error, compile(&new).unwrap_err());
    }
}

#[test]
fn limits_are_not_passed_change_by_change() {
    let old = many_rules();
    let mut new = old.clone();
    new.rules.push(rule(3, 4, &[Service::Any], Action::Allow));
    let before = compile(&old).unwrap();
    let near: [fn(&mut Bounds); 2] =
        [|bounds| bounds.covered = compile::MAX_COVERED, |bounds| bounds.pieces = compile::MAX_PIECES];
    for near in near {
        let mut before = before.clone();
        near(&mut before.bounds);
        assert!(changed(&before, &old, &new).is_none());
    }
    // Compiled from scratch it counts again what there really is.
    let (changed, scratch) = (changed(&before, &old, &new).unwrap(), compile(&new).unwrap());
    assert!(
        changed.bounds.covered >= scratch.bounds.covered && changed.bounds.pieces >= scratch.bounds.pieces
    );
}

#[test]
fn what_changes_leave_behind_is_swept_away_from_time_to_time() {
    let mut rules = many_rules();
    let scratch = compile(&rules).unwrap();
    let (policies, pieces) = (scratch.policies.len(), scratch.tables.len());
    let mut policy = scratch;
    let mut most = 0;
    for round in 0..4000u16 {
        let mut next = rules.clone();
        next.rules[usize::from(round) % 1000].services = vec![Service::Udp(round, round)];
        policy = recompile(&policy, &rules, &next).unwrap();
        rules = next;
        most = most.max(policy.policies.len());
        assert!(policy.tables.len() < pieces + 2 * 16 * (policies + 4096), "{}", policy.tables.len());
    }
    assert!((policies + 500..policies + 4096).contains(&most), "{most} policies where {policies} would do");
    assert_decides_alike(&policy, &rules);
}

#[test]
fn what_an_earlier_change_left_behind_does_not_trouble_a_later_one() {
    // The last rule goes, which leaves all numbers as they are, and then another one goes before its own was.
    let old = many_rules();
    let mut new = old.clone();
    new.rules.pop();
    let mut last = new.clone();
    last.rules.remove(5);
    let policy = changed(&compile(&old).unwrap(), &old, &new).unwrap();
    let policy = changed(&policy, &new, &last).unwrap();
    assert_decides_alike(&policy, &last);
}
