//! Warnings about a configuration that is right but perhaps not what was meant. What is said of rules is exact: computed
//! by the [survey](crate::algebra::survey) of the policy, not guessed from the text.

use std::collections::HashMap;

use bulkhead_dataplane::policy::{Action, Rule, RuleSet, Service};
use bulkhead_dataplane::verdict::{RuleId, SegmentId};
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::algebra::survey::{Aspect, Fault, Finding, survey};
use crate::algebra::{Occasion, Policy};
use crate::config::diagnostics::{At, Sources};
use crate::model::{Ending, Model, probe_text};
use crate::plan::{Symbols, words};

/// A range of at least so many ports is wide.
const WIDE_PORTS: u16 = 1024;
/// A network at most so long is large: of IPv4, of IPv6.
const LARGE: [u8; 2] = [8, 16];

/// What kinds of warnings there are, by the names that `--allow` takes.
pub const KINDS: [&str; 13] = [
    "never-matches",
    "unsatisfiable",
    "unreachable-by-floor",
    "shadowed",
    "redundant",
    "denies-nothing",
    "pointless-requirement",
    "broad",
    "wide-quarantine",
    "unused-segment",
    "expired",
    "expires-soon",
    "too-large",
];

/// A warning.
#[derive(Clone, Debug)]
pub struct Lint {
    /// One of [`KINDS`].
    pub kind: &'static str,
    /// What it is about, in one line.
    pub message: String,
    /// Where; `None` for the whole.
    pub at: Option<At>,
    /// What helps.
    pub hint: Option<String>,
    /// The rules it is about, with their places, the one above all first.
    pub rules: Vec<(String, String)>,
    /// A packet that shows it.
    pub packet: Option<String>,
}

impl Lint {
    fn new(kind: &'static str, at: Option<At>, message: String) -> Lint {
        Lint { kind, message, at, hint: None, rules: Vec::new(), packet: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Lint {
        self.hint = Some(hint.into());
        self
    }

    /// For people: where, what, and the other rules' places.
    pub fn render(&self, sources: &Sources) -> String {
        let place = self.at.map(|at| format!("{}: ", sources.place(at))).unwrap_or_default();
        let mut text = format!("{place}warning: {} [{}]", self.message, self.kind);
        for (name, place) in self.rules.iter().skip(1) {
            text += &format!("\n  `{name}`: {place}");
        }
        if let Some(packet) = &self.packet {
            text += &format!("\n  for example {packet}");
        }
        if let Some(hint) = &self.hint {
            text += &format!("\n  {hint}");
        }
        text
    }

    /// For programs.
    pub fn to_json(&self, sources: &Sources) -> Value {
        let mut object = json!({
            "lint": self.kind, "message": self.message, "packet": self.packet, "hint": self.hint,
            "rules": self.rules.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        });
        if let Some(at) = self.at {
            let (file, line, column) = sources.position(at);
            object["file"] = file.into();
            object["line"] = line.into();
            object["column"] = column.into();
        }
        object
    }
}

/// All warnings about a model, in the order of their places.
///
/// Rules in audit count as if they were enforced. `now` is when rules expire.
pub fn lint(model: &Model, now: Timestamp) -> Vec<Lint> {
    let mut lints = Vec::new();
    let mut symbols = Symbols::default();
    let rules = symbols.translate_set(model, model.written());
    let linter = Linter { model, rules: &rules, symbols: &symbols };
    // A rule's limits count its own connections, so nothing else does the same.
    let mut timeouts = HashMap::new();
    let effects: Vec<u32> = model
        .rule_infos
        .iter()
        .zip(0..)
        .map(|(info, number)| match info.limits {
            Some(_) => number,
            None => {
                let next = u32::MAX - timeouts.len() as u32;
                *timeouts.entry(info.timeouts).or_insert(next)
            }
        })
        .collect();
    match survey(Policy { rules: &rules, effects: &effects }, symbols.moments()) {
        Ok(findings) => lints.extend(findings.iter().map(|finding| linter.finding(finding))),
        Err(too_large) => lints.push(Lint::new(
            "too-large",
            None,
            format!("the rules were not looked through for ones that do nothing: {too_large}"),
        )),
    }
    for (rule, id) in rules.rules.iter().zip(0..) {
        lints.extend(linter.quarantine(RuleId(id), rule).or_else(|| linter.broad(RuleId(id), rule)));
        lints.extend(linter.expiring(RuleId(id), now));
    }
    lints.extend(linter.segments());
    lints.sort_by_key(|lint| lint.at);
    lints
}

struct Linter<'m> {
    model: &'m Model,
    /// With nothing in audit, in the numbering of the symbols.
    rules: &'m RuleSet,
    symbols: &'m Symbols,
}

impl Linter<'_> {
    fn name(&self, rule: RuleId) -> &str {
        self.model.rule_name(rule).unwrap_or("?")
    }

    fn names(&self, rules: &[RuleId]) -> String {
        rules.iter().map(|rule| format!("`{}`", self.name(*rule))).collect::<Vec<_>>().join(", ")
    }

    /// The rules, and what they do: the verb of one rule, or of several.
    fn who_does(&self, rules: &[RuleId], [one, several]: [&str; 2]) -> String {
        format!("{} {}", self.names(rules), if rules.len() == 1 { one } else { several })
    }

    fn finding(&self, finding: &Finding) -> Lint {
        let rule = finding.rule;
        let name = self.name(rule);
        let at = Some(self.model.rule_infos[rule.0 as usize].at);
        let mut others: &[RuleId] = &[];
        let mut lint = match &finding.fault {
            Fault::NeverMatches => {
                let message = format!(
                    "rule `{name}` never matches: no packet is between its segments with its services"
                );
                Lint::new("never-matches", at, message)
                    .hint("smaller networks of other segments take all of its addresses, or its segments lie behind no port")
            }
            Fault::Unsatisfiable => {
                let message = format!("nobody can ever meet what rule `{name}` asks for");
                Lint::new("unsatisfiable", at, message)
            }
            Fault::FloorForbids => {
                let message = format!(
                    "rule `{name}` never holds: nobody can meet what it and the segments' floors ask for together"
                );
                Lint::new("unreachable-by-floor", at, message)
                    .hint("compare its users with those of the floors")
            }
            Fault::Shadowed(by) => {
                others = by;
                let message = format!(
                    "rule `{name}` never decides: {} first whatever it matches",
                    self.who_does(by, ["decides", "decide"])
                );
                Lint::new("shadowed", at, message)
            }
            Fault::Redundant(same) if same.is_empty() => {
                Lint::new("redundant", at, format!("rule `{name}` changes nothing"))
            }
            Fault::Redundant(same) => {
                others = same;
                let who = self.who_does(same, ["says", "say"]);
                let message = format!("rule `{name}` is redundant: {who} the same");
                let asks = self.rules.rules[rule.0 as usize].condition.is_some();
                let lint = Lint::new("redundant", at, message);
                if asks {
                    lint.hint("what it asks for is asked of nobody: the others let the same through")
                } else {
                    lint
                }
            }
            Fault::DeniesNothing => {
                let message = format!("rule `{name}` refuses only what nothing allows");
                Lint::new("denies-nothing", at, message)
                    .hint("without a rule that allows it, everything is denied anyway")
            }
            Fault::Pointless(aspect, by) => {
                others = by;
                let why = if by.is_empty() {
                    "the floors ask for as much".to_owned()
                } else {
                    format!("{} the same without it", self.who_does(by, ["allows", "allow"]))
                };
                let message = format!("rule `{name}` asks for {} in vain: {why}", aspect_text(*aspect));
                Lint::new("pointless-requirement", at, message)
            }
        };
        let named =
            |rule: &RuleId| (self.name(*rule).to_owned(), self.model.rule_place(*rule).unwrap_or_default());
        lint.rules = std::iter::once(&rule).chain(others).map(named).collect();
        lint.packet = finding.sample.as_ref().map(|(query, occasion)| self.packet(query, occasion));
        lint
    }

    fn packet(&self, query: &bulkhead_dataplane::policy::Query, occasion: &Occasion) -> String {
        let who = words::occasion(occasion, self.symbols);
        let who = if who.is_empty() { String::new() } else { format!(" ({})", who.join(", ")) };
        let service = probe_text(query.protocol, query.destination_port);
        format!("{}{who} → {} {service}", query.source, query.destination)
    }

    /// Whether one of these segments has a large network.
    fn has_large(&self, list: &[SegmentId]) -> bool {
        let is_large = |network: &IpNet| network.prefix_len() <= LARGE[usize::from(network.addr().is_ipv6())];
        let networks = list.iter().flat_map(|segment| &self.rules.segments[segment.0 as usize].networks);
        networks.into_iter().any(is_large)
    }

    /// Rules that let what is in quarantine reach more than what can mend it.
    fn quarantine(&self, id: RuleId, rule: &Rule) -> Option<Lint> {
        let quarantine = self.model.quarantine()?;
        if rule.action != Action::Allow || !rule.from.contains(&quarantine) {
            return None;
        }
        let others = self.model.segments.len() - 1;
        let reached = rule.to.iter().filter(|segment| **segment != quarantine).count();
        let why = if rule.services.contains(&Service::Any) {
            "every service"
        } else if rule.services.iter().any(is_wide) {
            "a wide range of ports"
        } else if others > 1 && reached == others {
            "every other segment"
        } else if self.has_large(&rule.to) {
            "a large network"
        } else {
            return None;
        };
        let info = &self.model.rule_infos[id.0 as usize];
        let message = format!("rule `{}` lets what is in quarantine reach {why}", info.name);
        let mut lint = Lint::new("wide-quarantine", Some(info.at), message)
            .hint("whoever is there may be somebody else's by now; name the servers and ports that mend it");
        lint.rules = vec![(info.name.clone(), self.model.rule_place(id).unwrap_or_default())];
        Some(lint)
    }

    /// Rules that allow more than anybody can have looked at.
    fn broad(&self, id: RuleId, rule: &Rule) -> Option<Lint> {
        if rule.action != Action::Allow {
            return None;
        }
        let count = self.model.segments.len();
        let why = if rule.services.contains(&Service::Any) {
            "every service"
        } else if count > 2 && rule.from.len() == count && rule.to.len() == count {
            "connections from every segment to every segment"
        } else if (self.has_large(&rule.from) || self.has_large(&rule.to))
            && rule.services.iter().any(is_wide)
        {
            "a wide range of ports from or to a large network"
        } else {
            return None;
        };
        let info = &self.model.rule_infos[id.0 as usize];
        let mut lint = Lint::new("broad", Some(info.at), format!("rule `{}` allows {why}", info.name))
            .hint("name what is needed; `bulkhead rules` shows what a rule lets through");
        lint.rules = vec![(info.name.clone(), self.model.rule_place(id).unwrap_or_default())];
        Some(lint)
    }

    /// Rules that are in force no more, or not for long.
    fn expiring(&self, id: RuleId, now: Timestamp) -> Option<Lint> {
        let info = &self.model.rule_infos[id.0 as usize];
        let (expires, ending) = (info.expires?, info.ending(now)?);
        let what = match ending {
            Ending::Expired => "has expired",
            Ending::Soon => "expires soon",
        };
        let mut lint =
            Lint::new(ending.kind(), Some(info.at), format!("rule `{}` {what}: {expires}", info.name));
        lint.rules = vec![(info.name.clone(), self.model.rule_place(id).unwrap_or_default())];
        Some(lint)
    }

    /// Segments that no rule names.
    fn segments(&self) -> Vec<Lint> {
        let mut named = vec![false; self.model.segments.len()];
        for rule in &self.rules.rules {
            rule.from.iter().chain(&rule.to).for_each(|segment| named[segment.0 as usize] = true);
        }
        let unnamed = self.model.segments.iter().zip(named).filter(|(_, named)| !named);
        unnamed
            .map(|(info, _)| {
                let message = format!("no rule names segment `{}`: nothing crosses to or from it", info.name);
                Lint::new("unused-segment", Some(info.at), message)
            })
            .collect()
    }
}

fn is_wide(service: &Service) -> bool {
    match *service {
        Service::Tcp(low, high) | Service::Udp(low, high) => high.saturating_sub(low) >= WIDE_PORTS,
        _ => false,
    }
}

fn aspect_text(aspect: Aspect) -> &'static str {
    match aspect {
        Aspect::Gates => "a certain time",
        Aspect::Users => "certain users",
        Aspect::Devices => "certain devices",
        Aspect::PhishingResistant => "a second factor that cannot be phished",
        Aspect::MfaAge => "a recent second factor",
        Aspect::Postures => "a posture",
        Aspect::Risk => "a low risk",
    }
}

#[cfg(test)]
mod tests;
