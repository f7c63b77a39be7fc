//! The `[[test]]`s and other questions in names, resolved.

use std::net::IpAddr;

use bulkhead_dataplane::headers::protocol;
use bulkhead_dataplane::policy::Service;
use bulkhead_dataplane::verdict::Reason;

use super::resolve::Resolver;
use super::{Endpoint, Expected, Model, Probe, Test};
use crate::config::diagnostics::quoted;
use crate::config::schema::{self, Text};
use crate::config::values::{self, Wrong};

impl Resolver {
    pub(super) fn test(&mut self, test: &schema::Test, model: &Model) -> Option<Test> {
        let from = self.endpoints(&test.from, model);
        let to = self.endpoints(&test.to, model);
        let probes = self.probes(&test.ports);
        let asker = self.asker(&test.asker, test.at);
        let expect = test.expect.as_ref()?;
        let reason = match &expect.reason {
            None => None,
            Some(name) => match Reason::from_name(&name.value) {
                Some(reason) => Some(reason),
                None => {
                    let hint = self
                        .report
                        .nearest(&name.value, Reason::ALL.iter().map(|r| r.name()))
                        .unwrap_or_else(|| "for example \"no_rule\" or \"spoofed_source\"".to_owned());
                    let message = format!("{} is not a reason", quoted(&name.value));
                    self.report.error(name.at, message).hint(hint);
                    None
                }
            },
        };
        let rule = expect.rule.as_ref().and_then(|name| {
            let found = model.rule_id(&name.value);
            if found.is_none() {
                let hint = self.report.nearest(&name.value, model.rule_infos.iter().map(|r| r.name.as_str()));
                let message = format!("unknown rule {}", quoted(&name.value));
                self.report.error(name.at, message).maybe_hint(hint);
            }
            found
        });
        let verdict = match expect.verdict.as_ref()?.value.as_str() {
            "allow" => Expected::Allow,
            "reject" => Expected::Reject,
            _ => Expected::Deny,
        };
        let name = test.name.as_ref()?;
        let (name, at) = (name.value.clone(), name.at);
        let moment = test.asker.at.as_ref().map(|moment| moment.value);
        if from.is_empty() || to.is_empty() || probes.is_empty() {
            return None;
        }
        Some(Test { name, from, to, probes, asker, moment, verdict, reason, rule, at })
    }

    fn endpoints(&mut self, names: &[Text], model: &Model) -> Vec<Endpoint> {
        let mut ends = Vec::new();
        for name in names {
            match model.endpoint(&name.value) {
                Some(end) => ends.push(end),
                None => self.unknown("segment", name, model.segments.iter().map(|s| s.name.as_str())),
            }
        }
        ends
    }

    fn probes(&mut self, texts: &[Text]) -> Vec<Probe> {
        let mut probes = Vec::new();
        for text in texts {
            match Probe::parse(&text.value) {
                Ok(probe) => probes.push(probe),
                Err(wrong) => self.wrong(text.at, wrong),
            }
        }
        probes
    }
}

impl Model {
    /// A segment's name or an address.
    pub fn endpoint(&self, text: &str) -> Option<Endpoint> {
        // Names may look like addresses ("10.0.0.1" is a legal name): what is configured goes first.
        let segment = self.segment_id(text).map(Endpoint::Segment);
        segment.or_else(|| text.parse::<IpAddr>().ok().map(Endpoint::Address))
    }
}

impl Probe {
    /// One protocol and port: `tcp/443`, `udp/53`, `icmp/echo-request`, `icmpv6/echo-request`, `gre`, `proto/99`.
    pub fn parse(text: &str) -> Result<Probe, Wrong> {
        match values::service(text)? {
            Service::Tcp(port, high) if port == high => Ok(Probe { protocol: protocol::TCP, port }),
            Service::Udp(port, high) if port == high => Ok(Probe { protocol: protocol::UDP, port }),
            Service::IcmpEcho => Ok(Probe { protocol: protocol::ICMP, port: 0 }),
            Service::Icmpv6Echo => Ok(Probe { protocol: protocol::ICMPV6, port: 0 }),
            Service::Protocol(number) => Ok(Probe { protocol: number, port: 0 }),
            Service::Any | Service::Tcp(..) | Service::Udp(..) => Err(Wrong {
                message: format!("{} is not one port", quoted(text)),
                hint: Some("a question is about one connection: \"tcp/443\"".to_owned()),
            }),
        }
    }
}
