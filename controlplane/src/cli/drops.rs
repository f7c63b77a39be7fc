//! `bulkhead drops`: why packets were dropped, and whose.

use clap::Args;
use serde_json::json;

use super::control::{ControlArgs, Table, unexpected};
use super::{Exit, Format, OutputArgs, say, say_json};
use crate::api::types::{DropRow, Sources};
use crate::api::{Reply, Request};

/// Show why packets were dropped, or who was refused most
///
/// Every dropped packet is counted once under the reason that decided; each reason says what it means and what to do.
#[derive(Args)]
#[command(after_help = "Examples:\n  bulkhead drops\n  bulkhead drops --sources --limit 10\n  \
    bulkhead drops -o json | jq '.drops[] | select(.packets > 0)'")]
pub struct DropsArgs {
    /// Show also the reasons for which nothing was dropped
    #[arg(long, conflicts_with = "sources")]
    all: bool,
    /// Show the sources that were refused connections most
    #[arg(long)]
    sources: bool,
    /// How many sources
    #[arg(long, value_name = "N", default_value_t = 20, requires = "sources")]
    limit: u64,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl DropsArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let request = if self.sources { Request::Sources { limit: self.limit } } else { Request::Drops };
        let reply = match self.control.ask_one(&request, "asking")? {
            Ok(reply) => reply,
            Err(exit) => return Ok(exit),
        };
        match (reply, self.output.output) {
            (Reply::Drops(drops), Format::Json) => say_json(&json!({ "drops": drops })),
            (Reply::Drops(drops), Format::Text) => say(&drops_text(&drops, self.all)),
            (Reply::Sources(sources), Format::Json) => say_json(&json!(sources)),
            (Reply::Sources(sources), Format::Text) => say(&sources_text(&sources)),
            (reply, _) => return Err(unexpected(&reply)),
        }
        Ok(Exit::Ok)
    }
}

fn drops_text(drops: &[DropRow], all: bool) -> String {
    let mut table = Table::new(&[">PACKETS", "REASON", "GROUP", "MEANING"]);
    for drop in drops.iter().filter(|drop| all || drop.packets > 0) {
        table.row([drop.packets.to_string(), drop.reason.clone(), drop.group.clone(), drop.help.clone()]);
    }
    let total: u64 = drops.iter().map(|drop| drop.packets).sum();
    format!("{}\n{total} packet(s) dropped", table.text())
}

fn sources_text(sources: &Sources) -> String {
    let mut table = Table::new(&[">DENIED", "SOURCE", "LAST REASON", "LAST"]);
    for row in &sources.top {
        table.row([row.denied.to_string(), row.source.clone(), row.last_reason.clone(), row.last.clone()]);
    }
    let mut text = format!("{}\n{} source(s) known", table.text(), sources.known);
    if sources.overflow > 0 {
        text += &format!(", {} refusals of others found no room", sources.overflow);
    }
    if sources.events_lost > 0 {
        text += &format!(", {} events were lost and are missing here", sources.events_lost);
    }
    text
}
