//! `bulkhead reload [FILE]`: put a configuration in force.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::control::{ControlArgs, unexpected};
use super::{Exit, Format, OutputArgs, say, say_json};
use crate::api::{Reply, Request};

/// Put a configuration in force, without losing a packet
///
/// Returns when every worker judges by it, and prints its generation. A configuration that is wrong, or fails its own
/// tests, changes nothing: the old policy runs on. Live connections are judged again at their next packet.
#[derive(Args)]
#[command(after_help = "Exit codes: 0 in force, 1 refused, 3 tests of the policy failed\n\n\
    Examples:\n  bulkhead reload\n  bulkhead reload /etc/bulkhead/next.toml")]
pub struct ReloadArgs {
    /// The configuration; the one last loaded without
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl ReloadArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        // The gateway has another working directory.
        let file = self.file.map(std::path::absolute).transpose()?;
        let reloaded = match self.control.ask_one(&Request::Reload { file }, "reloading")? {
            Ok(Reply::Reloaded(reloaded)) => reloaded,
            Ok(reply) => return Err(unexpected(&reply)),
            Err(exit) => return Ok(exit),
        };
        if self.output.output == Format::Json {
            say_json(&json!(reloaded));
        } else {
            let config = reloaded.config.display();
            say(&format!(
                "generation {}: {} rules from {config}, in force in every worker after {} ms",
                reloaded.generation, reloaded.rules, reloaded.took_ms
            ));
        }
        Ok(Exit::Ok)
    }
}
