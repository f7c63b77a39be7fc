//! `bulkhead plan NEW`: what would this configuration change?

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::control::{ControlArgs, unexpected};
use super::{Exit, Format, OutputArgs, complain, say, say_json};
use crate::api::{Reply, Request};
use crate::model;
use crate::plan::{Plan, expiring, text};

/// Show what a configuration would change, without changing anything
///
/// Compares what the policies do, not how they are written: which connections are gained and lost between which
/// segments, each with a packet that shows it, and what else is set differently. Compares with the running gateway, and
/// then counts the live connections that would be cut; or with another file. Rules of either that have expired, or expire
/// within 30 days, are listed, and are by themselves no difference.
#[derive(Args)]
#[command(after_help = "Exit codes: 0 no difference, 1 error, 2 there are differences\n\n\
    Examples:\n  bulkhead plan /etc/bulkhead/next.toml\n  \
    bulkhead plan next.toml --against bulkhead.toml\n  \
    bulkhead plan next.toml -o json | jq '.access[] | select(.change == \"gained\")'\n  \
    bulkhead plan next.toml -o json | jq '.expiring[] | select(.new and .left_s == null) | .rule'")]
pub struct PlanArgs {
    /// The new configuration
    #[arg(value_name = "NEW")]
    file: PathBuf,
    /// The configuration to compare with; the one in force without
    #[arg(long, value_name = "OLD", conflicts_with = "control")]
    against: Option<PathBuf>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl PlanArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let plan = match &self.against {
            Some(old) => match offline(old, &self.file)? {
                Ok(plan) => plan,
                Err(errors) => {
                    complain(&errors);
                    return Ok(Exit::Error);
                }
            },
            None => {
                // The gateway has another working directory.
                let file = std::path::absolute(&self.file)?;
                match self.control.ask_one(&Request::Plan { file }, "comparing")? {
                    Ok(Reply::Planned(plan)) => *plan,
                    Ok(reply) => return Err(unexpected(&reply)),
                    Err(exit) => return Ok(exit),
                }
            }
        };
        match self.output.output {
            Format::Json => {
                let mut told = json!(plan);
                told["different"] = plan.is_different().into();
                told["restart"] = plan.needs_restart().into();
                say_json(&told);
            }
            Format::Text => {
                let is_wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
                say(&text::tell(&plan, text::Colours(is_wanted && std::io::stdout().is_terminal())));
            }
        }
        Ok(if plan.is_different() { Exit::Differences } else { Exit::Ok })
    }
}

/// Compares two files, or says what is wrong with them.
fn offline(old: &Path, new: &Path) -> anyhow::Result<Result<Plan, String>> {
    let models = [old, new].map(model::load);
    let [Ok(old), Ok(new)] = models else {
        let errors = models.into_iter().filter_map(Result::err).map(|errors| errors.to_string());
        return Ok(Err(errors.collect::<Vec<_>>().join("\n")));
    };
    let policy = match new.compile() {
        Ok(policy) => policy,
        Err(message) => return Ok(Err(format!("error: {message}"))),
    };
    let mut plan = Plan::between(&old, &new)?;
    plan.failed_tests = new.failed_tests(&policy);
    plan.expiring = expiring(&old, &new, Timestamp::now());
    Ok(Ok(plan))
}
