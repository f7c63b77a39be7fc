//! The store alone: what it holds adds up after anything, also when there is no room.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::headers::{self, Fragment, sample};
use crate::topology::Hop;
use crate::verdict::{Now, PortId, Reason};

const HOP: Hop =
    Hop { port: PortId(1), destination: [2, 9, 9, 9, 9, 9], source: [2, 8, 8, 8, 8, 8], mtu: 1500 };

/// A piece of eight bytes, or of seven if it is the last, of a UDP datagram of some sources, ports and identifications.
fn piece(source: u8, id: u8, at: u8, more: bool, contents: u8) -> (Vec<u8>, Fragment) {
    let mut frame = sample::udp(sample::Family::V4, &[contents; 8]);
    let bytes = if more { 8 } else { 7 };
    frame.truncate(sample::L4 + bytes);
    let frame = sample::changed(&frame, |f| {
        f[sample::IP + 3] = 20 + bytes as u8;
        f[sample::IP + 5] = id;
        f[sample::IP + 6..sample::IP + 8]
            .copy_from_slice(&(u16::from(at) | u16::from(more) << 13).to_be_bytes());
        f[sample::IP + 15] = source;
        f[sample::L4 + 4] = contents;
    });
    let fragment = headers::fragment(&frame).unwrap();
    (frame, fragment)
}

#[derive(Clone, Debug)]
enum Step {
    Insert { port: u8, source: u8, id: u8, at: u8, more: bool, contents: u8 },
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let insert = (0u8..2, 0u8..3, 0u8..40, 0u8..4, prop::bool::weighted(0.7), 0u8..4).prop_map(
        |(port, source, id, at, more, contents)| {
            // A fragment that is first and last is none.
            let more = more || at == 0;
            Step::Insert { port, source, id, at, more, contents: contents / 3 }
        },
    );
    let step = prop_oneof![30 => insert, 1 => (0u64..3_000).prop_map(Step::Wait)];
    prop::collection::vec(step, 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn f14_what_is_stored_adds_up_after_anything_and_never_exceeds_its_limits(steps in steps(), seed: u8) {
        let share = std::sync::Arc::new(Share::of_capacity(64));
        let mut store = Fragments::new(share, 0);
        let mut now = Now(0);
        let (mut given, mut gone) = (0_u64, BTreeMap::<Reason, u64>::new());
        for (number, step) in steps.iter().enumerate() {
            match *step {
                Step::Wait(ms) => {
                    now.0 += ms * 1_000_000;
                    store.expire(now, 5_000_000_000);
                }
                Step::Insert { port, source, id, at, more, contents } => {
                    given += 1;
                    let (frame, fragment) = piece(source, id, at, more, contents);
                    match store.insert(now, PortId(port), &fragment, &frame) {
                        Inserted::Refused(reason) => *gone.entry(reason).or_default() += 1,
                        Inserted::Waits => {}
                        // Forwarded, refused, or held for its next hop, in turns.
                        Inserted::Completes(index) => {
                            let mut buffer = vec![0; JOINED];
                            let whole = headers::parse(&sample::udp(sample::Family::V4, b"")).unwrap();
                            let joined = store.assemble(index, &mut buffer).unwrap();
                            assert_eq!(joined.first.offset, 0);
                            match (number + usize::from(seed)) % 4 {
                                0 => store.drop_all(index, Reason::NoRule),
                                1 => store.refuse(index, Reason::NoRule, |_, first| {
                                    assert_eq!(first.offset, 0);
                                    Some(PortId(0))
                                }),
                                2 => store.hold(index, now, PortId(1), [10, 2, 0, 7].into()),
                                _ => store.forward(index, now, &whole, &HOP),
                            }
                        }
                    }
                }
            }
            store.assert_consistent();
            let mut released = 0;
            while let Some(release) = store.next_release() {
                if let Release::Forward(slot, _) | Release::Answer(slot, ..) = release {
                    released += 1;
                    store.free(slot);
                }
            }
            given -= released;
            store.take_dropped(|reason, count| *gone.entry(reason).or_default() += u64::from(count));
            assert_eq!(given, store.held() as u64 + gone.values().sum::<u64>());
        }
        store.clear(Reason::ShutDown);
        store.assert_consistent();
        assert_eq!((store.held(), store.datagrams(), store.unresolved()), (0, 0, 0));
    }
}

#[test]
fn a_datagram_as_large_as_its_sources_share_gives_way_to_itself() {
    // An eighth of 64 is 8: the ninth piece finds no room but its own.
    let mut store = Fragments::new(std::sync::Arc::new(Share::of_capacity(64)), 0);
    for at in 0..8 {
        let (frame, fragment) = piece(1, 1, at, true, 0);
        assert_eq!(store.insert(Now(0), PortId(0), &fragment, &frame), Inserted::Waits);
    }
    let (frame, fragment) = piece(1, 1, 8, true, 0);
    assert_eq!(store.insert(Now(0), PortId(0), &fragment, &frame), Inserted::Refused(Reason::FragmentLimit));
    assert_eq!(store.held(), 0);
    let mut dropped = Vec::new();
    store.take_dropped(|reason, count| dropped.push((reason, count)));
    assert_eq!(dropped, [(Reason::FragmentLimit, 8)]);
}
