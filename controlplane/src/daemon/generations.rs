//! The policies that were in force: the names behind their numbers, and the counters of their rules.
//!
//! An event or a connection carries the number of a rule of its generation. So the names of the last generations are
//! kept, and the counters of those that retired are folded into totals by the rule's name, which is its identity.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bulkhead_dataplane::counters::{RuleCounters, RuleHits};
use bulkhead_dataplane::policy::Policy;
use bulkhead_dataplane::verdict::{Generation, PortId, RuleId};

use crate::model::Model;

/// The names of so many generations are kept. Connections idle for longer than that show their rule's number only.
const NAMES_KEPT: usize = 64;
/// Totals of rules that the policy in force does not have are kept up to this number of rules.
const TOTALS_KEPT: usize = 65_536;

/// The names of one generation.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    /// Rules by number.
    pub rules: Vec<String>,
}

impl Names {
    /// Those of a model.
    pub fn of(model: &Model) -> Names {
        Names { rules: model.rule_infos.iter().map(|rule| rule.name.clone()).collect() }
    }

    /// The rule's name; `None` for the default deny.
    pub fn rule(&self, rule: RuleId) -> Option<&str> {
        self.rules.get(rule.index()?).map(String::as_str)
    }
}

/// What is in force.
#[derive(Clone)]
pub struct InForce {
    /// Its number in this run.
    pub generation: Generation,
    /// Its number in the store; nothing if it could not be stored.
    pub revision: Option<u64>,
    /// It came from the store, whatever the file says.
    pub from_store: bool,
    /// Until when it must be confirmed, if it must.
    pub confirm_until: Option<SystemTime>,
    /// In names.
    pub model: Arc<Model>,
    /// The file it came from.
    pub file: PathBuf,
    /// Since when.
    pub since: SystemTime,
}

/// The names of the last generations.
#[derive(Default)]
pub struct History {
    names: VecDeque<(Generation, Arc<Names>)>,
}

impl History {
    /// Adds a generation. Equal names are stored once.
    pub fn add(&mut self, generation: Generation, names: Names) {
        let names = match self.names.back() {
            Some((_, last)) if **last == names => last.clone(),
            _ => Arc::new(names),
        };
        if self.names.len() == NAMES_KEPT {
            self.names.pop_front();
        }
        self.names.push_back((generation, names));
    }

    /// Adds a generation with the names of the last one.
    pub fn repeat(&mut self, generation: Generation) {
        let Some((_, names)) = self.names.back().cloned() else { return };
        if self.names.len() == NAMES_KEPT {
            self.names.pop_front();
        }
        self.names.push_back((generation, names));
    }

    /// The names of a generation, if it is not too long ago.
    pub fn names(&self, generation: Generation) -> Option<Arc<Names>> {
        self.names.iter().rev().find(|(number, _)| *number == generation).map(|(_, names)| names.clone())
    }
}

/// Counters by rule name, of the generations that retired.
#[derive(Default)]
pub struct Totals {
    by_name: HashMap<String, RuleHits>,
    default_deny: RuleHits,
}

impl Totals {
    /// Adds the final counters of a policy that retired, and forgets the oldest rules beyond the limit: those that
    /// `next` does not have.
    pub fn fold(&mut self, names: &Names, counters: &RuleCounters, next: &Names) {
        for (index, name) in names.rules.iter().enumerate() {
            let hits = counters.read(RuleId(index as u32));
            if hits != RuleHits::default() {
                self.by_name.entry(name.clone()).or_default().add(&hits);
            }
        }
        self.default_deny.add(&counters.read(RuleId::NONE));
        if self.by_name.len() > TOTALS_KEPT {
            let next: HashSet<&str> = next.rules.iter().map(String::as_str).collect();
            self.by_name.retain(|name, _| next.contains(name.as_str()));
        }
    }

    /// A rule's counters over all generations; `counters` are those of the one in force. `None` is the default deny.
    pub fn read(&self, name: Option<&str>, rule: RuleId, counters: &RuleCounters) -> RuleHits {
        let mut hits = counters.read(rule);
        match name {
            None => hits.add(&self.default_deny),
            Some(name) => {
                if let Some(before) = self.by_name.get(name) {
                    hits.add(before);
                }
            }
        }
        hits
    }
}

/// The names of the segments between which a connection goes, by the policy in force.
pub fn segments<'m>(
    model: &'m Model,
    policy: &Policy,
    ingress: PortId,
    source: IpAddr,
    destination: IpAddr,
) -> (Option<&'m str>, Option<&'m str>) {
    let from = policy.source_segment(ingress, source);
    let to = policy.destination_segment(destination);
    (from.and_then(|s| model.segment_name(s)), to.and_then(|s| model.segment_name(s)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_dataplane::verdict::Now;

    fn names(rules: &[&str]) -> Names {
        Names { rules: rules.iter().map(|&rule| rule.to_owned()).collect() }
    }

    #[test]
    fn counters_follow_a_rule_s_name_and_not_its_number() {
        let mut totals = Totals::default();
        let (old, new) = (names(&["b", "c"]), names(&["a", "b"]));
        let before = RuleCounters::new(2, 2);
        before.hit(0, RuleId(0), 100, Now(5));
        before.hit(1, RuleId(0), 10, Now(6));
        before.open(0, RuleId(0));
        before.hit(0, RuleId(1), 1, Now(1));
        before.hit(0, RuleId::NONE, 40, Now(9));
        totals.fold(&old, &before, &new);
        let after = RuleCounters::new(2, 2);
        after.hit(0, RuleId(1), 1000, Now(20));
        let expected = RuleHits { packets: 3, bytes: 1110, connections: 1, last_hit: Some(Now(20)) };
        assert_eq!(totals.read(Some("b"), RuleId(1), &after), expected);
        assert_eq!(totals.read(Some("a"), RuleId(0), &after), RuleHits::default());
        assert_eq!(totals.read(None, RuleId::NONE, &after).packets, 1);
        // A rule that left and comes back goes on where it was.
        totals.fold(&new, &after, &old);
        let again = RuleCounters::new(2, 2);
        assert_eq!(totals.read(Some("c"), RuleId(1), &again).packets, 1);
        assert_eq!(totals.read(Some("b"), RuleId(0), &again), expected);
    }

    #[test]
    fn totals_of_rules_that_are_gone_are_bounded() {
        let mut totals = Totals::default();
        for round in 0..3 {
            let rules: Vec<_> = (0..TOTALS_KEPT / 2).map(|index| format!("{round}-{index}")).collect();
            let retired = Names { rules };
            let counters = RuleCounters::new(retired.rules.len(), 1);
            for index in 0..retired.rules.len() {
                counters.hit(0, RuleId(index as u32), 1, Now(1));
            }
            totals.fold(&retired, &counters, &names(&["2-7"]));
        }
        assert_eq!(totals.by_name.len(), 1);
        assert_eq!(totals.read(Some("2-7"), RuleId(0), &RuleCounters::new(1, 1)).packets, 1);
    }

    #[test]
    fn names_are_those_of_the_generation_and_the_oldest_are_forgotten() {
        let mut history = History::default();
        history.add(Generation(1), names(&["a", "b"]));
        history.add(Generation(2), names(&["b"]));
        assert_eq!(history.names(Generation(1)).unwrap().rule(RuleId(1)), Some("b"));
        assert_eq!(history.names(Generation(2)).unwrap().rule(RuleId(0)), Some("b"));
        assert_eq!(history.names(Generation(2)).unwrap().rule(RuleId::NONE), None);
        for generation in 3..=NAMES_KEPT as u32 + 1 {
            history.add(Generation(generation), names(&["b"]));
        }
        assert!(history.names(Generation(1)).is_none() && history.names(Generation(2)).is_some());
        assert_eq!(history.names.len(), NAMES_KEPT);
    }
}
