//! The semantics, written as plainly as possible: every rule in turn. Slow, and the oracle of the compiled policy.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::conditions::{Circumstances, Condition};
use super::restraints::Restraints;
use super::rules::{Action, Decision, Query, Rule, RuleSet};
use crate::verdict::{PortId, Reason, RuleId, SegmentId};

/// The segment with the longest network that contains the address.
pub fn segment_of(rules: &RuleSet, address: IpAddr) -> Option<SegmentId> {
    let mut best = None;
    for (id, segment) in rules.segments.iter().enumerate() {
        for network in &segment.networks {
            if network.contains(&address) && best.is_none_or(|(len, _)| network.prefix_len() > len) {
                best = Some((network.prefix_len(), SegmentId(id as u32)));
            }
        }
    }
    best.map(|(_, segment)| segment)
}

/// The source's segment, if the address may enter by this port.
pub fn source_segment(rules: &RuleSet, ingress: PortId, address: IpAddr) -> Option<SegmentId> {
    let segment = segment_of(rules, address)?;
    rules.segments[segment.0 as usize].ports.contains(&ingress).then_some(segment)
}

/// The destination's segment; none when the source is of the other family, for no packet is.
pub fn destination_segment(rules: &RuleSet, query: &Query) -> Option<SegmentId> {
    query.is_of_one_family().then(|| segment_of(rules, query.destination)).flatten()
}

/// Whether one of the rule's services contains the query.
pub fn service_matches(rule: &Rule, query: &Query) -> bool {
    query.protocol_fits_family()
        && rule.services.iter().any(|s| s.contains(rule.action, query.protocol, query.destination_port))
}

/// May this originator open this connection?
pub fn judge(rules: &RuleSet, query: &Query, circumstances: &Circumstances<'_>) -> Decision {
    judge_among(rules, (0..rules.rules.len() as u32).map(RuleId), query, circumstances)
}

/// As [`judge`], with these addresses locked out or in quarantine.
pub fn judge_restrained(
    rules: &RuleSet,
    restraints: &Restraints,
    query: &Query,
    circumstances: &Circumstances<'_>,
) -> Decision {
    // Whoever lies about their address, or asks for one of nobody, is told that first.
    if source_segment(rules, query.ingress, query.source).is_none() {
        return Decision::refused(Reason::SpoofedSource);
    }
    if destination_segment(rules, query).is_none() {
        return Decision::refused(Reason::NoDestinationSegment);
    }
    if let Some(reason) = restraints.refusal(query) {
        return Decision::refused(reason);
    }
    restraints.told(query, judge(rules, &restraints.seen_in(query), circumstances))
}

/// As [`judge`], going through these rules only: ascending, and all that name the source's segment must be among
/// them. For who has many questions and has sorted out beforehand which rules come from where.
pub fn judge_among(
    rules: &RuleSet,
    among: impl Iterator<Item = RuleId>,
    query: &Query,
    circumstances: &Circumstances<'_>,
) -> Decision {
    let Some(source) = source_segment(rules, query.ingress, query.source) else {
        return Decision::refused(Reason::SpoofedSource);
    };
    let Some(destination) = destination_segment(rules, query) else {
        return Decision::refused(Reason::NoDestinationSegment);
    };
    let mut tiers: BTreeMap<u8, Vec<(RuleId, &Rule)>> = BTreeMap::new();
    for id in among {
        let rule = &rules.rules[id.0 as usize];
        if rule.from.contains(&source) && rule.to.contains(&destination) && service_matches(rule, query) {
            tiers.entry(rule.tier).or_default().push((id, rule));
        }
    }
    let mut nearest: Option<(Reason, RuleId)> = None;
    for matching in tiers.values() {
        let mut deciding: Option<(RuleId, Action)> = None;
        let mut nearest_here = nearest;
        for (id, rule) in matching {
            let conditions = conditions(rules, rule, Some(source), Some(destination));
            match holds(rule.action, conditions, circumstances) {
                // Strictly stronger: of equal actions the earlier, lower id stays.
                Ok(true) if deciding.is_none_or(|(_, best)| rule.action > best) => {
                    deciding = Some((*id, rule.action));
                }
                Ok(_) => {}
                Err(unmet) => {
                    if nearest_here.is_none_or(|(best, _)| unmet > best) {
                        nearest_here = Some((unmet, *id));
                    }
                }
            }
        }
        match deciding {
            // What the tier would have allowed is not its say either.
            Some((_, Action::Pass)) => {}
            Some((id, action)) => return Decision::by(id, action),
            None => nearest = nearest_here,
        }
    }
    match nearest {
        Some((unmet, id)) => Decision::unmet(id, unmet),
        None => Decision::unmatched(query.protocol),
    }
}

/// What the rule asks for between these segments: its own condition and, if it allows and does not waive them, the
/// floors of both ends. An end in no segment has none.
pub fn conditions<'r>(
    rules: &'r RuleSet,
    rule: &Rule,
    source: Option<SegmentId>,
    destination: Option<SegmentId>,
) -> impl Iterator<Item = &'r Condition> + Clone {
    let of = |id: SegmentId| &rules.segments[id.0 as usize];
    let floors = [source.and_then(|id| of(id).floor_out), destination.and_then(|id| of(id).floor)];
    let is_bound = rule.action == Action::Allow && !rule.waives_floors;
    let floors = if is_bound { floors } else { [None; 2] };
    [rule.condition, floors[0], floors[1]].into_iter().flatten().map(|id| rules.condition(id))
}

/// Whether a rule of this action with these conditions holds; an allow rule that does not says why.
pub fn holds<'r>(
    action: Action,
    mut conditions: impl Iterator<Item = &'r Condition>,
    circumstances: &Circumstances<'_>,
) -> Result<bool, Reason> {
    match action {
        // The first demand of all, in the order of the reasons.
        Action::Allow => match conditions.filter_map(|condition| condition.unmet(circumstances)).min() {
            None => Ok(true),
            Some(unmet) => Err(unmet),
        },
        Action::Reject | Action::Deny | Action::Pass => {
            Ok(conditions.all(|condition| condition.binds(circumstances)))
        }
    }
}
