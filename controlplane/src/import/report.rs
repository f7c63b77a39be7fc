//! What an import could not express, what it assumed, and what needed no expression.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::config::{At, Sources};

/// What a finding means for the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// The policy lets something through, or leaves something unlimited, that the ruleset did not.
    Wider,
    /// The policy refuses something that the ruleset let through.
    Narrower,
    /// The ruleset does not say it, and somebody has to know it.
    Assumed,
    /// Worth knowing; no connection is judged otherwise.
    Note,
    /// The gateway does it by itself.
    Covered,
}

impl Effect {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Effect::Wider => "wider",
            Effect::Narrower => "narrower",
            Effect::Assumed => "assumed",
            Effect::Note => "note",
            Effect::Covered => "covered",
        }
    }

    /// Whether the policy does not do what the ruleset did.
    pub fn is_difference(self) -> bool {
        matches!(self, Effect::Wider | Effect::Narrower)
    }
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it means.
    pub effect: Effect,
    /// The statement, if there is one.
    pub at: Option<At>,
    /// What is the matter, and what follows from it.
    pub message: String,
}

/// All of an import.
#[derive(Clone, Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Adds one, unless the same is there.
    pub fn add(&mut self, effect: Effect, at: Option<At>, message: impl Into<String>) {
        self.0.push(Finding { effect, at, message: message.into() });
    }

    /// All, each once: differences first, then by place.
    pub fn sorted(mut self) -> Vec<Finding> {
        self.0.sort_by(|a, b| (a.effect, a.at, &a.message).cmp(&(b.effect, b.at, &b.message)));
        self.0.dedup();
        self.0
    }
}

/// `path:line:column`, or the file as a whole.
pub fn place(sources: &Sources, at: Option<At>) -> String {
    at.map_or_else(|| sources.file(0).path.clone(), |at| sources.place(at))
}

/// The source line of a place, cut to what is readable.
fn quoted_line(sources: &Sources, at: At) -> String {
    let text = &sources.file(at.file).text;
    let start = (at.start as usize).min(text.len());
    let end = (at.end as usize).clamp(start, text.len());
    let statement: String =
        text.get(start..end).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    match statement.char_indices().nth(100) {
        Some((cut, _)) => format!("{}…", &statement[..cut]),
        None => statement,
    }
}

/// For people: one finding a line and its statement below.
pub fn text(findings: &[Finding], sources: &Sources) -> String {
    let mut out = String::new();
    let covered = findings.iter().filter(|finding| finding.effect == Effect::Covered).count();
    for finding in findings.iter().filter(|finding| finding.effect != Effect::Covered) {
        let _ =
            writeln!(out, "{}: {}: {}", place(sources, finding.at), finding.effect.name(), finding.message);
        if let Some(at) = finding.at {
            let _ = writeln!(out, "    {}", quoted_line(sources, at));
        }
    }
    let count = |effect| findings.iter().filter(|finding| finding.effect == effect).count();
    let _ = write!(
        out,
        "{} narrower, {} wider than the ruleset; {covered} statements need no rule, for the gateway does it by itself",
        count(Effect::Narrower),
        count(Effect::Wider),
    );
    out
}

/// For programs.
pub fn to_json(findings: &[Finding], sources: &Sources) -> Value {
    let list: Vec<Value> = findings
        .iter()
        .map(|finding| {
            let mut object = json!({ "effect": finding.effect.name(), "message": finding.message });
            if let Some(at) = finding.at {
                let (path, line, column) = sources.position(at);
                object["file"] = json!(path);
                object["line"] = json!(line);
                object["column"] = json!(column);
                object["statement"] = json!(quoted_line(sources, at));
            }
            object
        })
        .collect();
    let is_exact = !findings.iter().any(|finding| finding.effect.is_difference());
    json!({ "exact": is_exact, "findings": list })
}
