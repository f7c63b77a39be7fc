//! The life of a policy: put in force, perhaps for a while only, confirmed, rolled back, remembered.
//!
//! Everything that can refuse a policy happens before it is stored, and it is stored before the workers get it: a refusal
//! changes nothing, and what runs is on disk. A policy that must be confirmed has what comes back compiled and bound beside
//! it from the beginning, so that nothing is left to fail when the time is over.
//!
//! Locks, in the order in which they are taken: `requests` (one at a time, from reading the files to the last worker),
//! `pending` (what runs changes only under it), `store`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Uid, User, getuid};

use super::acts::operator;
use super::gateway::{Gateway, Place, lock};
use super::generations::InForce;
use super::load::{self, Loaded};
use super::log;
use super::time::rfc3339;
use crate::api::types::{self, Refusal, Reloaded, Revision};
use crate::audit::{By, Entry, Kind};
use crate::model::Model;
use crate::store::{
    self, About, Cause, CounterFile, Current, Disk, Note, Pending, Said, Seen, State, Store, Told, Who,
};

/// The shortest time in which somebody can be asked to confirm, and the longest: a policy that nobody has confirmed for a
/// week is not a trial.
const CONFIRM: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
/// Why what nobody confirmed is taken back.
const LATE: &str = "it was not confirmed in time";
/// The longest message, characters.
const MESSAGE_CHARS: usize = 1000;
/// The longest ticket, characters.
const TICKET_CHARS: usize = 100;
/// What a client says of himself is cut to so many characters.
const SAID_CHARS: usize = 200;

/// What runs for a while only.
struct Provisional {
    revision: u64,
    /// By [`boottime`].
    deadline: Duration,
    /// What comes back, with its limits bound.
    back: Loaded,
    back_to: Place,
}

/// What of a gateway belongs here.
pub struct Lifecycle {
    /// The gateway's own file.
    own: PathBuf,
    /// The state directory.
    directory: PathBuf,
    requests: Mutex<()>,
    pending: Mutex<Option<Provisional>>,
    store: Mutex<Option<Store>>,
    /// Until it is written down what the gateway started with: what was seen of its own file, if that changes anything.
    unrecorded: Mutex<Option<Option<Seen>>>,
}

/// What shall be put in force.
pub enum Candidate {
    /// A file; the one last loaded without.
    File(Option<PathBuf>),
    /// This revision.
    Revision(u64),
}

/// How.
pub struct Order {
    /// On whose behalf.
    pub cause: Cause,
    /// Who asked.
    pub who: Who,
    /// Why.
    pub note: Note,
    /// Take it back after so long, if nobody confirms it.
    pub confirm: Option<Duration>,
    /// Also instead of one that waits for its confirmation.
    pub replace: bool,
}

impl Order {
    /// Put it in force for good.
    pub fn plain(cause: Cause, who: Who) -> Order {
        Order { cause, who, note: Note::default(), confirm: None, replace: false }
    }

    /// Refuses what cannot be stored or shown.
    fn check(&self) -> Result<(), Refusal> {
        for (what, text, most) in
            [("message", &self.note.message, MESSAGE_CHARS), ("ticket", &self.note.ticket, TICKET_CHARS)]
        {
            let Some(text) = text else { continue };
            if text.chars().count() > most {
                return Err(Refusal::error(format!("the {what} may have {most} characters")));
            }
            if text.chars().any(char::is_control) {
                return Err(Refusal::error(format!(
                    "the {what} may not have control characters or line breaks"
                )));
            }
        }
        match self.confirm {
            Some(confirm) if !CONFIRM.contains(&confirm) => {
                Err(Refusal::error("the time to confirm must be from one second to seven days"))
            }
            _ => Ok(()),
        }
    }
}

/// Who a client is. What he says himself is cut and made harmless.
pub fn who(uid: u32, said: Said) -> Who {
    let harmless =
        |text: String| text.chars().filter(|c| !c.is_control()).take(SAID_CHARS).collect::<String>();
    let said = Said {
        sudo_user: said.sudo_user.map(harmless),
        ssh_connection: said.ssh_connection.map(harmless),
        tty: said.tty.map(harmless),
    };
    Who { uid: Some(uid), user: user_name(Uid::from_raw(uid)), said }
}

/// Nobody, where no request came over the socket: a signal does not say who sent it.
pub fn nobody() -> Who {
    Who::default()
}

fn user_name(uid: Uid) -> Option<String> {
    User::from_uid(uid).ok().flatten().map(|user| user.name)
}

/// Since the machine started, also while it was suspended. Nobody sets this clock.
pub(super) fn boottime() -> Duration {
    // It is there since Linux 2.6.39, and has no other error.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

fn now_ms() -> u64 {
    since_1970_ms(SystemTime::now())
}

/// Milliseconds since 1970.
pub fn since_1970_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// The time so many milliseconds after the beginning of 1970.
pub fn from_ms(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

impl Lifecycle {
    /// Of a gateway whose own file this is. `seen` is what is to be written down of it.
    pub fn new(own: PathBuf, directory: PathBuf, store: Option<Store>, seen: Option<Seen>) -> Lifecycle {
        Lifecycle {
            own,
            directory,
            requests: Mutex::default(),
            pending: Mutex::default(),
            store: Mutex::new(store),
            unrecorded: Mutex::new(Some(seen)),
        }
    }

    /// What is known of the gateway's own file when this is put in force.
    fn seen(&self, file: &Path, content: &str) -> Seen {
        let digest = if file == self.own { content.to_owned() } else { load::content_of(&self.own) };
        Seen { file: self.own.display().to_string(), digest }
    }

    /// The file of the rules' counters; nothing while the state directory cannot be used.
    pub fn counters(&self) -> Option<CounterFile> {
        lock(&self.store).as_ref().map(Store::counters)
    }

    /// The state directory, whether it can be used or not.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the audit log is; nothing while the state directory cannot be used.
    pub fn place_of_audit(&self) -> Option<(Arc<dyn Disk>, PathBuf)> {
        lock(&self.store).as_ref().map(|store| (store.disk(), store.directory().to_owned()))
    }

    fn not_stored(&self, error: &std::io::Error) -> Refusal {
        let directory = self.directory.display();
        Refusal::error(format!("nothing was changed: the policy cannot be stored in {directory}: {error}"))
    }
}

/// What is known of a policy that is put in force like this. The store gives it its number.
fn about(order: &Order, model: &Model, content: &str) -> About {
    About {
        revision: 0,
        at_ms: now_ms(),
        cause: order.cause,
        who: order.who.clone(),
        note: order.note.clone(),
        digest: model.digest.clone(),
        content: content.to_owned(),
        rules: model.rule_infos.len() as u64,
        confirm_ms: order.confirm.map(|confirm| confirm.as_millis() as u64),
    }
}

/// Marks what waits for its confirmation as taken back.
fn end_pending(current: &mut Current, why: &str) {
    if let Some(pending) = current.pending.take() {
        current.marks.entry(pending.revision).or_default().rolled_back = Some((now_ms(), why.to_owned()));
    }
}

/// Marks a revision as confirmed, and the one that it takes back, if it does, as rolled back.
fn confirm_in(current: &mut Current, revision: u64, cause: Cause, by: Who) {
    if let (Cause::Rollback(to), Some(left)) = (cause, current.confirmed) {
        let why = format!("rolled back to revision {to}, which runs as revision {revision}");
        current.marks.entry(left).or_default().rolled_back = Some((now_ms(), why));
    }
    let mark = current.marks.entry(revision).or_default();
    (mark.confirmed_ms, mark.confirmed_by) = (Some(now_ms()), by);
    current.confirmed = Some(revision);
    current.last = current.last.max(revision);
}

/// What is recorded of a policy that is put in force.
fn policy_entry(
    order: &Order,
    revision: u64,
    until: Option<SystemTime>,
    model: &Model,
    file: &Path,
) -> Entry {
    let (cause, back_to) = order.cause.name();
    Entry::new(Kind::Policy, operator(&order.who))
        .with("revision", revision)
        .with("cause", cause)
        .with("back_to", back_to)
        .with("file", file.display().to_string())
        .with("digest", model.digest.clone())
        .with("rules", model.rule_infos.len())
        .with("confirm_until", until.map(rfc3339))
        .with("message", order.note.message.clone())
        .with("ticket", order.note.ticket.clone())
}

/// Refuses to put something in force beside what waits for its confirmation.
fn may_replace(order: &Order, pending: Option<&Provisional>) -> Result<(), Refusal> {
    match pending {
        Some(pending) if !order.replace => Err(Refusal::error(format!(
            "nothing was changed: revision {} waits for its confirmation; `bulkhead confirm` keeps it, `bulkhead \
             rollback` takes it back, and `bulkhead apply --replace` puts something else in its place",
            pending.revision
        ))),
        _ => Ok(()),
    }
}

impl Gateway {
    /// Writes down what runs, and tells what was noticed at the start.
    pub fn remember_start(&self, alarms: Vec<String>) {
        let in_force = self.in_force();
        // No start is refused for it: that would be one more way to close the network to everybody.
        self.audit.later(
            Entry::new(Kind::Start, By::Gateway)
                .with("version", env!("CARGO_PKG_VERSION"))
                .with("pid", std::process::id())
                .with("revision", in_force.revision)
                .with("file", in_force.file.display().to_string())
                .with("digest", in_force.model.digest.clone())
                .with("rules", in_force.model.rule_infos.len()),
        );
        alarms.into_iter().for_each(|alarm| self.alarm(alarm));
        // Without a store, the reason is among the alarms.
        if lock(&self.lifecycle.store).is_some()
            && let Err(refusal) = self.stored()
        {
            let why = refusal.message;
            self.alarm(format!(
                "what runs is not stored, and until it can be every other policy is refused: {why}"
            ));
        }
    }

    /// The store, once what runs is in it.
    fn stored(&self) -> Result<MutexGuard<'_, Option<Store>>, Refusal> {
        let lifecycle = &self.lifecycle;
        let mut slot = lock(&lifecycle.store);
        if slot.is_none() {
            let opened = Store::open(&lifecycle.directory);
            let opened = opened.map_err(|why| Refusal::error(format!("nothing was changed: {why}")))?;
            opened.troubles().iter().for_each(|trouble| self.alarm(trouble.clone()));
            let (disk, directory) = (opened.disk(), opened.directory().to_owned());
            *slot = Some(opened);
            let mut found = self.audit.open(disk.clone(), &directory).unwrap_or_else(|why| vec![why]);
            found.extend(self.restraints.open(disk, &directory).err());
            found.into_iter().for_each(|trouble| self.alarm(trouble));
        }
        let mut unrecorded = lock(&lifecycle.unrecorded);
        if let (Some(seen), Some(store)) = (unrecorded.as_ref(), slot.as_mut()) {
            self.record_start(store, seen.clone()).map_err(|error| lifecycle.not_stored(&error))?;
            *unrecorded = None;
        }
        Ok(slot)
    }

    /// Tries to use the state directory, if it could not be used so far.
    pub(super) fn reopen_state(&self) -> Result<(), Refusal> {
        self.stored().map(drop)
    }

    /// Stores what the gateway started with, if it is new, and ends what was pending before.
    fn record_start(&self, store: &mut Store, seen: Option<Seen>) -> std::io::Result<()> {
        let in_force = self.in_force();
        let who = Who { uid: Some(getuid().as_raw()), user: user_name(getuid()), said: Said::default() };
        let revision = match in_force.revision {
            Some(revision) => revision,
            None => {
                let sources = &in_force.model.sources;
                let about =
                    about(&Order::plain(Cause::Start, who.clone()), &in_force.model, &load::content(sources));
                store.add(&about, &load::texts(sources))?
            }
        };
        let mut next = store.current().clone();
        end_pending(&mut next, "the gateway ended before it was confirmed");
        if in_force.revision.is_none() {
            confirm_in(&mut next, revision, Cause::Start, who);
        }
        next.confirmed = Some(revision);
        next.seen = seen.or(next.seen);
        if next != *store.current()
            && let Err(error) = store.commit(|current| *current = next)
        {
            if in_force.revision.is_none() {
                store.forget(revision);
            }
            return Err(error);
        }
        self.amend(|in_force| in_force.revision = Some(revision));
        Ok(())
    }

    /// Waits until nobody else changes what is in force, and keeps others from it.
    pub(super) fn one_change_at_a_time(&self) -> MutexGuard<'_, ()> {
        lock(&self.lifecycle.requests)
    }

    /// Puts a policy in force. Returns when every worker judges by it; refused, it changes nothing.
    pub fn put_in_force(&self, candidate: Candidate, order: &Order) -> Result<Reloaded, Refusal> {
        let begun = Instant::now();
        order.check()?;
        let lifecycle = &self.lifecycle;
        let _one_at_a_time = lock(&lifecycle.requests);
        // First, so that nobody waits for a large policy to be told this.
        may_replace(order, lock(&lifecycle.pending).as_ref())?;
        let (mut loaded, file) = self.load(candidate)?;
        let content = load::content(&loaded.model.sources);
        let seen = lifecycle.seen(&file, &content);
        // While a refusal still changes nothing.
        self.engine.bind_limits(&mut loaded.policy).map_err(|error| Refusal::error(error.to_string()))?;
        let (revision, is_new) = self.store_candidate(order, &loaded, &content)?;

        let mut pending = lock(&lifecycle.pending);
        let before = self.in_force();
        let taken = self.back(order, &before, pending.as_ref()).and_then(|back| {
            self.set_local(&before.model, &loaded.model)?;
            Ok(back)
        });
        let back = taken.inspect_err(|_| self.forget(revision, is_new))?;
        let until = order.confirm.map(|confirm| SystemTime::now() + confirm);
        let entry = policy_entry(order, revision, until, &loaded.model, &file);
        // What is confirmed already grants nothing, and needs no room on the disk.
        let recorded = if is_new {
            self.grant(entry)
        } else {
            self.done(entry);
            Ok(())
        };
        let is_recorded = recorded.is_ok();
        if let Err(refusal) = recorded.and_then(|()| self.commit(order, revision, until, seen)) {
            if is_recorded {
                let failed = Entry::new(Kind::PolicyFailed, operator(&order.who));
                self.done(failed.with("revision", revision).with("why", refusal.message.clone()));
            }
            // What was possible a moment ago; if not, it is told in an alarm.
            let _ = self.set_local(&loaded.model, &before.model);
            self.forget(revision, is_new);
            return Err(refusal);
        }
        let replaced = pending.take();
        if let Some(confirm) = order.confirm {
            let (back, back_to) = match (back, replaced) {
                (Some(back), _) => back,
                (None, Some(replaced)) => (replaced.back, replaced.back_to),
                (None, None) => unreachable!("without one that is replaced, what comes back was made above"),
            };
            *pending = Some(Provisional { revision, deadline: boottime() + confirm, back, back_to });
        }
        let (rules, digest) = (loaded.model.rule_infos.len() as u64, loaded.model.digest.clone());
        let from_store = matches!(order.cause, Cause::Rollback(_));
        let place = Place { file: file.clone(), revision: Some(revision), from_store, confirm_until: until };
        let generation = self.publish(&before, loaded, place)?;
        let user = order.who.user.as_deref().map_or_else(String::new, |user| format!(" of {user}"));
        let until = until.map(rfc3339);
        let unless = until.as_ref().map_or_else(String::new, |at| format!(", until {at} unless confirmed"));
        log::say(&format!(
            "revision {revision}, generation {generation} by {}{user}: {rules} rules from {}{unless}",
            order.cause.name().0,
            file.display(),
        ));
        Ok(Reloaded {
            generation: generation.0,
            revision: Some(revision),
            confirm_until: until,
            digest,
            config: file,
            rules,
            took_ms: begun.elapsed().as_millis() as u64,
        })
    }

    /// What a candidate says, and where its main file was.
    fn load(&self, candidate: Candidate) -> Result<(Loaded, PathBuf), Refusal> {
        let (loaded, file, name) = match candidate {
            Candidate::File(file) => {
                let file = file.unwrap_or_else(|| self.in_force().file);
                let name = file.display().to_string();
                (load::load(&file, self.compiled().as_ref())?, file, name)
            }
            Candidate::Revision(revision) => {
                let read = self.stored()?.as_ref().map(|store| store.read(revision));
                let stored =
                    read.unwrap_or_else(|| Err("there is no store".to_owned())).map_err(Refusal::error)?;
                let file = PathBuf::from(&stored.files[0].path);
                (load::check_stored(stored, self.compiled().as_ref())?, file, format!("revision {revision}"))
            }
        };
        let changes = load::needs_restart(&self.in_force().model, &loaded.model);
        if !changes.is_empty() {
            return Err(Refusal::error(format!(
                "{name}: a reload cannot change this, only a restart can; nothing was changed\n  {}",
                changes.join("\n  ")
            )));
        }
        Ok((loaded, file))
    }

    /// Stores a candidate under its number; true if it is new. One that is reloaded and says what was confirmed is not
    /// stored again, or a reload every minute would leave nothing else in the history.
    fn store_candidate(&self, order: &Order, loaded: &Loaded, content: &str) -> Result<(u64, bool), Refusal> {
        let mut slot = self.stored()?;
        let store = slot.as_mut().expect("`stored` has opened it");
        if matches!(order.cause, Cause::Reload | Cause::Signal)
            && let Some(confirmed) = store.current().confirmed
            && store.about(confirmed).is_some_and(|about| about.content == content)
        {
            return Ok((confirmed, false));
        }
        let added = store.add(&about(order, &loaded.model, content), &load::texts(&loaded.model.sources));
        added.map(|revision| (revision, true)).map_err(|error| self.lifecycle.not_stored(&error))
    }

    fn forget(&self, revision: u64, is_new: bool) {
        if let Some(store) = lock(&self.lifecycle.store).as_mut().filter(|_| is_new) {
            store.forget(revision);
        }
    }

    /// What comes back if this is not confirmed, unless what is pending has it already.
    fn back(
        &self,
        order: &Order,
        before: &InForce,
        pending: Option<&Provisional>,
    ) -> Result<Option<(Loaded, Place)>, Refusal> {
        if order.confirm.is_none() || pending.is_some() {
            return Ok(None);
        }
        // The same again, unbound.
        let mut policy = load::compile(&before.model, self.compiled().as_ref())?;
        self.engine.bind_limits(&mut policy).map_err(|error| Refusal::error(error.to_string()))?;
        let (file, revision, from_store) = (before.file.clone(), before.revision, before.from_store);
        let place = Place { file, revision, from_store, confirm_until: None };
        Ok(Some((Loaded { model: Model::clone(&before.model), policy }, place)))
    }

    /// Writes down what is put in force.
    fn commit(
        &self,
        order: &Order,
        revision: u64,
        until: Option<SystemTime>,
        seen: Seen,
    ) -> Result<(), Refusal> {
        let mut slot = lock(&self.lifecycle.store);
        let Some(store) = slot.as_mut() else { return Err(Refusal::error("there is no store")) };
        let mut next = store.current().clone();
        next.seen = Some(seen);
        if next.confirmed != Some(revision) {
            end_pending(&mut next, &format!("revision {revision} was put in its place"));
            match until {
                None => confirm_in(&mut next, revision, order.cause, order.who.clone()),
                Some(until) => {
                    next.last = next.last.max(revision);
                    next.marks.entry(revision).or_default();
                    next.pending = Some(Pending { revision, until_ms: since_1970_ms(until) });
                }
            }
        }
        if next == *store.current() {
            return Ok(());
        }
        store.commit(|current| *current = next).map_err(|error| self.lifecycle.not_stored(&error))
    }

    /// Keeps what waits for its confirmation. Returns its number.
    pub fn confirm(&self, wanted: Option<u64>, by: Who) -> Result<u64, Refusal> {
        let mut pending = lock(&self.lifecycle.pending);
        let Some(Provisional { revision, deadline, .. }) = *pending else {
            return Err(Refusal::error(format!("nothing waits for its confirmation{}", self.last_end())));
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != revision) {
            let message = format!("nothing was confirmed: revision {revision} waits for that, not {wanted}");
            return Err(Refusal::error(message));
        }
        if boottime() >= deadline {
            self.take_back(pending.take(), LATE, By::Clock)?;
            return Err(Refusal::error(format!("revision {revision} was rolled back, because {LATE}")));
        }
        let mut slot = lock(&self.lifecycle.store);
        let Some(store) = slot.as_mut() else { return Err(Refusal::error("there is no store")) };
        let cause = store.about(revision).map_or(Cause::Apply, |about| about.cause);
        self.audit.record(Entry::new(Kind::Confirmed, operator(&by)).with("revision", revision)).map_err(
            |why| {
                Refusal::error(format!("revision {revision} is not confirmed, and still waits for it: {why}"))
            },
        )?;
        let confirmed = store.commit(|current| {
            current.pending = None;
            confirm_in(current, revision, cause, by);
        });
        confirmed.map_err(|error| {
            let directory = self.lifecycle.directory.display();
            Refusal::error(format!(
                "revision {revision} is not confirmed, and still waits for it: {directory} cannot be written: {error}"
            ))
        })?;
        *pending = None;
        self.amend(|in_force| in_force.confirm_until = None);
        log::say(&format!("revision {revision} is confirmed"));
        Ok(revision)
    }

    /// Words for what became of the newest revision, if it is not in force.
    fn last_end(&self) -> String {
        let slot = lock(&self.lifecycle.store);
        let newest = slot.as_ref().and_then(|store| {
            let current = store.current();
            Some((current.last, current.marks.get(&current.last)?.rolled_back.clone()?))
        });
        newest.map_or_else(String::new, |(revision, (at, why))| {
            format!("; revision {revision} was rolled back at {}: {why}", rfc3339(from_ms(at)))
        })
    }

    /// Takes back what waits for its confirmation, if its time is over.
    pub fn roll_back_if_due(&self) {
        // Whoever holds it is putting something else in force, or looking too; the next turn of the loop comes soon.
        let Ok(mut pending) = self.lifecycle.pending.try_lock() else { return };
        if pending.as_ref().is_some_and(|pending| boottime() >= pending.deadline) {
            // What fails has been told in an alarm.
            let _ = self.take_back(pending.take(), LATE, By::Clock);
        }
    }

    /// Puts back what was confirmed last. Whatever cannot be written or set, the workers get it.
    fn take_back(&self, pending: Option<Provisional>, why: &str, by: By) -> Result<Reloaded, Refusal> {
        let begun = Instant::now();
        let Some(Provisional { revision, back, back_to, .. }) = pending else {
            return Err(Refusal::error("nothing waits for its confirmation"));
        };
        let before = self.in_force();
        if let Err(refusal) = self.set_local(&before.model, &back.model) {
            self.alarm(format!("the local services of before are not back: {}", refusal.message));
        }
        let (rules, digest) = (back.model.rule_infos.len() as u64, back.model.digest.clone());
        let (config, back_to_revision) = (back_to.file.clone(), back_to.revision);
        let published = self.publish(&before, back, back_to);
        self.audit.later(
            Entry::new(Kind::RolledBack, by)
                .with("revision", revision)
                .with("to", back_to_revision)
                .with("why", why),
        );
        let settled = match lock(&self.lifecycle.store).as_mut() {
            Some(store) => store.settle(|current| end_pending(current, why)),
            None => Ok(()),
        };
        if let Err(error) = settled {
            let directory = self.lifecycle.directory.display();
            self.alarm(format!(
                "{directory} cannot be written, and does not say yet what was rolled back: {error}"
            ));
        }
        let again =
            back_to_revision.map_or_else(|| "what ran before".to_owned(), |back| format!("revision {back}"));
        self.alarm(format!("revision {revision} is rolled back, because {why}: {again} is in force again"));
        Ok(Reloaded {
            generation: published?.0,
            revision: back_to_revision,
            confirm_until: None,
            digest,
            config,
            rules,
            took_ms: begun.elapsed().as_millis() as u64,
        })
    }

    /// Takes back what waits for its confirmation, or puts an earlier revision in force, as a new one.
    pub fn roll_back(&self, wanted: Option<u64>, mut order: Order) -> Result<Reloaded, Refusal> {
        order.check()?;
        let confirmed = self.stored()?.as_ref().and_then(|store| store.current().confirmed);
        if wanted.is_none() || wanted == confirmed {
            let mut pending = lock(&self.lifecycle.pending);
            if pending.is_some() {
                let who = order.who.user.as_deref().unwrap_or("somebody");
                let by = operator(&order.who);
                return self.take_back(pending.take(), &format!("{who} did not want it"), by);
            }
        }
        let target = {
            let slot = self.stored()?;
            let store = slot.as_ref().expect("`stored` has opened it");
            target(store, wanted)?
        };
        (order.cause, order.replace) = (Cause::Rollback(target), true);
        self.put_in_force(Candidate::Revision(target), &order)
    }

    /// The revisions that are kept, oldest first.
    pub fn revisions(&self) -> Result<Vec<Revision>, Refusal> {
        let slot = self.stored()?;
        Ok(slot.as_ref().map(Store::history).unwrap_or_default().into_iter().map(told).collect())
    }

    /// A revision with its files.
    pub fn revision(&self, revision: u64) -> Result<(Revision, Vec<store::Text>), Refusal> {
        let slot = self.stored()?;
        let store = slot.as_ref().expect("`stored` has opened it");
        let stored = store.read(revision).map_err(|why| Refusal::error(with_hint(why, store, revision)))?;
        let mark = store.current().marks.get(&revision).cloned().unwrap_or_default();
        let row = told(Told {
            revision,
            about: Some(stored.about),
            state: store.current().state(revision),
            confirmed: mark.confirmed_ms.map(|at| (at, mark.confirmed_by)),
            damaged: None,
        });
        Ok((row, stored.files))
    }
}

fn with_hint(why: String, store: &Store, revision: u64) -> String {
    let marks = &store.current().marks;
    match (marks.contains_key(&revision), marks.keys().next(), marks.keys().next_back()) {
        (false, Some(first), Some(last)) if first == last => format!("{why}, only {first}"),
        (false, Some(first), Some(last)) => {
            format!("{why}; those kept are from {first} to {last}, see `bulkhead history`")
        }
        _ => why,
    }
}

/// The revision that a rollback leads to.
fn target(store: &Store, wanted: Option<u64>) -> Result<u64, Refusal> {
    let current = store.current();
    let Some(wanted) = wanted else {
        return store.rollback_target().ok_or_else(|| {
            Refusal::error(
                "nothing was changed: no other policy was confirmed before this one, see `bulkhead history`",
            )
        });
    };
    let refuse = |why: String| Err(Refusal::error(format!("nothing was changed: {why}")));
    match current.marks.get(&wanted) {
        None => refuse(with_hint(format!("there is no revision {wanted}"), store, wanted)),
        Some(_) if current.confirmed == Some(wanted) => refuse(format!("revision {wanted} is in force")),
        Some(mark) if mark.confirmed_ms.is_none() => refuse(format!(
            "revision {wanted} was never confirmed; `bulkhead show {wanted}` prints it, and `bulkhead apply` puts a file \
             in force"
        )),
        Some(_) => Ok(wanted),
    }
}

/// A revision for the control socket.
fn told(told: Told) -> Revision {
    let time = |ms: u64| rfc3339(from_ms(ms));
    let (state, until, ended) = match told.state {
        State::InForce => ("in_force", None, None),
        State::Pending(until) => ("pending", Some(time(until)), None),
        State::Confirmed => ("confirmed", None, None),
        State::RolledBack(at, why) => ("rolled_back", None, Some((time(at), why))),
        State::Superseded => ("superseded", None, None),
    };
    let (rolled_back, why) = ended.unzip();
    let (confirmed, confirmed_by) = told.confirmed.map(|(at, by)| (time(at), by)).unzip();
    let about = told.about.map(|about| {
        let (cause, rollback_to) = about.cause.name();
        types::About {
            at: time(about.at_ms),
            cause: cause.to_owned(),
            rollback_to,
            uid: about.who.uid,
            user: about.who.user,
            client_said: about.who.said,
            message: about.note.message,
            ticket: about.note.ticket,
            digest: about.digest,
            rules: about.rules,
            confirm_ms: about.confirm_ms,
        }
    });
    Revision {
        revision: told.revision,
        state: state.to_owned(),
        until,
        confirmed,
        confirmed_by: confirmed_by.map(|by| types::Asker {
            uid: by.uid,
            user: by.user,
            client_said: by.said,
        }),
        rolled_back,
        why,
        about,
        damaged: told.damaged,
    }
}
