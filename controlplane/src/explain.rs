//! A decision told in names: which segments, which rule or reason, and which rules nearly allowed it.

use std::fmt;

use anyhow::{Result, anyhow};
use bulkhead_dataplane::headers::protocol;
use bulkhead_dataplane::policy::explain::Clause;
use bulkhead_dataplane::policy::{Circumstances, Query, Rule, Service, Who, explain as explain_ids};
use bulkhead_dataplane::verdict::{Reason, RuleId, SegmentId};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::config::diagnostics::{nearest, quoted};
use crate::model::{Endpoint, Expected, Model, Probe, probe_text};

/// A rule that would have allowed it but for one clause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// Its name.
    pub rule: String,
    /// `path:line:column` of it.
    pub place: String,
    /// The clause that failed, as it is written: "from", "to", "services".
    pub clause: &'static str,
    /// Why it failed.
    pub why: String,
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The question.
    pub query: Query,
    /// The port by which the packet would come in.
    pub port: String,
    /// The source's segment; `None` when the address may not come in there.
    pub source_segment: Option<String>,
    /// The destination's segment.
    pub destination_segment: Option<String>,
    /// The verdict.
    pub verdict: Expected,
    /// Why not.
    pub reason: Option<Reason>,
    /// The deciding rule, or the one that would allow it but for a demand.
    pub rule: Option<String>,
    /// Whether the rule did not decide, but came nearest.
    pub is_unmet: bool,
    /// `path:line:column` of the deciding rule.
    pub place: Option<String>,
    /// What exactly is amiss, where the reason leaves it open: whether the rule has expired or its schedule is shut.
    pub why: Option<String>,
    /// The rules that came nearest, when none decided.
    pub near_misses: Vec<NearMiss>,
}

/// Answers a question put in the words of the command line: one answer for each address family in question.
pub fn explain(model: &Model, from: &str, to: &str, port: &str) -> Result<Vec<Answer>> {
    let (from, to) = (endpoint(model, from)?, endpoint(model, to)?);
    let probe = Probe::parse(port).map_err(|wrong| match wrong.hint {
        Some(hint) => anyhow!("{}; {hint}", wrong.message),
        None => anyhow!(wrong.message),
    })?;
    let queries = model.questions(from, to, probe).map_err(|message| anyhow!(message))?;
    Ok(queries.iter().map(|query| answer(model, query)).collect())
}

fn endpoint(model: &Model, text: &str) -> Result<Endpoint> {
    model.endpoint(text).ok_or_else(|| {
        let hint = nearest(text, model.segments.iter().map(|s| s.name.as_str()))
            .unwrap_or_else(|| "give an IP address or the name of a segment".to_owned());
        anyhow!("{} is neither an address nor a segment; {hint}", quoted(text))
    })
}

/// Answers one question.
pub fn answer(model: &Model, query: &Query) -> Answer {
    let now = Timestamp::now();
    let (gates, _) = model.gates_at(now);
    let told = explain_ids(&model.rules, query, &Circumstances { who: Who::Nobody, gates: &gates });
    let decisive = told.decision.rule.index().and_then(|index| model.rule_infos.get(index));
    let untimely = decisive.filter(|_| told.decision.refusal == Some(Reason::OutsideSchedule));
    let name = |segment: Option<SegmentId>| segment.and_then(|s| model.segment_name(s)).map(str::to_owned);
    let near_misses = told.near_misses.iter().map(|&(id, clause)| near_miss(model, query, &told, id, clause));
    Answer {
        query: *query,
        port: model.port_name(query.ingress).unwrap_or("?").to_owned(),
        source_segment: name(told.source_segment),
        destination_segment: name(told.destination_segment),
        verdict: Expected::of(&told.decision),
        reason: told.decision.refusal,
        rule: model.rule_name(told.decision.rule).map(str::to_owned),
        is_unmet: told.decision.decided_by() != told.decision.rule,
        place: model.rule_place(told.decision.rule),
        why: untimely.and_then(|rule| model.untimely(rule, now)),
        near_misses: near_misses.collect(),
    }
}

fn near_miss(
    model: &Model,
    query: &Query,
    told: &bulkhead_dataplane::policy::Explanation,
    id: RuleId,
    clause: Clause,
) -> NearMiss {
    let index = id.index().unwrap_or_default();
    let (rule, info): (&Rule, _) = (&model.rules.rules[index], &model.rule_infos[index]);
    let segment = |s: Option<SegmentId>| match s.and_then(|s| model.segment_name(s)) {
        Some(name) => format!("segment `{name}`"),
        None => "an address of no segment".to_owned(),
    };
    let list = |ids: &[SegmentId]| {
        // A rule from "any" never fails on its source, so these lists were written by hand.
        ids.iter().filter_map(|&s| model.segment_name(s)).collect::<Vec<_>>().join(", ")
    };
    let unnamed = rule.services.contains(&Service::Any) && protocol::is_opaque(query.protocol);
    let (clause, why) = match clause {
        Clause::Condition(reason) => {
            let why = Some(reason).filter(|reason| *reason == Reason::OutsideSchedule);
            let why = why.and_then(|_| model.untimely(info, Timestamp::now()));
            ("condition", format!("{reason}: {}", why.as_deref().unwrap_or(reason.help())))
        }
        Clause::Overruled(by) => {
            let name = model.rule_name(by).unwrap_or_default();
            let place = model.rule_place(by).unwrap_or_default();
            ("overruled", format!("it would allow this, but rule `{name}` ({place}) stands before it"))
        }
        Clause::Service if unnamed => (
            "services",
            format!(
                "\"any\" does not mean {}, which has to be named",
                probe_text(query.protocol, query.destination_port)
            ),
        ),
        Clause::Service => (
            "services",
            format!(
                "{} is not among its services ({})",
                probe_text(query.protocol, query.destination_port),
                info.services.join(", ")
            ),
        ),
        Clause::To => (
            "to",
            format!("it does not lead to {}, only to {}", segment(told.destination_segment), list(&rule.to)),
        ),
        Clause::From => (
            "from",
            format!("it does not begin in {}, only in {}", segment(told.source_segment), list(&rule.from)),
        ),
    };
    let place = model.rule_place(id).unwrap_or_default();
    NearMiss { rule: info.name.clone(), place, clause, why }
}

impl Answer {
    /// The answer as a JSON object.
    pub fn to_json(&self) -> Value {
        let near: Vec<Value> = self
            .near_misses
            .iter()
            .map(|n| json!({ "rule": n.rule, "at": n.place, "clause": n.clause, "why": n.why }))
            .collect();
        json!({
            "source": self.query.source, "source_segment": self.source_segment, "port_in": self.port,
            "destination": self.query.destination, "destination_segment": self.destination_segment,
            "service": probe_text(self.query.protocol, self.query.destination_port),
            "verdict": self.verdict.name(),
            "reason": self.reason.map(Reason::name), "help": self.reason.map(Reason::help),
            "why": self.why, "rule": self.rule, "rule_at": self.place, "near_misses": near,
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let query = &self.query;
        let segment = |s: &Option<String>| s.clone().unwrap_or_else(|| "no segment".to_owned());
        writeln!(
            f,
            "{} ({}, in by port {}) → {} ({}), {}",
            query.source,
            segment(&self.source_segment),
            self.port,
            query.destination,
            segment(&self.destination_segment),
            probe_text(query.protocol, query.destination_port)
        )?;
        write!(f, "  {}", self.verdict.name().to_uppercase())?;
        if let (Some(rule), Some(place)) = (&self.rule, &self.place) {
            let by = if self.is_unmet { "; nearest is" } else { " by" };
            write!(f, "{by} rule `{rule}` ({place})")?;
        }
        if let Some(reason) = self.reason {
            write!(f, "\n  {reason}: {}", reason.help())?;
        }
        if let Some(why) = &self.why {
            write!(f, "\n  {why}")?;
        }
        if !self.near_misses.is_empty() {
            write!(f, "\n  nearest rules:")?;
        }
        for near in &self.near_misses {
            write!(f, "\n    `{}` ({}): {}", near.rule, near.place, near.why)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"version = 1
[ports.a]
interface = "eth1"
[ports.b]
interface = "eth2"
[segments.web]
port = "a"
networks = ["10.1.0.0/24", "fd00:1::/64"]
[segments.db]
port = "b"
networks = ["10.2.0.0/24", "fd00:2::/64"]
[segments.other]
port = "b"
networks = ["10.3.0.0/24"]
[[rule]]
name = "sql"
from = "web"
to = "db"
services = ["tcp/5432"]
[[rule]]
name = "no-telnet"
from = "any"
to = "db"
services = ["tcp/23"]
action = "deny"
"#;

    fn told(from: &str, to: &str, port: &str) -> String {
        let model = crate::model::parse("t.toml", TEXT).unwrap();
        let answers = explain(&model, from, to, port).unwrap();
        answers.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn an_allowed_connection_names_its_rule_and_the_rules_place() {
        let expected =
            "10.1.0.7 (web, in by port a) → 10.2.0.1 (db), tcp/5432\n  ALLOW by rule `sql` (t.toml:16:8)";
        assert_eq!(told("10.1.0.7", "db", "tcp/5432"), expected);
        assert_eq!(told("web", "db", "tcp/5432").matches("ALLOW").count(), 2, "one answer for each family");
    }

    #[test]
    fn a_denied_connection_names_the_deny_rule() {
        let expected = "10.3.0.1 (other, in by port b) → 10.2.0.1 (db), tcp/23\n  \
            DENY by rule `no-telnet` (t.toml:21:8)\n  rule_denied: A deny rule matched.";
        assert_eq!(told("other", "db", "tcp/23"), expected);
    }

    #[test]
    fn an_unmatched_connection_names_the_nearest_rule_and_its_failed_clause() {
        let near = |from, to, port| told(from, to, port).lines().last().unwrap().trim().to_owned();
        let sql = "`sql` (t.toml:16:8): ";
        assert_eq!(
            near("10.1.0.1", "db", "tcp/5433"),
            format!("{sql}tcp/5433 is not among its services (tcp/5432)")
        );
        assert_eq!(
            near("web", "other", "tcp/5432"),
            format!("{sql}it does not lead to segment `other`, only to db")
        );
        assert_eq!(
            near("other", "db", "tcp/5432"),
            format!("{sql}it does not begin in segment `other`, only in web")
        );
    }

    #[test]
    fn a_protocol_that_any_does_not_mean_is_told_to_be_named() {
        let text = TEXT.replace("services = [\"tcp/5432\"]", "services = \"any\"");
        let model = crate::model::parse("t.toml", &text).unwrap();
        let answer = &explain(&model, "10.1.0.7", "db", "gre").unwrap()[0];
        assert_eq!((answer.verdict, answer.reason), (Expected::Deny, Some(Reason::ProtocolUnsupported)));
        let told = answer.to_string();
        assert!(told.contains("\"any\" does not mean gre, which has to be named"), "{told}");
        let model = crate::model::parse("t.toml", &TEXT.replace("tcp/5432", "gre")).unwrap();
        assert_eq!(explain(&model, "10.1.0.7", "db", "proto/47").unwrap()[0].verdict, Expected::Allow);
    }

    #[test]
    fn a_rule_out_of_its_time_says_whether_it_expired_or_has_not_begun() {
        let told = |keys: &str| {
            let text =
                TEXT.replace("services = [\"tcp/5432\"]", &format!("services = [\"tcp/5432\"]\n{keys}"));
            let model = crate::model::parse("t.toml", &text).unwrap();
            explain(&model, "10.1.0.7", "db", "tcp/5432").unwrap()[0].to_string()
        };
        let refused = "DENY; nearest is rule `sql` (t.toml:16:8)\n  outside_schedule: ";
        let expired = told("expires = 2020-01-01T00:00:00Z");
        assert!(
            expired.contains(refused) && expired.contains("\n  it expired at 2020-01-01T00:00:00Z"),
            "{expired}"
        );
        let begins = told("starts = 2999-01-01T00:00:00Z");
        assert!(
            begins.contains(refused) && begins.contains("\n  it starts at 2999-01-01T00:00:00Z"),
            "{begins}"
        );
        assert!(told("expires = 2999-01-01T00:00:00Z").ends_with("ALLOW by rule `sql` (t.toml:16:8)"));
    }

    #[test]
    fn questions_that_make_no_sense_are_refused_with_a_hint() {
        let model = crate::model::parse("t.toml", TEXT).unwrap();
        let error = |from, to, port| explain(&model, from, to, port).unwrap_err().to_string();
        assert!(error("wbe", "db", "tcp/1").ends_with("did you mean `web`?"));
        assert!(error("web", "db", "tcp/1-2").contains("is not one port"));
        assert!(error("10.1.0.1", "fd00:2::1", "tcp/1").contains("no address family"));
        assert!(error("web", "other", "icmpv6/echo-request").contains("no address family"));
    }
}
