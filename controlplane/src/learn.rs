//! Observed connections, gathered for proposals: what `bulkhead learn` works on.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use bulkhead_dataplane::headers::protocol;
use bulkhead_dataplane::policy::{Action, Rule, Service};

use crate::api::types::Connection;
use crate::model::Model;
use crate::propose::{Flow, Seen};
use crate::replay::recorded::{Recorded, protocol_number};

/// Services between segments that are told apart.
const FLOWS_MAX: usize = 65_536;
/// Connections that are known to be open, so that their end is not counted as another one.
const OPEN_MAX: usize = 1 << 20;

/// Protocol, both addresses and both ports.
type Tuple = (u8, IpAddr, u16, IpAddr, u16);

/// What was observed.
#[derive(Debug, Default)]
pub struct Observed {
    /// By segments and service.
    pub flows: BTreeMap<Flow, Seen>,
    open: HashSet<Tuple>,
    /// Connections of which an end lies in no known segment.
    pub nowhere: u64,
    /// Connections for which there was no room.
    pub overflow: u64,
    /// Connections that a narrow rule lets through already.
    pub narrow: u64,
}

/// What to look at.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The policy, to find the segments and what is allowed narrowly.
    pub model: &'a Model,
    /// Also what a narrow rule lets through already.
    pub all: bool,
    /// Only what happened from this time on, RFC 3339 as [`rfc3339`](crate::daemon::time::rfc3339) writes it.
    pub since: Option<&'a str>,
}

/// A connection on its way into the sum.
struct One<'a> {
    tuple: Tuple,
    rule: Option<&'a str>,
    count: u64,
    bytes: u64,
    span: (&'a str, &'a str),
}

impl Observed {
    /// An event: a connection that was opened, or one that has ended.
    pub fn event(&mut self, event: &Recorded, wanted: &Wanted<'_>) {
        if event.kind == "denied" || wanted.since.is_some_and(|since| event.ts.as_str() < since) {
            return;
        }
        let (source_port, destination_port) = (event.source_port, event.destination_port);
        let tuple = (event.protocol, event.source, source_port, event.destination, destination_port);
        let is_end = event.kind != "opened";
        // Its beginning was counted, unless that was too long ago.
        let is_known = is_end && self.open.remove(&tuple);
        if !is_end && self.open.len() < OPEN_MAX {
            self.open.insert(tuple);
        }
        self.add(
            One {
                tuple,
                rule: event.rule.as_deref(),
                count: u64::from(!is_known),
                bytes: event.bytes,
                span: (&event.ts, &event.ts),
            },
            wanted,
        );
    }

    /// A connection that is open now, from `first` to `last`. Events come before.
    pub fn connection(&mut self, row: &Connection, first: &str, last: &str, wanted: &Wanted<'_>) {
        let (Some(protocol), Ok(source), Ok(destination)) =
            (protocol_number(&row.protocol), row.source.parse(), row.destination.parse())
        else {
            return;
        };
        if wanted.since.is_some_and(|since| last < since) {
            return;
        }
        let tuple = (protocol, source, row.source_port, destination, row.destination_port);
        let count = u64::from(!self.open.remove(&tuple));
        let bytes = row.bytes.iter().sum();
        self.add(One { tuple, rule: row.rule.as_deref(), count, bytes, span: (first, last) }, wanted);
    }

    fn add(&mut self, one: One<'_>, wanted: &Wanted<'_>) {
        let (number, source, _, destination, port) = one.tuple;
        let segment = |address| {
            let id = bulkhead_dataplane::policy::reference::segment_of(&wanted.model.rules, address)?;
            wanted.model.segment_name(id).map(str::to_owned)
        };
        let (Some(from), Some(to)) = (segment(source), segment(destination)) else {
            self.nowhere += one.count;
            return;
        };
        let has_ports = matches!(number, protocol::TCP | protocol::UDP);
        let flow = Flow { from, to, protocol: number, port: if has_ports { port } else { 0 } };
        if !wanted.all && one.rule.is_some_and(|rule| is_narrow(wanted.model, rule, &flow)) {
            self.narrow += one.count;
            return;
        }
        if self.flows.len() >= FLOWS_MAX && !self.flows.contains_key(&flow) {
            self.overflow += one.count;
            return;
        }
        let seen = self.flows.entry(flow).or_default();
        seen.add(one.count, one.bytes, one.span.0, one.span.1, &source.to_string());
    }
}

/// Whether the rule of this name allows the flow and no more than a proposal would: from one segment to one, and this
/// port by itself.
fn is_narrow(model: &Model, rule: &str, flow: &Flow) -> bool {
    let Some(index) = model.rule_id(rule).and_then(|id| id.index()) else { return false };
    let rule: &Rule = &model.rules.rules[index];
    let is = |segments: &[bulkhead_dataplane::verdict::SegmentId], name: &str| matches!(segments, [only] if model.segment_name(*only) == Some(name));
    let service = match flow.protocol {
        protocol::TCP => Service::Tcp(flow.port, flow.port),
        protocol::UDP => Service::Udp(flow.port, flow.port),
        protocol::ICMP => Service::IcmpEcho,
        protocol::ICMPV6 => Service::Icmpv6Echo,
        other => Service::Protocol(other),
    };
    rule.action == Action::Allow
        && is(&rule.from, &flow.from)
        && is(&rule.to, &flow.to)
        && rule.services.contains(&service)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model;
    use crate::propose::{self, propose};
    use bulkhead_dataplane::policy::Query;
    use bulkhead_dataplane::verdict::PortId;
    use proptest::prelude::*;

    const POLICY: &str = r#"
        version = 1
        [ports.a]
        interface = "eth1"
        [ports.b]
        interface = "eth2"
        [segments.office]
        port = "a"
        networks = ["10.1.0.0/24"]
        [segments.lab]
        port = "a"
        networks = ["10.3.0.0/24"]
        [segments.servers]
        port = "b"
        networks = ["10.2.0.0/24"]
    "#;
    const NETWORKS: [(&str, u8); 3] = [("office", 1), ("servers", 2), ("lab", 3)];

    fn event(kind: &str, from: u8, to: u8, protocol: u8, ports: (u16, u16), rule: Option<&str>) -> Recorded {
        Recorded {
            line: 1,
            ts: "2026-11-27T10:00:00.000Z".to_owned(),
            at: jiff::Timestamp::UNIX_EPOCH,
            kind: kind.to_owned(),
            protocol,
            source: IpAddr::from([10, from, 0, 5]),
            source_port: ports.0,
            destination: IpAddr::from([10, to, 0, 9]),
            destination_port: ports.1,
            ingress: "a".to_owned(),
            rule: rule.map(str::to_owned),
            reason: None,
            bytes: if kind == "opened" { 0 } else { 100 },
        }
    }

    fn all_of(events: &[Recorded], policy: &str, all: bool) -> Observed {
        let model = model::parse("test", policy).unwrap();
        let mut observed = Observed::default();
        events.iter().for_each(|e| observed.event(e, &Wanted { model: &model, all, since: None }));
        observed
    }

    #[test]
    fn a_connection_counts_once_however_much_of_it_is_seen() {
        let events = [
            event("opened", 1, 2, 6, (4000, 443), None),
            event("closed", 1, 2, 6, (4000, 443), None),
            event("closed", 1, 2, 6, (4001, 443), None),
            event("opened", 1, 2, 6, (4002, 443), None),
            event("denied", 1, 2, 6, (4003, 443), None),
            event("opened", 1, 2, 1, (77, 0), None),
            event("opened", 1, 9, 6, (4003, 443), None),
        ];
        let mut observed = all_of(&events, POLICY, false);
        let row = Connection {
            protocol: "tcp".to_owned(),
            source: "10.1.0.5".to_owned(),
            source_port: 4002,
            destination: "10.2.0.9".to_owned(),
            destination_port: 443,
            from: None,
            to: None,
            ingress: "a".to_owned(),
            state: "established".to_owned(),
            rule: None,
            user: None,
            session: None,
            generation: 1,
            age_s: 9,
            idle_s: 0,
            packets: [3, 3],
            bytes: [500, 5000],
        };
        let model = model::parse("test", POLICY).unwrap();
        let wanted = Wanted { model: &model, all: false, since: None };
        let (first, last) = ("2026-11-27T09:00:00.000Z", "2026-11-27T11:00:00.000Z");
        observed.connection(&row, first, last, &wanted);
        let web = Flow { from: "office".into(), to: "servers".into(), protocol: 6, port: 443 };
        let seen = &observed.flows[&web];
        assert_eq!((seen.count, seen.bytes, seen.sources.len()), (3, 5700, 1));
        assert_eq!(seen.span, Some((first.to_owned(), last.to_owned())));
        assert_eq!((observed.flows.len(), observed.nowhere), (2, 1));
        observed.connection(&Connection { source_port: 4009, ..row }, first, last, &wanted);
        assert_eq!(observed.flows[&web].count, 4);
    }

    #[test]
    fn what_a_narrow_rule_allows_is_not_proposed_again_but_what_a_broad_one_does_is() {
        let rules = r#"
            [[rule]]
            name = "narrow"
            from = "office"
            to = "servers"
            services = ["tcp/443"]
            [[rule]]
            name = "broad"
            from = "any"
            to = "servers"
            services = ["tcp/443", "tcp/1-100"]
        "#;
        let policy = format!("{POLICY}{rules}");
        let events = [
            event("opened", 1, 2, 6, (4000, 443), Some("narrow")),
            event("opened", 3, 2, 6, (4000, 443), Some("broad")),
            event("opened", 1, 2, 6, (4000, 22), Some("broad")),
        ];
        let observed = all_of(&events, &policy, false);
        assert_eq!((observed.flows.len(), observed.narrow), (2, 1));
        assert_eq!(all_of(&events, &policy, true).flows.len(), 3);
    }

    #[test]
    fn high_ports_are_one_rule_that_lists_them_and_adjacent_ones_are_merged_when_asked() {
        let ports = [80, 81, 82, 40_000, 40_001, 45_000, 50_000, 60_000];
        let events: Vec<_> = ports.iter().map(|&port| event("opened", 1, 2, 6, (4000, port), None)).collect();
        let observed = all_of(&events, POLICY, false);
        let services = |merge| -> Vec<_> {
            propose(&observed.flows, merge, &HashSet::new())
                .into_iter()
                .map(|p| (p.name, p.services))
                .collect()
        };
        let high = ["tcp/40000-40001", "tcp/45000", "tcp/50000", "tcp/60000"];
        let told = services(false);
        assert_eq!(told.len(), 4);
        assert_eq!(
            (told[3].0.as_str(), &told[3].1[..]),
            ("office-to-servers-tcp-high-ports", &high.map(String::from)[..])
        );
        let merged = services(true);
        assert_eq!((merged.len(), &merged[0].1[..]), (2, &["tcp/80-82".to_owned()][..]));
        let taken = HashSet::from(["office-to-servers-tcp-80-82".to_owned()]);
        assert_eq!(propose(&observed.flows, true, &taken)[0].name, "office-to-servers-tcp-80-82-2");
    }

    proptest! {
        #[test]
        fn proposals_allow_exactly_what_was_observed(
            observations in proptest::collection::vec((0usize..3, 0usize..3, 0usize..5, 0u16..24, any::<bool>()), 0..60),
            merge: bool,
        ) {
            let port = |n: u16| if n < 12 { 80 + n } else { 40_000 + n * if n.is_multiple_of(2) { 1 } else { 3 } };
            let numbers = [6u8, 17, 1, 47, 6];
            let events: Vec<_> = observations.iter().map(|&(from, to, number, n, closed)| {
                let kind = if closed { "closed" } else { "opened" };
                event(kind, NETWORKS[from].1, NETWORKS[to].1, numbers[number], (4000, port(n)), None)
            }).collect();
            let observed = all_of(&events, POLICY, false);
            let proposals = propose(&observed.flows, merge, &HashSet::new());
            let sizes: Vec<_> = proposals.iter().map(|p| p.services.len()).collect();
            let rules: Vec<_> = proposals.iter().map(|p| p.to_toml(&p.evidence())).collect();
            let model = model::parse("test", &format!("{POLICY}\n{}", rules.join("\n")))
                .map_err(|errors| TestCaseError::fail(errors.to_string()))?;
            let policy = model.compile().unwrap();
            for from in NETWORKS {
                for to in NETWORKS {
                    for number in [6u8, 17, 1, 47, 50] {
                        for n in 0..24 {
                            for destination_port in [port(n), port(n) + 1, port(n) - 1] {
                                let query = Query {
                                    ingress: PortId(u8::from(from.0 == "servers")),
                                    source: IpAddr::from([10, from.1, 0, 77]),
                                    destination: IpAddr::from([10, to.1, 0, 88]),
                                    protocol: number,
                                    destination_port: if matches!(number, 6 | 17) { destination_port } else { 0 },
                                };
                                let flow = Flow {
                                    from: from.0.to_owned(),
                                    to: to.0.to_owned(),
                                    protocol: number,
                                    port: query.destination_port,
                                };
                                let is_observed = observed.flows.contains_key(&flow);
                                prop_assert_eq!(
                                    policy.judge(&query).allows(), is_observed,
                                    "{} {:?}", propose::flow_text(&flow), query
                                );
                            }
                        }
                    }
                }
            }
            prop_assert!(sizes.len() <= observed.flows.len());
        }
    }
}
