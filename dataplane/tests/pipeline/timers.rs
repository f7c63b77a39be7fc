//! Requirements W17, W18, U1 to U3: how long a connection of each state lives, to the millisecond.

use bulkhead_dataplane::connection::{Overrides, Timeouts};
use bulkhead_dataplane::event::EventKind;
use bulkhead_dataplane::policy::{Rule, Service};
use bulkhead_dataplane::verdict::Reason;
use etherparse::TcpHeader;

use crate::gateway::tcp_flags::{ACK, FIN, RST, SYN};
use crate::gateway::{CLIENT, CLIENTS, Family, Gateway, SERVER, SERVERS, Station, allow, ip};

const MILLISECOND: u64 = 1_000_000;

/// A packet: from whom, and what.
#[derive(Clone, Copy)]
enum Packet {
    Tcp(Station, u8, u32, u32),
    Udp(Station),
    Echo(Station),
    Gre(Station),
}

use Packet::{Echo, Gre, Tcp, Udp};

fn frame(family: Family, packet: Packet) -> (Station, Vec<u8>) {
    let mut frame = Vec::new();
    let from = match packet {
        Tcp(from, ..) | Udp(from) | Echo(from) | Gre(from) => from,
    };
    let (builder, source) = (ip(from, family), if from == CLIENT { (1000, 80) } else { (80, 1000) });
    match packet {
        Tcp(_, flags, seq, ack) => {
            let mut header = TcpHeader::new(source.0, source.1, seq, 10_000);
            (header.syn, header.ack) = (flags & SYN != 0, flags & ACK != 0);
            (header.fin, header.rst) = (flags & FIN != 0, flags & RST != 0);
            header.acknowledgment_number = ack;
            builder.tcp_header(header).write(&mut frame, &[])
        }
        Udp(_) => builder.udp(source.0, source.1).write(&mut frame, b"datagram"),
        Gre(_) => builder.write(&mut frame, 47.into(), &[0, 0, 8, 0]),
        Echo(_) => match (family, from == CLIENT) {
            (Family::V4, true) => builder.icmpv4_echo_request(7, 1).write(&mut frame, b"ping"),
            (Family::V4, false) => builder.icmpv4_echo_reply(7, 1).write(&mut frame, b"ping"),
            (Family::V6, true) => builder.icmpv6_echo_request(7, 1).write(&mut frame, b"ping"),
            (Family::V6, false) => builder.icmpv6_echo_reply(7, 1).write(&mut frame, b"ping"),
        },
    }
    .unwrap();
    (if from == CLIENT { CLIENTS } else { SERVERS }, frame)
}

fn send(gateway: &mut Gateway, family: Family, packet: Packet) -> Result<(), Reason> {
    let (port, frame) = frame(family, packet);
    gateway.send(port, &frame).map(drop)
}

const OPEN: [Packet; 3] =
    [Tcp(CLIENT, SYN, 100, 0), Tcp(SERVER, SYN | ACK, 500, 101), Tcp(CLIENT, ACK, 101, 501)];

/// What brings a connection into a state, a packet that only such a connection lets through and that tells whether it
/// still lives, why it drops without one, and the limit.
struct Life {
    state: &'static str,
    opening: Vec<Packet>,
    probe: Packet,
    refusal: Reason,
    limit: fn(&Timeouts) -> u32,
}

fn lives() -> Vec<Life> {
    let tcp = |state, opened: usize, more: &[Packet], probe, limit| {
        let opening = [&OPEN[..opened], more].concat();
        Life { state, opening, probe, refusal: Reason::NoConnection, limit }
    };
    let other = |state, opening: &[Packet], probe, refusal, limit| Life {
        state,
        opening: opening.to_vec(),
        probe,
        refusal,
        limit,
    };
    let (client_fin, server_fin) = (Tcp(CLIENT, FIN | ACK, 101, 501), Tcp(SERVER, FIN | ACK, 501, 101));
    let late_fin = Tcp(SERVER, FIN | ACK, 501, 102);
    let last = Tcp(CLIENT, ACK, 102, 502);
    let reset = Tcp(SERVER, RST, 501, 0);
    vec![
        tcp("syn_sent", 1, &[], OPEN[1], |t| t.tcp_handshake_ms),
        tcp("syn_received", 2, &[], OPEN[2], |t| t.tcp_handshake_ms),
        tcp("established", 3, &[], OPEN[2], |t| t.tcp_established_ms),
        tcp("fin_original", 3, &[client_fin], late_fin, |t| t.tcp_closing_ms),
        tcp("fin_reply", 3, &[server_fin], client_fin, |t| t.tcp_closing_ms),
        tcp("fin_both", 3, &[client_fin, late_fin], last, |t| t.tcp_closing_ms),
        tcp("time_wait", 3, &[client_fin, late_fin, last], late_fin, |t| t.tcp_time_wait_ms),
        tcp("closed", 3, &[reset], reset, |t| t.tcp_closed_ms),
        other("udp_unreplied", &[Udp(CLIENT)], Udp(SERVER), Reason::NoRule, |t| t.udp_unreplied_ms),
        other("udp_replied", &[Udp(CLIENT), Udp(SERVER)], Udp(SERVER), Reason::NoRule, |t| t.udp_replied_ms),
        other("echo_unreplied", &[Echo(CLIENT)], Echo(SERVER), Reason::NoConnection, |t| t.icmp_ms),
        other("echo_replied", &[Echo(CLIENT), Echo(SERVER)], Echo(SERVER), Reason::NoConnection, |t| {
            t.icmp_ms
        }),
        other(
            "udp_unreplied of a protocol as a whole",
            &[Gre(CLIENT)],
            Gre(SERVER),
            Reason::ProtocolUnsupported,
            |t| t.udp_unreplied_ms,
        ),
        other(
            "udp_replied of a protocol as a whole",
            &[Gre(CLIENT), Gre(SERVER)],
            Gre(SERVER),
            Reason::ProtocolUnsupported,
            |t| t.udp_replied_ms,
        ),
    ]
}

/// Lives of every state under these limits: at the limit they are there, a millisecond later they are not.
fn every_state_keeps(timeouts: Timeouts) {
    for family in Family::BOTH {
        for life in lives() {
            for (late, expected) in [(0, Ok(())), (1, Err(life.refusal))] {
                let rules = [allow(Service::Any), allow(Service::Protocol(47))];
                let mut gateway = Gateway::with_timeouts(&rules, timeouts);
                for packet in &life.opening {
                    send(&mut gateway, family, *packet).unwrap();
                    gateway.advance(5 * MILLISECOND);
                }
                let limit = u64::from((life.limit)(&timeouts));
                gateway.advance((limit - 5 + late) * MILLISECOND);
                let came = send(&mut gateway, family, life.probe);
                assert_eq!(came, expected, "{} over {family:?}, {late} ms after {limit}", life.state);
            }
        }
    }
}

#[test]
fn w17_u1_every_state_lives_to_its_default_limit_and_not_a_millisecond_longer() {
    let defaults = Timeouts::default();
    assert!(defaults.tcp_established_ms >= 7_440_000, "RFC 5382, REQ-5");
    assert!(defaults.udp_unreplied_ms >= 120_000 && defaults.udp_replied_ms >= 120_000, "RFC 4787, REQ-5");
    every_state_keeps(defaults);
}

#[test]
fn w17_every_limit_can_be_configured() {
    every_state_keeps(Timeouts {
        tcp_handshake_ms: 1_001,
        tcp_established_ms: 2_002,
        tcp_closing_ms: 3_003,
        tcp_time_wait_ms: 4_004,
        tcp_closed_ms: 5_005,
        udp_unreplied_ms: 6_006,
        udp_replied_ms: 7_007,
        icmp_ms: 8_008,
        fragment_ms: 9_009,
    });
}

#[test]
fn w17_an_idle_connection_behind_a_busy_one_expires_without_being_asked_for() {
    for family in Family::BOTH {
        let timeouts = Timeouts { udp_unreplied_ms: 60_000, ..Timeouts::default() };
        let mut gateway = Gateway::with_timeouts(&[allow(Service::Any)], timeouts);
        send(&mut gateway, family, Udp(CLIENT)).unwrap();
        for packet in OPEN {
            send(&mut gateway, family, packet).unwrap();
        }
        gateway.discard_events();
        for second in 1..=70 {
            gateway.advance(1000 * MILLISECOND);
            send(&mut gateway, family, OPEN[2]).unwrap();
            // Within a round of the sweep, which takes a second.
            let closed = gateway.events().iter().filter(|event| event.kind == EventKind::Closed).count();
            assert!(if second <= 60 { closed == 0 } else { closed == usize::from(second == 61) }, "{second}");
        }
    }
}

#[test]
fn w18_retransmissions_of_a_syn_do_not_keep_an_unanswered_connection() {
    for family in Family::BOTH {
        let mut gateway = Gateway::new(&[allow(Service::Any)]);
        let mut opened = Vec::new();
        for second in 0..100 {
            send(&mut gateway, family, OPEN[0]).unwrap();
            if gateway.events().iter().any(|event| event.kind == EventKind::Opened) {
                opened.push(second);
            }
            gateway.advance(1000 * MILLISECOND);
        }
        // At 30 s it is still the first one's.
        assert_eq!(opened, [0, 31, 62, 93]);
    }
}

#[test]
fn w18_a_challenged_syn_does_not_keep_an_established_connection() {
    for family in Family::BOTH {
        let timeouts = Timeouts { tcp_established_ms: 60_000, ..Timeouts::default() };
        let mut gateway = Gateway::with_timeouts(&[allow(Service::Any)], timeouts);
        for packet in OPEN {
            send(&mut gateway, family, packet).unwrap();
        }
        gateway.discard_events();
        for _ in 0..=60 {
            assert_eq!(gateway.events(), []);
            send(&mut gateway, family, Tcp(CLIENT, SYN, 900_000, 0)).unwrap();
            gateway.advance(1000 * MILLISECOND);
        }
        send(&mut gateway, family, Tcp(CLIENT, SYN, 900_000, 0)).unwrap();
        assert!(gateway.events().iter().any(|event| event.kind == EventKind::Opened));
    }
}

#[test]
fn u2_replies_keep_a_udp_connection_and_so_do_queries() {
    for family in Family::BOTH {
        for from in [CLIENT, SERVER] {
            let timeouts = Timeouts { udp_replied_ms: 10_000, ..Timeouts::default() };
            let mut gateway = Gateway::with_timeouts(&[allow(Service::Any)], timeouts);
            send(&mut gateway, family, Udp(CLIENT)).unwrap();
            send(&mut gateway, family, Udp(SERVER)).unwrap();
            for _ in 0..10 {
                gateway.advance(10_000 * MILLISECOND);
                send(&mut gateway, family, Udp(from)).unwrap();
            }
            gateway.advance(10_001 * MILLISECOND);
            assert_eq!(send(&mut gateway, family, Udp(SERVER)), Err(Reason::NoRule));
        }
    }
}

#[test]
fn u3_a_one_way_stream_is_one_connection_while_it_flows_and_expires_once_it_is_silent() {
    for family in Family::BOTH {
        let mut gateway = Gateway::new(&[allow(Service::Any)]);
        for _ in 0..5 {
            send(&mut gateway, family, Udp(CLIENT)).unwrap();
            gateway.advance(100_000 * MILLISECOND);
        }
        let kinds = |gateway: &Gateway| gateway.events().iter().map(|event| event.kind).collect::<Vec<_>>();
        assert_eq!(kinds(&gateway), [EventKind::Opened]);
        gateway.advance(20_000 * MILLISECOND);
        assert_eq!(kinds(&gateway), []);
        // The sweep goes round the table once a second.
        (0..3).for_each(|_| gateway.advance(1000 * MILLISECOND));
        assert_eq!(kinds(&gateway), [EventKind::Closed]);
        assert_eq!(send(&mut gateway, family, Udp(SERVER)), Err(Reason::NoRule));
    }
}

/// Idle limits of one rule for everything that `lives` has.
fn overrides(unit_ms: u32) -> Overrides {
    Overrides {
        tcp_handshake_ms: Some(unit_ms),
        tcp_established_ms: Some(2 * unit_ms),
        tcp_closing_ms: Some(3 * unit_ms),
        tcp_time_wait_ms: Some(4 * unit_ms),
        tcp_closed_ms: Some(5 * unit_ms),
        udp_unreplied_ms: Some(6 * unit_ms),
        udp_replied_ms: Some(7 * unit_ms),
        icmp_ms: Some(8 * unit_ms),
    }
}

#[test]
fn w17_u2_a_rules_own_limits_replace_the_gateways_and_what_it_leaves_out_is_the_gateways() {
    let base = Timeouts::default();
    let some =
        Overrides { tcp_established_ms: Some(1_800_000), udp_replied_ms: Some(10_000), ..Default::default() };
    for set in [overrides(1001), some] {
        let limits = set.over(&base);
        for family in Family::BOTH {
            for life in lives() {
                for (late, expected) in [(0, Ok(())), (1, Err(life.refusal))] {
                    let mut gateway = Gateway::new(&[]);
                    // The first rule is of another service, so that the second does not have number 0.
                    let services = vec![Service::Any, Service::Protocol(47)];
                    let second = Rule { services, ..allow(Service::Any) };
                    let rules = [allow(Service::Tcp(22, 22)), second];
                    gateway.publish_with_timeouts(&rules, &[Overrides::default(), set]);
                    for packet in &life.opening {
                        send(&mut gateway, family, *packet).unwrap();
                    }
                    gateway.advance((u64::from((life.limit)(&limits)) + late) * MILLISECOND);
                    assert_eq!(
                        send(&mut gateway, family, life.probe),
                        expected,
                        "{} {family:?} {late}",
                        life.state
                    );
                }
            }
        }
    }
}

#[test]
fn w17_a_connection_takes_the_limits_of_its_new_rule_with_its_next_packet_and_until_then_keeps_its_old_ones()
{
    let rules = [allow(Service::Any)];
    let of = |ms| Overrides { udp_replied_ms: Some(ms), ..Overrides::default() };
    for family in Family::BOTH {
        let mut gateway = Gateway::new(&[]);
        gateway.publish_with_timeouts(&rules, &[of(20_000)]);
        send(&mut gateway, family, Udp(CLIENT)).unwrap();
        send(&mut gateway, family, Udp(SERVER)).unwrap();
        // Policies come and go while it idles: however many, none of their limits are its.
        for n in 0..200 {
            gateway.publish_with_timeouts(&rules, &[of(5_000 + n)]);
        }
        gateway.advance(20_000 * MILLISECOND);
        send(&mut gateway, family, Udp(SERVER)).unwrap();
        gateway.advance(5_200 * MILLISECOND);
        assert_eq!(send(&mut gateway, family, Udp(SERVER)), Err(Reason::NoRule));
    }
}
