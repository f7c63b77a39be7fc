//! Rule sets as configurations, for the benches that begin with a file.

use std::fmt::Write;

use bulkhead::config;
use bulkhead_benches::{PORTS, queries};
use bulkhead_dataplane::headers::protocol;
use bulkhead_dataplane::policy::{Action, Decision, RuleSet, Service, compile};

/// The rule set as somebody would have written it: common services by name, an owner, a ticket and a line of
/// explanation for each rule, in no order, and a test for every hundred rules.
pub fn toml(rules: &RuleSet) -> String {
    let mut text = String::from("version = 1\n\n[gateway]\nlocal = [\"tcp/22\", \"icmp/echo-request\"]\n");
    let out = &mut text;
    let write = "writing to a string cannot fail";
    for port in 0..PORTS {
        writeln!(out, "\n[ports.port{port}]\ninterface = \"eth{port}\"").expect(write);
    }
    for (name, service) in NAMED {
        writeln!(out, "\n[services.{name}]\nports = [{:?}]", literal(service)).expect(write);
    }
    for (id, segment) in rules.segments.iter().enumerate() {
        let networks: Vec<String> = segment.networks.iter().map(ToString::to_string).collect();
        let port = segment.ports[0].0;
        writeln!(out, "\n[segments.{}]\nport = \"port{port}\"\nnetworks = {networks:?}", name_of(id))
            .expect(write);
    }
    for (id, rule) in rules.rules.iter().enumerate() {
        let names = |list: &[_]| match list {
            [one] => format!("{:?}", name_of(index(one))),
            several => format!("{:?}", several.iter().map(|s| name_of(index(s))).collect::<Vec<_>>()),
        };
        let services: Vec<String> = rule.services.iter().map(|s| service_name(*s)).collect();
        // Files are not sorted by the names of their rules, and what is sorted already is quicker to sort.
        let team = id * 7919 % 41;
        writeln!(out, "\n[[rule]]\nname = \"team{team}-{id:06}\"").expect(write);
        writeln!(out, "from = {}\nto = {}\nservices = {services:?}", names(&rule.from), names(&rule.to))
            .expect(write);
        match rule.action {
            Action::Allow => {}
            Action::Reject => out.push_str("action = \"reject\"\n"),
            Action::Pass => out.push_str("action = \"pass\"\n"),
            Action::Deny => out.push_str("action = \"deny\"\n"),
        }
        writeln!(out, "owner = \"team-{team}\"\nticket = \"NET-{}\"", 10_000 + id).expect(write);
        writeln!(out, "description = \"What the machines of team {team} need for their work\"").expect(write);
    }
    tests(rules, out);
    text
}

/// A test for every hundred rules, between addresses and between segments in turn.
fn tests(rules: &RuleSet, out: &mut String) {
    let policy = compile(rules).expect("the generated rule set compiles");
    let port = |query: &bulkhead_dataplane::policy::Query| match query.protocol {
        protocol::TCP => Some(format!("tcp/{}", query.destination_port.max(1))),
        protocol::UDP => Some(format!("udp/{}", query.destination_port.max(1))),
        _ => None,
    };
    let queries = queries(rules, rules.rules.len() / 100);
    for (number, (query, port)) in queries.iter().filter_map(|q| Some((q, port(q)?))).enumerate() {
        let end = |address| match policy.destination_segment(address) {
            Some(segment) if number % 2 == 0 => name_of(segment.0 as usize),
            _ => address.to_string(),
        };
        let Decision { refusal, .. } = policy.judge(query);
        let verdict = match refusal.map(|reason| reason.name()) {
            None => "allow",
            Some("rule_rejected") => "reject",
            Some(_) => "deny",
        };
        let (from, to) = (end(query.source), end(query.destination));
        writeln!(
            out,
            "\n[[test]]\nname = \"test {number}\"\nfrom = \"{from}\"\nto = \"{to}\"\nport = \"{port}\""
        )
        .expect("writing to a string cannot fail");
        writeln!(out, "expect = \"{verdict}\"").expect("writing to a string cannot fail");
    }
}

fn index(segment: &bulkhead_dataplane::verdict::SegmentId) -> usize {
    segment.0 as usize
}

fn name_of(segment: usize) -> String {
    format!("segment-{segment:04}")
}

const NAMED: [(&str, Service); 16] = [
    ("ssh", Service::Tcp(22, 22)),
    ("smtp", Service::Tcp(25, 25)),
    ("http", Service::Tcp(80, 80)),
    ("ldap", Service::Tcp(389, 389)),
    ("https", Service::Tcp(443, 443)),
    ("smb", Service::Tcp(445, 445)),
    ("ldaps", Service::Tcp(636, 636)),
    ("mysql", Service::Tcp(3306, 3306)),
    ("postgres", Service::Tcp(5432, 5432)),
    ("redis", Service::Tcp(6379, 6379)),
    ("http-alt", Service::Tcp(8080, 8080)),
    ("elasticsearch", Service::Tcp(9200, 9200)),
    ("dns", Service::Udp(53, 53)),
    ("ntp", Service::Udp(123, 123)),
    ("snmp", Service::Udp(161, 161)),
    ("syslog", Service::Udp(514, 514)),
];

fn service_name(service: Service) -> String {
    match NAMED.iter().find(|(_, named)| *named == service) {
        Some((name, _)) => (*name).to_owned(),
        None => literal(service),
    }
}

fn literal(service: Service) -> String {
    config::values::service_text(service)
}
