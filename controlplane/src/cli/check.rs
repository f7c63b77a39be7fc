//! `bulkhead check FILE`: is this configuration right, and does its policy do what its tests say?

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Exit, Format, OutputArgs, complain, say, say_json};
use crate::model::{self, Model, TestResult};

/// Check a configuration and run its tests
///
/// Reads the file and everything it includes, resolves every name, compiles the policy and runs the [[test]]s in
/// it. Changes nothing, and needs no privileges.
#[derive(Args)]
#[command(after_help = "Exit codes: 0 right, 1 errors, 3 tests failed\n\n\
    Examples:\n  bulkhead check /etc/bulkhead/bulkhead.toml\n  bulkhead check -o json bulkhead.toml | jq .errors")]
pub struct CheckArgs {
    /// The configuration
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

impl CheckArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let json_wanted = self.output.output == Format::Json;
        let model = match model::load(&self.file) {
            Ok(model) => model,
            Err(errors) => {
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
                if json_wanted {
                    say_json(&json!({ "ok": false, "errors": [{ "message": message }], "error_count": 1 }));
                } else {
                    complain(&format!("error: {message}"));
                }
                return Ok(Exit::Error);
            }
        };
        let results = model.run_tests(&policy);
        let failed = results.iter().filter(|r| r.failure.is_some()).count();
        if json_wanted {
            say_json(&to_json(&model, &results, failed));
        } else {
            tell(&self.file.display().to_string(), &model, &results, failed);
        }
        Ok(if failed == 0 { Exit::Ok } else { Exit::TestsFailed })
    }
}

fn tell(file: &str, model: &Model, results: &[TestResult<'_>], failed: usize) {
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
    say(&format!(
        "{file}: {}: {}, {}, {}, {tests}",
        if failed == 0 { "ok" } else { "TESTS FAILED" },
        counted(model.ports.len(), "port"),
        counted(model.segments.len(), "segment"),
        counted(model.rule_infos.len(), "rule"),
    ));
}

fn to_json(model: &Model, results: &[TestResult<'_>], failed: usize) -> serde_json::Value {
    let tests: Vec<_> = results
        .iter()
        .map(|r| {
            let at = model.sources.place(r.test.at);
            json!({ "name": r.test.name, "at": at, "passed": r.failure.is_none(), "failure": r.failure })
        })
        .collect();
    json!({
        "ok": failed == 0, "digest": model.digest, "ports": model.ports.len(), "segments": model.segments.len(),
        "rules": model.rule_infos.len(), "tests": tests, "tests_failed": failed,
    })
}
