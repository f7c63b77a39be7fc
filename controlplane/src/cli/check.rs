//! `bulkhead check FILE`: is this configuration right, and does its policy do what its tests say?

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::{Exit, Format, OutputArgs, complain, files, junit, say, say_json};
use crate::lint::{self, Lint};
use crate::model::{self, Model, TestResult};

/// Check a configuration and run its tests
///
/// Reads the file and everything it includes, resolves every name, compiles the policy and runs the [[test]]s in
/// it. Changes nothing, and needs no privileges.
/// Warns of rules that never do anything, or more than they seem to, each with a packet that shows it.
#[derive(Args)]
#[command(after_help = "Exit codes: 0 right, 1 errors (or lints, with --deny-warnings), 3 tests failed\n\n\
    Examples:\n  bulkhead check /etc/bulkhead/bulkhead.toml\n  bulkhead check -o json bulkhead.toml | jq .errors\n  \
    bulkhead check --junit policy.xml bulkhead.toml")]
pub struct CheckArgs {
    /// The configuration
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write the tests' results as JUnit XML to this file as well
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Warnings make it end with 1
    #[arg(long)]
    deny_warnings: bool,
    /// Leave out one kind of warning; may be given several times
    #[arg(long, value_name = "KIND", value_parser = clap::builder::PossibleValuesParser::new(lint::KINDS))]
    allow: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

impl CheckArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let json_wanted = self.output.output == Format::Json;
        let model = match model::load(&self.file) {
            Ok(model) => model,
            Err(errors) => {
                self.write_junit(|file| junit::of_errors(file, &errors))?;
                if json_wanted {
                    say_json(
                        &json!({ "ok": false, "errors": errors.to_json(), "error_count": errors.list().len() }),
                    );
                } else {
                    complain(&errors.to_string());
                }
                return Ok(Exit::Error);
            }
        };
        let policy = match model.compile() {
            Ok(policy) => policy,
            Err(message) => {
                self.write_junit(|file| junit::of_error(file, &message))?;
                if json_wanted {
                    say_json(&json!({ "ok": false, "errors": [{ "message": message }], "error_count": 1 }));
                } else {
                    complain(&format!("error: {message}"));
                }
                return Ok(Exit::Error);
            }
        };
        let begun = Instant::now();
        let results = model.run_tests(&policy);
        let seconds = begun.elapsed().as_secs_f64();
        self.write_junit(|file| junit::of_tests(file, &model, &results, seconds))?;
        let failed = results.iter().filter(|r| r.failure.is_some()).count();
        let mut lints = lint::lint(&model, Timestamp::now());
        lints.retain(|lint| !self.allow.iter().any(|allowed| allowed == lint.kind));
        if json_wanted {
            let mut told = to_json(&model, &results, failed);
            told["lints"] = lints.iter().map(|lint| lint.to_json(&model.sources)).collect();
            say_json(&told);
        } else {
            tell_lints(&model, &lints);
            tell(&self.file.display().to_string(), &model, &results, failed);
        }
        Ok(match failed {
            0 if self.deny_warnings && !(lints.is_empty() && model.warnings.list().is_empty()) => Exit::Error,
            0 => Exit::Ok,
            _ => Exit::TestsFailed,
        })
    }

    fn write_junit(&self, report: impl FnOnce(&str) -> String) -> anyhow::Result<()> {
        let Some(path) = &self.junit else { return Ok(()) };
        let xml = report(&self.file.display().to_string());
        files::replace(path, xml.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// At most so many warnings are told; JSON has all.
const TOLD: usize = 50;

fn tell_lints(model: &Model, lints: &[Lint]) {
    lints.iter().take(TOLD).for_each(|lint| complain(&lint.render(&model.sources)));
    if lints.len() > TOLD {
        complain(&format!("… and {} more warnings (-o json has them all)", lints.len() - TOLD));
    }
}

fn tell(file: &str, model: &Model, results: &[TestResult<'_>], failed: usize) {
    if !model.warnings.list().is_empty() {
        complain(&model.warnings.to_string());
    }
    for result in results {
        if let Some(failure) = &result.failure {
            let place = model.sources.place(result.test.at);
            complain(&format!("{place}: test \"{}\" failed: {failure}", result.test.name.escape_debug()));
        }
    }
    let counted = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let tests = match (results.len(), failed) {
        (0, _) => "no tests".to_owned(),
        (all, 0) => format!("{} passed", counted(all, "test")),
        (all, _) => format!("{failed} of {} failed", counted(all, "test")),
    };
    let (tried, pairs) = in_audit(model);
    if tried.len() + pairs.len() > 0 {
        say(&format!(
            "{file}: in audit: {}; the tests are judged as if it were enforced",
            tried.iter().chain(&pairs).copied().collect::<Vec<_>>().join(", ")
        ));
    }
    say(&format!(
        "{file}: {}: {}, {}, {}, {tests}",
        if failed == 0 { "ok" } else { "TESTS FAILED" },
        counted(model.ports.len(), "port"),
        counted(model.segments.len(), "segment"),
        counted(model.rule_infos.len() - pairs.len(), "rule"),
    ));
}

/// The rules in audit, and the pairs of segments.
fn in_audit(model: &Model) -> (Vec<&str>, Vec<&str>) {
    let rules = model.rule_infos.iter().filter(|rule| rule.audit).map(|rule| rule.name.as_str());
    let pairs = model.rule_infos.iter().filter(|rule| rule.is_synthetic).map(|rule| rule.name.as_str());
    (rules.collect(), pairs.collect())
}

fn to_json(model: &Model, results: &[TestResult<'_>], failed: usize) -> serde_json::Value {
    let tests: Vec<_> = results
        .iter()
        .map(|r| {
            let at = model.sources.place(r.test.at);
            let (file, line, _) = model.sources.position(r.test.at);
            json!({
                "name": r.test.name, "at": at, "file": file, "line": line,
                "passed": r.failure.is_none(), "failure": r.failure,
            })
        })
        .collect();
    let (tried, pairs) = in_audit(model);
    let rules = model.rule_infos.len() - pairs.len();
    json!({
        "ok": failed == 0, "in_audit": { "rules": tried, "pairs": pairs }, "digest": model.digest, "ports": model.ports.len(), "segments": model.segments.len(),
        "rules": rules, "tests": tests, "tests_failed": failed,
        "warnings": model.warnings.to_json(),
    })
}
