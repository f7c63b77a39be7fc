//! `bulkhead learn`: which rules would allow what is observed, and nothing else?

use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::control::{ControlArgs, unexpected};
use super::{Exit, complain, say, say_json};
use crate::api::types::{Filter, Status};
use crate::api::{Reply, Request};
use crate::config::values;
use crate::daemon::time::rfc3339;
use crate::learn::{Observed, Wanted};
use crate::model::{self, Model};
use crate::propose::{Proposal, propose};
use crate::replay::recorded::Events;

/// Propose rules from observed connections
///
/// Looks at the running gateway's connections and recent events, or at a file with events, and proposes a rule for each
/// pair of segments and service, the smallest first, with the evidence as comments: how often, how many bytes and
/// sources, first and last. Added to the policy they allow what was observed and nothing else. Many high ports between
/// the same segments become one rule that lists them. What was refused is not looked at: see `bulkhead audit report`.
///
/// What a rule from one segment to one with this very port allows already is not proposed again.
#[derive(Args)]
#[command(after_help = "Examples:\n  bulkhead learn --since 24h > proposed.toml\n  \
    bulkhead learn --events events.jsonl --config bulkhead.toml --merge-ports\n  \
    bulkhead learn -o json | jq '.rules[] | select(.connections < 3)'")]
pub struct LearnArgs {
    /// Only what happened in this time, such as 2h or 7d
    #[arg(long, value_name = "DURATION", value_parser = super::learn::since)]
    since: Option<Duration>,
    /// A file with the events that `bulkhead events` prints, instead of the running gateway
    #[arg(long, value_name = "FILE", requires = "config", conflicts_with = "control")]
    events: Option<PathBuf>,
    /// The configuration: segments, and what is allowed already; without, the one that the gateway runs by
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Propose also what a narrow rule allows already
    #[arg(long)]
    all: bool,
    /// Make one rule of adjacent ports
    #[arg(long)]
    merge_ports: bool,
    /// Form of the output
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "toml")]
    output: Form,
    #[command(flatten)]
    control: ControlArgs,
}

/// The form of proposals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Rules to be pasted into a configuration.
    Toml,
    /// For programs.
    Json,
}

/// A duration on the command line.
pub fn since(text: &str) -> Result<Duration, String> {
    values::duration(text).map_err(|wrong| wrong.to_string())
}

impl LearnArgs {
    pub(super) fn run(self) -> Result<Exit> {
        let status = match self.events {
            Some(_) => None,
            None => match self.control.ask_one(&Request::Status, "asking")? {
                Ok(Reply::Status(status)) => Some(status),
                Ok(reply) => return Err(unexpected(&reply)),
                Err(exit) => return Ok(exit),
            },
        };
        let config = self.config.clone().or_else(|| status.as_ref().map(|s| s.config.clone()));
        let config = config.ok_or_else(|| anyhow!("which configuration? say --config FILE"))?;
        let model = match model::load(&config) {
            Ok(model) => model,
            Err(errors) => {
                complain(&errors.to_string());
                return Ok(Exit::Error);
            }
        };
        warn(status.as_deref(), &model, &config);
        let since = self.since.map(|since| SystemTime::now() - since).map(rfc3339);
        let wanted = Wanted { model: &model, all: self.all, since: since.as_deref() };
        let mut observed = Observed::default();
        let lost = match &self.events {
            Some(file) => from_file(file, &mut observed, &wanted)?,
            None => match self.ask_gateway(&mut observed, &wanted)? {
                Ok(lost) => lost,
                Err(exit) => return Ok(exit),
            },
        };
        let taken: HashSet<String> = model.rule_infos.iter().map(|rule| rule.name.clone()).collect();
        let proposals = propose(&observed.flows, self.merge_ports, &taken);
        match self.output {
            Form::Json => say_json(&json!({
                "rules": proposals.iter().map(Proposal::to_json).collect::<Vec<_>>(),
                "events_lost": lost, "already_allowed": observed.narrow, "of_no_segment": observed.nowhere,
                "overflow": observed.overflow,
            })),
            Form::Toml => say(&toml(&proposals, &observed, lost)),
        }
        Ok(Exit::Ok)
    }

    /// Events, then what is open now; how many events were lost.
    fn ask_gateway(&self, observed: &mut Observed, wanted: &Wanted<'_>) -> Result<Result<u64, Exit>> {
        let mut lines = Vec::new();
        let mut lost = 0;
        let exit = self.control.ask(&Request::Events { last: u64::MAX, follow: false }, |reply| {
            match reply {
                Reply::Event(event) => {
                    lines.extend(event.to_string().into_bytes());
                    lines.push(b'\n');
                }
                Reply::Lost(count) => lost += count,
                reply => return Err(unexpected(&reply)),
            }
            Ok(())
        })?;
        if exit != Exit::Ok {
            return Ok(Err(exit));
        }
        let mut events = Events::new(&lines[..]);
        while let Some(event) =
            events.next_event().map_err(|broken| anyhow!("the gateway's events: {broken}"))?
        {
            observed.event(&event, wanted);
        }
        let now = SystemTime::now();
        let at = |age_s: u64| rfc3339(now.checked_sub(Duration::from_secs(age_s)).unwrap_or(now));
        let request = Request::Connections { filter: Filter::default(), limit: u64::MAX };
        let exit = self.control.ask(&request, |reply| {
            match reply {
                Reply::Connection(row) => observed.connection(&row, &at(row.age_s), &at(row.idle_s), wanted),
                Reply::Matched(_) => {}
                reply => return Err(unexpected(&reply)),
            }
            Ok(())
        })?;
        Ok(if exit == Exit::Ok { Ok(lost) } else { Err(exit) })
    }
}

fn warn(status: Option<&Status>, model: &Model, config: &Path) {
    if status.is_some_and(|status| status.digest != model.digest) {
        complain(&format!("warning: {} is not what the gateway runs by", config.display()));
    }
}

fn from_file(file: &Path, observed: &mut Observed, wanted: &Wanted<'_>) -> Result<u64> {
    let name = file.display().to_string();
    let mut events = Events::new(BufReader::new(File::open(file).with_context(|| name.clone())?));
    while let Some(event) = events.next_event().map_err(|broken| anyhow!("{name}: {broken}"))? {
        observed.event(&event, wanted);
    }
    Ok(events.lost)
}

fn toml(proposals: &[Proposal], observed: &Observed, lost: u64) -> String {
    let mut parts = vec![format!(
        "# {} rule(s) proposed from observed connections, the smallest first.",
        proposals.len()
    )];
    let notes = [
        (lost, "event(s) were lost: what they told is missing here"),
        (observed.narrow, "connection(s) are allowed by narrow rules already (--all proposes them too)"),
        (observed.nowhere, "connection(s) have an end in no segment"),
        (observed.overflow, "connection(s) found no room: too many different services"),
    ];
    for (count, note) in notes.iter().filter(|(count, _)| *count > 0) {
        parts[0] += &format!("\n# {count} {note}.");
    }
    parts.extend(
        proposals.iter().map(|proposal| proposal.to_toml(&proposal.evidence()).trim_end().to_owned()),
    );
    parts.join("\n\n")
}
