//! Writing the log: one record after the other, each on the disk before anybody is told, or soon.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::line::{self, Head, Record};
use super::{ACTIVE, By, Entry, HEAD, Kind, segment_first, segment_name};
use crate::store::{Disk, UNFINISHED};

/// A file of the log is full when it has so many bytes: some 40,000 records.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// So many full files are kept.
pub const SEGMENTS: usize = 64;
/// So many records wait at most while the log cannot be written.
pub const PENDING: usize = 16_384;
/// A file has at most this many bytes: it is full before one write too much, which is of at most [`BATCH_BYTES`].
pub(super) const FILE_BYTES_MAX: u64 = SEGMENT_BYTES + BATCH_BYTES as u64 + (64 << 10);
/// Records are written together up to so many bytes.
const BATCH_BYTES: usize = 1 << 20;

/// An act with its time.
struct Stamped {
    at: SystemTime,
    entry: Entry,
    /// Of an act that is done only if it is recorded: whoever waits for that. Without one it is kept until the disk takes it.
    waiting: Option<Arc<Outcome>>,
}

impl Stamped {
    fn now(entry: Entry) -> Stamped {
        Stamped { at: SystemTime::now(), entry, waiting: None }
    }

    fn tell(&self, outcome: Result<(), String>) {
        if let Some(waiting) = &self.waiting {
            *lock(&waiting.0) = Some(outcome);
        }
    }
}

/// Whether a record is on the disk; nothing until somebody has tried.
#[derive(Default)]
struct Outcome(Mutex<Option<Result<(), String>>>);

/// What waits to be written.
#[derive(Default)]
struct Pending {
    entries: VecDeque<Stamped>,
    lost: u64,
    /// Whoever writes shall end.
    over: bool,
    /// One of those who wait for their records writes them all.
    is_led: bool,
}

/// Where it is written.
struct Place {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    /// Bytes of whole records in the file that grows.
    length: u64,
    /// The number of its first record.
    first: u64,
    /// There may be more behind them, which was not promised to last.
    untidy: bool,
}

#[derive(Default)]
struct Writer {
    place: Option<Place>,
    head: Head,
    /// Why the last attempt failed.
    trouble: Option<String>,
}

/// The log, open for writing. One process may have it open: the one that holds the state directory.
///
/// Locks, in the order in which they are taken: the writer, what is pending, an outcome. Who only adds what is pending waits
/// for no disk. Records of many threads are written as a group: each puts its own among what is pending, and one of them, who
/// leads, writes and brings to the disk all that has gathered. Who comes meanwhile waits, and all wake together when that is
/// done: were they to wait for the writer's lock, one would wake at a time, and find a group of one.
#[derive(Default)]
pub struct Journal {
    writer: Mutex<Writer>,
    pending: Mutex<Pending>,
    more: Condvar,
    /// Something that somebody waits for was written, or could not be, or nobody leads any more.
    written: Condvar,
}

/// Leads until it is dropped.
struct Lead<'j>(&'j Journal);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        lock(&self.0.pending).is_led = false;
        self.0.written.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal {
    /// Opens the log in a directory, or begins one. Returns what an operator must see of how it was found; that is recorded
    /// too. What was pending stays so.
    ///
    /// # Errors
    ///
    /// It cannot be read, in words.
    pub fn open(&self, disk: Arc<dyn Disk>, directory: &Path) -> Result<Vec<String>, String> {
        let mut writer = lock(&self.writer);
        let found = Found::look(&*disk, directory)
            .map_err(|error| format!("the audit log in {} cannot be read: {error}", directory.display()))?;
        let Found { head, length, first, torn, troubles } = found;
        let untidy = torn.is_some();
        writer.place = Some(Place { disk, directory: directory.to_owned(), length, first, untidy });
        writer.head = head;
        let mut pending = lock(&self.pending);
        let mut told: Vec<String> = Vec::new();
        if let Some(torn) = torn {
            told.push(format!(
                "the audit log ended in the middle of a record, as after a power failure: {} byte(s) behind record {} were cut off",
                torn.len(),
                writer.head.seq
            ));
            let entry = Entry::new(Kind::Torn, By::Gateway)
                .with("bytes", torn.len())
                .with("sha256", line::sha256(&torn))
                .with("began", String::from_utf8_lossy(&torn[..torn.len().min(200)]).into_owned());
            pending.entries.push_front(Stamped::now(entry));
        }
        for trouble in troubles {
            let entry = Entry::new(Kind::Damaged, By::Gateway).with("found", trouble.clone());
            pending.entries.push_front(Stamped::now(entry));
            told.push(format!("{trouble}; `bulkhead audit verify` says where"));
        }
        Ok(told)
    }

    /// Whether it is open. What is recorded before waits, or is refused.
    pub fn is_open(&self) -> bool {
        lock(&self.writer).place.is_some()
    }

    /// The last record. What is pending comes behind it.
    pub fn head(&self) -> Head {
        lock(&self.writer).head.clone()
    }

    /// Why it cannot be written at the moment, and how many records wait.
    pub fn trouble(&self) -> (Option<String>, usize) {
        let trouble = lock(&self.writer).trouble.clone();
        (trouble, lock(&self.pending).entries.len())
    }

    /// Records an act that grants something, before or while it is done. Returns when the record is on the disk.
    ///
    /// # Errors
    ///
    /// It is not recorded, in words; the act must not be done, or has to be undone.
    pub fn record(&self, entry: Entry) -> Result<(), String> {
        let outcome = Arc::new(Outcome::default());
        let stamped = Stamped { waiting: Some(outcome.clone()), ..Stamped::now(entry) };
        let mut pending = lock(&self.pending);
        pending.entries.push_back(stamped);
        while pending.is_led {
            pending = self.written.wait(pending).unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = lock(&outcome.0).take() {
                return known;
            }
        }
        pending.is_led = true;
        drop(pending);
        let lead = Lead(self);
        let _ = self.write_pending(&mut lock(&self.writer));
        drop(lead);
        let known = lock(&outcome.0).take();
        known.unwrap_or_else(|| Err("whoever wrote the record did not come to an end".to_owned()))
    }

    /// How many records wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        lock(&self.pending).entries.len()
    }

    /// Records an act that has been done whatever happens, for it takes something away. Returns when the record is on the
    /// disk.
    ///
    /// # Errors
    ///
    /// It is not on the disk yet, in words; it is kept until the disk takes it.
    pub fn record_done(&self, entry: Entry) -> Result<(), String> {
        self.later(entry);
        self.flush()
    }

    /// Records something soon. Waits for nothing.
    pub fn later(&self, entry: Entry) {
        let mut pending = lock(&self.pending);
        if pending.entries.len() < PENDING {
            pending.entries.push_back(Stamped::now(entry));
        } else {
            pending.lost += 1;
        }
        drop(pending);
        self.more.notify_all();
    }

    /// Writes what is pending.
    ///
    /// # Errors
    ///
    /// Not all of it is on the disk, in words.
    pub fn flush(&self) -> Result<(), String> {
        self.write_pending(&mut lock(&self.writer))
    }

    /// Waits until something is pending, or so long. False when whoever writes shall end.
    pub fn wait(&self, longest: Duration) -> bool {
        let pending = lock(&self.pending);
        let idle = |pending: &mut Pending| pending.entries.is_empty() && !pending.over;
        let (pending, _) =
            self.more.wait_timeout_while(pending, longest, idle).unwrap_or_else(PoisonError::into_inner);
        !pending.over
    }

    /// Has whoever waits stop waiting for ever.
    pub fn end_waiting(&self) {
        lock(&self.pending).over = true;
        self.more.notify_all();
    }

    fn write_pending(&self, writer: &mut Writer) -> Result<(), String> {
        let mut batch = {
            let mut pending = lock(&self.pending);
            let mut batch = std::mem::take(&mut pending.entries);
            if pending.lost > 0 {
                let entry = Entry::new(Kind::Lost, By::Gateway).with("records", pending.lost);
                batch.push_back(Stamped::now(entry));
                pending.lost = 0;
            }
            batch
        };
        let written = writer.write(&mut batch);
        if let Err(why) = &written {
            // What is not recorded is not done, so it must not be recorded later.
            batch.iter().for_each(|stamped| stamped.tell(Err(why.clone())));
            batch.retain(|stamped| stamped.waiting.is_none());
        }
        let mut pending = lock(&self.pending);
        // Before what has come meanwhile.
        batch.append(&mut pending.entries);
        pending.entries = batch;
        drop(pending);
        self.written.notify_all();
        written
    }
}

impl Writer {
    /// Writes these, and takes out what is on the disk.
    fn write(&mut self, entries: &mut VecDeque<Stamped>) -> Result<(), String> {
        let Some(place) = &mut self.place else {
            let why = "the audit log is not open, for the state directory cannot be used".to_owned();
            return if entries.is_empty() { Ok(()) } else { Err(why) };
        };
        while !entries.is_empty() {
            let written = place.make_room(&mut self.head).and_then(|()| {
                let (mut text, mut head, mut count) = (String::new(), self.head.clone(), 0);
                for Stamped { at, entry, .. } in &*entries {
                    let (line, next) = line::write(&head, *at, entry);
                    if count > 0 && text.len() + line.len() > BATCH_BYTES {
                        break;
                    }
                    text += &line;
                    (head, count) = (next, count + 1);
                }
                place.append(text.as_bytes(), &head)?;
                Ok((head, count))
            });
            match written {
                Ok((head, count)) => {
                    self.head = head;
                    entries.drain(..count).for_each(|stamped| stamped.tell(Ok(())));
                }
                Err(error) => {
                    let path = place.active();
                    let why = format!("the audit log {} cannot be written: {error}", path.display());
                    self.trouble = Some(why.clone());
                    return Err(why);
                }
            }
        }
        self.trouble = None;
        Ok(())
    }
}

impl Place {
    fn active(&self) -> PathBuf {
        self.directory.join(ACTIVE)
    }

    /// Adds whole records, of which this is the last. When this returns they last; else nothing was added.
    fn append(&mut self, bytes: &[u8], head: &Head) -> io::Result<()> {
        let active = self.active();
        if self.untidy {
            self.tidy()?;
        }
        let is_new = self.length == 0;
        self.untidy = true;
        let written = self.disk.append(&active, bytes).and_then(|()| self.disk.sync(&active));
        let written = written.and_then(|()| match is_new {
            true => self.disk.sync_directory(&self.directory),
            false => Ok(()),
        });
        if let Err(error) = written {
            // What cannot be taken back now is before the next record.
            let _ = self.tidy();
            return Err(error);
        }
        (self.untidy, self.length) = (false, self.length + bytes.len() as u64);
        self.note(head);
        Ok(())
    }

    /// Cuts off what stands behind the whole records.
    fn tidy(&mut self) -> io::Result<()> {
        let active = self.active();
        self.disk.truncate(&active, self.length)?;
        match self.disk.sync(&active) {
            // There is nothing to cut off either.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            synced => synced?,
        }
        self.untidy = false;
        Ok(())
    }

    /// Notes the head beside the log. It need not last: an older one does as well.
    fn note(&self, head: &Head) {
        let path = self.directory.join(HEAD);
        let unfinished = self.directory.join(format!("{HEAD}{UNFINISHED}"));
        let written = self.disk.create(&unfinished, format!("{}\n", json!(head)).as_bytes());
        let _ = written.and_then(|()| self.disk.rename(&unfinished, &path));
    }

    /// Begins another file when this one is full, and removes the oldest when there are too many.
    fn make_room(&mut self, head: &mut Head) -> io::Result<()> {
        if self.length < SEGMENT_BYTES {
            return Ok(());
        }
        self.disk.rename(&self.active(), &self.directory.join(segment_name(self.first)))?;
        (self.length, self.first, self.untidy) = (0, head.seq + 1, false);
        self.disk.sync_directory(&self.directory)?;
        let full = segments(&*self.disk, &self.directory)?;
        let excess = full.len().saturating_sub(SEGMENTS);
        for first in &full[..excess] {
            let path = self.directory.join(segment_name(*first));
            let bytes = self.disk.read(&path, FILE_BYTES_MAX)?;
            let last = last_record(&bytes).map(|record| record.head()).unwrap_or_default();
            let entry = Entry::new(Kind::Trimmed, By::Gateway)
                .with("through", last.seq)
                .with("hash", last.hash)
                .with("file", segment_name(*first));
            let (line, next) = line::write(head, SystemTime::now(), &entry);
            // First the record, then the removal: a stop between them leaves one more file than are kept.
            self.append(line.as_bytes(), &next)?;
            *head = next;
            self.disk.remove(&path)?;
        }
        Ok(())
    }
}

/// The numbers of the first records of the full files, ascending.
pub(super) fn segments(disk: &dyn Disk, directory: &Path) -> io::Result<Vec<u64>> {
    let names = disk.list(directory)?;
    let mut firsts: Vec<u64> = names.iter().filter_map(|(name, _)| segment_first(name)).collect();
    firsts.sort_unstable();
    Ok(firsts)
}

/// The last line that is a record, whether its digest is right or not.
fn last_record(bytes: &[u8]) -> Option<Record> {
    let lines = bytes.split(|byte| *byte == b'\n').rev();
    lines.filter(|line| !line.is_empty()).find_map(|line| line::read(line).ok()).map(|(record, _)| record)
}

/// How the log was found.
struct Found {
    head: Head,
    length: u64,
    first: u64,
    /// What stands behind the last line break.
    torn: Option<Vec<u8>>,
    troubles: Vec<String>,
}

impl Found {
    fn look(disk: &dyn Disk, directory: &Path) -> io::Result<Found> {
        let read = |name: &str| match disk.read(&directory.join(name), FILE_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        };
        let mut bytes = read(ACTIVE)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let rest = bytes.split_off(whole);
        let torn = (!rest.is_empty()).then_some(rest);
        let mut troubles = Vec::new();
        let mut last = last_record(&bytes);
        if last.is_none()
            && let Some(newest) = segments(disk, directory)?.pop()
        {
            last = last_record(&read(&segment_name(newest))?);
        }
        let mut head = last.as_ref().map(Record::head).unwrap_or_default();
        let end = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let end = end.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        if !end.is_empty() && !matches!(line::read(end), Ok((_, true))) {
            troubles.push("the last record of the audit log was changed".to_owned());
        }
        let noted: Option<Head> = serde_json::from_slice(&read(HEAD)?).ok();
        if let Some(noted) =
            noted.filter(|noted| noted.seq > head.seq || noted.seq == head.seq && *noted != head)
        {
            troubles.push(format!(
                "the audit log ends with record {}, but the last one that was written is {}",
                head.seq, noted.seq
            ));
            // So that what is missing stays missing for everybody who looks.
            head = noted;
        }
        let first = bytes.split(|byte| *byte == b'\n').next().and_then(|line| line::read(line).ok());
        let first = first.map_or(head.seq + 1, |(record, _)| record.seq);
        Ok(Found { head, length: bytes.len() as u64, first, torn, troubles })
    }
}
