//! The semantics, written as plainly as possible: every rule in turn. Slow, and the oracle of the compiled policy.

use std::net::IpAddr;

use super::rules::{Decision, Query, Rule, RuleSet};
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
pub fn judge(rules: &RuleSet, query: &Query) -> Decision {
    judge_among(rules, (0..rules.rules.len() as u32).map(RuleId), query)
}

/// As [`judge`], going through these rules only: ascending, and all that name the source's segment must be among
/// them. For who has many questions and has sorted out beforehand which rules come from where.
pub fn judge_among(rules: &RuleSet, among: impl Iterator<Item = RuleId>, query: &Query) -> Decision {
    let Some(source) = source_segment(rules, query.ingress, query.source) else {
        return Decision::refused(Reason::SpoofedSource);
    };
    let Some(destination) = destination_segment(rules, query) else {
        return Decision::refused(Reason::NoDestinationSegment);
    };
    let mut deciding: Option<(RuleId, &Rule)> = None;
    for id in among {
        let rule = &rules.rules[id.0 as usize];
        if rule.from.contains(&source) && rule.to.contains(&destination) && service_matches(rule, query) {
            // Strictly stronger: of equal actions the earlier, lower id stays.
            if deciding.is_none_or(|(_, best)| rule.action > best.action) {
                deciding = Some((id, rule));
            }
        }
    }
    match deciding {
        Some((id, rule)) => Decision::by(id, rule.action),
        None => Decision::unmatched(query.protocol),
    }
}
