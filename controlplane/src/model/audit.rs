//! What is only tried: rules in audit, and pairs of segments between which nothing is refused.
//!
//! One configuration gives two rule sets with the same segments, conditions and rule numbers. In the *enforced* one
//! ([`Model::rules`]) a rule in audit matches nothing, and for every `[[audit]]` there is a rule that allows everything,
//! before all tiers and whatever the floors ask for. In the *written* one ([`Model::written`]) everything is as if nothing
//! were in audit, and these further rules match nothing. Where the two differ for a packet, that is what would change.

use std::sync::Arc;

use bulkhead_dataplane::connection::Overrides;
use bulkhead_dataplane::headers::protocol;
use bulkhead_dataplane::policy::rules::MAX_TIERS;
use bulkhead_dataplane::policy::{Rule, RuleSet, Service};

use super::resolve::Resolver;
use super::{Model, RuleInfo, SegmentInfo};
use crate::config::diagnostics::At;
use crate::config::schema::{Config, Text};

/// What the names of the rules begin with that stand for an `[[audit]]`: no other rule's name can.
pub const AUDIT: &str = "audit:";

impl Model {
    /// The rules as they would be enforced if nothing were in audit: with the same segments and the same numbers as
    /// [`rules`](Self::rules). `None` when nothing is in audit, and both are the same.
    pub fn audited(&self) -> Option<&RuleSet> {
        self.audited.as_deref()
    }

    /// The rules as they are written, with nothing in audit. The tests are about these: they say what the policy is
    /// meant to do.
    pub fn written(&self) -> &RuleSet {
        self.audited().unwrap_or(&self.rules)
    }
}

impl Resolver {
    /// The rules that stand for `[[audit]]` and for `audit` of the gateway.
    pub(super) fn audits(&mut self, config: &Config, segments: &[SegmentInfo]) -> Vec<(RuleInfo, Rule)> {
        let mut all: Vec<(RuleInfo, Rule)> = Vec::new();
        let any = |at: At| Text { value: "any".to_owned(), at };
        let gateway = config.gateway.audit.iter().filter(|audit| audit.value);
        let gateway = gateway.map(|audit| (audit.at, vec![any(audit.at)], vec![any(audit.at)]));
        let pairs = config.audits.iter().map(|audit| (audit.at, audit.from.clone(), audit.to.clone()));
        for (at, from, to) in gateway.chain(pairs) {
            let name = format!("{AUDIT}{}:{}", names(&from), names(&to));
            if let Some((first, _)) = all.iter().find(|(first, _)| first.name == name) {
                let first = first.at;
                self.report.error(at, "this is in audit already").related(first, "here");
                continue;
            }
            let rule = everything(self.segment_list(&from, segments), self.segment_list(&to, segments));
            if !self.expand(rule.from.len() + rule.to.len() + rule.services.len(), at) {
                break;
            }
            all.push((synthetic(name, at), rule));
        }
        all
    }

    /// The tiers have room for one before them all.
    pub(super) fn check_audit_tier(&mut self, rules: &[Rule], infos: &[RuleInfo]) {
        let beyond = rules.iter().any(|rule| rule.tier >= MAX_TIERS);
        if let Some(audit) = infos.iter().find(|info| info.is_synthetic && beyond) {
            self.report
                .error(audit.at, format!("with rules in {MAX_TIERS} tiers no pair can be in audit"))
                .hint("it takes a tier of its own, before all others");
        }
    }
}

/// `a+b`, as they are written, in the order of names.
fn names(list: &[Text]) -> String {
    let mut names: Vec<&str> = list.iter().map(|name| name.value.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.join("+")
}

/// Allows all there is: what cannot be looked into has to be named, so it is.
fn everything(
    from: Vec<bulkhead_dataplane::verdict::SegmentId>,
    to: Vec<bulkhead_dataplane::verdict::SegmentId>,
) -> Rule {
    let opaque = (1..=u8::MAX).filter(|number| protocol::is_opaque(*number)).map(Service::Protocol);
    let services = std::iter::once(Service::Any).chain(opaque).collect();
    Rule {
        from,
        to,
        services,
        action: bulkhead_dataplane::policy::Action::Allow,
        tier: 0,
        condition: None,
        waives_floors: true,
    }
}

fn synthetic(name: String, at: At) -> RuleInfo {
    RuleInfo {
        name,
        services: vec!["any".to_owned()],
        tier: 0,
        audit: false,
        is_synthetic: true,
        starts: None,
        expires: None,
        schedule: None,
        timeouts: Overrides::default(),
        limits: None,
        owner: None,
        ticket: None,
        description: None,
        at,
    }
}

/// Puts the rules that stand for `[[audit]]` among the others, in the order of names.
pub(super) fn merge(infos: &mut Vec<RuleInfo>, rules: &mut Vec<Rule>, audits: Vec<(RuleInfo, Rule)>) {
    if audits.is_empty() {
        return;
    }
    let written = std::mem::take(infos).into_iter().zip(std::mem::take(rules));
    let mut all: Vec<(RuleInfo, Rule)> = written.chain(audits).collect();
    all.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    (*infos, *rules) = all.into_iter().unzip();
}

/// Numbers the tiers in which rules stand without gaps: tiers without rules cost nothing. Those for `[[audit]]` stand
/// before all others.
pub(super) fn number_tiers(rules: &mut [Rule], infos: &[RuleInfo]) {
    let place = |rule: &Rule, info: &RuleInfo| if info.is_synthetic { 0 } else { rule.tier + 1 };
    let mut used: Vec<u8> = rules.iter().zip(infos).map(|(rule, info)| place(rule, info)).collect();
    used.sort_unstable();
    used.dedup();
    for (rule, info) in rules.iter_mut().zip(infos) {
        let place = place(rule, info);
        rule.tier = used.partition_point(|tier| *tier < place) as u8;
    }
}

/// Takes what is only tried out of the rules that are enforced, and gives the rules as they would be enforced.
pub(super) fn split(rules: &mut RuleSet, infos: &[RuleInfo]) -> Option<Arc<RuleSet>> {
    if !infos.iter().any(|info| info.audit || info.is_synthetic) {
        return None;
    }
    let mut written = rules.clone();
    // What matches nothing keeps its number.
    let blank = |rule: &Rule| Rule { action: rule.action, tier: rule.tier, ..Rule::default() };
    for ((enforced, written), info) in rules.rules.iter_mut().zip(&mut written.rules).zip(infos) {
        if info.audit {
            *enforced = blank(enforced);
        } else if info.is_synthetic {
            *written = blank(written);
        }
    }
    Some(Arc::new(written))
}
