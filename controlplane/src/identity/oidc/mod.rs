//! Signing in at an identity provider (OpenID Connect Core 1.0), in a browser or at a terminal.
//!
//! [`Providers`] asks them and believes only what a token says that [`tokens`](crate::tokens) has let in. A sign-in goes on
//! only at the address where it began (`state`), in the browser where it began (the binding in its cookie), with the code
//! meant for us (PKCE), and with the very provider (`iss`, RFC 9207, and the issuer of the token). What has begun is bounded
//! in number and time ([`Attempts`]); so is every request ([`Https`]).
//!
//! Metadata and keys are fetched when they are needed and kept ([`Fetched`]). A provider whose settings a reload changes is
//! begun anew. Its secret is read from its file when it is shown, so it can be changed at any time.

pub mod discovery;
pub mod flow;
pub mod settings;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use self::discovery::Metadata;

use self::flow::{Begun, DeviceBegun, DeviceTold, Polled, Tokens};
use self::settings::{Settings, read_secret};
use super::Shadow;
use super::attempts::Attempts;
use super::fetched::Fetched;
use super::https::{Answered, Https};
use crate::config::values;
use crate::portal::wire::Secret;
use crate::sessions::Origin;
use crate::tokens::claims::{self, Expected, IdToken};
use crate::tokens::{Keys, Refused, Typ, json, open};

/// Why nobody is signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotIn {
    /// There is no such provider, or it does not do that.
    Unknown,
    /// There is no such attempt here, in this browser, in time.
    Stale,
    /// There are too many attempts.
    Busy,
    /// The provider said no, or something that does not hold; why.
    Provider(String),
    /// The provider cannot be asked; why.
    Failed(String),
}

impl fmt::Display for NotIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotIn::Unknown => f.write_str("no such identity provider is configured"),
            NotIn::Stale => f.write_str("the sign-in is over, or began elsewhere"),
            NotIn::Busy => f.write_str("there are too many sign-ins at once"),
            NotIn::Provider(why) | NotIn::Failed(why) => f.write_str(why),
        }
    }
}

/// Whoever has signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIn {
    /// The user, as rules name them.
    pub user: String,
    /// The user's groups.
    pub groups: Vec<String>,
    /// How long ago more than one factor was shown, and whether it cannot be phished.
    pub factor: Option<(Duration, bool)>,
    /// Whom the provider knows them as.
    pub origin: Origin,
    /// It was to step up.
    pub step_up: bool,
}

/// Which moment it is, by the clocks that are asked for it.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// For what may not last longer.
    pub instant: Instant,
    /// For what tokens say, seconds since 1970.
    pub unix_s: i64,
}

/// What browsers are sent to.
#[derive(Debug)]
pub struct Redirect {
    /// Where.
    pub url: String,
    /// What they have to keep.
    pub binding: Secret,
}

/// What a browser was sent back with.
#[derive(Clone, Debug)]
pub struct Back {
    /// `state`.
    pub state: Secret,
    /// `code`.
    pub code: Option<Secret>,
    /// `iss`.
    pub iss: Option<String>,
    /// `error`.
    pub error: Option<String>,
    /// What it has kept.
    pub binding: Option<Secret>,
}

/// What a poll of a terminal comes to.
#[derive(Debug)]
pub enum Poll {
    /// The user has signed in.
    Done(Box<SignedIn>),
    /// Ask again after so many seconds.
    Wait(u32),
}

/// One provider, as long as its settings stay the same.
struct Provider {
    settings: Settings,
    https: Https,
    metadata: Fetched<Metadata>,
    keys: Fetched<Keys>,
}

/// How many may wait for a provider's answer at once. What waits for others' servers has four threads
/// (`daemon/portal/broker.rs`); with a provider that is down, the fourth still takes security events.
const AT_ONCE: usize = 3;
/// How many requests strangers may cause at once, and how many a second after that, so that nobody makes the gateway flood a
/// provider.
const BURST: f64 = 50.0;
const PER_SECOND: f64 = 5.0;

/// Requests that strangers may still cause.
struct Bucket {
    left: f64,
    at: Option<Instant>,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let since = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.left = (self.left + since.as_secs_f64() * PER_SECOND).min(BURST);
        self.at = Some(now);
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

/// One of those who may wait for an answer.
struct Waiting<'p>(&'p AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// All providers.
pub struct Providers {
    waiting: AtomicUsize,
    bucket: Mutex<Bucket>,
    known: Mutex<HashMap<String, Arc<Provider>>>,
    browsers: Mutex<Attempts<Begun>>,
    terminals: Mutex<Attempts<DeviceBegun>>,
}

impl Default for Providers {
    fn default() -> Self {
        Providers {
            waiting: AtomicUsize::new(0),
            bucket: Mutex::new(Bucket { left: BURST, at: None }),
            known: Mutex::default(),
            browsers: Mutex::default(),
            terminals: Mutex::default(),
        }
    }
}

/// What these protect is whole whenever the lock is free.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Providers {
    /// Lets one more wait for an answer.
    fn wait(&self) -> Result<Waiting<'_>, NotIn> {
        let waiting = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::AcqRel) < AT_ONCE { Ok(waiting) } else { Err(NotIn::Busy) }
    }

    fn may_ask(&self, at: At) -> Result<(), NotIn> {
        if lock(&self.bucket).take(at.instant) { Ok(()) } else { Err(NotIn::Busy) }
    }

    fn provider(&self, all: &[Settings], name: &str) -> Result<Arc<Provider>, NotIn> {
        let settings = all.iter().find(|settings| settings.name == name).ok_or(NotIn::Unknown)?;
        let mut known = lock(&self.known);
        known.retain(|_, provider| all.contains(&provider.settings));
        if let Some(provider) = known.get(name) {
            return Ok(provider.clone());
        }
        let https = Https::new(settings.ca_file.as_deref()).map_err(NotIn::Failed)?;
        let provider = Arc::new(Provider {
            settings: settings.clone(),
            https,
            metadata: Fetched::default(),
            keys: Fetched::default(),
        });
        known.insert(name.to_owned(), provider.clone());
        Ok(provider)
    }

    /// Begins a sign-in in a browser.
    ///
    /// # Errors
    ///
    /// See [`NotIn`].
    pub fn begin(
        &self,
        all: &[Settings],
        name: &str,
        step_up: bool,
        redirect: &str,
        address: IpAddr,
        at: At,
    ) -> Result<Redirect, NotIn> {
        let provider = self.provider(all, name)?;
        let _waiting = self.wait()?;
        let metadata = provider.metadata(at)?;
        let (begun, binding) = Begun::new(name, step_up, at.unix_s);
        let state = lock(&self.browsers).begin(address, begun.clone(), at.instant).ok_or(NotIn::Busy)?;
        let url = flow::authorization_url(&provider.settings, &metadata, redirect, &state, &begun);
        Ok(Redirect { url, binding })
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// See [`NotIn`].
    pub fn finish(
        &self,
        all: &[Settings],
        back: &Back,
        redirect: &str,
        address: IpAddr,
        at: At,
    ) -> Result<SignedIn, NotIn> {
        let _waiting = self.wait()?;
        let begun = {
            let mut browsers = lock(&self.browsers);
            let found = browsers.find(&back.state, address, at.instant).ok_or(NotIn::Stale)?;
            let shown = back.binding.as_ref().map(Shadow::of);
            // Who was sent here with somebody else's code has another binding, or none; and takes nothing from them.
            if shown != Some(found.binding) {
                return Err(NotIn::Stale);
            }
            browsers.take(&back.state, address, at.instant).ok_or(NotIn::Stale)?
        };
        let provider = self.provider(all, &begun.provider)?;
        let metadata = provider.metadata(at)?;
        let is_named = back.iss.as_deref() == Some(provider.settings.issuer.as_str());
        if !is_named && (back.iss.is_some() || metadata.names_itself) {
            return Err(NotIn::Provider("the answer is another provider's (`iss`, RFC 9207)".to_owned()));
        }
        if let Some(error) = &back.error {
            return Err(NotIn::Provider(format!("the provider answers `{}`", flow::printable(error))));
        }
        let code = back.code.as_ref().ok_or(NotIn::Provider("the provider gave no code".to_owned()))?;
        self.may_ask(at)?;
        let answered = provider.ask(
            &metadata,
            &metadata.token,
            &[
                ("grant_type", "authorization_code"),
                ("code", code.reveal()),
                ("redirect_uri", redirect),
                ("code_verifier", begun.verifier.reveal()),
            ],
        )?;
        let tokens = flow::tokens(answered.status, &answered.body).map_err(denied)?;
        let age = if begun.step_up {
            // Since this began.
            Some((at.unix_s - begun.at).max(0))
        } else {
            provider.settings.max_age_s.map(i64::from)
        };
        let signed_in = provider.believe(&metadata, &tokens, Some(begun.nonce.reveal()), age, at)?;
        Ok(SignedIn { step_up: begun.step_up, ..signed_in })
    }

    /// Begins a sign-in at a terminal; returns what names it, what the user is to do, and how often to poll, in seconds.
    ///
    /// # Errors
    ///
    /// See [`NotIn`].
    pub fn device_begin(
        &self,
        all: &[Settings],
        name: &str,
        address: IpAddr,
        at: At,
    ) -> Result<(Secret, DeviceTold, u32), NotIn> {
        let provider = self.provider(all, name)?;
        if !provider.settings.device_code {
            return Err(NotIn::Unknown);
        }
        let _waiting = self.wait()?;
        self.may_ask(at)?;
        let metadata = provider.metadata(at)?;
        let endpoint = metadata.device.as_ref().ok_or(NotIn::Unknown)?;
        let scope = provider.settings.scopes.join(" ");
        let wishes = flow::wishes(&provider.settings, &metadata, false);
        let mut parameters = vec![("scope", scope.as_str())];
        parameters.extend(wishes.iter().map(|(name, value)| (*name, value.as_str())));
        let answered = provider.ask(&metadata, endpoint, &parameters)?;
        let (begun, told) =
            flow::device(name, answered.status, &answered.body, at.instant).map_err(denied)?;
        let interval_s = begun.interval_s;
        let attempt = lock(&self.terminals).begin(address, begun, at.instant).ok_or(NotIn::Busy)?;
        Ok((attempt, told, interval_s))
    }

    /// Asks whether it is done. The provider is not asked more often than it wants, whoever polls how often.
    ///
    /// # Errors
    ///
    /// See [`NotIn`].
    pub fn device_poll(
        &self,
        all: &[Settings],
        attempt: &Secret,
        address: IpAddr,
        at: At,
    ) -> Result<Poll, NotIn> {
        let _waiting = self.wait()?;
        let mut begun = {
            let mut terminals = lock(&self.terminals);
            let begun = terminals.find(attempt, address, at.instant).ok_or(NotIn::Stale)?;
            if at.instant < begun.next {
                return Ok(Poll::Wait(begun.interval_s));
            }
            begun.next = at.instant + Duration::from_secs(begun.interval_s.into());
            begun.clone()
        };
        let provider = self.provider(all, &begun.provider)?;
        let metadata = provider.metadata(at)?;
        let answered = provider.ask(
            &metadata,
            &metadata.token,
            &[
                ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
                ("device_code", begun.code.reveal()),
            ],
        )?;
        let polled = flow::polled(&mut begun, answered.status, &answered.body);
        let mut terminals = lock(&self.terminals);
        let tokens = match polled {
            Polled::Wait => {
                let interval_s = begun.interval_s;
                if let Some(held) = terminals.find(attempt, address, at.instant) {
                    held.interval_s = interval_s;
                    held.next = at.instant + Duration::from_secs(interval_s.into());
                }
                return Ok(Poll::Wait(interval_s));
            }
            Polled::Denied(why) => {
                let _ = terminals.take(attempt, address, at.instant);
                return Err(denied(why));
            }
            Polled::Done(tokens) => tokens,
        };
        // Of two polls at once one is answered.
        terminals.take(attempt, address, at.instant).ok_or(NotIn::Stale)?;
        drop(terminals);
        let age = provider.settings.max_age_s.map(i64::from);
        let signed_in = provider.believe(&metadata, &tokens, None, age, at)?;
        Ok(Poll::Done(Box::new(signed_in)))
    }
}

fn denied(flow::Denied(why): flow::Denied) -> NotIn {
    NotIn::Provider(format!("the provider answers: {why}"))
}

impl Provider {
    fn metadata(&self, at: At) -> Result<Arc<Metadata>, NotIn> {
        let issuer = &self.settings.issuer;
        let fetch = || {
            let body =
                self.https.get(&discovery::address(issuer), None).map_err(|error| error.to_string())?;
            discovery::read(issuer, &body)
        };
        self.metadata.get(false, at.instant, fetch).map_err(|why| NotIn::Failed(why.0))
    }

    fn keys(&self, metadata: &Metadata, is_lacking: bool, at: At) -> Result<Arc<Keys>, NotIn> {
        let fetch = || {
            let body = self.https.get(&metadata.keys, None).map_err(|error| error.to_string())?;
            Keys::parse_set(&body).map_err(|error| format!("the provider's keys: {error}"))
        };
        self.keys.get(is_lacking, at.instant, fetch).map_err(|why| NotIn::Failed(why.0))
    }

    fn ask(&self, metadata: &Metadata, url: &str, parameters: &[(&str, &str)]) -> Result<Answered, NotIn> {
        let secret = self.settings.client_secret_file.as_deref().map(read_secret).transpose();
        let secret = secret.map_err(|error| NotIn::Failed(error.to_string()))?;
        let request = flow::request(&self.settings, metadata.client_auth, secret.as_ref(), parameters);
        let basic = request.basic.as_ref().map(|basic| ("Basic", basic.as_str()));
        let form = "application/x-www-form-urlencoded";
        self.https.post(url, form, &request.body, basic).map_err(|error| NotIn::Failed(error.to_string()))
    }

    /// What the tokens say, if all of it holds.
    fn believe(
        &self,
        metadata: &Metadata,
        tokens: &Tokens,
        nonce: Option<&str>,
        auth_age_max_s: Option<i64>,
        at: At,
    ) -> Result<SignedIn, NotIn> {
        let bad = |why: &dyn fmt::Display| NotIn::Provider(format!("the ID token: {why}"));
        let text = tokens.id_token.reveal();
        let keys = self.keys(metadata, false, at)?;
        let opened = match open(text, &keys, Typ::Jwt) {
            Err(Refused::UnknownKey(_)) => open(text, &*self.keys(metadata, true, at)?, Typ::Jwt),
            opened => opened,
        };
        let (claims, algorithm) = opened.map_err(|why| bad(&why))?;
        let expected = Expected {
            issuer: &self.settings.issuer,
            client: &self.settings.client_id,
            nonce,
            access_token: tokens.access_token.as_ref().map(Secret::reveal),
            auth_age_max_s,
            now: at.unix_s,
        };
        let mut token = claims::id_token(claims, algorithm, &expected).map_err(|why| bad(&why))?;
        self.complete(metadata, tokens, &mut token)?;
        let settings = &self.settings;
        let user = user(&token.claims, &settings.user).map_err(NotIn::Provider)?;
        let groups =
            settings.groups.as_deref().map_or(Ok(Vec::new()), |path| claims::groups(&token.claims, path));
        let groups = groups.map_err(|why| bad(&why))?;
        if let Some(group) = groups.iter().find(|group| values::identity(group, "group").is_err()) {
            return Err(NotIn::Provider(format!("a group has a name that no rule can have: {group:?}")));
        }
        let strength = claims::strength(&token, &settings.trusted);
        // Without a time its age is unknown, and then it is none.
        let age = token.auth_time.map(|time| Duration::from_secs((at.unix_s - time).max(0).unsigned_abs()));
        let factor = age.filter(|_| strength.second_factor).map(|age| (age, strength.phishing_resistant));
        let origin = Origin {
            provider: settings.name.clone(),
            issuer: settings.issuer.clone(),
            subject: token.subject.clone(),
            session: token.sid.clone(),
        };
        Ok(SignedIn { user, groups, factor, origin, step_up: false })
    }

    /// Adds claims that the ID token does not have, from the provider's user information (Core, section 5.3).
    fn complete(&self, metadata: &Metadata, tokens: &Tokens, token: &mut IdToken) -> Result<(), NotIn> {
        let lacks = |claim: &str| {
            let first = claim.split_once('.').map_or(claim, |(first, _)| first);
            !token.claims.contains_key(claim) && !token.claims.contains_key(first)
        };
        let settings = &self.settings;
        let lacks_any = lacks(&settings.user) || settings.groups.as_deref().is_some_and(lacks);
        let (Some(url), Some(access), true) = (&metadata.userinfo, &tokens.access_token, lacks_any) else {
            return Ok(());
        };
        let body = self.https.get(url, Some(access)).map_err(|error| NotIn::Failed(error.to_string()))?;
        let more =
            json::object(&body).map_err(|error| NotIn::Provider(format!("the user information: {error}")))?;
        // Section 5.3.2: else it might be somebody else's.
        if more.get("sub").and_then(Value::as_str) != Some(token.subject.as_str()) {
            return Err(NotIn::Provider("the user information is somebody else's (`sub`)".to_owned()));
        }
        for (name, value) in more {
            token.claims.entry(name).or_insert(value);
        }
        Ok(())
    }
}

/// The user's name. An address of mail counts only when the provider has verified it (Core, section 5.1).
fn user(claims: &Map<String, Value>, claim: &str) -> Result<String, String> {
    let name = claims.get(claim).and_then(Value::as_str);
    let name = name.ok_or(format!("the provider told no `{claim}` of the user; is its scope asked for?"))?;
    if claim == "email" && claims.get("email_verified") != Some(&Value::Bool(true)) {
        return Err("the provider has not verified the user's address of mail (`email_verified`)".to_owned());
    }
    values::identity(name, "user").map_err(|_| format!("the provider's `{claim}` is no name of a user"))?;
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests;
