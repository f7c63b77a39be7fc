//! `bulkhead rollback [REVISION]`: put an earlier policy in force.

use clap::Args;

use super::apply::{TrialArgs, put_in_force};
use super::control::{ControlArgs, said};
use super::{Exit, OutputArgs};
use crate::api::Request;

/// Put an earlier policy in force
///
/// Without a revision: what waits for its confirmation is taken back; if nothing does, the policy that was confirmed before
/// the one in force comes back. Doing so twice goes back twice.
///
/// An earlier policy comes back as it was stored, whatever its files say now, and becomes a new revision.
#[derive(Args)]
#[command(
    after_help = "Exit codes: 0 in force, 1 refused and nothing changed, 3 tests of the policy failed\n\n\
    Examples:\n  bulkhead rollback\n  bulkhead rollback 12 --confirm 2m --message \"12 was the last good one\""
)]
pub struct RollbackArgs {
    /// Which: one that was confirmed, see `history`
    #[arg(value_name = "REVISION")]
    revision: Option<u64>,
    #[command(flatten)]
    trial: TrialArgs,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl RollbackArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let (revision, confirm_ms) = (self.revision, self.trial.confirm_ms());
        let request = Request::Rollback { revision, confirm_ms, note: self.trial.note(), said: said() };
        put_in_force(&self.control, &request, "rolling back", self.output)
    }
}
