//! `bulkhead rules`: what every rule did, and which did nothing.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::json;

use super::control::{ControlArgs, Table, or_dash, unexpected};
use super::{Exit, Format, OutputArgs, say, say_json};
use crate::api::types::{RuleRow, Rules};
use crate::api::{Reply, Request};
use crate::daemon::time::duration;
use crate::model::AUDIT;

/// Show what every rule did, or which rules did nothing
///
/// Packets and bytes decided, connections opened, connections now (of rules that limit them), last hit. A rule keeps its
/// counters over reloads and restarts as long as it keeps its name. The last row is the default deny.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Counters are written to the state directory when the gateway stops, and once a minute; one that is \
    killed forgets the last minute, and the output says so. Rules that are gone for 90 days are forgotten.\n\n\
    Examples:\n  bulkhead rules\n  bulkhead rules unused --since 30d\n  \
    bulkhead rules -o json | jq '.rules[] | select(.packets == 0) | .rule'"
)]
pub struct RulesArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Subcommand)]
enum Action {
    /// Show the rules that decided nothing for some time
    ///
    /// Says since when there are counts, and marks the rules that were not in force for all of the time: of those, and
    /// when there are no counts for all of it, not much is known yet. Rules that pass are never counted, because what they
    /// match is decided elsewhere; they are named apart. `[[audit]]` is no rule.
    #[command(after_help = "Exit codes: 0 done, with or without such rules; 1 error\n\n\
        Examples:\n  bulkhead rules unused --since 30d\n  \
        bulkhead rules unused -o json | jq '.unused[] | select(.whole_span) | .rule'")]
    Unused(UnusedArgs),
}

#[derive(Args)]
struct UnusedArgs {
    /// For how long, such as 12h or 30d
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = super::learn::since)]
    since: Duration,
    #[command(flatten)]
    control: ControlArgs,
    #[command(flatten)]
    output: OutputArgs,
}

fn ask(control: &ControlArgs) -> Result<Result<Rules, Exit>> {
    match control.ask_one(&Request::Rules, "asking")? {
        Ok(Reply::Rules(rules)) => Ok(Ok(rules)),
        Ok(reply) => Err(unexpected(&reply)),
        Err(exit) => Ok(Err(exit)),
    }
}

impl RulesArgs {
    pub(super) fn run(self) -> Result<Exit> {
        if let Some(Action::Unused(args)) = self.action {
            return args.run();
        }
        let report = match ask(&self.control)? {
            Ok(report) => report,
            Err(exit) => return Ok(exit),
        };
        if self.output.output == Format::Json {
            say_json(&json!(report));
        } else {
            say(&text(&report));
        }
        Ok(Exit::Ok)
    }
}

fn text(report: &Rules) -> String {
    let mut table =
        Table::new(&["RULE", "ACTION", ">PACKETS", ">BYTES", ">CONNECTIONS", ">OPEN", "LAST HIT"]);
    for rule in &report.rules {
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
    let mut lines = vec![table.text(), format!("counted since {}", report.observed_since)];
    lines.extend(gaps(report.gaps, report.last_gap.as_deref()));
    lines.join("\n")
}

/// What is missing.
fn gaps(gaps: u64, last: Option<&str>) -> Option<String> {
    let last = last?;
    Some(format!(
        "without up to a minute before each of {gaps} end(s) of the gateway that were not in order, the last before {last}"
    ))
}

impl UnusedArgs {
    fn run(self) -> Result<Exit> {
        let report = match ask(&self.control)? {
            Ok(report) => report,
            Err(exit) => return Ok(exit),
        };
        let unused = Unused::of(report, Timestamp::now(), self.since)?;
        if self.output.output == Format::Json {
            say_json(&json!(unused));
        } else {
            say(&unused.text());
        }
        Ok(Exit::Ok)
    }
}

/// The rules without a hit for some time.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Unused {
    /// The beginning of the time asked about.
    since: String,
    /// How long that is, seconds.
    span_s: u64,
    /// Since when there are counts.
    observed_since: String,
    /// For how much of the time asked about, seconds.
    observed_s: u64,
    /// Whether that is all of it.
    observed_whole_span: bool,
    /// How often the gateway ended without stopping in order, each time without the last minute.
    gaps: u64,
    /// When it started after the last such end.
    last_gap: Option<String>,
    /// Rules in force that are counted.
    rules: usize,
    /// Those of them without a hit.
    unused: Vec<Row>,
    /// Rules in force that are not counted.
    not_counted: Vec<String>,
}

/// A rule without a hit.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    rule: String,
    action: String,
    /// Before the time asked about, if ever.
    last_hit: Option<String>,
    first_seen: Option<String>,
    in_force_since: Option<String>,
    /// Whether it was in force and observed for all of the time asked about.
    whole_span: bool,
    audit: bool,
    untimely: Option<String>,
}

/// A duration without a last unit of which there are none.
fn rounded(seconds: u64) -> String {
    let text = duration(seconds);
    let (large, small) = text.split_once(' ').unwrap_or((&text, ""));
    if small.starts_with('0') { large.to_owned() } else { text }
}

fn moment(text: &str) -> Result<Timestamp> {
    text.parse().with_context(|| format!("the gateway's answer has no time in {text:?}"))
}

impl Unused {
    fn of(report: Rules, now: Timestamp, span: Duration) -> Result<Unused> {
        let span = SignedDuration::try_from(span)?;
        let since = now.checked_sub(span).unwrap_or(Timestamp::MIN);
        let observed_since = moment(&report.observed_since)?;
        let observed = now.duration_since(observed_since.max(since)).max(SignedDuration::ZERO);
        let observed_whole_span = observed_since <= since;
        let (mut rules, mut unused, mut not_counted) = (0, Vec::new(), Vec::new());
        for row in report.rules {
            let RuleRow { action, last_hit, first_seen, in_force_since, audit, untimely, .. } = row;
            let Some(rule) = row.rule.filter(|name| !name.starts_with(AUDIT)) else { continue };
            if action == "pass" {
                not_counted.push(rule);
                continue;
            }
            rules += 1;
            if last_hit.as_deref().map(moment).transpose()?.is_some_and(|hit| hit >= since) {
                continue;
            }
            let begun = in_force_since.as_deref().map(moment).transpose()?;
            let whole_span = observed_whole_span && begun.is_some_and(|begun| begun <= since);
            unused.push(Row {
                rule,
                action,
                last_hit,
                first_seen,
                in_force_since,
                whole_span,
                audit,
                untimely,
            });
        }
        Ok(Unused {
            since: format!("{since:.3}"),
            span_s: span.as_secs().unsigned_abs(),
            observed_since: report.observed_since,
            observed_s: observed.as_secs().unsigned_abs(),
            observed_whole_span,
            gaps: report.gaps,
            last_gap: report.last_gap,
            rules,
            unused,
            not_counted,
        })
    }

    fn text(&self) -> String {
        let span = rounded(self.span_s);
        let mut lines = Vec::new();
        if !self.unused.is_empty() {
            let mut table = Table::new(&["RULE", "ACTION", "LAST HIT", "IN FORCE SINCE", "NOTE"]);
            for row in &self.unused {
                table.row([
                    row.rule.clone(),
                    row.action.clone(),
                    or_dash(row.last_hit.as_deref()),
                    or_dash(row.in_force_since.as_deref()),
                    self.note(row, &span),
                ]);
            }
            lines.push(table.text());
        }
        lines.push(format!("{} of {} rule(s) without a hit in {span}", self.unused.len(), self.rules));
        if !self.not_counted.is_empty() {
            lines.push(format!("not counted, because they pass: {}", self.not_counted.join(", ")));
        }
        if !self.observed_whole_span {
            lines.push(format!(
                "rules have been counted for {} only, since {}: what was used before that is not known",
                rounded(self.observed_s),
                self.observed_since
            ));
        }
        let is_within = self.last_gap.as_ref().is_some_and(|last| *last >= self.since);
        lines.extend(gaps(self.gaps, self.last_gap.as_deref().filter(|_| is_within)));
        lines.join("\n")
    }

    fn note(&self, row: &Row, span: &str) -> String {
        let mut notes = Vec::new();
        // Where nothing was observed for so long, that is said of all at once.
        if self.observed_whole_span && !row.whole_span {
            notes.push(format!("newer than {span}"));
        }
        if row.audit {
            notes.push("in audit".to_owned());
        }
        notes.extend(row.untimely.clone());
        notes.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(rule: &str, action: &str, last_hit: Option<&str>, since: &str) -> RuleRow {
        let time = |day: &str| format!("2026-11-{day}T10:00:00.000Z");
        RuleRow {
            rule: Some(rule.to_owned()),
            action: action.to_owned(),
            packets: 0,
            bytes: 0,
            connections: 0,
            open: None,
            last_hit: last_hit.map(time),
            first_seen: Some(time("01")),
            in_force_since: Some(time(since)),
            audit: false,
            untimely: None,
        }
    }

    fn report() -> Rules {
        let expired =
            RuleRow { untimely: Some("it expired at X".to_owned()), ..row("old", "allow", Some("03"), "01") };
        let tried = RuleRow { audit: true, ..row("tried", "deny", None, "01") };
        Rules {
            observed_since: "2026-11-01T10:00:00.000Z".to_owned(),
            gaps: 2,
            last_gap: Some("2026-11-19T00:00:00.000Z".to_owned()),
            rules: vec![
                row("audit:a:b", "allow", None, "01"),
                row("new", "allow", None, "20"),
                expired,
                row("passing", "pass", None, "01"),
                tried,
                row("web", "allow", Some("13"), "01"),
                RuleRow { rule: None, ..row("", "deny", None, "01") },
            ],
        }
    }

    fn unused(days: u64) -> Unused {
        let now = "2026-11-22T10:00:00Z".parse().unwrap();
        Unused::of(report(), now, Duration::from_secs(days * 86_400)).unwrap()
    }

    fn rows(unused: &Unused) -> Vec<(&str, bool)> {
        unused.unused.iter().map(|row| (row.rule.as_str(), row.whole_span)).collect()
    }

    #[test]
    fn a_rule_is_unused_when_its_last_hit_is_before_the_time_asked_about() {
        let ten = unused(10);
        assert_eq!(rows(&ten), [("new", false), ("old", true), ("tried", true)]);
        assert_eq!((ten.rules, &ten.not_counted[..]), (4, &["passing".to_owned()][..]));
        assert_eq!(rows(&unused(8)), [("new", false), ("old", true), ("tried", true), ("web", true)]);
        assert_eq!(rows(&unused(20)), [("new", false), ("tried", true)]);
        assert!(ten.observed_whole_span && unused(21).observed_whole_span);
    }

    #[test]
    fn what_is_not_known_is_said() {
        let told = unused(10).text();
        for line in [
            "new    allow   -                         2026-11-20T10:00:00.000Z  newer than 10d",
            "old    allow   2026-11-03T10:00:00.000Z  2026-11-01T10:00:00.000Z  it expired at X",
            "tried  deny    -                         2026-11-01T10:00:00.000Z  in audit",
            "3 of 4 rule(s) without a hit in 10d",
            "not counted, because they pass: passing",
            "without up to a minute before each of 2 end(s) of the gateway that were not in order, the last before \
             2026-11-19T00:00:00.000Z",
        ] {
            assert!(told.lines().any(|told| told == line), "{line}\n{told}");
        }
        assert!(!told.contains("only, since") && !unused(2).text().contains("not in order"));
        let month = unused(30);
        assert!(rows(&month).iter().all(|(_, whole)| !whole));
        assert_eq!((month.observed_whole_span, month.observed_s), (false, 21 * 86_400));
        let told = month.text();
        let honest =
            "rules have been counted for 21d only, since 2026-11-01T10:00:00.000Z: what was used before";
        assert!(told.contains(honest) && !told.contains("newer than"), "{told}");
    }
}
