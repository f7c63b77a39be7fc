//! Passkeys: showing one, alone or as a second factor, and registering and removing one's own.
//!
//! **Who may change a user's passkeys.** Who has a factor shows it, in the very session and within [`FRESH`]: with a password
//! alone, or a cookie alone, nobody adds a passkey to somebody who has an authenticator app. Who has a passkey already shows a
//! passkey: else a code that was phished would turn into what cannot be phished. Who has no factor at all has nothing but the
//! password to show, and shows it within the same time: the first passkey is then trusted on first use, is recorded, and
//! whoever should not have that risk is given an authenticator app by the operator first. A lost passkey is removed by the
//! operator (`bulkhead user passkeys`).

use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::{Proven, Record, Visitor, later, proven, refused};
use crate::audit::{By, Entry, Kind};
use crate::config::diagnostics::quoted;
use crate::daemon::gateway::lock;
use crate::daemon::log;
use crate::daemon::time::rfc3339;
use crate::identity::book::{Book, User};
use crate::identity::passkeys::{self, Expected, Making, NotAdded, NotShown, Party};
use crate::identity::unix_s;
use crate::model::Model;
use crate::portal::wire::{Answer, Passkey, Secret, Why};
use crate::sessions::{Proof, Session, Which};

/// How lately a factor must have been shown by whoever changes passkeys.
const FRESH: Duration = Duration::from_secs(300);

/// What was begun with an authenticator.
pub enum Ceremony {
    /// To sign in with nothing else.
    SignIn(Expected),
    /// The second factor of a sign-in.
    Factor {
        /// The sign-in.
        attempt: Secret,
        /// What was asked for.
        expected: Expected,
    },
    /// A second factor of a session.
    StepUp {
        /// The session's id.
        session: String,
        /// What was asked for.
        expected: Expected,
    },
    /// A new passkey of a session's user.
    Register {
        /// The session's id.
        session: String,
        /// What was asked for.
        making: Making,
    },
}

/// What passkeys are of, if the gateway's own users may sign in.
pub fn party(model: &Model) -> Option<Party> {
    let portal = model.portal.as_ref().filter(|_| model.sign_in.passwords)?;
    Party::new(&portal.name, portal.port)
}

/// A user's passkeys, as the user sees them.
pub fn told(user: &User, now_s: u64) -> Vec<Passkey> {
    let one = |passkey: &passkeys::Passkey| Passkey {
        id: passkey.id.clone(),
        name: passkey.name.clone(),
        added_s: now_s.saturating_sub(passkey.added_s),
        used_s: passkey.used_s.map(|used_s| now_s.saturating_sub(used_s)),
        is_synced: passkey.is_synced,
    };
    user.passkeys.iter().map(one).collect()
}

/// Of a session of this age, whose factor is so old and can be phished or not, of a user who has an app or passkeys.
fn may_change(factor: Option<(Duration, bool)>, age: Duration, has_app: bool, has_passkeys: bool) -> bool {
    match factor {
        Some((age, phishing_resistant)) => age < FRESH && (phishing_resistant || !has_passkeys),
        None => !has_app && !has_passkeys && age < FRESH,
    }
}

impl Visitor<'_> {
    fn party(&self) -> Result<Party, Answer> {
        party(&self.gateway.in_force().model).ok_or(refused(Why::Unknown))
    }

    fn store(&self) -> Result<&Book, Answer> {
        self.desk().book().map_err(|why| self.broken(&why))
    }

    /// A user who may sign in.
    fn user(&self, name: &str) -> Result<User, Answer> {
        let user = self.store()?.user(name).map_err(|why| self.broken(&why))?;
        user.filter(|user| !user.disabled).ok_or(refused(Why::Wrong))
    }

    /// The user who has shown a password, if it still is the one that was shown.
    fn half_way(&self, attempt: &Secret) -> Result<User, Answer> {
        let record = lock(&self.desk().attempts).find(attempt, self.address, Instant::now()).cloned();
        let record = record.ok_or(refused(Why::Stale))?;
        let user = self.user(record.name())?;
        if Record::of(&user) == record { Ok(user) } else { Err(refused(Why::Stale)) }
    }

    /// The cookie's session and its user, of those who can have passkeys.
    fn own(&self) -> Result<(std::sync::Arc<Session>, User), Answer> {
        let session = self.session().ok_or(refused(Why::NotSignedIn))?;
        let name = session.claims.user.as_deref().filter(|_| session.proof.is_of_the_store());
        let user = self.user(name.ok_or(refused(Why::Unknown))?)?;
        Ok((session, user))
    }

    fn remember(&self, (ceremony, options): (Ceremony, String)) -> Answer {
        match lock(&self.desk().ceremonies).begin(self.address, ceremony, Instant::now()) {
            Some(attempt) => Answer::Passkey { attempt, options },
            None => refused(Why::Busy),
        }
    }

    fn recall(&self, attempt: &Secret) -> Result<Ceremony, Answer> {
        let ceremony = lock(&self.desk().ceremonies).take(attempt, self.address, Instant::now());
        ceremony.ok_or(refused(Why::Stale))
    }

    pub(super) fn passkey_begin(&self, attempt: Option<Secret>, step_up: bool) -> Answer {
        self.begin_showing(attempt, step_up).unwrap_or_else(|no| no)
    }

    fn begin_showing(&self, attempt: Option<Secret>, step_up: bool) -> Result<Answer, Answer> {
        let party = self.party()?;
        self.may_begin()?;
        let of = |user: &User| party.ask(&user.passkeys).ok_or(refused(Why::Unknown));
        let begun = match attempt {
            Some(attempt) => {
                let (expected, options) = of(&self.half_way(&attempt)?)?;
                (Ceremony::Factor { attempt, expected }, options)
            }
            None if step_up => {
                let (session, user) = self.own()?;
                let (expected, options) = of(&user)?;
                (Ceremony::StepUp { session: session.id.clone(), expected }, options)
            }
            None => {
                let (expected, options) = party.ask_anybody().ok_or(refused(Why::Failed))?;
                (Ceremony::SignIn(expected), options)
            }
        };
        Ok(self.remember(begun))
    }

    pub(super) fn passkey_finish(&self, attempt: &Secret, response: &str) -> Answer {
        self.finish_showing(attempt, response).unwrap_or_else(|no| no)
    }

    fn finish_showing(&self, attempt: &Secret, response: &str) -> Result<Answer, Answer> {
        let party = self.party()?;
        self.may_begin()?;
        match self.recall(attempt)? {
            Ceremony::SignIn(expected) => {
                let owner = passkeys::shown_id(response)
                    .map(|id| self.store()?.owner(&id).map_err(|why| self.broken(&why)));
                let user = self.take_passkey(&party, expected, response, owner.transpose()?.flatten())?;
                Ok(self.begin(Proven { proof: Proof::Passkey, ..proven(user, Some((Duration::ZERO, true))) }))
            }
            Ceremony::Factor { attempt, expected } => {
                let user = self.half_way(&attempt)?;
                let user = self.take_passkey(&party, expected, response, Some(user))?;
                if lock(&self.desk().attempts).take(&attempt, self.address, Instant::now()).is_none() {
                    return Err(refused(Why::Stale));
                }
                Ok(self.begin(proven(user, Some((Duration::ZERO, true)))))
            }
            Ceremony::StepUp { session: id, expected } => {
                let (session, user) = self.own()?;
                if session.id != id {
                    return Err(refused(Why::Stale));
                }
                self.take_passkey(&party, expected, response, Some(user))?;
                Ok(self.step_up(&session, true))
            }
            Ceremony::Register { .. } => Err(refused(Why::Stale)),
        }
    }

    /// The user whose passkey was shown, as he is now. What does not hold is counted and told as a wrong password is. It
    /// keeps nobody out for whom strangers guess passwords, nor the other way round: they are counted apart, except by
    /// address.
    fn take_passkey(
        &self,
        party: &Party,
        expected: Expected,
        response: &str,
        user: Option<User>,
    ) -> Result<User, Answer> {
        let name = user.as_ref().map(|user| user.name.clone());
        let counted = format!("passkey\0{}", name.as_deref().unwrap_or_default());
        let admitted = lock(&self.desk().limits).admit(&counted, self.address, Instant::now());
        admitted.map_err(|wait| later(Why::TooMany, wait))?;
        let book = self.store()?;
        let taken = match &user {
            None => Err(NotShown::Wrong("it is nobody's passkey")),
            Some(user) => match expected.verify(party, response, user) {
                Ok(shown) => book
                    .take_passkey(&user.name, &shown, unix_s(SystemTime::now()))
                    .map_err(|why| self.broken(&why))?,
                Err(not) => Err(not),
            },
        };
        let why = match taken {
            Ok(user) => {
                lock(&self.desk().limits).right(&counted, self.address);
                return Ok(user);
            }
            Err(NotShown::Wrong(why)) => format!("passkey: {why}"),
            Err(NotShown::Cloned(called)) => {
                let user = quoted(name.as_deref().unwrap_or_default());
                self.gateway.alarm(format!(
                    "the passkey {} of user {user} was shown at {} with a counter that had been reached before: there may \
                     be a copy of it. It was refused; `bulkhead user passkeys` removes it",
                    quoted(&called),
                    self.address
                ));
                "passkey: its counter has gone backwards, so there may be a copy of it".to_owned()
            }
        };
        self.tell_refused(name.as_deref(), &why);
        Err(refused(Why::Wrong))
    }

    /// Whether the session's user may change passkeys now: see the head of this file.
    pub(super) fn is_fresh(&self, session: &Session, user: &User) -> bool {
        let now = self.gateway.engine.now();
        let factor = session.claims.factor;
        let factor = factor
            .map(|factor| (Duration::from_secs(factor.shown.age_s(now).into()), factor.phishing_resistant));
        let age = Duration::from_nanos(now.0.saturating_sub(session.begun.0));
        may_change(factor, age, user.totp.is_some(), !user.passkeys.is_empty())
    }

    pub(super) fn passkey_register_begin(&self) -> Answer {
        self.begin_registering().unwrap_or_else(|no| no)
    }

    fn begin_registering(&self) -> Result<Answer, Answer> {
        let party = self.party()?;
        let (session, user) = self.own()?;
        if !self.is_fresh(&session, &user) {
            return Err(refused(Why::NotFresh));
        }
        if user.passkeys.len() >= passkeys::PASSKEYS_MAX {
            return Err(refused(Why::NotAdded));
        }
        let (making, options) = party.make(&user).ok_or(refused(Why::Failed))?;
        Ok(self.remember((Ceremony::Register { session: session.id.clone(), making }, options)))
    }

    pub(super) fn passkey_register_finish(&self, attempt: &Secret, name: &str, response: &str) -> Answer {
        self.finish_registering(attempt, name, response).unwrap_or_else(|no| no)
    }

    fn finish_registering(&self, attempt: &Secret, name: &str, response: &str) -> Result<Answer, Answer> {
        let party = self.party()?;
        let name = passkeys::name(name).ok_or(refused(Why::Wrong))?;
        let (session, user) = self.own()?;
        let making = match self.recall(attempt)? {
            Ceremony::Register { session: id, making } if id == session.id => making,
            _ => return Err(refused(Why::Stale)),
        };
        // Also here: it may have been begun by whoever had another factor then.
        if !self.is_fresh(&session, &user) {
            return Err(refused(Why::NotFresh));
        }
        let now_s = unix_s(SystemTime::now());
        let made = making.verify(&party, response, name, now_s).map_err(|why| {
            self.tell_refused(Some(&user.name), &format!("new passkey: {why}"));
            refused(Why::Wrong)
        })?;
        let passkey = made.passkey.clone();
        // Before it is recorded as added.
        let owner = self.store()?.owner(&passkey.id).map_err(|why| self.broken(&why))?;
        if owner.is_some() {
            return Err(refused(Why::NotAdded));
        }
        let entry = self.changed(&user, "given a passkey", &passkey);
        self.gateway.grant(entry).map_err(|_| refused(Why::Failed))?;
        let added = self.store()?.add_passkey(&user.name, made).map_err(|why| self.broken(&why))?;
        added.map_err(|not| {
            // Of two at once the other one was faster.
            self.gateway.done(self.changed(&user, "not given that passkey after all", &passkey));
            match not {
                NotAdded::Full => refused(Why::NotAdded),
                NotAdded::Gone => refused(Why::Stale),
            }
        })?;
        self.tell_passkey(&user, "given a passkey", &passkey.name, &passkey.id);
        Ok(Answer::Standing(Box::new(self.stands(Some(&session)))))
    }

    pub(super) fn passkey_remove(&self, id: &str) -> Answer {
        self.remove(id).unwrap_or_else(|no| no)
    }

    fn remove(&self, id: &str) -> Result<Answer, Answer> {
        let (session, user) = self.own()?;
        if !self.is_fresh(&session, &user) {
            return Err(refused(Why::NotFresh));
        }
        let removed = self.store()?.remove_passkey(&user.name, id).map_err(|why| self.broken(&why))?;
        let removed = removed.ok_or(refused(Why::Unknown))?;
        self.gateway.done(self.changed(&user, "left without a passkey", &removed));
        self.tell_passkey(&user, "left without a passkey", &removed.name, &removed.id);
        // What it has proved ends with it; which session that was nobody keeps.
        match self.gateway.end_sessions(&Which::of_user(&user.name), None) {
            Ok(_) => Ok(Answer::SignedOut),
            Err(_) => Err(refused(Why::Failed)),
        }
    }

    fn changed(&self, user: &User, what: &str, passkey: &passkeys::Passkey) -> Entry {
        let by = By::User { user: Some(user.name.clone()), address: self.address };
        let entry = Entry::new(Kind::UserChanged, by).with("user", user.name.as_str()).with("change", what);
        entry.with("passkey", passkey.name.as_str()).with("passkey_id", passkey.id.as_str())
    }

    fn tell_passkey(&self, user: &User, what: &str, called: &str, id: &str) {
        let name = quoted(&user.name);
        log::say(&format!("user {name} {what} ({}) by the user at {}", quoted(called), self.address));
        self.gateway.hub.told(json!({
            "ts": rfc3339(SystemTime::now()), "kind": "user", "change": what, "user": user.name, "by": user.name,
            "address": self.address.to_string(), "passkey": called, "passkey_id": id,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n7_passkeys_are_changed_only_by_whoever_has_just_shown_the_best_that_the_user_has() {
        let (now, late) = (Duration::ZERO, FRESH);
        let code = |age| Some((age, false));
        let key = |age| Some((age, true));
        for (factor, age, has_app, has_passkeys, may) in [
            // Nothing but a password: just after it.
            (None, now, false, false, true),
            (None, late, false, false, false),
            // A password, or a cookie, of somebody who has more.
            (None, now, true, false, false),
            (None, now, false, true, false),
            (None, now, true, true, false),
            // A code is enough for the first passkey, and not for another.
            (code(now), late, true, false, true),
            (code(late), now, true, false, false),
            (code(now), now, true, true, false),
            (key(now), late, true, true, true),
            (key(now), late, false, true, true),
            (key(late), now, true, true, false),
        ] {
            let told = format!("{factor:?} {age:?} {has_app} {has_passkeys}");
            assert_eq!(may_change(factor, age, has_app, has_passkeys), may, "{told}");
        }
    }
}
