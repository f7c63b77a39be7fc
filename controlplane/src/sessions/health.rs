//! What a device says of its health, held against the checks of a posture.

use std::collections::BTreeMap;

use bulkhead_dataplane::policy::conditions::Posture as State;
use bulkhead_dataplane::verdict::Now;
use serde::{Deserialize, Serialize};

use super::Moment;
use crate::config::identity::Check;

/// The most facts of a report.
pub const FACTS_MAX: usize = 256;
/// The longest name or text of a fact, bytes.
const TEXT_BYTES_MAX: usize = 256;
/// The most texts of one fact: the processes of a large machine.
const TEXTS_MAX: usize = 4096;
/// How the name of a check of an age ends; its fact's name ends with `age` instead.
const MAX_AGE: &str = "max_age";

/// One fact. In JSON a truth value, a text, a list of texts or a number of seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Fact {
    /// It is so, or it is not.
    Flag(bool),
    /// It is so old, seconds.
    Age(u32),
    /// It is this.
    Text(String),
    /// These are there.
    Texts(Vec<String>),
}

/// Facts by name: `disk_encrypted`, `os_patch_age`, `processes`.
pub type Facts = BTreeMap<String, Fact>;

/// A device's report of its health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What it says.
    pub facts: Facts,
    /// When.
    pub at: Moment,
}

/// Whether a report is of a size that is kept.
pub fn is_bounded(facts: &Facts) -> bool {
    let text = |text: &String| text.len() <= TEXT_BYTES_MAX;
    let fact = |fact: &Fact| match fact {
        Fact::Flag(_) | Fact::Age(_) => true,
        Fact::Text(value) => text(value),
        Fact::Texts(values) => values.len() <= TEXTS_MAX && values.iter().all(text),
    };
    facts.len() <= FACTS_MAX && facts.iter().all(|(name, value)| text(name) && fact(value))
}

/// The name of the fact that a check is about.
pub fn fact_of(check: &str) -> String {
    check.strip_suffix(MAX_AGE).map_or_else(|| check.to_owned(), |stem| format!("{stem}age"))
}

impl Health {
    /// How the device stands to these checks: failed if any is, else unknown if of any nothing is known, else met.
    pub fn stands_to(&self, checks: &[(String, Check)], at: Now) -> State {
        let states = checks.iter().map(|(name, check)| self.check(name, check, at));
        states.fold(State::Met, |all, state| match (all, state) {
            (State::Failed, _) | (_, State::Failed) => State::Failed,
            (State::Unknown, _) | (_, State::Unknown) => State::Unknown,
            (State::Met, State::Met) => State::Met,
        })
    }

    fn check(&self, name: &str, check: &Check, at: Now) -> State {
        let is_met = match (check, self.facts.get(&fact_of(name))) {
            (Check::Flag(wanted), Some(Fact::Flag(is))) => is == wanted,
            (Check::MaxAge(max), Some(Fact::Age(age_s))) => {
                u64::from(*age_s) + u64::from(self.at.age_s(at)) <= max.as_secs()
            }
            (Check::Text(wanted), Some(Fact::Text(is))) => is == wanted,
            (Check::Texts(wanted), Some(Fact::Texts(are))) => {
                wanted.iter().all(|wanted| are.contains(wanted))
            }
            _ => return State::Unknown,
        };
        if is_met { State::Met } else { State::Failed }
    }

    /// The moments at which what has an age grows too old for these checks.
    pub fn edges<'h>(&'h self, checks: &'h [(String, Check)]) -> impl Iterator<Item = Now> + 'h {
        checks.iter().filter_map(|(name, check)| match (check, self.facts.get(&fact_of(name))) {
            (Check::MaxAge(max), Some(Fact::Age(age_s))) => {
                let left_s = max.as_secs().checked_sub((*age_s).into())?;
                Some(self.at.older_than(u32::try_from(left_s).unwrap_or(u32::MAX)))
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BEGIN: Now = Now(5_000_000_000_000);

    fn health(facts: &str) -> Health {
        Health { facts: serde_json::from_str(facts).unwrap(), at: Moment::before(BEGIN, Duration::ZERO) }
    }

    fn stands(facts: &str, name: &str, check: Check) -> State {
        health(facts).stands_to(&[(name.to_owned(), check)], BEGIN)
    }

    #[test]
    fn every_kind_of_check_is_met_failed_or_unknown() {
        let day = Duration::from_secs(86_400);
        let texts = |texts: &[&str]| Check::Texts(texts.iter().map(|text| (*text).to_owned()).collect());
        for (name, check, met, failed) in [
            ("disk_encrypted", Check::Flag(true), "true", "false"),
            ("os_patch_max_age", Check::MaxAge(day), "86400", "86401"),
            ("max_age", Check::MaxAge(day), "0", "4294967295"),
            ("os", Check::Text("Linux".to_owned()), "\"Linux\"", "\"linux\""),
            ("processes", texts(&["edr", "av"]), "[\"av\",\"x\",\"edr\"]", "[\"edr\"]"),
        ] {
            let facts = |value: &str| format!("{{\"{}\":{value}}}", fact_of(name));
            assert_eq!(stands(&facts(met), name, check.clone()), State::Met, "{name}");
            assert_eq!(stands(&facts(failed), name, check.clone()), State::Failed, "{name}");
            assert_eq!(stands("{}", name, check.clone()), State::Unknown, "{name}");
            // What is of another kind says nothing.
            let other = if name == "os" { "true" } else { "\"yes\"" };
            assert_eq!(stands(&facts(other), name, check), State::Unknown, "{name}");
        }
    }

    #[test]
    fn one_failed_check_fails_all_and_one_unknown_leaves_them_unknown() {
        let check = |name: &str| (name.to_owned(), Check::Flag(true));
        let all = |facts: &str| health(facts).stands_to(&[check("a"), check("b"), check("c")], BEGIN);
        assert_eq!(all(r#"{"a":true,"b":true,"c":true}"#), State::Met);
        assert_eq!(all(r#"{"a":true,"c":true}"#), State::Unknown);
        assert_eq!(all(r#"{"a":true,"c":false}"#), State::Failed);
        assert_eq!(all(r#"{"c":false}"#), State::Failed);
    }

    #[test]
    fn an_age_goes_on_growing_after_the_report() {
        let checks = [("os_patch_max_age".to_owned(), Check::MaxAge(Duration::from_secs(100)))];
        let health = health(r#"{"os_patch_age":90}"#);
        let edge = health.edges(&checks).next().unwrap();
        assert_eq!(health.stands_to(&checks, Now(edge.0 - 1)), State::Met);
        assert_eq!(health.stands_to(&checks, edge), State::Failed);
        assert_eq!(edge, Now(BEGIN.0 + 10_000_000_001));
    }

    #[test]
    fn a_report_has_limits() {
        let many: Facts = (0..=FACTS_MAX).map(|n| (n.to_string(), Fact::Flag(true))).collect();
        let long = Facts::from([("x".to_owned(), Fact::Text("y".repeat(TEXT_BYTES_MAX + 1)))]);
        let texts = Facts::from([("x".to_owned(), Fact::Texts(vec![String::new(); TEXTS_MAX + 1]))]);
        assert!(!is_bounded(&many) && !is_bounded(&long) && !is_bounded(&texts));
        assert!(is_bounded(&Facts::from([("processes".to_owned(), Fact::Texts(vec!["edr".to_owned()]))])));
    }
}
