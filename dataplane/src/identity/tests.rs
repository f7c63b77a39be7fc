use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::policy::conditions::UserId;

const MAC: Mac = [2, 0, 0, 0, 0, 7];
const OTHER: Mac = [2, 0, 0, 0, 0, 8];

fn address(number: u32) -> IpAddr {
    std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

fn user(number: u32) -> Identity {
    Identity { user: Some(UserId(number)), ..Identity::default() }
}

fn occupant(number: u32, stages: &[(u64, u32)]) -> Occupant {
    let stages =
        stages.iter().map(|&(until, who)| Stage { until: Now(until), identity: user(who) }).collect();
    Occupant { address: address(number), mac: None, stages }
}

/// Who is known there: 1,000 stands for somebody whose session has ended.
fn who(slots: &Slots, number: u32, now: u64) -> Option<u32> {
    judged(slots, number, None, now).answer
}

fn judged(slots: &Slots, number: u32, mac: Option<Mac>, now: u64) -> Judged<Option<u32>> {
    slots.judge(address(number), mac, Now(now), |who| match who {
        Who::Nobody => None,
        Who::Expired => Some(1000),
        Who::Known(identity) => identity.user.map(|user| user.0),
    })
}

#[test]
fn stages_follow_each_other_by_the_clock_alone_and_then_the_session_has_ended() {
    let slots = Slots::new(4);
    slots.set(occupant(1, &[(100, 7), (200, 8)])).unwrap();
    assert_eq!(who(&slots, 2, 0), None);
    for (now, expected, until) in [(0, 7, 100), (99, 7, 100), (100, 8, 200), (199, 8, 200)] {
        let judged = judged(&slots, 1, None, now);
        assert_eq!((judged.answer, judged.until), (Some(expected), Now(until)), "at {now}");
        assert!(slots.is_current(judged.bearer));
    }
    let stages = [0, 150].map(|now| judged(&slots, 1, None, now).bearer);
    assert_ne!(stages[0], stages[1], "a connection is stamped anew when the stage changes");
    let ended = judged(&slots, 1, None, 200);
    assert_eq!((ended.answer, ended.bearer), (Some(1000), Bearer::NONE));
}

#[test]
fn what_has_ended_by_the_clock_makes_room_and_is_not_revoked() {
    let slots = Slots::new(1);
    slots.set(occupant(1, &[(100, 7), (200, 8)])).unwrap();
    let bearer = judged(&slots, 1, None, 150).bearer;
    assert!(!slots.forget(address(1), Now(199)) && !slots.forget(address(2), Now(200)));
    assert!(slots.forget(address(1), Now(200)) && !slots.forget(address(1), Now(200)));
    assert!(slots.is_current(bearer), "its connections are cut for their age");
    assert_eq!((who(&slots, 1, 200), slots.len()), (Some(1000), 0));
    slots.set(occupant(2, &[(300, 9)])).unwrap();
    assert_eq!(who(&slots, 2, 200), Some(9));
}

#[test]
fn what_is_set_again_or_ended_is_current_no_more_and_others_are() {
    let slots = Slots::new(4);
    slots.set(occupant(1, &[(100, 7)])).unwrap();
    slots.set(occupant(2, &[(100, 8)])).unwrap();
    let bearers = [1, 2].map(|number| judged(&slots, number, None, 0).bearer);
    slots.set(occupant(1, &[(100, 7)])).unwrap();
    assert_eq!(bearers.map(|bearer| slots.is_current(bearer)), [false, true]);
    let second = judged(&slots, 1, None, 0).bearer;
    assert!(slots.end(address(1)) && !slots.end(address(1)) && !slots.end(address(9)));
    assert!(!slots.is_current(second) && slots.is_current(bearers[1]));
    assert_eq!((who(&slots, 1, 0), slots.len()), (Some(1000), 1));
    // Nothing is current in a table without room, nor does nobody's stamp name a slot.
    assert!(!Slots::default().is_current(second) && !slots.is_current(Bearer::NONE));
}

#[test]
fn another_mac_address_is_somebody_else() {
    let slots = Slots::new(4);
    slots.set(Occupant { mac: Some(MAC), ..occupant(1, &[(100, 7)]) }).unwrap();
    let own = judged(&slots, 1, Some(MAC), 0);
    assert_eq!(own.answer, Some(7));
    let thief = judged(&slots, 1, Some(OTHER), 0);
    assert_eq!((thief.answer, thief.bearer), (None, Bearer::NONE));
    assert!(slots.is_from(own.bearer, MAC) && !slots.is_from(own.bearer, OTHER));
    assert!(slots.is_taken(address(1), OTHER) && !slots.is_taken(address(1), MAC));
    assert!(!slots.is_taken(address(2), OTHER));
    let obeys = |from: Mac, direction| {
        let frame = [&OTHER, &from, &[8, 0][..]].concat();
        slots.obeys(own.bearer, direction, &frame, MAC)
    };
    assert!(obeys(MAC, Direction::Original) && !obeys(OTHER, Direction::Original));
    assert!(obeys(OTHER, Direction::Reply) && !slots.obeys(own.bearer, Direction::Original, &OTHER, MAC));
    assert!(
        !slots.obeys(own.bearer, Direction::Reply, &[0; 14], OTHER),
        "its own frames do not go to another"
    );
    for bit in 0..48 {
        let mut mac = MAC;
        mac[bit / 8] ^= 1 << (bit % 8);
        assert!(!obeys(mac, Direction::Original), "bit {bit} of the address does not count");
    }
    // Also after the session: it is known that somebody was there, and from where.
    slots.end(address(1));
    assert_eq!(judged(&slots, 1, Some(MAC), 0).answer, Some(1000));
    assert_eq!(judged(&slots, 1, Some(OTHER), 0).answer, None);
    // Behind a router all come from one.
    slots.set(occupant(1, &[(100, 7)])).unwrap();
    let routed = judged(&slots, 1, Some(OTHER), 0);
    assert!(routed.answer == Some(7) && slots.is_from(routed.bearer, MAC));
}

#[test]
fn a_full_table_refuses_newcomers_and_keeps_whom_it_has_and_ended_sessions_make_room() {
    let slots = Slots::new(1000);
    for number in 0..1000 {
        slots.set(occupant(number, &[(100, number)])).unwrap();
    }
    assert_eq!(slots.set(occupant(1000, &[(100, 1)])), Err(TooManySessions));
    assert!((0..1000).all(|number| who(&slots, number, 0) == Some(number)));
    slots.set(occupant(5, &[(100, 999)])).unwrap();
    // Many times over, so that nearly every place has had somebody.
    for round in 1..20 {
        for number in 0..1000 {
            assert!(slots.end(address((round - 1) * 1000 + number)));
            slots.set(occupant(round * 1000 + number, &[(100, number)])).unwrap();
        }
    }
    assert_eq!(slots.len(), 1000);
    assert!((0..1000).all(|number| who(&slots, 19_000 + number, 0) == Some(number)));
    assert_eq!(Slots::default().set(occupant(1, &[(100, 1)])), Err(TooManySessions));
}

#[test]
fn what_packets_look_at_lies_together_however_much_room_there_is() {
    let slots = Slots::new(100_000);
    let slot_of = |number| judged(&slots, number, None, 0).bearer.slot();
    for number in 0..100 {
        slots.set(occupant(number, &[(100, number)])).unwrap();
    }
    assert!((0..100).all(|number| slot_of(number) == number as usize));
    // Whoever comes back has the slot that they had; with another version, see above.
    for number in 0..100 {
        assert!(slots.end(address(number)));
        slots.set(occupant(number, &[(100, number)])).unwrap();
    }
    assert!((0..100).all(|number| slot_of(number) == number as usize));
}

/// A revocation that has returned is seen by every judgement that begins after it, and what was judged before is not
/// current: however many there are, and whoever judges meanwhile.
#[test]
fn n6_after_a_million_revocations_none_is_overlooked() {
    const ROUNDS: u64 = 1_000_000;
    let slots = Arc::new(Slots::new(2));
    let (revoked, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (slots, revoked, done) = (slots.clone(), revoked.clone(), done.clone());
            std::thread::spawn(move || {
                let mut judgements = 0u64;
                while !done.load(Ordering::Acquire) {
                    let before = revoked.load(Ordering::Acquire);
                    let judged = judged(&slots, 1, None, 0);
                    // The user's number is the round in which they signed in.
                    if let Some(round) = judged.answer.filter(|_| judged.bearer != Bearer::NONE) {
                        assert!(u64::from(round) >= before, "{round} was revoked before {before}");
                        let is_revoked = revoked.load(Ordering::Acquire) > u64::from(round);
                        assert!(!is_revoked || !slots.is_current(judged.bearer));
                    }
                    judgements += 1;
                }
                judgements
            })
        })
        .collect();
    for round in 0..ROUNDS {
        slots.set(occupant(1, &[(1, round as u32)])).unwrap();
        let bearer = judged(&slots, 1, None, 0).bearer;
        assert!(slots.is_current(bearer));
        assert!(slots.end(address(1)));
        assert!(!slots.is_current(bearer));
        revoked.store(round + 1, Ordering::Release);
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
}
