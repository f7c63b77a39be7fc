//! `bulkhead portal`: the process in which the portal runs.

use clap::Args;

use super::Exit;

/// Serve the portal's pages; started by the gateway, with its end of a pair of sockets as standard input
#[derive(Args)]
#[command(hide = true)]
pub struct PortalArgs {}

impl PortalArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        crate::portal::run()?;
        Ok(Exit::Ok)
    }
}
