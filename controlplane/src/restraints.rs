//! Who is locked out, and who is in quarantine: what operators have said of users, devices, groups and addresses.
//!
//! A *lock* ends the sessions of whom it means, and none begins while it holds; nothing crosses from or to a locked address,
//! with a session or without. *Quarantine* moves addresses into the policy's quarantine segment: the one that is named, or
//! every one at which the user or the device has a session, or had one since. Those stay until the quarantine is over: who
//! signs out, or whose lease ends, has not become healthy by that.
//!
//! Both are kept in `restraints` in the state directory, written as the store writes, and survive restarts. If that file
//! is damaged, or cannot be read, nobody knows who is locked out; then nobody is let in until an operator says so
//! (`bulkhead unlock --damaged`).
//!
//! **An end** is by the wall clock, and in the run in which it was set, or read from disk, also by the clock of the machine
//! since it was started: both must be past it. So a wall clock that is put forward lets nobody out early, unless the gateway
//! is restarted with it; one that is put back keeps somebody longer, until `unlock`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_dataplane::policy;
use serde::{Deserialize, Serialize};

use crate::model::Model;
use crate::store::record::{seal, unseal};
use crate::store::{Disk, replace};

/// The most restraints.
pub const MOST: usize = 16_384;
/// The most addresses in quarantine.
pub const ADDRESSES: usize = 65_536;
/// First line of the file.
const KIND: &str = "bulkhead restraints 1";
/// 16,384 restraints of at most 3 KiB, and 65,536 addresses of at most 48 bytes.
const BYTES_MAX: u64 = 64 << 20;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Locked out.
    Lock,
    /// In quarantine.
    Quarantine,
}

/// Whom it means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// This user.
    User(String),
    /// This device.
    Device(String),
    /// Everybody in this group.
    Group(String),
    /// Whatever shows this SPIFFE ID.
    Spiffe(String),
    /// This address.
    Address(IpAddr),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::User(name) => write!(f, "user {name}"),
            Subject::Device(name) => write!(f, "device {name}"),
            Subject::Group(name) => write!(f, "group {name}"),
            Subject::Spiffe(id) => write!(f, "workload {id}"),
            Subject::Address(address) => write!(f, "address {address}"),
        }
    }
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restraint {
    /// Which of the two.
    pub kind: Kind,
    /// Whom it means.
    pub subject: Subject,
    /// Why.
    pub reason: Option<String>,
    /// Who said so.
    pub by: String,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// Until when, if it has an end.
    pub until_ms: Option<u64>,
    /// Of a quarantine, the addresses that came into it by a session of the subject.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub addresses: BTreeSet<IpAddr>,
}

/// What is known of somebody who signs in, or has.
#[derive(Clone, Copy, Debug)]
pub struct Known<'k> {
    /// The user.
    pub user: Option<&'k str>,
    /// All groups, told and declared.
    pub groups: &'k [String],
    /// What the device is called.
    pub device: Option<&'k str>,
    /// The SPIFFE ID that it has shown.
    pub spiffe: Option<&'k str>,
    /// Where they are.
    pub address: IpAddr,
}

impl Subject {
    /// Whether it means them.
    pub fn means(&self, known: &Known<'_>) -> bool {
        match self {
            Subject::User(name) => known.user == Some(name),
            Subject::Device(name) => known.device == Some(name),
            Subject::Group(name) => known.groups.contains(name),
            Subject::Spiffe(id) => known.spiffe == Some(id),
            Subject::Address(address) => known.address == *address,
        }
    }
}

/// What the two clocks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// The wall clock, milliseconds since 1970.
    pub wall_ms: u64,
    /// Since the machine was started, which nobody sets.
    pub boot: Duration,
}

struct Held {
    restraint: Restraint,
    /// Not before that by the clock since the machine was started.
    not_before: Option<Duration>,
}

impl Held {
    fn new(restraint: Restraint, clocks: Clocks) -> Held {
        let left =
            restraint.until_ms.map(|until| Duration::from_millis(until.saturating_sub(clocks.wall_ms)));
        Held { restraint, not_before: left.map(|left| clocks.boot + left) }
    }

    fn is_over(&self, clocks: Clocks) -> bool {
        let Some(until_ms) = self.restraint.until_ms else { return false };
        clocks.wall_ms >= until_ms && self.not_before.is_none_or(|not_before| clocks.boot >= not_before)
    }
}

/// There are as many as fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there are as many as fit ({MOST}, with {ADDRESSES} addresses in quarantine)")
    }
}

#[derive(Default)]
struct State {
    all: BTreeMap<(Kind, Subject), Held>,
    file: Option<(Arc<dyn Disk>, PathBuf)>,
    /// Why nobody knows who is locked out.
    unknown: Option<String>,
}

/// All of them.
pub struct Restraints {
    state: Mutex<State>,
    /// Held while the file is written. The state is not, for the main loop looks at it and waits for no disk.
    saving: Mutex<()>,
}

impl Default for Restraints {
    /// None is known: nobody may be let in before [`Restraints::open`].
    fn default() -> Restraints {
        let unknown = Some("the state directory cannot be used".to_owned());
        Restraints { state: Mutex::new(State { unknown, ..State::default() }), saving: Mutex::default() }
    }
}

impl Restraints {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads them, by the clocks as they are, and keeps the file up to date from then on.
    ///
    /// # Errors
    ///
    /// Nobody knows who is locked out, in words.
    pub fn open_at(&self, disk: Arc<dyn Disk>, directory: &Path, clocks: Clocks) -> Result<(), String> {
        let path = directory.join("restraints");
        let read = match disk.read(&path, BYTES_MAX) {
            Ok(bytes) => match unseal::<Vec<Restraint>>(KIND, &bytes) {
                Ok((list, [])) => Ok(list),
                Ok(_) => Err("something follows its end".to_owned()),
                Err(why) => Err(why),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
        };
        let mut state = self.state();
        state.file = Some((disk, path.clone()));
        match read {
            Ok(list) => {
                for restraint in list {
                    let key = (restraint.kind, restraint.subject.clone());
                    // What was said in this run is newer.
                    state.all.entry(key).or_insert_with(|| Held::new(restraint, clocks));
                }
                state.unknown = None;
                Ok(())
            }
            Err(why) => {
                let why = format!("{} is damaged: {why}", path.display());
                state.unknown = Some(why.clone());
                Err(format!(
                    "{why}; nobody knows who is locked out or in quarantine, so nobody is let in until `bulkhead unlock \
                     --damaged` begins anew; the audit log says who was"
                ))
            }
        }
    }

    /// Why nobody knows who is locked out, if so.
    pub fn unknown(&self) -> Option<String> {
        self.state().unknown.clone()
    }

    /// Begins anew with those of this run.
    pub fn begin_anew(&self) {
        self.state().unknown = None;
    }

    /// Adds one, in place of the one of its kind that the subject has; addresses that this one brought in stay.
    ///
    /// # Errors
    ///
    /// There is no room; nothing has changed.
    pub fn put(&self, mut restraint: Restraint, clocks: Clocks) -> Result<(), Full> {
        let mut state = self.state();
        let key = (restraint.kind, restraint.subject.clone());
        match state.all.get(&key) {
            None if state.all.len() >= MOST => return Err(Full),
            None => {}
            Some(before) => restraint.addresses.extend(before.restraint.addresses.iter().copied()),
        }
        let others: usize = state
            .all
            .iter()
            .filter(|(other, _)| **other != key)
            .map(|(_, held)| held.restraint.addresses.len())
            .sum();
        if others + restraint.addresses.len() > ADDRESSES {
            return Err(Full);
        }
        state.all.insert(key, Held::new(restraint, clocks));
        Ok(())
    }

    /// Puts one back as it was, after a removal that came to nothing.
    pub fn put_back(&self, restraint: Restraint, clocks: Clocks) {
        let key = (restraint.kind, restraint.subject.clone());
        self.state().all.insert(key, Held::new(restraint, clocks));
    }

    /// Removes one.
    pub fn remove(&self, kind: Kind, subject: &Subject) -> Option<Restraint> {
        self.state().all.remove(&(kind, subject.clone())).map(|held| held.restraint)
    }

    /// All of a kind, in the order of their subjects.
    pub fn list(&self, kind: Kind) -> Vec<Restraint> {
        let state = self.state();
        let of_kind =
            state.all.values().map(|held| &held.restraint).filter(|restraint| restraint.kind == kind);
        of_kind.cloned().collect()
    }

    /// The first of a kind that means somebody.
    pub fn of(&self, kind: Kind, known: &Known<'_>) -> Option<Restraint> {
        let state = self.state();
        let mut of_kind =
            state.all.values().map(|held| &held.restraint).filter(|restraint| restraint.kind == kind);
        of_kind.find(|restraint| restraint.subject.means(known)).cloned()
    }

    /// Brings an address into all quarantines that mean whoever is there. True if one of them did not have it.
    ///
    /// # Errors
    ///
    /// There is no room.
    pub fn bring_in(&self, known: &Known<'_>) -> Result<bool, Full> {
        let mut state = self.state();
        let mut count: usize = state.all.values().map(|held| held.restraint.addresses.len()).sum();
        let mut any = false;
        for held in state.all.values_mut() {
            let Restraint { kind, subject, addresses, .. } = &mut held.restraint;
            if *kind == Kind::Quarantine
                && subject.means(known)
                && *subject != Subject::Address(known.address)
            {
                if !addresses.contains(&known.address) && count >= ADDRESSES {
                    return Err(Full);
                }
                let is_new = addresses.insert(known.address);
                count += usize::from(is_new);
                any |= is_new;
            }
        }
        Ok(any)
    }

    /// Removes those that are over, and returns them.
    pub fn expire(&self, clocks: Clocks) -> Vec<Restraint> {
        let mut state = self.state();
        if !state.all.values().any(|held| held.is_over(clocks)) {
            return Vec::new();
        }
        let (over, all) =
            std::mem::take(&mut state.all).into_iter().partition(|(_, held)| held.is_over(clocks));
        state.all = all;
        let over: BTreeMap<_, Held> = over;
        over.into_values().map(|held| held.restraint).collect()
    }

    /// The restrained addresses, for a policy of this model.
    pub fn of_model(&self, model: &Model) -> Arc<policy::Restraints> {
        let state = self.state();
        let mut all = Vec::new();
        for Restraint { kind, subject, addresses, .. } in state.all.values().map(|held| &held.restraint) {
            let restraint = match kind {
                Kind::Lock => policy::Restraint::Locked,
                Kind::Quarantine => policy::Restraint::Quarantined,
            };
            let own = match subject {
                Subject::Address(address) => Some(*address),
                _ => None,
            };
            all.extend(own.iter().chain(addresses).map(|address| (*address, restraint)));
        }
        Arc::new(policy::Restraints::new(all, model.quarantine().is_some()))
    }

    /// Writes them down.
    ///
    /// # Errors
    ///
    /// What is on disk is as before, in words.
    pub fn save(&self) -> Result<(), String> {
        let _one_at_a_time = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let (disk, path, bytes) = {
            let state = self.state();
            let Some((disk, path)) = &state.file else {
                return Err("the state directory cannot be used".to_owned());
            };
            let list: Vec<&Restraint> = state.all.values().map(|held| &held.restraint).collect();
            (disk.clone(), path.clone(), seal(KIND, &list))
        };
        replace(&*disk, &path, &bytes)
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests;
