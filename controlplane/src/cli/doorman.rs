//! `bulkhead doorman`: the process in which one client shows its certificate.

use clap::Args;

use super::Exit;

/// Make one handshake with a client's certificate; started by the gateway, with its end of a pair of sockets as standard input
#[derive(Args)]
#[command(hide = true)]
pub struct DoormanArgs {}

impl DoormanArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        crate::portal::doorman::run()?;
        Ok(Exit::Ok)
    }
}
