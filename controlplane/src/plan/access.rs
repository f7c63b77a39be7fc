//! The algebra's differences in names.

use std::collections::{BTreeMap, HashMap};

use bulkhead_dataplane::connection::{Overrides, RuleLimits};
use bulkhead_dataplane::policy::{Action, RuleSet};
use bulkhead_dataplane::verdict::SegmentId;

use super::{Access, Change, EndName, Setting, Symbols, Witness, words};
use crate::algebra::compare::Comparison;
use crate::algebra::ends::{Class, End};
use crate::algebra::{self, Difference, Kind, Policy, TooLarge};
use crate::model::{Model, RuleInfo, probe_text};

/// What is found by comparing the policies.
pub(super) struct Found {
    pub access: Vec<Access>,
    /// What destinations have besides rules.
    pub settings: Vec<Setting>,
}

/// `rules` are those of both models in the numbering of `symbols`.
pub(super) fn compare(
    [old, new]: [&Model; 2],
    rules: [&RuleSet; 2],
    symbols: &Symbols,
) -> Result<Found, TooLarge> {
    let mut effects = Effects::default();
    let [before, after] = [old, new].map(|model| effects.of(model));
    let policies =
        [Policy { rules: rules[0], effects: &before }, Policy { rules: rules[1], effects: &after }];
    let comparison = algebra::compare(policies[0], policies[1], symbols.moments())?;
    let telling = Telling { models: [old, new], symbols, comparison: &comparison, effects: &effects };
    let access = comparison.differences.iter().map(|difference| telling.access(difference)).collect();
    Ok(Found { access, settings: telling.segments() })
}

/// What the connections of rules have besides, numbered.
#[derive(Default)]
struct Effects {
    known: Vec<(Overrides, Option<RuleLimits>)>,
}

impl Effects {
    /// By rule.
    fn of(&mut self, model: &Model) -> Vec<u32> {
        let mut index: HashMap<Overrides, Vec<u32>> = HashMap::new();
        for (effect, number) in self.known.iter().zip(0..) {
            index.entry(effect.0).or_default().push(number);
        }
        let mut number = |info: &RuleInfo| {
            // Which rule's connections are counted is its name's business.
            let limits = info.limits.map(|limits| RuleLimits { identity: 0, ..limits });
            let alike = index.entry(info.timeouts).or_default();
            let found = alike.iter().find(|number| self.known[**number as usize].1 == limits).copied();
            found.unwrap_or_else(|| {
                self.known.push((info.timeouts, limits));
                alike.push(self.known.len() as u32 - 1);
                self.known.len() as u32 - 1
            })
        };
        model.rule_infos.iter().map(&mut number).collect()
    }
}

struct Telling<'t> {
    models: [&'t Model; 2],
    symbols: &'t Symbols,
    comparison: &'t Comparison<'t>,
    effects: &'t Effects,
}

impl Telling<'_> {
    fn access(&self, difference: &Difference) -> Access {
        let Comparison { atlas, forms, .. } = self.comparison;
        let change = match difference.kind {
            Kind::Gained => Change::Gained,
            Kind::Lost => Change::Lost,
            Kind::Rejected => Change::Rejected,
            Kind::Silenced => Change::Silenced,
            Kind::Effect => Change::Effect,
        };
        let treatment = |policy: usize| {
            let clauses = forms.clauses(difference.forms[policy]);
            let mut texts = words::treatment(clauses, &atlas.demands, self.symbols, self.models[policy]);
            if change == Change::Effect {
                for (text, clause) in texts.iter_mut().zip(clauses) {
                    if clause.action == Action::Allow {
                        let (timeouts, limits) = &self.effects.known[clause.effect as usize];
                        *text += &words::effect(timeouts, limits.as_ref());
                    }
                }
            }
            texts
        };
        Access {
            change,
            from: self.ends(&difference.rows, &atlas.rows, &atlas.sources),
            to: self.ends(&difference.columns, &atlas.columns, &atlas.destinations),
            services: words::services(&difference.services),
            before: treatment(0),
            after: treatment(1),
            witness: difference.witness.as_ref().map(|witness| self.witness(witness)),
        }
    }

    fn name(&self, policy: usize, segment: Option<SegmentId>) -> Option<String> {
        segment.and_then(|segment| self.models[policy].segment_name(segment)).map(str::to_owned)
    }

    fn ends(&self, numbers: &[u32], classes: &[Class<2>], ends: &[End<2>]) -> Vec<EndName> {
        let members = numbers.iter().flat_map(|number| &classes[*number as usize].members);
        let mut names: Vec<EndName> = members
            .map(|end| {
                let [old, new] = ends[*end as usize].segments;
                EndName { old: self.name(0, old), new: self.name(1, new) }
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }

    fn witness(&self, witness: &algebra::Witness) -> Witness {
        let query = &witness.query;
        let [before, after] =
            [0, 1].map(|policy: usize| words::told(&witness.decisions[policy], self.models[policy]));
        Witness {
            source: query.source.to_string(),
            port_in: self.symbols.port(query.ingress.0.into()),
            destination: query.destination.to_string(),
            service: probe_text(query.protocol, query.destination_port),
            who: words::occasion(&witness.occasion, self.symbols),
            before,
            after,
        }
    }

    /// Protection and permits, address by address: of addresses that are in a segment before and after.
    fn segments(&self) -> Vec<Setting> {
        let infos = |segments: [Option<SegmentId>; 2]| {
            let [old, new] = segments;
            let (old, new) = (old?.0 as usize, new?.0 as usize);
            Some([&self.models[0].segments[old], &self.models[1].segments[new]])
        };
        let mut settings: BTreeMap<(String, &str), (String, String)> = BTreeMap::new();
        for [old, new] in self.comparison.atlas.destinations.iter().filter_map(|end| infos(end.segments)) {
            let name = EndName { old: Some(old.name.clone()), new: Some(new.name.clone()) };
            let of = format!("segment {}", super::text::end(&name));
            let mut add = |key, old: String, new: String| {
                if old != new {
                    settings.insert((of.clone(), key), (old, new));
                }
            };
            let protect = |cookies: bool| (if cookies { "syn-cookies" } else { "" }).to_owned();
            add("protect", protect(old.syn_cookies), protect(new.syn_cookies));
            let permits =
                |set: bulkhead_dataplane::headers::Permits| set.names().collect::<Vec<_>>().join(", ");
            add("permit", permits(old.permits), permits(new.permits));
        }
        let some = |text: String| (!text.is_empty()).then_some(text);
        let setting = |((of, key), (old, new)): ((String, &str), (String, String))| Setting {
            of,
            key: key.to_owned(),
            old: some(old),
            new: some(new),
            restart: false,
        };
        settings.into_iter().map(setting).collect()
    }
}
