//! `bulkhead reload [FILE]`: put a configuration in force.

use std::path::PathBuf;

use clap::Args;

use super::apply::put_in_force;
use super::control::{ControlArgs, said};
use super::{Exit, OutputArgs};
use crate::api::Request;

/// Put a configuration in force, without losing a packet
///
/// Returns when every worker judges by it, and prints its generation. A configuration that is wrong, or fails its own
/// tests, changes nothing: the old policy runs on. Live connections are judged again at their next packet. What differs
/// from what is confirmed becomes a new revision, see `history`.
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
        let request = Request::Reload { file, said: said() };
        put_in_force(&self.control, &request, "reloading", self.output)
    }
}
