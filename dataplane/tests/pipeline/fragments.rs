//! Fragments through the worker's loop in memory: what needs an exact clock, a full store or several workers.

use bulkhead_dataplane::packet::MemoryFrame;
use bulkhead_dataplane::policy::{Action, Service};
use bulkhead_dataplane::verdict::Reason;
use bulkhead_dataplane::worker::HOLD_NS;
use proptest::prelude::*;

use crate::SECOND;
use crate::gateway::{CLIENT, CLIENTS, Family, Gateway, SERVER, SERVERS, allow, ip, rule};

#[path = "../../../tests/fuzz/invariants/fragments.rs"]
mod invariants;

use invariants::{Seen, fix_checksum, fragment};

/// The fuzz target's invariants as ordinary tests: over the committed inputs, and over random programs.
#[test]
fn every_committed_program_of_fragments_keeps_the_invariants() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/seeds/fragments");
    let seeds: Vec<_> = std::fs::read_dir(seeds).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!seeds.is_empty());
    for seed in seeds {
        invariants::check(&std::fs::read(seed).unwrap());
    }
}

/// The random programs below are not about nothing.
#[test]
fn f1_to_f7_random_programs_forward_refuse_overlap_repeat_and_time_out() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut sum = Seen::default();
    for _ in 0..100 {
        let program = programs().new_tree(&mut runner).unwrap().current();
        let seen = invariants::check(&program);
        sum.forwarded += seen.forwarded;
        sum.refused += seen.refused;
        sum.overlaps += seen.overlaps;
        sum.copies += seen.copies;
        sum.timeouts += seen.timeouts;
    }
    for count in [sum.forwarded, sum.refused, sum.overlaps, sum.copies, sum.timeouts] {
        assert!(count > 20, "{sum:?}");
    }
}

fn programs() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn f1_to_f7_any_pieces_in_any_order_get_the_verdict_of_the_whole_packet(program in programs()) {
        invariants::check(&program);
    }
}

/// A frame's IP packet in fragments of this many bytes each.
fn pieces(whole: &[u8], id: u32, bytes: usize) -> Vec<Vec<u8>> {
    let content = whole.len() - if whole[12..14] == [8, 0] { 34 } else { 54 };
    let starts = (0..content).step_by(bytes);
    starts
        .map(|start| fragment(whole, id, start..content.min(start + bytes), start + bytes < content))
        .collect()
}

/// A datagram from the client to this UDP port of the server.
fn datagram(family: Family, port: u16, bytes: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..bytes).map(|at| (at / 7) as u8).collect();
    let mut frame = Vec::new();
    ip(CLIENT, family).udp(1000, port).write(&mut frame, &payload).unwrap();
    frame
}

fn put_all(gateway: &mut Gateway, frames: &[Vec<u8>]) {
    for frame in frames {
        gateway.put(CLIENTS, frame);
    }
}

/// How many frames left towards the servers, each the fragment of its place in `frames`.
fn left_as(gateway: &mut Gateway, frames: &[Vec<u8>]) -> usize {
    let sent: Vec<_> = std::iter::from_fn(|| gateway.sent_by(SERVERS)).collect();
    for (sent, frame) in sent.iter().zip(frames) {
        assert_eq!(sent.len(), frame.len());
        assert_eq!(sent[34..], frame[34..]);
    }
    sent.len()
}

fn with_hop_limit(mut frame: Vec<u8>, hops: u8) -> Vec<u8> {
    if frame[12..14] == [8, 0] {
        frame[22] = hops;
        fix_checksum(&mut frame);
    } else {
        frame[21] = hops;
    }
    frame
}

const NAMES: Service = Service::Udp(53, 53);
const MILLISECOND: u64 = 1_000_000;

#[test]
fn f5_a_half_datagram_waits_to_the_millisecond_from_its_first_piece_on() {
    for family in Family::BOTH {
        let mut gateway = Gateway::new(&[allow(NAMES)]);
        let frames = pieces(&datagram(family, 53, 1000), 1, 400);
        gateway.put(CLIENTS, &frames[0]);
        gateway.advance(10 * SECOND);
        gateway.put(CLIENTS, &frames[1]);
        gateway.advance(20 * SECOND - MILLISECOND);
        assert_eq!(gateway.ledger().held, 2);
        gateway.advance(MILLISECOND);
        gateway.assert_ledger(&[(Reason::FragmentTimeout, 2)]);
        gateway.put(CLIENTS, &frames[2]);
        assert_eq!((left_as(&mut gateway, &[]), gateway.ledger().held), (0, 1));
        // All but the missing first piece of the old time.
        put_all(&mut gateway, &frames[..2]);
        assert_eq!(left_as(&mut gateway, &[frames[2].clone(), frames[0].clone(), frames[1].clone()]), 3);
    }
}

#[test]
fn f2_a_datagram_is_judged_by_the_policy_in_force_when_it_is_whole() {
    for family in Family::BOTH {
        let mut gateway = Gateway::new(&[allow(NAMES)]);
        let frames = pieces(&datagram(family, 53, 1000), 1, 400);
        put_all(&mut gateway, &frames[..2]);
        gateway.publish(&[]);
        put_all(&mut gateway, &frames[2..]);
        gateway.assert_ledger(&[(Reason::NoRule, 3)]);
        put_all(&mut gateway, &frames[..2]);
        gateway.publish(&[allow(NAMES)]);
        put_all(&mut gateway, &frames[2..]);
        assert_eq!(left_as(&mut gateway, &frames), 3);
        // And of a live connection, whose permission has gone meanwhile.
        let frames = pieces(&datagram(family, 53, 1000), 2, 400);
        put_all(&mut gateway, &frames[..2]);
        gateway.publish(&[]);
        put_all(&mut gateway, &frames[2..]);
        gateway.assert_ledger(&[(Reason::NoRule, 3), (Reason::PolicyRevoked, 3)]);
    }
}

#[test]
fn f1_a_datagram_waits_for_its_next_hop_as_a_packet_does() {
    for family in Family::BOTH {
        let mut gateway = Gateway::new(&[allow(NAMES)]);
        let mut neighbours = Vec::new();
        gateway.change_topology(|spec| neighbours = std::mem::take(&mut spec.neighbours));
        let frames = pieces(&datagram(family, 53, 1000), 1, 400);
        put_all(&mut gateway, &frames);
        assert_eq!((left_as(&mut gateway, &[]), gateway.ledger().held), (0, 3));
        assert_eq!(gateway.unresolved().len(), 1);
        // Asked for once, however often it is judged in vain.
        gateway.change_topology(|_| ());
        assert_eq!((gateway.unresolved().len(), gateway.ledger().held), (0, 3));
        // A copy and an overlap while it waits.
        gateway.put(CLIENTS, &frames[1]);
        gateway.change_topology(|spec| spec.neighbours = neighbours.clone());
        assert_eq!(left_as(&mut gateway, &frames), 3);
        gateway.assert_ledger(&[(Reason::FragmentDuplicate, 1)]);
        // The next one is forbidden while it waits, the last one gets no answer.
        gateway.change_topology(|spec| spec.neighbours.clear());
        put_all(&mut gateway, &pieces(&datagram(family, 53, 1000), 2, 400));
        gateway.publish(&[]);
        gateway.assert_ledger(&[(Reason::FragmentDuplicate, 1), (Reason::PolicyRevoked, 3)]);
        gateway.publish(&[allow(NAMES)]);
        put_all(&mut gateway, &pieces(&datagram(family, 53, 1000), 3, 400));
        gateway.advance(HOLD_NS - MILLISECOND);
        assert_eq!(gateway.ledger().held, 3);
        gateway.advance(MILLISECOND);
        gateway.assert_ledger(&[
            (Reason::FragmentDuplicate, 1),
            (Reason::PolicyRevoked, 3),
            (Reason::HeldTooLong, 3),
        ]);
        let answer = gateway.sent_by(CLIENTS).expect("the sender is told once");
        assert_eq!(
            answer[if family == Family::V4 { 34 } else { 54 }],
            if family == Family::V4 { 3 } else { 1 }
        );
        assert_eq!(gateway.sent_by(CLIENTS), None);
        assert_eq!(gateway.ledger().answered, 1);
    }
}

#[test]
fn g12_g14_every_fragment_must_fit_the_egress_and_survive_its_hop_and_the_sender_is_told_of_the_first() {
    for family in Family::BOTH {
        let (icmp, too_big, exceeded) = if family == Family::V4 { (34, 3, 11) } else { (54, 2, 3) };
        let mut gateway = Gateway::new(&[allow(NAMES)]);
        let first_hop_on_last = {
            let mut frames = pieces(&datagram(family, 53, 1000), 1, 400);
            frames[2] = with_hop_limit(frames[2].clone(), 1);
            frames
        };
        put_all(&mut gateway, &first_hop_on_last);
        gateway.assert_ledger(&[(Reason::HopLimitExceeded, 3)]);
        let answer = gateway.sent_by(CLIENTS).unwrap();
        assert_eq!(answer[icmp], exceeded);
        // It quotes the first fragment.
        let quoted = &answer[icmp + 8..];
        assert_eq!(quoted[..], first_hop_on_last[0][14..14 + quoted.len()]);
        // The whole would not fit 1,280 bytes; its fragments do.
        gateway.change_topology(|spec| spec.ports.iter_mut().for_each(|port| port.mtu = 1280));
        let frames = pieces(&datagram(family, 53, 1400), 2, 1200);
        put_all(&mut gateway, &frames);
        assert_eq!(left_as(&mut gateway, &frames), 2);
        // Here one does not, and it is not the first.
        let whole = datagram(family, 53, 1400);
        let frames = [fragment(&whole, 3, 0..104, true), fragment(&whole, 3, 104..1408, false)];
        put_all(&mut gateway, &frames);
        gateway.assert_ledger(&[(Reason::HopLimitExceeded, 3), (Reason::PacketTooBig, 2)]);
        match family {
            // Without "don't fragment" nobody is told, as of a packet.
            Family::V4 => assert_eq!(gateway.sent_by(CLIENTS), None),
            Family::V6 => {
                let answer = gateway.sent_by(CLIENTS).unwrap();
                assert_eq!((answer[icmp], &answer[icmp + 4..icmp + 8]), (too_big, &[0, 0, 5, 0][..]));
            }
        }
    }
}

#[test]
fn i12_a_rejected_datagram_is_answered_once() {
    for family in Family::BOTH {
        let mut gateway = Gateway::new(&[rule(Action::Reject, NAMES)]);
        put_all(&mut gateway, &pieces(&datagram(family, 53, 1000), 1, 400));
        gateway.assert_ledger(&[(Reason::RuleRejected, 3)]);
        assert_eq!(gateway.ledger().answered, 1);
        assert!(gateway.sent_by(CLIENTS).is_some() && gateway.sent_by(CLIENTS).is_none());
    }
}

#[test]
fn f1_the_largest_datagram_crosses_and_one_of_65_pieces_does_not() {
    for family in Family::BOTH {
        let mut gateway = Gateway::new(&[allow(NAMES)]);
        // 65,535 bytes of IPv4 packet; of IPv6 payload.
        let largest = if family == Family::V4 { 65_535 - 20 - 8 } else { 65_535 - 8 };
        let frames = pieces(&datagram(family, 53, largest), 1, 1400);
        assert_eq!(frames.len(), 47);
        put_all(&mut gateway, &frames);
        assert_eq!(left_as(&mut gateway, &frames), 47);
        let frames = pieces(&datagram(family, 53, 64 * 8 - 8), 2, 8);
        put_all(&mut gateway, &frames);
        assert_eq!((frames.len(), left_as(&mut gateway, &frames)), (64, 64));
        let frames = pieces(&datagram(family, 53, 65 * 8 - 8), 3, 8);
        put_all(&mut gateway, &frames);
        gateway.assert_ledger(&[(Reason::FragmentLimit, 65)]);
    }
}

#[test]
fn f15_pieces_that_arrive_by_different_workers_get_the_verdict_of_the_whole_from_one() {
    for family in Family::BOTH {
        let mut workers = Gateway::pair(&[allow(NAMES)]);
        let mut forwarded = [0, 0];
        for id in 0..40_u16 {
            let port = if id % 4 == 3 { 54 } else { 53 };
            let frames = pieces(&datagram(family, port, 1000), id.into(), 400);
            for (at, frame) in frames.iter().enumerate() {
                // Two by one worker, one by the other, in turns.
                let receiver = (at + usize::from(id)) & 1;
                workers[receiver].port(CLIENTS).incoming.push_back(MemoryFrame::new(frame));
                workers[receiver].turn();
                workers[1 - receiver].turn();
            }
            let sent = [0, 1].map(|worker| left_as(&mut workers[worker], &frames));
            let expected = if port == 53 { 3 } else { 0 };
            assert!(sent == [expected, 0] || sent == [0, expected], "{sent:?}");
            forwarded[0] += sent[0];
            forwarded[1] += sent[1];
        }
        assert!(forwarded.iter().all(|count| *count > 15), "both own datagrams: {forwarded:?}");
        let ledgers = [0, 1].map(|worker| workers[worker].ledger());
        assert!(ledgers.iter().all(|ledger| ledger.is_balanced() && ledger.held == 0));
        assert_eq!(ledgers.iter().map(|ledger| ledger.received).sum::<u64>(), 120);
        let denied: u64 = ledgers.iter().map(|ledger| ledger.dropped[Reason::NoRule as usize]).sum();
        assert_eq!(denied, 30);
    }
}

#[test]
fn f15_a_worker_that_does_not_take_fragments_over_loses_them_and_nothing_else() {
    let [mut taker, mut giver] = Gateway::pair(&[allow(NAMES)]);
    // Only the giver turns.
    let mut handed = 0;
    for id in 0..2000 {
        let first = pieces(&datagram(Family::V4, 53, 1000), id, 400).swap_remove(0);
        giver.port(CLIENTS).incoming.push_back(MemoryFrame::new(&first));
        giver.turn();
        let ledger = giver.ledger();
        assert!(ledger.is_balanced());
        handed = u64::from(id) + 1 - ledger.received;
    }
    assert_eq!(handed, 256, "as much as the queue takes");
    assert!(giver.ledger().dropped[Reason::FragmentLimit as usize] > 500);
    assert!(giver.send(CLIENTS, &datagram(Family::V4, 53, 100)).is_ok());
    (0..4).for_each(|_| taker.turn());
    assert_eq!((taker.ledger().received, taker.ledger().held), (256, 256 - taker_limit(&taker)));
}

/// What gave way in a worker's store.
fn taker_limit(gateway: &Gateway) -> u64 {
    gateway.ledger().dropped[Reason::FragmentLimit as usize]
}

/// The first half of a datagram from an address, by number, behind the clients' port.
fn half(family: Family, source: u32, id: u32) -> Vec<u8> {
    let mut whole = datagram(family, 53, 100);
    match family {
        Family::V4 => {
            whole[26..30].copy_from_slice(&[10, 1, 0, 10 + (source % 200) as u8]);
            fix_checksum(&mut whole);
        }
        Family::V6 => whole[34..38].copy_from_slice(&(source + 10).to_be_bytes()),
    }
    fragment(&whole, id, 0..56, true)
}

#[test]
fn f14_a_flood_of_half_datagrams_takes_no_more_than_its_part_and_honest_ones_cross() {
    // One source, and as many as there are addresses.
    for (family, sources) in Family::BOTH.into_iter().flat_map(|family| [(family, 1), (family, u32::MAX)]) {
        let mut gateway = Gateway::new(&[allow(NAMES)]);
        // A connection that lives.
        gateway.send(CLIENTS, &datagram(family, 53, 10)).unwrap();
        let mut crossed = 0;
        for round in 0..500_u32 {
            let honest = pieces(&datagram(family, 53, 1000), 1 << 24 | round, 400);
            for (at, piece) in honest.iter().enumerate() {
                gateway.put(CLIENTS, piece);
                for n in 0..20_u32 {
                    let number = (round * 3 + at as u32) * 20 + n;
                    gateway.put(CLIENTS, &half(family, number % sources, number));
                }
            }
            crossed += left_as(&mut gateway, &honest);
            gateway.send(CLIENTS, &datagram(family, 53, 10)).unwrap();
            let held = gateway.ledger().held;
            assert!(held <= if sources == 1 { 128 + 3 } else { 512 }, "{held}");
        }
        assert_eq!(crossed, 1500, "every honest datagram crosses");
        // After the flood memory is empty again.
        gateway.advance(30 * SECOND);
        let ledger = gateway.ledger();
        assert!(ledger.is_balanced() && ledger.held == 0);
        let [limit, timeout] =
            [Reason::FragmentLimit, Reason::FragmentTimeout].map(|r| ledger.dropped[r as usize]);
        assert_eq!(limit + timeout, 30_000);
    }
}

#[test]
fn f14_a_slow_honest_datagram_outlives_the_flood_of_another_source_or_port() {
    for family in Family::BOTH {
        let mut gateway = Gateway::new(&[allow(NAMES)]);
        let honest = pieces(&datagram(family, 53, 1000), 1, 400);
        put_all(&mut gateway, &honest[..2]);
        for number in 0..5_000 {
            gateway.put(CLIENTS, &half(family, 0, number));
        }
        put_all(&mut gateway, &honest[2..]);
        assert_eq!(left_as(&mut gateway, &honest), 3);
        // From behind the other port, from as many sources as there are.
        put_all(&mut gateway, &pieces(&datagram(family, 53, 1000), 2, 400)[..2]);
        for number in 0..5_000_u32 {
            let mut frame = half(family, number, number);
            frame[..12].copy_from_slice(&[SERVERS.mac, SERVER.mac].concat());
            // 10.2.0.x to 10.1.0.9, and the like.
            match family {
                Family::V4 => {
                    let source = [10, 2, 0, frame[29].max(10)];
                    frame[30..34].copy_from_slice(&[10, 1, 0, 9]);
                    frame[26..30].copy_from_slice(&source);
                    fix_checksum(&mut frame);
                }
                Family::V6 => {
                    frame[25] = 2;
                    frame[41] = 1;
                }
            }
            assert_ne!(gateway.put(SERVERS, &frame), Some(Reason::SpoofedSource));
        }
        put_all(&mut gateway, &pieces(&datagram(family, 53, 1000), 2, 400)[2..]);
        assert_eq!(left_as(&mut gateway, &pieces(&datagram(family, 53, 1000), 2, 400)), 3);
    }
}

#[test]
fn i1_an_error_about_a_first_fragment_reaches_its_sender_and_one_about_a_later_does_not() {
    for family in Family::BOTH {
        let mut gateway = Gateway::new(&[allow(NAMES)]);
        let frames = pieces(&datagram(family, 53, 1000), 1, 400);
        put_all(&mut gateway, &frames);
        let sent: Vec<_> = std::iter::from_fn(|| gateway.sent_by(SERVERS)).collect();
        for (at, expected) in [(0, true), (1, false)] {
            let mut error = Vec::new();
            let quote = &sent[at][14..];
            match family {
                Family::V4 => ip(SERVER, family).icmpv4_raw(3, 3, [0; 4]).write(&mut error, quote),
                Family::V6 => ip(SERVER, family).icmpv6_raw(1, 4, [0; 4]).write(&mut error, quote),
            }
            .unwrap();
            let reason = gateway.put(SERVERS, &error);
            assert_eq!(gateway.sent_by(CLIENTS).is_some(), expected, "{reason:?}");
            assert_eq!(reason, (!expected).then_some(Reason::IcmpBadQuote));
        }
    }
}

#[test]
fn s3_s14_g10_a_fragment_that_no_packet_could_be_takes_no_memory() {
    for family in Family::BOTH {
        let mut gateway = Gateway::new(&[allow(NAMES)]);
        let first = pieces(&datagram(family, 53, 1000), 1, 400).swap_remove(0);
        // Of another segment's host, but behind this port.
        let mut spoofed = first.clone();
        match family {
            Family::V4 => {
                spoofed[28] = 99;
                fix_checksum(&mut spoofed);
            }
            Family::V6 => spoofed[25] = 9,
        }
        let mut not_for_us = first.clone();
        not_for_us[5] ^= 1;
        let mut to_gateway = first.clone();
        match family {
            Family::V4 => {
                to_gateway[33] = 1;
                fix_checksum(&mut to_gateway);
            }
            Family::V6 => to_gateway[53] = 1,
        }
        let tagged = [&first[..12], &[0x81, 0, 0, 10], &first[12..]].concat();
        // A source route, and a routing header that sends on.
        let (routed, denied) = match family {
            Family::V4 => {
                let option = [131, 7, 4, 10, 2, 0, 9, 0];
                let mut frame = [&first[..34], &option, &first[34..]].concat();
                frame[14] = 0x47;
                frame[17] += 8;
                fix_checksum(&mut frame);
                (frame, Reason::Ipv4SourceRoute)
            }
            Family::V6 => {
                let header = [44, 0, 0, 1, 0, 0, 0, 0];
                let mut frame = [&first[..54], &header, &first[54..]].concat();
                frame[20] = 43;
                frame[18..20].copy_from_slice(&(first.len() as u16 - 54 + 8).to_be_bytes());
                (frame, Reason::Ipv6RoutingHeader)
            }
        };
        for (frame, reason) in [
            (routed, denied),
            (spoofed, Reason::SpoofedSource),
            (not_for_us, Reason::EthernetNotForUs),
            (to_gateway, Reason::LocalServiceUndeclared),
            (tagged, Reason::VlanUnexpected),
        ] {
            assert_eq!(gateway.put(CLIENTS, &frame), Some(reason));
            assert_eq!(gateway.ledger().held, 0);
        }
    }
}
