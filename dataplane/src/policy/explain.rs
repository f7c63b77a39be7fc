//! Why a query is answered as it is, for people: the segments, the decision, and the rules that nearly allowed it.
//! The slow path: it walks the rules, like the [reference evaluator](super::reference) whose answer it gives.

use super::conditions::Circumstances;
use super::reference;
use super::rules::{Action, Decision, Query, Rule, RuleSet, Service};
use crate::headers::protocol;
use crate::verdict::{RuleId, SegmentId};

/// A condition of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Clause {
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
    /// [`MAX_NEAR_MISSES`]. The right pair of segments with the nearest port comes first, then the right source,
    /// then the right destination; equals by rule id.
    pub near_misses: Vec<(RuleId, Clause)>,
}

/// Judges the query and says why.
pub fn explain(rules: &RuleSet, query: &Query, circumstances: &Circumstances<'_>) -> Explanation {
    let source_segment = reference::source_segment(rules, query.ingress, query.source);
    let destination_segment = reference::destination_segment(rules, query);
    let decision = reference::judge(rules, query, circumstances);
    let mut misses: Vec<((Clause, u32, RuleId), Clause)> = Vec::new();
    if !decision.allows() {
        for (id, rule) in rules.rules.iter().enumerate().filter(|(_, rule)| rule.action == Action::Allow) {
            let from = source_segment.is_some_and(|segment| rule.from.contains(&segment));
            let to = destination_segment.is_some_and(|segment| rule.to.contains(&segment));
            let clause = match (from, to, reference::service_matches(rule, query)) {
                (true, true, false) => Clause::Service,
                (true, false, true) => Clause::To,
                (false, true, true) => Clause::From,
                _ => continue,
            };
            let distance = if clause == Clause::Service { port_distance(rule, query) } else { 0 };
            misses.push(((clause, distance, RuleId(id as u32)), clause));
        }
    }
    misses.sort_unstable();
    misses.truncate(MAX_NEAR_MISSES);
    let near_misses = misses.into_iter().map(|((_, _, rule), clause)| (rule, clause)).collect();
    Explanation { source_segment, destination_segment, decision, near_misses }
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
