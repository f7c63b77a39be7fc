//! With which policy to start: the one in the gateway's own file, or the one that was confirmed last.
//!
//! The file is what the operator wants, unless something was decided since he wrote it:
//!
//! | the file | what runs |
//! |---|---|
//! | says what was confirmed last | that |
//! | was changed since the last decision (start, reload, apply, confirm, roll back), and is right | the file, as a new revision |
//! | was not, and something else was applied or rolled back to since | what was confirmed last |
//! | is broken | what was confirmed last, or nothing with `--no-fallback` |
//! | whatever it says, while another policy waits for its confirmation | what was confirmed last |
//!
//! A policy that was not confirmed never outlives the process: no clock has to be believed for that. Where what was
//! confirmed last is damaged, the newest undamaged one before it is taken. Whatever runs instead of the file is told in an
//! alarm.

use std::path::{Path, PathBuf};

use super::load::{self, Loaded};
use super::log;
use crate::api::types::Refusal;
use crate::config;
use crate::model;
use crate::store::{Seen, Store, Unusable};

/// What `bulkhead run` was asked about its policy.
pub struct Wanted<'o> {
    /// The gateway's own file.
    pub file: &'o Path,
    /// The state directory, whatever the file says.
    pub state: Option<&'o Path>,
    /// Start from the file or not at all.
    pub no_fallback: bool,
}

/// The decision. Nothing has been written yet.
pub struct Choice {
    /// What is to run.
    pub loaded: Loaded,
    /// Its main file.
    pub file: PathBuf,
    /// Its number, if it has one already.
    pub revision: Option<u64>,
    /// It comes from the store, whatever the file says.
    pub from_store: bool,
    /// The state directory.
    pub directory: PathBuf,
    /// The store, if it can be used.
    pub store: Option<Store>,
    /// What is known of the file from now on; `None` leaves it as it was.
    pub seen: Option<Seen>,
    /// What an operator must see.
    pub alarms: Vec<String>,
}

/// Decides.
///
/// # Errors
///
/// There is nothing to start with; the refusal has the exit code that the file deserves.
pub fn choose(wanted: &Wanted<'_>) -> Result<Choice, Refusal> {
    let (content, attempt) = load::attempt(wanted.file);
    let named = || match &attempt {
        Ok(loaded) => loaded.model.gateway.state.clone(),
        Err(_) => config::state_of(wanted.file).unwrap_or_else(|| model::Gateway::default().state),
    };
    let directory = wanted.state.map_or_else(named, Path::to_owned);
    if wanted.no_fallback
        && let Err(refusal) = attempt
    {
        return Err(refusal);
    }
    let mut alarms = Vec::new();
    let store = match Store::open(&directory) {
        Ok(store) => Some(store),
        Err(Unusable::Busy(why)) => return Err(Refusal::error(why)),
        Err(Unusable::Broken(why)) => {
            alarms.push(format!(
                "{why}: what was in force cannot be looked up, and until this is mended every other policy is refused"
            ));
            None
        }
    };
    if let Some(store) = &store {
        alarms.extend(store.troubles().iter().map(|trouble| format!("{}: {trouble}", directory.display())));
    }
    let seen = Seen { file: wanted.file.display().to_string(), digest: content };
    let decision = Decision { wanted, store: store.as_ref(), seen: &seen };
    let (source, note_seen) = decision.source(attempt, &mut alarms)?;
    let (loaded, file, revision, from_store) = match source {
        Source::Own(loaded, revision) => (*loaded, wanted.file.to_owned(), revision, false),
        Source::Stored(loaded, file, revision) => (*loaded, file, Some(revision), true),
    };
    let seen = note_seen.then_some(seen);
    Ok(Choice { loaded, file, revision, from_store, directory, store, seen, alarms })
}

/// Where the policy comes from.
enum Source {
    /// The gateway's own file, which is this revision already, or a new one.
    Own(Box<Loaded>, Option<u64>),
    /// A revision, with the path of its main file.
    Stored(Box<Loaded>, PathBuf, u64),
}

struct Decision<'d> {
    wanted: &'d Wanted<'d>,
    store: Option<&'d Store>,
    seen: &'d Seen,
}

impl Decision<'_> {
    /// The source, and whether the file counts as decided upon from now on.
    fn source(
        &self,
        own: Result<Loaded, Refusal>,
        alarms: &mut Vec<String>,
    ) -> Result<(Source, bool), Refusal> {
        let file = self.wanted.file.display();
        let current = self.store.map(|store| store.current().clone()).unwrap_or_default();
        let confirmed = current.confirmed.and_then(|revision| self.store?.about(revision));
        let is_confirmed = confirmed.is_some_and(|about| about.content == self.seen.digest);
        if let Some(pending) = &current.pending {
            let why = format!(
                "revision {} was not confirmed before the gateway ended, so it is rolled back",
                pending.revision
            );
            let is_pending = self
                .store
                .and_then(|store| store.about(pending.revision))
                .is_none_or(|about| about.content == self.seen.digest);
            return match (self.last_confirmed(alarms), own) {
                (Some(stored), _) => {
                    alarms.push(format!(
                        "{why}: revision {} runs{}",
                        number(&stored),
                        self.instead(is_confirmed, "")
                    ));
                    Ok((stored, true))
                }
                (None, Ok(loaded)) if !is_pending => {
                    alarms.push(format!("{why}: no confirmed revision can be used, and {file} runs"));
                    Ok((Source::Own(Box::new(loaded), None), true))
                }
                (None, _) => Err(Refusal::error(format!("{why}, and no confirmed revision can be used"))),
            };
        }
        match own {
            Ok(loaded) if is_confirmed => Ok((Source::Own(Box::new(loaded), current.confirmed), true)),
            Ok(loaded) if current.seen.as_ref() == Some(self.seen) => match self.last_confirmed(alarms) {
                Some(stored) => {
                    let unchanged = ", which was not changed since that was put in force";
                    alarms.push(format!(
                        "revision {} runs{}",
                        number(&stored),
                        self.instead(false, unchanged)
                    ));
                    Ok((stored, false))
                }
                None => Ok((Source::Own(Box::new(loaded), None), true)),
            },
            Ok(loaded) => Ok((Source::Own(Box::new(loaded), None), true)),
            Err(refusal) => match self.last_confirmed(alarms) {
                Some(stored) => {
                    let revision = number(&stored);
                    alarms.push(format!(
                        "{file} IS BROKEN, and revision {revision}, which was confirmed last, runs instead:\n{}",
                        refusal.message
                    ));
                    Ok((stored, false))
                }
                None => {
                    // Whoever reads the refusal wants to know why there was nothing else.
                    alarms.iter().for_each(|alarm| log::complain(alarm));
                    Err(refusal)
                }
            },
        }
    }

    /// Words for a file that something else runs instead of.
    fn instead(&self, is_confirmed: bool, why: &str) -> String {
        if is_confirmed {
            return String::new();
        }
        let file = self.wanted.file.display();
        format!(" instead of {file}{why}; `bulkhead reload {file}` puts that file in force")
    }

    /// The newest confirmed revision that can be used.
    fn last_confirmed(&self, alarms: &mut Vec<String>) -> Option<Source> {
        let store = self.store?;
        let current = store.current();
        let others =
            current.confirmed_before(u64::MAX).filter(|revision| Some(*revision) != current.confirmed);
        for revision in current.confirmed.into_iter().chain(others) {
            let loaded = store.read(revision).and_then(|stored| {
                let file = PathBuf::from(&stored.files[0].path);
                let loaded = load::check_stored(stored, None).map_err(|refusal| refusal.message)?;
                Ok((loaded, file))
            });
            match loaded {
                Ok((loaded, file)) => return Some(Source::Stored(Box::new(loaded), file, revision)),
                Err(why) => alarms.push(format!("revision {revision} cannot be used: {why}")),
            }
        }
        None
    }
}

fn number(source: &Source) -> u64 {
    match source {
        Source::Stored(_, _, revision) => *revision,
        Source::Own(_, revision) => revision.unwrap_or_default(),
    }
}
