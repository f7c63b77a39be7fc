//! Packets that wait for next hops when there are too many of them.

use bulkhead_dataplane::policy::Service;
use bulkhead_dataplane::verdict::Reason;
use bulkhead_dataplane::worker::{HELD_MAX, HELD_PER_HOP_MAX, HOLD_NS};

use crate::SECOND;
use crate::gateway::{CLIENT, CLIENTS, Gateway, SERVER, SERVERS, Station, allow, id, neighbour, udp, udp6};

const NEIGHBOUR: Station = Station { address: "10.1.0.10", ..CLIENT };

/// A server that is nobody's neighbour yet.
fn server(host: usize) -> Station {
    Station { address: format!("10.2.{}.{}", host / 200, 20 + host % 200).leak(), ..SERVER }
}

/// A gateway to servers 10.2.0.0/16 with a queue that a scan has filled.
fn scanned() -> Gateway {
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    for host in 0..190 {
        assert_eq!(gateway.put(CLIENTS, &udp(CLIENT, server(host), 1000, 53)), None);
    }
    // In the /24 there are no more addresses: the rest are second packets.
    for host in 0..HELD_MAX - 190 {
        assert_eq!(gateway.put(CLIENTS, &udp(CLIENT, server(host), 1001, 53)), None);
    }
    assert_eq!(gateway.ledger().held, HELD_MAX as u64);
    gateway.unresolved();
    gateway
}

#[test]
fn d7_a_scan_that_fills_the_queue_loses_its_own_packets_and_a_newcomer_waits_and_asks() {
    let mut gateway = scanned();
    let wanted = server(195);
    // Something was dropped, and it was not this one.
    let newcomer = udp(NEIGHBOUR, wanted, 2000, 53);
    assert_eq!(gateway.put(CLIENTS, &newcomer), Some(Reason::HoldQueueFull));
    assert_eq!(gateway.unresolved(), [(id(SERVERS), wanted.address.parse().unwrap())]);
    for host in 0..100 {
        assert_eq!(gateway.put(CLIENTS, &udp(CLIENT, server(host), 1002, 53)), Some(Reason::HoldQueueFull));
    }
    gateway.change_topology(|spec| spec.neighbours.push(neighbour(SERVERS, wanted)));
    let out = gateway.sent_by(SERVERS).unwrap();
    assert_eq!(out[34..36], 2000u16.to_be_bytes());
    assert_eq!(gateway.ledger().held, HELD_MAX as u64 - 1);
    assert_eq!(gateway.sent_by(SERVERS), None);
}

#[test]
fn d7_with_a_packet_each_of_many_sources_the_oldest_goes() {
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    // Forged sources of IPv6, each of a /64 of its own, cannot be had behind one port; of IPv4 they can.
    for host in 0..200usize {
        let source = Station { address: format!("10.1.0.{}", 20 + host).leak(), ..CLIENT };
        assert_eq!(gateway.put(CLIENTS, &udp(source, server(host % 190), 1000, 53)), None);
    }
    for host in 0..HELD_MAX - 200 {
        assert_eq!(gateway.put(CLIENTS, &udp(NEIGHBOUR, server(host % 190), 1001, 53)), None);
    }
    // Of IPv6 all are one source, as many as they are: it loses its own.
    for host in 0..50 {
        let to = format!("fd00:2::1:{host:x}");
        assert_eq!(gateway.put(CLIENTS, &udp6("fd00:1::9", &to, 1000, 53)), Some(Reason::HoldQueueFull));
    }
    assert_eq!(gateway.ledger().held, HELD_MAX as u64);
    // The neighbour had most, and lost the first ones of his to them.
    gateway.change_topology(|spec| {
        spec.neighbours.extend((0..190).map(|host| neighbour(SERVERS, server(host))))
    });
    let left = std::iter::from_fn(|| gateway.sent_by(SERVERS));
    let of_neighbour = left.filter(|out| out[26..30] == [10, 1, 0, 10]).count();
    assert!(of_neighbour < HELD_MAX - 200 && of_neighbour > 0, "{of_neighbour}");
}

#[test]
fn d7_a_next_hop_for_which_packets_go_on_coming_is_asked_for_again_also_by_what_is_dropped() {
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    let (wanted, query) = (server(0), |port: u16| udp(CLIENT, server(0), port, 53));
    let asked = vec![(id(SERVERS), wanted.address.parse().unwrap())];
    for port in 0..HELD_PER_HOP_MAX as u16 {
        assert_eq!(gateway.put(CLIENTS, &query(1000 + port)), None);
    }
    assert_eq!(gateway.unresolved(), asked);
    assert_eq!(gateway.put(CLIENTS, &query(2000)), Some(Reason::HoldQueueFull));
    assert_eq!(gateway.unresolved(), []);
    gateway.advance(SECOND);
    assert_eq!(gateway.put(CLIENTS, &query(2000)), Some(Reason::HoldQueueFull));
    assert_eq!(gateway.unresolved(), asked);
    assert_eq!(gateway.put(CLIENTS, &query(2000)), Some(Reason::HoldQueueFull));
    assert_eq!(gateway.unresolved(), []);
    // A change of the topology asks for nothing that was asked for just now.
    gateway.change_topology(|_| ());
    assert_eq!(gateway.unresolved(), []);
    gateway.advance(HOLD_NS);
    gateway.assert_ledger(&[(Reason::HoldQueueFull, 3), (Reason::HeldTooLong, HELD_PER_HOP_MAX as u64)]);
}
