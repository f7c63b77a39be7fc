//! What transmitters of security events tell of users, sessions and devices (Shared Signals Framework 1.0, CAEP 1.0).
//!
//! [`Receiver`] takes a Security Event Token (RFC 8417) only once, from whom it was told to expect it, and makes
//! [`Told`]s of it: whom it concerns, and what becomes of their sessions. A signal can end a session, take its second
//! factor away, or say that a device is healthy or that somebody is at risk; it never gives anybody anything that they have not
//! shown. Tokens come pushed (RFC 8935) or are polled for (RFC 8936, [`poll`]).
//!
//! Whether one counts, and what it tells, [`judged`] says of its claims alone; [`Taken`] says that it is the first time.

mod event;
mod memory;
pub mod poll;
mod subject;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde_json::{Map, Value};

pub use event::Effect;
pub use subject::Subject;

use self::memory::Memory;
use super::Shadow;
use super::fetched::Fetched;
use super::https::Https;
use super::oidc::At;
use super::oidc::settings::read_secret;
use super::seen::{Old, Seen};
use crate::portal::wire::Secret;
use crate::sessions::{Claims, Moment};
use crate::tokens::claims::{LEEWAY_S, Wrong, date, text};
use crate::tokens::{Keys, Refused, Typ, open};

/// `typ` of a Security Event Token (RFC 8417, section 2.3).
pub const TYP: Typ = Typ::Is("secevent+jwt");
/// How long after it was issued an event is still taken, seconds. As long the ids of those taken are remembered.
pub const AGE_MAX_S: i64 = 86_400;
/// The longest `jti`, bytes.
const ID_BYTES_MAX: usize = 256;
/// The most events in one token; transmitters put in one.
const EVENTS_MAX: usize = 8;

/// Where a transmitter's keys are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeysAt {
    /// At an address.
    Url(String),
    /// In a file, a JSON Web Key Set.
    File(PathBuf),
}

/// `[identity.transmitters.NAME]`, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transmitter {
    /// Its name in the configuration; `/events/NAME` is where it pushes to.
    pub name: String,
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// Its keys.
    pub keys: KeysAt,
    /// Roots to trust instead of Mozilla's.
    pub ca_file: Option<PathBuf>,
    /// Where the token is with which it may push.
    pub push_token_file: Option<PathBuf>,
    /// Where to poll.
    pub poll: Option<String>,
    /// Where the token is with which we poll.
    pub poll_token_file: Option<PathBuf>,
    /// The posture that its word on a device's compliance is about.
    pub posture: Option<String>,
}

/// Why a token is not taken, in the words of RFC 8935, section 2.4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotTaken {
    /// `err`.
    pub err: &'static str,
    /// `description`.
    pub description: String,
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.err, self.description)
    }
}

fn not(err: &'static str, description: impl fmt::Display) -> NotTaken {
    NotTaken { err, description: description.to_string() }
}

/// One thing that a token tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The event's type, the last part of its name.
    pub event: String,
    /// Whom it concerns.
    pub subject: Subject,
    /// What becomes of their sessions.
    pub effect: Effect,
}

/// What a token tells, whether or not it was received before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// `jti`.
    pub id: String,
    /// `iat`, seconds since 1970.
    pub issued: i64,
    /// What its events tell.
    pub told: Vec<Told>,
}

/// Holds what a token says, which its transmitter has signed, against what that may say at this time, seconds since 1970. `id`
/// is the `jti` under which it was given, if it was.
///
/// # Errors
///
/// See [`NotTaken`].
pub fn judged(
    claims: &Map<String, Value>,
    settings: &Transmitter,
    id: Option<&str>,
    now: i64,
) -> Result<Judged, NotTaken> {
    let wrong = |why: Wrong| not("invalid_request", why);
    if text(claims, "iss").map_err(wrong)? != Some(settings.issuer.as_str()) {
        return Err(not("invalid_issuer", "`iss` is not the transmitter's"));
    }
    if !is_for(claims, &settings.audience) {
        return Err(not("invalid_audience", "`aud` does not name this receiver"));
    }
    let jti = text(claims, "jti").map_err(wrong)?.unwrap_or_default();
    if jti.is_empty() || jti.len() > ID_BYTES_MAX || id.is_some_and(|id| id != jti) {
        return Err(not(
            "invalid_request",
            "`jti` is missing, too long, or another one than it was sent under",
        ));
    }
    let issued = date(claims, "iat").map_err(wrong)?;
    let issued = issued.ok_or_else(|| not("invalid_request", "`iat` is missing"))?;
    if issued > now + LEEWAY_S || now - issued > AGE_MAX_S {
        return Err(not("invalid_request", "`iat` is in the future or more than a day ago"));
    }
    if date(claims, "exp").map_err(wrong)?.is_some_and(|expires| now >= expires + LEEWAY_S) {
        return Err(not("invalid_request", "it has expired"));
    }
    Ok(Judged { id: jti.to_owned(), issued, told: tell(claims, settings)? })
}

/// Which events were taken, by issuer: settings that change forget nothing.
#[derive(Debug, Default)]
pub struct Taken(HashMap<String, Seen>);

impl Taken {
    /// What a token tells, if it is the first time.
    ///
    /// # Errors
    ///
    /// It was received before, or is so old that nobody can say.
    pub fn once(&mut self, issuer: &str, judged: Judged, now: i64) -> Result<Vec<Told>, NotTaken> {
        let mine = self.0.entry(issuer.to_owned()).or_default();
        mine.first_time(&judged.id, judged.issued, now - AGE_MAX_S)
            .map_err(|Old| not("invalid_request", "it was received before"))?;
        Ok(judged.told)
    }
}

/// What is known of one transmitter, as long as its settings stay the same.
struct Known {
    settings: Transmitter,
    https: Https,
    keys: Fetched<Keys>,
}

/// Takes security events.
#[derive(Default)]
pub struct Receiver {
    known: Mutex<HashMap<String, Arc<Known>>>,
    taken: Mutex<Taken>,
    memory: Mutex<Memory>,
}

impl Receiver {
    fn known(&self, all: &[Transmitter], name: &str) -> Result<Arc<Known>, NotTaken> {
        let settings = all.iter().find(|settings| settings.name == name);
        let settings = settings.ok_or_else(|| not("invalid_request", "there is no such transmitter"))?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| all.contains(&known.settings));
        if let Some(known) = known.get(name) {
            return Ok(known.clone());
        }
        let https = Https::new(settings.ca_file.as_deref()).map_err(|why| not("invalid_key", why))?;
        let new = Arc::new(Known { settings: settings.clone(), https, keys: Fetched::default() });
        known.insert(name.to_owned(), new.clone());
        Ok(new)
    }

    /// Remembers what one of these transmitters has told, for sessions to come.
    pub fn note(&self, all: &[Transmitter], name: &str, told: &Told, at: Moment) {
        if let Some(settings) = all.iter().find(|settings| settings.name == name) {
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            memory.note(settings, &told.subject, &told.effect, at);
        }
    }

    /// Adds to what is known of somebody what these transmitters have said last ([`Memory`]).
    pub fn remind(&self, all: &[Transmitter], claims: &mut Claims) {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).remind(all, claims);
    }

    /// Takes a token that was pushed. Who may not push costs no look at a signature.
    ///
    /// # Errors
    ///
    /// See [`NotTaken`]; nothing has changed.
    pub fn pushed(
        &self,
        all: &[Transmitter],
        name: &str,
        authorization: Option<&Secret>,
        token: &str,
        at: At,
    ) -> Result<Vec<Told>, NotTaken> {
        let denied = || not("authentication_failed", "the `Authorization` header is not what was agreed on");
        let settings = all.iter().find(|settings| settings.name == name).ok_or_else(denied)?;
        let file = settings.push_token_file.as_deref().ok_or_else(denied)?;
        let expected = read_secret(file).map_err(|error| not("access_denied", error))?;
        let shown = authorization.and_then(|header| {
            let (scheme, token) = header.reveal().split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| Secret::new(token.trim().to_owned()))
        });
        if shown.as_ref().map(Shadow::of) != Some(Shadow::of(&expected)) {
            return Err(denied());
        }
        self.take(all, name, token, None, at)
    }

    /// Takes a token from a transmitter. `id` is the `jti` under which it was given, if it was.
    ///
    /// # Errors
    ///
    /// See [`NotTaken`]; nothing has changed.
    pub fn take(
        &self,
        all: &[Transmitter],
        name: &str,
        token: &str,
        id: Option<&str>,
        at: At,
    ) -> Result<Vec<Told>, NotTaken> {
        let known = self.known(all, name)?;
        let claims = known.open(token, at)?;
        let settings = &known.settings;
        let judged = judged(&claims, settings, id, at.unix_s)?;
        // Last: a token that was refused for something else may come again.
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.once(&settings.issuer, judged, at.unix_s)
    }
}

/// What all events of a token tell.
fn tell(claims: &Map<String, Value>, settings: &Transmitter) -> Result<Vec<Told>, NotTaken> {
    let events = claims.get("events").and_then(Value::as_object);
    let events = events.filter(|events| (1..=EVENTS_MAX).contains(&events.len()));
    let events = events.ok_or_else(|| not("invalid_request", "`events` is no object with an event in it"))?;
    let mut told = Vec::new();
    for (kind, event) in events {
        let event = event.as_object().ok_or_else(|| not("invalid_request", "an event is no object"))?;
        let Some(effect) = event::effect(kind, event, settings).map_err(|why| not("invalid_request", why))?
        else {
            continue;
        };
        // SSF 1.0, section 3; drafts of it had the subject inside the event.
        let subject = claims.get("sub_id").or_else(|| event.get("subject"));
        let subject = subject.and_then(|subject| Subject::read(subject, &settings.issuer));
        let subject =
            subject.ok_or_else(|| not("invalid_request", "the subject is of no format that is known"))?;
        let event = kind.rsplit('/').next().unwrap_or_default().to_owned();
        told.push(Told { event, subject, effect });
    }
    Ok(told)
}

fn is_for(claims: &Map<String, Value>, audience: &str) -> bool {
    match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(list)) => list.iter().any(|one| one == audience),
        _ => false,
    }
}

impl Known {
    fn open(&self, token: &str, at: At) -> Result<Map<String, Value>, NotTaken> {
        let opened = match open(token, &*self.keys(false, at)?, TYP) {
            Err(Refused::UnknownKey(_)) => open(token, &*self.keys(true, at)?, TYP),
            opened => opened,
        };
        opened.map(|(claims, _)| claims).map_err(|why| match why {
            Refused::UnknownKey(_) | Refused::Ambiguous | Refused::Signature | Refused::Algorithm => {
                not("invalid_key", why)
            }
            _ => not("invalid_request", why),
        })
    }

    fn keys(&self, is_lacking: bool, at: At) -> Result<Arc<Keys>, NotTaken> {
        let fetch = || {
            let body = match &self.settings.keys {
                KeysAt::Url(url) => self.https.get(url, None).map_err(|error| error.to_string())?.to_vec(),
                KeysAt::File(path) => {
                    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?
                }
            };
            Keys::parse_set(&body).map_err(|error| format!("the transmitter's keys: {error}"))
        };
        self.keys.get(is_lacking, at.instant, fetch).map_err(|why| not("invalid_key", why))
    }
}
#[cfg(test)]
mod tests;
