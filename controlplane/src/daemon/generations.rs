//! The policies that were in force, and the names behind their numbers.
//!
//! An event or a connection carries the number of a rule of its generation. So the names of the last generations are
//! kept.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use bulkhead_dataplane::policy::Policy;
use bulkhead_dataplane::verdict::{Generation, PortId, RuleId};

use crate::model::Model;

/// The names of so many generations are kept. Connections idle for longer than that show their rule's number only.
const NAMES_KEPT: usize = 64;

/// The names of one generation.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    /// Rules by number, which is by name, ascending.
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
    pub fn add(&mut self, generation: Generation, names: Arc<Names>) {
        let names = match self.names.back() {
            Some((_, last)) if *last == names => last.clone(),
            _ => names,
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

    fn names(rules: &[&str]) -> Names {
        Names { rules: rules.iter().map(|&rule| rule.to_owned()).collect() }
    }

    #[test]
    fn names_are_those_of_the_generation_and_the_oldest_are_forgotten() {
        let mut history = History::default();
        history.add(Generation(1), Arc::new(names(&["a", "b"])));
        history.add(Generation(2), Arc::new(names(&["b"])));
        assert_eq!(history.names(Generation(1)).unwrap().rule(RuleId(1)), Some("b"));
        assert_eq!(history.names(Generation(2)).unwrap().rule(RuleId(0)), Some("b"));
        assert_eq!(history.names(Generation(2)).unwrap().rule(RuleId::NONE), None);
        for generation in 3..=NAMES_KEPT as u32 + 1 {
            history.add(Generation(generation), Arc::new(names(&["b"])));
        }
        assert!(history.names(Generation(1)).is_none() && history.names(Generation(2)).is_some());
        assert_eq!(history.names.len(), NAMES_KEPT);
    }
}
