//! `bulkhead events`: what happened to connections, as JSON lines.

use std::io::{self, Write};

use clap::Args;
use serde_json::json;

use super::Exit;
use super::control::{ControlArgs, unexpected};
use crate::api::{Reply, Request};

/// Show what happened: connections opened, denied, cut, closed; alarms
///
/// One JSON object a line, with the deciding rule or the reason, and the generation of the policy. {"lost": N} stands
/// where N events came too fast to be kept.
#[derive(Args)]
#[command(after_help = "Examples:\n  bulkhead events --last 50\n  \
    bulkhead events --follow | jq 'select(.kind == \"denied\")'")]
pub struct EventsArgs {
    /// Go on until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Begin with so many of the recent events; without --follow the default is all that are kept (10,000)
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    #[command(flatten)]
    control: ControlArgs,
}

impl EventsArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let last = self.last.unwrap_or(if self.follow { 0 } else { u64::MAX });
        let mut out = io::stdout().lock();
        let mut left = false;
        let asked = self.control.ask(&Request::Events { last, follow: self.follow }, |reply| {
            let line = match reply {
                Reply::Event(event) => event,
                Reply::Lost(lost) => json!({ "lost": lost }),
                reply => return Err(unexpected(&reply)),
            };
            // Whoever reads our output may have had enough (`| head`): no error, but the end.
            writeln!(out, "{line}").inspect_err(|_| left = true).map_err(Into::into)
        });
        match asked {
            Err(_) if left => Ok(Exit::Ok),
            other => other,
        }
    }
}
