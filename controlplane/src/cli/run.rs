//! `bulkhead run`: the gateway.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, complain};
use crate::daemon::{self, Options};

/// Where the configuration is unless the command line says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/bulkhead/bulkhead.toml";

/// Run the gateway
///
/// Loads the configuration, runs its tests, takes its ports and forwards what its policy allows, until SIGTERM, SIGINT
/// or `bulkhead stop`. SIGHUP reloads. When it ends, in whatever way, the ports stay closed.
///
/// When the configuration is broken it starts with the policy that was confirmed last, and says so. The same when that was
/// put in force by `apply` or `rollback` and the configuration was not changed since. A policy that was never confirmed is
/// not started again.
///
/// Refuses to start while the kernel itself forwards, for then packets would go around the gateway.
#[derive(Args)]
#[command(
    after_help = "Exit codes: 0 stopped as told, 1 error, 3 tests of the policy failed, and nothing to start with instead\n\n\
    Examples:\n  bulkhead run --config /etc/bulkhead/bulkhead.toml\n  bulkhead run --manage-forwarding"
)]
pub struct RunArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Turn the kernel's forwarding off, now and whenever it is found on
    #[arg(long)]
    manage_forwarding: bool,
    /// Refuse to start when the configuration is broken, instead of starting with what was confirmed last
    #[arg(long)]
    no_fallback: bool,
    /// Where policies are kept [default: `state` in the configuration's [gateway]]
    #[arg(long, value_name = "DIRECTORY")]
    state: Option<PathBuf>,
}

impl RunArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let options = Options {
            config: self.config,
            manage_forwarding: self.manage_forwarding,
            state: self.state.map(std::path::absolute).transpose()?,
            no_fallback: self.no_fallback,
        };
        match daemon::run(&options)? {
            Ok(()) => Ok(Exit::Ok),
            Err(refusal) => {
                complain(&refusal.message);
                Ok(Exit::of(refusal.exit))
            }
        }
    }
}
