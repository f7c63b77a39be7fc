//! The worker's loop over ports in memory: frames in, frames out, and which counters move; every other must not.

mod beside;
mod conditions;
mod fragments;
#[allow(dead_code, reason = "shared with the tests against the model")]
mod gateway;
mod hold;
#[path = "../../../tests/fuzz/invariants/pipeline.rs"]
mod invariants;
mod limits;
#[path = "../../../tests/fuzz/invariants/quotes.rs"]
mod quotes;
mod restraints;
mod sessions;
mod shortcut;
mod timers;

use bulkhead_dataplane::connection::TableConfig;
use bulkhead_dataplane::event::EventKind;
use bulkhead_dataplane::packet::{FrameBuf, MemoryFrame};
use bulkhead_dataplane::policy::{Action, Service};
use bulkhead_dataplane::verdict::Reason;
use bulkhead_dataplane::worker::{HELD_PER_HOP_MAX, HOLD_NS};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use gateway::{CLIENT, CLIENTS, Gateway, SERVER, SERVERS, allow, echo, rule, tcp, tcp_flags, udp, udp6};

const SECOND: u64 = 1_000_000_000;

#[test]
fn nothing_crosses_without_a_policy() {
    let mut gateway = Gateway::new(&[]);
    for frame in [udp(CLIENT, SERVER, 1000, 53), tcp(CLIENT, SERVER, 1000, 443, tcp_flags::SYN, 1, 0)] {
        assert_eq!(gateway.send(CLIENTS, &frame), Err(Reason::NoRule));
    }
    gateway.assert_ledger(&[(Reason::NoRule, 2)]);
}

#[test]
fn an_allowed_datagram_crosses_with_only_addresses_and_ttl_changed_and_so_does_its_reply() {
    let mut gateway = Gateway::new(&[allow(Service::Udp(53, 53))]);
    let query = udp(CLIENT, SERVER, 1000, 53);
    let out = gateway.send(CLIENTS, &query).unwrap();
    assert_eq!(out[..6], SERVER.mac);
    assert_eq!(out[6..12], SERVERS.mac);
    let mut expected = query.clone();
    expected[..12].copy_from_slice(&out[..12]);
    expected[22] -= 1;
    expected[24..26].copy_from_slice(&out[24..26]);
    assert_eq!(out, expected);
    assert!(SlicedPacket::from_ethernet(&out).is_ok());
    assert!(gateway.send(SERVERS, &udp(SERVER, CLIENT, 53, 1000)).is_ok());
    // The other way round nothing was allowed.
    assert_eq!(gateway.send(SERVERS, &udp(SERVER, CLIENT, 53, 1001)), Err(Reason::NoRule));
    gateway.assert_ledger(&[(Reason::NoRule, 1)]);
    assert_eq!(gateway.rule_hits(0).packets, 2);
    assert_eq!(gateway.rule_hits(0).connections, 1);
}

#[test]
fn ipv6_crosses_by_the_same_rule() {
    let mut gateway = Gateway::new(&[allow(Service::Udp(53, 53))]);
    let out = gateway.send(CLIENTS, &udp6("fd00:1::9", "fd00:2::9", 1000, 53)).unwrap();
    assert_eq!(out[21], 63);
    assert!(gateway.send(SERVERS, &udp6("fd00:2::9", "fd00:1::9", 53, 1000)).is_ok());
    gateway.assert_ledger(&[]);
}

#[test]
fn a_tcp_connection_lives_from_syn_to_time_wait() {
    let mut gateway = Gateway::new(&[allow(Service::Tcp(443, 443))]);
    assert_eq!(
        gateway.send(CLIENTS, &tcp(CLIENT, SERVER, 1000, 443, tcp_flags::ACK, 1, 1)),
        Err(Reason::NoConnection)
    );
    gateway.handshake(1000, 443);
    let ack = tcp_flags::ACK;
    let data = tcp(CLIENT, SERVER, 1000, 443, ack | tcp_flags::PSH, 101, 501);
    assert!(gateway.send(CLIENTS, &data).is_ok());
    let injected = tcp(SERVER, CLIENT, 443, 1000, ack, 501_000_000, 101);
    assert_eq!(gateway.send(SERVERS, &injected), Err(Reason::TcpOutOfWindow));
    for (port, frame) in [
        (CLIENTS, tcp(CLIENT, SERVER, 1000, 443, ack | tcp_flags::FIN, 101, 501)),
        (SERVERS, tcp(SERVER, CLIENT, 443, 1000, ack | tcp_flags::FIN, 501, 102)),
        (CLIENTS, tcp(CLIENT, SERVER, 1000, 443, ack, 102, 502)),
    ] {
        assert!(gateway.send(port, &frame).is_ok());
    }
    gateway.assert_ledger(&[(Reason::NoConnection, 1), (Reason::TcpOutOfWindow, 1)]);
}

#[test]
fn a_syn_with_a_wrong_checksum_ends_no_time_wait_and_tells_no_number() {
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    let (syn, ack, fin) = (tcp_flags::SYN, tcp_flags::ACK, tcp_flags::FIN);
    let damaged = |mut frame: Vec<u8>| {
        frame[50] ^= 0x55;
        frame
    };
    gateway.handshake(1000, 80);
    for (port, from, to, ports, flags, sequence, acknowledgement) in [
        (CLIENTS, CLIENT, SERVER, (1000, 80), fin | ack, 101, 501),
        (SERVERS, SERVER, CLIENT, (80, 1000), fin | ack, 501, 102),
        (CLIENTS, CLIENT, SERVER, (1000, 80), ack, 102, 502),
    ] {
        let frame = tcp(from, to, ports.0, ports.1, flags, sequence, acknowledgement);
        gateway.send(port, &frame).unwrap();
    }
    let again = tcp(CLIENT, SERVER, 1000, 80, syn, 900_000, 0);
    assert_eq!(gateway.send(CLIENTS, &damaged(again.clone())), Err(Reason::TcpBadChecksum));
    // Its last acknowledgement, repeated, still belongs to something.
    gateway.send(CLIENTS, &tcp(CLIENT, SERVER, 1000, 80, ack, 102, 502)).unwrap();
    gateway.send(CLIENTS, &again).unwrap();
    // Nor is a damaged SYN-ACK believed.
    let answer = tcp(SERVER, CLIENT, 80, 1000, syn | ack, 7000, 900_001);
    assert_eq!(gateway.send(SERVERS, &damaged(answer.clone())), Err(Reason::TcpBadChecksum));
    gateway.send(SERVERS, &answer).unwrap();
}

#[test]
fn a_changed_policy_cuts_a_live_connection_in_either_direction_and_leaves_the_other_alone() {
    for reverse in [false, true] {
        let mut gateway = Gateway::new(&[allow(Service::Tcp(443, 443)), allow(Service::Tcp(80, 80))]);
        gateway.handshake(1000, 443);
        gateway.handshake(1001, 80);
        gateway.publish(&[allow(Service::Tcp(443, 443))]);
        let (port, frame) = match reverse {
            false => (CLIENTS, tcp(CLIENT, SERVER, 1001, 80, tcp_flags::ACK, 101, 501)),
            true => (SERVERS, tcp(SERVER, CLIENT, 80, 1001, tcp_flags::ACK, 501, 101)),
        };
        assert_eq!(gateway.send(port, &frame), Err(Reason::PolicyRevoked));
        assert_eq!(gateway.send(port, &frame), Err(Reason::NoConnection));
        assert!(gateway.send(CLIENTS, &tcp(CLIENT, SERVER, 1000, 443, tcp_flags::ACK, 101, 501)).is_ok());
        let cut = gateway.events().into_iter().find(|e| matches!(e.kind, EventKind::Cut(_))).unwrap();
        assert_eq!(cut.kind, EventKind::Cut(Reason::PolicyRevoked));
        assert_eq!((cut.source, cut.destination_port), (CLIENT.address.parse().unwrap(), 80));
        gateway.assert_ledger(&[(Reason::PolicyRevoked, 1), (Reason::NoConnection, 1)]);
    }
}

#[test]
fn a_worker_that_is_behind_judges_and_counts_by_its_own_policy() {
    let web = allow(Service::Tcp(443, 443));
    let data = |source| tcp(CLIENT, SERVER, source, 443, tcp_flags::ACK, 101, 501);
    let mut gateway = Gateway::new(std::slice::from_ref(&web));
    gateway.handshake(1000, 443);
    // A worker that is ahead has stamped it with rule 1 of generation 2; in generation 1 that is no rule.
    gateway.publish(&[allow(Service::Udp(53, 53)), web.clone()]);
    assert!(gateway.send(CLIENTS, &data(1000)).is_ok());
    assert_eq!(gateway.rule_hits(1).packets, 1);
    gateway.judge_by(1, std::slice::from_ref(&web));
    assert!(gateway.send(CLIENTS, &data(1000)).is_ok());
    assert_eq!((gateway.rule_hits(0).packets, gateway.rule_hits(u32::MAX).packets), (1, 0));
    // What only the newer policy allows is refused by the older one, and not cut.
    gateway.judge_by(1, &[]);
    assert_eq!(gateway.send(CLIENTS, &data(1000)), Err(Reason::NoRule));
    gateway.judge_by(2, &[allow(Service::Udp(53, 53)), web]);
    assert!(gateway.send(CLIENTS, &data(1000)).is_ok());
    gateway.assert_ledger(&[(Reason::NoRule, 1)]);
}

#[test]
fn a_spoofed_source_is_named_so_before_any_rule() {
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    let mut forged = CLIENT;
    forged.address = "10.2.0.77";
    assert_eq!(gateway.send(CLIENTS, &udp(forged, SERVER, 1, 2)), Err(Reason::SpoofedSource));
    forged.address = "10.9.9.9";
    assert_eq!(gateway.send(CLIENTS, &udp(forged, SERVER, 1, 2)), Err(Reason::SpoofedSource));
    gateway.assert_ledger(&[(Reason::SpoofedSource, 2)]);
}

#[test]
fn a_rejected_tcp_is_reset_and_a_rejected_udp_is_told_by_icmp() {
    let mut gateway = Gateway::new(&[rule(Action::Reject, Service::Any)]);
    let syn = tcp(CLIENT, SERVER, 1000, 443, tcp_flags::SYN, 100, 0);
    assert_eq!(gateway.send(CLIENTS, &syn), Err(Reason::RuleRejected));
    let answer = gateway.sent_by(CLIENTS).unwrap();
    let parsed = SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(TransportSlice::Tcp(reset)) = parsed.transport else { panic!("no TCP") };
    assert!(reset.rst() && reset.ack() && reset.acknowledgment_number() == 101);
    assert_eq!(answer[..6], CLIENT.mac);
    assert_eq!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1000, 53)), Err(Reason::RuleRejected));
    let answer = gateway.sent_by(CLIENTS).unwrap();
    assert_eq!((answer[34], answer[35]), (3, 13), "administratively prohibited");
    gateway.assert_ledger(&[(Reason::RuleRejected, 2)]);
    assert_eq!(gateway.ledger().answered, 2);
}

#[test]
fn the_last_hop_is_answered_with_time_exceeded_from_the_gateway() {
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    let mut frame = udp(CLIENT, SERVER, 1000, 53);
    gateway::set_ttl(&mut frame, 1);
    assert_eq!(gateway.send(CLIENTS, &frame), Err(Reason::HopLimitExceeded));
    let answer = gateway.sent_by(CLIENTS).unwrap();
    let parsed = SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(NetSlice::Ipv4(ip)) = parsed.net else { panic!("no IPv4") };
    assert_eq!(ip.header().source_addr().to_string(), CLIENTS.address);
    assert_eq!((answer[34], answer[35]), (11, 0));
    gateway::set_ttl(&mut frame, 0);
    assert_eq!(gateway.send(CLIENTS, &frame), Err(Reason::HopLimitExceeded));
    assert_eq!(gateway.sent_by(CLIENTS), None);
    gateway.assert_ledger(&[(Reason::HopLimitExceeded, 2)]);
}

#[test]
fn what_does_not_fit_the_egress_mtu_is_told_with_that_mtu() {
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    gateway.change_topology(|spec| spec.ports[1].mtu = 1000);
    let mut frame = gateway::udp_of(CLIENT, SERVER, 1000, 53, &[7; 1200]);
    gateway::set_dont_fragment(&mut frame);
    assert_eq!(gateway.send(CLIENTS, &frame), Err(Reason::PacketTooBig));
    let answer = gateway.sent_by(CLIENTS).unwrap();
    assert_eq!((answer[34], answer[35]), (3, 4));
    assert_eq!(u16::from_be_bytes([answer[40], answer[41]]), 1000);
    gateway.assert_ledger(&[(Reason::PacketTooBig, 1)]);
}

#[test]
fn packets_wait_for_an_unknown_neighbour_and_leave_in_order_once_it_is_known() {
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    gateway.change_topology(|spec| spec.neighbours.retain(|n| n.port.0 == 0));
    for port in 0..HELD_PER_HOP_MAX as u16 {
        assert_eq!(gateway.put(CLIENTS, &udp(CLIENT, SERVER, 1000 + port, 53)), None);
    }
    assert_eq!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 2000, 53)), Err(Reason::HoldQueueFull));
    assert_eq!(gateway.unresolved(), vec![(gateway::id(SERVERS), SERVER.address.parse().unwrap())]);
    assert_eq!(gateway.ledger().held, HELD_PER_HOP_MAX as u64);
    gateway.change_topology(|spec| spec.neighbours.push(gateway::neighbour(SERVERS, SERVER)));
    for port in 0..HELD_PER_HOP_MAX as u16 {
        let out = gateway.sent_by(SERVERS).unwrap();
        assert_eq!(out[34..36], (1000 + port).to_be_bytes());
        assert_eq!(out[22], 63, "a packet that waited loses one hop, not two");
    }
    gateway.assert_ledger(&[(Reason::HoldQueueFull, 1)]);
}

#[test]
fn a_packet_that_waits_is_judged_by_the_policy_of_the_day_it_leaves() {
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    gateway.change_topology(|spec| spec.neighbours.retain(|n| n.port.0 == 0));
    assert_eq!(gateway.put(CLIENTS, &udp(CLIENT, SERVER, 1000, 53)), None);
    gateway.publish(&[]);
    gateway.assert_ledger(&[(Reason::NoRule, 1)]);
}

#[test]
fn a_neighbour_that_never_answers_ends_the_wait_with_host_unreachable() {
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    gateway.change_topology(|spec| spec.neighbours.retain(|n| n.port.0 == 0));
    assert_eq!(gateway.put(CLIENTS, &udp(CLIENT, SERVER, 1000, 53)), None);
    gateway.advance(HOLD_NS - SECOND);
    assert_eq!(gateway.ledger().held, 1);
    gateway.advance(SECOND + 1);
    let answer = gateway.sent_by(CLIENTS).unwrap();
    assert_eq!((answer[34], answer[35]), (3, 1));
    gateway.assert_ledger(&[(Reason::HeldTooLong, 1)]);
}

#[test]
fn an_icmp_error_reaches_only_the_sender_of_the_packet_it_quotes() {
    let mut gateway = Gateway::new(&[allow(Service::Udp(53, 53))]);
    let query = udp(CLIENT, SERVER, 1000, 53);
    let crossed = gateway.send(CLIENTS, &query).unwrap();
    let error = gateway::unreachable(SERVER, CLIENT, &crossed);
    assert!(gateway.send(SERVERS, &error).is_ok());
    let mut other = CLIENT;
    other.address = "10.1.0.10";
    let misdirected = gateway::unreachable(SERVER, other, &crossed);
    assert_eq!(gateway.send(SERVERS, &misdirected), Err(Reason::IcmpUnrelated));
    let invented = gateway::unreachable(SERVER, CLIENT, &udp(CLIENT, SERVER, 1001, 53));
    assert_eq!(gateway.send(SERVERS, &invented), Err(Reason::IcmpUnrelated));
    gateway.assert_ledger(&[(Reason::IcmpUnrelated, 2)]);
}

/// An accomplice could quote the victim's own connection and so speak where no rule lets him.
#[test]
fn an_icmp_error_from_where_the_quoted_packet_never_went_is_unrelated() {
    let mut gateway = Gateway::new(&[allow(Service::Udp(53, 53))]);
    assert!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1000, 53)).is_ok());
    let crossed = gateway.send(SERVERS, &udp(SERVER, CLIENT, 53, 1000)).unwrap();
    // The reply went to the clients: an error about it can only come from there.
    let mut neighbour = SERVER;
    neighbour.address = "10.2.0.10";
    let forged = gateway::unreachable(neighbour, SERVER, &crossed);
    assert_eq!(gateway.put(SERVERS, &forged), Some(Reason::IcmpUnrelated));
    assert_eq!((gateway.sent_by(SERVERS), gateway.sent_by(CLIENTS)), (None, None));
    assert!(gateway.send(CLIENTS, &gateway::unreachable(CLIENT, SERVER, &crossed)).is_ok());
    gateway.assert_ledger(&[(Reason::IcmpUnrelated, 1)]);
}

/// Only so many ended connections can wait to be reported, and one that cannot be reported is not ended.
#[test]
fn many_bursts_in_one_round_go_on_ending_half_open_connections_to_make_room() {
    const HALF_OPEN: u16 = 256;
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    let hosts: Vec<String> = (20..52).map(|host| format!("10.2.0.{host}")).collect();
    let hosts = hosts.iter().map(|address| gateway::Station { address: address.clone().leak(), ..SERVER });
    let hosts: Vec<_> = hosts.collect();
    for &host in &hosts {
        for source in 0..HELD_PER_HOP_MAX as u16 {
            assert_eq!(gateway.put(CLIENTS, &udp(CLIENT, host, 1000 + source, 53)), None);
        }
    }
    for source in 0..HALF_OPEN {
        assert!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 2000 + source, 53)).is_ok());
    }
    // All that waited is judged in one round, and a burst more.
    let last = udp(CLIENT, SERVER, 3000, 53);
    gateway.port(CLIENTS).incoming.push_back(MemoryFrame::new(&last));
    gateway.change_topology(|spec| {
        spec.neighbours.extend(hosts.iter().map(|&host| gateway::neighbour(SERVERS, host)));
    });
    gateway.assert_ledger(&[]);
    assert_eq!(gateway.ledger().forwarded, 2 * u64::from(HALF_OPEN) + 1);
}

/// Some systems use identifier 1 for every ping, and 0 is one, too. Seen as one connection, the second ping would be a
/// forged request.
#[test]
fn two_hosts_may_ping_each_other_with_any_identifiers() {
    let last = u16::MAX;
    for (there, back) in [(1, 1), (0, 0), (0, 1), (1, 0), (0, last), (last, 0), (last, last), (5, !5), (5, 4)]
    {
        let mut both = allow(Service::IcmpEcho);
        both.from.push(both.to[0]);
        both.to.push(both.from[0]);
        let mut gateway = Gateway::new(&[both]);
        assert!(gateway.send(CLIENTS, &echo(CLIENT, SERVER, true, there)).is_ok());
        assert!(gateway.send(SERVERS, &echo(SERVER, CLIENT, true, back)).is_ok(), "{there} and {back}");
        assert!(gateway.send(SERVERS, &echo(SERVER, CLIENT, false, there)).is_ok());
        assert!(gateway.send(CLIENTS, &echo(CLIENT, SERVER, false, back)).is_ok());
        assert_eq!(gateway.send(CLIENTS, &echo(CLIENT, SERVER, false, 2)), Err(Reason::NoConnection));
        gateway.assert_ledger(&[(Reason::NoConnection, 1)]);
    }
}

/// With identifier 0 at both ends, the reply to one ping was the other's request.
#[test]
fn an_error_about_a_ping_that_was_never_sent_is_unrelated_to_one_with_identifier_0() {
    let mut gateway = Gateway::new(&[allow(Service::IcmpEcho)]);
    assert!(gateway.send(CLIENTS, &echo(CLIENT, SERVER, true, 0)).is_ok());
    let never = gateway::unreachable(CLIENT, SERVER, &echo(SERVER, CLIENT, true, 0));
    assert_eq!(gateway.send(CLIENTS, &never), Err(Reason::IcmpUnrelated));
    gateway.assert_ledger(&[(Reason::IcmpUnrelated, 1)]);
}

#[test]
fn a_full_transmit_ring_is_counted_as_a_drop_and_not_as_forwarded() {
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    gateway.port(SERVERS).full = true;
    assert_eq!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1000, 53)), Err(Reason::TxRingFull));
    gateway.assert_ledger(&[(Reason::TxRingFull, 1)]);
}

#[test]
fn a_route_that_leads_around_the_policy_is_refused() {
    // The servers' network is allowed behind the servers' port only; a route sends it back out of the clients'.
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    assert!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1000, 53)).is_ok());
    gateway.change_topology(|spec| {
        spec.routes[1].kind = gateway::via(CLIENTS);
        spec.neighbours.push(gateway::neighbour(CLIENTS, SERVER));
    });
    assert_eq!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1001, 53)), Err(Reason::RouteRefused));
    assert_eq!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1000, 53)), Err(Reason::RouteRefused));
    gateway.assert_ledger(&[(Reason::RouteRefused, 2)]);
}

#[test]
fn frames_that_are_not_for_the_gateway_or_carry_a_tag_are_dropped() {
    let mut gateway = Gateway::new(&[allow(Service::Any)]);
    let mut frame = udp(CLIENT, SERVER, 1000, 53);
    frame[0] ^= 2;
    assert_eq!(gateway.send(CLIENTS, &frame), Err(Reason::EthernetNotForUs));
    let mut tagged = udp(CLIENT, SERVER, 1000, 53);
    tagged.splice(12..12, [0x81, 0, 0, 10]);
    assert_eq!(gateway.send(CLIENTS, &tagged), Err(Reason::VlanUnexpected));
    tagged[15] = 0;
    assert_eq!(gateway.send(CLIENTS, &tagged), Err(Reason::VlanUnexpected), "a priority tag");
    let mut own = SERVER;
    own.address = CLIENTS.address;
    assert_eq!(gateway.send(CLIENTS, &udp(CLIENT, own, 1000, 22)), Err(Reason::LocalServiceUndeclared));
    assert_eq!(gateway.send(CLIENTS, &udp(CLIENT, CLIENT, 1, 2)), Err(Reason::Land));
    gateway.assert_ledger(&[
        (Reason::EthernetNotForUs, 1),
        (Reason::VlanUnexpected, 2),
        (Reason::LocalServiceUndeclared, 1),
        (Reason::Land, 1),
    ]);
}

#[test]
fn an_idle_connection_is_swept_and_reported_as_closed() {
    let mut gateway = Gateway::new(&[allow(Service::Udp(53, 53))]);
    assert!(gateway.send(CLIENTS, &udp(CLIENT, SERVER, 1000, 53)).is_ok());
    for _ in 0..TableConfig::default().timeouts.udp_unreplied_ms / 1000 + 3 {
        gateway.advance(SECOND);
    }
    let kinds: Vec<_> = gateway.events().iter().map(|e| e.kind).collect();
    assert_eq!(kinds, [EventKind::Opened, EventKind::Closed]);
    gateway.assert_ledger(&[]);
}

/// The fuzz target's invariants as ordinary tests: over the committed inputs, and over random programs.
#[test]
fn every_committed_program_keeps_the_invariants() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/seeds/pipeline");
    let seeds: Vec<_> = std::fs::read_dir(seeds).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!seeds.is_empty());
    for seed in seeds {
        invariants::check(&std::fs::read(seed).unwrap());
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_programs_keep_the_invariants(program in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
        invariants::check(&program);
    }
}

#[test]
fn a_frame_in_memory_does_not_grow_beyond_its_room() {
    let mut frame = MemoryFrame::new(&[1, 2, 3]);
    assert!(frame.set_len(MemoryFrame::CAPACITY));
    assert!(!frame.set_len(MemoryFrame::CAPACITY + 1));
    assert_eq!(&frame.bytes()[..4], [1, 2, 3, 0]);
}

/// As above, for the fuzz target of quotes.
#[test]
fn i13_every_committed_quote_and_every_truncation_of_it_keeps_the_invariants() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/seeds/quotes");
    let seeds: Vec<_> = std::fs::read_dir(seeds).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(seeds.len() > 10);
    for seed in seeds {
        let seed = std::fs::read(seed).unwrap();
        for length in 0..=seed.len() {
            quotes::check(&seed[..length]);
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn i13_changed_quotes_keep_the_invariants(
        pick in 0usize..,
        changes in proptest::collection::vec((0usize.., 0u8..), 1..4),
    ) {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/seeds/quotes");
        let mut seeds: Vec<_> = std::fs::read_dir(seeds).unwrap().map(|entry| entry.unwrap().path()).collect();
        seeds.sort();
        let mut quote = std::fs::read(&seeds[pick % seeds.len()]).unwrap();
        for (at, value) in changes {
            let at = at % quote.len();
            quote[at] = value;
        }
        quotes::check(&quote);
    }
}
