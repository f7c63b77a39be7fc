//! `bulkhead explain`: may A open this connection to B, and which rule or lack of one says so?

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Exit, Format, OutputArgs, complain, say, say_json};
use crate::explain::{Answer, explain};
use crate::model;

/// Explain what a configuration does with a connection, and why
///
/// Names the deciding rule and where it stands, or the reason and the rules that came nearest with the clause that
/// failed. Works on a file; nothing needs to run.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    bulkhead explain --config bulkhead.toml --from office --to servers --port tcp/443\n  \
    bulkhead explain --config bulkhead.toml --from 10.1.0.7 --to fd00:2::1 --port icmpv6/echo-request -o json")]
pub struct ExplainArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Who opens the connection: an address or a segment's name
    #[arg(long, value_name = "A")]
    from: String,
    /// To whom: an address or a segment's name
    #[arg(long, value_name = "B")]
    to: String,
    /// For what: tcp/443, udp/53, icmp/echo-request, icmpv6/echo-request
    #[arg(long, value_name = "SERVICE")]
    port: String,
    #[command(flatten)]
    output: OutputArgs,
}

impl ExplainArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let model = match model::load(&self.config) {
            Ok(model) => model,
            Err(errors) => {
                complain(&errors.to_string());
                return Ok(Exit::Error);
            }
        };
        let answers = explain(&model, &self.from, &self.to, &self.port)?;
        if self.output.output == Format::Json {
            say_json(&json!({ "answers": answers.iter().map(Answer::to_json).collect::<Vec<_>>() }));
        } else {
            answers.iter().for_each(|answer| say(&answer.to_string()));
        }
        Ok(Exit::Ok)
    }
}
