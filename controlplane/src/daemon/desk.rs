//! Where people and devices say who they are: the questions of the portal, decided.
//!
//! Nothing that is asked here is believed for coming from the portal. The address is the peer's of the very connection; a
//! sign-in goes on only at the address where it began; a cookie opens only the session for which it was made, at its address.
//! So a stolen cookie or token is worth nothing elsewhere, and a cookie that somebody was made to carry before he signed in is
//! none afterwards, because every sign-in makes a new one.
//!
//! **One address, one user.** Where an address is on the link of a port, its session is bound to a MAC address, and whoever
//! signs in takes the place of who was there before on the same device. Behind a router nothing tells two devices with one
//! address apart: if somebody else signs in from an address with a living session, both are out, and nobody may sign in from
//! there for [`SHARED`], so that neither ever acts as the other. Who signs out first makes room for the next.

pub mod certificates;
mod devices;
pub mod passkeys;
pub mod providers;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::gateway::{Gateway, lock};
use super::log;
use super::reach::{Reached, reach};
use super::sessions::{self as told, NotBegun, binding};
use super::time::rfc3339;
use crate::audit::{By, Entry, Kind};
use crate::config::diagnostics::quoted;
use crate::identity::attempts::Attempts;
use crate::identity::authority::Authority;
use crate::identity::book::{Book, NotTaken, User};
use crate::identity::certificates::Taken;
use crate::identity::limits::Limits;
use crate::identity::oidc::settings::Settings;
use crate::identity::oidc::{Back, Providers};
use crate::identity::signals::Receiver;
use crate::identity::{Shadow, password, token, unix_s};
use crate::model::{Model, Portal};
use crate::portal::wire::{Answer, Asked, Known, Method, Provider, Question, Secret, Standing, Why};
use crate::sessions::{self, Claims, Device, Factor, Health, Moment, New, Origin, Proof, Session, Which};

/// How long nobody may sign in from an address that two users have shared.
pub const SHARED: Duration = Duration::from_secs(600);
/// Such addresses at once; without room the oldest is forgotten.
const SHARED_MAX: usize = 4096;
/// The longest name that is looked up, bytes.
const NAME_BYTES_MAX: usize = 256;

/// A session that a cookie opens.
struct Opens {
    address: IpAddr,
    id: String,
}

/// What is remembered between questions.
pub struct Desk {
    /// Or why there is none.
    book: Result<Book, String>,
    limits: Mutex<Limits>,
    /// Users who have shown their password, and not yet a second factor.
    attempts: Mutex<Attempts<Record>>,
    /// What authenticators were asked for.
    ceremonies: Mutex<Attempts<passkeys::Ceremony>>,
    /// For one statement of a device each.
    challenges: Mutex<Attempts<()>>,
    /// Issues devices' certificates; made when the first is enrolled.
    authority: Mutex<Option<Authority>>,
    /// Of clients that have shown a certificate.
    handshakes: Mutex<Taken>,
    /// The last alarm of a trust domain without authorities.
    without_bundle: Mutex<Option<String>>,
    directory: PathBuf,
    cookies: Mutex<HashMap<Shadow, Opens>>,
    shared: Mutex<HashMap<IpAddr, Instant>>,
    /// Identity providers.
    pub providers: Providers,
    /// Security events of others.
    pub signals: Receiver,
}

impl Desk {
    /// With the store of a state directory.
    pub fn open(directory: &Path) -> Desk {
        Desk {
            book: Book::open(directory),
            limits: Mutex::default(),
            attempts: Mutex::default(),
            ceremonies: Mutex::default(),
            challenges: Mutex::new(Attempts::of_programs()),
            authority: Mutex::default(),
            handshakes: Mutex::default(),
            without_bundle: Mutex::default(),
            directory: directory.to_owned(),
            cookies: Mutex::default(),
            shared: Mutex::default(),
            providers: Providers::default(),
            signals: Receiver::default(),
        }
    }

    /// The gateway's own users.
    ///
    /// # Errors
    ///
    /// The store cannot be used; why.
    pub fn book(&self) -> Result<&Book, String> {
        self.book.as_ref().map_err(|why| format!("the store of users cannot be used: {why}"))
    }

    /// Asks the authority of devices, which is made when it is first asked.
    fn with_authority<T>(&self, ask: impl FnOnce(&Authority) -> T) -> Result<T, String> {
        let mut authority = lock(&self.authority);
        let authority = match &mut *authority {
            Some(authority) => authority,
            none => none.insert(Authority::open(&self.directory)?),
        };
        Ok(ask(authority))
    }

    /// Whether two users have shared this address lately.
    fn is_shared(&self, address: IpAddr) -> Option<Duration> {
        let mut shared = lock(&self.shared);
        let left = shared.get(&address)?.saturating_duration_since(Instant::now());
        if left.is_zero() {
            shared.remove(&address);
            return None;
        }
        Some(left)
    }

    fn share(&self, address: IpAddr) {
        let mut shared = lock(&self.shared);
        let now = Instant::now();
        if shared.len() >= SHARED_MAX {
            shared.retain(|_, until| *until > now);
        }
        if shared.len() >= SHARED_MAX
            && let Some(oldest) = shared.iter().min_by_key(|(_, until)| **until).map(|(address, _)| *address)
        {
            shared.remove(&oldest);
        }
        shared.insert(address, now + SHARED);
    }
}

/// What the book said of somebody when they were believed.
#[derive(Clone, PartialEq, Eq)]
pub enum Record {
    /// Of a user: the name, and what stands for the rest.
    User(String, Shadow),
    /// The same of a device.
    Device(String, Shadow),
}

impl Record {
    fn of(user: &User) -> Record {
        Record::User(user.name.clone(), user.mark())
    }

    fn of_device(device: &crate::identity::devices::Device) -> Record {
        Record::Device(device.name.clone(), device.mark())
    }

    /// Whose it is.
    fn name(&self) -> &str {
        match self {
            Record::User(name, _) | Record::Device(name, _) => name,
        }
    }

    /// Whether the book says the same now.
    fn stands(&self, book: &Book) -> bool {
        let now = match self {
            Record::User(name, _) => book.user(name).ok().flatten().map(|user| Record::of(&user)),
            Record::Device(name, _) => {
                book.device(name).ok().flatten().map(|device| Record::of_device(&device))
            }
        };
        now.as_ref() == Some(self)
    }
}

/// What was proved of whoever is at an address.
pub struct Proven {
    /// The user; `None` of a device alone.
    pub user: Option<String>,
    /// Groups that whoever proved it tells.
    pub groups: Vec<String>,
    /// How long ago a second factor was shown, and whether it cannot be phished.
    pub factor: Option<(Duration, bool)>,
    /// The device, and what it says of its health, if it says something.
    pub device: Option<(Device, Option<Health>)>,
    /// How.
    pub proof: Proof,
    /// How long it holds at most, if whoever proved it says; the policy's own limit holds besides.
    pub lasts: Option<Duration>,
    /// Whom an identity provider knows them as.
    pub origin: Option<Origin>,
    /// What the book said of them.
    pub record: Option<Record>,
}

impl Proven {
    /// Nothing yet, by this.
    fn by(proof: Proof) -> Proven {
        Proven {
            user: None,
            groups: Vec::new(),
            factor: None,
            device: None,
            proof,
            lasts: None,
            origin: None,
            record: None,
        }
    }
}

/// Answers a question that came by a connection with this peer.
pub fn answer(gateway: &Gateway, peer: IpAddr, asked: Asked) -> Answer {
    let visitor = Visitor { gateway, address: peer.to_canonical(), cookie: asked.cookie };
    if let Err(why) = visitor.opened() {
        visitor.tell_refused(None, why);
    }
    match asked.question {
        Question::Standing => visitor.standing(),
        Question::Password { user, password } => visitor.password(&user, &password),
        Question::Totp { attempt: Some(attempt), code } => visitor.finish_with_code(&attempt, &code),
        Question::Totp { attempt: None, code } => visitor.step_up_with_code(&code),
        Question::PasskeyBegin { attempt, step_up } => visitor.passkey_begin(attempt, step_up),
        Question::PasskeyFinish { attempt, response } => visitor.passkey_finish(&attempt, &response),
        Question::PasskeyRegisterBegin => visitor.passkey_register_begin(),
        Question::PasskeyRegisterFinish { attempt, name, response } => {
            visitor.passkey_register_finish(&attempt, &name, &response)
        }
        Question::PasskeyRemove { id } => visitor.passkey_remove(&id),
        Question::OidcBegin { provider, step_up } => visitor.oidc_begin(&provider, step_up),
        Question::OidcFinish { state, code, iss, error, binding } => {
            visitor.oidc_finish(&Back { state, code, iss, error, binding })
        }
        Question::DeviceBegin { provider } => visitor.device_begin(&provider),
        Question::DevicePoll { attempt } => visitor.device_poll(&attempt),
        Question::SecurityEvent { transmitter, authorization, token } => {
            visitor.security_event(&transmitter, authorization.as_ref(), &token)
        }
        Question::Challenge => visitor.challenge(),
        Question::DeviceEnroll { device, code, key, token } => visitor.enroll(&device, &code, &key, &token),
        Question::DeviceCertificate { device, token, proof } => visitor.certify(&device, &token, &proof),
        Question::Statement { device, token } => visitor.statement(&device, &token),
        Question::SignOut => visitor.sign_out(),
    }
}

fn refused(why: Why) -> Answer {
    Answer::Refused { why, retry_after_s: None }
}

fn later(why: Why, wait: Duration) -> Answer {
    // Rounded up: who waits so long is not too early.
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    Answer::Refused { why, retry_after_s: Some(u32::try_from(seconds).unwrap_or(u32::MAX)) }
}

/// Whoever asks.
struct Visitor<'g> {
    gateway: &'g Gateway,
    address: IpAddr,
    cookie: Option<Secret>,
}

impl Visitor<'_> {
    fn desk(&self) -> &Desk {
        &self.gateway.desk
    }

    /// The session that the cookie opens here.
    fn session(&self) -> Option<Arc<Session>> {
        self.opened().ok().flatten()
    }

    /// The session that the cookie opens here; nothing without a cookie, or when its session has ended.
    ///
    /// # Errors
    ///
    /// It is somebody else's cookie; in words.
    fn opened(&self) -> Result<Option<Arc<Session>>, &'static str> {
        let Some(cookie) = &self.cookie else { return Ok(None) };
        let (address, id) = {
            let cookies = lock(&self.desk().cookies);
            let Some(opens) = cookies.get(&Shadow::of(cookie)) else { return Ok(None) };
            (opens.address, opens.id.clone())
        };
        let session = self.gateway.sessions.of(address, self.gateway.engine.now());
        let Some(session) = session.filter(|session| session.id == id) else { return Ok(None) };
        if address != self.address {
            return Err("a cookie was shown at another address than its session's");
        }
        if self.is_on_machine(&session) {
            Ok(Some(session))
        } else {
            Err("a cookie was shown by another machine than its session's, which has its address now")
        }
    }

    /// Whether what speaks here is the machine to which a session is bound. The portal's connections are the kernel's, which
    /// lets in whoever answers to the address.
    fn is_on_machine(&self, session: &Session) -> bool {
        let topology = &self.gateway.engine.snapshot().topology;
        session.mac.is_none() || binding(topology, self.address, None) == Ok(session.mac)
    }

    /// A new cookie for a session; the one shown before opens nothing any more.
    fn give_cookie(&self, session: &Session) -> Secret {
        let cookie = token();
        let mut cookies = lock(&self.desk().cookies);
        if let Some(before) = &self.cookie {
            cookies.remove(&Shadow::of(before));
        }
        let now = self.gateway.engine.now();
        if cookies.len() >= self.gateway.sessions.capacity().saturating_mul(2) {
            let sessions = &self.gateway.sessions;
            cookies.retain(|_, opens| sessions.of(opens.address, now).is_some_and(|s| s.id == opens.id));
        }
        cookies.insert(Shadow::of(&cookie), Opens { address: session.address, id: session.id.clone() });
        cookie
    }

    fn standing(&self) -> Answer {
        Answer::Standing(Box::new(self.stands(self.session().as_deref())))
    }

    /// What is known, for whoever may know it.
    fn stands(&self, session: Option<&Session>) -> Standing {
        let (model, now) = (self.gateway.in_force().model, self.gateway.engine.now());
        let Reached { rows, is_partial } = reach(&model, self.address, session, now);
        Standing { reach: rows, is_partial, ..self.stands_briefly(session) }
    }

    /// Without what may be reached, which takes milliseconds to find out: for whoever says only that he is still there.
    fn stands_briefly(&self, session: Option<&Session>) -> Standing {
        let (gateway, now) = (self.gateway, self.gateway.engine.now());
        let model = gateway.in_force().model;
        Standing {
            address: self.address.to_string(),
            segment: gateway.segment_of(self.address),
            session: session.map(|session| self.known(session)),
            is_taken: session.is_none() && gateway.sessions.of(self.address, now).is_some(),
            passwords: model.sign_in.passwords && self.desk().book().is_ok_and(Book::is_used),
            passkeys: passkeys::party(&model).map(|party| party.origin().to_owned()),
            certificates: model.portal.as_ref().and_then(Portal::certificate_origin),
            providers: model.sign_in.providers.iter().map(named).collect(),
            reach: Vec::new(),
            is_partial: true,
        }
    }

    fn known(&self, session: &Session) -> Known {
        let (gateway, now) = (self.gateway, self.gateway.engine.now());
        let model = gateway.in_force().model;
        let row = told::row(gateway, &model, session, now);
        let user = session.claims.user.as_deref().filter(|_| session.proof.is_of_the_store());
        let user = user.and_then(|name| self.desk().book().ok()?.user(name).ok()?);
        Known {
            id: row.id,
            user: row.user,
            groups: row.groups,
            device: row.device.and_then(|device| device.name),
            proof: row.proof,
            mfa_age_s: row.mfa.as_ref().map(|factor| factor.age_s),
            phishing_resistant: row.mfa.is_some_and(|factor| factor.phishing_resistant),
            methods: user.as_ref().map(|user| methods(&model, user)).unwrap_or_default(),
            is_fresh: user.as_ref().is_some_and(|user| self.is_fresh(session, user)),
            passkeys: user
                .filter(|_| passkeys::party(&model).is_some())
                .map(|user| passkeys::told(&user, unix_s(SystemTime::now()))),
            provider: session.claims.origin.as_ref().map(|origin| origin.provider.clone()),
            postures: row.postures.into_iter().map(|posture| (posture.name, posture.state)).collect(),
            left_s: row.left_s,
        }
    }

    /// Logs and tells that somebody was not let in. Only names that exist are repeated: people type passwords into the field
    /// above.
    fn tell_refused(&self, user: Option<&str>, why: &str) {
        let who = user.map_or_else(|| "nobody who is known".to_owned(), quoted);
        log::say(&format!("sign-in refused at {}: {who}: {why}", self.address));
        let by = By::User { user: user.map(str::to_owned), address: self.address };
        self.gateway.refused(Entry::new(Kind::SignInRefused, by).with("why", why));
        self.gateway.hub.told(json!({
            "ts": rfc3339(SystemTime::now()), "kind": "sign_in", "change": "refused",
            "address": self.address.to_string(), "user": user, "why": why,
        }));
    }

    fn broken(&self, why: &str) -> Answer {
        self.gateway.alarm(format!("nobody can sign in with a password: {why}"));
        refused(Why::Failed)
    }

    fn password(&self, name: &str, password: &Secret) -> Answer {
        if !self.gateway.in_force().model.sign_in.passwords {
            return refused(Why::Unknown);
        }
        if let Err(no) = self.may_begin() {
            return no;
        }
        let book = match self.desk().book() {
            Ok(book) => book,
            Err(why) => return self.broken(&why),
        };
        if name.len() > NAME_BYTES_MAX {
            return refused(Why::Wrong);
        }
        let admitted = lock(&self.desk().limits).admit(name, self.address, Instant::now());
        if let Err(wait) = admitted {
            return later(Why::TooMany, wait);
        }
        let user = match book.user(name) {
            Ok(user) => user,
            Err(why) => return self.broken(&why),
        };
        let hash = user.as_ref().and_then(|user| user.password.as_ref()).map(Secret::reveal);
        let is_right = password::is_right(password, hash);
        let Some(user) = user.filter(|user| is_right && !user.disabled) else {
            let known = book.user(name).ok().flatten();
            let why = if is_right { "disabled" } else { "wrong password" };
            self.tell_refused(known.as_ref().map(|user| user.name.as_str()), why);
            return refused(Why::Wrong);
        };
        lock(&self.desk().limits).right(name, self.address);
        let methods = methods(&self.gateway.in_force().model, &user);
        if methods.is_empty() {
            return self.begin(proven(user, None));
        }
        match lock(&self.desk().attempts).begin(self.address, Record::of(&user), Instant::now()) {
            Some(attempt) => Answer::Factor { attempt, methods },
            None => refused(Why::Busy),
        }
    }

    fn finish_with_code(&self, attempt: &Secret, code: &Secret) -> Answer {
        let record = lock(&self.desk().attempts).find(attempt, self.address, Instant::now()).cloned();
        let Some(record) = record else { return refused(Why::Stale) };
        let user = match self.take_code(record.name(), code) {
            Ok(user) => user,
            Err(no) => return no,
        };
        // The password that was shown may be none any more.
        if Record::of(&user) != record {
            return refused(Why::Stale);
        }
        // Of two at once with two codes one is enough.
        if lock(&self.desk().attempts).take(attempt, self.address, Instant::now()).is_none() {
            return refused(Why::Stale);
        }
        self.begin(proven(user, Some((Duration::ZERO, false))))
    }

    /// The user whose code it is, if it is one now and was none before.
    fn take_code(&self, name: &str, code: &Secret) -> Result<User, Answer> {
        let book = self.desk().book().map_err(|why| self.broken(&why))?;
        let taken = book.take_code(name, code.reveal(), unix_s(SystemTime::now()));
        match taken.map_err(|why| self.broken(&why))? {
            Ok(()) => {}
            Err(NotTaken::Wait(wait)) => return Err(later(Why::TooMany, wait)),
            Err(NotTaken::Wrong | NotTaken::None) => {
                self.tell_refused(Some(name), "wrong code");
                return Err(refused(Why::Wrong));
            }
        }
        // As it is now: it may have been disabled since the password was shown.
        let user = book.user(name).map_err(|why| self.broken(&why))?;
        user.filter(|user| !user.disabled).ok_or(refused(Why::Wrong))
    }

    fn step_up_with_code(&self, code: &Secret) -> Answer {
        let Some(session) = self.session() else { return refused(Why::NotSignedIn) };
        let Some(name) = session.claims.user.as_deref().filter(|_| session.proof.is_of_the_store()) else {
            return refused(Why::Unknown);
        };
        if let Err(no) = self.take_code(name, code) {
            return no;
        }
        self.step_up(&session, false)
    }

    /// A second factor was shown now.
    fn step_up(&self, session: &Session, phishing_resistant: bool) -> Answer {
        let shown = Moment::before(self.gateway.engine.now(), Duration::ZERO);
        let factor = Some(Factor { shown, phishing_resistant });
        match self
            .gateway
            .amend_session(session, None, "second factor shown", |claims| claims.factor = factor)
        {
            Ok(Some(session)) => self.welcome(&session),
            Ok(None) => refused(Why::NotSignedIn),
            Err(_) => refused(Why::Failed),
        }
    }

    /// Whether anybody may sign in here at all; before anything is checked that costs.
    fn may_begin(&self) -> Result<(), Answer> {
        if let Some(left) = self.desk().is_shared(self.address) {
            return Err(later(Why::Shared, left));
        }
        let is_ours = self.gateway.segment_of(self.address).is_some()
            && binding(&self.gateway.engine.snapshot().topology, self.address, None).is_ok();
        if is_ours { Ok(()) } else { Err(refused(Why::NoSegment)) }
    }

    /// Begins a session of whoever has proved who he is.
    fn begin(&self, proven: Proven) -> Answer {
        if let Err(no) = self.may_begin() {
            return no;
        }
        let gateway = self.gateway;
        let (model, now) = (gateway.in_force().model, gateway.engine.now());
        let Ok(mac) = binding(&gateway.engine.snapshot().topology, self.address, None) else {
            return refused(Why::NoSegment);
        };
        let Proven { user, groups, factor, device, proof, lasts, origin, record } = proven;
        let before = gateway.sessions.of(self.address, now);
        let is_mine = |before: &Session| self.session().is_some_and(|mine| mine.id == before.id);
        let is_other = |before: &&Arc<Session>| {
            let is_same_user = user.is_some() && before.claims.user == user;
            let is_same_device = (&user, &before.claims.user) == (&None, &None)
                && is_named(before.claims.device.as_ref(), device.as_ref().map(|(device, _)| device));
            mac.is_none() && !is_same_user && !is_same_device && !is_mine(before)
        };
        if let Some(other) = before.as_ref().filter(is_other) {
            self.desk().share(self.address);
            if gateway.end_sessions(&Which::at(self.address), None).is_err() {
                return refused(Why::Failed);
            }
            let name = |user: Option<&str>| user.map_or_else(|| "a device".to_owned(), quoted);
            let other = name(other.claims.user.as_deref());
            gateway.alarm(format!(
                "{} signed in at {}, where {other} was signed in: behind a router nothing tells them apart, so both are \
                 out, and nobody signs in from there for {} minutes",
                name(user.as_deref()),
                self.address,
                SHARED.as_secs() / 60
            ));
            return later(Why::Shared, SHARED);
        }
        let limit = Duration::from_secs(model.sign_in.session_s.into());
        let ends = sessions::later(now, lasts.map_or(limit, |lasts| lasts.min(limit)));
        let factor = factor
            .map(|(age, phishing_resistant)| Factor { shown: Moment::before(now, age), phishing_resistant });
        // Somebody signs in on the device that has said so itself: it is still there.
        let stays = |before: &Arc<Session>| {
            is_mine(before) || mac.is_some() && before.mac == mac && before.claims.user.is_none()
        };
        let known =
            before.filter(stays).map(|before| (before.claims.device.clone(), before.claims.health.clone()));
        let (device, health) = match device {
            Some((device, None)) => {
                // It has shown who it is, and what it has said of its health holds as long as it does.
                let health = known.filter(|(before, _)| is_named(before.as_ref(), Some(&device)));
                (Some(device), health.and_then(|(_, health)| health))
            }
            Some((device, health)) => (Some(device), health),
            None => known.unwrap_or_default(),
        };
        let claims = Claims { user, groups, factor, device, health, origin, ..Claims::default() };
        let new = New { address: self.address, mac, claims, proof, ends };
        match gateway.begin_session(new, None) {
            Ok(session) if record.is_none_or(|record| self.says_still(&record)) => self.welcome(&session),
            // Whoever has changed the book since it was looked at has not seen this session.
            Ok(session) => match gateway.end_sessions(&Which::one(&session), None) {
                Ok(_) => refused(Why::Stale),
                Err(_) => refused(Why::Failed),
            },
            Err(NotBegun::Refused(_, sessions::Refused::NoSegment)) => refused(Why::NoSegment),
            Err(NotBegun::Refused(_, sessions::Refused::Full)) => refused(Why::Full),
            Err(NotBegun::Refused(_, sessions::Refused::Workload)) => refused(Why::Failed),
            Err(NotBegun::Refused(_, sessions::Refused::Way)) => refused(Why::Unknown),
            Err(NotBegun::Locked(_)) => refused(Why::Locked),
            Err(NotBegun::Denied(_) | NotBegun::Stuck(_)) => refused(Why::Failed),
        }
    }

    /// Whether the book says the same of somebody as when they were believed.
    fn says_still(&self, record: &Record) -> bool {
        self.desk().book().is_ok_and(|book| record.stands(book))
    }

    fn welcome(&self, session: &Session) -> Answer {
        Answer::Begun { cookie: self.give_cookie(session), standing: Box::new(self.stands(Some(session))) }
    }

    fn sign_out(&self) -> Answer {
        let Some(session) = self.session() else { return Answer::SignedOut };
        if let Some(cookie) = &self.cookie {
            lock(&self.desk().cookies).remove(&Shadow::of(cookie));
        }
        match self.gateway.end_sessions(&Which::one(&session), None) {
            Ok(_) => Answer::SignedOut,
            Err(_) => refused(Why::Failed),
        }
    }
}

fn named(provider: &Settings) -> Provider {
    Provider { name: provider.name.clone(), label: provider.label.clone() }
}

/// The second factors of a user, the strongest first.
fn methods(model: &Model, user: &User) -> Vec<Method> {
    let passkey = !user.passkeys.is_empty() && passkeys::party(model).is_some();
    let methods = [(passkey, Method::Passkey), (user.totp.is_some(), Method::Totp)];
    methods.into_iter().filter(|(is_there, _)| *is_there).map(|(_, method)| method).collect()
}

/// Whether these are one device, by its name.
fn is_named(one: Option<&Device>, other: Option<&Device>) -> bool {
    let name = |device: Option<&Device>| device.and_then(|device| device.name.clone());
    name(one).is_some() && name(one) == name(other)
}

fn proven(user: User, factor: Option<(Duration, bool)>) -> Proven {
    let record = Some(Record::of(&user));
    Proven { user: Some(user.name), groups: user.groups, factor, record, ..Proven::by(Proof::Password) }
}
