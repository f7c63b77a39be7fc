//! A decision told in names: which segments, which rule or reason, and which rules nearly allowed it.

mod asked;

use std::fmt;

use anyhow::{Result, anyhow};
use bulkhead_dataplane::headers::protocol;
use bulkhead_dataplane::policy::explain::Clause;
use bulkhead_dataplane::policy::{
    Circumstances, Explanation, Query, Rule, Service, explain_restrained as explain_ids, reference,
};
use bulkhead_dataplane::verdict::{Reason, RuleId, SegmentId};
use serde_json::{Value, json};

use crate::algebra::Demand;
use crate::api::types::{self, Asked};
use crate::config::diagnostics::{nearest, quoted};
use crate::model::{Endpoint, Expected, Model, Probe, probe_text};
use crate::plan::{Symbols, words};

pub use asked::{Occasion, written};

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
    /// Who asks and when, as far as it was said.
    pub who: Vec<String>,
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
    /// What exactly is amiss: whether the rule has expired or its schedule is shut, or else what the rule asks for.
    pub why: Option<String>,
    /// The rules that came nearest, when none decided.
    pub near_misses: Vec<NearMiss>,
}

/// Answers a question put in the words of the command line: one answer for each address family in question.
///
/// # Errors
///
/// What of the question makes no sense, with a hint.
pub fn explain(model: &Model, from: &str, to: &str, port: &str, asked: &Asked) -> Result<Vec<Answer>> {
    explain_on(model, from, to, port, |model| Occasion::of(asked, model))
}

/// As [`explain`], where who asks and when is known otherwise.
///
/// # Errors
///
/// As of [`explain`].
pub fn explain_on(
    model: &Model,
    from: &str,
    to: &str,
    port: &str,
    occasion: impl FnOnce(&Model) -> Result<Occasion>,
) -> Result<Vec<Answer>> {
    let (from, to) = (endpoint(model, from)?, endpoint(model, to)?);
    let probe = Probe::parse(port).map_err(|wrong| anyhow!("{wrong}"))?;
    let queries = model.questions(from, to, probe).map_err(|message| anyhow!(message))?;
    let occasion = occasion(model)?;
    Ok(queries.iter().map(|query| answer(model, query, &occasion)).collect())
}

fn endpoint(model: &Model, text: &str) -> Result<Endpoint> {
    model.endpoint(text).ok_or_else(|| {
        let hint = nearest(text, model.segments.iter().map(|s| s.name.as_str()))
            .unwrap_or_else(|| "give an IP address or the name of a segment".to_owned());
        anyhow!("{} is neither an address nor a segment; {hint}", quoted(text))
    })
}

/// Answers one question.
pub fn answer(model: &Model, query: &Query, occasion: &Occasion) -> Answer {
    let (gates, _) = model.gates_at(occasion.moment);
    let circumstances = Circumstances { who: occasion.asker.who(), gates: &gates };
    let told = explain_ids(&model.rules, &occasion.restraints, query, &circumstances);
    let teller = Teller { model, query, occasion, told: &told };
    let is_unmet = told.decision.decided_by() != told.decision.rule;
    let name = |segment: Option<SegmentId>| segment.and_then(|s| model.segment_name(s)).map(str::to_owned);
    let near_misses = told.near_misses.iter().map(|&(id, clause)| teller.near_miss(id, clause));
    let nearest = told.decision.refusal.filter(|_| is_unmet);
    Answer {
        query: *query,
        who: occasion.words.clone(),
        port: model.port_name(query.ingress).unwrap_or("?").to_owned(),
        source_segment: name(told.source_segment),
        destination_segment: name(told.destination_segment),
        verdict: Expected::of(&told.decision),
        reason: told.decision.refusal,
        rule: model.rule_name(told.decision.rule).map(str::to_owned),
        is_unmet,
        place: model.rule_place(told.decision.rule),
        why: nearest.and_then(|reason| teller.amiss(told.decision.rule, reason)),
        near_misses: near_misses.collect(),
    }
}

/// All that an explanation is told from.
struct Teller<'e> {
    model: &'e Model,
    query: &'e Query,
    occasion: &'e Occasion,
    told: &'e Explanation,
}

impl Teller<'_> {
    /// What of a rule's demands is not met: its time, or what it and the floors ask for.
    fn amiss(&self, id: RuleId, reason: Reason) -> Option<String> {
        let model = self.model;
        let index = id.index()?;
        if reason == Reason::OutsideSchedule {
            return model.untimely(model.rule_infos.get(index)?, self.occasion.moment);
        }
        let rule = model.rules.rules.get(index)?;
        let (from, to) = (self.told.source_segment, self.told.destination_segment);
        let demand = Demand::of(rule.action, reference::conditions(&model.rules, rule, from, to));
        let wants = words::demand(&demand, &Symbols::of(model));
        (!wants.is_empty()).then(|| format!("it asks for {}", wants.join(", ")))
    }

    /// Why a rule does not allow it.
    fn near_miss(&self, id: RuleId, clause: Clause) -> NearMiss {
        let Teller { model, query, told, .. } = *self;
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
                let why = self.amiss(id, reason);
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
                format!(
                    "it does not lead to {}, only to {}",
                    segment(told.destination_segment),
                    list(&rule.to)
                ),
            ),
            Clause::From => (
                "from",
                format!(
                    "it does not begin in {}, only in {}",
                    segment(told.source_segment),
                    list(&rule.from)
                ),
            ),
        };
        let place = model.rule_place(id).unwrap_or_default();
        NearMiss { rule: info.name.clone(), place, clause, why }
    }
}

impl Answer {
    /// In both forms.
    pub fn to_api(&self) -> types::Answer {
        types::Answer { json: self.to_json(), text: self.to_string() }
    }

    /// The answer as a JSON object.
    pub fn to_json(&self) -> Value {
        let near: Vec<Value> = self
            .near_misses
            .iter()
            .map(|n| json!({ "rule": n.rule, "at": n.place, "clause": n.clause, "why": n.why }))
            .collect();
        json!({
            "who": self.who, "source": self.query.source, "source_segment": self.source_segment, "port_in": self.port,
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
        let who = if self.who.is_empty() { String::new() } else { format!(", {}", self.who.join(", ")) };
        let segment = |s: &Option<String>| s.clone().unwrap_or_else(|| "no segment".to_owned());
        writeln!(
            f,
            "{} ({}, in by port {}){who} → {} ({}), {}",
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
        // All of what the decision names has been said.
        let is_new = |near: &&NearMiss| !self.is_unmet || Some(&near.rule) != self.rule.as_ref();
        let mut near_misses = self.near_misses.iter().filter(is_new).peekable();
        if near_misses.peek().is_some() {
            write!(f, "\n  {}:", if self.is_unmet { "other near rules" } else { "nearest rules" })?;
        }
        for near in near_misses {
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
        let answers = explain(&model, from, to, port, &Asked::default()).unwrap();
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
        let answer = &explain(&model, "10.1.0.7", "db", "gre", &Asked::default()).unwrap()[0];
        assert_eq!((answer.verdict, answer.reason), (Expected::Deny, Some(Reason::ProtocolUnsupported)));
        let told = answer.to_string();
        assert!(told.contains("\"any\" does not mean gre, which has to be named"), "{told}");
        let model = crate::model::parse("t.toml", &TEXT.replace("tcp/5432", "gre")).unwrap();
        assert_eq!(
            explain(&model, "10.1.0.7", "db", "proto/47", &Asked::default()).unwrap()[0].verdict,
            Expected::Allow
        );
    }

    #[test]
    fn a_rule_out_of_its_time_says_whether_it_expired_or_has_not_begun() {
        let told = |keys: &str| {
            let text =
                TEXT.replace("services = [\"tcp/5432\"]", &format!("services = [\"tcp/5432\"]\n{keys}"));
            let model = crate::model::parse("t.toml", &text).unwrap();
            explain(&model, "10.1.0.7", "db", "tcp/5432", &Asked::default()).unwrap()[0].to_string()
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

    const ASKING: &str = r#"
[segments.admin]
port = "b"
networks = ["10.4.0.0/24"]
require = { risk_below = 50 }
[groups.dba]
members = ["alice"]
[postures.compliant]
disk_encrypted = true
[schedules.night]
hours = "22:00-04:00"
[[rule]]
name = "admin"
from = "web"
to = "admin"
services = ["tcp/22"]
users = { groups = ["dba"] }
require = { mfa = "phishing-resistant", mfa_max_age = "1h", posture = "compliant", devices = { enrolled = true, tags = ["mgmt"] } }
schedule = "night"
"#;

    /// Who meets all that is asked for.
    fn alice() -> Asked {
        Asked {
            user: Some("alice".to_owned()),
            device: vec!["enrolled".to_owned(), "tag=mgmt".to_owned()],
            posture: vec!["compliant".to_owned()],
            mfa_age: Some("1h".to_owned()),
            mfa: Some("phishing-resistant".to_owned()),
            risk: Some(49),
            at: Some("2026-11-27T23:00:00+01:00".to_owned()),
            ..Asked::default()
        }
    }

    fn asked(change: impl FnOnce(&mut Asked)) -> Result<Answer> {
        let model = crate::model::parse("t.toml", &format!("{TEXT}{ASKING}")).unwrap();
        let mut asked = alice();
        change(&mut asked);
        Ok(explain(&model, "10.1.0.7", "admin", "tcp/22", &asked)?.remove(0))
    }

    #[test]
    fn who_meets_every_demand_is_allowed_and_told_with_what_was_said() {
        let expected = "10.1.0.7 (web, in by port a), user alice, in group dba, on an enrolled device, tagged mgmt, \
            second factor that cannot be phished shown 1h ago, posture `compliant` met, risk 49, at 2026-11-27T22:00:00Z \
            → 10.4.0.1 (admin), tcp/22\n  ALLOW by rule `admin` (t.toml:38:8)";
        let answer = asked(|_| ()).unwrap();
        assert_eq!(answer.to_string(), expected);
        assert_eq!(answer.to_json()["who"].as_array().unwrap().len(), 8);
    }

    #[test]
    fn every_demand_that_is_not_met_has_its_reason_and_the_rule_says_what_it_asks_for() {
        type Lack = (Reason, fn(&mut Asked));
        let lacks: [Lack; 13] = [
            (Reason::NotAuthenticated, |asked| *asked = Asked { at: asked.at.take(), ..Asked::default() }),
            (Reason::NotAuthenticated, |asked| asked.user = None),
            (Reason::SessionExpired, |asked| asked.session = Some("expired".to_owned())),
            (Reason::NotInGroup, |asked| asked.user = Some("bob".to_owned())),
            (Reason::DeviceMismatch, |asked| asked.device = Vec::new()),
            (Reason::DeviceMismatch, |asked| asked.device[0] = "not-enrolled".to_owned()),
            (Reason::DeviceMismatch, |asked| asked.device[1] = "tag=other".to_owned()),
            (Reason::MfaMissing, |asked| (asked.mfa, asked.mfa_age) = (None, None)),
            (Reason::MfaTooWeak, |asked| asked.mfa = None),
            (Reason::MfaTooOld, |asked| asked.mfa_age = Some("61m".to_owned())),
            (Reason::PostureUnknown, |asked| asked.posture = Vec::new()),
            (Reason::PostureFailed, |asked| asked.posture = vec!["compliant=failed".to_owned()]),
            // Of the floor.
            (Reason::RiskTooHigh, |asked| asked.risk = Some(50)),
        ];
        let wants = "it asks for group dba, an enrolled device, a device tagged mgmt, a second factor that cannot be phished, \
            a second factor at most 1h old, posture `compliant`, a risk below 50, during schedule night";
        for (reason, lack) in lacks {
            let answer = asked(lack).unwrap();
            assert_eq!((answer.verdict, answer.reason), (Expected::Deny, Some(reason)));
            assert_eq!((answer.rule.as_deref(), answer.why.as_deref()), (Some("admin"), Some(wants)));
            assert_eq!(answer.near_misses[0].why, format!("{reason}: {wants}"));
        }
        let untimely = asked(|asked| asked.at = Some("2026-11-27T12:00:00Z".to_owned())).unwrap();
        assert_eq!(untimely.reason, Some(Reason::OutsideSchedule));
        assert_eq!(untimely.why.as_deref(), Some("its schedule `night` is shut"));
        // What the identity provider tells counts as what is declared.
        let told =
            |asked: &mut Asked| (asked.user, asked.groups) = (Some("bob".to_owned()), vec!["dba".to_owned()]);
        assert_eq!(asked(told).unwrap().verdict, Expected::Allow);
    }

    #[test]
    fn what_is_said_of_who_asks_is_read_as_in_a_test() {
        let error = |change: fn(&mut Asked)| asked(change).unwrap_err().to_string();
        type Slip = (fn(&mut Asked), &'static str);
        let cases: [Slip; 11] = [
            (
                |a| a.posture = vec!["complaint".to_owned()],
                "unknown posture `complaint`; did you mean `compliant`?",
            ),
            (
                |a| a.posture = vec!["compliant=faild".to_owned()],
                "`faild` is no state of a posture; did you mean `failed`?",
            ),
            (|a| a.groups = vec!["dbas".to_owned()], "unknown group `dbas`; did you mean `dba`?"),
            (|a| (a.user, a.groups) = (None, vec!["dba".to_owned()]), "`groups` of nobody"),
            (|a| (a.user, a.device) = (None, Vec::new()), "this says something of nobody"),
            (|a| a.device = vec!["enroled".to_owned()], "did you mean `enrolled`?"),
            (|a| a.device.push("not-enrolled".to_owned()), "it is enrolled, or it is not"),
            (|a| a.mfa_age = Some("90ms".to_owned()), "--mfa-age: `90ms` is no whole number of seconds"),
            (|a| a.mfa = Some("phishing".to_owned()), "--mfa: `phishing` is no kind of second factor"),
            (
                |a| a.session = Some("over".to_owned()),
                "--session: `over` is no state of a session; use \"expired\"",
            ),
            (
                |a| a.at = Some("2027-01-31T08:00:00".to_owned()),
                "`2027-01-31T08:00:00` is not one moment; a date and a time",
            ),
        ];
        for (change, expected) in cases {
            let error = error(change);
            assert!(error.contains(expected), "{expected}\n{error}");
        }
    }

    #[test]
    fn questions_that_make_no_sense_are_refused_with_a_hint() {
        let model = crate::model::parse("t.toml", TEXT).unwrap();
        let error =
            |from, to, port| explain(&model, from, to, port, &Asked::default()).unwrap_err().to_string();
        assert!(error("wbe", "db", "tcp/1").ends_with("did you mean `web`?"));
        assert!(error("web", "db", "tcp/1-2").contains("is not one port"));
        assert!(error("10.1.0.1", "fd00:2::1", "tcp/1").contains("no address family"));
        assert!(error("web", "other", "icmpv6/echo-request").contains("no address family"));
    }
}
