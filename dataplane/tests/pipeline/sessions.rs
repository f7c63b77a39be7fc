//! Who is behind an address: what their packets meet when they sign in and out, when time passes, and when somebody else
//! takes the address.

use bulkhead_dataplane::event::{Event, EventKind};
use bulkhead_dataplane::identity::{Occupant, Stage};
use bulkhead_dataplane::policy::conditions::{
    Bits, Condition, ConditionId, GroupId, Identity, UserId, Users,
};
use bulkhead_dataplane::policy::{Rule, Service};
use bulkhead_dataplane::topology::Mac;
use bulkhead_dataplane::verdict::{Now, Reason, RuleId};

use crate::gateway::{CLIENT, CLIENTS, Gateway, SERVER, SERVERS, allow, tcp, tcp_flags, udp};

const SECOND: u64 = 1_000_000_000;

/// The group may do everything; whoever has shown a second factor within a minute may use SSH.
fn rules() -> [Rule; 3] {
    let asking = |service, condition| Rule { condition: Some(ConditionId(condition)), ..allow(service) };
    [asking(Service::Tcp(443, 443), 0), asking(Service::Tcp(22, 22), 1), allow(Service::Udp(53, 53))]
}

fn conditions() -> [Condition; 2] {
    let users = Some(Users { users: vec![], groups: vec![GroupId(0)] });
    let staff = Condition { users, ..Condition::default() };
    [staff.clone(), Condition { mfa_max_age_s: Some(60), ..staff }]
}

fn staff() -> Identity {
    Identity { user: Some(UserId::OTHER), groups: Bits::from_iter([0]), ..Identity::default() }
}

fn gateway() -> Gateway {
    let mut gateway = Gateway::new(&[]);
    gateway.publish_conditions(&rules(), &conditions(), &[]);
    gateway
}

/// Signs somebody in at the client's address, from now on, for so many seconds each.
fn sign_in(gateway: &Gateway, mac: Option<Mac>, stages: &[(u64, Identity)]) {
    let stage = |(seconds, identity): &(u64, Identity)| Stage {
        until: Now(gateway.now().0 + seconds * SECOND),
        identity: identity.clone(),
    };
    let address = CLIENT.address.parse().unwrap();
    gateway.sessions.set(Occupant { address, mac, stages: stages.iter().map(stage).collect() }).unwrap();
}

fn sign_out(gateway: &Gateway) {
    assert!(gateway.sessions.end(CLIENT.address.parse().unwrap()));
}

fn syn(source: u16, destination: u16) -> Vec<u8> {
    tcp(CLIENT, SERVER, source, destination, tcp_flags::SYN, 100, 0)
}

fn data(source: u16, destination: u16) -> Vec<u8> {
    tcp(CLIENT, SERVER, source, destination, tcp_flags::ACK, 101, 501)
}

fn answer(source: u16, destination: u16) -> Vec<u8> {
    tcp(SERVER, CLIENT, destination, source, tcp_flags::ACK, 501, 101)
}

/// The frame, sent by another device in the client's place.
fn stolen(mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&[2, 0, 0, 1, 0, 13]);
    frame
}

fn cuts(gateway: &Gateway) -> Vec<Reason> {
    let cut = |event: Event| match event.kind {
        EventKind::Cut(reason) => Some(reason),
        _ => None,
    };
    gateway.events().into_iter().filter_map(cut).collect()
}

#[test]
fn a_policy_for_which_no_room_for_sessions_was_made_hangs_no_packet() {
    let mut gateway = Gateway::new(&[]);
    let unbound = gateway.asking(&rules(), &conditions(), &[]);
    gateway.publish_policy(unbound);
    sign_in(&gateway, None, &[(600, staff())]);
    gateway.handshake(4000, 443);
    gateway.send(CLIENTS, &data(4000, 443)).unwrap();
    sign_out(&gateway);
    assert_eq!(gateway.send(SERVERS, &answer(4000, 443)), Err(Reason::IdentityRevoked));
}

#[test]
fn n2_who_signs_in_may_do_what_the_rules_say_and_no_more() {
    let mut gateway = gateway();
    assert_eq!(gateway.send(CLIENTS, &syn(1000, 443)), Err(Reason::NotAuthenticated));
    sign_in(&gateway, None, &[(100, staff())]);
    gateway.handshake(1000, 443);
    assert_eq!(gateway.send(CLIENTS, &syn(1001, 22)), Err(Reason::MfaMissing));
    assert_eq!(gateway.send(CLIENTS, &syn(1002, 80)), Err(Reason::NoRule));
    sign_in(&gateway, None, &[(100, Identity { groups: Bits::default(), ..staff() })]);
    assert_eq!(gateway.send(CLIENTS, &syn(1003, 443)), Err(Reason::NotInGroup));
}

#[test]
fn n6_the_first_packet_after_a_revocation_in_either_direction_cuts_and_no_other_connection_is() {
    for from_client in [true, false] {
        let mut gateway = gateway();
        sign_in(&gateway, None, &[(100, staff())]);
        gateway.handshake(1000, 443);
        let query = udp(CLIENT, SERVER, 1000, 53);
        assert!(gateway.send(CLIENTS, &query).is_ok());
        sign_out(&gateway);
        let (port, frame) =
            if from_client { (CLIENTS, data(1000, 443)) } else { (SERVERS, answer(1000, 443)) };
        assert_eq!(gateway.send(port, &frame), Err(Reason::IdentityRevoked));
        assert_eq!(cuts(&gateway), [Reason::IdentityRevoked]);
        // It is gone for the other direction too, and does not come back.
        assert_eq!(gateway.send(SERVERS, &answer(1000, 443)), Err(Reason::NoConnection));
        assert_eq!(gateway.send(CLIENTS, &syn(1001, 443)), Err(Reason::SessionExpired));
        assert!(gateway.send(CLIENTS, &query).is_ok(), "nobody was asked for this one");
    }
}

#[test]
fn a_heartbeat_disturbs_nothing() {
    let mut gateway = gateway();
    sign_in(&gateway, Some(CLIENT.mac), &[(100, staff())]);
    gateway.handshake(1000, 443);
    for _ in 0..3 {
        sign_in(&gateway, Some(CLIENT.mac), &[(100, staff())]);
        assert!(gateway.send(SERVERS, &answer(1000, 443)).is_ok());
        assert!(gateway.send(CLIENTS, &data(1000, 443)).is_ok());
        gateway.advance(90 * SECOND);
    }
    assert_eq!(cuts(&gateway), []);
    assert_eq!(gateway.rule_hits(0).packets, 3 + 2 * 3);
}

#[test]
fn who_has_changed_groups_keeps_what_the_new_ones_may() {
    let mut gateway = gateway();
    let strong = Identity { mfa_age_s: Some(0), ..staff() };
    sign_in(&gateway, None, &[(100, strong.clone())]);
    gateway.handshake(1000, 443);
    gateway.handshake(1001, 22);
    // The second factor is taken back.
    sign_in(&gateway, None, &[(100, staff())]);
    assert!(gateway.send(CLIENTS, &data(1000, 443)).is_ok());
    assert_eq!(gateway.send(CLIENTS, &data(1001, 22)), Err(Reason::IdentityRevoked));
    // Another user, of none of the groups.
    sign_in(&gateway, None, &[(100, Identity { groups: Bits::default(), ..strong })]);
    assert_eq!(gateway.send(SERVERS, &answer(1000, 443)), Err(Reason::IdentityRevoked));
    assert_eq!(cuts(&gateway), [Reason::IdentityRevoked; 2]);
}

#[test]
fn time_alone_cuts_what_its_passing_forbids_and_nothing_else() {
    let mut gateway = gateway();
    let aged = |age| Identity { mfa_age_s: Some(age), ..staff() };
    sign_in(&gateway, None, &[(60, aged(0)), (600, aged(61))]);
    gateway.handshake(1000, 443);
    gateway.handshake(1001, 22);
    gateway.advance(59 * SECOND);
    assert!(gateway.send(CLIENTS, &data(1001, 22)).is_ok());
    gateway.advance(SECOND);
    assert_eq!(gateway.send(SERVERS, &answer(1001, 22)), Err(Reason::Expired));
    assert_eq!(gateway.send(CLIENTS, &syn(1002, 22)), Err(Reason::MfaTooOld));
    assert!(gateway.send(SERVERS, &answer(1000, 443)).is_ok());
    assert!(gateway.send(CLIENTS, &data(1000, 443)).is_ok());
    // The session ends, and nobody had to say so.
    gateway.advance(541 * SECOND);
    assert_eq!(gateway.send(CLIENTS, &data(1000, 443)), Err(Reason::Expired));
    assert_eq!(gateway.send(CLIENTS, &syn(1003, 443)), Err(Reason::SessionExpired));
    assert_eq!(cuts(&gateway), [Reason::Expired; 2]);
}

#[test]
fn n3_whoever_takes_the_address_gets_nothing_and_cuts_nothing() {
    let mut gateway = gateway();
    sign_in(&gateway, Some(CLIENT.mac), &[(100, staff())]);
    gateway.handshake(1000, 443);
    assert_eq!(gateway.send(CLIENTS, &stolen(data(1000, 443))), Err(Reason::AddressTaken));
    assert_eq!(gateway.send(CLIENTS, &stolen(syn(1001, 443))), Err(Reason::NotAuthenticated));
    // Nor when the connection is just about to be judged again.
    sign_in(&gateway, Some(CLIENT.mac), &[(100, staff())]);
    assert_eq!(gateway.send(CLIENTS, &stolen(data(1000, 443))), Err(Reason::AddressTaken));
    assert!(gateway.send(CLIENTS, &data(1000, 443)).is_ok());
    assert!(gateway.send(SERVERS, &answer(1000, 443)).is_ok());
    // What is open to everybody is open to the thief.
    assert!(gateway.send(CLIENTS, &stolen(udp(CLIENT, SERVER, 1000, 53))).is_ok());
    assert_eq!(cuts(&gateway), []);
    gateway.assert_ledger(&[(Reason::AddressTaken, 2), (Reason::NotAuthenticated, 1)]);
}

#[test]
fn n3_whoever_had_taken_the_address_was_sent_what_was_for_its_session() {
    let mut gateway = gateway();
    sign_in(&gateway, Some(CLIENT.mac), &[(100, staff())]);
    gateway.handshake(1000, 443);
    assert!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1000, 53)).is_ok());
    let answers_to = |gateway: &mut Gateway, mac| {
        gateway.change_topology(|spec| {
            for neighbour in &mut spec.neighbours {
                if neighbour.address == CLIENT.address.parse::<std::net::IpAddr>().unwrap() {
                    neighbour.mac = mac;
                }
            }
        });
    };
    // The kernel believes whoever answers (RFC 826, RFC 4861).
    answers_to(&mut gateway, [2, 0, 0, 0, 0, 99]);
    for _ in 0..2 {
        assert_eq!(gateway.send(SERVERS, &answer(1000, 443)), Err(Reason::AddressTaken));
    }
    assert!(gateway.send(CLIENTS, &data(1000, 443)).is_ok(), "the originator is who it was");
    assert!(gateway.send(SERVERS, &udp(SERVER, CLIENT, 53, 1000)).is_ok(), "for whoever is there");
    answers_to(&mut gateway, CLIENT.mac);
    assert!(gateway.send(SERVERS, &answer(1000, 443)).is_ok(), "that has cut nothing");
    assert_eq!(cuts(&gateway), []);
    gateway.assert_ledger(&[(Reason::AddressTaken, 2)]);
}

#[test]
fn a_session_of_one_family_opens_nothing_for_the_other() {
    let gateway = gateway();
    sign_in(&gateway, None, &[(100, staff())]);
    let who = |address: &str| {
        gateway.sessions.judge(address.parse().unwrap(), None, gateway.now(), |who| {
            matches!(who, bulkhead_dataplane::policy::Who::Known(_))
        })
    };
    assert!(who("10.1.0.9").answer);
    assert!(!who("fd00:1::9").answer && !who("::ffff:10.1.0.9").answer);
}

#[test]
fn a_policy_with_other_sessions_is_in_force_at_once() {
    let mut gateway = gateway();
    sign_in(&gateway, None, &[(100, staff())]);
    gateway.handshake(1000, 443);
    gateway.publish_conditions(&rules(), &conditions(), &[]);
    assert!(gateway.send(CLIENTS, &data(1000, 443)).is_ok(), "the same ones");
    gateway.sessions = std::sync::Arc::default();
    gateway.publish_conditions(&rules(), &conditions(), &[]);
    assert_eq!(gateway.send(CLIENTS, &data(1000, 443)), Err(Reason::PolicyRevoked));
    assert_eq!(gateway.rule_hits(0).packets, 0);
    let denied = gateway.events().into_iter().filter(|event| event.rule == RuleId(0));
    assert!(denied.count() > 0);
}
