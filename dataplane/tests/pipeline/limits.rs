//! Limits of rules at exact times, and over policies: the counters follow the rules and their connections.

use bulkhead_dataplane::connection::RuleLimits;
use bulkhead_dataplane::event::EventKind;
use bulkhead_dataplane::policy::Service;
use bulkhead_dataplane::verdict::Reason;

use crate::gateway::{CLIENT, CLIENTS, Gateway, SERVER, SERVERS, Station, allow, tcp, tcp_flags, udp, udp6};
use crate::{SECOND, gateway};

const NEIGHBOUR: Station = Station { address: "10.1.0.10", ..CLIENT };

/// Limits of the rule that is known as this number, whatever its number in a policy.
fn limits(identity: u64) -> RuleLimits {
    RuleLimits { identity, ..RuleLimits::default() }
}

/// How many of so many datagrams to port 53, each of another source port, cross; the others are refused for `reason`.
fn crossed(gateway: &mut Gateway, from: Station, ports: std::ops::Range<u16>, reason: Reason) -> usize {
    let results: Vec<_> =
        ports.map(|port| gateway.send(CLIENTS, &udp(from, SERVER, port, 53)).err()).collect();
    assert!(results.iter().flatten().all(|refused| *refused == reason), "{results:?}");
    results.iter().filter(|refused| refused.is_none()).count()
}

#[test]
fn d1_connections_of_a_rule_are_counted_exactly_from_opening_to_whatever_end() {
    let rules = [allow(Service::Any)];
    let limited = [(0, RuleLimits { connections: Some(4), ..limits(1) })];
    let mut gateway = Gateway::with_limits(&rules, &limited);
    assert_eq!(crossed(&mut gateway, CLIENT, 1000..1010, Reason::RuleConnectionLimit), 4);
    assert_eq!(crossed(&mut gateway, NEIGHBOUR, 1000..1010, Reason::RuleConnectionLimit), 0);
    // One runs out of time, but for the others that were just used.
    gateway.advance(100 * SECOND);
    for port in 1000..1003 {
        assert!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, port, 53)).is_ok());
    }
    for _ in 0..30 {
        gateway.advance(SECOND);
    }
    gateway.handshake(2000, 443);
    assert_eq!(crossed(&mut gateway, CLIENT, 3000..3010, Reason::RuleConnectionLimit), 0);
    // A reset connection is remembered for a while to name what comes late, and counts as long as it is; the next
    // one may have its place.
    let reset = tcp(CLIENT, SERVER, 2000, 443, tcp_flags::RST, 101, 501);
    assert!(gateway.send(CLIENTS, &reset).is_ok());
    for _ in 0..13 {
        gateway.advance(SECOND);
    }
    assert_eq!(crossed(&mut gateway, CLIENT, 3000..3010, Reason::RuleConnectionLimit), 1);
    // What the policy cuts is given back as well.
    gateway.publish(&[]);
    assert_eq!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1000, 53)), Err(Reason::PolicyRevoked));
    gateway.publish_limits(&rules, &limited);
    assert_eq!(crossed(&mut gateway, CLIENT, 4000..4010, Reason::RuleConnectionLimit), 1);
    assert_eq!(gateway.connections_of(0), Some(4));
}

#[test]
fn d1_limits_of_a_source_are_its_own_and_a_refusal_is_an_event_with_its_rule() {
    let rules = [allow(Service::Any)];
    let wanted = RuleLimits { connections_per_source: Some(3), ..limits(1) };
    let mut gateway = Gateway::with_limits(&rules, &[(0, wanted)]);
    assert_eq!(crossed(&mut gateway, CLIENT, 1000..1010, Reason::SourceConnectionLimit), 3);
    assert_eq!(crossed(&mut gateway, NEIGHBOUR, 1000..1010, Reason::SourceConnectionLimit), 3);
    for (source, port) in [("fd00:1::9", 1000), ("fd00:1::9", 1001), ("fd00:1::a", 1000)] {
        assert!(gateway.send(CLIENTS, &udp6(source, "fd00:2::9", port, 53)).is_ok());
    }
    // Another address of the same /64 is the same source.
    let more = udp6("fd00:1::b", "fd00:2::9", 1000, 53);
    assert_eq!(gateway.send(CLIENTS, &more), Err(Reason::SourceConnectionLimit));
    let events = gateway.events();
    let denied = events.iter().filter(|e| e.kind == EventKind::Denied(Reason::SourceConnectionLimit));
    assert_eq!(denied.filter(|e| e.rule.0 == 0).count(), 15);
    gateway.assert_ledger(&[(Reason::SourceConnectionLimit, 15)]);
}

#[test]
fn d1_rates_are_token_buckets_of_one_second_and_established_connections_pay_nothing() {
    let rules = [allow(Service::Any)];
    let wanted = RuleLimits { new_per_second: Some(20), new_per_second_per_source: Some(5), ..limits(1) };
    let mut gateway = Gateway::with_limits(&rules, &[(0, wanted)]);
    assert_eq!(crossed(&mut gateway, CLIENT, 1000..1020, Reason::SourceRateLimit), 5);
    for port in (1000..1005).cycle().take(50) {
        assert!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, port, 53)).is_ok());
        assert!(gateway.send(SERVERS, &udp(SERVER, CLIENT, 53, port)).is_ok());
    }
    gateway.advance(SECOND / 5);
    assert_eq!(crossed(&mut gateway, CLIENT, 2000..2020, Reason::SourceRateLimit), 1);
    for host in 20..23 {
        let host = Station { address: format!("10.1.0.{host}").leak(), ..CLIENT };
        assert_eq!(crossed(&mut gateway, host, 2000..2020, Reason::SourceRateLimit), 5);
    }
    // 20 at once, and 4 in the fifth of a second: 21 are gone.
    assert_eq!(crossed(&mut gateway, NEIGHBOUR, 3000..3020, Reason::RuleRateLimit), 3);
    gateway.advance(SECOND);
    assert_eq!(crossed(&mut gateway, NEIGHBOUR, 4000..4020, Reason::SourceRateLimit), 5);
}

#[test]
fn d1_a_limit_follows_its_rule_and_a_connection_judged_by_another_rule_moves_over() {
    let (dns, any) = (allow(Service::Udp(53, 53)), allow(Service::Udp(1, 9999)));
    let a = RuleLimits { connections: Some(2), ..limits(1) };
    let b = RuleLimits { connections: Some(3), ..limits(2) };
    let mut gateway = Gateway::with_limits(std::slice::from_ref(&dns), &[(0, a)]);
    assert_eq!(crossed(&mut gateway, CLIENT, 1000..1010, Reason::RuleConnectionLimit), 2);
    // The same rule under another number: its connections are still there, before any of them has said a word.
    gateway.publish_limits(&[rule_to_nowhere(), dns.clone()], &[(1, a)]);
    assert_eq!(gateway.connections_of(1), Some(2));
    assert_eq!(crossed(&mut gateway, CLIENT, 2000..2010, Reason::RuleConnectionLimit), 0);
    // Another rule lets them through now, and has what has been judged by it.
    gateway.publish_limits(&[any.clone(), dns.clone()], &[(0, b), (1, a)]);
    assert_eq!((gateway.connections_of(0), gateway.connections_of(1)), (Some(0), Some(2)));
    assert!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1000, 53)).is_ok());
    assert_eq!((gateway.connections_of(0), gateway.connections_of(1)), (Some(1), Some(1)));
    assert!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1001, 53)).is_ok());
    assert_eq!((gateway.connections_of(0), gateway.connections_of(1)), (Some(2), Some(0)));
    assert_eq!(crossed(&mut gateway, CLIENT, 3000..3010, Reason::RuleConnectionLimit), 1);
    // A limit below what there is ends nothing, and lets nothing more in.
    let less = RuleLimits { connections: Some(1), ..limits(2) };
    gateway.publish_limits(std::slice::from_ref(&any), &[(0, less)]);
    for port in [1000, 1001, 3000] {
        assert!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, port, 53)).is_ok());
    }
    assert_eq!(crossed(&mut gateway, CLIENT, 4000..4010, Reason::RuleConnectionLimit), 0);
    // A rule that loses its limits counts no more, and one that gets some counts what speaks.
    gateway.publish_limits(std::slice::from_ref(&any), &[]);
    assert!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1000, 53)).is_ok());
    gateway.publish_limits(&[any], &[(0, b)]);
    assert_eq!(gateway.connections_of(0), Some(2));
    assert!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1000, 53)).is_ok());
    assert_eq!(gateway.connections_of(0), Some(3));
}

#[test]
fn d6_denials_that_nobody_reads_fill_the_queue_once_and_the_rest_is_counted_as_lost() {
    let mut gateway = Gateway::new(&[allow(Service::Tcp(443, 443))]);
    gateway.handshake(1000, 443);
    let opened = gateway.events().len();
    assert_eq!(opened, 1);
    for number in 0..10_000u32 {
        let denied = udp(CLIENT, SERVER, 1024 + (number % 50_000) as u16, 53);
        assert_eq!(gateway.send(CLIENTS, &denied), Err(Reason::NoRule));
        if number.is_multiple_of(100) {
            let data = tcp(CLIENT, SERVER, 1000, 443, tcp_flags::ACK, 101, 501);
            assert!(gateway.send(CLIENTS, &data).is_ok());
        }
    }
    let (kept, lost) = gateway.take_events();
    assert_eq!((kept, lost), (gateway::EVENTS, 10_000 - gateway::EVENTS as u64));
    gateway.assert_ledger(&[(Reason::NoRule, 10_000)]);
}

/// A rule that matches nothing that these tests send.
fn rule_to_nowhere() -> bulkhead_dataplane::policy::Rule {
    allow(Service::Tcp(9, 9))
}
