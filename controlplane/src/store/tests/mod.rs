use super::*;

mod counters;
pub(crate) mod machine;

use machine::{Fault, Machine};

const STATE: &str = "/state";

fn about(confirm_ms: Option<u64>, files: &[Text]) -> About {
    About {
        revision: 0,
        at_ms: 1_700_000_000_000,
        cause: Cause::Apply,
        who: Who { uid: Some(0), user: Some("root".to_owned()), said: Said::default() },
        note: Note { message: Some("for \"you\"\n".to_owned()), ticket: None },
        digest: "d1".to_owned(),
        content: digest_of(files.iter().map(|file| file.text.as_str())),
        rules: 3,
        confirm_ms,
    }
}

fn files(word: &str) -> Vec<Text> {
    let text = |path: &str, text: String| Text { path: path.to_owned(), text };
    vec![text("/etc/b.toml", format!("version = 1 # {word}\n")), text("/etc/b.d/1.toml", "# ü\n".to_owned())]
}

fn open(machine: &Machine) -> Store {
    Store::open_on(Arc::new(machine.clone()), Path::new(STATE)).unwrap()
}

/// Puts these files in force: confirmed, or for a while.
fn put(store: &mut Store, word: &str, confirm_ms: Option<u64>) -> io::Result<u64> {
    let files = files(word);
    let revision = store.add(&about(confirm_ms, &files), &files)?;
    let committed = store.commit(|current| {
        current.last = revision;
        let mark = current.marks.entry(revision).or_default();
        match confirm_ms {
            None => {
                mark.confirmed_ms = Some(5);
                (current.confirmed, current.pending) = (Some(revision), None);
            }
            Some(until_ms) => current.pending = Some(Pending { revision, until_ms }),
        }
    });
    committed.inspect_err(|_| store.forget(revision))?;
    Ok(revision)
}

fn confirm(store: &mut Store) -> io::Result<u64> {
    let revision = store.current().pending.as_ref().unwrap().revision;
    store.commit(|current| {
        current.marks.entry(revision).or_default().confirmed_ms = Some(9);
        (current.confirmed, current.pending) = (Some(revision), None);
    })?;
    Ok(revision)
}

fn roll_back(store: &mut Store) -> io::Result<u64> {
    let revision = store.current().pending.as_ref().unwrap().revision;
    store.settle(|current| {
        current.marks.entry(revision).or_default().rolled_back = Some((9, "too late".to_owned()));
        current.pending = None;
    })?;
    Ok(revision)
}

/// One confirmed, one rolled back, one pending.
fn furnished() -> Machine {
    let machine = Machine::default();
    let mut store = open(&machine);
    put(&mut store, "a", None).unwrap();
    put(&mut store, "b", None).unwrap();
    put(&mut store, "c", Some(7)).unwrap();
    machine
}

/// The words that the store's revisions stand for.
fn words(store: &Store) -> Vec<(u64, String)> {
    let marks = store.current().marks.keys();
    let word = |revision: &u64| store.read(*revision).unwrap().files[0].text[14..15].to_owned();
    marks.map(|revision| (*revision, word(revision))).collect()
}

#[test]
fn what_was_put_in_force_comes_back_whole() {
    let machine = furnished();
    let store = open(&machine);
    assert_eq!(store.troubles(), [] as [&str; 0]);
    assert_eq!(store.read(2).unwrap().files, files("b"));
    assert_eq!(store.read(2).unwrap().about, About { revision: 2, ..about(None, &files("b")) });
    let states: Vec<_> = store.history().into_iter().map(|told| (told.revision, told.state)).collect();
    assert_eq!(states, [(1, State::Superseded), (2, State::Confirmed), (3, State::Pending(7))]);
    assert!(store.read(4).unwrap_err().contains("no revision 4"));
}

type Operation = (&'static str, fn(&mut Store) -> io::Result<u64>);

const OPERATIONS: [Operation; 5] = [
    ("apply", |store| put(store, "d", None)),
    ("apply for a while", |store| put(store, "d", Some(77))),
    ("confirm", confirm),
    ("roll back", roll_back),
    ("open", |store| {
        let directory = store.directory().to_owned();
        let disk: Arc<dyn Disk> = std::mem::replace(&mut store.disk, Arc::new(Machine::default()));
        *store = Store::open_on(disk, &directory).map_err(io::Error::other)?;
        Ok(0)
    }),
];

/// Checks that the disk holds all of one of these, and that one can go on from there.
fn holds_one_of(machine: &Machine, expected: &[&Current], what: &str) {
    let mut store = open(machine);
    assert_eq!(store.troubles(), [] as [&str; 0], "{what}");
    assert!(expected.contains(&store.current()), "{what}: {:?} is none of {expected:?}", store.current());
    for (revision, word) in words(&store) {
        assert_eq!(word, ["a", "b", "c", "d"][revision as usize - 1], "{what}");
    }
    let more = put(&mut store, "e", None).unwrap();
    assert!(expected.iter().any(|current| more == current.last + 1), "{what}: {more}");
    let again = open(machine);
    assert_eq!((again.current(), again.read(more).unwrap().files), (store.current(), files("e")), "{what}");
}

#[test]
fn a_power_failure_after_any_step_leaves_all_of_the_old_state_or_all_of_the_new_one() {
    let (before, mut tried) = (furnished(), 0);
    for (name, operation) in OPERATIONS {
        let mut done = open(&before.copy());
        let old = done.current().clone();
        operation(&mut done).unwrap();
        let new = done.current().clone();
        for step in 0.. {
            let machine = before.copy();
            let mut store = open(&machine);
            machine.arm(Some(Fault::Stop(step)));
            let result = operation(&mut store);
            let struck = machine.has_struck();
            // What was acknowledged lasts.
            let expected: &[&Current] = if result.is_ok() { &[&new] } else { &[&old, &new] };
            for left in machine.after_power_failure() {
                tried += 1;
                holds_one_of(&left, expected, &format!("{name}, step {step}"));
            }
            if !struck {
                assert!(result.is_ok() && (name == "open" || step > 4), "{name} has {step} steps");
                break;
            }
        }
    }
    assert!(tried > 200, "only {tried} disks were looked at");
}

#[test]
fn a_step_that_fails_is_told_and_changes_nothing() {
    let before = furnished();
    for (name, operation) in OPERATIONS {
        for step in 0.. {
            let machine = before.copy();
            let mut store = open(&machine);
            let old = store.current().clone();
            machine.arm(Some(Fault::Fail(step)));
            let result = operation(&mut store);
            let struck = machine.has_struck();
            machine.arm(None);
            let what = format!("{name}, step {step}");
            if result.is_err() && name != "roll back" {
                assert_eq!(*store.current(), old, "{what}");
                // The process goes on, and so does the disk.
                holds_one_of(&machine.copy(), &[&old], &what);
            }
            // What has happened holds, and is written with whatever comes next.
            if result.is_err() && name == "roll back" {
                assert!(store.current().pending.is_none(), "{what}");
                store.commit(|_| ()).unwrap();
                holds_one_of(&machine.copy(), &[store.current()], &what);
            }
            if !struck {
                break;
            }
        }
    }
}

#[test]
fn a_power_failure_while_the_directory_is_first_used_leaves_a_usable_one() {
    for step in 0.. {
        let machine = Machine::default();
        machine.arm(Some(Fault::Stop(step)));
        let opened = Store::open_on(Arc::new(machine.clone()), Path::new(STATE));
        let put = opened.map_err(io::Error::other).and_then(|mut store| put(&mut store, "a", None));
        for left in machine.after_power_failure() {
            let store = open(&left);
            assert_eq!(store.troubles(), [] as [&str; 0], "step {step}");
            let confirmed = store.current().confirmed;
            assert!(
                confirmed == Some(1) || confirmed.is_none() && put.is_err(),
                "step {step}: {confirmed:?}"
            );
        }
        if !machine.has_struck() {
            assert!(step > 10);
            return;
        }
    }
}

/// Every way in which one byte may be wrong, and every length that is too short.
fn damaged(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = (0..bytes.len()).map(|length| bytes[..length].to_vec()).collect();
    all.push([bytes, b"\n"].concat());
    for index in 0..bytes.len() {
        for bit in 0..8 {
            let mut other = bytes.to_vec();
            other[index] ^= 1 << bit;
            all.push(other);
        }
    }
    all
}

#[test]
fn every_wrong_byte_of_a_revision_is_found_and_the_revision_not_used() {
    let machine = furnished();
    let path = Path::new(STATE).join("revisions/2");
    let bytes = machine.contents(&path).unwrap();
    let cases = damaged(&bytes);
    assert!(cases.len() > 4000);
    for case in cases {
        machine.put(&path, &case);
        let store = open(&machine.copy());
        let why = store.read(2).unwrap_err();
        assert!(why.starts_with("revision 2 is damaged"), "{why}");
        let told = &store.history()[1];
        assert_eq!((told.revision, told.damaged.as_ref()), (2, Some(&why)));
        assert_eq!(store.read(1).unwrap().files, files("a"));
    }
    // Under another number it is not that revision.
    machine.put(&path, &machine.contents(&Path::new(STATE).join("revisions/1")).unwrap());
    assert!(open(&machine).read(2).is_err());
    assert_eq!(open(&machine).troubles().len(), 1);
}

#[test]
fn every_wrong_byte_of_current_is_found_and_what_is_known_to_be_confirmed_is_taken() {
    let machine = furnished();
    let path = Path::new(STATE).join("current");
    let bytes = machine.contents(&path).unwrap();
    for case in damaged(&bytes) {
        machine.put(&path, &case);
        let mut store = open(&machine.copy());
        let told = store.troubles().join("\n");
        assert!(told.contains("`current` is damaged") && told.contains("confirmed at once, 2"), "{told}");
        assert_eq!((store.current().confirmed, store.current().pending.as_ref()), (Some(2), None));
        assert!(matches!(store.current().state(3), State::RolledBack(..)));
        assert_eq!(put(&mut store, "d", None).unwrap(), 4);
    }
    machine.put(&path, &bytes);
    assert_eq!(open(&machine).troubles(), [] as [&str; 0]);
    machine.remove(&path).unwrap();
    assert!(open(&machine).troubles()[0].contains("`current` is missing"));
}

#[test]
fn numbers_are_not_given_twice_and_the_oldest_revisions_go() {
    let machine = Machine::default();
    let mut store = open(&machine);
    put(&mut store, "first", None).unwrap();
    // None of these is confirmed, so the first stays what a rollback leads to.
    for number in 2..=KEPT as u64 + 5 {
        assert_eq!(put(&mut store, &number.to_string(), Some(1)).unwrap(), number);
        roll_back(&mut store).unwrap();
        if number % 40 == 0 {
            store = open(&machine);
        }
    }
    let kept: Vec<_> = store.current().marks.keys().copied().collect();
    assert_eq!((kept[0], kept[1], kept.len()), (1, 6, KEPT + 1));
    assert_eq!(store.read(1).unwrap().files, files("first"));
    // The revisions, and `current`.
    assert_eq!(machine.files().len(), KEPT + 2);
}

#[test]
fn revisions_beyond_the_bytes_that_are_kept_go() {
    let machine = Machine::default();
    let mut store = open(&machine);
    for word in ["a", "b", "c", "d", "e"] {
        put(&mut store, word, None).unwrap();
    }
    store.entries.get_mut(&3).unwrap().bytes = BYTES_KEPT;
    put(&mut store, "f", None).unwrap();
    assert_eq!(store.current().marks.keys().copied().collect::<Vec<_>>(), [4, 5, 6]);
}

#[test]
fn going_back_from_what_was_gone_back_to_goes_further_back() {
    let machine = Machine::default();
    let mut store = open(&machine);
    assert_eq!(store.rollback_target(), None);
    for word in ["a", "b", "b", "c"] {
        put(&mut store, word, None).unwrap();
    }
    assert_eq!(store.rollback_target(), Some(3));
    let back = |store: &mut Store, to: u64, word: &str| {
        let files = files(word);
        let about = About { cause: Cause::Rollback(to), ..about(None, &files) };
        let revision = store.add(&about, &files).unwrap();
        let change = |current: &mut Current| {
            let left = current.confirmed.unwrap();
            current.marks.entry(left).or_default().rolled_back = Some((1, "by hand".to_owned()));
            current.marks.entry(revision).or_default().confirmed_ms = Some(1);
            (current.last, current.confirmed) = (revision, Some(revision));
        };
        store.commit(change).unwrap();
    };
    back(&mut store, 3, "b");
    // Not to what was just left, and not to the same again.
    assert_eq!(store.rollback_target(), Some(1));
    back(&mut store, 1, "a");
    assert_eq!(store.rollback_target(), None);
    put(&mut store, "d", None).unwrap();
    assert_eq!(store.rollback_target(), Some(6));
}

#[test]
fn on_this_machine_s_disk_only_we_may_read_and_one_process_at_a_time_may_write() {
    use std::os::unix::fs::PermissionsExt;
    let directory = std::env::temp_dir().join(format!("bulkhead-store-{}", std::process::id()));
    let state = directory.join("a/state");
    let mut store = Store::open(&state).unwrap();
    put(&mut store, "a", None).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for (path, expected) in [("", 0o700), ("revisions", 0o700), ("revisions/1", 0o600), ("current", 0o600)] {
        assert_eq!(mode(&state.join(path)), expected, "{path}");
    }
    let Err(Unusable::Busy(other)) = Store::open(&state) else { panic!("two have it") };
    assert!(other.contains("already running") && other.contains("state/lock"), "{other}");
    drop(store);
    // What somebody opened up is closed again.
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
    let store = Store::open(&state).unwrap();
    assert_eq!((mode(&state), words(&store)), (0o700, vec![(1, "a".to_owned())]));
    std::fs::write(directory.join("file"), "").unwrap();
    assert!(matches!(Store::open(&directory.join("file")), Err(Unusable::Broken(_))));
    std::fs::remove_dir_all(directory).unwrap();
}
