//! `bulkhead explain`: may A open this connection to B, and which rule or lack of one says so?

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::control::{ControlArgs, unexpected};
use super::{Exit, Format, OutputArgs, complain, say, say_json};
use crate::api::types::Explained;
use crate::api::{Reply, Request};
use crate::explain::explain;
use crate::model;

/// Explain what a configuration does with a connection, and why
///
/// Names the deciding rule and where it stands, or the reason and the rules that came nearest with the clause that
/// failed. With --config it works on a file, and nothing needs to run; without, it asks the running gateway.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    bulkhead explain --from office --to servers --port tcp/443\n  \
    bulkhead explain --config bulkhead.toml --from office --to servers --port tcp/443\n  \
    bulkhead explain --config bulkhead.toml --from 10.1.0.7 --to fd00:2::1 --port icmpv6/echo-request -o json")]
pub struct ExplainArgs {
    /// The configuration; the one in force without
    #[arg(long, value_name = "FILE", conflicts_with = "control")]
    config: Option<PathBuf>,
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
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl ExplainArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let told = match &self.config {
            Some(config) => match model::load(config) {
                Ok(model) => {
                    let answers = explain(&model, &self.from, &self.to, &self.port)?;
                    answers.iter().map(|a| Explained { json: a.to_json(), text: a.to_string() }).collect()
                }
                Err(errors) => {
                    complain(&errors.to_string());
                    return Ok(Exit::Error);
                }
            },
            None => {
                let request = Request::Explain { from: self.from, to: self.to, port: self.port };
                match self.control.ask_one(&request, "asking")? {
                    Ok(Reply::Explained(told)) => told,
                    Ok(reply) => return Err(unexpected(&reply)),
                    Err(exit) => return Ok(exit),
                }
            }
        };
        if self.output.output == Format::Json {
            say_json(&json!({ "answers": told.iter().map(|told| &told.json).collect::<Vec<_>>() }));
        } else {
            told.iter().for_each(|told| say(&told.text));
        }
        Ok(Exit::Ok)
    }
}
