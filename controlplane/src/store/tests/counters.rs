use super::*;

fn counters(packets: u64, ended: bool) -> Counters {
    let counted = |packets, gone_ms| Counted {
        packets,
        bytes: packets * 100,
        connections: 1,
        hit_ms: Some(1_700_000_000_000 + packets),
        first_ms: 1_600_000_000_000,
        since_ms: 1_650_000_000_000,
        gone_ms,
    };
    let unused = Counted { first_ms: 5, since_ms: 7, ..Counted::default() };
    let rules = [
        ("audit:a:b", unused),
        ("gone", counted(9, Some(1_690_000_000_000))),
        ("web", counted(packets, None)),
    ];
    Counters {
        since_ms: 1_600_000_000_000,
        ended,
        gaps: 2,
        last_gap_ms: Some(1_680_000_000_000),
        default_deny: counted(u64::MAX / 100, None),
        rules: rules.into_iter().map(|(name, counted)| (name.to_owned(), counted)).collect(),
    }
}

fn path() -> PathBuf {
    Path::new(STATE).join("counters")
}

#[test]
fn counters_come_back_whole_and_are_written_only_when_they_have_changed() {
    let machine = furnished();
    let mut file = open(&machine).counters();
    assert_eq!(file.read(), Ok(None));
    let bytes = file.write(&counters(1, false)).unwrap();
    assert_eq!(bytes, machine.contents(&path()).unwrap().len() as u64);
    assert_eq!(file.read(), Ok(Some(counters(1, false))));
    machine.arm(Some(Fault::Fail(0)));
    assert_eq!(file.write(&counters(1, false)).unwrap(), 0);
    assert!(!machine.has_struck());
    // What failed is written the next time, although it is the same again.
    assert!(file.write(&counters(2, true)).is_err());
    machine.arm(None);
    assert!(file.write(&counters(2, true)).unwrap() > 0);
    assert_eq!(open(&machine).counters().read(), Ok(Some(counters(2, true))));
    assert_eq!(open(&machine).troubles(), [] as [&str; 0]);
}

#[test]
fn a_power_failure_while_counters_are_written_leaves_those_of_before_or_the_new_ones() {
    for is_first in [true, false] {
        let before = furnished();
        if !is_first {
            open(&before).counters().write(&counters(1, false)).unwrap();
        }
        let (old, new) = (open(&before).counters().read().unwrap(), Some(counters(2, true)));
        for step in 0.. {
            let machine = before.copy();
            let (mut file, current) = (open(&machine).counters(), open(&machine).current().clone());
            machine.arm(Some(Fault::Stop(step)));
            let result = file.write(&counters(2, true));
            let struck = machine.has_struck();
            for left in machine.after_power_failure() {
                let store = open(&left);
                let found = store.counters().read().unwrap();
                assert!(found == new || found == old && result.is_err(), "step {step}: {found:?}");
                assert_eq!((store.current(), store.troubles().len()), (&current, 0), "step {step}");
            }
            if !struck {
                assert!(result.is_ok() && step > 4);
                break;
            }
        }
    }
}

#[test]
fn every_wrong_byte_of_the_counters_is_found() {
    let machine = furnished();
    open(&machine).counters().write(&counters(1, true)).unwrap();
    for case in damaged(&machine.contents(&path()).unwrap()) {
        machine.put(&path(), &case);
        let store = open(&machine);
        store.counters().read().unwrap_err();
        // They are no reason to do without the policies.
        assert_eq!(store.troubles(), [] as [&str; 0]);
    }
}
