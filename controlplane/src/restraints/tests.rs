use super::*;
use crate::store::tests::machine::{Fault, Machine};

const STATE: &str = "/state";
const HOUR_MS: u64 = 3_600_000;
const NOW: Clocks = Clocks { wall_ms: 1_700_000_000_000, boot: Duration::from_secs(500) };

fn later(by: Duration) -> Clocks {
    Clocks { wall_ms: NOW.wall_ms + by.as_millis() as u64, boot: NOW.boot + by }
}

fn open(machine: &Machine, clocks: Clocks) -> Restraints {
    let restraints = Restraints::default();
    restraints.open_at(Arc::new(machine.clone()), Path::new(STATE), clocks).unwrap();
    restraints
}

fn lock(subject: Subject, until_ms: Option<u64>) -> Restraint {
    Restraint {
        kind: Kind::Lock,
        subject,
        reason: Some("lost".to_owned()),
        by: "root".to_owned(),
        since_ms: NOW.wall_ms,
        until_ms,
        addresses: BTreeSet::new(),
    }
}

fn user(name: &str) -> Subject {
    Subject::User(name.to_owned())
}

fn address(last: u8) -> IpAddr {
    [10, 1, 0, last].into()
}

fn quarantine(subject: Subject) -> Restraint {
    Restraint { kind: Kind::Quarantine, ..lock(subject, None) }
}

#[test]
fn whoever_is_meant_by_name_group_device_or_address_is_found_and_nobody_else() {
    let restraints = open(&Machine::default(), NOW);
    let groups = ["dba".to_owned(), "staff".to_owned()];
    let (device, spiffe) = (Some("laptop-7"), Some("spiffe://example.org/billing"));
    let known = Known { user: Some("alice"), groups: &groups, device, spiffe, address: address(7) };
    let subjects = [
        user("alice"),
        Subject::Group("staff".to_owned()),
        Subject::Device("laptop-7".to_owned()),
        Subject::Spiffe("spiffe://example.org/billing".to_owned()),
        Subject::Address(address(7)),
    ];
    for subject in subjects {
        restraints.put(lock(subject.clone(), None), NOW).unwrap();
        assert_eq!(restraints.of(Kind::Lock, &known).map(|lock| lock.subject), Some(subject.clone()));
        assert_eq!(restraints.of(Kind::Quarantine, &known), None);
        assert!(restraints.remove(Kind::Lock, &subject).is_some());
    }
    for other in [
        user("bob"),
        Subject::Group("dba2".to_owned()),
        Subject::Device("alice".to_owned()),
        Subject::Spiffe("spiffe://example.org/billing/api".to_owned()),
        Subject::Address(address(8)),
    ] {
        restraints.put(lock(other, None), NOW).unwrap();
    }
    assert_eq!(restraints.of(Kind::Lock, &known), None);
    let nobody = Known { user: None, groups: &[], device: None, spiffe: None, address: address(9) };
    assert_eq!(restraints.of(Kind::Lock, &nobody), None);
}

#[test]
fn a_power_failure_at_any_step_leaves_those_of_before_or_the_new_ones() {
    let mut stopped = 0;
    for step in 0.. {
        let machine = Machine::default();
        let restraints = open(&machine, NOW);
        restraints.put(lock(user("alice"), None), NOW).unwrap();
        restraints.save().unwrap();
        let before = restraints.list(Kind::Lock);
        restraints.put(lock(user("bob"), Some(NOW.wall_ms + HOUR_MS)), NOW).unwrap();
        let after = restraints.list(Kind::Lock);
        machine.arm(Some(Fault::Stop(step)));
        let saved = restraints.save();
        if !machine.has_struck() {
            assert!(saved.is_ok());
            break;
        }
        stopped += 1;
        for left in machine.after_power_failure() {
            let found = open(&left, NOW).list(Kind::Lock);
            assert!(found == before || found == after, "step {step}: {found:?}");
            assert!(saved.is_err() || found == after, "step {step}");
        }
    }
    assert!(stopped >= 5, "{stopped}");
}

#[test]
fn every_wrong_byte_of_the_file_is_found_and_then_nobody_is_let_in_until_it_is_said() {
    let machine = Machine::default();
    let restraints = open(&machine, NOW);
    restraints.put(lock(user("alice"), None), NOW).unwrap();
    restraints.save().unwrap();
    let path = Path::new(STATE).join("restraints");
    let whole = machine.contents(&path).unwrap();
    for at in 0..whole.len() {
        let mut wrong = whole.clone();
        wrong[at] ^= 1;
        machine.put(&path, &wrong);
        let restraints = Restraints::default();
        let told = restraints.open_at(Arc::new(machine.clone()), Path::new(STATE), NOW).unwrap_err();
        assert!(told.contains("unlock --damaged") && restraints.unknown().is_some(), "byte {at}: {told}");
        restraints.begin_anew();
        assert!(restraints.unknown().is_none() && restraints.list(Kind::Lock).is_empty());
    }
    assert!(Restraints::default().unknown().is_some(), "before it was opened");
}

#[test]
fn a_lock_ends_when_both_clocks_say_so_and_a_jump_of_the_wall_clock_lets_nobody_out_early() {
    let hour = Duration::from_secs(3600);
    let fresh = || {
        let restraints = open(&Machine::default(), NOW);
        restraints.put(lock(user("alice"), Some(NOW.wall_ms + HOUR_MS)), NOW).unwrap();
        restraints.put(lock(user("bob"), None), NOW).unwrap();
        restraints
    };
    let restraints = fresh();
    assert_eq!(restraints.expire(later(hour - Duration::from_millis(1))), []);
    assert_eq!(restraints.expire(later(hour)).len(), 1);
    assert_eq!(restraints.list(Kind::Lock).len(), 1, "one without an end has none");
    // Put forward by ten years, and put back by ten.
    let decade = 10 * 365 * 24 * HOUR_MS;
    let restraints = fresh();
    assert_eq!(restraints.expire(Clocks { wall_ms: NOW.wall_ms + decade, boot: NOW.boot }), []);
    assert_eq!(restraints.expire(Clocks { wall_ms: NOW.wall_ms + decade, boot: NOW.boot + hour }).len(), 1);
    let restraints = fresh();
    assert_eq!(restraints.expire(Clocks { wall_ms: NOW.wall_ms - decade, boot: NOW.boot + 2 * hour }), []);
    assert_eq!(restraints.expire(later(2 * hour)).len(), 1);
}

#[test]
fn after_a_restart_what_is_over_is_over_and_the_rest_holds_for_as_long_as_was_left() {
    let machine = Machine::default();
    let restraints = open(&machine, NOW);
    restraints.put(lock(user("alice"), Some(NOW.wall_ms + HOUR_MS)), NOW).unwrap();
    restraints.save().unwrap();
    // Another machine's life: its clock since the start begins anew.
    let at =
        |after_ms: u64, boot_s| Clocks { wall_ms: NOW.wall_ms + after_ms, boot: Duration::from_secs(boot_s) };
    let restraints = open(&machine, at(HOUR_MS / 2, 3));
    assert_eq!(restraints.list(Kind::Lock).len(), 1);
    assert_eq!(restraints.expire(at(HOUR_MS, 1802)), []);
    assert_eq!(restraints.expire(at(HOUR_MS, 1803)).len(), 1);
    let restraints = open(&machine, at(HOUR_MS, 3));
    assert_eq!(restraints.expire(at(HOUR_MS, 3)).len(), 1);
}

#[test]
fn there_is_an_end_to_how_many_there_are() {
    let restraints = open(&Machine::default(), NOW);
    for number in 0..MOST {
        restraints.put(lock(user(&format!("u{number}")), None), NOW).unwrap();
    }
    assert_eq!(restraints.put(lock(user("one-more"), None), NOW), Err(Full));
    assert_eq!(restraints.put(lock(user("u7"), Some(NOW.wall_ms)), NOW), Ok(()), "it is there already");
    assert_eq!(restraints.list(Kind::Lock).len(), MOST);
    let restraints = open(&Machine::default(), NOW);
    restraints.put(quarantine(user("alice")), NOW).unwrap();
    let known = |number: u32| Known {
        user: Some("alice"),
        groups: &[],
        device: None,
        spiffe: None,
        address: std::net::Ipv4Addr::from_bits(number).into(),
    };
    for number in 0..ADDRESSES as u32 {
        assert_eq!(restraints.bring_in(&known(number)), Ok(true));
    }
    assert_eq!(restraints.bring_in(&known(7)), Ok(false), "it is there already");
    assert_eq!(restraints.bring_in(&known(ADDRESSES as u32)), Err(Full));
}

const TEXT: &str = r#"version = 1
[ports.a]
interface = "eth1"
[segments.office]
port = "a"
networks = ["10.1.0.0/24"]
"#;

#[test]
fn a_policy_gets_the_addresses_of_all_of_them_and_a_lock_counts_more() {
    let model = crate::model::parse("t.toml", TEXT).unwrap();
    let restraints = open(&Machine::default(), NOW);
    restraints.put(quarantine(user("alice")), NOW).unwrap();
    restraints.put(quarantine(Subject::Address(address(8))), NOW).unwrap();
    restraints.put(lock(Subject::Address(address(9)), None), NOW).unwrap();
    restraints.put(lock(user("mallory"), None), NOW).unwrap();
    let at =
        |last| Known { user: Some("alice"), groups: &[], device: None, spiffe: None, address: address(last) };
    assert_eq!((restraints.bring_in(&at(7)), restraints.bring_in(&at(9))), (Ok(true), Ok(true)));
    let bob = Known { user: Some("bob"), ..at(6) };
    assert_eq!(restraints.bring_in(&bob), Ok(false));
    let of = restraints.of_model(&model);
    let (quarantined, locked) = (Some(policy::Restraint::Quarantined), Some(policy::Restraint::Locked));
    let told: Vec<_> = (6..=9).map(|last| of.of(address(last))).collect();
    assert_eq!(told, [None, quarantined, quarantined, locked]);
    // Said again, it keeps the addresses that it has brought in.
    restraints.put(quarantine(user("alice")), NOW).unwrap();
    assert_eq!(restraints.of_model(&model).of(address(7)), quarantined);
    restraints.remove(Kind::Quarantine, &user("alice"));
    assert_eq!(restraints.of_model(&model).of(address(7)), None);
}
