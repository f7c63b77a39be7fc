//! `bulkhead confirm`: keep what `apply --confirm` has put in force.

use clap::Args;
use serde_json::json;

use super::control::{ControlArgs, said, unexpected};
use super::{Exit, Format, OutputArgs, say, say_json};
use crate::api::{Reply, Request};

/// Keep the policy that waits for its confirmation
#[derive(Args)]
#[command(after_help = "Exit codes: 0 confirmed, 1 nothing to confirm, or not this one\n\n\
    Examples:\n  bulkhead confirm\n  bulkhead confirm 17")]
pub struct ConfirmArgs {
    /// Only if it is this revision
    #[arg(value_name = "REVISION")]
    revision: Option<u64>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl ConfirmArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let request = Request::Confirm { revision: self.revision, said: said() };
        let revision = match self.control.ask_one(&request, "confirming")? {
            Ok(Reply::Confirmed(revision)) => revision,
            Ok(reply) => return Err(unexpected(&reply)),
            Err(exit) => return Ok(exit),
        };
        match self.output.output {
            Format::Json => say_json(&json!({ "revision": revision })),
            Format::Text => say(&format!("revision {revision} is confirmed")),
        }
        Ok(Exit::Ok)
    }
}
