use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::store::tests::machine::{Fault, Machine};
use crate::store::{Disk, Files, Who};

/// A directory of a test, removed with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("bulkhead-audit-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Directory(path)
    }

    fn log(&self) -> PathBuf {
        self.0.join("audit.log")
    }

    fn open(&self) -> Journal {
        let journal = Journal::default();
        assert_eq!(journal.open(Arc::new(Files), &self.0), Ok(Vec::new()));
        journal
    }

    /// A log of so many records, and its head.
    fn written(records: u64) -> (Directory, Head) {
        let directory = Directory::new();
        let journal = directory.open();
        (1..=records).for_each(|number| journal.record(act(number)).unwrap());
        let head = journal.head();
        (directory, head)
    }

    fn lines(&self) -> Vec<Vec<u8>> {
        let bytes = fs::read(self.log()).unwrap();
        bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
    }

    fn put(&self, lines: &[Vec<u8>]) {
        fs::write(self.log(), lines.concat()).unwrap();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn act(number: u64) -> Entry {
    let who = Who { uid: Some(0), user: Some("root".to_owned()), ..Who::default() };
    Entry::new(Kind::SessionBegun, By::Operator(who))
        .with("id", format!("s{number}"))
        .with("risk", Option::<u8>::None)
}

/// What the first break is, and at which record.
fn broken(directory: &Directory, heads: &[Head]) -> Option<(Tampering, u64)> {
    let verified = verify(&directory.0, heads, false).unwrap();
    verified.breaks.first().map(|found| (found.tampering, found.seq))
}

#[test]
fn c12_every_act_is_one_record_behind_the_one_before() {
    let (directory, head) = Directory::written(25);
    // Another run goes on where the first one ended.
    let journal = directory.open();
    assert_eq!(journal.head(), head);
    journal.later(Entry::new(Kind::Stop, By::Gateway));
    journal.record(act(27)).unwrap();
    let verified = verify(&directory.0, &[head, journal.head()], false).unwrap();
    assert_eq!((verified.records, verified.first, verified.head), (27, 1, journal.head()));
    assert_eq!(verified.breaks, []);
    let records = records(&directory.0).unwrap();
    assert_eq!(records.iter().map(|record| record.seq).collect::<Vec<_>>(), (1..=27).collect::<Vec<_>>());
    assert_eq!((records[25].kind.as_str(), &records[25].by), ("stop", &json!("gateway")));
    assert_eq!(records[26].what, json!({ "id": "s27" }));
    assert_eq!(records[26].by["operator"]["user"], "root");
    let mode = fs::metadata(directory.log()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_digest_is_that_of_the_line_before_it_as_any_tool_computes_it() {
    let (directory, head) = Directory::written(2);
    let line = String::from_utf8(directory.lines().pop().unwrap()).unwrap();
    let body = line.split_once(",\"hash\":").unwrap().0;
    assert_eq!(line::sha256(body.as_bytes()), head.hash);
    // FIPS 180-2, appendix B.1.
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(line::sha256(b"abc"), abc);
}

#[test]
fn what_is_said_of_an_act_is_bounded() {
    let long = "ü".repeat(5_000);
    let list: Vec<String> = vec![long.clone(); 500];
    let directory = Directory::new();
    let journal = directory.open();
    journal.record(Entry::new(Kind::Alarm, By::Gateway).with("message", long)).unwrap();
    journal.record(Entry::new(Kind::Alarm, By::Gateway).with("list", list)).unwrap();
    let lines = directory.lines();
    assert!(
        lines.iter().all(|line| line.len() < 16 * 1024),
        "{:?}",
        lines.iter().map(Vec::len).collect::<Vec<_>>()
    );
    let told = records(&directory.0).unwrap();
    assert_eq!(told[0].what["message"].as_str().unwrap().chars().count(), 1001);
    assert!(told[1].what["left_out_bytes"].as_u64().unwrap() > 12 * 1024);
    assert_eq!(broken(&directory, &[journal.head()]), None);
}

#[test]
fn kinds_have_names_of_their_own() {
    let names: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
}

/// One way to tamper with a log of `records` lines, and what has to be found first.
#[derive(Clone, Debug)]
enum Attack {
    /// A byte of a line, not its last.
    Byte(usize, usize, u8),
    /// Another record in place of one, right by itself.
    Forge(usize),
    Remove(usize, usize),
    Duplicate(usize, usize),
    /// A record of one's own behind one, right by itself and naming it.
    Insert(usize),
    Swap(usize, usize),
    Truncate(usize),
}

fn attacks() -> impl Strategy<Value = (usize, Attack)> {
    (2..30_usize).prop_flat_map(|records| {
        let line = 0..records;
        let attack = prop_oneof![
            (line.clone(), any::<usize>(), 1..=255_u8)
                .prop_map(|(at, byte, flip)| Attack::Byte(at, byte, flip)),
            line.clone().prop_map(Attack::Forge),
            (0..records - 1, 1..records).prop_map(|(at, count)| Attack::Remove(at, count)),
            (line.clone(), 0..=records).prop_map(|(of, to)| Attack::Duplicate(of, to)),
            line.clone().prop_map(Attack::Insert),
            (line.clone(), line.clone()).prop_map(|(a, b)| Attack::Swap(a, b)),
            (1..records).prop_map(Attack::Truncate),
        ];
        (Just(records), attack)
    })
}

/// A record of the attacker's behind the one of this line.
fn forged(after: &[u8]) -> Vec<u8> {
    let (record, _) = line::read(after.strip_suffix(b"\n").unwrap()).unwrap();
    line::write(&record.head(), std::time::SystemTime::UNIX_EPOCH, &act(666)).0.into_bytes()
}

/// Does it; what has to be found, and at which record. `None` where nothing was changed.
fn tamper(lines: &mut Vec<Vec<u8>>, attack: &Attack) -> Option<(Tampering, u64)> {
    let (records, seq) = (lines.len(), |line: usize| line as u64 + 1);
    Some(match *attack {
        Attack::Byte(at, byte, flip) => {
            let line = &mut lines[at];
            let byte = byte % (line.len() - 1);
            line[byte] ^= flip;
            // A line break in a line makes two of it, of which the first is at its place.
            (Tampering::Changed, seq(at))
        }
        Attack::Forge(0) => return None,
        Attack::Forge(at) => {
            lines[at] = forged(&lines[at - 1]);
            // What was written behind it names another one; behind the last one stands only its head.
            (Tampering::Changed, if at + 1 < records { seq(at + 1) } else { seq(at) })
        }
        Attack::Remove(at, count) => {
            let end = (at + count).min(records - 1);
            drop(lines.drain(at..end));
            (Tampering::Removed, seq(at))
        }
        Attack::Duplicate(of, to) => {
            let line = lines[of].clone();
            lines.insert(to, line);
            (Tampering::Inserted, seq(of))
        }
        Attack::Insert(after) => {
            let line = forged(&lines[after]);
            lines.insert(after + 1, line);
            // Behind the last one it has a number of its own; then only the head tells.
            if after + 1 == records {
                return Some((Tampering::Inserted, seq(records)));
            }
            (Tampering::Inserted, seq(after + 1))
        }
        Attack::Swap(a, b) if a == b => return None,
        Attack::Swap(a, b) => {
            lines.swap(a, b);
            (Tampering::Reordered, seq(a.min(b)))
        }
        Attack::Truncate(count) => {
            lines.truncate(records - count);
            (Tampering::Truncated, seq(records - count))
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn c12_each_kind_of_tampering_is_found_at_its_place((records, attack) in attacks()) {
        let (directory, head) = Directory::written(records as u64);
        prop_assert_eq!(broken(&directory, std::slice::from_ref(&head)), None);
        let mut lines = directory.lines();
        let Some(expected) = tamper(&mut lines, &attack) else { return Ok(()) };
        directory.put(&lines);
        // Without the file beside it: somebody who can change the one can change the other.
        fs::remove_file(directory.0.join("audit.head")).unwrap();
        let verified = verify(&directory.0, &[head], false).unwrap();
        let found: Vec<_> = verified.breaks.iter().map(|found| (found.tampering, found.seq)).collect();
        match attack {
            // A log that somebody has gone on writing is whole by itself; the gateway that runs, or starts, knows its end.
            Attack::Insert(after) if after + 1 == records => prop_assert!(verified.head.seq == records as u64 + 1),
            _ => prop_assert_eq!(found.first(), Some(&expected), "{:?}", found),
        }
    }
}

#[test]
fn a_log_that_somebody_has_gone_on_writing_is_not_the_one_that_the_gateway_left() {
    let (directory, head) = Directory::written(3);
    let mut lines = directory.lines();
    lines.push(forged(&lines[2]));
    directory.put(&lines);
    // It is a record more than the gateway knows of, so whoever compares heads sees it.
    let verified = verify(&directory.0, std::slice::from_ref(&head), false).unwrap();
    assert_ne!(verified.head, head);
}

#[test]
fn a_shortened_log_is_noticed_at_the_next_start_and_stays_broken() {
    let (directory, head) = Directory::written(5);
    let mut lines = directory.lines();
    lines.truncate(3);
    directory.put(&lines);
    assert_eq!(broken(&directory, &[]), Some((Tampering::Truncated, 4)));
    let journal = Journal::default();
    let told = journal.open(Arc::new(Files), &directory.0).unwrap();
    assert!(told[0].contains("ends with record 3, but the last one that was written is 5"), "{told:?}");
    journal.record(act(6)).unwrap();
    assert_eq!(broken(&directory, &[journal.head()]), Some((Tampering::Removed, 4)));
    let records = records(&directory.0).unwrap();
    assert_eq!(records[3].kind, "damaged");
    assert_eq!((records[3].seq, &records[3].prev), (6, &head.hash));
}

#[test]
fn a_torn_last_line_is_told_recorded_and_cut_off() {
    let (directory, _) = Directory::written(4);
    let mut lines = directory.lines();
    let half = lines[3].len() / 2;
    lines[3].truncate(half);
    directory.put(&lines);
    fs::remove_file(directory.0.join("audit.head")).unwrap();
    assert_eq!(broken(&directory, &[]), Some((Tampering::Torn, 4)));
    // While a gateway runs it may just be writing it.
    assert_eq!(verify(&directory.0, &[], true).unwrap().breaks, []);
    let journal = Journal::default();
    let told = journal.open(Arc::new(Files), &directory.0).unwrap();
    assert!(told.len() == 1 && told[0].contains(&format!("{half} byte(s) behind record 3")), "{told:?}");
    journal.flush().unwrap();
    assert_eq!(broken(&directory, &[journal.head()]), None);
    let last = records(&directory.0).unwrap().pop().unwrap();
    assert_eq!((last.seq, last.kind.as_str(), &last.what["bytes"]), (4, "torn", &json!(half)));
    assert_eq!(last.what["sha256"], line::sha256(&lines[3]));
}

const STATE: &str = "/state";

fn open_on(machine: &Machine) -> Journal {
    let journal = Journal::default();
    journal.open(Arc::new(machine.clone()), Path::new(STATE)).unwrap();
    journal
}

/// The records on a disk, and whether each follows the one before.
fn on_disk(machine: &Machine) -> Vec<Record> {
    let bytes = machine.contents(&Path::new(STATE).join(ACTIVE)).unwrap_or_default();
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let mut head = Head::default();
    lines
        .map(|line| {
            let (record, right) = line::read(line.strip_suffix(b"\n").unwrap()).unwrap();
            assert!(right && record.seq == head.seq + 1 && record.prev == head.hash, "{record:?}");
            head = record.head();
            record
        })
        .collect()
}

#[test]
fn a_power_failure_at_any_step_leaves_every_record_that_was_acknowledged_and_a_log_that_goes_on() {
    let mut stopped = 0;
    for step in 0.. {
        let machine = Machine::default();
        let journal = open_on(&machine);
        journal.record(act(1)).unwrap();
        machine.arm(Some(Fault::Stop(step)));
        let acknowledged = 1 + (2..=3).take_while(|number| journal.record(act(*number)).is_ok()).count();
        if !machine.has_struck() {
            assert_eq!(acknowledged, 3);
            break;
        }
        stopped += 1;
        for left in machine.after_power_failure() {
            let after = open_on(&left);
            after.record(act(9)).unwrap();
            let records = on_disk(&left);
            let acts: Vec<_> = records.iter().filter(|record| record.kind == "session_begun").collect();
            // One more may have come to the disk than anybody was told of.
            assert!((acknowledged + 1..=acknowledged + 2).contains(&acts.len()), "step {step}: {records:#?}");
            let others: BTreeSet<&str> = records.iter().map(|r| r.kind.as_str()).collect();
            assert!(
                others.is_subset(&BTreeSet::from(["session_begun", "torn"])),
                "step {step}: {records:#?}"
            );
        }
    }
    assert!(stopped >= 10, "{stopped}");
}

#[test]
fn what_grants_is_refused_while_the_disk_is_full_and_what_takes_away_is_kept_until_it_is_not() {
    for step in 0..4 {
        let machine = Machine::default();
        let journal = open_on(&machine);
        journal.record(act(1)).unwrap();
        machine.arm(Some(Fault::Fail(step)));
        let refused = journal.record(act(2)).unwrap_err();
        assert!(machine.has_struck() && refused.contains("cannot be written"), "step {step}: {refused}");
        assert_eq!(on_disk(&machine).len(), 1, "step {step}: nothing is left of it");
        machine.arm(Some(Fault::Fail(step)));
        let revoked = Entry::new(Kind::SessionRevoked, By::Gateway).with("id", "s1");
        assert!(journal.record_done(revoked).is_err());
        assert_eq!(journal.trouble().1, 1);
        machine.arm(None);
        journal.record(act(3)).unwrap();
        let told: Vec<String> = on_disk(&machine).into_iter().map(|record| record.kind).collect();
        assert_eq!(told, ["session_begun", "session_revoked", "session_begun"], "step {step}");
        assert_eq!(journal.trouble(), (None, 0));
    }
}

/// A disk that takes its time to bring something there, in which others come.
struct Slow {
    disk: Machine,
    syncs: AtomicU32,
    fails: AtomicBool,
    began: Barrier,
    goes_on: AtomicBool,
    /// What comes behind the first one fails.
    then_fails: bool,
}

impl Slow {
    fn over(disk: &Machine, then_fails: bool) -> Arc<Slow> {
        let (fails, goes_on) = (AtomicBool::new(false), AtomicBool::new(false));
        let (syncs, began) = (AtomicU32::new(0), Barrier::new(2));
        Arc::new(Slow { disk: disk.clone(), syncs, fails, began, goes_on, then_fails })
    }
}

impl Disk for Slow {
    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        self.disk.make_directory(directory)
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<(String, u64)>> {
        self.disk.list(directory)
    }
    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        self.disk.read(path, most)
    }
    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.disk.create(path, bytes)
    }
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        match self.fails.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.disk.append(path, bytes),
        }
    }
    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.disk.truncate(path, bytes)
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        if self.syncs.fetch_add(1, Ordering::Relaxed) == 0 {
            // The first one lasts until everybody else has come.
            self.began.wait();
            while !self.goes_on.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.fails.store(self.then_fails, Ordering::Relaxed);
        }
        self.disk.sync(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.disk.sync_directory(directory)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
}

/// One record whose writing takes long, and those of as many threads that come meanwhile. Returns what became of theirs.
fn beside_a_slow_one(journal: &Journal, slow: &Slow, threads: u64) -> Vec<Result<(), String>> {
    std::thread::scope(|scope| {
        let first = scope.spawn(|| journal.record(act(0)));
        slow.began.wait();
        let others: Vec<_> =
            (1..=threads).map(|number| scope.spawn(move || journal.record(act(number)))).collect();
        while journal.waiting() < threads as usize {
            std::thread::sleep(Duration::from_millis(1));
        }
        slow.goes_on.store(true, Ordering::Relaxed);
        first.join().unwrap().unwrap();
        others.into_iter().map(|other| other.join().unwrap()).collect()
    })
}

fn ids(machine: &Machine) -> BTreeSet<String> {
    on_disk(machine).iter().filter_map(|record| record.what["id"].as_str().map(str::to_owned)).collect()
}

#[test]
fn records_of_many_threads_reach_the_disk_together() {
    let machine = Machine::default();
    let (journal, slow) = (Journal::default(), Slow::over(&machine, false));
    journal.open(slow.clone(), Path::new(STATE)).unwrap();
    let others = beside_a_slow_one(&journal, &slow, 24);
    assert!(others.iter().all(Result::is_ok), "{others:?}");
    assert_eq!(ids(&machine).len(), 25);
    assert_eq!(slow.syncs.load(Ordering::Relaxed), 2, "one for the first, and one for all the others");
}

#[test]
fn whoever_is_in_a_group_that_is_not_written_is_told_and_none_of_it_is_written_later() {
    let machine = Machine::default();
    let (journal, slow) = (Journal::default(), Slow::over(&machine, true));
    journal.open(slow.clone(), Path::new(STATE)).unwrap();
    let others = beside_a_slow_one(&journal, &slow, 24);
    assert!(others.iter().all(Result::is_err), "{others:?}");
    journal.later(Entry::new(Kind::SessionRevoked, By::Gateway).with("id", "r"));
    assert!(journal.flush().is_err());
    slow.fails.store(false, Ordering::Relaxed);
    journal.record(act(99)).unwrap();
    assert_eq!(ids(&machine), ["s0", "r", "s99"].map(str::to_owned).into());
    assert_eq!(journal.trouble(), (None, 0));
}

#[test]
fn a_power_failure_leaves_every_record_of_a_group_that_anybody_was_told_of() {
    let mut stopped = 0;
    for step in 0..40 {
        let machine = Machine::default();
        let journal = open_on(&machine);
        machine.arm(Some(Fault::Stop(step)));
        let told: BTreeSet<String> = std::thread::scope(|scope| {
            let write = |thread: u64| {
                let journal = &journal;
                move || {
                    let numbers = (1..=6).map(|number| 10 * thread + number);
                    numbers.take_while(|number| journal.record(act(*number)).is_ok()).collect::<Vec<_>>()
                }
            };
            let threads: Vec<_> = (0..4).map(|thread| scope.spawn(write(thread))).collect();
            let told = threads.into_iter().flat_map(|thread| thread.join().unwrap());
            told.map(|number| format!("s{number}")).collect()
        });
        stopped += usize::from(machine.has_struck());
        for left in machine.after_power_failure() {
            open_on(&left).record(act(99)).unwrap();
            assert!(ids(&left).is_superset(&told), "step {step}: {told:?}, {:?}", ids(&left));
        }
    }
    assert!(stopped >= 20, "{stopped}");
}

#[test]
fn what_cannot_be_kept_until_the_disk_takes_it_is_counted() {
    let journal = Journal::default();
    for number in 0..PENDING as u64 + 7 {
        journal.later(act(number));
    }
    assert!(journal.record(act(0)).unwrap_err().contains("is not open"));
    assert_eq!(journal.trouble().1, PENDING + 1, "and a record of the loss");
    let directory = Directory::new();
    journal.open(Arc::new(Files), &directory.0).unwrap();
    journal.flush().unwrap();
    let records = records(&directory.0).unwrap();
    assert_eq!(records.len(), PENDING + 1);
    let last = records.last().unwrap();
    assert_eq!((last.kind.as_str(), &last.what["records"]), ("lost", &json!(7)));
    assert_eq!(broken(&directory, &[journal.head()]), None);
}

/// A log of `files` full files and one that is not, written as the journal writes them but for their size.
fn in_files(files: u64) -> (Directory, Head) {
    let (directory, head) = Directory::written(3 * files + 1);
    let lines = directory.lines();
    for file in 0..files {
        let at = 3 * file as usize;
        fs::write(directory.0.join(segment_name(at as u64 + 1)), lines[at..at + 3].concat()).unwrap();
    }
    directory.put(&lines[3 * files as usize..]);
    (directory, head)
}

#[test]
fn the_chain_goes_over_files_and_a_missing_one_is_found() {
    let (directory, head) = in_files(3);
    assert_eq!(broken(&directory, std::slice::from_ref(&head)), None);
    assert_eq!(directory.open().head(), head);
    fs::remove_file(directory.0.join(segment_name(4))).unwrap();
    assert_eq!(broken(&directory, std::slice::from_ref(&head)), Some((Tampering::Removed, 4)));
    let (directory, head) = in_files(3);
    fs::remove_file(directory.0.join(segment_name(1))).unwrap();
    assert_eq!(broken(&directory, std::slice::from_ref(&head)), Some((Tampering::Removed, 1)));
    let (directory, head) = in_files(3);
    fs::remove_file(directory.log()).unwrap();
    assert_eq!(broken(&directory, &[head]), Some((Tampering::Truncated, 10)));
}

#[test]
fn a_full_file_gets_its_name_and_the_oldest_go_with_a_record_of_it() {
    let (directory, head) = in_files(SEGMENTS as u64 + 1);
    // Filled up, as if there had been so many records.
    let full = fs::OpenOptions::new().append(true).open(directory.log()).unwrap();
    let padding = Entry::new(Kind::Alarm, By::Gateway).with("message", "x".repeat(900));
    let (mut head, mut bytes) = (head, Vec::new());
    while bytes.len() < SEGMENT_BYTES as usize {
        let (line, next) = line::write(&head, std::time::SystemTime::UNIX_EPOCH, &padding);
        bytes.extend_from_slice(line.as_bytes());
        head = next;
    }
    std::io::Write::write_all(&mut &full, &bytes).unwrap();
    fs::remove_file(directory.0.join("audit.head")).unwrap();
    let journal = directory.open();
    journal.record(act(1)).unwrap();
    let kept = journal::segments(&Files, &directory.0).unwrap();
    assert_eq!((kept.len(), kept[0]), (SEGMENTS, 7), "the first two of the files of three records are gone");
    let verified = verify(&directory.0, &[journal.head()], false).unwrap();
    assert_eq!((verified.first, verified.breaks), (7, vec![]));
    assert_eq!(verified.head.seq, head.seq + 3);
    // Whoever removes another one has no record of it.
    fs::remove_file(directory.0.join(segment_name(7))).unwrap();
    assert_eq!(broken(&directory, &[journal.head()]), Some((Tampering::Removed, 1)));
}
