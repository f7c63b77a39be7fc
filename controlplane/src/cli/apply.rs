//! `bulkhead apply NEW`: put a configuration in force, perhaps for a while only.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::control::{ControlArgs, in_force, said, unexpected};
use super::{Exit, Format, OutputArgs, say, say_json};
use crate::api::types::Note;
use crate::api::{Reply, Request};
use crate::config::values;

/// Put a configuration in force, and back again if nobody confirms it
///
/// Its own tests must pass. It is stored as a new revision, with the text of all its files, and put in force as `reload`
/// does it: atomically, and obeyed by live connections.
///
/// With --confirm the gateway puts the policy of before back by itself unless `bulkhead confirm` comes in time: also when
/// your own connection is the one that the new policy cuts. What is not confirmed does not outlive the gateway's
/// process either.
#[derive(Args)]
#[command(
    after_help = "Exit codes: 0 in force, 1 refused and nothing changed, 3 tests of the policy failed\n\n\
    Examples:\n  bulkhead apply next.toml --confirm 5m --ticket NET-17 --message \"open the new web servers\"\n  \
    bulkhead confirm"
)]
pub struct ApplyArgs {
    /// The configuration
    #[arg(value_name = "NEW")]
    file: PathBuf,
    /// Also when another one waits for its confirmation: this one takes its place
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    trial: TrialArgs,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Shared by `apply` and `rollback`.
#[derive(Args)]
pub(super) struct TrialArgs {
    /// Roll back after so long unless it is confirmed: from "1s" to "7d"
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    confirm: Option<Duration>,
    /// Why, for the history
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Where it was asked for, for the history
    #[arg(long, value_name = "TICKET")]
    ticket: Option<String>,
}

impl TrialArgs {
    pub(super) fn confirm_ms(&self) -> Option<u64> {
        // Ten years are the longest duration that can be written.
        self.confirm.map(|confirm| confirm.as_millis() as u64)
    }

    pub(super) fn note(self) -> Note {
        Note { message: self.message, ticket: self.ticket }
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    values::duration(text).map_err(|wrong| wrong.to_string())
}

impl ApplyArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        // The gateway has another working directory.
        let file = std::path::absolute(&self.file)?;
        let (confirm_ms, replace) = (self.trial.confirm_ms(), self.replace);
        let request = Request::Apply { file, confirm_ms, replace, note: self.trial.note(), said: said() };
        put_in_force(&self.control, &request, "applying", self.output)
    }
}

/// Asks for it, and tells what became of it.
pub(super) fn put_in_force(
    control: &ControlArgs,
    request: &Request,
    doing: &str,
    output: OutputArgs,
) -> anyhow::Result<Exit> {
    let reloaded = match control.ask_one(request, doing)? {
        Ok(Reply::Reloaded(reloaded)) => reloaded,
        Ok(reply) => return Err(unexpected(&reply)),
        Err(exit) => return Ok(exit),
    };
    match output.output {
        Format::Json => say_json(&json!(reloaded)),
        Format::Text => say(&in_force(&reloaded)),
    }
    Ok(Exit::Ok)
}
