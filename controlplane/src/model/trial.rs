//! Questions in names put to the compiled policy, and the `[[test]]`s.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_dataplane::headers::protocol;
use bulkhead_dataplane::policy::compile::CompileError;
use bulkhead_dataplane::policy::conditions::Bits;
use bulkhead_dataplane::policy::{Circumstances, Decision, Policy, Query, compile, recompile, reference};
use bulkhead_dataplane::verdict::{PortId, Reason, RuleId, SegmentId};
use ipnet::IpNet;
use jiff::Timestamp;

use super::{Endpoint, Expected, Model, Probe, Test};
use crate::config::values::protocol_text;

/// How often the search for an address of a segment's own may step over a smaller network of another.
const STEPS: usize = 1024;

/// A `[[test]]` that was run.
#[derive(Clone, Debug)]
pub struct TestResult<'m> {
    /// The test.
    pub test: &'m Test,
    /// What went otherwise than expected; `None` when the test passed.
    pub failure: Option<String>,
}

/// What one test is judged with.
struct Trial<'t> {
    test: &'t Test,
    policy: &'t Policy,
    moment: Timestamp,
    gates: &'t Bits,
    rules_from: &'t HashMap<SegmentId, Vec<RuleId>>,
}

impl Expected {
    /// The verdict of a decision.
    pub fn of(decision: &Decision) -> Expected {
        match decision.refusal {
            None => Expected::Allow,
            Some(Reason::RuleRejected) => Expected::Reject,
            Some(_) => Expected::Deny,
        }
    }

    /// The word for it in files and output.
    pub fn name(self) -> &'static str {
        match self {
            Expected::Allow => "allow",
            Expected::Deny => "deny",
            Expected::Reject => "reject",
        }
    }
}

/// The protocol and port in the words of the configuration.
pub fn probe_text(protocol: u8, port: u16) -> String {
    match protocol {
        protocol::TCP => format!("tcp/{port}"),
        protocol::UDP => format!("udp/{port}"),
        protocol::ICMP => "icmp/echo-request".to_owned(),
        protocol::ICMPV6 => "icmpv6/echo-request".to_owned(),
        other => protocol_text(other),
    }
}

impl Model {
    /// Compiles the rules; the error is told in the names of the configuration.
    ///
    /// Every gate is shut until [`Policy::set_gates`] is called with those of [`gates_at`](Self::gates_at).
    pub fn compile(&self) -> Result<Policy, String> {
        self.finish(compile(&self.rules))
    }

    /// As [`compile`](Self::compile), in less time where little changed since `before`, which the policy was made from.
    pub fn recompile(&self, before: &Model, policy: &Policy) -> Result<Policy, String> {
        self.finish(recompile(policy, &before.rules, &self.rules))
    }

    /// Compiles the rules as they would be enforced if nothing were in audit; `None` when nothing is.
    pub fn compile_audited(&self) -> Option<Result<Policy, String>> {
        self.audited().map(|rules| self.finish(compile(rules)))
    }

    fn finish(&self, compiled: Result<Policy, CompileError>) -> Result<Policy, String> {
        let mut policy = compiled.map_err(|error| match error {
            CompileError::TooManyPieces(rule)
            | CompileError::TooManyAlternatives(rule)
            | CompileError::TooManyClauses(rule) => {
                let (name, place) = (self.rule_name(rule), self.rule_place(rule));
                format!("{}: rule `{}`: {error}", place.unwrap_or_default(), name.unwrap_or_default())
            }
            other => other.to_string(),
        })?;
        let timeouts = (0..).map(RuleId).zip(self.rule_infos.iter().map(|info| info.timeouts));
        // Resolving has counted them.
        policy.set_timeouts(timeouts).map_err(|rule| format!("rule {}: too many `timeouts`", rule.0))?;
        policy.set_limits(self.limits());
        policy.set_protected(self.segments.iter().map(|segment| segment.syn_cookies).collect());
        policy.set_permits(self.segments.iter().map(|segment| segment.permits).collect());
        Ok(policy)
    }

    /// The questions that two ends and a service mean: one for every address family that they have in common.
    /// A segment stands for one of its addresses, entering by its first port; an address of no segment enters by
    /// the first port. Never empty.
    pub fn questions(&self, from: Endpoint, to: Endpoint, probe: Probe) -> Result<Vec<Query>, String> {
        let mut queries = Vec::new();
        for v4 in [true, false] {
            if (probe.protocol == protocol::ICMP && !v4) || (probe.protocol == protocol::ICMPV6 && v4) {
                continue;
            }
            if let (Some(source), Some(destination)) = (self.address_of(from, v4), self.address_of(to, v4)) {
                let segment = reference::segment_of(&self.rules, source);
                let ports = segment.map(|s| &self.rules.segments[s.0 as usize].ports);
                let ingress = ports.and_then(|p| p.first().copied()).unwrap_or(PortId(0));
                queries.push(Query {
                    ingress,
                    source,
                    destination,
                    protocol: probe.protocol,
                    destination_port: probe.port,
                });
            }
        }
        if queries.is_empty() {
            return Err(
                "the two ends and the service have no address family (IPv4, IPv6) in common".to_owned()
            );
        }
        Ok(queries)
    }

    fn address_of(&self, end: Endpoint, v4: bool) -> Option<IpAddr> {
        match end {
            Endpoint::Address(address) => (address.is_ipv4() == v4).then_some(address),
            Endpoint::Segment(segment) => self.sample(segment, v4),
        }
    }

    /// An address of this family that belongs to the segment: not to a smaller network inside it.
    fn sample(&self, segment: SegmentId, v4: bool) -> Option<IpAddr> {
        let networks = &self.rules.segments[segment.0 as usize].networks;
        networks.iter().filter(|net| net.addr().is_ipv4() == v4).find_map(|net| {
            let first = net.network();
            // The network's own address is no host's, where there is room for another.
            let host = if net.prefix_len() + 1 < net.max_prefix_len() { next(first)? } else { first };
            let mut candidate = host;
            for _ in 0..STEPS {
                if !net.contains(&candidate) {
                    return None;
                }
                let inner = self.longest_match(candidate)?;
                if networks.contains(&inner) {
                    return Some(candidate);
                }
                candidate = next(inner.broadcast())?;
            }
            None
        })
    }

    fn longest_match(&self, address: IpAddr) -> Option<IpNet> {
        let all = self.rules.segments.iter().flat_map(|s| &s.networks);
        all.filter(|net| net.contains(&address)).max_by_key(|net| net.prefix_len()).copied()
    }

    /// Runs every `[[test]]` through the compiled policy and the reference evaluator, which must agree. `policy` is what
    /// [`compile`](Self::compile) made of this model. Tests are about the rules as they are written, so where something
    /// is in audit they are judged as if it were enforced. A test that names no moment is about `now`.
    pub fn run_tests_at(&self, policy: &Policy, now: Timestamp) -> Vec<TestResult<'_>> {
        let audited = match self.compile_audited().transpose() {
            Ok(audited) => audited,
            Err(message) => {
                let failed = |test| TestResult { test, failure: Some(message.clone()) };
                return self.tests.iter().map(failed).collect();
            }
        };
        let policy = audited.as_ref().unwrap_or(policy);
        let questions: Vec<_> = self.tests.iter().map(|test| self.asked(test)).collect();
        let rules_from = self.rules_from(questions.iter().flatten().flatten());
        // Many tests name the same moment, and a policy may have many gates.
        let mut gates: HashMap<Timestamp, Bits> = HashMap::new();
        for test in &self.tests {
            let moment = test.moment.unwrap_or(now);
            gates.entry(moment).or_insert_with(|| self.gates_at(moment).0);
        }
        let failure = |test: &Test, questions: Result<Vec<Query>, String>| {
            let moment = test.moment.unwrap_or(now);
            let trial = Trial { test, policy, moment, gates: &gates[&moment], rules_from: &rules_from };
            match questions {
                Ok(queries) => queries.iter().find_map(|query| self.check(&trial, query)),
                Err(message) => Some(message),
            }
        };
        let results = self.tests.iter().zip(questions);
        results.map(|(test, questions)| TestResult { test, failure: failure(test, questions) }).collect()
    }

    /// As [`run_tests_at`](Self::run_tests_at), now.
    pub fn run_tests(&self, policy: &Policy) -> Vec<TestResult<'_>> {
        self.run_tests_at(policy, Timestamp::now())
    }

    /// All the questions of a test.
    fn asked(&self, test: &Test) -> Result<Vec<Query>, String> {
        let mut queries = Vec::new();
        for (from, to) in test.from.iter().flat_map(|from| test.to.iter().map(move |to| (*from, *to))) {
            for probe in &test.probes {
                queries.extend(self.questions(from, to, *probe)?);
            }
        }
        Ok(queries)
    }

    /// The tests that fail, with their places: one line each.
    pub fn failed_tests(&self, policy: &Policy) -> Vec<String> {
        self.failed_tests_at(policy, Timestamp::now())
    }

    /// As [`failed_tests`](Self::failed_tests), with tests that name no moment about `now`.
    pub fn failed_tests_at(&self, policy: &Policy, now: Timestamp) -> Vec<String> {
        let told = |result: TestResult<'_>| {
            let (place, name) = (self.sources.place(result.test.at), result.test.name.escape_debug());
            result.failure.map(|failure| format!("{place}: test \"{name}\" failed: {failure}"))
        };
        self.run_tests_at(policy, now).into_iter().filter_map(told).collect()
    }

    /// For the segment of every source asked about, the rules that name it in `from`. Going through all the rules
    /// once is what keeps a thousand tests of a hundred thousand rules from going through them a thousand times.
    fn rules_from<'q>(&self, queries: impl Iterator<Item = &'q Query>) -> HashMap<SegmentId, Vec<RuleId>> {
        let sources = queries.filter_map(|query| reference::segment_of(&self.rules, query.source));
        let mut rules_from: HashMap<SegmentId, Vec<RuleId>> = sources.map(|s| (s, Vec::new())).collect();
        for (rule, id) in self.written().rules.iter().zip(0..) {
            for segment in &rule.from {
                if let Some(rules) = rules_from.get_mut(segment) {
                    rules.push(RuleId(id));
                }
            }
        }
        rules_from
    }

    fn check(&self, trial: &Trial<'_>, query: &Query) -> Option<String> {
        let test = trial.test;
        let circumstances = Circumstances { who: test.asker.who(), gates: trial.gates };
        let source = reference::segment_of(&self.rules, query.source);
        let candidates =
            source.and_then(|source| trial.rules_from.get(&source)).map_or(&[][..], Vec::as_slice);
        let oracle =
            reference::judge_among(self.written(), candidates.iter().copied(), query, &circumstances);
        let decision = trial.policy.judge_in(query, &circumstances);
        if decision != oracle {
            return Some(format!(
                "the compiled policy says {} and the reference evaluator {}: a fault of Bulkhead, please report it",
                self.decision_text(&decision),
                self.decision_text(&oracle)
            ));
        }
        let as_expected = Expected::of(&decision) == test.verdict
            && test.reason.is_none_or(|reason| decision.refusal == Some(reason))
            && test.rule.is_none_or(|rule| decision.rule == rule);
        if as_expected {
            return None;
        }
        let mut expected = test.verdict.name().to_owned();
        if let Some(reason) = test.reason {
            expected += &format!(" ({reason})");
        }
        if let Some(rule) = test.rule.and_then(|rule| self.rule_name(rule)) {
            expected += &format!(" by rule `{rule}`");
        }
        let mut failure = format!(
            "expected {expected}, got {}: {} → {} {}",
            self.decision_text(&decision),
            query.source,
            query.destination,
            probe_text(query.protocol, query.destination_port)
        );
        if decision.refusal == Some(Reason::OutsideSchedule)
            && let Some(info) = decision.rule.index().and_then(|index| self.rule_infos.get(index))
            && let Some(why) = self.untimely(info, trial.moment)
        {
            failure += &format!("; {why}");
        }
        if test.moment.is_none() && !self.identities.gates.is_empty() {
            failure +=
                &format!("; tried as of now, {:.0}, because the test names no moment (`at`)", trial.moment);
        }
        Some(failure)
    }

    fn decision_text(&self, decision: &Decision) -> String {
        let mut text = Expected::of(decision).name().to_owned();
        if let Some(reason) = decision.refusal {
            text += &format!(" ({reason})");
        }
        if let Some(rule) = self.rule_name(decision.rule) {
            text += &format!(" by rule `{rule}`");
        }
        text
    }
}

/// The address after this one; none after the last.
fn next(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().checked_add(1)?).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().checked_add(1)?).into(),
    })
}
