//! What the table does, behaviour by behaviour. The state machine's cases are in `tcp`, the windows' in `window`.

mod bytes;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;
use crate::headers::tcp_flags::{ACK, FIN, RST, SYN};
use crate::headers::{TcpSegment, Transport, Tuple, protocol};
use crate::verdict::Reason;

const UDP: u8 = protocol::UDP;
const TCP: u8 = protocol::TCP;

fn at(ms: u64) -> Now {
    Now(ms * 1_000_000)
}

fn config(connections: u32, half_open_share_percent: u8) -> TableConfig {
    TableConfig {
        connections_v4: connections,
        connections_v6: 16,
        half_open_share_percent,
        half_open_per_source: 0,
        workers: 4,
        timeouts: Timeouts::default(),
    }
}

fn table(connections: u32, half_open_share_percent: u8) -> Arc<Table> {
    Arc::new(Table::new(&config(connections, half_open_share_percent)))
}

fn tuple(client: u32, protocol: u8) -> Tuple<Ipv4Addr> {
    Tuple {
        source: Ipv4Addr::from_bits(0x0a01_0000 + client),
        destination: Ipv4Addr::new(10, 2, 0, 1),
        source_port: 40_000,
        destination_port: 443,
        protocol,
    }
}

fn opening(now: Now, segment: Option<&TcpSegment>) -> Opening<'_> {
    Opening {
        ingress: PortId(3),
        egress: PortId(4),
        rule: RuleId(7),
        generation: Generation(1),
        valid_until: 0,
        bearer: Bearer::NONE,
        limit: None,
        now,
        segment,
    }
}

fn segment(flags: u8, sequence: u32, acknowledgement: u32, payload: u16) -> TcpSegment {
    TcpSegment { sequence, acknowledgement, window: 8000, flags, window_scale: None, payload }
}

/// One table, one worker, and words for what tests do.
struct Bench {
    table: Arc<Table>,
    worker: Worker,
}

impl Bench {
    fn new(connections: u32, half_open_share_percent: u8) -> Bench {
        let table = table(connections, half_open_share_percent);
        let worker = table.worker().unwrap();
        Bench { table, worker }
    }

    fn open(&mut self, tuple: &Tuple<Ipv4Addr>, now: Now) -> Result<Opened, Reason> {
        let syn = segment(SYN, 100, 0, 0);
        let first = (tuple.protocol == TCP).then_some(&syn);
        let v4 = &self.table.v4;
        v4.open(&mut self.worker, v4.hash(tuple), tuple, &opening(now, first))
    }

    fn open_new(&mut self, tuple: &Tuple<Ipv4Addr>, now: Now) -> Hit {
        match self.open(tuple, now) {
            Ok(Opened::New(hit)) => hit,
            other => panic!("{other:?}"),
        }
    }

    fn find(&self, tuple: &Tuple<Ipv4Addr>, now: Now) -> Option<Hit> {
        self.table.v4.find(self.table.v4.hash(tuple), tuple, now)
    }

    fn track(&self, tuple: &Tuple<Ipv4Addr>, segment: TcpSegment, now: Now) -> Result<Track, Reason> {
        let hit = self.find(tuple, now).ok_or(Reason::NoConnection)?;
        self.table.v4.track_tcp(hit, &segment, now)
    }

    /// Opens and completes the handshake: client 101.., server 501...
    fn establish(&mut self, tuple: &Tuple<Ipv4Addr>, now: Now) {
        self.open_new(tuple, now);
        assert_eq!(self.track(&tuple.reverse(), segment(SYN | ACK, 500, 101, 0), now), Ok(Track::Passed));
        assert_eq!(self.track(tuple, segment(ACK, 101, 501, 0), now), Ok(Track::Established));
    }

    fn sweep_all(&mut self, now: Now) -> Vec<Summary> {
        let mut ended = Vec::new();
        let slots = self.table.slots();
        self.table.sweep(&mut self.worker, now, slots, &mut |s| ended.push(s));
        self.worker.quiesce();
        ended
    }
}

#[test]
fn either_direction_finds_the_connection_and_other_tuples_do_not() {
    let mut bench = Bench::new(64, 100);
    let tuple = tuple(1, UDP);
    assert_eq!(bench.find(&tuple, at(0)), None);
    let hit = bench.open_new(&tuple, at(0));
    assert_eq!(bench.find(&tuple, at(5)), Some(hit));
    let reply = bench.find(&tuple.reverse(), at(5)).unwrap();
    assert_eq!(reply.direction, Direction::Reply);
    assert_eq!(bench.table.v4.original(reply), (tuple, PortId(3)));
    for other in [
        Tuple { protocol: TCP, ..tuple },
        Tuple { source_port: 1, ..tuple },
        Tuple { destination_port: 1, ..tuple },
        Tuple { source: Ipv4Addr::new(1, 1, 1, 1), ..tuple },
        Tuple { source_port: tuple.destination_port, destination_port: tuple.source_port, ..tuple },
    ] {
        assert_eq!(bench.find(&other, at(5)), None, "{other:?}");
    }
    assert!(matches!(bench.open(&tuple.reverse(), at(5)), Ok(Opened::Existing(h)) if h == reply));
    assert_eq!(bench.table.len(), 1);
}

#[test]
fn ipv6_connections_live_in_a_map_of_their_own() {
    let table = table(16, 100);
    let mut worker = table.worker().unwrap();
    let tuple = Tuple {
        source: "fd00::1".parse::<Ipv6Addr>().unwrap(),
        destination: "fd00::2".parse().unwrap(),
        source_port: 1,
        destination_port: 2,
        protocol: UDP,
    };
    let hash = table.v6.hash(&tuple);
    assert!(matches!(table.v6.open(&mut worker, hash, &tuple, &opening(at(0), None)), Ok(Opened::New(_))));
    let reply = table.v6.find(table.v6.hash(&tuple.reverse()), &tuple.reverse(), at(1)).unwrap();
    assert_eq!(reply.direction, Direction::Reply);
    assert_eq!(table.v6.original(reply), (tuple, PortId(3)));
    assert_eq!((table.v4.len(), table.v6.len(), table.len()), (0, 1, 1));
}

#[test]
fn an_ipv4_connection_costs_at_most_128_bytes_all_in() {
    let table = Table::new(&TableConfig { connections_v4: 1 << 17, ..config(1 << 17, 25) });
    let per_connection = table.v4.memory_bytes() as f64 / f64::from(table.v4.capacity());
    assert!(per_connection <= 128.0, "{per_connection}");
}

#[test]
fn a_judgement_by_a_session_names_it() {
    let mut bench = Bench::new(16, 100);
    let hit = bench.open_new(&tuple(1, UDP), at(0));
    let v4 = &bench.table.v4;
    let first = v4.stamp(hit);
    let by_a_session = Stamp { valid_until: 77, bearer: Bearer(5), ..first };
    assert!(v4.restamp(hit, first, by_a_session));
    assert_eq!(v4.stamp(hit), by_a_session);
    // Of two judgements of one generation the later one stands.
    assert!(!v4.restamp(
        hit,
        Stamp { bearer: Bearer(4), ..by_a_session },
        Stamp { bearer: Bearer(6), ..first }
    ));
    assert_eq!(v4.stamp(hit), by_a_session);
}

#[test]
fn only_a_syn_opens_a_tcp_connection() {
    let mut bench = Bench::new(16, 100);
    let tuple = tuple(1, TCP);
    for flags in [ACK, SYN | ACK, RST, FIN | ACK, 0, SYN | FIN, SYN | RST] {
        let first = segment(flags, 1, 1, 0);
        let v4 = &bench.table.v4;
        let opened = v4.open(&mut bench.worker, v4.hash(&tuple), &tuple, &opening(at(0), Some(&first)));
        assert_eq!(opened, Err(Reason::NoConnection), "{flags:#x}");
    }
    assert_eq!((bench.table.len(), bench.table.half_open()), (0, 0));
}

#[test]
fn a_connection_expires_one_millisecond_after_its_idle_limit_and_the_sweep_reports_it_once() {
    let mut bench = Bench::new(16, 100);
    let tuple = tuple(1, UDP);
    let hit = bench.open_new(&tuple, at(1000));
    bench.table.v4.account(hit, 100, at(2000));
    let limit = u64::from(Timeouts::default().udp_unreplied_ms);
    assert!(bench.find(&tuple, at(2000 + limit)).is_some());
    assert!(bench.sweep_all(at(2000 + limit)).is_empty());
    assert_eq!(bench.find(&tuple, at(2000 + limit + 1)), None);
    let ended = bench.sweep_all(at(2000 + limit + 1));
    assert_eq!(ended.len(), 1);
    assert_eq!((ended[0].end, ended[0].packets, ended[0].bytes), (Some(End::Expired), [1, 0], [100, 0]));
    assert_eq!((ended[0].opened_ms, ended[0].ingress), (992, PortId(3)));
    assert!(bench.sweep_all(at(999_999_999)).is_empty());
    assert_eq!((bench.table.len(), bench.table.half_open()), (0, 0));
}

#[test]
fn an_expired_connection_met_by_open_is_replaced_and_reported() {
    let mut bench = Bench::new(16, 100);
    let tuple = tuple(1, UDP);
    bench.open_new(&tuple, at(0));
    bench.open_new(&tuple, at(500_000));
    assert_eq!(bench.table.len(), 1);
    let ended = bench.sweep_all(at(500_000));
    assert_eq!(ended.iter().map(|s| s.end).collect::<Vec<_>>(), [Some(End::Expired)]);
}

#[test]
fn replaced_timeouts_hold_for_existing_connections() {
    let mut bench = Bench::new(16, 100);
    let tuple = tuple(1, UDP);
    bench.open_new(&tuple, at(0));
    let timeouts = Timeouts { udp_unreplied_ms: 10, ..Timeouts::default() };
    bench.table.set_timeouts(&timeouts);
    assert_eq!(bench.table.timeouts(), timeouts);
    assert!(bench.find(&tuple, at(10)).is_some());
    assert!(bench.find(&tuple, at(11)).is_none());
}

/// Ages are differences of 32-bit milliseconds, of which half the range, 24.8 days, counts as the past.
#[test]
fn a_direction_that_was_silent_for_weeks_does_not_keep_the_connection_for_weeks_more() {
    const HALF_A_DAY: u64 = 43_200_000;
    let mut bench = Bench::new(64, 100);
    bench.table.set_timeouts(&Timeouts { udp_unreplied_ms: 2 * HALF_A_DAY as u32, ..Timeouts::default() });
    let tuple = tuple(1, UDP);
    bench.open_new(&tuple, at(0));
    for half_days in 1..60 {
        let now = at(half_days * HALF_A_DAY);
        let hit = bench.find(&tuple, now).unwrap();
        bench.table.v4.account(hit, 100, now);
        assert_eq!(bench.sweep_all(now), []);
    }
    assert_eq!(bench.sweep_all(at(63 * HALF_A_DAY)).len(), 1);
}

#[test]
fn removing_gives_the_summary_to_exactly_one_caller() {
    let mut bench = Bench::new(16, 100);
    let tuple = tuple(1, UDP);
    let hit = bench.open_new(&tuple, at(0));
    let summary = bench.table.v4.remove(&mut bench.worker, hit, at(7)).unwrap();
    assert_eq!((summary.end, summary.stamp.rule), (Some(End::Removed), RuleId(7)));
    assert_eq!((summary.tuple.source_port, summary.idle_ms), (40_000, 7));
    assert_eq!(bench.table.v4.remove(&mut bench.worker, hit, at(7)), None);
    assert_eq!(bench.find(&tuple, at(7)), None);
    // The same slot and, later, the same entry: the old hit stays dead.
    for round in 0..200 {
        bench.worker.quiesce();
        let again = bench.open_new(&tuple, at(8));
        assert_eq!(bench.table.v4.remove(&mut bench.worker, hit, at(8)), None, "{round}");
        assert!(bench.table.v4.remove(&mut bench.worker, again, at(8)).is_some());
    }
}

#[test]
fn a_stamp_changes_as_a_whole_or_not_at_all() {
    let mut bench = Bench::new(16, 100);
    let hit = bench.open_new(&tuple(1, UDP), at(0));
    let v4 = &bench.table.v4;
    let first = v4.stamp(hit);
    assert_eq!(
        first,
        Stamp {
            generation: Generation(1),
            rule: RuleId(7),
            egress: Some(PortId(4)),
            valid_until: 0,
            bearer: Bearer::NONE
        }
    );
    let second = Stamp {
        generation: Generation(2),
        rule: RuleId(8),
        egress: None,
        valid_until: 77,
        bearer: Bearer(5),
    };
    assert!(v4.restamp(hit, first, second));
    assert_eq!(v4.stamp(hit), second);
    assert!(!v4.restamp(hit, first, first));
    assert_eq!(v4.stamp(hit), second);
    // By another session, in the same generation: and then not by the first once more.
    let third = Stamp { rule: RuleId(9), bearer: Bearer(6), ..second };
    assert!(v4.restamp(hit, second, third));
    assert!(!v4.restamp(hit, second, Stamp { bearer: Bearer(7), ..second }));
    assert_eq!(v4.stamp(hit), third);
}

#[test]
fn a_udp_reply_ends_being_half_open_and_an_echo_request_from_the_responder_is_refused() {
    let mut bench = Bench::new(16, 100);
    let udp = tuple(1, UDP);
    bench.open_new(&udp, at(0));
    assert_eq!(bench.table.half_open(), 1);
    let v4 = &bench.table.v4;
    let reply = bench.find(&udp.reverse(), at(1)).unwrap();
    assert_eq!(v4.track_other(reply, &Transport::Udp, at(1)), Ok(Track::Established));
    assert_eq!(v4.track_other(reply, &Transport::Udp, at(1)), Ok(Track::Passed));
    assert_eq!(bench.table.half_open(), 0);

    let echo = Tuple { source_port: 9, destination_port: 9, ..tuple(1, protocol::ICMP) };
    let request = bench.open_new(&echo, at(0));
    let v4 = &bench.table.v4;
    let reply = bench.find(&echo.reverse(), at(1)).unwrap();
    assert_eq!(reply.direction, Direction::Reply);
    assert_eq!(v4.track_other(request, &Transport::EchoRequest, at(1)), Ok(Track::Passed));
    assert_eq!(v4.track_other(request, &Transport::EchoReply, at(1)), Err(Reason::NoConnection));
    assert_eq!(v4.track_other(reply, &Transport::EchoRequest, at(1)), Err(Reason::NoConnection));
    assert_eq!(v4.track_other(reply, &Transport::EchoReply, at(1)), Ok(Track::Established));
}

#[test]
fn syn_retransmissions_do_not_keep_a_half_open_connection_for_ever() {
    let mut bench = Bench::new(16, 100);
    let tuple = tuple(1, TCP);
    bench.open_new(&tuple, at(0));
    let limit = u64::from(Timeouts::default().tcp_handshake_ms);
    for ms in (0..=limit).step_by(1000) {
        assert_eq!(bench.track(&tuple, segment(SYN, 100, 0, 0), at(ms)), Ok(Track::Passed));
        let hit = bench.find(&tuple, at(ms)).unwrap();
        bench.table.v4.account(hit, 40, at(ms));
    }
    assert_eq!(bench.find(&tuple, at(limit + 1)), None);
    // The answer starts a time of its own.
    bench.open_new(&tuple, at(limit + 1));
    let reply = segment(SYN | ACK, 500, 101, 0);
    assert_eq!(bench.track(&tuple.reverse(), reply, at(2 * limit)), Ok(Track::Passed));
    assert!(bench.find(&tuple, at(3 * limit)).is_some());
    assert!(bench.find(&tuple, at(3 * limit + 1)).is_none());
}

#[test]
fn a_whole_tcp_life_moves_the_counters_and_frees_everything() {
    let mut bench = Bench::new(16, 100);
    let tuple = tuple(1, TCP);
    bench.establish(&tuple, at(0));
    assert_eq!((bench.table.len(), bench.table.half_open()), (1, 0));
    let reply = tuple.reverse();
    assert_eq!(bench.track(&tuple, segment(ACK, 101, 501, 1000), at(1)), Ok(Track::Passed));
    assert_eq!(bench.track(&reply, segment(ACK, 501, 1101, 500), at(2)), Ok(Track::Passed));
    assert_eq!(bench.track(&tuple, segment(FIN | ACK, 1101, 1001, 0), at(3)), Ok(Track::Closing));
    assert_eq!(bench.track(&reply, segment(FIN | ACK, 1001, 1102, 0), at(4)), Ok(Track::Passed));
    assert_eq!(bench.track(&tuple, segment(ACK, 1102, 1002, 0), at(5)), Ok(Track::Closed));
    let limit = u64::from(Timeouts::default().tcp_time_wait_ms);
    assert!(bench.find(&tuple, at(5 + limit)).is_some());
    assert_eq!(bench.sweep_all(at(6 + limit)).len(), 1);
    assert_eq!((bench.table.len(), bench.table.half_open()), (0, 0));
}

#[test]
fn an_icmp_error_must_quote_data_in_flight() {
    let mut bench = Bench::new(16, 100);
    let tuple = tuple(1, TCP);
    let quote = |bench: &Bench, tuple: &Tuple<Ipv4Addr>, sequence| {
        let hit = bench.table.v4.find_quote(tuple, at(1)).unwrap();
        bench.table.v4.check_quote_sequence(hit, hit.direction, sequence)
    };
    bench.open_new(&tuple, at(0));
    assert!(quote(&bench, &tuple, 100) && !quote(&bench, &tuple, 99) && !quote(&bench, &tuple, 102));
    let hit = bench.find(&tuple, at(0)).unwrap();
    assert!(bench.table.v4.remove(&mut bench.worker, hit, at(0)).is_some());
    bench.establish(&tuple, at(0));
    assert_eq!(bench.track(&tuple, segment(ACK, 101, 501, 1000), at(1)), Ok(Track::Passed));
    for (sequence, fits) in [(100, false), (101, true), (1100, true), (1101, true), (1102, false)] {
        assert_eq!(quote(&bench, &tuple, sequence), fits, "{sequence}");
    }
    assert!(quote(&bench, &tuple.reverse(), 501) && !quote(&bench, &tuple.reverse(), 502));
}

#[test]
fn an_icmp_error_about_a_syn_ack_passes_though_a_reset_came_instead_of_the_third_step() {
    let mut bench = Bench::new(16, 100);
    let tuple = tuple(1, TCP);
    bench.open_new(&tuple, at(0));
    let syn_ack = segment(SYN | ACK, 500, 101, 0);
    assert_eq!(bench.track(&tuple.reverse(), syn_ack, at(0)), Ok(Track::Passed));
    assert_eq!(bench.track(&tuple, segment(RST, 101, 0, 0), at(1)), Ok(Track::Closed));
    let hit = bench.table.v4.find_quote(&tuple.reverse(), at(1)).unwrap();
    for (sequence, fits) in [(499, false), (500, true), (501, true), (502, false)] {
        assert_eq!(bench.table.v4.check_quote_sequence(hit, hit.direction, sequence), fits, "{sequence}");
    }
}

#[test]
fn the_half_open_share_is_exact_and_the_oldest_handshake_makes_room() {
    let mut bench = Bench::new(32, 25);
    for client in 0..8 {
        bench.open_new(&tuple(client, TCP), at(u64::from(client)));
    }
    assert_eq!(bench.table.half_open(), 8);
    // The sample covers this whole little table, so the oldest is really the oldest.
    for client in 8..28 {
        bench.open_new(&tuple(client, TCP), at(u64::from(client)));
        bench.worker.quiesce();
        assert_eq!((bench.table.half_open(), bench.table.len()), (8, 8));
        assert!(bench.find(&tuple(client - 8, TCP), at(30)).is_none());
        assert!(bench.find(&tuple(client - 7, TCP), at(30)).is_some());
    }
    let ended = bench.sweep_all(at(30));
    assert_eq!(ended.len(), 20);
    assert!(ended.iter().all(|s| s.end == Some(End::Evicted)));
}

#[test]
fn what_a_flood_leaves_unanswered_is_gone_half_a_minute_later_and_what_was_answered_stays() {
    let limits = Timeouts::default();
    for (protocol, answer, limit) in [
        (UDP, Transport::Udp, u64::from(limits.udp_unreplied_ms)),
        (protocol::ICMP, Transport::EchoReply, u64::from(limits.icmp_ms)),
    ] {
        let (waiting, mut bench) = (entry::first_state(protocol), Bench::new(32, 25));
        let ends = |ended: Vec<Summary>| ended.iter().map(|s| (s.end.unwrap(), s.state)).collect::<Vec<_>>();
        for client in 0..8 {
            bench.open_new(&tuple(client, protocol), at(0));
        }
        // As many as may wait; nobody was without a place.
        assert_eq!(bench.sweep_all(at(31_000)), []);
        let answered = bench.open_new(&tuple(8, protocol), at(31_000));
        let reply = Hit { direction: Direction::Reply, ..answered };
        assert_eq!(bench.table.v4.track_other(reply, &answer, at(31_000)), Ok(Track::Established));
        bench.open_new(&tuple(9, protocol), at(31_000));
        let mut left = vec![(End::Expired, waiting); 8];
        left[0].0 = End::Evicted;
        assert_eq!(ends(bench.sweep_all(at(31_000))), left);
        assert_eq!(bench.sweep_all(at(61_000)), []);
        assert_eq!(ends(bench.sweep_all(at(61_001))), [(End::Expired, waiting)]);
        assert_eq!((bench.table.len(), bench.table.half_open()), (1, 0));
        assert!(bench.find(&tuple(8, protocol), at(61_001)).is_some());
        // A minute after the last time without a place all is as before.
        bench.open_new(&tuple(10, protocol), at(61_001));
        assert!(bench.sweep_all(at(61_001 + limit)).iter().all(|s| s.state != waiting));
        assert_eq!(ends(bench.sweep_all(at(61_002 + limit))), [(End::Expired, waiting)]);
    }
}

#[test]
fn a_source_has_its_own_share_of_the_half_open_and_gets_it_back_however_they_end() {
    let table = Arc::new(Table::new(&TableConfig { half_open_per_source: 3, ..config(64, 50) }));
    let mut bench = Bench { worker: table.worker().unwrap(), table };
    // All of one client, to different ports.
    let to = |port: u16, protocol| Tuple { destination_port: port, ..tuple(1, protocol) };
    for port in 0..3 {
        bench.open_new(&to(port, TCP), at(0));
    }
    let full = Err(Reason::HalfOpenSourceLimit);
    assert_eq!(bench.open(&to(9, TCP), at(0)), full);
    assert_eq!(bench.open(&to(9, UDP), at(0)), full);
    assert_eq!(bench.table.evicted(), 0);
    // Another source has its own.
    bench.open_new(&tuple(2, TCP), at(0));
    // Established, reset, killed, expired: each gives exactly one place back.
    assert_eq!(bench.track(&to(0, TCP).reverse(), segment(SYN | ACK, 500, 101, 0), at(1)), Ok(Track::Passed));
    assert_eq!(bench.open(&to(9, TCP), at(1)), full);
    assert_eq!(bench.track(&to(0, TCP), segment(ACK, 101, 501, 0), at(1)), Ok(Track::Established));
    bench.open_new(&to(3, TCP), at(2));
    assert_eq!(bench.track(&to(1, TCP).reverse(), segment(RST | ACK, 0, 101, 0), at(2)), Ok(Track::Closed));
    bench.open_new(&to(4, UDP), at(3));
    let hit = bench.find(&to(4, UDP), at(3)).unwrap();
    bench.table.v4.remove(&mut bench.worker, hit, at(3)).unwrap();
    bench.open_new(&to(5, UDP), at(4));
    assert_eq!(bench.open(&to(9, TCP), at(4)), full);
    // By now the handshakes have run out.
    bench.sweep_all(at(40_000));
    for port in 10..12 {
        bench.open_new(&to(port, TCP), at(40_000));
    }
    assert_eq!(bench.open(&to(9, TCP), at(40_000)), full);
    bench.sweep_all(at(1_000_000));
    assert_eq!((bench.table.half_open(), bench.table.len()), (0, 1));
}

/// With a share so small that looking at a bounded number of slots finds no candidate, the newcomer is refused.
#[test]
fn a_newcomer_for_whom_no_half_open_connection_is_found_is_refused_within_bounds() {
    let mut bench = Bench::new(1 << 16, 1);
    let limit = bench.table.v4.half_open_limit();
    let (mut refused, mut opened) = (0, 0);
    for client in 0..3 * limit {
        match bench.open(&tuple(client, UDP), at(u64::from(client))) {
            Ok(_) => opened += 1,
            Err(Reason::HalfOpenLimit) => refused += 1,
            other => panic!("{other:?}"),
        }
        bench.table.sweep(&mut bench.worker, at(0), 0, &mut |_| ());
        bench.worker.quiesce();
    }
    assert_eq!(bench.table.half_open(), limit);
    assert_eq!(bench.table.evicted(), u64::from(opened - limit));
    assert!(refused > 0 && refused < limit / 2, "{refused} of {limit}");
}

#[test]
fn what_is_evicted_gives_its_source_the_place_back() {
    let table = Arc::new(Table::new(&TableConfig { half_open_per_source: 2, ..config(32, 25) }));
    let mut bench = Bench { worker: table.worker().unwrap(), table };
    for client in 0..400 {
        bench.open_new(&tuple(client % 20, UDP), at(u64::from(client)));
        bench.sweep_all(at(u64::from(client)));
    }
    assert_eq!((bench.table.half_open(), bench.table.evicted()), (8, 392));
}

#[test]
fn a_full_table_refuses_and_never_ends_an_established_connection() {
    let mut bench = Bench::new(32, 100);
    for client in 0..32 {
        bench.establish(&tuple(client, TCP), at(0));
    }
    assert_eq!(bench.open(&tuple(99, TCP), at(1)), Err(Reason::TableFull));
    assert_eq!((bench.table.len(), bench.table.half_open()), (32, 0));
    // One that was reset gives way, and then the half-open newcomer does.
    assert_eq!(bench.track(&tuple(5, TCP), segment(RST, 101, 0, 0), at(1)), Ok(Track::Closed));
    bench.open_new(&tuple(99, TCP), at(2));
    bench.open_new(&tuple(98, TCP), at(3));
    assert!(bench.find(&tuple(99, TCP), at(3)).is_none());
    assert_eq!((bench.table.len(), bench.table.half_open()), (32, 1));
    for client in (0..32).filter(|&c| c != 5) {
        assert!(bench.find(&tuple(client, TCP), at(3)).is_some(), "{client}");
    }
    // When the established ones have run out, they make room at once.
    let later = at(3 + 7_440_000);
    bench.open_new(&tuple(97, TCP), later);
}

#[test]
fn a_table_takes_its_full_capacity_and_a_flood_only_ends_its_own() {
    let mut bench = Bench::new(10_000, 10);
    for client in 0..9000 {
        bench.establish(&tuple(client, TCP), at(0));
    }
    for client in 10_000..60_000 {
        let now = at(1 + u64::from(client) / 100);
        bench.open_new(&tuple(client, TCP), now);
        if client % 32 == 0 {
            bench.table.sweep(&mut bench.worker, now, 32, &mut |s| assert_eq!(s.end, Some(End::Evicted)));
            bench.worker.quiesce();
        }
    }
    assert_eq!((bench.table.len(), bench.table.half_open()), (10_000, 1000));
    assert!((0..9000).all(|c| bench.find(&tuple(c, TCP), at(700)).is_some()));
    assert_eq!(bench.table.v4.summaries(0, at(700)).count(), 10_000);
}

#[test]
fn entries_of_a_sleeping_worker_wait_and_a_paused_one_holds_nothing_up() {
    let mut bench = Bench::new(8, 100);
    let mut other = bench.table.worker().unwrap();
    let churn = |bench: &mut Bench, rounds: u32| {
        (0..rounds).all(|_| {
            let Ok(Opened::New(hit)) = bench.open(&tuple(1, UDP), at(0)) else { return false };
            bench.table.v4.remove(&mut bench.worker, hit, at(0)).unwrap();
            bench.worker.quiesce();
            true
        })
    };
    let churn = |bench: &mut Bench, rounds| {
        bench.worker.quiesce();
        churn(bench, rounds)
    };
    assert!(!churn(&mut bench, 10_000), "the other worker might still hold references");
    other.quiesce();
    assert!(churn(&mut bench, 100));
    other.pause();
    assert!(churn(&mut bench, 10_000));
    other.quiesce();
    assert!(!churn(&mut bench, 10_000));
    drop(other);
    assert!(churn(&mut bench, 10_000));
}

#[test]
fn a_worker_that_goes_leaves_its_entries_to_the_others() {
    let table = table(64, 100);
    for round in 0..200 {
        let mut worker = table.worker().unwrap();
        for client in 0..64 {
            let tuple = tuple(client, UDP);
            let opened = table.v4.open(&mut worker, table.v4.hash(&tuple), &tuple, &opening(at(0), None));
            let Ok(Opened::New(hit)) = opened else { panic!("{round}: {opened:?}") };
            table.v4.remove(&mut worker, hit, at(0)).unwrap();
        }
        worker.quiesce();
    }
    let taken: Vec<_> = std::iter::from_fn(|| table.worker()).collect();
    assert_eq!(taken.len(), 4 + CONTROL_WORKERS);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Open(u32),
    Find(u32, bool),
    Account(u32, bool),
    Remove(u32),
    Wait(u16),
    Sweep,
    Quiesce,
}

fn op() -> impl Strategy<Value = Op> {
    let client = 0..40u32;
    prop_oneof![
        4 => client.clone().prop_map(Op::Open),
        4 => (client.clone(), any::<bool>()).prop_map(|(c, r)| Op::Find(c, r)),
        4 => (client.clone(), any::<bool>()).prop_map(|(c, r)| Op::Account(c, r)),
        2 => client.prop_map(Op::Remove),
        2 => any::<u16>().prop_map(Op::Wait),
        1 => Just(Op::Sweep),
        1 => Just(Op::Quiesce),
    ]
}

proptest! {
    #[test]
    fn the_table_does_what_a_plain_map_does(ops in prop::collection::vec(op(), 1..300)) {
        let mut bench = Bench::new(64, 100);
        let limit = u64::from(Timeouts::default().udp_unreplied_ms);
        // Client → last seen, packets by direction.
        let mut model: HashMap<u32, (u64, [u64; 2])> = HashMap::new();
        let mut ms = 0u64;
        let mut ended = 0u64;
        let mut opened = 0u64;
        for op in ops {
            let alive = |model: &HashMap<u32, (u64, [u64; 2])>, c: u32| {
                model.get(&c).is_some_and(|&(seen, _)| ms - seen <= limit)
            };
            match op {
                Op::Open(c) => match bench.open(&tuple(c, UDP), at(ms)).unwrap() {
                    Opened::New(_) => {
                        prop_assert!(!alive(&model, c));
                        model.insert(c, (ms, [0, 0]));
                        opened += 1;
                    }
                    Opened::Existing(_) => prop_assert!(alive(&model, c)),
                },
                Op::Find(c, reply) | Op::Account(c, reply) => {
                    let tuple = if reply { tuple(c, UDP).reverse() } else { tuple(c, UDP) };
                    let hit = bench.find(&tuple, at(ms));
                    prop_assert_eq!(hit.is_some(), alive(&model, c));
                    if let (Some(hit), Op::Account(..)) = (hit, op) {
                        bench.table.v4.account(hit, 1, at(ms));
                        let entry = model.get_mut(&c).unwrap();
                        entry.0 = ms;
                        entry.1[usize::from(reply)] += 1;
                    }
                }
                Op::Remove(c) => {
                    let summary = bench
                        .find(&tuple(c, UDP), at(ms))
                        .and_then(|hit| bench.table.v4.remove(&mut bench.worker, hit, at(ms)));
                    prop_assert_eq!(summary.map(|s| s.packets), alive(&model, c).then(|| model[&c].1));
                    if summary.is_some() {
                        model.remove(&c);
                        ended += 1;
                    }
                }
                Op::Wait(units) => ms += u64::from(units) * 4,
                Op::Sweep => {
                    let gone = bench.sweep_all(at(ms));
                    prop_assert!(gone.iter().all(|s| s.end == Some(End::Expired)));
                    ended += gone.len() as u64;
                    model.retain(|_, (seen, _)| ms - *seen <= limit);
                    prop_assert_eq!(bench.table.len() as usize, model.len());
                }
                Op::Quiesce => bench.worker.quiesce(),
            }
        }
        ended += bench.sweep_all(at(ms)).len() as u64;
        prop_assert_eq!(u64::from(bench.table.len()), opened - ended);
        prop_assert_eq!(bench.table.half_open(), bench.table.len());
        prop_assert_eq!(bench.table.v4.summaries(0, at(ms)).count() as u64, opened - ended);
    }
}

#[test]
fn first_packets_of_both_directions_at_once_give_exactly_one_entry() {
    const TUPLES: u32 = 4000;
    // Twice the room: a loser's reservation must not have to evict.
    let table = table(2 * TUPLES, 100);
    let new = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (table, new) = (&table, &new);
            let mut worker = table.worker().unwrap();
            scope.spawn(move || {
                for client in 0..TUPLES {
                    let forward = tuple(client, UDP);
                    let tuple = if thread % 2 == 0 { forward } else { forward.reverse() };
                    let hash = table.v4.hash(&tuple);
                    match table.v4.open(&mut worker, hash, &tuple, &opening(at(0), None)).unwrap() {
                        Opened::New(_) => drop(new.fetch_add(1, Ordering::Relaxed)),
                        Opened::Existing(hit) => {
                            let (original, _) = table.v4.original(hit);
                            assert!(original == forward || original == forward.reverse());
                        }
                    }
                    if client % 16 == 0 {
                        worker.quiesce();
                    }
                }
            });
        }
    });
    assert_eq!(new.into_inner(), TUPLES);
    assert_eq!((table.len(), table.half_open()), (TUPLES, TUPLES));
    assert_eq!(table.v4.summaries(0, at(0)).count() as u32, TUPLES);
}

#[test]
fn churn_never_lets_a_worker_see_or_count_into_a_foreign_connection() {
    let table = table(64, 100);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for thread in 0..4u32 {
            let table = &table;
            let mut worker = table.worker().unwrap();
            threads.push(scope.spawn(move || {
                let mut seed = thread + 1;
                let (mut opened, mut removed) = (0u64, 0u64);
                for round in 0..60_000u32 {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let client = seed >> 16 & 31;
                    let tuple = tuple(client, UDP);
                    let hash = table.v4.hash(&tuple);
                    match table.v4.find(hash, &tuple, at(0)) {
                        Some(hit) => {
                            // Every packet of this client has client + 1 bytes.
                            table.v4.account(hit, client as usize + 1, at(0));
                            assert_eq!(table.v4.original(hit).0, tuple);
                            if seed >> 24 & 3 == 0 {
                                removed += u64::from(table.v4.remove(&mut worker, hit, at(0)).is_some());
                            }
                        }
                        None => {
                            let opened_now = table.v4.open(&mut worker, hash, &tuple, &opening(at(0), None));
                            opened += u64::from(matches!(opened_now, Ok(Opened::New(_))));
                        }
                    }
                    if round % 32 == 0 {
                        table.sweep(&mut worker, at(0), 8, &mut |s| panic!("{s:?}"));
                        worker.quiesce();
                    }
                }
                (opened, removed)
            }));
        }
        // Somebody who is no worker copies entries all the time.
        let lister = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (_, summary) in table.v4.summaries(0, at(0)) {
                    let std::net::IpAddr::V4(source) = summary.tuple.source else { panic!() };
                    let bytes = u64::from(source.to_bits() - 0x0a01_0000) + 1;
                    assert_eq!(summary.bytes[0] % bytes, 0, "{summary:?}");
                    assert_eq!(summary.tuple.destination, Ipv4Addr::new(10, 2, 0, 1));
                }
            }
        });
        let (opened, removed) = threads
            .into_iter()
            .map(|t| t.join().unwrap())
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        stop.store(true, Ordering::Relaxed);
        lister.join().unwrap();
        assert!(opened > 1000, "{opened}");
        assert_eq!(u64::from(table.len()), opened - removed);
        assert_eq!(table.half_open(), table.len());
        assert_eq!(table.v4.summaries(0, at(0)).count(), table.len() as usize);
    });
}
