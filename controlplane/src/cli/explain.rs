//! `bulkhead explain`: may A open this connection to B, and which rule or lack of one says so?

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::claims::{ClaimArgs, WHO};
use super::control::{ControlArgs, unexpected};
use super::{Exit, Format, OutputArgs, complain, connections, say, say_json};
use crate::api::types::{Asked, Explained};
use crate::api::{Reply, Request};
use crate::explain::explain;
use crate::model;

/// Explain what a configuration does with a connection, and why
///
/// Names the deciding rule and where it stands, or the reason and the rules that came nearest with the clause that
/// failed. Who asks and when are said as in a [[test]]; without, it is nobody, now, or whoever is behind the address --from now
/// in the running gateway. With --config it works on a file, and nothing needs to run; without, it asks the running gateway,
/// and shows such connections as live now: between these
/// addresses or any of these segments, by whatever rule they were let through, and whoever is behind them.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    bulkhead explain --from office --to servers --port tcp/443\n  \
    bulkhead explain --from jump --to db --port tcp/5432 --user dora --group dba --device enrolled --mfa-age 2h\n  \
    bulkhead explain --config bulkhead.toml --from jump --to db --port tcp/5432 --at 2027-01-30T22:00:00Z\n  \
    bulkhead explain --config bulkhead.toml --from 10.1.0.7 --to fd00:2::1 --port icmpv6/echo-request -o json")]
pub struct ExplainArgs {
    /// The configuration; the one in force without
    #[arg(long, value_name = "FILE", conflicts_with_all = ["control", "limit"])]
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
    claims: ClaimArgs,
    /// The state of the session: expired
    #[arg(help_heading = WHO, long, value_name = "STATE")]
    session: Option<String>,
    /// As of this moment, such as 2027-01-31T08:00:00Z; now without
    #[arg(help_heading = WHO, long, value_name = "TIME")]
    at: Option<String>,
    /// Show at most so many live connections; all are counted
    #[arg(long, value_name = "N", default_value_t = 10)]
    limit: u64,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl ExplainArgs {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let asked = Asked { session: self.session, at: self.at, ..self.claims.asked() };
        let Explained { answers, live } = match &self.config {
            Some(config) => match model::load(config) {
                Ok(model) => {
                    let answers = explain(&model, &self.from, &self.to, &self.port, &asked)?;
                    let answers = answers.iter().map(|answer| answer.to_api()).collect();
                    Explained { answers, live: None }
                }
                Err(errors) => {
                    complain(&errors.to_string());
                    return Ok(Exit::Error);
                }
            },
            None => {
                let (from, to, port) = (self.from, self.to, self.port);
                let request = Request::Explain { from, to, port, asked, limit: self.limit };
                match self.control.ask_one(&request, "asking")? {
                    Ok(Reply::Explained(told)) => told,
                    Ok(reply) => return Err(unexpected(&reply)),
                    Err(exit) => return Ok(exit),
                }
            }
        };
        if self.output.output == Format::Json {
            let answers: Vec<_> = answers.iter().map(|answer| &answer.json).collect();
            say_json(&json!({ "answers": answers, "live": live }));
        } else {
            answers.iter().for_each(|answer| say(&answer.text));
            match live {
                Some(live) if live.matched > 0 => {
                    say(&format!("\nlive now:\n{}", connections::text(&live.connections, live.matched)));
                }
                Some(_) => say("\nno such connection lives now"),
                None => {}
            }
        }
        Ok(Exit::Ok)
    }
}
