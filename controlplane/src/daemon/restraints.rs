//! Locks and quarantine in the running gateway: over the control socket, when somebody signs in, and by the clock.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::json;

use super::acts::{operator, session_changed};
use super::gateway::Gateway;
use super::lifecycle::{boottime, from_ms, since_1970_ms};
use super::log;
use super::sessions::{address, name_of, refused};
use super::time::rfc3339;
use crate::api::operator::{Restrain, Restrained, RestraintRow, Whom};
use crate::api::types::Refusal;
use crate::audit::{By, Entry, Kind as Act};
use crate::config::diagnostics::quoted;
use crate::config::values;
use crate::identity::certificates::spiffe::Id;
use crate::model::Model;
use crate::restraints::{Clocks, Full, Kind, Known, Restraint, Restraints, Subject};
use crate::sessions::{Claims, Placed, Session, Which};
use crate::store::{Disk, Who};

/// The longest reason, characters.
const REASON_CHARS: usize = 200;

fn clocks() -> Clocks {
    Clocks { wall_ms: since_1970_ms(SystemTime::now()), boot: boottime() }
}

impl Restraints {
    /// As [`Restraints::open_at`], now.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn open(&self, disk: Arc<dyn Disk>, directory: &Path) -> Result<(), String> {
        self.open_at(disk, directory, clocks())
    }
}

impl Restraints {
    /// Whether whoever has these claims may be known at an address.
    pub(super) fn admits(&self, model: &Model, claims: &Claims, address: std::net::IpAddr) -> bool {
        let groups = names(model, claims);
        self.unknown().is_none() && self.of(Kind::Lock, &known(claims, &groups, address)).is_none()
    }
}

/// What is known of whoever has these claims, groups by all their names.
fn names(model: &Model, claims: &Claims) -> Vec<String> {
    let told = claims.groups.iter().map(String::as_str);
    let user = claims.user.as_deref();
    let all = user.map(|user| model.identities.groups_of(user, told)).unwrap_or_default();
    let declared = all.iter().filter_map(|id| Some(model.identities.groups.get(id as usize)?.name.clone()));
    declared.chain(claims.groups.iter().cloned()).collect()
}

fn known<'k>(claims: &'k Claims, groups: &'k [String], address: std::net::IpAddr) -> Known<'k> {
    let device = claims.device.as_ref();
    // A certificate has a number there.
    let spiffe = device.and_then(|device| device.credential.as_deref()).filter(|id| Id::parse(id).is_ok());
    let device = device.and_then(|device| device.name.as_deref());
    Known { user: claims.user.as_deref(), groups, device, spiffe, address }
}

/// A restraint in the words of the control socket.
fn row(restraint: &Restraint) -> RestraintRow {
    let Restraint { kind, subject, reason, by, since_ms, until_ms, addresses } = restraint.clone();
    let (since, until) = (rfc3339(from_ms(since_ms)), until_ms.map(|ms| rfc3339(from_ms(ms))));
    let addresses = addresses.iter().map(ToString::to_string).collect();
    RestraintRow { kind, subject, reason, by, since, until, addresses }
}

/// Why somebody is not let in, for people.
fn why(restraint: &Restraint) -> String {
    let Restraint { subject, reason, by, since_ms, until_ms, .. } = restraint;
    let until = until_ms.map(|ms| format!(" until {}", rfc3339(from_ms(ms)))).unwrap_or_default();
    let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{subject} is locked out since {} by {by}{until}{reason}", rfc3339(from_ms(*since_ms)))
}

impl Gateway {
    /// Why whoever has these claims is not let in at an address, if so: somebody or something of it is locked out, or nobody
    /// knows who is. To be asked before a sign-in is believed; a session that begins is asked by itself.
    pub fn locked(&self, claims: &Claims, address: std::net::IpAddr) -> Option<String> {
        if let Some(unknown) = self.restraints.unknown() {
            return Some(format!("nobody knows who is locked out ({unknown}), so nobody is let in"));
        }
        let groups = names(&self.in_force().model, claims);
        self.restraints.of(Kind::Lock, &known(claims, &groups, address)).map(|lock| why(&lock))
    }

    /// Brings the address of somebody whose user or device is in quarantine into it, before anything is opened there.
    ///
    /// # Errors
    ///
    /// There is no room, or a worker is stuck.
    pub(super) fn quarantine_of(&self, claims: &Claims, address: std::net::IpAddr) -> Result<(), Refusal> {
        let groups = names(&self.in_force().model, claims);
        let is_new = self.restraints.bring_in(&known(claims, &groups, address)).map_err(no_room)?;
        if is_new {
            self.publish_restraints()?;
            self.save_restraints();
        }
        Ok(())
    }

    /// Ends the sessions that somebody has who is locked out by now: another policy may have put them into a group.
    pub(super) fn keep_locked_out(&self) {
        if self.restraints.list(Kind::Lock).is_empty() {
            return;
        }
        let ended = self.sessions.end_where(|session| self.lock_of(session).is_some());
        for session in &ended {
            if let Some(lock) = self.lock_of(session) {
                log::say(&format!("session {} ends: {}", session.id, why(&lock)));
            }
        }
        // What is amiss, an alarm tells.
        let _ = self.end_told(&ended, None);
    }

    fn end_told(&self, ended: &[Arc<Session>], by: Option<&Who>) -> Result<u64, Refusal> {
        self.tell_ended(ended, by, |session| session_changed(Act::SessionRevoked, session, by))
    }

    /// The lock that means a session.
    pub(super) fn lock_of(&self, session: &Session) -> Option<Restraint> {
        let groups = names(&self.in_force().model, &session.claims);
        self.restraints.of(Kind::Lock, &known(&session.claims, &groups, session.address))
    }

    /// Locks out, or moves into quarantine. Returns when it holds for every packet.
    ///
    /// # Errors
    ///
    /// It makes no sense, or there is no room; nothing has changed. Or a worker is stuck.
    pub(super) fn restrain(&self, wanted: &Restrain, by: &Who) -> Result<Restrained, Refusal> {
        let clocks = clocks();
        let restraint = self.restraint(wanted, by, clocks)?;
        let Restraint { kind, subject, .. } = &restraint;
        self.restraints.put(restraint.clone(), clocks).map_err(|full| Refusal::error(full.to_string()))?;
        // From here on nobody who is meant is let in; who was before, or is just being, is seen below.
        let is_meant = |session: &Session| self.is_meant(subject, session);
        let (meant, held) = match kind {
            // All at once: however many they are, the workers are waited for once.
            Kind::Lock => {
                let ended = self.sessions.end_where(is_meant);
                let held = self.end_told(&ended, Some(by)).map(drop);
                (ended.len(), held)
            }
            Kind::Quarantine => {
                let mut sessions = self.sessions.list(&Which::default(), self.engine.now());
                sessions.retain(|session| is_meant(session));
                (sessions.len(), self.bring_all_in(&sessions))
            }
        };
        // An address is looked at by the packets themselves, and so are those that have just come into quarantine.
        let held = if matches!(subject, Subject::Address(_)) || *kind == Kind::Quarantine {
            held.and(self.publish_restraints())
        } else {
            held
        };
        // Also when a worker is stuck, or there is no room for some: it holds for all others.
        let unsaved = self.save_restraints();
        let act = if *kind == Kind::Lock { Act::Locked } else { Act::Quarantined };
        self.done(entry(act, &restraint, operator(by)).with("sessions", meant));
        self.tell_restraint(&restraint, "begun", Some(by));
        held?;
        let is_quarantine = *kind == Kind::Quarantine;
        let warning = (is_quarantine && self.in_force().model.quarantine().is_none()).then(|| {
            "the policy has no quarantine segment (`quarantine = true` in [segments.NAME]), so nothing reaches anything from there"
                .to_owned()
        });
        let held = self.restraints.list(*kind).into_iter().find(|held| held.subject == *subject);
        Ok(Restrained {
            restraint: row(held.as_ref().unwrap_or(&restraint)),
            sessions: meant as u64,
            warning: unsaved.or(warning),
        })
    }

    /// Brings the addresses of sessions into quarantine; that is not published yet.
    fn bring_all_in(&self, sessions: &[Arc<Session>]) -> Result<(), Refusal> {
        let model = self.in_force().model;
        let mut all = Ok(());
        for session in sessions {
            let groups = names(&model, &session.claims);
            let brought = self.restraints.bring_in(&known(&session.claims, &groups, session.address));
            all = all.and(brought.map(drop).map_err(no_room));
        }
        all
    }

    fn is_meant(&self, subject: &Subject, session: &Session) -> bool {
        let groups = names(&self.in_force().model, &session.claims);
        subject.means(&known(&session.claims, &groups, session.address))
    }

    /// What is asked for, checked.
    fn restraint(&self, wanted: &Restrain, by: &Who, clocks: Clocks) -> Result<Restraint, Refusal> {
        if wanted.reason.as_ref().is_some_and(|reason| {
            reason.chars().count() > REASON_CHARS || reason.chars().any(char::is_control)
        }) {
            return Err(Refusal::error(format!("--reason: one line of at most {REASON_CHARS} characters")));
        }
        let lasts = wanted
            .lasts
            .as_deref()
            .map(|text| values::seconds(text).map_err(|wrong| refused("--for", wrong)));
        let until_ms = lasts.transpose()?.map(|seconds| clocks.wall_ms + u64::from(seconds) * 1000);
        let subject = self.subject(&wanted.whom)?;
        if wanted.kind == Kind::Quarantine && matches!(subject, Subject::Group(_)) {
            return Err(Refusal::error("a group cannot be in quarantine; name users, devices or addresses"));
        }
        Ok(Restraint {
            kind: wanted.kind,
            subject,
            reason: wanted.reason.clone(),
            by: name_of(by),
            since_ms: clocks.wall_ms,
            until_ms,
            addresses: BTreeSet::new(),
        })
    }

    /// Whom somebody means.
    fn subject(&self, whom: &Whom) -> Result<Subject, Refusal> {
        let name = |text: &String, what: &str| {
            let checked = values::identity(text, what);
            checked.map(|()| text.clone()).map_err(|wrong| refused(&format!("--{what}"), wrong))
        };
        Ok(match whom {
            Whom::User(text) => Subject::User(name(text, "user")?),
            Whom::Device(text) => Subject::Device(name(text, "device")?),
            Whom::Group(text) => Subject::Group(name(text, "group")?),
            Whom::Spiffe(text) => {
                let id = Id::parse(text)
                    .map_err(|why| Refusal::error(format!("--spiffe: {}: {why}", quoted(text))));
                Subject::Spiffe(id?.to_string())
            }
            Whom::Address(text) => Subject::Address(address(text)?),
            Whom::Session(id) => {
                let which = Which { id: Some(id.clone()), ..Which::default() };
                let found = self.sessions.list(&which, self.engine.now());
                let session = found.first().ok_or_else(|| {
                    let message = "no session has the id {}; `bulkhead session list` shows them";
                    Refusal::error(message.replace("{}", &quoted(id)))
                })?;
                Subject::Address(session.address)
            }
        })
    }

    /// Lets somebody in again, or out of quarantine. Returns when every worker judges by it.
    ///
    /// # Errors
    ///
    /// Nobody like that is restrained, or it cannot be recorded or written down; nothing has changed. Or a worker is stuck.
    pub(super) fn release(&self, kind: Kind, whom: &Whom, by: &Who) -> Result<Restrained, Refusal> {
        let subject = self.subject(whom)?;
        let found = self.restraints.list(kind).into_iter().find(|held| held.subject == subject);
        let Some(restraint) = found else {
            let (state, verb) = match kind {
                Kind::Lock => ("locked out", "bulkhead locks"),
                Kind::Quarantine => ("in quarantine", "bulkhead quarantine list"),
            };
            return Err(Refusal::error(format!("{subject} is not {state}; `{verb}` shows who is")));
        };
        let act = if kind == Kind::Lock { Act::Unlocked } else { Act::Released };
        self.grant(entry(act, &restraint, operator(by)))?;
        self.restraints.remove(kind, &subject);
        if let Err(why) = self.restraints.save() {
            self.restraints.put_back(restraint, clocks());
            return Err(Refusal::error(format!("nothing was changed: {why}")));
        }
        if matches!(subject, Subject::Address(_)) || !restraint.addresses.is_empty() {
            self.publish_restraints()?;
        }
        self.tell_restraint(&restraint, "ended", Some(by));
        self.bind_workloads()?;
        Ok(Restrained { restraint: row(&restraint), sessions: 0, warning: None })
    }

    /// Begins anew where what was said before is lost.
    ///
    /// # Errors
    ///
    /// Nothing is lost, or it cannot be recorded or written down.
    pub(super) fn forget_damaged(&self, by: &Who) -> Result<(), Refusal> {
        let Some(unknown) = self.restraints.unknown() else {
            return Err(Refusal::error("nothing is damaged: it is known who is locked out"));
        };
        self.grant(Entry::new(Act::Unlocked, operator(by)).with("everybody", unknown))?;
        self.restraints.save().map_err(|why| Refusal::error(format!("nothing was changed: {why}")))?;
        self.restraints.begin_anew();
        self.bind_workloads()
    }

    /// All of a kind.
    pub(super) fn restraints_of(&self, kind: Kind) -> Vec<RestraintRow> {
        self.restraints.list(kind).iter().map(row).collect()
    }

    /// Lets those in again whose time is over. Cheap when nobody's is: to be called all the time.
    pub fn follow_restraints(&self) {
        let over = self.restraints.expire(clocks());
        if over.is_empty() {
            return;
        }
        // They stay in the file until it is written for another reason: what is over is over when it is read, too.
        for restraint in &over {
            let act = if restraint.kind == Kind::Lock { Act::Unlocked } else { Act::Released };
            self.audit.later(entry(act, restraint, By::Clock));
            self.tell_restraint(restraint, "ended", None);
        }
        // What is amiss, an alarm tells.
        let _ = self.publish_restraints();
        let _ = self.bind_workloads();
    }

    /// Lets the policy's own machines in that were kept out.
    fn bind_workloads(&self) -> Result<(), Refusal> {
        let model = self.in_force().model;
        let admits = |claims: &Claims, address| self.restraints.admits(&model, claims, address);
        let bound = self.sessions.bind(self.engine.now(), &admits);
        if bound.is_empty() {
            return Ok(());
        }
        let settled = self.engine.settle();
        self.tell_placed(&Placed { bound, ..Placed::default() });
        self.settled(settled, "machines of the policy are known again")
    }

    /// Has every packet judged by the restraints as they are.
    fn publish_restraints(&self) -> Result<(), Refusal> {
        let published = self.publish_again(None, |policy, model| {
            policy.set_restraints(self.restraints.of_model(model));
        });
        published.map(drop).map_err(|(_, error)| {
            self.alarm(format!("restraints have changed, and not every worker knows: {error}"));
            Refusal::error(format!("it holds, but not every worker knows: {error}"))
        })
    }

    /// Writes them down; they hold whether or not that can be done.
    fn save_restraints(&self) -> Option<String> {
        let why = self.restraints.save().err()?;
        let why = format!("{why}; it holds, but not over a restart");
        self.alarm(why.clone());
        Some(why)
    }

    /// Logs a change, and tells it as an event.
    fn tell_restraint(&self, restraint: &Restraint, change: &str, by: Option<&Who>) {
        let (name, words) = match restraint.kind {
            Kind::Lock => {
                ("lock", if change == "begun" { "is locked out" } else { "is no longer locked out" })
            }
            Kind::Quarantine => {
                ("quarantine", if change == "begun" { "is in quarantine" } else { "is out of quarantine" })
            }
        };
        let by = by.map(name_of);
        let asked = by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        log::say(&format!("{} {words}{asked}", restraint.subject));
        self.hub.told(json!({
            "ts": rfc3339(SystemTime::now()), "kind": name, "change": change, "subject": restraint.subject,
            "reason": restraint.reason, "until": restraint.until_ms.map(|ms| rfc3339(from_ms(ms))), "by": by,
        }));
    }
}

fn no_room(full: Full) -> Refusal {
    Refusal::error(format!("no room in quarantine: {full}"))
}

fn entry(act: Act, restraint: &Restraint, by: By) -> Entry {
    Entry::new(act, by)
        .with("subject", restraint.subject.to_string())
        .with("reason", restraint.reason.clone())
        .with("since", rfc3339(from_ms(restraint.since_ms)))
        .with("until", restraint.until_ms.map(|ms| rfc3339(from_ms(ms))))
}
