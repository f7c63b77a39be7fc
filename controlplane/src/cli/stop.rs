//! `bulkhead stop`: end the running gateway.

use std::path::PathBuf;

use clap::Args;

use super::control::ControlArgs;
use super::{Exit, say};
use crate::api::Request;
use crate::daemon;

/// Stop the running gateway
///
/// Its steering program stays on the ports and drops everything that is not for the gateway itself. With --unload it is
/// removed: traffic then reaches the kernel as if there were no gateway. After a crash, `stop --unload --config FILE`
/// does so without a running gateway.
#[derive(Args)]
#[command(after_help = "Examples:\n  bulkhead stop\n  bulkhead stop --unload\n  \
    bulkhead stop --unload --config /etc/bulkhead/bulkhead.toml")]
pub struct StopArgs {
    /// Remove the steering program from the ports
    #[arg(long)]
    unload: bool,
    /// No gateway is running: take the ports from this configuration
    #[arg(long, value_name = "FILE", requires = "unload", conflicts_with = "control")]
    config: Option<PathBuf>,
    #[command(flatten)]
    control: ControlArgs,
}

impl StopArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        if let Some(config) = &self.config {
            match daemon::unload(config)?.as_slice() {
                [] => say("there was no steering program on the ports"),
                removed => say(&format!("removed the steering program from {}", removed.join(", "))),
            }
            return Ok(Exit::Ok);
        }
        let exit = self.control.ask(&Request::Stop { unload: self.unload }, |_| Ok(()))?;
        if exit == Exit::Ok {
            say(if self.unload {
                "stopped; the steering program is removed"
            } else {
                "stopped; the ports stay closed"
            });
        }
        Ok(exit)
    }
}
