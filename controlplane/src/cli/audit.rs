//! `bulkhead audit`: what rules in audit would do (`report`), and the log of what was done (`log`, `verify`).

mod log;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use anyhow::Result;
use bulkhead_dataplane::verdict::Reason;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::control::{ControlArgs, Table, or_dash, unexpected};
use super::{Exit, say, say_json};
use crate::api::types::{AuditReport, AuditRow};
use crate::api::{Reply, Request};
use crate::propose::{Flow, Proposal, Seen, propose};
use crate::replay::recorded::protocol_number;

/// See what rules in audit would do, and the audit log of what was done
///
/// Two things that share a word. `report` is about rules in audit (`mode = "audit"`): what they would refuse. `log` and `verify`
/// are about the audit log: who started, stopped, changed, signed in, was locked out, and whether its chain of digests is
/// whole.
#[derive(Args)]
#[command(after_help = "Examples:\n  bulkhead audit report -o toml >> bulkhead.toml\n  \
    bulkhead audit log --since 24h --kind policy\n  bulkhead audit verify")]
pub struct AuditArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show what would be refused or let through if nothing were in audit, by pair of segments and service
    ///
    /// Counted since the gateway started, and kept in memory: a restart forgets it. With -o toml, what would be refused
    /// for want of a rule stands there as rules that allow it, the rarest first, to be pasted into a configuration;
    /// what a rule refuses, or a demand that is not met, as comments, for another rule would not help there.
    #[command(
        after_help = "Examples:\n  bulkhead audit report --since 24h\n  bulkhead audit report -o toml > missing.toml\n  \
        bulkhead audit report -o json | jq '.rows[] | select(.would == \"deny\")'"
    )]
    Report(ReportArgs),
    /// Show the audit log: who did what, and when
    ///
    /// Read from the files in the state directory, so also without a running gateway. What is shown is not verified: `audit
    /// verify` does that.
    #[command(
        after_help = "Examples:\n  bulkhead audit log --since 24h\n  bulkhead audit log --kind session_begun --kind session_revoked\n  \
        bulkhead audit log -o json | jq '.records[] | select(.by.operator.user == \"root\")'"
    )]
    Log(log::LogArgs),
    /// Check that the audit log is whole: nothing in it was changed, removed, inserted or reordered
    ///
    /// Every record holds the digest of the one before, so only the end needs to be known from elsewhere to know all of it.
    /// A running gateway knows the end; `status` prints it, to be noted where nobody can change it who can change the log.
    /// Without either, the file `audit.head` beside the log is compared, which finds accidents only.
    ///
    /// Exit codes: 0 it is whole, 1 it cannot be read, 2 the chain breaks.
    #[command(
        after_help = "Examples:\n  bulkhead audit verify\n  bulkhead audit verify --state /mnt/backup/bulkhead --head 1742:5f2c…\n  \
        bulkhead audit verify -o json | jq '.breaks'"
    )]
    Verify(log::VerifyArgs),
}

#[derive(Args)]
struct ReportArgs {
    /// Only what was seen in this time, such as 2h or 7d; its counts are since the gateway started
    #[arg(long, value_name = "DURATION", value_parser = super::learn::since)]
    since: Option<Duration>,
    /// Form of the output
    #[arg(short = 'o', long = "output", value_name = "FORMAT", default_value = "text")]
    output: Form,
    #[command(flatten)]
    control: ControlArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    Text,
    /// Rules to be pasted into a configuration.
    Toml,
    /// For programs.
    Json,
}

impl AuditArgs {
    pub(super) fn run(self) -> Result<Exit> {
        match self.action {
            Action::Report(args) => args.run(),
            Action::Log(args) => args.run(),
            Action::Verify(args) => args.run(),
        }
    }
}

impl ReportArgs {
    fn run(self) -> Result<Exit> {
        let args = self;
        let since_s = args.since.map(|since| since.as_secs());
        let report = match args.control.ask_one(&Request::Audit { since_s }, "asking")? {
            Ok(Reply::Audit(report)) => report,
            Ok(reply) => return Err(unexpected(&reply)),
            Err(exit) => return Ok(exit),
        };
        match args.output {
            Form::Json => say_json(&json!(report)),
            Form::Text => say(&text(&report)),
            Form::Toml => {
                // Names that are taken.
                let rules = match args.control.ask_one(&Request::Rules, "asking")? {
                    Ok(Reply::Rules(report)) => report.rules,
                    Ok(reply) => return Err(unexpected(&reply)),
                    Err(exit) => return Ok(exit),
                };
                say(&toml(&report, &rules.into_iter().filter_map(|row| row.rule).collect()));
            }
        }
        Ok(Exit::Ok)
    }
}

fn text(report: &AuditReport) -> String {
    let mut lines = vec![match (report.in_audit, report.asked) {
        (false, 0) => "nothing is in audit".to_owned(),
        _ => format!("{} of {} connection(s) would be decided otherwise", report.changed, report.asked),
    }];
    if report.unknown > 0 {
        lines.push(format!(
            "{} of them are missing below: their events were lost, or are under way",
            report.unknown
        ));
    }
    if !report.rows.is_empty() {
        let mut table =
            Table::new(&[">COUNT", "WOULD", "FROM", "TO", "SERVICE", "BECAUSE", "FIRST", "LAST", "SOURCES"]);
        for row in &report.rows {
            table.row([
                row.count.to_string(),
                row.would.clone(),
                or_dash(row.from.as_deref()),
                or_dash(row.to.as_deref()),
                service(row),
                because(row),
                row.first.clone(),
                row.last.clone(),
                row.sources.join(", "),
            ]);
        }
        lines.push(String::new());
        lines.push(table.text());
    }
    lines.join("\n")
}

fn service(row: &AuditRow) -> String {
    if row.port == 0 { row.protocol.clone() } else { format!("{}/{}", row.protocol, row.port) }
}

/// `no_rule`, `rule_denied by no-telnet`, `by web`.
fn because(row: &AuditRow) -> String {
    let by = row.rule.as_ref().map(|rule| format!("by {rule}"));
    row.reason.clone().into_iter().chain(by).collect::<Vec<_>>().join(" ")
}

/// Whether a rule that allows it is all that is missing.
fn wants_a_rule(row: &AuditRow) -> bool {
    let reasons = [Reason::NoRule, Reason::ProtocolUnsupported];
    row.would == "deny" && reasons.iter().any(|reason| row.reason.as_deref() == Some(reason.name()))
}

fn toml(report: &AuditReport, taken: &HashSet<String>) -> String {
    let mut flows: BTreeMap<Flow, Seen> = BTreeMap::new();
    let mut parts = Vec::new();
    let mut comments = Vec::new();
    for row in report.rows.iter().filter(|row| row.would == "deny") {
        let ends = row.from.clone().zip(row.to.clone());
        match (ends, protocol_number(&row.protocol)) {
            (Some((from, to)), Some(protocol)) if wants_a_rule(row) => {
                let seen = flows.entry(Flow { from, to, protocol, port: row.port }).or_default();
                seen.add(row.count, 0, &row.first, &row.last, "");
                seen.sources = row.sources.iter().cloned().collect();
            }
            _ => comments.push(format!(
                "# {} time(s) {} from {} to {} would be refused: {}; a rule that allows it would not change that",
                row.count,
                service(row),
                or_dash(row.from.as_deref()),
                or_dash(row.to.as_deref()),
                because(row)
            )),
        }
    }
    let proposals = propose(&flows, false, taken);
    parts.push(format!(
        "# {} rule(s) would let through what would be refused if nothing were in audit.",
        proposals.len()
    ));
    if report.unknown > 0 {
        parts[0] +=
            &format!("\n# {} connection(s) are missing here: their events were lost.", report.unknown);
    }
    parts
        .extend(proposals.iter().map(|proposal| proposal.to_toml(&evidence(proposal)).trim_end().to_owned()));
    if !comments.is_empty() {
        parts.push(comments.join("\n"));
    }
    parts.join("\n\n")
}

fn evidence(proposal: &Proposal) -> Vec<String> {
    let seen = &proposal.seen;
    let (first, last) = seen.span.clone().unwrap_or_default();
    let sources: Vec<_> = seen.sources.iter().map(String::as_str).collect();
    vec![format!(
        "seen {} time(s), first {first}, last {last}; for example from {}",
        seen.count,
        sources.join(", ")
    )]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model;

    fn row(would: &str, port: u16, reason: &str, rule: Option<&str>) -> AuditRow {
        AuditRow {
            would: would.to_owned(),
            from: Some("office".to_owned()),
            to: Some("servers".to_owned()),
            protocol: "tcp".to_owned(),
            port,
            count: 3,
            first: "2026-11-27T10:00:00.000Z".to_owned(),
            last: "2026-11-27T11:00:00.000Z".to_owned(),
            reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
            rule: rule.map(str::to_owned),
            running: Some("office-to-web".to_owned()),
            sources: vec!["10.1.0.5".to_owned()],
        }
    }

    #[test]
    fn what_is_missing_can_be_pasted_and_what_is_denied_stays_a_comment() {
        let rows = vec![
            row("deny", 22, "no_rule", None),
            row("deny", 23, "rule_denied", Some("no-telnet")),
            row("allow", 24, "", Some("new")),
        ];
        let report = AuditReport { in_audit: true, asked: 9, changed: 9, unknown: 2, rows };
        let taken = HashSet::from(["office-to-servers-tcp-22".to_owned()]);
        let pasted = toml(&report, &taken);
        let config =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/minimal.toml")).unwrap();
        let model = model::parse("pasted", &format!("{config}\n{pasted}")).unwrap();
        assert!(model.rule_id("office-to-servers-tcp-22-2").is_some(), "{pasted}");
        assert_eq!(model.rule_infos.len(), 2);
        assert!(
            pasted.contains("tcp/23 from office to servers would be refused: rule_denied by no-telnet"),
            "{pasted}"
        );
        assert!(
            pasted.contains("2 connection(s) are missing") && pasted.contains("from 10.1.0.5"),
            "{pasted}"
        );
        assert!(text(&report).contains("9 of 9 connection(s)"));
    }
}
