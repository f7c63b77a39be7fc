//! One rule of a ruleset as rules of a program: one, or one for each combination that it lists.

use super::super::program::{Rule, Verdict};
use super::super::report::Effect;
use super::super::sets::Families;
use super::matches::{Draft, Reading, single};
use super::syntax::{self, Atom, Element, Set, Statement, StatementKind, Value, VerdictKind};
use crate::config::diagnostics::{At, quoted};

/// The most rules that all sets of combinations and verdict maps may be written out to.
const EXPANDED_LIMIT: usize = 50_000;

/// What a rule may refer to by name.
pub(super) struct Names<'t> {
    pub sets: &'t [Set],
    pub families: Families,
    /// The place of a chain of its table in the program.
    pub chain: &'t dyn Fn(&str) -> Option<usize>,
    pub chains: Vec<&'t str>,
}

/// Reads rules into a program.
pub(super) struct Builder<'r> {
    pub reading: Reading<'r>,
    /// How many rules sets and maps were written out to.
    pub expanded: usize,
}

impl Builder<'_> {
    /// `None` after an error.
    pub(super) fn rule(&mut self, rule: &syntax::Rule, names: &Names<'_>) -> Option<Vec<Rule>> {
        let mut drafts = vec![Draft::new(names.families)];
        let mut done = Vec::new();
        for statement in &rule.statements {
            match &statement.kind {
                StatementKind::Match { keys, negated, value } => {
                    drafts = self.matched(drafts, statement, (keys, *negated), value, names)?;
                }
                StatementKind::Vmap { keys, value } => {
                    self.vmap(&drafts, rule, statement, (keys, value), names, &mut done)?;
                    drafts.clear();
                }
                StatementKind::Verdict(verdict) => {
                    for draft in drafts.drain(..) {
                        done.extend(self.finished(draft, rule, statement.at, verdict, names)?);
                    }
                }
                StatementKind::Limit { packets, seconds, over } => {
                    drafts.iter_mut().for_each(|draft| draft.limit = Some((*packets, *seconds, *over)));
                }
                StatementKind::Condition(text) => {
                    let what = format!("{} cannot be expressed", quoted(text));
                    let is_rate = text.contains("limit rate over") || text.contains("ct count over");
                    for draft in &mut drafts {
                        match is_rate {
                            true => draft.limit = Some((None, 1, true)),
                            false => draft.unsure.push(what.clone()),
                        }
                    }
                }
                StatementKind::Silent => {}
                StatementKind::Effect(text) => self.effect(text, statement.at),
                StatementKind::Nat(text) => {
                    let message = format!("{}: the gateway translates no addresses", quoted(text));
                    self.reading.findings.add(Effect::Narrower, Some(statement.at), message);
                    drafts.clear();
                }
            }
        }
        Some(done)
    }

    fn effect(&mut self, text: &str, at: At) {
        let (effect, message) = match text {
            "log" => (Effect::Covered, "the gateway tells of every connection and drop by itself".to_owned()),
            _ if text.starts_with("flow") => {
                (Effect::Covered, "established connections take a short way by themselves".to_owned())
            }
            _ => (Effect::Note, format!("{} has no counterpart", quoted(text))),
        };
        self.reading.findings.add(effect, Some(at), message);
    }

    fn count(&mut self, more: usize, at: At) -> Option<()> {
        self.expanded += more;
        if self.expanded <= EXPANDED_LIMIT {
            return Some(());
        }
        let message = "the sets of combinations and verdict maps are too large when written out";
        self.reading.report.error(at, message).hint(format!("{EXPANDED_LIMIT} combinations are the limit"));
        None
    }

    /// The elements that a value stands for; the name of the set, if it has one.
    fn elements<'v>(
        &mut self,
        value: &'v Value,
        names: &Names<'v>,
        statement: &Statement,
    ) -> Option<(&'v [Element], Option<&'v str>)> {
        match value {
            Value::Elements(elements) => Some((elements, None)),
            Value::Named(name) => {
                let Some(set) = names.sets.iter().find(|set| set.name == name.text) else {
                    let known = names.sets.iter().map(|set| set.name.as_str());
                    let hint = self.reading.report.nearest(&name.text, known);
                    let message = format!("unknown set {}", quoted(&format!("@{}", name.text)));
                    self.reading.report.error(name.at, message).maybe_hint(hint);
                    return None;
                };
                if set.is_dynamic {
                    let message = format!(
                        "what packets put into {} at run time is not carried over, only what it holds in the file",
                        quoted(&format!("@{}", set.name))
                    );
                    self.reading.findings.add(Effect::Wider, Some(statement.at), message);
                }
                Some((&set.elements, Some(&set.name)))
            }
            Value::Flags(..) | Value::Masked(..) | Value::Unknown => None,
        }
    }

    fn matched(
        &mut self,
        mut drafts: Vec<Draft>,
        statement: &Statement,
        (keys, negated): (&[String], bool),
        value: &Value,
        names: &Names<'_>,
    ) -> Option<Vec<Draft>> {
        let unsure = |drafts: &mut Vec<Draft>, text: &str| {
            let what = format!("{} cannot be expressed", quoted(text));
            drafts.iter_mut().for_each(|draft| draft.unsure.push(what.clone()));
        };
        match (value, keys) {
            (Value::Unknown, _) => unsure(&mut drafts, &keys.join(" . ")),
            (Value::Flags(atoms, is_explicit), [key]) => {
                for draft in &mut drafts {
                    self.reading.flags(draft, key, negated, (atoms, *is_explicit))?;
                }
            }
            (Value::Masked(mask, wanted), [key]) => {
                for draft in &mut drafts {
                    self.reading.masked(draft, key, negated, (mask, wanted))?;
                }
            }
            (Value::Masked(..) | Value::Flags(..), _) => unsure(&mut drafts, &keys.join(" . ")),
            (_, [key]) => {
                let (elements, name) = self.elements(value, names, statement)?;
                let atoms: Vec<&Atom> = elements.iter().filter_map(|element| element.parts.first()).collect();
                for draft in &mut drafts {
                    self.reading.condition(draft, key, negated, &atoms, name)?;
                }
            }
            _ if negated => unsure(&mut drafts, &format!("{} != …", keys.join(" . "))),
            _ => {
                let (elements, _) = self.elements(value, names, statement)?;
                self.count(drafts.len() * elements.len(), statement.at)?;
                let mut all = Vec::new();
                for draft in &drafts {
                    for element in elements {
                        all.push(self.combined(draft, keys, element, statement.at)?);
                    }
                }
                return Some(all);
            }
        }
        Some(drafts)
    }

    /// A draft with one element of a concatenation.
    fn combined(&mut self, draft: &Draft, keys: &[String], element: &Element, at: At) -> Option<Draft> {
        let mut draft = draft.clone();
        if element.parts.len() != keys.len() {
            let message = format!("{} parts are compared with {}", element.parts.len(), keys.len());
            let at = element.parts.first().map_or(at, |part| part.at);
            self.reading.report.error(at, message);
            return None;
        }
        for (key, atom) in keys.iter().zip(&element.parts) {
            self.reading.condition(&mut draft, key, false, &[atom], None)?;
        }
        Some(draft)
    }

    fn vmap(
        &mut self,
        drafts: &[Draft],
        rule: &syntax::Rule,
        statement: &Statement,
        (keys, value): (&[String], &Value),
        names: &Names<'_>,
        done: &mut Vec<Rule>,
    ) -> Option<()> {
        let (elements, _) = self.elements(value, names, statement)?;
        self.count(drafts.len() * elements.len(), statement.at)?;
        let is_rest = |element: &&Element| element.parts.iter().all(|part| part.text == "*");
        // The rest is what no element before it has.
        let in_order = elements.iter().filter(|e| !is_rest(e)).chain(elements.iter().filter(is_rest));
        for element in in_order {
            let Some(verdict) = &element.verdict else {
                let at = element.parts.first().map_or(statement.at, |part| part.at);
                self.reading
                    .report
                    .error(at, "this element has no verdict")
                    .hint("for example `22 : accept`");
                return None;
            };
            for draft in drafts {
                let draft = match is_rest(&element) {
                    true => draft.clone(),
                    false => self.combined(draft, keys, element, statement.at)?,
                };
                done.extend(self.finished(draft, rule, verdict.at, &verdict.kind, names)?);
            }
        }
        Some(())
    }

    /// The rule of a draft with its verdict.
    fn finished(
        &mut self,
        draft: Draft,
        rule: &syntax::Rule,
        at: At,
        verdict: &VerdictKind,
        names: &Names<'_>,
    ) -> Option<Option<Rule>> {
        let target = |builder: &mut Self, name: &str| {
            let found = (names.chain)(name);
            if found.is_none() {
                let hint = builder.reading.report.nearest(name, names.chains.iter().copied());
                let message = format!("unknown chain {}", quoted(name));
                builder.reading.report.error(at, message).maybe_hint(hint);
            }
            found
        };
        let verdict = match verdict {
            VerdictKind::Accept => Verdict::Accept,
            VerdictKind::Drop => Verdict::Drop,
            VerdictKind::Reject => Verdict::Reject,
            VerdictKind::Jump(name) => Verdict::Jump(target(self, name)?),
            VerdictKind::Goto(name) => Verdict::Goto(target(self, name)?),
            VerdictKind::Return => Verdict::Return,
            VerdictKind::Continue => return Some(None),
            VerdictKind::Queue => {
                let message = "what a program decides over a queue is refused";
                self.reading.findings.add(Effect::Narrower, Some(rule.at), message);
                Verdict::Drop
            }
        };
        if let (Some(why), false) = (draft.covered, draft.first) {
            self.reading.findings.add(Effect::Covered, Some(rule.at), why);
        }
        Some(self.limited(draft, rule, verdict))
    }

    /// The rule, if it is one with its limit and its unknown conditions.
    fn limited(&mut self, draft: Draft, rule: &syntax::Rule, verdict: Verdict) -> Option<Rule> {
        let mut draft = draft;
        let mut per_second = None;
        let refuses = matches!(verdict, Verdict::Drop | Verdict::Reject);
        match draft.limit {
            Some((_, _, true)) if refuses && draft.first => {
                let message = "a limit that refuses what is beyond it is not carried over: give the rules that allow \
                               these connections `limits`";
                self.reading.findings.add(Effect::Wider, Some(rule.at), message);
                return None;
            }
            Some((Some(packets), seconds, false)) if verdict == Verdict::Accept && packets >= seconds => {
                per_second = Some(packets / seconds);
                if draft.first {
                    let message =
                        "its limit becomes `new_per_second`, which counts connections instead of packets";
                    self.reading.findings.add(Effect::Note, Some(rule.at), message);
                }
            }
            Some(_) => draft.unsure.push("a limit of less than one in a second, or of bytes".to_owned()),
            None => {}
        }
        let certain = draft.unsure.is_empty();
        if !certain && draft.first {
            let what = draft.unsure.join("; ");
            let message = match verdict {
                Verdict::Accept => format!("left out, for it cannot be narrowed as it is: {what}"),
                Verdict::Drop | Verdict::Reject => format!("all that it might refuse is refused: {what}"),
                _ => format!("only what is allowed with and without it is allowed: {what}"),
            };
            self.reading.findings.add(Effect::Narrower, Some(rule.at), message);
        }
        Some(Rule {
            at: rule.at,
            comment: rule.comment.clone(),
            source: draft.source,
            destination: draft.destination,
            families: draft.families,
            services: draft.services,
            certain,
            first: draft.first,
            later: draft.later,
            per_second,
            verdict,
            quick: false,
        })
    }
}

/// Whether a value is one of these words only; for conditions that are about names.
pub(super) fn words(value: &Value) -> Vec<&str> {
    single(value).unwrap_or_default().into_iter().map(|atom| atom.text.as_str()).collect()
}
