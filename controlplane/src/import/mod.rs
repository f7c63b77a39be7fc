//! Rulesets of others as a policy.
//!
//! nftables and pf read rules in an order; here rules have none, and deny beats allow. So a ruleset is not rewritten rule
//! by rule but by what it means: it becomes a [`program::Program`], addresses that no rule tells apart become segments
//! ([`classes`]), what is decided of every pair of them is computed ([`regions::Pairs`]), and rules are made that decide
//! the same ([`regions::unordered`]), which is verified before anything is written. What cannot be expressed is left out
//! on the side that refuses, and reported.

pub mod classes;
mod interfaces;
mod lexer;
mod local;
mod names;
mod nft;
mod pf;
pub mod program;
pub mod regions;
pub mod report;
pub mod sets;
mod write;

use ipnet::IpNet;

use crate::config::Sources;
use crate::config::diagnostics::{Diagnostics, Report};
use crate::model;
use classes::TooMany;
use program::{Program, TooMuch};
use regions::{Failure, Pairs};
use report::{Effect, Finding, Findings};

pub use lexer::BYTES_LIMIT;

/// Which language a ruleset is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// nftables.
    Nft,
    /// pf of OpenBSD and FreeBSD.
    Pf,
}

impl Language {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Language::Nft => "nft",
            Language::Pf => "pf",
        }
    }
}

/// What the ruleset does not say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Interfaces and the networks behind them.
    pub interfaces: Vec<(String, Vec<IpNet>)>,
}

/// A ruleset as it was read.
pub struct Ruleset {
    /// What is forwarded.
    forward: Program,
    /// What the gateway itself answers.
    input: Option<Program>,
    /// Interfaces at which sources are translated: what lies behind is everybody else.
    internet: Vec<String>,
}

/// A policy, and what is to be said about it.
#[derive(Debug)]
pub struct Imported {
    /// The configuration.
    pub toml: String,
    /// What could not be expressed, and so on.
    pub findings: Vec<Finding>,
    /// The ruleset's text, for places.
    pub sources: Sources,
}

/// Turns a ruleset into a policy. `name` stands for the file's path.
pub fn import(
    language: Language,
    name: &str,
    text: &str,
    options: &Options,
) -> Result<Imported, Diagnostics> {
    let mut report = Report::default();
    let file = report.sources.add(name.to_owned(), text.to_owned());
    let done = convert(language, file, text, options, &mut report);
    match done {
        Some((toml, findings)) if report.is_clean() => {
            Ok(Imported { toml, findings, sources: report.sources })
        }
        _ => {
            if report.is_clean() {
                report.failure("the ruleset could not be converted");
            }
            Err(report.into_diagnostics())
        }
    }
}

fn convert(
    language: Language,
    file: u32,
    text: &str,
    options: &Options,
    report: &mut Report,
) -> Option<(String, Vec<Finding>)> {
    let mut findings = Findings::default();
    let mut ruleset = match language {
        Language::Nft => nft::read(file, text, report, &mut findings)?,
        Language::Pf => pf::read(file, text, options, report, &mut findings)?,
    };
    let (internet, input) = (std::mem::take(&mut ruleset.internet), ruleset.input.take());
    let program = &mut ruleset.forward;
    interfaces::assign(program, input.as_ref(), &internet, options, report, &mut findings)?;
    limit_universe(program);
    let classes = classes::classes(program).map_err(|error| too_many(error, report)).ok()?;
    let pairs = Pairs::new(program, &classes).map_err(|error| too_much(error, report)).ok()?;
    let unordered =
        regions::unordered(program, &classes, &pairs).map_err(|error| failed(error, report)).ok()?;
    tell_rules(program, &unordered, &mut findings);
    tell_sets(program, &mut findings);
    // States of pf let replies through before any rule is asked.
    if language == Language::Nft {
        tell_replies(program, &classes, &pairs, &mut findings)
            .map_err(|error| too_much(error, report))
            .ok()?;
    }
    let local = match input {
        Some(input) => local::local(input, program, &mut findings)
            .map_err(|error| too_many(error, report))
            .ok()?
            .map_err(|error| too_much(error, report))
            .ok()?,
        None => vec![sets::Services::default(); program.interfaces.len()],
    };
    let findings = findings.sorted();
    let toml = write::write(&write::Parts {
        language: language.name(),
        program,
        classes: &classes,
        pairs: &pairs,
        rules: &unordered.rules,
        local: &local,
        findings: &findings,
        sources: &report.sources,
    });
    check(&toml, report)?;
    Some((toml, findings))
}

/// Protocols that no rule names by itself are nobody's: an "accept" alone opens TCP, UDP and echo requests.
fn limit_universe(program: &mut Program) {
    let everything = sets::Services::everything();
    let mut universe = sets::Services::transport();
    for rule in &program.rules {
        // One that names some names few; one that names none, or all but a few, has most.
        let named: u128 = rule.services.others.iter().map(|(low, high)| high - low + 1).sum();
        if named < 64 {
            universe = universe.union(&rule.services.intersection(&everything));
        }
    }
    program.universe = universe;
}

fn too_many(error: TooMany, report: &mut Report) {
    let (what, limit) = match error {
        TooMany::Networks => ("networks", classes::NETWORKS_LIMIT),
        TooMany::Segments => ("different classes of addresses", classes::SEGMENTS_LIMIT),
    };
    report.failure(format!("the ruleset names more than {limit} {what}"));
}

fn too_much(error: TooMuch, report: &mut Report) {
    match error {
        TooMuch::Steps => report.failure("the rules and chains are too entangled to be followed"),
        TooMuch::Depth => {
            report.failure(format!("chains jump more than {} deep, or in a circle", program::DEPTH_LIMIT))
        }
    };
}

fn failed(failure: Failure, report: &mut Report) {
    match failure {
        Failure::TooMuch(error) => too_much(error, report),
        Failure::TooManyRules => {
            report.failure("the ruleset would become too many rules");
        }
        Failure::Differs(how) => {
            report.failure(format!("the policy would not mean the same, a fault of Bulkhead: {how}"));
        }
    }
}

/// Rules that became nothing, or something else.
fn tell_rules(program: &Program, unordered: &regions::Unordered, findings: &mut Findings) {
    for &rule in &unordered.idle {
        let message =
            "this rule decides nothing: the rules around it do, or nobody is there whom it would match";
        findings.add(Effect::Note, Some(program.rules[rule].at), message);
    }
    for rule in &unordered.silenced {
        let at = rule.map(|rule| program.rules[rule].at);
        let message =
            "what this refuses is dropped without telling the sender: telling would take too many rules";
        findings.add(Effect::Note, at, message);
    }
}

/// Addresses behind no interface.
fn tell_sets(program: &Program, findings: &mut Findings) {
    let behind: sets::Addresses =
        program.interfaces.iter().flat_map(|interface| interface.networks.clone()).collect();
    for set in &program.sets {
        let elsewhere = set.addresses.minus(&behind);
        let is_all = set.addresses == sets::Addresses::all(set.addresses.families());
        if !elsewhere.is_empty() && !is_all {
            let networks: Vec<String> = elsewhere.networks().iter().map(ToString::to_string).collect();
            let message = format!(
                "{} lies behind no interface, so rules about it do nothing: say --interface NAME=NETWORK,…",
                local::shortened(&networks)
            );
            findings.add(Effect::Narrower, Some(set.at), message);
        }
    }
}

/// Connections whose replies the ruleset drops: here replies follow their connection.
fn tell_replies(
    program: &Program,
    classes: &[classes::Class],
    pairs: &Pairs,
    findings: &mut Findings,
) -> Result<(), TooMuch> {
    let mut walk = program::Walk::new(program);
    let mut known = std::collections::HashMap::new();
    let mut without: Vec<String> = Vec::new();
    let mut first = None;
    for (from, source) in classes.iter().enumerate() {
        for (to, destination) in classes.iter().enumerate() {
            let Some(outcome) = pairs.outcome(from, to).filter(|outcome| !outcome.allowed.tcp.is_empty())
            else {
                continue;
            };
            let bits = destination.as_source.and(&source.as_destination);
            let families = source.families.and(destination.families);
            let passed = match known.get(&(bits.clone(), families)) {
                Some(passed) => *passed,
                None => {
                    let passed = !walk.later(&bits, families)?.tcp.is_empty();
                    known.insert((bits, families), passed);
                    passed
                }
            };
            if !passed {
                let of = |class: &classes::Class| {
                    class.networks.first().map(ToString::to_string).unwrap_or_default()
                };
                without.push(format!("{} → {}", of(source), of(destination)));
                let rule = outcome.decided.iter().find(|part| part.verdict == program::Verdict::Accept);
                first = first.or(rule.and_then(|part| part.rule));
            }
        }
    }
    if !without.is_empty() {
        let message = format!(
            "no rule seems to let replies back for {}: here replies follow the connection that a rule allows",
            local::shortened(&without)
        );
        findings.add(Effect::Wider, first.map(|rule| program.rules[rule].at), message);
    }
    Ok(())
}

/// What was written must load, and its tests pass: nothing else is handed out.
fn check(toml: &str, report: &mut Report) -> Option<()> {
    let fault = match model::parse("the policy", toml) {
        Err(errors) => Some(errors.to_string()),
        Ok(model) => match model.compile() {
            Err(error) => Some(error),
            Ok(policy) => model.run_tests(&policy).iter().find_map(|result| {
                let failure = result.failure.as_ref()?;
                Some(format!("test \"{}\": {failure}", result.test.name))
            }),
        },
    };
    match fault {
        None => Some(()),
        Some(fault) => {
            report.failure(format!("the policy that was made is not right, a fault of Bulkhead: {fault}"));
            None
        }
    }
}

#[cfg(test)]
mod refusals;
#[cfg(test)]
mod tests;
