//! `bulkhead shadow`: what would another policy decide about the traffic of this moment?

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::control::{ControlArgs, Table, or_dash, unexpected};
use super::{Exit, Format, OutputArgs, say, say_json};
use crate::api::types::{Shadow, Verdict};
use crate::api::{Reply, Request};

/// Try a policy beside the one in force, on live traffic
///
/// With NEW it starts: every connection that is opened or refused from then on, and every one that is there already, is
/// put to that configuration's policy too. That decides nothing; what it would have decided otherwise is counted by
/// rules, reasons and pair of segments, and told as events of kind "shadow" (the first sixteen of each, then every
/// doubling). NEW has to pass its own tests first, and to have the gateway's ports. One shadow runs at a time.
///
/// Without NEW it shows what the shadow has come to. A reload of the policy in force begins the comparison anew. A stop
/// of the gateway ends the shadow. Limits of rules, `protect` and `permit` are not compared.
#[derive(Args)]
#[command(
    after_help = "Exit codes: 0 nothing would change, or it was started or stopped; 1 error; 2 something would \
    change; 3 NEW fails its own tests\n\n\
    Examples:\n  bulkhead shadow next.toml\n  bulkhead shadow\n  bulkhead shadow -o json | jq '.rows[] | select(.change == \
    \"allow_to_refuse\")'\n  bulkhead shadow --stop"
)]
pub struct ShadowArgs {
    /// Start with this configuration
    #[arg(value_name = "NEW", conflicts_with = "stop")]
    file: Option<PathBuf>,
    /// Stop it, and show what it came to
    #[arg(long)]
    stop: bool,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl ShadowArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let is_show = self.file.is_none() && !self.stop;
        let request = match self.file {
            // The gateway has another working directory.
            Some(file) => Request::StartShadow { file: std::path::absolute(file)? },
            None if self.stop => Request::StopShadow,
            None => Request::Shadow,
        };
        let shadow = match self.control.ask_one(&request, "asking")? {
            Ok(Reply::Shadow(shadow)) => shadow,
            Ok(reply) => return Err(unexpected(&reply)),
            Err(exit) => return Ok(exit),
        };
        if self.output.output == Format::Json {
            say_json(&json!(shadow));
        } else {
            say(&shadow.as_deref().map_or_else(|| "no shadow runs".to_owned(), text));
        }
        let changes = shadow.is_some_and(|shadow| shadow.changed > 0);
        Ok(if is_show && changes { Exit::Differences } else { Exit::Ok })
    }
}

fn text(shadow: &Shadow) -> String {
    let mut lines = vec![
        format!(
            "shadow   {} ({}), started {}",
            shadow.config.display(),
            &shadow.digest[..12.min(shadow.digest.len())],
            shadow.started
        ),
        format!("against  generation {}, since {}", shadow.generation, shadow.since),
        match shadow.changed {
            0 => format!("nothing would change in {} connection(s)", shadow.asked),
            changed => format!("{changed} of {} connection(s) would be decided otherwise", shadow.asked),
        },
    ];
    if shadow.overflow > 0 {
        lines.push(format!("{} of them found no room in the table below", shadow.overflow));
    }
    if !shadow.rows.is_empty() {
        let mut table =
            Table::new(&[">COUNT", "CHANGE", "FROM", "TO", "NOW", "SHADOW", "FIRST", "LAST", "FOR EXAMPLE"]);
        for row in &shadow.rows {
            table.row([
                row.count.to_string(),
                row.change.replace('_', " "),
                or_dash(row.from.as_deref()),
                or_dash(row.to.as_deref()),
                told(&row.running),
                told(&row.shadow),
                row.first.clone(),
                row.last.clone(),
                row.samples.first().cloned().unwrap_or_default(),
            ]);
        }
        lines.push(String::new());
        lines.push(table.text());
    }
    lines.join("\n")
}

/// `deny (no_rule)`, `allow by web`.
fn told(verdict: &Verdict) -> String {
    let mut text = verdict.verdict.clone();
    if let Some(reason) = &verdict.reason {
        text += &format!(" ({reason})");
    }
    if let Some(rule) = &verdict.rule {
        text += &format!(" by {rule}");
    }
    text
}
