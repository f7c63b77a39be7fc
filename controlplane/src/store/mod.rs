//! The policies that were in force, on disk: numbered *revisions*, each with the complete text of all its files, and what
//! became of each.
//!
//! | file in the state directory | what it is |
//! |---|---|
//! | `lock` | held by the gateway that uses the directory |
//! | `current` | which revision is confirmed, which one waits for that, what became of the others: [`Current`] |
//! | `revisions/N` | revision N; written once, and never changed |
//! | `counters` | what every rule did, over all runs: [`CounterFile`] |
//! | `restraints` | who is locked out or in quarantine: [`crate::restraints`] |
//! | `audit.log`, `audit-N.log`, `audit.head` | the audit log: [`crate::audit`] |
//!
//! Every file is written beside its place, made to last, and then renamed to it, which is made to last before anything
//! else is done. A revision counts from the moment that `current` names it: so a stop at any point leaves all of the old
//! state or all of the new one. Every byte is covered by a digest; what does not match is told, and not used.
//!
//! A revision's number is not the dataplane's generation: that counts the publications of one run, from 1.

mod counters;
pub(crate) mod disk;
pub(crate) mod record;
mod stamp;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::Flock;

use crate::api::server::{self, Locked};

pub use counters::{Counted, CounterFile, Counters};
pub use disk::{Disk, Files};
pub(crate) use disk::{UNFINISHED, replace};
pub(crate) use record::sha256;
pub use record::{
    About, Cause, Current, Mark, Note, Pending, Said, Seen, Stored, Text, Who, digest_of, read_revision,
};
pub use stamp::Stamp;

/// So many revisions are kept, and those that are needed besides.
pub const KEPT: usize = 100;
/// So many bytes they may take together, but for those that are needed.
pub const BYTES_KEPT: u64 = 512 << 20;
/// A revision's file: 64 MiB of texts, and a line about up to 10,000 files.
const REVISION_BYTES_MAX: u64 = 192 << 20;
/// Enough of a file to find what is said of most revisions.
const HEAD_BYTES: u64 = 64 << 10;
/// `current` has a short line about each of at most some hundred revisions.
const CURRENT_BYTES_MAX: u64 = 16 << 20;

/// What is known of a revision's file without having read all of it.
struct Entry {
    bytes: u64,
    /// What is said of it, or why that cannot be trusted.
    about: Result<About, String>,
}

/// What a revision is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Confirmed, and what runs.
    InForce,
    /// What runs, until somebody confirms it or the time is over, milliseconds since 1970.
    Pending(u64),
    /// Confirmed, and what comes back when the pending one is not.
    Confirmed,
    /// Taken back: when, milliseconds since 1970, and why.
    RolledBack(u64, String),
    /// Something else was put in force after it.
    Superseded,
}

/// A revision as history tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its number.
    pub revision: u64,
    /// What is known of it; nothing if its file is damaged.
    pub about: Option<About>,
    /// What it is now.
    pub state: State,
    /// When it was confirmed, milliseconds since 1970, and by whom.
    pub confirmed: Option<(u64, Who)>,
    /// Why its text cannot be used.
    pub damaged: Option<String>,
}

/// Why a state directory cannot be used, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Another gateway uses it.
    Busy(String),
    /// It cannot be read or written.
    Broken(String),
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Unusable::Busy(why) | Unusable::Broken(why)) = self;
        f.write_str(why)
    }
}

/// The state directory, held by this process.
pub struct Store {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    entries: BTreeMap<u64, Entry>,
    current: Current,
    troubles: Vec<String>,
    /// Nobody else writes there.
    _lock: Option<Flock<File>>,
}

impl Store {
    /// Opens the state directory, or makes it.
    ///
    /// # Errors
    ///
    /// It cannot be used. A damaged file in it is no error: see [`Store::troubles`].
    pub fn open(directory: &Path) -> Result<Store, Unusable> {
        let unusable =
            |error: String| Unusable::Broken(format!("the state directory {}: {error}", directory.display()));
        Files.make_directory(directory).map_err(|error| unusable(error.to_string()))?;
        let lock = server::lock(&directory.join("lock")).map_err(|error| match error {
            Locked::Busy(why) => Unusable::Busy(why),
            Locked::Broken(error) => unusable(format!("{error:#}")),
        })?;
        let mut store = Store::open_on(Arc::new(Files), directory).map_err(unusable)?;
        store._lock = Some(lock);
        Ok(store)
    }

    /// As [`Store::open`], on any disk, and without a lock.
    fn open_on(disk: Arc<dyn Disk>, directory: &Path) -> Result<Store, String> {
        let mut store = Store {
            disk,
            directory: directory.to_owned(),
            entries: BTreeMap::new(),
            current: Current::default(),
            troubles: Vec::new(),
            _lock: None,
        };
        store.disk.make_directory(directory).map_err(|error| error.to_string())?;
        store.disk.make_directory(&store.revisions()).map_err(|error| error.to_string())?;
        store.find_entries()?;
        store.find_current()?;
        // What `current` does not name was being written when somebody pulled the plug, or was being removed.
        let orphans: Vec<_> =
            store.entries.keys().filter(|n| !store.current.marks.contains_key(n)).copied().collect();
        orphans.into_iter().for_each(|revision| store.forget(revision));
        let named: Vec<_> = store.current.marks.keys().copied().collect();
        for revision in named {
            if let Some(why) = store.damage(revision) {
                store.troubles.push(format!("revision {revision} is damaged and will not be used: {why}"));
            }
        }
        Ok(store)
    }

    fn revisions(&self) -> PathBuf {
        self.directory.join("revisions")
    }

    fn path(&self, revision: u64) -> PathBuf {
        self.revisions().join(revision.to_string())
    }

    fn find_entries(&mut self) -> Result<(), String> {
        let revisions = self.revisions();
        let files = self.disk.list(&revisions).map_err(|error| format!("revisions: {error}"))?;
        for (name, bytes) in files {
            let number = name.parse().ok().filter(|number: &u64| number.to_string() == name);
            match number {
                Some(revision) => {
                    let about = self.read_about(revision, bytes);
                    self.entries.insert(revision, Entry { bytes, about });
                }
                // One that cannot be removed is overwritten when its name is used again.
                None if name.ends_with(UNFINISHED) => drop(self.disk.remove(&revisions.join(name))),
                None => {}
            }
        }
        Ok(())
    }

    fn read_about(&self, revision: u64, bytes: u64) -> Result<About, String> {
        let path = self.path(revision);
        let read = |most| self.disk.read(&path, most).map_err(|error| error.to_string());
        let about = match record::read_about(&read(HEAD_BYTES)?) {
            Err(_) if bytes > HEAD_BYTES => record::read_about(&read(REVISION_BYTES_MAX)?)?,
            about => about?,
        };
        if about.revision != revision {
            return Err(format!("it is revision {} under another name", about.revision));
        }
        Ok(about)
    }

    fn find_current(&mut self) -> Result<(), String> {
        let path = self.directory.join("current");
        match self.disk.read(&path, CURRENT_BYTES_MAX) {
            Ok(bytes) => match record::read_current(&bytes) {
                Ok(current) => self.current = current,
                Err(why) => self.rebuild(&format!("`current` is damaged: {why}")),
            },
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.rebuild(&format!("`current` cannot be read: {error}"));
            }
            Err(_) if self.entries.is_empty() => {
                // At the beginning, so that from now on a missing one is a lost one.
                let empty = record::write_current(&self.current);
                self.replace(&path, &empty).map_err(|error| error.to_string())?;
            }
            Err(_) => self.rebuild("`current` is missing"),
        }
        Ok(())
    }

    /// Without `current`, only what was confirmed at its very beginning is known to have been confirmed.
    fn rebuild(&mut self, why: &str) {
        let mut current = Current::default();
        for (&revision, entry) in &self.entries {
            current.last = revision;
            let mut mark = Mark::default();
            match &entry.about {
                Ok(about) if about.confirm_ms.is_none() => {
                    mark.confirmed_ms = Some(about.at_ms);
                    mark.confirmed_by = about.who.clone();
                    current.confirmed = Some(revision);
                }
                Ok(about) => {
                    mark.rolled_back = Some((about.at_ms, "nobody knows: `current` was lost".to_owned()))
                }
                Err(_) => {}
            }
            current.marks.insert(revision, mark);
        }
        let taken = match current.confirmed {
            Some(revision) => {
                format!("the newest revision that was confirmed at once, {revision}, is taken for it")
            }
            None => "no revision is known to have been confirmed".to_owned(),
        };
        self.troubles.push(format!("{why}; {taken}"));
        self.current = current;
    }

    /// What was found damaged when the store was opened, in words.
    pub fn troubles(&self) -> &[String] {
        &self.troubles
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file of the rules' counters in it. It may be written without asking the store, by one at a time.
    pub fn counters(&self) -> CounterFile {
        CounterFile::of(self.disk.clone(), &self.directory)
    }

    /// The disk that it is on, for other files in it.
    pub fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    /// What holds now.
    pub fn current(&self) -> &Current {
        &self.current
    }

    /// What is known of a revision.
    pub fn about(&self, revision: u64) -> Option<&About> {
        self.entries.get(&revision)?.about.as_ref().ok()
    }

    /// Why a revision that `current` names cannot be used, as far as its beginning tells.
    fn damage(&self, revision: u64) -> Option<String> {
        match self.entries.get(&revision) {
            None => Some("its file is gone".to_owned()),
            Some(entry) => entry.about.as_ref().err().cloned(),
        }
    }

    /// Writes a revision under the next number, which it returns. It counts when a [`Store::commit`] marks it.
    ///
    /// # Errors
    ///
    /// Nothing was changed.
    pub fn add(&mut self, about: &About, files: &[Text]) -> io::Result<u64> {
        let revision = self.current.last.max(self.entries.keys().next_back().copied().unwrap_or(0)) + 1;
        let about = About { revision, ..about.clone() };
        let bytes = record::write_revision(&about, files);
        self.replace(&self.path(revision), &bytes)?;
        self.entries.insert(revision, Entry { bytes: bytes.len() as u64, about: Ok(about) });
        Ok(revision)
    }

    /// Takes back an [`Store::add`] that will not be committed.
    pub fn forget(&mut self, revision: u64) {
        self.entries.remove(&revision);
        // Nothing names it; what cannot be removed now goes at the next start.
        let _ = self.disk.remove(&self.path(revision));
    }

    /// Changes what holds, and removes revisions that are not kept any more.
    ///
    /// # Errors
    ///
    /// What held before holds on.
    pub fn commit(&mut self, change: impl FnOnce(&mut Current)) -> io::Result<()> {
        let mut next = self.current.clone();
        change(&mut next);
        let dropped = self.excess(&next);
        next.marks.retain(|revision, _| !dropped.contains(revision));
        self.save(&next)?;
        self.current = next;
        dropped.into_iter().for_each(|revision| self.forget(revision));
        Ok(())
    }

    /// As [`Store::commit`], of something that has happened already: it holds whether or not it can be written. The next
    /// commit writes it too.
    pub fn settle(&mut self, change: impl FnOnce(&mut Current)) -> io::Result<()> {
        change(&mut self.current);
        self.save(&self.current)
    }

    fn save(&self, next: &Current) -> io::Result<()> {
        let path = self.directory.join("current");
        self.replace(&path, &record::write_current(next)).inspect_err(|_| {
            // The new one may have its name already, and only its lasting is in doubt. The caller goes on by the old one.
            if self.disk.read(&path, CURRENT_BYTES_MAX).ok() != Some(record::write_current(&self.current)) {
                let _ = self.replace(&path, &record::write_current(&self.current));
            }
        })
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        replace(&*self.disk, path, bytes)
    }

    /// The revisions beyond what is kept: the oldest that nobody needs.
    fn excess(&self, current: &Current) -> Vec<u64> {
        let mut needed: Vec<u64> = current.confirmed.into_iter().collect();
        needed.extend(current.pending.as_ref().map(|pending| pending.revision));
        // What `rollback` would put back.
        needed.extend(current.confirmed_before(u64::MAX).take(2));
        let (mut count, mut bytes) = (0, 0);
        let mut dropped = Vec::new();
        for revision in current.marks.keys().rev() {
            count += 1;
            bytes += self.entries.get(revision).map_or(0, |entry| entry.bytes);
            if (count > KEPT || bytes > BYTES_KEPT) && !needed.contains(revision) {
                dropped.push(*revision);
            }
        }
        dropped
    }

    /// A revision with its texts.
    ///
    /// # Errors
    ///
    /// There is none, or it is damaged, in words.
    pub fn read(&self, revision: u64) -> Result<Stored, String> {
        if !self.current.marks.contains_key(&revision) {
            return Err(format!("there is no revision {revision}"));
        }
        let bytes = self.disk.read(&self.path(revision), REVISION_BYTES_MAX);
        let stored = bytes.map_err(|error| error.to_string()).and_then(|bytes| read_revision(&bytes));
        match stored {
            Ok(stored) if stored.about.revision == revision => Ok(stored),
            Ok(stored) => Err(format!("revision {revision} is damaged: it holds {}", stored.about.revision)),
            Err(why) => Err(format!("revision {revision} is damaged: {why}")),
        }
    }

    /// The revision that [`Current::confirmed`] follows, and goes back to if it is not wanted any more: confirmed, not
    /// rolled back, and of other content. Going back from what was gone back to goes further back.
    pub fn rollback_target(&self) -> Option<u64> {
        let now = self.current.confirmed?;
        let mut from = now;
        while let Some(About { cause: Cause::Rollback(of), .. }) = self.about(from)
            && *of < from
        {
            from = *of;
        }
        let content = self.about(now).map(|about| &about.content);
        let is_other =
            |revision: &u64| self.about(*revision).is_some_and(|about| Some(&about.content) != content);
        self.current.confirmed_before(from).find(is_other)
    }

    /// Every revision, oldest first. Reads all of their files, to find the damaged ones.
    pub fn history(&self) -> Vec<Told> {
        let marks = self.current.marks.iter();
        marks
            .map(|(&revision, mark)| {
                let read = self.read(revision);
                Told {
                    revision,
                    about: self.about(revision).cloned(),
                    state: self.current.state(revision),
                    confirmed: mark.confirmed_ms.map(|at| (at, mark.confirmed_by.clone())),
                    damaged: read.err(),
                }
            })
            .collect()
    }
}

impl Current {
    /// Revisions that were confirmed and not taken back, below this number, newest first.
    pub fn confirmed_before(&self, revision: u64) -> impl Iterator<Item = u64> {
        let usable = |mark: &Mark| mark.confirmed_ms.is_some() && mark.rolled_back.is_none();
        self.marks
            .range(..revision)
            .rev()
            .filter(move |(_, mark)| usable(mark))
            .map(|(revision, _)| *revision)
    }

    /// What a revision is now.
    pub fn state(&self, revision: u64) -> State {
        if let Some(pending) = self.pending.as_ref().filter(|pending| pending.revision == revision) {
            return State::Pending(pending.until_ms);
        }
        if self.confirmed == Some(revision) {
            return if self.pending.is_some() { State::Confirmed } else { State::InForce };
        }
        match self.marks.get(&revision).and_then(|mark| mark.rolled_back.clone()) {
            Some((at, why)) => State::RolledBack(at, why),
            None => State::Superseded,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
