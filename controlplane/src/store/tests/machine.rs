//! A disk in memory that loses what was not made to last, and everything that may be left of it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::Disk;

/// A file's contents: as they are read, and as they last.
#[derive(Clone, Debug, Default)]
struct Inode {
    now: Vec<u8>,
    lasting: Vec<u8>,
}

/// A change of names that need not last.
#[derive(Clone, Debug)]
enum Change {
    Link(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

type Names = BTreeMap<PathBuf, usize>;

impl Change {
    fn apply(&self, names: &mut Names) {
        match self {
            Change::Link(path, inode) => drop(names.insert(path.clone(), *inode)),
            Change::Rename(from, to) => {
                // Without the link before it, there is nothing to rename.
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Change::Remove(path) => drop(names.remove(path)),
        }
    }

    fn is_in(&self, directory: &Path) -> bool {
        let (Change::Link(path, _) | Change::Rename(_, path) | Change::Remove(path)) = self;
        path.parent() == Some(directory)
    }
}

/// What happens at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing more is done from this step on.
    Stop(usize),
    /// This step fails, and the others do not.
    Fail(usize),
}

#[derive(Clone, Default)]
struct State {
    inodes: Vec<Inode>,
    now: Names,
    lasting: Names,
    unlasting: Vec<Change>,
    steps: usize,
    fault: Option<Fault>,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct Machine(Arc<Mutex<State>>);

impl Machine {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Another disk with the same on it.
    pub fn copy(&self) -> Machine {
        let state = self.state().clone();
        Machine(Arc::new(Mutex::new(state)))
    }

    /// Counts steps from 0 again, and lets this happen.
    pub fn arm(&self, fault: Option<Fault>) {
        let mut state = self.state();
        (state.steps, state.fault) = (0, fault);
    }

    /// Whether the fault has happened.
    pub fn has_struck(&self) -> bool {
        let state = self.state();
        matches!(state.fault, Some(Fault::Stop(at) | Fault::Fail(at)) if state.steps > at)
    }

    /// A file's contents.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        state.now.get(path).map(|inode| state.inodes[*inode].now.clone())
    }

    /// Puts other contents in a file, to last.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        let inode = state.now[path];
        state.inodes[inode] = Inode { now: bytes.to_vec(), lasting: bytes.to_vec() };
    }

    /// The names of all files.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state().now.keys().cloned().collect()
    }

    /// All that may be on the disk after a power failure now: any of the changes of names, and of contents nothing,
    /// the beginning, zeros or all.
    pub fn after_power_failure(&self) -> Vec<Machine> {
        let state = self.state();
        let mut left = Vec::new();
        for chosen in 0..1_u32 << state.unlasting.len() {
            let mut names = state.lasting.clone();
            for (index, change) in state.unlasting.iter().enumerate() {
                if chosen >> index & 1 == 1 {
                    change.apply(&mut names);
                }
            }
            for kind in 0..4 {
                let contents = state.inodes.iter().map(|inode| {
                    let (now, lasting) = (&inode.now, &inode.lasting);
                    let added = now.len().saturating_sub(lasting.len());
                    let bytes = match kind {
                        _ if now == lasting => now.clone(),
                        // What was added to a file leaves its beginning alone, and so does what cuts it.
                        1 if now.starts_with(lasting) => now[..lasting.len() + added / 2].to_vec(),
                        2 if now.starts_with(lasting) => [&lasting[..], &vec![0; added]].concat(),
                        1 | 2 if lasting.starts_with(now) => now.clone(),
                        0 => inode.lasting.clone(),
                        1 => inode.now[..inode.now.len() / 2].to_vec(),
                        2 => vec![0; inode.now.len()],
                        _ => inode.now.clone(),
                    };
                    Inode { now: bytes.clone(), lasting: bytes }
                });
                let inodes = contents.collect();
                let state = State { inodes, now: names.clone(), lasting: names.clone(), ..State::default() };
                left.push(Machine(Arc::new(Mutex::new(state))));
            }
        }
        left
    }

    /// One step; what it does happens before the machine stops, or does not.
    fn step<T>(&self, action: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state();
        let step = state.steps;
        state.steps += 1;
        match state.fault {
            Some(Fault::Stop(at)) if step >= at => Err(io::Error::other("the machine has stopped")),
            Some(Fault::Fail(at)) if step == at => Err(io::ErrorKind::StorageFull.into()),
            _ => action(&mut state),
        }
    }
}

impl State {
    fn inode(&self, path: &Path) -> io::Result<usize> {
        self.now.get(path).copied().ok_or(io::ErrorKind::NotFound.into())
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.unlasting.push(change);
    }
}

impl Disk for Machine {
    fn make_directory(&self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<(String, u64)>> {
        let state = self.state();
        let inside = state.now.iter().filter(|(path, _)| path.parent() == Some(directory));
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        Ok(inside.map(|(path, inode)| (name(path), state.inodes[*inode].now.len() as u64)).collect())
    }

    fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        let state = self.state();
        let bytes = &state.inodes[state.inode(path)?].now;
        Ok(bytes[..bytes.len().min(most as usize)].to_vec())
    }

    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.step(|state| {
            match state.inode(path) {
                Ok(inode) => state.inodes[inode].now.clear(),
                Err(_) => {
                    state.inodes.push(Inode::default());
                    let inode = state.inodes.len() - 1;
                    state.change(Change::Link(path.to_owned(), inode));
                }
            }
            Ok(())
        })?;
        for written in [bytes.len() / 2, bytes.len()] {
            self.step(|state| {
                let inode = state.inode(path)?;
                state.inodes[inode].now = bytes[..written].to_vec();
                Ok(())
            })?;
        }
        Ok(())
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.step(|state| {
            if state.inode(path).is_err() {
                state.inodes.push(Inode::default());
                let inode = state.inodes.len() - 1;
                state.change(Change::Link(path.to_owned(), inode));
            }
            Ok(())
        })?;
        let (first, second) = bytes.split_at(bytes.len() / 2);
        for part in [first, second] {
            self.step(|state| {
                let inode = state.inode(path)?;
                state.inodes[inode].now.extend_from_slice(part);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn truncate(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.step(|state| {
            if let Ok(inode) = state.inode(path) {
                state.inodes[inode].now.truncate(bytes as usize);
            }
            Ok(())
        })
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.step(|state| {
            let inode = state.inode(path)?;
            state.inodes[inode].lasting = state.inodes[inode].now.clone();
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(|state| {
            state.inode(from)?;
            state.change(Change::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        })
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.step(|state| {
            let (done, left) = state.unlasting.drain(..).partition(|change| change.is_in(directory));
            state.unlasting = left;
            let done: Vec<Change> = done;
            done.iter().for_each(|change| change.apply(&mut state.lasting));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step(|state| {
            state.inode(path)?;
            state.change(Change::Remove(path.to_owned()));
            Ok(())
        })
    }
}
