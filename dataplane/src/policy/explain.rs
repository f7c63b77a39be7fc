//! Why a query is answered as it is, for people: the segments, the decision, and the rules that nearly allowed it.
//! The slow path: it walks the rules, like the [reference evaluator](super::reference) whose answer it gives.

use std::collections::BTreeMap;

use super::conditions::Circumstances;
use super::reference;
use super::restraints::Restraints;
use super::rules::{Action, Decision, Query, Rule, RuleSet, Service};
use crate::headers::protocol;
use crate::verdict::{Reason, RuleId, SegmentId};

/// What of a rule that allows did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clause {
    /// This is the first of its demands, or of the floors' of both segments, that is not known to be met.
    Condition(Reason),
    /// All of it holds, but this rule has the say: one of an earlier tier, or one that is stronger in its own tier,
    /// which may be one that passes.
    Overruled(RuleId),
    /// The protocol and port are in none of its services.
    Service,
    /// The destination is in none of its `to` segments.
    To,
    /// The source is in none of its `from` segments.
    From,
}

/// At most this many near misses are told.
pub const MAX_NEAR_MISSES: usize = 5;

/// All there is to say about a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The source's segment; `None` when the address may not enter by the port.
    pub source_segment: Option<SegmentId>,
    /// The destination's segment.
    pub destination_segment: Option<SegmentId>,
    /// The answer, the same as the compiled policy's.
    pub decision: Decision,
    /// When refused: allow rules that failed on this one clause only, the nearest first, at most
    /// [`MAX_NEAR_MISSES`]. Unmet demands come first, those met furthest at the top (so that the first is the rule that
    /// the decision names), then rules that are overruled, then the right pair of segments with the nearest port, then
    /// the right source, then the right destination; equals by rule id. Of an end in no segment no floor is asked.
    pub near_misses: Vec<(RuleId, Clause)>,
}

/// Judges the query and says why.
pub fn explain(rules: &RuleSet, query: &Query, circumstances: &Circumstances<'_>) -> Explanation {
    let source_segment = reference::source_segment(rules, query.ingress, query.source);
    let destination_segment = reference::destination_segment(rules, query);
    let decision = reference::judge(rules, query, circumstances);
    let mut near_misses = Vec::new();
    if !decision.allows() {
        let look = Look::new(rules, query, circumstances, [source_segment, destination_segment], decision);
        let all = (0..).map(RuleId).zip(&rules.rules).filter(|(_, rule)| rule.action == Action::Allow);
        let mut misses: Vec<(Distance, Clause)> = all.filter_map(|(id, rule)| look.miss(id, rule)).collect();
        misses.sort_unstable_by_key(|(distance, _)| *distance);
        misses.truncate(MAX_NEAR_MISSES);
        near_misses.extend(misses.into_iter().map(|((.., rule), clause)| (rule, clause)));
    }
    Explanation { source_segment, destination_segment, decision, near_misses }
}

/// How far a rule was from allowing: the kind of clause, how far off it was, the tier, and the rule.
type Distance = (u8, u32, u8, RuleId);

/// As [`explain`], with these addresses locked out or in quarantine: as in [`reference::judge_restrained`].
pub fn explain_restrained(
    rules: &RuleSet,
    restraints: &Restraints,
    query: &Query,
    circumstances: &Circumstances<'_>,
) -> Explanation {
    let decision = reference::judge_restrained(rules, restraints, query, circumstances);
    let free = explain(rules, query, circumstances);
    let is_nowhere = free.source_segment.is_none() || free.destination_segment.is_none();
    if is_nowhere || !restraints.quarantines(query) && restraints.refusal(query).is_none() {
        return free;
    }
    if restraints.refusal(query).is_some() {
        // No rule was asked.
        return Explanation { decision, near_misses: Vec::new(), ..free };
    }
    Explanation { decision, ..explain(rules, &restraints.seen_in(query), circumstances) }
}

/// A refused query, seen from the rules that do not allow it.
struct Look<'q> {
    rules: &'q RuleSet,
    query: &'q Query,
    circumstances: &'q Circumstances<'q>,
    source: Option<SegmentId>,
    destination: Option<SegmentId>,
    /// By tier, the strongest rule that holds and does not allow.
    stronger: BTreeMap<u8, (Action, RuleId)>,
    /// The deciding rule and its tier, if one decided.
    decided: Option<(u8, RuleId)>,
}

impl<'q> Look<'q> {
    fn new(
        rules: &'q RuleSet,
        query: &'q Query,
        circumstances: &'q Circumstances<'q>,
        [source, destination]: [Option<SegmentId>; 2],
        decision: Decision,
    ) -> Look<'q> {
        let decided = decision.decided_by().index().map(|index| (rules.rules[index].tier, decision.rule));
        let stronger = BTreeMap::new();
        let mut look = Look { rules, query, circumstances, source, destination, stronger, decided };
        for (id, rule) in (0..).map(RuleId).zip(&rules.rules).filter(|(_, rule)| rule.action != Action::Allow)
        {
            if look.matches(rule) == [true; 3] && look.unmet(rule).is_none() {
                let best = look.stronger.entry(rule.tier).or_insert((rule.action, id));
                // Strictly: of equals the lowest id stays.
                if rule.action > best.0 {
                    *best = (rule.action, id);
                }
            }
        }
        look
    }

    /// Whether it is from the source's segment, to the destination's, and about this service.
    fn matches(&self, rule: &Rule) -> [bool; 3] {
        let is_among =
            |segment: Option<SegmentId>, list: &[SegmentId]| segment.is_some_and(|s| list.contains(&s));
        [
            is_among(self.source, &rule.from),
            is_among(self.destination, &rule.to),
            reference::service_matches(rule, self.query),
        ]
    }

    /// Why the rule does not hold, if it is for its conditions or a floor; of a rule that does not allow, any reason.
    fn unmet(&self, rule: &Rule) -> Option<Reason> {
        let conditions = reference::conditions(self.rules, rule, self.source, self.destination);
        match reference::holds(rule.action, conditions, self.circumstances) {
            Ok(true) => None,
            Ok(false) => Some(Reason::NoRule),
            Err(unmet) => Some(unmet),
        }
    }

    /// How near a rule that allows came, if it failed on one clause only.
    fn miss(&self, id: RuleId, rule: &Rule) -> Option<(Distance, Clause)> {
        let unmet = self.unmet(rule);
        let stronger = self.stronger.get(&rule.tier).map(|(_, id)| *id);
        let earlier = self.decided.filter(|(tier, _)| *tier < rule.tier).map(|(_, id)| id);
        let at = |kind, distance| (kind, distance, 0, id);
        Some(match (self.matches(rule), unmet, earlier.or(stronger)) {
            ([true, true, true], Some(unmet), None) => {
                let distance = (Reason::COUNT - unmet as usize) as u32;
                ((0, distance, rule.tier, id), Clause::Condition(unmet))
            }
            ([true, true, true], None, Some(by)) => (at(1, 0), Clause::Overruled(by)),
            ([true, true, false], None, _) => (at(2, port_distance(rule, self.query)), Clause::Service),
            ([true, false, true], None, _) => (at(3, 0), Clause::To),
            ([false, true, true], None, _) => (at(4, 0), Clause::From),
            _ => return None,
        })
    }
}

/// How far the port is from the nearest range of its protocol; `u32::MAX` when the rule has none.
fn port_distance(rule: &Rule, query: &Query) -> u32 {
    let distances = rule.services.iter().filter_map(|service| match *service {
        Service::Tcp(low, high) if query.protocol == protocol::TCP => Some((low, high)),
        Service::Udp(low, high) if query.protocol == protocol::UDP => Some((low, high)),
        _ => None,
    });
    let port = query.destination_port;
    distances
        .map(|(low, high)| u32::from(low.saturating_sub(port).max(port.saturating_sub(high))))
        .min()
        .unwrap_or(u32::MAX)
}
