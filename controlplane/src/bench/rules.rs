//! A thousand rules, for the gateway and for nftables alike.

use std::fmt::Write;
use std::net::Ipv4Addr;

use bulkhead_dataplane::policy::{Action, Rule, RuleSet, Segment, Service};
use bulkhead_dataplane::verdict::{PortId, SegmentId};
use ipnet::Ipv4Net;

use super::site::{DESTINATION_PORT, SINK_NETWORK, SOURCE_NETWORK};

/// How many rules there are.
pub const RULES: u32 = 1000;
/// Segments beside the source's and the sink's.
const SEGMENTS: u32 = 62;

/// The network of a segment: 0 is the source's, 1 the sink's.
fn network(segment: u32) -> Ipv4Net {
    match segment {
        0 => SOURCE_NETWORK,
        1 => SINK_NETWORK,
        n => Ipv4Net::new_assert(Ipv4Addr::new(10, 100, n as u8, 0), 24),
    }
}

/// From which segment, to which, which TCP port: one rule for each number, none of them about the bench's traffic.
fn other(number: u32) -> (u32, u32, u16) {
    let (from, to) = (2 + number % SEGMENTS, 2 + number * 7 / SEGMENTS % SEGMENTS);
    (from, to, 1000 + (number * 13 % 5000) as u16)
}

/// For the gateway. The rule that lets the traffic through is the last.
pub fn rule_set() -> RuleSet {
    let segment = |number| Segment {
        ports: vec![PortId((number % 2) as u8)],
        networks: vec![network(number).into()],
        ..Segment::default()
    };
    let rule = |(from, to, service)| Rule {
        from: vec![SegmentId(from)],
        to: vec![SegmentId(to)],
        services: vec![service],
        action: Action::Allow,
        ..Rule::default()
    };
    let others = (1..RULES).map(other).map(|(from, to, port)| (from, to, Service::Tcp(port, port)));
    let traffic = (0, 1, Service::Udp(DESTINATION_PORT, DESTINATION_PORT));
    RuleSet {
        segments: (0..2 + SEGMENTS).map(segment).collect(),
        rules: others.chain([traffic]).map(rule).collect(),
        ..RuleSet::default()
    }
}

/// The same for nftables, as it is usually written: what is established first, then rule after rule.
pub fn nftables() -> String {
    let mut text = String::from(
        "table inet bulkhead_bench {\n chain forward {\n  type filter hook forward priority filter; policy drop;\n  \
         ct state established,related accept\n",
    );
    let mut rule = |from, to, service: String| {
        let (from, to) = (network(from), network(to));
        let _ = writeln!(text, "  ct state new ip saddr {from} ip daddr {to} {service} accept");
    };
    for (from, to, port) in (1..RULES).map(other) {
        rule(from, to, format!("tcp dport {port}"));
    }
    rule(0, 1, format!("udp dport {DESTINATION_PORT}"));
    text.push_str(" }\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_dataplane::policy::compile;

    #[test]
    fn both_rule_sets_have_a_thousand_rules_that_compile() {
        assert_eq!(compile(&rule_set()).unwrap().rule_count(), RULES as usize);
        assert_eq!(nftables().matches(" dport ").count(), RULES as usize);
    }
}
