//! Ends of connections, and which of them the rules treat alike.
//!
//! A source is an address with the port it comes in by: an address that may not enter there belongs to no segment. A
//! destination is an address alone. Ends that every list of every policy names alike, and that have the same floors,
//! are one class: a few classes stand for all pairs of segments.

use std::collections::HashMap;
use std::net::IpAddr;

use bulkhead_dataplane::policy::{ConditionId, Rule, RuleSet};
use bulkhead_dataplane::verdict::{PortId, SegmentId};

use super::zones::{Segments, Zone};

/// An address of an end, with a port by which it may come in (a destination's means nothing).
pub type Sample = (PortId, IpAddr);

/// All sources, or all destinations, that are in these segments.
#[derive(Clone, Debug)]
pub struct End<const N: usize> {
    /// Of each policy the segment; `None` refuses. Not all are `None`.
    pub segments: Segments<N>,
    /// One of the IPv4 and one of the IPv6 addresses, where there are any.
    pub samples: [Option<Sample>; 2],
}

/// Every source that some policy knows.
pub fn sources<const N: usize>(policies: [&RuleSet; N], zones: &[Zone<N>]) -> Vec<End<N>> {
    let ports: [Vec<u128>; N] = policies.map(|rules| {
        let bits = |ports: &[PortId]| ports.iter().fold(0u128, |bits, port| bits | bit(*port));
        rules.segments.iter().map(|segment| bits(&segment.ports)).collect()
    });
    let mut ends = Ends::default();
    for zone in zones {
        let of = |policy: usize| zone.segments[policy].map_or(0, |segment| ports[policy][segment.0 as usize]);
        let mut left = (0..N).fold(0, |bits, policy| bits | of(policy));
        while left != 0 {
            let port = PortId(left.trailing_zeros() as u8);
            left &= left - 1;
            let segments =
                std::array::from_fn(|policy| zone.segments[policy].filter(|_| of(policy) & bit(port) != 0));
            ends.add(segments, zone.samples.map(|sample| Some((port, sample?))));
        }
    }
    ends.list
}

/// Every destination that some policy knows.
pub fn destinations<const N: usize>(zones: &[Zone<N>]) -> Vec<End<N>> {
    let mut ends = Ends::default();
    for zone in zones {
        ends.add(zone.segments, zone.samples.map(|sample| Some((PortId(0), sample?))));
    }
    ends.list
}

/// Two policies may have different ports, and together more than one of them may have.
fn bit(port: PortId) -> u128 {
    1u128.checked_shl(port.0.into()).unwrap_or(0)
}

struct Ends<const N: usize> {
    list: Vec<End<N>>,
    index: HashMap<Segments<N>, usize>,
}

impl<const N: usize> Default for Ends<N> {
    fn default() -> Self {
        Ends { list: Vec::new(), index: HashMap::new() }
    }
}

impl<const N: usize> Ends<N> {
    fn add(&mut self, segments: Segments<N>, samples: [Option<Sample>; 2]) {
        let list = &mut self.list;
        let index = *self.index.entry(segments).or_insert_with(|| {
            list.push(End { segments, samples: [None; 2] });
            list.len() - 1
        });
        for (known, sample) in list[index].samples.iter_mut().zip(samples) {
            *known = known.or(sample);
        }
    }
}

/// The rules' lists of segments on one side of one policy.
pub struct Lists {
    /// Distinct lists, each ascending.
    pub lists: Vec<Vec<SegmentId>>,
    /// By rule, its list.
    pub of_rule: Vec<u32>,
    /// By segment, its class: segments that the same lists name, with the same floor.
    class_of: Vec<u32>,
}

impl Lists {
    /// Of a policy whose segments have these floors on this side.
    pub fn new<'r>(
        rules: &'r RuleSet,
        list: impl Fn(&'r Rule) -> &'r [SegmentId],
        floors: &[Option<ConditionId>],
    ) -> Lists {
        let mut lists: Vec<Vec<SegmentId>> = Vec::new();
        let mut known: HashMap<Vec<SegmentId>, u32> = HashMap::new();
        let mut of_rule = Vec::with_capacity(rules.rules.len());
        let mut sorted = Vec::new();
        for rule in &rules.rules {
            sorted.clear();
            sorted.extend_from_slice(list(rule));
            if !sorted.is_sorted_by(|a, b| a < b) {
                sorted.sort_unstable();
                sorted.dedup();
            }
            let number = known.get(&sorted).copied().unwrap_or_else(|| {
                lists.push(sorted.clone());
                known.insert(sorted.clone(), lists.len() as u32 - 1);
                lists.len() as u32 - 1
            });
            of_rule.push(number);
        }
        let mut classes = HashMap::new();
        let mut class_of: Vec<u32> = Vec::with_capacity(rules.segments.len());
        for floor in floors {
            let next = classes.len() as u32;
            class_of.push(*classes.entry(*floor).or_insert(next));
        }
        let mut next = classes.len() as u32;
        // Each list splits every class into the segments it names and those it does not.
        let mut split: HashMap<u32, u32> = HashMap::new();
        for list in &lists {
            split.clear();
            for segment in list {
                let class = &mut class_of[segment.0 as usize];
                *class = *split.entry(*class).or_insert_with(|| {
                    next += 1;
                    next - 1
                });
            }
        }
        Lists { lists, of_rule, class_of }
    }

    /// The class of a segment.
    pub fn class(&self, segment: SegmentId) -> u32 {
        self.class_of[segment.0 as usize]
    }
}

/// Ends that all policies treat alike.
#[derive(Clone, Debug)]
pub struct Class<const N: usize> {
    /// The ends, as indices.
    pub members: Vec<u32>,
    /// Of each policy, whether the ends are in a segment of it.
    pub is_known: [bool; N],
    /// One member's segments; which one does not matter to any rule.
    pub segments: Segments<N>,
    /// Whether the members have IPv4, and whether they have IPv6 addresses: all of them alike.
    pub samples: [Option<Sample>; 2],
}

/// Groups ends into classes.
pub fn classes<const N: usize>(ends: &[End<N>], lists: &[Lists; N]) -> Vec<Class<N>> {
    let mut index: HashMap<([Option<u32>; N], [bool; 2]), usize> = HashMap::new();
    let mut classes: Vec<Class<N>> = Vec::new();
    for (end, number) in ends.iter().zip(0..) {
        let of: [Option<u32>; N] =
            std::array::from_fn(|policy| end.segments[policy].map(|segment| lists[policy].class(segment)));
        let key = (of, end.samples.map(|sample| sample.is_some()));
        let class = *index.entry(key).or_insert_with(|| {
            classes.push(Class {
                members: Vec::new(),
                is_known: end.segments.map(|segment| segment.is_some()),
                segments: end.segments,
                samples: end.samples,
            });
            classes.len() - 1
        });
        classes[class].members.push(number);
    }
    classes
}
