//! `bulkhead rules`: what every rule did.

use clap::Args;
use serde_json::json;

use super::control::{ControlArgs, Table, or_dash, unexpected};
use super::{Exit, Format, OutputArgs, say, say_json};
use crate::api::{Reply, Request};

/// Show what every rule did since the gateway started
///
/// Packets and bytes decided, connections opened, connections now (of rules that limit them), last hit. A rule keeps its counters over reloads as long as it keeps
/// its name. The last row is the default deny.
#[derive(Args)]
#[command(after_help = "Examples:\n  bulkhead rules\n  \
    bulkhead rules -o json | jq '.rules[] | select(.packets == 0) | .rule'")]
pub struct RulesArgs {
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl RulesArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let rules = match self.control.ask_one(&Request::Rules, "asking")? {
            Ok(Reply::Rules(rules)) => rules,
            Ok(reply) => return Err(unexpected(&reply)),
            Err(exit) => return Ok(exit),
        };
        if self.output.output == Format::Json {
            say_json(&json!({ "rules": rules }));
            return Ok(Exit::Ok);
        }
        let mut table =
            Table::new(&["RULE", "ACTION", ">PACKETS", ">BYTES", ">CONNECTIONS", ">OPEN", "LAST HIT"]);
        for rule in &rules {
            table.row([
                rule.rule.clone().unwrap_or_else(|| "(default)".to_owned()),
                rule.action.clone(),
                rule.packets.to_string(),
                rule.bytes.to_string(),
                rule.connections.to_string(),
                or_dash(rule.open.map(|open| open.to_string()).as_deref()),
                or_dash(rule.last_hit.as_deref()),
            ]);
        }
        say(&table.text());
        Ok(Exit::Ok)
    }
}
