//! Addresses that are locked out or in quarantine: what their packets meet, of connections that are there as well.

use bulkhead_dataplane::event::EventKind;
use bulkhead_dataplane::policy::{Restraint, Service};
use bulkhead_dataplane::verdict::Reason;

use crate::gateway::{CLIENT, CLIENTS, Gateway, SERVER, SERVERS, allow, tcp, tcp_flags, udp};

#[test]
fn live_connections_of_a_restrained_address_are_cut_at_the_next_packet_of_either_end() {
    for (restraint, reason) in
        [(Restraint::Locked, Reason::Locked), (Restraint::Quarantined, Reason::Quarantined)]
    {
        for restrained in [CLIENT, SERVER] {
            for from in [CLIENT, SERVER] {
                let mut gateway = Gateway::new(&[allow(Service::Any)]);
                gateway.handshake(1000, 443);
                gateway.publish_restraints(&[(restrained.address, restraint)]);
                let packet = match from.address == CLIENT.address {
                    true => tcp(CLIENT, SERVER, 1000, 443, tcp_flags::ACK, 101, 501),
                    false => tcp(SERVER, CLIENT, 443, 1000, tcp_flags::ACK, 501, 101),
                };
                let ingress = if from.address == CLIENT.address { CLIENTS } else { SERVERS };
                assert_eq!(gateway.send(ingress, &packet), Err(reason));
                let cuts = gateway.events().into_iter().filter(|event| event.kind == EventKind::Cut(reason));
                assert_eq!(cuts.count(), 1);
                let syn = tcp(CLIENT, SERVER, 1001, 443, tcp_flags::SYN, 100, 0);
                assert_eq!(gateway.send(CLIENTS, &syn), Err(reason));
                gateway.assert_ledger(&[(reason, 2)]);
            }
        }
    }
}

#[test]
fn connections_of_others_go_on_and_what_was_cut_can_be_had_again_when_it_is_over() {
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    gateway.handshake(1000, 443);
    gateway.publish_restraints(&[("10.1.0.77", Restraint::Locked)]);
    let data = tcp(CLIENT, SERVER, 1000, 443, tcp_flags::ACK, 101, 501);
    assert!(gateway.send(CLIENTS, &data).is_ok());
    gateway.publish_restraints(&[(CLIENT.address, Restraint::Locked)]);
    assert_eq!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1000, 53)), Err(Reason::Locked));
    gateway.publish_restraints(&[]);
    assert!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1000, 53)).is_ok());
    gateway.assert_ledger(&[(Reason::Locked, 1)]);
}
