//! The protocol between a writer and a worker that judges: see `connection/loom.rs` for how to run it.

use std::sync::Arc;

use ::loom::model::Builder;
use ::loom::thread;

use super::*;
use crate::policy::conditions::UserId;

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 10_000;
    builder.check(f);
}

fn occupant(user: u32) -> Occupant {
    let identity = Identity { user: Some(UserId(user)), ..Identity::default() };
    Occupant { address: ADDRESS, mac: None, stages: vec![Stage { until: Now(1), identity }] }
}

fn judge(slots: &Slots) -> Judged<Option<u32>> {
    slots.judge(ADDRESS, None, Now(0), |who| match who {
        Who::Known(identity) => identity.user.map(|user| user.0),
        _ => None,
    })
}

#[test]
fn loom_what_was_judged_by_an_ended_session_is_not_current_once_that_is_known() {
    model(|| {
        let slots = Arc::new(Slots::new(1));
        slots.set(occupant(1)).unwrap();
        let first = judge(&slots);
        assert!(slots.is_current(first.bearer));
        let writer = {
            let slots = slots.clone();
            thread::spawn(move || {
                assert!(slots.end(ADDRESS));
                slots.set(occupant(2)).unwrap();
            })
        };
        let seen = judge(&slots);
        assert!([Some(1), Some(2), None].contains(&seen.answer));
        // Whoever has once seen that it changed never takes the old judgement for good again.
        if !slots.is_current(first.bearer) {
            assert_ne!(judge(&slots).answer, Some(1));
        }
        writer.join().unwrap();
        let last = judge(&slots);
        assert!(last.answer == Some(2) && slots.is_current(last.bearer) && !slots.is_current(first.bearer));
        // A stamp made meanwhile is either of what is there now or found outdated.
        assert_eq!(slots.is_current(seen.bearer), seen.answer == Some(2));
    });
}

#[test]
fn loom_a_change_keeps_the_address_found() {
    model(|| {
        let slots = Arc::new(Slots::new(1));
        slots.set(occupant(1)).unwrap();
        let writer = {
            let slots = slots.clone();
            thread::spawn(move || slots.set(occupant(2)).unwrap())
        };
        assert!(judge(&slots).answer.is_some(), "somebody is always there");
        writer.join().unwrap();
    });
}
