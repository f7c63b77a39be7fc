//! Policies beside the running one change nothing, and are asked exactly where it is asked.

use std::sync::Arc;

use bulkhead_dataplane::beside::{Beside, Kind};
use bulkhead_dataplane::event::EventKind;
use bulkhead_dataplane::policy::{Action, Policy, Rule, Service, compile};
use bulkhead_dataplane::verdict::{Now, RuleId};

use super::gateway::{
    CLIENT, CLIENTS, Gateway, SERVER, SERVERS, Station, allow, echo, rule, rule_set, tcp, tcp_flags, udp,
};

fn policy(rules: &[Rule]) -> Arc<Policy> {
    Arc::new(compile(&rule_set(rules)).unwrap())
}

fn beside(kind: Kind, rules: &[Rule], namesakes: &[RuleId]) -> Arc<Beside> {
    let beside = Beside::new(kind, policy(rules), Some(namesakes.into()), 1);
    beside.begin(Now(0));
    Arc::new(beside)
}

/// The running policy: web and DNS, telnet rejected.
fn running() -> [Rule; 3] {
    [allow(Service::Tcp(443, 443)), allow(Service::Udp(53, 53)), rule(Action::Reject, Service::Tcp(23, 23))]
}

/// Everything that can be asked: by whom, and the frame.
fn traffic() -> Vec<(Station, Vec<u8>)> {
    let (syn, ack) = (tcp_flags::SYN, tcp_flags::ACK);
    let stranger = Station { address: "192.0.2.7", ..CLIENT };
    vec![
        (CLIENTS, tcp(CLIENT, SERVER, 4000, 443, syn, 100, 0)),
        (SERVERS, tcp(SERVER, CLIENT, 443, 4000, syn | ack, 500, 101)),
        (CLIENTS, tcp(CLIENT, SERVER, 4000, 443, ack, 101, 501)),
        (CLIENTS, udp(CLIENT, SERVER, 4001, 53)),
        (SERVERS, udp(SERVER, CLIENT, 53, 4001)),
        (CLIENTS, udp(CLIENT, SERVER, 4002, 54)),
        (CLIENTS, tcp(CLIENT, SERVER, 4003, 23, syn, 1, 0)),
        (CLIENTS, tcp(CLIENT, SERVER, 4004, 22, syn, 1, 0)),
        (CLIENTS, tcp(CLIENT, SERVER, 4005, 443, ack, 1, 1)),
        (CLIENTS, echo(CLIENT, SERVER, true, 7)),
        (CLIENTS, udp(stranger, SERVER, 4006, 53)),
        (SERVERS, udp(SERVER, CLIENT, 4007, 53)),
        (CLIENTS, tcp(CLIENT, SERVER, 4000, 443, ack, 101, 501)),
    ]
}

#[test]
fn a_policy_beside_that_allows_or_denies_all_changes_no_verdict_no_frame_and_no_counter() {
    let all = [allow(Service::Any)];
    let none = [rule(Action::Deny, Service::Any)];
    for (kind, rules) in
        [(Kind::Shadow, &all), (Kind::Shadow, &none), (Kind::Audit, &all), (Kind::Audit, &none)]
    {
        let mut alone = Gateway::new(&running());
        let mut watched = Gateway::new(&running());
        let asked = beside(kind, rules, &[RuleId::NONE]);
        watched.publish_beside(vec![asked.clone()]);
        // Once more under another policy, by which every connection is judged again.
        for round in 0..2 {
            if round == 1 {
                let fewer = [allow(Service::Tcp(443, 443))];
                alone.publish(&fewer);
                watched.publish(&fewer);
            }
            for (port, frame) in traffic() {
                let told = [&mut alone, &mut watched].map(|gateway| {
                    let dropped = gateway.put(port, &frame);
                    (dropped, gateway.sent_by(CLIENTS), gateway.sent_by(SERVERS))
                });
                assert_eq!(told[0], told[1], "{kind:?}");
            }
        }
        assert_eq!(alone.ledger(), watched.ledger());
        assert_eq!(alone.rule_hits(0), watched.rule_hits(0));
        assert_eq!(format!("{:?}", alone.connections()), format!("{:?}", watched.connections()));
        let happened = |gateway: &Gateway| -> Vec<_> {
            gateway.events().into_iter().filter(|event| !matches!(event.kind, EventKind::Beside(_))).collect()
        };
        assert_eq!(happened(&alone), happened(&watched));
        assert!(asked.asked() > 0 && !asked.counted().is_empty());
    }
}

#[test]
fn a_policy_beside_is_asked_once_a_connection_and_not_about_its_later_packets() {
    let mut gateway = Gateway::new(&running());
    // The same rules in another order, and one less.
    let rules = [allow(Service::Udp(53, 53)), allow(Service::Tcp(443, 443))];
    let shadow = beside(Kind::Shadow, &rules, &[RuleId(1), RuleId(0)]);
    gateway.publish_beside(vec![shadow.clone()]);
    gateway.handshake(4000, 443);
    for _ in 0..50 {
        gateway.send(CLIENTS, &tcp(CLIENT, SERVER, 4000, 443, tcp_flags::ACK, 101, 501)).unwrap();
    }
    assert_eq!((shadow.asked(), shadow.counted().len()), (1, 0));
    gateway.put(CLIENTS, &tcp(CLIENT, SERVER, 4003, 23, tcp_flags::SYN, 1, 0));
    let counted = shadow.counted();
    assert_eq!((shadow.asked(), counted.len(), counted[0].count), (2, 1, 1));
    // A new running policy has everything judged again, and the shadow asked.
    gateway.publish(&running());
    gateway.send(CLIENTS, &tcp(CLIENT, SERVER, 4000, 443, tcp_flags::ACK, 101, 501)).unwrap();
    assert_eq!(shadow.asked(), 3);
    // None is asked after it was taken away.
    gateway.publish_beside(vec![]);
    gateway.handshake(4001, 443);
    assert_eq!(shadow.asked(), 3);
}
