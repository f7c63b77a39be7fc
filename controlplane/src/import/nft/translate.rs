//! Tables and chains as programs: one for what is forwarded, one for what the gateway itself answers.

use std::collections::BTreeMap;

use super::super::Ruleset;
use super::super::lexer::{Dialect, tokens};
use super::super::program::{Chain, Order, Program, Stage, Verdict};
use super::super::report::{Effect, Findings};
use super::super::sets::{Families, Services};
use super::matches::Reading;
use super::parse::ruleset;
use super::rules::{Builder, Names};
use super::syntax::{self, StatementKind, Table, VerdictKind};
use crate::config::diagnostics::{Report, quoted};

/// Reads a ruleset of nftables. `None` after an error, which is in the report.
pub fn read(file: u32, text: &str, report: &mut Report, findings: &mut Findings) -> Option<Ruleset> {
    let tokens = tokens(file, text, Dialect::Nft, report);
    let written = ruleset(tokens, report);
    if !report.is_clean() {
        return None;
    }
    let mut internet = Vec::new();
    for table in &written.tables {
        tell_unused(table, &mut internet, findings);
    }
    let forward = program(&written, &["prerouting", "forward", "postrouting"], report, findings)?;
    let has_forward = |table: &Table| table.chains.iter().any(|chain| hook(chain) == Some("forward"));
    if !written.tables.iter().any(|table| families(table).is_some() && has_forward(table)) {
        report
            .failure(
                "the ruleset has no chain with `hook forward`, so it does not say what may cross the gateway",
            )
            .hint("Bulkhead replaces the forwarding of a gateway; a host's own firewall stays with nftables");
        return None;
    }
    let mut own = Findings::default();
    let input = program(&written, &["input"], report, &mut own)?;
    Some(Ruleset { forward, input: (!input.stages.is_empty()).then_some(input), internet })
}

fn families(table: &Table) -> Option<Families> {
    match table.family.as_str() {
        "ip" => Some(Families::V4),
        "ip6" => Some(Families::V6),
        "inet" => Some(Families::BOTH),
        _ => None,
    }
}

/// The hook of a chain that filters.
fn hook(chain: &syntax::Chain) -> Option<&str> {
    chain.base.as_ref().filter(|base| base.kind == "filter").map(|base| base.hook.as_str())
}

/// Says what is not looked at, and finds the interfaces behind which addresses are translated.
fn tell_unused(table: &Table, internet: &mut Vec<String>, findings: &mut Findings) {
    if families(table).is_none() {
        for chain in table.chains.iter().filter(|chain| chain.base.is_some() && !chain.rules.is_empty()) {
            let message = format!("what family {} filters is not carried over", quoted(&table.family));
            findings.add(Effect::Wider, Some(chain.at), message);
        }
        return;
    }
    for chain in &table.chains {
        let Some(base) = &chain.base else { continue };
        match (base.kind.as_str(), base.hook.as_str()) {
            ("filter", "prerouting" | "forward" | "postrouting" | "input") => {}
            ("filter", "output") => {
                let is_open =
                    chain.rules.is_empty() && chain.policy.as_ref().is_none_or(|(p, _)| p == "accept");
                if !is_open {
                    let message = "what the gateway itself sends is not filtered by Bulkhead: keep this chain in nftables";
                    findings.add(Effect::Note, Some(base.at), message);
                }
            }
            ("nat", _) => {
                for rule in &chain.rules {
                    let message =
                        "the gateway translates no addresses: keep the translation on another machine";
                    findings.add(Effect::Narrower, Some(rule.at), message);
                    internet.extend(translated(rule));
                }
            }
            _ => {
                let message = format!("a chain of type {} is not carried over", quoted(&base.kind));
                findings.add(Effect::Note, Some(base.at), message);
            }
        }
    }
}

/// The interfaces that this rule masquerades at.
fn translated(rule: &syntax::Rule) -> Vec<String> {
    let is_source_nat = |kind: &StatementKind| match kind {
        StatementKind::Nat(text) => text.starts_with("masquerade") || text.starts_with("snat"),
        _ => false,
    };
    if !rule.statements.iter().any(|statement| is_source_nat(&statement.kind)) {
        return Vec::new();
    }
    let names = rule.statements.iter().filter_map(|statement| match &statement.kind {
        StatementKind::Match { keys, negated: false, value } if matches!(&keys[..], [key] if key.starts_with("oif")) => {
            Some(super::rules::words(value))
        }
        _ => None,
    });
    names.flatten().map(str::to_owned).collect()
}

/// The program of the base chains of some hooks.
fn program(
    written: &syntax::Ruleset,
    hooks: &[&str],
    report: &mut Report,
    findings: &mut Findings,
) -> Option<Program> {
    let mut program = Program {
        interfaces: Vec::new(),
        sets: Vec::new(),
        rules: Vec::new(),
        chains: Vec::new(),
        stages: Vec::new(),
        universe: Services::transport(),
    };
    let mut reading = Building { program: &mut program, report, findings, expanded: 0 };
    let mut bases: Vec<(usize, i64, Stage)> = Vec::new();
    for table in &written.tables {
        let Some(families) = families(table) else { continue };
        let places = reading.table(table, families, hooks)?;
        for (index, chain) in table.chains.iter().enumerate() {
            let Some(order) = hook(chain).and_then(|hook| hooks.iter().position(|known| *known == hook))
            else {
                continue;
            };
            let policy = match &chain.policy {
                Some((policy, _)) if policy == "drop" => Verdict::Drop,
                _ => Verdict::Accept,
            };
            if policy == Verdict::Accept && hook(chain) == Some("forward") {
                let at = chain.policy.as_ref().map_or(chain.at, |(_, at)| *at);
                let message =
                    "the policy is accept, so all that no rule refuses is allowed by rules of its own";
                reading.findings.add(Effect::Note, Some(at), message);
            }
            let is_main = hook(chain) != Some("prerouting") && hook(chain) != Some("postrouting");
            let stage = Stage { chain: places[&index], order: Order::First, families, policy, is_main };
            let priority = chain.base.as_ref().map_or(0, |base| base.priority);
            bases.push((order, priority, stage));
        }
    }
    bases.sort_by_key(|(order, priority, _)| (*order, *priority));
    program.stages = bases.into_iter().map(|(_, _, stage)| stage).collect();
    Some(program)
}

struct Building<'r> {
    program: &'r mut Program,
    report: &'r mut Report,
    findings: &'r mut Findings,
    expanded: usize,
}

impl Building<'_> {
    /// Adds the chains that packets of these hooks can come to. Their places in the program, by their places in the
    /// table.
    fn table(&mut self, table: &Table, families: Families, hooks: &[&str]) -> Option<BTreeMap<usize, usize>> {
        let by_name = |name: &str| table.chains.iter().position(|chain| chain.name == name);
        let mut places: BTreeMap<usize, usize> = BTreeMap::new();
        let bases = table
            .chains
            .iter()
            .enumerate()
            .filter(|(_, chain)| hook(chain).is_some_and(|hook| hooks.contains(&hook)));
        let mut waiting: Vec<usize> = bases.map(|(index, _)| index).collect();
        let mut order = Vec::new();
        while let Some(index) = waiting.pop() {
            if places.contains_key(&index) {
                continue;
            }
            places.insert(index, self.program.chains.len());
            let name = table.chains[index].name.clone();
            self.program.chains.push(Chain { name, rules: Vec::new() });
            order.push(index);
            for rule in &table.chains[index].rules {
                waiting.extend(targets(rule, table).into_iter().filter_map(by_name));
            }
        }
        order.sort_unstable();
        for index in order {
            let chain = |name: &str| by_name(name).and_then(|index| places.get(&index).copied());
            let names = Names {
                sets: &table.sets,
                families,
                chain: &chain,
                chains: table.chains.iter().map(|chain| chain.name.as_str()).collect(),
            };
            for rule in &table.chains[index].rules {
                let reading =
                    Reading { report: self.report, findings: self.findings, sets: &mut self.program.sets };
                let mut builder = Builder { reading, expanded: self.expanded };
                // After an error the rest is read for its errors.
                let rules = builder.rule(rule, &names).unwrap_or_default();
                self.expanded = builder.expanded;
                for rule in rules {
                    self.program.rules.push(rule);
                    let number = self.program.rules.len() - 1;
                    self.program.chains[places[&index]].rules.push(number);
                }
            }
        }
        self.report.is_clean().then_some(places)
    }
}

/// The chains that a rule jumps or goes to.
fn targets<'t>(rule: &'t syntax::Rule, table: &'t Table) -> Vec<&'t str> {
    let mut found = Vec::new();
    let mut of = |kind: &'t VerdictKind| {
        if let VerdictKind::Jump(name) | VerdictKind::Goto(name) = kind {
            found.push(name.as_str());
        }
    };
    for statement in &rule.statements {
        match &statement.kind {
            StatementKind::Verdict(kind) => of(kind),
            StatementKind::Vmap { value, .. } => {
                let elements = match value {
                    syntax::Value::Elements(elements) => Some(elements),
                    syntax::Value::Named(name) => {
                        table.sets.iter().find(|set| set.name == name.text).map(|set| &set.elements)
                    }
                    _ => None,
                };
                let verdicts = elements.into_iter().flatten().filter_map(|element| element.verdict.as_ref());
                verdicts.for_each(|verdict| of(&verdict.kind));
            }
            _ => {}
        }
    }
    found
}
