//! Rules that ask for more than addresses and services: what the packets meet, what is counted and what is told.

use bulkhead_dataplane::event::{Event, EventKind};
use bulkhead_dataplane::policy::conditions::{Condition, ConditionId, GateId, GroupId, Users};
use bulkhead_dataplane::policy::{Action, Rule, Service};
use bulkhead_dataplane::verdict::{Reason, RuleId};

use crate::gateway::{CLIENT, CLIENTS, Gateway, SERVER, SERVERS, allow, rule, tcp, tcp_flags, udp};

fn staff() -> Condition {
    let users = Some(Users { users: vec![], groups: vec![GroupId(0)] });
    Condition { users, ..Condition::default() }
}

fn office_hours() -> Condition {
    Condition { gates: vec![GateId(3)], ..Condition::default() }
}

fn asking(rule: Rule) -> Rule {
    Rule { condition: Some(ConditionId(0)), ..rule }
}

fn denials(gateway: &Gateway) -> Vec<(Reason, RuleId)> {
    let denied = |event: Event| match event.kind {
        EventKind::Denied(reason) => Some((reason, event.rule)),
        _ => None,
    };
    gateway.events().into_iter().filter_map(denied).collect()
}

#[test]
fn an_unmet_demand_drops_silently_as_the_default_deny_and_the_event_names_the_nearest_rule() {
    let mut gateway = Gateway::new(&[]);
    let rules = [allow(Service::Udp(53, 53)), asking(allow(Service::Any))];
    gateway.publish_conditions(&rules, &[staff()], &[]);
    let syn = tcp(CLIENT, SERVER, 1000, 443, tcp_flags::SYN, 100, 0);
    assert_eq!(gateway.send(CLIENTS, &syn), Err(Reason::NotAuthenticated));
    assert_eq!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1000, 99)), Err(Reason::NotAuthenticated));
    assert!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1000, 53)).is_ok());
    assert_eq!(gateway.sent_by(CLIENTS), None, "nobody is told");
    assert_eq!(denials(&gateway), [(Reason::NotAuthenticated, RuleId(1)); 2]);
    let hits = [0, 1, u32::MAX].map(|rule| gateway.rule_hits(rule).packets);
    assert_eq!(hits, [1, 0, 2], "no hit of the nearest rule, but of the default deny");
    gateway.assert_ledger(&[(Reason::NotAuthenticated, 2)]);
}

#[test]
fn a_reject_that_binds_who_is_unknown_tells_and_is_hit() {
    let mut gateway = Gateway::new(&[]);
    gateway.publish_conditions(&[asking(rule(Action::Reject, Service::Any))], &[staff()], &[]);
    assert_eq!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1000, 99)), Err(Reason::RuleRejected));
    assert!(gateway.sent_by(CLIENTS).is_some());
    assert_eq!(gateway.rule_hits(0).packets, 1);
    gateway.assert_ledger(&[(Reason::RuleRejected, 1)]);
}

#[test]
fn a_connection_lives_as_long_as_its_gate_is_open_and_is_cut_as_expired() {
    let mut gateway = Gateway::new(&[]);
    let rules = [asking(allow(Service::Any))];
    gateway.publish_conditions(&rules, &[office_hours()], &[3]);
    gateway.handshake(1000, 443);
    gateway.publish_conditions(&rules, &[office_hours()], &[3, 4]);
    let data = tcp(CLIENT, SERVER, 1000, 443, tcp_flags::ACK, 101, 501);
    assert!(gateway.send(CLIENTS, &data).is_ok());
    gateway.publish_conditions(&rules, &[office_hours()], &[4]);
    let answer = tcp(SERVER, CLIENT, 443, 1000, tcp_flags::ACK, 501, 101);
    assert_eq!(gateway.send(SERVERS, &answer), Err(Reason::Expired));
    let cuts = gateway.events().into_iter().filter(|event| event.kind == EventKind::Cut(Reason::Expired));
    assert_eq!(cuts.count(), 1);
    let syn = tcp(CLIENT, SERVER, 1001, 443, tcp_flags::SYN, 100, 0);
    assert_eq!(gateway.send(CLIENTS, &syn), Err(Reason::OutsideSchedule));
    gateway.assert_ledger(&[(Reason::Expired, 1), (Reason::OutsideSchedule, 1)]);
}

#[test]
fn a_connection_whose_rule_now_asks_who_is_there_is_cut_as_revoked() {
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    gateway.handshake(1000, 443);
    gateway.publish_conditions(&[asking(allow(Service::Any))], &[staff()], &[]);
    let data = tcp(CLIENT, SERVER, 1000, 443, tcp_flags::ACK, 101, 501);
    assert_eq!(gateway.send(CLIENTS, &data), Err(Reason::PolicyRevoked));
    gateway.assert_ledger(&[(Reason::PolicyRevoked, 1)]);
}
